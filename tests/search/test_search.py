"""An index of videos: the same as a plain loop finds, through kills, several processes, drops, and other models."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import fsspec
import numpy as np
import pytest
import torch

from support.evaluation_models import TOLERANCE, make_model, views_of
from support.tiny_models import save_clip
from transformers_ila import IlaVideoProcessor
from transformers_ila.cli.main import run_verb
from transformers_ila.data.lists import iter_videos
from transformers_ila.distributed import Rank
from transformers_ila.evaluation.options import IndexOptions
from transformers_ila.motionbench.tasks import make_videos, write_folder
from transformers_ila.search import search
from transformers_ila.search.index_files import open_parts
from transformers_ila.search.indexing import NOT_FINITE, index_videos, load_for_index
from transformers_ila.search.search import VideoIndex, search_texts
from transformers_ila.video_writing import write_mp4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos, one of them long and with changing rate, and one that cannot be read."""
    root = tmp_path_factory.mktemp("videos")
    paths = write_folder(root, 5, seed=0, num_frames=9)
    paths[0].rename(paths[0].with_name("new\nline, é 7.mp4"))
    long = np.concatenate([video.frames for video in make_videos(3, seed=3, num_frames=20)])
    write_mp4(root / "long.mp4", long)
    (root / "text.mp4").write_text("no video")
    return root


def plain_search(rows, query, top_k, *, all_windows):
    """Names, starts and scores by a loop: `rows` are (name, start, vector) in the order of the index."""
    query = np.asarray(query, np.float64) / np.linalg.norm(query)
    scored = [(float(np.asarray(v, np.float64) @ query), name, start) for name, start, v in rows]
    scored.sort(key=lambda row: -row[0])  # stable
    found, seen = [], set()
    for score, name, start in scored:
        if all_windows or name not in seen:
            found.append((name, start, score))
        seen.add(name)
    return found[:top_k]


def rows_of(index):
    """(name, start, vector) of all rows that are not dropped, by the files alone."""
    rows = []
    for part in open_parts(index.folder, index.dimension):
        position = 0
        lines = {begin: line for begin, line in part.lines()}
        for record, vector in zip(part.records, part.vectors):
            if record["line"] in lines:
                start = None if np.isnan(record["start"]) else float(record["start"])
                rows.append((lines[record["line"]]["video"], start, np.array(vector)))
            position += 1
        assert position == len(part.vectors)
    return rows


