"""What causality costs in accuracy: two-sided and causal towers, in windows and in a warm stream, on MotionBench.

    python benchmarks/causality.py --output causality [--variants "shift, causal" ...] [--seeds 0 1 2]
    python benchmarks/causality.py --report docs/ablation/causality.jsonl

Every variant is trained and tested as `ila ablate ablation_small` does it: same small tower to begin from, steps,
tasks and seeds. The videos are longer (24 instead of 16 frames), so that there is a past: every second frame is taken,
12 in all. A clip is the last 8 of them, and that is what the models learn. A trained model is tested in two ways, and
both times the head sees the same 8 frames:

- window: the tower begins with the clip's first frame, as `forward` does.
- stream: the tower has begun 4 frames earlier, as it has in the middle of a stream.

With warm-up frames in training the tower sees 2 frames before the clip, which the head does not see; in its window,
too. "Whole pair" is a form that no configuration has: a frame takes both halves of the features of its pair with its
predecessor, where `alignment_causal` gives it the half that belongs to the current frame.

Every run is a file below `--output`, so that a broken series goes on, and `causality.jsonl` there holds all of them,
as docs/ablation/causality.jsonl does those that docs/ablation.md reports. A run takes two minutes of one core.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import HfArgumentParser, set_seed

from transformers_ila import IlaConfig, IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.ablation import runs
from transformers_ila.ablation.ablation import Ablation, read_ablation
from transformers_ila.ablation.results import Result, result_file, tower_digest, write_json
from transformers_ila.ablation.significance import paired_differences, sign_flip_test
from transformers_ila.data.annotations import read_annotations
from transformers_ila.model import layers_ila
from transformers_ila.model.alignment_ila import ImplicitAlignment, alignment_loss
from transformers_ila.model.pairs_ila import Past, masked_average_pool
from transformers_ila.model.temporal_ila import TemporalOutput, ZeroLinear
from transformers_ila.motionbench import tasks
from transformers_ila.training.arguments import IlaTrainingArguments
from transformers_ila.training.recipes import recipe_file


LENGTH, STEP, CLIP = 24, 2, 8  # frames of a video; every second is taken; of these the last 8 are the clip
TAKEN = LENGTH // STEP
WAYS = ("window", "stream")
INTERACTION = {"alignment_fusion": "interaction"}
TOKEN = {"alignment_fusion": "mi_token"}
SHIFT = {"temporal_module": "shift"}
CAUSAL = {"alignment_causal": True}


@dataclass(frozen=True)
class Form:
    """Hold a variant of the experiment: its network, and how it is trained.

    fields: of IlaConfig.
    warm_up: frames before the clip that the tower sees in training.
    module: what stands in place of `ImplicitAlignment`.
    """

    fields: dict[str, Any]
    warm_up: int = 0
    module: Any = ImplicitAlignment


class WholePair(ImplicitAlignment):
    """Add to a frame all features of its pair with its predecessor, in a causal "interaction"."""

    def __init__(self, config: Any, layer_index: int = 0, *, causal: bool = False) -> None:
        super().__init__(config, layer_index, causal=causal)
        assert causal and self.fusion == "interaction"
        self.interaction_skip = ZeroLinear(self.pairs.channels, config.hidden_size)

    def _causal(
        self, hidden_states: Any, patches: Any, compared: Any, height: int, width: int, past: Any
    ) -> TemporalOutput:
        features, points, _ = self.pairs.causal(compared, height, width, self.pairing, Past())  # T pairs
        masks = self.pairs.masks(points, height, width)
        loss = alignment_loss(masked_average_pool(masks[:, 1:], patches, self.pairing))
        moved = patches + self.interaction_skip(features.flatten(-2).mT)
        hidden_states = torch.cat([hidden_states[:, :, :1], moved], dim=2)
        weights = masks[:, :, 1].flatten(-2) / patches.shape[2]
        tokens = torch.cat([hidden_states, weights[:, :, None] @ patches], dim=2)
        return TemporalOutput(hidden_states, tokens, loss, points[:, 1:])


FORMS = {
    "interaction": Form(INTERACTION),
    "interaction, 2 warm-up frames": Form(INTERACTION, warm_up=2),
    "interaction, causal": Form(INTERACTION | CAUSAL),
    "interaction, causal, 2 warm-up frames": Form(INTERACTION | CAUSAL, warm_up=2),
    "interaction, causal, whole pair": Form(INTERACTION | CAUSAL, module=WholePair),
    "shift": Form(SHIFT),
    "shift, causal": Form(SHIFT | CAUSAL),
    "mi_token": Form(TOKEN),
    "mi_token, causal": Form(TOKEN | CAUSAL),
}


@dataclass
class Arguments:
    """Say what is run, and where.

    output: folder for videos, the tower and results. variants: keys of `FORMS`. seeds: of the runs.
    report: file of runs whose tables are printed; nothing is run.
    """

    output: str = "causality"
    variants: list[str] = field(default_factory=lambda: list(FORMS))
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    report: str | None = None


def the_ablation(seeds: Sequence[int] = (0, 1, 2)) -> Ablation:
    changes = {"seeds": list(seeds)}
    recipe = read_ablation(recipe_file("ablation_small", kind="ablate"), changes)
    return Ablation(**{**vars(recipe), "variants": {name: form.fields for name, form in FORMS.items()}})


# -- videos ----------------------------------------------------------------------------------------------------------


def clips_of(folder: Path, split: str, processor: IlaVideoProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is taken of a split's videos, (videos, TAKEN, C, H, W), and their labels; kept as a file."""
    kept = folder / f"{split}.pt"
    if not kept.is_file():
        samples = read_annotations(folder / "bench" / split).samples
        taken = [processor(sample.source(), return_tensors="pt")["pixel_values"][0, ::STEP] for sample in samples]
        labels = torch.tensor([sample.labels[0] for sample in samples])
        torch.save((torch.stack(taken), labels), kept)
    return torch.load(kept)


