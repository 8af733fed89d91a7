"""Labels for folders and lists: every video once, through kills, broken lines, several processes and odd names."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch

from support.evaluation_models import LABELS, TOLERANCE, make_model, torchrun, views_of
from support.paths import SCRIPTS
from transformers_ila import IlaVideoProcessor
from transformers_ila.cli.main import run_verb
from transformers_ila.data.lists import iter_videos
from transformers_ila.distributed import Rank, rank_from_environment
from transformers_ila.evaluation import prediction_files
from transformers_ila.evaluation.evaluator import collect_logits, evaluate
from transformers_ila.evaluation.options import EvaluationOptions, LabelOptions
from transformers_ila.evaluation.prediction import NOT_FINITE, label_videos
from transformers_ila.evaluation.prediction_files import part_files, read_results, video_id
from transformers_ila.motionbench.tasks import write_folder


SCRIPT = SCRIPTS / "predict.py"


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
    options = LabelOptions(format=format, protocol=protocol, top_k=3, batch_size=3, embeddings=True)
    summary = label_videos(model, processor, iter_videos(folder), tmp_path, options)
    assert (summary.seen, summary.before, summary.labelled, summary.unreadable) == (9, 0, 8, 1)
    assert 0 < summary.waited < summary.seconds
    rows = {row["video"]: row for row in read_results(tmp_path)}
    assert len(rows) == 9 and list(summary.reasons) == ["text.mp4"]
    assert "Cannot read the video" in rows["text.mp4"]["reason"] and rows["text.mp4"]["labels"] is None
    for name, path in iter_videos(folder):
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
        options = {"embeddings": embeddings, "top_k": 100, "workers": 2 * number % 4, "protocol": "1x3"}
        label_videos(network, processor, iter_videos(folder), output, LabelOptions(**options))
    first, second, third = (list(read_results(tmp_path / str(number))) for number in range(3))
    for row, other in zip(first, second):
        assert row["labels"] == other["labels"] and "embedding" not in other
        assert row["reason"] or (len(row["labels"]) == 8 and sum(row["scores"]) == pytest.approx(1))
        assert row["reason"] or row["scores"] == pytest.approx(other["scores"], abs=1e-6)
    paths = [(path, 0) for _, path in iter_videos(folder)]
    logits = collect_logits(several, processor, paths, EvaluationOptions(protocol="1x3")).logits
    chances = [row["scores"][0] for row in third if row["reason"] is None]
    assert chances == pytest.approx(logits.sigmoid().amax(-1).tolist(), abs=1e-6)


def test_logits_that_are_no_numbers_cost_one_video(tmp_path, model, processor, folder, monkeypatch):
    forward = model.forward

    def spoilt(pixel_values):
        output = forward(pixel_values)
        output.logits[1] = torch.nan
        return output

    monkeypatch.setattr(model, "forward", spoilt)
    summary = label_videos(model, processor, iter_videos(folder), tmp_path, LabelOptions(batch_size=4))
    assert (summary.labelled, summary.unreadable) == (6, 3)
    assert [row["reason"] for row in read_results(tmp_path)].count(NOT_FINITE) == 2


# -- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_second_run_does_what_is_missing(tmp_path, model, processor, folder, format):
    options = LabelOptions(format=format, batch_size=2)
    videos = list(iter_videos(folder))
    first = label_videos(model, processor, [*videos[:4], *videos[:3]], tmp_path, options)
    assert first.labelled + first.unreadable == 4  # named twice, done once
    contents = {file: file.read_bytes() for file in part_files(tmp_path, format)}
    second = label_videos(model, processor, videos[::-1], tmp_path, options)
    assert second.before == 4 and second.labelled + second.unreadable == 5
    assert all(file.read_bytes().startswith(content) for file, content in contents.items())
    third = label_videos(model, processor, videos, tmp_path, options)
    assert third.before == 9 and third.labelled == third.unreadable == 0
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9


@pytest.mark.parametrize("cut", [1, 30, -1])
def test_a_half_written_line_is_repaired(tmp_path, model, processor, folder, cut):
    videos = list(iter_videos(folder))
    label_videos(model, processor, videos[:5], tmp_path)
    part = tmp_path / "part-00000-of-00001.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
    summary = label_videos(model, processor, videos, tmp_path)
    assert summary.before == 4 and part.read_bytes().startswith(b"".join(lines[:-1]))
    assert all(json.loads(line) for line in part.read_bytes().splitlines())
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9


def test_what_no_killed_run_leaves_is_an_error(tmp_path, model, processor, folder):
    videos = list(iter_videos(folder))
    label_videos(model, processor, videos[:4], tmp_path)
    part = tmp_path / "part-00000-of-00001.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(ValueError, match="Line 2 of .* is no result, and there are results behind it"):
        label_videos(model, processor, videos, tmp_path)
    part.write_bytes(lines[0] + lines[1] + bytes(4096))  # what a power failure leaves at the end of a file
    assert label_videos(model, processor, videos, tmp_path).before == 2


def test_pieces_of_parquet_are_whole(tmp_path, model, processor, folder, monkeypatch):
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 2)
    options = LabelOptions(format="parquet", batch_size=1)

    def broken_off():
        yield from list(iter_videos(folder))[:5]
        raise KeyError  # whatever it is: what is done is written

    with pytest.raises(KeyError):
        label_videos(model, processor, broken_off(), tmp_path, options)
    first, *others = part_files(tmp_path, "parquet")
    assert len(others) == 2
    kept = {file: file.read_bytes() for file in others}
    first.unlink()  # two videos to be done again, and no place to be taken twice
    for left in ("0123.tmp", "new"):  # by killed runs, of this version and of 0.1
        (tmp_path / f".part-00000-of-00001-000009.parquet.{left}").write_bytes(b"half")
    assert label_videos(model, processor, iter_videos(folder), tmp_path, options).before == 3
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9
    assert not list(tmp_path.glob(".*.new")) and not list(tmp_path.glob(".*.tmp"))
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path).num_rows == 9


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_what_could_not_be_read_is_tried_again(tmp_path, model, processor, folder, format, world):
    """A drive was not there; the first run had two processes, and of the second the first process comes last."""
    videos = list(iter_videos(folder))
    away = [(name, path if number % 2 else "/gone/" + name) for number, (name, path) in enumerate(videos)]
    for rank in range(2):
        label_videos(model, processor, away, tmp_path, LabelOptions(format=format), rank=Rank(rank, 2))
    assert sum(row["reason"] is not None for row in read_results(tmp_path)) >= 5
    runs = [
        label_videos(
            model, processor, videos, tmp_path, LabelOptions(format=format, retry=True), rank=Rank(rank, world)
        )
        for rank in reversed(range(world))
    ]
    assert sum(run.labelled for run in runs) >= 4 and sum(run.unreadable for run in runs) == 1
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9
    assert [row["video"] for row in read_results(tmp_path) if row["reason"] is not None] == ["text.mp4"]


@pytest.mark.parametrize("worlds", [(2, 2), (2, 1), (1, 3)])
def test_processes_share_the_videos(tmp_path, model, processor, folder, worlds):
    """The second run has as many processes as the first, fewer, or more, and finds a line half written."""
    videos, before, after = list(iter_videos(folder)), *worlds
    for rank in range(before):
        label_videos(model, processor, videos[:6], tmp_path, rank=Rank(rank, before))
    assert len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 6
    part = max(part_files(tmp_path, "jsonl"), key=lambda file: file.stat().st_size)
    part.write_bytes(part.read_bytes()[:-9])
    done = 0
    for rank in range(after):
        summary = label_videos(model, processor, videos, tmp_path, rank=Rank(rank, after))
        done += summary.labelled + summary.unreadable
    assert done == 9 - 5 and len(names_of(tmp_path)) == len(set(names_of(tmp_path))) == 9
    for part in part_files(tmp_path, "jsonl"):
        assert all(json.loads(line) for line in part.read_bytes().splitlines())


FAULTS = {
    "other top_k": ({"top_k": 2}, "holds other results; .* differ in top_k 5, now 2"),
    "other format": ({"format": "parquet"}, "differ in format 'jsonl', now 'parquet'"),
    "other frames": ({"random_frames": True, "seed": 1}, "differ in random_frames None, now True; seed None, now 1"),
    "other precision": ({"dtype": "bfloat16"}, "differ in dtype None, now 'bfloat16'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(tmp_path, model, processor, folder, case):
    options, message = FAULTS[case]
    label_videos(model, processor, list(iter_videos(folder))[:1], tmp_path)
    with pytest.raises(ValueError, match=message):
        label_videos(model, processor, iter_videos(folder), tmp_path, LabelOptions(**options))


def test_results_of_another_model_or_by_another_process_are_refused(tmp_path, model, processor, folder):
    videos = list(iter_videos(folder))[:2]
    label_videos(model, processor, videos, tmp_path)
    with pytest.raises(ValueError, match="differ in model"):
        label_videos(make_model(alignment_fusion="residual"), processor, videos, tmp_path)
    other = IlaVideoProcessor.for_model(model.config, frame_sampling="uniform")
    with pytest.raises(ValueError, match="differ in processor"):
        label_videos(model, other, videos, tmp_path)
    with (
        prediction_files.ResultWriter(tmp_path, LabelOptions(), Rank()),
        pytest.raises(
            ValueError, match=f"Another process writes 'part-00000-of-00001' in .*: process {os.getpid()} on"
        ),
    ):
        label_videos(model, processor, videos, tmp_path)
    writer = prediction_files.ResultWriter(tmp_path, LabelOptions(), Rank())
    lives, says = os.pipe()
    child = os.fork()
    if child == 0:  # a data loader's worker, which may outlive the process that is killed
        os.write(says, b"!")  # only now has it let go of the lock
        time.sleep(600)
    os.read(lives, 1)
    try:
        writer.lock.close()
        writer.run.close()
        label_videos(model, processor, videos, tmp_path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# -- which videos ----------------------------------------------------------------------------------------------------


def test_a_run_with_more_processes_waits_for_the_other(tmp_path, model, processor, folder):
    """Two launches on one folder would label videos twice, each in its own shares."""
    prediction_files.check_settings(tmp_path, {"format": "jsonl"})
    with (
        prediction_files.ResultWriter(tmp_path, LabelOptions(), Rank(0, 2)),
        prediction_files.ResultWriter(tmp_path, LabelOptions(), Rank(1, 2)),
    ):
        for other in (Rank(), Rank(2, 3)):
            with pytest.raises(ValueError, match="another number of processes is writing"):
                prediction_files.ResultWriter(tmp_path, LabelOptions(), other)
    with prediction_files.ResultWriter(tmp_path, LabelOptions(), Rank()):
        pass


def test_processes_that_start_together_do_not_take_each_other_for_another_run(tmp_path):
    """Each looks whether a lock of other runs is free by taking it for a moment: only one may look at a time."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".run-of-00003.lock").open("ab") as other, (tmp_path / ".looking.lock").open("ab") as looking:
        fcntl.flock(looking, fcntl.LOCK_EX)  # as another process of the run does
        fcntl.flock(other, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(prediction_files.ResultWriter, tmp_path, LabelOptions(), Rank(0, 2))
            wait([started], timeout=0.2)  # it may be anywhere; it must not be done
            assert not started.done()
            fcntl.flock(other, fcntl.LOCK_UN)
            fcntl.flock(looking, fcntl.LOCK_UN)
            with started.result():
                pass


def test_a_piece_of_parquet_waits_a_minute_at_most(tmp_path, model, processor, folder, monkeypatch):
    monkeypatch.setattr(prediction_files, "SECONDS_OF_A_PIECE", 0.0)
    label_videos(
        model, processor, list(iter_videos(folder))[:3], tmp_path, LabelOptions(format="parquet", batch_size=1)
    )
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_a_run_without_results_binds_nobody(tmp_path, model, processor, folder):
    label_videos(model, processor, [], tmp_path, LabelOptions(top_k=5))
    assert label_videos(model, processor, list(iter_videos(folder))[:1], tmp_path, LabelOptions(top_k=1)).labelled == 1
    with pytest.raises(ValueError, match="holds other results"):
        label_videos(model, processor, [], tmp_path, LabelOptions(top_k=2))


def test_names_that_look_like_comments(tmp_path):
    (tmp_path / "#shorts.mp4").touch()
    (tmp_path / "list.txt").write_text("# my videos\n#shorts.mp4\na.mp4\n")
    assert [name for name, _ in iter_videos(tmp_path / "list.txt")] == ["#shorts.mp4", "a.mp4"]


def test_secrets_of_urls_are_in_no_result(tmp_path, model, processor, folder):
    """Neither in rows, nor in a report, an error or a log; URLs that differ in their query stay two videos."""
    secret = "S3CRET"
    urls = [f"http://me:{secret}@127.0.0.1:1/a.mp4?id={number}&token={secret}" for number in (1, 2)]
    for _ in range(2):  # the second run knows what the first one did
        summary = label_videos(model, processor, [(url, url) for url in urls], tmp_path / "labels")
    assert (summary.seen, summary.before, summary.unreadable) == (2, 2, 0)
    assert len(set(names_of(tmp_path / "labels"))) == 2
    written = "".join(file.read_text() for file in (tmp_path / "labels").iterdir() if file.suffix != ".lock")
    found = evaluate(model, processor, [(url, 0) for url in urls])
    with pytest.raises(ValueError, match="listed more than once") as twice:
        evaluate(model, processor, [(urls[0], 0)] * 2)
    written += json.dumps(found.report()) + str(twice.value)
    assert len(found.report()["unreadable"]) == 2
    assert secret not in written and "***@127.0.0.1:1/a.mp4?***" in written


def test_secrets_of_urls_are_in_no_message_of_a_verb(tmp_path, saved, capsys, monkeypatch):
    from transformers_ila.cli import check_videos, predict

    (tmp_path / "list.txt").write_text("https://me:S3CRET@host/a.mp4?token=S3CRET 1\n")
    for verb, words in (
        (predict, ["--model", str(saved), "https://me:S3CRET@host/a.mp4?token=S3CRET"]),
        (predict, ["--model", "https://me:S3CRET@host/model", "a.mp4"]),
        (predict, ["--model", str(saved), str(tmp_path / "list.txt")]),
        (check_videos, ["https://me:S3CRET@host/a.mp4?token=S3CRET"]),
    ):
        assert run_verb(verb, words) == 2
        error = capsys.readouterr().err
        assert "S3CRET" not in error and "***@host" in error


HOSTILE = {  # file -> what it says -> part of the one line that says what is wrong
    "config.json": {
        '{"vision_config": 5}': "`vision_config` is 5; allowed: a dictionary of fields",
        '{"num_labels": 1000000000}': "num_labels.*at most",
        '{"vision_config": {"num_hidden_layers": 1000000000}}': "num_hidden_layers.*at most",
        '{"prompt_layers": 1000000000}': "prompt_layers.*at most",
        "5": "TypeError",
        "[]": "Unrecognized model|AttributeError",
    },
    "video_preprocessor_config.json": {
        '{"num_frames": 1000000000}': "num_frames must be .* at most 10000",
        '{"size": {"shortest_edge": 1000000000}}': "size must be",
        '{"preprocess": 5}': "preprocess cannot be set",
        "[]": "must hold a JSON object",
    },
}


@pytest.mark.parametrize(("file", "content"), [(file, content) for file in HOSTILE for content in HOSTILE[file]])
def test_hostile_files_of_a_model_are_one_line(tmp_path, saved, folder, capsys, file, content):
    from transformers_ila.cli import card, cost, evaluate, predict, probe

    place, other = tmp_path / "model", tmp_path / "other"
    shutil.copytree(saved, place)
    shutil.copytree(folder, other)
    given, present = json.loads(content), json.loads((place / file).read_text())
    if isinstance(given, dict):
        for name, value in given.items():
            inner = isinstance(value, dict) and isinstance(present.get(name), dict)
            present[name] = {**present[name], **value} if inner else value
        given = present
    (place / file).write_text(json.dumps(given))
    model = ["--model", str(place)]
    verbs = {
        predict: [*model, str(folder / "text.mp4")],
        probe: [*model, "--train", str(folder), "--test", str(other), "--output", str(tmp_path / "probe.json")],
        evaluate: [*model, "--videos", str(folder), "--output", str(tmp_path / "report.json")],
        cost: model,
        card: [*model, "--license", "mit"],
    }
    if file != "config.json":
        del verbs[cost]
    for verb, words in verbs.items():
        code, error = run_verb(verb, words), capsys.readouterr().err
        assert code == 2, verb
        last = error.strip().splitlines()[-1]
        assert last.startswith("ila ") and re.search(HOSTILE[file][content], last), (verb, error)


GATED = """
import sys
from transformers_ila.cli.main import main
from transformers_ila.evaluation.prediction_files import ResultWriter

append = ResultWriter.append

def gated(self, rows):
    append(self, rows)
    print("written", flush=True)
    sys.stdin.readline()

ResultWriter.append = gated
sys.exit(main(["predict", *sys.argv[1:]]))
"""  # a run that waits after each batch until it is told to go on


def start(*options: object, code: str = GATED) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, options)]
    pipe, environment = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def wait_until_written(run: subprocess.Popen) -> None:
    while (line := run.stdout.readline()) != "written\n":
        assert line, run.stderr.read()


