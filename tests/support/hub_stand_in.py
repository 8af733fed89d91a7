"""A Hugging Face Hub on this machine, over real HTTP: tests see what the real client sends, and it reads real answers.

    with HubStandIn(users={"token-me": "me"}) as hub:
        hub.run(home, "from huggingface_hub import HfApi; HfApi().create_repo('me/tiny')")
        hub.repositories["me/tiny"].files("main"), hub.requests  # what it holds, what it was asked
        hub.fail_next("PUT", times=2), hub.drop_next("PUT", after_bytes=1000, times=math.inf), hub.heal(), hub.stop()

It is as strict as the Hub where a client could be careless: a wrong token is refused even for what is public, a
private repository does not exist for others, others' repositories take pull requests but no commits, a commit is all
or nothing and refers only to LFS objects that have arrived; these live at a second origin, which must see no token.

Not imitated: xet, organizations, data sets and spaces, gating, `.gitignore`, copies, pages of long listings.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".mp4")
LFS_SIZE = 10 * 2**20  # bytes from which on a text is LFS too
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
CARD_FIELDS = {"library_name": str, "pipeline_tag": str, "tags": list, "model-index": list}
ANONYMOUS = "Invalid username or password."
SHORT_WAITS = """
import time
_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 0.01))  # the client waits for 1, 2, 4, 8, 8 s between its tries
"""


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json"})


class Refusal(Exception):
    """An answer that is an error; the client chooses its exception by `code`, and else by the status."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        self.answer = as_json({"error": message}, status)
        self.answer.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer.headers["X-Error-Message"] = message.encode("ascii", "replace").decode()
        if code:
            self.answer.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> bytes:
        """What git keeps: of an LFS file, the pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode() if self.lfs else self.content

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    @property
    def etag(self) -> str:
        """By which the client tells that it has this very content, before an upload and in its cache."""
        return self.sha256 if self.lfs else self.blob_id

    def described(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "oid": self.blob_id, "size": len(self.content)}
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.blob)}
        return entry | {"lfs": lfs} if self.lfs else entry


class Commit(NamedTuple):
    id: str
    parent: str | None
    files: dict[str, File]
    title: str
    description: str


class PullRequest(NamedTuple):
    number: int
    title: str
    author: str


class Repository:
    """Everything that was ever committed; `objects` are what LFS has received, by sha256, committed or not."""

    def __init__(self, id: str, private: bool) -> None:
        self.id, self.private, self.owner = id, private, id.split("/")[0]
        self.objects: dict[str, bytes] = {}
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}  # full name -> commit
        self.pull_requests: list[PullRequest] = []
        self.add("refs/heads/main", None, {".gitattributes": File(GITATTRIBUTES)}, "initial commit")

    @property
    def revisions(self) -> dict[str, str]:
        """Commits by branch, tag and `refs/pr/N`."""
        return {re.sub("^refs/(heads|tags)/", "", ref): commit for ref, commit in self.refs.items()}

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: file.content for path, file in self.at(revision).files.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def ref(self, revision: str) -> str | None:
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> Commit:
        commit = self.commits.get(self.refs.get(self.ref(revision) or "", revision))
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, ref: str, parent: Commit | None, files: dict[str, File], title: str, description: str = "") -> str:
        content = sorted((path, file.etag) for path, file in files.items())
        id = hashlib.sha1(repr((self.id, len(self.commits), content)).encode()).hexdigest()
        self.commits[id] = Commit(id, parent and parent.id, files, title, description)
        self.refs[ref] = id
        return id


@dataclass
class Call:
    """One request on its way to its route; `parts` are the path's named pieces."""

    hub: "HubStandIn"
    headers: Message
    body: bytes
    parts: dict[str, str]
    query: dict[str, list[str]]
    user: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def revision(self) -> str:
        return self.parts.get("revision") or "main"

    def repository(self) -> Repository:
        """The repository of the path, if there is one for the caller."""
        repository = self.hub.repositories.get(self.parts["id"])
        if repository is None or (repository.private and repository.owner != self.user):
            status, message = (404, "Repository not found") if self.user else (401, ANONYMOUS)
            raise Refusal(status, message, "RepoNotFound")
        return repository

    def writable(self, revision: str | None = "main") -> Repository:
        """The repository of the path for who commits to `revision`; None for a pull request, which is open to all."""
        repository = self.repository()
        if self.user is None:
            raise Refusal(401, ANONYMOUS, "RepoNotFound")
        allowed = {pull.author for pull in repository.pull_requests if f"refs/pr/{pull.number}" == revision}
        if revision is not None and self.user not in allowed | {repository.owner}:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository


