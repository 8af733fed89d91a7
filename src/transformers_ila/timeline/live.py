"""Sources as they come: one model for several cameras, and a row for every change of label, with its delay.

What is unusual here:
- Frames that wait at the same moment go through the model together. A camera never waits for another one: where each
  frame is done before the next one comes, each goes alone.
- A source that fails ends alone, with a row that says why; the others go on.
- A frame's delay is measured twice: from its arrival, and from when it was due by the source's own clock.

Shapes: `C` x `H` x `W` pixels of a frame, `K` classes.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..evaluation.inference import Network, evaluating, multi_view_logits
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from .cameras import PAUSE, Camera
from .options import TimelineOptions
from .rules import SegmentOptions
from .scores import GapDetector, Score, checked_probabilities, pixels_of, restart_note, window_of
from .segments import Change, Segment, SegmentTracker
from .sources import SourceNote, TimedFrame
from .timeline import BROKEN_OFF, DEFAULTS, SEGMENT_DEFAULTS, choose_settings, clip_lag_of


Row = dict[str, Any]
LONGEST_WAIT = 0.2  # seconds of one look at a single source
DELAYS = 10_000  # the latest ones, of which the summary tells mean and 95 %


class Taken(NamedTuple):
    """Hold a frame that the model sees next, and what is said about it.

    frame: as the source gave it.
    pixels: (C, H, W) pixel values on the model's device.
    fresh: whether a clip starts with it.
    scored: whether it has a score.
    """

    frame: TimedFrame
    pixels: torch.Tensor
    fresh: bool
    scored: bool


# -- scores ----------------------------------------------------------------------------------------------------------


class StreamRows:
    """Score cameras by a model that can stream: each has a row of one cache, and every frame is computed once."""

    def __init__(self, network: Network, cameras: int) -> None:
        self.network, self.cache = network, network.module.start_stream(cameras)

    def logits(self, taken: dict[int, Taken]) -> dict[int, tuple[torch.Tensor, bool]]:
        """Push a frame of each camera; return logits (K,) of those that have a score, and whether they warm up."""
        rows = sorted(taken)
        if fresh := [row for row in rows if taken[row].fresh]:
            self.cache.reset(fresh)
        pixel_values = torch.stack([taken[row].pixels for row in rows])[:, None]
        keep = int(any(taken[row].scored for row in rows))
        output = self.network.module.push(pixel_values, self.cache, rows=rows, logits_to_keep=keep)
        if not keep or not output.frames.shape[1]:  # all first frames of an old checkpoint wait for the second
            return {}
        gave, warming_up = output.frames[:, -1] >= 0, output.warming_up[:, -1]
        logits = output.logits[:, -1].float().cpu()
        return {
            row: (logits[index], bool(warming_up[index]))
            for index, row in enumerate(rows)
            if taken[row].scored and bool(gave[index])
        }


class WindowRows:
    """Score cameras by any model: the last T frames of each are computed anew for every score."""

    def __init__(self, network: Network, cameras: int, num_frames: int) -> None:
        self.network, self.num_frames = network, num_frames
        self.clips = [deque[torch.Tensor](maxlen=num_frames) for _ in range(cameras)]

    def logits(self, taken: dict[int, Taken]) -> dict[int, tuple[torch.Tensor, bool]]:
        """Take a frame of each camera; return logits (K,) of those that have a score, and whether they warm up."""
        windows, warming_up = {}, {}
        for row, frame in sorted(taken.items()):
            clip = self.clips[row]
            if frame.fresh:
                clip.clear()
            clip.append(frame.pixels)
            if frame.scored:
                windows[row], warming_up[row] = window_of(clip, self.num_frames), len(clip) < self.num_frames
        if not windows:
            return {}
        logits = multi_view_logits(self.network.module, torch.stack(list(windows.values())))
        return {row: (logits[index], warming_up[row]) for index, row in enumerate(windows)}


Scorers = dict[tuple[int, ...], StreamRows | WindowRows]  # by the shape (C, H, W) of the frames


# -- the loop --------------------------------------------------------------------------------------------------------


class Live:
    """Watch sources by one model, and say what changes.

    Rows are dictionaries that JSON takes; docs/streaming.md lists their fields.

    Args:
        model, processor: as for `timeline`.
        sources: one or more of what `open_frames` takes; they are read at the same time, files at the speed at which
            they are shown.
        options: at which rate, in which mode, and how the model computes; at most `batch_size` frames, of different
            sources, go through it together.
        segment_options: how scores become labels.
        scores: give a row for each score, too.
        format, patience, give_up: as for `open_frames`.

    Raises:
        ValueError: no sources, or options that contradict the model.
    """

    def __init__(
        self,
        model: Any,
        processor: IlaVideoProcessor,
        sources: Sequence[Any],
        options: TimelineOptions = DEFAULTS,
        segment_options: SegmentOptions = SEGMENT_DEFAULTS,
        *,
        scores: bool = False,
        format: str | None = None,
        patience: float = 10.0,
        give_up: float = 60.0,
    ) -> None:
        if not sources:
            raise ValueError("There are no sources; allowed: one or more.")
        self.model, self.processor, self.options, self.scores = model, processor, options, scores
        self.sampling, self.settings = choose_settings(model, processor, options)
        self.labels = list(model.config.class_names)
        clip, several = self.sampling.num_frames, self.settings["multi_label"]
        self.cameras = [
            Camera(
                number,
                name,
                source,
                SegmentTracker(self.labels, segment_options, several, clip_lag=clip_lag_of(self.settings)),
                deque(maxlen=clip),
                GapDetector(self.sampling),
            )
            for number, (name, source) in enumerate(zip(names_of(sources), sources))
        ]
        self._opening = {
            "processor": processor,
            "sampling": self.sampling,
            "format": format,
            "patience": patience,
            "give_up": give_up,
        }
        self._delays: deque[tuple[float, float]] = deque(maxlen=DELAYS)
        self._started = time.monotonic()

    @property
    def failed(self) -> int:
        """Return how many sources ended with a failure."""
        return sum(camera.failure is not None for camera in self.cameras)

    def rows(self) -> Generator[Row, None, None]:
        """Yield the start, then each change of label, note and end of a source as it happens, until all have ended."""
        yield self._start()
        with evaluating(self.model, self.options.inference_options()) as network:
            scorers: Scorers = {}
            try:
                for camera in self.cameras:
                    threading.Thread(target=camera.open, kwargs=self._opening, daemon=True).start()
                while running := [camera for camera in self.cameras if not camera.ended]:
                    yield from self._turn(network, scorers, running)
            finally:
                for camera in self.cameras:
                    camera.close()

    def ending(self, reason: str = "interrupted") -> Iterator[Row]:
        """Yield the end of each source that is still running, with the reason, and the summary."""
        for camera in self.cameras:
            if not camera.told:
                yield from self._end(camera, reason)
        yield self._summary(reason)

    def _turn(
        self, network: Network, scorers: dict[tuple[int, ...], StreamRows | WindowRows], running: list[Camera]
    ) -> Iterator[Row]:
        """Take the next frame of each source that has one, and score them together."""
        taken: dict[int, Taken] = {}
        alone = len(running) == 1
        for camera in running:
            while isinstance(item := camera.poll(LONGEST_WAIT if alone else 0.0), SourceNote):
                yield self._row("note", camera, item.time, kind=item.kind, text=item.text)
                if item.kind == BROKEN_OFF:
                    camera.failure = item.text
            if item is not None:
                gap = camera.gaps.gap_before(item.time)
                if gap is not None:
                    yield from self._restart(camera, item, gap)
                taken[camera.number] = self._take(network, camera, item)
        for some in self._batches(taken):
            shape = next(iter(some.values())).pixels.shape
            if shape not in scorers:
                scorers[shape] = self._scorer(network)
            try:
                found = scorers[shape].logits(some)
            except ValueError as error:  # such as a size that the model does not take
                for number in some:
                    self.cameras[number].fail(error)
                continue
            for number, (logits, warming_up) in found.items():
                yield from self._scored(self.cameras[number], some[number].frame, logits, warming_up)
        for camera in running:
            if camera.ended:
                yield from self._end(camera, "the source has ended")
        if not (taken or alone):
            time.sleep(PAUSE)

    def _scorer(self, network: Network) -> StreamRows | WindowRows:
        if self.settings["mode"] == "stream":
            return StreamRows(network, len(self.cameras))
        return WindowRows(network, len(self.cameras), self.sampling.num_frames)

    def _batches(self, taken: dict[int, Taken]) -> Iterator[dict[int, Taken]]:
        """Yield the frames that go through the model together: of one shape, and not too many."""
        for shape in {frame.pixels.shape for frame in taken.values()}:
            alike = sorted(number for number, frame in taken.items() if frame.pixels.shape == shape)
            for first in range(0, len(alike), self.sampling.batch_size):
                yield {number: taken[number] for number in alike[first : first + self.sampling.batch_size]}

    def _take(self, network: Network, camera: Camera, frame: TimedFrame) -> Taken:
        pixels = pixels_of(self.processor, frame.image, network.device)
        fresh = camera.take(frame)
        return Taken(frame, pixels, fresh, self.sampling.is_scored(camera.seen))

    def _scored(self, camera: Camera, frame: TimedFrame, logits: torch.Tensor, warming_up: bool) -> Iterator[Row]:
        try:
            several = self.settings["multi_label"]
            (chances,) = checked_probabilities(logits[None], [frame.time], multi_label=several)
        except ValueError as error:
            camera.fail(error)
            return
        start = camera.clip[0]
        at = frame.time if self.settings["mode"] == "stream" else (start + frame.time) / 2
        score = Score(at, chances, warming_up, start)
        self._delays.append(camera.delays(frame))
        if self.scores:
            named = {label: round(float(chance), 6) for label, chance in zip(self.labels, chances)}
            yield self._row(
                "score", camera, frame.time, scores=named, warming_up=warming_up, **in_ms(*camera.delays(frame))
            )
        yield from self._changes(camera, camera.tracker.push(score), frame, warming_up)

    def _changes(
        self, camera: Camera, changes: list[Change], frame: TimedFrame | None, warming_up: bool = False
    ) -> Iterator[Row]:
        """Yield a row for each change; the end of one label and the start of the next are one change."""
        ended: Segment | None = None
        for number, change in enumerate(changes):
            segment, is_start = change.segment, change.kind == "start"
            if is_start:
                camera.on.append(segment.label)
            else:
                camera.on.remove(segment.label)
                ended = segment
                follows = number + 1 < len(changes) and changes[number + 1].kind == "start"
                if follows and not self.settings["multi_label"]:
                    continue
            camera.changes += 1
            yield self._row(
                "label",
                camera,
                change.time if frame is None else frame.time,
                label=segment.label if is_start else None,
                score=round(segment.score, 4) if is_start else None,
                start=round(segment.start, 3) if is_start else None,
                labels=list(camera.on),
                ended=None if ended is None else in_json(ended),
                warming_up=warming_up,
                **in_ms(*(camera.delays(frame) if frame is not None else (None, None))),
            )
            ended = None

    def _restart(self, camera: Camera, frame: TimedFrame, gap: float) -> Iterator[Row]:
        """End what held before a gap of so many seconds: no clip and no segment reaches over one."""
        yield from self._changes(camera, camera.tracker.finish(camera.end(self.sampling.rate)), None)
        note = restart_note(frame.time, gap)
        yield self._row("note", camera, note.time, kind=note.kind, text=note.text)
        camera.restart()

    def _end(self, camera: Camera, reason: str) -> Iterator[Row]:
        """Yield what a source's end changes, and what became of it."""
        camera.told = True
        end, frames = camera.end(self.sampling.rate), camera.frames
        camera.close()
        yield from self._changes(camera, camera.tracker.finish(end), None)
        decoded, dropped = (0, 0) if frames is None else (frames.decoded, frames.dropped)
        yield self._row(
            "end",
            camera,
            end,
            reason=camera.failure or reason,
            failed=camera.failure is not None,
            **counts(decoded, camera.used, dropped),
            changes=camera.changes,
        )

    def _start(self) -> Row:
        said = (
            "model",
            "mode",
            "why_windows",
            "rate",
            "rate_from",
            "num_frames",
            "clip_seconds",
            "stride",
            "multi_label",
        )
        names = [camera.name for camera in self.cameras]
        return {"event": "start", "sources": names, **{name: self.settings[name] for name in said}}

    def _summary(self, reason: str) -> Row:
        sources = [camera.frames for camera in self.cameras if camera.frames is not None]
        used = sum(camera.used for camera in self.cameras)
        delays = np.array(self._delays).reshape(-1, 2) * 1000
        measured = {
            name: {"mean": round(float(column.mean()), 1), "p95": round(float(np.quantile(column, 0.95)), 1)}
            if len(column)
            else None
            for name, column in zip(("delay_ms", "label_delay_ms"), delays.T)
        }
        return {
            "event": "summary",
            "sources": len(self.cameras),
            "failed": self.failed,
            "interrupted": reason == "interrupted",
            "seconds": round(time.monotonic() - self._started, 3),
            **counts(sum(s.decoded for s in sources), used, sum(s.dropped for s in sources)),
            "changes": sum(camera.changes for camera in self.cameras),
            **measured,
        }

    def _row(self, event: str, camera: Camera, at: float, **values: Any) -> Row:
        return {"event": event, "source": camera.name, "time": round(at, 3), **values}


def names_of(sources: Sequence[Any]) -> list[str]:
    """Return a name for each source, without secrets, each another one."""
    names: list[str] = []
    for number, source in enumerate(sources, 1):
        name = redact(str(source)) if isinstance(source, (str, Path)) else f"source {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return names


def counts(decoded: int, used: int, dropped: int) -> Row:
    """Return how many frames were decoded, used by the model and dropped, and which share of those meant for it."""
    return {
        "frames": decoded,
        "used": used,
        "dropped": dropped,
        "drop_rate": round(dropped / (used + dropped), 4) if used + dropped else 0.0,
    }


def in_json(segment: Segment) -> Row:
    """Return a segment as an entry of a row."""
    times = {"start": round(segment.start, 3), "end": round(segment.end, 3)}
    return {"label": segment.label, **times, "score": round(segment.score, 4)}


def in_ms(delay: float | None, label_delay: float | None) -> Row:
    """Return the two delays, given in seconds, as the millisecond fields of a row; None stays None."""
    values = {"delay_ms": delay, "label_delay_ms": label_delay}
    return {name: None if value is None else round(1000 * value, 1) for name, value in values.items()}
