"""Labels by actors of Ray Data: readers read, replicas of the model compute, and this process alone writes.

```
plan's files -> read here -> repartition: blocks of a batch -> readers: uint8 clips -> replicas: rows -> writer here
```

What is unusual here:
- The results are the only record of what is done. The plan leaves out what they hold; Ray does again what dies on the
  way; a row that comes twice is dropped; a row that does not come is an error at the end.
- A reader reads in a child process (`reading.py`), so that a file cannot end an actor.
- A clip travels as bytes with its shape, as clips of one batch may differ in size.
"""

import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from ..distributed import Rank
from ..evaluation.inference import evaluating
from ..evaluation.options import InferenceOptions, LabelOptions, Options
from ..evaluation.prediction import Row, Summary, check_none_of_these, label_batch, label_settings
from ..evaluation.prediction_files import ResultWriter, check_settings, done_videos
from ..evaluation.views import Video, VideoReader, in_batches
from ..model.video_container_ila import ReadLimits
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from ..stores.addresses import is_address
from ..stores.folder import open_folder
from .cluster import Cluster, import_ray, join_cluster
from .options import EngineOptions
from .plan import ROWS_OF_A_FILE, Plan, iter_planned, plan_folder, read_planned, write_plan
from .reading import ChildReader
from .sources import PlannedSource, PlannedVideo


OpenModel = Callable[[], tuple[Any, Any]]  # returns a model and its processor, in any process
DEFAULTS = LabelOptions()
SECONDS_OF_A_LINE = 60.0  # between lines about progress where no terminal is


def label_on_ray(
    open_model: OpenModel,
    sources: str | Path | Sequence[str | Path],
    output: str | Path | None,
    options: LabelOptions = DEFAULTS,
    engine: EngineOptions | None = None,
    *,
    root: str | Path | None = None,
    show: Callable[[list[Row]], object] | None = None,
) -> Summary:
    """Label the videos that have no result yet by actors of Ray, and write the results as `label_videos` does.

    Args:
        open_model: returns the model and its processor; called here and by every replica, so it must pickle.
        sources: see `iter_planned`.
        output: folder for the results; None: nothing is written, and all videos are labelled.
        options: see `LabelOptions`. `device` says of which kind the replicas' devices are.
        engine: see `EngineOptions`.
        root: see `iter_planned`.
        show: called with the rows as they come.

    Raises:
        ValueError: as of `label_videos`; options without effect; a cluster that is too small for what is asked.
        ImportError: Ray is not installed.
        RuntimeError: what ended the run in another process; videos of which no row came.
    """
    engine = engine or EngineOptions(engine="ray")
    engine.check(options)
    import_ray()
    planned = iter_planned(sources, root, engine)  # now, as it finds at once what is missing
    model, processor = open_model()
    check_none_of_these(model, options)
    summary = Summary()
    with ExitStack() as stack:
        cluster = stack.enter_context(join_cluster(engine, options.device))
        summary.actors = str(cluster)
        options = cluster.resolve(only(options, LabelOptions))
        settings = label_settings(model, processor, options)
        del model
        writer, done = None, set[bytes]()
        if output is not None:
            place = open_folder(output)
            check_settings(place, settings)
            writer = stack.enter_context(ResultWriter(place, options, Rank()))
            done = done_videos(place, options, Rank())
        folder = stack.enter_context(_plan_folder(output))
        plan = write_plan(planned, folder, done)
        summary.seen, summary.before = plan.seen, len(done)
        reader = (Reader, {"read": PlannedReader(processor, options), "engine": engine})
        replica = (Labeller, {"open_model": open_model, "options": options, "settings": settings, "cluster": cluster})
        for rows in rows_once(cluster, plan, reader, replica, options.batch_size, summary):
            summary.count(rows)
            if writer is not None:
                writer.append(rows)
            if show is not None:
                show(rows)
    return summary


def _plan_folder(output: str | Path | None) -> AbstractContextManager[str]:
    """Return a folder here for the plan: beside the results, so that the next run removes what a killed one left."""
    if output is None or is_address(output):
        return TemporaryDirectory(prefix="ila_plan_")
    return plan_folder(output)


def only(options: Options, kind: type[Options]) -> Options:
    """Return the fields of one class of options, without those of the command and without its device."""
    values = {entry.name: getattr(options, entry.name) for entry in fields(kind)}
    return kind(**{**values, "device": None})


# -- in this process -------------------------------------------------------------------------------------------------


Actors = tuple[type, dict[str, Any]]  # a class and the arguments of its constructor


