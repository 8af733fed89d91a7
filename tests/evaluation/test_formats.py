"""Files of FiftyOne and Label Studio: what they hold, that they are read back as they were, and what is refused."""

import json
import xml.etree.ElementTree as ElementTree
from urllib.parse import parse_qs, urlsplit

import pytest

from support.evaluation_models import LABELS
from transformers_ila.cli import predict
from transformers_ila.cli.main import run_verb
from transformers_ila.cli.predict import PredictArguments
from transformers_ila.data.annotations import detect_format, read_annotations
from transformers_ila.distributed import Rank
from transformers_ila.evaluation.formats import TOOLS, LabelledVideo, Labelling, write_labels
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction import label_videos
from transformers_ila.evaluation.prediction_files import read_results
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.timeline.segments import Segment


NAMES = [
    "walk",
    "a, b",
    'say "hi" & <b>',
    "two\nlines\tand tab",
    "ünï 走",
    "it's",
    *(f"class {n}" for n in range(394)),
]
FIELD = {"fiftyone": "prediction", "label-studio": "predictions"}


def clips(folder):
    """Clips whose names hold what addresses and JSON escape; one cannot be read."""
    ranked = [[("a, b", 0.7), ("two\nlines\tand tab", 0.6), ("walk", 0.2)], [('say "hi" & <b>', 0.9), ("it's", 0.1)]]
    paths = [str(folder / name) for name in ("a b&c#d+é%20.mp4", "sub/走 'x' \"y\".mp4", "broken.mp4")]
    read = [LabelledVideo(name=path, path=path, labels=labels) for path, labels in zip(paths, ranked)]
    return [*read, LabelledVideo(name=paths[2], path=paths[2], reason="no video")]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("tool", TOOLS)
def test_clips_are_read_back(tmp_path, tool, several):
    labelling = Labelling(class_names=NAMES, multi_label=several, model="tiny 0123")
    counts = write_labels(tmp_path / "out", tool, iter(clips(tmp_path)), labelling)
    assert counts == {"written": 2, "unreadable": 1}
    file = tmp_path / "out" / TOOLS[tool].file
    assert detect_format(file, None) == tool
    found = read_annotations(file, label_field=FIELD[tool], multi_label=several)
    assert found.class_names == NAMES and found.format == tool and found.sha256
    assert [sample.video for sample in found.samples] == [video.path for video in clips(tmp_path)[:2]]
    labels = [[NAMES[label] for label in sample.labels] for sample in found.samples]
    assert labels == [["a, b", "two\nlines\tand tab"][: 1 + several], ['say "hi" & <b>']]
    before = file.read_bytes()
    write_labels(tmp_path / "out", tool, clips(tmp_path), labelling)
    assert file.read_bytes() == before  # the same ids


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("rate", [8.0, 25.0, 30000 / 1001, 12.34])
def test_timelines_are_read_back(tmp_path, tool, rate):
    frames = 1000
    segments = [Segment("a, b", 0.0, 1.52, 0.9), Segment("walk", 1.52, 7.4, 0.8), Segment("it's", 7.41, 7.42, 0.7)]
    segments.append(Segment("walk", 30.0, frames / rate, float("nan")))
    video = {"name": "v", "path": str(tmp_path / "v.mp4"), "frames": frames, "duration": frames / rate}
    videos = [
        LabelledVideo(**video, segments=segments, offset=0.5),
        LabelledVideo(name="cut", path=str(tmp_path / "cut.mp4"), segments=[], reason="it breaks off"),
        LabelledVideo(name="none", path=str(tmp_path / "none.mp4"), reason="no video"),
    ]
    labelling = Labelling(class_names=NAMES, multi_label=False, model="tiny", timelines=True)
    assert write_labels(tmp_path, tool, videos, labelling) == {"written": 2, "unreadable": 1}
    field = {"fiftyone": "segments"}.get(tool, "predictions")
    found = read_annotations(tmp_path / TOOLS[tool].file, label_field=field)
    assert [NAMES[sample.labels[0]] for sample in found.samples] == [segment.label for segment in segments]
    for sample, segment in zip(found.samples, segments):
        assert sample.video == video["path"] and sample.start < sample.end
        assert abs(sample.start - segment.start) <= 0.51 / rate
        assert abs(sample.end - segment.end) <= (1.51 if segment.end - segment.start < 1 / rate else 0.51) / rate
    again = [Segment(NAMES[sample.labels[0]], sample.start, sample.end, 0.5) for sample in found.samples]
    write_labels(tmp_path / "again", tool, [LabelledVideo(**video, segments=again, offset=0.5)], labelling)
    twice = read_annotations(tmp_path / "again" / TOOLS[tool].file, label_field=field)
    assert [(s.start, s.end) for s in twice.samples] == [(s.start, s.end) for s in found.samples]


