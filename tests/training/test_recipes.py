"""Recipes: every one loads strictly and builds its model; what is unknown, doubled or of another kind is refused."""

import io
import json
import tarfile
from collections import Counter

import pytest
import torch
import yaml

from support.paths import RECIPES
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.conversion.published import PUBLISHED
from transformers_ila.data.class_names import class_names
from transformers_ila.data.samples import Annotations, Sample
from transformers_ila.model.validation_ila import MULTI_LABEL
from transformers_ila.training.arguments import parameter_groups
from transformers_ila.training.inputs import annotations_of, check_model, config_of, hold_out_videos, model_of
from transformers_ila.training.recipes import (
    check_same_run,
    parse,
    read_recipe,
    recipe_file,
    recipe_names,
    resolved_values,
    write_resolved,
)
from transformers_ila.training.run import _tell_evaluation
from transformers_ila.training.trainer import IlaTrainer


FILES = sorted(
    file
    for file in RECIPES.glob("*.yaml")
    if not file.stem.startswith("ablation_")  # read by `read_ablation`
)
OPTIONS = ["--use_cpu", "true", "--report_to", "none"]
BATCH = ["--global_batch_size", "8", "--per_device_train_batch_size", "4"]


def parsed(recipe, tmp_path, *options):
    return parse(recipe, [*OPTIONS, "--output_dir", str(tmp_path), *options])


