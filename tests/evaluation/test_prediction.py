"""Labels for folders and lists: every video once, through kills, broken lines, several processes and odd names."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from support.evaluation_models import LABELS, TOLERANCE, make_model, views_of
from support.paths import SCRIPTS
from transformers_ila import IlaVideoProcessor
from transformers_ila.cli.main import run_verb
from transformers_ila.data.video_lists import list_videos, stream_videos
from transformers_ila.distributed import Rank, rank_from_environment
from transformers_ila.evaluation import prediction_files
from transformers_ila.evaluation.evaluator import predict
from transformers_ila.evaluation.prediction import NOT_FINITE, label_videos, named_videos
from transformers_ila.evaluation.prediction_files import part_files, read_results, video_id
from transformers_ila.motionbench.tasks import write_folder


SCRIPT = SCRIPTS / "predict.py"


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor(model):
    return IlaVideoProcessor.for_model(model.config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight videos and one that cannot be read; names with a line break, blanks, and bytes that are no text."""
    root = tmp_path_factory.mktemp("videos")
    paths = write_folder(root, 8, seed=0, num_frames=9)
    paths[0].rename(paths[0].with_name("new\nline, é 7.mp4"))
    os.rename(paths[1], os.fsencode(paths[1].parent) + b"/\xff.mp4")
    (root / "text.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory, model, processor):
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


def names_of(output) -> list[str]:
    return sorted(row["video"] for row in read_results(output))


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("protocol", ["1x1", "3x1"])
def test_rows_are_what_the_model_says(tmp_path, model, processor, folder, format, protocol):
    options = {"output": tmp_path, "format": format, "protocol": protocol, "top_k": 3, "batch_size": 3}
    summary = label_videos(model, processor, named_videos(folder), embeddings=True, **options)
    assert (summary.seen, summary.before, summary.labelled, summary.unreadable) == (9, 0, 8, 1)
    assert 0 < summary.waited < summary.seconds
    rows = {row["video"]: row for row in read_results(tmp_path)}
    assert len(rows) == 9 and list(summary.reasons) == ["text.mp4"]
    assert "Cannot read the video" in rows["text.mp4"]["reason"] and rows["text.mp4"]["labels"] is None
    for name, path in named_videos(folder):
        row = rows[name.encode("utf-8", "backslashreplace").decode()]
        if row["reason"] is not None:
            continue
        with torch.no_grad():
            views = views_of(processor, path, protocol)
            chances = model(views).logits.softmax(-1).mean(0)
            feature = torch.nn.functional.normalize(model.get_video_features(views).pooler_output, dim=-1).mean(0)
        best = chances.argsort(descending=True)[:3].tolist()
        assert row["labels"] == [LABELS[index] for index in best] and row["frames_lost"] == 0
        torch.testing.assert_close(torch.tensor(row["scores"]).float(), chances[best], atol=TOLERANCE, rtol=0)
        feature = torch.nn.functional.normalize(feature, dim=-1)
        torch.testing.assert_close(torch.tensor(row["embedding"]), feature, atol=TOLERANCE, rtol=0)


def test_features_go_with_the_same_logits(tmp_path, model, processor, folder):
    """Also fewer classes than asked for, workers, and a model with several labels a video."""
    several = make_model(problem_type="multi_label_classification")
    for number, (network, embeddings) in enumerate([(model, True), (model, False), (several, False)]):
        output = tmp_path / str(number)
        options = {"embeddings": embeddings, "top_k": 100, "num_workers": 2 * number % 4, "protocol": "1x3"}
        label_videos(network, processor, named_videos(folder), output=output, **options)
    first, second, third = (list(read_results(tmp_path / str(number))) for number in range(3))
    for row, other in zip(first, second):
        assert row["labels"] == other["labels"] and "embedding" not in other
        assert row["reason"] or (len(row["labels"]) == 8 and sum(row["scores"]) == pytest.approx(1))
        assert row["reason"] or row["scores"] == pytest.approx(other["scores"], abs=1e-6)
    paths = [(path, 0) for _, path in named_videos(folder)]
    logits = predict(several, processor, paths, protocol="1x3").logits
    chances = [row["scores"][0] for row in third if row["reason"] is None]
    assert chances == pytest.approx(logits.sigmoid().amax(-1).tolist(), abs=1e-6)


def test_logits_that_are_no_numbers_cost_one_video(tmp_path, model, processor, folder, monkeypatch):
    forward = model.forward

    def spoilt(pixel_values):
        output = forward(pixel_values)
        output.logits[1] = torch.nan
        return output

    monkeypatch.setattr(model, "forward", spoilt)
    summary = label_videos(model, processor, named_videos(folder), output=tmp_path, batch_size=4)
    assert (summary.labelled, summary.unreadable) == (6, 3)
    assert [row["reason"] for row in read_results(tmp_path)].count(NOT_FINITE) == 2


# -- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_second_run_does_what_is_missing(tmp_path, model, processor, folder, format):
    options = {"output": tmp_path, "format": format, "batch_size": 2}
    videos = list(named_videos(folder))
    first = label_videos(model, processor, [*videos[:4], *videos[:3]], **options)
    assert first.labelled + first.unreadable == 4  # named twice, done once
    contents = {file: file.read_bytes() for file in part_files(tmp_path, format)}
    second = label_videos(model, processor, videos[::-1], **options)
    assert second.before == 4 and second.labelled + second.unreadable == 5
    assert all(file.read_bytes().startswith(content) for file, content in contents.items())
    third = label_videos(model, processor, videos, **options)
    assert third.before == 9 and third.labelled == third.unreadable == 0
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9


@pytest.mark.parametrize("cut", [1, 30, -1])
def test_a_half_written_line_is_repaired(tmp_path, model, processor, folder, cut):
    videos = list(named_videos(folder))
    label_videos(model, processor, videos[:5], output=tmp_path)
    part = tmp_path / "part-00000-of-00001.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
    summary = label_videos(model, processor, videos, output=tmp_path)
    assert summary.before == 4 and part.read_bytes().startswith(b"".join(lines[:-1]))
    assert all(json.loads(line) for line in part.read_bytes().splitlines())
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9


def test_what_no_killed_run_leaves_is_an_error(tmp_path, model, processor, folder):
    videos = list(named_videos(folder))
    label_videos(model, processor, videos[:4], output=tmp_path)
    part = tmp_path / "part-00000-of-00001.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(ValueError, match="Line 2 of .* is no result, and there are results behind it"):
        label_videos(model, processor, videos, output=tmp_path)
    part.write_bytes(lines[0] + lines[1] + bytes(4096))  # what a power failure leaves at the end of a file
    assert label_videos(model, processor, videos, output=tmp_path).before == 2


def test_pieces_of_parquet_are_whole(tmp_path, model, processor, folder, monkeypatch):
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 2)
    options = {"output": tmp_path, "format": "parquet", "batch_size": 1}

    def broken_off():
        yield from list(named_videos(folder))[:5]
        raise KeyError  # whatever it is: what is done is written

    with pytest.raises(KeyError):
        label_videos(model, processor, broken_off(), **options)
    first, *others = part_files(tmp_path, "parquet")
    assert len(others) == 2
    kept = {file: file.read_bytes() for file in others}
    first.unlink()  # two videos to be done again, and no place to be taken twice
    (tmp_path / ".part-00000-of-00001-000009.parquet.new").write_bytes(b"half")
    assert label_videos(model, processor, named_videos(folder), **options).before == 3
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9
    assert not list(tmp_path.glob(".*.new"))
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path).num_rows == 9


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_what_could_not_be_read_is_tried_again(tmp_path, model, processor, folder, format, world):
    """A drive was not there; the first run had two processes, and of the second the first process comes last."""
    videos = list(named_videos(folder))
    away = [(name, path if number % 2 else "/gone/" + name) for number, (name, path) in enumerate(videos)]
    for rank in range(2):
        label_videos(model, processor, away, output=tmp_path, format=format, place=Rank(rank, 2))
    assert sum(row["reason"] is not None for row in read_results(tmp_path)) >= 5
    runs = [
        label_videos(model, processor, videos, output=tmp_path, format=format, place=Rank(rank, world), retry=True)
        for rank in reversed(range(world))
    ]
    assert sum(run.labelled for run in runs) >= 4 and sum(run.unreadable for run in runs) == 1
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9
    assert [row["video"] for row in read_results(tmp_path) if row["reason"] is not None] == ["text.mp4"]


