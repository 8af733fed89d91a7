"""Annotations: every format as it is really written, odd names, and every fault with its line and column."""

import hashlib
import io
import json
import os
import pickle
import random
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from transformers_ila import IlaVideoProcessor
from transformers_ila.annotations import (
    FORMATS,
    AnnotationError,
    Annotations,
    list_shards,
    read_annotations,
    read_list,
    stream_shard,
)
from transformers_ila.checkpoints import class_names
from transformers_ila.data import hold_out
from transformers_ila.motionbench import make_videos, write_mp4
from transformers_ila.video_reading_ila import read_video


datasets = pytest.importorskip("datasets")

NAMES = ["abseiling", "massaging person's head", "petting animal (not cat)", "Putting something, something and more"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(folder: Path, content: str | bytes, name: str = "list.txt", **options) -> Annotations:
    return read_annotations(write(folder / name, content), **options)


def rows(annotations: Annotations) -> list[tuple]:
    """Names and labels; one label bare."""
    return [(s.name, s.labels[0] if len(s.labels) == 1 else s.labels) for s in annotations.samples]


def fault(folder: Path, content: str | bytes, name: str = "list.txt", **options) -> tuple[int | None, int | None, str]:
    """Line, column and message of what is raised; the message names file, line and column, too."""
    with pytest.raises(AnnotationError) as caught:
        read(folder, content, name, **options)
    error, message = caught.value, str(caught.value)
    place = "" if error.line is None else f", line {error.line}, column {error.column}"
    assert message.startswith(f"'{folder / name}'{place}: ") and message[-1] in ".?"
    return error.line, error.column, message


# -- lists -----------------------------------------------------------------------------------------------------------

LINES = {  # with the files `frames 7/`, `frames/one/` and `it's/` and without any other
    "a.mp4 3": ("a.mp4", 3),
    "train/abseiling/-0cTfb3.mp4 0": ("train/abseiling/-0cTfb3.mp4", 0),
    "a.mp4\t3": ("a.mp4", 3),
    "a.mp4,3": ("a.mp4", 3),
    "a.mp4 , 3": ("a.mp4", 3),
    "a b.mp4::3": ("a b.mp4", 3),  # V-JEPA
    "  a.mp4   3  ": ("a.mp4", 3),
    "a.mp4 3 17 4": ("a.mp4", (3, 17, 4)),
    "a.mp4,3,17": ("a.mp4", (3, 17)),
    "A.MP4 3": ("A.MP4", 3),
    '"my clip, 7.mp4",3': ("my clip, 7.mp4", 3),
    '"a.mp4","3"': ("a.mp4", 3),
    "'my clip.mp4' 3": ("my clip.mp4", 3),
    '"say ""hi"".mp4" 1': ('say "hi".mp4', 1),
    "my clip, 7.mp4 3": ("my clip, 7.mp4", 3),
    "tab\there.mp4\t3": ("tab\there.mp4", 3),
    "it's/'tis.mp4 3": ("it's/'tis.mp4", 3),
    '"quoted" in part.mp4 3': None,  # the quotes end the path
    "'tis the 'season'.mp4 3": ("'tis the 'season'.mp4", 3),
    "tying knot (not on a tie)/x.mp4 3": ("tying knot (not on a tie)/x.mp4", 3),
    "动作 视频.mp4 3": ("动作 视频.mp4", 3),
    "line\u2028end\x0b.mp4 3": ("line\u2028end\x0b.mp4", 3),
    "clip 2.mp4 5": ("clip 2.mp4", 5),
    "clip.mp4 2.mp4 5": ("clip.mp4 2.mp4", 5),
    "007.mp4 7": ("007.mp4", 7),
    "12345 7": ("12345", 7),  # frames of Something-Something
    "#shorts.mp4 3": ("#shorts.mp4", 3),
    "[HD] a.mp4 3": ("[HD] a.mp4", 3),
    ".mp4 3 4": (".mp4", (3, 4)),
    "a.mp4::3::5": ("a.mp4", (3, 5)),
    "a.mp4 3,": ("a.mp4", 3),
    "frames 7 3,": ("frames 7", 3),
    "frames 7 3": ("frames 7", 3),
    "frames/one 3": ("frames/one", 3),
    "gone 7 3": ("gone", (7, 3)),
    '"gone 7" 3': ("gone 7", 3),
    "./x/../a.mp4 3": ("a.mp4", 3),
    "v.avi/frames 3": ("v.avi/frames", 3),
    "a.mkv4 3": ("a.mkv4", 3),
}


@pytest.mark.parametrize("line", LINES)
def test_line_of_a_list(tmp_path, line):
    (tmp_path / "frames 7").mkdir()
    (tmp_path / "frames" / "one").mkdir(parents=True)
    if LINES[line] is None:
        assert fault(tmp_path, f"first.mp4 1\n{line}\n", format="list")[0] == 2
        return
    found = read(tmp_path, f"first.mp4 1\n{line}\n", format="list")
    name, labels = LINES[line]
    assert rows(found) == [("first.mp4", 1), LINES[line]]
    assert found.samples[1].video == str(tmp_path / name)
    assert found.multi_label is isinstance(labels, tuple)


@pytest.mark.parametrize(
    "content",
    [
        b"a.mp4 1\nb.mp4 2\n",
        b"\xef\xbb\xbfa.mp4 1\nb.mp4 2",
        b"a.mp4 1\r\n\r\nb.mp4 2\r\n",
        b"\n \t\na.mp4 1\rb.mp4 2\r",
        b"path,label\na.mp4,1\nb.mp4,2\n",
        b'\xef\xbb\xbf"Video Name","label"\r\n"a.mp4","1"\r\n"b.mp4","2"\r\n',
        b"video_path label\na.mp4 1\nb.mp4 2\n",
    ],
)
def test_files_of_any_make(tmp_path, content):
    found = read(tmp_path, content)
    assert rows(found) == [("a.mp4", 1), ("b.mp4", 2)]
    assert found.format == "list" and found.class_names is None and not found.multi_label
    assert found.source == str(tmp_path / "list.txt") and found.sha256 == hashlib.sha256(content).hexdigest()


FAULTS = [  # content, line, column, part of the message
    ("a.mp4 1\nb.mp4\n", 2, 6, "no label behind the path 'b.mp4'"),
    ("a.mp4 1\nb.mp4 -1\n", 2, 7, "'-1' is no class index"),
    ("a.mp4 1\nb.mp4 1.0\n", 2, 7, "'1.0' is no class index"),
    ("a.mp4 1\n  b.mp4 2 x 4\n", 2, 11, "'x' is no class index"),
    ("a.mp4 1\nb.mp4,riding a bike\n", 2, 7, "pass `labels`"),
    ("a.mp4 1\nb.mp4 2 3 2\n", 2, 11, "'2' stands there twice"),
    ("a.mp4 1\nb.mp4 99999999999999999999\n", 2, 7, "is no class index"),
    ("a.mp4 1\nb.mp4 \u0663\n", 2, 7, "is no class index"),
    ("a.mp4 1\nb.mp4 2\n\n./x/../a.mp4 1\n", 4, 1, "the video 'a.mp4' stands in line 1, too"),
    ("a.mp4 1\n../b.mp4 2\n", 2, 1, "'../b.mp4' is not inside the root"),
    ("a.mp4 1\nx/../../b.mp4 2\n", 2, 1, "not inside the root"),
    ("a.mp4 1\n/etc/passwd 2\n", 2, 1, "not inside the root"),
    ("a.mp4 1\n. 2\n", 2, 1, "not inside the root"),
    ("a.mp4 1\n\t https://host/b.mp4 2\n", 2, 3, "is a URL"),
    ("a.mp4 1\n# old\n", 2, 6, "no label"),
    ("a.mp4 1\npath,label\n", 2, 11, "no label"),  # a header stands first
    ("path,label,split\na.mp4,1,train\n", 1, 12, "another column"),
    ("path,label\n", 1, 1, "no video is listed"),
    ("\n \r\n", 1, 1, "nothing stands there"),
    ("", 1, 1, "nothing stands there"),
    (b"a.mp4 1\ncaf\xe9.mp4 2\n", 2, 4, "no text in UTF-8"),
    ("a.mp4 1\r\n动b\0.mp4 2\n".encode(), 2, 3, "no text in UTF-8"),
    ("a.mp4 1\n".encode("utf-16"), 1, 1, "but in UTF-16"),
]


@pytest.mark.parametrize("content,line,column,message", FAULTS)
def test_faults_of_a_list(tmp_path, content, line, column, message):
    found = fault(tmp_path, content, format="list")
    assert found[:2] == (line, column) and message in found[2]


def test_faults_travel_between_processes(tmp_path):
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path, "a.mp4 x\n")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.line, copy.column) == (str(caught.value), 1, 7)


