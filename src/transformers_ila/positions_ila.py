"""Position embeddings at other sizes: what a checkpoint was made for, and how its positions become others."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
from transformers.models.x_clip.modeling_x_clip import XCLIPMultiframeIntegrationTransformer


TIME_PARAMETERS = ("time_embedding", "pixel_weights", "region_weights")


def vision_sizes(config: PreTrainedConfig) -> dict[str, int]:
    vision = getattr(config, "vision_config", config)
    return {"num_frames": vision.num_frames, "image_size": vision.image_size}


def set_vision_sizes(config: PreTrainedConfig, sizes: dict[str, int]) -> None:
    vision = getattr(config, "vision_config", config)
    vision.num_frames, vision.image_size = sizes["num_frames"], sizes["image_size"]


def stored_sizes(config_class: Any, path: Any, wanted: dict[str, int], **source: Any) -> dict[str, int]:
    """Number of frames and image size of a checkpoint; `wanted` frames for a CLIP checkpoint, which knows none."""
    sizes = vision_sizes(config_class.from_pretrained(path, **source))
    config_dict, _ = config_class.get_config_dict(path, **source)
    knows_frames = "num_frames" in config_dict.get("vision_config", config_dict)
    return sizes if knows_frames else {**sizes, "num_frames": wanted["num_frames"]}


def resize_frame_positions(mit: XCLIPMultiframeIntegrationTransformer, num_frames: int) -> None:
    """Linear interpolation over frames, in place."""
    weight = mit.position_embedding.detach()  # (1, T, E)
    resized = F.interpolate(weight.float().mT, size=num_frames, mode="linear").mT
    mit.position_embedding = nn.Parameter(resized.to(weight.dtype).contiguous())


def resize_time_parameters(model: nn.Module, num_frames: int) -> bool:
    """What the tower learned for each frame, or each pair of frames, for another number of them; whether any is there.

    Time embeddings (T, D) linearly; GTA's matrices (heads, groups, T, T) bilinearly, and such that what they sum up
    over the frames stays as large. In place.
    """
    owners = [(module, name) for module in model.modules() for name in TIME_PARAMETERS if hasattr(module, name)]
    for module, name in owners:
        weight = getattr(module, name).detach()
        if weight.ndim == 2:
            resized = F.interpolate(weight.float().mT[None], size=num_frames, mode="linear")[0].mT
        else:
            resized = F.interpolate(weight.float(), size=(num_frames, num_frames), mode="bilinear")
            resized = resized * (weight.shape[-1] / num_frames)
        setattr(module, name, nn.Parameter(resized.to(weight.dtype).contiguous()))
    return bool(owners)


def resize_patch_positions(embeddings: CLIPVisionEmbeddings, image_size: int) -> None:
    """Bicubic interpolation over the patch grid, in place; the class token's position stays."""
    weight = embeddings.position_embedding.weight.detach()  # (1 + grid * grid, D)
    before, after = math.isqrt(weight.shape[0] - 1), image_size // embeddings.patch_size
    patches = weight[1:].float().mT.unflatten(1, (before, before))[None]  # (1, D, grid, grid)
    patches = F.interpolate(patches, size=(after, after), mode="bicubic", align_corners=False)
    resized = torch.cat([weight[:1], patches[0].flatten(1).mT.to(weight.dtype)])
    embeddings.position_embedding = nn.Embedding.from_pretrained(resized, freeze=False)
    embeddings.image_size = image_size
    embeddings.num_patches, embeddings.num_positions = after * after, len(resized)
    embeddings.position_ids = torch.arange(len(resized), device=weight.device)[None]
