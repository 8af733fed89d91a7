"""What int8 weights cost and save on a CPU: size, time, and accuracy on generated motions.

    python benchmarks/quantisation.py --model demo_output/model
    python benchmarks/quantisation.py --model ablation/runs/MODEL/seed0_model --videos ablation/bench/test
    python benchmarks/quantisation.py --device cuda --dtype bfloat16

Two ways, both of the linear layers alone (convolutions and normalisation keep their type). "int8": weights, and inputs
while they are computed with, by torch's `quantize_dynamic`, which has kernels for a CPU only and leaves subclasses of
`nn.Linear` (the projections to the shared space, and what is initialised with 0); inputs get one scale a layer from
the whole batch, so logits depend on what else is in it. "int8 weights": weights alone, of all of them, by torchao
(`pip install '.[int8]'`).

Size and time are those of B/16 with random weights, 8 frames and 400 classes, on a GPU compiled; without `--model`
only they are measured. Accuracy is that of the model which `make demo` trains, on new videos, or of one that
`ablate.py --keep_models` left, on MotionBench's graded tasks, where a video is a choice among its own task's classes.
Batches of 32.
"""

import copy
import io
import os
import tempfile
import warnings
from dataclasses import dataclass, field
from functools import partial

import torch
from model_speed import TINY
from torch import nn
from transformers import HfArgumentParser

from transformers_ila import IlaConfig, IlaForVideoClassification
from transformers_ila.ablation.runs import OTHER_TASKS, task_mask
from transformers_ila.cost import median_times
from transformers_ila.data.video_folder import find_videos
from transformers_ila.evaluation.evaluator import collect_logits
from transformers_ila.evaluation.inference import load_trained
from transformers_ila.evaluation.metrics import accuracies
from transformers_ila.evaluation.options import EvaluationOptions
from transformers_ila.model.configuration_ila import CLIP_SIZES
from transformers_ila.motionbench.tasks import bench_labels, write_folder


try:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
except ImportError:  # then only torch's own way is measured
    quantize_ = None


@dataclass
class Arguments:
    model: str | None = field(
        default=None, metadata={"help": "folder of a model trained on the demo's motions, or on MotionBench"}
    )
    videos: str | None = field(default=None, metadata={"help": "folder to evaluate on; default: 800 of the demo's"})
    rounds: int = field(default=7, metadata={"help": "how often each model of this size computes"})
    size: str = field(default="B/16", metadata={"help": "of the model whose size and time are measured"})
    device: str = field(default="cpu", metadata={"help": "where they are measured"})
    dtype: str = field(default="float32", metadata={"help": "in which everything but the int8 weights is"})


def dynamic(model: nn.Module) -> nn.Module:
    """A copy; the text tower is merged before, or it would be quantised as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this will move to torchao one day
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def weight_only(model: nn.Module) -> nn.Module:
    """A copy."""
    small = copy.deepcopy(model)
    quantize_(small, Int8WeightOnlyConfig())
    return small


WAYS = {"int8": dynamic} | ({"int8 weights": weight_only} if quantize_ else {})


def megabytes(model: nn.Module) -> float:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell() / 1e6


def size_and_time(args: Arguments) -> list[str]:
    torch.manual_seed(0)
    device, on_cpu = torch.device(args.device), args.device == "cpu"
    whole = IlaForVideoClassification(IlaConfig.from_clip_size(args.size, num_labels=400)).eval()
    whole = whole.to(device, getattr(torch, args.dtype))
    before = megabytes(whole)
    merged = whole.merge_text_tower()
    models = {"text tower merged": merged, "text tower merged, fused": merged.fuse()}
    dynamic_too = on_cpu and args.dtype == "float32"  # the only type and device that torch has its kernels for
    ways = {way: quantised for way, quantised in WAYS.items() if way != "int8" or dynamic_too}
    models |= {f"text tower merged, {way}": quantised(merged) for way, quantised in ways.items()}
    sizes = {name: megabytes(model) for name, model in models.items()}
    pixel_values = torch.randn(1, 8, 3, 224, 224).to(device, merged.dtype)
    calls = [partial(model if on_cpu else torch.compile(model), pixel_values) for model in models.values()]
    with torch.no_grad():
        times = median_times(calls, rounds=args.rounds, device=device)
    lines = [f"| {args.size}, 8 frames | MB | ms | relative |", "|---|---|---|---|"]
    lines += [f"| as trained | {before:.0f} | | |"]
    rows = zip(models, times)
    return [*lines, *(f"| {name} | {sizes[name]:.0f} | {1000 * t:.1f} | {t / times[0]:.2f} |" for name, t in rows)]


def accuracy(args: Arguments) -> list[str]:
    model, processor = load_trained(args.model)
    if model.config.classification_head == "text" and model.config.has_text_tower:
        model.merge_text_tower()
    with tempfile.TemporaryDirectory() as folder:
        if args.videos is None:
            write_folder(folder, 800, seed=1001)
        labels, videos = find_videos(args.videos or folder)
        known = list(model.config.id2label.values())
        if labels != known:
            raise SystemExit(f"The model knows {known}, the videos are of {labels}; both must be the same classes.")
        options = EvaluationOptions(batch_size=32)
        exact = collect_logits(model, processor, videos, options)
        rough = [collect_logits(quantised(model), processor, videos, options) for quantised in WAYS.values()]
    graded = set(labels) <= set(bench_labels())  # else all classes are one choice
    allowed = (
        task_mask([label.partition(", ")[0] for label in labels])[exact.labels]
        if graded
        else torch.ones(1, dtype=torch.bool)
    )
    whole, *few = (found.logits.masked_fill(~allowed, OTHER_TASKS) for found in (exact, *rough))
    lines = [
        f"| {len(videos)} videos, {len(labels)} classes | top-1 | other labels | largest change of a probability |",
        "|---|---|---|---|",
        f"| float32 | {accuracies(whole, exact.labels)['top1']:.2%} | | |",
    ]
    for way, logits in zip(WAYS, few):
        other = int((whole.argmax(-1) != logits.argmax(-1)).sum())
        change = (whole.softmax(-1) - logits.softmax(-1)).abs().max().item()
        lines.append(f"| {way} | {accuracies(logits, exact.labels)['top1']:.2%} | {other} | {change:.3f} |")
    return lines


def main(args: Arguments) -> None:
    CLIP_SIZES.setdefault("tiny", TINY)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores.\n")
    print("\n".join([*(accuracy(args) if args.model else ()), "", *size_and_time(args)]))


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())
