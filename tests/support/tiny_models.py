"""Small configurations and checkpoints in the original formats, made on the spot."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    ViTModel,
)
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

from transformers_ila import IlaConfig


TINY_VISION = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 4,
}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 16,
    "bos_token_id": 97,
    "eos_token_id": 98,
}
TINY_ILA = {"num_frames": 4, "alignment_hidden_size": 8}


def tiny_config(**fields: Any) -> IlaConfig:
    """An IlaConfig that computes in milliseconds; `fields` as for IlaConfig."""
    return IlaConfig(
        **{
            "vision_config": dict(TINY_VISION),
            "text_config": dict(TINY_TEXT),
            "projection_dim": 64,
            **TINY_ILA,
            **fields,
        }
    )


def byte_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows the letters and no merges, saved in `folder` as CLIP checkpoints hold theirs."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_clip(folder: Path, *, tokenizer: bool = True, **text_fields: Any) -> Path:
    """A CLIP checkpoint with random weights, as `CLIPModel.save_pretrained` writes it."""
    text = {**TINY_TEXT, "vocab_size": 192, "bos_token_id": 188, "eos_token_id": 189, **text_fields}
    text["max_position_embeddings"] = 32
    config = CLIPConfig(vision_config=dict(TINY_VISION), text_config=text, projection_dim=64)
    CLIPModel(config).save_pretrained(folder)
    if tokenizer:
        byte_tokenizer(Path(folder))
    return Path(folder)


def save_vit(folder: Path, kind: Any = ViTModel, **fields: Any) -> Any:
    """A ViT with random weights everywhere, as its `save_pretrained` writes it to `folder`; returns it."""
    vit = kind(kind.config_class(**{**TINY_VISION, **fields})).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in vit.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    vit.save_pretrained(folder)
    return vit


def save_dinov2(folder: Path, *, registers: int = 0, classifier: bool = False, **fields: Any) -> Any:
    """A DINOv2 with random weights everywhere, LayerScale and registers too, as it is saved; returns it."""
    fields = {**TINY_VISION, "mlp_ratio": 2, "layerscale_value": 0.5, **fields}
    fields.pop("intermediate_size")
    config: Any = Dinov2Config(**fields)
    kinds: Any = (Dinov2Model, Dinov2ForImageClassification)
    if registers:
        config = Dinov2WithRegistersConfig(num_register_tokens=registers, **fields)
        kinds = (Dinov2WithRegistersModel, Dinov2WithRegistersForImageClassification)
    dinov2 = kinds[classifier](config).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in dinov2.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    dinov2.save_pretrained(folder)
    return dinov2


def letters_tokenizer() -> Siglip2Tokenizer:
    """A SigLIP 2 tokenizer that knows the printable letters; it reads capitals as small ones."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *(chr(code) for code in range(33, 127))]
    return Siglip2Tokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])


def save_siglip(folder: Path, family: str = "siglip", *, tokenizer: bool = True, **vision: Any) -> Any:
    """A "siglip" or "siglip2" (NaFlex) with random weights, as `save_pretrained` writes it to `folder`; returns it.

    Scale and bias are as large as those of published ones.
    """
    sizes = {name: TINY_VISION[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    sizes |= {"num_attention_heads": 4}
    text = {**sizes, "vocab_size": 100, "max_position_embeddings": 32, "bos_token_id": 2, "eos_token_id": 1}
    if family == "siglip":
        vision = {**sizes, "image_size": 28, "patch_size": 4, **vision}
        model: Any = SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval()
    else:
        vision = {**sizes, "num_patches": 49, "patch_size": 4, **vision}
        model = Siglip2Model(Siglip2Config(vision_config=vision, text_config=text)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-16.5)
    model.save_pretrained(folder)
    if tokenizer:
        letters_tokenizer().save_pretrained(folder)
    return model


def save_timesformer(folder: Path, **fields: Any) -> TimesformerForVideoClassification:
    """A TimeSformer checkpoint as Transformers writes it, with weights so large that each shows in the output."""
    model = TimesformerForVideoClassification(TimesformerConfig(**{**TINY_VISION, "num_frames": 4, **fields})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    return model
