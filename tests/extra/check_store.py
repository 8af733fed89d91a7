"""An object store for real, moto's server on this machine, behind a proxy that spoils its answers in turn.

Prints the table of faults: what was spoilt, where, what came of it, rows or videos lost, and rows that are twice.
"""

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from support.evaluation_models import make_model
from support.faulty_proxy import FaultyProxy
from transformers_ila import IlaVideoProcessor
from transformers_ila.cli.main import main
from transformers_ila.data.shards import read_shards
from transformers_ila.distributed import Rank
from transformers_ila.evaluation import prediction_files
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction_files import ResultWriter, check_settings, done_videos, read_results
from transformers_ila.files import FolderInUseError
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.scale.options import EngineOptions
from transformers_ila.scale.plan import iter_planned
from transformers_ila.scale.sources import PlannedVideo, open_source
from transformers_ila.stores import addresses


s3fs = pytest.importorskip("s3fs")
MOTO = os.environ.get("MOTO_SERVER", "")
if not os.path.exists(MOTO):
    pytest.skip("MOTO_SERVER names no moto_server", allow_module_level=True)

SECRET = "S3CRETs3cretS3CRETs3cret"
PARQUET, RETRY = LabelOptions(format="parquet"), LabelOptions(format="parquet", retry=True)
SETTINGS = {"format": "parquet"}
PASSES = ("slow", "stalled", "500", "503", "reset", "lost", "cut", "short")
LASTS = ("500", "503", "reset", "cut", "short", "403", "404")
table: list[tuple[str, str, str, int, int]] = []


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """The proxy; the client's environment leads to it, and it alone knows where the store is."""
    place = tmp_path_factory.mktemp("moto")
    with (place / "log").open("wb") as log:
        server = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log)
    try:
        port = None
        for _ in range(600):
            said = (place / "log").read_text()
            if "Running on http://127.0.0.1:" in said:
                port = int(said.split("Running on http://127.0.0.1:")[1].split()[0].rstrip("/"))
                break
            assert server.poll() is None, said
            time.sleep(0.1)
        proxy = FaultyProxy(port)
        environment = {
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "AWS_MAX_ATTEMPTS": "2",
            "NO_PROXY": "127.0.0.1",
            "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": 2}}),
        }
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            import fsspec.config

            fsspec.config.conf["s3"] = {"config_kwargs": {"read_timeout": 2}}
            yield proxy
        proxy.close()
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module", autouse=True)
def printed(request):
    """Print the table behind the last test."""
    yield
    lines = [f"{'fault':34} {'where':34} {'lost':>4} {'twice':>5}  what came of it"]
    lines += [f"{fault:34} {where:34} {lost:4} {twice:5}  {came}" for fault, where, came, lost, twice in table]
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + "\n".join(lines))
    assert not any(lost or twice for *_, lost, twice in table)


@pytest.fixture(scope="module")
def bucket(proxy, tmp_path_factory):
    """A bucket with 12 videos, a manifest of them, and the folder here that they came from."""
    folder = tmp_path_factory.mktemp("videos")
    write_folder(folder, 12, seed=0, num_frames=9)
    store = s3fs.S3FileSystem()
    store.mkdir("bucket")
    store.put(str(folder), "bucket/videos", recursive=True)
    import pyarrow
    from pyarrow import parquet

    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mp4"))
    rows = {"video": [f"s3://bucket/videos/{name}" for name in names]}
    with store.open("bucket/manifest.parquet", "wb") as file:
        parquet.write_table(pyarrow.table(rows), file)
    return folder


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(addresses, "READ_WAITS", (0.1,))
    monkeypatch.setattr(addresses, "WRITE_WAITS", (0.1, 0.2))


def noted(proxy, fault: str, where: str, came: str, wanted, found, *, may_lose: bool = False) -> None:
    """Add a line to the table. What is lost is what was wanted and not found, and no error told."""
    assert proxy.done, f"no request was spoilt: {fault}, {where}"
    counted = Counter(found)
    lost = 0 if may_lose else len(set(wanted) - set(counted))
    table.append((fault, where, came, lost, sum(count - 1 for count in counted.values())))
    assert not lost and max(counted.values(), default=1) == 1


def told(error: Exception) -> str:
    """What an error says: one line, without the key."""
    text = str(error)
    assert SECRET not in text and "AKIA" not in text and "\n" not in text
    return f"error: {text}"


# -- reading ---------------------------------------------------------------------------------------------------------


def content_of(source) -> bytes:
    return source.read() if hasattr(source, "read") else Path(source).read_bytes()


