"""What the page answers, without the page: a model, a checked path and a question in, values out.

What is unusual here:
- Models are shared by all users, so nobody's words are written to one: `with_words` gives the question a model of its
  own on the same weights.
- A timeline that takes too long, or that its user stops, is shown as far as it came.

Every answer has an `about`, the sentences that say which model was asked what, and `as_json()`, what the API returns.
"""

import copy
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..backbones.siglip import NONE_OF_THESE
from ..backbones.zero_shot import zero_shot_model
from ..evaluation.animation import Panel, SourceFrame, write_over
from ..evaluation.inference import evaluating
from ..evaluation.inspection.inspection import inspect_video
from ..evaluation.inspection.result import Inspection
from ..evaluation.layer_patches import alignments_of, layers_of
from ..evaluation.options import LabelOptions
from ..evaluation.prediction import label_batch
from ..evaluation.views import Batch, VideoReader
from ..markup import plain_line
from ..model.class_features_ila import BARE_NAME, check_templates, fill_in
from ..model.class_names_ila import check_labels, explicit_class_names
from ..model.pretrained_ila import describe_untrained, untrained_weights
from ..model.streaming_ila import why_no_stream
from ..model.validation_ila import MULTI_LABEL
from ..model.video_container_ila import ReadLimits
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import list_frames, read_video
from ..model.video_urls_ila import redact
from ..search.indexing import feature_of_video
from ..search.search import Hit, VideoIndex, search_texts
from ..timeline.formats import write_timeline
from ..timeline.options import TimelineOptions
from ..timeline.sources import TimedFrame, open_frames
from ..timeline.timeline import Timeline, TimelineInterrupted
from ..timeline.timeline import timeline as read_timeline
from ..video_writing import write_mp4
from ..visualization.sheets import robust_limits
from ..visualization.timeline import clock
from .limits import shown
from .models import Opened
from .uploads import Video


BEST = 5  # labels of an answer
MOST_WORDS, LONGEST_WORD = 400, 300  # words of one question; letters of a word, or of what is looked for
PICTURES = {"masks": "Masks and interactive points", "features": "Feature maps"}  # of a layer, and their titles
OVERLAY_RATE, OVERLAY_SIDE, MOST_FRAMES = 15.0, 360, 900  # frames a second, pixels, and frames of an overlay, at most
LEAST_SIDE, LARGEST_SIDE = 320, 1280  # pixels, to which small videos are enlarged, and beyond which none is
LAST = -1
FILES = (".json", ".csv", ".srt", ".html")  # that a timeline is handed on as
PREVIEW_RATE, PREVIEW_SIDE, LONGEST_PREVIEW = 10.0, 240, 12.0  # frames a second, pixels, seconds
THUMBNAIL_SIDE = 90  # pixels
Progress = Callable[[float, float | None], object]  # seconds of the video that are done, and all as far as known


class Stopped(Exception):
    """End a long answer that its user or its time limit has stopped; what was found until then is kept.

    reason: in words that follow "stopped".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# -- the model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Hold the facts about a model that stand beside it on the page: its kind, labels, layers, device and number type.

    kind: its class. classes: how many labels it has of its own; 0 for a CLIP that waits for words.
    num_frames: of a clip. layers: how many its tower has. aligning: indices of those with points and masks.
    device, dtype: where and in which precision it computes.
    lacks_for_words: why it reads no words, in words that follow "it has"; empty where it does.
    gives_none: whether "none of these" has a score.
    why_windows: why it reads a long video as windows, in words that follow "as"; None: as a stream.
    untrained: a sentence on weights that are random; empty where all were trained.
    """

    name: str
    kind: str
    classes: int
    num_frames: int
    layers: int
    aligning: tuple[int, ...]
    device: str
    dtype: str
    lacks_for_words: str
    gives_none: bool
    why_windows: str | None
    untrained: str

    def sentences(self) -> list[str]:
        """Return the facts as sentences."""
        knows = {0: "It has no labels of its own: give it words.", 1: "It has one label."}
        found = [
            f"{self.kind}, {_counted(self.num_frames, 'frame')} a clip, {_counted(self.layers, 'layer')}; "
            f"on {self.device} in {self.dtype}.",
            knows.get(self.classes, f"It has {self.classes} labels of its own.")
            + (" It also reads words of yours." if self.classes and not self.lacks_for_words else "")
            + (f" It reads no words of yours: it has {self.lacks_for_words}." if self.lacks_for_words else ""),
        ]
        return [*found, self.untrained] if self.untrained else found


