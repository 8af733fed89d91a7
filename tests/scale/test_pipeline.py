"""What the pipeline does outside of Ray: clips as tables, rows once, a replica's checks."""

import pickle

import pyarrow
import pytest
import torch

from support.evaluation_models import make_model
from transformers_ila import IlaVideoProcessor
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction import Summary, iter_labels, label_settings
from transformers_ila.evaluation.views import Video, VideoReader
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.scale import EngineOptions, label_on_ray, pipeline
from transformers_ila.scale.cluster import Cluster
from transformers_ila.scale.pipeline import Labeller, Reader, rows_once, videos_of_table, videos_to_table
from transformers_ila.scale.plan import Plan
from transformers_ila.scale.sources import PlannedVideo


CLUSTER = Cluster(readers=1, replicas=1, cpus=1.0, gpus=False, most_threads=1)


def open_model(**fields):
    model = make_model(**fields)
    return model, IlaVideoProcessor.for_model(model.config)


def test_clips_of_any_size_travel():
    views = [torch.randint(256, size, dtype=torch.uint8) for size in ((2, 3, 4, 5), (2, 2, 3, 6, 1))]
    videos = [
        Video(None, "", views[0], 1),
        Video(None, "", None, reason="é"),
        Video(None, "", views[1].transpose(0, 1)),
    ]
    table = videos_to_table(videos, ["a", "b", "ü"], pyarrow.array([7, 8, 9], pyarrow.int64()))
    found = videos_of_table(table.slice(1).combine_chunks())
    assert [(video.key, video.name, video.reason) for video in found] == [(8, "b", "é"), (9, "ü", "")]
    assert found[0].views is None and torch.equal(found[1].views, views[1].transpose(0, 1))
    assert torch.equal(videos_of_table(table)[0].views, views[0]) and videos_of_table(table)[0].frames_lost == 1


def rows_of(monkeypatch, tables, *, planned):
    """What comes of tables with the numbers of videos."""

    def stream(*_):
        for numbers in tables:
            rows = [pickle.dumps(f"row {number}") for number in numbers]
            yield pyarrow.table(
                {"number": numbers, "row": rows, "waited": [3.0] * len(rows), "worked": [1.0] * len(rows)}
            )

    monkeypatch.setattr(pipeline, "stream", stream)
    summary = Summary()
    rows = rows_once(CLUSTER, Plan([], 0, planned, 0, 0, 0), None, None, 2, summary)
    return [row for some in rows for row in some], summary


def test_rows_that_come_twice_are_dropped(monkeypatch):
    rows, summary = rows_of(monkeypatch, [[2, 0], [0, 1], [2]], planned=3)
    assert rows == ["row 2", "row 0", "row 1"]
    assert summary.waited == pytest.approx(0.75 * summary.seconds) and summary.seconds > 0


def test_a_row_that_does_not_come_is_an_error(monkeypatch):
    with pytest.raises(RuntimeError, match="No row came of 1 of 3 videos; the same command goes on from here"):
        rows_of(monkeypatch, [[2, 0]], planned=3)
    assert rows_of(monkeypatch, [], planned=0)[0] == []


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("videos"), 3, seed=0, num_frames=6)


def test_a_replica_makes_the_plain_commands_rows(paths):
    options = LabelOptions(batch_size=2, embeddings=True, top_k=2, protocol="3x1", random_frames=True, seed=1)
    model, processor = open_model()
    named = [(str(number), str(path)) for number, path in enumerate([*paths, "missing.mp4"])]
    expected = {row["video"]: row for rows in iter_labels(model, processor, named, options) for row in rows}
    videos = [VideoReader(processor, options)(*video) for video in named]
    table = videos_to_table(videos, [video.name for video in videos], pyarrow.array(range(4), pyarrow.int64()))
    replica = Labeller(open_model, options, label_settings(model, processor, options), CLUSTER)
    answer = replica(table)
    rows = {number: pickle.loads(row) for number, row in zip(answer["number"].to_pylist(), answer["row"].to_pylist())}
    assert rows == {number: expected[str(number)] for number in range(4)}
    assert sum(answer["worked"].to_pylist()) > 0 and min(answer["waited"].to_pylist()) >= 0


def fault_of(monkeypatch, open_it, settings, table=None):
    """What the driver says of the answer of a replica."""
    answer = Labeller(open_it, LabelOptions(fuse=False), settings, CLUSTER)(table or CLIP)
    monkeypatch.setattr(pipeline, "stream", lambda *_: [answer])
    with pytest.raises(RuntimeError) as caught:
        list(rows_once(CLUSTER, Plan([], 0, 1, 0, 0, 0), None, None, 2, Summary()))
    return str(caught.value).removeprefix("An actor ended the run: ")


CLIP = videos_to_table([Video(0, "", torch.zeros(4, 3, 32, 32, dtype=torch.uint8))], ["a"], pyarrow.array([0]))


def test_an_actor_that_cannot_work_says_why_in_one_line(monkeypatch):
    model, processor = open_model()
    settings = label_settings(model, processor, LabelOptions())

    def fail(**_):
        raise KeyError("first line\nhttps://me:secret@host")

    def open_nothing():
        raise OSError("there is no checkpoint here")

    assert fault_of(monkeypatch, open_nothing, settings) == "there is no checkpoint here"
    reader = Reader(None, EngineOptions(engine="ray"))
    monkeypatch.setattr(reader.child, "read", lambda _: exec("raise RuntimeError('there is no such package')"))
    plan = pyarrow.table({name: [None] for name in PlannedVideo._fields} | {"path": [b"a"], "number": [0]})
    assert fault_of(monkeypatch, open_model, settings, reader(plan)) == "there is no such package"
    model.forward = fail
    said = fault_of(monkeypatch, lambda: (model, processor), settings)
    assert said == r"KeyError: 'first line\nhttps://***@host'"
    torch.nn.init.zeros_(next(model.parameters()))
    processor.do_normalize = False
    said = fault_of(monkeypatch, lambda: (model, processor), settings)
    assert said == "The model that a replica opened differs from this run's in model, processor."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "workers is 2 and would have no effect on Ray; allowed: None, and readers"),
        ({"device": "cpu:1"}, "device must be cpu or cuda on Ray"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        label_on_ray(open_model, "videos", None, LabelOptions(**options))
    with pytest.raises(ValueError, match="engine must be ray here, got 'plain'"):
        label_on_ray(open_model, "videos", None, LabelOptions(), EngineOptions())


def test_without_ray_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"--engine ray needs Ray: pip install 'transformers-ila\[ray\]'"):
        label_on_ray(open_model, "videos", None)