@pytest.mark.parametrize("fault", [*PASSES, "wrong range", "403", "404"])
def test_a_video_is_read_whole_or_is_an_error(proxy, bucket, fault):
    path = next(bucket.rglob("*.mp4"))
    planned = PlannedVideo("clip", f"s3://bucket/videos/{path.relative_to(bucket)}")
    with proxy.spoil(fault, "GET", path.name):
        try:
            same = content_of(open_source(planned)) == path.read_bytes()
            came = "read, as it is" if same else "OTHER CONTENT"
        except ValueError as error:
            came, same = told(error), True
    noted(proxy, fault, "a video", came, [], [])
    assert same or fault == "wrong range"


@pytest.mark.parametrize("fault", ["503", "cut", "short", "403"])
def test_a_manifest_is_read_whole_or_is_an_error(proxy, bucket, fault):
    engine = EngineOptions(engine="ray")
    wanted = [planned.path for planned in iter_planned(["s3://bucket/manifest.parquet"], None, engine)]
    assert len(wanted) == 12
    with proxy.spoil(fault, "GET", "manifest.parquet"):
        try:
            found = [planned.path for planned in iter_planned(["s3://bucket/manifest.parquet"], None, engine)]
            noted(proxy, fault, "a manifest", f"{len(found)} rows, all", wanted, found)
        except ValueError as error:
            noted(proxy, fault, "a manifest", told(error), wanted, [], may_lose=True)


# -- results ---------------------------------------------------------------------------------------------------------


def row(name, reason=None):
    labels = None if reason else ["juggling"]
    return {"video": name, "labels": labels, "scores": labels and [0.5], "frames_lost": 0, "reason": reason}


NAMES = [f"{number}.mp4" for number in range(8)]


def run(folder, options=PARQUET, unreadable=()):
    """What a run does, with four pieces."""
    check_settings(folder, SETTINGS)
    with ResultWriter(folder, options, Rank()) as writer:
        done = done_videos(folder, options, Rank())
        for name in NAMES:
            if prediction_files.video_id(name) not in done:
                writer.append([row(name, "broken" if name in unreadable else None)])


def names_of(folder):
    return [found["video"] for found in read_results(folder)]


@pytest.mark.parametrize("fault", PASSES)
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_fault_that_passes_changes_no_result(proxy, bucket, method, fault, monkeypatch):
    """Of a piece, of the settings, of a piece that is read again to try what could not be read, and of a listing."""
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 2)
    if method == "PUT" and fault == "short":
        pytest.skip("no content comes back")
    for path in ("000002.parquet", "_settings.json", "000000.parquet") + (("list-type",) if method == "GET" else ()):
        folder = f"s3://bucket/{method}-{fault}-{path.replace('.', '-')}"
        run(folder, unreadable=NAMES[:1])
        if path == "000002.parquet":
            s3fs.S3FileSystem().rm(folder + "/part-00000-of-00001-000002.parquet")
            s3fs.S3FileSystem().rm(folder + "/part-00000-of-00001-000003.parquet")
        with proxy.spoil(fault, method, path):
            run(folder, RETRY)
            if not proxy.done:
                names_of(folder)
        noted(proxy, f"{fault} once, {method}", path, "goes on", NAMES, names_of(folder))


@pytest.mark.parametrize("fault", LASTS)
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_fault_that_lasts_is_an_error_and_the_command_goes_on(proxy, bucket, method, fault, monkeypatch):
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PIECE", 2)
    if method == "PUT" and fault in ("short", "cut"):
        pytest.skip("no content comes back")
    folder, path = f"s3://bucket/lasting-{method}-{fault}", "000002.parquet" if method == "PUT" else "000000.parquet"
    if method == "GET":
        run(folder)
    with proxy.spoil(fault, method, path, times=10**6):
        with pytest.raises((OSError, ValueError)) as error:
            run(folder)
    came = told(error.value)
    assert "s3://bucket/lasting" in came
    run(folder)
    noted(proxy, f"{fault} for long, {method}", path, came, NAMES, names_of(folder))


def test_damaged_pieces_are_read_again(proxy, bucket):
    folder = "s3://bucket/damaged"
    run(folder)
    for fault in ("other bytes", "wrong range"):
        for whole in (2**22, 0):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("transformers_ila.evaluation.result_pieces.READ_WHOLE", whole)
                with proxy.spoil(fault, "GET", "000000.parquet"):
                    names = names_of(folder)
            if proxy.done and not (fault == "wrong range" and whole):  # it is read without a range
                noted(
                    proxy, f"{fault} once, GET", "a piece" if whole else "columns of a piece", "goes on", NAMES, names
                )