def describe(opened: Opened) -> ModelDescription:
    """Return what a model is and can do."""
    model: Any = opened.model
    config = model.config
    names = explicit_class_names(config)
    lacks = lacks_for_words(model)
    untrained = untrained_weights(model)
    random = describe_untrained(untrained, model.new_parameters) if untrained else ""
    return ModelDescription(
        name=opened.name,
        kind=type(model).__name__,
        classes=len(config.class_names) if names is not None or lacks else 0,
        num_frames=opened.processor.num_frames,
        layers=len(layers_of(model)),
        aligning=tuple(alignments_of(model)),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        lacks_for_words=lacks,
        gives_none=config.problem_type == MULTI_LABEL,
        why_windows=why_no_stream(config),
        untrained=f"Part of what it answers is random: {random}." if random else "",
    )


def lacks_for_words(model: Any) -> str:
    """Return what a model lacks to read any words, in words that follow "it has"; empty where it reads them."""
    if not getattr(model.config, "has_text_tower", False):
        return "no text tower"
    return "" if model._find_tokenizer() is not None else "no tokenizer beside it"


def read_words(text: str) -> list[str]:
    """Return the words of a text that has commas or line breaks between them; an empty list for a blank text.

    Raises:
        ValueError: a word twice, more than `MOST_WORDS`, or one of more than `LONGEST_WORD` letters.
    """
    words = [" ".join(word.split()) for word in re.split(r"[,\n\r]", text)]
    words = [word for word in words if word]
    if len(words) > MOST_WORDS:
        raise ValueError(f"There are {len(words)} words; allowed are {MOST_WORDS}.")
    longest = max(words, key=len, default="")
    if len(longest) > LONGEST_WORD:
        raise ValueError(
            f"The word {plain_line(longest, 40)!r} has {len(longest)} letters; allowed are {LONGEST_WORD}."
        )
    if twice := [word for word, times in Counter(words).items() if times > 1]:
        raise ValueError(f"These words stand there twice: {plain_line(', '.join(twice), 80)}.")
    return check_labels(words, "words") if words else []


def with_words(model: Any, words: Sequence[str], template: str = "") -> Any:
    """Return a copy of a model, with the same weights in memory, whose classes are these words.

    template: a sentence with `{}` in which the words are read; by default the model's own.

    Raises:
        ValueError: a model without a text tower, words that it reads alike, a template without `{}`.
    """
    zero_shot_model(model)  # which refuses one without a text tower
    templates = check_templates(template) if template.strip() else None
    kept = [*model.parameters(), *model.buffers(), model._find_tokenizer()]
    own = copy.deepcopy(model, {id(part): part for part in kept})
    own.set_labels(list(words), templates=templates, ignore_mismatched_sizes=True)
    return own


def _asked(model: Any, words: Sequence[str], template: str) -> Any:
    """Return a model whose classes are these words, or without words the model itself.

    Raises:
        ValueError: neither words nor labels, or a template without words.
    """
    if words and (lacks := lacks_for_words(model)):
        raise ValueError(
            f"This model reads no words: it has {lacks}, and chooses among {_asked_for(model, [])}. Leave the words "
            "empty, or choose a CLIP, a SigLIP, or an ILA model with its text tower."
        )
    if words:
        return with_words(model, words, template)
    if template.strip():
        raise ValueError("A sentence for words needs words: the model's own labels are read as it was trained.")
    if explicit_class_names(model.config) is None and not lacks_for_words(model):
        raise ValueError(
            "This model has no labels of its own. Give it words to choose among, such as: waving, jumping"
        )
    return model


