"""What `--engine ray` promises, on a cluster of this machine; run by `make test-extra PARTS=ray`.

Every video is labelled once whatever is killed, started twice, or begun by the other engine: the table at the end says
so (`pytest -s`).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import ray
import torch

from support.paths import ROOT
from support.ray_driver import open_model
from transformers_ila.data.lists import iter_videos
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction import label_videos
from transformers_ila.evaluation.prediction_files import read_results
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.scale import EngineOptions, label_on_ray


COUNT = 30
ENGINE = {"readers": 1, "replicas": 1, "retries": 1, "video_timeout": 20.0}
PATH = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
TABLE: list[tuple[str, int, int]] = []  # what was killed, rows lost, rows twice


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    os.environ["PYTHONPATH"] = PATH
    context = ray.init(
        "local", num_cpus=6, object_store_memory=300_000_000, include_dashboard=False, log_to_driver=False
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    print("\nkilled                                   rows lost   rows twice")
    for what, lost, twice in TABLE:
        print(f"{what:40} {lost:9} {twice:12}")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Videos that take a fifth of a second each, and one that cannot be read."""
    root = tmp_path_factory.mktemp("videos")
    for index, path in enumerate(write_folder(root, COUNT - 1, seed=0, num_frames=9)):
        path.rename(path.with_name(f"slow {index}.mp4"))
    (root / "text.mp4").write_text("no video")
    return root


def options(**fields) -> LabelOptions:
    return LabelOptions(**{"batch_size": 2, "top_k": 3, **fields})


def engine(**fields) -> EngineOptions:
    return EngineOptions(engine="ray", **{**ENGINE, **fields})


def rows_of(output: Path) -> list[dict]:
    with suppress(OSError):
        return list(read_results(output))
    return []


def check_once(output: Path, videos: Path, what: str) -> None:
    """Each video has one row; note it for the table."""
    names = Counter(row["video"] for row in rows_of(output))
    planned = {name for name, _ in iter_videos(videos)}
    TABLE.append((what, len(planned - names.keys()), names.total() - len(names)))
    assert names == Counter(planned)


def check_same(output: Path, other: Path) -> None:
    """The rows of two folders say the same of the same videos."""
    one, two = ({row["video"]: row for row in rows_of(folder)} for folder in (output, other))
    assert one.keys() == two.keys()
    for name, row in one.items():
        expected = two[name]
        assert {**row, "scores": 0, "embedding": 0} == {**expected, "scores": 0, "embedding": 0}
        for part in ("scores", "embedding"):
            if expected.get(part) is not None:
                assert row[part] == pytest.approx(expected[part], abs=1e-5)
    settings = [json.loads((folder / "_settings.json").read_text()) for folder in (output, other)]
    assert settings[0] == settings[1]


# -- processes -------------------------------------------------------------------------------------------------------


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = (parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def ours(what: str) -> list[int]:
    """The processes of this cluster whose command begins so."""
    found = processes()

    def is_below(pid: int) -> bool:
        while pid in found and pid != os.getpid():
            pid = found[pid][0]
        return pid == os.getpid()

    return [pid for pid, (_, command) in found.items() if command.startswith(what) and is_below(pid)]


def children_that_read() -> list[int]:
    """Of each reader the process that a fork server started for it."""
    found = processes()
    servers = [pid for pid, (_, command) in found.items() if "multiprocessing.forkserver" in command]
    actors = ours("ray::MapWorker(MapBatches(Reader))")
    own = [pid for pid in servers if found[pid][0] in actors]
    return [pid for pid, (parent, _) in found.items() if parent in own]


def kill_reader() -> None:
    os.kill(ours("ray::MapWorker(MapBatches(Reader))")[0], signal.SIGKILL)


def kill_child() -> None:
    os.kill(children_that_read()[0], signal.SIGKILL)


def kill_replica() -> None:
    os.kill(ours("ray::MapWorker(MapBatches(Labeller))")[0], signal.SIGKILL)


def start(videos: Path, output: Path, address: str, **fields) -> subprocess.Popen:
    fields = {"batch_size": 2, "top_k": 3, **fields}
    command = [sys.executable, "-m", "support.ray_driver", videos, output]
    return subprocess.Popen(
        [*command, json.dumps(fields), json.dumps({**ENGINE, "address": address})],
        env={**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.05)


# -- the same as the plain command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"embeddings": True, "format": "parquet"},
        {"protocol": "3x1", "random_frames": True, "seed": 3},
        {"dtype": "bfloat16", "fuse": False},
    ],
    ids=str,
)
def test_rows_are_those_of_the_plain_command(tmp_path, videos, fields):
    asked = options(**fields)
    label_videos(*open_model(), iter_videos(videos), tmp_path / "plain", asked)
    summary = label_on_ray(open_model, videos, tmp_path / "ray", asked, engine())
    assert (summary.seen, summary.labelled, summary.unreadable) == (COUNT, COUNT - 1, 1)
    assert 0 < summary.waited < summary.seconds
    check_same(tmp_path / "ray", tmp_path / "plain")


def test_each_engine_goes_on_where_the_other_stopped(tmp_path, videos):
    some = sorted(iter_videos(videos))
    label_videos(*open_model(), some[:10], tmp_path, options())
    summary = label_on_ray(open_model, videos, tmp_path, options(), engine())
    assert (summary.before, summary.labelled + summary.unreadable) == (10, COUNT - 10)
    check_once(tmp_path, videos, "nothing: begun by the plain command")
    assert label_videos(*open_model(), some, tmp_path, options()).before == COUNT
    assert label_on_ray(open_model, videos, tmp_path, options(), engine()).labelled == 0


