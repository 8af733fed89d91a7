"""What `ila index --engine ray` promises, on a cluster of this machine; run by `make test-extra PARTS=ray`.

Every video, with all its windows, is in the index once, whatever is killed, started twice, or begun by the other
engine: the table at the end says so (`pytest -s`).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import ray

from support.paths import ROOT
from support.ray_index import open_slow_model
from support.videos import write_video
from transformers_ila.data.lists import iter_videos
from transformers_ila.evaluation.options import IndexOptions
from transformers_ila.scale import EngineOptions, index_on_ray
from transformers_ila.search.index_files import open_parts, read_settings
from transformers_ila.search.indexing import index_videos
from transformers_ila.search.search import VideoIndex


ENGINE = {"readers": 1, "replicas": 1, "retries": 1, "video_timeout": 60.0}
WHOLE, WINDOWS = {"batch_size": 2}, {"batch_size": 2, "window": 1.0, "stride": 0.5}
KINDS = pytest.mark.parametrize("fields", [WHOLE, WINDOWS], ids=["whole", "windows"])
PATH = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
TABLE: list[tuple[str, str, int, int, int]] = []  # rows of what, what was killed, rows in all, lost, twice


@pytest.fixture(scope="module", autouse=True)
def address():
    os.environ["PYTHONPATH"] = PATH
    options = {"num_cpus": 6, "object_store_memory": 300_000_000, "include_dashboard": False, "log_to_driver": False}
    context = ray.init("local", **options)
    yield context.address_info["gcs_address"]
    ray.shutdown()
    print("\nrows of   killed                                rows   lost   twice")
    for rows_of, what, rows, lost, twice in TABLE:
        print(f"{rows_of:9} {what:36} {rows:5} {lost:6} {twice:7}")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Videos of a second and a half, one of half a minute, and one that cannot be read."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(14):
        write_video(root / f"{number:02}.mp4", 38)
    write_video(root / "03 long.mp4", 750)
    (root / "text.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory, videos):
    """The rows of the plain command's index, by what they are of."""
    found = {}
    for kind, fields in (("whole", WHOLE), ("windows", WINDOWS)):
        output = tmp_path_factory.mktemp(kind)
        index_videos(*open_slow_model(), iter_videos(videos), output, IndexOptions(**fields))
        found[kind] = read_index(output)
    return found


def read_index(folder):
    """Settings, lines, and (name, start, vector) of each row."""
    settings, lines, rows = read_settings(folder), list[dict](), list[tuple[str, float, np.ndarray]]()
    for part in open_parts(folder, settings["dimension"]):
        own = dict(part.lines())
        lines += own.values()
        for record, vector in zip(part.records, part.vectors):
            start = float(record["start"])
            rows.append((own[record["line"]]["video"], -1.0 if np.isnan(start) else start, np.array(vector)))
    return settings, lines, rows


def check_same(folder: Path, fields: dict, plain, what: str) -> None:
    """The index is that of the plain command; note it for the table."""
    kind = "windows" if "window" in fields else "whole"
    settings, lines, rows = read_index(folder)
    expected_settings, expected_lines, expected = plain[kind]
    counts, wanted = (Counter((name, start) for name, start, _ in some) for some in (rows, expected))
    TABLE.append((kind, what, len(rows), len(wanted - counts), len(rows) - len(counts)))
    assert counts == wanted and settings == expected_settings
    assert sorted(lines, key=lambda line: line["video"]) == sorted(expected_lines, key=lambda line: line["video"])
    vectors = {(name, start): vector for name, start, vector in expected}
    for name, start, vector in rows:
        np.testing.assert_allclose(vector, vectors[name, start], atol=1e-6)
    assert not (folder / "_plan").exists()


def on_ray(videos, output, fields, **engine):
    options = IndexOptions(**fields)
    return index_on_ray(open_slow_model, videos, output, options, EngineOptions(engine="ray", **{**ENGINE, **engine}))


