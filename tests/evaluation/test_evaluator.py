"""Evaluation: metrics beside brute force, views, unreadable videos, the release's fault, and the script."""

import hashlib
import json
import math
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from support.evaluation_models import LABELS, TOLERANCE, make_model, views_of
from support.paths import SCRIPTS
from support.tiny_models import TINY_VISION
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import evaluate as script
from transformers_ila.cli.main import run_verb
from transformers_ila.data.annotations import read_annotations
from transformers_ila.data.samples import Sample
from transformers_ila.data.video_folder import find_videos
from transformers_ila.evaluation.evaluator import collect_logits, evaluate
from transformers_ila.evaluation.inference import batch_statistics_mode
from transformers_ila.evaluation.metrics import accuracies
from transformers_ila.evaluation.options import PROTOCOLS, EvaluationOptions
from transformers_ila.evaluation.prediction import label_videos
from transformers_ila.evaluation.report import fingerprint
from transformers_ila.evaluation.report_fields import check_report
from transformers_ila.evaluation.report_files import markdown, write_report
from transformers_ila.model.alignment_ila import PointPredictor
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.motionbench.tasks import make_videos, write_folder
from transformers_ila.video_writing import write_mp4


SCRIPT = SCRIPTS / "evaluate.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen videos, two of them twice as wide as high."""
    root = tmp_path_factory.mktemp("videos")
    paths = write_folder(root, 16, seed=0, num_frames=9)
    for path, video in zip(paths[:2], make_videos(2, seed=1, num_frames=9)):
        write_mp4(path, np.concatenate([video.frames, 255 - video.frames], axis=2))
    return root


@pytest.fixture(scope="module")
def samples(folder):
    """In another order than the classes'."""
    found = read_annotations(folder, labels=LABELS).pairs()
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))]


@pytest.fixture(scope="module")
def residual():
    return make_model(alignment_fusion="residual")


@pytest.fixture(scope="module")
def broken(samples, tmp_path_factory):
    """Seven readable videos with two others between them."""
    root = tmp_path_factory.mktemp("broken")
    (root / "text.mp4").write_text("no video")
    return [*samples[:2], (root / "text.mp4", 0), *samples[2:7], (root / "gone.mp4", 1)]


def state_of(model) -> tuple[dict[str, bytes], list[bool], list[int]]:
    """Every bit of the weights and statistics, every module's mode, and which tensors hold them."""
    tensors = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    identities = [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]
    return tensors, [module.training for module in model.modules()], identities


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_equal_brute_force_over_single_videos(model, processor, samples):
    ranks, right = [], {}
    for path, label in samples:
        with torch.no_grad():
            logits = model(views_of(processor, path)).logits[0].tolist()
        ranks.append(sorted(range(8), key=lambda index: -logits[index]).index(label))
        right.setdefault(label, []).append(ranks[-1] == 0)
    report = evaluate(model, processor, samples, EvaluationOptions(batch_size=5)).report()
    assert report["metrics"] == {
        "top1": pytest.approx(sum(rank == 0 for rank in ranks) / 16),
        "top5": pytest.approx(sum(rank < 5 for rank in ranks) / 16),
        "mean_class_accuracy": pytest.approx(sum(sum(hits) / len(hits) for hits in right.values()) / len(right)),
        "classes": 8,
    }
    assert 0 < report["metrics"]["top1"] < report["metrics"]["top5"] < 1  # or the test would show little
    assert report["counts"] == {"listed": 16, "evaluated": 16, "unreadable": 0, "frames_lost": 0}


def test_metrics_of_given_logits():
    """Unequal classes, one without videos, a tie that the lower index wins, fewer than five classes."""
    logits = torch.tensor([[3.0, 1, 2, 0], [3, 1, 2, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 5, 9], [9, 0, 5, 0]])
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    assert accuracies(logits, labels) == {
        "top1": 3 / 6,
        "top5": 1.0,
        "mean_class_accuracy": pytest.approx((1 + 1 + 0) / 3),
        "classes": 3,
    }
    order = torch.tensor([[6.0, 5, 4, 3, 2, 1]])
    assert [accuracies(order, torch.tensor([label]))["top5"] for label in range(6)] == [1, 1, 1, 1, 1, 0]