def stream(cluster: Cluster, plan: Plan, reader: Actors, replica: Actors, batch_size: int) -> Iterator[Any]:
    """Yield the tables that the replicas return, in any order; a table may come again after an actor was lost.

    Args:
        plan: whose files are read on this machine.
        reader: called with a table of the plan, of `batch_size` rows at most; returns a table or yields some.
        replica: called with each of these tables, and returns one.
    """
    import ray.data
    from ray.data import ActorPoolStrategy

    if not plan.files:
        return
    with cluster.context():
        files = [{"file": file, "first": index * ROWS_OF_A_FILE} for index, file in enumerate(plan.files)]
        some = ray.data.from_items(files, override_num_blocks=len(files))
        some = some.map_batches(read_plan, batch_size=None, batch_format="pyarrow", **cluster.here())
        some = some.repartition(target_num_rows_per_block=batch_size)
        for (actor, arguments), size, resources in (
            (reader, cluster.readers, cluster.reader_resources),
            (replica, cluster.replicas, cluster.replica_resources),
        ):
            some = some.map_batches(
                actor,
                fn_constructor_kwargs=arguments,
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=size),
                **resources,
            )
        yield from some.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def rows_once(
    cluster: Cluster,
    plan: Plan,
    reader: Actors,
    replica: Actors,
    batch_size: int,
    summary: Summary,
    *,
    join: Callable[..., Row | None] | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of all planned videos, each once, as they come.

    The tables of the replicas have for each video its `number` in the plan and its pickled `row`, and how long the
    replica `waited` and `worked` for it, in seconds.

    Args:
        join: where a video comes in pieces, called with what stands for a piece in place of the row; returns the row
            once it has the last piece. A piece may come twice.

    Raises:
        RuntimeError: an actor that cannot work; videos of which no row came.
    """
    arrived, clock, started = bytearray(plan.planned), Waiting(), 0.0
    shown = plan.planned > 0 and not sys.stderr.isatty()  # on a terminal Ray shows its own bars
    with tqdm(total=plan.planned, unit="video", mininterval=SECONDS_OF_A_LINE, disable=not shown) as bar:
        for table in stream(cluster, plan, reader, replica, batch_size):
            rows = _new_rows(table, arrived, join)
            clock.add(table)
            started = started or time.perf_counter() - clock.waited - clock.worked  # when the first replica was ready
            summary.seconds = time.perf_counter() - started
            summary.waited = clock.share * summary.seconds
            bar.set_postfix_str(f"replicas wait {clock.share:.0%}", refresh=False)
            bar.update(len(rows))
            yield rows
    if missing := arrived.count(0):
        raise RuntimeError(f"No row came of {missing} of {plan.planned} videos; the same command goes on from here.")


def _new_rows(table: Any, arrived: bytearray, join: Callable[..., Row | None] | None) -> list[Row]:
    """Return the rows of a replica's table of videos of which none has come, and note that they have."""
    rows = []
    for number, row in zip(table["number"].to_pylist(), table["row"].to_pylist()):
        if number < 0:
            raise RuntimeError(f"An actor ended the run: {pickle.loads(row)}")
        if arrived[number]:  # by a batch that was done again
            continue
        found = pickle.loads(row) if join is None else join(*pickle.loads(row))
        if found is not None:
            arrived[number] = 1
            rows.append(found)
    return rows


class Waiting:
    """Add up how long the replicas waited for clips and worked on them, in seconds."""

    def __init__(self) -> None:
        self.waited = self.worked = 0.0

    def add(self, table: Any) -> None:
        """Add what a replica's table says in its columns `waited` and `worked`."""
        self.waited += sum(table["waited"].to_pylist())
        self.worked += sum(table["worked"].to_pylist())

    @property
    def share(self) -> float:
        """Return the share of their time that the replicas waited."""
        return self.waited / ((self.waited + self.worked) or 1.0)


def read_plan(files: Any) -> Iterator[Any]:
    """Yield the rows of a plan's files, with the `number` of each; run where the files lie."""
    import pyarrow
    from pyarrow import parquet

    for file, first in zip(files["file"].to_pylist(), files["first"].to_pylist()):
        rows = parquet.read_table(file, partitioning=None)
        numbers = pyarrow.array(range(first, first + len(rows)), pyarrow.int64())
        yield rows.append_column("number", numbers)


# -- in actors -------------------------------------------------------------------------------------------------------


class PlannedReader:
    """Read a planned video, in the child of a reader."""

    def __init__(self, processor: IlaVideoProcessor, options: InferenceOptions) -> None:
        self.read = VideoReader(processor, options)
        self.limits = ReadLimits.from_options(processor.read_limits)

    def __call__(self, planned: PlannedVideo) -> Video:
        """Return the video, or the reason why it cannot be read."""
        return self.read(planned.video, PlannedSource(planned, self.limits))


class Reader:
    """An actor that reads the videos of a plan, one at a time, in a child process."""

    def __init__(self, read: Callable[[Any], Video], engine: EngineOptions) -> None:
        torch.set_num_threads(1)
        self.child = ChildReader(read, timeout=engine.video_timeout, retries=engine.retries, preload=("ray",))

    def __call__(self, table: Any) -> Any:
        """Return a table with a row for each video of a plan's table: `pixels` and `shape`, or the reason.

        Where no child can read, that is the answer (`fault_to_table`).
        """
        try:
            videos = [self.child.read(planned) for planned in read_planned(table)]
        except RuntimeError as error:
            return fault_to_table(error)
        return videos_to_table(videos, [video.key.video for video in videos], table["number"])


def fault_to_table(error: RuntimeError) -> Any:
    """Return what ends the run, as a reader's table: the reason in a row whose number is -1."""
    import pyarrow

    fault = Video(None, "", None, reason=_fault(error))
    return videos_to_table([fault], [""], pyarrow.array([-1], pyarrow.int64()))


def videos_to_table(videos: Sequence[Video], names: Sequence[str], numbers: Any) -> Any:
    """Return videos as an Arrow table, with their names and `numbers`, (n,) int64."""
    import pyarrow

    views = [video.views for video in videos]
    return pyarrow.table(
        {
            "number": numbers,
            "video": pyarrow.array(names, pyarrow.string()),
            "pixels": pyarrow.array([_bytes_of(view) for view in views], pyarrow.large_binary()),
            "shape": pyarrow.array([_shape_of(view) for view in views], pyarrow.list_(pyarrow.int32())),
            "frames_lost": pyarrow.array([video.frames_lost for video in videos], pyarrow.int64()),
            "reason": pyarrow.array([video.reason for video in videos], pyarrow.string()),
        }
    )


def videos_of_table(table: Any) -> list[Video]:
    """Return the videos of a table that `videos_to_table` made, whose keys are their numbers."""
    videos = []
    for index, (number, name, shape, lost, reason) in enumerate(
        zip(*(table[column].to_pylist() for column in ("number", "video", "shape", "frames_lost", "reason")))
    ):
        views = None
        if shape is not None:
            pixels = table["pixels"][index].as_buffer()
            views = torch.frombuffer(pixels, dtype=torch.uint8).reshape(shape)
        videos.append(Video(number, name, views, lost, reason))
    return videos


def _shape_of(views: torch.Tensor | None) -> list[int] | None:
    return None if views is None else list(views.shape)


def _bytes_of(views: torch.Tensor | None) -> Any:
    return None if views is None else views.numpy().tobytes()


class Replica:
    """An actor that holds the model, and measures how long it waits between batches.

    A replica of another checkpoint than this run's, or with other options, does no work. What goes wrong in it is an
    answer, the first one: Ray would tell of it in pages, and start the replica anew.
    """

    def __init__(
        self,
        open_model: OpenModel,
        options: Any,
        settings: dict[str, Any],
        cluster: Cluster,
    ) -> None:
        self.fault, self.ended = "", 0.0
        try:
            if (threads := cluster.threads()) is not None:
                torch.set_num_threads(threads)
            model, self.processor = open_model()
            found = self.describe(model, options)
            if found != settings:
                differ = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
                raise ValueError(f"The model that a replica opened differs from this run's in {', '.join(differ)}.")
            self.options = replace(options, device=cluster.device)
            self.stack = ExitStack()  # kept, or the context would end here
            self.network = self.stack.enter_context(evaluating(model, self.options))
        except Exception as error:
            self.fault = _fault(error)
        self.ended = time.perf_counter()

    def describe(self, model: Any, options: Any) -> dict[str, Any]:
        """Return what the rows depend on."""
        raise NotImplementedError

    def compute(self, table: Any) -> list[tuple[int, Any]]:
        """Return number and row of each video of a reader's table."""
        raise NotImplementedError

    def __call__(self, table: Any) -> Any:
        """Return a table with `number` and pickled `row` of each video; of a fault the number is -1."""
        import pyarrow

        started, numbered = time.perf_counter(), list[tuple[int, Any]]()
        if table["number"][0].as_py() < 0:
            self.fault = table["reason"][0].as_py()
        try:
            if not self.fault:
                with torch.no_grad():  # which is of a thread, and actors may have several
                    numbered = self.compute(table)
        except Exception as error:
            self.fault = _fault(error)
        waited, ended = started - self.ended, time.perf_counter()
        self.ended = ended
        numbered = [(-1, self.fault)] if self.fault else numbered
        count = len(numbered) or 1
        return pyarrow.table(
            {
                "number": pyarrow.array([number for number, _ in numbered], pyarrow.int64()),
                "row": pyarrow.array([pickle.dumps(row) for _, row in numbered], pyarrow.large_binary()),
                "waited": pyarrow.array([waited / count] * len(numbered), pyarrow.float64()),
                "worked": pyarrow.array([(ended - started) / count] * len(numbered), pyarrow.float64()),
            }
        )


def _fault(error: Exception) -> str:
    """Return what went wrong in one line."""
    kind = "" if isinstance(error, (ValueError, OSError, RuntimeError)) else f"{type(error).__name__}: "
    return redact(" ".join(f"{kind}{error}".split()))


class Labeller(Replica):
    """An actor that labels videos."""

    def describe(self, model: Any, options: LabelOptions) -> dict[str, Any]:
        """Return what the labels depend on, as `label_settings` does."""
        return label_settings(model, self.processor, options)

    def compute(self, table: Any) -> list[tuple[int, Any]]:
        """Return number and row of each video."""
        found = list[tuple[int, Any]]()
        for batch in in_batches(videos_of_table(table), batch_size=self.options.batch_size):
            rows = label_batch(self.network, self.processor, batch, self.options)
            found += zip([video.key for video in (*batch.unreadable, *batch.read)], rows)
        return found