def test_paths_and_the_root(tmp_path):
    videos = tmp_path / "videos"
    touch(videos, "a b.mp4", "c.mp4")
    content = f"a b.mp4 1\n{videos}/c.mp4 1\n"
    found = read(tmp_path, content, root=videos)
    assert rows(found) == [("a b.mp4", 1), ("c.mp4", 1)] and found.samples[1].source() == str(videos / "c.mp4")
    assert rows(read(tmp_path, f"{videos}/c.mp4 1\n", root="/")) == [(f"{videos}/c.mp4"[1:], 1)]
    assert fault(tmp_path, f"{videos}2/c.mp4 1\n", root=videos)[:2] == (1, 1)
    (videos / "link").symlink_to(tmp_path.parent)  # judged by its text: who made the link wanted it
    assert rows(read(tmp_path, "link/x.mp4 1\n", root=videos)) == [("link/x.mp4", 1)]
    with pytest.raises(ValueError, match="no folder .*nowhere"):
        read(tmp_path, content, root=tmp_path / "nowhere")


def test_labels_by_name(tmp_path):
    content = (
        "a.mp4 abseiling\nb.mp4,petting animal (not cat)\nc.mp4\tmassaging person's head\nd.mp4 0\n"
        'e.mp4 Putting something, something and more\nf.mp4,"abseiling"\nframes petting animal (not cat)\n'
    )
    found = read(tmp_path, content, labels=NAMES)
    assert [label for _, label in rows(found)] == [0, 2, 1, 0, 3, 0, 2]
    assert found.class_names == NAMES and not found.multi_label
    several = read(tmp_path, "a.mp4 abseiling,massaging person's head\nb.mp4 abseiling\t3\n", labels=NAMES)
    assert rows(several) == [("a.mp4", (0, 1)), ("b.mp4", (0, 3))] and several.multi_label


