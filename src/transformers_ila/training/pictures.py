"""Pictures in TensorBoard at each evaluation: the confusion matrix, and example clips with where the model looked.

What is unusual here:
- The matrix is of the predictions that the trainer has made for its metrics: nothing is evaluated twice.
- The example clips are those of the first evaluation for all that follow, so that they can be compared.
- Only the first process draws, and no number of the training depends on it: no draw, mode or statistic changes.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging

from ..backbones.siglip import in_eval_mode
from ..evaluation.inference import probabilities
from ..evaluation.inspection.notes import notes_of_alignment
from ..evaluation.inspection.watched import OF_ALIGNMENT, Watched
from ..evaluation.layer_patches import alignments_of, grid_of, layers_of
from ..evaluation.metrics import predicted_classes
from ..model.targets_ila import IGNORE_INDEX
from ..model.validation_ila import MULTI_LABEL
from ..visualization.confusion import plot_confusion_matrix
from ..visualization.sheets import Row, plot_frames
from ..visualization.words import legible


logger = logging.get_logger(__name__)

LAYERS = 3  # shown of a clip: the first, one in the middle and the last
MATRIX_DPI, CLIP_DPI = 80, 130


def require_effect(trainer: Any) -> None:
    """Raise a ValueError where `tensorboard_pictures` of a trainer's arguments would have no effect."""
    args = trainer.args
    reasons = {
        "it needs `compute_metrics`, such as `top_accuracies` with `preprocess_logits_for_metrics=top5_indices`: its "
        "confusion matrix is of the predictions that the metrics are of": trainer.compute_metrics is None,
        "`batch_eval_metrics` keeps no predictions; allowed: False": args.batch_eval_metrics,
        "`prediction_loss_only` keeps no predictions; allowed: False": args.prediction_loss_only,
        "`eval_do_concat_batches` is False; allowed: True": not args.eval_do_concat_batches,
        "the evaluation data are a stream, in which no clip has a place; allowed: data with a length": any(
            isinstance(data, IterableDataset) for data in _sets_of(trainer.eval_dataset)
        ),
        "it needs whole weights, and FSDP and DeepSpeed shard them": trainer.is_fsdp_enabled
        or trainer.is_deepspeed_enabled,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"`tensorboard_pictures` is {args.tensorboard_pictures}: {reason}.")


def _sets_of(data: Any) -> list[Any]:
    return [*data.values()] if isinstance(data, dict) else [data]


