"""What `--engine ray` promises, on a cluster of this machine; run by `make test-extra PARTS=ray`.

What is killed, and what the results then hold, is in `check_ray_kills.py`. Here one cluster serves all tests.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow
import pytest
import ray
import torch
from pyarrow import parquet
from ray._private.internal_api import memory_summary

from support.paths import ROOT
from support.ray_models import open_model, open_slow_model
from transformers_ila.data.lists import iter_videos
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction import label_videos
from transformers_ila.evaluation.prediction_files import read_results
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.scale import EngineOptions, label_on_ray


COUNT = 30
ENGINE = {"readers": 1, "replicas": 1, "retries": 1, "video_timeout": 20.0}
PATH = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["PYTHONPATH"] = PATH
    ray.init("local", num_cpus=6, object_store_memory=300_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


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


def check_once(output: Path, videos: Path) -> None:
    """Each video has one row."""
    names = Counter(row["video"] for row in rows_of(output))
    assert names == Counter(name for name, _ in iter_videos(videos))


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


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "it did not happen"
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
    check_once(tmp_path, videos)
    assert label_videos(*open_model(), some, tmp_path, options()).before == COUNT
    assert label_on_ray(open_model, videos, tmp_path, options(), engine()).labelled == 0


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
        torch.nn.init.zeros_(next(model.parameters()))
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
    with pytest.raises(ValueError, match="workers is 2 and would have no effect on Ray"):
        label_on_ray(open_model, videos, tmp_path, options(workers=2), engine())


ONE_CPU = """
import sys
import ray
from support.ray_models import open_model
from transformers_ila.scale import label_on_ray

ray.init("local", num_cpus=int(sys.argv[1]), object_store_memory=200_000_000, include_dashboard=False)
print(label_on_ray(open_model, sys.argv[2], sys.argv[3]))
"""


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_cluster_of_one_or_two_cpus_does_not_hang(tmp_path, videos, cpus):
    command = [sys.executable, "-c", ONE_CPU, str(cpus), videos, tmp_path / "rows"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert f"labelled={COUNT - 1}, unreadable=1" in done.stdout, done.stderr
    assert "Ray: 1 reader, 1 replica on the CPU" in done.stdout


# -- memory ----------------------------------------------------------------------------------------------------------


def megabytes_in_store() -> float:
    """What the object store holds; an error where it had to write objects to the disk."""
    said = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    assert "Spilled" not in said, said
    return float(re.search(r"Plasma memory usage (\d+) MiB", said)[1])


def test_memory_stays_flat_while_the_model_is_slower(tmp_path, videos):
    """Clips of 600 MB in all pass an object store of 300 MB, without use of the disk."""
    path = str(next(videos.rglob("*0.mp4")).rename(tmp_path / "a.mp4"))
    rows = 1600  # of 30 views of 4 frames
    manifest = pyarrow.table({"id": [str(row) for row in range(rows)], "path": rows * [path]})
    parquet.write_table(manifest, tmp_path / "m.parquet")
    source, used = tmp_path / "m.parquet", list[float]()
    asked = options(batch_size=20, protocol="10x3", fuse=False)
    summary = label_on_ray(
        open_slow_model, source, None, asked, engine(), show=lambda _: used.append(megabytes_in_store())
    )
    print(f"{summary.labelled} videos, in the object store {max(used):.0f} MB at most")
    assert summary.labelled == rows and max(used) < 200
