"""Where videos lie: what is gone is told from what a store does not say."""

import logging

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from transformers_ila.model.video_urls_ila import redact
from transformers_ila.search.search import VideoIndex
from transformers_ila.search.video_places import Moves, are_there, is_there


@pytest.fixture
def store():
    """A store with three videos, in place of a bucket."""
    system = fsspec.filesystem("memory")
    for name in ("one/a.mp4", "one/deep/b.mp4", "two/a.mp4"):
        system.pipe(f"/bucket/{name}", name.encode())
    yield system
    system.store.clear()


def test_what_is_there(tmp_path, store):
    (tmp_path / "link.mp4").symlink_to("nowhere")
    places = {
        "memory://bucket/one/a.mp4": True,
        "MEMORY://bucket/one/a.mp4": True,
        "memory://bucket/one/b.mp4": False,
        "memory://bucket/one": True,
        "memory://other/one": False,
        str(tmp_path / "link.mp4"): True,
        str(tmp_path / "gone.mp4"): False,
        f"file://{tmp_path}/link.mp4": True,
        redact(f"{tmp_path}/a&key=1.mp4"): None,  # a path that looks as if a secret were in it
        "https://127.0.0.1:9/a.mp4": None,
        "s3://***@bucket/a.mp4": None,
        "abfs://c@a.dfs.core.windows.net/a.mp4?***0123abcd": None,
    }
    assert list(are_there(places)) == list(places.values())
    assert list(are_there([str(tmp_path)] * 5000)) == [True] * 5000


def test_a_store_that_does_not_say(store, monkeypatch):
    class ClientError(Exception):
        pass

    def info(self, path, **kwargs):
        raise ClientError("GET https://me:secret@host/bucket?token=abc was refused")

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(OSError, match="Cannot look for 'memory://bucket/one/a.mp4': ClientError: GET") as raised:
        is_there("memory://bucket/one/a.mp4")
    assert "secret" not in str(raised.value) and "abc" not in str(raised.value)
    for address in ("nothing://bucket/a.mp4", "memory://***@bucket/a.mp4 nothing://a"):
        if "***" in address:
            assert is_there(address) is None
        else:
            with pytest.raises(ValueError, match="'nothing://bucket/a.mp4': no file system is known for nothing://"):
                is_there(address)


def test_two_videos_or_one_that_moved(tmp_path, store, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    moves, base = Moves(), "memory://bucket"
    assert moves.are_two(f"{base}/one/a.mp4", f"{base}/two/a.mp4")
    assert not moves.are_two(f"{base}/old/deep/b.mp4", f"{base}/one/deep/b.mp4")
    assert moves.are_two(str(tmp_path / "a.mp4"), f"{base}/two/a.mp4")
    assert moves.are_two(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"))
    assert not moves.are_two(f"file://{tmp_path}/a.mp4", str(tmp_path / "a.mp4"))
    assert not moves.are_two(f"file://{tmp_path}/c.mp4", str(tmp_path / "a.mp4"))
    assert not moves.are_two("https://host/a.mp4?***01234567", "https://host/a.mp4?***76543210")
    asked = list[str]()
    info = MemoryFileSystem.info
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **kw: (asked.append(path), info(self, path))[1])
    moves = Moves()
    for number in range(100):  # a store is asked once whether the folder is there
        assert not moves.are_two(f"{base}/old/{number}.mp4", f"{base}/one/{number}.mp4")
    assert len(asked) == 1


def test_videos_that_are_gone_from_a_store_are_dropped(tmp_path, store, monkeypatch, caplog):
    index = VideoIndex.create(tmp_path, 2)
    paths = ["memory://bucket/one/a.mp4", "memory://bucket/two/a.mp4", "https://host/c.mp4", "s3://***@bucket/d.mp4"]
    index.add(["a", "b", "c", "d"], [[1, 0]] * 4, paths=paths)
    assert index.drop(missing=True) == []
    store.rm("/bucket/two/a.mp4")
    with caplog.at_level(logging.WARNING):
        assert index.drop(missing=True) == ["b"] and len(index) == 3
    assert "Whether the files of 2 videos are there cannot be told" in caplog.text
    store.rm("/bucket/one/a.mp4")
    with pytest.raises(
        ValueError, match=r"all 1 videos that can be looked for are gone, such as 'memory://bucket/one"
    ):
        index.drop(missing=True)

    def info(self, path, **kwargs):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(OSError, match="Cannot look for 'memory://bucket/.*': Forbidden"):
        index.drop(missing=True)
    assert len(index) == 3


@pytest.mark.parametrize("make", [VideoIndex, lambda folder: VideoIndex.create(folder, 2)])
def test_an_index_at_an_address_is_refused(make):
    with pytest.raises(ValueError, match=r"'s3://\*\*\*@bucket/index' is an address, and an index lies in a folder"):
        make("s3://me:secret@bucket/index")
