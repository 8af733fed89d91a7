"""Kinetics, Something-Something V2 and class folders as they are really written, and their faults."""

import json
import os
import re

import pytest

from support.annotation_files import KINETICS, NAMES, fault, read, rows, touch, write
from transformers_ila.data.annotations import AnnotationError, read_annotations
from transformers_ila.data.class_names import class_names


# -- Kinetics --------------------------------------------------------------------------------------------------------


def test_kinetics(tmp_path):
    found = read(tmp_path, KINETICS, "validate.csv")
    assert found.format == "kinetics" and not found.multi_label and found.found_as == {}
    assert found.class_names == [
        "massaging person's head", "petting animal (not cat)", "rock, paper, scissors", "testifying"
    ]  # fmt: skip
    assert rows(found) == [
        ("---QUuC4vJs_000084_000094", 3),
        ("--07WQ2iBlw_000001_000011", 0),
        ("-0aWKoDGKFc_000020_000030", 1),
        ("0ZgNP0IJUGk_000007_000017", 2),
    ]
    assert found.samples[0].video == str(tmp_path / "---QUuC4vJs_000084_000094.mp4")
    assert all(sample.start is None for sample in found.samples)
    part = read(tmp_path, KINETICS, "validate.csv", split="val")
    assert rows(part) == rows(found)[:2] and part.class_names == found.class_names


def test_kinetics_with_the_models_class_names(tmp_path):
    content = "youtube_id,label,time_start,time_end,split,is_cc\nabc,massaging person's head,1,11,val,0\n"
    assert rows(read(tmp_path, content, labels=NAMES)) == [("abc_000001_000011", 1)]
    found = fault(tmp_path, content.replace("person's", "person_s"), labels=NAMES)
    assert found[:2] == (2, 5) and 'none of the 4 class names: "massaging person\'s head"?' in found[2]


def test_kinetics_files_of_other_names(tmp_path, caplog):
    videos = tmp_path / "videos"
    touch(
        videos,
        "testifying/---QUuC4vJs_000084_000094.mp4",
        "massaging_person's_head/--07WQ2iBlw_000001_000011.mkv",
        "-0aWKoDGKFc.mp4",
        "-0aWKoDGKFc.avi",
        "rock, paper, scissors/0ZgNP0IJUGk.webm",
    )
    found = read(tmp_path, KINETICS, root=videos, check_files=True)
    assert found.missing == [] and found.found_as == {
        "{label}/{id}_{start:06d}_{end:06d}.mp4": 1,
        "{label with underscores}/{id}_{start:06d}_{end:06d}.mkv": 1,
        "{id}.mp4": 1,
        "{label}/{id}.webm": 1,
    }
    assert [(s.start, s.end) for s in found.samples] == [(None, None), (None, None), (20, 30), (7, 17)]
    assert "may be whole videos" in caplog.text
    more = KINETICS + "testifying,-0aWKoDGKFc,50,60,train\n"
    assert read(tmp_path, more, root=videos).samples[4][3:5] == (50, 60)  # another part of the same file


@pytest.mark.parametrize(
    "row,line,column,message",
    [
        ("testifying,a b,1,11,train", 2, 12, "'a b' is no youtube_id"),
        ("testifying,../../x,1,11,train", 2, 12, "no youtube_id"),
        ("testifying,#NAME?,1,11,train", 2, 12, "no youtube_id"),
        ('"rock, paper", x1,one,11,train', 2, 19, "'one' is no time"),
        ("testifying,x1,1.5,11,train", 2, 15, "'1.5' is no time"),
        ("testifying,x1,11, 11,train", 2, 19, "from 11 s ends at 11 s"),
        (",x1,1,11,train", 2, 1, "label is empty"),
        ("testifying,x1,1,11", 2, 19, "4 columns"),
        ("rock, paper,x1,1,11,train", 2, 21, "6 columns"),
        ('"testifying,x1,1,11,train', 2, 1, "no csv"),
        ("testifying,x1,1,11,train\n\ntestifying,x1,1,11,test", 4, 1, "'x1_000001_000011' stands in line 2, too"),
    ],
)
def test_faults_of_kinetics(tmp_path, row, line, column, message):
    found = fault(tmp_path, f"label,youtube_id,time_start,time_end,split\n{row}\n")
    assert found[:2] == (line, column) and message in found[2]


