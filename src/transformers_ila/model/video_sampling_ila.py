"""Rules that say which frames of a video a clip takes: numbers to indices, in pure functions."""

from collections.abc import Callable

import numpy as np
import torch


# -- which frames ----------------------------------------------------------------------------------------------------


def segment_indices(
    total: int,
    *,
    num_frames: int,
    clip: int = 0,
    num_clips: int = 1,
    random: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Take one frame from each of `num_frames` equal segments of the whole video.

    ```
    frames      0 . . . . . . . . . . . . . . . n-1
    segments    |-------|-------|-------|-------|      num_frames=4
    one clip        x       x       x       x          the middle of each segment
    two clips     0   1   0   1   0   1   0   1        fractions 1/4 and 3/4
    random       x           x    x            x       anywhere inside, drawn per segment
    ```

    Segment i runs from round((n-1)/T*i) to round((n-1)/T*(i+1)), both ends included; clip c of C takes the frame at
    fraction (c+0.5)/C. A video with fewer frames than segments repeats frames.

    Args:
        total: number of frames of the video, n.
        num_frames: number of frames to take, T.
        clip, num_clips: which clip c of how many C; ignored when `random`.
        random: draw the frames (training) from torch's generator or from `generator`.

    Returns:
        (T,) int64 indices in [0, n), ascending.

    Raises:
        ValueError: n or T below 1, or a clip that does not exist.
    """
    _check_sampling(total, num_frames, clip, num_clips)
    bounds = np.rint((total - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    start, end = bounds[:-1], bounds[1:]
    if random:
        draw = torch.rand(num_frames, generator=generator, dtype=torch.float64).numpy()
        return start + (draw * (end - start + 1)).astype(np.int64)
    return start + ((end - start) * (2 * clip + 1)) // (2 * num_clips)


def uniform_indices(
    total: int,
    *,
    num_frames: int,
    clip: int = 0,
    num_clips: int = 1,
    random: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Take a grid of equal steps from the first frame to the last.

    ```
    frames      0 . . . . . . . . . . . . n-1
    one clip    x       x       x       x          num_frames=4: first, two between, last
    two clips   0      0      0      0             the grid moved by -1/4 ...
                  1       1       1     1          ... and +1/4 of its step, kept inside the video
    random      the grid moved by one draw from [-1/2, 1/2) of its step
    ```

    A single frame is the middle one. Arguments, result and errors as in `segment_indices`.
    """
    _check_sampling(total, num_frames, clip, num_clips)
    last = total - 1
    grid = np.linspace(0, last, num_frames) if num_frames > 1 else np.array([last / 2])
    step = last / max(num_frames - 1, 1)
    fraction = torch.rand((), generator=generator, dtype=torch.float64).item() if random else (clip + 0.5) / num_clips
    return np.rint(np.clip(grid + (fraction - 0.5) * step, 0, last)).astype(np.int64)


def dense_indices(
    total: int,
    *,
    num_frames: int,
    stride: int = 4,
    clip: int = 0,
    num_clips: int = 1,
    random: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Take a short window of the video: `num_frames` frames, `stride` apart.

    ```
    frames      0 . . . . . . . . . . . . . . . n-1
    one clip            x . x . x . x                  num_frames=4, stride=2: the window in the middle
    two clips       0 . 0 . 0 . 0                      the window begins at 1/4 ...
                            1 . 1 . 1 . 1              ... and 3/4 of the room it leaves
    too short   x . x . x x                            what lies behind the end is the last frame again
    ```

    The window spans (T-1)*stride+1 frames; `random` draws where it begins. Other arguments, result and errors as in
    `segment_indices`; a stride below 1 is a ValueError too.
    """
    _check_sampling(total, num_frames, clip, num_clips)
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}.")
    room = max(total - ((num_frames - 1) * stride + 1), 0)
    if random:
        start = int(torch.randint(room + 1, (), generator=generator))
    else:
        start = room * (2 * clip + 1) // (2 * num_clips)
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), total - 1)


def _check_sampling(total: int, num_frames: int, clip: int, num_clips: int) -> None:
    for name, value in {"total": total, "num_frames": num_frames, "num_clips": num_clips}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip must be in [0, num_clips={num_clips}), got {clip}.")


INDEX_RULES: dict[str, Callable[..., np.ndarray]] = {
    "segments": segment_indices,
    "uniform": uniform_indices,
    "dense": dense_indices,
}
