"""Checks a folder before it is published: complete, its card true, and of use where this package is missing."""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from ..evaluation.inference import load_classifier, load_trained, probabilities
from ..evaluation.report import fingerprint
from ..model.loading_ila import ADAPTER
from ..model.validation_ila import MULTI_LABEL
from ..video_writing import write_mp4
from .cards import library
from .exporting import ADAPTER_FILES, CARD_BEFORE, read_adapter
from .facts import OFFICIAL_RELEASE, ModelFacts, read_facts


# What training leaves beside a model, and pickles, which nobody should load.
LEFT_OUT = (
    "checkpoint-*",
    "runs",
    "__pycache__",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.ckpt",
    "*.tmp",
    "*.lock",
    CARD_BEFORE,
    ".*",
)
REQUIRED = ("README.md", "config.json", "configuration_ila.py", "modeling_ila.py")
PROCESSORS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
RELATIVE_IMPORT = re.compile(r"^\s*from \.(\w+) import ", re.MULTILINE)
UNFILLED = re.compile(r"\{\{ |\[More Information Needed\]")  # of this package's template, of the Hub's

# What a machine without this package does with the folder.
TRY_OUT = """
import json, math, pathlib, sys
sys.modules["transformers_ila"] = None
from safetensors import safe_open
from transformers import pipeline

folder, video = sys.argv[1:]
classify = pipeline("video-classification", model=folder, trust_remote_code=True)
stored = {name for file in pathlib.Path(folder).glob("model*.safetensors") for name in safe_open(file, "pt").keys()}
absent = sorted(name for name in classify.model.state_dict() if not {name, name.removesuffix(".weight")} & stored)
if absent:
    sys.exit(f"{len(absent)} tensors of the classifier are in no file: {', '.join(absent[:3])}")
left_over = sorted(name for name in stored if not {name, name + ".weight"} & set(classify.model.state_dict()))
if left_over:
    sys.exit(f"{len(left_over)} tensors of the files are in no classifier: {', '.join(left_over[:3])}")
answers = classify(video, top_k=5)
if not answers or not all(math.isfinite(answer["score"]) for answer in answers):
    sys.exit(f"scores that are no numbers: {answers}")
print(json.dumps(answers[0]))
"""


class PublishError(ValueError):
    """Report that nothing was published, or that nobody knows whether it was; the message says why in a sentence."""


@dataclass(frozen=True)
class CheckedFolder:
    """Hold a folder that may be published.

    files: the names of what would be uploaded -> their sizes in bytes.
    left_out: the names of what would not.
    card: the README.md.
    answer: the model's best label for the clip, and its score.
    """

    folder: Path
    files: dict[str, int]
    left_out: tuple[str, ...]
    card: ModelCard
    answer: dict[str, Any]


