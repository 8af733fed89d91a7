"""FiftyOne and Label Studio open what `ila` writes, and what they export is what was written.

FIFTYONE_PYTHON and LABEL_STUDIO_PYTHON are the Pythons of environments with `fiftyone` and `mongomock`, and with
`label-studio-sdk`. FiftyOne's own importer and exporters run, on a database in memory; Label Studio's own validation
and converter.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from transformers_ila.data.annotations import read_annotations
from transformers_ila.evaluation.formats import LabelledVideo, Labelling, write_labels
from transformers_ila.timeline.segments import Segment
from transformers_ila.video_writing import write_mp4


NAMES = ["walk", "a, b", 'say "hi" & <b>', "two\nlines", "ünï 走", "it's", *(f"class {n}" for n in range(394))]
LABELS = ["a, b", 'say "hi" & <b>', "two\nlines", "ünï 走", "it's"]

FIFTYONE = """
import json, os, sys

os.environ |= {"FIFTYONE_DATABASE_URI": "mongodb://localhost", "FIFTYONE_DATABASE_VALIDATION": "false"}
os.environ |= {"FIFTYONE_DO_NOT_TRACK": "true"}
import mongoengine, mongomock, pymongo

client = mongomock.MongoClient()
client._closed = False
client.server_info = lambda *_, **__: {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}
mongomock.MongoClient = pymongo.MongoClient = lambda *_, **__: client
connect = mongoengine.connect
mongoengine.connect = lambda name, **_: connect(name, mongo_client_class=mongomock.MongoClient)
import fiftyone as fo

folder, field, out = sys.argv[1:]
dataset = fo.Dataset.from_dir(dataset_dir=folder, dataset_type=fo.types.FiftyOneDataset, name="ila")
kinds = fo.types
for number, sample in enumerate(dataset):
    sample.tags.append("train" if number % 2 else "validation")
    if field in sample and sample[field] is not None:
        sample["ground_truth"] = sample[field].copy()
    sample.save()
dataset.export(export_dir=f"{out}/dataset", dataset_type=kinds.FiftyOneDataset, export_media=False)
if field == "segments":
    for name, seconds in (("frames", False), ("seconds", True)):
        options = {"label_field": "ground_truth", "export_media": True, "use_timestamps": seconds}
        dataset.export(export_dir=f"{out}/{name}", dataset_type=kinds.FiftyOneTemporalDetectionDataset, **options)
found = []
for sample in dataset:
    found.append({"path": sample.filepath, "tags": sample.tags, "label": sample[field] and sample[field].to_dict()})
print(json.dumps({"version": fo.__version__, "samples": found, "classes": dataset.default_classes}, default=str))
"""

LABEL_STUDIO = """
import json, sys
from pathlib import Path
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