@pytest.mark.parametrize("worlds", [(2, 2), (2, 1), (1, 3)])
def test_processes_share_the_videos(tmp_path, model, processor, folder, worlds):
    """The second run has as many processes as the first, fewer, or more, and finds a line half written."""
    videos, before, after = list(named_videos(folder)), *worlds
    for rank in range(before):
        label_videos(model, processor, videos[:6], output=tmp_path, place=Rank(rank, before))
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 6
    part = max(part_files(tmp_path, "jsonl"), key=lambda file: file.stat().st_size)
    part.write_bytes(part.read_bytes()[:-9])
    done = 0
    for rank in range(after):
        summary = label_videos(model, processor, videos, output=tmp_path, place=Rank(rank, after))
        done += summary.labelled + summary.unreadable
    assert done == 9 - 5 and len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9
    for part in part_files(tmp_path, "jsonl"):
        assert all(json.loads(line) for line in part.read_bytes().splitlines())


FAULTS = {
    "other top_k": ({"top_k": 2}, "holds other results; .* differ in top_k 5, now 2"),
    "other format": ({"format": "parquet"}, "differ in format 'jsonl', now 'parquet'"),
    "no format": ({"format": "csv"}, "format must be one of jsonl, parquet, got 'csv'"),
    "no label": ({"top_k": 0}, "top_k must be 1 or more, got 0"),
    "protocol": ({"protocol": "2x2"}, "protocol must be one of 1x1"),
    "batch_size": ({"batch_size": 0}, "batch_size must be 1 or more"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(tmp_path, model, processor, folder, case):
    options, message = FAULTS[case]
    label_videos(model, processor, list(named_videos(folder))[:1], output=tmp_path)
    with pytest.raises(ValueError, match=message):
        label_videos(model, processor, named_videos(folder), output=tmp_path, **options)


def test_results_of_another_model_or_by_another_process_are_refused(tmp_path, model, processor, folder):
    videos = list(named_videos(folder))[:2]
    label_videos(model, processor, videos, output=tmp_path)
    with pytest.raises(ValueError, match="differ in model"):
        label_videos(make_model(alignment_fusion="residual"), processor, videos, output=tmp_path)
    other = IlaVideoProcessor.for_model(model.config, frame_sampling="uniform")
    with pytest.raises(ValueError, match="differ in processor"):
        label_videos(model, other, videos, output=tmp_path)
    with (
        prediction_files.ResultWriter(tmp_path, "jsonl", Rank()),
        pytest.raises(ValueError, match="Another process writes 'part-00000-of-00001'"),
    ):
        label_videos(model, processor, videos, output=tmp_path)


# -- which videos ----------------------------------------------------------------------------------------------------


def test_a_run_with_more_processes_waits_for_the_other(tmp_path, model, processor, folder):
    """Two launches on one folder would label videos twice, each in its own shares."""
    prediction_files.check_settings(tmp_path, {"format": "jsonl"})
    with (
        prediction_files.ResultWriter(tmp_path, "jsonl", Rank(0, 2)),
        prediction_files.ResultWriter(tmp_path, "jsonl", Rank(1, 2)),
    ):
        for place in (Rank(), Rank(2, 3)):
            with pytest.raises(ValueError, match="another number of processes is writing"):
                prediction_files.ResultWriter(tmp_path, "jsonl", place)
    with prediction_files.ResultWriter(tmp_path, "jsonl", Rank()):
        pass


def test_a_piece_of_parquet_waits_a_minute_at_most(tmp_path, model, processor, folder, monkeypatch):
    monkeypatch.setattr(prediction_files, "SECONDS_OF_A_PIECE", 0.0)
    label_videos(model, processor, list(named_videos(folder))[:3], output=tmp_path, format="parquet", batch_size=1)
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_a_run_without_results_binds_nobody(tmp_path, model, processor, folder):
    label_videos(model, processor, [], output=tmp_path, top_k=5)
    assert label_videos(model, processor, list(named_videos(folder))[:1], output=tmp_path, top_k=1).labelled == 1
    with pytest.raises(ValueError, match="holds other results"):
        label_videos(model, processor, [], output=tmp_path, top_k=2)


def test_names_that_look_like_comments(tmp_path):
    (tmp_path / "#shorts.mp4").touch()
    (tmp_path / "list.txt").write_text("# my videos\n#shorts.mp4\na.mp4\n")
    assert [name for name, _ in named_videos(tmp_path / "list.txt")] == ["#shorts.mp4", "a.mp4"]


@pytest.mark.slow
def test_sigterm_writes_what_waits(tmp_path, saved):
    write_folder(tmp_path / "videos", 100, seed=0)
    command = [sys.executable, "-W", "ignore", SCRIPT, "--model", saved, "--videos", tmp_path / "videos"]
    command += ["--output", tmp_path / "labels", "--format", "parquet"]
    run = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    printed = ""
    while not re.search(r"[1-9]\d*video", printed) and (letter := run.stderr.read(1)):  # a batch is labelled
        printed += letter
    run.terminate()
    _, rest = run.communicate(timeout=120)
    assert run.returncode == 130 and "Interrupted; the same command goes on" in rest, printed + rest
    assert len(names_of(tmp_path / "labels")) > 0


def test_lists_are_read_as_videos_are_needed(tmp_path):
    lines = [f"folder {n}/clip {n}.mp4 {n % 8}" for n in range(1000)]
    (tmp_path / "list.txt").write_text("path label\n" + "\n".join(lines))
    videos = named_videos(tmp_path / "list.txt", root=tmp_path)
    assert next(videos) == ("folder 0/clip 0.mp4", str(tmp_path / "folder 0" / "clip 0.mp4"))
    with (tmp_path / "list.txt").open("a") as file:  # behind what a reader of 1,000 lines at once would have taken
        file.writelines(f"more {'x' * 60} {n}.mp4\n" for n in range(3000))
    assert sum(1 for _ in videos) > 3000
    (tmp_path / "list.txt").write_bytes(b"a.mp4 1\r\nb.mp4 2\rc.mp4\n\n# d.mp4\n")
    paths = list(stream_videos(tmp_path / "list.txt"))
    assert paths == [video.path for video in list_videos(tmp_path / "list.txt") if video.path]
    assert [Path(path).name for path in paths] == ["a.mp4", "b.mp4", "c.mp4"]


def test_places(monkeypatch):
    shares = Counter(next(r for r in range(3) if Rank(r, 3).takes(video_id(str(n)))) for n in range(900))
    assert len(shares) == 3 and min(shares.values()) > 240
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert rank_from_environment() == Rank(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert rank_from_environment() == Rank(0, 1, 0)
    for rank, world in [("2", "2"), ("-1", "2"), ("a", "2"), ("0", None), (None, "2")]:
        for name, value in {"RANK": rank, "WORLD_SIZE": world}.items():
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
        with pytest.raises(ValueError, match="0 <= RANK < WORLD_SIZE; got"):
            rank_from_environment()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_from_environment() == Rank(1, 2, 1)


# -- the script ------------------------------------------------------------------------------------------------------


def test_script(tmp_path, saved, folder, capsys, monkeypatch):
    from transformers_ila.cli import predict as script

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    options = ["--model", str(saved), "--output", "out"]
    assert run_verb(script, [*options, "--videos", "gone"]) == 2 and not Path("out").exists()
    assert run_verb(script, [*options, "--videos", str(folder), "--root", "gone"]) == 2 and not Path("out").exists()
    capsys.readouterr()
    assert run_verb(script, [*options, "--videos", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"\d\.\d s, \d+% of them waiting for videos to be read", printed)
    assert "8 videos labelled, 1 unreadable, 0 done before" in printed and "unreadable: 'text.mp4'" in printed
    assert run_verb(script, [*options, "--videos", str(folder)]) == 0
    for bad, message in {
        "gone": "'gone' is neither a folder nor an annotation list",
        "empty": "'empty' names no video",
    }.items():
        assert run_verb(script, [*options, "--videos", bad]) == 2
        assert message in capsys.readouterr().err
    assert run_verb(script, [*options, "--videos", str(folder), "--top_k", "1"]) == 2
    assert "ila predict: error: 'out' holds other results" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_any_time_and_started_again(tmp_path, saved):
    """SIGKILL as soon as new lines stand there, again and again, with two workers that read ahead."""
    write_folder(tmp_path / "videos", 160, seed=1, num_frames=9)
    command = [sys.executable, SCRIPT, "--model", saved, "--videos", tmp_path / "videos", "--output", tmp_path / "out"]
    command += ["--batch_size", 2, "--workers", 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    part, kills = tmp_path / "out" / "part-00000-of-00001.jsonl", 0
    for number in range(2):
        run = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL)
        size = part.stat().st_size if part.exists() else 0
        while run.poll() is None and (part.stat().st_size if part.exists() else 0) <= size + 3000 * number:
            time.sleep(0.001)
        kills += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert kills == 2 and 0 < len(names_of(tmp_path / "out")) < 160
    before = len(names_of(tmp_path / "out"))
    last = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr[-2000:]
    assert f"{160 - before} videos labelled, 0 unreadable, {before} done before" in last.stdout
    assert len(names_of(tmp_path / "out")) == len(set(names_of(tmp_path / "out"))) == 160


@pytest.mark.slow
def test_two_processes_of_a_launcher(tmp_path, saved, folder):
    from test_evaluation_modes import torchrun

    options = ["--model", saved, "--videos", folder, "--output", tmp_path / "out", "--format", "parquet"]
    run = torchrun(SCRIPT, *options)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Process 0 of 2: " in run.stdout and "Process 1 of 2: " in run.stdout
    assert len(part_files(tmp_path / "out", "parquet")) == 2
    assert len(names_of(tmp_path / "out")) == len(set(names_of(tmp_path / "out"))) == 9