def check_folder(folder: str | Path, *, video: str | Path | None = None) -> CheckedFolder:
    """Check that a folder is complete, that its card is true of it, and that it labels a clip without this package.

    The weights are loaded once here, if the card has results, and once by the process that labels the clip. An adapter
    (LoRA) labels it here, on the weights that it names.

    Args:
        folder: as `hub.export` or `hub.export_adapter` writes it.
        video: the clip; by default one is generated.

    Raises:
        PublishError: what is missing or wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"There is no folder {str(folder)!r}.")
    if video is not None and not Path(video).is_file():
        raise PublishError(f"There is no video {str(video)!r}.")
    try:
        paths = sorted(folder.iterdir())
        left_out = [path for path in paths if path.is_dir() or any(fnmatch(path.name, p) for p in LEFT_OUT)]
        files = {path.name: path.stat().st_size for path in paths if path not in left_out}
        empty = [f"{name} is empty" for name, size in files.items() if not size]
        adapted = ADAPTER in files
        problems = empty or (_missing_of_adapter if adapted else _missing_files)(folder, files)
        if problems:
            raise PublishError(
                f"{str(folder)!r} is not complete: {'; '.join(problems)}. `transformers_ila.hub."
                f"{'export_adapter' if adapted else 'export'}(model, processor, folder)` writes everything."
            )
        card, facts = _read_card(folder)
        _check_trained(folder)
        _check_licence(folder, facts)
        _check_results(folder, facts)
    except OSError as error:
        raise PublishError(f"{str(folder)!r} cannot be read: {error}.") from error
    answer = (_try_adapter if adapted else _try)(folder, video)
    return CheckedFolder(folder, files, tuple(path.name for path in left_out), card, answer)


def _missing_of_adapter(folder: Path, files: dict[str, int]) -> list[str]:
    """Return what an adapter lacks; PublishError where its weights below are in a folder, which nobody else has."""
    problems = _missing_of_all(folder, files, ("README.md", "config.json", *ADAPTER_FILES))
    base = _read_object(folder / ADAPTER).get("base_model_name_or_path")
    if not problems and (Path(str(base)).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(base))):
        raise PublishError(
            f"{str(folder)!r} is an adapter on {base!r}, which is no Hub id that others could load: publish those "
            f"weights, and write their id (user/name) as `base_model_name_or_path` in {str(folder / ADAPTER)!r} and "
            f"by `ila card --model {folder}` into the card."
        )
    return problems


def _missing_of_all(folder: Path, files: dict[str, int], required: tuple[str, ...]) -> list[str]:
    kind = _read_object(folder / "config.json").get("model_type") if "config.json" in files else None
    if kind not in (None, "ila"):
        allowed = "an IlaForVideoClassification or IlaModel, which `hub.export` takes"
        raise PublishError(f"{str(folder)!r} holds a model of type {kind!r}; allowed: {allowed}.")
    problems = [f"{name} is missing" for name in required if name not in files]
    if not any(name in files for name in PROCESSORS):
        problems.append(f"there is no processor ({', '.join(PROCESSORS)})")
    return problems


def _missing_files(folder: Path, files: dict[str, int]) -> list[str]:
    if problems := _missing_of_all(folder, files, REQUIRED):
        return problems
    if INDEX in files and WEIGHTS in files:
        problems.append(f"{WEIGHTS} and {INDEX} are both there, and only one of them would be loaded")
    elif INDEX in files:
        shards = sorted({str(shard) for shard in _read_object(folder / INDEX, "weight_map").values()})
        problems += [f"{shard} is missing, {INDEX} names it" for shard in shards if shard not in files]
    elif WEIGHTS not in files:
        problems.append(f"there are no weights ({WEIGHTS} or {INDEX})")
    if "AutoModelForVideoClassification" not in _read_object(folder / "config.json", "auto_map"):
        problems.append("config.json does not name the code (auto_map)")
    config = _read_object(folder / "config.json")
    has_text_tower = config.get("classification_head") == "text" and config.get("class_features") != "merged"
    if has_text_tower and "tokenizer.json" not in files:
        problems.append("tokenizer.json is missing, new class names need it: an IlaProcessor has one")
    for code in [name for name in files if name.endswith("_ila.py")]:
        imported = RELATIVE_IMPORT.findall((folder / code).read_text(encoding="utf-8", errors="replace"))
        problems += [f"{name}.py is missing, {code} needs it" for name in imported if f"{name}.py" not in files]
    return list(dict.fromkeys(problems))


def _read_object(path: Path, key: str | None = None) -> dict[str, Any]:
    """Read the object in a JSON file, or the one under a key of it; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{str(path)!r} is no JSON: {error}.") from error
    part = content.get(key) if key is not None and isinstance(content, dict) else content
    return part if isinstance(part, dict) else {}


