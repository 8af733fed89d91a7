"""Lists of videos and of frame folders: odd names, and every fault with its line and column."""

import hashlib
import json
import pickle
import random
import re

import pytest

from support.annotation_files import KINETICS, NAMES, fault, read, rows, touch, write
from transformers_ila.data.annotations import AnnotationError
from transformers_ila.data.class_names import class_names
from transformers_ila.data.video_folder import hold_out
from transformers_ila.model.video_reading_ila import VideoDecodingError, read_video


# -- lists -----------------------------------------------------------------------------------------------------------

LINES = {  # with the files `frames 7/`, `frames/one/` and `it's/` and without any other
    "a.mp4 3": ("a.mp4", 3),
    "train/abseiling/-0cTfb3.mp4 0": ("train/abseiling/-0cTfb3.mp4", 0),
    "a.mp4\t3": ("a.mp4", 3),
    "a.mp4,3": ("a.mp4", 3),
    "a.mp4 , 3": ("a.mp4", 3),
    "a.mp4;3": ("a.mp4", 3),
    '"a b.mp4" ; "3"': ("a b.mp4", 3),
    "A B.MTS 3": ("A B.MTS", 3),
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
    name, labels = LINES[line]
    several = isinstance(labels, tuple)
    if several:
        found = fault(tmp_path, f"first.mp4 1\n{line}\n", format="list")
        assert found[0] == 2 and f"one label is allowed, and '{labels[1]}' is another" in found[2]
        assert "`multi_label=True` or --multi_label" in found[2]
    found = read(tmp_path, f"first.mp4 1\n{line}\n", format="list", multi_label=several)
    assert rows(found) == [("first.mp4", 1), LINES[line]]
    assert found.samples[1].video == str(tmp_path / name)
    assert found.multi_label is several


@pytest.mark.parametrize(
    "content",
    [
        b"a.mp4 0\nb.mp4 2\n",
        b"\xef\xbb\xbfa.mp4 0\nb.mp4 2",
        b"a.mp4 0\r\n\r\nb.mp4 2\r\n",
        b"\n \t\na.mp4 0\rb.mp4 2\r",
        b"path,label\na.mp4,0\nb.mp4,2\n",
        b'\xef\xbb\xbf"Video Name","label"\r\n"a.mp4","0"\r\n"b.mp4","2"\r\n',
        b"video_path label\na.mp4 0\nb.mp4 2\n",
        b"\xef\xbb\xbfsep=;\r\nVideo Name;Class\r\na.mp4;0\r\nb.mp4;2\r\n",
    ],
)
def test_files_of_any_make(tmp_path, content):
    found = read(tmp_path, content)
    assert rows(found) == [("a.mp4", 0), ("b.mp4", 2)]
    assert found.format == "list" and found.class_names is None and not found.multi_label
    assert found.source == str(tmp_path / "list.txt") and found.sha256 == hashlib.sha256(content).hexdigest()


FAULTS = [  # content, line, column, part of the message
    ("a.mp4 1\nb.mp4\n", 2, 6, "no label behind the path 'b.mp4'"),
    ("a.mp4 1\nb.mp4 -1\n", 2, 7, "'-1' is no class index"),
    ("a.mp4 1\nb.mp4 1.0\n", 2, 7, "'1.0' is no class index"),
    ("a.mp4 1\n  b.mp4 2 x 4\n", 2, 11, "'x' is no class index"),
    ("a.mp4 1\nb.mp4,riding a bike\n", 2, 7, "pass `labels`"),
    (
        "a.mp4 1\nb.mp4 2 3 2\n",
        2,
        9,
        "one label is allowed, and '3' is another: several are read where",
    ),
    ("a.mp4 1\nb.mp4,,2\n", 2, 7, "the cell before this separator is empty"),
    ("a.mp4 1\nb.mp4 99999999999999999999\n", 2, 7, "is no class index"),
    ("a.mp4 1\nb.mp4 \u0663\n", 2, 7, "is no class index"),
    ("a.mp4 1\nb.mp4 2\n\n./x/../a.mp4 1\n", 4, 1, "the video 'a.mp4' stands in line 1, too"),
    ("a.mp4 1\n../b.mp4 2\n", 2, 1, "'../b.mp4' is not inside the root"),
    ("a.mp4 1\nx/../../b.mp4 2\n", 2, 1, "not inside the root"),
    ("a.mp4 1\n/etc/passwd 2\n", 2, 1, "not inside the root"),
    ("a.mp4 1\n. 2\n", 2, 1, "not inside the root"),
    ("a.mp4 1\n\t https://host/b.mp4 2\n", 2, 3, "is a URL"),
    ("a.mp4 1\n#old\n", 2, 1, "'#old' is no video; a comment begins with `#` and a blank"),
    ("clip_a,walking dog\nclip_b,running\n", 1, 19, "no label behind the path 'clip_a,walking dog'"),
    ("path,sort of thing\na.mp4,0\n", 1, 19, "'path,sort of thing'; a header is `path,label`"),
    ("my video\t0 3\n", 1, 12, "one label is allowed, and '3'"),
    ("clip_a,3,5\n", 1, 10, "one label is allowed, and '5'"),
    ("a.mp4,walking,3,1\nb.mp4,running,2,2\n", 1, 7, "'walking' is no class index"),  # no list of frames
    ("a.mp4 1\npath,label\n", 2, 11, "no label"),  # a header stands first
    ("path,label,split\na.mp4,1,train\n", 1, 12, "another column"),
    ("path,num_frames\na.mp4,30\n", 1, 6, "the label must stand in this column, and it is 'num_frames'"),
    ("video;duration\na.mp4;3\n", 1, 7, "the label must stand in this column, and it is 'duration'"),
    ("path,label\n", 1, 1, "no video is listed"),
    ("\n \r\n", 1, 1, "no video is listed there"),
    ("", 1, 1, "no video is listed there"),
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
    content = "a.mp4 abseiling,massaging person's head\nb.mp4 abseiling\t3\nc.mp4;abseiling;" + NAMES[3]
    several = read(tmp_path, content, labels=NAMES, multi_label=True)
    assert rows(several) == [("a.mp4", (0, 1)), ("b.mp4", (0, 3)), ("c.mp4", (0, 3))] and several.multi_label


def test_names_with_numbers(tmp_path, caplog):
    """A bare number is always an index, and where it could be a name that is said."""
    names = ["gesture 2", "gesture 1", "0"]
    found = read(tmp_path, "clip gesture 1\na.mp4 gesture 2\nb.mp4 0\nc 2\n", labels=names)
    assert rows(found) == [("clip", 1), ("a.mp4", 0), ("b.mp4", 0), ("c", 2)]
    assert "has numbers, and '0' is the name of a class: a number in a list is an index, and no name" in caplog.text


def test_what_looks_like_a_header_may_be_a_video(tmp_path):
    assert rows(read(tmp_path, "my video abseiling\n", labels=NAMES)) == [("my video", 0)]
    assert rows(read(tmp_path, '"my video","abseiling"\n', labels=NAMES)) == [("my video", 0)]
    for header in ("path,abseiling", "Video;abseiling"):  # of one class, or of a video without a suffix
        message = f"there is no video '{header[: -len(',abseiling')]}', and a header of labels is `path,label`"
        assert message in fault(tmp_path, f"{header}\na.mp4,1\n", labels=NAMES)[2]
    touch(tmp_path, "clip")
    assert fault(tmp_path, "clip\na.mp4 1\n")[:2] == (1, 5)
    assert rows(read(tmp_path, "clip,abseiling\n", labels=NAMES)) == [("clip", 0)]


@pytest.mark.parametrize(
    "line,column,message",
    [
        ("a.mp4 4", 7, "4 is not in 0 to 3, as the class names are; indices start at 0."),
        ("a.mp4 400", 7, "400 is not in 0 to 3, as the class names are."),
        ("a.mp4 0,7", 9, "7 is not in 0 to 3"),
        ("a.mp4 abseilin", 7, "'abseilin' is no class index and none of the 4 class names: 'abseiling'?"),
        ("a.mp4 abseiling,  dancing", 19, "'dancing' is no class index"),
        ("a.mp4 abseiling,abseiling", 17, "one label is allowed"),
        ("clip,abseilin", 14, "no label"),  # no header: the next line is one, too
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
    assert read(tmp_path, content, multi_label=True).multi_label
    assert read(tmp_path, "a.mp4 1\n", multi_label=True).multi_label and not read(tmp_path, "a.mp4 1\n").multi_label
    assert fault(tmp_path, content)[:2] == fault(tmp_path, content, multi_label=False)[:2] == (2, 9)
    refused = fault(tmp_path, content.replace("3", "3 4"), multi_label=False)[2]
    assert refused.endswith("one label is allowed, and '3' is another.")
    assert fault(tmp_path, content)[2].endswith("; a number of frames stands only behind a folder of frames.")
    twice = fault(tmp_path, "a.mp4 1\nb.mp4 2 3 2\n", multi_label=True)
    assert twice[:2] == (2, 11) and "the label '2' stands there twice." in twice[2]
    with pytest.raises(ValueError, match="several labels"):
        read(tmp_path, content, multi_label=True).pairs()
    assert not read(tmp_path, KINETICS, multi_label=False).multi_label
    with pytest.raises(ValueError, match="'multi_label' does not go with the format 'kinetics'"):
        read(tmp_path, KINETICS, multi_label=True)
    pairs = read(tmp_path, "a.mp4 0\nb.mp4 2\n").pairs()
    assert pairs == [(tmp_path / "a.mp4", 0), (tmp_path / "b.mp4", 2)] and hold_out(pairs)


@pytest.mark.parametrize(
    "content", ["path,run,walk,,\na.mp4,0,1,,\nb.mp4,1,0,,\n", '"Video";"run";"walk"\n"a.mp4";0;1\n"b.mp4"; 1; 0\n']
)
def test_a_column_for_each_class(tmp_path, content):
    names = ["walk", "sit", "run"]
    for options in ({}, {"multi_label": True}):
        found = read(tmp_path, content, labels=names, **options)
        assert rows(found) == [("a.mp4", 0), ("b.mp4", 2)] and found.class_names == names
        assert found.multi_label is bool(options)
    found = read(tmp_path, content, multi_label=True)  # the header names the classes
    assert rows(found) == [("a.mp4", 1), ("b.mp4", 0)] and found.class_names == ["run", "walk"]
    assert "columns such as 'run' are read as classes" in fault(tmp_path, content)[2]
    both = content + "c.mp4,1,1\nd 7.mp4 0 0\n".replace(",", ";" if ";" in content else ",")
    assert rows(read(tmp_path, both, multi_label=True))[2:] == [("c.mp4", (0, 1)), ("d 7.mp4", ())]
    found = fault(tmp_path, both, labels=names)
    assert found[:2] == (4, 9) and "one label is allowed, and 'walk' is another" in found[2]
    assert read(tmp_path, "path,run,walk\nid_7,1,1\n", multi_label=True, labels=names).format == "list"
    assert rows(read(tmp_path, "path run walk\na.mp4 0 1\n", labels=names)) == [("a.mp4", 0)]
    (tmp_path / "path").mkdir()
    assert rows(read(tmp_path, "path,stop,walk\npath/a.mp4,1,0\n", labels=["walk", "stop"])) == [("path/a.mp4", 1)]


@pytest.mark.parametrize(
    "content,line,column,message",
    [
        ("path,run,jump\na.mp4,0,1\n", 1, 10, "'jump' is no class and none of the 2 class names"),
        ("path,run,walk\na.mp4,0,2\n", 2, 9, "'2' stands below a class; 1 or 0 must"),
        ("path,run,walk\na.mp4,0\n", 2, 7, "1 cells stand behind the path, where the header has 2 classes"),
        ("path,run,walk\na.mp4,0,,1\n", 2, 7, "3 cells stand"),
        ("a.mp4,1,0\nb.mp4,0,1\n", None, None, "every video has the labels 0 and 1; rows of 0 and 1"),
        ("a.mp4,1,0\nb.mp4,1,0\n", None, None, "every video has the labels 0 and 1; rows of 0 and 1"),
        ("a.mp4,1,0,0\nb.mp4,0,1,0\n", 1, 11, "'0' stands there twice; rows of 0 and 1, one a class, are read below"),
    ],
)
def test_faults_of_a_column_for_each_class(tmp_path, content, line, column, message):
    found = fault(tmp_path, content, labels=["walk", "run"], multi_label=True)
    assert found[:2] == (line, column) and message in found[2]


def test_columns_that_may_be_no_classes(tmp_path):
    assert fault(tmp_path, "path,walk,split\na.mp4,0,1\n", multi_label=True)[:2] == (1, 11)
    for labels in (None, ["walk", "run"]):
        twice = fault(tmp_path, "path,walk,walk\na.mp4,0,1\n", multi_label=True, labels=labels)
        assert twice[2].endswith("the class 'walk' stands there twice.")
    assert fault(tmp_path, "path,walk,run\na.mp4,0,0\n", labels=["walk", "run"])[2].endswith("no class has a 1 here.")


# -- what classes count from ------------------------------------------------------------------------------------------


def test_indices_that_count_from_one(tmp_path, caplog):
    """UCF101's trainlist, with the names of its classInd.txt and with none; and lists of a part of the classes."""
    ucf101 = "".join(f"{name}/v_g08_c01.avi {index}\r\n" for index, name in enumerate("ABC", 1))
    for labels in (None, ["A", "B", "C"], {"A": 0, "B": 1, "C": 2}):
        found = read(tmp_path, ucf101, labels=labels)
        assert [label for _, label in rows(found)] == [0, 1, 2] and found.first_index == 1
        assert caplog.text.count("uses each class index from 1 on, and not 0, so they count from 1") == 1
        caplog.clear()
    part = ucf101.splitlines()[1] + "\n"
    stated = write(tmp_path / "classInd.txt", "1 A\r\n2 B\r\n3 C\r\n")
    for labels in (stated, {"A": 1, "B": "2", "C": 3}, read(tmp_path, ucf101, labels=list("ABC")).labels()):
        assert rows(read(tmp_path, part, labels=labels)) == [("B/v_g08_c01.avi", 1)]
        assert (
            "0 is not in 1 to 3, as the class names are; indices start at 1"
            in fault(tmp_path, "a.avi 0\n", labels=labels)[2]
        )
        assert "4 is not in 1 to 3" in fault(tmp_path, "a.avi 4\n", labels=labels)[2]
        assert rows(read(tmp_path, "a.avi C\nb.avi 1\n", labels=labels)) == [("a.avi", 2), ("b.avi", 0)]
    frames = read(tmp_path, "a 9 1\nb 9 2\n", labels=["A", "B"])
    assert frames.format == "frames" and [label for _, label in rows(frames)] == [0, 1]
    several = read(tmp_path, "a.avi 1 2\nb.avi 3\n", multi_label=True)
    assert [label for _, label in rows(several)] == [(0, 1), 2]


def test_indices_that_count_from_zero(tmp_path, caplog):
    """A list that lacks a class may count from either, and says what it is taken for."""
    assert (
        rows(read(tmp_path, "a.avi 0\nb.avi 2\n")) == [("a.avi", 0), ("b.avi", 2)] and "count from" not in caplog.text
    )
    for content, labels in (("a.avi 1\nb.avi 3\n", None), ("a.avi 1\nb.avi 2\n", list("ABC")), ("a.avi 1\n", None)):
        assert rows(read(tmp_path, content, labels=labels))[0] == ("a.avi", 1)
        assert "has no video of class 0, and its indices are taken to count from 0" in caplog.text
        caplog.clear()
    assert fault(tmp_path, "a.avi 1\nb.avi 3\n", labels=list("ABC"))[:2] == (2, 7)
    read(tmp_path, "a.avi B\nb.avi C\n", labels=list("ABC"))
    assert "count from" not in caplog.text


def test_missing_files(tmp_path, caplog):
    touch(tmp_path, "a.mp4")
    content = "a.mp4 0\nb.mp4 0\nc.mp4 0\n"
    assert read(tmp_path, content).missing is None and not caplog.records
    assert read(tmp_path, content, check_files=True).missing == [str(tmp_path / "b.mp4"), str(tmp_path / "c.mp4")]
    assert "2 of 3 videos are missing" in caplog.text
    assert read(tmp_path, "a.mp4 1\n", check_files=True).missing == []
    read(tmp_path, "train/a.mp4 1\n")
    assert "none exists" in caplog.text and str(tmp_path / "train" / "a.mp4") in caplog.text
    for content, why in (
        ("train\\\\a.mp4 0\n", "backslashes are characters of a name here: write `/`"),
        ("a 0\n", "'a.mp4'"),
    ):
        for options in ({}, {"check_files": True}):
            caplog.clear()
            read(tmp_path, content, **options)
            assert "no such file or folder; " in caplog.text and why in caplog.text
        with pytest.raises(VideoDecodingError, match=re.escape(why)):
            read_video(read(tmp_path, content).samples[0].source(), range)


def test_lines_that_are_likely_to_be_no_videos(tmp_path, caplog):
    touch(tmp_path, "a.mp4", "dir/1.jpg")
    assert len(read(tmp_path, "a.mp4 0\ndir 1\n").samples) == 2 and not caplog.records
    read(tmp_path, "classes: 3\na.mp4 0\n")
    assert "1 of 2 videos neither exist nor have a video's suffix, as the others have: " in caplog.text
    caplog.clear()
    assert len(read(tmp_path, "a.mp4 0\ndir\\b.mp4 1\n").samples) == 2
    assert "1 of 2 videos do not exist, and have backslashes" in caplog.text and "write `/`" in caplog.text
    assert "'Unnamed" not in fault(tmp_path, "Unnamed: 0,path,label\n0,a.mp4,0\n")[2]
    assert rows(read(tmp_path, "path;label;;\r\na.mp4;0;;\r\n")) == [("a.mp4", 0)]  # empty columns of spreadsheets


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
            quoted = name[0] in "\"'#" or draw.random() < 0.3
            between = draw.choice([" ", ",", "\t", "::", " , "])
            written = '"' + name.replace('"', '""') + '"' if quoted else name
            lines.append(between.join([written, *map(str, labels)]))
        found = read(tmp_path, "\n".join(lines), multi_label=True)
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
    found = read(tmp_path, content, multi_label=True)
    assert found.format == "frames" and found.multi_label
    assert [(*row, s.num_frames) for row, s in zip(rows(found), found.samples)] == [
        ("ApplyEyeMakeup/v_g08_c01", 0, 120),
        ("12345", 3, 67),
        ("my dance 2", 3, 120),
        ("gone, 5", (1, 2), 9),
    ]


def test_two_labels_or_frames_and_a_label(tmp_path):
    """Ids without suffix, each with two labels, look like folders with their numbers of frames."""
    content = "clip_a,3,5\nclip_b,4,1\n"
    with pytest.raises(ValueError, match="may have a number of frames in front of the labels.*pass `format`"):
        read(tmp_path, content, multi_label=True)
    assert rows(read(tmp_path, content, multi_label=True, format="list")) == [("clip_a", (3, 5)), ("clip_b", (4, 1))]
    assert read(tmp_path, content, multi_label=True, format="frames").samples[0].num_frames == 3
    assert read(tmp_path, "path,frames,labels\n" + content, multi_label=True).samples[0].num_frames == 3


@pytest.mark.parametrize(
    "header,column", [("path,label,frames", 6), ("path,start,end", 6), ("path label", 6), ("path,frames,width", 13)]
)
def test_headers_of_other_columns_than_those_of_frames(tmp_path, header, column):
    with pytest.raises(AnnotationError, match="must stand in this column, and it is") as error:
        read(tmp_path, f"{header}\nwalk,1,2\nrun,2,1\n")
    assert (error.value.line, error.value.column) == (1, column)


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
    asked = {"multi_label": True}
    assert read(tmp_path, "v.avi 67 3\nw.avi 67 3\n", **asked).format == "list"
    assert read(tmp_path, '"v 1.avi" 67 3\n', **asked).format == "list"
    assert read(tmp_path, "v 67 3\nw 5\n", **asked).format == "list"
    assert read(tmp_path, "v 67 3\nw 5 3\n", format="list", **asked).multi_label
    assert read(tmp_path, "path num_frames label\nclip_a 67 3\n").format == "frames"
    (tmp_path / "v.avi").mkdir()
    assert read(tmp_path, "v.avi 67 3\n").format == "frames"
