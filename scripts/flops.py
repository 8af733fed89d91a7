"""Print multiply-accumulates and parameters of the paper's models beside its Tables 1 and 2.

The paper's "FLOPs" are multiply-accumulates of one view, text features cached, prompt generator included. They are
counted by torch's flop counter on the meta device: nothing is computed and no weight is stored.
"""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from transformers_ila import IlaConfig, IlaForVideoClassification


@dataclass(frozen=True)
class Row:
    data_set: str
    size: str
    num_frames: int
    published: int  # GMACs, Tables 1 and 2


ROWS = [
    Row("Kinetics-400", "B/32", 8, 40),
    Row("Kinetics-400", "B/32", 16, 75),
    Row("Kinetics-400", "B/16", 8, 149),
    Row("Kinetics-400", "B/16", 16, 295),
    Row("Kinetics-400", "L/14", 8, 673),
    Row("Kinetics-400", "L/14@336", 16, 3130),
    Row("SSv2", "B/16", 8, 214),
    Row("SSv2", "B/16", 16, 438),
    Row("SSv2", "L/14", 8, 907),
    Row("SSv2", "L/14@336", 16, 3723),
]
HEADS = {
    "Kinetics-400": {"num_labels": 400, "class_features": "embeddings"},
    "SSv2": {"num_labels": 174, "classification_head": "linear", "alignment_conv": "standard"},
}


def paper_config(row: Row) -> IlaConfig:
    return IlaConfig.from_clip_size(row.size, num_frames=row.num_frames, **HEADS[row.data_set])


def count(config: IlaConfig) -> tuple[float, float]:
    """Giga multiply-accumulates of one view, and millions of parameters without the text tower."""
    with torch.device("meta"):
        model = IlaForVideoClassification(config).eval()
        size = config.vision_config.image_size
        pixel_values = torch.zeros(1, config.num_frames, 3, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixel_values)
    text = ("text_model.", "text_projection.")
    parameters = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith(text))
    return counter.get_total_flops() / 2e9, parameters / 1e6


def main() -> None:
    print(f"{'data set':14}{'model':14}{'frames':>6}{'GMACs':>10}{'paper':>8}{'ratio':>8}{'params (M)':>12}")
    for row in ROWS:
        gmacs, parameters = count(paper_config(row))
        ratio = gmacs / row.published
        print(
            f"{row.data_set:14}ILA-{row.size:10}{row.num_frames:6}{gmacs:10.1f}{row.published:8}{ratio:8.3f}{parameters:12.1f}"
        )
    print("The paper's last row (3723) cannot be reached by the module that gives the three rows above it.")


if __name__ == "__main__":
    main()