# -- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize("top_k", [1, 4, 1000])
def test_search_is_a_plain_loop(tmp_path, monkeypatch, windows, queries, top_k):
    """Over several parts and blocks, with ties, rows that differ in the last bit, opposite ones and dropped ones."""
    monkeypatch.setattr(search, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(search, "ROWS_OF_PRODUCT", 11)
    monkeypatch.setattr(search, "SCORES_AT_ONCE", 200)
    generator = np.random.default_rng(windows + queries)
    features = generator.standard_normal((60, 16)).astype(np.float32)
    features[30:36] = features[5]  # the same
    features[40] = np.nextafter(features[5], 2)
    features[41] = -features[5]
    index = VideoIndex.create(tmp_path, 16, tower="numbers")
    names = [f"{row // windows}.mp4" for row in range(60)]
    spans = [(row % windows, row % windows + 1) for row in range(60)]
    for part, rows in enumerate((slice(0, 36), slice(36, 60))):
        monkeypatch.setattr(search, "Rank", lambda part=part: Rank(part, 2))
        index.add(names[rows], features[rows], windows=None if windows == 1 else spans[rows])
    asked = np.concatenate([features[5:6], generator.standard_normal((queries - 1, 16))])
    for dropped in (False, True):
        if dropped:
            index.drop("3.mp4", "1?.mp4")
        rows = rows_of(index)
        assert len(rows) == len(index) == index.to_dataset().num_rows
        for all_windows in (False, True):
            found = index.search(asked * 3, top_k, all_windows=all_windows)
            assert len(found) == queries
            for query, hits in zip(asked, found):
                expected = plain_search(rows, query.astype(np.float32), top_k, all_windows=all_windows)
                assert [(hit.video, hit.start) for hit in hits] == [(name, start) for name, start, _ in expected]
                assert [hit.score for hit in hits] == pytest.approx([score for *_, score in expected], abs=1e-6)
    index.drop("*")
    assert index.search(asked, top_k) == [[]] * queries and len(index) == 0
    with pytest.raises(ValueError, match="has no rows"):
        index.to_dataset()


def test_what_an_index_refuses(tmp_path):
    index = VideoIndex.create(tmp_path, 4)
    index.add(["a", "b"], torch.eye(4)[:2] * 5)
    index.add(["c", "c"], torch.eye(4)[2:], windows=[(0, 1), (1, 2)], paths=["/videos/c", "/videos/c"])
    assert [line["path"] for line in index.videos()] == ["a", "b", "/videos/c"]
    assert index.search([0, 0, 0, 2.0], 1)[0][0] == ("c", "/videos/c", 1.0, 2.0, 1.0)
    for wrong, message in (
        ([1.0, 2.0], r"must be \(Q, 4\) numbers, got \(1, 2\)"),
        ([1, 0, 0, float("nan")], "must be finite and not 0 everywhere; number 0 is not"),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], "number 1 is not"),
    ):
        with pytest.raises(ValueError, match=message):
            index.search(wrong)
        with pytest.raises(ValueError, match=message):
            index.add([str(number) for number in range(len(np.atleast_2d(wrong)))], wrong)
    for top_k in (0, True, 1.5):
        with pytest.raises(ValueError, match="top_k must be a whole number"):
            index.search([1, 0, 0, 0], top_k)
    with pytest.raises(ValueError, match="in the index already: 'a'"):
        index.add(["a"], torch.eye(4)[:1])
    with pytest.raises(ValueError, match="needs the `windows`"):
        index.add(["d", "d"], torch.eye(4)[:2])
    with pytest.raises(ValueError, match="as many as the 1 names"):
        index.add(["d"], torch.eye(4)[:2])
    with pytest.raises(ValueError, match="differ in dimension 4, now 5"):
        VideoIndex.create(tmp_path, 5)
    with pytest.raises(ValueError, match="holds no index"):
        VideoIndex(tmp_path / "nothing")
    with pytest.raises(ValueError, match="nothing to drop by"):
        index.drop()
    with pytest.raises(ValueError, match="No video .* is named so: 'x'"):
        index.drop("a", "x")
    assert len(index) == 4
    lines = tmp_path / "part-00000-of-00001.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b'"video"', b'"query"', 1))
    with pytest.raises(ValueError, match="line at byte 0 of .*part-00000-of-00001.jsonl' stands for no video"):
        list(index.videos())


def test_what_was_dropped_can_be_added_again(tmp_path):
    reader, index = VideoIndex.create(tmp_path, 4), VideoIndex.create(tmp_path, 4)
    index.add(["a", "b"], torch.eye(4)[:2])
    reader.refresh()
    assert index.drop("a") == ["a"] and len(reader) == 2  # which looked before
    index.add(["a"], torch.eye(4)[3:])
    reader.refresh()
    assert [hit.video for hit in reader.search(torch.eye(4)[0], 5)[0]] == ["b", "a"]
    assert reader.search(torch.eye(4)[3], 1)[0][0].video == "a"


def test_a_path_that_is_no_text_goes_into_a_data_set(tmp_path):
    pytest.importorskip("datasets")
    index = VideoIndex.create(tmp_path, 4)
    index.add(["a"], torch.eye(4)[:1], paths=["/videos/\udcff.mp4"])  # as Python reads bytes that are no UTF-8
    assert index.to_dataset()["path"][0] == "/videos/\\udcff.mp4"


def test_faiss_finds_the_same(tmp_path):
    """By `datasets`' own `add_faiss_index`, a flat one."""
    faiss = pytest.importorskip("faiss", reason="the extra faiss; make test-extra PARTS=faiss")
    features = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    index = VideoIndex.create(tmp_path, 32)
    index.add([f"{row}.mp4" for row in range(300)], features)
    index.drop("1?.mp4")
    data = index.to_dataset()
    data.add_faiss_index("embedding", metric_type=faiss.METRIC_INNER_PRODUCT)
    for query in features[:20]:
        hits = index.search(query, 7)[0]
        scores, found = data.get_nearest_examples("embedding", query / np.linalg.norm(query), k=7)
        assert found["video"] == [hit.video for hit in hits]
        assert scores == pytest.approx([hit.score for hit in hits], abs=1e-5)


# -- indexing --------------------------------------------------------------------------------------------------------


