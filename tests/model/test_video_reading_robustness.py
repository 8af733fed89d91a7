"""Many reads, many threads, worker processes and damaged files: the reader holds nothing and breaks nothing."""

import importlib
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from support.videos import EIGHT_SEGMENTS, write_video
from transformers_ila.model.video_reading_ila import VideoDecodingError, read_video


fuzz = importlib.import_module("fuzz_video_reading")
leaks = importlib.import_module("video_reading_leaks")

FUZZ_CASES = 150
FORMATS = [("a.mp4", "libx264"), ("b.mkv", "libx264"), ("c.avi", "mpeg4"), ("d.ts", "libx264")]


class Videos(Dataset):
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_video(self.paths[index], EIGHT_SEGMENTS)[0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / name, 20 + index, codec=codec) for index, (name, codec) in enumerate(FORMATS)]


@pytest.fixture(scope="module")
def expected(paths) -> list[np.ndarray]:
    """Read in this process first, so that what FFmpeg keeps for a process is there when workers are forked."""
    return [read_video(path, EIGHT_SEGMENTS)[0] for path in paths]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_workers(paths, expected, context):
    loader = DataLoader(Videos(paths), batch_size=None, num_workers=2, multiprocessing_context=context, timeout=120)
    read = [frames.numpy() for frames in loader]
    assert len(read) == len(paths)
    assert all(np.array_equal(frames, known) for frames, known in zip(read, expected))


def test_error_in_a_worker_names_the_video(tmp_path):
    loader = DataLoader(Videos([tmp_path / "missing.mp4"]), num_workers=1, multiprocessing_context="fork", timeout=120)
    with pytest.raises(Exception, match=r"missing\.mp4.*no such file"):
        list(loader)


def test_error_survives_pickling(tmp_path):
    with pytest.raises(VideoDecodingError) as error:
        read_video(tmp_path / "missing.mp4", EIGHT_SEGMENTS)
    copy = pickle.loads(pickle.dumps(error.value))
    assert type(copy) is VideoDecodingError
    assert str(copy) == str(error.value)


def test_many_threads(paths, expected):
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda path: read_video(path, EIGHT_SEGMENTS)[0], paths * 8))
    assert all(np.array_equal(frames, known) for frames, known in zip(read, expected * 8, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors and threads in /proc")
def test_nothing_leaks(tmp_path):
    _, (_, before), (_, after) = leaks.measure(leaks.write_files(tmp_path), warm_up=60, reads=200)
    assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
    assert after.memory_mb <= before.memory_mb + leaks.TOLERANCE_MB


# -- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_damaged_videos_give_frames_or_an_error(monkeypatch):
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 60.0)  # machines may be busy
    outcomes = fuzz.run_cases(range(FUZZ_CASES), seed=0)
    assert [outcome for outcome in outcomes if outcome.kind == "failure"] == []
    assert {outcome.kind for outcome in outcomes} == {"frames", "error"}


def test_cases_are_a_function_of_their_number():
    bases = {"a.mp4": bytes(range(256)) * 8, "b.avi": bytes(2000)}
    cases = [fuzz.make_case(bases, number, seed=3) for number in range(50)]
    assert cases == [fuzz.make_case(bases, number, seed=3) for number in range(50)]
    assert len({case.content for case in cases}) > 40


def crash_at_three(case: Any, folder: Path) -> tuple[str, str]:
    return os.abort() if case.number == 3 else ("frames", "")


def hang_at_three(case: Any, folder: Path) -> tuple[str, str]:
    if case.number == 3:
        threading.Event().wait()
    return "frames", ""


def grow_at_three(case: Any, folder: Path) -> tuple[str, str]:
    size = int(1.2 * fuzz.MAX_GROWTH_MB) if case.number == 3 else 1
    return "frames", str(np.ones((size, 2**20), dtype=np.uint8)[0, 0])


FAULTS = [(crash_at_three, "crash: exit code -6"), (hang_at_three, "hang"), (grow_at_three, "memory grew")]


@pytest.mark.slow
@pytest.mark.parametrize(("read", "reason"), FAULTS)
def test_fuzzing_tells_what_failed_and_goes_on(read, reason, monkeypatch):
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 10.0 if read is hang_at_three else 60.0)
    outcomes = fuzz.run_cases(range(6), seed=0, read=read)
    assert [outcome.case.number for outcome in outcomes] == list(range(6))
    assert [outcome.case.number for outcome in outcomes if outcome.kind == "failure"] == [3]
    assert outcomes[3].detail.startswith(reason)