def test_kinetics_that_cannot_be_used(tmp_path):
    found = fault(tmp_path, "youtube_id,time_start,time_end,split\nx1,1,11,test\n")
    assert found[:2] == (1, 1) and "a test list has no labels" in found[2]
    assert fault(tmp_path, "label,youtube_id,time_start,time_end,split\n")[2].endswith(
        "no video is listed below the names of the columns."
    )
    with pytest.raises(ValueError, match=r"one of \['train', 'validate'\], got 'test'"):
        read(tmp_path, KINETICS, split="test")
    touch(tmp_path, "..mp4")
    assert read(tmp_path, KINETICS.replace("testifying", "..")).samples[0].video.startswith(str(tmp_path))


# -- Something-Something V2 ------------------------------------------------------------------------------------------

SSV2_LABELS = {
    "Approaching something with your camera": "0",
    "Holding something next to something": "1",
    "Putting something, something and something on the table": "2",
}
SSV2 = """[
  {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
   "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]},
  {"id": "42326", "label": "approaching a \\"tree\\", {with} your camera",
   "template": "Approaching [something] with your camera", "placeholders": ["a \\"tree\\""]}
]
"""


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_ssv2(tmp_path, prefix):
    write(tmp_path / f"{prefix}labels.json", json.dumps(SSV2_LABELS))
    write(tmp_path / f"{prefix}validation.json", "[]")
    write(tmp_path / f"{prefix}test.json", '[{"id": "1"}]')
    touch(tmp_path, "20bn-something-something-v2/78687.webm", "42326.mp4")
    found = read(tmp_path, SSV2, f"{prefix}train.json", check_files=True)
    assert found.format == "ssv2" and rows(found) == [("78687", 1), ("42326", 0)]
    assert found.class_names == list(SSV2_LABELS) and found.missing == []
    assert found.found_as == {"20bn-something-something-v2/{id}.webm": 1, "{id}.mp4": 1}
    whole = read_annotations(tmp_path, split="training")
    assert whole.samples == found.samples and whole.sha256 == found.sha256
    with pytest.raises(ValueError, match=r"one of \['test', 'train', 'validation'\].* got None"):
        read_annotations(tmp_path)
    with pytest.raises(AnnotationError, match="line 1, column 2: the video '1' has no `template`"):
        read_annotations(tmp_path, split="test")
    with pytest.raises(AnnotationError, match="no video is listed"):
        read_annotations(tmp_path, split="val")


def test_ssv2_with_given_class_names(tmp_path):
    names = list(reversed(SSV2_LABELS))
    assert rows(read(tmp_path, SSV2, "train.json", labels=names)) == [("78687", 1), ("42326", 2)]
    official = class_names("ssv2")
    assert [s.labels[0] for s in read(tmp_path, SSV2, "train.json", labels="ssv2").samples] == [
        official.index("Holding something next to something"),
        official.index("Approaching something with your camera"),
    ]
    with pytest.raises(ValueError, match="'labels.json' beside .*train.json"):
        read(tmp_path, SSV2, "train.json")
    assert read(tmp_path, SSV2, "train.json", labels=names).samples[0].video == str(tmp_path / "78687.webm")


