"""Model cards: one template, filled from a configuration, a processor, and results with their origin.

A card holds no accuracy that nobody measured or published, and says beside each which of the two it is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.image_utils import PILImageResampling

from .. import cost as complexity
from ..conversion.published import PUBLISHED_VIEWS, PublishedCheckpoint, published_like, released_processor
from ..data.class_names import DATA_SETS, is_unused
from ..evaluation.report import describe_preprocessing
from ..evaluation.report import fingerprint as fingerprint_of
from ..model.configuration_ila import IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor


TEMPLATE = Path(__file__).with_name("model_card_template.md")
RELEASE = "https://github.com/Francis-Rings/ILA"
OFFICIAL_RELEASE: Final = "official_release"  # as `IlaConfig.weights_origin` says it
NO_LICENCE = "none-granted"
PAPER_TABLE = "the paper's Table"
PUBLISHED_ROW = f"| published: {PAPER_TABLE}"  # in the results of a card that has them
USAGE_MODEL = re.compile(r'(pipeline\("video-classification", model=)"([^"]*)"(?:, revision="[^"]*")?')
PAPER = "Implicit Temporal Modeling with Learnable Alignment for Video Recognition, ICCV 2023"
CITATION = """@inproceedings{tu2023ila,
  title     = {Implicit Temporal Modeling with Learnable Alignment for Video Recognition},
  author    = {Tu, Shuyuan and Dai, Qi and Wu, Zuxuan and Cheng, Zhi-Qi and Hu, Han and Jiang, Yu-Gang},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023}
}"""


@dataclass(frozen=True)
class Result:
    """One number and where it comes from."""

    metric: Literal["top1", "top5", "mean_class_accuracy", "mean_average_precision"]
    percent: float
    data_set: str
    split: str | None
    protocol: str
    counts: str  # of the videos behind the number
    origin: Literal["published", "measured"]
    source: str
    source_url: str | None = None


METRICS = {  # -> the Hub's identifier, our words
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("top_5_accuracy", "Top-5 accuracy"),
    "mean_class_accuracy": ("mean_class_accuracy", "Mean class accuracy"),
    "mean_average_precision": ("mean_average_precision", "Mean average precision"),  # of several labels a video
}


def published_results(checkpoint: PublishedCheckpoint) -> list[Result]:
    """What the paper reports; it names no split and no number of videos."""
    data_set = DATA_SETS[checkpoint.data_set]
    clips, crops = map(int, PUBLISHED_VIEWS.split("x"))
    common = {
        "data_set": data_set.title,
        "split": None,
        "protocol": _views(clips, crops, checkpoint.num_frames),
        "counts": "not stated",
        "origin": "published",
        "source": f"{PAPER_TABLE} {data_set.table}",
        "source_url": RELEASE,
    }
    return [Result("top1", checkpoint.top1, **common), Result("top5", checkpoint.top5, **common)]  # type: ignore[arg-type]


def measured_results(report: Mapping[str, Any]) -> list[Result]:
    """What a report of `evaluation.evaluate` holds.

    Raises:
        ValueError: no such report, or one without an evaluated video.
    """
    try:
        protocol, counts, metrics = report["protocol"], report["counts"], report["metrics"]
        views = _views(protocol["clips"], protocol["crops"], protocol["frames_per_clip"])
        if protocol["batch_statistics"]:
            views += f", batch statistics of {protocol['batch_size']} videos (the release's fault)"
        if protocol.get("random_frames"):
            views += f", frames at random (seed {protocol['seed']})"
        common = {
            "data_set": report["data_set"]["name"] or "unnamed data set",
            "split": report["data_set"]["split"],
            "protocol": views,
            "counts": f"{counts['evaluated']} of {counts['listed']} videos, {counts['unreadable']} unreadable",
            "origin": "measured",
            "source": f"transformers-ila {report['versions']['transformers_ila']}, {report['date'][:10]}, "
            f"PyAV {report['decoder']['pyav']}",
        }
        several = metrics.get("mean_average_precision") is not None
        values = {name: metrics[name] for name in METRICS if (name == "mean_average_precision") == several}
        classes = report["model"]["labels"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"This is no evaluation report: {error!r} is wrong or missing.") from error
    if any(value is None for value in values.values()):
        raise ValueError("The report has no accuracy: no video could be evaluated.")
    wrong = {name: value for name, value in values.items() if not _is_fraction(value)}
    if wrong:
        raise ValueError(f"This is no evaluation report: accuracies are from 0 to 1, got {wrong}.")
    told = {name: value for name, value in values.items() if name != "top5" or classes > 5}  # of five all are right
    return [Result(name, 100 * value, **common) for name, value in told.items()]  # type: ignore[arg-type]


def _views(clips: int, crops: int, frames: int) -> str:
    plural = ["" if number == 1 else "s" for number in (clips, crops)]
    return f"{clips} clip{plural[0]} x {crops} crop{plural[1]}, {frames} frames each"


def reliance_note(report: Mapping[str, Any]) -> str | None:
    """What a report says of the order of frames, in a sentence; None where it was not measured."""
    measured = report.get("temporal_reliance")
    if measured is None:
        return None
    metric = "mean_average_precision" if "mean_average_precision" in report["metrics"] else "top1"
    result = next(result for result in measured_results(report) if result.metric == metric)
    values = {name: order.get(metric) for name, order in measured["orders"].items()}
    said = [f"{100 * value:.1f} % with {ORDER_WORDS[name]}" for name, value in values.items() if value is not None]
    where = ", ".join(part for part in (result.data_set, result.split, result.protocol) if part)
    said.insert(0, f"{result.percent:.1f} % with frames as they are")
    return f"{METRICS[metric][1]} on {where} (measured, {report['date'][:10]}): {', '.join(said)}."


ORDER_WORDS = {"shuffled": "shuffled frames", "reversed": "reversed frames", "single_frame": "a single frame repeated"}


def _is_fraction(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True)
class Weights:
    """Where weights come from, and what may be done with them."""

    origin: str
    licence: str
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of the card: license, license_name, ...
    limits: Sequence[str] = ()


OWN_WEIGHTS = Weights(
    origin="",
    licence="The code is Apache-2.0. Nobody has stated a licence for the weights; weights that started from CLIP's or "
    "a ViT's, or were trained on a data set, are under the terms of those too.",
)
CLIP_WEIGHTS = Weights(
    origin="The towers are OpenAI's CLIP; every other weight is new and untrained, so its labels mean nothing before "
    "fine-tuning.",
    licence="The code is Apache-2.0, OpenAI's CLIP weights are MIT.",
    metadata={"license": "mit"},
)
BATCH_STATISTICS = (
    "**Batch statistics.** A fault of the release: during its validation the network is left in train mode, so its "
    "published Kinetics-400 numbers may have been taken with batch normalisation using the statistics of each batch. "
    "This model is meant to be evaluated in eval mode, which may give other numbers. `scripts/evaluate.py "
    "--batch_statistics` repeats the fault; it is off by default."
)
NO_BATCH_STATISTICS = (
    "**Batch statistics.** A fault of the release leaves its network in train mode while class names are compared "
    "during validation. A linear head compares none, so this model's published numbers should not be touched by it. "
    "It is meant to be evaluated in eval mode. `scripts/evaluate.py --batch_statistics` repeats the fault; it is off "
    "by default."
)
UNUSED_OUTPUTS = (
    "The release's linear heads have 400 outputs whatever the data set has; those that no class was trained for are "
    "kept, as the file's tensor has them, and are called unused."
)


def released_weights(config: IlaConfig) -> Weights:
    """Of the ten published checkpoints, of others that the release's code trained, and of what began as these."""
    limits = ["The released network is not the one that the paper's equations describe, and costs more."]
    limits.append(BATCH_STATISTICS if config.classification_head == "text" else NO_BATCH_STATISTICS)
    if len(_class_names(config)) < config.num_labels:
        limits.append(UNUSED_OUTPUTS)
    return Weights(
        origin=f"The weights are, or were fine-tuned from, those of a file that the code of the official release "
        f"({RELEASE}) trained; `scripts/convert.py` converted it for a user who had it. They are not distributed with "
        "transformers-ila.",
        licence="The code is Apache-2.0. **The published weights have no licence:** their authors released them "
        "without one, so nobody but them may pass them on. Convert them for yourself, and do not re-host them.",
        metadata={"license": "other", "license_name": NO_LICENCE, "license_link": RELEASE},
        limits=limits,
    )