def _read_card(folder: Path) -> tuple[ModelCard, ModelFacts]:
    try:
        card = ModelCard.load(folder / "README.md")
        facts = read_facts(card)
    except OSError:
        raise
    except Exception as error:  # of the YAML library and of the Hub's
        raise PublishError(f"The card {str(folder / 'README.md')!r} cannot be read: {one_line(error)}") from error
    adapter = read_adapter(folder)
    fields = {"library_name": library(adapter), "pipeline_tag": "video-classification"}
    if adapter is not None:
        fields["base_model"] = adapter["base_model_name_or_path"]
    wrong = [
        f"{field} is {card.data.get(field)!r} and must be {value!r}"
        for field, value in fields.items()
        if card.data.get(field) != value
    ]
    if found := UNFILLED.search(card.text):
        wrong.append(f"places were not filled in ({card.text[found.start() :][:30]!r})")
    if wrong:
        mended = f"`ila card --model {folder}` writes one that is"
        raise PublishError(f"The card {str(folder / 'README.md')!r} is not right: {'; '.join(wrong)}; {mended}.")
    return card, facts


def _check_trained(folder: Path) -> None:
    untrained = _read_object(folder / "config.json").get("untrained_weights")
    if untrained:
        raise PublishError(
            f"Nothing has trained {len(untrained)} of the weights in {str(folder)!r}, such as {untrained[0]!r}: they "
            "are random. Train the model, or call `model.mark_trained()`, and export it again."
        )


def _check_licence(folder: Path, facts: ModelFacts) -> None:
    if _read_object(folder / "config.json").get("weights_origin") == OFFICIAL_RELEASE and not facts.license:
        raise PublishError(
            f"The weights of {str(folder)!r} are, or began as, a published checkpoint's, for which nobody granted a "
            f"licence; the card does not say so. `ila card --model {folder}` writes one that does."
        )


def _check_results(folder: Path, facts: ModelFacts) -> None:
    """Raise a PublishError if the results are of other weights; load these only if the card has a fingerprint."""
    if facts.fingerprint is None:
        return
    try:
        found = fingerprint(load_classifier(folder, dtype="auto"))
    except Exception as error:  # of any kind, for a folder that does not load
        raise PublishError(f"{str(folder)!r} does not load: {one_line(error)}") from error
    if not facts.are_of(found):
        raise PublishError(
            f"The results in the card of {str(folder)!r} are of other weights or class names than it holds: "
            f"`ila card --model {folder} --reports ...` writes a card of these."
        )


def _try(folder: Path, video: str | Path | None) -> dict[str, Any]:
    """Return the best answer for the clip, from a process that has only Transformers and the folder."""
    with tempfile.TemporaryDirectory() as place:
        if video is None:
            video = Path(place) / "clip.mp4"
            _write_clip(video)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": place, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-W", "ignore", "-c", TRY_OUT, str(folder.resolve()), str(video)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode != 0:
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise PublishError(f"{str(folder)!r} cannot label a clip without this package: {reason}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def _try_adapter(folder: Path, video: str | Path | None) -> dict[str, Any]:
    """Return the best answer for the clip, by the adapter on its weights below."""
    try:
        model, processor = load_trained(folder)
        with tempfile.TemporaryDirectory() as place, torch.no_grad():
            if video is None:
                video = Path(place) / "clip.mp4"
                _write_clip(video)
            logits = model(**processor(str(video), return_tensors="pt")).logits[0]
    except Exception as error:  # of any kind, for a folder that does not load
        raise PublishError(f"{str(folder)!r} cannot label a clip: {one_line(error)}") from error
    scores = probabilities(logits, multi_label=model.config.problem_type == MULTI_LABEL)
    if not scores.isfinite().all():
        raise PublishError(f"{str(folder)!r} cannot label a clip: scores that are no numbers.")
    best = int(scores.argmax())
    return {"label": model.config.id2label[best], "score": float(scores[best])}


def _write_clip(path: Path) -> None:
    """Write two seconds of a bright square that moves to the right."""
    frames = np.full((16, 64, 64, 3), 40, dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[24:40, 3 * index : 3 * index + 16] = 220
    write_mp4(path, frames)


def one_line(error: Exception) -> str:
    """Write an error on one line, with its class where the message alone would not say what happened."""
    speaks = isinstance(error, (HfHubHTTPError, ValueError, yaml.YAMLError))
    speaks = speaks and not isinstance(error, json.JSONDecodeError)
    return ("" if speaks else f"{type(error).__name__}: ") + " ".join(str(error).split())[:300]