@pytest.mark.parametrize(
    "old,new,line,column,message",
    [
        ("next to [something]", "near [something]", 3, 16, "'Holding something near something' is no class"),
        ("Approaching [", "approaching [", 5, 16, "'Approaching something with your camera'?"),
        ('"42326"', '"78687"', 4, 10, "the video '78687' stands in line 2, too"),
        ('"42326"', '"../x"', 4, 10, "an `id` of letters and digits"),
        ('"id": "42326", ', "", 4, 3, "an `id` of letters and digits"),
        ('{"id": "42326"', '7, {"id": "42326"', 4, 3, "an `id` of letters and digits"),
        ('"template": "App', '"other": "App', 4, 3, "has no `template`"),
        ('"potato",', '"potato"', 3, 85, "no JSON"),
        ("[\n", "", 2, 110, "no JSON"),
    ],
)
def test_faults_of_ssv2(tmp_path, old, new, line, column, message):
    assert SSV2.count(old) >= 1
    content = SSV2.replace(old, new, 1)
    found = fault(tmp_path, content, "train.json", format="ssv2", labels=list(SSV2_LABELS))
    assert found[:2] == (line, column) and message in found[2]


def test_ssv2_of_another_kind(tmp_path):
    found = fault(tmp_path, json.dumps(SSV2_LABELS), "labels.json")
    assert found[:2] == (1, 1) and "goes into `labels`" in found[2]
    assert fault(tmp_path, "[" * 100_000, "train.json", format="ssv2", labels=["a"])[0] == 1


# -- folders ---------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    touch(
        tmp_path,
        "jump high/b.MP4",
        "jump high/a/2 (1).webm",
        "jump high/frames 1/img_00001.jpg",
        "jump high/frames 1/img_00002.jpg",
        "jump high/with preview/c.mp4",
        "jump high/with preview/c.jpg",
        "jump high/tape/cover.jpg",
        "jump high/tape/clips/d.mp4",
        "jump high/@eaDir/b.MP4/SYNOVIDEO_VIDEO_SCREENSHOT.jpg",
        "jump high/._b.MP4",
        "jump high/cover.jpg",
        "run/x.avi/00001.png",
        ".cache/y.mp4",
        "notes.txt",
    )
    (tmp_path / "run" / "up").symlink_to(tmp_path / "run")
    found = read_annotations(tmp_path, check_files=True)
    assert found.format == "folders" and found.class_names == ["jump high", "run"] and found.missing == []
    assert rows(found) == [
        ("jump high/a/2 (1).webm", 0),
        ("jump high/b.MP4", 0),
        ("jump high/frames 1", 0),
        ("jump high/tape/clips/d.mp4", 0),
        ("jump high/with preview/c.mp4", 0),
        ("run/x.avi", 1),
    ]
    assert all(os.path.isabs(sample.video) for sample in found.samples)
    given = read_annotations(tmp_path, labels=["sit", "run", "jump high"])
    assert [label for _, label in rows(given)] == [2, 2, 2, 2, 2, 1] and given.class_names[0] == "sit"


def test_what_class_folders_leave_out_is_said(tmp_path, caplog):
    names = ["a/1.MTS", "a/2.m2ts", "a/x/3.ogv", "a/4.VOB", "a/5.asf", "a/notes.txt", "a/.6.mp4", "a/cover.jpg"]
    touch(tmp_path, *names, "b/1.mp4", "b/f/00001.png", "b/f/flow.npy", "loose.mp4", "list.txt", "__MACOSX/a/._1.mp4")
    found = read_annotations(tmp_path)
    assert [name for name, _ in rows(found)] == ["a/1.MTS", "a/2.m2ts", "a/4.VOB", "a/x/3.ogv", "b/1.mp4", "b/f"]
    assert found.class_names == ["a", "b"]
    kinds = [
        "1 '.asf'",
        "1 '.txt'",
        "1 hidden",
        "1 '.jpg'",
        "1 '.npy'",
        *(f"1 beside .* \\({k}\\)" for k in ("'.mp4'", "'.txt'")),
    ]
    assert "9 files are left out: " in caplog.text or "8 files are left out: " in caplog.text
    assert all(re.search(kind, caplog.text) for kind in kinds)