def model_card(
    config: IlaConfig,
    processor: IlaVideoProcessor,
    *,
    name: str,
    title: str | None = None,
    results: Sequence[Result] = (),
    weights: Weights = OWN_WEIGHTS,
    results_note: str = "",
    usage_note: str = "",
    data_note: str = "",
    fingerprint: str | None = None,
    in_index: bool = True,
) -> ModelCard:
    """A card with metadata for the Hub.

    Args:
        config, processor: of the model; its size and cost are counted from them.
        name: the repository's id or the folder, as the usage example loads it.
        title: the headline; by default `name` without its owner.
        results: with their origin; without any the card says that nobody has measured the model.
        weights: their origin, licence and limits.
        results_note, usage_note, data_note: sentences for these sections.
        fingerprint: of the weights that results and note are about (`evaluation.fingerprint`); the card keeps it, so
            that nobody takes them for those of other weights.
        in_index: whether published results go into the metadata, which has no place for a remark; measured ones do.
    """
    model_name = name.rstrip("/").rpartition("/")[2]
    data = ModelCardData(
        **weights.metadata,
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["ila", "video-classification", _tower(config).lower(), "custom_code"],
        model_name=model_name,
        eval_results=_eval_results([r for r in results if in_index or r.origin == "measured"]) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        title=title or model_name,
        summary=" ".join(part for part in (_summary(config), weights.origin) if part),
        usage_note=usage_note or USAGE_NOTE,
        results="\n\n".join(part for part in (_results(results), results_note, _mark(fingerprint)) if part),
        network=_network(config),
        data="\n".join(part for part in (data_note and f"- {data_note}", _data(config, processor)) if part),
        num_labels=len(_class_names(config)),
        limits="\n".join(f"- {limit}" for limit in (*LIMITS, _biases(config), *weights.limits)),
        licence=weights.licence,
        citation=CITATION,
    )


