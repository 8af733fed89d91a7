"""Several labels a video, random frames, temporal reliance, several processes; and the files of an evaluation."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from support.evaluation_models import LABELS, TOLERANCE, make_model, torchrun, views_of
from support.paths import SCRIPTS
from support.plain_metrics import plain_average_precision
from transformers_ila import IlaVideoProcessor
from transformers_ila.cli import evaluate as script
from transformers_ila.cli.main import run_verb
from transformers_ila.data.annotations import Sample, read_annotations
from transformers_ila.distributed import Rank
from transformers_ila.evaluation.evaluator import collect_logits, evaluate
from transformers_ila.evaluation.metrics import accuracies
from transformers_ila.evaluation.options import EvaluationOptions
from transformers_ila.evaluation.report_files import files_of, markdown, write
from transformers_ila.evaluation.views import FRAME_ORDERS, draw_seed, drawing_from
from transformers_ila.motionbench.tasks import write_folder


SCRIPT = SCRIPTS / "evaluate.py"
SEVERAL = "multi_label_classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_folder(root, 8, seed=0, num_frames=11)
    return root


@pytest.fixture(scope="module")
def samples(folder):
    return read_annotations(folder, labels=LABELS).samples


@pytest.fixture(scope="module")
def several():
    return make_model(problem_type=SEVERAL)


def save(folder, model):
    model.save_pretrained(folder)
    IlaVideoProcessor.for_model(model.config).save_pretrained(folder)
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


# -- several labels a video ------------------------------------------------------------------------------------------


def test_several_labels_a_video(tmp_path, several, processor, folder, samples):
    ids = [(0, 1), (1,), (2, 3, 5), (0,), (5, 0), (3,), (1, 2), (5,)]  # 4, 6 and 7 show nowhere
    lines = [f"{sample.name} {' '.join(map(str, labels))}" for sample, labels in zip(samples, ids)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    annotations = read_annotations(tmp_path / "list.txt", root=folder, labels=LABELS, multi_label=True)
    options = EvaluationOptions(protocol="3x1", temporal_reliance=True)
    evaluation = evaluate(several, processor, annotations, options)
    predictions, report = evaluation.predictions, evaluation.report()
    with torch.no_grad():
        views = [views_of(processor, sample.video, "3x1") for sample in samples]
        expected = torch.stack([several(view).logits.sigmoid().mean(0) for view in views])
    torch.testing.assert_close(predictions.logits.sigmoid(), expected, atol=TOLERANCE, rtol=0)
    by_class = [
        plain_average_precision(expected[:, index].tolist(), [index in labels for labels in ids])
        for index in (0, 1, 2, 3, 5)
    ]
    assert report["metrics"]["mean_average_precision"] == pytest.approx(sum(by_class) / 5)
    assert report["metrics"]["classes"] == 5 and report["metrics"]["top1"] is None
    found = [row["average_precision"] for row in report["per_class"]]
    assert found[4] is found[6] is None and [x for x in found if x is not None] == pytest.approx(by_class)
    assert report["calibration"]["statements"] == 64 and report["most_confused"] is None
    assert set(report["temporal_reliance"]["orders"]) == set(FRAME_ORDERS)

    files = files_of(tmp_path / "r.json")
    for file in files.values():
        file.write_text("of an earlier evaluation")
    written = write(evaluation, tmp_path / "r.json")
    assert not files["confusion"].exists() and not files["picture"].exists() and len(written) == 4
    assert "mean average precision" in files["markdown"].read_text()
    assert [row["labels"] for row in rows_of(files["videos"])] == [" ".join(map(str, labels)) for labels in ids]


def test_several_labels_need_a_model_for_them(model, processor, several, samples):
    path = samples[0].video
    with pytest.raises(ValueError, match=f"gives a video one label .*: '{path}: 1, 3'"):
        evaluate(model, processor, [(path, [1, 3])]).report()
    with pytest.raises(ValueError, match="classes 0 to 7; 1 videos have others: .*: 1, 8'"):
        evaluate(several, processor, [(path, [1, 8])]).report()
    report = evaluate(several, processor, [(path, [])]).report()  # nothing to be seen there: no class has a video
    assert report["metrics"]["mean_average_precision"] is None and report["counts"]["evaluated"] == 1


def test_script_with_several_labels(tmp_path, several, folder, samples, capsys):
    lines = [f"{sample.name} {sample.labels[0]} {(sample.labels[0] + 1) % 8}" for sample in samples[:4]]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    saved = save(tmp_path / "model", several)
    options = ["--list", str(tmp_path / "list.txt"), "--output", str(tmp_path / "r.json"), "--format", "list"]
    assert run_verb(script, ["--model", str(saved), "--videos", str(folder), *options]) == 0
    value = json.loads((tmp_path / "r.json").read_text())["metrics"]["mean_average_precision"]
    assert f"mean average precision {value:.2%}" in capsys.readouterr().out


# -- random frames, temporal reliance --------------------------------------------------------------------------------


def test_random_frames_depend_on_seed_and_video_alone(model, processor, samples, tmp_path):
    state = torch.get_rng_state()
    options = {"protocol": "3x1", "random_frames": True}
    whole = collect_logits(model, processor, samples, EvaluationOptions(seed=1, batch_size=8, **options)).logits
    again = collect_logits(
        model, processor, samples[::-1], EvaluationOptions(seed=1, batch_size=3, workers=2, **options)
    ).logits
    torch.testing.assert_close(again.flip(0), whole, atol=TOLERANCE, rtol=0)
    other = collect_logits(model, processor, samples, EvaluationOptions(seed=2, **options)).logits
    fixed = collect_logits(model, processor, samples, EvaluationOptions(seed=1, protocol="3x1")).logits
    assert (whole - other).abs().max() > 1e-2 and (whole - fixed).abs().max() > 1e-2
    with drawing_from(draw_seed(1, samples[0].name)), torch.no_grad():
        views = processor(samples[0].video, num_clips=3, random_frames=True, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(model(views).logits[0], whole[0], atol=TOLERANCE, rtol=0)
    assert torch.equal(state, torch.get_rng_state())
    report = evaluate(model, processor, samples[:2], EvaluationOptions(random_frames=True, seed=3)).report()
    assert report["protocol"]["random_frames"] is True and report["protocol"]["seed"] == 3


def test_temporal_reliance_reads_once_and_equals_reordered_input(model, processor, samples, monkeypatch):
    calls, preprocess = [], processor.preprocess
    monkeypatch.setattr(processor, "preprocess", lambda video, **k: calls.append(video) or preprocess(video, **k))
    options = EvaluationOptions(batch_size=3, protocol="1x3", temporal_reliance=True, seed=4)
    evaluation = evaluate(model, processor, samples, options)
    predictions, report = evaluation.predictions, evaluation.report()
    assert calls == [sample.video for sample in samples]
    views = torch.stack([views_of(processor, sample.video, "1x3") for sample in samples])
    with torch.no_grad():
        backwards, still = model(views.flip(2)).logits, model(views[:, :, 2:3].expand_as(views)).logits
        shuffled = model(views[:1, :, torch.tensor([0, 1, 2, 3])]).logits
    torch.testing.assert_close(predictions.reordered["reversed"], backwards, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(predictions.reordered["single_frame"], still, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(predictions.logits[:1], shuffled, atol=TOLERANCE, rtol=0)
    assert (predictions.reordered["shuffled"] - predictions.logits).abs().max() > 1e-2
    assert report["protocol"]["seed"] == 4 and report["temporal_reliance"]["seed"] == 4
    labels = torch.tensor([sample.labels[0] for sample in samples])
    for order, logits in predictions.reordered.items():
        found = report["temporal_reliance"]["orders"][order]
        changed = (logits.argmax(-1) != predictions.logits.argmax(-1)).float().mean().item()
        assert found == {**accuracies(logits, labels), "prediction_changed": pytest.approx(changed)}
        for row in report["per_class"]:
            hits = [bool(logits[n].argmax() == labels[n]) for n in range(8) if labels[n] == row["index"]]
            assert row[order] == (sum(hits) / len(hits) if hits else None)
    assert "## Temporal reliance" in markdown(report) and "| reversed |" in markdown(report)


# -- files -----------------------------------------------------------------------------------------------------------


def test_files_of_an_evaluation(model, processor, samples, tmp_path):
    strange = tmp_path / "new\nline | é.mp4"
    strange.write_bytes(Path(samples[0].video).read_bytes())
    listed = [*samples[:5], Sample(str(strange), (2,), strange.name), Sample("gone\udcff.mp4", (3,), "gone")]
    options = EvaluationOptions(temporal_reliance=True, data_set="a | <b>", split="c")
    evaluation = evaluate(model, processor, listed, options)
    predictions, report = evaluation.predictions, evaluation.report()
    written = write(evaluation, tmp_path / "r.json")
    names = ["r.json", "r.md", "r_classes.csv", "r_confusion.csv", "r_confusion.png", "r_videos.csv"]
    assert sorted(path.name for path in written) == names
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(report))
    videos = rows_of(tmp_path / "r_videos.csv")
    assert [row["path"] for row in videos[-2:]] == [str(strange), "gone\\udcff.mp4"]
    assert "no such file" in videos[-1]["reason"] and videos[-1]["predicted"] == ""
    for row, logits in zip(videos, predictions.logits):
        assert int(row["predicted"]) == logits.argmax() and row["predicted_name"] == LABELS[logits.argmax()]
        assert float(row["probability"]) == pytest.approx(logits.softmax(-1).max().item(), abs=1e-6)
        assert (row["label_rank"] == "1") == (row["predicted"] == row["labels"])
    matrix = rows_of(tmp_path / "r_confusion.csv")
    assert [row["label"] for row in matrix] == LABELS and sum(int(row[n]) for row in matrix for n in LABELS) == 6
    classes = rows_of(tmp_path / "r_classes.csv")
    assert list(classes[0]) == ["index", "name", "videos", "predicted", "top1", "top5", *FRAME_ORDERS]
    assert sum(int(row["videos"]) for row in classes) == 6 == sum(int(row["predicted"]) for row in classes)
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("# a model on a \\| &lt;b>, c\n") and "6 of 7, 1 unreadable" in text
    assert Image.open(tmp_path / "r_confusion.png").width > 200
    assert not list(tmp_path.glob("*.new")) and not list(tmp_path.glob(".*"))


def test_names_of_classes_in_the_files_are_names(processor, samples, tmp_path):
    """Also bytes that are no text, formulas, and what would be HTML, a column or a row."""
    model = make_model()
    names = ["<img onerror>|a", "=1+1", "lone\udc80", "two\r\nlines", "$x$", "\x1b[31m", "`b`", "unused output 7"]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    unnamed = [(sample.video, int(sample.labels[0])) for sample in samples]
    evaluation = evaluate(model, processor, unnamed, EvaluationOptions(data_set="{{ a }}\n# b"))
    write(evaluation, tmp_path / "r.json")
    read = ["<img onerror>|a", "'=1+1", "lone\\udc80", *names[3:]]
    assert [row["name"] for row in json.loads((tmp_path / "r.json").read_text())["per_class"]] == names
    assert [row["name"] for row in rows_of(tmp_path / "r_classes.csv")] == read
    assert [row["label"] for row in rows_of(tmp_path / "r_confusion.csv")] == read
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("# a model on \\{\\{ a \\}\\} # b\n") and "<img" not in text and "\x1b" not in text
    assert all(f"| {name} |" in text for name in ("&lt;img onerror>\\|a", "=1+1", "two lines", "\\`b\\`"))


def test_files_without_a_readable_video(model, processor, tmp_path):
    listed = [("gone.mp4", 0), ("away.mp4", 1)]
    evaluation = evaluate(model, processor, listed, EvaluationOptions(temporal_reliance=True))
    write(evaluation, tmp_path / "new" / "folder" / "r.json")
    assert "0 of 2, 2 unreadable" in (tmp_path / "new" / "folder" / "r.md").read_text()
    assert evaluation.report()["temporal_reliance"]["orders"]["reversed"]["prediction_changed"] is None


# -- whatever annotations hold ---------------------------------------------------------------------------------------


def test_videos_in_shards(tmp_path, model, processor, samples):
    """A shard's video equals the file; one that is cut off is listed."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, sample in enumerate(samples[:3]):
            content = Path(sample.video).read_bytes()
            for suffix, data in (("mp4", content if number else content[:99]), ("cls", b"%d" % sample.labels)):
                member = tarfile.TarInfo(f"{number:03}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    annotations = read_annotations(str(tmp_path / "a.tar"), labels=LABELS)
    evaluation = evaluate(model, processor, annotations, EvaluationOptions(workers=1))
    found, report = evaluation.predictions, evaluation.report()
    assert found.positions == [1, 2] and list(found.unreadable) == [0]
    torch.testing.assert_close(
        found.logits, collect_logits(model, processor, samples[1:3]).logits, atol=TOLERANCE, rtol=0
    )
    assert report["unreadable"][0]["path"].endswith("000") and report["counts"]["evaluated"] == 2


def test_script_on_the_kinetics_csv(tmp_path, model, samples, capsys):
    """Class names are the model's, whatever the file's order; one split of the file is read."""
    rows = ["label,youtube_id,time_start,time_end,split"]
    for number, sample in enumerate(samples):
        rows.append(f"{LABELS[sample.labels[0]]},id_{number:08},0,10,{'validate' if number % 2 else 'train'}")
        (tmp_path / f"id_{number:08}_000000_000010.mp4").write_bytes(Path(sample.video).read_bytes())
    (tmp_path / "k.csv").write_text("\n".join(rows[:1] + rows[:0:-1]))
    saved = save(tmp_path / "model", model)
    options = ["--model", str(saved), "--videos", str(tmp_path), "--list", str(tmp_path / "k.csv")]
    options += ["--output", str(tmp_path / "r.json")]
    assert run_verb(script, [*options, "--read_split", "val"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["counts"]["evaluated"] == 4 and report["data_set"]["split"] == "val"
    assert report["data_set"]["list"]["format"] == "kinetics"
    assert [row["videos"] for row in report["per_class"]] == [0, 1] * 4
    assert run_verb(script, [*options, "--read_split", "tes"]) == 2
    assert "`split` must be one of ['train', 'validate'], got 'tes'" in capsys.readouterr().err


def test_the_report_says_what_was_listed(model, processor, samples):
    def described(listed):
        return evaluate(model, processor, listed).report()["data_set"]

    first = described(samples[:2])
    assert first == described(samples[:2]) and first["list"] is None and first["excerpts"] == 0
    hashes = {first["samples_sha256"]}
    for listed in (samples[1::-1], samples[:1], [samples[0], samples[1]._replace(labels=(3,))]):
        hashes.add(described(listed)["samples_sha256"])
    assert len(hashes) == 4
    assert described([samples[0]._replace(start=1.0, end=3.0)])["excerpts"] == 1


def test_parts_of_a_file_are_told_apart(tmp_path, model, processor, samples):
    file = samples[0].video
    parts = [samples[0]._replace(start=start, end=end) for start, end in ((0.0, 0.2), (0.2, None), (99.0, 100.0))]
    evaluation = evaluate(model, processor, parts)
    write(evaluation, tmp_path / "report.json")
    rows = list(csv.DictReader((tmp_path / "report_videos.csv").open(newline="")))
    assert [row["path"] for row in rows] == [f"{file}#t=0.0,0.2", f"{file}#t=0.2", f"{file}#t=99.0,100.0"]
    assert [one["path"] for one in evaluation.report()["unreadable"]] == [f"{file}#t=99.0,100.0"]


# -- several processes -----------------------------------------------------------------------------------------------


def as_process(monkeypatch, rank, world, gather):
    monkeypatch.setattr("transformers_ila.evaluation.evaluator.current_rank", lambda: Rank(rank, world))
    monkeypatch.setattr("transformers_ila.evaluation.evaluator.all_gather", gather)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_shares_add_up_to_the_whole(model, processor, samples, monkeypatch, world):
    """Four videos, one of them unreadable: with five processes one has nothing to do."""
    listed = [*samples[:2], samples[2]._replace(video="gone.mp4"), samples[3]]
    whole = collect_logits(model, processor, listed, EvaluationOptions(temporal_reliance=True))
    parts = []

    def alone(work, rank):
        parts.append(work())
        return parts[-1:]

    for rank in range(world):
        as_process(monkeypatch, rank, world, alone)
        with pytest.raises(RuntimeError, match="4 videos gave"):  # what one process has is not taken for everything
            collect_logits(model, processor, listed, EvaluationOptions(temporal_reliance=True))
    as_process(monkeypatch, 0, world, lambda work, rank: parts)
    found = collect_logits(model, processor, listed, EvaluationOptions(temporal_reliance=True))
    assert found.positions == whole.positions == [0, 1, 3] and found.unreadable == whole.unreadable
    assert torch.equal(found.labels, whole.labels) and found.processes == world
    for order in ("", *FRAME_ORDERS):
        ours, theirs = (p.reordered[order] if order else p.logits for p in (found, whole))
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    residual = make_model(alignment_fusion="residual")
    monkeypatch.undo()
    as_process(monkeypatch, 0, world, lambda work, rank: [work()])
    with pytest.raises(ValueError, match=f"one process's order, not {world} processes'"):
        collect_logits(residual, processor, samples, EvaluationOptions(batch_statistics=True))
    alone = collect_logits(residual, processor, samples, EvaluationOptions(batch_statistics=True), rank=Rank())
    assert len(alone.logits) == 8


@pytest.mark.slow
def test_seven_videos_on_two_processes(tmp_path, model, folder, samples):
    """Uneven shares, and something that cannot be read in each; random frames and shuffles are the same."""
    saved = save(tmp_path / "model", model)
    lines = [f"{sample.name} {sample.labels[0]}" for sample in samples[:7]]
    (tmp_path / "list.txt").write_text("\n".join([*lines[:4], "gone.mp4 1", "away.mp4 2", *lines[4:]]))
    options = ["--model", saved, "--videos", folder, "--list", tmp_path / "list.txt", "--random_frames", "--seed", 3]
    options += ["--temporal_reliance", "--batch_size", 2, "--protocol", "3x1"]
    assert run_verb(script, list(map(str, [*options, "--output", tmp_path / "one.json"]))) == 1
    two = torchrun(SCRIPT, *options, "--output", tmp_path / "two.json")
    assert two.returncode == 1 and "exitcode  : 1" in two.stderr, two.stderr[-3000:]  # as videos are unreadable
    assert two.stdout.count("Report: ") == 1  # of one process
    reports = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert [report["processes"] for report in reports] == [1, 2]
    assert [len(report["unreadable"]) for report in reports] == [2, 2]
    for name in ("metrics", "counts", "unreadable", "per_class", "most_confused", "temporal_reliance", "data_set"):
        assert reports[0][name] == reports[1][name], name
    first, second = (rows_of(tmp_path / f"{name}_videos.csv") for name in ("one", "two"))
    assert len(first) == 9 and [row.pop("path") for row in first] == [row.pop("path") for row in second]
    for row, other in zip(first, second):
        chances = [float(r.pop("probability") or 0) for r in (row, other)]
        assert row == other and chances[0] == pytest.approx(chances[1], abs=1e-6)


@pytest.mark.slow
def test_a_fault_in_one_process_ends_all(tmp_path, folder):
    residual = make_model(alignment_fusion="residual")
    saved = save(tmp_path / "model", residual)
    options = ["--model", saved, "--videos", folder, "--output", tmp_path / "r.json", "--batch_statistics"]
    run = torchrun(SCRIPT, *options)
    assert run.returncode != 0 and not (tmp_path / "r.json").exists()
    assert run.stderr.count("ila evaluate: error: ") == run.stderr.count("not 2 processes'") == 1
    assert "exitcode  : 2" in run.stderr  # of the first that ends; the launcher may kill the other before that
    program = tmp_path / "program.py"
    program.write_text(
        "from transformers_ila.distributed import all_gather, all_succeed, process_group\n"
        "with process_group() as rank:\n"
        "    assert all_gather(lambda: rank.rank) == [0, 1] and all_succeed(lambda: rank.rank) == rank.rank\n"
        "    for work in (lambda: 1 // rank.rank, lambda: int('both')):\n"
        "        try:\n"
        "            all_gather(work)\n"
        "        except Exception as error:\n"
        "            print(f'{rank.rank} {type(error).__name__} {error}', flush=True)\n"
    )
    run = torchrun(program)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "0 ZeroDivisionError " in run.stdout and "1 RemoteRankError process 0: ZeroDivisionError" in run.stdout
    assert "0 ValueError invalid literal" in run.stdout and "1 RemoteRankError process 0: ValueError" in run.stdout


def test_rows_of_several_labels(several, processor, samples):
    """Each video shows one class of its own and the last one; read as indices they would all be of classes 0 and 1."""
    ids = [(index, 7) for index in range(4)]
    rows = [[float(column in labels) for column in range(8)] for labels in ids]
    expected = evaluate(several, processor, [(s.video, labels) for s, labels in zip(samples, ids)])
    assert expected.metrics["mean_average_precision"] < 1
    for dtype in (torch.long, torch.bool, torch.float32):
        pairs = [(s.video, row) for s, row in zip(samples, torch.tensor(rows).to(dtype))]
        found = evaluate(several, processor, pairs)
        assert torch.equal(found.predictions.labels, expected.predictions.labels) and found.metrics == expected.metrics
    with pytest.raises(ValueError, match="row of 0 and 1"):
        evaluate(several, processor, [(samples[0].video, rows[0][:7])])
