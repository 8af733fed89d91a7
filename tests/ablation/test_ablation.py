"""Ablations: what a recipe may say, what a run trains and measures, what is kept, and what the report shows."""

import csv
import fcntl
import json
import math
import re
import statistics
from dataclasses import replace
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F

from support.paths import RECIPES, ROOT
from support.tiny_models import TINY_TEXT, TINY_VISION
from transformers_ila import IlaConfig, IlaForVideoClassification
from transformers_ila.ablation import runs as runs_module
from transformers_ila.ablation.ablation import Ablation, config_for_cost, own_gmacs, read_ablation
from transformers_ila.ablation.image_pretraining import SEEN, TARGETS, pictures_and_states, pretrain_on_frames
from transformers_ila.ablation.report import (
    _cost_key,
    _write_csv,
    draw_costs,
    draw_tasks,
    markdown,
    measure_costs,
    summary_rows,
    write_report,
)
from transformers_ila.ablation.results import RUNS, read_results, read_rows, result_file, tower_digest
from transformers_ila.ablation.runs import (
    RunInProgress,
    TaskTrainer,
    mean_accuracy,
    measure,
    prepare,
    run,
    start_model,
    task_mask,
)
from transformers_ila.ablation.significance import holm, paired_differences, sign_flip_test
from transformers_ila.cli import ablate
from transformers_ila.cli.main import run_verb
from transformers_ila.evaluation.inference import load_trained
from transformers_ila.evaluation.options import FRAME_ORDERS
from transformers_ila.model.configuration_ila import CLIP_SIZES
from transformers_ila.motionbench.tasks import SIZES, TASKS, bench_labels, write_folder
from transformers_ila.training.arguments import IlaTrainingArguments


ABLATIONS = sorted(RECIPES.glob("ablation_*.yaml"))
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MODEL = {
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 16},
    "num_frames": 4,
    "projection_dim": 32,
    "alignment_hidden_size": 8,
    "classification_head": "linear",
    "classifier_dropout": 0.0,
}
TRAINING = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1}
VARIANTS = {
    "none": {"temporal_module": "none"},
    "ila, interaction": {"alignment_fusion": "interaction"},
    "words": {"classification_head": "text", "text_config": {"hidden_size": 16, "num_hidden_layers": 1}},
}


def small(**changes):
    fields = {
        "variants": VARIANTS,
        "model": MODEL,
        "training": TRAINING,
        "seeds": [0, 1],
        "tasks": ["rotation", "speed"],
    }
    return Ablation(**{**fields, "pictures": {"steps": 2, "batch_size": 4, "per_class": 1}, **changes})


@pytest.fixture
def tiny_bench(monkeypatch):
    monkeypatch.setitem(SIZES, "minute", {"train": 2, "val": 1, "test": 2, "side": 32})


# -- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("file", ABLATIONS, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_builds_its_variants(file):
    found = read_ablation(file)
    assert len(found.seeds) >= 3 and set(found.tasks) == set(TASKS)
    for variant in found.variants:
        config = config_for_cost(found, variant)
        with torch.device("meta"):
            IlaForVideoClassification(config)
        assert found.clip is not None or own_gmacs(found, variant) > 0


def test_the_small_recipe_has_every_module_and_every_switch():
    variants = read_ablation(RECIPES / "ablation_small.yaml").variants.values()
    modules = {variant.get("temporal_module", "ila") for variant in variants}
    assert modules == {"none", "average", "shift", "message", "divided", "joint", "ata", "gta", "ila"}
    assert {variant.get("alignment_fusion") for variant in variants} >= {
        *("mi_token", "interaction", "residual", "add", "concat")
    }
    switches = {name for variant in variants for name in variant}
    assert switches >= {"alignment_pairing", "alignment_operator", "alignment_layers", "use_video_prompt"}


