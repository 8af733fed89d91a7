"""The temporal modules, and the forms that ILA's own takes: name -> fields of a configuration."""

from typing import Any

from transformers_ila.model.configuration_ila import PLAIN_CLIP
from transformers_ila.model.temporal_ila import TEMPORAL_MODULES


FUSIONS = ("mi_token", "residual", "add", "concat", "interaction")
FORMS: dict[str, dict[str, Any]] = {name: {"temporal_module": name} for name in sorted(TEMPORAL_MODULES)}
FORMS |= {f"ila {fusion}": {"alignment_fusion": fusion} for fusion in FUSIONS}
FORMS |= {
    "ata left aligned": {"temporal_module": "ata", "ata_dealignment": False},
    "ila causal": {"alignment_causal": True},
    "ila first": {"alignment_pairing": "first"},
    "ila middle residual": {"alignment_pairing": "middle", "alignment_fusion": "residual"},
    "ila middle interaction": {"alignment_pairing": "middle", "alignment_fusion": "interaction"},
    "ila windows": {"alignment_operator": "window_attention"},
    "ila on a DINOv2": {"patch_bias": True, "pre_layer_norm": False, "num_register_tokens": 2, "gated_mlp": True},
}

# Forms whose programs only `make test-extra PARTS=exporters` makes: the slow tier has no minute for them.
IN_EXTRA = ("ila causal",)

MATCHING = [name for name, fields in FORMS.items() if fields.get("temporal_module") == "ata"]  # on the CPU, by SciPy

# What else changes the network, for those who write it down as a program: heads, masks, numbers.
HEADS: dict[str, dict[str, Any]] = {
    "plain frames": {"temporal_module": "none"},
    "euclidean masks": {"alignment_distance": "euclidean", "alignment_eta": 1},
    "standard convolutions": {"alignment_conv": "standard", "alignment_fusion": "residual"},
    "linear head": {"classification_head": "linear"},
    "several labels": {"problem_type": "multi_label_classification"},
    "names as they are": {"use_video_prompt": False},
    "trained names": {"freeze_text_model": False},
    "mean of the frames": {"mit_num_hidden_layers": 0},
    "CLIP alone": PLAIN_CLIP,
    "one frame": {"num_frames": 1},
    "two frames": {"num_frames": 2},
}
PROGRAMS = {name: fields for name, fields in (FORMS | HEADS).items() if name not in MATCHING}
