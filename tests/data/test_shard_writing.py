"""Shards that are written: the same bytes each time, whole or not there, and read back as what they were made of."""

import errno
import json
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from support.annotation_files import write
from transformers_ila.data import shard_writing
from transformers_ila.data.annotations import AnnotationError, list_shards, read_annotations, stream_shard
from transformers_ila.data.samples import Sample, join_classes
from transformers_ila.data.shard_writing import ShardFolder, ShardOptions, check_shards, write_shards
from transformers_ila.distributed import Rank
from transformers_ila.files import FolderInUseError


NAMES = ["walk/a.b.c.mp4", "run it/a.b/c.mp4", "run it/ünï ☃.webm", "walk/__x__.MP4", "walk/__x_.mp4", "walk/.h.mp4"]
SMALL = ShardOptions(name="train", videos_per_shard=2)


@pytest.fixture
def videos(tmp_path):
    """Annotations of a list with names that are hard to read, of files that are no real videos."""
    for number, name in enumerate(NAMES):
        write(tmp_path / "videos" / name, random.Random(number).randbytes(1000 * number + 1))
    text = "".join(f'"{name}",{name.split("/")[0]}\n' for name in NAMES)
    return read_annotations(write(tmp_path / "list.csv", text), root=tmp_path / "videos", labels=["walk", "run it"])


def content_of(folder):
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def bytes_of(sample):
    return Path(sample.video).read_bytes() if isinstance(sample.video, str) else sample.source()


def content_by_name(samples):
    return {sample.name: (bytes_of(sample), tuple(map(str, sample.labels))) for sample in samples}


def test_shards_hold_what_they_were_made_of(videos, tmp_path):
    summary = write_shards(videos, tmp_path / "a", SMALL)
    assert (summary.shards, summary.videos, summary.written, summary.finished) == (3, 6, 3, True)
    found = read_annotations(tmp_path / "a")
    assert found.class_names == ["walk", "run it"] and content_by_name(found.samples) == content_by_name(
        videos.samples
    )
    assert [s.name for s in found.samples] != [s.name for s in videos.samples]  # mixed
    assert found.samples == read_annotations(f"{tmp_path}/a/train-{{000000..000002}}.tar").samples
    one = read_annotations(tmp_path / "a" / "train-000001.tar")  # some of them
    assert one.samples == found.samples[2:4]
    names = found.class_names
    streamed = [sample for shard in list_shards(tmp_path / "a") for sample in stream_shard(shard, labels=names)]
    assert [(s.video, s.labels) for s in streamed] == [(s.source(), s.labels) for s in found.samples]
    turned = [s for shard in list_shards(tmp_path / "a") for s in stream_shard(shard, labels=names[::-1])]
    assert [s.labels for s in turned] == [(1 - s.labels[0],) for s in streamed]  # by name
    assert [s.labels for s in read_annotations(tmp_path / "a", labels=names[::-1]).samples] == [
        s.labels for s in turned
    ]
    for file in ("shards.json", "samples.jsonl"):
        (tmp_path / "a" / file).unlink()
    scanned = read_annotations(tmp_path / "a", labels=names)  # as the shards of others
    assert [(s.video, s.labels) for s in scanned.samples] == [(s.video, s.labels) for s in found.samples]
    assert all("." not in s.name and "/" not in s.name for s in scanned.samples)  # read alike by all


def test_parts_of_a_video_stay_parts(videos, tmp_path):
    first = videos.samples[0]
    parts = [first._replace(name=f"{start}", start=start, end=end) for start, end in ((0.5, 2.0), (2.0, None))]
    write_shards([*parts, first], tmp_path / "shards")
    (shard,) = (tmp_path / "shards").glob("*.tar")
    streamed = [(sample.start, sample.end) for sample in stream_shard(shard, labels=["a", "b", "c"])]
    listed = [(sample.start, sample.end) for sample in read_annotations(tmp_path / "shards").samples]
    assert sorted(map(str, streamed)) == sorted(map(str, listed))
    assert {*streamed} == {(0.5, 2.0), (2.0, None), (None, None)}


