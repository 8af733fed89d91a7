"""Which form of `alignment_fusion="interaction"` is best within 1.03 times the cost of the paper's network?

    python benchmarks/interaction_forms.py recipes/ablation_small.yaml --output ablation

Every form below is trained and tested as `scripts/ablate.py` does it, in the same folder, whose runs of the paper's
form and of `"interaction"` are taken as they are. GMACs over the paper's are counted on B/32, B/16 and L/14 with 8
frames. `--part 1/2` and `--part 2/2` share the runs; all forms come with the first seed before the second one begins.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transformers_ila import IlaConfig
from transformers_ila.ablation.ablation import mean_accuracy, prepare, read_ablation, result_file, run
from transformers_ila.cost import count
from transformers_ila.model import layers_ila
from transformers_ila.model.alignment_ila import ImplicitAlignment, PointPredictor, alignment_loss
from transformers_ila.model.pairs_ila import (
    PairPointwiseConv,
    average_pairs_to_frames,
    interaction_module,
    masked_average_pool,
    pairs_to_frames,
)
from transformers_ila.model.temporal_ila import TemporalModule, TemporalOutput, ZeroLinear


BUDGET = 1.03
SIZES = ("B/32", "B/16", "L/14")


@dataclass(frozen=True)
class Form:
    """What a form changes.

    norm: LayerNorm of the patches before the pairs.
    token: the mutual-information token joins the attention.
    width: channels of a frame's feature over C / 2, which are those that the points come from; what is more comes
        from the same convolution and serves the features only.
    roles: "mean" over a frame's roles, or both "apart".
    over_time: convolution of the features over three frames.
    into: what the features are added to: the "frames", or only the "tokens" that the attention sees.
    """

    norm: bool = True
    token: bool = True
    width: float = 1
    roles: str = "apart"
    over_time: bool = False
    into: str = "frames"


FORMS: dict[str, Form | None] = {
    "paper's": None,  # without the features
    "interaction": Form(),
    "mean of roles": Form(roles="mean"),
    "mean of roles, no layer norm": Form(roles="mean", norm=False),
    "mean of roles, over time": Form(roles="mean", over_time=True),
    "mean of roles, width 1.75": Form(roles="mean", width=1.75),
    "no layer norm": Form(norm=False),
    "over time": Form(over_time=True),
    "without token": Form(token=False),
    "into tokens": Form(into="tokens"),
}
OF_THE_RECIPE = ("paper's", "interaction")
VARIANTS = ("ila, interaction", "ila")  # of the recipe, that the forms replace the module of; the latter for None


class FormedAlignment(TemporalModule):
    """A form in a layer; see `ImplicitAlignment` for what they have in common."""

    def __init__(self, config: Any, form: Form) -> None:
        super().__init__()
        self.form, self.pairs = form, PointPredictor(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if form.norm else nn.Identity()
        half = self.pairs.channels // 2
        if form.width != 1:  # the depthwise convolution stays one; its outputs feed both products
            self.pairs.interaction = WiderInteraction(config, round((form.width - 1) * 2 * half))
        channels = round(half * form.width) * (2 if form.roles == "apart" else 1)
        self.over_time = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)) if form.over_time else None
        self.skip = ZeroLinear(channels, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        patches = hidden_states[:, :, 1:]
        features, points = self.pairs(self.norm(patches), height, width)
        if self.form.width != 1:
            more = self.pairs.interaction.more.unflatten(0, features.shape[:2])
            roles = zip(features.chunk(2, dim=2), more.chunk(2, dim=2))
            features = torch.cat([part for role in roles for part in role], dim=2)  # (B, T-1, more than C, h, w)
        masks = self.pairs.masks(points, height, width)
        pooled = masked_average_pool(masks, patches)
        as_previous, as_current = features.flatten(-2).mT.chunk(2, dim=-1)  # (B, T-1, N, C / 2)
        if self.form.roles == "apart":  # the first frame is no pair's current one, the last no pair's previous one
            none = torch.zeros_like(as_previous[:, :1])
            motion = torch.cat([torch.cat([as_previous, none], 1), torch.cat([none, as_current], 1)], dim=-1)
        else:
            motion = average_pairs_to_frames(as_previous, as_current)
        if self.over_time is not None:
            motion = self.over_time(motion.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        moved = patches + self.skip(motion)
        tokens = torch.cat([hidden_states[:, :, :1], moved], dim=2)
        if self.form.into == "frames":
            hidden_states = tokens
        if self.form.token:
            tokens = torch.cat([tokens, pairs_to_frames(pooled, "adjacent")[:, :, None]], dim=2)
        return TemporalOutput(hidden_states, tokens, alignment_loss(pooled), points)


class WiderInteraction(nn.Module):
    """The module of Eq. 5, and from the same convolution more channels for the frames' features, kept in `more`."""

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        own = interaction_module(config)[0]
        self.depthwise, self.points = own.convolution[0], nn.Sequential(own.convolution[1], own.batch_norm, nn.ReLU())
        norm = type(own.batch_norm)(channels)
        self.features = nn.Sequential(PairPointwiseConv(config.hidden_size, channels), norm, nn.ReLU())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        convolved = self.depthwise(frames)
        self.more = self.features(convolved)
        return self.points(convolved)