def test_names_with_numbers(tmp_path):
    """A bare number is always an index."""
    names = ["gesture 2", "gesture 1", "0"]
    found = read(tmp_path, "clip gesture 1\na.mp4 gesture 2\nb.mp4 0\nc 2\n", labels=names)
    assert rows(found) == [("clip", 1), ("a.mp4", 0), ("b.mp4", 0), ("c", 2)]


def test_what_looks_like_a_header_may_be_a_video(tmp_path):
    assert rows(read(tmp_path, "my video abseiling\n", labels=NAMES)) == [("my video", 0)]
    assert rows(read(tmp_path, '"my video","abseiling"\n', labels=NAMES)) == [("my video", 0)]
    touch(tmp_path, "clip")
    assert fault(tmp_path, "clip\na.mp4 1\n")[:2] == (1, 5)


@pytest.mark.parametrize(
    "line,column,message",
    [
        ("a.mp4 4", 7, "4 is not in 0 to 3, as the class names are; indices start at 0."),
        ("a.mp4 400", 7, "400 is not in 0 to 3, as the class names are."),
        ("a.mp4 0,7", 9, "7 is not in 0 to 3"),
        ("a.mp4 abseilin", 7, "'abseilin' is no class index and none of the 4 class names: 'abseiling'?"),
        ("a.mp4 abseiling,  dancing", 19, "'dancing' is no class index"),
        ("a.mp4 abseiling,abseiling", 17, "twice"),
    ],
)
def test_faults_of_labels(tmp_path, line, column, message):
    found = fault(tmp_path, f"first.mp4 1\n{line}\n", labels=NAMES)
    assert found[:2] == (2, column) and message in found[2]