def test_the_same_bytes_each_time_and_everywhere(videos, tmp_path):
    write_shards(videos, tmp_path / "a", SMALL)
    os.utime(videos.samples[0].video, (1, 1))
    write_shards(videos, tmp_path / "b", SMALL)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    for rank in (1, 0):
        summary = write_shards(videos, tmp_path / "c", SMALL, rank=Rank(rank, 2))
        assert summary.finished == (rank == 0) and summary.written == 2 - rank
        if rank:
            with pytest.raises(ValueError, match="holds a part of the shards"):
                list_shards(tmp_path / "c")
    assert content_of(tmp_path / "a") == content_of(tmp_path / "c")
    for output in ("memory://shards", f"file://{tmp_path}/d"):
        write_shards(videos, output, SMALL)
        files, path = fsspec.url_to_fs(output)
        there = {name.rpartition("/")[2]: content for name, content in files.cat(files.find(path)).items()}
        assert there == content_of(tmp_path / "a")
        assert content_by_name(read_annotations(output).samples) == content_by_name(videos.samples)
        assert check_shards(output) == [] and write_shards(videos, output, SMALL).written == 0
    other = ShardOptions(name="train", videos_per_shard=2, shuffle_seed=1)
    write_shards(videos, tmp_path / "e", other)
    assert content_of(tmp_path / "a") != content_of(tmp_path / "e")
    write_shards(videos, tmp_path / "f", ShardOptions(shuffle=False))
    assert [s.name for s in read_annotations(tmp_path / "f").samples] == NAMES


def test_a_full_disk_is_not_the_video_s_fault(videos, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writing._Digested, "write", full)
    with pytest.raises(OSError, match="There is no room for the shard, .*No space left"):
        write_shards(videos, tmp_path / "a", SMALL)


@pytest.mark.parametrize("place", ["a store", "a folder that is mended"])
def test_the_first_process_to_end_leaves_the_drafts_of_others(place, videos, tmp_path, monkeypatch):
    output = "memory://two-processes" if place == "a store" else str(tmp_path / "a")
    if place != "a store":
        write_shards(videos, output, SMALL)
        (tmp_path / "a" / "train-000001.tar").unlink()
        write(tmp_path / "a" / "_parts" / "draft-7", b"of a killed one")
    add, ended = shard_writing._add, []

    def add_while_the_other_ends(*arguments):
        if not ended:
            ended.append(1)
            with ThreadPoolExecutor(1) as other:  # a thread counts as another process
                other.submit(write_shards, videos, output, SMALL, rank=Rank(0, 2)).result()
        add(*arguments)

    monkeypatch.setattr(shard_writing, "_add", add_while_the_other_ends)
    assert write_shards(videos, output, SMALL, rank=Rank(1, 2)).finished
    assert check_shards(output) == []
    if place != "a store":
        assert not (tmp_path / "a" / "_parts").exists()


def test_killed_at_any_moment(videos, tmp_path, monkeypatch):
    """No shard has its name before it is whole, and the run that goes on ends with the same bytes."""
    videos = replace(videos, samples=videos.samples[:3])
    write_shards(videos, tmp_path / "whole", SMALL)
    whole, add, rename = content_of(tmp_path / "whole"), shard_writing._add, os.replace
    for moment in range(0, 28, 2):
        left = moment

        def die_there(step):
            def die(*arguments):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return step(*arguments)

            return die

        child = os.fork()
        if child == 0:
            monkeypatch.setattr(shard_writing, "_add", die_there(add))  # a member
            monkeypatch.setattr(os, "replace", die_there(rename))  # a file that gets its name
            write_shards(videos, tmp_path / "killed", SMALL)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        there = {name: content for name, content in content_of_files(tmp_path / "killed").items() if name in whole}
        assert there.items() <= whole.items()
        if os.waitstatus_to_exitcode(status) == 0:
            break
        if moment % 6 == 0:  # else the next one begins anew
            continue
        write_shards(videos, tmp_path / "killed", SMALL)
        assert content_of(tmp_path / "killed") == whole
        for file in (tmp_path / "killed").iterdir():
            file.unlink()
    else:
        raise AssertionError("the last moment is not reached")
    assert moment >= 10 and content_of(tmp_path / "killed") == whole