def who_am_i(call: Call) -> Answer:
    if call.user is None:
        raise Refusal(401, ANONYMOUS)
    return as_json({"type": "user", "name": call.user, "orgs": [], "auth": {"type": "access_token"}})


def card_data(card: bytes) -> tuple[dict[str, Any], list[str]]:
    """The metadata at the head of a model card, and what is wrong with it; the Hub also knows what a license is."""
    header = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", card.decode(), re.DOTALL | re.MULTILINE)
    try:
        data = (yaml.safe_load(header[1]) if header else None) or {}
    except yaml.YAMLError as error:
        return {}, [str(error)]
    if not isinstance(data, dict):
        return {}, ["metadata must be an object"]
    wrong = [name for name, kind in CARD_FIELDS.items() if name in data and not isinstance(data[name], kind)]
    return data, [f'"{name}" must be of type {CARD_FIELDS[name].__name__}' for name in wrong]


def validate_yaml(call: Call) -> Answer:
    data, errors = card_data(call.json["content"].encode())
    if call.headers.get("Accept") == "text/plain" and errors:  # as `RepoCard.validate` asks
        text = "\n".join(f"- Error: {error}." for error in errors)
        return Answer(400, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})
    warnings = [] if data or errors else ["empty or missing yaml metadata in repo card"]
    messages = {"errors": [{"message": error} for error in errors], "warnings": [{"message": w} for w in warnings]}
    return as_json(messages, 400 if errors else 200)


def create_repository(call: Call) -> Answer:
    if call.user is None:
        raise Refusal(401, ANONYMOUS)
    owner = call.json.get("organization") or call.user
    id = f"{owner}/{call.json['name']}"
    if owner != call.user:
        raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    answer = {"url": f"{call.hub.endpoint}/{id}", "name": id}
    if id in call.hub.repositories:
        return as_json({"error": "You already created this model repo", **answer}, 409)
    call.hub.repositories[id] = Repository(id, private=call.json.get("visibility") == "private")
    return as_json(answer)


def delete_repository(call: Call) -> Answer:
    call.parts["id"] = f"{call.json.get('organization') or call.user}/{call.json['name']}"
    del call.hub.repositories[call.writable().id]
    return Answer()


def model_info(call: Call) -> Answer:
    repository = call.repository()
    commit = repository.at(call.revision)
    card, _ = card_data(commit.files["README.md"].content if "README.md" in commit.files else b"")
    answer = {name: card[name] for name in ("library_name", "pipeline_tag") if name in card}
    answer |= {"id": repository.id, "sha": commit.id, "private": repository.private}
    answer |= {"siblings": [{"rfilename": path} for path in sorted(commit.files)]}
    return as_json(answer | {"tags": card.get("tags", []), "cardData": card})


def list_tree(call: Call) -> Answer:
    files, top = call.repository().at(call.revision).files, PurePosixPath(call.parts.get("folder", ""))
    entries = {PurePosixPath(path): file.described(path) for path, file in files.items()}
    for folder in {parent for path in entries for parent in path.parents}:
        oid = hashlib.sha1(bytes(folder)).hexdigest()
        entries[folder] = {"type": "directory", "path": str(folder), "oid": oid, "size": 0}
    if top not in entries:
        raise Refusal(404, f"{top} does not exist", "EntryNotFound")
    inside = [path for path in sorted(entries) if top in path.parents]
    deep = call.query.get("recursive") == ["true"]
    return as_json([entries[path] for path in inside if deep or path.parent == top])


