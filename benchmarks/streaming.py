"""What a new frame of a stream costs, beside one frame of plain CLIP and beside the window of all its frames.

    python benchmarks/streaming.py                                             # all tables with their bars
    python benchmarks/streaming.py --sizes B/32 --threads 1 --precisions float32 --rounds 51

Random weights and pixels, causal towers with all layers and clips of 8 frames. All of a row take turns, and a cell is
the median of the rounds' ratios, of wall-clock time and of processor time; frames a second are of wall-clock time.
`frame / CLIP` is `push` of one new frame for each stream over Transformers' `CLIPVisionModel` on as many frames, on
the same weights in the same memory. `window / frame` is the tower's forward over the last 8 frames over that `push`:
what a window that moves by one frame costs without a stream. The head's cost is `push` with logits over `push`
without, in frames of CLIP. A bar is judged on processor time, which others on the machine hardly change, and a row
that misses one says so.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from model_speed import Row, clip_of, clip_tower, ila_config, machine, markdown, moved, same_weights

from transformers_ila import IlaForVideoClassification, IlaVisionModel
from transformers_ila.cost import times_in_turns
from transformers_ila.distributed import usable_cpus


FRAMES = 8  # of a window
FORMS = ("interaction", "mi_token")
READY = {"class_features": "merged"}  # no text tower: the classes' features are there, as after the first call
HEADS: dict[str, dict[str, Any]] = {
    "names and prompts": READY,
    "names": {**READY, "use_video_prompt": False},
    "linear": {"classification_head": "linear"},
}
ROUNDS = {("B/32", 1): 21, ("B/32", 8): 9, ("B/16", 1): 11}  # of (size, streams), in which all take turns
# frame over CLIP at most, window over frame at least, in float32
BARS = {("B/32", 1): (1.25, 5), ("B/32", 8): (1.12, 7), ("B/16", 1): (1.12, 7)}
MOST_MEGABYTES = {"B/32": 0.35, "B/16": 1.3}  # of a stream's cache in the tower


def causal_config(size: str, form: str, **fields: Any) -> Any:
    causal = {"temporal_module": "none"} if form == "none" else {"form": form, "alignment_causal": True}
    return ila_config(size, FRAMES, **causal, **fields)


def ratios(calls: list[Callable[[], Any]], rounds: int) -> tuple[list[list[float]], float]:
    """Each call's wall-clock and processor time over the first one's, and the first one's seconds; medians."""

    def clock() -> Any:
        return np.array([time.perf_counter(), time.process_time()])

    seconds = np.array(times_in_turns(calls, rounds=rounds, device=torch.device("cpu"), clock=clock))
    return np.median(seconds / seconds[0], axis=1).tolist(), median(seconds[0, :, 0].tolist())


def judged(ratio: float, bar: float | None, *, least: bool = False) -> str:
    if bar is None:
        return f"{ratio:.3f}"
    kept = ratio >= bar if least else ratio <= bar
    return f"{ratio:.3f} ({'at least' if least else 'at most'} {bar:g}{'' if kept else ': MISSED'})"


@torch.inference_mode()
def towers(args: argparse.Namespace, size: str, streams: int, precision: str) -> list[Row]:
    dtype, rounds = getattr(torch, precision), args.rounds or ROUNDS.get((size, streams), 5)
    most, least = BARS.get((size, streams), (None, None)) if precision == "float32" else (None, None)
    clip = clip_tower(size).to(dtype)
    models = {form: moved(IlaVisionModel(causal_config(size, form).vision_config)).to(dtype) for form in args.forms}
    same_weights([clip, *models.values()])
    window = clip_of(streams, FRAMES, clip.config.image_size).to(dtype)
    frame = window[:, -1:].contiguous()
    pushes = {form: partial(model.push, frame, model.start_stream(streams)) for form, model in models.items()}
    (_, *of_clip), seconds = ratios([partial(clip, frame.flatten(0, 1)), *pushes.values()], rounds)
    rows = []
    for (form, push), (wall, processor) in zip(pushes.items(), of_clip):
        (_, whole), own = ratios([push, partial(models[form], window)], max(rounds // 3, 2))
        rows.append(
            {
                **{"size": size, "streams": streams, "threads": torch.get_num_threads(), "precision": precision},
                **{"form": form, "CLIP, ms": 1000 * seconds},
                **{"frame / CLIP": judged(processor, most), "its wall clock": wall},
                **{"window / frame": judged(whole[1], least, least=True), "wall clock": whole[0]},
                **{"frames/s": streams / own, "load": os.getloadavg()[0]},
            }
        )
    return rows


@torch.inference_mode()
def heads(args: argparse.Namespace, size: str, streams: int) -> list[Row]:
    """What logits of 400 classes after each frame cost, and what a stream keeps of all that it needs."""
    clip, rows = clip_tower(size), []
    frame = clip_of(streams, 1, clip.config.image_size)
    for head, fields in HEADS.items():
        model = moved(IlaForVideoClassification(causal_config(size, args.forms[0], **fields)))
        same_weights([clip, model.vision_model])
        tower, cache = model.vision_model.start_stream(streams), model.start_stream(streams)
        calls = [partial(clip, frame.flatten(0, 1))]
        calls += [partial(model.push, frame, cache, logits_to_keep=kept) for kept in (0, 1)]
        model.vision_model.push(frame, tower)
        (_, without, whole), _ = ratios(calls, args.rounds or 9)
        kept = tower.nbytes() / streams / 1e6
        rows.append(
            {
                **{"size": size, "streams": streams, "threads": torch.get_num_threads(), "head": head},
                **{"frame / CLIP": without[0], "with logits": whole[0], "head, CLIP frames": whole[0] - without[0]},
                "tower's cache, MB a stream": judged(kept, MOST_MEGABYTES.get(size)),
                **{"all, MB a stream": cache.nbytes() / streams / 1e6, "load": os.getloadavg()[0]},
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["B/32", "B/16"])
    threads = sorted({1, usable_cpus()})
    parser.add_argument("--threads", nargs="+", type=int, default=threads, help="default: 1 and all")
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--forms", nargs="+", choices=(*FORMS, "none"), default=FORMS)
    parser.add_argument("--streams", nargs="+", type=int, help="default: 1 and 8 with B/32, 1 with the others")
    parser.add_argument("--rounds", type=int, help="default: 21 to 9, the fewer the slower")
    args = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {machine()}, {usable_cpus()} CPUs")
    torch.manual_seed(0)
    of_towers, of_heads = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for size in args.sizes:
            for streams in args.streams or ([1, 8] if size == "B/32" else [1]):
                for precision in args.precisions:
                    of_towers += shown(towers(args, size, streams, precision), first=not of_towers)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for size in args.sizes:
            of_heads += shown(heads(args, size, 1), first=not of_heads)
    missed = f"{of_towers} {of_heads}".count("MISSED")
    print(f"\n{missed or 'no'} bar{'' if missed == 1 else 's'} missed")


def shown(rows: list[Row], *, first: bool) -> list[Row]:
    """Print rows as soon as they are there, below the head of the table for the first ones."""
    head, line, *cells = markdown(rows).splitlines()
    print("\n".join(["", head, line, *cells] if first else cells), flush=True)
    return rows


if __name__ == "__main__":
    main()
