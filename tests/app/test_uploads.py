"""Videos of users: which may be opened by whom, and that nothing stays."""

import os
import socket
import time

import pytest

from support.videos import write_video
from transformers_ila.app import uploads
from transformers_ila.app.limits import AppError, Busy
from transformers_ila.app.options import AppOptions
from transformers_ila.app.uploads import Inputs


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", 8).read_bytes()


@pytest.fixture
def folder(tmp_path, video):
    (tmp_path / "allowed" / "inner").mkdir(parents=True)
    (tmp_path / "allowed" / "inner" / "clip.mp4").write_bytes(video)
    (tmp_path / "secret.mp4").write_bytes(video)
    return tmp_path / "allowed"


def make(tmp_path, **options):
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    return Inputs(AppOptions(**options), root)


def sent(inputs, video, name="clip.mp4", place="a1"):
    file = inputs.root / place / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(video)
    return file


def left_in(inputs):
    return sorted(path.name for path in inputs.root.rglob("*") if path.is_file())


# -- paths -----------------------------------------------------------------------------------------------------------


def test_paths_in_an_allowed_folder(tmp_path, folder):
    inputs = make(tmp_path, folders=[str(folder)])
    for path in ("inner/clip.mp4", str(folder / "inner" / "clip.mp4"), " inner/../inner/clip.mp4 "):
        with inputs.open("s", path=path) as opened:
            assert opened.path == folder / "inner" / "clip.mp4" and opened.name == "clip.mp4"
    assert (folder / "inner" / "clip.mp4").is_file()  # which is nobody's upload


