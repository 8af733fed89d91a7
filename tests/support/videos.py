"""Videos whose frames carry their number as bars of light and dark."""

import json
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