def test_rows_are_the_features_of_the_model(tmp_path, model, processor, folder, protocol="3x1"):
    options = IndexOptions(protocol=protocol, batch_size=4)
    summary = index_videos(model, processor, iter_videos(folder), tmp_path, options)
    assert (summary.seen, summary.labelled, summary.unreadable, summary.rows) == (7, 6, 1, 6)
    index = VideoIndex(tmp_path)
    rows = {name: vector for name, _, vector in rows_of(index)}
    for name, path in iter_videos(folder):
        if name == "text.mp4":
            continue
        with torch.no_grad():
            features = model.get_video_features(views_of(processor, path, protocol)).pooler_output
        mean = torch.nn.functional.normalize(torch.nn.functional.normalize(features, dim=-1).mean(0), dim=-1)
        np.testing.assert_allclose(rows[name], mean, atol=TOLERANCE)
        assert index.search(mean, 1)[0][0].video == name
    (line,) = (line for line in index.videos() if line["reason"] is not None)
    assert line["video"] == "text.mp4" and "Cannot read the video" in line["reason"]
    again = index_videos(model, processor, iter_videos(folder), tmp_path, options)
    assert (again.before, again.labelled, again.unreadable) == (7, 0, 0)
    again = index_videos(model, processor, iter_videos(folder), tmp_path, IndexOptions(protocol=protocol, retry=True))
    assert (again.before, again.labelled, again.unreadable) == (6, 0, 1)
    assert len(list(VideoIndex(tmp_path).videos())) == 7


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_windows_are_seconds_of_the_video(tmp_path, monkeypatch, model, processor, folder, workers):
    """60 frames at 8 a second; windows that are read a few at a time are those of the frames cut out by hand."""
    from transformers_ila.model.video_reading_ila import list_frames, read_video
    from transformers_ila.search import windows

    frames = read_video(folder / "long.mp4", range)[0]
    rate = list_frames(folder / "long.mp4").fps
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 2 * 4 * 3 * 3 * 28**2)  # three crops of two windows together
    options = IndexOptions(window=20 / rate, stride=15 / rate, batch_size=3, workers=workers, protocol="1x3")
    summary = index_videos(model, processor, iter_videos(folder), tmp_path, options)
    rows = {(name, start): vector for name, start, vector in rows_of(VideoIndex(tmp_path)) if name == "long.mp4"}
    assert summary.rows == 5 + 4 and summary.unreadable == 1
    assert [round(start * rate) for _, start in rows] == [0, 15, 30, 40]
    for (_, start), vector in rows.items():
        first = round(start * rate)
        with torch.no_grad():
            features = model.get_video_features(views_of(processor, frames[first : first + 20], "1x3")).pooler_output
        mean = torch.nn.functional.normalize(torch.nn.functional.normalize(features, dim=-1).mean(0), dim=-1)
        np.testing.assert_allclose(vector, mean, atol=TOLERANCE)
        hit = VideoIndex(tmp_path).search(mean, 1)[0][0]
        assert (hit.video, hit.start) == ("long.mp4", start) and hit.end == pytest.approx(start + 20 / rate)


@pytest.mark.parametrize(
    ("duration", "window", "stride", "expected"),
    [
        (11, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10), (7, 11)]),
        (10, 5, 5, [(0, 5), (5, 10)]),
        (9.99, 5, 5, [(0, 5), (5, 9.99)]),  # a rate that is a little off makes no window of its own
        (3, 4, 4, [(0, 3)]),
        (5, 1, 3, [(0, 1), (3, 4), (4, 5)]),
    ],
)
def test_windows_of(duration, window, stride, expected):
    from transformers_ila.search.windows import windows_of

    assert windows_of(duration, window=window, stride=stride, slack=0.02) == [pytest.approx(span) for span in expected]


def test_frames_between_changing_rates():
    from transformers_ila.search.windows import frames_between

    edges = np.array([0.0, 0.1, 0.2, 1.0, 5.0, 5.5])
    assert frames_between(edges, 0.0, 0.2) == (0, 2) and frames_between(edges, 0.2, 5.5) == (2, 5)
    assert frames_between(edges, 2.0, 4.0) == (3, 4)  # none begins there: the one that is shown
    assert frames_between(edges, 5.2, 5.5) == (4, 5)


