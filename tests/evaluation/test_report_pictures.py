"""Pictures of a report's files, and files that are none of a report."""

import json
import shutil

import pytest
import torch

from support.evaluation_models import make_model
from support.figures import words_of
from transformers_ila.data.samples import Sample
from transformers_ila.evaluation.options import FRAME_ORDERS, EvaluationOptions
from transformers_ila.evaluation.report import Predictions, describe_evaluation
from transformers_ila.evaluation.report_fields import about_report
from transformers_ila.evaluation.report_files import write
from transformers_ila.evaluation.report_pictures import REPORT_PICTURES, plot_report, read_report


NAMES = ["<img>|a", "=1+1", "lone\udc80", "two\r\nlines", "$x$", "\u9a91", "walk", "never seen"]


OPTIONS = EvaluationOptions(data_set="set", split="test")


def write_report(file, processor, *, several=False, count=40, options=OPTIONS):
    """Write the files of an evaluation of made-up predictions, in which class 7 has no video and one is unreadable."""
    model = make_model(**({"problem_type": "multi_label_classification"} if several else {}))
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: index for index, name in enumerate(NAMES)}
    generator = torch.Generator().manual_seed(0)
    indices = torch.arange(count) % 7
    logits = torch.randn(count, 8, generator=generator) + 2 * torch.nn.functional.one_hot(indices, 8)
    labels = torch.nn.functional.one_hot(indices, 8).bool() if several else indices
    samples = [Sample(f"{index}.mp4", (int(label),), f"{index}.mp4") for index, label in enumerate(indices)]
    samples.append(Sample("gone.mp4", (0,), "gone.mp4"))
    other = {name: logits.roll(1, 0) for name in FRAME_ORDERS} if options.temporal_reliance else {}
    how = {"dtype": "float32", "fused": True, "why_not_fused": None}
    made = Predictions(
        list(range(count)), logits, labels, {count: "no such file"}, 0, 1.0, reordered=other, inference=how
    )
    evaluation = describe_evaluation(made, samples, model, processor, options)
    write(evaluation, file)
    return evaluation


@pytest.fixture(scope="module")
def written(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder / "r.json", processor)
    write_report(
        folder / "several.json", processor, several=True, options=EvaluationOptions(temporal_reliance=True, seed=3)
    )
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "report")


def change(file, **parts):
    report = json.loads(file.read_text())
    for name, value in parts.items():
        *above, last = name.split("__")
        part = report
        for step in above:
            part = part[int(step) if step.isdigit() else step]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    file.write_text(json.dumps(report))


def test_pictures_say_what_the_report_says(written):
    report = read_report(written / "r.json")
    top1, error = report["metrics"]["top1"], report["calibration"]["expected_calibration_error"]
    said = {"confusion": f"{round(40 * top1)} of 40 videos right ({top1:.1%})"}
    said["calibration"] = f"expected calibration error {error:.1%} (15 bins)"
    said["classes"] = f"mean accuracy {report['metrics']['mean_class_accuracy']:.1%}; 1 without videos"
    figures = {picture: plot_report(written / "r.json", picture) for picture in REPORT_PICTURES}
    for picture, figure in figures.items():
        assert said[picture] in words_of(figure) and "a model on set, test" in words_of(figure)
    matrix = figures["confusion"].axes[0].images[0].get_array()
    assert matrix.shape == (8, 8) and matrix.mask[7].all()


def test_several_labels_a_video(written):
    file = written / "several.json"
    with pytest.raises(ValueError, match="several labels a video: .* no confusion matrix. Allowed: classes and"):
        plot_report(file, "confusion")
    assert "320 statements" in words_of(plot_report(file, "calibration"))
    words = words_of(plot_report(file, "classes"))
    mean = read_report(file)["metrics"]["mean_average_precision"]
    assert f"mean average precision {mean:.1%}" in words and "frames shuffled" in words


def test_what_goes_into_the_file_of_a_picture(written):
    report = read_report(written / "several.json")
    about = json.loads(json.dumps(about_report(report, "classes")))
    assert (
        about["picture"] == "classes" and about["seed"] == 3 and about["fingerprint"] == report["model"]["fingerprint"]
    )
    assert about.keys() >= {"torch", "transformers", "transformers_ila"}


