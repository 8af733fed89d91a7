"""Model cards: one template, filled from a configuration, a processor and facts.

A card holds no accuracy that nobody measured or published, and says beside each which of the two it is.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.image_utils import PILImageResampling

from .. import cost as complexity
from ..data.class_names import used_names
from ..markup import markdown_sentences, markdown_table, markdown_text, plain_line, python_string
from ..model.configuration_ila import IlaConfig, IlaVisionConfig
from ..model.validation_ila import MULTI_LABEL, aligns
from ..model.video_processing_ila import IlaVideoProcessor
from .facts import (
    FACTS_KEY,
    METRICS,
    NO_LICENCE,
    OFFICIAL_RELEASE,
    OPENAI_CLIP,
    ModelFacts,
    Result,
    facts_to_metadata,
)


NO_NAME = "model"
TEMPLATE = Path(__file__).with_name("model_card_template.md")
RELEASE = "https://github.com/Francis-Rings/ILA"
PAPER = "Implicit Temporal Modeling with Learnable Alignment for Video Recognition, ICCV 2023"
CITATION = """@inproceedings{tu2023ila,
  title     = {Implicit Temporal Modeling with Learnable Alignment for Video Recognition},
  author    = {Tu, Shuyuan and Dai, Qi and Wu, Zuxuan and Cheng, Zhi-Qi and Hu, Han and Jiang, Yu-Gang},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023}
}"""
LICENSES = frozenset(  # the Hub's list of identifiers, without "other"
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    openrail++ afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda
    cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 lgpl-lr isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl openmdw-1.0 h-research intel-research apple-ascl apple-amlr
    fair-noncommercial-research-license deepfloyd-if-license
    llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    """.split()
)
CLIP_ORIGIN = (
    "The towers are OpenAI's CLIP; every other weight is new and untrained, so its labels mean nothing before "
    "fine-tuning."
)
NO_STATED_LICENCE = (
    "The code is Apache-2.0. Nobody has stated a licence for the weights; weights that started from CLIP's or a "
    "ViT's, or were trained on a data set, are under the terms of those too."
)
RELEASED_ORIGIN = (
    f"The weights are, or were fine-tuned from, those of a file that the code of the official release ({RELEASE}) "
    "trained; `ila convert` converted it for a user who had it. They are not distributed with transformers-ila."
)
RELEASED_LICENCE = (
    "The code is Apache-2.0. **The published weights have no licence:** their authors released them without one, so "
    "nobody but them may pass them on. Convert them for yourself, and do not re-host them."
)
RELEASED_METADATA = {"license": "other", "license_name": NO_LICENCE, "license_link": RELEASE}
BATCH_STATISTICS = (
    "**Batch statistics.** A fault of the release: during its validation the network is left in train mode, so its "
    "published Kinetics-400 numbers may have been taken with batch normalisation using the statistics of each batch. "
    "This model is meant to be evaluated in eval mode, which may give other numbers. `ila evaluate "
    "--batch_statistics` repeats the fault; it is off by default."
)
NO_BATCH_STATISTICS = (
    "**Batch statistics.** A fault of the release leaves its network in train mode while class names are compared "
    "during validation. A linear head compares none, so this model's published numbers should not be touched by it. "
    "It is meant to be evaluated in eval mode. `ila evaluate --batch_statistics` repeats the fault; it is off "
    "by default."
)
UNUSED_OUTPUTS = (
    "The release's linear heads have 400 outputs whatever the data set has; those that no class was trained for are "
    "kept, as the file's tensor has them, and are called unused."
)
USAGE = """from transformers import pipeline

classify = pipeline("video-classification", {example}, trust_remote_code=True)"""
ADAPTER_USAGE = """from transformers import pipeline
from transformers_ila import IlaVideoProcessor
from transformers_ila.training import load_adapter

model = load_adapter({example}).merge_and_unload()
processor = IlaVideoProcessor.from_pretrained({example})
classify = pipeline("video-classification", model=model, video_processor=processor)"""
ADAPTER_USAGE_NOTE = (
    "This needs the package `transformers-ila` with its extra `lora`. The weights below are loaded from their own "
    "repository, and others than those that the adapter was trained on are refused."
)
USAGE_NOTE = (
    "This needs Transformers, PyTorch, torchvision and PyAV (`pip install transformers torch torchvision av`) and "
    "runs the model's code from this repository. With the package `transformers-ila` imported, its own classes are "
    "used and nothing of the repository is executed."
)
ONE_LABEL = (
    "Every video gets one of the labels, also one that shows none; a score is not a probability of being right."
)
SEVERAL_LABELS = (
    "Each label has a score of its own, which is no probability; from which score on it holds is yours to say."
)
LIMITS = (
    "A clip is a few frames from the whole video: what happens between them is not seen, long videos need cutting.",
)
STANDARD_CONVOLUTIONS = (
    " (two 3x3 convolutions in place of the separable one, as in the release; the paper's text adds two to it)"
)
NOT_MEASURED = "Published for this variant by its authors; nobody has measured it with this package."
NO_RESULTS = "Nobody has measured an accuracy of this model with this package, or published one."


