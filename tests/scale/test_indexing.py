"""Windows of planned videos: whatever becomes of their reader, and in whatever order they come, rows are the plain."""

import pickle
import random

import pytest
import torch

from support.evaluation_models import make_model
from support.videos import write_video
from transformers_ila import IlaVideoProcessor
from transformers_ila.data.lists import iter_videos
from transformers_ila.evaluation.options import IndexOptions
from transformers_ila.evaluation.views import Video
from transformers_ila.search import windows
from transformers_ila.search.indexing import WindowRows, index_settings, iter_features


pyarrow = pytest.importorskip("pyarrow")

from transformers_ila.scale import pipeline  # noqa: E402  (it needs pyarrow)
from transformers_ila.scale.cluster import Cluster  # noqa: E402
from transformers_ila.scale.indexing import (  # noqa: E402
    Indexer,
    IndexReader,
    PlannedWindows,
    WindowIndexer,
    WindowsReader,
    windows_of_video,
)
from transformers_ila.scale.options import EngineOptions  # noqa: E402
from transformers_ila.scale.plan import iter_planned, write_plan  # noqa: E402
from transformers_ila.scale.reading import Allowance  # noqa: E402
from transformers_ila.scale.sources import PlannedVideo  # noqa: E402


ENGINE = EngineOptions(engine="ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos of 4 and 1.2 seconds, and one that cannot be read."""
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "long.mp4", 100)
    write_video(root / "short.mp4", 30)
    (root / "text.mp4").write_text("no video")
    return root


class Here:
    """In place of a `ChildReader`: reads in this process."""

    def __init__(self, read, **options):
        self.work = read

    def allowance(self):
        return Allowance(60, 0)

    def read(self, item, allowance=None):
        video = self.work(item)
        return video._replace(key=item) if video.key is None else video


def opened():
    model = make_model()
    return model, IlaVideoProcessor.for_model(model.config)


def replica(kind, options):
    settings = index_settings(*opened(), options)
    cluster = Cluster(readers=1, replicas=1, cpus=1, gpus=False, most_threads=torch.get_num_threads())
    return kind(opened, options, settings, cluster)


def planned_tables(folder, tmp_path, rows):
    plan = write_plan(iter_planned(str(folder), None, ENGINE), tmp_path / "plan")
    (table,) = pipeline.read_plan(pyarrow.table({"file": plan.files, "first": [0]}))
    return [table.slice(begin, rows) for begin in range(0, len(table), rows)]


def plain_rows(folder, options):
    found = iter_features(*opened(), iter_videos(folder), options)
    return {row["video"]: row for rows in found for row in rows}


def assert_same(rows, expected):
    assert {row["video"] for row in rows} == expected.keys() and len(rows) == len(expected)
    for row in rows:
        other = expected[row["video"]]
        assert {**row, "features": None, "spans": None} == {**other, "features": None, "spans": None}
        if other["reason"] is None:
            assert len(row["spans"]) == len(other["spans"])
            torch.testing.assert_close(
                torch.tensor(row["features"]), torch.tensor(other["features"]), rtol=0, atol=1e-6
            )


def test_whole_videos(monkeypatch, tmp_path, folder):
    options = IndexOptions(batch_size=2)
    monkeypatch.setattr(pipeline, "ChildReader", Here)
    read, compute = IndexReader(pipeline.PlannedReader(opened()[1], options), ENGINE), replica(Indexer, options)
    found = [compute(read(table)) for table in planned_tables(folder, tmp_path, 2)]
    rows = [pickle.loads(row) for table in found for row in table["row"].to_pylist()]
    assert sorted(number for table in found for number in table["number"].to_pylist()) == [0, 1, 2]
    assert_same(rows, plain_rows(folder, options))