class Clips(Dataset):
    """Hold clips: the last `frames` of the frames that were taken of each video."""

    def __init__(self, taken: torch.Tensor, labels: torch.Tensor, frames: int) -> None:
        self.clips, self.labels = taken[:, -frames:], labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.clips[index], "labels": int(self.labels[index])}


# -- towers over more frames than the head ---------------------------------------------------------------------------


def last_frames_features(
    model: IlaForVideoClassification,
    pixel_values: torch.Tensor,
    interpolate_pos_encoding: bool = False,
    output_alignment: bool = False,
    **kwargs: Any,
) -> Any:
    """Do what `get_video_features` does, with a tower over all frames given and a head over the last `CLIP`."""
    outputs = model.vision_model(pixel_values, any_num_frames=True, return_dict=True)
    outputs.frame_embeds = model.visual_projection(outputs.pooler_output)[:, -CLIP:]
    outputs.pooler_output = model.mit(outputs.frame_embeds).pooler_output
    return outputs


# -- runs ------------------------------------------------------------------------------------------------------------


def run(ablation: Ablation, name: str, seed: int, folder: Path, training: Any, test: Any) -> Result:
    """Train and test a form; return its result, which is written too."""
    form, started = FORMS[name], time.perf_counter()
    set_seed(seed)
    with mock.patch.object(layers_ila, "ImplicitAlignment", form.module):
        model = runs.start_model(ablation, name, str(folder / "tower"))
    model.get_video_features = MethodType(last_frames_features, model)
    arguments = IlaTrainingArguments(
        str(folder / "trainer"), seed=seed, report_to="none", disable_tqdm=True, logging_steps=100, use_cpu=True,
        **ablation.training,
    )  # fmt: skip
    own = runs.task_mask(ablation.class_tasks)
    clips = Clips(*training, CLIP + form.warm_up)
    trainer = runs.TaskTrainer(model=model, args=arguments, train_dataset=clips, own=own)
    trainer.train()
    logs = [line for line in trainer.state.log_history if "classification_loss" in line]
    result = {
        "variant": name,
        "seed": seed,
        "decided": {**ablation.decided(name), "frames": [LENGTH, STEP, CLIP], "warm_up": form.warm_up},
        "tower": tower_digest(folder),
        "train_seconds": time.perf_counter() - started,
        "train_loss": logs[-1]["classification_loss"],
        **measure(ablation, model, form, test),
    }
    model.save_pretrained(result_file(folder, name, seed).with_name(f"seed{seed}_model"))
    write_json(result_file(folder, name, seed), result)
    return result


