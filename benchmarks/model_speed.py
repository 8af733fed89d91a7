"""How fast is ILA beside plain CLIP, X-CLIP and other video models? Inference, training, memory, growth.

    python benchmarks/model_speed.py --output speed.json --picture growth.png
    python benchmarks/model_speed.py --tables inference --sizes B/32 --frames 8 --batches 1 --rounds 21
    python benchmarks/model_speed.py --tables inference --device cuda --dtype bfloat16 --compile \
        --sizes B/16 L/14 --batches 1 4 16 64
    OMP_NUM_THREADS=1 python benchmarks/model_speed.py --tables against --against ../before --frames 8 --batches 1

Random weights and inputs. Times are medians of rounds in which all models of a row take turns, in milliseconds; what
counts are their ratios. Memory is the peak of a process of its own, less what it held before the model was made.
Growth is measured on the CPU only. `--compile` compiles every model, on a GPU into CUDA graphs; `--fuse` measures
snapshots (`model.fuse()`) in place of our models. A training step in half precision is one under autocast.
`--against` names a worktree of older code: its classifier, ours as it stands and ours after `fuse()` take turns on
the same weights, and each round gives a ratio of processor times (of wall-clock times on a GPU).
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from matplotlib.figure import Figure
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    VivitConfig,
    VivitModel,
    XCLIPConfig,
    XCLIPModel,
)

from transformers_ila import IlaConfig, IlaForVideoClassification, IlaVisionModel
from transformers_ila.cost import count_gmacs, fitted_exponent, median_times, times_in_turns
from transformers_ila.model import configuration_ila


PEAK_SIDE = 4096  # of the square matrices whose product tells what the machine can do
GROWING_FRAMES, GROWING_SIDES = (4, 8, 16, 32, 64), (7, 10, 14, 20)  # sides in patches
NUM_CLASSES = 400
_TINY = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = ({**_TINY, "patch_size": 32, "image_size": 224}, {**_TINY, "num_hidden_layers": 1}, 64)  # for rehearsals
FORMS = ("mi_token", "interaction", "residual")
CLIP_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)
Row = dict[str, Any]


# -- models ----------------------------------------------------------------------------------------------------------


def ila_config(size: str, frames: int, *, form: str = "mi_token", **fields: Any) -> IlaConfig:
    """The paper's form unless another is named. The text tower is one layer deep: it is built and not used."""
    configuration_ila.CLIP_SIZES.setdefault("tiny", TINY)
    if fields.get("temporal_module", "ila") == "ila":  # beside another one a form has no effect
        fields["alignment_fusion"] = form
    fields |= {"num_labels": NUM_CLASSES, "text_config": {"num_hidden_layers": 1}}
    return IlaConfig.from_clip_size(size, num_frames=frames, **fields)


def ila_tower(size: str, frames: int, **fields: Any) -> IlaVisionModel:
    return moved(IlaVisionModel(ila_config(size, frames, **fields).vision_config))


def moved(model: Any) -> Any:
    """In eval mode, and nothing left at 0: points lie anywhere, and nothing gets away with adding zeros."""
    for weight in model.parameters():
        if weight.device.type != "meta" and not weight.any():
            nn.init.normal_(weight, std=0.02)
    return model.eval()


def same_weights(towers: Sequence[nn.Module]) -> None:
    """Gives CLIP's weights of the first tower to all, in the same memory: where they lie costs more than ILA does."""
    weights = towers[0].state_dict()
    for tower in towers[1:]:
        tower.load_state_dict({**tower.state_dict(), **weights}, assign=True)


def clip_tower(size: str, **fields: Any) -> CLIPVisionModel:
    vision = ila_config(size, 1, **fields).vision_config
    return CLIPVisionModel(CLIPVisionConfig(**{field: getattr(vision, field) for field in CLIP_FIELDS})).eval()


def xclip(size: str, frames: int) -> XCLIPModel:
    config = ila_config(size, frames)
    vision = {field: getattr(config.vision_config, field) for field in CLIP_FIELDS}
    width = config.projection_dim
    mit = {"mit_hidden_size": width, "mit_intermediate_size": 4 * width, "mit_num_attention_heads": width // 64}
    vision |= {"num_frames": frames, "mit_num_hidden_layers": 1, **mit}
    return XCLIPModel(XCLIPConfig(vision_config=vision, projection_dim=width)).eval()


def other_towers(frames: int, image_size: int) -> dict[str, nn.Module]:
    """As their classes come: width 768, 12 layers, patches of 16 pixels, and of two frames but for TimeSformer."""
    sizes = {"num_frames": frames, "image_size": image_size}
    return {
        "TimeSformer": TimesformerModel(TimesformerConfig(**sizes)),
        "ViViT": VivitModel(VivitConfig(**sizes)),
        "VideoMAE": VideoMAEModel(VideoMAEConfig(**sizes)),
    }


def clip_of(batch: int, frames: int, image_size: int = 224) -> torch.Tensor:
    return torch.randn(batch, frames, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))