@pytest.mark.slow
def test_sigterm_writes_what_waits(tmp_path, saved):
    write_folder(tmp_path / "videos", 20, seed=0)
    options = ["--model", saved, "--videos", tmp_path / "videos", "--output", tmp_path / "labels"]
    run = start(*options, "--format", "parquet")
    wait_until_written(run)  # so far in memory
    assert not list((tmp_path / "labels").glob("*.parquet"))
    run.terminate()
    _, printed = run.communicate(timeout=600)
    assert run.returncode == 130 and "Interrupted; the same command goes on" in printed, printed
    assert len(names_of(tmp_path / "labels")) == 8


def test_lists_are_read_as_videos_are_needed(tmp_path):
    lines = [f"folder {n}/clip {n}.mp4 {n % 8}" for n in range(1000)]
    (tmp_path / "list.txt").write_text("path label\n" + "\n".join(lines))
    videos = iter_videos(tmp_path / "list.txt", root=tmp_path)
    assert next(videos) == ("folder 0/clip 0.mp4", str(tmp_path / "folder 0" / "clip 0.mp4"))
    with (tmp_path / "list.txt").open("a") as file:  # behind what a reader of 1,000 lines at once would have taken
        file.writelines(f"more {'x' * 60} {n}.mp4\n" for n in range(3000))
    assert sum(1 for _ in videos) > 3000
    (tmp_path / "list.txt").write_bytes(b"a.mp4 1\r\nb.mp4 2\rc.mp4\n\n# d.mp4\n")
    assert [name for name, _ in iter_videos(tmp_path / "list.txt")] == ["a.mp4", "b.mp4", "c.mp4"]


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
        "gone": "'gone'",
        "empty": "'empty' holds no video",
    }.items():
        assert run_verb(script, [*options, "--videos", bad]) == 2
        assert message in capsys.readouterr().err
    assert run_verb(script, [*options, "--videos", str(folder), "--top_k", "1"]) == 2
    assert "ila predict: error: 'out' holds other results" in capsys.readouterr().err