def test_class_names_from_anywhere(tmp_path):
    table = {name: str(index) for index, name in enumerate(NAMES)}
    sources = [
        NAMES,
        tuple(NAMES),
        {name: index for index, name in reversed(list(enumerate(NAMES)))},
        write(tmp_path / "labels.json", json.dumps(table)),
        write(tmp_path / "list.json", json.dumps(NAMES)),
        str(write(tmp_path / "names.txt", "\n".join(NAMES))),
    ]
    for labels in sources:
        assert read(tmp_path, "a.mp4 1\n", labels=labels).class_names == NAMES
    assert read(tmp_path, "a.mp4 playing guitar\n", labels="kinetics400").samples[0].labels == (
        class_names("kinetics400").index("playing guitar"),
    )
    for wrong in ({"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": "x"}, {}):
        with pytest.raises(ValueError, match="each once"):
            read(tmp_path, "a.mp4 0\n", labels=wrong)
    with pytest.raises(ValueError, match="different names"):
        read(tmp_path, "a.mp4 0\n", labels=["a", "a"])


def test_one_label_or_several(tmp_path):
    content = "a.mp4 1\nb.mp4 2 3\n"
    assert read(tmp_path, content).multi_label and read(tmp_path, "a.mp4 1\n", multi_label=True).multi_label
    assert fault(tmp_path, content, multi_label=False)[:2] == (2, 9)
    with pytest.raises(ValueError, match="several labels"):
        read(tmp_path, content).pairs()
    assert not read(tmp_path, KINETICS, multi_label=False).multi_label
    with pytest.raises(ValueError, match="'multi_label' does not go with the format 'kinetics'"):
        read(tmp_path, KINETICS, multi_label=True)
    pairs = read(tmp_path, "a.mp4 1\nb.mp4 2\n").pairs()
    assert pairs == [(tmp_path / "a.mp4", 1), (tmp_path / "b.mp4", 2)] and hold_out(pairs)


def test_missing_files(tmp_path, caplog):
    touch(tmp_path, "a.mp4")
    content = "a.mp4 1\nb.mp4 1\nc.mp4 1\n"
    assert read(tmp_path, content).missing is None and not caplog.records
    assert read(tmp_path, content, check_files=True).missing == [str(tmp_path / "b.mp4"), str(tmp_path / "c.mp4")]
    assert "2 of 3 videos are missing" in caplog.text
    assert read(tmp_path, "a.mp4 1\n", check_files=True).missing == []
    read(tmp_path, "train/a.mp4 1\n")
    assert "none exists" in caplog.text and str(tmp_path / "train" / "a.mp4") in caplog.text


def test_names_of_any_characters(tmp_path):
    """What is written in quotes, or without any and with a video's suffix, is read again; recognised as a list."""
    draw = random.Random(0)
    for _ in range(300):
        entries = {}
        for _ in range(4):
            name = "".join(draw.choices("ab7 \t,'\"()[]{}#:%é动.-_&=;", k=draw.randint(1, 12))).strip(" \t") + ".webm"
            labels = tuple(draw.sample(range(400), draw.choice([1, 1, 3])))
            if "::" not in name:
                entries[name] = labels
        lines = []
        for name, labels in entries.items():
            quoted = name[0] in "\"'" or draw.random() < 0.3
            between = draw.choice([" ", ",", "\t", "::", " , "])
            written = '"' + name.replace('"', '""') + '"' if quoted else name
            lines.append(between.join([written, *map(str, labels)]))
        found = read(tmp_path, "\n".join(lines))
        assert {sample.name: sample.labels for sample in found.samples} == entries


@pytest.mark.parametrize("line", ["1," * 10_000, "1 " * 10_000 + "-", "video " * 5_000, "a" + " " * 10_000 + "x"])
def test_long_lines_take_no_time(tmp_path, line):
    fault(tmp_path, line, labels=["a", "b c"])
    assert fault(tmp_path, f"a.mp4 1\n{line * 10}\n")[0] == 2


def test_long_list(tmp_path):
    count = 20_000
    content = "".join(f"train/class {i % 400}/some video, {i:06d}.mp4 {i % 400}\n" for i in range(count))
    found = read(tmp_path, content)
    assert len(found.samples) == count and found.samples[-1].name == "train/class 399/some video, 019999.mp4"
    assert len(repr(found)) < 1000
    assert fault(tmp_path, content + "train/class 7/some video, 000007.mp4 7\n")[:2] == (count + 1, 1)


