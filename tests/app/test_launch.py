"""The folder of temporary files of a page."""

import os
import tempfile

import pytest

from transformers_ila.app.launch import PREFIX, _temporary_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_what_a_killed_page_left_goes(tmp_path):
    left = tmp_path / f"{PREFIX}left" / "files"
    left.mkdir(parents=True)
    (left / "clip.mp4").write_bytes(b"1")
    with _temporary_folder() as files:
        assert not left.parent.exists() and files.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users are told by their numbers, as POSIX has them")
def test_folders_of_others_are_left_alone(tmp_path, monkeypatch):
    """Whoever else uses the machine may make a folder of that name, with a link to a file of ours as its lock."""
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / f"{PREFIX}trap").mkdir()
    (tmp_path / f"{PREFIX}trap" / "_writer.lock").symlink_to(tmp_path / "mine.txt")
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with _temporary_folder():
        pass
    assert (tmp_path / "mine.txt").read_text() == "precious"