def written(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_builds_its_model(file, tmp_path):
    recipe, args = parsed(file, tmp_path, "--val_list", "some.txt")
    names = class_names(recipe.labels) if recipe.labels else ["one", "two", "three"]
    with torch.device("meta"):
        model = IlaForVideoClassification(config_of(recipe, names))
    recipe.augmentation(names, size=model.config.vision_config.image_size)
    recipe.mixing(len(names))
    if not recipe.from_scratch:
        assert args.load_best_model_at_end and args.metric_for_best_model == "top1" and args.eval_strategy == "epoch"
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    new = model.new_parameters
    assert trained and parameter_groups(model.named_parameters(), args, args.learning_rate, new_parameters=new)


def test_the_recipes_are_those_of_the_paper(tmp_path):
    assert {file.stem for file in FILES} == {*recipe_names()} and "small_b16_8f" in recipe_names()
    for published in PUBLISHED:
        short = "k400" if published.data_set == "kinetics400" else "ssv2"
        tower = published.size.lower().replace("/", "").replace("@", "_")
        file = RECIPES / f"{short}_{tower}_{published.num_frames}f.yaml"
        recipe, args = parsed(file, tmp_path, "--val_list", "some.txt")
        assert (recipe.tower, recipe.num_frames, recipe.labels) == (
            published.size,
            published.num_frames,
            published.data_set,
        )
        k400 = short == "k400"
        assert (args.max_steps, args.weight_decay, recipe.global_batch_size) == (
            (50000, 0.003, 256) if k400 else (30000, 0.01, 256)
        )
        assert args.learning_rate == pytest.approx(8e-6 if k400 else 5e-4) and args.freeze_clip is not k400
        text = file.read_text()
        assert f"top-1 {published.top1} %, top-5 {published.top5} %" in text and "published by the paper" in text
        flip = recipe.augmentation(class_names(recipe.labels), size=224).flip
        assert flip == (0.5 if k400 else 0.0)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_recipe_says_hardware_and_where_its_accuracy_comes_from(file):
    text = file.read_text()
    assert "# Hardware: " in text and "# Expected: " in text
    assert any(source in text for source in ("published by the paper", "nobody has measured", "measured here"))


def test_recipes_run_where_there_is_no_accelerator(tmp_path, monkeypatch):
    """As the README prints the command, on a laptop, and `bf16` stays what the recipe says."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    _, args = parse(RECIPES / "k400_b16_8f.yaml", ["--report_to", "none", "--output_dir", str(tmp_path)])
    assert args.bf16 and args.use_cpu and args.device.type == "cpu"


def test_the_head_recipe_trains_the_head_only(tmp_path):
    recipe, args = parsed(RECIPES / "head_b16_8f.yaml", tmp_path)
    with torch.device("meta"):
        model = IlaForVideoClassification(config_of(recipe, ["one", "two"]))
    trainer = object.__new__(IlaTrainer)
    trainer.model, trainer.args = model, args
    trainer.freeze()
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"classifier_norm", "classifier"}


def test_options_win_over_the_recipe(tmp_path):
    file = written(tmp_path, "learning_rate: 8e-6\nscales: [1, 0.5]\njitter_decay_epoch: null\nmixup: 0.3\n")
    recipe, args = parsed(file, tmp_path, *BATCH)
    assert args.learning_rate == 8e-6 and recipe.scales == [1, 0.5] and args.jitter_decay_epoch is None
    assert args.gradient_accumulation_steps == 2 and recipe.global_batch_size == 8
    recipe, args = parsed(file, tmp_path, "--learning_rate", "1", "--scales", "0.7", "--jitter_decay_epoch=3")
    assert args.learning_rate == 1 and recipe.scales == [0.7] and args.jitter_decay_epoch == 3 and recipe.mixup == 0.3
    assert parsed(written(tmp_path, "config: {alignment_jitter: 0.1}\n"), tmp_path)[0].model_fields()[
        "alignment_jitter"
    ]
    for nothing in (["--jitter_decay_epoch", "null"], ["--jitter_decay_epoch=null"]):
        assert parsed(None, tmp_path, *nothing, "--max_steps", "3")[1].jitter_decay_epoch is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1\n", "unknown 'learning_rte' .'learning_rate'... Allowed: tower, .*new_lr_scale"),
        ("tower: B/16\ntower: L/14\n", "twice: tower"),
        ("- a\n- b\n", "must be `key: value` lines"),
        ("a: [\n", "is no recipe"),
        ("num_frames: many\n", "num_frames.*invalid int value"),
        ("learning_rate: fast\n", "learning_rate.*invalid float value"),
        ("num_frames: null\n", "`num_frames` needs a value"),
        ("min_lr_rate: 3\n", "min_lr_rate"),
        ("global_batch_size: 10\nper_device_train_batch_size: 4\n", "10 is no multiple of 4 videos on each of 1"),
        ("global_batch_size: 2\nper_device_train_batch_size: 4\n", "2 is no multiple"),
        ("use_video_prompt: maybe\n", "use_video_prompt|Truthy"),
        ("num_frames: [8, 16]\n", "'16' is of no option"),
        ("scales: []\n", "scales.*at least one"),
        ("scales: [half]\n", "scales.*invalid float value: 'half'"),
        ("eval_strategy: sometimes\n", "eval_strategy|sometimes"),
        ("val_fraction: 1\n", "`val_fraction` must be 0 <= fraction < 1, got 1.0"),
        ("val_split: val\n", "`val_split` names a part of `val_list`"),
        ("val_fraction: 0.2\nval_list: some.txt\n", "`val_list` names others: give one of the two"),
        ("val_fraction: 0.2\nstream: true\n", "give one of the two"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said(tmp_path, text, message):
    with pytest.raises((ValueError, TypeError), match=message):
        parsed(written(tmp_path, text), tmp_path)


def test_a_recipe_whose_workers_are_taken_away_keeps_none(tmp_path):
    recipe = RECIPES / "small_b16_8f.yaml"
    assert parsed(recipe, tmp_path)[1].dataloader_persistent_workers
    assert not parsed(recipe, tmp_path, "--dataloader_num_workers", "0")[1].dataloader_persistent_workers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning_rte", "1"], "there is no option --learning_rte; did you mean --learning_rate[?]$"),
        (["--lr", "1"], "there is no option --lr; did you mean --learning_rate[?]$"),
        (["--train-lst=a"], "there is no option --train-lst; did you mean --train_list[?]$"),
        (["--learn", "1"], "there is no option --learn; "),
        (["stray"], "'stray' is of no option"),
        (["--num_frames", "many"], "invalid int value"),
        (["--num_frames", "null"], "`num_frames` needs a value"),
        (["--frames=null"], "there is no option --frames; did you mean --num_frames[?]"),
        (["--colour", "red"], "there is no option --colour; --help lists all options$"),
    ],
)
def test_what_is_wrong_in_the_options_is_said(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        parse(None, [*options, "--output_dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("config", "message"),
    [('{"nothing": 1}', "IlaConfig has no 'nothing'"), ("[1]", "JSON object"), ("{", "JSON object")],
)
def test_more_fields_of_the_model_are_checked(tmp_path, config, message):
    recipe, _ = parsed(None, tmp_path, "--config", config)
    with pytest.raises(ValueError, match=message):
        config_of(recipe, ["one", "two"])


@pytest.mark.parametrize(
    "options,message",
    [
        (["--temporal_module", "foo"], "temporal_module"),
        (["--alignment_fusion", "foo"], "alignment_fusion"),
        (["--num_frames", "0"], "num_frames"),
    ],
)
def test_values_that_no_model_has(tmp_path, options, message):
    recipe, _ = parsed(None, tmp_path, *options)
    with pytest.raises(ValueError, match=message):
        config_of(recipe, ["a", "b"])


@pytest.mark.parametrize(
    "options,message",
    [
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size.* 1 or more, got 0"),
        (["--num_train_epochs", "0"], "num_train_epochs.* more than 0"),
        (["--label_smoothing_factor", "0.3"], "use `label_smoothing`"),
        (["--lora_r", "0"], "`lora_r` must be 1 or more, or null, got 0"),
        (["--lora_r", "8", "--lora_alpha", "0"], "`lora_alpha` must be 1 or more, got 0"),
        (["--lora_r", "8", "--lora_dropout", "1"], "`lora_dropout` must be 0 <= share < 1, got 1.0"),
        (["--lora_mlp", "true"], "`lora_mlp` is True and has no effect without an adapter: give `lora_r`"),
        (["--lora_r", "8", "--freeze_clip", "true"], "`freeze_clip` is True and would have no effect"),
    ],
)
def test_numbers_that_training_cannot_use(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        parsed(None, tmp_path, *options)


def test_nothing_is_mixed_alone(tmp_path, caplog):
    parsed(None, tmp_path, "--per_device_train_batch_size", "1")
    assert "nothing is mixed" in caplog.text
    for file in FILES:
        recipe, args = parsed(file, tmp_path, "--val_list", "some.txt")
        assert not (recipe.mixup or recipe.cutmix) or args.per_device_train_batch_size > 1


def test_splits_and_several_labels(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}_000001_000002.mp4").touch()
    rows = "".join(
        f"{'x' if i % 2 else 'y'},{n},1,2,{s}\n"
        for i, (n, s) in enumerate(zip("abcd", ["train", "train", "val", "val"]))
    )
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
    both = ["--train_list", str(tmp_path / "k.csv"), "--val_list", str(tmp_path / "k.csv"), "--videos", str(tmp_path)]
    recipe, _ = parsed(None, tmp_path, *both, "--train_split", "train", "--val_split", "val")
    training, evaluation, names = annotations_of(recipe)
    assert [len(part.samples) for part in (training, evaluation)] == [2, 2] and names == ["x", "y"]
    (tmp_path / "several.txt").write_text("a_000001_000002.mp4 0 1\nb_000001_000002.mp4 1\n")
    (tmp_path / "single.txt").write_text("c_000001_000002.mp4 0\n")
    (tmp_path / "names.txt").write_text("x\ny\n")
    lists = {name: str(tmp_path / f"{name}.txt") for name in ("several", "single")}
    names = ["--labels", str(tmp_path / "names.txt")]
    both = ["--train_list", lists["several"], "--val_list", lists["single"], *names]
    recipe, _ = parsed(None, tmp_path, *both, "--multi_label")
    assert all(part.multi_label for part in annotations_of(recipe)[:2])
    for train, val in (("several", "single"), ("single", "several")):
        recipe, _ = parsed(None, tmp_path, "--train_list", lists[train], "--val_list", lists[val], *names)
        with pytest.raises(ValueError, match="several.txt', line 1, .* where they are asked for, .*--multi_label"):
            annotations_of(recipe)


def test_both_lists_count_from_the_same(tmp_path):
    """The validation list lacks a class, so that it could count from 0, too."""
    for name, content in {
        "train": "a.mp4 1\nb.mp4 2\nc.mp4 3\n",
        "val": "d.mp4 1\ne.mp4 2\n",
        "names": "x\ny\nz\n",
    }.items():
        (tmp_path / f"{name}.txt").write_text(content)
    lists = [f"--{name}_list={tmp_path / name}.txt" for name in ("train", "val")]
    recipe, _ = parsed(None, tmp_path, *lists, "--labels", str(tmp_path / "names.txt"))
    training, evaluation, _ = annotations_of(recipe)
    assert [sample.labels for sample in training.samples] == [(0,), (1,), (2,)]
    assert [sample.labels for sample in evaluation.samples] == [(0,), (1,)]


def test_augmentation_out_of_range(tmp_path):
    recipe, _ = parsed(None, tmp_path, "--flip", "often")
    with pytest.raises(ValueError, match="`flip` must be"):
        recipe.augmentation(["one"], size=28)
    recipe, _ = parsed(None, tmp_path, "--jitter", "2")
    with pytest.raises(ValueError, match="jitter"):
        recipe.augmentation(["one"], size=28)


def test_what_was_decided_is_a_recipe_again(tmp_path):
    recipe, args = parsed(FILES[0], tmp_path, "--val_list", "some.txt", *BATCH, "--seed", "7")
    values = resolved_values(recipe, args)
    file = write_resolved(values, tmp_path, comment="1 process")
    assert file.read_text().startswith("# 1 process\n") and "hub_token" not in values
    assert read_recipe(file) == yaml.safe_load(file.read_text()) == values
    again = resolved_values(*parse(file, ["--resume"]))
    assert again == values
    check_same_run(again, tmp_path)
    address = "https://me:pw4711@host/train-{000..009}.tar?token=t4712"
    file = write_resolved(resolved_values(*parsed(FILES[0], tmp_path, "--train_list", address)), tmp_path)
    assert "pw4711" not in file.read_text() and "t4712" not in file.read_text()


def test_recipes_are_named_without_a_path(tmp_path):
    for name in ("small_b16_8f", "small_b16_8f.yaml", "recipes/small_b16_8f.yaml", RECIPES / "small_b16_8f.yaml"):
        assert recipe_file(name) == RECIPES / "small_b16_8f.yaml"
    assert recipe_file("ddp") == RECIPES / "accelerate" / "ddp.yaml" and recipe_file("ablation_small").is_file()
    assert parsed("small_b16_8f", tmp_path)[0] == parsed(RECIPES / "small_b16_8f.yaml", tmp_path)[0]
    with pytest.raises(ValueError, match="no recipe 'small_b16_9f'.*k400_b16_8f, .*Did you mean 'small_b16_8f'"):
        parse("small_b16_9f")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nope", "ablate", "neither a file nor one of ablation_clip, ablation_hour, ablation_night, ablation_small.$"),
        ("ablation_smal", "ablate", "Did you mean 'ablation_small'"),
        (
            "ablation_small",
            "train",
            "'ablation_small' is a recipe of `ila ablate`, and a recipe of `ila train` is need",
        ),
        (RECIPES / "ablation_small.yaml", "train", "is a recipe of `ila ablate`"),
        ("ddp", "train", "'ddp' is a configuration of Accelerate, and a recipe of `ila train` is needed: head_b16_8f"),
        (
            "small_b16_8f",
            "ablate",
            "is a recipe of `ila train`, and a recipe of `ila ablate` is needed: ablation_clip",
        ),
    ],
)
def test_recipes_of_another_kind(name, kind, message):
    with pytest.raises(ValueError, match=message):
        recipe_file(name, kind=kind)


def test_a_users_own_file_may_have_any_name(tmp_path):
    (tmp_path / "ablation_mine.yaml").touch()
    assert recipe_file(tmp_path / "ablation_mine.yaml", kind="train") == tmp_path / "ablation_mine.yaml"


def test_old_names_are_read_with_a_warning(tmp_path, caplog):
    for recipe, options in (
        (written(tmp_path, "stand_ins: 3\n"), []),
        (None, ["--stand_ins", "3"]),
        (None, ["--stand-ins=3"]),
    ):
        caplog.clear()
        assert parsed(recipe, tmp_path, *options)[0].max_replacements == 3
        assert "`stand_ins` is called `max_replacements` now" in caplog.text
    with pytest.raises(ValueError, match="there is no option --stand_in"):
        parsed(None, tmp_path, "--stand_in", "3")


def test_a_model_from_nothing(tmp_path):
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28, "patch_size": 4}
    config = {"vision_config": tower, "projection_dim": 32, "alignment_hidden_size": 8, "mit_num_attention_heads": 4}
    options = ["--from_scratch", "--config", json.dumps(config), "--classification_head", "linear"]
    recipe, _ = parsed(None, tmp_path, *options)
    torch.manual_seed(0)
    model = model_of(recipe, ["one", "two"])
    assert model.config.class_names == ["one", "two"] and model.config.vision_config.hidden_size == 32
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6
    for more, message in ((["--clip", "x"], "give one of the two"), (["--classification_head", "text"], "no words")):
        with pytest.raises(ValueError, match=message):
            check_model(parsed(None, tmp_path, *options, *more)[0])
    with pytest.raises(ValueError, match="`clip` must be the Hub id"):
        check_model(parsed(None, tmp_path)[0])


# -- what is held out ------------------------------------------------------------------------------------------------


def annotations(*counts, multi_label=False):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    samples = [Sample(f"/{i}.mp4", (label, 9) if multi_label else (label,), f"{i}") for i, label in enumerate(labels)]
    return Annotations(samples, list(map(str, range(10))), multi_label, "list", "test")


def test_a_fifth_of_every_class_is_held_out(caplog):
    """At least one of two or more; a class of one stays, which is said."""
    whole = annotations(10, 5, 3, 2, 1)
    training, held = hold_out_videos(whole, 0.2, seed=0)
    assert Counter(sample.labels[0] for sample in held.samples) == {0: 2, 1: 1, 2: 1, 3: 1}
    assert "1 classes have one video, which stays in training, so nothing measures them: '4'" in caplog.text
    assert sorted(training.samples + held.samples) == sorted(whole.samples) and held.class_names == whole.class_names
    assert [sample for sample in whole.samples if sample in set(training.samples)] == training.samples  # in order
    assert hold_out_videos(whole, 0.2, seed=0)[1] == held != hold_out_videos(whole, 0.2, seed=1)[1]
    assert len(hold_out_videos(whole, 0.99, seed=0)[0].samples) == 5  # one of each class is left
    assert hold_out_videos(whole, 0.0, seed=0) == (whole, None)
    assert hold_out_videos(annotations(1, 1), 0.2, seed=0)[1] is None
    caplog.clear()
    assert hold_out_videos(annotations(1, 9), 0.0, seed=0)[1] is None and not caplog.records
    several = annotations(5, 5, multi_label=True)
    assert len(hold_out_videos(several, 0.2, seed=0)[1].samples) == 2
    assert len(hold_out_videos(annotations(2, multi_label=True), 0.2, seed=0)[1].samples) == 1


def test_the_share_that_is_said_is_the_true_one(tmp_path):
    """A fifth of four videos is one, which is a quarter of them."""
    recipe, args = parsed("small_b16_8f", tmp_path)
    training, held = hold_out_videos(annotations(*[4] * 8), 0.2, seed=0)
    said = []
    _tell_evaluation(recipe, args, training, held, said.append)
    assert said[0].startswith("Held out 8 of 32 videos to evaluate on (25%), which is 20% of each class as far as")


@pytest.mark.parametrize(
    ("options", "fraction"),
    [
        ([], 0.2),
        (["--val_fraction", "0.5"], 0.5),
        (["--val_fraction", "0"], 0.0),
        (["--val_list", "some.txt"], 0.0),
        (["--val_list", "some.txt", "--val_fraction", "0"], 0.0),
        (["--stream"], 0.0),
    ],
)
def test_the_share_that_is_held_out(tmp_path, options, fraction):
    recipe, args = parsed("small_b16_8f", tmp_path, *options)
    assert recipe.val_fraction == fraction and args.load_best_model_at_end
    _, args = parsed("small_b16_8f", tmp_path, "--save_strategy", "no")
    assert not args.load_best_model_at_end  # which would need checkpoints


def test_the_recipe_says_how_many_labels_a_video_has(tmp_path):
    """Whatever the weights that it begins with gave, and were smoothed with."""
    model = IlaForVideoClassification(tiny_config(classification_head="linear", label_smoothing=0.1))
    model.save_pretrained(tmp_path / "one")
    model.config.problem_type, model.config.label_smoothing = MULTI_LABEL, 0.0
    model.save_pretrained(tmp_path / "several")
    for several in (True, False):
        for folder in ("one", "several"):
            options = ["--classification_head", "linear", "--num_frames", "4", "--clip", str(tmp_path / folder)]
            recipe, _ = parsed(None, tmp_path, *options)
            config = model_of(recipe, ["walk"] if several else ["walk", "run"], multi_label=several).config
            assert config.problem_type == (MULTI_LABEL if several else None)
            assert config.label_smoothing == (0.1 if (several, folder) == (False, "one") else 0.0)


def test_alignment_causal_is_said_once(tmp_path):
    """Beside `config`, which wins over other options; and a run from before the option may have it there."""
    inside = ("--config", '{"alignment_causal": true}')
    recipe, args = parsed("small_b16_8f", tmp_path, *inside)
    with pytest.raises(ValueError, match="`alignment_causal` is False, and True in `config`"):
        parsed("small_b16_8f", tmp_path, *inside, "--alignment_causal", "false")[0].model_fields()
    assert parsed("small_b16_8f", tmp_path, *inside, "--alignment_causal", "true")[0].model_fields()[
        "alignment_causal"
    ]
    old = {key: value for key, value in resolved_values(recipe, args).items() if key != "alignment_causal"}
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(old))
    again, args = parsed("small_b16_8f", tmp_path, *inside, "--resume")
    assert again.alignment_causal is True
    check_same_run(resolved_values(again, args), tmp_path, class_names=["walk", "run"])


def test_a_run_of_before_goes_on_with_what_it_decided(tmp_path):
    """Its `training.yaml` has other keys, and nothing was held out."""
    recipe, args = parsed("small_b16_8f", tmp_path, "--val_fraction", "0")
    recipe.flip = "0.5"
    values = resolved_values(recipe, args)
    absent = ("val_fraction", "from_scratch", "alignment_causal")
    old = {key: value for key, value in values.items() if key not in absent}
    old["stand_ins"] = old.pop("max_replacements")
    old["flip"], old["multi_label"] = "auto", None
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(old))
    again, args = parsed("small_b16_8f", tmp_path, "--resume")
    assert again.val_fraction == 0.0 and again.alignment_causal is False  # towers looked ahead
    again.flip = "0.5"
    for again.multi_label in (False, True):  # the earlier version found it out
        check_same_run(resolved_values(again, args), tmp_path, class_names=["walk", "run"])
    with pytest.raises(ValueError, match="flip: 0.0, now 0.5"):
        check_same_run(resolved_values(again, args), tmp_path, class_names=["left", "right"])
    replayed, _ = parse(tmp_path / "training.yaml", [*OPTIONS, "--output_dir", str(tmp_path / "other")])
    assert replayed.val_fraction == 0.0 and replayed.max_replacements == 10 and replayed.multi_label is False
    other, args = parsed("small_b16_8f", tmp_path, "--resume", "--val_fraction", "0.3")
    with pytest.raises(ValueError, match="val_fraction: 0.0, now 0.3"):
        check_same_run(resolved_values(other, args), tmp_path)


def test_another_run_is_not_gone_on_with(tmp_path):
    recipe, args = parsed(FILES[0], tmp_path, "--val_list", "some.txt")
    write_resolved(resolved_values(recipe, args), tmp_path)
    same = ["--val_list", "elsewhere.txt", "--logging_steps", "3", "--dataloader_num_workers", "1"]
    check_same_run(resolved_values(*parsed(FILES[0], tmp_path, *same)), tmp_path)
    for options in (
        ["--learning_rate", "1"],
        ["--mixup", "0.5"],
        ["--seed", "1"],
        ["--max_steps", "5"],
        ["--multi_label"],
    ):
        other = resolved_values(*parsed(FILES[0], tmp_path, "--val_list", "some.txt", *options))
        with pytest.raises(ValueError, match=f"another run.*{options[0][2:]}: .*now"):
            check_same_run(other, tmp_path)
    with pytest.raises(ValueError, match="no training.yaml"):
        check_same_run({}, tmp_path / "elsewhere")


def test_lists_are_read_with_their_classes(tmp_path):
    (tmp_path / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (tmp_path / "val.txt").write_text("c.mp4 1\n")
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    options = ["--train_list", str(tmp_path / "train.txt"), "--val_list", str(tmp_path / "val.txt")]
    recipe, _ = parsed(None, tmp_path, *options)
    with pytest.raises(ValueError, match="Nothing names the classes"):
        annotations_of(recipe)
    recipe, _ = parsed(None, tmp_path, *options, "--labels", str(tmp_path / "names.txt"))
    training, evaluation, names = annotations_of(recipe)
    assert len(training.samples) == 2 and len(evaluation.samples) == 1 and names == ["one", "two"]
    assert recipe.train_list_sha256 == training.sha256
    (tmp_path / "train.txt").write_text("a.mp4 1\nb.mp4 1\n")
    with pytest.raises(ValueError, match="not the list of this run"):
        annotations_of(recipe)
    with pytest.raises(ValueError, match="--train_list"):
        annotations_of(parsed(None, tmp_path)[0])


def test_classes_of_the_other_list_are_found_by_name(tmp_path):
    for name in ("train/one/a.mp4", "train/two_b/b.mp4", "val/two_b/c.mp4", "other/three/d.mp4", "other/one/e.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "names.txt").write_text("zero\ntwo b\none\n")

    def labels(val, *options):
        given = ["--train_list", str(tmp_path / "train"), "--val_list", str(tmp_path / val), *options]
        return [
            [sample.labels for sample in part.samples]
            for part in annotations_of(parsed(None, tmp_path, *given)[0])[:2]
        ]

    assert labels("val") == [[(0,), (1,)], [(1,)]]  # alone, the folder would count from 0
    assert labels("val", "--labels", str(tmp_path / "names.txt")) == [[(2,), (1,)], [(1,)]]
    (tmp_path / "val.csv").write_text("val/two_b/c.mp4,two_b\nother/one/e.mp4,one\n")
    assert labels("val.csv")[1] == [(1,), (0,)]
    with pytest.raises(ValueError, match="1 of 2 class folders .* 'three'"):
        labels("other")


def test_folders_that_changed_are_another_run(tmp_path):
    for name in ("one/a.mp4", "one/b.mp4", "two/c.mp4"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(b"")
    (tmp_path / "run").mkdir()

    def decided():
        recipe, args = parsed(None, tmp_path / "run", "--train_list", str(tmp_path / "train"))
        annotations_of(recipe)
        return resolved_values(recipe, args)

    write_resolved(decided(), tmp_path / "run")
    (tmp_path / "train").rename(tmp_path / "moved")
    (tmp_path / "train").symlink_to(tmp_path / "moved")
    check_same_run(decided(), tmp_path / "run")
    (tmp_path / "train" / "one" / "b.mp4").rename(tmp_path / "train" / "two" / "b.mp4")
    with pytest.raises(ValueError, match="another run.*train_samples_sha256"):
        check_same_run(decided(), tmp_path / "run")
    again, _ = parse(tmp_path / "run" / "training.yaml")
    with pytest.raises(ValueError, match="other videos or labels: `train_samples_sha256` differs"):
        annotations_of(again)


def shard(file, content):
    with tarfile.open(file, "w") as tar:
        for name, data in ((f"{file.stem}.mp4", content), (f"{file.stem}.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_streams_fix_who_reads_what(tmp_path):
    for index in range(2):
        shard(tmp_path / f"{index}.tar", b"video")
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    (tmp_path / "run").mkdir()

    def decided(*options, stream="true"):
        given = ["--train_list", str(tmp_path / "{0..1}.tar"), "--labels", str(tmp_path / "names.txt")]
        given += ["--stream", stream, "--global_batch_size", "8", "--dataloader_num_workers", "2"]
        recipe, args = parsed(None, tmp_path / "run", *given, "--per_device_train_batch_size", "4", *options)
        annotations_of(recipe)
        return resolved_values(recipe, args)

    write_resolved(decided(stream="false"), tmp_path / "run")
    check_same_run(decided("--dataloader_num_workers", "1", stream="false"), tmp_path / "run")
    write_resolved(decided(), tmp_path / "run")
    check_same_run(decided("--logging_steps", "3", "--dataloader_pin_memory", "false"), tmp_path / "run")
    for options, message in [
        (["--dataloader_num_workers", "1"], "dataloader_num_workers: 2, now 1"),
        (["--dataloader_num_workers", "0"], "dataloader_num_workers: 2, now None"),
        (["--per_device_train_batch_size", "2"], "per_device_train_batch_size: 4, now 2"),
    ]:
        with pytest.raises(ValueError, match=f"another run.*{message}"):
            check_same_run(decided(*options), tmp_path / "run")
    shard(tmp_path / "1.tar", b"video" * 4000)  # same names and labels
    with pytest.raises(ValueError, match="another run.*train_samples_sha256"):
        check_same_run(decided(), tmp_path / "run")
