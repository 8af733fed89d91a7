"""What lies at addresses is read whole, from stores that are slow to answer, break off, or do not answer at all."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from support.annotation_files import rows, write_shard
from transformers_ila.data.annotations import AnnotationError, list_shards, read_annotations, stream_shard
from transformers_ila.stores import addresses
from transformers_ila.stores.listing import sizes_at
from transformers_ila.stores.reading import open_file, read_file, read_range


CONTENT = bytes(range(256)) * 40
MEMBERS = {"a.mp4": b"one" * 3000, "a.cls": "1", "b.mp4": b"two", "b.cls": "0"}


class Faulty(MemoryFileSystem):
    """Hold files in memory, and answer some requests for bytes with a fault."""

    protocol = "faulty"
    store = {}
    faults: list = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        content = super().cat_file(path, start, end, **kwargs)
        return content if fault is None else content[:fault]


@pytest.fixture(autouse=True)
def store(monkeypatch):
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    monkeypatch.setattr(addresses, "READ_WAITS", (0.0,) * 4)
    Faulty.faults = []
    Faulty.store.clear()
    files = Faulty()
    files.pipe_file("/b/a.bin", CONTENT)
    return files


def test_what_breaks_off_is_read_again(store):
    Faulty.faults += [OSError("reset"), 10, 0, RuntimeError("a store's own error"), None]
    assert read_range("faulty://b/a.bin", 5, 900) == CONTENT[5:900] and not Faulty.faults
    for fault in (10, OSError("reset"), RuntimeError("at https://me:secret@host/x?token=abc")):
        Faulty.faults += [fault] * (len(addresses.READ_WAITS) + 1)
        with pytest.raises(OSError, match="'faulty://b/a.bin': ") as caught:
            read_file("faulty://b/a.bin")
        assert "secret" not in str(caught.value) and "abc" not in str(caught.value) and not Faulty.faults
    for fault in (PermissionError("403"), FileNotFoundError("404")):  # which no patience changes
        Faulty.faults += [fault, None]
        with pytest.raises(type(fault)):
            read_range("faulty://b/a.bin", 0, 9)
        assert Faulty.faults.pop() is None


def test_a_file_at_an_address_is_a_file(store):
    for block in (7, 1000, 2**20):
        with open_file("faulty://b/a.bin", block=block) as file:
            Faulty.faults += [3, OSError("reset")]
            assert file.read() == CONTENT
            file.seek(-5, 2)
            assert file.tell() == len(CONTENT) - 5 and file.read(99) == CONTENT[-5:] and file.read() == b""
    assert read_file("faulty://b/no.bin") is None
    assert sizes_at("faulty://b") == sizes_at("faulty://b/*.bin") == {"faulty://b/a.bin": len(CONTENT)}
    assert sizes_at("faulty://b/no.bin") == {}
    with pytest.raises(ValueError, match="no file system is known for no-such-store"):
        read_file("no-such-store://b/a")


def test_shards_at_an_address(store, tmp_path):
    """They are what they are on a disk, also where answers break off; broken for good they are an error."""
    file = write_shard(tmp_path / "train-000.tar", MEMBERS)
    store.pipe_file("/shards/train-000.tar", file.read_bytes())
    store.pipe_file("/shards/notes.txt", b"")
    expected = read_annotations(file)
    assert rows(read_annotations(f"file://{file}")) == rows(expected)
    sources = ("faulty://shards", "faulty://shards/train-{000..000}.tar", "faulty://shards/*.tar")
    for source in sources:
        Faulty.faults += [OSError("reset"), 3]
        found = read_annotations(source)
        assert found.format == "shards" and rows(found) == rows(expected)
        Faulty.faults += [5, OSError("reset")]
        assert [sample.source() for sample in found.samples] == [b"one" * 3000, b"two"]
        (shard,) = list_shards(source)
        Faulty.faults += [5, OSError("reset")]
        assert [sample.video for sample in stream_shard(shard)] == [b"one" * 3000, b"two"]
    Faulty.faults += [OSError("reset")] * (len(addresses.READ_WAITS) + 1)
    with pytest.raises((OSError, AnnotationError), match="reset"):
        list(stream_shard(shard))
    with pytest.raises(ValueError, match=r"missing: 'faulty://shards/train-001.tar'"):
        read_annotations("faulty://shards/train-{000..001}.tar")
    with pytest.raises(ValueError, match="must give shards"):
        read_annotations("faulty://nothing/here")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server(tmp_path, ranges):
    """One that knows no ranges sends all at once; one that breaks off in the middle is asked again."""
    content = write_shard(tmp_path / "a.tar", MEMBERS).read_bytes()
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            if not self.path.startswith("/a.tar"):
                return self.send_error(404)
            part = content
            if ranges and (wanted := self.headers.get("Range")):
                start, end = wanted.removeprefix("bytes=").split("-")
                part = content[int(start) : int(end) + 1]
            self.send_response(206 if len(part) < len(content) else 200)
            self.send_header("Content-Length", str(len(part)))
            if ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if body:
                asked.append(len(part))
                self.wfile.write(part[:100] if len(asked) == 1 else part)  # breaks off
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.tar"
        assert [sample.video for sample in stream_shard(address)] == [b"one" * 3000, b"two"]
        assert len(asked) == 2
        found = read_annotations(address + "?token=secret")
        assert rows(found) == [("a", 1), ("b", 0)] and "secret" not in found.source
        if ranges:
            assert found.samples[0].source() == b"one" * 3000
        else:
            with pytest.raises(OSError, match="does not know ranges"):
                found.samples[0].source()
        server.shutdown()
