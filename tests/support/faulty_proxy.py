"""A proxy before a store on this machine that answers as it is told to: slowly, with errors, cut off, or wrongly."""

import http.client
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


XML = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{} of the proxy</Message></Error>"
STATUS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "404": "NoSuchKey"}
FAULTS = ("slow", "stalled", "500", "503", "reset", "lost", "cut", "short", "wrong range", "other bytes", "403", "404")


class FaultyProxy:
    """Passes requests on to `port`, and spoils those that `spoil` names.

    - `slow`, `stalled`: the answer comes after a second; after `seconds_stalled`, more than a client waits.
    - `500`, `503`, `403`, `404`: the store is not asked.
    - `reset`, `lost`: the connection is closed before the store is asked, and behind it.
    - `cut`: the connection is closed in the middle of the content.
    - `short`: half of the content comes, with its length.
    - `wrong range`: as many bytes come as were asked for, from another place.
    - `other bytes`: three bytes in the middle are zeros.
    """

    def __init__(self, port: int, seconds_stalled: float = 3.0) -> None:
        self.store, self.seconds_stalled = port, seconds_stalled
        self.fault: tuple[str, str, str] | None = None
        self.left, self.done, self.seen = 0, 0, Counter()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @contextmanager
    def spoil(self, fault: str, method: str, path: str, times: int = 1, after: int = 0):
        """Spoil some of the requests of a method whose path has `path` in it; not the first `after` ones."""
        self.fault, self.left, self.after, self.done = (fault, method, path), times, after, 0
        try:
            yield self
        finally:
            self.fault = None

    def fault_of(self, method: str, path: str) -> str | None:
        """Return the fault of a request, which counts as spoilt now."""
        with self.lock:
            self.seen[method] += 1
            if self.fault is None or method != self.fault[1] or self.fault[2] not in path or not self.left:
                return None
            if self.after:
                self.after -= 1
                return None
            self.left, self.done = self.left - 1, self.done + 1
            return self.fault[0]

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def log_message(self, *args: object) -> None:
        pass

    def _handle(self) -> None:
        content = self._content()
        fault = self.proxy.fault_of(self.command, self.path)
        if fault in STATUS:
            return self._answer(int(fault), {}, XML.format(STATUS[fault], fault).encode())
        if fault == "reset":
            return self._close()
        headers = dict(self.headers.items())
        headers.pop("Transfer-Encoding", None)
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.store, timeout=60)
        connection.request(self.command, self.path, content, headers)
        response = connection.getresponse()
        body, found = response.read(), dict(response.getheaders())
        connection.close()
        if fault in ("slow", "stalled"):
            time.sleep(1.0 if fault == "slow" else self.proxy.seconds_stalled)
        if fault == "lost":
            return self._close()
        if fault == "short" and self.command == "GET":
            body = body[: len(body) // 2]
        if fault == "wrong range" and "Range" in headers:
            body = body[50:] + body[:50]
        if fault == "other bytes":
            body = body[: len(body) // 2] + bytes(3) + body[len(body) // 2 + 3 :]
        self._answer(response.status, found, body, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = str(len(body)) if self.command != "HEAD" else headers.get("Content-Length", "0")
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