def list_refs(call: Call) -> Answer:
    repository = call.repository()

    def named(prefix: str) -> list[dict[str, str]]:
        refs = [(ref, commit) for ref, commit in repository.refs.items() if ref.startswith(prefix)]
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit} for ref, commit in refs]

    pulls = {"pullRequests": named("refs/pr/")} if "include_prs" in call.query else {}
    return as_json({"branches": named("refs/heads/"), "converts": [], "tags": named("refs/tags/")} | pulls)


def create_branch(call: Call) -> Answer:
    repository = call.writable()
    start = repository.at(call.json.get("startingPoint", "main"))
    if repository.ref(call.revision):
        raise Refusal(409, f"Reference already exists: {call.revision}")
    repository.refs[f"refs/heads/{call.revision}"] = start.id
    return Answer()


def create_tag(call: Call) -> Answer:
    repository = call.writable()
    if f"refs/tags/{call.json['tag']}" in repository.refs:
        raise Refusal(409, f"Tag reference exists already: {call.json['tag']}")
    repository.refs[f"refs/tags/{call.json['tag']}"] = repository.at(call.revision).id
    return Answer()


def preupload(call: Call) -> Answer:
    repository = call.writable(None if "create_pr" in call.query else call.revision)
    present, answers = repository.at(call.revision).files, []
    for file in call.json["files"]:
        binary = b"\0" in base64.b64decode(file["sample"])
        lfs = binary or file["path"].endswith(LFS_SUFFIXES) or file["size"] >= LFS_SIZE
        answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        answers.append(answer | ({"oid": present[file["path"]].etag} if file["path"] in present else {}))
    return as_json({"files": answers})


def lfs_batch(call: Call) -> Answer:
    repository = call.writable(call.json.get("ref", {}).get("name"))  # for a pull request the client names none
    answers = []
    for wanted in call.json["objects"]:
        upload = {"href": call.hub.storage_url(repository.id, wanted["oid"])}
        verify = {"href": f"{call.hub.endpoint}/{repository.id}.git/info/lfs/objects/verify"}
        missing = wanted["oid"] not in repository.objects
        answers.append(wanted | ({"actions": {"upload": upload, "verify": verify}} if missing else {}))
    return as_json({"transfer": "basic", "objects": answers})


def lfs_verify(call: Call) -> Answer:
    received = call.repository().objects.get(call.json["oid"])
    if received is None or len(received) != call.json["size"]:
        raise Refusal(404, f"LFS object {call.json['oid']} has not arrived with {call.json['size']} bytes")
    return Answer()


def apply_operation(files: dict[str, File], key: str, value: dict[str, Any], repository: Repository) -> None:
    path = value["path"]
    if key == "file":
        files[path] = File(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in repository.objects:
            raise Refusal(400, f"LFS pointer of {path} points to an object that does not exist")
        files[path] = File(repository.objects[value["oid"]], lfs=True)
    else:
        folder = path.rstrip("/") + "/" if key == "deletedFolder" else None
        gone = [name for name in files if (name.startswith(folder) if folder else name == path)]
        if not gone:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]


def commit(call: Call) -> Answer:
    proposed = "create_pr" in call.query
    repository = call.writable(None if proposed else call.revision)
    base, ref = repository.at(call.revision), repository.ref(call.revision)
    header, *operations = (json.loads(line) for line in call.body.splitlines())
    title, files = header["value"]["summary"], dict(base.files)
    if header["value"].get("parentCommit", base.id) != base.id:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    for operation in operations:
        apply_operation(files, operation["key"], operation["value"], repository)
    if "README.md" in files and (errors := card_data(files["README.md"].content)[1]):
        raise Refusal(400, f"Invalid metadata in README.md: {errors}")
    if not proposed and (ref is None or ref.startswith("refs/tags/")):
        raise Refusal(400, f"{call.revision} is no branch")
    url, pull_request = f"{call.hub.endpoint}/{repository.id}", None
    if proposed:
        repository.pull_requests.append(PullRequest(len(repository.pull_requests) + 1, title, call.user))
        number = len(repository.pull_requests)
        ref, pull_request = f"refs/pr/{number}", f"{url}/discussions/{number}"
    made = repository.add(ref, base, files, title, header["value"]["description"])
    return as_json({"commitOid": made, "commitUrl": f"{url}/commit/{made}", "pullRequestUrl": pull_request})