BAD = {  # a file's end, what is done to it, the picture, the message
    "there is no table": (
        "r_confusion.csv",
        lambda file: file.unlink(),
        "confusion",
        "There is no .*r_confusion.csv'",
    ),
    "another's table": (
        "r_confusion.csv",
        lambda file: file.write_bytes(file.read_bytes().replace(b"walk", b"run")),
        "confusion",
        "other classes than the report: 'run', where it has 'walk'",
    ),
    "an edited table": (
        "r_confusion.csv",
        lambda file: file.write_bytes(file.read_bytes().replace(b",3", b",2")),
        "confusion",
        "of another evaluation, or was edited: it has . videos of",
    ),
    "a table with words": (
        "r_confusion.csv",
        lambda file: file.write_bytes(file.read_bytes().replace(b",3", b",three")),
        "confusion",
        "column . must be a whole number; got 'three'",
    ),
    "a short table": (
        "r_confusion.csv",
        lambda file: file.write_text("label,a\na,1\n"),
        "confusion",
        "has 1 rows of counts, and the report 8 classes",
    ),
    "an empty table": ("r_confusion.csv", lambda file: file.write_text(""), "confusion", "has 0 rows of counts"),
    "bytes": ("r_confusion.csv", lambda file: file.write_bytes(b"\xff\xfe"), "confusion", "is no CSV in UTF-8"),
    "another top-1": (
        "r.json",
        lambda file: change(file, metrics__top1=0.99),
        "confusion",
        "has a top-1 of 0.99, and its confusions one of",
    ),
    "another error": (
        "r.json",
        lambda file: change(file, calibration__expected_calibration_error=0.9),
        "calibration",
        "is 0.9, and its bins give .* it was edited",
    ),
    "other statements": (
        "r.json",
        lambda file: change(file, calibration__bins__14__statements=100),
        "calibration",
        "its calibration is of .* statements, and there were 40",
    ),
    "other videos": (
        "r.json",
        lambda file: change(file, per_class__0__videos=100),
        "classes",
        "its classes have 134 videos together, and 40 were evaluated",
    ),
    "no count": (
        "r.json",
        lambda file: change(file, per_class__0__videos="6"),
        "classes",
        "'videos' must be a whole number from 0; got '6'",
    ),
    "fewer classes": (
        "r.json",
        lambda file: change(file, per_class=[]),
        "classes",
        "it has 0 rows of classes, and the model 8 classes",
    ),
    "no classes": (
        "r.json",
        lambda file: change(file, per_class=...),
        "classes",
        "has no 'per_class'.*writes it anew",
    ),
    "no calibration": ("r.json", lambda file: change(file, calibration=...), "calibration", "has no 'calibration'"),
    "another schema": ("r.json", lambda file: change(file, schema=2), "classes", "'schema' must be 1; got 2"),
    "a retrieval": (
        "r.json",
        lambda file: change(file, text_to_video={}),
        "classes",
        "is a report of `ila evaluate-retrieval`, and a report of `ila evaluate` is needed",
    ),
    "a timeline": ("r.json", lambda file: file.write_text('{"segments": []}'), "classes", "is a timeline, and"),
    "a configuration": ("r.json", lambda file: file.write_text("{}"), "classes", "no evaluation report: 'date'"),
    "a list": ("r.json", lambda file: file.write_text("[1]"), "classes", "it holds a list"),
    "no JSON": ("r.json", lambda file: file.write_text("{"), "classes", "is no JSON file of a report"),
    "no text": ("r.json", lambda file: file.write_bytes(b"\x89PNG\xff"), "classes", "is no JSON file of a report"),
    "another picture": ("r.json", lambda file: None, "masks", "one of confusion, calibration, classes; got 'masks'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_drawn(case, folder):
    name, spoil, picture, message = BAD[case]
    spoil(folder / name)
    with pytest.raises(ValueError, match=message):
        plot_report(folder / "r.json", picture)


def test_a_report_of_no_video(processor, tmp_path):
    write_report(tmp_path / "r.json", processor, count=0)
    assert "0 of 0 videos right" in words_of(plot_report(tmp_path / "r.json", "confusion"))
    for picture in ("calibration", "classes"):
        with pytest.raises(ValueError, match=r"r\.json': .*video.* evaluated"):
            plot_report(tmp_path / "r.json", picture)
    with pytest.raises(FileNotFoundError):
        plot_report(tmp_path / "gone.json")