def content_of_files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} if folder.exists() else {}


def test_shards_are_of_bounded_size(tmp_path):
    sizes = [400_000] * 6 + [1_500_000, 10]
    for number, size in enumerate(sizes):
        write(tmp_path / f"{number}.mp4", bytes(size))
    samples = [Sample(str(tmp_path / f"{number}.mp4"), (), f"{number}.mp4") for number in range(len(sizes))]
    write_shards(samples, tmp_path / "out", ShardOptions(shard_size=1, shuffle=False))
    index = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [2, 2, 2, 1, 1]
    found = [entry["filesize"] for entry in index["shardlist"]]
    assert [size <= 10**6 for size in found] == [True, True, True, False, True]  # one video is larger
    assert index["__kind__"] == "wids-shard-index-v1" and found == [
        os.path.getsize(shard) for shard in list_shards(tmp_path / "out")
    ]
    with pytest.raises(AnnotationError, match="'0.mp4' has no label: .*--unlabelled"):
        read_annotations(tmp_path / "out")


def test_several_labels_and_classes_that_are_numbers(videos, tmp_path):
    text = "".join(f"{number}.mp4 0 1\n" for number in range(2)) + "2.mp4 1\n"
    for number in range(3):
        write(tmp_path / f"{number}.mp4", b"video")
    several = read_annotations(write(tmp_path / "list.txt", text), labels=["a", "b"], multi_label=True)
    write_shards(several, tmp_path / "several", ShardOptions(shuffle=False))
    found = read_annotations(tmp_path / "several", multi_label=True)
    assert [s.labels for s in found.samples] == [(0, 1), (0, 1), (1,)]
    (shard,) = list_shards(tmp_path / "several")
    streamed = stream_shard(shard, labels=["b", "a"], multi_label=True)
    assert [s.labels for s in streamed] == [(1, 0), (1, 0), (0,)]
    with pytest.raises(AnnotationError, match="one label is allowed"):
        read_annotations(tmp_path / "several")
    numbers = read_annotations(write(tmp_path / "list.txt", "0.mp4 1\n1.mp4 0\n2.mp4 1"), labels=["7", "3"])
    write_shards(numbers, tmp_path / "numbers", ShardOptions(shuffle=False))
    (shard,) = list_shards(tmp_path / "numbers")
    assert [s.labels for s in stream_shard(shard, labels=["7", "3"])] == [(1,), (0,), (1,)]
    assert [s.labels for s in read_annotations(tmp_path / "numbers").samples] == [(1,), (0,), (1,)]
    with pytest.raises(ValueError, match="are numbers, which allow no other `labels`"):
        read_annotations(tmp_path / "numbers", labels=["3", "7"])
    again = write_shards(found, tmp_path / "again", ShardOptions(shuffle=False))  # from shards
    assert again.videos == 3 and [s.source() for s in read_annotations(tmp_path / "again", multi_label=True).samples]


def test_other_shards_are_not_overwritten(videos, tmp_path):
    write_shards(videos, tmp_path / "a", SMALL)
    before = content_of(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"differ in `name`: 'train', here 'videos'; `videos_per_shard`: 2, here 10000\."
    ):
        write_shards(videos, tmp_path / "a")
    for other in (replace(videos, samples=videos.samples[:-1]), replace(videos, samples=videos.samples[::-1])):
        with pytest.raises(ValueError, match="`videos_sha256`: other videos, labels or sizes"):
            write_shards(other, tmp_path / "a", SMALL)
    with pytest.raises(ValueError, match="`class_names`: other names, or in another order"):
        write_shards(join_classes(videos, ["run it", "walk"]), tmp_path / "a", SMALL)
    with ThreadPoolExecutor(1) as other:  # a thread counts as another process
        for output in (tmp_path / "a", "memory://twice"):
            folder = ShardFolder(str(output))
            with folder.only_writer(Rank()), pytest.raises(FolderInUseError, match="Another process writes"):
                other.submit(write_shards, videos, output, SMALL).result()
    write(tmp_path / "foreign" / "x.tar", b"")
    with pytest.raises(ValueError, match="shards of another origin: 'x.tar'"):
        write_shards(videos, tmp_path / "foreign", SMALL)
    assert content_of(tmp_path / "a") == before