def test_paths_outside_are_refused_in_the_same_words(tmp_path, folder):
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "up").symlink_to(tmp_path)
    (folder / "round").symlink_to(folder / "round")
    (folder / "device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # the address of such a socket is short
        server.bind("socket.mp4")
    inputs = make(tmp_path, folders=[str(folder)])
    for path in (
        "../secret.mp4", "inner/../../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "up/secret.mp4", "round",
        "device", "/dev/zero", "/dev/stdin", "/etc/passwd", "/proc/self/environ", "pipe.mp4", "socket.mp4", "inner",
        ".", "/", "~/clip.mp4", "missing.mp4", "nul\0.mp4", "n" * 5000, "inner\\clip.mp4", "concat:inner/clip.mp4",
        "file:inner/clip.mp4", "//etc/passwd", "data:video/mp4;base64,AAAA",
    ):  # fmt: skip
        with pytest.raises(AppError, match="is no video in the folders that this page may read.$"):
            with inputs.open("s", path=path):
                pass


@pytest.mark.parametrize("path", ["http://127.0.0.1/a.mp4", "HTTPS://x.org/a.mp4", "file:///etc/passwd", "ftp://x/a"])
def test_addresses_are_refused(path, tmp_path, folder):
    with pytest.raises(AppError, match="Addresses are not taken here"):
        with make(tmp_path, folders=[str(folder)]).open("s", path=path):
            pass


def test_addresses_where_they_are_allowed_lead_to_public_servers_only(tmp_path):
    inputs = make(tmp_path, urls=True)
    for path in ("file:///etc/passwd", "gopher://x/a"):
        with pytest.raises(AppError, match="only those that begin with https"):
            with inputs.open("s", path=path):
                pass
    for path in ("http://127.0.0.1:9/a.mp4", "http://169.254.169.254/latest", "http://[::1]/a.mp4"):
        with pytest.raises(AppError, match="cannot be read"):
            with inputs.open("s", path=path):
                pass
    assert left_in(inputs) == []


def test_without_folders(tmp_path):
    with pytest.raises(AppError, match="there are none. Send the video instead"):
        with make(tmp_path).open("s", path="/etc/passwd"):
            pass


# -- uploads ---------------------------------------------------------------------------------------------------------


def test_one_video_at_a_time(tmp_path, video):
    inputs = make(tmp_path)
    for given, message in (
        ({}, "Choose a video first"),
        ({"upload": "", "path": "  "}, "Choose a video first"),
        ({"upload": str(sent(inputs, video)), "path": "a.mp4"}, "There are two videos"),
    ):
        with pytest.raises(AppError, match=message):
            with inputs.open("s", **given):
                pass


def test_an_upload_belongs_to_who_asked_first(tmp_path, video):
    inputs = make(tmp_path)
    file = sent(inputs, video, "<b>a<.mp4")
    with inputs.open("one", upload=str(file)) as opened:
        assert opened.path == file and opened.name == "<b>a<.mp4"
    with pytest.raises(AppError, match="no longer here"):
        with inputs.open("two", upload=str(file)):
            pass
    result = inputs.folder("one") / "overlay.mp4"
    result.write_bytes(video)
    with pytest.raises(AppError, match="no longer here"):
        with inputs.open("two", upload=str(result)):
            pass
    with inputs.open("one", upload=str(file)):  # again, in another tab of the page
        pass


def test_forged_uploads(tmp_path, video, folder):
    inputs = make(tmp_path, folders=[str(folder)])
    (inputs.root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    for path in (
        "/etc/passwd", str(folder / "inner" / "clip.mp4"), str(inputs.root), str(inputs.root / "link.mp4"),
        str(inputs.root / ".." / "secret.mp4"), "http://127.0.0.1/a.mp4", str(inputs.root / "missing.mp4"),
    ):  # fmt: skip
        with pytest.raises(AppError, match="no longer here"):
            with inputs.open("s", upload=path):
                pass


def test_examples_are_everybodys(tmp_path, video):
    inputs = make(tmp_path)
    file = sent(inputs, video)
    inputs.shared.add(file)
    for user in ("one", "two"):
        with inputs.open(user, upload=str(file)):
            pass
        inputs.forget(user)
    os.utime(file, (1, 1))
    inputs.sweep()
    assert file.is_file()


# -- and nothing stays -----------------------------------------------------------------------------------------------


def test_the_earlier_upload_goes_with_the_next(tmp_path, video):
    inputs = make(tmp_path)
    first, second = sent(inputs, video, "1.mp4", "a"), sent(inputs, video, "2.mp4", "b")
    with inputs.open("s", upload=str(first)):
        with inputs.open("s", upload=str(second)):  # while an answer about the first one is computed
            assert first.is_file()
    with inputs.open("s", upload=str(first)):
        assert not second.exists() and not second.parent.exists()


def test_what_is_kept_goes_when_a_user_leaves(tmp_path, video, monkeypatch):
    inputs = make(tmp_path)
    file = sent(inputs, video)
    with inputs.open("s", upload=str(file)):
        (inputs.folder("s") / "overlay.mp4").write_bytes(video)
        inputs.forget("s")
        monkeypatch.setattr(uploads, "GRACE", -1)
        inputs.sweep()
        assert left_in(inputs) == ["clip.mp4", "overlay.mp4"]  # an answer is still computed
    inputs.sweep()
    assert left_in(inputs) == []
    assert inputs.folder("s") != inputs.folder("t")


def test_who_comes_back_finds_what_was_kept(tmp_path, video):
    inputs = make(tmp_path)
    file = sent(inputs, video)
    with inputs.open("s", upload=str(file)):
        pass
    inputs.forget("s")
    inputs.sweep()
    with inputs.open("s", upload=str(file)):
        assert file.is_file()


def test_what_nobody_asks_about_goes_by_age(tmp_path, video, monkeypatch):
    inputs = make(tmp_path, idle_minutes=1e-6)
    asked, never = sent(inputs, video, "asked.mp4", "a"), sent(inputs, video, "never.mp4", "b")
    with inputs.open("s", upload=str(asked)):
        time.sleep(0.001)
        inputs.sweep(waiting=3)  # who has sent it may have asked, too
        assert left_in(inputs) == ["asked.mp4", "never.mp4"]
        inputs.sweep()
        assert left_in(inputs) == ["asked.mp4"] and not never.parent.exists()
    time.sleep(0.001)
    inputs.sweep()
    assert left_in(inputs) == []


def test_no_more_users_than_allowed(tmp_path, video):
    inputs = make(tmp_path, users=1)
    with inputs.open("one", upload=str(sent(inputs, video))):
        inputs.forget("one")
        with pytest.raises(Busy, match="1 people use this page already"):
            with inputs.open("two", upload=str(sent(inputs, video, place="b"))):
                pass
    inputs.forget("one")  # whose place is then free
    with inputs.open("two", upload=str(sent(inputs, video, place="b"))):
        assert not (inputs.root / "a1").exists()


def test_who_does_not_stay_makes_room(tmp_path, video):
    """Each call by curl is a session of its own, which nobody ever says to have ended."""
    inputs = make(tmp_path, users=2)
    with inputs.connected("page"), inputs.open("page", upload=str(sent(inputs, video))):
        pass
    with inputs.connected("page"):
        for number in range(5):
            with inputs.open(f"call {number}", upload=str(sent(inputs, video, f"{number}.mp4", f"b{number}"))):
                pass
        assert left_in(inputs) == ["4.mp4", "clip.mp4"]
        with inputs.connected("call 4"), pytest.raises(Busy, match="2 people use this page already"):
            inputs.folder("other page")


def test_no_more_files_than_allowed(tmp_path, video):
    inputs = make(tmp_path, megabytes=0.001, disk_megabytes=0.01)
    inputs.check_room(5000)
    sent(inputs, bytes(9000))
    with pytest.raises(Busy, match="space for videos is full"):
        inputs.check_room(5000)
    inputs.close()
    assert not inputs.root.exists()


def test_empty_files_take_room_too(tmp_path):
    inputs = make(tmp_path, megabytes=0.001, disk_megabytes=0.01)
    for number in range(3):
        sent(inputs, b"", place=f"a{number}")
    with pytest.raises(Busy, match="space for videos is full"):
        inputs.check_room()


def test_the_end_waits_for_answers_at_work(tmp_path, video):
    inputs = make(tmp_path)
    with inputs.open("s", upload=str(sent(inputs, video))):
        assert not inputs.wait_for_work(0.01)
    assert inputs.wait_for_work(0.01)