def part_of(content: bytes, call: Call, headers: dict[str, str]) -> Answer:
    """The content, or the range of it that was asked for."""
    headers = headers | {"Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
    if wanted is None:
        return Answer(200, content, headers)
    start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if start > end:
        return Answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"})


def resolve(call: Call) -> Answer:
    repository = call.repository()
    commit = repository.at(call.revision)
    file = commit.files.get(call.parts["path"])
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.id)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
    if file.lfs:
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        return Answer(302, b"", headers | linked | {"Location": call.hub.storage_url(repository.id, file.sha256)})
    return part_of(file.content, call, headers)


def check_signature(call: Call) -> Repository:
    """As cloud storage does: the address is the permission, and a second one beside it is an error."""
    if "Authorization" in call.headers:
        raise Refusal(400, "Only one auth mechanism allowed")
    if call.query.get("signature") != [call.hub.signature]:
        raise Refusal(403, "SignatureDoesNotMatch")
    return call.hub.repositories[call.parts["id"]]


def put_object(call: Call) -> Answer:
    objects = check_signature(call).objects
    if hashlib.sha256(call.body).hexdigest() != call.parts["oid"]:
        raise Refusal(400, f"{len(call.body)} bytes that do not hash to {call.parts['oid']}")
    objects[call.parts["oid"]] = call.body
    return Answer()


def get_object(call: Call) -> Answer:
    content = check_signature(call).objects[call.parts["oid"]]
    return part_of(content, call, {"ETag": f'"{call.parts["oid"]}"'})


ID, REVISION = "(?P<id>[^/]+/[^/]+)", "(?P<revision>[^/]+)"
MODEL = f"/api/models/{ID}"
Routes = list[tuple[str, str, Callable[[Call], Answer]]]
HUB_ROUTES: Routes = [
    ("GET", "/api/whoami-v2", who_am_i),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", "/api/repos/create", create_repository),
    ("DELETE", "/api/repos/delete", delete_repository),
    ("GET", f"{MODEL}(/revision/{REVISION})?", model_info),
    ("GET", f"{MODEL}/tree/{REVISION}(/(?P<folder>.+))?", list_tree),
    ("GET", f"{MODEL}/refs", list_refs),
    ("POST", f"{MODEL}/branch/{REVISION}", create_branch),
    ("POST", f"{MODEL}/tag/{REVISION}", create_tag),
    ("POST", f"{MODEL}/preupload/{REVISION}", preupload),
    ("POST", f"{MODEL}/commit/{REVISION}", commit),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/{ID}\.git/info/lfs/objects/verify", lfs_verify),
    ("GET", f"/{ID}/resolve/{REVISION}/(?P<path>.+)", resolve),
]
STORAGE_ROUTES: Routes = [
    ("PUT", f"/{ID}/(?P<oid>[0-9a-f]{{64}})", put_object),
    ("GET", f"/{ID}/(?P<oid>[0-9a-f]{{64}})", get_object),
]


class Request(NamedTuple):
    """One line of the log: `path` without the query, status 0 where there was no answer, size of the body received."""

    method: str
    path: str
    status: int
    size: int