def test_of_two_writers_the_slower_one_ends(proxy, bucket):
    folder = "s3://bucket/two"
    check_settings(folder, SETTINGS)
    first, second = (ResultWriter(folder, PARQUET, Rank()) for _ in range(2))
    for writer, names in ((first, NAMES[:4]), (second, NAMES)):
        writer.append([row(name) for name in names])
    with proxy.spoil("lost", "PUT", "000000.parquet"):
        first.__exit__(None)
    with pytest.raises(FolderInUseError, match="Another run writes here") as error:
        second.__exit__(None)
    run(folder)
    noted(proxy, "two runs, and an answer lost", "000000.parquet", told(error.value), NAMES, names_of(folder))


def test_nothing_at_the_store_is_an_error_of_one_line(proxy, bucket, monkeypatch):
    with pytest.raises(FileNotFoundError, match="s3://no-such-bucket/x") as error:
        run("s3://no-such-bucket/x")
    assert told(error.value)
    for bad in ("s3://AKIAIOSFODNN7EXAMPLE:S3CRETs3cretS3CRETs3cret@bucket/x", "s3://"):
        with pytest.raises(ValueError) as refused:
            run(bad)
        assert told(refused.value)


# -- verbs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    model = make_model()
    model.save_pretrained(place)
    IlaVideoProcessor.for_model(model.config).save_pretrained(place)
    return place


@pytest.fixture
def verb(capfd):
    """Run a verb, and return what it prints; nothing of that has the key."""

    def run_it(*words, code=0):
        returned = main(list(map(str, words)))
        printed = "".join(capfd.readouterr())
        assert SECRET not in printed and "AKIA" not in printed
        assert returned == code, printed[-3000:]
        return printed

    return run_it


@pytest.mark.parametrize("fault", ["503", "lost", "cut"])
def test_shards_are_written_and_read_whole(proxy, bucket, verb, fault):
    address, names = f"s3://bucket/shards-{fault}", sorted(path.stem for path in bucket.rglob("*.mp4"))
    with proxy.spoil(fault, "PUT", "videos-000000.tar"):
        verb("shard", bucket, "--output", address)
    verb("shard", "--check", "--output", address)
    shards = read_shards(address)
    found = [sample.name for sample in shards.samples]
    assert len(set(found)) == len(found) == len(names)
    noted(proxy, f"{fault} once, PUT", "ila shard", "written; --check finds nothing", [], found)


def test_ila_predict_writes_to_the_store(proxy, bucket, saved, verb, tmp_path):
    """The plain command: killed answers, then it goes on; the same rows as in a folder here."""
    words = ("predict", "--model", saved, bucket, "--format", "parquet")
    verb(*words, "--output", tmp_path / "here")
    with proxy.spoil("lost", "PUT", "000000.parquet"):
        verb(*words, "--output", "s3://bucket/plain")
    here, there = list(read_results(tmp_path / "here")), list(read_results("s3://bucket/plain"))
    assert here == there and len(here) == 12
    assert "12 done before" in verb(*words, "--output", "s3://bucket/plain")
    noted(proxy, "lost once, PUT", "ila predict", "as in a folder", [], [found["video"] for found in there])
    assert "format 'parquet', got 'jsonl'" in verb(*words[:-2], "--output", "s3://bucket/lines", code=2)


def test_ila_predict_on_ray_from_the_store_to_the_store(proxy, bucket, saved, verb):
    pytest.importorskip("ray")
    words = (
        "predict",
        "--model",
        saved,
        "--format",
        "parquet",
        "--engine",
        "ray",
        "--readers",
        "1",
        "--replicas",
        "1",
    )
    source, output = "s3://bucket/videos", "s3://bucket/ray"
    with proxy.spoil("503", "GET", ".mp4", times=3):
        verb(*words, source, "--output", output)
    names = names_of(output)
    noted(proxy, "503 three times, GET", "ila predict --engine ray", "all labelled", [], names)
    assert len(set(names)) == 12
    with proxy.spoil("lost", "PUT", "part-"):
        verb(*words, "s3://bucket/manifest.parquet", "--output", "s3://bucket/ray-manifest")
    found = list(read_results("s3://bucket/ray-manifest"))
    noted(
        proxy,
        "lost once, PUT",
        "ila predict --engine ray",
        "manifest, all labelled",
        [],
        [one["video"] for one in found],
    )
    assert len(found) == 12 and not any(one["reason"] for one in found)
