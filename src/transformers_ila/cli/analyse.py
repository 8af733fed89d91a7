"""What a model costs, how its cost grows, and what its neighbouring frames share.

    scripts/analyse.py --growth true                                       the paper's Table 15, measured
    scripts/analyse.py --cost '{"temporal_module": "ata"}' --tower B/16    GMACs, parameters, latency, memory
    scripts/analyse.py --model my-ila --videos path/to/videos              mutual information, Table 5

`--cost` takes fields of IlaConfig, or `{}`. Videos are a folder with one sub-folder per class. Exit code: 0, or 2 for
bad arguments and videos that cannot be read.
"""

import json
import statistics
from dataclasses import dataclass, field

import torch

from ..cost import cost, growth, matching_exponents
from ..data.video_folder import find_videos
from ..evaluation.frame_information import earth_movers_distance, last_patches, mutual_information
from ..evaluation.inference import load_trained
from ..model.configuration_ila import IlaConfig
from ..model.temporal_ila import TEMPORAL_MODULES
from ..training.recipes import validate_config_fields


EXAMPLES = (
    "ila analyse --model my-ila --videos path/to/videos",
    "ila analyse --model my-ila --videos path/to/videos --limit 64",
)


@dataclass
class AnalysisArguments:
    growth: bool = field(default=False, metadata={"help": "fit how each module's cost grows with frames and patches"})
    cost: str | None = field(default=None, metadata={"help": "fields of IlaConfig as a JSON object: what that costs"})
    tower: str = field(default="B/32", metadata={"help": "CLIP tower of --growth and --cost"})
    model: str | None = field(default=None, metadata={"help": "folder or Hub id of a model saved with its processor"})
    videos: str | None = field(default=None, metadata={"help": "folder with one sub-folder per class, for --model"})
    limit: int = field(default=256, metadata={"help": "videos that are looked at, spread over the folder"})
    batch_size: int = 8


def print_growth(tower: str) -> None:
    print(f"{'module, ' + tower + ', 8 frames':40}{'GMACs':>8}{'frames^':>10}{'patches^':>10}")
    forms = {module: {"temporal_module": module} for module in TEMPORAL_MODULES}
    forms |= {"ila": {"alignment_fusion": "mi_token"}, "ila, interaction": {"alignment_fusion": "interaction"}}
    for name, fields in forms.items():
        found = growth(IlaConfig.from_clip_size(tower, num_labels=10, **fields))
        print(f"{name:40}{found.gmacs:8.2f}{found.frames_exponent:10.2f}{found.patches_exponent:10.2f}", flush=True)
    frames, patches = matching_exponents()
    print(f"{'ata, matching (seconds, no products)':40}{'':8}{frames:10.2f}{patches:10.2f}")


def print_cost(fields: str, tower: str) -> None:
    try:
        wanted = json.loads(fields)
        if not isinstance(wanted, dict):
            raise ValueError
    except ValueError:
        raise ValueError(f"--cost must be a JSON object with fields of IlaConfig, or {{}}; got {fields!r}.") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = cost(
        IlaConfig.from_clip_size(tower, **{"num_labels": 400, **validate_config_fields(wanted)}), device=device
    )
    print(f"{found.gmacs:.1f} GMACs, {found.parameters:.1f} M parameters without the text tower")
    print(f"{found.milliseconds:.0f} ms a clip on {device}, {found.times_plain:.2f} x plain frames")
    print(f"{found.memory:.0f} MiB kept for the backward pass of a clip")


def print_information(args: AnalysisArguments) -> None:
    if args.videos is None or args.model is None:
        raise ValueError("--model needs --videos, a folder with one sub-folder per class.")
    model, processor = load_trained(args.model)
    _, samples = find_videos(args.videos)
    samples = samples[:: max(1, -(-len(samples) // args.limit))]
    distances, nats = [], []
    for first in range(0, len(samples), args.batch_size):
        batch = samples[first : first + args.batch_size]
        clips = [processor(path, return_tensors="pt")["pixel_values"] for path, _ in batch]
        patches = last_patches(model, torch.cat(clips))
        distances += earth_movers_distance(patches).mean(1).tolist()
        nats += mutual_information(patches).mean(1).tolist()
    print(f"{len(samples)} videos, neighbouring frames of the last layer, mean over pairs and videos:")
    for name, values in (("transport distance (lower: more shared)", distances), ("mutual information, nats", nats)):
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name:42}{statistics.mean(values):.4f}{spread}")


def run(args: AnalysisArguments) -> int:
    if not (args.growth or args.cost or args.model):
        raise ValueError("Nothing to do: --growth true, --cost '{}' or --model with --videos.")
    if args.growth:
        print_growth(args.tower)
    if args.cost:
        print_cost(args.cost, args.tower)
    if args.model:
        print_information(args)
    return 0