USAGE_NOTE = (
    "This needs Transformers, PyTorch, torchvision and PyAV (`pip install transformers torch torchvision av`) and "
    "runs the model's code from this repository. With the package `transformers-ila` imported, its own classes are "
    "used and nothing of the repository is executed."
)
LIMITS = (
    "Every video gets one of the labels, also one that shows none; a score is not a probability of being right.",
    "A clip is a few frames from the whole video: what happens between them is not seen, long videos need cutting.",
)


def published_card(checkpoint: PublishedCheckpoint) -> ModelCard:
    """The card of a published checkpoint, for those who convert it."""
    config = checkpoint.config()
    return model_card(
        config,
        released_processor(config),
        name=checkpoint.name,
        title=checkpoint.title,
        results=published_results(checkpoint),
        weights=released_weights(config),
        results_note=f"{PUBLISHED_NOTE} {paper_cost_note(checkpoint)}",
        usage_note=f"`{checkpoint.name}` is the folder that `python scripts/convert.py --checkpoint FILE --output "
        f"{checkpoint.name}` writes from the release's file. {USAGE_NOTE}",
        data_note=training_note(checkpoint),
    )


def training_note(checkpoint: PublishedCheckpoint) -> str:
    title = DATA_SETS[checkpoint.data_set].title
    return f"Trained and evaluated by its authors on {title}; the paper states neither split nor numbers of videos."


PUBLISHED_NOTE = "Published for this variant by its authors; nobody has measured it with this package."


def recorded_note(max_accuracy: float) -> str:
    """Of a released file: what its training wrote into it, in percent. `RECORDED` finds the sentence again."""
    accuracy = f"a best validation accuracy of {max_accuracy:.2f} %"
    return f"The converted file itself records {accuracy}, measured by the code that trained it."


RECORDED = re.compile(r"The converted file itself records .*?, measured by the code that trained it\.", re.DOTALL)


def paper_cost_note(checkpoint: PublishedCheckpoint) -> str:
    gmacs = f"{checkpoint.gmacs} G multiply-accumulates per view (published)"
    return f"Beside these accuracies the paper states {gmacs}, which is what the network of its equations costs."


def card_of_folder(folder: str | Path, reports: Sequence[Mapping[str, Any]] = ()) -> ModelCard:
    """The card of an exported folder, with what was measured of it; origin and licence stay those of its present card.

    Args:
        folder: as `hub.export` or `scripts/convert.py` writes it.
        reports: of `evaluation.evaluate` on this model.

    Raises:
        ValueError: no report, or one of another model: other weights, class names or preprocessing.
        OSError: no such folder.
    """
    folder = Path(folder)
    config = IlaConfig.from_pretrained(folder)
    results = [result for report in reports for result in measured_results(report)]
    processor = IlaVideoProcessor.from_pretrained(folder)
    for report in reports:
        _check_report(report, folder, config, processor)
    present = ModelCard.load(folder / "README.md") if (folder / "README.md").is_file() else None
    weights = weights_of(config, present)
    print_now = fingerprint_of(IlaForVideoClassification.from_pretrained(folder, dtype="auto"))
    kept = present.text if present is not None and results_are_of(present, print_now) else ""
    published = published_like(config) if PUBLISHED_ROW in kept else None
    recorded = RECORDED.search(kept)
    notes = [] if published is None else [paper_cost_note(published)]
    notes += [note for report in reports if (note := reliance_note(report)) is not None]
    return model_card(
        config,
        processor,
        name=folder.resolve().name if present is None else example_model(present) or folder.resolve().name,
        title=None if published is None else published.title,
        results=[*([] if published is None else published_results(published)), *results],
        weights=weights,
        results_note=" ".join([*notes, *([] if recorded is None else [recorded[0]])]),
        data_note="" if published is None else training_note(published),
        fingerprint=print_now if results or published is not None or recorded is not None else None,
        in_index=False,
    )