# -- lists of frames -------------------------------------------------------------------------------------------------


def test_list_of_frames(tmp_path):
    """MMAction2's rawframes; the last folder has blanks, a number at its end and several labels."""
    (tmp_path / "my dance 2").mkdir()
    content = 'ApplyEyeMakeup/v_g08_c01 120 0\n12345 67 3\nmy dance 2 120 3\n"gone, 5" 9 1 2\n'
    found = read(tmp_path, content)
    assert found.format == "frames" and found.multi_label
    assert [(*row, s.num_frames) for row, s in zip(rows(found), found.samples)] == [
        ("ApplyEyeMakeup/v_g08_c01", 0, 120),
        ("12345", 3, 67),
        ("my dance 2", 3, 120),
        ("gone, 5", (1, 2), 9),
    ]


@pytest.mark.parametrize(
    "line,column,message",
    [
        ("b 1", 4, "no label"),
        ("b", 2, "number of frames"),
        ("b x 3", 6, "no label"),
        ("b 0 3", 3, "number of frames"),
        ("../b 5 3", 1, "not inside the root"),
        ("a 5 3", 1, "stands in line 1, too"),
        ("b 5 9", 5, "9 is not in 0 to 3"),
    ],
)
def test_faults_of_a_list_of_frames(tmp_path, line, column, message):
    found = fault(tmp_path, f"a 5 3\n{line}\n", format="frames", labels=NAMES)
    assert found[:2] == (2, column) and message in found[2]


def test_frames_or_several_labels(tmp_path):
    """Two numbers are labels behind a video, and frames and label behind a folder."""
    assert read(tmp_path, "v.avi 67 3\nw.avi 67 3\n").format == "list"
    assert read(tmp_path, '"v 1.avi" 67 3\n').format == "list"
    assert read(tmp_path, "v 67 3\nw 5\n").format == "list"
    assert read(tmp_path, "v 67 3\nw 5 3\n", format="list").multi_label
    (tmp_path / "v.avi").mkdir()
    assert read(tmp_path, "v.avi 67 3\n").format == "frames"


# -- Kinetics --------------------------------------------------------------------------------------------------------

