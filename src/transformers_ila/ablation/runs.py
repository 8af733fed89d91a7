"""The runs of an ablation: one variant and seed is trained and tested, and its result is a file.

What is unusual here:
- A video is a choice among its own task's classes: the logits of other tasks take no part, neither in the loss nor in
  the accuracy, so that a task's chance is 1 / its classes. A user's own lists are one task.
- All variants begin from the same tower: CLIP's weights, or a small one that has learned single pictures
  (`image_pretraining.py`). Only what a seed draws differs between runs of a variant.
- Every finished run is a file, so a broken ablation goes on, and several processes may share one folder.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.utils import logging

from ..data.annotations import read_annotations
from ..data.samples import Annotations, Sample
from ..data.video_folder import VideoFolder
from ..evaluation.evaluator import collect_logits
from ..evaluation.frame_information import earth_movers_distance, last_patches, mutual_information
from ..evaluation.options import EvaluationOptions
from ..files import FolderInUseError, atomic_folder, only_writer
from ..model.configuration_ila import IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from ..motionbench.tasks import write_bench
from ..training.arguments import IlaTrainingArguments
from ..training.augmentation import ClipAugmentation
from ..training.clips import TrainingClips
from ..training.inputs import load_for_classes
from ..training.trainer import IlaTrainer
from ..version import __version__
from .ablation import Ablation
from .image_pretraining import pretrain_on_frames, save_pretrained_tower
from .results import in_turns, refuse_other, result_file, tower_digest, write_json


logger = logging.get_logger(__name__)


OTHER_TASKS = -1e4  # logit of a class of another task
KEPT_BYTES = 8 * 2**30  # of processed training videos; sets that need more are read anew in every epoch
MEASURED = 64  # test videos whose frames are compared
PROVENANCE = "made_of.json"  # beside a tower or checkpoints: the numbers that they depend on
# Of a variant that does not say so, whatever its weights come from.
VARIANT_DEFAULTS = {"temporal_module": "ila", "alignment_causal": False}
RIGHT, WRONG, UNREADABLE = "1", "0", "-"  # of a test video, in a result's "right"


class RunInProgress(RuntimeError):
    """Report that another process is at the same run."""


# -- the same start and data for all ---------------------------------------------------------------------------------


@dataclass
class SharedInputs:
    """Hold what all runs share: weights to begin from, videos to learn from, and videos to be tested on."""

    weights: str
    processor: IlaVideoProcessor
    training: VideoFolder | Annotations
    test: list[Sample]


def prepare(
    ablation: Ablation, folder: str | Path, *, progress: Callable[[str], object] = logger.info
) -> SharedInputs:
    """Write MotionBench's videos, or read the user's lists, and train the small tower, unless that was done before.

    Raises:
        ValueError: what is there was made of other numbers; a fault in a list.
        OSError: a list cannot be read, or videos cannot be written.
    """
    folder = Path(folder)
    with in_turns(folder, "prepare"):
        if ablation.lists is None:
            progress(f"MotionBench, {ablation.bench}: {folder / 'bench'}")
            splits = write_bench(folder / "bench", size=ablation.bench, seed=ablation.bench_seed, tasks=ablation.tasks)
            training, test = (read_annotations(splits[name]) for name in ("train", "test"))
            assert training.class_names == ablation.class_names
        else:
            training, test = ablation.lists
            progress(f"{len(training.samples)} videos to learn from, {len(test.samples)} to be tested on.")
        weights = ablation.clip or str(folder / "tower")
        if ablation.clip is None:
            _prepare_tower(ablation, folder, progress)
    config = IlaConfig.from_pretrained(weights, num_frames=ablation.model.get("num_frames", 8))
    size = config.vision_config.image_size
    if ablation.lists is not None:
        return SharedInputs(weights, IlaVideoProcessor.for_model(config), training, test.samples)
    processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": size})
    keep = len(training.samples) * processor.num_frames * 3 * size * size * 4 <= KEPT_BYTES
    return SharedInputs(weights, processor, VideoFolder(training.pairs(), processor, keep=keep), test.samples)


def training_set(ablation: Ablation, start: SharedInputs, seed: int) -> Dataset:
    """Return the clips of a run: MotionBench's are not augmented, a user's are."""
    if not isinstance(start.training, Annotations):
        return start.training
    size = dict(start.processor.crop_size)["height"]
    augment = ClipAugmentation.for_classes(ablation.class_names, size=size, **ablation.augmentation)
    return TrainingClips(start.training, start.processor, augment=augment, seed=seed)


def _prepare_tower(ablation: Ablation, folder: Path, progress: Callable[[str], object]) -> None:
    """Train the tower that all runs begin from, unless the folder has it."""
    tower, made_of = folder / "tower", {"model": ablation.model, "pictures": ablation.pictures}
    if (tower / "config.json").is_file():
        known = (tower / PROVENANCE).is_file()
        refuse_other(tower, json.loads((tower / PROVENANCE).read_text()) if known else {}, made_of)
        return
    started = time.perf_counter()

    def say(step: int, error: float) -> None:
        if step % 500 == 0:
            progress(f"Learning pictures: {step} steps, mean squared error {error:.3f}")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = pretrain_on_frames(ablation.model, device=device, progress=say, **ablation.pictures)
    with atomic_folder(tower) as draft:
        save_pretrained_tower(model, draft)
        write_json(draft / PROVENANCE, made_of)
    progress(f"A tower that has learned pictures, in {time.perf_counter() - started:.0f} s: {tower}")


def start_model(ablation: Ablation, variant: str, weights: str) -> IlaForVideoClassification:
    """Build a variant on the weights that all begin from.

    New weights are drawn from torch's generator. A text head has orthogonal class features where there are no CLIP
    weights, whose words could be compared.
    """
    labels, of_weights = ablation.class_names, ("vision_config", "id2label", "label2id")
    fields = {name: value for name, value in ablation.fields_of(variant).items() if name not in of_weights}
    wanted = {**VARIANT_DEFAULTS, **fields}
    if wanted.get("classification_head") != "text" or ablation.clip is not None:
        return load_for_classes(weights, labels, **wanted)
    model = IlaForVideoClassification.from_pretrained(weights, class_features="embeddings", **wanted)
    classes = torch.nn.init.orthogonal_(torch.empty(len(labels), model.config.projection_dim))
    model.set_class_embeddings(classes, labels)
    return model


def task_mask(tasks: Sequence[str]) -> torch.Tensor:
    """Return which classes belong to the same task as each class, (K, K) bool, from every class's task."""
    return torch.tensor([[one == other for other in tasks] for one in tasks])