def test_windows_in_any_order_and_more_than_once(monkeypatch, tmp_path, folder):
    options = IndexOptions(batch_size=2, window=0.5, random_frames=True, seed=1)
    expected = plain_rows(folder, options)
    monkeypatch.setattr(pipeline, "ChildReader", Here)
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 3 * 4 * 3 * 64 * 48)  # three windows
    read = WindowsReader(PlannedWindows(opened()[1], options), ENGINE, options.batch_size)
    tables = [piece for table in planned_tables(folder, tmp_path, 1) for piece in read(table)]
    assert [len(pickle.loads(key).spans) for piece in tables for key in piece["key"].to_pylist()] == [
        *(2, 1, 2, 1, 2),  # of a batch of two at most, of three that are read together
        *(2, 1),
        0,  # the one that cannot be read
    ]
    compute = replica(WindowIndexer, options)
    for order in range(3):
        random.Random(order).shuffle(tables)
        put_together, done, rows = WindowRows(), set(), []
        for piece in [*tables[:5], *tables[:2], *tables[5:]]:  # a reader died, and has sent some of them before
            result = compute(piece)
            for number, part in zip(result["number"].to_pylist(), result["row"].to_pylist()):
                if number not in done and (row := put_together.add(*pickle.loads(part))) is not None:
                    done.add(number)
                    rows.append(row)
        assert_same(rows, expected)


@pytest.mark.parametrize("fails", [0, 3, 6])
def test_a_child_that_dies_at_a_window(monkeypatch, folder, fails):
    """The video has no row but the reason, also where some of its windows were read and come behind it."""
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 3 * 4 * 3 * 64 * 48)
    read = PlannedWindows(opened()[1], IndexOptions(window=0.5))

    class Dying(Here):
        def read(self, item, allowance=None):
            return Video(item, "", None, reason="it died") if item[1] == fails else super().read(item)

    planned = PlannedVideo("a name", str(folder / "long.mp4"))
    videos = list(windows_of_video(Dying(read), planned))
    assert [video.key.first for video in videos] == list(range(0, fails + 1, 3))
    for some in (videos, videos[::-1]):
        put_together = WindowRows()
        rows = [put_together.add(video, torch.eye(4)[: len(video.key.spans)]) for video in some]
        (row,) = (row for row in rows if row is not None)
        assert (row["video"], row["rows"], row["reason"]) == ("a name", 0, "it died")


def test_windows_share_the_time_of_their_video(monkeypatch, folder):
    """However many pieces a video is read in, all of them have what one video may take."""
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 3 * 4 * 3 * 64 * 48)  # three windows

    class Slow(Here):
        def read(self, item, allowance):
            if allowance.seconds < 20:
                return Video(item, "", None, reason="not read in 60 s")
            allowance.seconds -= 20
            return super().read(item)

    read, planned = PlannedWindows(opened()[1], IndexOptions(window=0.25)), PlannedVideo("a", str(folder / "long.mp4"))
    videos = list(windows_of_video(Slow(read), planned))
    assert [(video.key.first, video.reason) for video in videos] == [
        (0, ""),
        (3, ""),
        (6, ""),
        (9, "not read in 60 s"),
    ]
    assert videos[-1].key.total == 16


def test_where_no_child_reads_windows_the_run_ends(monkeypatch, tmp_path, folder):
    class Broken(Here):
        def read(self, item, allowance=None):
            raise RuntimeError("the process that reads videos does not start")

    monkeypatch.setattr(pipeline, "ChildReader", Broken)
    options = IndexOptions(batch_size=2, window=0.5)
    read = WindowsReader(PlannedWindows(opened()[1], options), ENGINE, options.batch_size)
    (table,) = read(planned_tables(folder, tmp_path, 1)[0])
    found = replica(WindowIndexer, options)(table)
    (number,), (row,) = found["number"].to_pylist(), found["row"].to_pylist()
    assert (number, pickle.loads(row)) == (-1, "the process that reads videos does not start")


def test_another_try_lists_a_video_anew(tmp_path, folder):
    """A video that was not there, or has other bytes now, is not remembered as such."""
    read, path = PlannedWindows(opened()[1], IndexOptions(window=1)), tmp_path / "late.mp4"
    planned = PlannedVideo("late", str(path))
    assert "no such file" in read((planned, 0)).reason
    path.write_bytes((folder / "long.mp4").read_bytes())
    video = read((planned, 0))
    assert video.reason == "" and video.key.total == 4 and len(video.views) == 4