class Weights(NamedTuple):
    """Hold what a card says of the origin of weights, of what may be done with them, and of their faults."""

    origin: str
    licence: str
    metadata: Mapping[str, Any]  # license, license_name, license_link
    limits: Sequence[str] = ()


def check_license(license: str, config: IlaConfig, facts: ModelFacts) -> None:
    """Raise a ValueError unless the Hub's list has `license`, and the user of these weights can state it."""
    if license not in LICENSES:
        close = get_close_matches(license.lower().replace(" ", "-"), sorted(LICENSES), n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            "`license` must be an identifier of the Hub's list such as apache-2.0, mit or cc-by-nc-4.0, got "
            f"{license!r}.{meant} Any other is written at the head of README.md: `license: other`, "
            "`license_name: ...` and `license_link: ...`."
        )
    if _is_released(config, facts):
        raise ValueError(
            f"`license` cannot be {license!r}: the weights are, or began as, a published checkpoint's, for which "
            "nobody granted a licence. Whoever was granted one writes it as `license` at the head of README.md."
        )


def _is_released(config: IlaConfig, facts: ModelFacts) -> bool:
    return OFFICIAL_RELEASE in (config.weights_origin, facts.origin)


def describe_weights(config: IlaConfig, facts: ModelFacts) -> Weights:
    """Describe the weights' origin and licence in sentences, and the licence in the Hub's terms."""
    stated = {"license": facts.license, "license_name": facts.license_name, "license_link": facts.license_link}
    metadata = {key: value for key, value in stated.items() if value is not None}
    if _is_released(config, facts):
        return _released_weights(config, facts, metadata)
    if facts.origin == OPENAI_CLIP and facts.license in (None, "mit"):
        return Weights(CLIP_ORIGIN, "The code is Apache-2.0, OpenAI's CLIP weights are MIT.", {"license": "mit"})
    origin = CLIP_ORIGIN if facts.origin == OPENAI_CLIP else ""
    licence = NO_STATED_LICENCE
    if facts.licence:
        licence = f"The code is Apache-2.0, the weights are {markdown_text(facts.licence)}."
    return Weights(origin, licence, metadata)


def _released_weights(config: IlaConfig, facts: ModelFacts, stated: Mapping[str, Any]) -> Weights:
    """Describe weights that the release's code trained, or that began as such."""
    limits = ["The released network is not the one that the paper's equations describe, and costs more."]
    limits.append(BATCH_STATISTICS if config.classification_head == "text" else NO_BATCH_STATISTICS)
    if len(_class_names(config)) < config.num_labels:
        limits.append(UNUSED_OUTPUTS)
    if facts.license_name == NO_LICENCE or not stated:
        return Weights(RELEASED_ORIGIN, RELEASED_LICENCE, RELEASED_METADATA, limits)
    granted = f"whoever wrote this card states {markdown_text(facts.licence)} for them."
    licence = f"The code is Apache-2.0. The published weights were released without a licence; {granted}"
    return Weights(RELEASED_ORIGIN, licence, stated, limits)