class TensorBoardPictures:
    """Write the pictures of an evaluation to TensorBoard.

    count: how many example clips are shown of each evaluation set.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._evaluated: tuple[Any, Any, str] | None = None  # data set, output of the loop, prefix of its metrics
        self._examples: dict[str, list[int]] = {}  # prefix -> places in the data set
        self._said = set[str]()

    def remember(self, data: Any, output: Any, prefix: str) -> None:
        """Keep what an evaluation has found until `write` draws it."""
        self._evaluated = (data, output, prefix)

    def write(self, trainer: Any) -> None:
        """Write the pictures of the evaluation that was remembered; the first process does, for the others."""
        evaluated, self._evaluated = self._evaluated, None
        if evaluated is None or not trainer.is_world_process_zero():
            return
        data, output, prefix = evaluated
        callbacks = trainer.callback_handler.callbacks
        writer = next((one.tb_writer for one in callbacks if isinstance(one, TensorBoardCallback)), None)
        if writer is None:
            self._say("There are no pictures: the trainer's TensorBoardCallback was removed.")
            return
        step = trainer.state.global_step
        if output.label_ids is None or isinstance(data, IterableDataset):
            why = "have no labels" if output.label_ids is None else "are a stream"
            self._say(f"There are no pictures: the evaluation data {why}.")
            return
        labels = torch.as_tensor(output.label_ids)
        matrix = self._matrix(trainer.model.config, output.predictions, labels)
        if matrix is not None:
            figure = plot_confusion_matrix(matrix, trainer.model.config.class_names, title=f"{prefix}, step {step}")
            writer.add_image(_tag(prefix, "confusion_matrix"), pixels_of(figure, MATRIX_DPI), step, dataformats="HWC")
        for number, index in enumerate(self._places(prefix, data, labels), start=1):
            clip = self._draw(trainer, data, index, step)
            if clip is not None:
                writer.add_image(_tag(prefix, f"clip_{number}"), clip, step, dataformats="HWC")
        writer.flush()

    def _say(self, line: str) -> None:
        """Log a line once."""
        if line not in self._said:
            self._said.add(line)
            logger.warning(line)

    def _matrix(self, config: Any, predictions: Any, labels: torch.Tensor) -> torch.Tensor | None:
        """Return the confusion matrix (K, K) of what was read; None, which is logged, where there is none."""
        if config.problem_type == MULTI_LABEL or labels.ndim != 1:
            self._say(
                "There is no confusion matrix where a video may have several labels; the example clips are shown."
            )
            return None
        found = _predicted(predictions, config.num_labels)
        if found is None or len(found) != len(labels):
            self._say(
                "There is no confusion matrix: `preprocess_logits_for_metrics` makes neither logits (videos, classes) "
                "nor class indices, the best first, as `top5_indices` does."
            )
            return None
        read = (labels != IGNORE_INDEX) & (found >= 0)
        cells = labels[read].long() * config.num_labels + found[read].long()
        return cells.bincount(minlength=config.num_labels**2).reshape(config.num_labels, config.num_labels)

    def _places(self, prefix: str, data: Any, labels: torch.Tensor) -> list[int]:
        """Return where the example clips are in the data, the same at every evaluation of this prefix."""
        if prefix not in self._examples:
            self._examples[prefix] = spread_over_classes(class_of_each(labels)[: len(data)], self.count)
            if len(self._examples[prefix]) < self.count:
                self._say(f"There are {len(self._examples[prefix])} example clips, as no more videos could be read.")
        return self._examples[prefix]

    def _draw(self, trainer: Any, data: Any, index: int, step: int) -> np.ndarray | None:
        """Return the picture of a clip (H, W, 3); None, which is logged, where there is none now.

        An error here would end the first process alone, while the others wait for it.
        """
        try:
            batch = trainer.data_collator([data[index]])
            label = torch.as_tensor(batch["labels"])[0]
            if bool((label == IGNORE_INDEX).all()):
                raise ValueError("it cannot be read now")
            seen = _looked_at(trainer, batch)
            title = f"step {step} - {_title(trainer.model.config, label, seen.chances)}"
            frames = _frames(getattr(data, "processor", None) or trainer.processing_class, batch["pixel_values"])
            figure = plot_frames(frames, seen.rows, title=title, notes=seen.notes)
        except (ValueError, OSError) as error:  # of reading, or of what a model gives that has diverged (NaN)
            self._say(f"The example clip {index} has no picture: {error}")
            return None
        return pixels_of(figure, CLIP_DPI)


# -- which clips -----------------------------------------------------------------------------------------------------


def class_of_each(labels: torch.Tensor) -> list[int | None]:
    """Return the class of each video, of several the first, -1 where it has none; None where it was not read.

    labels: (N,) class indices or (N, K) of 0 and 1, in which -100 stands for a video that was not read.
    """
    if labels.ndim == 1:
        return [None if label == IGNORE_INDEX else int(label) for label in labels.tolist()]
    firsts = [next((index for index, flag in enumerate(row) if flag > 0), -1) for row in labels.tolist()]
    unread = (labels == IGNORE_INDEX).all(-1).tolist()
    return [None if not_read else first for first, not_read in zip(firsts, unread)]


def spread_over_classes(classes: Sequence[int | None], count: int) -> list[int]:
    """Return the places of `count` videos, spread over the classes as evenly as can be; of None there are none.

    With fewer videos than classes, the classes lie at equal steps among those that there are.
    """
    places = defaultdict[int, list[int]](list)
    for place, of in enumerate(classes):
        if of is not None:
            places[of].append(place)
    known = [places[of] for of in sorted(places)]
    if count <= len(known):
        return [known[number * len(known) // count][0] for number in range(count)]
    rounds = [of[turn] for turn in range(max(map(len, known), default=0)) for of in known if turn < len(of)]
    return sorted(rounds[:count], key=lambda place: (classes[place], place))


# -- what is seen in a clip ------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    chances: torch.Tensor  # (K,)
    rows: list[Row]
    notes: list[str]


def _looked_at(trainer: Any, batch: dict[str, Any]) -> _Seen:
    """Give the model one clip, and return what it says and rows of where it looked: masks, or else feature maps."""
    network = trainer.model
    base = network.get_base_model() if hasattr(network, "get_base_model") else network  # PEFT's adapters are in it
    inputs = trainer._prepare_inputs({name: value for name, value in batch.items() if name != "labels"})
    frames, _, height, width = inputs["pixel_values"].shape[-4:]
    grid, aligning = grid_of(base, height, width), alignments_of(base) if frames > 1 else {}
    layers = _some([*aligning] or [*range(len(layers_of(base)))])
    watched = Watched(base, grid, OF_ALIGNMENT if aligning else ("features",))
    with in_eval_mode(network), trainer.compute_loss_context_manager(), watched.watching(layers, frames):
        logits = network(**inputs).logits[0].float().cpu()
    if not bool(logits.isfinite().all()):
        raise ValueError("the model's logits are not finite numbers")
    chances = probabilities(logits[None], multi_label=base.config.problem_type == MULTI_LABEL)[0]
    if not aligning:
        rows = [Row(f"layer {index}, features", heat=watched.features[index]) for index in layers]
        return _Seen(chances, rows, ["The model has no alignment masks: shown are the means over the channels."])
    rows = [
        Row(f"layer {index}, mask", heat=watched.masks[index], points=watched.points[index], style="mask")
        for index in layers
    ]
    return _Seen(chances, rows, notes_of_alignment(base, watched.points, watched.masks))


def _some(layers: list[int]) -> list[int]:
    """Return three layers at most: the first, the middle and the last."""
    return sorted({layers[round(share * (len(layers) - 1))] for share in torch.linspace(0, 1, LAYERS).tolist()})


def _frames(processor: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the frames of one clip (1, T, 3, H, W), or of its first view, as pixels from 0 to 1."""
    clip = pixel_values[0, 0] if pixel_values.ndim == 6 else pixel_values[0]
    if not clip.is_floating_point():
        return clip.float() / 255
    clip = clip.float()
    processor = getattr(processor, "video_processor", processor)
    if getattr(processor, "do_normalize", False):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
        return (clip * std + mean).clamp(0, 1)
    low, high = clip.min(), clip.max()  # nobody says what the numbers are
    return (clip - low) / (high - low).clamp(min=1e-6)