def _cut_words(model: Any, words: Sequence[str]) -> list[str]:
    """Return a list with a warning that names words longer than the text tower reads; empty where there are none."""
    if not words:
        return []
    limit = model.config.text_config.max_position_embeddings
    tokenizer, templates = model._find_tokenizer(), [*(model.config.label_templates or BARE_NAME)]
    lengths = [max(map(len, tokenizer(fill_in(templates, [word]))["input_ids"])) for word in words]
    cut = [plain_line(word, 40) for word, length in zip(words, lengths) if length > limit]
    return (
        [f"The text tower reads {limit} tokens; of these words the rest is cut: {', '.join(cut[:5])}."] if cut else []
    )


def _asked_for(model: Any, words: Sequence[str]) -> str:
    count = len(model.config.class_names)
    return f"your {_counted(count, 'word')}" if words else f"its own {_counted(count, 'label')}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# -- label -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LabelAnswer:
    """Hold the best labels of a video.

    labels: names and probabilities, best first. model: its name. asked: among which labels or words it chose.
    notes: sentences on what the numbers mean. seconds: that it took.
    """

    labels: list[tuple[str, float]]
    model: str
    asked: str
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def about(self) -> str:
        """Return the sentence of the page's status line, which screen readers read out."""
        name, score = self.labels[0]
        return f"Most likely {plain_line(name, 80)}, {score:.0%}. {plain_line(self.model)} chose among {self.asked}."

    def as_json(self) -> dict[str, Any]:
        """Return the answer of the API."""
        labels = [{"label": name, "score": score} for name, score in self.labels]
        return {"labels": labels, "model": self.model, "asked": self.asked, "notes": self.notes}


def label(
    opened: Opened, video: Video, words: Sequence[str] = (), template: str = "", *, top_k: int = BEST
) -> LabelAnswer:
    """Return the best labels of a video, among the model's own or among words.

    Args:
        opened: the model.
        video: that was checked.
        words: to choose among; none: the model's own labels.
        template: a sentence with `{}` in which the words are read.
        top_k: labels, at most.

    Raises:
        ValueError: a video that cannot be read, in words; a model that reads no words, or knows no labels.
    """
    started = time.perf_counter()
    model = _asked(opened.model, words, template)
    several = model.config.problem_type == MULTI_LABEL
    with_none = several and NONE_OF_THESE not in model.config.class_names
    options = LabelOptions(top_k=top_k, none_of_these=with_none)
    read = VideoReader(opened.processor, options)(video.name, str(video.path))
    if read.views is None:
        raise ValueError(without_path(read.reason, video))
    with evaluating(model, options) as network:
        (row,) = label_batch(network, opened.processor, Batch([read], []), options)
    if row["reason"] is not None:
        raise ValueError(f"The model gave no answer: {row['reason']}.")
    return LabelAnswer(
        labels=list(zip(row["labels"], row["scores"])),
        model=opened.name,
        asked=_asked_for(model, words),
        notes=[*_meaning(model), *_cut_words(model, words), *_faults(read.frames_lost, opened)],
        seconds=time.perf_counter() - started,
    )


def without_path(reason: str, video: Video) -> str:
    """Return a reason that names a video as its user does, and not the server's path of it."""
    path = str(video.path)
    return reason.replace(repr(path), shown(video.name)).replace(path, shown(video.name))


def _meaning(model: Any) -> list[str]:
    """Return the sentence on what a model's probabilities mean."""
    if model.config.problem_type == MULTI_LABEL:
        return ["Each label has a probability of its own: several may fit, or none of them."]
    if len(model.config.class_names) == 1:
        return ["A single label always gets 100%: give more words."]
    return ["The probabilities of all labels add up to 100%, also where none of them fits."]


def _faults(frames_lost: int, opened: Opened) -> list[str]:
    """Return the sentences on what is wrong with the file or the model."""
    lost = f"The file is damaged: {frames_lost} of the frames that were decoded are lost."
    untrained = describe(opened).untrained
    return [lost] * bool(frames_lost) + [untrained] * bool(untrained)