def test_damage_is_found_and_mended(videos, tmp_path):
    write_shards(videos, tmp_path / "a", SMALL)
    before, shard = content_of(tmp_path / "a"), tmp_path / "a" / "train-000001.tar"
    content = bytearray(before[shard.name])
    content[600] ^= 1
    shard.write_bytes(content)
    (tmp_path / "a" / "train-000002.tar").unlink()
    assert check_shards(tmp_path / "a") == [
        f"train-000001.tar has other content: {len(content)} bytes, of {len(content)}",
        "train-000002.tar is missing",
    ]
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"train-000001.tar' has {len(content) - 1} bytes"):
        read_annotations(tmp_path / "a")
    assert write_shards(videos, tmp_path / "a", SMALL).written == 2 and content_of(tmp_path / "a") == before
    shard.unlink()
    for sample in videos.samples:
        Path(sample.video).write_bytes(bytes(os.path.getsize(sample.video)))
    with pytest.raises(ValueError, match="'train-000001.tar' would have other content .*: its videos have changed"):
        write_shards(videos, tmp_path / "a", SMALL)
    assert not shard.exists()
    (tmp_path / "a" / "samples.jsonl").write_text("")
    with pytest.raises(ValueError, match="'samples.jsonl' .* is not the one"):
        read_annotations(f"{tmp_path}/a/train-000000.tar")
    with pytest.raises(ValueError, match="holds no 'shards.json'"):
        check_shards(tmp_path)


def test_what_cannot_be_written(videos, tmp_path, monkeypatch):
    gone = videos.samples[1].video
    os.rename(gone, gone + "x")
    with pytest.raises(ValueError, match="1 of 6 videos are missing: .*a.b/c.mp4'. --skip_missing"):
        write_shards(videos, tmp_path / "a", SMALL)
    assert not (tmp_path / "a").exists()
    summary = write_shards(videos, tmp_path / "a", SMALL, skip_missing=True)
    assert summary.missing == [gone] and len(read_annotations(tmp_path / "a").samples) == 5
    for video, message in (
        (str(tmp_path / "videos"), "folders of frames are not put into shards"),
        (str(write(tmp_path / "clip.dat", b"x")), "no suffix by which readers of shards know a video: .3gp"),
        (b"bytes", "'clip' is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shards([Sample(video, (), "clip")], tmp_path / "b")
    with pytest.raises(ValueError, match="There are no videos"):
        write_shards([], tmp_path / "b")
    with pytest.raises(ValueError, match="can only be read"):
        write_shards(videos, "https://host/folder")
    size = shard_writing._path_and_size
    for change in (1, -1):  # bytes that a file loses or gets after its size was taken
        monkeypatch.setattr(
            shard_writing, "_path_and_size", lambda sample, c=change: (size(sample)[0], (size(sample)[1] or -c) + c)
        )
        with pytest.raises(OSError, match="shrank while|grew while"):
            write_shards(videos.samples[3:4], tmp_path / f"c{change}")
        assert not list(tmp_path.glob("c*/*.tar"))
    for wrong in ({"shard_size": 0}, {"videos_per_shard": 0}, {"name": "a/b"}, {"shuffle": False, "shuffle_seed": 1}):
        with pytest.raises(ValueError, match="`(shard_size|videos_per_shard|name|shuffle_seed)`"):
            ShardOptions(**wrong)