def test_labels_are_printed_where_no_folder_is_named(tmp_path, saved, folder, capsys, monkeypatch):
    from transformers_ila.cli import predict as script

    monkeypatch.chdir(folder)
    videos = sorted(path.name for path in folder.glob("*/00*.mp4"))
    listed = sorted(str(path.relative_to(folder)) for path in folder.glob("*/00*.mp4"))
    (tmp_path / "list.txt").write_text(f"{folder / 'text.mp4'}\n")
    before = sorted(folder.rglob("*"))
    assert run_verb(script, ["--model", str(saved), "*/00*.mp4", str(tmp_path / "list.txt"), "--top_k", "2"]) == 1
    out, err = capsys.readouterr()
    assert len(videos) == 6 and sorted(folder.rglob("*")) == before  # nothing is written
    lines = out.splitlines()
    for name in listed:
        start = lines.index(name)
        shares = [re.fullmatch(r" +(\d+\.\d\d)%  (\w.*)", line) for line in lines[start + 1 : start + 3]]
        assert float(shares[0][1]) > float(shares[1][1]) and {shares[0][2], shares[1][2]} < set(LABELS)
    assert "   unreadable: Cannot read the video" in out and "6 videos labelled, 1 unreadable.\n" in out
    assert "7/7" in err  # the bar knows how many there are


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to label"),
        (["gone.mp4"], "'gone.mp4'"),
        (["*.mkv"], "'*.mkv'"),
        (["text.mp4", "--embeddings"], "are for results in a folder: name one by --output"),
        (["text.mp4", "--output", "text.mp4/labels"], "The folder 'text.mp4/labels' cannot be made"),
        (["text.mp4", "--top_k", "0"], "top_k must be a whole number of 1 or more, got 0"),
        (["text.mp4", "--model", "./gone"], "There is no folder './gone', and it is no Hub id"),
    ],
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(saved, folder, capsys, monkeypatch, words, message):
    from transformers_ila.cli import predict as script

    monkeypatch.chdir(folder)
    monkeypatch.setattr(script, "open_model", None)
    assert run_verb(script, ["--model", str(saved), *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ila predict: error: ") and message in error


@pytest.mark.slow
def test_killed_at_any_time_and_started_again(tmp_path, saved):
    """SIGKILL while a batch is on its way, again and again, with a worker that reads ahead."""
    write_folder(tmp_path / "videos", 24, seed=1, num_frames=9)
    options = ["--model", saved, "--videos", tmp_path / "videos", "--output", tmp_path / "out"]
    options += ["--batch_size", 2, "--workers", 1]
    for batches in (1, 3):
        run = start(*options)
        for _ in range(batches):
            wait_until_written(run)
            run.stdin.write("\n")
            run.stdin.flush()
        run.kill()  # somewhere in the next batch
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    before = len(names_of(tmp_path / "out"))
    assert 8 <= before <= 12
    last = subprocess.run([sys.executable, SCRIPT, *map(str, options)], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr[-2000:]
    assert f"{24 - before} videos labelled, 0 unreadable, {before} done before" in last.stdout
    assert len(names_of(tmp_path / "out")) == len(set(names_of(tmp_path / "out"))) == 24


@pytest.mark.slow
def test_two_processes_of_a_launcher(tmp_path, saved, folder):
    options = ["--model", saved, "--videos", folder, "--output", tmp_path / "out", "--format", "parquet"]
    run = torchrun(SCRIPT, *options)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Process 0 of 2: " in run.stdout and "Process 1 of 2: " in run.stdout
    assert len(part_files(tmp_path / "out", "parquet")) == 2
    assert len(names_of(tmp_path / "out")) == len(set(names_of(tmp_path / "out"))) == 9