def model_card(
    config: IlaConfig,
    processor: IlaVideoProcessor,
    facts: ModelFacts,
    *,
    in_index: bool = True,
    adapter: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Make a card with metadata for the Hub.

    Args:
        config, processor: of the model; its size and cost are counted from them.
        facts: everything else that the card states; its metadata keep them under the key `ila`.
        in_index: whether published results are in the Hub's `model-index`, which has no place for a remark. Measured
            results always are.
        adapter: the content of `adapter_config.json`, for an adapter (LoRA) without the weights below.
    """
    weights = describe_weights(config, facts)
    data_notes = [f"- {markdown_sentences(facts.data_note)}"] if facts.data_note else []
    model_name = plain_line((facts.model_id or NO_NAME).rstrip("/").rpartition("/")[2])
    metadata: dict[str, Any] = {**weights.metadata, FACTS_KEY: facts_to_metadata(facts) or None}
    kind = "custom_code"
    if adapter is not None:
        kind = "lora"
        metadata |= {"base_model": adapter["base_model_name_or_path"], "base_model_relation": "adapter"}
    data = ModelCardData(
        library_name=library(adapter),
        pipeline_tag="video-classification",
        tags=["ila", "video-classification", _tower(config).lower(), kind],
        model_name=model_name,
        eval_results=_eval_results(facts.results if in_index else facts.measured) or None,
        **metadata,
    )
    usage, note = (USAGE, USAGE_NOTE) if adapter is None else (ADAPTER_USAGE, ADAPTER_USAGE_NOTE)
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        usage=usage.format(example=example(facts, adapter=adapter is not None)),
        title=markdown_text(facts.title or model_name),
        summary=" ".join(part for part in (_summary(config), weights.origin) if part),
        usage_note=" ".join(part for part in (markdown_sentences(facts.usage_note), note) if part),
        results=_results(facts),
        network=_network(config, adapter),
        data="\n".join([*data_notes, _data(config, processor)]),
        use=_use(config),
        limits="\n".join(f"- {limit}" for limit in (_answers(config), *LIMITS, _biases(config), *weights.limits)),
        licence=weights.licence,
        citation=CITATION,
    )


def library(adapter: Any) -> str:
    """Name the library that a card's model is for, in the Hub's terms."""
    return "transformers" if adapter is None else "peft"


def example(facts: ModelFacts, *, adapter: bool = False) -> str:
    """Write the arguments of the usage example that say what it loads."""
    branch = "" if facts.revision is None else f", revision={python_string(facts.revision)}"
    return f"{'' if adapter else 'model='}{python_string(facts.model_id or NO_NAME)}{branch}"


# -- sections --------------------------------------------------------------------------------------------------------


def _class_names(config: IlaConfig) -> list[str]:
    return used_names(config.class_names)


def _use(config: IlaConfig) -> str:
    number = len(_class_names(config))
    if config.problem_type == MULTI_LABEL:
        return f"Giving a short video those of {number} labels that fit it"
    return f"Giving one of {number} labels to a short video of one action"


def _answers(config: IlaConfig) -> str:
    return SEVERAL_LABELS if config.problem_type == MULTI_LABEL else ONE_LABEL


def _biases(config: IlaConfig) -> str:
    tower = _tower(config)
    return (
        f"Sound and text are not used. Biases of the data that the weights learned from ({tower}'s too, if they began "
        "as its) are in the model; it must not decide about people."
    )


def _tower(config: IlaConfig) -> str:
    return "CLIP" if config.vision_config.pre_layer_norm else "ViT"


def _summary(config: IlaConfig) -> str:
    heads = {"tokens": "compared with the class names", "merged": "compared with the class names"}
    head = heads.get(config.class_features, "compared with a given vector of each class")
    if config.classification_head == "linear":
        head = "given to a linear head"
    return (
        f"{_method(config)} ({PAPER}). {config.num_frames} frames of {config.vision_config.image_size} pixels become "
        f"one vector that is {head}."
    )


def _method(config: IlaConfig) -> str:
    """Say how the frames of a video come together in the tower."""
    vision, network = config.vision_config, f"{_tower(config)}'s network"
    if aligns(vision):
        others = {"adjacent": "neighbouring frames", "first": "each frame with the first"}
        pairs = others.get(vision.alignment_pairing, "each frame with the middle one")
        return f"ILA: {network} turned into a video recogniser by aligning {pairs}"
    if not vision.temporal_layers:
        return f"{network} as a video recogniser whose tower sees each frame by itself, which ILA is compared with"
    return f"{network} turned into a video recogniser by `{vision.temporal_module}`, which ILA is compared with"


def _results(facts: ModelFacts) -> str:
    """Write a table of all results, then the notes on them."""
    rows = []
    for result in facts.results:
        data_set = result.data_set + (f", {result.split}" if result.split else "")
        origin = f"{result.origin}: {result.source}"
        value = f"{result.percent:.1f} %"
        cells = (data_set, METRICS[result.metric][1], value, result.protocol, result.counts, origin)
        rows.append([cell.replace("|", "/") for cell in cells])
    notes = [NOT_MEASURED] if facts.published and not facts.measured else []
    notes += [markdown_sentences(result.note) for result in facts.results if result.note]
    if facts.recorded_accuracy is not None:
        accuracy = f"a best validation accuracy of {facts.recorded_accuracy:.2f} %"
        notes.append(f"The converted file itself records {accuracy}, measured by the code that trained it.")
    heads = ["data set", "metric", "value", "views", "videos", "origin"]
    table = markdown_table(heads, rows) if facts.results else NO_RESULTS
    return "\n\n".join(part for part in (table, " ".join(notes)) if part)


def _eval_results(results: Sequence[Result]) -> list[EvalResult]:
    """Write results in the Hub's format; every metric's name says its origin.

    The format has one source, with an address, for all metrics of a data set, so it is named only if all have one.
    """
    one_source = all(result.source_url is not None for result in results)
    return [
        EvalResult(
            task_type="video-classification",
            task_name="Video classification",
            dataset_type=re.sub(r"[^\w.-]+", "-", result.data_set.lower()),
            dataset_name=plain_line(result.data_set),
            dataset_split=result.split,
            metric_type=METRICS[result.metric][0],
            metric_value=round(result.percent, 2),
            metric_name=f"{METRICS[result.metric][1]} ({result.origin}), {result.protocol}; videos: {result.counts}",
            source_name=f"{result.origin}: {result.source}" if one_source else None,
            source_url=result.source_url if one_source else None,
        )
        for result in results
    ]


def _network(config: IlaConfig, adapter: Mapping[str, Any] | None) -> str:
    vision, cost = config.vision_config, complexity.count(config)
    tower = (
        f"ViT, {vision.num_hidden_layers} layers of width {vision.hidden_size}, patches of {vision.patch_size} pixels"
    )
    temporal = _temporal_module(vision)
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
    if adapter is not None:
        parts = "attention and MLP" if "mlp" in str(adapter["target_modules"]) else "attention"
        base = markdown_text(adapter["base_model_name_or_path"])
        rows["adapter"] = f"LoRA of rank {adapter['r']} in the tower's {parts}, on {base}; all that this lacks is here"
    unused = config.num_labels - len(_class_names(config))
    if unused:
        rows["head"] += f"; {unused} further outputs are the release's, and belong to no class"
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _temporal_module(vision: IlaVisionConfig) -> str:
    """Name the temporal module, with its form where that is not the most frequent one, and its layers if not all."""
    if not vision.temporal_layers:
        return "`none`"
    parts = [f"`{vision.temporal_module}`"]
    if aligns(vision):
        form = "alignment_conv" if vision.alignment_operator == "conv" else "alignment_operator"
        frequent = {"alignment_pairing": "adjacent", "alignment_distance": "separable"}
        fields = ["alignment_fusion", form, *(name for name in frequent if getattr(vision, name) != frequent[name])]
        parts += [f"`{name}={getattr(vision, name)}`" for name in fields]
        if form == "alignment_conv" and vision.alignment_conv == "standard":
            parts[2] += STANDARD_CONVOLUTIONS
    if vision.alignment_causal:
        parts.append("`alignment_causal=True`: no frame depends on a later one")
    if len(vision.temporal_layers) < vision.num_hidden_layers:
        parts.append(f"in layers {', '.join(map(str, sorted(vision.temporal_layers)))}, counted from 0")
    return ", ".join(parts)


def _data(config: IlaConfig, processor: IlaVideoProcessor) -> str:
    names = _class_names(config)
    shown = ", ".join(markdown_text(name, 60) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    rule = f"`{processor.frame_sampling}`"
    if processor.frame_sampling == "dense":
        rule += f", every {processor.frame_stride}th" if processor.frame_stride > 1 else ", one after the other"
    if config.frame_rate is not None:
        rule += f"; in training {config.frame_rate:.3g} a second"
    return "\n".join(
        [
            f"- Classes: {len(names)} ({shown}).",
            "- Decoder: PyAV (FFmpeg) through `transformers_ila.read_video`, with exact frame counts.",
            f"- Frames: {processor.num_frames} by the rule {rule}.",
            f"- Pixels: {_pixels(processor)}.",
        ]
    )


def _pixels(processor: IlaVideoProcessor) -> str:
    """Say what the processor does to frames, in its order."""
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