def on_device(args: argparse.Namespace, thing: Any) -> Any:
    """A model or a tensor where and as what it is measured."""
    return thing.to(args.device, getattr(torch, args.dtype))


def ready(args: argparse.Namespace, call: Callable[..., Any]) -> Callable[..., Any]:
    """A model or a method of one, as it is called."""
    if isinstance(call, nn.Module):
        call = fused(args, on_device(args, call))
    if not args.compile:
        return call
    mode = "reduce-overhead" if args.device.type == "cuda" else "default"
    return torch.compile(call, mode=mode, fullgraph=True)  # whatever cannot be compiled is an error


def fused(args: argparse.Namespace, model: Any) -> Any:
    """The model's snapshot where `--fuse` asks for it and there is one; a snapshot of another's model there is not."""
    return model.fuse() if args.fuse and hasattr(model, "fuse") else model


def seconds_of(args: argparse.Namespace, calls: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Of each in rounds in turns; CUDA graphs are recorded in the second round."""
    return times_in_turns(calls, rounds=args.rounds, device=args.device, warmup=3 if args.compile else 1)


@lru_cache
def peak_rate(device: torch.device, dtype: str, rounds: int) -> float:
    """GMACs a second of a large matrix product."""
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device, dtype=getattr(torch, dtype))
    return PEAK_SIDE**3 / 1e9 / median_times([lambda: matrix @ matrix], rounds=rounds, device=device)[0]


# -- tables: each yields its rows ------------------------------------------------------------------------------------


@torch.inference_mode()
def inference(args: argparse.Namespace, size: str, frames: int, batch: int) -> list[Row]:
    """Towers with and without ILA beside CLIP's on the same frames, with CLIP's weights in the same memory.

    `cost` is what ILA adds, the median over the rounds, over its multiplications at the rate of the tower's largest
    matrix product; `of peak` is the rate of all multiplications over that of a large matrix product.
    """
    video = on_device(args, clip_of(batch, frames))
    towers = {form: ila_tower(size, frames, form=form) for form in args.forms}
    plain, clip = ila_tower(size, frames, temporal_module="none"), clip_tower(size)
    for tower in (clip, plain, *towers.values()):
        on_device(args, tower)
    same_weights([plain, clip, *towers.values()])
    weight = plain.encoder.layers[0].mlp.fc1.weight
    rows_in = on_device(args, torch.randn(batch * frames * plain.embeddings.num_positions, weight.shape[1]))
    calls: list[Callable[[], Any]] = [
        lambda: rows_in @ weight.T,
        partial(ready(args, clip), video.flatten(0, 1)),
        partial(ready(args, plain), video),
    ]
    calls += [partial(ready(args, tower), video) for tower in towers.values()]
    product, of_clip, of_plain, *own = seconds_of(args, calls)
    rate = len(rows_in) * weight.numel() / 1e9 / median(product)  # GMACs a second
    peak = peak_rate(args.device, args.dtype, args.rounds)
    of_tower = tower_gmacs(size, frames, temporal_module="none")
    rows = []
    for form, seconds in zip(args.forms, own):
        gmacs, added = tower_gmacs(size, frames, form=form), median(a - b for a, b in zip(seconds, of_plain))
        rows.append(
            {
                **{"size": size, "frames": frames, "batch": batch, "form": form},
                "CLIP, ms": 1000 * median(of_clip),
                "none, ms": 1000 * median(of_plain),
                "ILA, ms": 1000 * median(seconds),
                "ILA / CLIP": median(seconds) / median(of_clip),
                "ILA / none": median(seconds) / median(of_plain),
                "in GMACs": gmacs / of_tower,
                "cost": added * rate / batch / (gmacs - of_tower),
                "clips/s": batch / median(seconds),
                "of peak": batch * gmacs / median(seconds) / peak,
            }
        )
    return rows


def tower_gmacs(size: str, frames: int, **fields: Any) -> float:
    config = ila_config(size, frames, **fields).vision_config
    with torch.device("meta"):
        return count_gmacs(IlaVisionModel(config).eval(), frames, config.image_size)


@torch.inference_mode()
def classification(args: argparse.Namespace, size: str, frames: int, batch: int) -> list[Row]:
    """The classifier with its classes' features computed before, beside X-CLIP's video features and CLIP's tower.

    X-CLIP's features end before the prompts, which the classifier has; `features` is ours up to there.
    """
    video = on_device(args, clip_of(batch, frames))
    theirs, clip, rows = on_device(args, xclip(size, frames)), on_device(args, clip_tower(size)), []
    for form in args.forms:
        ours = on_device(args, moved(IlaForVideoClassification(ila_config(size, frames, form=form))))
        ours = fused(args, ours)
        used = [ready(args, call) for call in (theirs.get_video_features, ours, ours.get_video_features)]
        ours.class_text_features()  # compiled code takes what was computed before; moving the model forgets it
        calls = [*(partial(call, video) for call in used), partial(ready(args, clip), video.flatten(0, 1))]
        other, own, features, of_clip = map(median, seconds_of(args, calls))
        times = {"X-CLIP, ms": 1000 * other, "ILA, ms": 1000 * own, "ILA / X-CLIP": own / other}
        times |= {"features / X-CLIP": features / other, "ILA / CLIP": own / of_clip}
        rows.append({"size": size, "frames": frames, "batch": batch, "form": form, **times})
    return rows


def training(args: argparse.Namespace, size: str, frames: int, batch: int) -> list[Row]:
    """Forward, loss, backward and AdamW beside the same without a temporal module; weights are float32.

    Memory is the peak of the process (on a GPU: of its memory), weights and the optimizer's state included, and what
    of it the step itself adds.
    """
    rows = []
    for form in args.forms:
        row: Row = {"size": size, "frames": frames, "batch": batch, "form": form}
        if (needed := gigabytes_to_train(size, frames, batch)) > 0.8 * free_gigabytes(args.device):
            rows.append({**row, "not measured": f"needs some {needed:.0f} GB"})
            continue
        sides: list[dict[str, Any]] = [{"temporal_module": "none"}, {"form": form}]
        options = (str(args.device), args.dtype, args.compile)
        steps = [training_step(size, frames, batch, fields, *options) for fields in sides]
        plain, own = map(median, seconds_of(args, steps))
        del steps
        (whole, step), (own_whole, own_step) = (
            peak_memory(_prepare_training, size, frames, batch, fields, *options[:2]) for fields in sides
        )
        row |= {"none, ms": 1000 * plain, "ILA, ms": 1000 * own, "time ratio": own / plain}
        row |= {"none, MiB": whole, "ILA, MiB": own_whole, "memory ratio": own_whole / whole}
        rows.append({**row, "of the step": own_step / step})
    return rows


def free_gigabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    return _mebibytes("MemAvailable", "/proc/meminfo") / 1024


def gigabytes_to_train(size: str, frames: int, batch: int) -> float:
    """Some 26 values of width D for each token of a layer, and both models' weights with their optimizers' state."""
    config = ila_config(size, frames).vision_config
    tokens = batch * frames * (1 + (config.image_size // config.patch_size) ** 2)
    weights = 13 * config.num_hidden_layers * config.hidden_size**2
    return (26 * 4 * tokens * config.num_hidden_layers * config.hidden_size + 2 * 16 * weights) / 1e9


def training_step(
    size: str,
    frames: int,
    batch: int,
    fields: dict[str, Any],
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
) -> Callable[[], None]:
    model = moved(IlaForVideoClassification(ila_config(size, frames, **fields))).train().to(device)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
    video, labels = clip_of(batch, frames).to(device), torch.arange(batch, device=device) % NUM_CLASSES
    called = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
            loss = called(video, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@torch.inference_mode()
def against(args: argparse.Namespace, size: str, frames: int, batch: int) -> list[Row]:
    """The classifier of older code beside ours, plain and fused: medians of the rounds' ratios of processor time."""
    older, video, rows = package_at(args.against), on_device(args, clip_of(batch, frames)), []
    clock = time.process_time if args.device.type == "cpu" else time.perf_counter
    for form in args.forms:
        config = ila_config(size, frames, form=form)
        ours = on_device(args, moved(IlaForVideoClassification(config)))
        before = older.IlaForVideoClassification(older.IlaConfig.from_dict(config.to_dict())).eval()
        before = on_device(args, before)
        before.load_state_dict(ours.state_dict(), assign=True)
        calls = [partial(ready(args, model), video) for model in (before, ours, ours.fuse())]
        times = times_in_turns(
            calls, rounds=args.rounds, device=args.device, warmup=3 if args.compile else 1, clock=clock
        )
        plain, fused = (median(own / old for own, old in zip(seconds, times[0])) for seconds in times[1:])
        results = [call().logits for call in calls]
        row = {"size": size, "frames": frames, "batch": batch, "form": form, "before, ms": 1000 * median(times[0])}
        row |= {"plain / before": plain, "fused / before": fused}
        apart = max((result - results[0]).abs().max().item() for result in results)
        rows.append({**row, "logits apart": f"{apart / results[0].abs().max().item():.0e}"})
    return rows


@lru_cache
def package_at(worktree: Path) -> Any:
    """The package of another worktree, imported beside this one under another name."""
    folder = worktree / "src" / "transformers_ila"
    name = "transformers_ila_before"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        raise SystemExit(f"--against takes a worktree of this repository, got {worktree}: no {folder}.")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.inference_mode()
def others(args: argparse.Namespace, size: str, frames: int, batch: int) -> list[Row]:
    """Other video towers of transformers at the same resolution and number of frames, and their multiplications."""
    video = on_device(args, clip_of(batch, frames))
    towers = {"ILA": ila_tower(size, frames), **other_towers(frames, 224)}
    calls = [partial(ready(args, tower.eval()), video) for tower in towers.values()]
    times = dict(zip(towers, map(median, seconds_of(args, calls))))
    row = {"size": size, "frames": frames, "batch": batch, "ILA, ms": 1000 * times.pop("ILA")}
    with torch.device("meta"):
        gmacs = {name: count_gmacs(tower, frames, 224) for name, tower in other_towers(frames, 224).items()}
    own = tower_gmacs(size, frames)
    for name, seconds in times.items():
        row |= {f"{name} / ILA": 1000 * seconds / row["ILA, ms"], f"{name} in GMACs": gmacs[name] / own}
    return [row]


def growth(args: argparse.Namespace, size: str) -> list[Row]:
    """One clip of more and more frames, and of larger and larger pictures, beside CLIP's tower on the same frames.

    Memory is what computing adds to the weights and the clip.
    """
    rows = []
    patch = ila_config(size, 1).vision_config.patch_size
    for axis, values in (
        ("frames", GROWING_FRAMES),
        ("image_size", tuple(patch * side for side in GROWING_SIDES)),
    ):
        found: dict[str, list[float]] = {"ILA": [], "CLIP": [], "ILA, MiB": [], "CLIP, MiB": []}
        for value in values:
            sizes = {"frames": 8, "image_size": 224, axis: value}
            video = clip_of(1, **sizes)
            calls = [
                partial(_tower("ILA", size, **sizes), video),
                partial(_tower("CLIP", size, **sizes), video.flatten(0, 1)),
            ]
            with torch.inference_mode():
                times = map(median, times_in_turns(calls, rounds=args.rounds, device=video.device))
            for name, seconds in zip(("ILA", "CLIP"), times):
                found[name].append(1000 * seconds)
                found[f"{name}, MiB"].append(peak_memory(_prepare_inference, name, size, sizes)[1])
        scale = values if axis == "frames" else [value**2 for value in values]
        what = "frames" if axis == "frames" else "pixels"
        for name, costs in found.items():
            table = {str(value): cost for value, cost in zip(values, costs)}
            rows.append(
                {
                    "size": size,
                    "over": axis,
                    "what": name,
                    f"exponent in {what}": fitted_exponent(scale, costs),
                    **table,
                }
            )
    return rows


def _tower(name: str, size: str, *, frames: int, image_size: int) -> Any:
    fields = {"image_size": image_size}
    return ila_tower(size, frames, **fields) if name == "ILA" else clip_tower(size, **fields)


# -- memory ----------------------------------------------------------------------------------------------------------


def peak_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> tuple[float, float]:
    """MiB at most of a process of its own that prepares and runs: in all, and what running adds to that."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_report_peak, args=(queue, prepare, arguments, torch.get_num_threads()))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The process that was measured ended with {process.exitcode}.")
    return queue.get()


def _report_peak(queue: Any, prepare: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    before = _mebibytes("VmRSS")
    work = prepare(*arguments)
    if torch.cuda.is_initialized():
        prepared = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        work()
        peak = torch.cuda.max_memory_allocated() / 2**20
        queue.put((peak, peak - prepared))
        return
    prepared = _mebibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    peak = _mebibytes("VmHWM")
    queue.put((peak - before, peak - prepared))


def _mebibytes(field: str, file: str = "/proc/self/status") -> float:
    """Of Linux' own account of this process; `getrusage` hands a parent's peak down to its children."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _prepare_training(
    size: str, frames: int, batch: int, fields: dict[str, Any], device: str, dtype: str
) -> Callable[[], None]:
    step = training_step(size, frames, batch, fields, device, dtype)
    step()  # makes the optimizer's state
    return step


