"""Pictures of what a model looked at in a video: the model is run (`inspection`), and what was found is drawn.

`PICTURES` holds how each picture is made, and which options have an effect on it.

Shapes: `T` frames, `h` x `w` patches.
"""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..visualization.attention import plot_query_attention
from ..visualization.files import ANIMATION, FIGURES, VIDEO, write_figure
from ..visualization.matches import plot_matches, plot_routes
from ..visualization.regions import plot_regions
from ..visualization.sheets import Row, plot_frames, robust_limits
from ..visualization.temporal import plot_frame_attention, plot_information, plot_temporal_weights
from .animation import Panel, write_animation
from .inspection.inspection import REDUCTIONS, inspect_same_frames
from .inspection.models import Opened, open_model
from .inspection.result import Inspection
from .inspection.temporal_inspection import TemporalInspection, is_whole, layers_with
from .layer_patches import alignments_of, layers_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANIMATIONS = (ANIMATION, VIDEO)
ALL, LAST, EVEN = "all", "last", "even"  # which layers are drawn; the third by default only: up to four, evenly
MOST_EVEN = 4
BESIDE = 4  # layers whose boxes are told apart in one row
BOX = 0.25  # of the frame's shorter side
SCREEN_DPI = 100  # of a figure in a notebook


def visualize(
    model: Any,
    video: Any,
    picture: str = "masks",
    *,
    processor: Any = None,
    layers: int | str | Sequence[int | str] | None = None,
    output: str | Path | None = None,
    start: float | None = None,
    end: float | None = None,
    seed: int | None = None,
    size: float | None = None,
    reduce: str | None = None,
    query: Sequence[int] | None = None,
    count: int | None = None,
    fps: float | None = None,
    progress: Callable[[float, float | None], object] | None = None,
) -> "Figure":
    """Draw what a model looked at in a video: one clip, as the model sees it.

    A notebook shows the figure that is returned. `output` writes it with its facts (model, versions, seed, ...), which
    `visualization.files.read_about` reads.

    Args:
        model: a classifier of this package, its folder or Hub id, or what `inspection.models.open_model` returned; or
            a list of these, drawn side by side on the same frames (masks, points, features).
        video: what the processor takes as one video, such as a path or an http(s) URL.
        picture: a name of `PICTURES`.
        processor: of the model, or a list of the models'; by default the one beside the model's weights.
        layers: indices, where -1 is the last one, "all" or "last"; default: as `PICTURES` says.
        output: a file to write, too: .png, .svg, .pdf; of masks, points and features also .gif (the frames that the
            model saw) and .mp4 (all frames of the video, each with the map of the seen frame nearest in time).
        start, end: seconds between which the model looks; an .mp4 shows these alone.
        seed: the frames are drawn at random, by this number; default: they are not.
        size: points: the side of a box, as a share of the frame's shorter side; default 0.25.
        reduce: features: "mean" over the channels, by default, or their "norm".
        query: attention, routes: frame, row and column of a patch, each from 0.
        count: matches, routes, regions: how many are drawn.
        fps: .gif: frames a second; default: as in the video.
        progress: .mp4: called with the seconds of video that are written, and how many there are if that is known.

    Raises:
        ValueError: an option that is not allowed, or has no effect on this picture; what the model does not have; a
            video that cannot be read.
        OSError: no such checkpoint, or the file cannot be written.
    """
    pairs = _pairs(model, processor)
    options: dict[str, Any] = {"layers": layers, "start": start, "end": end, "seed": seed, "size": size}
    options |= {"reduce": reduce, "query": query, "count": count, "fps": fps}
    given = {name: value for name, value in options.items() if value is not None}
    check_options(picture, given, output=output, models=len(pairs))
    _require_other_file(video, output)
    how, suffix = PICTURES[picture], "" if output is None else Path(output).suffix.lower()
    wanted = read_layers(layers) if layers is not None else LAST if suffix in ANIMATIONS else how.default
    found = inspect_same_frames(
        [(open_model(one, own), None) for one, own in pairs],
        video,
        what=how.asks,
        layers=partial(how.layers_of, wanted=wanted),
        start=start,
        end=end,
        seed=seed,
        reduce=reduce or REDUCTIONS[0],
        query=query if how.asks == ("query_attention",) else None,
    )
    drawn: dict[str, Any] = {name: given[name] for name in ("size", "query", "count") if name in given}
    figure = how.draw(found, **drawn)
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]  # by which notebooks show it
    if output is not None:
        about = about_picture(found, picture, drawn if fps is None else {**drawn, "fps": fps})
        if suffix in FIGURES:
            write_figure(figure, output, about)
        elif how.panels is not None:
            panels = [panel for one in found for panel in how.panels(one, named=len(found) > 1, **drawn)]
            about |= {"limits": limits} if (limits := [panel.limits for panel in panels if panel.limits]) else {}
            write_animation(panels, found[0], video, output, about, fps=fps, progress=progress)
    return figure