# -- where it looked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LookAnswer:
    """Hold the MP4 that `look` wrote, and what it does not mean.

    file: MP4, without sound. picture: one of `PICTURES`. layer: its index. notes: what the picture does not mean.
    """

    file: Path
    model: str
    picture: str
    layer: int
    notes: list[str] = field(default_factory=list)

    @property
    def about(self) -> str:
        """Return the sentence of the page's status line, which screen readers read out."""
        return f"{PICTURES[self.picture]} of layer {self.layer}, of {plain_line(self.model)}."

    def as_json(self) -> dict[str, Any]:
        """Return the answer of the API, beside the video."""
        return {"model": self.model, "picture": self.picture, "layer": self.layer, "notes": self.notes}


def look(
    opened: Opened, video: Video, file: Path, *, picture: str, layer: int, progress: Progress | None = None
) -> LookAnswer:
    """Write an MP4 of a video with a layer's masks or features drawn over it.

    Each frame shows the map of the frame that the model saw nearest in time; one colour scale holds for all. A model
    that aligns nothing has no masks: its feature maps are drawn, and a note says so.

    Args:
        opened, video: as of `label`.
        file: to write, ending in .mp4.
        picture: one of `PICTURES`.
        layer: index of the layer, from 0 on; `LAST` for the last one that has such a picture.
        progress: as of `timeline`.

    Raises:
        ValueError: a video that cannot be read, in words; a picture or a layer that the model does not have.
    """
    if picture not in PICTURES:
        raise ValueError(f"picture must be one of {', '.join(PICTURES)}, got {picture!r}.")
    notes, layers = [], [*range(len(layers_of(opened.model)))]
    if picture == "masks" and not (aligning := [*alignments_of(opened.model)]):
        notes.append("This model aligns no frames, so it has no masks: these are its feature maps.")
        picture = "features"
    elif picture == "masks":
        layers = aligning
    layer = layers[-1] if layer == LAST else layer
    if layer not in layers:
        what_for = "has masks" if picture == "masks" else "is there"
        raise ValueError(f"Layer {layer} is none that {what_for}; allowed: {', '.join(map(str, layers))}.")
    what = ("points", "masks") if picture == "masks" else ("features",)
    try:
        seen = inspect_video(opened.model, opened.processor, str(video.path), layers=[layer], what=what)
        _write_overlay(seen, picture, layer, opened, video, file, progress)
    except ValueError as error:
        raise ValueError(without_path(str(error), video)) from error
    if picture == "features":
        notes.append("A feature map is the mean over a patch's channels: it does not say why a label won.")
    frames = _counted(len(seen.frames), "frame")
    notes.append(f"The model saw {frames}; each moment shows the map of the nearest one, on one scale of colours.")
    return LookAnswer(file=file, model=opened.name, picture=picture, layer=layer, notes=[*notes, *seen.notes])


def _write_overlay(
    seen: Inspection, picture: str, layer: int, opened: Opened, video: Video, file: Path, progress: Progress | None
) -> None:
    heat = getattr(seen, picture)[layer]
    limits = (0.0, 1.0) if picture == "masks" else robust_limits(heat)
    panel = Panel(name="", grid=seen.grid, heat=heat, limits=limits, points=seen.points.get(layer))
    seconds = max(video.facts.seconds, 1 / OVERLAY_RATE)
    limits_of_reading: Any = opened.processor.read_limits or {}

    def frames() -> Generator[SourceFrame]:
        with open_frames(
            str(video.path),
            rate=min(OVERLAY_RATE, MOST_FRAMES / seconds),
            size=OVERLAY_SIDE,
            limits=ReadLimits(**limits_of_reading),
        ) as source:
            for frame in source:
                if not isinstance(frame, TimedFrame):
                    continue
                if progress is not None:
                    progress(min(frame.time, seconds), seconds)
                yield SourceFrame(None, frame.time, _enlarged(frame.image))

    times = torch.linspace(0, seconds, len(heat)) if seen.times is None else None
    write_over(panel, seen, frames(), file, seen.about, times=times)


