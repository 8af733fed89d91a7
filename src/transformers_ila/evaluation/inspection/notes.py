"""What pictures of an inspection do not mean, in sentences."""

from collections import Counter
from typing import Any

import torch

from ...backbones.frozen_clip import FrozenClipForVideoClassification
from ...backbones.siglip import SiglipForVideoClassification
from ...model.pretrained_ila import describe_untrained, untrained_weights
from ...model.validation_ila import mixes_time
from ...model.video_processing_ila import IlaVideoProcessor
from ..frame_information import TEMPERATURE
from ..layer_patches import alignments_of, layers_of
from .clips import Clip
from .result import Inspection


CENTRE = 1e-6  # how far from it a point counts as standing in the centre


def notes_of(model: Any, processor: IlaVideoProcessor, clip: Clip, inspection: Inspection) -> list[str]:
    """Return sentences that say what pictures of an inspection do not mean."""
    notes = []
    untrained = untrained_weights(model)
    if untrained:
        notes.append(f"The model is random in part: {describe_untrained(untrained, model.new_parameters)}.")
    if inspection.points or inspection.masks:
        notes += notes_of_alignment(model, inspection.points, inspection.masks)
    if inspection.features:
        high = {"mean": "mean over its channels", "norm": "norm"}[inspection.about["reduce"]]
        notes.append(f"A place with a high value has a high {high}; the label need not hang on it.")
    notes += _notes_of_tower(model, inspection)
    if inspection.information:
        notes.append(
            f"Mutual information takes the softmax of cosines over {TEMPERATURE} for what the paper leaves open."
        )
    if inspection.temporal is not None:
        notes += inspection.temporal.notes
    if not inspection.labels:
        notes.append("The model's classes have no names, so there is no label.")
    if getattr(model, "_has_placeholders", bool)():
        notes.append("Placeholders stand for the names of the classes, so the label means nothing.")
    notes += _notes_of_clip(processor, clip)
    return notes


def notes_of_alignment(model: Any, points: dict[int, torch.Tensor], masks: dict[int, torch.Tensor]) -> list[str]:
    """Return sentences that say what pictures of points and masks, as an inspection has them, do not mean."""
    config = next(iter(alignments_of(model).values())).pairs.config
    fusion, notes = config.alignment_fusion, []
    if fusion in ("interaction", "residual"):
        notes.append(
            f'The label does not hang on the points alone: with alignment_fusion="{fusion}" frames also exchange '
            "features that no mask weights."
        )
    else:
        notes.append("The label does not hang on the points alone: each frame also keeps all of its own patches.")
    if fusion == "residual":
        notes.append("A frame is weighted by the mean of its masks in all its pairs; shown is that as current frame.")
    if config.alignment_pairing != "adjacent":
        notes.append(f"Points and masks are of pairs with the {config.alignment_pairing} frame of the clip.")
    if not config.alignment_beta:
        notes.append("The masks are flat (alignment_beta=0), so it makes no difference where the points are.")
    centred = [layer for layer, of_layer in points.items() if of_layer.abs().max() < CENTRE]
    if centred:
        notes.append(
            f"In layers {', '.join(map(str, centred))} all points stand in the centre, where untrained ones begin."
        )
    if masks and config.alignment_jitter:
        notes.append("The masks are those of inference; in training they jitter around their points.")
    return notes


def _notes_of_tower(model: Any, inspection: Inspection) -> list[str]:
    if not (inspection.features or inspection.information or inspection.distances):
        return []
    if hasattr(model, "timesformer"):
        if all(layer.temporal_module == "none" for layer in layers_of(model)):
            return ["Frames see each other by the one class token alone: feature maps show hardly any motion."]
        return []
    mixes = not isinstance(model, SiglipForVideoClassification) and mixes_time(model.config.vision_config)
    notes = [] if mixes else ["No frame sees another in this tower: its feature maps show no motion."]
    if isinstance(model, FrozenClipForVideoClassification):
        trained = "only what is temporal in it was trained" if mixes else "its feature maps are of before the training"
        notes.append(f"The tower is CLIP's and frozen: {trained}.")
    return notes


def _notes_of_clip(processor: IlaVideoProcessor, clip: Clip) -> list[str]:
    notes = []
    repeated = len(clip.indices) - len(Counter(clip.indices))
    if repeated:
        notes.append(f"{repeated} of {len(clip.indices)} frames are repeats: there are not as many to choose from.")
    if clip.seed is not None:
        notes.append(f"The frames were drawn at random, from seed {clip.seed}.")
    if clip.lost:
        notes.append(f"{clip.lost} frames of the video are damaged.")
    if processor.num_clips * processor.num_crops > 1:
        notes.append(
            f"Shown is one clip with one centre crop; the processor gives {processor.num_clips} x "
            f"{processor.num_crops} views."
        )
    return notes