def _pairs(model: Any, processor: Any) -> list[tuple[Any, Any]]:
    """Return each model with its processor, None where none was given."""
    models = [model] if isinstance(model, Opened) or not isinstance(model, (list, tuple)) else [*model]
    processors = [*processor] if isinstance(processor, (list, tuple)) else [processor] * len(models)
    if len(models) != len(processors):
        raise ValueError(f"`processor` must be one for each of {len(models)} models, got {len(processors)}.")
    return list(zip(models, processors))


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=SCREEN_DPI)
    return content.getvalue()


# -- what can be drawn -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Hold how a picture is made.

    asks: what `inspect_same_frames` is asked for.
    draw: makes the figure of inspections and of the options `size`, `query` and `count`.
    default: which layers are drawn if none are named.
    options: those of `visualize` that have an effect on it, beside those that have one on all.
    panels: what an animation shows of one inspection; None: there is none.
    beside: whether several models are drawn side by side.
    one_layer: whether it shows one layer.
    """

    asks: tuple[str, ...]
    draw: Callable[..., "Figure"]
    default: str
    options: frozenset[str]
    panels: Callable[..., list[Panel]] | None = None
    beside: bool = False
    one_layer: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return which files it can be written to."""
        return FIGURES if self.panels is None else (*FIGURES, *ANIMATIONS)

    def layers_of(self, model: Any, wanted: str | list[int]) -> list[int] | None:
        """Return the indices of the wanted layers of a model; None: all that have what is asked."""
        if not isinstance(wanted, str):
            return wanted
        if set(self.asks) <= {"points", "masks"}:
            having = [*alignments_of(model)]
        elif set(self.asks) <= {"features", "information"}:
            having = [*range(len(layers_of(model)))]
        elif self.asks == ("frame_attention",):
            return None
        else:
            having = layers_with(model, self.asks[0])
        if wanted == ALL or not having:  # where none has it, the inspection says so
            return None
        if wanted == LAST:
            return having[-1:]
        count = min(MOST_EVEN, len(having))
        return [having[round(index * (len(having) - 1) / max(1, count - 1))] for index in range(count)]


def read_layers(layers: Any) -> str | list[int]:
    """Return the layers that are wanted: "all", "last", or indices.

    Raises:
        ValueError: something else.
    """
    items = [layers] if isinstance(layers, str) or not isinstance(layers, Iterable) else [*layers]
    if items in ([ALL], [LAST]):
        return items[0]
    try:
        if not items or any(isinstance(item, (bool, float)) for item in items):
            raise ValueError
        return [int(item) for item in items]
    except (TypeError, ValueError):
        raise ValueError(f"layers must be whole numbers, or {ALL!r} or {LAST!r} alone; got {layers!r}.") from None


def check_options(
    picture: str, given: Mapping[str, Any], *, output: str | Path | None = None, models: int = 1
) -> None:
    """Raise a ValueError where a picture cannot be drawn so: it says what was received, and what is allowed.

    Args:
        picture: its name.
        given: the options of `visualize` that are not None, by name.
        output: the file to write.
        models: how many there are.
    """
    if picture not in PICTURES:
        raise ValueError(f"picture must be one of {', '.join(PICTURES)}; got {picture!r}.")
    how, suffix = PICTURES[picture], "" if output is None else Path(output).suffix.lower()
    if output is not None and suffix not in how.suffixes:
        raise ValueError(f"The file of {picture!r} must end in {', '.join(how.suffixes)}; got {str(output)!r}.")
    for name in given:
        users = [other for other, its in PICTURES.items() if name in its.options]
        if name in OF_EVERY or (name == "fps" and suffix == ".gif") or picture in users:
            continue
        raise ValueError(f"{name} would have no effect; allowed: with {', '.join(users) or 'a .gif file'}.")
    if models != 1 and not (how.beside and models):
        several = ", ".join(name for name, its in PICTURES.items() if its.beside)
        raise ValueError(f"{picture!r} is of one model, got {models}; of several there are {several}.")
    if models > 1 and suffix == ".mp4":
        raise ValueError(f"An .mp4 has the video's size and shows one model, got {models}; a .gif shows several.")
    if "layers" in given:
        wanted = read_layers(given["layers"])
        if (
            (how.one_layer or suffix == ".mp4")
            and wanted != LAST
            and len(wanted) != 1
            or wanted == ALL
            and how.one_layer
        ):
            what = "An .mp4" if suffix == ".mp4" else repr(picture)
            raise ValueError(f"{what} shows one layer; got {given['layers']!r}.")
    for name, most in MOST.items():
        value = given.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value <= most):
            raise ValueError(f"{name} must be a number above 0, at most {most:g}; got {value!r}.")
    if (count := given.get("count")) is not None and not (is_whole(count) and count > 0):
        raise ValueError(f"count must be a whole number, 1 or more; got {count!r}.")
    if (query := given.get("query")) is not None:
        indices = [*query] if isinstance(query, (list, tuple)) else []
        if len(indices) != 3 or not all(is_whole(index) and index >= 0 for index in indices):
            raise ValueError(f"query must be a patch's frame, row and column, whole numbers from 0; got {query!r}.")
    if "query" in given and "count" in given:
        raise ValueError("count would have no effect beside query, which names one route.")


