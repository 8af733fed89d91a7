"""A child process reads videos: what ends or blocks it costs one video, which is known, and a try."""

import os
import signal
import time

import pytest
import torch

from support.reading import read, read_in_a_child
from transformers_ila.evaluation.views import Video
from transformers_ila.scale import reading
from transformers_ila.scale.reading import Allowance, ChildReader


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def reader():
    found = ChildReader(read, timeout=60)
    yield found
    found.close()


@pytest.mark.slow  # the fork server's imports take seconds
def test_videos_come_as_they_were_read(reader):
    for item in ("a", "b c"):
        video = reader.read(item)
        assert (video.key, video.name, video.frames_lost, video.reason) == (item, item, 5, "")
        assert torch.equal(video.views, read(item).views)


@pytest.mark.slow
def test_what_ends_the_child_is_named(reader, tmp_path):
    assert reader.read("crash").reason == "the process that read it died (signal 11)"
    assert reader.read("leave").reason == "the process that read it died (exit code 3)"
    assert reader.read("raise").reason == "KeyError: 'https://***@host/a.mp4'"
    with pytest.raises(RuntimeError, match="there is no such package"):
        reader.read("module")
    assert reader.read("a").views is not None


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 2])
def test_what_takes_too_long_is_given_up(monkeypatch, retries):
    """All tries together take the timeout: one that hangs is not tried again."""
    reader, tries = ChildReader(read, timeout=0.3, retries=retries), []
    once = reader._once
    monkeypatch.setattr(reader, "_once", lambda item, allowance: tries.append(item) or once(item, allowance))
    first = reader.read("a") and reader.process.pid
    video = reader.read("hang")
    assert (video.key, video.reason) == ("hang", "not read in 0.3 s") and not alive(first)
    assert tries.count("hang") == 1
    assert reader.read("a").views is not None
    last = reader.process.pid
    reader.close()
    assert not alive(last)


class Taking(ChildReader):
    """Has no child: a try takes the seconds that its item says, and reads nothing where the item says so."""

    asked: list[float]

    def _start(self):
        return True

    def _ask(self, item, seconds):
        self.asked.append(seconds)
        took, is_read = item
        self.clock += min(took, seconds)
        views = torch.zeros(1) if is_read and took <= seconds else None
        return Video(item, "", views, reason="" if views is not None else "not read")


@pytest.fixture
def taking(monkeypatch):
    found = Taking(read, timeout=10, retries=2)
    found.asked, found.clock = [], 0.0
    monkeypatch.setattr(reading.time, "monotonic", lambda: found.clock)
    return found


def test_tries_share_the_time_of_a_video(taking):
    assert taking.read((4, False)).views is None and taking.asked == [10, 6, 2]
    taking.asked.clear()
    assert taking.read((11, True)).views is None and taking.asked == [10]  # nothing is left for another try
    assert taking.read((10, True)).views is not None


def test_pieces_share_the_time_and_the_tries_of_a_video(taking):
    allowance = taking.allowance()
    assert [taking.read((3, True), allowance).views is not None for _ in range(4)] == [True, True, True, False]
    assert taking.asked == [10, 7, 4, 1] and taking.clock == 10
    allowance = taking.allowance()
    assert taking.read((1, False), allowance).views is None and allowance == Allowance(7, 0)
    taking.asked.clear()
    assert taking.read((1, True), allowance).views is not None  # it has no tries but this one
    assert taking.read((1, False), allowance).views is None and taking.asked == [7, 6]


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 2])
def test_tries_are_counted(tmp_path, retries):
    reader, file = ChildReader(read, timeout=60, retries=retries), tmp_path / "tries"
    assert reader.read(f"broken {file}").reason == "broken"
    assert file.read_text() == "x" * (1 + retries)
    fresh = ChildReader(read, timeout=60, retries=retries)
    video = fresh.read(f"once {tmp_path / 'once'}")
    assert (video.views is None) == (retries == 0), video.reason
    for one in (reader, fresh):
        one.close()


@pytest.mark.slow
def test_a_child_that_was_spoilt_or_killed_before_costs_no_try(reader, tmp_path):
    """Memory that one video spoilt may show at the next."""
    assert reader.read("a").views is not None
    assert reader.read(f"once {tmp_path / 'spoilt'}").views is not None
    os.kill(reader.process.pid, signal.SIGKILL)
    assert reader.read("a").views is not None


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc")
def test_a_child_ends_after_its_parent(reader):
    """It hangs, and so does not see that its parent is gone: the kernel ends it some seconds after the timeout."""
    here, there = reader.context.Pipe()
    parent = reader.context.Process(target=read_in_a_child, args=(there, "hang"))
    parent.start()
    child = here.recv()
    assert alive(child)
    parent.kill()
    parent.join()
    wait_until(lambda: not alive(child))