def claims_results(card: ModelCard) -> bool:
    """Whether a card says anything of how good its model is."""
    marks = (PUBLISHED_ROW in card.text, RECORDED.search(card.text), RESULTS_OF.search(card.text))
    return bool(card.data.get("eval_results")) or any(marks)


def results_are_of(card: ModelCard, fingerprint: str) -> bool:
    """Whether results in a card are those of these weights; a card that does not say whose they are is believed."""
    found = RESULTS_OF.search(card.text)
    return found is None or found[1] == fingerprint


def _check_report(report: Mapping[str, Any], folder: Path, config: IlaConfig, processor: IlaVideoProcessor) -> None:
    """Raise a ValueError unless the report is of this folder's weights, class names and preprocessing."""
    try:
        described, protocol = report["model"], report["protocol"]
        stride = processor.frame_stride if processor.frame_sampling == "dense" else None
        fields = {
            "frames": (protocol["frames_per_clip"], config.num_frames),
            "frame_sampling": (protocol["frame_sampling"], processor.frame_sampling),
            "frame_stride": (protocol["frame_stride"], stride),
            "classes": (described["labels"], config.num_labels),
        }
        for step, ours in describe_preprocessing(processor, protocol["name"]).items():
            fields[step] = (report["preprocessing"][step], ours)
        dtype, found = getattr(torch, described["dtype"]), described["fingerprint"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"This is no evaluation report: {error!r} is wrong or missing.") from error
    evaluated = repr(described.get("name") or "a model without a name")
    differ = [f"{name} {ours}, there {theirs}" for name, (theirs, ours) in fields.items() if theirs != ours]
    if differ:
        raise ValueError(f"The report is of {evaluated}, and {str(folder)!r} is not that: {'; '.join(differ)}.")
    if found != fingerprint_of(IlaForVideoClassification.from_pretrained(folder, dtype=dtype)):
        raise ValueError(f"The report is of {evaluated}; {str(folder)!r} has other weights or class names.")


def weights_of(config: IlaConfig, card: ModelCard | None = None) -> Weights:
    """What a configuration, and the card beside it, say of the weights' origin and licence."""
    metadata = {} if card is None else {key: value for key, value in card.data.to_dict().items() if "license" in key}
    if getattr(config, "weights_origin", None) == OFFICIAL_RELEASE or metadata.get("license_name") == NO_LICENCE:
        return released_weights(config)
    if card is not None and CLIP_WEIGHTS.origin in card.text:
        return CLIP_WEIGHTS
    if "license" not in metadata:
        return OWN_WEIGHTS
    return replace(
        OWN_WEIGHTS, metadata=metadata, licence=f"The code is Apache-2.0, the weights are {metadata['license']}."
    )


def example_model(card: ModelCard) -> str | None:
    """What the card's usage example loads."""
    found = USAGE_MODEL.search(card.text)
    return None if found is None else found[2]


def with_example_model(text: str, model: str, *, revision: str | None = None) -> str:
    """A card's text with a usage example that loads `model`, or a branch of it."""
    branch = "" if revision is None else f', revision="{revision}"'
    return USAGE_MODEL.sub(lambda found: f'{found[1]}"{model}"{branch}', text)


# -- sections --------------------------------------------------------------------------------------------------------


def _class_names(config: IlaConfig) -> list[str]:
    return [name for name in config.class_names if not is_unused(name)]


def _biases(config: IlaConfig) -> str:
    return (
        f"Sound and text are not used. Biases of {_tower(config)}'s training data and of the data set are in the "
        "model; it must not decide about people."
    )


def _tower(config: IlaConfig) -> str:
    return "CLIP" if config.vision_config.pre_layer_norm else "ViT"


def _summary(config: IlaConfig) -> str:
    head = "compared with the class names" if config.classification_head == "text" else "given to a linear head"
    return (
        f"ILA: {_tower(config)} turned into a video recogniser by aligning neighbouring frames ({PAPER}). "
        f"{config.num_frames} frames of {config.vision_config.image_size} pixels become one vector that is {head}."
    )


