"""Evaluation reports as facts of a card, and the card of a folder that was evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from ..evaluation.inference import CLASSIFIERS, classifier_config, load_classifier, named_in_errors
from ..evaluation.report import describe_preprocessing, fingerprint
from ..evaluation.report_fields import check_report, no_report
from ..markup import markdown_text
from ..model.configuration_ila import IlaConfig
from ..model.video_processing_ila import IlaVideoProcessor
from .cards import check_license, model_card
from .exporting import read_adapter
from .facts import METRICS, ModelFacts, Result, describe_views, read_facts


ORDER_WORDS = {"shuffled": "shuffled frames", "reversed": "reversed frames", "single_frame": "a single frame repeated"}


def card_of_folder(
    folder: str | Path, reports: Sequence[Mapping[str, Any]] = (), *, license: str | None = None
) -> ModelCard:
    """Make the card of an exported folder anew, with what was measured of its model.

    Title, origin, licence and published results are those of the card that the folder has, and so are measured ones
    if no reports are given. Results of other weights than the folder's are left out.

    Args:
        folder: as `hub.export`, `hub.export_adapter` or `ila convert` writes it.
        reports: what `evaluate` returned for this model.
        license: the Hub's identifier of the licence that you give the weights, such as "apache-2.0".

    Raises:
        ValueError: no report, or one of another model (other weights, class names or preprocessing); a licence for
            weights that began as the official release's; a present card that cannot be read.
        OSError: no such folder.
    """
    folder = Path(folder)
    config = classifier_config(folder)
    if not isinstance(config, IlaConfig) or type(config).model_type != IlaConfig.model_type:
        kind = CLASSIFIERS[type(config).model_type]
        raise ValueError(
            f"{str(folder)!r} holds a {kind}; cards are of an IlaForVideoClassification, as `export` takes."
        )
    with named_in_errors(folder):
        processor = IlaVideoProcessor.from_pretrained(folder)
    results = [result for report in reports for result in measured_results(report)]
    for report in reports:
        _check_settings(report, folder, config, processor)
    present = read_facts(ModelCard.load(folder / "README.md")) if (folder / "README.md").is_file() else ModelFacts()
    facts = replace(present, usage_note="", model_id=present.model_id or folder.resolve().name)
    if license is not None:
        check_license(license, config, present)
        facts = replace(facts, license=license, license_name=None, license_link=None)
    ours = _check_weights(reports, folder)
    if not facts.are_of(ours):
        facts = replace(facts, results=[], recorded_accuracy=None, title=None, data_note="", fingerprint=None)
    if results:
        facts = replace(facts, results=[*facts.published, *results])
    facts = replace(facts, fingerprint=ours if facts.claims_results else None)
    return model_card(config, processor, facts, in_index=False, adapter=read_adapter(folder))


def measured_results(report: Mapping[str, Any]) -> list[Result]:
    """Read the accuracies of a report of `evaluate`; a note on the first says what other orders of frames give.

    Raises:
        ValueError: no such report (`check_report`), or one without an evaluated video.
    """
    check_report(report)
    protocol, counts, metrics = report["protocol"], report["counts"], report["metrics"]
    views = describe_views(protocol["clips"], protocol["crops"], protocol["frames_per_clip"])
    if protocol["batch_statistics"]:
        views += f", batch statistics of {protocol['batch_size']} videos (the release's fault)"
    if protocol.get("random_frames"):
        views += f", frames at random (seed {protocol.get('seed')})"
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
    names = [name for name in METRICS if (name == "mean_average_precision") == several]
    if missing := [name for name in names if name not in metrics]:
        raise no_report(f"{missing[0]!r} of 'metrics' is missing")
    if any(metrics[name] is None for name in names):
        raise ValueError("The report has no accuracy: no video could be evaluated.")
    stated = [name for name in names if name != "top5" or report["model"]["labels"] > 5]  # of five all are right
    results = [Result(name, 100 * metrics[name], **common) for name in stated]  # type: ignore[arg-type]
    return [replace(results[0], note=_reliance_note(report, results[0])), *results[1:]]


def _reliance_note(report: Mapping[str, Any], result: Result) -> str:
    """Write a sentence on the metric for other orders of the frames; empty where they were not measured."""
    measured = report.get("temporal_reliance")
    if measured is None:
        return ""
    values = {name: order.get(result.metric) for name, order in measured.get("orders", {}).items()}
    others = [f"{100 * value:.1f} % with {ORDER_WORDS[name]}" for name, value in values.items() if value is not None]
    stated = [f"{result.percent:.1f} % with frames as they are", *others]
    where = ", ".join(markdown_text(part) for part in (result.data_set, result.split, result.protocol) if part)
    return f"{METRICS[result.metric][1]} on {where} (measured, {report['date'][:10]}): {', '.join(stated)}."


def _evaluated(report: Mapping[str, Any]) -> str:
    return repr(report["model"].get("name") or "a model without a name")


def _check_settings(report: Mapping[str, Any], folder: Path, config: IlaConfig, processor: IlaVideoProcessor) -> None:
    """Raise a ValueError unless the report is of this folder's frames, number of classes and preprocessing."""
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
    except KeyError as error:
        raise no_report(f"{error!r} is missing") from error
    differ = [f"{name} {ours}, there {theirs}" for name, (theirs, ours) in fields.items() if theirs != ours]
    if differ:
        raise ValueError(
            f"The report is of {_evaluated(report)}, and {str(folder)!r} is not that: {'; '.join(differ)}."
        )


def _check_weights(reports: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Raise a ValueError unless all reports are of the folder's weights and class names; return their fingerprint.

    The weights are loaded once for the type of their files, and once for each other type that a report is about.
    """
    found: dict[torch.dtype, str] = {}

    def load(dtype: torch.dtype | str) -> str:
        model = load_classifier(folder, dtype=dtype)
        return found.setdefault(model.dtype, fingerprint(model))

    ours = load("auto")
    for report in reports:
        dtype, stated = getattr(torch, report["model"]["dtype"]), report["model"]["fingerprint"]
        if stated != (found[dtype] if dtype in found else load(dtype)):
            raise ValueError(
                f"The report is of {_evaluated(report)}; {str(folder)!r} has other weights or class names."
            )
    return ours
