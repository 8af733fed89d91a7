"""What FiftyOne and Label Studio export: found by its content, read with its videos where they lie, faults named."""

import json

import numpy as np
import pytest

from support.annotation_files import fault, read, rows, touch, write
from transformers_ila.data.annotations import detect_format, read_annotations
from transformers_ila.data.exports import first_keys
from transformers_ila.video_writing import write_mp4


def task(number, *annotations, video="/data/local-files/?d=clips/a.mp4", **data):
    return {"id": number, "data": {"video": video, **data}, "annotations": list(annotations)}


def choices(*labels, control="label", **more):
    results = [{"from_name": control, "to_name": "video", "type": "choices", "value": {"choices": list(labels)}}]
    return {"result": results if labels else [], **more}


def ranges(*parts, control="label", **more):
    results = []
    for first, last, *labels in parts:
        value = {"ranges": [{"start": first, "end": last}], "timelinelabels": labels}
        results.append({"from_name": control, "type": "timelinelabels", "value": value})
    return {"result": results, **more}


def studio(folder, *tasks, **options):
    return read(folder, json.dumps(tasks), "export.json", **options)


def sample(path, **fields):
    return {"filepath": path, "tags": fields.pop("tags", []), **fields}


def one(label, **more):
    return {"_cls": "Classification", "label": label, **more}


def parts(*found):
    return {"_cls": "TemporalDetections", "detections": [{"_cls": "TemporalDetection", **part} for part in found]}


def fiftyone(folder, *samples, metadata=None, **options):
    if metadata is not None:
        write(folder / "metadata.json", json.dumps(metadata))
    return read(folder, json.dumps({"samples": samples}), "samples.json", **options)


# -- which format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ([{"id": 1, "annotations": [{"result": []}], "data": {}}], "label-studio"),
        ([{"data": {"video": "a.mp4"}, "predictions": []}], "label-studio"),
        ({"id": 1, "annotations": [], "data": {"video": "a.mp4"}}, "label-studio"),
        ([{"video": "a.mp4", "id": 1, "label": "x", "annotator": 1, "annotation_id": 2}], "label-studio"),
        ({"samples": []}, "fiftyone"),
        ({"classes": None, "labels": {}}, "fiftyone"),
        ([{"id": "1", "label": "x", "template": "y", "placeholders": []}], "ssv2"),
        ({"Moving something": "0"}, "ssv2"),
    ],
)
def test_json_is_told_apart_by_its_keys(tmp_path, content, format):
    for indent in (None, 2):
        assert detect_format(write(tmp_path / "x.json", json.dumps(content, indent=indent)), None) == format


def test_other_texts_and_folders_stay_what_they_are(tmp_path):
    table = "annotation_id,annotator,choice,created_at,id,lead_time,updated_at,video\n1,1,walk,,1,2,,a.mp4\n"
    assert detect_format(write(tmp_path / "t.csv", table), None) == "label-studio"
    assert detect_format(write(tmp_path / "l.csv", "path,label\na.mp4,3\n"), None) == "list"
    write(tmp_path / "ds/labels.json", json.dumps({"Moving": "0"}))
    write(tmp_path / "ds/train.json", "[]")
    assert detect_format(tmp_path / "ds", None) == "ssv2"
    touch(tmp_path / "cl", "walk/a.mp4", "run/b.mp4", "labels.json")
    assert detect_format(tmp_path / "cl", None) == "folders"
    write(tmp_path / "fo/samples.json", '{"samples": []}')
    assert detect_format(tmp_path / "fo", None) == "fiftyone"
    assert first_keys('[{"a": {"b": [1, "c: d"]}, "e": "\\"f\\": ') == {"a", "e"}
    assert first_keys("[[1]]") == first_keys("[1, 2]") == first_keys('"x"') == first_keys("") == set()


# -- Label Studio ----------------------------------------------------------------------------------------------------


