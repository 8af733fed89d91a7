"""Make the pictures of README.md and docs/ (`make pictures`).

    python benchmarks/pictures.py --folder pictures
    python benchmarks/pictures.py --folder pictures --parts pictures --models ila

| part | pictures |
|---|---|
| pictures | docs/pictures/: four small models, which differ in what joins the frames, learn the eight plain motions of
MotionBench from scratch on the same videos, some two minutes each on two cores; then each picture is drawn |
| demo | docs/alignment.png, which `ila demo` draws |
| timeline | docs/timeline.png, by the causal network of benchmarks/timeline.py |
| ablation | docs/ablation/*.png, from the runs that lie beside them |

docs/speed_growth.png shows measurements: `python benchmarks/model_speed.py --picture`. What the folder holds
already is kept.
"""

import shutil
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timeline import Arguments as TimelineArguments
from timeline import fit
from timeline import train as train_for_timelines
from transformers import HfArgumentParser, set_seed

from ila_cli import main as ila
from transformers_ila import IlaVideoProcessor, visualize
from transformers_ila.cli.demo import DemoOptions, small_config
from transformers_ila.data.video_folder import VideoFolder, find_videos
from transformers_ila.evaluation.report_fields import about_report
from transformers_ila.evaluation.report_pictures import REPORT_PICTURES, plot_report, read_report
from transformers_ila.motionbench.sequences import MotionSequence, write_sequence, write_sequences
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.visualization.files import read_about, write_figure


SIDE, PATCH = 48, 8  # pixels: six by six patches
BATCH = 16  # videos
MODELS: dict[str, dict[str, Any]] = {  # name -> fields of IlaVisionConfig
    "ila": {"temporal_module": "ila"},
    "divided": {"temporal_module": "divided"},
    "ata": {"temporal_module": "ata"},
    "gta": {"temporal_module": "gta"},
}
VIDEO = "moving left/00000.mp4"  # of the held-out ones
PICTURES: dict[str, tuple[list[str], dict[str, Any]]] = {  # picture -> models, options of `visualize`
    "masks": (["ila"], {}),
    "points": (["ila"], {"layers": "last"}),
    "features": (["divided", "ata", "gta", "ila"], {}),
    "information": (["ila"], {}),
    "matches": (["ata"], {"count": 6}),
    "routes": (["ata"], {}),
    "weights": (["gta"], {}),
    "regions": (["gta"], {"count": 3}),
    "attention": (["divided"], {"query": [4, 3, 3]}),
    "integration": (["ila"], {}),
}
DPI, COLOURS = 90, 256  # of pictures on a screen, small beside those for print
DOCS = Path(__file__).resolve().parents[1] / "docs"


@dataclass
class Arguments:
    folder: str = field(default="pictures", metadata={"help": "for videos, models and what is drawn for print"})
    output: str = field(default=str(DOCS), metadata={"help": "the folder of the pages"})
    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": "which pictures are made"})
    videos: int = field(default=1600, metadata={"help": "to train on"})
    held_out: int = field(default=160, metadata={"help": "to test on"})
    steps: int = field(default=500, metadata={"help": "optimiser steps of each model"})
    seed: int = 0
    models: list[str] = field(default_factory=lambda: list(MODELS), metadata={"help": "that are trained"})


def train(folder: Path, args: Arguments) -> dict[str, Path]:
    """Train the models, unless they are there; return their folders."""

    places = {name: folder / "models" / name for name in args.models}
    if all((place / "config.json").is_file() for place in places.values()):
        return places
    videos = folder / "videos"
    for seed, (split, count) in enumerate((("train", args.videos), ("held_out", args.held_out))):
        if not (videos / split).is_dir():
            write_folder(videos / split, count, seed=2 * args.seed + seed, size=SIDE)
    labels, training = find_videos(videos / "train")
    held_out = find_videos(videos / "held_out", labels=labels)[1]
    options = DemoOptions(output=str(folder / "runs"), steps=args.steps, batch_size=BATCH, seed=args.seed)
    sets = None
    for name, place in places.items():
        if (place / "config.json").is_file():
            continue
        set_seed(args.seed)
        config = small_config(options, labels)
        sizes = {"image_size": SIDE, "patch_size": PATCH, "alignment_causal": False}
        fields = {**config.vision_config.to_dict(), **sizes, **MODELS[name]}
        if name != "ila":  # whose fields have no effect in the others
            fields = {field: value for field, value in fields.items() if not field.startswith("alignment_")}
            config.alignment_loss_weight = 1.0
        config.vision_config = type(config.vision_config)(**fields)
        processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": SIDE})
        sets = sets or [VideoFolder(samples, processor, keep=True) for samples in (training, held_out)]
        fit(config, options, sets, processor, place)
    return places


