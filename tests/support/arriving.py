"""Small videos with timestamps of one's choice, and pipes that carry them."""

import io
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

from support.videos import HEIGHT, WIDTH, barcode_frame


def encoded(
    ticks: Iterable[int],
    *,
    format: str = "mpegts",
    rate: int = 30,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    sound=False,
) -> bytes:
    """A barcode video of which frame k is shown at ticks[k] / rate; `sound`: a second of it, from 0 on, goes first."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "tune": "zerolatency"})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, rate)
        if sound:
            audio = container.add_stream("aac", rate=16000, layout="mono")
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 16000, 0
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(barcode_frame(index, height=size[1], width=size[0]), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return file.getvalue()


class Unseekable:
    """A binary file object that can only be read; `wait` is called before each read."""

    def __init__(self, data: bytes, *, piece: int = 2**30, wait=lambda: None) -> None:
        self.file, self.piece, self.wait = io.BytesIO(data), piece, wait

    def read(self, size: int = -1) -> bytes:
        self.wait()
        return self.file.read(min(size, self.piece))


@contextmanager
def piped(data: bytes, *, close: bool = True) -> Iterator[int]:
    """The reading end of a pipe into which a thread writes; it stays open afterwards unless `close`."""
    reader, writer = os.pipe()

    def write() -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(writer, rest) :]
        except OSError:  # nobody reads any more
            pass
        if close:
            os.close(writer)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield reader
    thread.join(10)
    if not close:
        os.close(writer)