def test_choices_of_a_video(tmp_path, caplog):
    tasks = [
        task(1, choices("walk")),
        task(2, choices("run, fast"), video="/data/local-files/?d=clips/b%20%26c.mp4"),
        task(3, choices("walk", was_cancelled=True), video="c.mp4"),
        task(4, video="d.mp4") | {"predictions": [choices("walk")]},
        task(5, choices(), video="e.mp4"),
    ]
    found = studio(tmp_path, *tasks)
    assert found.class_names == ["run, fast", "walk"] and not found.multi_label and found.sha256
    assert [(s.video, s.labels) for s in found.samples] == [("/clips/a.mp4", (1,)), ("/clips/b &c.mp4", (0,))]
    assert "3 tasks are left out: 1 skipped, 1 without an annotation, 1 without a label" in caplog.text
    predicted = studio(tmp_path, *tasks, label_field="predictions")
    assert [s.name for s in predicted.samples] == ["d.mp4"]
    given = studio(tmp_path, *tasks, labels=["walk", "jump", "run, fast"])
    assert [s.labels for s in given.samples] == [(0,), (2,)]


def test_several_choices_are_asked_for(tmp_path):
    tasks = [task(1, choices("a", "b")), task(2, choices(), video="none.mp4")]
    with pytest.raises(
        ValueError, match="export.json, task 1.*one label is allowed, and 'b' is another: several are read"
    ):
        studio(tmp_path, *tasks)
    found = studio(tmp_path, *tasks, multi_label=True)
    assert [s.labels for s in found.samples] == [(0, 1), ()]  # of a video that shows none


def test_several_annotators(tmp_path, caplog):
    early, late = {"updated_at": "2026-01-01T10:00:00Z"}, {"updated_at": "2026-01-02T10:00:00Z"}
    tasks = [
        task(1, choices("a", **late), choices("b", **early)),
        task(2, choices("a", **late), choices("b", ground_truth=True, **early), video="b.mp4"),
        task(3, choices("a", **late), choices("a", **early), video="c.mp4"),
        task(4, choices("b", **early), choices("a", was_cancelled=True, **late), video="d.mp4"),
    ]
    found = studio(tmp_path, *tasks)
    assert [found.class_names[s.labels[0]] for s in found.samples] == ["a", "b", "a", "b"]
    assert "annotations of 2 tasks disagree, 'task 1', 'task 2'" in caplog.text


def test_timelines_become_seconds(tmp_path):
    tasks = [
        task(1, ranges((1, 50, "a"), (51, 75, "b")), fps=25),
        task(2, ranges((4, 4, "a")), fps="12.5", video="b.mp4"),
    ]
    found = studio(tmp_path, *tasks)
    assert [(s.start, s.end, s.labels) for s in found.samples] == [(0, 2, (0,)), (2, 3, (1,)), (0.24, 0.32, (0,))]
    assert found.samples[0].name == "/clips/a.mp4#t=0.0,2.0"
    unsaid = [task(7, ranges((1, 50, "a")))]
    assert "task 7: nothing tells the frame rate: no 'fps'" in fault(tmp_path, json.dumps(unsaid), "e.json")[2]
    for said, end in (('frameRate="50"', 1.0), ('frameRate="$rate"', 5.0), ("", 50 / 24)):
        config = '<View><TimelineLabels name="label" toName="v"><Label value="z"/><Label value="a"/></TimelineLabels>'
        write(tmp_path / "label_config.xml", f'{config}<Video name="v" value="$video" {said}/></View>')
        found = studio(tmp_path, task(7, ranges((1, 50, "a")), rate=10))
        assert found.samples[0].end == pytest.approx(end) and found.class_names == ["z", "a"]
    twice = task(1, ranges((1, 50, "a"), (1, 50, "b")))
    assert [s.labels for s in studio(tmp_path, twice, multi_label=True).samples] == [(1, 2)]
    assert "task 1: the video" in fault(tmp_path, json.dumps([twice]), "e.json")[2]


@pytest.mark.parametrize("found", [{"start": 0, "end": 5}, {"start": 9, "end": 5}, {"start": "1"}, {}, 3])
def test_ranges_that_are_none(tmp_path, found):
    value = {"from_name": "l", "value": {"ranges": [found], "timelinelabels": ["a"]}}
    content = json.dumps([task(9, {"result": [value]}, fps=25)])
    assert "task 9: a range must be a first and a last frame" in fault(tmp_path, content, "e.json")[2]


