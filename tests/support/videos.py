"""Videos whose frames carry their number as bars of light and dark."""

import io
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from support import paths
from transformers_ila.model.video_frames_ila import segment_indices


SHARED = paths.SHARED / "videos"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared folder of real and broken videos is not here"
)

HEIGHT, WIDTH, BLOCK = 48, 64, 16  # 12 blocks of 16 x 16: 12 bits
EIGHT_SEGMENTS = partial(segment_indices, num_frames=8)


def barcode_frame(index: int, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, 3) uint8; bit b of the index is the brightness of block b."""
    frame = np.full((height, width, 3), 16, dtype=np.uint8)
    for bit in range(12):
        row, column = BLOCK * (bit // 4), BLOCK * (bit % 4)
        frame[row : row + BLOCK, column : column + BLOCK] = 235 if index >> bit & 1 else 16
    return frame


def barcodes(frames: np.ndarray) -> list[int]:
    blocks = frames[:, :HEIGHT, :WIDTH].mean(axis=-1).reshape(len(frames), 3, BLOCK, 4, BLOCK).mean(axis=(2, 4))
    return [int(sum(1 << bit for bit, value in enumerate(row) if value > 125)) for row in blocks.reshape(-1, 12)]


def write_video(
    path: Path,
    frames: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container_options: dict | None = None,
    **options,
) -> Path:
    """A barcode video of 25 frames a second; `options` go to the encoder."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(index), format="rgb24")))
        container.mux(stream.encode(None))
    return path


# -- what is damaged or no video -------------------------------------------------------------------------------------


def packet_places(path: Path) -> list[tuple[int, int]]:
    """(position, size) in the file, in bytes, of every video packet."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


# -- real and broken videos ------------------------------------------------------------------------------------------


def manifest(folder: str) -> list[dict]:
    path = SHARED / folder / "MANIFEST.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


# -- videos with timestamps of one's choice, and pipes that carry them -----------------------------------------------


def encoded(
    ticks: Iterable[int],
    *,
    format: str = "mpegts",
    rate: int = 30,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    sound=False,
    **container_options: str,
) -> bytes:
    """A barcode video of which frame k is shown at ticks[k] / rate; `sound`: a second of it, from 0 on, goes first."""
    file = io.BytesIO()
    with av.open(file, "w", format=format, container_options=container_options) as container:
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