def test_links_of_class_folders(tmp_path, caplog):
    """Links of splits and of caches lead to files elsewhere; none gives a video the class of another folder."""
    data = tmp_path / "data"
    touch(tmp_path, "data/walk/a.mp4", "data/run/b.mp4", "data/run/deep/c.mp4", "store/d", "store/more/e.mp4")
    links = {"up": data, "runs": data / "run", "more": tmp_path / "store/more", "b.mp4": data / "run/b.mp4"}
    links |= {"d.mp4": tmp_path / "store/d", "own.mp4": data / "walk/a.mp4"}
    for name, target in links.items():
        (data / "walk" / name).symlink_to(target)
    (data / "sit").symlink_to(tmp_path / "store/more")
    (data / "jump").symlink_to("run")  # the videos of run, in a class of their own
    touch(tmp_path, "val/run/v.mp4", "all/walk/w.mp4")
    (data / "walk" / "v.mp4").symlink_to("../../val/run/v.mp4")
    (data / "walk" / "w.mp4").symlink_to("../../all/walk/w.mp4")
    (data / "run" / "again").symlink_to(data / "run")
    (data / "run" / "too").symlink_to("deep")
    found = read_annotations(data)
    expected = [
        "run/b.mp4",
        "run/deep/c.mp4",
        "run/too/c.mp4",
        "sit/e.mp4",
        "walk/a.mp4",
        "walk/d.mp4",
        "walk/own.mp4",
        "walk/w.mp4",
    ]
    assert [name for name, _ in rows(found)] == expected
    kinds = "5 links out of their class folder, 1 links to another class folder"
    assert f"{str(data)!r}: 6 files are left out: {kinds}." in caplog.text
    (data / "run" / "d.mp4").symlink_to(tmp_path / "store/d")
    with pytest.raises(ValueError, match=r"run/d\.mp4' and .*walk/d\.mp4' are links to one video"):
        read_annotations(data)


def test_class_folders_of_splits(tmp_path):
    touch(
        tmp_path,
        "replacement/a.mp4",
        "train/air_drumming/a.mp4",
        "train/abseiling/a.mp4",
        "val/abseiling/b.mp4",
        "val/5/b.mp4",
    )
    with pytest.raises(ValueError, match="holds splits, train, val, and no classes"):
        read_annotations(tmp_path)
    assert rows(read_annotations(tmp_path, split="train")) == [("abseiling/a.mp4", 0), ("air_drumming/a.mp4", 1)]
    assert read_annotations(tmp_path, split="validation").class_names == ["5", "abseiling"]
    named = read_annotations(tmp_path, split="train", labels="kinetics400")
    assert [label for _, label in rows(named)] == [0, 1]  # underscores for blanks
    with pytest.raises(ValueError, match="1 of 2 class folders .* of the 400 class names: '5'"):
        read_annotations(tmp_path, split="val", labels="kinetics400")
    with pytest.raises(ValueError, match="no folder for the split 'test'"):
        read_annotations(tmp_path, split="test")


@pytest.mark.parametrize(
    "files,message",
    [
        ([], "one sub-folder per class"),
        (["a/1.mp4"], "one sub-folder per class"),
        (["a/1.mp4", "b/1.txt"], "b' holds no video"),
        (["a/1.mp4", "b/1.jpg"], "b' holds no video"),  # frames lie in a folder of their own
    ],
)
def test_faults_of_class_folders(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        read_annotations(tmp_path / "x", format="folders")


def test_names_that_begin_with_a_quoted_word(tmp_path):
    for name in ('"best" goal.mp4', "'rock' band.mp4", "it's.mp4", "plain.mp4"):
        touch(tmp_path, name)
    lines = ['"best" goal.mp4 0', "'rock' band.mp4 1", "'it's.mp4' 2", '"plain.mp4" 3']
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    names = [name for name, _ in rows(read_annotations(tmp_path / "list.txt"))]
    assert names == ['"best" goal.mp4', "'rock' band.mp4", "it's.mp4", "plain.mp4"]


def test_an_empty_class_folder_where_the_classes_are_known(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/notes.txt")
    annotations = read_annotations(tmp_path, labels=["a", "b"])
    assert rows(annotations) == [("a/1.mp4", 0)] and annotations.class_names == ["a", "b"]
