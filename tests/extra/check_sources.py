"""Sources of frames, at length: three hours through a pipe in flat memory, no endless wait, the reader's pixels.

Run by `make test-extra PARTS=streams`, with `-s` so that the figures are seen. One format, and fewer hours:

    python tests/extra/check_sources.py mpegts 0.5
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


sys.path.insert(0, str(Path(__file__).parents[1]))

from support import paths
from transformers_ila.model.video_reading_ila import VideoDecodingError, read_video
from transformers_ila.timeline.sources import SourceNote, TimedFrame, open_frames


HOURS = 3.0
RATE = 30
PATIENT = 600.0  # seconds that a loaded machine may take to start the producer
MOST_GROWTH = 8.0  # MB, from a tenth of the stream to its end

PRODUCER = f"""
import io, os, sys, av
from fractions import Fraction
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.videos import encoded
frames = int(sys.argv[1])
class Pipe:
    def write(self, data):
        rest = memoryview(bytes(data))
        while rest:
            rest = rest[os.write(1, rest):]
        return len(data)
clip = encoded(range(300), format=sys.argv[2], rate={RATE})
with av.open(io.BytesIO(clip)) as once, av.open(Pipe(), "w", format=sys.argv[2]) as output:
    stream = output.add_stream_from_template(once.streams.video[0])
    packets = [(bytes(p), p.pts, p.is_keyframe) for p in once.demux(once.streams.video[0]) if p.size]
    tick = once.streams.video[0].time_base
    step = round(Fraction(300, {RATE}) / tick)
    for loop in range(frames // 300):
        for data, pts, key in packets:
            packet = av.Packet(data)
            packet.pts = packet.dts = pts + loop * step
            packet.time_base, packet.stream, packet.is_keyframe = tick, stream, key
            output.mux(packet)
"""

WAITER = """
import sys, os
from transformers_ila.timeline.sources import open_frames
source = open_frames("-")
print("waiting", flush=True)
if sys.argv[1] == "for frames":
    list(source)
"""


def resident() -> float:
    """MB of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize(("format", "hours"), [("mpegts", HOURS), ("matroska", HOURS / 10)])
def test_memory_is_flat(format: str, hours: float) -> None:
    frames = int(hours * 3600 * RATE) // 300 * 300
    command = [sys.executable, "-c", PRODUCER, str(frames), format]
    began, sizes, last, count = time.monotonic(), [], -1.0, 0
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as producer,
        open_frames(producer.stdout, rate=2, patience=PATIENT, give_up=PATIENT) as source,
    ):
        for item in source:
            assert isinstance(item, TimedFrame), item
            assert last < item.time
            last, count = item.time, count + 1
            if count % max(1, int(hours * 7200 / 10)) == 0:
                sizes.append(resident())
                print(f"{format}: {item.time / 60:6.1f} minutes, {sizes[-1]:.1f} MB", flush=True)
        assert source.decoded == frames and count == frames * 2 // RATE, (source.decoded, count)
        assert abs(source.duration - frames / RATE) < 0.01, source.duration
    seconds = time.monotonic() - began
    growth = max(sizes) - sizes[0]
    print(f"{format}: {frames} frames in {seconds:.0f} s ({frames / seconds:.0f} a second), growth {growth:.1f} MB")
    assert growth < MOST_GROWTH


def test_waits_end() -> None:
    """Ctrl-C ends a wait for frames, and a program that forgot its source ends by itself."""
    for what in ("for frames", "for nothing"):
        reader, writer = os.pipe()
        command = [sys.executable, "-c", WAITER, what]
        with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            child.stdout.readline()
            began = time.monotonic()
            if what == "for frames":
                time.sleep(0.5)
                child.send_signal(signal.SIGINT)
            errors = child.communicate(timeout=PATIENT)[1].decode()
        print(f"waiting {what}: ended after {time.monotonic() - began:.1f} s with {child.returncode}")
        expected = "KeyboardInterrupt" if what == "for frames" else ""
        assert expected in errors and "Fatal" not in errors, errors
        assert (child.returncode == 0) == (what == "for nothing")
        os.close(reader)
        os.close(writer)


def test_pixels_are_those_of_the_reader() -> None:
    """Every video of the shared folder gives the reader's frames, or neither reads it."""
    folder = paths.SHARED / "videos"
    if not folder.is_dir():
        print("the shared folder of videos is not here: pixels are not compared")
        return
    same = refused = 0
    for path in sorted(folder.glob("*/*.*")):
        try:
            images, _ = read_video(path, range)
        except VideoDecodingError:
            images = None
        try:
            with open_frames(path) as source:
                index = -1
                for item in source:
                    if isinstance(item, SourceNote):
                        continue
                    index += 1
                    assert images is not None and np.array_equal(item.image, images[item.index]), path
                assert index == len(images) - 1, path
            same += 1
        except VideoDecodingError as error:
            assert images is None, (path, error)
            refused += 1
    print(f"{same} videos give the reader's frames, bit for bit; {refused} are no videos to either")


if __name__ == "__main__":
    test_memory_is_flat(sys.argv[1], float(sys.argv[2]))
