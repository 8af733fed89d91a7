"""What is let through to the page's server: the routes that the page needs, in sizes that the limits allow.

Gradio has more routes, for other kinds of pages: some fetch addresses for whoever asks, write a user's state to disk,
or start programs. What is not named here is answered as if it were not there.
"""

import asyncio
import ipaddress
import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .limits import Busy
from .options import LOOPBACK, MEBIBYTE, AppOptions
from .uploads import Inputs


API = "/gradio_api"
READ = re.compile(  # GET and HEAD
    rf"/|/(config|favicon\.ico|theme\.css|manifest\.json|robots\.txt|pwa_icon(/\d+)?)/?|/(assets|static|svelte)/.+"
    rf"|{API}/(info|openapi\.json|startup-events|app_id|heartbeat/[^/]+|queue/(data|status)|upload_progress|theme\.css)/?"
    rf"|{API}/call/(v2/)?[^/]+/[^/]+|{API}/file=.+"
)
ASK = re.compile(rf"{API}/(queue/join|call/(v2/)?[^/]+|run/[^/]+|api/[^/]+)/?")  # POST: questions
TELL = re.compile(rf"{API}/(cancel|reset)/?")  # POST: about a question
UPLOAD = re.compile(rf"{API}/upload/?")
HEARTBEAT = re.compile(rf"{API}/heartbeat/(?P<session>[^/]+)/?")  # GET: open as long as a page or a program is there
ADDRESS = re.compile(rf"{API}/file=\s*[A-Za-z][A-Za-z0-9+.-]*:/", re.IGNORECASE)
QUESTION = MEBIBYTE  # bytes of a question, at most: words, paths and numbers, no video
ENVELOPE = 64 * 1024  # bytes that a form has beside its file

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Stand between the network and the page, as ASGI middleware.

    Args:
        app: what is guarded.
        options: the limits.
        inputs: that says whether there is room for an upload.
        waiting: that says how many questions wait.
    """

    def __init__(self, app: Any, options: AppOptions, inputs: Inputs, waiting: Callable[[], int]) -> None:
        self.app, self.options, self.inputs, self.waiting = app, options, inputs, waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refused = (404, "Not Found") if scope["type"] != "http" else await self._why_not(scope)
        if refused is not None:
            await _answer(scope, send, *refused)
        elif scope["method"] == "GET" and (found := HEARTBEAT.fullmatch(_path(scope))):
            with self.inputs.connected(found["session"]):
                await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _why_not(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the words with which a request is refused, or None."""
        path = _path(scope)
        if (why_not := self._why_no_stranger(scope)) is not None:
            return why_not
        if scope["method"] in ("GET", "HEAD"):
            return None if READ.fullmatch(path) and not ADDRESS.match(path) else (404, "Not Found")
        if scope["method"] == "OPTIONS":
            return None
        if scope["method"] != "POST":
            return 405, "Method Not Allowed"
        size = _length(scope)
        if UPLOAD.fullmatch(path):
            if size is None:
                return 411, "Say how long the upload is (Content-Length)."
            if size > self.options.megabytes * MEBIBYTE + ENVELOPE:
                allowed = f"at most {self.options.megabytes:g} are taken here"
                return 413, f"The video has {size / MEBIBYTE:.1f} megabytes; {allowed}."
            try:
                await asyncio.to_thread(self.inputs.check_room, size)
            except Busy as busy:
                return 503, str(busy)
            return None
        if not (ASK.fullmatch(path) or TELL.fullmatch(path)):
            return 404, "Not Found"
        if size is None or size > QUESTION:
            return 413, f"A question has at most {QUESTION} bytes, and says how many (Content-Length)."
        if ASK.fullmatch(path) and (waiting := self.waiting()) >= self.options.queue:
            return 503, f"Busy: {waiting} questions wait already, as many as may. Try again in a minute."
        return None

    def _why_no_stranger(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and words that refuse another website's request, sent by a user's browser; None for others.

        Only a page that is this machine's alone refuses them. A name that such a website gives this machine's address
        makes it the same site to a browser, so names are refused, too; behind a proxy, which has names of its own,
        GRADIO_ROOT_PATH is set.
        """
        if self.options.host.strip("[]") not in LOOPBACK or self.options.share or os.environ.get("GRADIO_ROOT_PATH"):
            return None
        headers = dict(scope["headers"])
        name = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1"))
        if name and not _is_address(name):
            return (
                403,
                f"This page is this machine's alone, under localhost or 127.0.0.1; asked was {name!r}.",
            )
        if headers.get(b"sec-fetch-site") == b"cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "This page is this machine's alone, and takes nothing from other websites."
        return None


def _is_address(name: str) -> bool:
    """Return whether a host is an address, or this machine's own name, and no name that others give to an address."""
    if name.lower().rstrip(".") == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", ""))


def _length(scope: Scope) -> int | None:
    """Return the bytes that a request says it has, or None."""
    found = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(found[0]) if len(found) == 1 and found[0].isdigit() else None


async def _answer(scope: Scope, send: Send, status: int, words: str) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1000})
        return
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