@pytest.mark.parametrize(
    "text,message",
    [
        ("- a", "is no ablation: list"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nstep: 3", "unknown step; its keys are variants, model"),
        ("variants: {a: {}}\nmodel: {}", "must have training"),
        ("variants: {}\nmodel: {}\ntraining: {}", "`variants` must be one or more"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nseeds: [1, 1]", "all different, got \\[1, 1\\]"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nseeds: 3", "`seeds` must be whole numbers"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nseeds: [a]", "`seeds` must be whole numbers"),
        ("variants: {a: }\nmodel: {}\ntraining: {}", "each `name: {field: value}`"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nbench: week", "must be tiny, minute, hour, night, got 'week'"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nbench: [minute]", "must be tiny, minute, hour, night"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntasks: []", "`tasks` must be one or more"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntasks: [speed, speed]", "`tasks` must be .*all different"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {steps: 3}", "`training` has unknown steps"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\npictures: {stepz: 3}", "`pictures` has unknown stepz"),
        ("variants: {a: {vision_config: {}}}\nmodel: {}\ntraining: {}", "Variant 'a' has a `vision_config`"),
        ("variants: {a: {}}\nmodel: {vision_config: {}}\ntraining: {}\nclip: x", "leave one of them out"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntasks: [dancing]", "got 'dancing'"),
        ("variants: {a: {modul: ila}}\nmodel: {}\ntraining: {}", "IlaConfig has no 'modul'"),
        ("variants: {a: {temporal_module: magic}}\nmodel: {}\ntraining: {}", "magic"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntrain_list: a", "`train_list` and `test_list` go together"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nvideos: a", "videos is of `train_list` and `test_list`"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nreference: b", "`reference` must be one of a; got 'b'"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\naugmentation: {flap: 1}", "augmentation is of `train_list`"),
        ("variants: [", "is no YAML"),
    ],
)
def test_what_is_refused(text, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ablation(file)


# -- the tower that all begin from -----------------------------------------------------------------------------------


def test_states_of_pictures():
    pictures, targets, counted = pictures_and_states(per_class=1, seed=0, side=32, every=4)
    assert pictures.shape == (len(bench_labels()) * 4, 3, 32, 32) and pictures.dtype == torch.uint8
    assert targets.shape == counted.shape == (len(pictures), len(SEEN) * TARGETS)
    by_shape, counts = targets.unflatten(1, (len(SEEN), TARGETS)), counted.unflatten(1, (len(SEEN), TARGETS))
    there = by_shape[..., -1] == 1
    assert there.any(0).all() and not there.all(0).any() and (counts[..., -1] == 1).all()
    radius = by_shape[..., :4].square() + by_shape[..., 4:8].square()
    torch.testing.assert_close(radius[there], torch.ones_like(radius[there]))
    assert not counts[~there][:, :-1].any() and counts[there][:, :3].all()
    assert not counts[:, 1:, 3].any()  # discs and squares have no turn to see


@pytest.mark.slow
def test_a_tower_learns_pictures():
    errors = []
    pretrain_on_frames(MODEL, steps=150, batch_size=32, per_class=8, progress=lambda step, error: errors.append(error))
    assert sum(errors[-20:]) < 0.9 * sum(errors[:20])  # measured: 0.86


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_choice_is_made_within_a_task():
    own = task_mask(small(tasks=["rotation", "speed"]).class_tasks)  # of two and of three classes
    assert own.tolist() == [[True] * 2 + [False] * 3] * 2 + [[False] * 2 + [True] * 3] * 3


@pytest.mark.slow
def test_runs_are_kept_repeat_themselves_and_are_reported(tiny_bench, tmp_path, monkeypatch):
    ablation = small()
    start = prepare(ablation, tmp_path)
    assert len(start.training) == 10 and len(start.test) == 10
    results = {(v, s): run(ablation, v, s, start, tmp_path) for s in ablation.seeds for v in ablation.variants}
    for (variant, seed), result in results.items():
        stored = json.loads(result_file(tmp_path, variant, seed).read_text())
        assert stored == json.loads(json.dumps(result)) and stored["variant"] == variant and stored["seed"] == seed
        assert set(stored["accuracy"]) == {"as_is", "shuffled", "reversed", "single_frame"}
        assert set(stored["accuracy"]["as_is"]) == {"rotation", "speed"}
        assert 0 <= mean_accuracy(stored) <= 1 and 0 <= stored["transport_distance"] <= 2
        assert 0 <= stored["shared_information"] <= math.log(4) and math.isfinite(stored["train_loss"])
    again = run(ablation, "ila, interaction", 1, start, tmp_path / "again", keep_model=True)
    same = results["ila, interaction", 1]
    assert {**again, "train_seconds": 0} == {**same, "train_seconds": 0}
    assert again["train_loss"] != results["ila, interaction", 0]["train_loss"]
    (kept,) = (tmp_path / "again").rglob("seed1_model")
    model, processor = load_trained(kept)
    tested = measure(ablation, model, replace(start, processor=processor))
    assert tested.items() <= again.items()

    @wraps(pretrain_on_frames)
    def is_there(*args, **kwargs):
        pytest.fail("trained again")

    monkeypatch.setattr(runs_module, "pretrain_on_frames", is_there)
    prepare(ablation, tmp_path)
    assert len(read_results(ablation, tmp_path)) == 6
    with pytest.raises(ValueError, match="another ablation \\(training differ\\)"):
        read_results(small(training={**TRAINING, "learning_rate": 1e-4}), tmp_path)
    check_report(ablation, tmp_path)


def test_what_was_made_of_other_numbers_is_refused(tiny_bench, tmp_path):
    ablation = small()
    start = prepare(ablation, tmp_path)
    other = small(pictures={"steps": 3, "batch_size": 4, "per_class": 1})
    with pytest.raises(ValueError, match="tower' is of another ablation \\(pictures differ\\)"):
        prepare(other, tmp_path)
    checkpoints = result_file(tmp_path, "none", 0).with_suffix("")
    checkpoints.mkdir(parents=True)
    (checkpoints / "made_of.json").write_text(json.dumps(small(training={"max_steps": 9}).decided("none")))
    with pytest.raises(ValueError, match="seed0' is of another ablation \\(training differ\\)"):
        run(ablation, "none", 0, start, tmp_path)
    result = run(ablation, "none", 1, start, tmp_path)
    assert result["tower"] == tower_digest(tmp_path) != tower_digest(tmp_path / "no")
    file = result_file(tmp_path, "none", 1)
    file.write_text(json.dumps({**result, "tower": "another"}))
    with pytest.raises(ValueError, match="began from another tower"):
        read_results(ablation, tmp_path)


def test_names_of_variants_are_names(tmp_path, monkeypatch):
    """In the tables, on the pictures and in the files' names, whatever they are made of."""
    names = ["<b>$\\frac$", "_a | b", "=1+1", "lone \udc80 " + "x" * 300]
    ablation = small(variants={name: {"temporal_module": "none"} for name in names}, reference=names[0])
    assert len({result_file(tmp_path, name, 0) for name in names}) == 4
    row = {"seeds": 1, "accuracy": 0.5, "difference": 0.0, "p_value": 1.0, "device": "cpu", "gmacs": 1.0}
    row |= {f"accuracy_{order}": 0.5 for order in FRAME_ORDERS} | {
        "transport_distance": 0.5,
        "shared_information": 0.5,
    }
    row |= {"parameters": 1.0, "milliseconds": 1.0, "times_plain": 1.0, "memory": 1.0, "accuracy_std": float("nan")}
    row |= {f"accuracy, {task}{end}": 0.5 for task in ablation.tasks for end in ("", "_std")}
    rows = [{"variant": name, **row} for name in names]
    lines = markdown(ablation, rows).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    assert len({len(row) for row in cells[:6]}) == 1 and "over &lt;b>\\$\\\\frac\\$" in cells[0]
    assert [row[0] for row in cells[2:5]] == ["&lt;b>\\$\\\\frac\\$", "\\_a \\| b", "=1+1"]
    _write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open() as stream:
        assert [row["variant"] for row in csv.DictReader(stream)][:3] == [*names[:2], "'=1+1"]
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.append(figure))
    draw_costs(ablation, rows, tmp_path / "a.png")
    draw_tasks(ablation, rows, tmp_path / "b.png")
    legend = shown[0].axes[0].get_legend().get_texts()
    for texts in (legend, shown[1].axes[0].get_yticklabels()):
        assert [text.get_text() for text in texts][:3] == names[:3] and texts[3].get_text().startswith(
            "lone \\udc80 x"
        )
        assert not any(text.get_parse_math() for text in texts)


def test_a_run_belongs_to_one_process(tiny_bench, tmp_path):
    ablation = small()
    start, file = prepare(ablation, tmp_path), result_file(tmp_path, "none", 0)
    file.parent.mkdir(parents=True)
    said = "another process is at it. Another process writes to .* on "
    with file.with_name(".seed0.lock").open("ab") as lock, pytest.raises(RunInProgress, match=said):
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(ablation, "none", 0, start, tmp_path)


@pytest.mark.slow
def test_a_failed_run_does_not_end_the_others(tiny_bench, tmp_path, monkeypatch, capsys):
    def fails(ablation, variant, *others, **options):
        if variant == "none":
            raise RuntimeError("out of memory")
        return run(ablation, variant, *others, **options)

    monkeypatch.setattr(runs_module, "run", fails)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**vars(small())}))
    assert run_verb(ablate, [str(tmp_path / "recipe.yaml"), "--output", str(tmp_path)]) == 1
    assert "[6/6] words, seed 1" in capsys.readouterr().out and len(read_results(small(), tmp_path)) == 4