def test_where_label_studio_has_videos(tmp_path):
    touch(tmp_path, "clips/a.mp4", "clips/my clip.mp4", "clips/00000000-b.mp4", "up.mp4")
    expected = {
        "/data/local-files/?d=mnt/nas/clips/a.mp4": "clips/a.mp4",
        "http://host:8080/data/local-files/?d=clips/a.mp4": "clips/a.mp4",
        "/elsewhere/clips/a.mp4": "clips/a.mp4",
        "clips/a.mp4": "clips/a.mp4",
        "s3://bucket/some/clips/a.mp4": "clips/a.mp4",
        "https://host/x/a%20b.mp4?signature=abc": "a b.mp4",  # which does not exist
        "/data/upload/3/0123abcd-up.mp4": "up.mp4",
    }
    for media, name in expected.items():
        (found,) = studio(tmp_path / "x", task(1, choices("a"), video=media), root=tmp_path).samples
        assert (found.name, found.video) == (name, str(tmp_path / name)), media
    for media, name in (
        ("/data/upload/3/0123abcd-my_clip.mp4", "my clip.mp4"),
        ("upload/1/00000000-b.mp4", "00000000-b.mp4"),
    ):
        (found,) = studio(tmp_path, task(1, choices("a"), video=media), root=tmp_path / "clips").samples
        assert found.name == name
    for media, reason in (
        ("s3://bucket/a.mp4", "'s3://bucket/a.mp4' is an address; copy the videos and name their folder by `root`"),
        ("/data/local-files/?x=a.mp4", "names no file behind `d=`"),
        ("../../etc/passwd", "leaves the folder"),
        ("", "none of its fields names the video: 'video'"),
    ):
        message = fault(tmp_path, json.dumps([task(5, choices("a"), video=media)]), "e.json")[2]
        assert "task 5: " in message and reason in message


def test_minimal_exports(tmp_path):
    data = {"video": "a.mp4", "name": "A", "fps": 10}
    row = {
        "annotator": 1,
        "annotation_id": 1,
        "created_at": "2026-01-01",
        "updated_at": "2026-01-01",
        "lead_time": 1.5,
    }
    json_rows = [
        {**data, "id": 1, "label": "walk, slowly", **row},
        {**data, "id": 1, "label": "run", **row, "annotation_id": 2, "updated_at": "2026-01-02"},
        {**data, "video": "b.mp4", "id": 2, "label": "run", **row},
    ]
    found = read(tmp_path, json.dumps(json_rows), "min.json")
    assert rows(found) == [("a.mp4", 0), ("b.mp4", 0)] and found.class_names == ["run"]
    table = (
        'annotation_id,annotator,id,label,lead_time,name,video\n1,1,1,"walk, slowly",2,A,a.mp4\n2,1,2,run,2,B,b.mp4\n'
    )
    assert rows(read(tmp_path, table, "min.csv")) == [("a.mp4", 1), ("b.mp4", 0)]
    several = 'annotation_id,annotator,id,label,video\n1,1,1,"{""choices"": [""a"", ""b""]}",a.mp4\n'
    assert rows(read(tmp_path, several, "s.csv", multi_label=True)) == [("a.mp4", (0, 1))]
    timeline = [{"ranges": [{"start": 11, "end": 20}], "timelinelabels": ["a"], "type": "TimelineLabels"}]
    (part,) = read(tmp_path, json.dumps([{**data, "id": 1, "label": timeline, **row}]), "t.json").samples
    assert (part.start, part.end) == (1, 2)
    other = [{**data, "id": 1, "label": "walk", "weather": "dry", **row}]
    with pytest.raises(ValueError, match="has the controls 'label', 'weather': say by `label_field`"):
        read(tmp_path, json.dumps(other), "o.json")
    assert rows(read(tmp_path, json.dumps(other), "o.json", label_field="weather")) == [("a.mp4", 0)]
    with pytest.raises(ValueError, match="holds no predictions"):
        read(tmp_path, json.dumps(other), "o.json", label_field="predictions")