def _results(results: Sequence[Result]) -> str:
    if not results:
        return "Nobody has measured an accuracy of this model with this package, or published one."
    rows = ["| data set | metric | value | views | videos | origin |", "|---|---|---|---|---|---|"]
    for result in results:
        data_set = result.data_set + (f", {result.split}" if result.split else "")
        origin = f"{result.origin}: {result.source}"
        value = f"{result.percent:.1f} %"
        cells = (data_set, METRICS[result.metric][1], value, result.protocol, result.counts, origin)
        rows.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |")
    return "\n".join(rows)


def _mark(fingerprint: str | None) -> str:
    """Whose results these are, out of readers' sight. `RESULTS_OF` finds it again."""
    return "" if fingerprint is None else f"<!-- results of the weights {fingerprint} -->"


RESULTS_OF = re.compile(r"<!-- results of the weights (\w+) -->")


def _eval_results(results: Sequence[Result]) -> list[EvalResult]:
    """The Hub's format has one source, with an address, for all metrics of a data set; each name says the origin."""
    one_source = all(result.source_url is not None for result in results)
    return [_eval_result(result, with_source=one_source) for result in results]


def _eval_result(result: Result, *, with_source: bool) -> EvalResult:
    identifier, title = METRICS[result.metric]
    return EvalResult(
        task_type="video-classification",
        task_name="Video classification",
        dataset_type=result.data_set.lower().replace(" ", "-"),
        dataset_name=result.data_set,
        dataset_split=result.split,
        metric_type=identifier,
        metric_value=round(result.percent, 2),
        metric_name=f"{title} ({result.origin}), {result.protocol}; videos: {result.counts}",
        source_name=f"{result.origin}: {result.source}" if with_source else None,
        source_url=result.source_url if with_source else None,
    )


def _network(config: IlaConfig) -> str:
    vision, cost = config.vision_config, complexity.count(config)
    tower = (
        f"ViT, {vision.num_hidden_layers} layers of width {vision.hidden_size}, patches of {vision.patch_size} pixels"
    )
    temporal = f"`{vision.temporal_module}`"
    if vision.temporal_module == "ila":
        temporal += f", `alignment_fusion={vision.alignment_fusion}`, `alignment_conv={vision.alignment_conv}`"
    cached = ", class features computed once" if config.classification_head == "text" else ""
    text = f", and {cost.text_parameters:.1f} M in the text tower" if cost.text_parameters else ""
    rows = {
        "tower": tower,
        "temporal module": temporal,
        "head": f"`{config.classification_head}`, {len(_class_names(config))} classes",
        "clip": f"{config.num_frames} frames of {vision.image_size} x {vision.image_size}",
        "parameters (counted)": f"{cost.parameters:.1f} M{text}",
        "multiply-accumulates per view (counted)": f"{cost.gmacs:.1f} G{cached}",
    }
    unused = config.num_labels - len(_class_names(config))
    if unused:
        rows["head"] += f"; {unused} further outputs are the release's, and belong to no class"
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _data(config: IlaConfig, processor: IlaVideoProcessor) -> str:
    names = _class_names(config)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    rule = f"`{processor.frame_sampling}`"
    if processor.frame_sampling == "dense":
        rule += f", every {processor.frame_stride}th" if processor.frame_stride > 1 else ", one after the other"
    return "\n".join(
        [
            f"- Classes: {len(names)} ({shown}).",
            "- Decoder: PyAV (FFmpeg) through `transformers_ila.read_video`, with exact frame counts.",
            f"- Frames: {processor.num_frames} by the rule {rule}.",
            f"- Pixels: {_pixels(processor)}.",
        ]
    )


def _pixels(processor: IlaVideoProcessor) -> str:
    """What the processor does to frames, in its order."""
    size, crop, steps = dict(processor.size), dict(processor.crop_size), []
    if processor.do_resize:
        to = f"short side to {size['shortest_edge']}" if "shortest_edge" in size else f"to {_sides(size)}"
        steps.append(f"{to} ({PILImageResampling(processor.resample).name.lower()})")
    if processor.do_center_crop:
        steps.append(f"centre crop {_sides(crop)}")
    if processor.do_rescale and abs(processor.rescale_factor * 255 - 1) > 1e-6:
        steps.append(f"times {processor.rescale_factor:g}")
    if not processor.do_rescale:
        steps.append("values 0 to 255")
    if processor.do_normalize:
        mean, std = (", ".join(f"{value:.3f}" for value in v) for v in (processor.image_mean, processor.image_std))
        steps.append(f"mean {mean}, std {std}")
    return ", ".join(steps)


def _sides(size: Mapping[str, int]) -> str:
    return f"{size['height']} x {size['width']}"
