"""Ablations: what a recipe may say, what a run trains and measures, what is kept, and what the report shows."""

import csv
import json
import math
from dataclasses import replace
from functools import wraps

import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch.nn import functional as F

from support.paths import RECIPES
from transformers_ila import IlaConfig, IlaForVideoClassification
from transformers_ila.ablation import ablation as ablation_module
from transformers_ila.ablation.ablation import (
    Ablation,
    RunInProgress,
    TaskTrainer,
    mean_accuracy,
    prepare,
    read_ablation,
    read_results,
    result_file,
    run,
    start_model,
    task_mask,
)
from transformers_ila.ablation.image_pretraining import SEEN, TARGETS, pictures_and_states, pretrain_on_frames
from transformers_ila.ablation.report import _cost_key, draw_costs, measure_costs, summary_rows, write_report
from transformers_ila.evaluation.inference import load_trained
from transformers_ila.motionbench.tasks import SIZES, TASKS, bench_labels
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
        config = ablation_module.config_for_cost(found, variant)
        with torch.device("meta"):
            IlaForVideoClassification(config)
        assert found.clip is not None or ablation_module.own_gmacs(found, variant) > 0


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
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nbench: week", "must be minute, hour, night, got 'week'"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\nbench: [minute]", "must be minute, hour, night"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntasks: []", "`tasks` must be one or more"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntasks: [speed, speed]", "`tasks` must be .*all different"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {steps: 3}", "`training` has unknown steps"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\npictures: {stepz: 3}", "`pictures` has unknown stepz"),
        ("variants: {a: {vision_config: {}}}\nmodel: {}\ntraining: {}", "Variant 'a' has a `vision_config`"),
        ("variants: {a: {}}\nmodel: {vision_config: {}}\ntraining: {}\nclip: x", "leave one of them out"),
        ("variants: {a: {}}\nmodel: {}\ntraining: {}\ntasks: [dancing]", "got 'dancing'"),
        ("variants: {a: {modul: ila}}\nmodel: {}\ntraining: {}", "IlaConfig has no 'modul'"),
        ("variants: {a: {temporal_module: magic}}\nmodel: {}\ntraining: {}", "magic"),
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
    own = task_mask(["a, 1", "a, 2", "b, 1"])
    assert own.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


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
    tested = ablation_module.test(model, replace(start, processor=processor), task_mask(bench_labels(ablation.tasks)))
    assert tested.items() <= again.items()

    @wraps(pretrain_on_frames)
    def is_there(*args, **kwargs):
        pytest.fail("trained again")

    monkeypatch.setattr(ablation_module, "pretrain_on_frames", is_there)
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
    assert result["tower"] == ablation_module.tower_digest(tmp_path) != ablation_module.tower_digest(tmp_path / "no")
    file = result_file(tmp_path, "none", 1)
    file.write_text(json.dumps({**result, "tower": "another"}))
    with pytest.raises(ValueError, match="began from another tower"):
        read_results(ablation, tmp_path)


def test_a_run_belongs_to_one_process(tiny_bench, tmp_path):
    ablation = small()
    start, file = prepare(ablation, tmp_path), result_file(tmp_path, "none", 0)
    file.parent.mkdir(parents=True)
    with FileLock(file.with_name(".seed0.lock")), pytest.raises(RunInProgress, match="another process is at it"):
        run(ablation, "none", 0, start, tmp_path)


@pytest.mark.slow
def test_a_failed_run_does_not_end_the_others(tiny_bench, tmp_path, monkeypatch, capsys):
    from transformers_ila.cli import ablate

    def fails(ablation, variant, *others, **options):
        if variant == "none":
            raise RuntimeError("out of memory")
        return run(ablation, variant, *others, **options)

    monkeypatch.setattr(ablate, "run", fails)
    monkeypatch.setattr(ablate, "read_ablation", lambda file: small())
    assert ablate.run(ablate.AblationScriptArguments(recipe="", output=str(tmp_path))) == 1
    assert "[6/6] words, seed 1" in capsys.readouterr().out and len(read_results(small(), tmp_path)) == 4


def test_shares_of_layers_on_the_cost_tower():
    ablation = small(variants={"last": {"alignment_layers": [1]}})
    layers = ablation_module.config_for_cost(ablation, "last").vision_config.alignment_layers
    assert list(layers) == [6, 7, 8, 9, 10, 11]  # of 12, as the second of two


@pytest.mark.parametrize("bf16", [False, True])
def test_both_losses_are_trained(tiny_bench, tmp_path, bf16):
    """Mixed precision rebuilds the model's output from its entries."""
    ablation = small(training={**TRAINING, "max_steps": 1, "bf16": bf16, "logging_steps": 1})
    start = prepare(ablation, tmp_path)
    run(ablation, "ila, interaction", 0, start, tmp_path)
    model = start_model(ablation, "ila, interaction", start.weights)
    arguments = IlaTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, **ablation.training)
    own = task_mask(bench_labels(ablation.tasks))
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
    own = task_mask(bench_labels(ablation.tasks))
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
def test_costs_are_measured_once(tmp_path):
    ablation = small(variants={"none": {"temporal_module": "none"}, "ata": {"temporal_module": "ata"}})
    costs = measure_costs(ablation, tmp_path, rounds=1)
    assert costs["ata"]["gmacs"] > costs["none"]["gmacs"] and costs["ata"]["memory"] > costs["none"]["memory"] > 0
    assert measure_costs(ablation, tmp_path, rounds=1) == costs  # read
    rows = [{"variant": v, "seeds": 2, "accuracy": 0.5, "accuracy_std": 0.1, **costs[v]} for v in costs]
    draw_costs(ablation, rows, tmp_path / "costs.png")
    assert min(Image.open(tmp_path / "costs.png").size) > 400
