"""The videos that lists, folders, patterns and files name; and one grammar for all who read lists."""

import os
import tracemalloc
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from support.annotation_files import NAMES, rows, touch, write
from transformers_ila.data.annotations import AnnotationError, read_annotations
from transformers_ila.data.lists import iter_entries, iter_list, iter_videos, read_list
from transformers_ila.model.video_reading_ila import read_video


NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")


def paths_of(folder: Path, content: str | bytes) -> list[str | None]:
    """Paths that a list with this content gives, relative to its folder."""
    (folder / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    listed = list(iter_entries(folder / "list.txt"))
    assert b"".join(entry.raw for entry in listed) == (folder / "list.txt").read_bytes()
    return [entry.path and os.path.relpath(entry.path, folder) for entry in listed]


def names_of(source, **options) -> list[str]:
    return [name for name, _ in iter_videos(source, **options)]


# -- one grammar for all ---------------------------------------------------------------------------------------------

TORTURE = {  # the list, in a folder with `frames/1.jpg`, `# odd.mp4`, `#2` and `clip`: names and labels
    b"a b.mp4 0\nc\td.mp4\t2\ne, f.mp4,3\ng.mp4::4\nh;i.mp4;5\n": [
        ("a b.mp4", 0),
        ("c\td.mp4", 2),
        ("e, f.mp4", 3),
        ("g.mp4", 4),
        ("h;i.mp4", 5),
    ],
    b"a::b.mp4::1\n": [("a::b.mp4", 1)],
    b'"a.mp4" 0\n\'b c.mp4\',2\n"say ""hi"".mp4"\t3\n': [("a.mp4", 0), ("b c.mp4", 2), ('say "hi".mp4', 3)],
    b"\xef\xbb\xbfa.mp4 0\r\nb.mp4 2\rc.mp4 3": [("a.mp4", 0), ("b.mp4", 2), ("c.mp4", 3)],
    b"\xef\xbb\xbfpath,label\r\na.mp4,1\r\n": [("a.mp4", 1)],
    b"a.mp4 0\n\xef\xbb\xbfb.mp4 2\n": [("a.mp4", 0), ("\ufeffb.mp4", 2)],
    b"# a list\n#\n\npath label\na.mp4 1\n# b.mp4 2\n": [("a.mp4", 1)],
    b"# odd.mp4 1\n# gone.mp4 2\n#\ttoo\n": [("# odd.mp4", 1)],
    b"#shorts.mp4 0\n#2 2\n": [("#shorts.mp4", 0), ("#2", 2)],
    b"sep=;\npath;label\na.mp4;1\n": [("a.mp4", 1)],
    b"#path,label\na.mp4,1\n": [("a.mp4", 1)],
    b"clip_a,3\nclip_b,2\n": [("clip_a", 3), ("clip_b", 2)],
    b"my video\t3\nother\t0\n": [("my video", 3), ("other", 0)],
    b"clip 0\nframes 2\n": [("clip", 0), ("frames", 2)],
    b"frames , 0\nframes/gone 2\n": [("frames", 0), ("frames/gone", 2)],
    "动作/视频 é.mp4 0\nline\u2028end\x85\x0b.mp4 2\n".encode(): [
        ("动作/视频 é.mp4", 0),
        ("line\u2028end\x85\x0b.mp4", 2),
    ],
    b"a.mp4 0007\n007.mp4 7\n7 7\n": [("a.mp4", 7), ("007.mp4", 7), ("7", 7)],
    b"a.mp4 0 2\t3,4::5;6\n": [("a.mp4", (0, 2, 3, 4, 5, 6))],
    b"./x/../a.mp4 0\nx//y/./b.mp4 2\n": [("a.mp4", 0), ("x/y/b.mp4", 2)],
    b"  \t a.mp4 1 \t \n \t\n": [("a.mp4", 1)],
    b"a.mp4 x.mp4 1\n": [("a.mp4 x.mp4", 1)],
}


@pytest.mark.parametrize("content", TORTURE)
def test_all_readers_find_the_same_videos(tmp_path, content):
    touch(tmp_path, "frames/1.jpg", "# odd.mp4", "#2", "clip")
    file = write(tmp_path / "list.txt", content)
    assert rows(read_list(file, multi_label=True)) == TORTURE[content]
    assert list(iter_videos(file)) == [(name, str(tmp_path / name)) for name, _ in TORTURE[content]]
    assert b"".join(entry.raw for entry in iter_list(file)) == content


FAULTS = {  # of all readers: line, column, part of the message
    b"a.mp4 1\n https://host/b.mp4 2\n": (2, 2, "is a URL; videos are files"),
    b"a.mp4 1\nfile:///b.mp4\n": (2, 1, "is a URL"),
    b"a.mp4 1\n\nb\0.mp4 2\n": (3, 2, "no text in UTF-8"),
    "a.mp4 1\n".encode("utf-16"): (1, 1, "but in UTF-16"),
    b"a.mp4 1\n , 3\n": (2, 2, "a path must stand before ', 3'"),
    b"# classes\n#classes 0 1\na.mp4 0\n": (2, 1, "'#classes' is no video; a comment begins with `#` and a blank"),
    b"label,path\n0,a.mp4\n": (1, 7, "the path must be the first column, and it is 'path' here"),
    b",video_path,label\n0,a.mp4,1\n": (1, 2, "the path must be the first column"),
    b"Unnamed: 0,path,label\n0,a.mp4,1\n": (1, 12, "the path must be the first column"),
    b"a.mp4 1\r\r" + b"b" * 40_000 + b" 2": (3, 1, "more than 32768 characters"),
    b" " * 40_000 + b"a.mp4 1\n": (1, 40_000, "more than 32768 characters"),
    b"\0" * 40_000: (1, 1, "no text in UTF-8"),
}


@pytest.mark.parametrize("content", FAULTS, ids=range(len(FAULTS)))
def test_all_readers_find_the_same_faults(tmp_path, content):
    file = write(tmp_path / "list.txt", content)
    for read in (read_list, lambda file: list(iter_videos(file))):
        with pytest.raises(AnnotationError, match="list.txt") as caught:
            read(file)
        line, column, message = FAULTS[content]
        assert caught.value.line == line and message in str(caught.value)
        assert caught.value.column == column or column == 40_000  # where the text begins is not known


def test_what_only_labels_forbid(tmp_path):
    """Repeats, paths outside of the root, and what is no label, are faults of a list with labels alone."""
    (tmp_path / "in").mkdir()
    lines = ["a.mp4 1", "a.mp4 1", "../b.mp4 2", f"{tmp_path}/c.mp4 3", "d.mp4 running", "e.mp4"]
    file = write(tmp_path / "in" / "list.txt", "\n".join(lines))
    outside = [str(tmp_path / "b.mp4"), str(tmp_path / "c.mp4")]
    assert names_of(file) == ["a.mp4", "a.mp4", *outside, "d.mp4", "e.mp4"]
    for number in range(1, 6):
        write(file, "\n".join([lines[0], lines[number]]))
        with pytest.raises(AnnotationError) as caught:
            read_list(file)
        assert caught.value.line == 2


def test_known_names_end_a_path(tmp_path):
    content = "gone petting animal (not cat)\nfar,abseiling\n"
    assert rows(read_annotations(write(tmp_path / "list.txt", content), labels=NAMES)) == [("gone", 2), ("far", 0)]
    entries = list(iter_list(tmp_path / "list.txt", class_names=NAMES))
    assert [(entry.number, entry.rest) for entry in entries] == [(1, " petting animal (not cat)"), (2, ",abseiling")]
    touch(tmp_path, "gone petting")  # what exists wins
    assert next(iter_list(tmp_path / "list.txt", class_names=NAMES)).rest == " animal (not cat)"


def test_words_of_a_header_may_be_folders_or_videos(tmp_path):
    touch(tmp_path, "video/a.mp4", "name")
    assert names_of(write(tmp_path / "list.txt", "video,label\nvideo/a.mp4,1\n")) == ["video/a.mp4"]
    assert names_of(write(tmp_path / "list.txt", "video\n")) == ["video"]
    assert names_of(write(tmp_path / "list.txt", "name abseiling\n")) == ["name"]


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_long_lists_need_no_memory(tmp_path, end):
    """The list of 1.8 MB is never in memory as a whole."""
    with (tmp_path / "list.txt").open("w", newline="") as file:
        file.writelines(f"train/class {n % 400}/some video, {n:07d}.mp4 {n % 400}{end}" for n in range(40_000))
    names_of(write(tmp_path / "short.txt", "a.mp4 1\n"))  # what is made once is made before
    tracemalloc.start()
    count = sum(1 for _ in iter_videos(tmp_path / "list.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000 and peak < 300_000


# -- sources ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path, monkeypatch) -> Path:
    """The working directory, with videos in two folders and a list of one of them."""
    touch(tmp_path, "one/a.mp4", "one/deep/b.webm", "one/notes.txt", "two/a.mp4", "[HD] c.mp4")
    write(tmp_path / "list.txt", "one/a.mp4 3\ngone.mp4 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOURCES = {
    "one": ["a.mp4", "deep/b.webm"],
    "one/": ["a.mp4", "deep/b.webm"],
    "one/a.mp4": ["one/a.mp4"],
    "./one/../one/a.mp4": ["one/a.mp4"],
    "one/*": ["one/a.mp4", "one/deep/b.webm"],
    "*/a.mp4": ["one/a.mp4", "two/a.mp4"],
    "**/*.webm": ["one/deep/b.webm"],
    "[HD] c.mp4": ["[HD] c.mp4"],
    "list.txt": ["one/a.mp4", "gone.mp4"],
    ("one", "two"): ["one/a.mp4", "one/deep/b.webm", "two/a.mp4"],
    ("one/a.mp4", "list.txt", "one/a.mp4"): ["one/a.mp4", "one/a.mp4", "gone.mp4", "one/a.mp4"],
}


@pytest.mark.parametrize("source", SOURCES)
def test_names_and_paths(videos, source):
    found = list(iter_videos(source))
    assert [name for name, _ in found] == SOURCES[source]
    single = source if source in ("one", "one/") else ""
    assert [path for _, path in found] == [str(videos / single / name) for name, _ in found]
    assert list(iter_videos(Path(source) if isinstance(source, str) else [Path(s) for s in source])) == found
    if isinstance(source, str):
        assert list(iter_videos(f"file://{source}")) == found


def test_what_a_pattern_leaves_out_is_said(videos, caplog):
    assert names_of("one/*") == ["one/a.mp4", "one/deep/b.webm"]
    assert f"{str(videos / 'one/*')!r}: 1 files are left out: 1 '.txt'." in caplog.text


CONTAINERS = {
    "a.mts": ("mpegts", "libx264", {}),
    "a.M2TS": ("mpegts", "libx264", {"mpegts_m2ts_mode": "1"}),
    "a.ogv": ("ogg", "vp8", {}),
    "a.vob": ("vob", "mpeg2video", {}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_videos_of_cameras_and_discs_are_read(tmp_path, name):
    kind, codec, options = CONTAINERS[name]
    with av.open(str(tmp_path / name), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=25, width=96, height=64, pix_fmt="yuv420p")
        for brightness in range(0, 240, 30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), brightness, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    ((_, path),) = iter_videos(tmp_path)
    frames, _ = read_video(path, range)
    assert np.abs(frames.mean((1, 2, 3)) - np.arange(0, 240, 30)).max() < 6


def test_names_keep_where_the_videos_move(videos):
    (videos / "far").mkdir()
    assert names_of("list.txt", root="far") == ["one/a.mp4", "gone.mp4"]
    assert names_of(["list.txt", "two"], root="far") == ["far/one/a.mp4", "far/gone.mp4", "two/a.mp4"]
    os.chdir("far")
    assert names_of(["../two/a.mp4", "../list.txt"])[0] == str(videos / "two" / "a.mp4")
    assert names_of("../list.txt") == ["one/a.mp4", "gone.mp4"]


NO_SOURCES = {
    "gone": "'gone' is neither a folder nor an annotation list nor a video",
    "gone.mp4": "'gone.mp4' is neither",
    "gone/*.mp4": "'gone/\\*.mp4' is neither",
    "one/*.txt": "'one/\\*.txt' is neither",
    "https://host/a.mp4": "is a URL",
    "empty.txt": "'empty.txt' lists no video",
    "empty": "'empty' holds no video; known suffixes: .3gp",
    ("one", "gone.mp4"): "'gone.mp4' is neither",
    ("one/a.mp4", "one/notes.txt"): "'one/notes.txt' has no suffix of a video, and there is no .*/one/a thought'",
}


@pytest.mark.parametrize("source", NO_SOURCES)
def test_faults_are_found_at_once(videos, source):
    (videos / "empty").mkdir()
    write(videos / "empty.txt", "path,label\n# nothing\n")
    write(videos / "one/notes.txt", "a thought\nanother one\n")
    with pytest.raises(ValueError, match=NO_SOURCES[source]):
        iter_videos(source)


def test_roots(videos):
    with pytest.raises(ValueError, match="root such as 'two' goes only with a list; there is none in 'one'"):
        iter_videos("one", root="two")
    with pytest.raises(ValueError, match="no folder 'gone'"):
        iter_videos("list.txt", root="gone")
    assert list(islice(iter_videos("list.txt", root="/"), 1)) == [("one/a.mp4", "/one/a.mp4")]


# -- which videos ----------------------------------------------------------------------------------------------------

LINES = {
    "a.mp4": "a.mp4",
    "a.mp4 3": "a.mp4",
    "a.mp4 3 17 4": "a.mp4",
    "a.mp4,3": "a.mp4",
    "a.mp4\t3\r": "a.mp4",
    "a.mp4 , riding a bike": "a.mp4",
    "my clip, 7.mp4 3": "my clip, 7.mp4",
    '"my clip, 7.mp4",3': "my clip, 7.mp4",
    "'a.mp4' 3": "a.mp4",
    '"say ""hi"".mp4",1': 'say "hi".mp4',
    "b 3": "b 3",  # this file exists, and so does b
    "b 4": "b",
    "frames/one 150 3": "frames/one",
    "./frames/../a.mp4 3": "a.mp4",
    "gone.mp4 3 4": "gone.mp4",
    "gone.mp4,riding a bike": "gone.mp4",
    "gone 3,4": "gone",
    '"gone, too" 3': "gone, too",
    "frames/gone one.mp4 3": "frames/gone one.mp4",
    "frames gone.mp4 3": "frames gone.mp4",  # not the folder that its beginning names
}


@pytest.mark.parametrize("line", LINES)
def test_path_of_a_line(tmp_path, line):
    touch(tmp_path, "a.mp4", "my clip, 7.mp4", 'say "hi".mp4', "b", "b 3", "frames/one/1.jpg")
    assert paths_of(tmp_path, f"first.mp4 1\n{line}\n") == ["first.mp4", LINES[line]]


HEADERS = [
    "path,label",
    "video_path\tclass",
    '"Video Name","label"',
    "path label",
    "file",
    "path;label",
    "VideoPath,ClassIndex",
    "id,label",
    "video_id,label,split",
    "filename num_frames label",
    "video_uid;label;;",
]


@pytest.mark.parametrize("header", HEADERS)
def test_what_is_no_video(tmp_path, header):
    assert paths_of(tmp_path, f"\n# a.mp4 1\n{header}\r\na.mp4 1") == [None, None, None, "a.mp4"]
    assert paths_of(tmp_path, f"a.mp4 1\n{header}\n")[1] is not None  # a header stands first
    assert paths_of(tmp_path, f"a.mp4 1\n \t\r\n# {header}") == ["a.mp4", None, None]


def test_what_looks_like_a_header(tmp_path):
    touch(tmp_path, "clip")
    assert paths_of(tmp_path, "clip\n") == ["clip"]
    assert paths_of(tmp_path, "video,3\n") == ["video"]
    assert paths_of(tmp_path, "video.mp4,label\n") == ["video.mp4"]
    assert paths_of(tmp_path, "clip_a,walking dog\nclip_b,running\n") == ["clip_a,walking dog", "clip_b,running"]
    assert paths_of(tmp_path, "clip,walk,run\n") == ["clip"]
    assert paths_of(tmp_path, "path,walk,run\na.mp4,1,0\n") == [None, "a.mp4"]


def test_odd_bytes_in_a_list(tmp_path):
    touch(tmp_path, NOT_UTF8, "动作.mp4")
    content = b"\xef\xbb\xbf" + "动作.mp4 1\n".encode() + b"caf\xe9.mp4 2\n"
    assert paths_of(tmp_path, content) == ["动作.mp4", NOT_UTF8]


def test_root_of_a_list(tmp_path):
    touch(tmp_path, "videos/a b.mp4", "videos/c.mp4")
    (tmp_path / "list.txt").write_text(f"a b.mp4 1\n{tmp_path}/videos/c.mp4 1\n")
    listed = iter_entries(tmp_path / "list.txt", root=tmp_path / "videos")
    assert [video.path for video in listed] == [str(tmp_path / "videos/a b.mp4"), str(tmp_path / "videos/c.mp4")]


def test_folder_of_any_depth(tmp_path, caplog):
    touch(tmp_path, "b.MP4", "a/b/c/d.webm", "a/x.avi/e.mkv", "notes.txt", "a/picture.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a" / "b")
    listed = list(iter_entries(tmp_path))
    assert f"{str(tmp_path)!r}: 2 files are left out: 1 '.jpg', 1 '.txt'." in caplog.text
    assert [entry.raw for entry in listed] == [b"a/b/c/d.webm\n", b"a/x.avi/e.mkv\n", b"b.MP4\n", b"z/c/d.webm\n"]
    assert listed[2].path == str(tmp_path / "b.MP4")


def test_a_link_to_itself_is_one_broken_video_of_a_folder(tmp_path):
    touch(tmp_path, "a.mp4", "z.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert names_of(tmp_path) == ["a.mp4", "loop.mp4", "z.mp4"]