folder, out = map(Path, sys.argv[1:])
config = (folder / "label_config.xml").read_text("utf-8")
interface = LabelInterface(config)
interface.validate()
tasks = json.loads((folder / "tasks.json").read_text("utf-8"))
for number, task in enumerate(tasks, 1):
    assert interface.validate_task({"data": task["data"]})
    for prediction in task["predictions"]:
        assert interface.validate_prediction(prediction), interface.validate_prediction(prediction, return_errors=True)
    accepted = [{**one, "id": number, "completed_by": 1, "was_cancelled": False, "ground_truth": False,
                 "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "lead_time": 1.0}
                for one in task["predictions"]]
    assert all(interface.validate_annotation(one) for one in accepted)
    task |= {"id": number, "annotations": accepted, "predictions": []}
out.mkdir()
(out / "full.json").write_text(json.dumps(tasks))
converter = Converter(config, project_dir=None)
for form in ("JSON_MIN", "CSV"):
    converter.convert(str(out / "full.json"), str(out / form), form, is_dir=False)
print(json.dumps(list(interface.get_control("label").labels)))
"""


def ask(variable: str, script: str, *words: object, place: Path) -> dict:
    """What a tool's script prints last, as JSON."""
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{variable} names no Python: tests/extra/run.sh sets it")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(place)}
    command = [python, "-c", script, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    paths = [root / name for name in ("a b&c#é%20.mp4", "sub/走 'x'.mp4", "c.mp4", "d.mp4", "e.mp4")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write_mp4(path, np.zeros((50, 16, 16, 3), np.uint8), fps=10)
    return [str(path) for path in paths]


def clips(videos) -> list[LabelledVideo]:
    ranked = [[(label, 0.7), ("walk", 0.6)] for label in LABELS]
    read = [LabelledVideo(name=path, path=path, labels=labels) for path, labels in zip(videos, ranked)]
    return [*read, LabelledVideo(name="broken", path=videos[0] + ".mp4", reason="no video")]


def timelines(videos) -> list[LabelledVideo]:
    parts = [Segment("a, b", 0.0, 1.5, 0.9), Segment("two\nlines", 1.5, 3.2, 0.8), Segment("it's", 3.2, 5.0, 0.7)]
    return [LabelledVideo(name=path, path=path, segments=parts, frames=50, duration=5.0) for path in videos[:2]]


def said(annotations) -> list[tuple]:
    names = annotations.class_names
    return [(s.video, [names[i] for i in s.labels], s.start, s.end) for s in annotations.samples]


def expected_clips(videos, several) -> list[tuple]:
    """Labels in the order of the classes."""
    return [(path, ["walk", label] if several else [label], None, None) for path, label in zip(videos, LABELS)]


def expected_parts(videos) -> list[tuple]:
    return [(v.path, [s.label], s.start, s.end) for v in timelines(videos) for s in v.segments]


@pytest.mark.parametrize("several", [False, True])
def test_fiftyone_opens_clips_and_gives_them_back(tmp_path, videos, several):
    labelling = Labelling(class_names=NAMES, multi_label=several, model="tiny")
    write_labels(tmp_path / "labels", "fiftyone", clips(videos), labelling)
    out = tmp_path / "out"
    found = ask("FIFTYONE_PYTHON", FIFTYONE, tmp_path / "labels", "prediction", out, place=tmp_path)
    print("FiftyOne", found["version"])
    assert found["classes"] == NAMES and [one["path"] for one in found["samples"]][:5] == videos
    assert found["samples"][5]["tags"][0] == "unreadable" and found["samples"][5]["label"] is None
    for field in (None, "prediction"):
        back = read_annotations(out / "dataset", multi_label=several, label_field=field)
        assert said(back) == expected_clips(videos, several) and back.class_names == NAMES
    train = read_annotations(out / "dataset", multi_label=several, split="train")
    assert [sample.video for sample in train.samples] == videos[1:5:2]
    moved = read_annotations(out / "dataset", multi_label=several, root=Path(videos[0]).parent)
    assert [sample.name for sample in moved.samples] == [
        Path(videos[0]).name,
        "sub/走 'x'.mp4",
        "c.mp4",
        "d.mp4",
        "e.mp4",
    ]


def test_fiftyone_opens_timelines_and_gives_them_back(tmp_path, videos):
    labelling = Labelling(class_names=NAMES, multi_label=False, model="tiny", timelines=True)
    write_labels(tmp_path / "labels", "fiftyone", timelines(videos), labelling)
    found = ask("FIFTYONE_PYTHON", FIFTYONE, tmp_path / "labels", "segments", tmp_path / "out", place=tmp_path)
    assert [part["support"] for part in found["samples"][0]["label"]["detections"]] == [[1, 15], [16, 32], [33, 50]]
    for name, slack in (("dataset", 1e-6), ("frames", 1e-6), ("seconds", 0.11)):  # it stretches 49 gaps over 5 s
        back = said(read_annotations(tmp_path / "out" / name))
        for (video, labels, start, end), (path, names, first, last) in zip(back, expected_parts(videos), strict=True):
            own = Path(path).name if name == "dataset" else Path(path).name.replace("%", "-")  # as it calls its copies
            assert (Path(video).name, labels) == (own, names), name
            assert abs(start - first) < slack and abs(end - last) < slack, name


@pytest.mark.parametrize("several", [False, True])
def test_label_studio_takes_clips_and_gives_them_back(tmp_path, videos, several):
    labelling = Labelling(class_names=NAMES, multi_label=several, model="tiny")
    write_labels(tmp_path / "labels", "label-studio", clips(videos), labelling)
    assert ask("LABEL_STUDIO_PYTHON", LABEL_STUDIO, tmp_path / "labels", tmp_path / "out", place=tmp_path) == NAMES
    for name in ("full.json", "JSON_MIN/result.json", "CSV/result.csv"):
        back = read_annotations(tmp_path / "out" / name, multi_label=several, labels=NAMES)
        assert said(back) == expected_clips(videos, several), name


def test_label_studio_takes_timelines_and_gives_them_back(tmp_path, videos):
    labelling = Labelling(class_names=NAMES, multi_label=False, model="tiny", timelines=True)
    write_labels(tmp_path / "labels", "label-studio", timelines(videos), labelling)
    assert ask("LABEL_STUDIO_PYTHON", LABEL_STUDIO, tmp_path / "labels", tmp_path / "out", place=tmp_path) == NAMES
    for name in ("full.json", "JSON_MIN/result.json", "CSV/result.csv"):
        assert said(read_annotations(tmp_path / "out" / name, labels=NAMES)) == expected_parts(videos), name
