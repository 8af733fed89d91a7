"""Probes beside plain loops and the condition of a minimum; what is chosen, what is cached, and the script."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from support.evaluation_models import TOLERANCE, views_of
from transformers_ila.cli.main import run_verb
from transformers_ila.data.annotations import Sample, read_annotations
from transformers_ila.evaluation import probing
from transformers_ila.evaluation.options import ProbeOptions
from transformers_ila.evaluation.probing import (
    TEMPERATURE,
    Features,
    choose_neighbours,
    choose_weight_decay,
    extract_features,
    fit_linear,
    knn_scores,
    probe,
)
from transformers_ila.motionbench.tasks import make_videos, write_folder
from transformers_ila.video_writing import write_mp4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """24 videos of eight classes and 8 others."""
    root = tmp_path_factory.mktemp("videos")
    write_folder(root / "train", 24, seed=0, num_frames=5)
    write_folder(root / "test", 8, seed=1, num_frames=5)
    return root


def clouds(*, videos: int, classes: int, size: int = 6, noise: float = 0.4, seed: int = 0) -> Features:
    """Unit vectors around one direction a class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % classes
    points = torch.eye(classes, size)[labels] + noise * torch.randn(videos, size, generator=generator)
    return Features(F.normalize(points, dim=-1), labels, {})


# -- nearest neighbours ----------------------------------------------------------------------------------------------


def plain_votes(training: Features, query: torch.Tensor, *, k: int, without: int | None = None) -> list[float]:
    cosines = [
        (float(query @ other), label)
        for place, (other, label) in enumerate(zip(training.features.double(), training.labels.tolist()))
        if place != without
    ]
    votes = [0.0] * 5
    for cosine, label in sorted(cosines, reverse=True)[:k]:
        votes[label] += math.exp(cosine / TEMPERATURE)
    return votes


@pytest.mark.parametrize("k", [1, 4, 1000])
def test_neighbours_beside_loops(k, monkeypatch):
    monkeypatch.setattr("transformers_ila.evaluation.probing.QUERIES", 7)
    training, queries = clouds(videos=23, classes=4), clouds(videos=11, classes=4, seed=1)
    found = knn_scores(training.features, training.labels, queries.features, k=k, classes=5)
    for votes, query in zip(found, queries.features.double()):
        assert votes.tolist() == pytest.approx(plain_votes(training, query, k=k))


def test_chosen_k_is_the_best_without_the_video_itself(monkeypatch):
    monkeypatch.setattr("transformers_ila.evaluation.probing.QUERIES", 7)
    training = clouds(videos=60, classes=3, noise=1.0)
    k, found = choose_neighbours(training.features, training.labels, classes=3)
    assert list(found) == [1, 3, 5, 10, 20, 50] and found[k] == max(found.values())
    assert k == min(other for other in found if found[other] == found[k])
    for other, accuracy in found.items():
        votes = [plain_votes(training, q, k=other, without=n) for n, q in enumerate(training.features.double())]
        right = [row.index(max(row)) == label for row, label in zip(votes, training.labels.tolist())]
        assert accuracy == pytest.approx(sum(right) / 60) and accuracy < 1
    assert choose_neighbours(training.features[:1], training.labels[:1], classes=3)[0] == 1


# -- a linear layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [1e-1, 1e-4])
def test_linear_layer_is_at_the_minimum(weight_decay):
    """There the gradient is 0: classes are met in the mean as often as they are, up to what the decay holds back."""
    training = clouds(videos=80, classes=4, noise=0.8)
    layer = fit_linear(training.features, training.labels, classes=5, weight_decay=weight_decay)
    inputs = (training.features.double() - training.features.double().mean(0)) / layer.scale
    error = layer(training.features).softmax(-1) - F.one_hot(training.labels, 5)
    gradient = error.T @ inputs / 80 + weight_decay * layer.weight
    assert gradient.abs().max() < 1e-4 and error.mean(0)[:4].abs().max() < 1e-3
    again = fit_linear(training.features, training.labels, classes=5, weight_decay=weight_decay)
    assert torch.equal(again.weight, layer.weight)


