"""The main job from end to end: videos -> fine-tuning -> evaluation -> saving -> a label for a video -> a picture.

Without arguments it generates motion videos, writes them as H.264 files and trains a small ILA from scratch on them.
With `--clip` and `--videos` it fine-tunes real CLIP weights on your own videos (one sub-folder per class).
"""

import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm
from transformers import set_seed

from ..data.video_folder import VideoFolder, find_videos, hold_out
from ..evaluation.inference import named_in_errors, require_checkpoint
from ..evaluation.visualize import visualize
from ..files import only_writer
from ..markup import plain_line
from ..model.class_names_ila import label_fields
from ..model.configuration_ila import IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from ..motionbench.tasks import write_folder


# What a user types to get a label; run in a fresh process.
CLASSIFY = """
import json, sys
import transformers_ila
from transformers import pipeline

classify = pipeline("video-classification", model=sys.argv[1])
print(json.dumps(classify(sys.argv[2], top_k=5)))
"""


MARKER = ".ila_demo"  # in a folder of videos that `ila demo` wrote and may delete


EXAMPLES = (
    "ila demo",
    "ila demo --clip openai/clip-vit-base-patch32 --videos path/to/videos",
)


if TYPE_CHECKING:  # `--help` needs nothing of training
    from transformers import EvalPrediction, TrainingArguments


MOST = {"num_videos": 10**6, "num_held_out": 10**6, "num_frames": 1000, "steps": 10**9, "batch_size": 10**5}