def _title(config: Any, label: torch.Tensor, chances: torch.Tensor) -> str:
    """Return the label of a clip and what the model says of it, in words."""
    names = [legible(name, f"class {index}") for index, name in enumerate(config.class_names)]
    best = chances.topk(min(3, len(names)))
    said = ", ".join(f"{names[index]} ({chance:.0%})" for chance, index in zip(best.values, best.indices.tolist()))
    if label.ndim:
        true = [index for index, flag in enumerate(label.tolist()) if flag > 0]
        return f"labels: {', '.join(names[index] for index in true) or 'none'} - predicted: {said}"
    verdict = "right" if int(best.indices[0]) == int(label) else "wrong"
    return f"label: {names[int(label)]} - predicted, {verdict}: {said}"


# -- numbers and tags ------------------------------------------------------------------------------------------------


def _predicted(predictions: Any, classes: int) -> torch.Tensor | None:
    """Return (N,) the predicted class of each video, whatever the metrics are computed from; None if none can tell.

    predictions: logits (N, K); class indices, (N,) or (N, 5) with the best first; or a tuple that begins with such.
    """
    first = predictions[0] if isinstance(predictions, (tuple, list)) else predictions
    found = torch.as_tensor(first)
    if found.is_floating_point():
        return predicted_classes(found.float().nan_to_num()) if found.shape[1:] == (classes,) else None
    best = found[:, 0] if found.ndim == 2 else found
    return best if best.ndim == 1 and bool((best < classes).all()) else None


def _tag(prefix: str, name: str) -> str:
    """Return a name as TensorBoard has those of the metrics: "eval_val" becomes "eval/val_..."."""
    return f"eval/{prefix[5:]}_{name}" if prefix.startswith("eval_") else f"{prefix}/{name}"


def pixels_of(figure: Any, dpi: float) -> np.ndarray:
    """Return a figure as it is shown, (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
