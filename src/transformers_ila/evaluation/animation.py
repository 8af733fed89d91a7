"""What a model looked at, over time: the frames it saw as a GIF, or all frames of the video as an MP4.

Shapes: `T` frames that the model saw, `h` x `w` patches.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..model.video_container_ila import (
    AV_ERRORS,
    ORDERED,
    ReadLimits,
    VideoDecodingError,
    VideoFile,
    opened,
    reason_of,
)
from ..model.video_decoding_ila import PATIENCE, FrameConverter, frame_times
from ..model.video_frames_ila import in_memory
from ..model.video_reading_ila import as_file, pictures_of
from ..visualization.files import write_gif, write_video
from ..visualization.overlay import overlay
from .inspection.result import Inspection


TILE = 256  # pixels, the least short side of a frame in a GIF
GAP = 6  # pixels between panels
WHITE = 255
LONGEST = 86_400.0  # seconds that reading a video may take while all of it is drawn
Progress = Callable[[float, float | None], object]


@dataclass(frozen=True, eq=False)
class Panel:
    """Hold what is drawn over the frames of one model and layer.

    name: the line below. heat: (T, h, w), with the limits of its colours. points: (T, 2), x and y from -1 to 1.
    box: the side of squares around the points, as a share of the frame's shorter side; None: rings.
    grid: rows and columns of patches.
    """

    name: str
    grid: tuple[int, int]
    heat: torch.Tensor | None = None
    limits: tuple[float, float] | None = None
    points: torch.Tensor | None = None
    box: float | None = None

    def draw(self, image: np.ndarray, index: int, **how: Any) -> np.ndarray:
        """Draw over an image, (H, W, 3) uint8, what belongs to one of the T frames; how: arguments of `overlay`."""
        if self.heat is not None:
            how |= {"heat": self.heat[index], "limits": self.limits}
        if self.points is not None:
            how |= {"point": self.points[index], "box": self.box}
        return overlay(image, grid=self.grid, **how)


def write_animation(
    panels: Sequence[Panel],
    seen: Inspection,
    video: Any,
    path: str | Path,
    about: dict[str, Any],
    *,
    fps: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write what panels show as a .gif or .mp4.

    Args:
        panels: one or more; of an .mp4 one.
        seen: the frames that the models saw, and where and when they are in the video.
        video: what was inspected.
        path: the file.
        about: facts to hold in it.
        fps: .gif: frames a second; by default those of the video.
        progress: .mp4: called with the seconds that are written and those there are, where that is known.

    Raises:
        ValueError: no times and no `fps`; a video that is no file, as an .mp4.
        OSError: the file cannot be written.
    """
    if Path(path).suffix.lower() == ".gif":
        _write_gif(panels, seen, path, about, fps)
    else:
        (panel,) = panels
        _write_mp4(panel, seen, video, path, about, progress)


# -- the frames that the model saw -----------------------------------------------------------------------------------


def _write_gif(
    panels: Sequence[Panel], seen: Inspection, path: str | Path, about: dict[str, Any], fps: float | None
) -> None:
    if seen.times is None and fps is None:
        raise ValueError(f"The frames of {seen.video} have no times: say by fps how many a second a .gif shows.")
    images = (_side_by_side(panels, frame, index) for index, frame in enumerate(seen.frames))
    if fps is None and seen.times is not None:
        times = seen.times.double()
        if bool((times.diff() > 0).all()):
            write_gif(images, path, about, times=times.tolist())
            return
        span = float(times[-1] - times[0])  # frames are repeated, so that their times stand still
        fps = min(50.0, (len(times) - 1) / span) if span > 0 else 1.0
    write_gif(images, path, about, fps=fps)