def test_faults_of_label_studio_name_the_task(tmp_path):
    both = {"result": [*choices("a")["result"], *choices("b", control="mood")["result"]]}
    with pytest.raises(ValueError, match="has the controls 'label', 'mood': say by `label_field`"):
        studio(tmp_path, task(1, both))
    assert rows(studio(tmp_path, task(1, both, video="v.mp4"), label_field="mood")) == [("v.mp4", 0)]
    with pytest.raises(ValueError, match="`label_field` must be one of the controls .* 'label', 'mood'; got 'x'"):
        studio(tmp_path, task(1, both), label_field="x")
    for tasks, reason in (
        ([task(1, choices("a")), task(2, choices("b"))], "task 2: the video '/clips/a.mp4' is that of task 1, too"),
        ([{"id": 3, "annotations": []}], "task 3: it has no `data`"),
        ([task(1), 7], "entry 2: a task must stand here"),
        ([task(1, ranges((1, 10**400, "a")), fps=8)], "task 1: a range must be a first and a last frame"),
        ([task(4) | {"annotations": [17]}], "task 4: its 'annotations' must be a list of annotations"),
        (
            [task(1)],
            "no task has an annotation with a label; `label_field` (--label_field) predictions reads a model's",
        ),
    ):
        assert reason in fault(tmp_path, json.dumps(tasks), "e.json")[2]
    with pytest.raises(ValueError, match="e.json, task 1.*'c' is no class and none of the 2 class names"):
        read(tmp_path, json.dumps([task(1, choices("c"))]), "e.json", labels=["a", "b"])
    write(tmp_path / "label_config.xml", "<View>")
    with pytest.raises(ValueError, match="label_config.xml', line 1.*no XML"):
        studio(tmp_path, task(1, choices("a")))


# -- FiftyOne --------------------------------------------------------------------------------------------------------


def test_samples_of_fiftyone(tmp_path, caplog):
    samples = [
        sample("/v/a.mp4", tags=["train"], ground_truth=one("walk"), prediction=one("run", confidence=0.4)),
        sample("/v/b.mp4", tags=["validation"], ground_truth=one("run"), other=one("x")),
        sample("/v/c.mp4", tags=["train"], ground_truth=None),
        sample("sub/d.mp4", tags=["train"], ground_truth=one("walk")),
    ]
    metadata = {"classes": {"ground_truth": ["walk", "run", "jump"]}, "info": {"predicted_fields": ["prediction"]}}
    found = fiftyone(tmp_path, *samples, metadata=metadata)
    assert [(s.video, s.labels) for s in found.samples] == [
        ("/v/a.mp4", (0,)), ("/v/b.mp4", (1,)), (str(tmp_path / "sub/d.mp4"), (0,)),
    ]  # fmt: skip
    assert found.class_names == ["walk", "run", "jump"] and read_annotations(tmp_path).samples == found.samples
    assert (
        "1 samples have no label in 'ground_truth'" in caplog.text and "tagged train, validation; all" in caplog.text
    )
    assert [s.video for s in fiftyone(tmp_path, *samples, split="val").samples] == ["/v/b.mp4"]
    assert rows(fiftyone(tmp_path, *samples, label_field="prediction")) == [("/v/a.mp4", 0)]
    with pytest.raises(ValueError, match="`split` must be a tag of a sample of .*: 'train', 'validation'"):
        fiftyone(tmp_path, *samples, split="test")
    with pytest.raises(
        ValueError, match="has no labels but those of a model, 'prediction': name one by `label_field`"
    ):
        fiftyone(tmp_path, sample("a.mp4", prediction=one("x")))
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(ValueError, match="has the label fields 'a', 'b': say by `label_field`"):
        fiftyone(tmp_path, sample("a.mp4", a=one("x"), b=one("y")))


def test_several_labels_of_fiftyone(tmp_path):
    several = {"_cls": "Classifications", "classifications": [one("b"), one("a")]}
    with pytest.raises(ValueError, match=r"sample 1 \('a.mp4'\).*one label is allowed"):
        fiftyone(tmp_path, sample("a.mp4", truth=several))
    assert rows(fiftyone(tmp_path, sample("a.mp4", truth=several), multi_label=True)) == [("a.mp4", (0, 1))]