def test_shares_of_layers_on_the_cost_tower():
    ablation = small(variants={"last": {"alignment_layers": [1]}})
    layers = config_for_cost(ablation, "last").vision_config.alignment_layers
    assert list(layers) == [6, 7, 8, 9, 10, 11]  # of 12, as the second of two


@pytest.mark.parametrize("bf16", [False, True])
def test_both_losses_are_trained(tiny_bench, tmp_path, bf16):
    """Mixed precision rebuilds the model's output from its entries."""
    ablation = small(training={**TRAINING, "max_steps": 1, "bf16": bf16, "logging_steps": 1})
    start = prepare(ablation, tmp_path)
    run(ablation, "ila, interaction", 0, start, tmp_path)
    model = start_model(ablation, "ila, interaction", start.weights)
    arguments = IlaTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, **ablation.training)
    own = task_mask(ablation.class_tasks)
    trainer = TaskTrainer(model=model, args=arguments, train_dataset=start.training, own=own)
    trainer.train()
    assert trainer.state.log_history[0]["alignment_loss"] > 0


def test_a_stopped_run_is_no_result(tiny_bench, tmp_path, monkeypatch):
    def stopped(trainer, **kwargs):
        trainer.stop.stopped = True

    ablation = small()
    start = prepare(ablation, tmp_path)
    monkeypatch.setattr(TaskTrainer, "train", stopped)
    with pytest.raises(InterruptedError, match="none, seed 0, was stopped"):
        run(ablation, "none", 0, start, tmp_path)
    assert not result_file(tmp_path, "none", 0).exists()