@contextmanager
def in_layers(form: Form | None):
    before = layers_ila.temporal_module

    def formed(config: Any, layer_index: int) -> TemporalModule | None:
        module = before(config, layer_index)
        return FormedAlignment(config, form) if form is not None and isinstance(module, ImplicitAlignment) else module

    layers_ila.temporal_module = formed
    try:
        yield
    finally:
        layers_ila.temporal_module = before


def costs(fields: dict[str, Any]) -> list[float]:
    return [count(IlaConfig.from_clip_size(size, num_labels=400, **fields)).gmacs for size in SIZES]


def place_of(name: str, output: str | Path) -> Path:
    """Where the runs of a form lie; of the two that are variants of the recipe with the recipe's own."""
    return Path(output) if name in OF_THE_RECIPE else Path(output) / "forms" / name.replace(" ", "_").replace(",", "")


def row(name: str, ratios: Sequence[float], files: Sequence[Path]) -> str:
    found = [100 * mean_accuracy(json.loads(file.read_text())) for file in files]
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    costs = " | ".join(f"{ratio:.3f}" for ratio in ratios)
    return f"| {name} | {statistics.mean(found):.1f}{spread} | {len(found)} | {costs} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--output", default="ablation")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--table_only", action="store_true", help="train nothing")
    args = parser.parse_args()
    ablation = read_ablation(args.recipe)
    index, parts = map(int, args.part.split("/"))
    runs = [] if args.table_only else [(seed, name) for seed in ablation.seeds for name in args.forms]
    start = prepare(ablation, args.output, progress=print) if runs else None
    for seed, name in runs[index - 1 :: parts]:
        variant, place = VARIANTS[FORMS[name] is None], place_of(name, args.output)
        if start is not None and not result_file(place, variant, seed).is_file():
            with in_layers(FORMS[name]):
                result = run(ablation, variant, seed, start, place)
            print(f"{name}, seed {seed}: {mean_accuracy(result):.1%}", flush=True)
    paper = costs({"alignment_fusion": "mi_token"})
    print("| form | accuracy, % | seeds | " + " | ".join(f"GMACs / paper's, {size}" for size in SIZES) + " |")
    print("|---" * (3 + len(SIZES)) + "|")
    for name in args.forms:
        variant, place = VARIANTS[FORMS[name] is None], place_of(name, args.output)
        files = [result_file(place, variant, seed) for seed in ablation.seeds]
        if files := [file for file in files if file.is_file()]:
            with in_layers(FORMS[name]):
                own = costs(ablation.variants[variant])
            print(row(name, [one / of_paper for one, of_paper in zip(own, paper)], files))


if __name__ == "__main__":
    main()
