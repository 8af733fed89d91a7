"""An index by actors of Ray Data, as labels are made (`pipeline.py`): of whole videos, or of windows of them.

A long video has hundreds of windows: its reader yields some at a time, which go through the replicas by themselves,
and this process puts them together again, in whatever order they come. A line is written when the last one is there.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..distributed import Rank
from ..evaluation.options import IndexOptions
from ..evaluation.prediction import Row
from ..evaluation.views import Video, in_batches
from ..model.video_container_ila import ReadLimits
from ..model.video_processing_ila import IlaVideoProcessor
from ..search.index_files import local_folder
from ..search.indexing import (
    IndexedVideos,
    IndexSummary,
    WindowRows,
    index_batch,
    index_settings,
    open_index,
    window_features,
)
from ..search.windows import SomeWindows, WindowReader
from .cluster import import_ray, join_cluster
from .options import EngineOptions
from .pipeline import (
    OpenModel,
    PlannedReader,
    Reader,
    Replica,
    fault_to_table,
    only,
    rows_once,
    videos_of_table,
    videos_to_table,
)
from .plan import iter_planned, plan_folder, read_planned, write_plan
from .reading import ChildReader
from .sources import PlannedVideo, open_source


DEFAULTS = IndexOptions()
BYTES_OF_A_BLOCK = 2**20  # after which no more windows join it
NO_EDGES = SomeWindows("", "").edges


def index_on_ray(
    open_model: OpenModel,
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    options: IndexOptions = DEFAULTS,
    engine: EngineOptions | None = None,
    *,
    root: str | Path | None = None,
    source: str | Path | None = None,
    show: Callable[[list[Row]], object] | None = None,
) -> IndexSummary:
    """Add the videos that are not in an index yet by actors of Ray, as `index_videos` does.

    Args:
        open_model: returns the model and its processor; called here and by every replica, so it must pickle.
        sources: see `iter_planned`.
        output: folder of the index, on this machine.
        options: see `IndexOptions`. `device` says of which kind the replicas' devices are.
        engine: see `EngineOptions`.
        root: see `iter_planned`.
        source: where the model lies, which the index notes for searches; by default the model's `name_or_path`.
        show: called with the rows as they come.

    Raises:
        ValueError: as of `index_videos`; options without effect; a cluster that is too small for what is asked.
        ImportError: Ray is not installed.
        RuntimeError: what ended the run in another process; videos of which no row came.
    """
    engine = engine or EngineOptions(engine="ray")
    engine.check(options)
    import_ray()
    folder = local_folder(output)
    planned = iter_planned(sources, root, engine)  # now, as it finds at once what is missing
    model, processor = open_model()
    summary = IndexSummary()
    with ExitStack() as stack:
        cluster = stack.enter_context(join_cluster(engine, options.device))
        summary.actors = str(cluster)
        options = cluster.resolve(only(options, IndexOptions))
        settings = index_settings(model, processor, options)
        opened = open_index(model, processor, folder, options, rank=Rank(), source=source)
        writer, known = stack.enter_context(opened)
        del model
        place = stack.enter_context(plan_folder(folder))
        plan = write_plan(_under_own_names(planned, known), place, known.ids)
        summary.seen, summary.before = plan.seen, len(known.ids)
        replica_of = {"open_model": open_model, "options": options, "settings": settings, "cluster": cluster}
        reader: tuple[type, dict[str, Any]]
        if options.window is None:
            reader = IndexReader, {"read": PlannedReader(processor, options), "engine": engine}
            rows_of = rows_once(cluster, plan, reader, (Indexer, replica_of), options.batch_size, summary)
        else:
            read = PlannedWindows(processor, options)
            reader = WindowsReader, {"read": read, "engine": engine, "batch_size": options.batch_size}
            join = WindowRows().add
            stack.enter_context(_small_blocks())
            rows_of = rows_once(cluster, plan, reader, (WindowIndexer, replica_of), 1, summary, join=join)
        for rows in rows_of:
            summary.count(rows)
            writer.append(rows)
            if show is not None:
                show(rows)
    return summary


@contextmanager
def _small_blocks() -> Iterator[None]:
    """Let Ray Data hand on each table of windows by itself, where it would wait for more of them."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = BYTES_OF_A_BLOCK
    try:
        yield
    finally:
        context.target_max_block_size = before


def _under_own_names(videos: Iterable[PlannedVideo], known: IndexedVideos) -> Iterator[PlannedVideo]:
    """Yield videos, and refuse one of a name that stands for another file of the index."""
    for planned in videos:
        known.check(planned.video, planned.path)
        yield planned


# -- readers ---------------------------------------------------------------------------------------------------------


class IndexReader(Reader):
    """An actor that reads whole videos, and tells the replicas where each lies."""

    def __call__(self, table: Any) -> Any:
        """Return a table as `Reader` does, with the `key` of each video: its name and path."""
        found, videos = super().__call__(table), read_planned(table)
        return _with_keys(found, [(planned.video, planned.path) for planned in videos][: len(found)])  # one is a fault