@dataclass
class Fault:
    """Neither `status` nor `after_bytes`: what is asked for is done, but the answer is lost."""

    method: str
    path: str
    times: float
    status: int | None = None
    after_bytes: int | None = None


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0, one connection per request: none is left open when the Hub goes away."""

    def exchange(self) -> None:
        hub, length = self.server.hub, int(self.headers.get("Content-Length", 0))
        fault = hub.take_fault(self.command, self.path)
        cut = fault.after_bytes if fault else None
        body = self.rfile.read(length if cut is None else min(length, cut))
        if fault and fault.status:
            answer = Answer(fault.status, b"<html><h1>Service failure</h1></html>", {"Content-Type": "text/html"})
        elif len(body) < length or (length and cut is not None):
            answer = None  # half a request is none
        else:
            answer = hub.answer(self.command, self.path, self.headers, body, self.server.routes)
        heard = answer is not None and (fault is None or fault.status is not None)
        hub.requests.append(Request(self.command, urlsplit(self.path).path, answer.status if heard else 0, len(body)))
        if heard or (answer is not None and cut is not None and self.command == "GET"):
            self.send(answer, cut)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = exchange

    def send(self, answer: Answer, limit: int | None) -> None:
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:limit])

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, hub: "HubStandIn", port: int, routes: Routes) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.hub, self.routes = hub, routes
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may hang up, too
            self.hub.errors.append(traceback.format_exc())


class HubStandIn:
    """The Hub of `users` (token -> name). State is in memory: `repositories` by id, `requests` in order of arrival."""

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.errors: list[str] = []  # the stand-in's own, which are nobody's to handle
        self.signature = secrets.token_hex(8)
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._servers: list[Server] = []
        self._ports = [0, 0]

    def __enter__(self) -> "HubStandIn":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.stop()
        assert kind is not None or not self.errors, self.errors[0]

    def start(self) -> None:
        """Also after `stop`, with all that was there, at the same address."""
        routes = (HUB_ROUTES, STORAGE_ROUTES)
        self._servers = [Server(self, port, table) for port, table in zip(self._ports, routes)]
        self._ports = [server.server_port for server in self._servers]

    def stop(self) -> None:
        """From now on connections are refused."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def storage_url(self, id: str, oid: str) -> str:
        return f"http://127.0.0.1:{self._ports[1]}/{id}/{oid}?signature={self.signature}"

    def fail_next(self, method: str, path: str = "", *, status: int = 503, times: float = 1) -> None:
        """Answer the next requests of `method` ("" for any) with `path` in their path as a failing proxy would."""
        self._faults.append(Fault(method, path, times, status=status))

    def drop_next(self, method: str, path: str = "", *, after_bytes: int = 0, times: float = 1) -> None:
        """Hang up within the next body, which has no effect then; within the answer's where the request has none."""
        self._faults.append(Fault(method, path, times, after_bytes=after_bytes))

    def lose_answer(self, method: str, path: str = "", *, times: float = 1) -> None:
        """Do what the next request asks for, and hang up without a word."""
        self._faults.append(Fault(method, path, times))

    def heal(self) -> None:
        self._faults.clear()

    def sent(self, method: str, path: str = "") -> list[Request]:
        """The requests of `method` whose path contains `path`."""
        return [request for request in self.requests if request.method == method and path in request.path]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method in ("", method) and fault.path in urlsplit(path).path:
                    fault.times -= 1
                    return fault
        return None

    def answer(self, method: str, target: str, headers: Message, body: bytes, routes: Routes) -> Answer:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        with self._lock:
            try:
                if token and token not in self.users:
                    raise Refusal(401, "Invalid credentials in Authorization header")
                for name, pattern, route in routes:
                    if name == method.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                        parts = {key: unquote(value) for key, value in match.groupdict().items() if value}
                        return route(Call(self, headers, body, parts, query, self.users.get(token)))
                raise Refusal(404, f"there is no {method} {path} here")
            except Refusal as refusal:
                return refusal.answer
            except Exception:
                self.errors.append(traceback.format_exc())
                return Answer(500, self.errors[-1].encode())

    def environment(self, home: str | Path, **changes: str) -> dict[str, str]:
        """Variables for a client of this Hub that keeps everything under `home`, by default the first user.

        They are read when huggingface_hub is imported, so they are for a process of its own. HF_TOKEN="" is no token.
        """
        foreign = re.compile("(HF_|HUGGING|TRANSFORMERS_).*|.*proxy", re.IGNORECASE)
        variables = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
        return variables | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": next(iter(self.users)),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **changes,
        }

    def run(self, home: str | Path, code: str, **changes: str) -> str:
        """What `code` prints, run by a client of this Hub which does not wait long between its tries."""
        command = [sys.executable, "-c", SHORT_WAITS + textwrap.dedent(code)]
        environment = self.environment(home, **changes)
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        return process.stdout