def test_batch_size_changes_nothing(model, processor, samples):
    whole, *others = (
        collect_logits(model, processor, samples, EvaluationOptions(batch_size=size)) for size in (16, 1, 7)
    )
    for other in others:
        torch.testing.assert_close(other.logits, whole.logits, atol=TOLERANCE, rtol=0)
        assert torch.equal(other.labels, whole.labels) and other.positions == list(range(16))
    assert whole.labels.tolist() == [label for _, label in samples]


@pytest.mark.parametrize("protocol", ["1x3", "3x1", "4x3"])
def test_views_are_averaged_as_probabilities(model, processor, samples, protocol):
    chosen = [sample for sample in samples if sample[0].name in ("00000.mp4", "00001.mp4", "00002.mp4")]
    fused = collect_logits(
        model, processor, chosen, EvaluationOptions(protocol=protocol, batch_size=2)
    ).logits.softmax(-1)
    for (path, _), probabilities in zip(chosen, fused):
        views = views_of(processor, path, protocol)
        assert len(views) == math.prod(PROTOCOLS[protocol])
        with torch.no_grad():
            single = torch.cat([model(view[None]).logits.softmax(-1) for view in views])
        torch.testing.assert_close(probabilities, single.mean(0), atol=TOLERANCE, rtol=0)
    wide = collect_logits(model, processor, chosen[:1], EvaluationOptions(protocol="1x1")).logits.softmax(-1)
    assert not torch.allclose(wide, fused[:1], atol=1e-4)


def test_workers_read_the_same_and_random_numbers_stay(model, broken):
    random = IlaVideoProcessor.for_model(model.config, random_frames=True)  # of a training
    state = torch.get_rng_state()
    done = []
    alone = collect_logits(model, random, broken, EvaluationOptions(batch_size=3), progress=done.append)
    helped = collect_logits(model, random, broken, EvaluationOptions(batch_size=3, workers=2))
    assert torch.equal(alone.logits, helped.logits) and alone.unreadable == helped.unreadable
    assert torch.equal(state, torch.get_rng_state())
    assert sum(done) == len(broken)


# -- videos that cannot be read, and other errors --------------------------------------------------------------------


def test_unreadable_videos_are_listed_and_count_in_no_accuracy(model, processor, broken, samples):
    report = evaluate(model, processor, broken, EvaluationOptions(batch_size=3)).report()
    assert report["counts"] == {"listed": 9, "evaluated": 7, "unreadable": 2, "frames_lost": 0}
    assert [Path(video["path"]).name for video in report["unreadable"]] == ["text.mp4", "gone.mp4"]
    assert "Cannot read the video" in report["unreadable"][0]["reason"]
    assert "no such file or folder" in report["unreadable"][1]["reason"]
    assert report["metrics"] == evaluate(model, processor, samples[:7]).report()["metrics"]
    found = collect_logits(model, processor, broken, EvaluationOptions(batch_size=3))
    assert found.positions == [0, 1, 3, 4, 5, 6, 7] and list(found.unreadable) == [2, 8]


def test_no_readable_video(model, processor, broken):
    report = evaluate(model, processor, [broken[2], broken[8]]).report()
    assert report["metrics"] == {"top1": None, "top5": None, "mean_class_accuracy": None, "classes": 0}
    assert report["counts"]["unreadable"] == 2
    json.dumps(report, allow_nan=False)


def test_lost_frames_are_counted(model, processor, tmp_path):
    write_mp4(tmp_path / "whole.mp4", next(make_videos(1, seed=0, num_frames=40)).frames)
    whole = (tmp_path / "whole.mp4").read_bytes()
    pictures = whole.index(b"mdat") + 4
    half = pictures + (len(whole) - pictures) // 2
    cut = whole[:half] + bytes(len(whole) - half)  # the index stands before them
    (tmp_path / "damaged.mp4").write_bytes(cut)
    lost = processor(tmp_path / "damaged.mp4", return_metadata=True)["video_metadata"][0].frames_lost
    report = evaluate(model, processor, [(tmp_path / "whole.mp4", 0), (tmp_path / "damaged.mp4", 0)]).report()
    assert report["counts"] == {"listed": 2, "evaluated": 2, "unreadable": 0, "frames_lost": lost} and lost > 0