def test_a_feature_that_is_no_number_is_refused(tmp_path, folder, processor, monkeypatch):
    model = make_model()
    with torch.no_grad():
        model.visual_projection.weight[0] = torch.nan
    summary = index_videos(model, processor, list(iter_videos(folder))[:2], tmp_path)
    assert summary.unreadable == 2 and {line["reason"] for line in VideoIndex(tmp_path).videos()} == {NOT_FINITE}
    assert len(VideoIndex(tmp_path)) == 0


@pytest.mark.parametrize(("worlds", "window"), [((2, 2), None), ((2, 1), 0.5), ((1, 3), None)])
def test_a_killed_run_goes_on(tmp_path, model, processor, folder, worlds, window):
    """It left half a line, rows without one, or half a row; the next run has as many processes, fewer, or more."""
    videos, (before, after), options = list(iter_videos(folder)), worlds, IndexOptions(window=window)
    for rank in range(before):
        index_videos(model, processor, videos[:5], tmp_path, options, rank=Rank(rank, before))
    whole = {name: vector for name, _, vector in rows_of(VideoIndex(tmp_path))}
    part = max((part.file for part in open_parts(tmp_path, 64)), key=lambda file: file.stat().st_size)
    lost = json.loads(part.read_bytes().splitlines()[-1])["video"]
    part.write_bytes(part.read_bytes()[:-9])
    for suffix in (".vectors", ".rows"):
        with part.with_suffix(suffix).open("ab") as file:
            file.write(b"\0\0\0")
    assert lost not in {name for name, _, _ in rows_of(VideoIndex(tmp_path))}
    done = 0
    for rank in range(after):
        summary = index_videos(model, processor, videos, tmp_path, options, rank=Rank(rank, after))
        done += summary.labelled + summary.unreadable
    assert done == 7 - 4
    index = VideoIndex(tmp_path)
    names = [line["video"] for line in index.videos()]
    assert len(names) == len(set(names)) == 7
    for name, _, vector in rows_of(index):
        assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)
        if window is None and name in whole:
            np.testing.assert_array_equal(vector, whole[name])


def test_another_model_frame_rule_or_window_is_refused(tmp_path, model, processor, folder):
    videos = list(iter_videos(folder))[:2]
    index_videos(model, processor, videos, tmp_path)
    for network, frames, options, message in (
        (make_model(alignment_fusion="residual"), processor, IndexOptions(), "differ in tower '.*fusion"),
        (model, IlaVideoProcessor.for_model(model.config, num_frames=5), IndexOptions(), "num_frames 4, now 5"),
        (model, processor, IndexOptions(window=1), "differ in window None, now 1"),
        (model, processor, IndexOptions(protocol="4x3"), "differ in protocol '1x1', now '4x3'"),
        (model, processor, IndexOptions(dtype="bfloat16"), "differ in dtype None, now 'bfloat16'"),
    ):
        with pytest.raises(ValueError, match=message):
            index_videos(network, frames, videos, tmp_path, options)
    index = VideoIndex(tmp_path)
    index.check(model, processor)
    renamed = make_model()
    renamed.config.id2label = {number: f"class {number}" for number in range(8)}
    index.check(renamed)  # no row depends on the classes
    with pytest.raises(ValueError, match="an index of another model. They differ in .*tower"):
        index.check(make_model(alignment_fusion="residual"))
    with pytest.raises(ValueError, match="differ in processor.num_frames 4, now 5"):
        index.check(model, IlaVideoProcessor.for_model(model.config, num_frames=5))


def test_bad_options():
    for fields, message in (
        ({"window": 0}, "window must be a number of seconds, 0.01 or more, got 0"),
        ({"window": 1e-7}, "window must be a number of seconds, 0.01 or more, got 1e-07"),
        ({"window": float("inf")}, "window must be"),
        ({"stride": 1}, "stride is 1 and would have no effect"),
        ({"window": 1, "stride": -1}, "stride must be"),
        ({"window": 1, "protocol": "4x3"}, "allowed beside it: 1x1, 1x3"),
        ({"seed": 1}, "seed is 1 and would have no effect"),
    ):
        with pytest.raises(ValueError, match=message):
            IndexOptions(**fields)