def _require_other_file(video: Any, output: str | Path | None) -> None:
    """Raise a ValueError where the picture would take the place of the video itself."""
    source = video.get("path") if isinstance(video, dict) else video
    if output is None or not isinstance(source, (str, bytes, os.PathLike)) or not os.path.exists(output):
        return
    if os.path.exists(source) and os.path.samefile(source, output):
        raise ValueError(f"output {str(output)!r} would overwrite what is drawn.")


def about_picture(found: Sequence[Inspection], picture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a file holds of a picture: what is drawn, and of each model what its inspection says."""
    facts = {"picture": picture, **options, "notes": [*_notes(found)]}
    facts = {name: [*value] if isinstance(value, tuple) else value for name, value in facts.items()}
    if picture == "integration":
        facts["layers"] = sorted(_over_time(found[0]).frame_attention)  # its own, not the tower's
    if len(found) == 1:
        return {**found[0].about, **facts}
    return {**facts, "models": [one.about for one in found]}


# -- how it is drawn -------------------------------------------------------------------------------------------------


def _over_time(one: Inspection) -> TemporalInspection:
    """Return what was found of the temporal module, which was asked for."""
    assert one.temporal is not None
    return one.temporal


def _title(found: Sequence[Inspection]) -> str:
    """Return the line above a picture: the video, and of one model its name and best label."""
    return f"{found[0].video}, {_named(found[0])}" if len(found) == 1 else found[0].video


def _named(one: Inspection) -> str:
    """Return a model's name and its best label."""
    return f"{one.model}: {one.labels[0][0]} {one.labels[0][1]:.0%}" if one.labels else one.model


def _notes(found: Sequence[Inspection]) -> list[str]:
    """Return the sentences of all models, each once; those that not all say begin with the model's name."""
    if len(found) == 1:
        return [*found[0].notes]
    said = dict.fromkeys(note for one in found for note in one.notes)
    common = [note for note in said if all(note in one.notes for one in found)]
    return [*common, *(f"{one.model}: {note}" for one in found for note in one.notes if note not in common)]


def _sheet(found: Sequence[Inspection], rows: Sequence[Row]) -> "Figure":
    first = found[0]
    return plot_frames(first.frames, rows, times=first.times, title=_title(found), notes=_notes(found))


def _row_name(found: Sequence[Inspection], one: Inspection, words: str) -> str:
    """Return the name of a row: its layers, and of several models whose they are and what the model says."""
    if len(found) == 1:
        return words
    label = f": {one.labels[0][0]} {one.labels[0][1]:.0%}" if one.labels else ""
    return f"{one.model}, {words}{label}"


def _masks(found: Sequence[Inspection]) -> "Figure":
    rows = [
        Row(_row_name(found, one, f"layer {layer}"), heat=mask, points=one.points[layer], style="mask")
        for one in found
        for layer, mask in one.masks.items()
    ]
    return _sheet(found, rows)


def _points(found: Sequence[Inspection], *, size: float = BOX) -> "Figure":
    rows = []
    for one in found:
        layers = [*one.points]
        for start in range(0, len(layers), BESIDE):
            some = layers[start : start + BESIDE]
            names = [f"layer {layer}" for layer in some]
            words = names[0] if len(some) == 1 else f"layers {', '.join(map(str, some))}"
            points = torch.stack([one.points[layer] for layer in some])
            row = Row(_row_name(found, one, words), points=points, style="boxes", box=size, grid=one.grid)
            rows.append(replace(row, point_names=names) if len(some) > 1 else row)
    return _sheet(found, rows)


def _features(found: Sequence[Inspection]) -> "Figure":
    rows = [
        Row(_row_name(found, one, f"layer {layer}"), heat=heat)
        for one in found
        for layer, heat in one.features.items()
    ]
    return _sheet(found, rows)


def _information(found: Sequence[Inspection]) -> "Figure":
    (one,) = found
    return plot_information(one.information, one.times, title=_title(found), notes=_notes(found))


def _layer(of_layers: Mapping[int, Any]) -> tuple[int, Any]:
    """Return the last of the layers that were looked at, and what was found there."""
    layer = max(of_layers)
    return layer, of_layers[layer]


def _with_routes(plot: Callable[..., "Figure"], found: Sequence[Inspection], **options: Any) -> "Figure":
    """Draw the routes of the last layer by `plot`; the title says where they are not the model's own."""
    (one,) = found
    layer, routes = _layer(_over_time(one).routes)
    own = "" if layer in _over_time(one).aligned else ", as ATA would match its patches"
    return plot(
        one.frames,
        routes,
        one.grid,
        similarities=_over_time(one).similarities[layer],
        times=one.times,
        title=f"{_title(found)}, layer {layer}{own}",
        notes=_notes(found),
        **options,
    )


def _matches(found: Sequence[Inspection], *, count: int = 10) -> "Figure":
    return _with_routes(plot_matches, found, most=count)


def _routes(found: Sequence[Inspection], *, count: int | None = None, query: Sequence[int] | None = None) -> "Figure":
    patches = None if query is None else [(query[0], query[1], query[2])]
    return _with_routes(plot_routes, found, patches=patches, most=count)


def _weights(found: Sequence[Inspection]) -> "Figure":
    return plot_temporal_weights(_over_time(found[0]).weights, title=_title(found), notes=_notes(found))


def _regions(found: Sequence[Inspection], *, count: int | None = None) -> "Figure":
    (one,) = found
    layer, regions = _layer(_over_time(one).regions)
    title = f"{_title(found)}, layer {layer}"
    return plot_regions(one.frames, regions, most=count, times=one.times, title=title, notes=_notes(found))


def _attention(found: Sequence[Inspection], **query: Any) -> "Figure":
    (one,) = found
    over_time = _over_time(one)
    assert over_time.query is not None  # there is one by default
    some = over_time.query_attention
    words: dict[str, Any] = {"title": _title(found), "notes": _notes(found)}
    return plot_query_attention(one.frames, over_time.query, some, times=one.times, **words)


def _integration(found: Sequence[Inspection]) -> "Figure":
    (one,) = found
    return plot_frame_attention(
        _over_time(one).frame_attention, one.frames, one.times, title=_title(found), notes=_notes(found)
    )


# -- what is animated ------------------------------------------------------------------------------------------------


def _panel(one: Inspection, layer: int, named: bool, **what: Any) -> Panel:
    name = f"{_named(one)}, layer {layer}" if named else f"{_named(one).partition(': ')[2]} layer {layer}".strip()
    return Panel(name=name, grid=one.grid, **what)


def _mask_panels(one: Inspection, *, named: bool) -> list[Panel]:
    return [
        _panel(one, layer, named, heat=mask, limits=(0.0, 1.0), points=one.points[layer])
        for layer, mask in one.masks.items()
    ]


def _point_panels(one: Inspection, *, named: bool, size: float = BOX) -> list[Panel]:
    return [_panel(one, layer, named, points=points, box=size) for layer, points in one.points.items()]


def _feature_panels(one: Inspection, *, named: bool) -> list[Panel]:
    return [_panel(one, layer, named, heat=heat, limits=robust_limits(heat)) for layer, heat in one.features.items()]


OF_EVERY = frozenset({"start", "end", "seed"})
MOST = {"size": 1.0, "fps": 50.0}
LAYERS = frozenset({"layers"})

PICTURES: dict[str, Picture] = {
    "masks": Picture(
        asks=("points", "masks"), draw=_masks, default=EVEN, options=LAYERS, panels=_mask_panels, beside=True
    ),
    "points": Picture(
        asks=("points",), draw=_points, default=EVEN, options=LAYERS | {"size"}, panels=_point_panels, beside=True
    ),
    "features": Picture(
        asks=("features",),
        draw=_features,
        default=LAST,
        options=LAYERS | {"reduce"},
        panels=_feature_panels,
        beside=True,
    ),
    "information": Picture(asks=("information",), draw=_information, default=ALL, options=LAYERS),
    "matches": Picture(asks=("routes",), draw=_matches, default=LAST, options=LAYERS | {"count"}, one_layer=True),
    "routes": Picture(
        asks=("routes",), draw=_routes, default=LAST, options=LAYERS | {"count", "query"}, one_layer=True
    ),
    "weights": Picture(asks=("weights",), draw=_weights, default=ALL, options=LAYERS),
    "regions": Picture(asks=("regions",), draw=_regions, default=LAST, options=LAYERS | {"count"}, one_layer=True),
    "attention": Picture(asks=("query_attention",), draw=_attention, default=LAST, options=LAYERS | {"query"}),
    "integration": Picture(asks=("frame_attention",), draw=_integration, default=ALL, options=frozenset()),
}
