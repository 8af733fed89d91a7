"""A small tower that sees what single pictures show: what CLIP's weights are to real videos, made in two minutes.

Its class token learns where each sprite of MotionBench's pictures is, how large, which way up and how bright, and
nothing of motion: every picture is alone. Temporal modules that begin from it are compared as the papers compare them,
on a tower that knows pictures.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.configuration_ila import _VISION_FIELDS, IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from ..motionbench.tasks import bench_videos


SEEN = ("flag", "disc", "square")  # shapes whose states are learned
STATES = 4  # x, y, size phase, turn, each as cosine and sine; then the light, and whether the shape is there
TARGETS = 2 * STATES + 2


def pictures_and_states(
    *, per_class: int, seed: int, side: int, every: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return frames of MotionBench's training split and the states of what they show.

    Args:
        per_class: videos of each class. seed: of the videos. side: of a frame, in pixels. every: step between frames.

    Returns:
        Frames (P, 3, S, S) uint8, targets (P, len(SEEN) * TARGETS), and weights of that shape: 1 where a target
        counts, else 0.
    """
    pictures, targets, counted = [], [], []
    for video, scene in bench_videos("train", per_class=per_class, seed=seed, side=side):
        frames = video.frames[::every]
        target = np.zeros((len(frames), len(SEEN), TARGETS), dtype=np.float32)
        counts = np.zeros_like(target)
        counts[..., -1] = 1
        for sprite in scene.sprites:
            if sprite.shape not in SEEN:
                continue
            place, angles = SEEN.index(sprite.shape), 2 * np.pi * sprite.states[::every]
            target[:, place, :STATES], target[:, place, STATES : 2 * STATES] = np.cos(angles), np.sin(angles)
            target[:, place, -2] = 1 if sprite.light is None else sprite.light[::every]
            target[:, place, -1], counts[:, place] = 1, 1
            if sprite.shape != "flag":  # another turn of it looks the same
                counts[:, place, [STATES - 1, 2 * STATES - 1]] = 0
        pictures.append(frames)
        targets.append(target)
        counted.append(counts)
    stacked = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).contiguous()
    wanted, counting = (torch.from_numpy(np.concatenate(part)).flatten(1) for part in (targets, counted))
    return stacked, wanted, counting


def pretrain_on_frames(
    fields: dict[str, Any],
    *,
    steps: int = 3000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    per_class: int = 160,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], object] | None = None,
) -> IlaForVideoClassification:
    """Train plain frames of a configuration on single pictures.

    Args:
        fields: of IlaConfig; the temporal module, frame integration and head are left out.
        per_class: videos of each of MotionBench's classes that the pictures are taken from.
        progress: called after each step with its number and its mean squared error.

    Returns:
        A model to save, as CLIP's checkpoints are: its configuration is that of `fields`, its weights lack what
        pictures do not need.
    """
    torch.manual_seed(seed)
    plain = {"temporal_module": "none", "mit_num_hidden_layers": 0, "num_frames": 1, "num_labels": len(SEEN) * TARGETS}
    plain |= {"classification_head": "linear", "classifier_dropout": 0.0}
    config = IlaConfig(**{**IlaConfig.fields_in_use(fields, plain), **plain})
    model = IlaForVideoClassification(config).to(device).train()
    processor, side = IlaVideoProcessor.for_model(config), config.vision_config.image_size
    pictures, targets, counted = pictures_and_states(per_class=per_class, seed=seed + 1, side=side)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(len(pictures), (batch_size,), generator=order)
        batch = ((pictures[chosen] / 255 - mean) / std)[:, None].to(device)
        weights = counted[chosen].to(device)
        error = (model(batch).logits - targets[chosen].to(device)).square() * weights
        loss = error.sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, loss.item())
    model.set_labels(["picture", "other"])  # what read the states off is not kept
    # who loads the tower gets the rest, drawn anew: in its own module, and causal or not
    plain = {"temporal_module": "none"}
    whole = IlaConfig(**{**IlaConfig.fields_in_use(fields, plain), **plain}).vision_config
    for name in _VISION_FIELDS:
        setattr(model.config.vision_config, name, getattr(whole, name))
    return model.eval().cpu()


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def save_pretrained_tower(model: IlaForVideoClassification, folder: str | Path) -> None:
    """Save the tower as a checkpoint to start from, with its processor."""
    model.save_pretrained(folder)
    IlaVideoProcessor.for_model(model.config).save_pretrained(folder)