@torch.inference_mode()
def measure(ablation: Ablation, model: Any, form: Form, test: Any) -> dict[str, Any]:
    """Return for each way of testing which answers are right, task by task, and how alike the class tokens are."""
    taken, labels = test
    model.eval()
    own = runs.task_mask(ablation.class_tasks)[labels]
    names = [ablation.task_of(ablation.class_names[label]) for label in labels]
    tokens, right = {}, {}
    for way, frames in zip(WAYS, (CLIP + form.warm_up, TAKEN)):
        outputs = [model.get_video_features(part) for part in taken[:, -frames:].split(62)]
        tokens[way] = torch.cat([output.frame_embeds for output in outputs])
        logits = torch.cat([model.classify(output) for output in outputs])
        answers = logits.masked_fill(~own, runs.OTHER_TASKS).argmax(-1) == labels
        right[way] = {task: "" for task in dict.fromkeys(names)}
        for task, good in zip(names, answers.tolist()):
            right[way][task] += runs.RIGHT if good else runs.WRONG
    return {
        "accuracy": {way: {task: runs.share_right(found) for task, found in of.items()} for way, of in right.items()},
        "right": right,
        "same_tokens": F.cosine_similarity(tokens["window"], tokens["stream"], dim=-1).mean(0).tolist(),
    }


# -- report ----------------------------------------------------------------------------------------------------------


def mean_and_deviation(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def means(results: Sequence[Result], way: str) -> list[float]:
    """Return the mean accuracy over the tasks of each run."""
    return [statistics.mean(result["accuracy"][way].values()) for result in results]


def difference(results: Sequence[Result], way: str, others: Sequence[Result]) -> str:
    """Return how much better a form is than others in windows, in points, over the seeds of both, and the p-value."""
    one, other = (
        [{"seed": result["seed"], "right": result["right"][of]} for result in of_form]
        for of_form, of in ((results, way), (others, "window"))
    )
    apart = paired_differences(one, other)
    if apart is None:
        return ""
    chance = sign_flip_test(apart)
    return f"{100 * apart.sum():+.1f} ({chance:.3f})" if chance >= 0.001 else f"{100 * apart.sum():+.1f} (< 0.001)"


def report(results: Sequence[Result]) -> str:
    """Return Markdown tables, in percent: mean over the tasks, each task's, and how alike class tokens are.

    A difference is to the two-sided form in windows; behind it is the p-value of the paired permutation test.
    """
    found = {name: [result for result in results if result["variant"] == name] for name in FORMS}
    found = {name: of_form for name, of_form in found.items() if of_form}
    lines = ["| form | seeds | window | stream | window - two-sided (p) | stream - two-sided (p) |"]
    lines.append("|---|---|---|---|---|---|")
    for name, of_form in found.items():
        two_sided = found.get(name.partition(",")[0], [])
        cells = [mean_and_deviation(means(of_form, way)) for way in WAYS]
        cells += [difference(of_form, way, two_sided) for way in WAYS]
        lines.append(f"| {name} | {len(of_form)} | " + " | ".join(cells) + " |")
    lines += ["", "| form | " + " | ".join(tasks.TASKS) + " |", "|---|" + "---|" * len(tasks.TASKS)]
    for name, of_form in found.items():
        for way in WAYS:
            cells = [mean_and_deviation([r["accuracy"][way][task] for r in of_form]) for task in tasks.TASKS]
            lines.append(f"| {name}, {way} | " + " | ".join(cells) + " |")
    lines += ["", "| class tokens, window and stream: cosine | " + " | ".join(map(str, range(1, CLIP + 1))) + " |"]
    lines.append("|---|" + "---|" * CLIP)
    for name, of_form in found.items():
        cells = [f"{statistics.mean(r['same_tokens'][index] for r in of_form):.3f}" for index in range(CLIP)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Arguments) -> None:
    folder, ablation = Path(arguments.output), the_ablation(arguments.seeds)
    if arguments.report is not None:
        print(report([json.loads(line) for line in Path(arguments.report).read_text().splitlines()]))
        return
    folder.mkdir(parents=True, exist_ok=True)
    runs._prepare_tower(ablation, folder, print)
    tasks.write_bench(folder / "bench", size=ablation.bench, seed=ablation.bench_seed, num_frames=LENGTH)
    config = IlaConfig.from_pretrained(folder / "tower", num_frames=LENGTH)
    processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": config.vision_config.image_size})
    training, test = (clips_of(folder, split, processor) for split in ("train", "test"))
    for seed in arguments.seeds:
        for name in arguments.variants:
            if not result_file(folder, name, seed).is_file():
                found = run(ablation, name, seed, folder, training, test)
                said = ", ".join(f"{way} {means([found], way)[0]:.1%}" for way in WAYS)
                print(f"{name}, seed {seed}: {said}, {found['train_seconds']:.0f} s", flush=True)
    files = sorted((folder / "runs").glob("*/seed*.json"))
    (folder / "causality.jsonl").write_text("".join(json.dumps(json.loads(f.read_text())) + "\n" for f in files))
    print(report([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())