def lines_of(output: Path) -> int:
    with suppress(OSError, ValueError):
        return sum(1 for _ in VideoIndex(output).videos())
    return 0


# -- processes -------------------------------------------------------------------------------------------------------


def start(videos: Path, output: Path, fields: dict, address: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", "support.ray_index", videos, output]
    return subprocess.Popen(
        [*command, json.dumps(fields), json.dumps({**ENGINE, "address": address})],
        env={**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process: subprocess.Popen, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def actors(kind: str) -> list[int]:
    """The actors of this cluster that have a class."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")

    def is_below(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, command in commands.items() if f"({kind})" in command and is_below(pid)]


# -- tests -----------------------------------------------------------------------------------------------------------


@KINDS
def test_an_index_that_another_engine_began_or_goes_on(tmp_path, videos, plain, fields):
    some = sorted(iter_videos(videos))
    index_videos(*open_slow_model(), some[:5], tmp_path, IndexOptions(**fields))
    summary = on_ray(videos, tmp_path, fields)
    assert (summary.seen, summary.before, summary.labelled, summary.unreadable) == (16, 5, 10, 1)
    assert 0 < summary.waited < summary.seconds
    check_same(tmp_path, fields, plain, "nothing: begun by the plain command")
    assert index_videos(*open_slow_model(), some, tmp_path, IndexOptions(**fields)).before == 16
    retried = on_ray(videos, tmp_path, {**fields, "retry": True})
    assert (retried.before, retried.labelled, retried.unreadable) == (15, 0, 1)


@KINDS
@pytest.mark.parametrize("count", [0, 4])
def test_the_driver_is_killed(tmp_path, videos, plain, address, fields, count):
    driver = start(videos, tmp_path, fields, address)
    wait_until(lambda: (tmp_path / "_settings.json").exists() and lines_of(tmp_path) >= count, driver)
    driver.kill()
    driver.wait()
    assert lines_of(tmp_path) < 16
    on_ray(videos, tmp_path, fields)
    check_same(tmp_path, fields, plain, f"driver, after {count} videos")


@KINDS
def test_readers_and_replicas_are_killed(tmp_path, videos, plain, address, fields):
    names = ("WindowsReader", "WindowIndexer") if "window" in fields else ("IndexReader", "Indexer")
    driver = start(videos, tmp_path, fields, address)
    killed = Counter[str]()
    wait_until(lambda: actors(f"MapBatches({names[0]})"), driver)
    for count, name in zip((0, 1, 3, 5), names * 2):
        wait_until(lambda: lines_of(tmp_path) >= count, driver)  # noqa: B023
        for actor in actors(f"MapBatches({name})")[:1]:  # a reader ends when all is read
            os.kill(actor, signal.SIGKILL)
            killed[name] += 1
    assert set(killed) == set(names)
    output, errors = driver.communicate(timeout=400)
    assert driver.returncode == 0, errors
    assert "labelled=15, unreadable=1" in output
    check_same(tmp_path, fields, plain, f"reader {killed[names[0]]} and replica {killed[names[1]]} times")


@KINDS
def test_an_index_that_is_started_twice(tmp_path, videos, plain, address, fields):
    first = start(videos, tmp_path, fields, address)
    wait_until(lambda: lines_of(tmp_path) >= 1, first)
    with pytest.raises(ValueError, match="Another process writes"):
        on_ray(videos, tmp_path, fields)
    assert first.wait(400) == 0
    check_same(tmp_path, fields, plain, "nothing: started twice")


def test_another_video_of_a_name_is_refused(tmp_path, videos):
    (tmp_path / "other").mkdir()
    write_video(tmp_path / "other" / "05.mp4", 30)
    index_videos(*open_slow_model(), iter_videos(videos), tmp_path / "index", IndexOptions(**WHOLE))
    with pytest.raises(ValueError, match=r"has a video named '05.mp4' already, .* is another one"):
        on_ray(tmp_path / "other", tmp_path / "index", WHOLE)