KINETICS = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,validate
massaging person's head,--07WQ2iBlw,1,11,validate
"petting animal (not cat)","-0aWKoDGKFc",20.0,30.0,"train"
"rock, paper, scissors",0ZgNP0IJUGk,7,17,train
"""


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


# -- shards ----------------------------------------------------------------------------------------------------------


def write_shard(file: Path, members: dict[str, str | bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


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
    found = read_annotations(f"{tmp_path}/train-{{000..001}}.tar", labels=NAMES, check_files=True)
    assert found.format == "shards" and found.multi_label and found.missing == []
    assert rows(found) == [*IN_SHARD, ("000005", 0)]
    copies = pickle.loads(pickle.dumps(found.samples))
    assert [sample.source() for sample in copies] == [b"one", b"two!", b"three", b"five"]
    for source in (tmp_path, f"{tmp_path}/*.tar", [tmp_path / "train-000.tar", tmp_path / "train-001.tar"]):
        assert read_annotations(source, labels=NAMES).samples == found.samples
    with pytest.raises(ValueError, match="no files of their own"):
        read_annotations(tmp_path / "train-001.tar", labels=NAMES).pairs()


@pytest.mark.parametrize("mode,name", [("w", "a.tar"), ("w:gz", "a.tar.gz")])
def test_stream_of_a_shard(tmp_path, mode, name):
    shard = write_shard(tmp_path / name, SHARD, mode)
    found = list(stream_shard(shard, labels=NAMES))
    assert [(s.name, s.labels[0] if len(s.labels) == 1 else s.labels) for s in found] == IN_SHARD
    assert [sample.source() for sample in found] == [b"one", b"two!", b"three"]

    class Pipe(io.RawIOBase):
        """Can be read and nothing else."""

        content = io.BytesIO(shard.read_bytes())

        def read(self, size=-1):
            return self.content.read(min(size, 100))

    assert list(stream_shard("from afar", file=Pipe(), labels=NAMES)) == found


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


def data_set(tmp_path, labels, feature, column="label", videos=None, **more):
    touch(tmp_path, "a.mp4", "b c.mp4")
    videos = videos or [str(tmp_path / "a.mp4"), {"bytes": b"inside", "path": "x.mp4"}]
    features = datasets.Features({"clip": datasets.Video(**more), column: feature})
    return datasets.Dataset.from_dict({"clip": videos, column: labels}, features=features)


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
    assert [sample.labels for sample in read_annotations(several).samples] == [(0, 1), (1,)]
    assert read_annotations(several).multi_label
    with pytest.raises(AnnotationError, match="row 0': one label is allowed, and 'b' is another"):
        read_annotations(several, multi_label=False)
    numbers = data_set(tmp_path, [3, 0], datasets.Value("int64"), decode=False)
    assert read_annotations(numbers).class_names is None
    names = data_set(tmp_path, ["abseiling", NAMES[3]], datasets.Value("string"))
    assert [sample.labels for sample in read_annotations(names, labels=NAMES).samples] == [(0,), (3,)]
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


# -- any format ------------------------------------------------------------------------------------------------------


def test_what_is_no_annotation(tmp_path):
    for name, content in {"a.mp4": b"\0\0\0 ftypisom", "b.txt": b"\0\1", "c.txt": b"\n"}.items():
        with pytest.raises(ValueError, match="is no annotation. What is read: 'list' .*; 'datasets' "):
            read(tmp_path, content, name)
    with pytest.raises(ValueError, match="no annotation at .*neither a file nor a folder nor shards"):
        read_annotations(tmp_path / "nowhere.txt")
    for name in ("[HD] a.mp4", "{x} a.mp4", '[{"x".mp4', "[]a.mp4"):
        assert read(tmp_path, name + " 1\n").format == "list"
    with pytest.raises(ValueError, match="Cannot read annotations from int 5: 'list'"):
        read_annotations(5)
    assert "but in UTF-16" in fault(tmp_path, "a.mp4 1\n".encode("utf-16"))[2]
    assert fault(tmp_path, "a.mp4 1\ncafé.mp4 2\n".encode("latin-1"))[:2] == (2, 4)
    with pytest.raises(ValueError, match="SlowFast frame list"):
        read(tmp_path, 'original_vido_id video_id frame_id path labels\n1 0 0 1/1_000001.jpg ""\n')
    with pytest.raises(ValueError, match="`format` must be one of 'list' .*; got 'csv'"):
        read(tmp_path, "a.mp4 1\n", format="csv")
    with pytest.raises(ValueError, match="'split' does not go with the format 'list'"):
        read(tmp_path, "a.mp4 1\n", split="train")
    with pytest.raises(ValueError, match="no annotation file"):
        read_list(tmp_path)


def test_the_processor_takes_every_source(tmp_path):
    """A file, frames, a member of a shard, its bytes and a row of a data set: the same pixels."""
    frames = next(iter(make_videos(1, seed=0, num_frames=6))).frames
    write_mp4(tmp_path / "a.mp4", frames)
    for index, frame in enumerate(read_video(tmp_path / "a.mp4", range)[0]):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "frames" / f"img_{index:05d}.png")
    content = (tmp_path / "a.mp4").read_bytes()
    shard = write_shard(tmp_path / "a.tar", {"a.mp4": content, "a.cls": "1"})
    rows_ = data_set(tmp_path / "other", [1], datasets.Value("int64"), videos=[{"bytes": content, "path": None}])
    found = [
        *read(tmp_path, "a.mp4 1\nframes 1\n").samples,
        *read_annotations(shard).samples,
        *stream_shard(shard),
        *read_annotations(rows_).samples,
    ]
    processor = IlaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = [processor(sample.source(), return_tensors="pt")["pixel_values"] for sample in found]
    assert len(pixels) == 5 and all(torch.equal(values, pixels[0]) for values in pixels)


def test_every_format_says_what_it_reads():
    assert all(reader.__doc__ for reader in FORMATS.values())
