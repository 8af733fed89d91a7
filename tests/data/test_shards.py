"""Tar shards and data sets of `datasets`, and their faults."""

import io
import pickle
from pathlib import Path

import pytest

from support.annotation_files import NAMES, data_set, rows, touch, write, write_shard
from transformers_ila.data.annotations import AnnotationError, list_shards, read_annotations, stream_shard


datasets = pytest.importorskip("datasets")


# -- shards ----------------------------------------------------------------------------------------------------------


SHARD = {
    "./000001.mp4": b"one",
    "./000001.cls": "3\n",
    "train/it's (1).v2.json": '{"label": 2, "text": "x"}',
    "train/it's (1).v2.webm": b"two!",
    "000003.txt": "no label",
    "000003.mp4": b"three",
    "000003.json": '{"labels": [0, 1]}',
    "._000003.mp4": b"what a Mac leaves",
    "000004.json": '{"label": 1}',
}
IN_SHARD = [("000001", 3), ("train/it's (1).v2", 2), ("000003", (0, 1))]


def test_shards(tmp_path):
    write_shard(tmp_path / "train-000.tar", SHARD)
    write_shard(tmp_path / "train-001.tar", {"000005.MP4": b"five", "000005.cls": "abseiling"})
    several = {"labels": NAMES, "multi_label": True}
    found = read_annotations(f"{tmp_path}/train-{{000..001}}.tar", **several, check_files=True)
    assert found.format == "shards" and found.multi_label and found.missing == []
    assert rows(found) == [*IN_SHARD, ("000005", 0)]
    copies = pickle.loads(pickle.dumps(found.samples))
    assert [sample.source() for sample in copies] == [b"one", b"two!", b"three", b"five"]
    for source in (tmp_path, f"{tmp_path}/*.tar", [tmp_path / "train-000.tar", tmp_path / "train-001.tar"]):
        assert read_annotations(source, **several).samples == found.samples
        with pytest.raises(
            AnnotationError, match="000003.json', line 1, column 12: one label is allowed, .*--multi_label"
        ):
            read_annotations(source, labels=NAMES)
    with pytest.raises(ValueError, match="no files of their own"):
        read_annotations(tmp_path / "train-001.tar", labels=NAMES).pairs()


@pytest.mark.parametrize("mode,name", [("w", "a.tar"), ("w:gz", "a.tar.gz")])
def test_stream_of_a_shard(tmp_path, mode, name):
    shard = write_shard(tmp_path / name, SHARD, mode)
    with pytest.raises(AnnotationError, match="one label is allowed, and '1' is another: .*`multi_label=True`"):
        list(stream_shard(shard, labels=NAMES))
    found = list(stream_shard(shard, labels=NAMES, multi_label=True))
    assert [(s.name, s.labels[0] if len(s.labels) == 1 else s.labels) for s in found] == IN_SHARD
    assert [sample.source() for sample in found] == [b"one", b"two!", b"three"]

    class Pipe(io.RawIOBase):
        """Can be read and nothing else."""

        content = io.BytesIO(shard.read_bytes())

        def read(self, size=-1):
            return self.content.read(min(size, 100))

    assert list(stream_shard("from afar", file=Pipe(), labels=NAMES, multi_label=True)) == found


def test_what_is_left_out_is_said(tmp_path, caplog):
    shard = write_shard(tmp_path / "a.tar", {"a.mp4": b"", "a.cls": "0", "b.asf": b"", "b.cls": "1", "c.txt": ""})
    touch(tmp_path, "b.tar.zst")
    assert len(read_annotations(tmp_path).samples) == len(list(stream_shard(shard))) == 1
    assert "a.tar': 1 keys have labels and no video, and are left out: 'b'; known suffixes: .3gp" in caplog.text
    assert f"{str(tmp_path)!r}: 1 files are left out: 1 '.zst'." in caplog.text


def test_which_shards(tmp_path):
    touch(tmp_path, "a-8.tar", "a-9.tar", "a-10.tar", "b.tgz", "c.txt")
    names = lambda source: [Path(shard).name for shard in list_shards(source)]  # noqa: E731
    assert names(tmp_path) == ["a-10.tar", "a-8.tar", "a-9.tar", "b.tgz"]
    assert names(f"{tmp_path}/a-{{8..10}}.tar") == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert names([tmp_path / "b.tgz", f"{tmp_path}/a-?.tar"]) == ["b.tgz", "a-8.tar", "a-9.tar"]
    for wrong in (
        f"{tmp_path}/a-{{8..11}}.tar",
        f"{tmp_path}/d-*.tar",
        tmp_path / "d.tar",
        f"{tmp_path}/a-{{9..8}}.tar",
    ):
        with pytest.raises(ValueError, match="missing"):
            list_shards(wrong)