def check_report(ablation, folder):
    files = [file.name for file in write_report(ablation, folder)]  # costs were not measured yet
    assert files == ["ablation.md", "ablation.csv", "ablation_runs.csv", "accuracy_per_task.png"]
    costs = {"gmacs": 1.0, "parameters": 2.0, "milliseconds": 3.0, "times_plain": 1.5, "memory": 4.0, "own_gmacs": 0.1}
    costs["device"] = "cpu"
    stored = {variant: {"of": "another tower's", **costs} for variant in ablation.variants}
    (folder / "costs.json").write_text(json.dumps(stored))
    assert "gmacs" not in summary_rows(ablation, folder)[0]
    stored = {variant: {"of": _cost_key(ablation, variant), **costs} for variant in ablation.variants}
    (folder / "costs.json").write_text(json.dumps(stored))
    write_report(ablation, folder)
    with (folder / "ablation_runs.csv").open() as stream:
        runs = list(csv.DictReader(stream))
    assert [(row["variant"], row["seed"]) for row in runs] == [(v, s) for s in "01" for v in ablation.variants]
    (row, *_) = summary_rows(ablation, folder)
    accuracies = [
        sum(float(r[f"as_is, {task}"]) for task in ablation.tasks) / 2 for r in runs if r["variant"] == "none"
    ]
    assert row["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert row["accuracy_std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    text = (folder / "ablation.md").read_text()
    assert f"| none | {row['accuracy'] * 100:.1f} ± {row['accuracy_std'] * 100:.1f} % |" in text
    assert "2 seeds" in text and "chance 41.7%" in text and "| chance | 50% | 33% |" in text
    for name in ("accuracy_per_task.png", "accuracy_over_gmacs.png"):
        assert max(Image.open(folder / name).size) > 400


def test_the_loss_is_that_of_the_own_task(tiny_bench, tmp_path):
    ablation = small()
    start = prepare(ablation, tmp_path)
    model = start_model(ablation, "none", start.weights).eval()
    own = task_mask(ablation.class_tasks)
    arguments = IlaTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, max_steps=1)
    trainer = TaskTrainer(model=model, args=arguments, train_dataset=start.training, own=own)
    items = [start.training[index] for index in (0, 5, 9)]
    labels = torch.tensor([item["labels"] for item in items])
    batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items]), "labels": labels}
    with torch.no_grad():
        loss, logits = trainer.compute_loss(model, batch), model(batch["pixel_values"]).logits
    expected = [
        F.cross_entropy(row[own[label]][None], own[label][:label].sum()[None]) for row, label in zip(logits, labels)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_variants_begin_from_the_same_tower(tiny_bench, tmp_path):
    ablation = small()
    start = prepare(ablation, tmp_path)
    towers = []
    for variant in ablation.variants:
        model = start_model(ablation, variant, start.weights)
        assert [model.config.id2label[index] for index in range(5)] == bench_labels(ablation.tasks)
        whole, found = IlaConfig(**ablation.fields_of(variant)).vision_config.to_dict(), model.config.vision_config
        assert {**found.to_dict(), "dtype": None} == {**whole, "dtype": None}  # nothing else is the checkpoint's
        assert model.mit is not None and (model.vision_model.encoder.layers[0].temporal is None) == (variant == "none")
        towers.append({k: v for k, v in model.vision_model.state_dict().items() if "temporal" not in k})
    for tower in towers[1:]:
        assert tower.keys() == towers[0].keys() and all(torch.equal(tower[k], towers[0][k]) for k in tower)
    words = start_model(ablation, "words", start.weights).class_embeds
    torch.testing.assert_close(words @ words.T, torch.eye(5), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_costs_are_measured_once(tmp_path, monkeypatch):
    """On a small tower in place of CLIP's, whose costs `tests/test_cost.py` counts."""
    tower = {**TINY_VISION, "image_size": 112, "patch_size": 16}
    monkeypatch.setitem(CLIP_SIZES, "B/32", (tower, TINY_TEXT, 64))
    ablation = small(variants={"none": {"temporal_module": "none"}, "ata": {"temporal_module": "ata"}})
    costs = measure_costs(ablation, tmp_path, rounds=1)
    assert costs["ata"]["gmacs"] > costs["none"]["gmacs"] and costs["ata"]["memory"] > costs["none"]["memory"] > 0
    assert measure_costs(ablation, tmp_path, rounds=1) == costs  # read
    rows = [{"variant": v, "seeds": 2, "accuracy": 0.5, "accuracy_std": 0.1, **costs[v]} for v in costs]
    draw_costs(ablation, rows, tmp_path / "costs.png")
    assert min(Image.open(tmp_path / "costs.png").size) > 400


# -- a user's own lists ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_lists(tmp_path):
    """Two lists of generated videos of which one cannot be read, and what names their classes."""
    for name, count, seed in (("train", 16, 0), ("test", 9, 1)):
        write_folder(tmp_path / "videos" / name, count, seed=seed)
        labels = sorted(folder.name for folder in (tmp_path / "videos" / name).iterdir())
        files = sorted((tmp_path / "videos" / name).rglob("*.mp4"))
        lines = [f"{file.relative_to(tmp_path / 'videos')} {labels.index(file.parent.name)}" for file in files]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    files[0].write_bytes(b"broken")
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    names = {"train_list": "train.txt", "test_list": "test.txt", "videos": "videos", "labels": "labels.txt"}
    return {name: str(tmp_path / file) for name, file in names.items()}


def test_own_lists(own_lists, tmp_path):
    variants = {name: VARIANTS[name] for name in ("none", "ila, interaction")}
    ablation = small(variants=variants, **own_lists)
    start = prepare(ablation, tmp_path / "out")
    assert task_mask(ablation.class_tasks).all() and not (tmp_path / "out" / "bench").exists()
    for variant in variants:
        for seed in (0, 1):
            result = run(ablation, variant, seed, start, tmp_path / "out")
    (letters,) = result["right"].values()
    assert len(letters) == 9 and letters.count("-") == 1 and result["accuracy"]["as_is"].keys() == {"all videos"}
    assert mean_accuracy(result) == letters.count("1") / 8
    files = [file.name for file in write_report(ablation, tmp_path / "out")]
    assert files == ["ablation.md", "ablation.csv", "ablation_runs.csv"]
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert text.startswith("16 training and 9 test videos of 8 classes") and "| over none | p |" in text
    Path(own_lists["test_list"]).write_text(Path(own_lists["test_list"]).read_text().rpartition("\n")[0])
    with pytest.raises(ValueError, match="another ablation \\(test_samples differ\\)"):
        read_results(small(variants=variants, **own_lists), tmp_path / "out")


def test_own_lists_that_are_wrong(own_lists, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"variants": VARIANTS, "model": MODEL, "training": TRAINING}))
    options = [word for name, value in own_lists.items() for word in (f"--{name}", value)]
    for bad, message in {
        ("--test_list", own_lists["train_list"]): "16 videos are in both lists",
        ("--test_list", str(tmp_path / "gone.txt")): "gone.txt",
        ("--variants", "none", "words", "magic"): "has no variant 'magic'; it has 'ila, interaction'",
        ("--clip", "nowhere"): "`clip` a tower of its own",
        ("--seeds", "1", "1"): "all different, got [1, 1]",
        ("--part", "3/2"): "--part must be such as 1/2",
    }.items():
        assert run_verb(ablate, [str(recipe), "--output", str(tmp_path / "out"), *options, *bad]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("ila ablate: error: ") and message in error
    assert not (tmp_path / "out").exists()


# -- significance ----------------------------------------------------------------------------------------------------


def runs_of(*letters):
    return [{"seed": seed, "right": {"a": first, "b": second}} for seed, (first, second) in enumerate(letters)]


def test_differences_add_up_to_that_of_the_accuracies():
    one, other = runs_of(("1110", "11-1"), ("1010", "0111")), runs_of(("1010", "10-0"), ("0010", "0011"))
    differences = paired_differences(one, other)
    assert len(differences) == 4 + 3  # the third video of "b" could not be read once
    by_task = [(3 + 2) / 8 - (2 + 1) / 8, (3 + 2) / 6 - (1 + 1) / 6]
    assert differences.sum() == pytest.approx(sum(by_task) / 2)
    assert paired_differences(one, [{"seed": 7, "right": {}}]) is None and paired_differences(one, []) is None
    with pytest.raises(ValueError, match="other numbers of videos in 'a'"):
        paired_differences(one, runs_of(("111", "1111")))


@pytest.mark.parametrize("better,worse", [(10, 0), (14, 4), (7, 7), (0, 0), (40, 20)])
def test_for_one_seed_it_is_mcnemars_test(better, worse):
    """Which is a sign test of the videos that only one of both gets right."""
    differences = np.array([1.0] * better + [-1.0] * worse + [0.0] * 30)
    exact = 1.0 if better == worse else scipy.stats.binomtest(better, better + worse).pvalue
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.015)  # three deviations of 10,000 draws


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# -- runs that are kept as lines -------------------------------------------------------------------------------------


