"""What an address is, what lies there, and what is said where a store fails."""

import sys

import pytest

from support.shelf import Shelf, fill, no_pauses  # noqa: F401
from transformers_ila.stores import addresses
from transformers_ila.stores.addresses import asked, join_address, open_store, plain_place, reason_of
from transformers_ila.stores.folder import StoreFolder, open_folder
from transformers_ila.stores.listing import find, sizes_at


pytestmark = pytest.mark.usefixtures("no_pauses")


def test_places():
    assert plain_place("FILE:///d/a b.mp4") == plain_place("local:///d/a b.mp4") == "/d/a b.mp4"
    assert plain_place("S3://Bucket/a") == "s3://Bucket/a" and plain_place("d/a") == "d/a"
    for folder, path, joined in (
        ("d", "../a", "a"),
        ("d", "s3://b/../a", "s3://b/../a"),
        ("s3://b/c//d/", "a.mp4", "s3://b/c//d/a.mp4"),  # as a key may have two slashes side by side
        ("s3://b/c", "../a.mp4", "s3://b/a.mp4"),
        ("s3://b/c", "/a.mp4", "/a.mp4"),
        ("s3://b/c", "file:///a.mp4", "/a.mp4"),
    ):
        assert join_address(folder, path) == joined
    with pytest.raises(ValueError, match="'../../x' leads out of 's3://b/c'"):
        join_address("s3://b/c", "../../x")


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("s3://", ValueError, "'s3://' names no bucket or folder"),
        ("zip://a::s3://b/a.zip", ValueError, "is a chain of addresses"),
        ("s4://me:S3CRET@b/x", ValueError, r"'s4://\*\*\*@b/x': no file system is known for s4://; allowed are those"),
        ("S3://b/x", ImportError, "s3:// needs a package that is not installed: .*s3fs"),
    ],
)
def test_addresses_that_nothing_opens(monkeypatch, address, kind, message):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(kind, match=message) as caught:
        open_store(address)
    assert "S3CRET" not in str(caught.value)


def test_what_lies_at_an_address():
    fill({"b/a.mp4": b"1", "b/d/b.mp4": b"22", "b/d/e/c.mp4": b"333", "b/x[1].mp4": b"4444"})
    folder = find("shelf://b/d/", below=True)
    assert folder[:2] == ("folder", "shelf://b/d")
    assert list(folder.files) == [("shelf://b/d/b.mp4", 2), ("shelf://b/d/e/c.mp4", 3)]
    assert sizes_at("shelf://b") == {"shelf://b/a.mp4": 1, "shelf://b/x[1].mp4": 4}
    assert find("shelf://b/**/*.mp4")[:2] == ("pattern", "shelf://b")
    assert list(sizes_at("shelf://b/*/*.mp4")) == ["shelf://b/d/b.mp4"]
    assert find("shelf://b/x[1].mp4") == ("file", "shelf://b", [("shelf://b/x[1].mp4", 4)])
    assert sizes_at("shelf://b/gone") == sizes_at("shelf://b/*.avi") == {}
    with pytest.raises(FileNotFoundError, match="Cannot read 'shelf://b/gone': there is no such file, folder or buc"):
        find("shelf://b/gone")
    with pytest.raises(ValueError, match="names no bucket"):
        find("shelf://*/a.mp4")


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "reason", "times"),
    [
        (PermissionError("Access\nDenied."), PermissionError, "Access Denied", 1),
        (FileNotFoundError("NoSuchBucket"), FileNotFoundError, "there is no such file, folder or bucket", 1),
        (NoCredentialsError("Unable to locate"), OSError, "NoCredentialsError: Unable to locate", 1),
        (TimeoutError(), OSError, "TimeoutError", 5),
        (RuntimeError("https://me:S3CRET@h/x?token=S3CRET"), OSError, r"RuntimeError: https://\*\*\*@h/x\?\*\*\*", 5),
    ],
)
def test_failures(monkeypatch, error, kind, reason, times):
    """What will not change is not asked for again, and all that is said is one line."""
    calls = []

    def work():
        calls.append(1)
        raise error

    with pytest.raises(kind, match=rf"^Cannot create 'a' in 's3://\*\*\*@b/x': {reason}[^\n]*\.$") as caught:
        asked("create 'a' in", "s3://me:S3CRET@b/x", work)
    assert type(caught.value) is kind and len(calls) == times
    assert "S3CRET" not in str(caught.value) and caught.value.__suppress_context__
    calls.clear()
    monkeypatch.setattr(addresses, "WRITE_WAITS", (0.0,) * 7)
    with pytest.raises(kind):
        asked("write", "s3://b/x", work, writing=True)
    assert len(calls) == (1 if times == 1 else 8)


def test_reasons_say_the_address_once():
    for text in ("Cannot read 's3://b/x': it broke off.", "'s3://b/x': it broke off", "'s3://b/x' it broke off"):
        assert reason_of(OSError(text), "s3://b/x") == "it broke off"
    assert len(reason_of(OSError("<html>" * 1000))) == addresses.LONGEST_REASON


def test_folders_send_and_remove(monkeypatch, tmp_path):
    fill({"b/d/old": b"1"})
    (tmp_path / "draft").write_bytes(b"content")
    folder = open_folder("shelf://b/d/")
    assert isinstance(folder, StoreFolder) and open_folder(f"file://{tmp_path}/new") == tmp_path / "new"
    folder.send("parts/new", tmp_path / "draft")
    assert folder.read("parts/new") == b"content" and [file.name for file in folder.files()] == ["old"]
    folder.remove("parts")
    folder.remove("old")
    folder.remove("gone")
    assert folder.files() == []
    monkeypatch.setattr(addresses, "WRITE_WAITS", ())
    monkeypatch.setattr(Shelf, "put_file", lambda self, file, path: self.pipe_file(path, b"cont"))
    with pytest.raises(OSError, match="Cannot write 'new' in 'shelf://b/d': it has 4 bytes, of 7 sent"):
        folder.send("new", tmp_path / "draft")