@dataclass
class DemoOptions:
    """Hold the options of `ila demo`."""

    _argument_group_name = "options of ila demo"

    output: str = field(default="demo_output", metadata={"help": "folder to make, for videos, model and picture"})
    clip: str | None = field(default=None, metadata={"help": "Hub id or folder of a CLIP checkpoint to start from"})
    videos: str | None = field(default=None, metadata={"help": "folder with one sub-folder per class"})
    num_videos: int = field(default=6400, metadata={"help": "videos to generate for training"})
    num_held_out: int = field(default=800, metadata={"help": "videos to generate for evaluation"})
    num_frames: int = field(default=8, metadata={"help": "frames of a clip"})
    steps: int | None = field(default=None, metadata={"help": "optimiser steps; default 1500, with --clip ten epochs"})
    batch_size: int | None = field(default=None, metadata={"help": "default 32, with --clip 8"})
    learning_rate: float | None = field(default=None, metadata={"help": "default 2e-3, with --clip 1e-5"})
    seed: int = field(default=0, metadata={"help": "seed of the videos, the weights and the order of the videos"})

    def __post_init__(self) -> None:
        if self.clip is not None:
            require_checkpoint(self.clip)
        if self.videos is not None and not Path(self.videos).is_dir():
            raise ValueError(f"--videos must be a folder with one sub-folder per class; there is no {self.videos!r}.")
        for name in ("num_videos", "num_held_out", "num_frames", "steps", "batch_size"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= MOST[name]:
                raise ValueError(f"--{name} must be 1 or more, at most {MOST[name]}, got {value}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning_rate must be above 0, and finite, got {self.learning_rate}.")


def small_config(args: DemoOptions, labels: list[str]) -> IlaConfig:
    """Return three layers of width 64 with 4 x 4 patches, which learn from scratch in minutes on two cores."""
    vision: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    vision |= {"image_size": 32, "patch_size": 8, "num_frames": args.num_frames, "alignment_hidden_size": 32}
    vision["alignment_causal"] = True  # so that the model can be tried on a stream
    vision["hidden_act"] = "gelu"  # one fused operation; CLIP's quick_gelu takes half of the time at this size
    return IlaConfig(
        vision_config=vision,
        projection_dim=64,
        mit_num_attention_heads=4,
        classification_head="linear",  # there are no pretrained words to compare with
        classifier_dropout=0.0,
        alignment_loss_weight=0.1,
        **label_fields(labels),
    )


def clear_videos(folder: Path) -> None:
    """Empty the folder of generated videos, and mark it as one that the next run may empty.

    Raises:
        ValueError: the folder holds something, and no demo wrote it.
    """
    if folder.exists() and not (folder / MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} was not written by `ila demo`: remove it, or name another --output.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def prepare_videos(args: DemoOptions) -> tuple[list[str], list, list]:
    """Return class names, training samples and held-out samples; generated videos are written first."""
    if args.videos is not None:
        labels, samples = find_videos(args.videos)
        training, held_out = hold_out(samples)
        if not held_out:
            raise ValueError("No class has two videos, of which one could be held out for evaluation.")
        return labels, training, held_out
    folder, started = Path(args.output) / "videos", time.perf_counter()
    clear_videos(folder)
    counts = {"train": args.num_videos, "held_out": args.num_held_out}
    with tqdm(total=sum(counts.values()), unit="video", desc="Writing videos", disable=None) as bar:
        for seed, (name, count) in enumerate(counts.items()):
            write_folder(folder / name, count, seed=args.seed * 2 + seed, progress=bar.update)
    print(f"Wrote {bar.total} H.264 videos to {folder} in {time.perf_counter() - started:.0f} s.", flush=True)
    labels, training = find_videos(folder / "train")
    return labels, training, find_videos(folder / "held_out", labels=labels)[1]


def prepare_model(args: DemoOptions, labels: list[str]) -> tuple[IlaForVideoClassification, IlaVideoProcessor]:
    """Return the untrained model, or CLIP's with new parts (`--clip`), and its processor."""
    if args.clip is None:
        model = IlaForVideoClassification(small_config(args, labels))
        return model, IlaVideoProcessor.for_model(model.config, size={"shortest_edge": 32})
    model = IlaForVideoClassification.from_pretrained(  # a head that has learned other classes starts anew
        args.clip, labels=labels, num_frames=args.num_frames, ignore_mismatched_sizes=True
    )
    return model, IlaVideoProcessor.for_model(model.config)


def training_arguments(args: DemoOptions) -> "TrainingArguments":
    """Return the arguments of the Trainer, of which steps and rate depend on the model's size."""
    from transformers import TrainingArguments

    small = args.clip is None
    batch_size = args.batch_size or (32 if small else 8)
    return TrainingArguments(
        output_dir=str(Path(args.output) / "checkpoints"),
        max_steps=args.steps or (1500 if small else -1),
        num_train_epochs=10,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=4 * batch_size,
        learning_rate=args.learning_rate or (2e-3 if small else 1e-5),
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.05,
        adam_beta2=0.98,
        dataloader_num_workers=0 if small else 2,
        save_strategy="no",
        logging_steps=200 if small else 10,
        report_to="none",
        seed=args.seed,
    )


def accuracy(prediction: "EvalPrediction") -> dict[str, float]:
    """Return the share of right answers, as `compute_metrics` of the Trainer."""
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def train(args: DemoOptions, labels: list[str], training: list, evaluation: list) -> tuple[Path, dict[str, float]]:
    """Fine-tune, evaluate and save the model; return its folder and the metrics on the held-out videos."""
    from transformers import Trainer

    model, processor = prepare_model(args, labels)
    if args.clip is None:
        training_set = VideoFolder(training, processor, keep=True)
    else:
        training_set = VideoFolder(training, IlaVideoProcessor.for_model(model.config, random_frames=True))
    trainer = Trainer(
        model=model,
        args=training_arguments(args),
        train_dataset=training_set,
        eval_dataset=VideoFolder(evaluation, processor),
        processing_class=processor,
        compute_metrics=accuracy,
    )
    model.config.frame_rate = training_set.frame_rate()
    trainer.train()
    metrics = trainer.evaluate()
    folder = Path(args.output) / "model"
    trainer.save_model(str(folder))
    return folder, metrics


def classify_in_fresh_process(folder: Path, video: Path) -> list[dict]:
    """Return the pipeline's labels and scores for a video, from a new Python process."""
    command = [sys.executable, "-c", CLASSIFY, str(folder), str(video)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"The fresh process failed:\n{run.stderr}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def draw(folder: Path, video: Path, picture: Path) -> None:
    """Write a contact sheet of the video's frames with the points and masks of up to four layers."""
    visualize(folder, video, "masks", output=picture)


def run(args: DemoOptions) -> int:
    """Train, evaluate, classify a video and draw its alignment; return 0."""
    if args.clip is not None:  # minutes of writing videos begin with a checkpoint that is there
        with named_in_errors(args.clip):
            IlaConfig.from_pretrained(args.clip)
    with only_writer(args.output):
        return _run(args)


def _run(args: DemoOptions) -> int:
    started = time.perf_counter()
    set_seed(args.seed)
    labels, training, evaluation = prepare_videos(args)
    folder, metrics = train(args, labels, training, evaluation)
    print(
        f"Held-out accuracy {metrics['eval_accuracy']:.1%} on {len(evaluation)} videos; chance {1 / len(labels):.1%}."
    )
    video, truth = evaluation[args.seed % len(evaluation)]
    print(f"{plain_line(video, None)}, in a fresh process through pipeline('video-classification'):")
    for rank, answer in enumerate(classify_in_fresh_process(folder, video), 1):
        print(f"  {rank}. {plain_line(answer['label']):28} {answer['score']:.3f}")
    print(f"  truth: {plain_line(labels[truth])}")
    picture = Path(args.output) / "alignment.png"
    draw(folder, video, picture)
    print(f"Frames, masks and interactive points: {picture}")
    print(f"Model: {folder}. Everything took {time.perf_counter() - started:.0f} s.")
    return 0