def test_weight_decay_is_chosen_from_the_seed():
    training = clouds(videos=60, classes=3, noise=0.7)
    first = choose_weight_decay(training.features, training.labels, classes=3, seed=0)
    assert first == choose_weight_decay(training.features, training.labels, classes=3, seed=0)
    best = [value for value, accuracy in first[1].items() if accuracy == max(first[1].values())]
    assert first[0] == max(best)
    assert choose_weight_decay(training.features[:6], training.labels[:6], classes=3, seed=0) == (1e-3, {})


def test_probes_learn_what_is_there_and_nothing_else():
    training, held_out = clouds(videos=200, classes=4, seed=2), clouds(videos=100, classes=4, seed=3)
    found = probe(training, held_out, classes=4)
    assert all(found[kind]["metrics"]["top1"] > 0.8 for kind in ("knn", "linear"))
    shuffled = training.labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    found = probe(Features(training.features, shuffled, {}), held_out, classes=4)
    assert all(found[kind]["metrics"]["top1"] < 0.5 for kind in ("knn", "linear"))
    json.dumps(found, allow_nan=False)


def test_one_class_constant_features_and_nothing():
    same = Features(torch.tensor([[1.0, 0.0]]).repeat(10, 1), torch.zeros(10, dtype=torch.long), {})
    found = probe(same, same, classes=1)
    assert found["knn"]["metrics"]["top1"] == found["linear"]["metrics"]["top1"] == 1
    empty = Features(torch.empty(0, 2), torch.empty(0, dtype=torch.long), {"a.mp4": "gone"})
    for pair in ((same, empty), (empty, same)):
        with pytest.raises(ValueError, match="needs videos that can be read; there are"):
            probe(*pair, classes=1)
    with pytest.raises(ValueError, match="probes must be some of knn, linear, got \\['svm'\\]"):
        ProbeOptions(probes=["svm"])


# -- features --------------------------------------------------------------------------------------------------------


def test_features_are_computed_once(tmp_path, model, processor, folders, monkeypatch):
    samples = read_annotations(folders / "test").samples
    samples = [*samples[:4], samples[4]._replace(video=str(tmp_path / "gone.mp4")), *samples[5:]]
    first = extract_features(
        model, processor, samples, ProbeOptions(cache=str(tmp_path / "cache"), protocol="3x1", batch_size=3)
    )
    assert len(first.labels) == 7 and list(first.unreadable) == [str(tmp_path / "gone.mp4")]
    for row, sample in zip(first.features, [*samples[:4], *samples[5:]]):
        with torch.no_grad():
            views = F.normalize(
                model.get_video_features(views_of(processor, sample.video, "3x1")).pooler_output, dim=-1
            )
        torch.testing.assert_close(row, F.normalize(views.mean(0), dim=-1), atol=TOLERANCE, rtol=0)
    asked = []
    loader = probing.read_views
    monkeypatch.setattr(
        probing, "read_views", lambda p, keys, o, **more: asked.append(keys) or loader(p, keys, o, **more)
    )
    again = extract_features(model, processor, samples, ProbeOptions(cache=str(tmp_path / "cache"), protocol="3x1"))
    assert torch.equal(again.features, first.features) and torch.equal(again.labels, first.labels)
    assert again.unreadable == first.unreadable and asked == [[4]]
    write_mp4(tmp_path / "gone.mp4", next(make_videos(1, seed=3)).frames)  # it is another video of the key now
    whole = extract_features(model, processor, samples, ProbeOptions(cache=str(tmp_path / "cache"), protocol="3x1"))
    assert len(whole.labels) == 8 and not whole.unreadable
    torch.testing.assert_close(whole.features[[0, 1, 2, 3, 5, 6, 7]], first.features, atol=TOLERANCE, rtol=0)
    (tmp_path / "gone.mp4").unlink()
    monkeypatch.undo()
    other = extract_features(
        model, processor, samples, ProbeOptions(cache=str(tmp_path / "cache"))
    )  # another protocol
    assert not torch.equal(other.features, first.features)
    files = sorted((tmp_path / "cache").iterdir())
    assert sorted(len(load_file(file)["positions"]) for file in files) == [7, 7, 8]
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="holds no features .* delete it"):
        extract_features(model, processor, samples, ProbeOptions(cache=str(tmp_path / "cache")))


