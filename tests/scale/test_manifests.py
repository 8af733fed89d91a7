"""Which columns of a Parquet file hold the videos and their names, and what its rows say."""

import pytest

from support.shelf import fill, no_pauses  # noqa: F401
from transformers_ila.scale.manifests import read_manifest
from transformers_ila.scale.options import EngineOptions


pytestmark = pytest.mark.usefixtures("no_pauses")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def rows(tmp_path, columns, *, row_group_size=None, **options):
    """Number, id, path and cell of each row."""
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet", row_group_size=row_group_size)
    return [tuple(row) for row in read_manifest(str(tmp_path / "m.parquet"), EngineOptions(engine="ray", **options))]


def struct(*cells):
    return pyarrow.array(cells, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))


TEXTS = {
    "string": pyarrow.string(),
    "large": pyarrow.large_string(),
    "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", ["video", "Path", "file_name", "url"])
def test_columns_with_paths(tmp_path, kind, name):
    columns = {"label": ["x", "y"], name: pyarrow.array(["a.mp4", None], TEXTS[kind]), "id": [7, 8]}
    assert rows(tmp_path, columns) == [(0, "7", "a.mp4", None), (1, "8", None, None)]


@pytest.mark.parametrize("type", [pyarrow.binary(), pyarrow.large_binary()])
def test_columns_with_bytes(tmp_path, type):
    columns = {"video": pyarrow.array([b"1", b"2", b"3"], type), "video_id": ["a", "b", "c"]}
    cells = [(0, 0, "video"), (0, 1, "video"), (1, 0, "video")]
    found = rows(tmp_path, columns, row_group_size=2)
    assert found == [(n, id, None, cell) for n, (id, cell) in enumerate(zip("abc", cells))]
    assert [row[1] for row in rows(tmp_path, {"video": [b"1"]})] == [None]


def test_structs_as_data_sets_have_them(tmp_path):
    """Row groups without any bytes are paths; of others the bytes count, and the path where a row has none."""
    cells = struct(
        {"path": "a.mp4", "bytes": None}, None, {"path": "b.mp4", "bytes": b"1"}, {"path": None, "bytes": None}
    )
    found = rows(tmp_path, {"clip": cells, "path": [1, 2, 3, 4]}, row_group_size=2)
    assert found[:2] == [(0, None, "a.mp4", None), (1, None, None, None)]
    assert found[2:] == [(2, None, None, (1, 0, "clip")), (3, None, None, (1, 1, "clip"))]


def test_a_data_set_with_its_videos_inside(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.mp4").write_bytes(b"inside")
    data = datasets.Dataset.from_dict({"video": [str(tmp_path / "a.mp4")]}).cast_column("video", datasets.Video())
    file, found = str(tmp_path / "d.parquet"), []
    for rows in (data, data.with_format("arrow").map(datasets.table.embed_table_storage, batched=True)):
        rows.to_parquet(file)
        found += [row[2:] for row in read_manifest(file, EngineOptions(engine="ray"))]
    assert found == [(str(tmp_path / "a.mp4"), None), (None, (0, 0, "video"))]


def test_columns_are_chosen(tmp_path):
    columns = {"video": [b"1"], "path": ["a.mp4"], "label": ["walk"], "id": ["x"], "key": ["y"]}
    assert rows(tmp_path, columns, video_column="path", id_column="key") == [(0, "y", "a.mp4", None)]
    assert rows(tmp_path, columns, video_column="video", id_column="path") == [(0, "a.mp4", None, (0, 0, "video"))]
    assert rows(tmp_path, columns, video_column="path", id_column="path") == [(0, "a.mp4", "a.mp4", None)]


FAULTS = [
    ({"video": ["a"], "path": ["b"]}, {}, "'video', 'path' may each be meant; choose by video_column"),
    ({"video": ["a"], "id": [1], "uid": [2]}, {}, "'id', 'uid' may each be meant; choose by id_column"),
    (
        {"clip": ["a"], "n": [1]},
        {},
        "no column of videos with paths, .* has clip \\(string\\), n \\(int64\\)",
    ),
    ({"video": [1.5]}, {}, "no column of videos .* it has video \\(double\\)"),
    ({"video": [["a"]]}, {}, "no column of videos"),
    ({"video": ["a"]}, {"video_column": "clip"}, "no column 'clip' with paths"),
    ({"video": ["a"], "n": [1]}, {"video_column": "n"}, "no column 'n' with paths, bytes"),
    (
        {"video": ["a"], "n": [1.5]},
        {"id_column": "n"},
        "no column 'n' with texts or whole numbers; it has",
    ),
    (
        {"video": ["a", "b"], "id": ["x", None]},
        {},
        "row 1: 'id' is None, where the video's name must stand",
    ),
]


@pytest.mark.parametrize("columns, options, message", FAULTS)
def test_faults(tmp_path, columns, options, message):
    with pytest.raises(ValueError, match=message):
        rows(tmp_path, columns, **options)


def test_a_manifest_that_ends_early_is_an_error(tmp_path):
    parquet.write_table(pyarrow.table({"path": [f"{n}.mp4" for n in range(1000)]}), tmp_path / "m.parquet")
    content = (tmp_path / "m.parquet").read_bytes()
    fill({"b/m.parquet": content[:-100], "b/n.parquet": b""})
    for name in ("m", "n"):
        with pytest.raises(ValueError, match=f"Cannot read 'shelf://b/{name}.parquet': Arrow"):
            list(read_manifest(f"shelf://b/{name}.parquet", EngineOptions(engine="ray")))