def test_lines_and_files_are_read_alike(tiny_bench, tmp_path):
    ablation = small(variants={"none": VARIANTS["none"]})
    start = prepare(ablation, tmp_path)
    results = [run(ablation, "none", seed, start, tmp_path) for seed in ablation.seeds]
    first = result_file(tmp_path, "none", 0)
    others = {**results[1], "form": "another experiment", "accuracy": {}}
    (tmp_path / RUNS).write_text("\n".join(map(json.dumps, [results[0], others])))
    first.unlink()
    stored = json.loads(json.dumps(results))
    assert read_results(ablation, tmp_path) == stored
    (tmp_path / "tower" / "model.safetensors").unlink()
    assert read_results(ablation, tmp_path) == stored
    (tmp_path / RUNS).write_text(json.dumps({**results[0], "tower": "another"}))
    with pytest.raises(ValueError, match="began from another tower"):
        read_results(ablation, tmp_path)


def test_the_published_runs_give_the_published_tables():
    ablation, folder = read_ablation(RECIPES / "ablation_small.yaml"), ROOT / "docs" / "ablation"
    rows = {row["variant"]: row for row in summary_rows(ablation, folder)}
    assert len(read_results(ablation, folder)) == 60 and len(rows) == 20
    text = (ROOT / "docs" / "ablation.md").read_text()
    for line in markdown(ablation, list(rows.values())).splitlines()[2:]:
        assert line in text
    for row in csv.DictReader((folder / "ablation.csv").open()):
        for name, value in row.items():
            if name not in ("variant", "device"):
                assert float(value) == pytest.approx(rows[row["variant"]][name], nan_ok=True)
    forms = {row["form"] for row in read_rows(folder) if "form" in row}
    assert len(forms) == 8
    for form in forms:
        found = [100 * mean_accuracy(row) for row in read_rows(folder) if row.get("form") == form]
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        assert f"| {form} | {statistics.mean(found):.1f}{spread} | {len(found)} |" in text