def draw_pictures(folder: Path, output: Path, args: Arguments) -> None:
    """Draw the pictures of docs/pictures.md by the models that are trained."""
    places = train(folder, args)
    video = folder / "moving_left.mp4"
    shutil.copyfile(folder / "videos" / "held_out" / VIDEO, video)
    for picture, (models, options) in PICTURES.items():
        if not set(models) <= set(places):
            continue
        printed = folder / f"{picture}.png"
        figure = visualize([places[name] for name in models], video, picture, output=printed, **options)
        write_figure(figure, output / printed.name, read_about(printed), dpi=DPI, colours=COLOURS)
    if "ila" in places:
        report = folder / "report.json"
        if not report.is_file():
            words = [
                "--data_set",
                "MotionBench, plain motions",
                "--split",
                "held out",
                "--output",
                str(report.absolute()),
            ]
            with chdir(folder):  # so that the report names no folder of this machine
                call("evaluate", "--model", "models/ila", "--videos", "videos/held_out", *words)
        for picture in REPORT_PICTURES:
            about = about_report(read_report(report), picture)
            write_figure(plot_report(report, picture), output / f"{picture}.png", about, dpi=DPI, colours=COLOURS)


def draw_demo(folder: Path, output: Path, args: Arguments) -> None:
    """Run `ila demo` unless it has run, and draw its picture smaller."""
    if not (folder / "alignment.png").is_file():
        call("demo", "--output", str(folder))
    about = read_about(folder / "alignment.png")
    (video,) = (folder / "videos" / "held_out").rglob(about["video"])
    figure = visualize(folder / "model", video, "masks")
    write_figure(figure, output / "alignment.png", about, dpi=DPI)


def draw_timeline(folder: Path, output: Path, args: Arguments) -> None:
    """Draw ten minutes of motions as the causal network of benchmarks/timeline.py finds them."""
    write_sequences(folder / "sequences", seed=args.seed)
    model = train_for_timelines(folder, TimelineArguments(seed=args.seed))["causal"]
    video = folder / "ten_minutes.mp4"
    truth = write_sequence(video, MotionSequence(seed=args.seed + 1, seconds=600.0))
    words = ["--model", str(model), "--background", "nothing", "--truth", str(truth)]
    call("timeline", str(video), *words, "--output", str(output / "timeline.png"))


def draw_ablation(folder: Path, output: Path, args: Arguments) -> None:
    """Draw the pictures of the ablation from its runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("runs.jsonl", "costs.json"):
        shutil.copyfile(DOCS / "ablation" / name, folder / name)
    call("ablate", "ablation_small", "--output", str(folder), "--report_only")
    for picture in folder.glob("*.png"):
        shutil.copyfile(picture, output / "ablation" / picture.name)


def call(*words: str) -> None:
    """Run a verb of `ila`; end with its code if it fails."""
    if code := ila([*words]):
        raise SystemExit(code)


PARTS = {"pictures": draw_pictures, "demo": draw_demo, "timeline": draw_timeline, "ablation": draw_ablation}


def main(args: Arguments) -> None:
    unknown = [name for name in args.parts if name not in PARTS] + [name for name in args.models if name not in MODELS]
    if unknown:
        raise SystemExit(f"Parts are {', '.join(PARTS)}, and models {', '.join(MODELS)}; got {unknown[0]!r}.")
    output = Path(args.output)
    for name in ("pictures", "ablation"):
        (output / name).mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        PARTS[name](Path(args.folder) / name, output / "pictures" if name == "pictures" else output, args)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())
