"""Print multiply-accumulates and parameters beside the paper's Tables 1 and 2, of the released ones, and of 3 and 4.

The paper's "FLOPs" are multiply-accumulates of one view, text features cached, prompt generator included.
"""

import torch
from torch import nn
from transformers import TimesformerConfig, TimesformerForVideoClassification

from ..backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from ..backbones.timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification
from ..conversion.published import PUBLISHED
from ..cost import count, count_gmacs
from ..data.class_names import DATA_SETS
from ..model.configuration_ila import IlaConfig
from ..model.temporal_ila import TEMPORAL_MODULES


EXAMPLES = ("ila cost", "ila cost | head -12")

# Table 4 and 15: GMACs of B/32 with 8 frames; no number for GTA, which the paper does not compare with.
PAPER_TABLE_4 = {"none": 37, "average": 39, "shift": 37, "message": 39, "divided": 58, "joint": 71, "ata": 60}


def compare_modules() -> None:
    print(f"\n{'temporal module, B/32, 8 frames':40}{'GMACs':>8}{'paper':>8}{'params (M)':>12}")
    forms: list[tuple[str, dict[str, str], int | None]] = [
        (name, {"temporal_module": name}, PAPER_TABLE_4.get(name)) for name in ("none", *TEMPORAL_MODULES)
    ]
    token = {"alignment_fusion": "mi_token"}
    forms += [("ila", token, 40), ("ila, window attention", {**token, "alignment_operator": "window_attention"}, 114)]
    table_9 = {"add": 44, "concat": 45, "residual": None, "interaction": None}
    forms += [(f"ila, {name}", {"alignment_fusion": name}, paper) for name, paper in table_9.items()]
    for name, fields, paper in forms:
        cost = count(IlaConfig.from_clip_size("B/32", num_labels=400, **fields))
        print(f"{name:40}{cost.gmacs:8.1f}{'' if paper is None else paper:>8}{cost.parameters:12.1f}", flush=True)


def table_3() -> list[tuple[str, int | None, nn.Module]]:
    """What ILA and ATA were put into, B/16 with 8 frames: name, the paper's GMACs, the model on the meta device."""

    def timesformer(**fields: str) -> nn.Module:
        return AlignedTimesformerForVideoClassification(AlignedTimesformerConfig(num_labels=400, **fields))

    def frozen_clip(**fields: str | list[str]) -> nn.Module:
        return FrozenClipForVideoClassification(FrozenClipConfig.from_clip_size("B/16", num_labels=400, **fields))

    with torch.device("meta"):
        in_decoder = ["convolution", "positions", "attention", "alignment"]
        return [
            ("EVL", 150, frozen_clip(temporal_module="none")),
            ("EVL, ILA in the tower", 162, frozen_clip(alignment_fusion="mi_token")),
            (
                "EVL, ILA in the decoder",
                None,
                frozen_clip(temporal_module="none", decoder_temporal=in_decoder, alignment_fusion="mi_token"),
            ),
            ("TimeSformer", 196, TimesformerForVideoClassification(TimesformerConfig(num_labels=400))),
            ("TimeSformer, ILA", 164, timesformer()),
            ("TimeSformer, ILA, interaction", None, timesformer(alignment_fusion="interaction")),
            ("TimeSformer, ATA", None, timesformer(temporal_module="ata")),
        ]


def compare_backbones() -> None:
    print(f"\n{'Table 3, B/16, 8 frames':40}{'GMACs':>8}{'paper':>8}{'params (M)':>12}")
    for name, paper, model in table_3():
        parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
        row = f"{name:40}{count_gmacs(model.eval(), 8, 224):8.1f}{'' if paper is None else paper:>8}"
        print(f"{row}{parameters:12.1f}", flush=True)


def run() -> int:
    heading = f"{'data set':24}{'model':14}{'frames':>6}{'GMACs':>10}{'paper':>8}{'ratio':>8}"
    print(heading + f"{'params (M)':>12}{'released':>10}")
    for checkpoint in PUBLISHED:
        paper, released = count(checkpoint.config(alignment_fusion="mi_token")), count(checkpoint.config())
        row = f"{DATA_SETS[checkpoint.data_set].title:24}ILA-{checkpoint.size:10}{checkpoint.num_frames:6}"
        ratio = paper.gmacs / checkpoint.gmacs
        row += f"{paper.gmacs:10.1f}{checkpoint.gmacs:8}{ratio:8.3f}{paper.parameters:12.1f}{released.gmacs:10.1f}"
        print(row, flush=True)
    print("The paper's last row (3723) cannot be reached by the module that gives the three rows above it.")
    print('released: GMACs of the network of the published checkpoints (`alignment_fusion="residual"`).')
    compare_backbones()
    compare_modules()
    return 0