@pytest.mark.parametrize(
    "members,message",
    [
        ({"a.mp4": b"", "b.cls": "1"}, r"a.tar': beside the video of 'a' stands neither 'a.cls' nor 'a.json'"),
        ({"a.mp4": b"", "a.cls": "1, x"}, r"a.tar/a.cls', line 1, column 4: 'x' is no class index"),
        ({"a.mp4": b"", "a.cls": "\n7"}, r"a.tar/a.cls', line 2, column 1: the class index 7 is not in 0 to 3"),
        ({"a.mp4": b"", "a.cls": "1\n2"}, r"a.tar/a.cls', line 2, column 1: a label is one line"),
        ({"a.mp4": b"", "a.cls": ""}, r"a.tar/a.cls', line 1, column 1: nothing stands there"),
        ({"a.mp4": b"", "a.cls": b"\xff"}, r"a.tar/a.cls', line 1, column 1: .*UTF-8"),
        ({"a.mp4": b"", "a.json": '{"x": 1,\n "label": 9}'}, r"a.tar/a.json', line 2, column 11: .* index 9"),
        ({"a.mp4": b"", "a.json": '{"label": true}'}, r"a.tar/a.json', line 1, column 11: True is no class index"),
        ({"a.mp4": b"", "a.json": '{"label": []}'}, r"a.tar/a.json', line 1, column 11"),
        ({"a.mp4": b"", "a.json": '{"lable": 1}'}, r"a.tar/a.json', line 1, column 1: of 'lable' none is a label"),
        ({"a.mp4": b"", "a.json": '{"label" 1}'}, r"a.tar/a.json', line 1, column 10: no JSON"),
        ({"a.mp4": b"", "a.webm": b"", "a.cls": "1"}, r"a.tar': 'a' is the key of several videos"),
        ({"../a.mp4": b"", "../a.cls": "1"}, r"a.tar': the member '../a.mp4' leaves"),
        ({"/x/a.mp4": b"", "/x/a.cls": "1"}, r"a.tar': the member '/x/a.mp4' leaves"),
        ({"a.mp4": b"", "a.cls": "1" * 2**21}, r"a.tar': the member 'a.cls' has 2097152 bytes"),
    ],
)
def test_faults_of_shards(tmp_path, members, message):
    shard = write_shard(tmp_path / "a.tar", members)
    with pytest.raises(AnnotationError, match=message):
        read_annotations(shard, labels=NAMES)
    with pytest.raises(AnnotationError, match=message):
        list(stream_shard(shard, labels=NAMES))


def test_shards_that_cannot_be_read(tmp_path):
    whole = write_shard(tmp_path / "a.tar", {"a.cls": "1", "a.mp4": bytes(5000), "b.cls": "1"}).read_bytes()
    cut = write(tmp_path / "cut.tar", whole[:3000])
    for reader in (read_annotations, lambda shard: list(stream_shard(shard))):
        with pytest.raises(AnnotationError, match=r"cut.tar': .*'?a.mp4'?"):
            reader(cut)
        with pytest.raises(AnnotationError, match=r"text.tar': no .*tar file"):
            reader(write(tmp_path / "text.tar", "text" * 1000))
    for end in (512 + 512, 1024 + 512 + 5120):  # behind a member
        with pytest.raises(AnnotationError, match="cannot be read behind 'a.(cls|mp4)' .*(the end|end of data)"):
            list(stream_shard(write(tmp_path / "early.tar", whole[:end])))
    twice = write(tmp_path / "twice.tar", whole[:1024] + whole)
    with pytest.raises(AnnotationError, match="the member 'a.cls' stands there twice"):
        list(stream_shard(twice))
    header = whole.index(b"b.cls")
    damaged = write(tmp_path / "damaged.tar", whole[:header] + b"x" + whole[header + 1 :])
    for reader in (read_annotations, lambda shard: list(stream_shard(shard))):
        with pytest.raises(AnnotationError, match=r"damaged.tar': the shard cannot be read behind 'a.mp4'"):
            reader(damaged)
    with pytest.raises(AnnotationError, match="`stream_shard` reads others"):
        read_annotations(write_shard(tmp_path / "a.tar.gz", SHARD, "w:gz"))
    with pytest.raises(AnnotationError, match=r"b.tar': the key 'a' stands in '.*a.tar', too"):
        read_annotations([tmp_path / "a.tar", write_shard(tmp_path / "b.tar", {"a.cls": "1", "a.mp4": b""})])
    with pytest.raises(ValueError, match="hold no video"):
        read_annotations(write_shard(tmp_path / "c.tar", {"a.cls": "1"}))


