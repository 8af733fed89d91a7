"""Streams beside whole videos: models in which every pair of frames counts, ways to cut a video, references.

The reference is the tower's forward over the whole video (`any_num_frames=True`), and for logits the model's own frame
integration and head on the features of the last T frames, with the oldest in the place of those that are missing.
"""

import random
from typing import Any

import torch

from support.tiny_models import TINY_TEXT
from transformers_ila import IlaConfig
from transformers_ila.model.pretrained_ila import IlaVisionModelOutput


SIDE = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
GRIDS = ((12, 12), (8, 20))  # pixels; the second needs interpolated positions
KINDS: dict[str, dict[str, Any]] = {
    "separable": {},
    "standard": {"alignment_conv": "standard"},
    "windows": {"alignment_operator": "window_attention"},
}
FUSIONS, PAIRINGS = ("interaction", "mi_token", "add", "concat"), ("adjacent", "first")
TOWERS: dict[str, dict[str, Any]] = {
    "a ViT": {"patch_bias": True, "pre_layer_norm": False},
    "a DINOv2": {"patch_bias": True, "pre_layer_norm": False, "num_register_tokens": 2, "gated_mlp": True},
    "the last layer": {"alignment_layers": [1]},
    "Eq. 6 as it reads": {"alignment_distance": "euclidean"},
}
CAUSAL: dict[str, dict[str, Any]] = {
    f"{fusion}, {pairing}, {kind}": {"alignment_fusion": fusion, "alignment_pairing": pairing, **fields}
    for fusion in FUSIONS
    for pairing in PAIRINGS
    for kind, fields in KINDS.items()
}
OLD = {f"old {name}": fields for name, fields in CAUSAL.items() if not name.startswith("interaction")}
CAUSAL |= {f"interaction on {name}": {"alignment_fusion": "interaction", **fields} for name, fields in TOWERS.items()}
CAUSAL |= {"mi_token on a DINOv2": {"alignment_fusion": "mi_token", **TOWERS["a DINOv2"]}}
OLD |= {"old mi_token on a DINOv2": {"alignment_fusion": "mi_token", **TOWERS["a DINOv2"]}}
CAUSAL |= {"shift": {"temporal_module": "shift", "shift_division": 4}}
CAUSAL = {name: {**fields, "alignment_causal": True} for name, fields in CAUSAL.items()}
ALONE = {name: {"temporal_module": name} for name in ("none", "average")}  # frames that see no other frame
STREAMING = {**CAUSAL, **OLD, **ALONE}
HEADS: dict[str, dict[str, Any]] = {
    "prompts": {},
    "names": {"use_video_prompt": False},
    "linear": {"classification_head": "linear"},
    "mean": {"mit_num_hidden_layers": 0, "use_video_prompt": False},
    "mean of unit length": {"mit_num_hidden_layers": 0, "normalize_frames": True, "use_video_prompt": False},
    "mean, prompts": {"mit_num_hidden_layers": 0},
    "several labels": {"problem_type": "multi_label_classification"},
}


def stream_config(**fields: Any) -> IlaConfig:
    """A configuration that computes a frame in a millisecond; `fields` as for IlaConfig."""
    vision = {**SIDE, "image_size": 12, **fields.pop("vision_config", {})}
    if fields.get("alignment_fusion") in ("add", "concat"):  # which scale patches: a layer norm takes that back
        vision["layer_norm_eps"] = 0.5  # unless this is large
    text = {**TINY_TEXT, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"projection_dim": 16, "num_frames": 4, "num_labels": 5}
    if "temporal_module" not in fields:
        sizes["alignment_hidden_size"] = 32
    return IlaConfig(**{"vision_config": vision, "text_config": text, **sizes, **fields})


def strong(model: Any, seed: int = 0) -> Any:
    """The model in eval mode, its weights strong enough to pass on what they take in, statistics as after training.

    A new model's points lie in the centre, its new layers add 0, and its attention hardly changes a frame: a stream
    that mixed up its frames would not show.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".layers." in name and weight.ndim > 1:
                weight.copy_(1.5 * normal(weight) * weight[0].numel() ** -0.5)
            else:
                weight += 0.2 * normal(weight)
        for name, values in model.named_buffers():
            if name.endswith("running_mean"):
                values.copy_(0.5 * normal(values))
            elif name.endswith("running_var"):
                values.copy_(normal(values).abs() + 0.3)
    return model.eval()


def moving_video(batch: int, frames: int, size: tuple[int, int], seed: int = 0, dtype: Any = torch.float64) -> Any:
    """Normalised frames in which half of what there is stays and half is new: (batch, frames, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(batch, 1, 3, *size, generator=generator)
    return (still + torch.randn(batch, frames, 3, *size, generator=generator)).to(dtype)


def random_chunks(frames: int, draw: random.Random, most: int = 6) -> list[int]:
    """Lengths of chunks that a video of so many frames is cut into."""
    chunks: list[int] = []
    while sum(chunks) < frames:
        chunks.append(min(draw.randint(1, most), frames - sum(chunks)))
    return chunks


def even_chunks(frames: int, length: int) -> list[int]:
    return [min(length, frames - start) for start in range(0, frames, length)]


def push_all(model: Any, video: torch.Tensor, chunks: list[int], cache: Any = None, **options: Any) -> list[Any]:
    """Push a video in chunks, to a new cache unless one is given: an output for each."""
    cache = model.start_stream(len(video)) if cache is None else cache
    return [model.push(chunk, cache, **options) for chunk in video.split(chunks, dim=1)]


def by_frame(outputs: list[Any], field: str, row: int = 0) -> torch.Tensor:
    """What a row's frames gave, (frames, ...), in order; a frame that is missing or comes twice is an error."""
    found: list[torch.Tensor] = []
    for output in outputs:
        values = output[field]
        frames = output.frames[:, output.frames.shape[1] - values.shape[1] :]  # logits may be of the last ones only
        for index, value in zip(frames[row].tolist(), values[row]):
            if index >= 0:
                assert index == len(found), f"frame {index} came when {len(found)} were there"
                found.append(value)
    return torch.stack(found)


def whole(model: Any, video: torch.Tensor, **options: Any) -> Any:
    """The tower's forward over a whole video of any number of frames."""
    tower = getattr(model, "vision_model", model)
    return tower(video, any_num_frames=True, interpolate_pos_encoding=True, **options)


def ring(values: torch.Tensor, end: int, length: int) -> torch.Tensor:
    """The last `length` frames up to `end` of (B, T, ...), the first one repeated in front where there are fewer."""
    places = [max(place, 0) for place in range(end - length + 1, end + 1)]
    return values[:, places]


def head_of_windows(model: Any, tower: Any) -> torch.Tensor:
    """Logits after each frame (B, T, K): the model's own frame integration and head on the last frames of a tower."""
    frames, length, logits = model.visual_projection(tower.pooler_output), model.config.num_frames, []
    for end in range(frames.shape[1]):
        embeds = ring(frames, end, length)
        if model.mit is not None:
            pooled = model.mit(embeds).pooler_output
        elif model.config.vision_config.normalize_frames:
            pooled = torch.nn.functional.normalize(embeds, dim=-1).mean(1)
        else:
            pooled = embeds.mean(1)
        hidden = ring(tower.last_hidden_state, end, length)
        logits.append(model.classify(IlaVisionModelOutput(pooler_output=pooled, last_hidden_state=hidden)))
    return torch.stack(logits, dim=1)