def test_what_fiftyone_finds(tmp_path):
    labelling = Labelling(class_names=NAMES, multi_label=False, model="tiny", embeddings=True)
    videos = [
        LabelledVideo(name="v", path="v.mp4", labels=[("walk", 0.75)], embedding=[0.5, 0.25]),
        clips(tmp_path)[2],
    ]
    write_labels(tmp_path, "fiftyone", videos, labelling)
    first, broken = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert first["filepath"].startswith("/") and first["prediction"]["confidence"] == 0.75
    assert first["prediction"]["_cls"] == "Classification" and first["embedding"] == [0.5, 0.25]
    assert [one["label"] for one in first["top_k"]["classifications"]] == ["walk"]
    assert broken["tags"] == ["unreadable"] and broken["prediction"] is None and broken["reason"] == "no video"
    fields = {field["name"] for field in json.loads((tmp_path / "metadata.json").read_text())["sample_fields"]}
    assert {"filepath", "tags", "metadata", "prediction", "top_k", "embedding", "reason"} <= fields
    video = {"name": "v", "path": "v.mp4", "segments": [Segment("walk", 0, 1, 0.5)]}
    with pytest.raises(ValueError, match="FiftyOne counts frames, and nothing tells those of 'v'"):
        write_labels(tmp_path, "fiftyone", [LabelledVideo(**video)], labelling)
    with pytest.raises(ValueError, match="opens files, and 'https://host/v.mp4' is an address"):
        write_labels(tmp_path, "fiftyone", [LabelledVideo(name="v", path="https://host/v.mp4")], labelling)
    assert json.loads((tmp_path / "samples.json").read_text())["samples"]  # those of before


def test_what_label_studio_finds(tmp_path, caplog):
    secret = "https://user:word@host/v.mp4?X-Amz-Signature=abc"
    videos = [*clips(tmp_path), LabelledVideo(name="v", path=secret, labels=[("walk", 0.5)])]
    labelling = Labelling(class_names=NAMES, multi_label=False, model="tiny 01", document_root=str(tmp_path))
    write_labels(tmp_path, "label-studio", videos, labelling)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    address = urlsplit(tasks[0]["data"]["video"])
    assert address.path == "/data/local-files/" and parse_qs(address.query)["d"] == ["a b&c#d+é%20.mp4"]
    (prediction,) = tasks[0]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("tiny 01", 0.7)
    assert prediction["result"][0]["value"] == {"choices": ["a, b"]}
    assert tasks[0]["data"]["probabilities"] == dict(videos[0].labels)
    assert "word" not in json.dumps(tasks) and "abc" not in json.dumps(tasks) and "cannot play" in caplog.text
    tree = ElementTree.parse(tmp_path / "label_config.xml")
    assert [node.get("value") for node in tree.iter("Choice")] == NAMES
    ids = [result["id"] for task in tasks for one in task["predictions"] for result in one["result"]]
    assert len(ids) == len({*ids}) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [(["$x"], r"'\$x': they begin with \$"), ([" a"], "blanks"), (["a\x07"], "characters that XML cannot have")],
)
def test_labels_that_label_studio_cannot_have(tmp_path, names, message):
    labelling = Labelling(class_names=names, multi_label=False, model="tiny")
    with pytest.raises(ValueError, match=message):
        write_labels(tmp_path, "label-studio", [], labelling)
    write_labels(tmp_path, "fiftyone", [], labelling)


# -- ila predict -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_folder(root, 4, seed=0, num_frames=8)
    (root / "text.mp4").write_text("no video")
    return root


def listed(root):
    return [(str(path.relative_to(root)), str(path)) for path in sorted(root.rglob("*.mp4"))]