# -- the verbs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_the_verbs_find_videos_by_words_and_by_example(tmp_path, clip, folder, capsys):
    from transformers_ila.cli import index as index_verb
    from transformers_ila.cli import search as search_verb

    place, results = str(tmp_path / "index"), tmp_path / "results.jsonl"
    add = [str(folder), "--output", place, "--window", "2", "--device", "cpu"]
    assert run_verb(index_verb, add) == 2 and "name its folder or Hub id by --model" in capsys.readouterr().err
    assert run_verb(index_verb, [*add, "--model", str(clip)]) == 1  # a video cannot be read
    assert "6 videos indexed as " in capsys.readouterr().out
    assert run_verb(index_verb, add) == 0  # the model is that of the index
    assert "0 videos indexed as 0 rows, 0 unreadable, 7 done before" in capsys.readouterr().out

    words = [place, "someone falls", "a dog", "--device", "cpu", "--top_k", "3", "--output", str(results)]
    assert run_verb(search_verb, words) == 0
    printed = capsys.readouterr().out.split("\n\n")
    model, processor = load_for_index(clip)
    index = VideoIndex(place)
    for query, table in zip(("someone falls", "a dog"), printed):
        feature = model.encode_texts([query], "a video of {}.")
        hits = index.search(feature, 3)[0]
        assert table.splitlines()[0] == query and len(table.splitlines()) == 4
        assert search_texts(index, model, [query], 3) == [hits]
        rows = [row for row in map(json.loads, results.read_text().splitlines()) if row["query"] == query]
        assert [(row["rank"], row["video"], row["start"]) for row in rows] == [
            (rank, hit.video, hit.start) for rank, hit in enumerate(hits, 1)
        ]
        assert os.path.isabs(rows[0]["path"])
    assert run_verb(search_verb, [place, "a dog", "--template", "{}", "--device", "cpu", "--all_windows"]) == 0
    capsys.readouterr()
    short = next(line["video"] for line in index.videos() if line["rows"] == 1 and "\n" not in line["video"])
    example = str(folder / short)
    assert run_verb(search_verb, [place, "--video", example, "--device", "cpu", "--top_k", "1"]) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert first.startswith("   1.0000  0:00.0-0:0") and first.endswith(f"  {short}")

    assert run_verb(index_verb, ["--output", place, "--drop", short, "text.mp4"]) == 0
    assert "2 videos dropped" in capsys.readouterr().out and len(VideoIndex(place)) < len(index)
    assert run_verb(search_verb, [place, "--video", example, "--device", "cpu"]) == 0
    assert short not in "".join(capsys.readouterr().out.splitlines(keepends=True)[1:])
    for words, message in (
        ([], "name the folder of an index"),
        ([str(folder), "a dog"], "holds no index"),
        ([place], "nothing to look for"),
        ([place, " "], "has no letters"),
        ([place, "a dog", "--top_k", "0"], "top_k must be"),
        ([place, "a dog", "--template", "no place"], "template"),
        ([place, "--video", example, "--template", "{}"], "--template is for texts"),
        ([place, "--video", str(folder / "text.mp4")], "Cannot read the video"),
        ([place, "a dog", "--model", str(folder)], "holds no model"),
        ([place, "a dog", "--output", f"{place}/part-00000-of-00001.jsonl"], "lies in the index"),
        ([place, "a dog", "--output", "s3://bucket/found.jsonl"], "'s3:/bucket' is an address"),
    ):
        assert run_verb(search_verb, words) == 2, words
        assert message in capsys.readouterr().err
    for words, message in (
        (["--output", place], "there is nothing to index"),
        (["--output", place, "--drop", "a", "--model", str(clip), "--window", "1"], "go without --window, --model"),
        (["--output", place, "--drop", "nobody.mp4"], "is named so: 'nobody.mp4'"),
    ):
        assert run_verb(index_verb, words) == 2, words
        assert message in capsys.readouterr().err