def test_each_part_of_a_file_that_cannot_be_read_counts(tmp_path, model, processor):
    (tmp_path / "none.mp4").write_text("no video")
    parts = [Sample(str(tmp_path / "none.mp4"), (0,), "n", start, start + 1.0) for start in (0.0, 1.0)]
    assert len(extract_features(model, processor, parts).unreadable) == 2


def test_videos_need_one_label(model, processor):
    for samples, message in (([], "of 0 these"), ([("a.mp4", [1, 2])], "of 1 these have not: 'a.mp4'")):
        with pytest.raises(ValueError, match=message):
            extract_features(model, processor, samples)


# -- the script ------------------------------------------------------------------------------------------------------


def test_script(tmp_path, model, processor, folders, capsys, monkeypatch):
    from transformers_ila.cli import probe as script

    monkeypatch.chdir(tmp_path)
    model.save_pretrained("model")
    processor.save_pretrained("model")
    options = [
        "--model",
        "model",
        "--train",
        str(folders / "train"),
        "--output",
        "probe.json",
        "--data_set",
        "motions",
    ]
    assert run_verb(script, [*options, "--test", str(folders / "test")]) == 0
    printed, report = capsys.readouterr().out, json.loads(Path("probe.json").read_text())
    assert report["training"]["used"] == 24 and report["held_out"]["used"] == 8 and report["classes"] == 8
    assert f"knn top-1                    {report['probes']['knn']['metrics']['top1']:.2%}" in printed
    assert report["probes"]["linear"]["metrics"]["classes"] == 8 and len(list(Path("probe_features").iterdir())) == 2

    test = read_annotations(folders / "test").samples
    Path("list.txt").write_text("".join(f"{sample.video} {sample.labels[0] + 40}\n" for sample in test))
    Path("train.txt").write_text(
        "".join(f"{s.video} {s.labels[0] + 40}\n" for s in read_annotations(folders / "train").samples)
    )
    lists = ["--train", "train.txt", "--test", "list.txt", "--videos", "/", "--probes", "knn"]
    assert run_verb(script, [*options, *lists]) == 0
    report = json.loads(Path("probe.json").read_text())
    assert report["classes"] == 48 and list(report["probes"]) == ["knn"]
    Path("twice.txt").write_text(f"{test[0].video} 0 1\n")
    for bad, message in {
        ("--test", str(folders / "train")): "24 videos are in both lists, such as",
        ("--test", "gone"): "There is no annotation at 'gone'",
        ("--test", "list.txt", "--videos", "/"): "'list.txt', line 1, column",  # an index that the folder has not
        ("--test", "list.txt", "--output", "list.txt/probe.json"): "The folder 'list.txt' cannot be made",
        ("--train", "train.txt", "--test", "twice.txt", "--videos", "/"): "one label is allowed",
    }.items():
        assert run_verb(script, [*options, *bad]) == 2, bad
        assert message in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_verb(script, [*options, "--test", str(folders / "test")]) == 2
    assert sys.modules["transformers_ila.cli.probe"] is script


def test_lists_of_two_orders_are_joined_by_name(model, processor, folders):
    names = sorted(path.name for path in (folders / "train").iterdir())
    training = extract_features(model, processor, read_annotations(folders / "train"))
    held_out = extract_features(model, processor, read_annotations(folders / "test"))
    other = extract_features(model, processor, read_annotations(folders / "test", labels=names[::-1]))
    assert held_out.labels.tolist() != other.labels.tolist()
    options = ProbeOptions(probes=["knn"])
    assert probe(training, other, options, classes=8) == probe(training, held_out, options, classes=8)
    strange = extract_features(
        model, processor, read_annotations(folders / "test", labels=["new", *names]).samples[:1]
    )
    assert probe(training, strange, options, classes=8)["knn"]["metrics"]["classes"] == 1
    unknown = Features(other.features, other.labels, {}, {**other.class_names, "new": 8})
    with pytest.raises(ValueError, match="two orders of classes, and no training video shows 'new'"):
        probe(training, unknown, options, classes=9)
    with pytest.raises(ValueError, match="two orders"):
        mixed = (
            read_annotations(folders / "test").samples[:1]
            + read_annotations(folders / "test", labels=names[::-1]).samples[:1]
        )
        extract_features(model, processor, mixed)