ERRORS = {
    "empty": ([], "no video to evaluate"),
    "too high": ([("a.mp4", 7), ("b.mp4", 8)], "classes 0 to 7; 1 videos have others: 'b.mp4: 8'"),
    "negative": ([("a.mp4", -1)], "'a.mp4: -1'"),
    "no whole number": ([("a.mp4", 1.5)], "'a.mp4: 1.5'"),
    "twice": ([("a.mp4", 1), ("b.mp4", 1), ("a.mp4", 2)], "1 are listed more than once: 'a.mp4'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_before_a_video_is_read(model, case):
    samples, message = ERRORS[case]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        evaluate(model, None, samples)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_logits_that_are_no_numbers_name_the_video(residual, processor, samples, monkeypatch, batch_statistics):
    bad, forward = [], residual.forward

    def spoilt(pixel_values):
        output = forward(pixel_values)
        output.logits[1] = torch.nan
        bad.append(len(pixel_values))
        return output

    monkeypatch.setattr(residual, "forward", spoilt)
    before = state_of(residual)
    with pytest.raises(ValueError, match=f"not finite .* for '{samples[1][0]}'\\."):
        evaluate(
            residual, processor, samples, EvaluationOptions(batch_size=3, batch_statistics=batch_statistics)
        ).report()
    assert bad == [3] and state_of(residual) == before


# -- the model's state, and the release's fault ----------------------------------------------------------------------


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_modes_and_state_are_restored(residual, processor, samples, batch_statistics):
    model = deepcopy(residual).train()
    model.text_model.eval()
    before = state_of(model)
    found = collect_logits(
        model, processor, samples[:3], EvaluationOptions(device="cpu", batch_statistics=batch_statistics)
    )
    assert state_of(model) == before
    expected = collect_logits(residual, processor, samples[:3], EvaluationOptions(batch_statistics=batch_statistics))
    assert torch.equal(found.logits, expected.logits)


def test_batch_statistics_equal_train_mode_batch_by_batch(residual, processor, samples):
    """There is no dropout in this model, so all that training changes is the alignment's."""
    trained = deepcopy(residual).train()
    expected = []
    for first in (0, 3, 6):
        pixel_values = torch.cat([views_of(processor, path) for path, _ in samples[:7][first : first + 3]])
        with torch.no_grad():
            expected.append(trained(pixel_values).logits)
    found = collect_logits(
        residual, processor, samples[:7], EvaluationOptions(batch_size=3, batch_statistics=True)
    ).logits
    torch.testing.assert_close(found, torch.cat(expected), atol=TOLERANCE, rtol=0)
    plain = collect_logits(residual, processor, samples[:7], EvaluationOptions(batch_size=3)).logits
    other = collect_logits(
        residual, processor, samples[:7], EvaluationOptions(batch_size=7, batch_statistics=True)
    ).logits
    assert (found - plain).abs().max() > 1e-2 and (found - other).abs().max() > 1e-3


def test_batch_statistics_take_one_view_at_a_time(residual, processor, samples):
    trained = deepcopy(residual).train()
    pixel_values = torch.stack([views_of(processor, path, "3x1") for path, _ in samples[:4]])
    with torch.no_grad():
        expected = sum(trained(pixel_values[:, view]).logits.softmax(-1) for view in range(3)) / 3
    found = collect_logits(
        residual, processor, samples[:4], EvaluationOptions(protocol="3x1", batch_size=4, batch_statistics=True)
    )
    torch.testing.assert_close(found.logits.softmax(-1), expected, atol=TOLERANCE, rtol=0)


def test_only_the_alignment_trains():
    model = make_model(classification_head="linear", vision_config={**TINY_VISION, "attention_dropout": 0.5})
    before = state_of(model)
    with pytest.raises(KeyError), batch_statistics_mode(model):
        training = {type(module) for module in model.modules() if module.training}
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        with torch.no_grad():
            model(torch.randn(2, 4, 3, 28, 28))
        assert all(norm.training and norm.num_batches_tracked == 8 for norm in norms)
        raise KeyError
    assert training == {PointPredictor, type(norms[0])}
    assert state_of(model) == before


def test_batch_statistics_without_alignment(processor, samples):
    with pytest.raises(ValueError, match="aligns nothing"):
        evaluate(
            make_model(temporal_module="none"), processor, samples, EvaluationOptions(batch_statistics=True)
        ).report()


def test_a_fingerprint_is_of_weights_statistics_and_class_names(residual, tmp_path):
    before = fingerprint(residual)
    residual.save_pretrained(tmp_path)
    again = IlaForVideoClassification.from_pretrained(tmp_path)
    assert fingerprint(again) == before
    found = {before}
    for change in (
        lambda model: model.logit_scale.data.add_(1e-3),
        lambda model: next(b for n, b in model.named_buffers() if "running_mean" in n).add_(1e-3),
        lambda model: model.config.update(label_fields(["other", *model.config.class_names[1:]])),
        lambda model: model.to(torch.bfloat16),
    ):
        change(again)
        found.add(fingerprint(again))
    assert len(found) == 5


def test_labels_of_arrays_and_rows_without_a_video(residual, samples):
    class Row:
        def __init__(self, video):
            self.video = video

        def load(self):
            return self.video

    processor = IlaVideoProcessor.for_model(residual.config)
    path = samples[0][0]
    labels = [np.int64(0), torch.tensor(1), np.array([2]), [np.int32(3)]]
    listed = [Sample(Row(row), (0,), f"row {i}") for i, row in enumerate([None, {"path": None, "bytes": None}])]
    copies = [(f"{path.parent}/./{'./' * i}{path.name}", label) for i, label in enumerate(labels)]
    report = evaluate(residual, processor, [*copies, *listed]).report()
    assert report["counts"]["evaluated"] == 4 and json.dumps(report)
    assert [entry["path"] for entry in report["unreadable"]] == ["row 0", "row 1"]


# -- the report ------------------------------------------------------------------------------------------------------


def test_report_says_what_was_done(residual, samples, tmp_path):
    processor = IlaVideoProcessor.for_model(
        residual.config, frame_sampling="dense", frame_stride=2, image_std=[1.0] * 3
    )
    options = {"data_set": "motions", "split": "test", "batch_statistics": True}
    listed = [f"{path} {label}" for path, label in samples[:2]]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    annotations = read_annotations(tmp_path / "list.txt", root="/", labels=LABELS)
    report = evaluate(
        residual, processor, annotations, EvaluationOptions(protocol="1x3", batch_size=2, **options)
    ).report()
    assert report["schema"] == 1 and report["date"].endswith("+00:00")
    assert report["model"].pop("fingerprint") == fingerprint(residual)
    assert report["model"] == {
        "name": None,
        "revision": None,
        "labels": 8,
        "dtype": "float32",
        "device": "cpu",
        "tower": "ila, temporal module ila",
        "templates": None,
        "zero_shot": None,
    }
    assert report["inference"] == {"dtype": "float32", "fused": False, "why_not_fused": "batch_statistics"}
    sha256 = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    assert len(report["data_set"].pop("samples_sha256")) == 64
    assert report["data_set"] == {
        "name": "motions",
        "split": "test",
        "list": {"name": "list.txt", "sha256": sha256, "format": "list"},
        "excerpts": 0,
    }
    protocol = report["protocol"]
    assert "depend on batch size and order" in protocol.pop("note")
    assert protocol == {
        "name": "1x3",
        "clips": 1,
        "crops": 3,
        "frames_per_clip": 4,
        "frame_sampling": "dense",
        "frame_stride": 2,
        "random_frames": False,
        "seed": None,
        "batch_size": 2,
        "batch_statistics": True,
    }
    preprocessing = report["preprocessing"]
    assert preprocessing["size"] == {"shortest_edge": 28} and preprocessing["crop_size"] == {"height": 28, "width": 28}
    assert preprocessing["resample"] == "bicubic" and preprocessing["image_std"] == [1.0] * 3
    assert report["versions"]["torch"] == torch.__version__ and report["versions"]["transformers_ila"]
    assert report["decoder"]["pyav"] and report["decoder"]["ffmpeg"]
    assert 0 < report["seconds_per_video"] == report["seconds"] / 2 and 0 < report["waiting_share"] < 1

    plain = evaluate(residual, IlaVideoProcessor.for_model(residual.config), samples[:2]).report()
    assert plain["protocol"]["note"] is None and plain["protocol"]["batch_statistics"] is False
    assert plain["preprocessing"]["size"] == {"shortest_edge": 32} and plain["protocol"]["frame_stride"] is None
    write_report(plain, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == plain
    with pytest.raises(ValueError):
        write_report({"top1": math.nan}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == plain
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "report.json"]


def test_weights_that_nothing_has_trained_are_told(model, processor, samples, tmp_path, caplog):
    random = deepcopy(model)
    random.remember_untrained(["mit.position_embedding", "mit.encoder.layers.0.mlp.fc1.weight"])
    evaluation = evaluate(random, processor, samples[:1])
    label_videos(random, processor, [("a", samples[0][0])], tmp_path)
    told = [record.getMessage() for record in caplog.records if "random until trained" in record.getMessage()]
    assert len(told) == 2 and told[0] == told[1] and "2 new tensors" in told[0]
    report = evaluation.report()
    check_report(report)
    assert report["model"]["untrained_weights"] == 2 and "2 tensors, which nothing" in markdown(report)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, model, processor):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_script_in_a_process_of_its_own(tmp_path, saved, folder, model, processor):
    command = [sys.executable, SCRIPT, "--model", saved, "--videos", folder, "--output", tmp_path / "report.json"]
    command += [
        "--protocol",
        "1x3",
        "--batch_size",
        8,
        "--workers",
        1,
        "--data_set",
        "motions",
        "--split",
        "validation",
    ]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    expected = evaluate(
        model, processor, read_annotations(folder, labels=LABELS), EvaluationOptions(protocol="1x3")
    ).report()
    assert report["metrics"] == expected["metrics"] and report["counts"]["evaluated"] == 16
    assert report["model"]["name"] == str(saved)
    assert report["data_set"] == {**expected["data_set"], "name": "motions", "split": "validation"}
    for name in ("protocol", "preprocessing", "decoder", "versions"):
        assert report[name] == expected[name]
    assert f"top-1                {report['metrics']['top1']:.2%}\n" in run.stdout
    assert "videos               16 of 16, 0 unreadable\n" in run.stdout


def test_script_on_a_list_with_unreadable_videos(tmp_path, saved, folder, samples, capsys):
    lines = [f"{path.relative_to(folder)} {label}" for path, label in samples[:3]]
    (tmp_path / "list.txt").write_text("\n".join([*lines, "gone.mp4 0"]))
    options = ["--list", str(tmp_path / "list.txt"), "--output", str(tmp_path / "report.json"), "--batch_statistics"]
    assert run_verb(script, ["--model", str(saved), "--videos", str(folder), *options]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"] == {"listed": 4, "evaluated": 3, "unreadable": 1, "frames_lost": 0}
    assert report["data_set"]["list"]["name"] == "list.txt" and report["protocol"]["batch_statistics"] is True
    printed = capsys.readouterr().out
    assert "3 of 4, 1 unreadable" in printed and "batch size and order" in printed


BAD_ARGUMENTS = {
    "no model": (["--model", "no/such/model"], "There is no folder 'no/such/model', and it is no Hub id"),
    "a mistyped name": (["--model", "nope"], "There is no folder 'nope', and it is no Hub id (`user/name`) either."),
    "no configuration": (["--model", "other"], "'other' holds no model: it has no config.json"),
    "no processor": (
        ["--model", "weights_only", "--list", "list.txt"],
        "'weights_only' holds a model without its video processor. Write one: `IlaVideoProcessor.for_model(",
    ),
    "weights missing": (["--model", "untrained", "--list", "list.txt"], "'untrained' is no trained ILA model"),
    "weights cut off": (["--model", "cut", "--list", "list.txt"], "header"),
    "no videos": (["--videos", "gone"], "There is no annotation at 'gone'"),
    "other labels": (
        ["--videos", "other"],
        "2 of 2 class folders of 'other' are none of the 8 class names: 'cat', 'dog'",
    ),
    "no list": (["--list", "gone.txt"], "There is no annotation at 'gone.txt'"),
    "class outside": (
        ["--list", "outside.txt"],
        "line 2, column 7: the class index 8 is not in 0 to 7",
    ),
    "no class": (
        ["--list", "no_class.txt"],
        "column 7: 'movin' is no class index and none of the 8",
    ),
    "several": (["--list", "several.txt"], "line 1, column 9: one label is allowed, and '2' is another"),
    "other format": (["--list", "list.txt", "--format", "kinetics"], "line 1, column 1: the columns label"),
    "no such format": (["--format", "csv"], "invalid choice: 'csv'"),
    "seed": (["--list", "list.txt", "--seed", "-1"], "seed must be a whole number of 0 or more, got -1"),
    "no json": (["--output", "report.txt"], "must end in .json, got 'report.txt'"),
    "batch_size": (
        ["--list", "list.txt", "--batch_size", "0"],
        "batch_size must be a whole number of 1 or more, got 0",
    ),
    "device": (["--list", "list.txt", "--device", "tpu:x"], "device must be one such as cpu or cuda:0, got 'tpu:x'"),
    "protocol": (["--protocol", "2x2"], "invalid choice: '2x2'"),
    "output": (["--output", "list.txt/report.json"], "The folder 'list.txt' cannot be made: 'list.txt' is a file"),
    "output is a folder": (["--output", "folder.json"], "needs a file 'folder.json', and there is a folder"),
    "over the list": (["--list", "list.json", "--output", "list.json"], "would overwrite the list"),
    "beside the list": (["--list", "a_videos.csv", "--output", "a.json"], "would overwrite the list"),
    "unknown": (["--colour", "red"], "there is no option --colour"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_of_the_script(tmp_path, monkeypatch, capsys, saved, case):
    options, message = BAD_ARGUMENTS[case]
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        Path("other", name).mkdir(parents=True)
        Path("other", name, "a.mp4").touch()
    Path("folder.json").mkdir()
    Path("list.txt").write_text("a.mp4 1\n")
    Path("outside.txt").write_text("a.mp4 1\nb.mp4 8\n")
    Path("no_class.txt").write_text("a.mp4 movin\n")
    Path("several.txt").write_text("a.mp4 1 2\n")
    name = options[1]
    if name in ("weights_only", "untrained", "cut"):
        Path(name).mkdir()
        for file in saved.iterdir():
            if name != "weights_only" or "processor" not in file.name:
                Path(name, file.name).write_bytes(file.read_bytes())
    if name == "cut":
        Path(name, "model.safetensors").write_bytes(Path(name, "model.safetensors").read_bytes()[:100])
    if name == "untrained":
        config = json.loads(Path("untrained", "config.json").read_text())
        Path("untrained", "config.json").write_text(json.dumps({**config, "classification_head": "linear"}))
    assert run_verb(script, ["--model", str(saved), "--videos", "other", *options]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert message in error and error.startswith("ila evaluate: error: ")
    assert not Path("evaluation.json").exists() and Path("list.txt").read_text() == "a.mp4 1\n"


def test_classes_are_found_by_name(model, processor, folder, tmp_path, caplog):
    """A folder with three of the model's eight classes, by every way that names can go."""
    for name in LABELS[5:]:
        (tmp_path / "three" / name.replace(" ", "_")).parent.mkdir(exist_ok=True)
        (tmp_path / "three" / name.replace(" ", "_")).symlink_to(folder / name)
    own = read_annotations(tmp_path / "three")
    report = evaluate(model, processor, own).report()
    expected = evaluate(model, processor, read_annotations(tmp_path / "three", labels=LABELS)).report()
    for name in ("metrics", "per_class", "most_confused", "calibration", "data_set"):
        assert report[name] == expected[name]
    assert [row["videos"] for row in report["per_class"]] == [0, 0, 0, 0, 0, 2, 2, 2]
    rows = [(sample.video, LABELS[5 + int(sample.labels[0])]) for sample in own.samples]
    for form in (own.pairs(), find_videos(tmp_path / "three")[1], own.samples[::-1], rows):
        assert evaluate(model, processor, form).metrics == report["metrics"]
    assert not caplog.records
    bare = [(sample.video, int(sample.labels[0])) for sample in own.samples]
    assert evaluate(model, processor, bare).predictions.labels.unique().tolist() == [0, 1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "have no names" in caplog.text
    (tmp_path / "three" / "moving_u").symlink_to(folder / LABELS[0])
    with pytest.raises(ValueError, match=r"none of the 8 class names .*: 'moving_u' \('moving up'\?\)"):
        evaluate(model, processor, read_annotations(tmp_path / "three"))


def test_a_model_with_numbers_for_names(model, processor, folder, monkeypatch, caplog):
    numbers = {index: f"LABEL_{index}" for index in range(8)}
    monkeypatch.setattr(model.config, "id2label", numbers)
    monkeypatch.setattr(model.config, "label2id", {name: index for index, name in numbers.items()})
    found = collect_logits(model, processor, read_annotations(folder))
    assert found.labels.tolist() == sorted(list(range(8)) * 2) and "8 classes have numbers for names" in caplog.text
