"""What is let through to the page's server."""

import asyncio
import json

import pytest

from transformers_ila.app.guard import Guard
from transformers_ila.app.limits import Busy
from transformers_ila.app.options import AppOptions
from transformers_ila.app.uploads import Inputs


def ask(tmp_path, path, method="GET", *, waiting=0, size=None, kind="http", root_path="", headers=(), **options):
    """The status and the words of an answer; 200 where the request is let through."""
    sent = []

    async def app(scope, receive, send):
        sent.append({"status": 200})

    async def send(message):
        sent.append(message)

    headers = [*headers, *([] if size is None else [(b"content-length", str(size).encode())])]
    scope = {"type": kind, "path": root_path + path, "method": method, "headers": headers, "root_path": root_path}
    options = AppOptions(**options)
    guard = Guard(app, options, Inputs(options, tmp_path), lambda: waiting)
    asyncio.run(guard(scope, None, send))
    first, *rest = sent
    return first.get("status"), json.loads(rest[0]["body"])["detail"] if rest else ""


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
def test_what_the_page_needs(tmp_path, root_path):
    for path in (
        "/", "/config", "/assets/index.js", "/theme.css", "/gradio_api/info", "/gradio_api/queue/data",
        "/gradio_api/heartbeat/abc", "/gradio_api/file=/tmp/x/a b.mp4", "/gradio_api/call/label/1",
    ):  # fmt: skip
        assert ask(tmp_path, path, root_path=root_path) == (200, "")
    for path in ("/gradio_api/queue/join", "/gradio_api/call/label", "/gradio_api/cancel", "/gradio_api/upload"):
        assert ask(tmp_path, path, "POST", size=100, root_path=root_path) == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://example.org", "/gradio_api/file=http://example.org", "/gradio_api/file= HTTP://x",
        "/gradio_api/deep_link", "/monitoring", "/monitoring/key", "/gradio_api/dev/reload", "/docs", "/redoc",
        "/gradio_api/stream/a/1/2/playlist.m3u8", "/gradio_api/custom_component/1/a/b/c.js",
        "/gradio_api/run-history/x", "/gradio_api/vibe-code/", "/login", "/gradio_api/token", "/anything",
        "/gradio_api/file/etc/passwd",
    ],
)  # fmt: skip
def test_other_routes_are_not_there(tmp_path, path):
    assert ask(tmp_path, path) == (404, "Not Found")


def test_other_methods_and_kinds(tmp_path):
    assert ask(tmp_path, "/gradio_api/process_recording", "POST", size=1)[0] == 404
    assert ask(tmp_path, "/gradio_api/component_server", "POST", size=1)[0] == 404
    assert ask(tmp_path, "/gradio_api/upload", "PUT", size=1)[0] == 405
    assert ask(tmp_path, "/gradio_api/queue/join", kind="websocket")[0] is None


def test_sizes(tmp_path):
    assert ask(tmp_path, "/gradio_api/upload", "POST") == (411, "Say how long the upload is (Content-Length).")
    status, words = ask(tmp_path, "/gradio_api/upload", "POST", size=3 * 2**20, megabytes=2)
    assert (status, words) == (413, "The video has 3.0 megabytes; at most 2 are taken here.")
    assert ask(tmp_path, "/gradio_api/queue/join", "POST", size=2**21)[0] == 413
    assert ask(tmp_path, "/gradio_api/queue/join", "POST")[0] == 413


def test_a_page_keeps_its_place_while_its_heartbeat_is_open(tmp_path):
    options = AppOptions(users=1)
    inputs = Inputs(options, tmp_path)

    async def app(scope, receive, send):
        inputs.folder("abc")
        with pytest.raises(Busy):
            inputs.folder("other")

    scope = {"type": "http", "path": "/gradio_api/heartbeat/abc", "method": "GET", "headers": []}
    asyncio.run(Guard(app, options, inputs, lambda: 0)(scope, None, None))
    inputs.folder("other")


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        ("127.0.0.1:7860", {}, 200), ("localhost:7860", {}, 200), ("[::1]:7860", {}, 200), ("10.0.0.7", {}, 200),
        ("evil.example:7860", {}, 403), ("127.0.0.1.evil.example", {}, 403), ("notlocalhost", {}, 403),
        ("my.example", {"host": "0.0.0.0"}, 200), ("a1b2.gradio.live", {"share": True}, 200),
    ],
)  # fmt: skip
def test_a_page_of_this_machine_answers_to_no_foreign_name(tmp_path, monkeypatch, host, options, status):
    monkeypatch.delenv("GRADIO_ROOT_PATH", raising=False)
    headers = [(b"host", host.encode())]
    assert ask(tmp_path, "/config", headers=headers, **options)[0] == status
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/behind/a/proxy")
    assert ask(tmp_path, "/config", headers=headers, **options)[0] == 200


def test_a_page_of_this_machine_takes_nothing_from_other_websites(tmp_path):
    headers = [(b"host", b"127.0.0.1:7860"), (b"sec-fetch-site", b"cross-site")]
    assert ask(tmp_path, "/", headers=headers)[0] == 200  # a link leads to it
    status, words = ask(tmp_path, "/gradio_api/upload", "POST", size=100, headers=headers)
    assert status == 403 and "nothing from other websites" in words
    assert ask(tmp_path, "/gradio_api/upload", "POST", size=100, headers=headers, host="0.0.0.0")[0] == 200


def test_busy(tmp_path):
    status, words = ask(tmp_path, "/gradio_api/queue/join", "POST", size=1, waiting=7, queue=7)
    assert status == 503 and words.startswith("Busy: 7 questions wait already")
    assert ask(tmp_path, "/gradio_api/cancel", "POST", size=1, waiting=7, queue=7) == (200, "")
    (tmp_path / "full").write_bytes(bytes(2**20))
    status, words = ask(tmp_path, "/gradio_api/upload", "POST", size=2**20, megabytes=1, disk_megabytes=1.5)
    assert status == 503 and "space for videos is full" in words
