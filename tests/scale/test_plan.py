"""Which videos a plan holds, under which names; each once, in files of bounded size and with little memory."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from support.annotation_files import touch, write, write_shard
from support.shelf import Shelf, fill, no_pauses  # noqa: F401
from transformers_ila.data.annotations import AnnotationError
from transformers_ila.data.lists import iter_videos
from transformers_ila.evaluation.prediction_files import video_id
from transformers_ila.scale import plan
from transformers_ila.scale.options import EngineOptions
from transformers_ila.scale.plan import IdSet, iter_planned, plan_folder, read_planned, write_plan
from transformers_ila.scale.sources import PlannedVideo


pytestmark = pytest.mark.usefixtures("no_pauses")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def planned(sources, root=None, **options):
    """Name and path of each video."""
    found = iter_planned(sources, root, EngineOptions(engine="ray", **options))
    return [(video.video, video.path) for video in found]


def names(sources, root=None, **options):
    return [name for name, _ in planned(sources, root, **options)]


def shard(tmp_path, *members):
    return write_shard(tmp_path / "any.tar", dict.fromkeys(members, "content")).read_bytes()


def table(tmp_path, columns, **options):
    parquet.write_table(pyarrow.table(columns), tmp_path / "any.parquet", **options)
    return (tmp_path / "any.parquet").read_bytes()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with videos in two folders and lists of them."""
    touch(tmp_path, "one/a.mp4", "one/deep/b.webm", "one/notes.txt", "two/a.mp4", os.fsdecode(b"two/caf\xe9.mp4"))
    write(tmp_path / "list.txt", "path,label\none/a.mp4,3\ngone.mp4,1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(tmp_path):
    """A bucket with videos in folders, a list, manifests and shards, and another with a file of the same name."""
    fill(
        {
            "b/clips/a.mp4": b"1",
            "b/clips/deep/er/b.mp4": b"2",
            "b/clips/notes.txt": b"",
            "b/list.txt": b"clips/a.mp4 3\n./clips/../c d.mp4 1\nshelf://other/a.mp4\n",
            "b/paths/_hidden.parquet": b"no manifest",
            "b/paths/x/1.parquet": table(tmp_path, {"path": ["a.mp4", "shelf://other/a.mp4", "/d/c.mp4"]}),
            "b/bytes/2.parquet": table(tmp_path, {"video": [b"x", b"y", b"z"]}, row_group_size=2),
            "b/shards/s-000.tar": shard(tmp_path, "k/a.mp4", "k/a.cls", "b.webm", ".c.mp4"),
            "b/shards/s-001.tar": shard(tmp_path, "k/a.mp4"),
            "other/a.mp4": b"3",
        }
    )


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["one", "one/a.mp4", "*/a.mp4", "list.txt", "two", ("one", "two"), ("one", "list.txt")]
)
def test_what_the_plain_command_takes_has_its_names(here, source):
    plain = list(iter_videos(source))
    assert [path for _, path in planned(source)] == [path for _, path in plain]
    assert names(source) == [name.encode("utf-8", "backslashreplace").decode() for name, _ in plain]