def test_a_model_without_words_is_asked_by_example(tmp_path, folder, capsys):
    from transformers_ila.cli import index as index_verb
    from transformers_ila.cli import search as search_verb

    linear, place = tmp_path / "linear", str(tmp_path / "index")
    model = make_model(classification_head="linear")
    model.save_pretrained(linear)
    IlaVideoProcessor.for_model(model.config).save_pretrained(linear)
    assert run_verb(index_verb, [str(folder), "--model", str(linear), "--output", place]) == 1
    assert run_verb(search_verb, [place, "a dog"]) == 2
    assert "has no text tower and reads no words; ask by an example video" in capsys.readouterr().err
    moved = linear.rename(tmp_path / "moved")
    example = ["--video", str(folder / "long.mp4"), "--top_k", "1"]
    assert run_verb(search_verb, [place, *example]) == 2 and "There is no folder" in capsys.readouterr().err
    assert run_verb(search_verb, [place, *example, "--model", str(moved)]) == 0
    assert "1.0000  long.mp4" in capsys.readouterr().out
    if find_spec("pyarrow") is not None:  # which what reads stores is of
        import support.shelf  # noqa: F401

        store = fsspec.filesystem("shelf")
        store.pipe("/bucket/long.mp4", (folder / "long.mp4").read_bytes())
        for address, code in (("shelf://bucket/long.mp4", 0), ("shelf://bucket/gone.mp4?key=secret", 2)):
            words = [place, "--model", str(moved), "--video", address, "--top_k", "1"]
            assert run_verb(search_verb, words) == code
        printed = capsys.readouterr()
        assert printed.out.startswith("shelf://bucket/long.mp4\n") and "1.0000  long.mp4" in printed.out
        assert "gone.mp4" in printed.err and "secret" not in printed.err
        store.store.clear()


def test_files_that_are_gone_are_dropped(tmp_path, model, processor):
    paths = write_folder(tmp_path / "videos", 3, seed=0, num_frames=9)
    index_videos(model, processor, iter_videos(tmp_path / "videos"), tmp_path / "index")
    index = VideoIndex(tmp_path / "index")
    paths[0].unlink()
    assert index.drop(missing=True) == [str(paths[0].relative_to(tmp_path / "videos"))] and len(index) == 2
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="The files of all 2 videos are gone"):
        index.drop(missing=True)
    assert len(index) == 2


def test_another_video_of_a_name_is_refused(tmp_path, model, processor):
    paths = write_folder(tmp_path / "one", 2, seed=0, num_frames=9)
    name, index = str(paths[0].relative_to(tmp_path / "one")), tmp_path / "index"
    index_videos(model, processor, iter_videos(tmp_path / "one"), index)
    (tmp_path / "linked").symlink_to(tmp_path / "one")
    assert index_videos(model, processor, iter_videos(tmp_path / "linked"), index).labelled == 0
    (tmp_path / "two" / name).parent.mkdir(parents=True)
    (tmp_path / "two" / name).write_bytes(paths[1].read_bytes())
    with pytest.raises(ValueError, match="has a video named .* already, '.*one.*', and '.*two.*' is another one"):
        index_videos(model, processor, iter_videos(tmp_path / "two"), index)
    paths[0].unlink()  # as if it had moved
    assert index_videos(model, processor, iter_videos(tmp_path / "two"), index).labelled == 0


GATED = """
import sys
from transformers_ila.cli.main import main
from transformers_ila.search.index_files import IndexWriter, ResultWriter

append = ResultWriter.append

def gated(self, rows):  # vectors are on disk, the line is not
    print("written", flush=True)
    sys.stdin.readline()
    append(self, rows)

ResultWriter.append = gated
sys.exit(main(["index", *sys.argv[1:]]))
"""  # a run that waits between the rows and the lines of each batch until it is told to go on


@pytest.mark.slow
def test_a_run_that_is_killed_between_rows_and_lines(tmp_path, clip, folder):
    words = [str(folder), "--model", str(clip), "--output", str(tmp_path), "--batch_size", "2", "--window", "1"]
    command = [sys.executable, "-W", "ignore", "-c", GATED, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        for _ in range(2):
            assert run.stdout.readline() == "written\n"
            run.stdin.write("\n")
            run.stdin.flush()
        assert run.stdout.readline() == "written\n"
        assert len(list(VideoIndex(tmp_path).videos())) == 2  # readers see whole videos while it runs
        run.send_signal(signal.SIGKILL)
    assert (tmp_path / "part-00000-of-00001.rows").stat().st_size > 24 * len(VideoIndex(tmp_path))
    done = subprocess.run([sys.executable, "-m", "transformers_ila", "index", *words], capture_output=True, text=True)
    assert done.returncode == 1 and "2 done before" in done.stdout, done.stderr
    names = [line["video"] for line in VideoIndex(tmp_path).videos()]
    assert len(names) == len(set(names)) == 7
    assert len(rows_of(VideoIndex(tmp_path))) == sum(line["rows"] for line in VideoIndex(tmp_path).videos())
