"""A planned video's bytes: whole, counted, within the limits, and with its name in what goes wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from support.annotation_files import write_shard
from support.shelf import Shelf, fill, no_pauses  # noqa: F401
from transformers_ila import IlaVideoProcessor
from transformers_ila.evaluation.options import InferenceOptions
from transformers_ila.evaluation.views import VideoReader
from transformers_ila.model.video_container_ila import ReadLimits, VideoDecodingError
from transformers_ila.model.video_reading_ila import read_video
from transformers_ila.scale import sources
from transformers_ila.scale.options import EngineOptions
from transformers_ila.scale.plan import iter_planned
from transformers_ila.scale.sources import PlannedSource, PlannedVideo, open_source
from transformers_ila.stores import reading
from transformers_ila.video_writing import write_mp4


pytestmark = pytest.mark.usefixtures("no_pauses")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[bytes]:
    """Three small videos."""
    folder, contents = tmp_path_factory.mktemp("clips"), []
    for brightness in (50, 100, 150):
        write_mp4(folder / "a.mp4", np.full((4, 32, 32, 3), brightness, np.uint8))
        contents.append((folder / "a.mp4").read_bytes())
    return contents


def brightness(source) -> int:
    frames, _ = read_video(source, lambda total: [0])
    return round(float(frames.mean()) / 50) * 50


def test_every_kind_of_source_gives_the_video(tmp_path, clips):
    struct = [{"bytes": clips[0], "path": "x.mp4"}, {"bytes": None, "path": "shelf://b/1.mp4"}, {"bytes": clips[2]}]
    parquet.write_table(pyarrow.table({"video": clips}), tmp_path / "m.parquet", row_group_size=2)
    parquet.write_table(pyarrow.table({"video": struct}), tmp_path / "n.parquet")
    write_shard(tmp_path / "s.tar", {f"{n}.mp4": clip for n, clip in enumerate(clips)})
    files = {name: (tmp_path / name).read_bytes() for name in ("m.parquet", "n.parquet", "s.tar")}
    fill({f"b/{n}.mp4": clip for n, clip in enumerate(clips)} | {f"all/{name}": file for name, file in files.items()})
    for folder in ("shelf://all", str(tmp_path)):
        for name in ("m.parquet", "n.parquet", "s.tar"):
            found = list(iter_planned(f"{folder}/{name}", options=EngineOptions(engine="ray")))
            assert [brightness(open_source(video)) for video in found] == [50, 100, 150]
            assert [brightness(open_source(found[n])) for n in (2, 0, 0, 1)] == [150, 50, 50, 100]
    assert [brightness(open_source(video)) for video in iter_planned("shelf://b")] == [50, 100, 150]


def test_what_the_processor_reads_itself_is_handed_on():
    for path in ("/d/a.mp4", "d/a.mp4", "https://host/a.mp4?token=1", "http://host/A"):
        assert open_source(PlannedVideo("a", path)) == path
    assert open_source(PlannedVideo("a", "file:///d/a b.mp4")) == "/d/a b.mp4"


def test_long_videos_are_no_bytes_in_memory(monkeypatch, clips):
    monkeypatch.setattr(sources, "IN_MEMORY", 1000)
    monkeypatch.setattr(reading, "PIECE", 300)
    fill({"b/a.mp4": clips[1]})
    content = open_source(PlannedVideo("a", "shelf://b/a.mp4"))
    assert content._rolled and brightness(content) == 100
    content.seek(0)
    assert content.read() == clips[1]


RANGE, CELL = {"offset": 3, "size": 5}, {"row_group": 0, "row": 0, "column": "video"}
FAULTS = {  # what is planned, what the store does, what the reason says
    "gone": (("shelf://b/gone.mp4", {}), {}, "'shelf://b/gone.mp4': there is no such file, folder or bucket"),
    "short": (("shelf://b/a.mp4", {}), {"missing_bytes": 1}, "8 bytes came where 9 were asked for, from 0 on"),
    "no range": (
        ("shelf://b/a.mp4", RANGE),
        {"ranges": False},
        "'name': the server sends all where a part",
    ),
    "past the end": (
        ("shelf://b/a.mp4", {"offset": 6, "size": 5}),
        {},
        "3 bytes came where 5 were asked for",
    ),
    "refused": (("shelf://b/a.mp4", {}), {"error": PermissionError("Access\nDenied.")}, "a.mp4': Access Denied$"),
    "odd": (
        ("shelf://b/a.mp4", {}),
        {"error": RuntimeError("https://u:p@h/x?sig=1")},
        "a.mp4': RuntimeError: https://\\*\\*\\*@h/x\\?\\*\\*\\*",
    ),
    "long": (("shelf://b/a.mp4", {}), {"error": OSError("<html>" * 1000)}, "^.{,500}$"),
    "none": (("", {}), {}, "'name': the manifest has neither a path nor bytes for it"),
    "no package": (("s3://b/a.mp4", {}), {}, "s3:// needs a package that is not installed: .*s3fs"),
    "chain": (("zip://a::s3://b/a.zip", {}), {}, "is a chain of addresses"),
    "no manifest": (("shelf://b/a.mp4", CELL), {}, "'name': ArrowInvalid"),
    "no row": (
        ("shelf://b/m.parquet", {**CELL, "row": 4}),
        {},
        "'name': the row group has 2 rows, and row 4 was planned",
    ),
    "empty": (("shelf://b/m.parquet", {**CELL, "row": 1}), {}, "'name': the manifest has neither a path nor bytes"),
    "relative": (
        ("shelf://b/m.parquet", CELL),
        {},
        "'name': its row has no bytes, and its path 'a.mp4' says no folder",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reasons_of_rows(monkeypatch, tmp_path, fault):
    rows = [{"bytes": None, "path": "a.mp4"}, {"bytes": None, "path": None}]
    parquet.write_table(pyarrow.table({"video": rows}), tmp_path / "m.parquet")
    fill({"b/a.mp4": b"123456789", "b/m.parquet": (tmp_path / "m.parquet").read_bytes()})
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    (path, where), state, message = FAULTS[fault]
    for name, value in state.items():
        monkeypatch.setattr(Shelf, name, value)
    planned = PlannedVideo("name", path, **where)
    with pytest.raises(VideoDecodingError, match=message) as caught:
        open_source(planned)
    assert "\n" not in str(caught.value)
    video = VideoReader(IlaVideoProcessor(), InferenceOptions())("name", PlannedSource(planned))
    assert video.views is None and video.reason == str(caught.value)


def test_limits_hold_before_bytes_are_asked_for(monkeypatch, tmp_path):
    parquet.write_table(pyarrow.table({"video": [b"123456789"]}), tmp_path / "m.parquet")
    fill({"b/a.mp4": b"123456789", "b/m.parquet": (tmp_path / "m.parquet").read_bytes()})
    monkeypatch.setattr(Shelf, "error", AssertionError("bytes were asked for"))
    limits = ReadLimits(max_download_bytes=8)
    for path, where in (("a.mp4", {}), ("a.mp4", {"offset": 0, "size": 9})):
        with pytest.raises(VideoDecodingError, match="more than max_download_bytes=8 bytes"):
            open_source(PlannedVideo("name", f"shelf://b/{path}", **where), limits)
    monkeypatch.setattr(Shelf, "error", None)
    with pytest.raises(VideoDecodingError, match="more than max_download_bytes=8 bytes"):
        open_source(PlannedVideo("name", "shelf://b/m.parquet", **CELL), limits)
    with pytest.raises(VideoDecodingError, match="longer than max_seconds=1e-09"):
        open_source(PlannedVideo("name", "shelf://b/a.mp4"), ReadLimits(max_seconds=1e-9))
    with pytest.raises(VideoDecodingError, match="allow_private_addresses=False no shards or manifests"):
        open_source(PlannedVideo("name", "https://host/a.tar", 0, 9), ReadLimits(allow_private_addresses=False))


def test_cells_of_a_group_are_read_once(monkeypatch, tmp_path):
    """Rows in the order of the plan are read from one open file; others open it again."""
    table, opened, real = pyarrow.table({"video": [b"%d" % n for n in range(20)]}), [], sources.open_file
    parquet.write_table(table, tmp_path / "m.parquet", row_group_size=10)
    planned = list(iter_planned(tmp_path / "m.parquet"))
    monkeypatch.setattr(sources, "open_file", lambda path, **how: opened.append(path) or real(path, **how))
    order = [0, 3, 4, 9, 10, 15, 12, 12, 19]
    assert [open_source(planned[n]).read() for n in order] == [b"%d" % n for n in order]
    assert len(opened) == 4


def test_relative_paths_of_this_machine_stay(tmp_path, monkeypatch, clips):
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").write_bytes(clips[2])
    (video,) = iter_planned("a.mp4")
    assert os.path.isabs(video.path) and brightness(open_source(video)) == 150