SOURCES = {
    "shelf://b/clips": {"a.mp4": "shelf://b/clips/a.mp4", "deep/er/b.mp4": "shelf://b/clips/deep/er/b.mp4"},
    "shelf://b/clips/": {"a.mp4": "shelf://b/clips/a.mp4", "deep/er/b.mp4": "shelf://b/clips/deep/er/b.mp4"},
    "shelf://b/clips/a.mp4": {"shelf://b/clips/a.mp4": "shelf://b/clips/a.mp4"},
    "shelf://b/*/*.mp4": {"shelf://b/clips/a.mp4": "shelf://b/clips/a.mp4"},
    "shelf://b/list.txt": {
        "clips/a.mp4": "shelf://b/clips/a.mp4",
        "c d.mp4": "shelf://b/c d.mp4",
        "shelf://other/a.mp4": "shelf://other/a.mp4",
    },
    ("shelf://b/clips", "shelf://other"): {
        "shelf://b/clips/a.mp4": "shelf://b/clips/a.mp4",
        "shelf://b/clips/deep/er/b.mp4": "shelf://b/clips/deep/er/b.mp4",
        "shelf://other/a.mp4": "shelf://other/a.mp4",
    },
    "shelf://b/paths": {
        "a.mp4": "shelf://b/paths/a.mp4",
        "shelf://other/a.mp4": "shelf://other/a.mp4",
        "/d/c.mp4": "/d/c.mp4",
    },
    "shelf://b/paths/x/1.parquet": {
        "a.mp4": "shelf://b/paths/x/a.mp4",
        "shelf://other/a.mp4": "shelf://other/a.mp4",
        "/d/c.mp4": "/d/c.mp4",
    },
    "shelf://b/bytes": dict.fromkeys(["2.parquet/0", "2.parquet/1", "2.parquet/2"], "shelf://b/bytes/2.parquet"),
    "shelf://b/shards": {
        "s-000.tar/k/a.mp4": "shelf://b/shards/s-000.tar",
        "s-000.tar/b.webm": "shelf://b/shards/s-000.tar",
        "s-001.tar/k/a.mp4": "shelf://b/shards/s-001.tar",
    },
    "shelf://b/shards/s-{001..001}.tar": {"s-001.tar/k/a.mp4": "shelf://b/shards/s-001.tar"},
    "shelf://b/shards/*1.tar": {"s-001.tar/k/a.mp4": "shelf://b/shards/s-001.tar"},
    "https://me:secret@host/v?token=1": {"https://***@host/v?***": "https://me:secret@host/v?token=1"},
    ("two/a.mp4", "shelf://other/a.mp4"): {"two/a.mp4": "two/a.mp4", "shelf://other/a.mp4": "shelf://other/a.mp4"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_names_at_addresses(here, store, source):
    found = {name.split("***")[0] + "***" * ("***" in name): path for name, path in planned(source)}
    expected = {name.split("***")[0] + "***" * ("***" in name): path for name, path in SOURCES[source].items()}
    assert {name: path.removeprefix(f"{here}/") for name, path in found.items()} == expected
    assert "secret" not in str(names(source))


def test_roots_may_be_addresses(here, store):
    assert planned("list.txt", "shelf://b/clips/") == [
        ("one/a.mp4", "shelf://b/clips/one/a.mp4"),
        ("gone.mp4", "shelf://b/clips/gone.mp4"),
    ]
    assert planned("shelf://b/list.txt", "two")[0] == ("clips/a.mp4", str(here / "two/clips/a.mp4"))
    assert planned("shelf://b/paths", "shelf://other")[:2] == [("a.mp4", "shelf://other/a.mp4")] * 2
    assert planned(f"file://{here}/list.txt", f"file://{here}/one")[0] == ("one/a.mp4", str(here / "one/one/a.mp4"))


@pytest.mark.parametrize("source", ["shelf://b/paths", "shelf://b/list.txt"])
def test_a_missing_root_is_an_error(here, store, source):
    with pytest.raises(ValueError, match="There is no folder '.*nowhere' for the videos: `root`"):
        iter_planned(source, "nowhere")


def test_objects_whose_names_differ_behind_a_hash_are_two(store, tmp_path):
    fill({"b/take #1.mp4": b"1", "b/take #2.mp4": b"2"})
    plan = write_plan(iter_planned("shelf://b/*.mp4"), tmp_path / "plan")
    assert (plan.planned, plan.conflicting) == (2, 0)


def test_lists_may_hold_addresses(here):
    lines = ["two/a.mp4 1", "shelf://b/a b.mp4 2", "https://host/v.mp4?sign=1 walking", '"gs://b/c d" 4', "s3://b/e,5"]
    lines += ["file:///d/f.mp4 6", "S3://b/g.MP4"]
    write(here / "mixed.txt", "url label\n" + "\n".join(lines))
    paths = [str(here / "two/a.mp4"), "shelf://b/a b.mp4", "https://host/v.mp4?sign=1", "gs://b/c d", "s3://b/e"]
    assert [path for _, path in planned("mixed.txt")] == [*paths, "/d/f.mp4", "s3://b/g.MP4"]
    with pytest.raises(AnnotationError, match="line 3, column 1: 'shelf://b/a b.mp4' is a URL"):
        list(iter_videos("mixed.txt"))


def test_a_folder_of_videos_leaves_out_what_else_it_has(here, store, caplog):
    assert names("shelf://b") == ["clips/a.mp4", "clips/deep/er/b.mp4"]
    assert "'shelf://b': 7 files are left out: 3 '.parquet'" in caplog.text
    parquet.write_table(pyarrow.table({"path": ["x.mp4"]}), here / "one" / "m.parquet")
    assert names("one") == ["a.mp4", "deep/b.webm"]


FAULTS = {
    "shelf://gone": "Cannot read 'shelf://gone': there is no such file, folder or bucket",
    "shelf://b/gone.mp4": "Cannot read .*: there is no such",
    "shelf://b/*.avi": "Nothing matches 'shelf://b/\\*.avi'",
    "shelf://": "names no bucket",
    "shelf://*/a.mp4": "names no bucket",
    "shelf://b/shards/s-{000..003}.tar": None,  # found when it is opened
    "s4://b/x": "no file system is known for s4://",
    "memory://b/x": "is no place that another process can open",
    "zip://a.mp4::s3://b/x": "x': is a chain of addresses",
    "gone.parquet": "'gone.parquet' is no file, and no pattern or range of those; missing: '/.*/gone.parquet'",
    "s-{0..1}.tar": "missing: '/.*/s-0.tar', '/.*/s-1.tar'",
    "gone": "'gone' is neither a folder nor an annotation list nor a video",
    "both": "'/.*/both' holds 1 manifest and 1 shards: name one kind by a pattern",
    "empty": "'empty' holds no video; known suffixes",
    "shelf://b/clips/notes.txt": "holds no video",
    "broken.parquet": "Cannot read '/.*/broken.parquet': ArrowInvalid: ",
    "none.parquet": "'none.parquet' has no rows",
    (): "No source of videos is given",
}


@pytest.mark.parametrize("source", FAULTS)
def test_faults_of_sources_are_found_at_once(here, store, source):
    (here / "empty").mkdir()
    touch(here, "both/a.tar", "both/b.parquet")
    write(here / "broken.parquet", "no manifest at all")
    (here / "none.parquet").write_bytes(table(here, {"path": pyarrow.array([], "string")}))
    if FAULTS[source] is None:
        found = iter_planned(source)
        with pytest.raises(ValueError, match="Cannot read 'shelf://b/shards/s-002.tar': there is no such"):
            list(found)
        return
    with pytest.raises(ValueError, match=FAULTS[source]) as caught:
        iter_planned(source)
    assert "\n" not in str(caught.value)


def test_options_without_effect_are_errors(here, store):
    for source in ("one", "shelf://b/clips"):
        with pytest.raises(ValueError, match="id_column goes with a Parquet manifest; there is none"):
            names(source, id_column="id")
        with pytest.raises(ValueError, match="A root such as 'two' goes only with a list"):
            names(source, "two")


def test_a_missing_package_is_named(here, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(ValueError, match="s3:// needs a package that is not installed: .*s3fs"):
        names("s3://b/x")


def test_a_list_that_a_store_ends_early_is_an_error(store):
    Shelf.missing_bytes = 5
    with pytest.raises(ValueError, match="Cannot read 'shelf://b/list.txt': 50 bytes came where 55 were asked for"):
        names("shelf://b/list.txt")
    fill({"b/list.txt": b"a.mp4\n../../c.mp4\n"})
    with pytest.raises(AnnotationError, match="'shelf://b/list.txt', line 2, column 1: '../../c.mp4' leads out of"):
        names("shelf://b/list.txt")


# -- shards ----------------------------------------------------------------------------------------------------------


def test_videos_of_shards_are_ranges(here):
    write_shard(here / "s" / "a.tar", {"x.mp4": "first", "x.json": "{}", "d/y.mp4": "second one"})
    for video, content in zip(iter_planned("s"), [b"first", b"second one"], strict=True):
        assert (here / "s" / "a.tar").read_bytes()[video.offset :][: video.size] == content


@pytest.mark.parametrize("cut", [700, 1600, 2048])
def test_damaged_shards_are_errors(here, cut):
    file = write_shard(here / "s" / "a.tar", {"x.mp4": "first", "y.mp4": "second"})
    content = file.read_bytes()
    file.write_bytes(content[:cut] + b"?" * (cut == 2048) * 100)
    with pytest.raises(AnnotationError, match="a.tar': the shard"):
        names("s")


def test_compressed_shards_are_refused(here):
    write_shard(here / "s" / "a.tar.gz", {"x.mp4": "first"}, "w:gz")
    with pytest.raises(AnnotationError, match="a.tar.gz': no uncompressed tar file .* no video can be read alone"):
        names("s")


def test_shards_of_ila_shard(here, caplog):
    write_shard(here / "s" / "a.tar", {"x.mp4": "first"})
    touch(here, "s/_settings.json", "s/samples.jsonl")
    with pytest.raises(ValueError, match="/s' holds a part of the shards that `ila shard` writes there"):
        names("s")
    touch(here, "s/shards.json")
    assert names("s") == ["a.tar/x.mp4"] and not caplog.text


# -- plans -----------------------------------------------------------------------------------------------------------


def read(files):
    return [video for file in files for video in read_planned(parquet.read_table(file))]


def test_plans_hold_each_video_once(tmp_path, caplog):
    videos = [PlannedVideo(f"{n}.mp4", f"/d/{n}.mp4") for n in range(10)]
    again = [videos[3], PlannedVideo("4.mp4", "/elsewhere/4.mp4"), PlannedVideo("0.mp4", "/elsewhere/0.mp4")]
    made = write_plan([*videos, *again], tmp_path / "plan", {video_id("0.mp4"), video_id("other")}, rows_per_file=4)
    assert made[1:] == (13, 9, 1, 3, 2)
    assert read(made.files) == videos[1:]
    assert [len(read([file])) for file in made.files] == [4, 4, 1]
    assert "2 of 13 rows have the name of an earlier row and mean another file" in caplog.text


def test_plans_are_the_same_bytes_and_know_all_paths(tmp_path):
    odd = PlannedVideo("odd", os.fsdecode(b"/d/caf\xe9.mp4"), 2**40, 7, 1, 2**33, "video")
    contents = []
    for folder in ("one", "two"):
        made = write_plan([odd, PlannedVideo("b", "")], tmp_path / folder)
        contents.append([Path(file).read_bytes() for file in made.files])
        assert read(made.files) == [odd, PlannedVideo("b", "")]
    assert contents[0] == contents[1]


def test_nothing_is_planned_where_all_is_done(tmp_path):
    done = np.array([video_id("a"), video_id("b")], "S16")
    made = write_plan([PlannedVideo("a", "a"), PlannedVideo("a", "a")], tmp_path / "plan", done)
    assert made == ([], 2, 0, 1, 1, 0)


def test_plans_are_removed(tmp_path):
    touch(tmp_path, "_plan/left.parquet")
    with pytest.raises(KeyError), plan_folder(tmp_path) as folder:
        assert os.stat(folder).st_mode & 0o777 == 0o700
        made = write_plan([PlannedVideo("a", "a")], folder)
        assert made.files == [str(tmp_path / "_plan" / "plan-000000.parquet")] and os.listdir(folder) == [
            "plan-000000.parquet"
        ]
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_ids_are_found_in_any_order_and_number():
    generator, known, held = np.random.default_rng(0), dict[bytes, int](), IdSet()
    for size in (1, 700, 3, 2000, 40, 40, 500):
        ids = np.array([video_id(str(number)) for number in generator.integers(0, 2500, size)], "S16")
        marks = generator.integers(0, 3, size).astype(np.uint64)
        new, same = held.add(ids, marks)
        for id, mark, is_new, is_same in zip(ids.tolist(), marks.tolist(), new, same):
            assert is_new == (id not in known) and is_same == (known.setdefault(id, mark) == mark)
    ids = np.array([video_id(str(number)) for number in range(3000)], "S16")
    assert held.holds(ids).tolist() == [id in known for id in ids.tolist()]
    assert sum(len(run) for run, _ in held.runs) == len(known) and len(held.runs) < 5


def test_ids_that_end_in_zeros_are_told_apart():
    ids = np.array([b"a" * 15 + b"\0", b"a" * 14 + b"\0\0", b"\0" * 16, b"a" * 15 + b"\0"], "S16")
    assert IdSet().add(ids, np.zeros(4, np.uint64))[0].tolist() == [True, True, True, False]


def test_plans_need_little_memory(tmp_path, monkeypatch):
    """The rows alone would take some 6 MB, and those that are held together take a twentieth of it."""
    monkeypatch.setattr(plan, "ROWS_AT_ONCE", 500)
    rows = (PlannedVideo(f"class/video {n:09}", f"s3://bucket/a/long/path/of/{n:09}.mp4") for n in range(10_000))
    write_plan([PlannedVideo("a", "a")], tmp_path / "first")  # what is made once is made before
    tracemalloc.start()
    count = write_plan(rows, tmp_path / "plan").planned
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000 and peak < 2e6