# -- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, COUNT // 2])
def test_the_driver_is_killed(tmp_path, videos, address, rows):
    driver = start(videos, tmp_path, address)
    wait_until(lambda: (tmp_path / "_settings.json").exists() and len(rows_of(tmp_path)) >= rows, driver)
    driver.kill()
    driver.wait()
    assert len(rows_of(tmp_path)) < COUNT
    label_on_ray(open_model, videos, tmp_path, options(), engine())
    check_once(tmp_path, videos, f"driver, after {rows} rows")
    assert not (tmp_path / "_plan").exists()


@pytest.mark.parametrize(
    ("what", "kill"),
    [("reader", kill_reader), ("child of a reader", kill_child), ("replica", kill_replica)],
    ids=["reader", "child", "replica"],
)
def test_an_actor_is_killed(tmp_path, videos, address, what, kill):
    driver = start(videos, tmp_path, address)
    for rows in (2, COUNT // 2):
        wait_until(lambda: len(rows_of(tmp_path)) >= rows, driver)
        kill()
    output, errors = driver.communicate(timeout=300)
    assert driver.returncode == 0, errors
    assert f"labelled={COUNT - 1}, unreadable=1" in output
    check_once(tmp_path, videos, f"{what}, twice")


def test_a_run_that_is_started_twice(tmp_path, videos, address):
    first = start(videos, tmp_path, address)
    wait_until(lambda: len(rows_of(tmp_path)) >= 1, first)
    with pytest.raises(ValueError, match="Another process writes"):
        label_on_ray(open_model, videos, tmp_path, options(), engine())
    with pytest.raises(ValueError, match="Another process writes"):
        label_videos(*open_model(), iter_videos(videos), tmp_path, options())
    assert first.wait(300) == 0
    check_once(tmp_path, videos, "nothing: started twice, by both engines")


# -- videos ----------------------------------------------------------------------------------------------------------


def test_videos_that_end_or_block_their_reader_are_named(tmp_path, videos):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, path in enumerate(sorted(videos.rglob("slow*.mp4"))[:8]):
        (folder / f"{index}.mp4").symlink_to(path)
    for name in ("crash.mp4", "hang.mp4"):
        (folder / name).symlink_to(folder / "0.mp4")
    (folder / "text.mp4").write_text("no video")
    summary = label_on_ray(open_model, folder, tmp_path / "rows", options(), engine(video_timeout=2.0))
    assert (summary.labelled, summary.unreadable) == (8, 3)
    reasons = {row["video"]: row["reason"] for row in rows_of(tmp_path / "rows") if row["reason"]}
    assert reasons["crash.mp4"] == "the process that read it died (signal 11)"
    assert reasons["hang.mp4"] == "not read in 2 s"
    assert "Cannot read the video" in reasons["text.mp4"]
    (folder / "crash.mp4").rename(folder / "9.mp4")
    retried = label_on_ray(open_model, folder, tmp_path / "rows", options(retry=True), engine(video_timeout=2.0))
    assert (retried.before, retried.labelled, retried.unreadable) == (8, 1, 2)


def test_the_children_of_readers_end_with_them(tmp_path, videos):
    label_on_ray(open_model, videos, tmp_path, options(), engine())
    wait_until(lambda: not children_that_read())


# -- errors ----------------------------------------------------------------------------------------------------------


def open_in_the_driver_only():
    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        raise OSError("there is no checkpoint here")
    return open_model()


def open_another_in_replicas():
    model, processor = open_model()
    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        torch.nn.init.zeros_(model.vision_model.layernorm.weight) if hasattr(model.vision_model, "layernorm") else None
        next(model.parameters()).data.zero_()
    return model, processor


def open_with_a_fault():
    model, processor = open_model()
    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:

        def forward(*arguments, **named):
            raise RuntimeError("no memory for this batch")

        model.forward = forward
    return model, processor


@pytest.mark.parametrize(
    ("open_it", "message"),
    [
        (open_in_the_driver_only, "there is no checkpoint here"),
        (open_another_in_replicas, "The model that a replica opened differs from this run's in model"),
        (open_with_a_fault, "no memory for this batch"),
    ],
)
def test_what_a_replica_cannot_do_ends_the_run(tmp_path, videos, open_it, message):
    with pytest.raises((RuntimeError, ValueError, OSError)) as caught:
        label_on_ray(open_it, videos, tmp_path, options(fuse=False), engine())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_cluster_that_is_too_small(tmp_path, videos):
    with pytest.raises(ValueError, match=r"100 readers and 1 replica take 102 CPUs .* has 6 CPUs and 0 GPUs"):
        label_on_ray(open_model, videos, tmp_path, options(), engine(readers=100))
    with pytest.raises(ValueError, match=r"1 replica need a GPU each, and the cluster has 6 CPUs and 0 GPUs"):
        label_on_ray(open_model, videos, tmp_path, options(device="cuda"), engine())
    with pytest.raises(ValueError, match="workers is 2 and would have no effect on Ray"):
        label_on_ray(open_model, videos, tmp_path, options(workers=2), engine())
