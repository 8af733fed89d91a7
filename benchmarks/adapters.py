"""What an adapter (LoRA) saves and costs beside training everything, the new layers alone, and a head alone.

    python benchmarks/adapters.py memory
    python benchmarks/adapters.py accuracy --output adapters

memory: trained parameters, peak memory of a training step, and megabytes of what is saved, of B/16 with a text head,
8 frames and 400 classes in float32. A step is forward, backward and AdamW, two of them, the second with its states.
Peak memory is what the process takes at most (`getrusage`) less what it takes before the model is made, each in a
process of its own. Weights are random.

accuracy: four tasks of MotionBench of a minute by the numbers of the recipe `ablation_small`, "ila, interaction" on
the same small tower, for fewer steps. Adapters and new layers learn ten times as fast as a tower that is trained. A
head alone sees the mean of the frames (`temporal_module="none"`), as the recipe `head_b16_8f` has it. The output
folder holds a line for each run; what is there is not run again.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from peft import get_peft_model
from transformers import HfArgumentParser, set_seed

from transformers_ila import IlaConfig, IlaForVideoClassification
from transformers_ila.ablation.ablation import Ablation, read_ablation
from transformers_ila.ablation.runs import (
    SharedInputs,
    TaskTrainer,
    mean_accuracy,
    measure,
    prepare,
    start_model,
    task_mask,
    training_set,
)
from transformers_ila.training.adapters import lora_config
from transformers_ila.training.arguments import IlaTrainingArguments, is_new_parameter
from transformers_ila.training.recipes import recipe_file


ILA = {"alignment_fusion": "interaction"}
HEAD = {"temporal_module": "none", "mit_num_hidden_layers": 0}
WAYS: dict[str, tuple[dict[str, Any], bool, dict[str, Any] | None]] = {
    # fields of the model, whether the tower is frozen, arguments of `lora_config` or None for no adapter
    "everything": (ILA, False, None),
    "adapter": (ILA, False, {"r": 8}),
    "adapter, MLP too": (ILA, False, {"r": 8, "mlp": True}),
    "new layers alone": (ILA, True, None),
    "head alone": (HEAD, True, None),
}


@dataclass
class Arguments:
    output: str = field(default="adapters", metadata={"help": "folder of videos, tower and runs of `accuracy`"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    ways: list[str] = field(default_factory=lambda: list(WAYS), metadata={"help": "of training"})
    steps: int = field(default=200, metadata={"help": "of a run"})
    tasks: list[str] = field(default_factory=lambda: ["direction", "rotation", "speed", "over ground"])
    clips: int = field(default=1, metadata={"help": "in the batch whose memory is measured"})
    checkpointing: bool = field(default=False, metadata={"help": "measure with gradient checkpointing"})


# -- memory ----------------------------------------------------------------------------------------------------------


def step_memory(way: str, clips: int, checkpointing: bool) -> dict[str, Any]:
    """Return what two training steps of B/16 take; in a fresh process only."""
    fields, frozen, adapter = WAYS[way]
    head = {"classification_head": "linear"} if fields is HEAD else {"class_features": "embeddings"}
    config = IlaConfig.from_clip_size("B/16", num_frames=8, num_labels=400, **head, **fields)
    pixels, labels = torch.randn(clips, 8, 3, 224, 224), torch.arange(clips)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model: Any = IlaForVideoClassification(config)
    for name, weight in model.named_parameters():
        if frozen and not is_new_parameter(name, model.new_parameters):
            weight.requires_grad_(False)
    if adapter is not None:
        model = get_peft_model(model, lora_config(model, **adapter))
    if checkpointing:
        model.gradient_checkpointing_enable()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for _ in range(2):
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {"trained": sum(w.numel() for w in trained) / 1e6, "peak": (peak - before) / 2**10, "saved": saved / 1e6}


def print_memory(arguments: Arguments) -> None:
    kind = "recomputed" if arguments.checkpointing else "kept"
    print(f"Batches of {arguments.clips}, activations {kind}")
    print("| trained | parameters, M | peak of a step, MiB | saved, MB |\n|---|---|---|---|")
    for way in arguments.ways:
        command = [sys.executable, __file__, "step", way, str(arguments.clips), str(int(arguments.checkpointing))]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {way} | {row['trained']:.2f} | {row['peak']:.0f} | {row['saved']:.1f} |", flush=True)


# -- accuracy --------------------------------------------------------------------------------------------------------


def train(way: str, seed: int, ablation: Ablation, start: SharedInputs) -> dict[str, Any]:
    """Train and test one way with one seed."""
    _, frozen, adapter = WAYS[way]
    set_seed(seed)
    model: Any = start_model(ablation, way, start.weights)
    if adapter is not None:
        model = get_peft_model(model, lora_config(model, **adapter))
    fields = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": seed, "logging_steps": 100}
    with tempfile.TemporaryDirectory() as folder:
        args = IlaTrainingArguments(folder, freeze_clip=frozen, **{**fields, **ablation.training})
        own = task_mask(ablation.class_tasks)
        trainer = TaskTrainer(model=model, args=args, train_dataset=training_set(ablation, start, seed), own=own)
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        started = time.process_time()
        trainer.train()
    if trainer.stop.stopped:
        raise SystemExit(f"{way}, seed {seed}, was stopped; the same command goes on.")
    seconds = time.process_time() - started
    plain = model.merge_and_unload() if adapter is not None else model
    found = measure(ablation, plain, start)["accuracy"]
    return {"way": way, "seed": seed, "trained": trained, "seconds": seconds, "accuracy": found}


def print_accuracy(arguments: Arguments) -> None:
    ablation = read_ablation(recipe_file("ablation_small", kind="ablate"), {"tasks": arguments.tasks})
    ablation = replace(ablation, variants={way: fields for way, (fields, *_) in WAYS.items()})
    ablation.training["max_steps"] = steps = arguments.steps
    folder = Path(arguments.output)
    start = prepare(ablation, folder, progress=print)
    file = folder / f"runs_{steps}.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    for seed in arguments.seeds:
        for way in arguments.ways:
            if not any((run["way"], run["seed"]) == (way, seed) for run in runs):
                runs.append(train(way, seed, ablation, start))
                with file.open("a") as lines:
                    lines.write(json.dumps(runs[-1]) + "\n")
    print(f"{steps} steps; mean and standard deviation (n - 1) over seeds {arguments.seeds}")
    print("| trained | parameters, k | accuracy | shuffled | seconds |\n|---|---|---|---|---|")
    for way in arguments.ways:
        own = [run for run in runs if run["way"] == way and run["seed"] in arguments.seeds]
        right, shuffled = ([100 * mean_accuracy(run, order) for run in own] for order in ("as_is", "shuffled"))
        spread = stdev(right) if len(right) > 1 else 0.0
        numbers = f"{mean(right):.1f} ± {spread:.1f} % | {mean(shuffled):.1f} %"
        seconds = mean(run["seconds"] for run in own)
        print(f"| {way} | {own[0]['trained'] / 1e3:.1f} | {numbers} | {seconds:.0f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:  # of this program itself
        print(json.dumps(step_memory(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")))
    else:
        what, arguments = sys.argv[1], HfArgumentParser(Arguments).parse_args_into_dataclasses(sys.argv[2:])[0]
        {"memory": print_memory, "accuracy": print_accuracy}[what](arguments)