def _side_by_side(panels: Sequence[Panel], frame: torch.Tensor, index: int) -> np.ndarray:
    """Return the panels of one frame (3, H, W) beside and below each other, (rows, columns, 3) uint8."""
    pixels = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    scale = max(1, math.ceil(TILE / min(pixels.shape[:2])))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    large = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    tiles = [panel.draw(large, index, caption=panel.name) for panel in panels]
    columns = math.ceil(math.sqrt(len(tiles))) if len(tiles) > 4 else len(tiles)
    rows = math.ceil(len(tiles) / columns)
    height, width = large.shape[0] + GAP, large.shape[1] + GAP
    sheet = np.full((rows * height - GAP, columns * width - GAP, 3), WHITE, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


# -- all frames of the video -----------------------------------------------------------------------------------------


class SourceFrame(NamedTuple):
    """Hold a frame of a video.

    number: its place among those that decode, from 0; None where frames are thinned out.
    seconds: when it is shown, after the first frame of the file, which need not decode, as the reader counts them.
    image: (H, W, 3) uint8, upright. pixel_aspect: width / height of one pixel.
    """

    number: int | None
    seconds: float
    image: np.ndarray
    pixel_aspect: float = 1.0


@dataclass
class SourceFrames:
    """Give all frames of a video in order, one at a time in memory.

    duration: seconds, as far as the file says it; known once the first frame was given.
    """

    source: Any
    limits: ReadLimits
    duration: float | None = None

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames; those whose time does not rise are left out, as no player shows them.

        Raises:
            VideoDecodingError: pictures, which have no times, or no frame that decodes.
        """
        with as_file(self.source, replace(self.limits, max_seconds=LONGEST)) as file:
            if pictures_of(file) is not None:
                raise VideoDecodingError(file.name, "its pictures have no times for an .mp4; allowed: .gif, with fps")
            with opened(file) as video:
                begin = _first_time(file)
                stream, rate = video.stream, video.stream.average_rate or video.stream.guessed_rate
                if stream.duration is not None:
                    self.duration = float(stream.duration * stream.time_base)
                elif video.container.duration:
                    self.duration = video.container.duration / 1e6
                converter, count, first, last, reason = FrameConverter(), 0, begin, -1.0, ""
                give_up = time.monotonic() + PATIENCE
                for packet in video.packets():
                    try:
                        frames = video.decoder.decode(packet)
                    except AV_ERRORS as error:
                        reason = reason_of(error)
                        if not count and time.monotonic() > give_up:
                            break
                        continue
                    for frame in frames:
                        ticks = frame.dts if video.format in ORDERED or frame.pts is None else frame.pts
                        if ticks is not None:
                            time_shown = float(ticks * stream.time_base)
                            first = time_shown if first is None else first
                            seconds = time_shown - first
                        else:
                            seconds = count / float(rate) if rate else last + 1 / 25
                        count += 1
                        if seconds <= last:
                            continue
                        last = seconds
                        image = converter.convert(frame)
                        aspect = float(stream.sample_aspect_ratio or 1)
                        aspect = 1 / aspect if converter.rotation % 180 else aspect
                        yield SourceFrame(count - 1, seconds, image, aspect)
                if not count:
                    raise VideoDecodingError(file.name, f"no frame of it decodes{reason and ': '}{reason}")


def _first_time(file: VideoFile) -> float | None:
    """Return when the first frame of a file is shown, whether it decodes or not; None where packets do not tell."""
    try:
        return frame_times(file).first_time
    except VideoDecodingError:
        return None


def _write_mp4(
    panel: Panel,
    seen: Inspection,
    video: Any,
    path: str | Path,
    about: dict[str, Any],
    progress: Progress | None,
) -> None:
    if in_memory(video) or seen.times is None:
        raise ValueError(f"An .mp4 is of a video with times, which {seen.video} has not; allowed: .gif, with fps.")
    source = SourceFrames(video, ReadLimits())
    span = (about.get("start") or 0.0, math.inf if about.get("end") is None else about["end"])

    def wanted() -> Generator[SourceFrame]:
        found = False
        for frame in source:
            if frame.seconds >= span[1]:
                break
            if frame.seconds < span[0]:
                continue
            found = True
            yield frame
            if progress is not None:
                progress(frame.seconds, source.duration)
        if not found:
            raise VideoDecodingError(repr(seen.video), f"no frame lies between {span[0]:g} and {span[1]:g} s")

    write_over(panel, seen, wanted(), path, about)


def write_over(
    panel: Panel,
    seen: Inspection,
    frames: Generator[SourceFrame],
    path: str | Path,
    about: dict[str, Any],
    *,
    times: torch.Tensor | None = None,
) -> None:
    """Write frames of a video as an .mp4, each under what the panel shows of the seen frame that is nearest in time.

    Args:
        panel: what is drawn.
        seen: the frames that the model saw, and where they are in the video.
        frames: of one size, which need not be the video's; closed at the end.
        path: the file.
        about: facts to hold in it.
        times: (T,) when the seen frames are shown; by default as `seen` says.

    Raises:
        ValueError: there are no frames.
        OSError: the file cannot be written.
    """
    times = seen.times if times is None else times
    assert times is not None
    seconds, indices = times.double().numpy(), set(seen.indices)
    waiting: deque[float] = deque()  # times of frames on their way to the writer, which asks for each behind its frame

    def drawn(shown: Iterable[SourceFrame]) -> Iterator[np.ndarray]:
        for frame in shown:
            waiting.append(frame.seconds)
            nearest = int(np.abs(seconds - frame.seconds).argmin())
            height, width = frame.image.shape[:2]
            scales = (width / seen.size[0], height / seen.size[1]) * 2
            crop = [side * scale for side, scale in zip(seen.crop, scales)]
            yield panel.draw(frame.image, nearest, crop=crop, seen=frame.number in indices)

    def clock() -> Iterator[float]:
        while waiting:
            yield waiting.popleft()

    with closing(frames):
        first = next(frames, None)
        shown = frames if first is None else chain([first], frames)
        aspect = 1.0 if first is None else first.pixel_aspect
        write_video(drawn(shown), path, about, times=clock(), pixel_aspect=aspect)
