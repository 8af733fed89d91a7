"""Lists of videos and texts: what is read of tables and JSON lines, and how each fault is named."""

import json

import pytest

from transformers_ila.data.captions import is_caption_list, read_captions
from transformers_ila.data.text import AnnotationError


ROWS = [("a.mp4", "a man waves, twice"), ("b.mp4", 'she says "hi"'), ("a.mp4", "someone greets"), ("b.mp4", "hello")]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4", "video7.mkv"):
        (tmp_path / name).touch()
    return tmp_path


def quoted(text, separator):
    return text if separator == "\t" and '"' not in text else '"' + text.replace('"', '""') + '"'


def captions_of(annotations):
    return {sample.name: [annotations.class_names[label] for label in sample.labels] for sample in annotations.samples}


@pytest.mark.parametrize("header", ["path{}caption", "Sentence{}video_id", "key{}video{}text"])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_tables(folder, header, separator):
    """Columns in any order, others beside them, quotes, several rows a video."""
    names = header.format(*2 * separator)
    lines = [names]
    for number, (path, text) in enumerate(ROWS):
        cells = {"key": str(number), "sentence": quoted(text, separator), "video_id": path, "video": path}
        cells |= {"path": path, "caption": quoted(text, separator), "text": quoted(text, separator)}
        lines.append(separator.join(cells[name.lower()] for name in names.split(separator)))
    file = folder / "captions.csv"
    file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", "utf-8")
    assert is_caption_list(file)
    found = read_captions(file)
    assert captions_of(found) == {"a.mp4": [ROWS[0][1], ROWS[2][1]], "b.mp4": [ROWS[1][1], ROWS[3][1]]}
    assert (found.format, found.multi_label, len(found.sha256)) == ("captions", True, 64)


def test_json_lines(folder, caplog):
    """One text a row or several, names without suffix, a text of two videos, a text given twice."""
    rows = [
        {"path": "a.mp4", "caption": ["one", "two"]},
        {"path": "video7", "caption": "one"},
        {"path": str(folder / "a.mp4"), "caption": " two "},
    ]
    file = folder / "captions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert is_caption_list(file)
    found = read_captions(file)
    assert captions_of(found) == {"a.mp4": ["one", "two"], "video7.mkv": ["one"]}
    assert found.class_names == ["one", "two"] and "1 texts stand there twice for one video" in caplog.text
    (folder / "elsewhere").mkdir()
    file = file.rename(folder / "elsewhere" / "captions.txt")
    assert captions_of(read_captions(file, root=folder)) == captions_of(found)


@pytest.mark.parametrize("text", ["a.mp4 3\n", "path,label\na.mp4,walk\n", '[{"id": "1", "label": "walk"}]', "\0"])
def test_other_lists_are_no_captions(folder, text):
    (folder / "list.txt").write_text(text)
    assert not is_caption_list(folder / "list.txt") and not is_caption_list(folder)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("path,caption\n", "line 1, column 1: no video is listed there"),
        ("caption\nx\n", "none of 'caption' is the column of the video, such as 'path', 'video' or 'video_id'"),
        ("path,words\na.mp4,x\n", "none of 'path', 'words' is the column of the text, one of 'caption', 'captions'"),
        ("path,video,text\na,b,c\n", "'path', 'video' may be the column of the video"),
        ("path,caption,text\na,b,c\n", "'caption', 'text' may be the column of the text"),
        (
            "path,caption\na.mp4,x,y\n",
            "line 2, column 1: 3 cells stand there, and the header has 2; texts with",
        ),
        ("path,caption\na.mp4,\n", "line 2, column 1: the text of 'a.mp4' is ''"),
        ("path,caption\n,x\n", "line 2, column 1: the path of a video must stand there, got ''"),
        ("path,caption\n../a.mp4,x\n", "'../a.mp4' is not inside the root"),
        ("path,caption\nhttps://x.org/a.mp4,x\n", "is a URL; videos are files"),
        ('path,caption\na.mp4,"x\n', "no table: unexpected end of data"),
        ('{"path": "a.mp4", "caption": "x"}\n{"path"\n', "line 2, column 1: no JSON"),
        ('{"path": "a.mp4", "caption": "x"}\n[1]\n', 'line 2, column 1: an object such as {"path": ..., "caption"'),
        ('{"path": "a.mp4", "caption": []}\n', "'a.mp4' has no text"),
        ('{"path": "a.mp4", "caption": [3]}\n', "the text of 'a.mp4' is 3"),
        ('{"path": null, "caption": "x"}\n', "the path of a video must stand there, got None"),
    ],
)
def test_faults_say_where_and_what(folder, text, fault):
    (folder / "list.txt").write_text(text)
    with pytest.raises(AnnotationError) as error:
        read_captions(folder / "list.txt")
    assert fault in str(error.value)
