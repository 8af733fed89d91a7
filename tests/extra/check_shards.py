"""Shards as `webdataset` and `datasets` read them, and in a store that speaks S3 (moto's server on the loopback).

`tests/extra/run.sh PYTHON shards` installs webdataset, s3fs and moto's server.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import datasets
import pytest
import s3fs
import webdataset
from torch.utils.data import DataLoader

from support.tiny_models import tiny_config
from transformers_ila import IlaVideoProcessor
from transformers_ila.data.annotations import list_shards, read_annotations, stream_shard
from transformers_ila.data.shard_writing import ShardOptions, check_shards, write_shards
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.training.augmentation import ClipAugmentation
from transformers_ila.training.shard_clips import ShardClips


SECRET = "a-secret-of-the-tests"
SMALL = ShardOptions(name="train", videos_per_shard=8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = write_folder(folder, 32, seed=0, num_frames=6)
    for number, path in enumerate(paths[:8]):  # names that readers cut in other ways
        os.rename(path, os.path.join(os.path.dirname(path), (f"a.b {number}.mp4", f"ü_{number}.v2.mp4")[number % 2]))
    return folder


@pytest.fixture(scope="module")
def store():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    program = os.environ["MOTO_SERVER"]
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.kill()
        server.wait()
        os.environ.clear()
        os.environ.update(before)


def test_all_readers_see_the_same(videos, tmp_path):
    write_shards(read_annotations(videos), tmp_path, SMALL)
    found = read_annotations(tmp_path)
    ours = {s.name: (s.source(), int(s.labels[0])) for s in found.samples}
    assert len(ours) == 32 and {name.split("/")[-1] for name in ours} >= {"a.b 0.mp4", "ü_1.v2.mp4"}
    shards = list_shards(tmp_path)
    rows = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert {json.loads(row["json"])["name"]: (row["mp4"], int(row["cls"])) for row in rows} == ours
    assert len({row["__key__"] for row in rows}) == 32
    data = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True)
    data = data.cast_column("mp4", datasets.Video(decode=False))
    assert {row["json"]["name"]: (row["mp4"]["bytes"], row["cls"]) for row in data} == ours


def command(videos, output):
    arguments = ["shard", str(videos), "--output", output, "--name", "train", "--videos_per_shard", "8"]
    return [sys.executable, "-m", "ila_cli", *arguments]


def test_a_store(videos, tmp_path, store):
    """Killed while it writes, the command ends with the shards of a folder; they train as those do."""
    write_shards(read_annotations(videos), tmp_path, SMALL)
    running = subprocess.Popen(command(videos, f"{store}/shards"), stderr=subprocess.DEVNULL)
    files = s3fs.S3FileSystem()
    for _ in range(600):
        files.invalidate_cache()
        if running.poll() is not None or any(name.endswith(".tar") for name in files.find("bucket/shards")):
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = subprocess.run(command(videos, f"{store}/shards"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files.invalidate_cache()
    there = {name.rpartition("/")[2]: files.cat_file(name) for name in files.find("bucket/shards")}
    assert there == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert SECRET not in done.stdout + done.stderr + repr(there)
    assert check_shards(f"{store}/shards") == []
    here, far = read_annotations(tmp_path), read_annotations(f"{store}/shards")
    assert [sample.source() for sample in here.samples] == [sample.source() for sample in far.samples]
    names = here.class_names
    streamed = [s.video for shard in list_shards(f"{store}/shards/*.tar") for s in stream_shard(shard, labels=names)]
    assert streamed == [sample.source() for sample in here.samples]
    assert seeds(f"{store}/shards", names) == seeds(tmp_path, names)


def seeds(source, names):
    processor = IlaVideoProcessor.for_model(tiny_config())
    augment = ClipAugmentation(size=28)
    data = ShardClips(source, processor, augment=augment, videos=32, batch=4, labels=names, buffer=5)
    return [item["clip_seed"] for batch in DataLoader(data, 4, num_workers=2, collate_fn=list) for item in batch]
