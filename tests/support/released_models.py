"""State dicts with the names of the official release and of OpenAI's CLIP."""

import json

import torch
from transformers import CLIPModel

from support import paths
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.conversion.state_dicts import to_released_state_dict


SHARED = paths.SHARED / "reference"


def released_model(*, head="text", **fields):
    """A model of the released form with random weights everywhere, zero-initialised ones too."""
    model = IlaForVideoClassification(
        tiny_config(
            vision_config={**WIDE_VISION},
            text_config={**WIDE_TEXT},
            alignment_fusion="residual",
            classification_head=head,
            alignment_conv="depthwise_separable" if head == "text" else "standard",
            num_labels=5,
            **fields,
        )
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5 if "var" in name else 0.1 * torch.randn(tensor.shape))
    return model.eval()


WIDE_VISION = {  # heads of 64 channels, as CLIP's
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
}
WIDE_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "vocab_size": 99,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
}


def openai_state_dict(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """A CLIP of Transformers under OpenAI's names: what the release's tables say of both towers."""
    ours = IlaForVideoClassification(released_model().config)
    missing, _ = ours.load_state_dict(clip.state_dict(), strict=False)
    assert all(".temporal." in key or key.startswith(("mit.", "prompts_", "class_")) for key in missing)
    tensors = to_released_state_dict(ours)
    mine = (".message_", ".temporal_", "mit.", "prompts_")
    tensors = {key: value for key, value in tensors.items() if not any(part in key for part in mine)}
    masks = {f"transformer.resblocks.{layer}.attn_mask": torch.zeros(12, 12) for layer in range(2)}
    return {**tensors, **masks, "input_resolution": torch.tensor(24), "context_length": torch.tensor(12)}


def published_shapes():
    file = SHARED / "released_state_dict_shapes.json"
    return json.loads(file.read_text()) if file.is_file() else {}
