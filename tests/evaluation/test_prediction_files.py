"""Results at an address: one writer at a time without locks, stores that fail in turn, few pieces."""

import json
from collections import Counter
from functools import partial

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from transformers_ila.data.lists import iter_videos
from transformers_ila.distributed import Rank
from transformers_ila.evaluation import prediction_files, result_pieces
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction import label_videos
from transformers_ila.evaluation.prediction_files import (
    ResultWriter,
    check_settings,
    done_videos,
    part_files,
    read_results,
    video_id,
)
from transformers_ila.files import FolderInUseError
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.stores import addresses
from transformers_ila.stores import folder as store_folder


pytest.importorskip("pyarrow")
PARQUET = LabelOptions(format="parquet")
ALONE, RETRY = Rank(), LabelOptions(format="parquet", retry=True)
SETTINGS = {"format": "parquet", "top_k": 5}


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing catches it, and what waited is not written."""


class FaultyStore(MemoryFileSystem):
    """Answers in turn as `faults` says: fails before it acts, or behind it, or with fewer or other bytes."""

    protocol = "faulty"
    store, pseudo_dirs = {}, [""]
    faults: list[str | None] = []
    requests = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    @classmethod
    def answer(cls, action):
        cls.requests += 1
        fault = cls.faults.pop(0) if cls.faults else None
        if fault == "refused":
            raise OSError("503 Slow Down, https://host/bucket?X-Amz-Signature=S3CRET")
        if fault == "killed":
            raise Killed
        result = action()
        if fault == "lost":
            raise ConnectionResetError("the answer did not come")
        if fault == "killed behind":
            raise Killed
        if fault == "cut":
            return result[:-7]
        if fault == "other":
            return result[: len(result) // 2] + bytes(9) + result[len(result) // 2 + 9 :]
        return result

    def ls(self, path, detail=True, **options):
        return self.answer(partial(super().ls, path, detail))

    def pipe_file(self, path, value, mode="overwrite", **options):
        return self.answer(partial(super().pipe_file, path, value, mode))

    def cat_file(self, path, start=None, end=None, **options):
        return self.answer(partial(super().cat_file, path, start, end))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(addresses, "READ_WAITS", (0.0,) * 3)
    monkeypatch.setattr(addresses, "WRITE_WAITS", (0.0,) * 5)
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    MemoryFileSystem.store.clear()
    FaultyStore.store.clear()
    FaultyStore.faults, FaultyStore.requests = [], 0


def row(name, reason=None):
    labels = None if reason else ["juggling"]
    return {"video": name, "labels": labels, "scores": labels and [0.5], "frames_lost": 0, "reason": reason}


def run(folder, names, options=PARQUET, rank=ALONE, *, unreadable=(), batch=1):
    """What a run does: what is not done is computed and written, a batch at a time."""
    check_settings(folder, SETTINGS)
    with ResultWriter(folder, options, rank) as writer:
        done = done_videos(folder, options, rank)
        missing = [name for name in names if rank.takes(video_id(name)) and video_id(name) not in done]
        for start in range(0, len(missing), batch):
            writer.append(
                [row(name, "broken" if name in unreadable else None) for name in missing[start : start + batch]]
            )
    return len(missing)


def names_of(folder):
    return sorted(found["video"] for found in read_results(folder))


# -- the same results ------------------------------------------------------------------------------------------------


def test_a_command_goes_on_at_an_address_as_in_a_folder(tmp_path, model, processor):
    (tmp_path / "videos").mkdir()
    write_folder(tmp_path / "videos", 4, seed=0, num_frames=9)
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    videos, places = list(iter_videos(tmp_path / "videos")), ("memory://bucket/labels", tmp_path / "out")
    options = LabelOptions(format="parquet", embeddings=True, batch_size=2)
    for place in places:
        label_videos(model, processor, videos[:3], place, options)
        summary = label_videos(model, processor, videos, place, options)
        assert (summary.before, summary.labelled + summary.unreadable) == (3, 2)
        with pytest.raises(ValueError, match="holds other results; .* differ in top_k 5, now 2"):
            label_videos(model, processor, videos, place, LabelOptions(format="parquet", embeddings=True, top_k=2))
    there, here = map(list, map(read_results, places))
    assert there == here and len(there) == 5
    assert [part.name for part in part_files(places[0], "parquet")] == [
        part.name for part in part_files(places[1], "parquet")
    ]


def test_a_file_address_is_a_folder_with_locks(tmp_path):
    address = (tmp_path / "out").as_uri()
    assert run(address, ["a", "b"]) == 2 and names_of(tmp_path / "out") == ["a", "b"]
    with ResultWriter(address, PARQUET, Rank()), pytest.raises(ValueError, match="Another process writes"):
        ResultWriter(tmp_path / "out", PARQUET, Rank())


@pytest.mark.parametrize(
    ("address", "format", "message"),
    [
        ("memory://bucket/x", "jsonl", "in the format 'parquet', got 'jsonl': nothing can be appended"),
        ("https://host/x", "parquet", "'https://host/x' can only be read"),
        ("nowhere://bucket/x", "parquet", "no file system is known for nowhere://; allowed are"),
        ("zip://x::s3://bucket/y.zip", "parquet", "is a chain of addresses"),
        ("s3://", "parquet", "'s3://' names no bucket or folder"),
        ("s3://KEY:S3CRET@bucket/x", "parquet", r"'s3://\*\*\*@bucket/x' has a password or a query in it. Keys come"),
        ("s3://bucket/x?X-Amz-Signature=S3CRET", "parquet", r"has a password or a query in it"),
        ("abfs://c@account.dfs.core.windows.net/x?sig=S3CRET", "parquet", "has a password or a query in it"),
    ],
)
def test_addresses_that_cannot_hold_results(address, format, message):
    for opened in (
        lambda: check_settings(address, {"format": format}),
        lambda: ResultWriter(address, LabelOptions(format=format), Rank()),
    ):
        with pytest.raises(ValueError, match=message) as error:
            opened()
        assert "S3CRET" not in str(error.value)


# -- one writer ------------------------------------------------------------------------------------------------------


def test_of_two_runs_at_once_the_slower_one_ends_and_nothing_is_there_twice():
    folder = "memory://bucket/labels"
    check_settings(folder, SETTINGS)
    with ResultWriter(folder, PARQUET, Rank()) as first:
        second = ResultWriter(folder, PARQUET, Rank())
        second.append([row("a"), row("b")])
        first.append([row("a")])
    with pytest.raises(FolderInUseError, match="Another run writes here: 'part-00000-of-00001-000000.parquet'"):
        second.__exit__(None)
    second.__exit__(None)  # nothing is left that could be written behind the other run's piece
    assert names_of(folder) == ["a"]
    assert run(folder, ["a", "b"]) == 1 and names_of(folder) == ["a", "b"]


def test_a_run_that_tries_again_ends_an_older_one_first():
    """Else it would take out rows that the older run has just written, and that run would not know."""
    folder = "memory://bucket/labels"
    run(folder, "abc", unreadable="b")
    older = ResultWriter(folder, PARQUET, Rank())
    older.append([row("d")])
    newer = ResultWriter(folder, RETRY, Rank())
    assert len(done_videos(folder, RETRY, Rank())) == 2 and names_of(folder) == ["a", "c"]
    with pytest.raises(FolderInUseError):
        older.__exit__(None)
    newer.append([row("b")])
    newer.__exit__(None)
    assert names_of(folder) == ["a", "b", "c"]


def test_processes_share_the_videos_and_stay_as_many():
    folder, names = "memory://bucket/labels", [str(number) for number in range(40)]
    shares = [run(folder, names, rank=Rank(rank, 2), unreadable=names[::5]) for rank in range(2)]
    assert sum(shares) == 40 and min(shares) > 9
    assert sum(run(folder, names, RETRY, Rank(rank, 2)) for rank in range(2)) == 8
    with pytest.raises(
        ValueError, match="another number of processes write to .*: .*2}, this one has 1. Start as many"
    ):
        run(folder, names)
    assert names_of(folder) == sorted(names)


def test_a_store_that_does_not_create_exclusively_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(store_folder.logger, "propagate", True)
    run("memory://bucket/x", "a")
    assert not caplog.records
    for looks_first in (
        AbstractFileSystem.pipe_file,
        lambda self, path, value, mode=None: self.open(path, "wb", data=value),
    ):
        monkeypatch.setattr(FaultyStore, "pipe_file", looks_first)
        run("faulty://bucket/x", "ab")
        assert caplog.messages[-1].startswith("Nothing keeps another run from writing to 'faulty://bucket/x'")


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refused", "lost", "cut", "other"])
def test_each_request_may_fail_once(fault, monkeypatch):
    """A lost answer is the hard one: the piece is there, and must not be taken for that of another run."""
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 2)
    folder, at, reads = "faulty://bucket/x", 0, fault in ("cut", "other")
    run(folder, "abcd", unreadable="b")
    before = dict(FaultyStore.store)
    while True:
        FaultyStore.store.clear()
        FaultyStore.store.update(before)
        FaultyStore.requests, FaultyStore.faults = 0, [None] * at + [fault]
        if reads:  # these faults are of contents
            monkeypatch.setattr(FaultyStore, "ls", MemoryFileSystem.ls)
            monkeypatch.setattr(FaultyStore, "pipe_file", MemoryFileSystem.pipe_file)
        assert run(folder, "abcdefg", RETRY) == 4
        left, FaultyStore.faults = FaultyStore.faults, []
        assert names_of(folder) == list("abcdefg")
        if left:
            break
        at += 1
    assert at >= (5 if reads else 12)


@pytest.mark.parametrize("when", ["killed", "killed behind"])
def test_a_run_may_be_killed_at_each_request(when, monkeypatch):
    """Killed before or behind each request of a run that also tries again, and once more at each of the next run."""
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 2)
    folder, ended = "faulty://bucket/x", False
    run(folder, "abcdef", unreadable="bce")
    before, at = dict(FaultyStore.store), 0
    while not ended:
        FaultyStore.store.clear()
        FaultyStore.store.update(before)
        for again in (RETRY, PARQUET):
            FaultyStore.faults = [None] * at + [when]
            try:
                # what a killed process cannot do any more
                with monkeypatch.context() as patched:
                    patched.setattr(ResultWriter, "__exit__", _exit_unless_killed)
                    run(folder, "abcdefgh", again, unreadable="e")
                ended = ended or (again is RETRY and bool(FaultyStore.faults))
            except Killed:
                pass
            FaultyStore.faults = []
            names = Counter(names_of(folder))
            assert not names or max(names.values()) == 1
            assert set("adf") <= set(names)  # what was labelled is never lost
        run(folder, "abcdefgh", unreadable="e")
        assert names_of(folder) == list("abcdefgh")
        at += 1
    assert at > 15


_EXIT = ResultWriter.__exit__


def _exit_unless_killed(self, kind, *rest):
    return None if kind is Killed else _EXIT(self, kind, *rest)


def test_a_store_that_stays_away_is_one_error_and_costs_nothing():
    folder = "faulty://bucket/x"
    check_settings(folder, SETTINGS)
    writer = ResultWriter(folder, PARQUET, Rank())
    writer.append([row("a"), row("b")])
    FaultyStore.faults = ["lost"] + ["refused"] * 5  # it was stored, and nobody can say so
    with pytest.raises(
        OSError, match="Cannot create 'part-00000-of-00001-000000.parquet' in 'faulty://bucket/x': 503"
    ) as e:
        writer._write_piece()
    assert "S3CRET" not in str(e.value) and e.value.__suppress_context__
    writer.append([row("c")])
    writer.__exit__(None)
    assert names_of(folder) == ["a", "b", "c"]
    FaultyStore.faults = ["refused"] * 9
    with pytest.raises(OSError, match="Cannot list 'faulty://bucket/x': 503 Slow Down, https://host/bucket"):
        part_files(folder, "parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:200], "cannot be read as a piece of results: Parquet magic bytes not found"),
        (lambda content: b"", "cannot be read as a piece of results: Parquet file size is 0 bytes"),
        (lambda content: another_table(), "holds no results: it has no column video, reason"),
    ],
)
def test_a_piece_that_is_none_is_named(tmp_path, damage, message):
    check_settings(tmp_path, SETTINGS)
    with ResultWriter(tmp_path, PARQUET, ALONE) as writer:
        writer.append([row("a"), row("b")])
    (file,) = part_files(tmp_path, "parquet")
    file.write_bytes(damage(file.read_bytes()))
    for read in (lambda: done_videos(tmp_path, PARQUET, ALONE), lambda: list(read_results(tmp_path))):
        with pytest.raises(ValueError, match=f"'{file}' {message}") as error:
            read()
        assert "\n" not in str(error.value)


def another_table():
    from pyarrow import BufferOutputStream, Table, parquet

    file = BufferOutputStream()
    parquet.write_table(Table.from_pydict({"x": [1]}), file)
    return file.getvalue().to_pybytes()


def test_settings_that_do_not_fit_the_disk_leave_nothing(tmp_path, monkeypatch):
    def write_text(self, content, **options):
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "write_text", write_text)
        with pytest.raises(OSError, match="No space left"):
            check_settings(tmp_path, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_damaged_pieces_are_read_again_and_then_an_error(monkeypatch):
    """Also where a piece is large and only its columns are read."""
    folder = "faulty://bucket/x"
    run(folder, [f"video {number}" for number in range(500)], batch=500)
    FaultyStore.faults = [None, "other", "cut"]
    assert len(done_videos(folder, PARQUET, Rank())) == 500 and not FaultyStore.faults
    FaultyStore.faults = [None] + ["other"] * 9
    with pytest.raises(OSError, match="Cannot read 'part-00000-of-00001-000000.parquet' in"):
        done_videos(folder, PARQUET, Rank())
    FaultyStore.faults = []
    monkeypatch.setattr(result_pieces, "READ_WHOLE", 0)
    assert len(done_videos(folder, PARQUET, Rank())) == 500
    path = "/bucket/x/part-00000-of-00001-000000.parquet"
    content = FaultyStore.store[path].getvalue()
    place = len(content) // 4  # within a page
    FaultyStore().pipe_file(path, content[:place] + bytes(3) + content[place + 3 :])
    with pytest.raises(OSError, match="Cannot read .*CRC checksum"):
        list(read_results(folder))


# -- pieces ----------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def monotonic(self):
        return self.now


def test_a_run_of_ten_hours_leaves_few_pieces_and_loses_little(monkeypatch):
    folder, clock, waited = "memory://bucket/labels", Clock(), []
    monkeypatch.setattr(prediction_files, "time", clock)
    check_settings(folder, SETTINGS)
    with ResultWriter(folder, PARQUET, Rank()) as writer:
        for number in range(1800):  # a video in twenty seconds
            clock.now += 20
            writer.append([row(str(number))])
            waited.append(len(writer.tables) * 20)
    assert max(waited[:30]) <= 120 and max(waited) <= 480  # in the first ten minutes, and at last
    assert len(part_files(folder, "parquet")) <= 140
    assert len(set(names_of(folder))) == 1800


def test_pieces_are_bounded_in_rows_and_bytes(tmp_path, monkeypatch):
    from pyarrow import parquet

    options = LabelOptions(format="parquet", embeddings=True)
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 30_000)
    monkeypatch.setattr(prediction_files, "BYTES_OF_A_PIECE", 2**20)
    check_settings(tmp_path, SETTINGS)
    with ResultWriter(tmp_path, options, Rank()) as writer:
        for _ in range(2):
            writer.append([{**row(str(number)), "embedding": [0.5]} for number in range(15_000)])
        for _ in range(4):
            writer.append([{**row("long"), "embedding": [0.5] * 2**17}])
    first, *others = map(parquet.ParquetFile, part_files(tmp_path, "parquet"))
    assert first.metadata.num_rows == 30_000 and first.num_row_groups == 3
    assert [part.metadata.num_rows for part in others] == [2, 2]


def test_settings_of_several_processes_are_created_once():
    folder = "memory://bucket/labels"
    for _ in range(2):
        check_settings(folder, SETTINGS)
    assert json.loads(MemoryFileSystem.store["/bucket/labels/_settings.json"].getvalue()) == SETTINGS
    MemoryFileSystem().pipe_file("/bucket/labels/_settings.json", b"\xff half")
    with pytest.raises(ValueError, match="does not say what the results are of"):
        check_settings(folder, SETTINGS)