def _enlarged(image: np.ndarray) -> np.ndarray:
    """Return a small image a whole number of times as large, so that points and lines on it are sharp."""
    height, width = image.shape[:2]
    times = max(1, min(LEAST_SIDE // min(height, width), LARGEST_SIDE // max(height, width)))
    if times == 1:
        return image
    return np.asarray(Image.fromarray(image).resize((times * width, times * height), Image.Resampling.BILINEAR))


# -- timeline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TimelineAnswer:
    """Hold a timeline and the labels that its model chose among."""

    timeline: Timeline
    model: str
    asked: str
    notes: list[str] = field(default_factory=list)

    @property
    def about(self) -> str:
        """Return the sentence of the page's status line, which screen readers read out."""
        found = self.timeline
        segments = _counted(len(found.segments), "segment") if found.segments else "no label was sure for long enough"
        stopped = "" if found.complete else f" It ends early, at {clock(found.duration)}: {found.stopped}."
        chose = f"{plain_line(self.model)} chose among {self.asked}."
        return f"{clock(found.duration)} of video, {segments}. {chose}{stopped}"

    def as_json(self) -> dict[str, Any]:
        """Return the answer of the API; the scores are in the files beside it."""
        found = self.timeline
        return {
            "segments": [asdict(segment) for segment in found.segments],
            "duration": found.duration,
            "stopped": found.stopped,
            "scores": len(found.times),
            "model": self.model,
            "asked": self.asked,
            "notes": self.notes,
        }

    def write(self, folder: Path) -> list[Path]:
        """Write the timeline to a folder, in the formats that other programs open, and return the files."""
        files = [folder / f"timeline{suffix}" for suffix in FILES]
        for file in files:
            write_timeline(self.timeline, file)
        return files


def timeline(
    opened: Opened,
    video: Video,
    words: Sequence[str] = (),
    template: str = "",
    *,
    rate: float | None = None,
    progress: Progress | None = None,
) -> TimelineAnswer:
    """Find where in a video of any length the labels begin and end.

    Args:
        opened, video, words, template: as of `label`.
        rate: frames a second that the model sees; None: as it was trained, else two.
        progress: called with the seconds that are done, and all of them as far as known; may raise `Stopped`.

    Returns:
        A timeline; where it ends before its video does, it says why.

    Raises:
        ValueError: a video that cannot be read, in words; a model that reads no words, or knows no labels.
    """
    model = _asked(opened.model, words, template)
    reason: list[str] = []

    def watched(done: float, duration: float | None) -> None:
        try:
            progress and progress(done, duration)
        except Stopped as stopped:
            reason.append(stopped.reason)
            raise KeyboardInterrupt from stopped  # which `timeline` answers by what it has found

    options = TimelineOptions(rate=rate)
    try:
        found = read_timeline(model, opened.processor, str(video.path), options, name=video.name, progress=watched)
    except TimelineInterrupted as interrupt:
        if not reason:
            raise
        found = replace(interrupt.timeline, stopped=reason[0])
    except ValueError as error:
        raise ValueError(without_path(str(error), video)) from error
    if found.stopped is not None:
        found = replace(found, stopped=without_path(found.stopped, video).rstrip("."))
    return TimelineAnswer(
        timeline=found,
        model=opened.name,
        asked=_asked_for(model, words),
        notes=[*_method(found.settings), *_meaning(model), *_cut_words(model, words), *_faults(0, opened)],
    )


def _method(settings: dict[str, Any]) -> list[str]:
    """Return the sentences on how a timeline was made."""
    origin = {"option": "as asked", "configuration": "as it was trained", "default": "nothing says how it was trained"}
    how = f"in windows of {_counted(settings['num_frames'], 'frame')}, as {settings['why_windows']}"
    how = "as a stream" if settings["mode"] == "stream" else how
    return [
        f"The model saw {settings['rate']:g} frames a second ({origin[settings['rate_from']]}), {how}; "
        f"a clip lasts {settings['clip_seconds']:.3g} s."
    ]


# -- search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """Hold what an index gave for a question.

    hits: best first. query: the words, or the name of the example. rows: how many the index has.
    """

    hits: list[Hit]
    query: str
    rows: int

    @property
    def about(self) -> str:
        """Return the sentence of the page's status line, which screen readers read out."""
        found = _counted(len(self.hits), "video") if self.hits else "nothing"
        return f"Found {found} for {plain_line(self.query, 80)}, in an index of {_counted(self.rows, 'row')}."

    def as_json(self) -> dict[str, Any]:
        """Return the answer of the API; it names videos as the index does, and no paths."""
        hits = [
            {"video": redact(hit.video), "start": hit.start, "end": hit.end, "score": hit.score} for hit in self.hits
        ]
        return {"hits": hits, "query": self.query}


def search(
    index: VideoIndex, opened: Opened, query: str | Video, *, top_k: int = BEST, all_windows: bool = False
) -> SearchAnswer:
    """Find the videos of an index that are nearest to words, or to an example.

    Args:
        index: of this model.
        opened: the model that made the index.
        query: words, or an example video that was checked.
        top_k: videos, at most.
        all_windows: each window for itself, in place of the best one of each video.

    Raises:
        ValueError: no words, a model without a text tower asked for words, another model than that of the index, an
            example that cannot be read.
    """
    index.refresh()
    if isinstance(query, str):
        text = " ".join(query.split())
        if not text:
            raise ValueError("Say in words what you look for.")
        if len(text) > LONGEST_WORD:
            raise ValueError(f"What you look for has {len(text)} letters; allowed are {LONGEST_WORD}.")
        (hits,) = search_texts(index, opened.model, [text], top_k, all_windows=all_windows)
        return SearchAnswer(hits=hits, query=text, rows=len(index))
    index.check(opened.model, _unlimited(opened.processor))
    try:
        feature = feature_of_video(opened.model, opened.processor, str(query.path), index.settings)
    except ValueError as error:
        raise ValueError(without_path(str(error), query)) from error
    (hits,) = index.search(feature, top_k, all_windows=all_windows)
    return SearchAnswer(hits=hits, query=query.name, rows=len(index))


def _unlimited(processor: IlaVideoProcessor) -> IlaVideoProcessor:
    """Return a processor without the page's limits, which no row of an index depends on."""
    return IlaVideoProcessor.from_dict({**processor.to_dict(), "read_limits": None})


def preview(hit: Hit, file: Path, limits: ReadLimits) -> tuple[float, float]:
    """Write what a hit shows as a small video that every browser plays, and return its start and end in seconds.

    Args:
        hit: of a search; of a whole video its beginning is shown.
        file: of the video, with the suffix .mp4.
        limits: what reading may cost.

    Raises:
        ValueError: the video cannot be read, or is no longer there.
    """
    known = list_frames(hit.path, limits=limits)
    times = np.array(known.timestamps or [0.0])
    start = hit.start or 0.0
    end = min(hit.end if hit.end is not None else times[-1], start + LONGEST_PREVIEW)
    wanted = np.unique(np.searchsorted(times, np.arange(start, max(end, start + 0.01), 1 / PREVIEW_RATE)))
    wanted = wanted[wanted < len(times)] if (wanted < len(times)).any() else np.array([len(times) - 1])
    frames, _ = read_video(
        hit.path, lambda total: np.minimum(wanted, total - 1).tolist(), short_side=PREVIEW_SIDE, limits=limits
    )
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    write_mp4(file, frames, times=times[wanted] - times[wanted[0]])
    return float(times[wanted[0]]), float(max(end, times[wanted[-1]]))


def thumbnail(hit: Hit, limits: ReadLimits) -> np.ndarray | None:
    """Return a small picture (H, W, 3) uint8 of the middle of a hit; None where its video cannot be read."""

    def middle(total: int) -> list[int]:
        if hit.start is None or hit.end is None or not duration:
            return [total // 2]
        return [min(total - 1, int((hit.start + hit.end) / 2 / duration * total))]

    try:
        duration = None if hit.start is None else list_frames(hit.path, limits=limits).duration
        return read_video(hit.path, middle, short_side=THUMBNAIL_SIDE, limits=limits)[0][0]
    except (ValueError, OSError):
        return None
