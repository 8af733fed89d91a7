"""Whole or not at all: what is at a path before, during and after the writing, and when it fails; one writer."""

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from transformers_ila import files
from transformers_ila.files import LOCK, FolderInUseError, atomic_folder, atomic_write, only_writer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path):
    file = tmp_path / "new" / "folder" / "report.json"
    with atomic_write(file) as opened:
        opened.write("é 动")
        assert not file.exists()
    assert file.read_bytes() == "é 动".encode()
    with atomic_write(str(file), "wb") as opened:
        opened.write(b"\xff")
        assert file.read_bytes() == "é 动".encode()
    assert file.read_bytes() == b"\xff" and names(file.parent) == ["report.json"]
    with atomic_write(file, encoding="utf-16") as opened:
        opened.write("a")
    assert file.read_text("utf-16") == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    for before in ({}, {"a.txt": "before"}):
        for name, content in before.items():
            (tmp_path / name).write_text(content)
        with pytest.raises(error), atomic_write(tmp_path / "a.txt") as opened:
            opened.write("half")
            raise error
        assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == before


def test_a_killed_process_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    code = (
        "import os, runpy, sys\n"
        "with runpy.run_path(sys.argv[1])['atomic_write'](sys.argv[2]) as file:\n"
        "    file.write('half'); file.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, files.__file__, tmp_path / "a.txt"]).returncode == 9
    assert (tmp_path / "a.txt").read_text() == "before"
    assert all(name == "a.txt" or (name[0] == "." and name.endswith(".tmp")) for name in names(tmp_path))


def test_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "new"):
            pass
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o604)
        with atomic_write(tmp_path / "old"):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")]
    assert modes == [0o640, 0o604]


def test_links_stay(tmp_path):
    (tmp_path / "far").mkdir()
    for name, target in {"link": "far/a.txt", "dangling": "far/new/b.txt"}.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "far" / "a.txt").write_text("before")
    for name in ("link", "dangling"):
        with atomic_write(tmp_path / name) as file:
            file.write("now")
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "now"
    assert names(tmp_path / "far") == ["a.txt", "new"]


def test_what_is_no_regular_file_is_written_to(tmp_path):
    read, write = os.pipe()
    with atomic_write(f"/dev/fd/{write}", "wb") as file:
        file.write(b"through")
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"through"
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path):
        pass
    with atomic_write(os.devnull) as file:
        file.write("gone")
    assert not os.path.isfile(os.devnull)


def test_long_and_odd_names(tmp_path):
    for name in ("动" * 80, "a b'\".txt", os.fsdecode(b"caf\xe9")):
        with atomic_write(tmp_path / name) as file:
            file.write(name[:1])
        assert (tmp_path / name).read_text("utf-8") == name[:1]
    assert len(names(tmp_path)) == 3