class TaskTrainer(IlaTrainer):
    """Train as `IlaTrainer`, and ask for the class among those of the video's own task."""

    def __init__(self, *args: Any, own: torch.Tensor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = own

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        # with labels the alignment loss is an entry: mixed precision makes the output anew, of its entries only
        outputs = model(pixel_values=inputs["pixel_values"], labels=labels)
        plain = self.accelerator.unwrap_model(self.model)
        logits = outputs.logits.masked_fill(~self.own.to(labels.device)[labels], OTHER_TASKS)
        outputs.loss = plain.add_alignment_loss(plain.classification_loss(logits, labels), outputs.alignment_loss)
        if model.training:
            self._count(outputs.loss, outputs.alignment_loss, len(labels))
        return (outputs.loss, outputs) if return_outputs else outputs.loss


# -- one run ---------------------------------------------------------------------------------------------------------


def run(
    ablation: Ablation, variant: str, seed: int, start: SharedInputs, folder: str | Path, *, keep_model: bool = False
) -> dict[str, Any]:
    """Train and test one variant with one seed, and write its result; a checkpoint that was left is continued.

    keep_model: leave model and processor beside the result, in `seed<N>_model`.

    Raises:
        InterruptedError: SIGTERM ended the training before its last step; nothing is written but a checkpoint.
        RunInProgress: another process is at it.
        ValueError: a checkpoint of another ablation, or several GPUs for one process.
    """
    file = result_file(folder, variant, seed)
    with ExitStack() as stack:
        try:
            stack.enter_context(only_writer(file.parent, f".{file.stem}.lock"))
        except FolderInUseError as error:
            raise RunInProgress(f"{variant}, seed {seed}: another process is at it. {error}") from None
        return _run(ablation, variant, seed, start, folder, keep_model)


def _run(
    ablation: Ablation, variant: str, seed: int, start: SharedInputs, folder: str | Path, keep_model: bool
) -> dict[str, Any]:
    file = result_file(folder, variant, seed)
    checkpoints, decided = file.with_suffix(""), ablation.decided(variant)
    if (checkpoints / PROVENANCE).is_file():
        refuse_other(checkpoints, json.loads((checkpoints / PROVENANCE).read_text()), decided)
    write_json(checkpoints / PROVENANCE, decided)
    started = time.perf_counter()
    set_seed(seed)
    model = start_model(ablation, variant, start.weights)
    steps = ablation.training.get("max_steps", 0)
    defaults: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    defaults["logging_steps"] = min(100, steps) if steps > 0 else 100
    if not torch.accelerator.is_available():
        defaults["use_cpu"] = True
    arguments = IlaTrainingArguments(str(checkpoints), seed=seed, **{**defaults, **ablation.training})
    if arguments.n_gpu > 1:
        raise ValueError(f"{arguments.n_gpu} GPUs for one process; name one by CUDA_VISIBLE_DEVICES, and use --part.")
    own = task_mask(ablation.class_tasks)
    trainer = TaskTrainer(model=model, args=arguments, train_dataset=training_set(ablation, start, seed), own=own)
    trainer.train(resume_from_checkpoint=checkpoints.is_dir() or None)
    if trainer.stop.stopped:
        raise InterruptedError(f"{variant}, seed {seed}, was stopped; the same command goes on.")
    trained = time.perf_counter() - started
    logs = [line for line in trainer.state.log_history if "classification_loss" in line]
    result = {
        "variant": variant,
        "seed": seed,
        "decided": decided,
        "tower": tower_digest(Path(start.weights).parent),
        "version": __version__,
        "train_seconds": trained,  # whatever else the machine did meanwhile
        "train_loss": logs[-1]["classification_loss"] if logs else None,
        **measure(ablation, model, start),
    }
    if trainer.is_world_process_zero():
        if keep_model:
            for kept in (model, start.processor):
                kept.save_pretrained(file.with_name(f"{file.stem}_model"))
        write_json(file, result)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def measure(ablation: Ablation, model: IlaForVideoClassification, start: SharedInputs) -> dict[str, Any]:
    """Measure on the test videos each task's accuracy for each order of the frames, and what frames share.

    "right" has for each task a letter for each of its test videos, in their order: whether the answer was right, or
    that the video could not be read.

    Raises:
        ValueError: no test video of a task can be read.
    """
    found = collect_logits(
        model, start.processor, start.test, EvaluationOptions(batch_size=64, temporal_reliance=True)
    )
    own = task_mask(ablation.class_tasks)[found.labels]
    tasks = [ablation.task_of(ablation.class_names[sample.labels[0]]) for sample in start.test]
    letters = {}
    for order, logits in {"as_is": found.logits, **found.reordered}.items():
        right = logits.masked_fill(~own, OTHER_TASKS).argmax(-1) == found.labels
        answers = dict(zip(found.positions, (RIGHT if good else WRONG for good in right.tolist())))
        letters[order] = {task: "" for task in dict.fromkeys(tasks)}
        for position, task in enumerate(tasks):
            letters[order][task] += answers.get(position, UNREADABLE)
    return {
        "accuracy": {
            order: {task: share_right(of_task) for task, of_task in of_order.items()}
            for order, of_order in letters.items()
        },
        "right": letters["as_is"],
        **_shared_by_frames(model, start, [start.test[position] for position in found.positions]),
    }


def share_right(letters: str) -> float:
    """Return the share of right answers among the videos that could be read."""
    read = len(letters) - letters.count(UNREADABLE)
    if not read:
        raise ValueError(f"None of {len(letters)} test videos can be read.")
    return letters.count(RIGHT) / read


def _shared_by_frames(
    model: IlaForVideoClassification, start: SharedInputs, videos: Sequence[Sample]
) -> dict[str, float]:
    """Return how much neighbouring frames share in the last layer, as means over videos spread over the list."""
    chosen = videos[:: max(1, len(videos) // MEASURED)][:MEASURED]
    clips = [start.processor(sample.source(), return_tensors="pt")["pixel_values"] for sample in chosen]
    patches = last_patches(model.eval(), torch.cat(clips).to(model.device))
    return {
        "transport_distance": float(earth_movers_distance(patches).mean()),
        "shared_information": float(mutual_information(patches).mean()),
    }


def mean_accuracy(result: Mapping[str, Any], order: str = "as_is") -> float:
    """Return the mean of the tasks' accuracies; each task counts once."""
    return statistics.mean(result["accuracy"][order].values())