def _prepare_inference(name: str, size: str, sizes: dict[str, int]) -> Callable[[], Any]:
    tower, video = _tower(name, size, **sizes), clip_of(1, **sizes)
    return torch.inference_mode()(partial(tower, video if name == "ILA" else video.flatten(0, 1)))


# -- the report ------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[..., list[Row]]] = {
    "inference": inference,
    "classification": classification,
    "against": against,
    "training": training,
    "others": others,
    "growth": growth,
}


def markdown(rows: list[Row]) -> str:
    """One table; the columns are those of the rows, in order."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def draw_growth(rows: list[Row], file: Path) -> None:
    """Time and memory over frames and over pixels, both logarithmic: straight lines whose slope is the exponent."""
    axes_of = {"frames": ("frames of a clip", 1, ""), "image_size": ("pixels of a frame", 2, "²")}
    figure = Figure(figsize=(10, 8), layout="constrained")
    grid = figure.subplots(2, 2)
    ticks: dict[Any, dict[int, str]] = {axes: {} for axes in grid.flat}
    for row in rows:
        title, power, sign = axes_of[row["over"]]
        memory = row["what"].endswith("MiB")
        axes = grid[int(memory), int(row["over"] == "image_size")]
        values = sorted(int(key) for key in row if key.isdigit())
        places = [value**power for value in values]
        exponent = next(row[key] for key in row if key.startswith("exponent"))
        label = f"{row['what'].removesuffix(', MiB')} {row['size']}: exponent {exponent:.2f}"
        axes.loglog(places, [row[str(value)] for value in values], "o-", label=label)
        ticks[axes] |= {place: f"{value}{sign}" for place, value in zip(places, values)}
        axes.set_xticks(list(ticks[axes]), list(ticks[axes].values()))
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        axes.set_xlabel(title)
        axes.set_ylabel("peak memory, MiB" if memory else "time, ms")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=9)
    figure.suptitle("Growth of ILA's tower and of CLIP's on the same frames")
    figure.savefig(file, dpi=100)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, help="default: all but `against`")
    parser.add_argument("--sizes", nargs="+", default=["B/32", "B/16"])
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fuse", action="store_true", help="measure snapshots of our models for inference")
    parser.add_argument("--output", type=Path, help="keep the rows as JSON, too")
    parser.add_argument("--picture", type=Path, help="of the table `growth`")
    parser.add_argument("--against", type=Path, help="worktree of older code, for the table `against`")
    args = parser.parse_args()
    args.tables = args.tables or [table for table in TABLES if table != "against"]
    if ("against" in args.tables) != (args.against is not None):
        parser.error("The table `against` and the option --against (a worktree of older code) go together.")
    if args.device.type != "cpu" and "growth" in args.tables:
        parser.error(f"growth: measured on the CPU only; choose other --tables with --device {args.device}.")
    run = {"torch": torch.__version__, "transformers": transformers.__version__, "machine": machine()}
    run |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "rounds": args.rounds}
    run |= {"device": str(args.device), "dtype": args.dtype, "compiled": args.compile, "fused": args.fuse}
    if args.device.type == "cuda":
        run["machine"] = torch.cuda.get_device_name(args.device)
    kept: dict[str, Any] = {"run": run}
    print(", ".join(f"{name} {value}" for name, value in run.items()), flush=True)
    for table in args.tables:
        torch.manual_seed(0)
        places: list[tuple[Any, ...]] = [(size,) for size in args.sizes]
        if table != "growth":
            places = [(*place, frames, batch) for place in places for frames in args.frames for batch in args.batches]
        kept[table] = []
        for place in places:
            torch.compiler.reset()  # a new model is no recompilation of the last one
            kept[table] += [{**row, "load": os.getloadavg()[0]} for row in TABLES[table](args, *place)]
            if args.output is not None:
                args.output.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"\n{table}\n\n{markdown(kept[table])}", flush=True)
    if args.picture is not None and "growth" in kept:
        draw_growth(kept["growth"], args.picture)


if __name__ == "__main__":
    main()