def test_what_is_refused(tmp_path):
    for mode in ("a", "r", "x"):
        with pytest.raises(ValueError, match=f"'w' or 'wb', got '{mode}'"), atomic_write(tmp_path / "a", mode):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(OSError), atomic_write(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(ValueError, match="is no folder"), atomic_folder(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_whole(tmp_path):
    folder = tmp_path / "new" / "folder"
    with atomic_folder(folder) as draft:
        (draft / "a.txt").write_text("a")
        assert not folder.exists()
    assert names(folder) == ["a.txt"] and names(folder.parent) == ["folder"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~current_umask()


def test_files_move_into_a_folder_that_exists(tmp_path):
    for name in ("a.txt", "mine.txt", "old_ila.py"):
        (tmp_path / name).write_text("before")
    with pytest.raises(KeyError), atomic_folder(tmp_path, stale=["*_ila.py"]) as draft:
        (draft / "a.txt").write_text("half")
        raise KeyError
    assert names(tmp_path) == ["a.txt", "mine.txt", "old_ila.py"] and (tmp_path / "a.txt").read_text() == "before"
    with atomic_folder(tmp_path, stale=["*_ila.py"]) as draft:
        (draft / "a.txt").write_text("now")
        (draft / "new_ila.py").write_text("now")
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {
        "a.txt": "now", "mine.txt": "before", "new_ila.py": "now"
    }  # fmt: skip


# -- one writer ------------------------------------------------------------------------------------------------------

HOLD = (
    "import os, runpy, sys, time\n"
    "with runpy.run_path(sys.argv[1])['only_writer'](sys.argv[2]):\n"
    "    if os.fork() == 0: print(os.getpid(), flush=True)\n"  # as a data loader's, which has let go of the lock then
    "    time.sleep(600)"
)


@contextmanager
def held_elsewhere(folder):
    """Another process has the folder, and a worker that outlives it."""
    command = [sys.executable, "-c", HOLD, files.__file__, str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()
        os.kill(worker, 9)
        holder.stdout.close()


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path, caplog):
    folder = tmp_path / "new" / "folder"
    with held_elsewhere(folder) as holder:
        (tmp_path / "link").symlink_to(folder)
        for name in (folder, str(folder), tmp_path / "link", folder / ".." / "folder"):
            said = f"Another process writes to .*folder': process {holder.pid} on {socket.gethostname()}. Wait for it"
            with pytest.raises(FolderInUseError, match=said), only_writer(name):
                pass
        with pytest.raises(FolderInUseError), atomic_folder(folder):  # an export into a training's folder
            pass
        with only_writer(folder, ".other.lock"), only_writer(tmp_path):
            pass
        holder.kill()
        holder.wait()
        assert names(folder) == [LOCK]  # which keeps nobody out, nor does the worker that was forked
        with only_writer(folder):
            assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()
    assert names(folder) == [] and not caplog.records


def test_a_thread_enters_again_and_another_does_not(tmp_path):
    found = []

    def enter():
        try:
            with only_writer(tmp_path):
                found.append("in")
        except FolderInUseError as error:
            found.append(str(error))

    with only_writer(tmp_path):
        with only_writer(tmp_path), atomic_folder(tmp_path) as draft:
            (draft / "a.txt").touch()
        threads = [threading.Thread(target=enter)]
        threads[0].start()
        threads[0].join()
        assert names(tmp_path) == [LOCK, "a.txt"]
        child = os.fork()
        if child == 0:
            with only_writer(tmp_path, ".mine.lock"):
                os._exit(0 if files._held.keys() == {(tmp_path / ".mine.lock", threading.get_ident())} else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(KeyError), only_writer(tmp_path):
            raise KeyError
        assert (tmp_path / LOCK).is_file()
    enter()
    assert f"process {os.getpid()} on" in found[0] and found[1] == "in"
    with pytest.raises(KeyError), only_writer(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    waiting = threading.Thread(target=lambda: found.append(wait_for(tmp_path)))
    with only_writer(tmp_path):
        waiting.start()
        time.sleep(0.05)
        assert len(found) == 2
    waiting.join()
    assert found[2] == "waited" and names(tmp_path) == [".mine.lock", "a.txt"]


def wait_for(folder):
    with only_writer(folder, wait=True):
        return "waited"


def test_a_lock_whose_file_was_deleted_is_taken_anew_or_lost(tmp_path):
    with only_writer(tmp_path):
        shutil.rmtree(tmp_path)
        with only_writer(tmp_path):
            assert names(tmp_path) == [LOCK]
        with only_writer(tmp_path):
            (tmp_path / LOCK).unlink()
            with held_elsewhere(tmp_path) as other:
                with pytest.raises(FolderInUseError, match=f"process {other.pid} on "), only_writer(tmp_path):
                    pass
                assert names(tmp_path) == [LOCK]
        with only_writer(tmp_path):
            pass
    assert names(tmp_path) == []
    with held_elsewhere(tmp_path), suppress(KeyError), only_writer(tmp_path, ".mine.lock"):
        (tmp_path / ".mine.lock").unlink()
        (tmp_path / ".mine.lock").touch()  # another's, which stays
        raise KeyError
    assert names(tmp_path) == [".mine.lock", LOCK]


def test_what_locks_cannot_tell_is_said(tmp_path, caplog, monkeypatch):
    (tmp_path / LOCK).write_text(json.dumps({"host": "node17", "process": 3}))
    with only_writer(tmp_path):
        pass
    assert "process 3 on node17 wrote to" in caplog.text and "does not share locks between machines" in caplog.text
    (tmp_path / LOCK).write_text("[half")
    with only_writer(tmp_path):
        pass
    assert len(caplog.records) == 1

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for place, name, absent in ((fcntl, "flock", no_locks), (files, "fcntl", None)):
        monkeypatch.setattr(place, name, absent)
        with only_writer(tmp_path):
            pass
    for record, reason in zip(caplog.records[1:], ("No locks available", "this system has none"), strict=True):
        assert f"Nothing keeps others from writing to {str(tmp_path)!r}: no file locks" in record.message
        assert reason in record.message
    assert names(tmp_path) == []


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
