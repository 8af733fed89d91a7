"""Print what a model costs: multiply-accumulates and parameters; with --measure time and memory, too.

The paper's "FLOPs" are multiply-accumulates of one view, text features computed before, prompt generator included.
`--tables` prints those of its Tables 1 to 4 beside the paper's numbers, `--growth` how each temporal module's cost
grows with frames and patches (Table 15).
"""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    TimesformerConfig,
    TimesformerForVideoClassification,
)

from ..backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from ..backbones.timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification
from ..conversion.published import PUBLISHED
from ..cost import cost, count, count_gmacs, growth, image_size_of, matching_exponents
from ..data.class_names import DATA_SETS
from ..evaluation.inference import (
    CLASSIFIERS,
    classifier_config,
    is_plain_tower,
    named_in_errors,
    require_checkpoint,
)
from ..model.configuration_ila import CLIP_SIZES, PRESETS, IlaConfig
from ..model.temporal_ila import TEMPORAL_MODULES


EXAMPLES = (
    "ila cost --size B/16 --frames 8 --measure",
    """ila cost --size L/14 --config '{"temporal_module": "gta"}'""",
)


@dataclass
class CostOptions:
    """Hold the options of `ila cost`."""

    _argument_group_name = "options of ila cost"

    size: str = field(default="B/16", metadata={"help": "CLIP tower of the model", "choices": tuple(CLIP_SIZES)})
    frames: int | None = field(default=None, metadata={"help": "frames of a clip; default 8, with --model its own"})
    config: str | None = field(default=None, metadata={"help": "more fields of IlaConfig, as a JSON object"})
    model: str | None = field(
        default=None,
        metadata={"help": "folder or Hub id in place of --size: a saved model, or a CLIP, ViT, DINOv2 with ILA in it"},
    )
    measure: bool = field(default=False, metadata={"help": "also measure the time of a clip and the memory of a step"})
    tables: bool = field(default=False, metadata={"help": "print the paper's Tables 1 to 4 in place of one model"})
    growth: bool = field(default=False, metadata={"help": "print how each module's cost grows, on --size"})

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"--frames must be 1 or more, got {self.frames}.")
        if self.model is not None and self.config is not None:
            raise ValueError("--config is of a model that is built from --size; --model has a configuration.")
        if self.model is not None:
            require_checkpoint(self.model)
        self.config_fields()

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of IlaConfig that `--config` gives."""
        try:
            fields = json.loads(self.config or "{}")
            if not isinstance(fields, dict):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"--config must be a JSON object with fields of IlaConfig; got {self.config!r}."
            ) from None
        return fields


def run(options: CostOptions) -> int:
    """Print what the options ask for, and return 0."""
    if options.tables:
        print_tables()
    if options.growth:
        print_growth(options.size)
    if not (options.tables or options.growth):
        print_cost(options)
    return 0


def print_cost(options: CostOptions) -> None:
    """Print what one model costs; no weights are read."""
    frames = {} if options.frames is None else {"num_frames": options.frames}
    if options.model is not None:
        with named_in_errors(options.model):
            kind = IlaConfig if is_plain_tower(options.model) else AutoConfig  # of ILA on such a tower
            config = kind.from_pretrained(options.model, **frames)
    else:
        from ..training.recipes import validate_config_fields  # here, as `--help` needs nothing of training

        fields = {"num_labels": 400, **frames, **validate_config_fields(options.config_fields())}
        config = IlaConfig.from_clip_size(options.size, **fields)
    name = options.model or f"ILA-{options.size}"
    if type(config).model_type not in CLASSIFIERS:
        print_other(config, name, options)
        return
    vision, found = getattr(config, "vision_config", config), count(config)
    module = getattr(vision, "temporal_module", "frames averaged")  # SigLIP has none
    form, side = vision.alignment_fusion if module == "ila" else module, image_size_of(config)
    print(f"{name}: {form}, {config.num_frames} frames of {side} pixels, {config.num_labels} classes")
    print(f"{found.gmacs:.1f} GMACs a clip, {found.parameters:.1f} M parameters", end="")
    print(f" and {found.text_parameters:.1f} M of the text tower" if found.text_parameters else "")
    if options.measure:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        measured = cost(config, device=device)
        print(f"{measured.milliseconds:.0f} ms a clip on {device}, {measured.times_plain:.2f} x plain frames")
        print(f"{measured.memory:.0f} MiB kept for the backward pass of a clip")


def print_other(config: Any, name: str, options: CostOptions) -> None:
    """Print what a video classifier of Transformers' own costs, which is counted and not measured.

    Raises:
        ValueError: it takes no videos of a fixed size, or is to be measured.
    """
    if not (hasattr(config, "num_frames") and hasattr(config, "image_size")):
        classifier_config(name)  # which refuses it by its class
    if options.measure:
        raise ValueError(f"--measure is for {', '.join(CLASSIFIERS.values())}; {name!r} is a {type(config).__name__}.")
    with torch.device("meta"):
        model = AutoModelForVideoClassification.from_config(config).eval()
    gmacs, parameters = count_gmacs(model, config.num_frames, config.image_size), model.num_parameters() / 1e6
    print(f"{name}: {gmacs:.1f} GMACs, {parameters:.1f} M parameters")


# -- growth ----------------------------------------------------------------------------------------------------------


def print_growth(size: str) -> None:
    """Print GMACs of each module alone, and the exponents with which they grow with frames and with patches."""
    print(f"{'module, ' + size + ', 8 frames':40}{'GMACs':>8}{'frames^':>10}{'patches^':>10}")
    forms = {module: {"temporal_module": module} for module in TEMPORAL_MODULES}
    forms |= {"ila": PRESETS["paper"], "ila, interaction": {"alignment_fusion": "interaction"}}
    for name, fields in forms.items():
        found = growth(IlaConfig.from_clip_size(size, num_labels=10, **fields))
        print(f"{name:40}{found.gmacs:8.2f}{found.frames_exponent:10.2f}{found.patches_exponent:10.2f}", flush=True)
    frames, patches = matching_exponents()
    print(f"{'ata, matching (seconds, no products)':40}{'':8}{frames:10.2f}{patches:10.2f}")


# -- the paper's tables ----------------------------------------------------------------------------------------------

# Table 4 and 15: GMACs of B/32 with 8 frames; no number for GTA, which the paper does not compare with.
PAPER_TABLE_4 = {"none": 37, "average": 39, "shift": 37, "message": 39, "divided": 58, "joint": 71, "ata": 60}


def compare_modules() -> None:
    """Print Table 4: the temporal modules on B/32."""
    print(f"\n{'temporal module, B/32, 8 frames':40}{'GMACs':>8}{'paper':>8}{'params (M)':>12}")
    forms: list[tuple[str, dict[str, str], int | None]] = [
        (name, {"temporal_module": name}, PAPER_TABLE_4.get(name)) for name in ("none", *TEMPORAL_MODULES)
    ]
    token = PRESETS["paper"]
    forms += [("ila", token, 40), ("ila, window attention", {**token, "alignment_operator": "window_attention"}, 114)]
    table_9 = {"add": 44, "concat": 45, "residual": None, "interaction": None}
    forms += [(f"ila, {name}", {"alignment_fusion": name}, paper) for name, paper in table_9.items()]
    for name, fields, paper in forms:
        cost = count(IlaConfig.from_clip_size("B/32", num_labels=400, **fields))
        print(f"{name:40}{cost.gmacs:8.1f}{'' if paper is None else paper:>8}{cost.parameters:12.1f}", flush=True)


def table_3() -> list[tuple[str, int | None, nn.Module]]:
    """Return the networks that ILA and ATA were put into, B/16 with 8 frames, on the meta device.

    Each is its name, the paper's GMACs (None: not in the paper), and the model.
    """

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
    """Print Table 3: ILA in other networks."""
    print(f"\n{'Table 3, B/16, 8 frames':40}{'GMACs':>8}{'paper':>8}{'params (M)':>12}")
    for name, paper, model in table_3():
        parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
        row = f"{name:40}{count_gmacs(model.eval(), 8, 224):8.1f}{'' if paper is None else paper:>8}"
        print(f"{row}{parameters:12.1f}", flush=True)


def print_tables() -> None:
    """Print Tables 1 and 2, the released networks, and Tables 3 and 4."""
    heading = f"{'data set':24}{'model':14}{'frames':>6}{'GMACs':>10}{'paper':>8}{'ratio':>8}"
    print(heading + f"{'params (M)':>12}{'released':>10}")
    for checkpoint in PUBLISHED:
        paper, released = count(checkpoint.config(**PRESETS["paper"])), count(checkpoint.config())
        row = f"{DATA_SETS[checkpoint.data_set].title:24}ILA-{checkpoint.size:10}{checkpoint.num_frames:6}"
        ratio = paper.gmacs / checkpoint.gmacs
        row += f"{paper.gmacs:10.1f}{checkpoint.gmacs:8}{ratio:8.3f}{paper.parameters:12.1f}{released.gmacs:10.1f}"
        print(row, flush=True)
    print("The paper's last row (3723) cannot be reached by the module that gives the three rows above it.")
    print('released: GMACs of the network of the published checkpoints (`alignment_fusion="residual"`).')
    compare_backbones()
    compare_modules()