def test_parts_of_fiftyone(tmp_path):
    found = parts({"label": "a", "support": [1, 50]}, {"label": "b", "support": [51, 75]})
    rate = {"_cls": "VideoMetadata", "frame_rate": 25.0}
    samples = fiftyone(tmp_path, sample("a.mp4", metadata=rate, events=found)).samples
    assert [(s.start, s.end, s.labels) for s in samples] == [(0, 2, (0,)), (2, 3, (1,))]
    write_mp4(tmp_path / "b.mp4", np.zeros((20, 16, 16, 3), np.uint8), fps=10)
    measured = fiftyone(tmp_path, sample("b.mp4", metadata=None, events=parts({"label": "a", "support": [11, 20]})))
    assert [(s.start, s.end) for s in measured.samples] == [(1, 2)]
    unknown = {"samples": [sample("no.mp4", events=found)]}
    message = fault(tmp_path, json.dumps(unknown), "samples.json")[2]
    assert "sample 1 ('no.mp4'): frames are numbered, and nothing tells the video's frame rate" in message
    wrong = {"samples": [sample("a.mp4", metadata=rate, events=parts({"label": "a", "support": [0, 5]}))]}
    assert "the 'support' of 'a' must be a first and a last one, got [0, 5]" in fault(tmp_path, json.dumps(wrong))[2]


def test_parts_of_fiftyone_that_are_no_parts(tmp_path):
    for rate, found, reason in (
        (-8, {"label": "a", "support": [1, 4]}, "its metadata's frame_rate must be above 0, got -8"),
        ("8", {"label": "a", "support": [1, 4]}, "its metadata's frame_rate must be above 0, got '8'"),
        (8, {"label": "a", "support": [1, float("inf")]}, "must be a first and a last one, got [1, inf]"),
    ):
        content = {"samples": [sample("a.mp4", metadata={"frame_rate": rate}, events=parts(found))]}
        assert reason in fault(tmp_path, json.dumps(content))[2]
    content = {"samples": [sample("a.mp4", events={"_cls": "TemporalDetections", "detections": 5})]}
    assert "its 'detections' must be a list, got 5" in fault(tmp_path, json.dumps(content))[2]
    (found,) = fiftyone(tmp_path, sample("a.mp4", events=parts({"label": "a", "timestamps": [2, 2]}))).samples
    assert found.start == 2 < found.end < 2.001  # one frame, which readers find


def test_labels_of_fiftyone_alone(tmp_path):
    touch(tmp_path, "data/x/one.mp4", "data/two.webm")
    content = {"classes": ["w", "r"], "labels": {"x/one": [{"label": 1, "timestamps": [0.5, 2]}], "two": None}}
    write(tmp_path / "labels.json", json.dumps(content))
    assert detect_format(tmp_path, None) == "fiftyone"
    (found,) = read_annotations(tmp_path).samples
    assert (found.video, found.labels, found.start, found.end) == (str(tmp_path / "data/x/one.mp4"), (1,), 0.5, 2)
    write(tmp_path / "labels.json", json.dumps({"classes": None, "labels": {"two": "r", "x/one": {"label": "w"}}}))
    write(tmp_path / "data.json", json.dumps({"two.webm": "/far/two.webm", "x/one": "data/x/one.mp4"}))
    assert [s.video for s in read_annotations(tmp_path).samples] == ["/far/two.webm", str(tmp_path / "data/x/one.mp4")]
    with pytest.raises(ValueError, match="neither tags nor fields"):
        read_annotations(tmp_path, split="train")


def test_faults_of_fiftyone_name_the_sample(tmp_path):
    for content, reason in (
        ({"samples": [sample("a.mp4", t=one("x")), {"tags": []}]}, "sample 2: it has no `filepath`"),
        ({"samples": [sample(5, t=one("x"))]}, "sample 1: it has no `filepath`"),
        ({"samples": [sample("a.mp4", t=one(3))]}, "sample 1 ('a.mp4'): a label must be a text, got 3"),
        (
            {"samples": [sample("a.mp4", t=one("x")), sample("a.mp4", t=one("y"))]},
            "is that of sample 1 ('a.mp4'), too",
        ),
        ({"classes": ["a"], "labels": {"v": 1}}, "the video 'v': the label 1 is no number of a class"),
    ):
        assert reason in fault(tmp_path, json.dumps(content), "samples.json")[2]
    with pytest.raises(ValueError, match="'label_field' does not go with the format 'list'"):
        read(tmp_path, "a.mp4 3\n", label_field="x")