class PlannedWindows:
    """Read windows of a planned video, in the child of a reader; what was opened last is kept."""

    def __init__(self, processor: IlaVideoProcessor, options: IndexOptions) -> None:
        self.read, self.limits = WindowReader(processor, options), ReadLimits.from_options(processor.read_limits)
        self.planned: PlannedVideo | None = None
        self.source: Any = None
        self.windows: dict[int, SomeWindows] = {}

    def __call__(self, item: tuple[PlannedVideo, int]) -> Video:
        """Return the windows that are read together from one on, by the video and that one's number."""
        planned, first = item
        if planned != self.planned:
            self.planned = self.source = None
            try:
                self.source = open_source(planned, self.limits, copy_urls=True)
            except (ValueError, OSError) as error:
                return Video(None, planned.video, None, reason=str(error))
            listed = self.read.windows(planned.video, planned.path, self.source)
            self.windows = {some.first: some for some in listed}
            self.planned = None if listed[0].reason else planned  # which the next try lists anew
        video = self.read(self.windows[first], self.source)
        return video._replace(key=video.key._replace(edges=NO_EDGES))


def windows_of_video(child: ChildReader, planned: PlannedVideo) -> Iterator[Video]:
    """Yield the windows of a video, as many at a time as are read together, until one cannot be read.

    All of them together may take the time and the tries of one video.
    """
    first, total, allowance = 0, 0, child.allowance()
    while True:
        video = child.read((planned, first), allowance)
        if video.reason:  # of these windows, so of all that are left
            total = max(total, getattr(video.key, "total", 0))
            left = [(0.0, 0.0)] * (total - first)
            some = SomeWindows(planned.video, planned.path, left, first, total, reason=video.reason)
            yield video._replace(key=some, name=planned.video, views=None)
            return
        yield video
        first, total = first + len(video.key.spans), video.key.total
        if first >= total:
            return


class WindowsReader(Reader):
    """An actor that reads windows of videos."""

    def __init__(self, read: PlannedWindows, engine: EngineOptions, batch_size: int) -> None:
        super().__init__(read, engine)
        self.batch_size = batch_size

    def __call__(self, table: Any) -> Iterator[Any]:
        """Yield tables as `Reader` does, each with windows for a batch of the model, and as `key` which these are."""
        try:
            for planned, number in zip(read_planned(table), table["number"].to_pylist()):
                for video in windows_of_video(self.child, planned):
                    for some in _in_batches(video, self.batch_size):
                        yield _with_keys(videos_to_table([some], [some.name], [number]), [some.key])
        except RuntimeError as error:  # no child can read
            yield _with_keys(fault_to_table(error), [None])


def _in_batches(video: Video, batch_size: int) -> Iterator[Video]:
    """Yield the windows of an item, as many at a time as go through the model together."""
    some: SomeWindows = video.key
    if video.views is None:
        yield video
        return
    for begin in range(0, len(some.spans), batch_size):
        spans = some.spans[begin : begin + batch_size]
        key = some._replace(spans=spans, first=some.first + begin)
        yield video._replace(key=key, views=video.views[begin : begin + batch_size])


def _with_keys(table: Any, keys: Sequence[Any]) -> Any:
    import pyarrow

    return table.append_column("key", pyarrow.array(list(map(pickle.dumps, keys)), pyarrow.binary()))


# -- replicas --------------------------------------------------------------------------------------------------------


class Indexer(Replica):
    """An actor that makes the rows of whole videos."""

    def describe(self, model: Any, options: IndexOptions) -> dict[str, Any]:
        """Return what the rows of the index depend on."""
        return index_settings(model, self.processor, options)

    def compute(self, table: Any) -> list[tuple[int, Any]]:
        """Return number and row of each video."""
        found, numbers = list[tuple[int, Any]](), dict[str, int]()
        videos = list[Video]()
        for video, key in _videos_with_keys(table):
            numbers[video.name] = video.key
            videos.append(video._replace(key=key))
        for batch in in_batches(videos, batch_size=self.options.batch_size):
            rows = index_batch(self.network, self.processor, batch)
            found += zip([numbers[video.name] for video in (*batch.unreadable, *batch.read)], rows)
        return found


class WindowIndexer(Indexer):
    """An actor that computes the features of windows."""

    def compute(self, table: Any) -> list[tuple[int, Any]]:
        """Return for each row the video's number, and what `WindowRows.add` takes."""
        found = list[tuple[int, Any]]()
        for video, key in _videos_with_keys(table):
            features = None
            if video.views is not None:
                features = window_features(self.network, self.processor, video.views)
            found.append((video.key, (video._replace(key=key, views=None), features)))
        return found


def _videos_with_keys(table: Any) -> Iterator[tuple[Video, Any]]:
    """Yield the videos of a table, whose keys are their numbers, each with what its reader says beside it."""
    for video, key in zip(videos_of_table(table), table["key"].to_pylist()):
        yield video, pickle.loads(key)