@pytest.mark.parametrize("tool", TOOLS)
def test_labels_go_to_the_tools(tmp_path, model, processor, videos, tool):
    options = LabelOptions(format=tool, top_k=2)
    summary = label_videos(model, processor, listed(videos), tmp_path, options)
    assert summary.in_tool == {"written": 4, "unreadable": 1} and summary.labelled == 4
    best = {row["video"]: row["labels"] for row in read_results(tmp_path)}
    found = read_annotations(tmp_path / TOOLS[tool].file, label_field=FIELD[tool], root=videos)
    assert {sample.name: LABELS[sample.labels[0]] for sample in found.samples} == {
        name: labels[0] for name, labels in best.items() if labels
    }
    fewer = label_videos(model, processor, listed(videos)[:2], tmp_path, options)  # done before
    assert fewer.labelled == 0 and fewer.before == 5 and sum(fewer.in_tool.values()) == 2
    lines = label_videos(model, processor, listed(videos), tmp_path, LabelOptions(top_k=2))  # the same results
    assert lines.before == 5 and lines.labelled == 0


def test_an_interrupted_run_leaves_no_old_file(tmp_path, model, processor, videos):
    options = LabelOptions(format="fiftyone", batch_size=1)
    label_videos(model, processor, listed(videos)[:1], tmp_path, options)

    def broken():
        yield from listed(videos)[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_videos(model, processor, broken(), tmp_path, options)
    assert not (tmp_path / "samples.json").exists() and not (tmp_path / "metadata.json").exists()
    summary = label_videos(model, processor, listed(videos), tmp_path, options)
    assert summary.in_tool["written"] == 4 and summary.before >= 1


@pytest.mark.parametrize("tool", TOOLS)
def test_files_of_others_are_kept(tmp_path, tool):
    """People's own labels may lie under the same names, as FiftyOne exports them."""
    labelling = Labelling(class_names=["a"], multi_label=False, model="m")
    theirs = [(TOOLS[tool].file, '{"samples":[{"_id":1}]}'), (TOOLS[tool].file, "[]"), (TOOLS[tool].beside, "<View/>")]
    for name, text in theirs:
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(ValueError, match=f"{name}' was not written by this command"):
            write_labels(tmp_path, tool, [], labelling)
        assert [path.name for path in tmp_path.iterdir()] == [name] and file.read_text() == text
        file.unlink()
    for videos in ([], clips(tmp_path), []):
        write_labels(tmp_path, tool, videos, labelling)
    (tmp_path / TOOLS[tool].beside).unlink()  # a process that was killed there
    write_labels(tmp_path, tool, [], labelling)


def test_a_refused_run_leaves_the_file(tmp_path, model, processor, videos):
    label_videos(model, processor, listed(videos)[:1], tmp_path, LabelOptions(format="fiftyone"))
    with pytest.raises(ValueError, match="top_k 5, now 3"):
        label_videos(model, processor, listed(videos)[:1], tmp_path, LabelOptions(format="fiftyone", top_k=3))
    assert (tmp_path / "samples.json").is_file() and (tmp_path / "metadata.json").is_file()


def test_what_cannot_be_written_for_a_tool(tmp_path, model, processor, videos):
    fiftyone, studio = (
        LabelOptions(format="fiftyone"),
        LabelOptions(format="label-studio", document_root=str(tmp_path)),
    )
    with pytest.raises(ValueError, match="one of 2. Label with the format jsonl, and then start one process"):
        label_videos(model, processor, listed(videos), tmp_path, fiftyone, rank=Rank(0, 2))
    with pytest.raises(ValueError, match="to a local folder, got 's3://bucket/labels'"):
        label_videos(model, processor, listed(videos), "s3://bucket/labels", fiftyone)
    with pytest.raises(ValueError, match="does not lie below .*from where Label Studio serves files"):
        label_videos(model, processor, listed(videos), tmp_path, studio)
    for more, message in (
        ({"document_root": "/data"}, "document_root has no effect on the format 'jsonl'"),
        ({"format": "label-studio", "document_root": ""}, "document_root is empty"),
        ({"format": "label-studio", "embeddings": True}, "no use for embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelOptions(**more)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="written by one process: leave out --engine ray"):
        PredictArguments(
            model=str(tmp_path / "model"), videos=[str(videos)], output=str(tmp_path), format="fiftyone", engine="ray"
        )


def test_the_command_says_how_it_is_opened(tmp_path, model, processor, videos, capsys):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    words = [
        "--model",
        str(tmp_path / "model"),
        str(videos),
        "--output",
        str(tmp_path / "out"),
        "--format",
        "fiftyone",
    ]
    assert run_verb(predict, words) == 1  # one cannot be read
    printed = capsys.readouterr().out
    assert "samples.json: 4 videos, and 1 unreadable with the tag 'unreadable'." in printed
    assert f"fiftyone datasets create --name ila --dataset-dir {tmp_path / 'out'}" in printed