# -- `datasets` ------------------------------------------------------------------------------------------------------


def test_data_set(tmp_path):
    feature = datasets.ClassLabel(names=["7", "abseiling"])
    rows_ = data_set(tmp_path, [1, 0], feature)
    found = read_annotations(rows_)
    assert found.format == "datasets" and found.class_names == ["7", "abseiling"] and not found.multi_label
    assert [sample.labels for sample in found.samples] == [(1,), (0,)]
    sources = [sample.source() for sample in pickle.loads(pickle.dumps(found.samples))]
    assert sources[0]["path"] == str(tmp_path / "a.mp4") and sources[1]["bytes"] == b"inside"
    other = read_annotations(rows_, labels=["abseiling", "sit", "7"])
    assert [sample.labels for sample in other.samples] == [(0,), (2,)]
    splits = datasets.DatasetDict({"train": rows_, "validation": rows_.select([1])})
    assert [sample.labels for sample in read_annotations(splits, split="val").samples] == [(0,)]
    for wrong in (None, "test"):
        with pytest.raises(ValueError, match=r"one of \['train', 'validation'\]"):
            read_annotations(splits, split=wrong)
    with pytest.raises(ValueError, match="no splits"):
        read_annotations(rows_, split="train")


def test_data_sets_of_other_labels(tmp_path):
    several = data_set(tmp_path, [[0, 1], [1]], datasets.List(datasets.ClassLabel(names=["a", "b"])), "labels")
    found = read_annotations(several, multi_label=True)
    assert [sample.labels for sample in found.samples] == [(0, 1), (1,)] and found.multi_label
    for asked in (None, False):
        with pytest.raises(AnnotationError, match="row 0': one label is allowed, and 'b' is another"):
            read_annotations(several, multi_label=asked)
    rows_of_two = data_set(tmp_path, [[0, 1], [1, 0]], datasets.List(datasets.Value("int64")))
    with pytest.raises(AnnotationError, match="column label': every video has the labels 0 and 1"):
        read_annotations(rows_of_two, multi_label=True)
    numbers = data_set(tmp_path, [3, 0], datasets.Value("int64"), decode=False)
    assert read_annotations(numbers).class_names is None
    names = data_set(tmp_path, ["abseiling", NAMES[3]], datasets.Value("string"))
    assert [sample.labels for sample in read_annotations(names, labels=NAMES).samples] == [(0,), (3,)]
    assert read_annotations(names).class_names == sorted(["abseiling", NAMES[3]])  # texts are names
    digits = data_set(tmp_path, ["3", "0"], datasets.Value("string"))
    assert read_annotations(digits).class_names is None and read_annotations(digits).samples[0].labels == (3,)
    action = data_set(tmp_path, [0, 1], datasets.ClassLabel(names=["a", "b"]), "action")
    assert [sample.labels for sample in read_annotations(action).samples] == [(0,), (1,)]


@pytest.mark.parametrize(
    "labels,feature,message",
    [
        ([0, -1], "classes", r"row 1': the label -1 is not in 0 to 3: is this a split without labels\?"),
        ([0, None], "classes", r"row 1': the label None"),
        ([0, 9], "int64", r"row 1': the class index 9 is not in 0 to 3"),
        ([0.5, 1], "float32", r"row 0': 0.5 is no class index"),
        (["abseiling", "dancing"], "string", r"row 1': 'dancing' is no class index"),
    ],
)
def test_faults_of_data_sets(tmp_path, labels, feature, message):
    feature = datasets.ClassLabel(names=NAMES) if feature == "classes" else datasets.Value(feature)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(data_set(tmp_path, labels, feature), labels=NAMES)
    assert caught.value.line is None and caught.value.column is None


def test_data_sets_that_cannot_be_used(tmp_path):
    feature = datasets.Value("int64")
    with pytest.raises(ValueError, match="must be called `label` or `labels`, got .*'clip', 'tag'"):
        read_annotations(data_set(tmp_path, [0, 1], feature, "tag"))
    with pytest.raises(ValueError, match="must be a video"):
        read_annotations(datasets.Dataset.from_dict({"path": ["a.mp4"], "label": [0]}))
    with pytest.raises(ValueError, match="streaming"):
        read_annotations(data_set(tmp_path, [0, 1], feature).to_iterable_dataset())
    with pytest.raises(ValueError, match="is empty"):
        read_annotations(data_set(tmp_path, [0, 1], feature).select([]))
