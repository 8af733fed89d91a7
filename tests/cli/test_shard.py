"""`ila shard`: what it prints, its exit codes, and options that have no effect."""

import json

import pytest

from support.annotation_files import write
from transformers_ila.cli.main import main
from transformers_ila.data.annotations import read_annotations
from transformers_ila.data.lists import iter_videos


@pytest.fixture
def folder(tmp_path):
    for name in ("walk/a.mp4", "walk/b.webm", "run/c.mp4"):
        write(tmp_path / "videos" / name, name * 100)
    return tmp_path / "videos"


def test_write_go_on_and_check(folder, tmp_path, capsys):
    words = ["shard", str(folder), "--output", str(tmp_path / "out"), "--videos_per_shard", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "3 videos (0.0 MB) in 2 shards, 2 of them written now" in printed and "2 .mp4, 1 .webm" in printed
    assert main(words) == 0 and "2 shards, 0 of them written now" in capsys.readouterr().out
    assert main(["shard", "--check", "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("all is as it was.\n")
    assert read_annotations(tmp_path / "out").class_names == ["run", "walk"]
    (tmp_path / "out" / "videos-000000.tar").unlink()
    assert main(["shard", "--check", "--output", str(tmp_path / "out")]) == 1
    assert "videos-000000.tar is missing" in capsys.readouterr().out
    assert main([*words, "--shuffle_seed", "1"]) == 2
    assert "differ in `shuffle_seed`: 0, here 1." in capsys.readouterr().err


def test_videos_alone(folder, tmp_path, capsys):
    write(tmp_path / "list.txt", "videos/walk/a.mp4\nvideos/run/c.mp4\nvideos/walk/a.mp4\n")
    words = ["shard", str(tmp_path / "list.txt"), "--unlabelled", "--output", str(tmp_path / "out")]
    assert main(words) == 0 and "1 videos stand there again and are written once" in capsys.readouterr().out
    index = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [2] and index["class_names"] is None
    (folder / "run" / "c.mp4").unlink()
    words[-1] += "2"
    assert main(words) == 2 and "1 of 2 videos are missing" in capsys.readouterr().err
    assert main([*words, "--skip_missing"]) == 0 and "1 videos are missing and left out" in capsys.readouterr().out
    assert list(iter_videos(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    "words,message",
    [
        ([], "name the videos: ila shard SOURCE"),
        (["x", "--check"], "--source has no effect: --check reads"),
        (["--check", "--shard_size", "3", "--no_shuffle"], "--shard_size, --no_shuffle has no effect: --check reads"),
        (["x", "--unlabelled", "--labels", "ssv2"], "--labels has no effect: --unlabelled writes no labels"),
        (["x", "--shard_size", "0"], "`shard_size` must be 1 or more, got 0"),
        (["x", "--no_shuffle", "--shuffle_seed", "3"], "`shuffle_seed` is 3 and has no effect without `shuffle`"),
        (["x", "--name", "../a"], "`name` must be letters, digits, - and _, got '../a'"),
        (["no-such-folder"], "There is no annotation at 'no-such-folder'"),
    ],
)
def test_wrong_options(words, message, tmp_path, capsys):
    assert main(["shard", *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_can_only_be_read_is_no_output(folder, capsys):
    assert main(["shard", str(folder), "--output", "https://me:secret@host/x"]) == 2
    printed = capsys.readouterr().err
    assert "can only be read" in printed and "secret" not in printed


@pytest.mark.parametrize(
    "output,message",
    [
        ("", "'' names no folder"),
        ("s3://", "'s3://' names no bucket or folder"),
        ("file:///", "'file:///' names no folder"),
        ("simplecache::s3://me:secret@bucket/x", "is a chain of addresses"),
        ("videos", "'videos' lies in the folder of the videos"),
        ("videos/shards", "lies in the folder of the videos"),
    ],
)
def test_places_that_are_none(folder, output, message, tmp_path, capsys, monkeypatch):
    """They would be taken for a local folder of this name, or for a class of the videos by the next start."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["shard", str(folder), "--output", output]) == 2
    printed = capsys.readouterr().err
    assert message in printed and "secret" not in printed and sorted(tmp_path.rglob("*")) == before
