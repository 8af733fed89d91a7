"""The stand-in under the real client, in processes of its own: what it takes for true must be what the client does."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub_stand_in import GITATTRIBUTES, HubStandIn, Request


CARD = b"---\nlicense: mit\npipeline_tag: video-classification\ntags: [tiny]\n---\n# Tiny\n"
CLIENT = f"""
import json
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download

api = HfApi()

def push(weights=b"w" * 5000, repo="me/tiny", **options):
    files = {{"README.md": {CARD!r}, "config.json": b"{{}}", "model.safetensors": weights}}
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(repo, operations, commit_message="Push", **options)

def read(path, repo="me/tiny", **options):
    return open(hf_hub_download(repo, path, **options), "rb").read()

def refused(call, *arguments, **options):
    try:
        return f"no error: {{call(*arguments, **options)}}"
    except Exception as error:
        cause = error.__cause__ if type(error) in (RuntimeError, ValueError) else error
        return [type(cause).__name__, getattr(getattr(cause, "response", None), "status_code", None)]
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn(users={"token-me": "me", "token-you": "you"}) as hub:
        yield hub


def client(hub: HubStandIn, home: Path, code: str, **changes: str) -> list:
    """What `code` adds to `out`, with the helpers above at hand."""
    return json.loads(hub.run(home, f"{CLIENT}\nout = []\n{code}\nprint(json.dumps(out))", **changes))


def test_push_and_download(hub: HubStandIn, tmp_path: Path):
    code = """
out.append(api.whoami()["name"])
out.append(api.create_repo("me/tiny").repo_id)
out.append(refused(api.create_repo, "me/tiny"))
api.create_repo("me/tiny", exist_ok=True)
out += [push().oid, push().oid]
out += [read("config.json").decode(), len(read("model.safetensors")), refused(read, "missing.txt")]
info = api.model_info("me/tiny")
out += [info.sha, info.pipeline_tag, info.card_data["license"], sorted(file.rfilename for file in info.siblings)]
"""
    name, id, exists, first, second, *got = client(hub, tmp_path, code)
    repository = hub.repositories["me/tiny"]
    paths = [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert (name, id, exists) == ("me", "me/tiny", ["HfHubHTTPError", 409])
    assert got[:3] == ["{}", 5000, ["RemoteEntryNotFoundError", 404]]
    assert got[3:] == [first, "video-classification", "mit", paths]
    assert first == second == repository.revisions["main"]
    assert [commit.title for commit in repository.history()] == ["Push", "initial commit"]
    assert repository.files("main")["model.safetensors"] == b"w" * 5000 and not repository.private
    assert {path for path, file in repository.at("main").files.items() if file.lfs} == {"model.safetensors"}
    assert [request.size for request in hub.sent("PUT")] == [5000] and len(hub.sent("POST", "/commit/")) == 1


def test_branches_tags_and_pull_requests(hub: HubStandIn, tmp_path: Path):
    code = """
api.create_repo("me/tiny")
main = push().oid
api.create_branch("me/tiny", branch="released/v1")
out.append(push(b"branch", revision="released/v1").oid)
api.create_tag("me/tiny", tag="v1.0", revision="released/v1")
out.append(push(b"proposal", create_pr=True).pr_revision)
out.append(push(b"better", revision="refs/pr/1").pr_url)
out += [read("model.safetensors", revision=name).decode()[:9] for name in (main, "released/v1", "v1.0", "refs/pr/1")]
refs = api.list_repo_refs("me/tiny", include_pull_requests=True)
out.append([ref.ref for ref in (*refs.branches, *refs.tags, *refs.pull_requests)])
out += [refused(push, b"x", revision="none"), refused(push, b"x", parent_commit="0" * 40)]
out.append(refused(api.create_branch, "me/tiny", branch="released/v1"))
api.upload_file(path_or_fileobj=b"x", path_in_repo="sub/x.txt", repo_id="me/tiny")
for recursive in (False, True):
    out.append([entry.path for entry in api.list_repo_tree("me/tiny", recursive=recursive)])
api.delete_folder("sub", "me/tiny")
"""
    on_branch, proposed, no_url, *got = client(hub, tmp_path, code)
    repository = hub.repositories["me/tiny"]
    refs = ["refs/heads/main", "refs/heads/released/v1", "refs/tags/v1.0", "refs/pr/1"]
    tree = [".gitattributes", "README.md", "config.json", "model.safetensors", "sub"]
    assert (proposed, no_url) == ("refs/pr/1", None)
    assert got[:5] == ["w" * 9, "branch", "branch", "better", refs]
    assert got[5:8] == [["RevisionNotFoundError", 404], ["HfHubHTTPError", 412], ["HfHubHTTPError", 409]]
    assert got[8:] == [tree, [*tree, "sub/x.txt"]]
    assert repository.revisions["v1.0"] == repository.revisions["released/v1"] == on_branch
    assert [tuple(pull) for pull in repository.pull_requests] == [(1, "Push", "me")]
    assert repository.files("main").keys() == set(tree) - {"sub"}


def test_only_who_may(hub: HubStandIn, tmp_path: Path):
    mine = """
for name in ("open", "closed"):
    api.create_repo(f"me/{name}", private=name == "closed")
    push(repo=f"me/{name}")
out += [len(read("model.safetensors", f"me/{name}")) for name in ("open", "closed")]
out.append(refused(api.create_repo, "you/tiny"))
api.create_repo("me/gone")
api.delete_repo("me/gone")
"""
    assert client(hub, tmp_path / "me", mine) == [5000, 5000, ["HfHubHTTPError", 403]]
    assert hub.repositories.keys() == {"me/open", "me/closed"} and hub.repositories["me/closed"].private
    before = {id: dict(repository.refs) for id, repository in hub.repositories.items()}
    others = """
out += [refused(call, f"me/{name}") for name in ("open", "closed") for call in (api.model_info, api.delete_repo)]
out.append(refused(read, "model.safetensors", "me/closed"))
out += [refused(push, b"x", f"me/{name}") for name in ("open", "closed")]
out.append(refused(api.create_repo, "me/new"))
"""
    gone, forbidden, unknown = ["RepositoryNotFoundError", 404], ["HfHubHTTPError", 403], ["HfHubHTTPError", 401]
    got = client(hub, tmp_path / "you", others, HF_TOKEN="token-you")
    assert got[0].startswith("no error") and got[1:] == [forbidden, gone, gone, gone, forbidden, gone, forbidden]
    got = client(hub, tmp_path / "nobody", others, HF_TOKEN="")
    assert got[0].startswith("no error") and got[1:] == [["RepositoryNotFoundError", 401]] * 6 + [unknown]
    assert client(hub, tmp_path / "wrong", others, HF_TOKEN="token-old") == [unknown] * 8
    assert before == {id: repository.refs for id, repository in hub.repositories.items()}
    proposal = 'out.append(push(b"proposal", "me/open", create_pr=True).pr_num)'
    assert client(hub, tmp_path / "you", proposal, HF_TOKEN="token-you") == [1]
    assert hub.repositories["me/open"].pull_requests[0].author == "you"


@pytest.mark.slow
def test_failures_on_the_way_up(hub: HubStandIn, tmp_path: Path):
    client(hub, tmp_path, 'api.create_repo("me/tiny")')
    repository = hub.repositories["me/tiny"]

    hub.fail_next("POST", "/preupload/", times=2)
    hub.fail_next("PUT", times=2)
    hub.drop_next("PUT", after_bytes=1000)
    client(hub, tmp_path, "push(b'a' * 5000)")
    sent = [(request.status, request.size) for request in hub.sent("PUT")]
    assert sent == [(503, 5000), (503, 5000), (0, 1000), (200, 5000)]
    assert repository.files()["model.safetensors"] == b"a" * 5000

    hub.drop_next("PUT", after_bytes=1000, times=math.inf)
    hub.requests.clear()
    assert client(hub, tmp_path, "out.append(refused(push, b'b' * 5000))") == [["RemoteProtocolError", None]]
    assert not hub.sent("POST", "/commit/") and len(repository.objects) == 1
    hub.heal()

    hub.fail_next("POST", "/commit/")
    hub.drop_next("POST", "/commit/", after_bytes=10)
    hub.requests.clear()
    code = "out += [refused(push, b'b' * 5000), refused(push, b'b' * 5000)]\npush(b'b' * 5000)"
    assert client(hub, tmp_path, code) == [["HfHubHTTPError", 503], ["RemoteProtocolError", None]]
    assert len(hub.sent("PUT")) == 1 and len(repository.history()) == 3

    hub.lose_answer("POST", "/commit/")
    code = "out.append(refused(push, b'c'))\nout.append(push(b'c').oid)"
    assert client(hub, tmp_path, code) == [["RemoteProtocolError", None], repository.revisions["main"]]
    assert [commit.title for commit in repository.history()] == ["Push"] * 3 + ["initial commit"]


def test_what_must_not_get_in(hub: HubStandIn, tmp_path: Path):
    code = """
from huggingface_hub.utils import get_session, hf_raise_for_status

api.create_repo("me/tiny")
for card in (b"---\\nlicense: [\\n---\\n", b"---\\ntags: tiny\\n---\\n"):
    out.append(refused(api.upload_file, path_or_fileobj=card, path_in_repo="README.md", repo_id="me/tiny"))

def upload(sent, announced, **headers):
    batch = {"operation": "upload", "objects": [{"oid": announced.hex(), "size": 3}], "ref": {"name": "main"}}
    url = f"{api.endpoint}/me/tiny.git/info/lfs/objects/batch"
    answer = get_session().post(url, json=batch, headers=api._build_hf_headers()).json()
    href = answer["objects"][0]["actions"]["upload"]["href"]
    hf_raise_for_status(get_session().put(href, content=sent, headers=headers))

sha = CommitOperationAdd("x.bin", b"abc").upload_info.sha256
out += [refused(upload, b"abd", sha), refused(upload, b"abc", sha, authorization="Bearer token-me")]
lines = [{"key": "header", "value": {"summary": "Push", "description": ""}}]
lines += [{"key": "file", "value": {"path": "a.txt", "content": ""}}]
lines += [{"key": "lfsFile", "value": {"path": "x.bin", "oid": sha.hex(), "size": 3, "algo": "sha256"}}]
body = "\\n".join(json.dumps(line) for line in lines)
url = f"{api.endpoint}/api/models/me/tiny/commit/main"
out.append(get_session().post(url, content=body, headers=api._build_hf_headers()).status_code)
"""
    assert client(hub, tmp_path, code) == [["BadRequestError", 400]] * 4 + [400]
    repository = hub.repositories["me/tiny"]
    assert repository.files() == {".gitattributes": GITATTRIBUTES} and not repository.objects


@pytest.mark.slow
def test_downloads_that_break_and_go_offline(hub: HubStandIn, tmp_path: Path):
    size = 12 * 2**20  # the client keeps what has arrived in pieces of 10 MiB
    client(hub, tmp_path, f'api.create_repo("me/tiny", private=True)\npush(b"w" * {size})')
    repository = hub.repositories["me/tiny"]
    (oid,) = repository.objects
    hub.drop_next("GET", oid, after_bytes=11 * 2**20)
    home = tmp_path / "other"
    code = "out.append(snapshot_download('me/tiny'))"
    (folder,) = client(hub, home, code)
    assert Path(folder).name == repository.revisions["main"]
    assert [request.status for request in hub.sent("GET", oid)] == [0, 206]
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == repository.files()

    hub.stop()
    hub.requests.clear()
    assert client(hub, home, code, HF_HUB_OFFLINE="1") == client(hub, home, code) == [folder]
    code = "out += [refused(api.whoami), refused(push), refused(read, 'other.txt')]"
    assert client(hub, home, code)[0] == ["ConnectError", None]
    offline = ["OfflineModeIsEnabled", None]
    assert client(hub, home, code, HF_HUB_OFFLINE="1") == [offline, offline, ["LocalEntryNotFoundError", None]]
    assert not hub.requests
    hub.start()
    assert client(hub, home, "out.append(api.whoami()['name'])") == ["me"]
    assert hub.requests == [Request("GET", "/api/whoami-v2", 200, 0)]


@pytest.mark.slow
def test_a_model_of_transformers(hub: HubStandIn, tmp_path: Path):
    code = """
import torch
from transformers import BertConfig, BertModel

torch.manual_seed(0)
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
model = BertModel(BertConfig(**sizes)).eval()
model.push_to_hub("me/bert", private=True, commit_message="One", max_shard_size="3KB")
model.push_to_hub("me/bert", revision="v2")
ids = torch.tensor([[1, 2, 3]])
for revision in ("main", "v2"):
    again = BertModel.from_pretrained("me/bert", revision=revision).eval()
    assert torch.equal(model(ids).last_hidden_state, again(ids).last_hidden_state)
"""
    hub.run(tmp_path, code)
    repository = hub.repositories["me/bert"]
    shards = {path for path in repository.files() if path.endswith(".safetensors")}
    assert repository.private and len(shards) > 1
    assert {"README.md", "config.json", "model.safetensors.index.json"} < repository.files().keys()
    assert [commit.title for commit in repository.history("v2")] == ["Upload model", "One", "initial commit"]


def test_cards_are_checked_in_words(hub: HubStandIn, tmp_path: Path):
    """`RepoCard.validate` asks for plain text, and knows nothing of keys that are not the Hub's."""
    code = """
from huggingface_hub import RepoCard
for head in ("tags: [a]", "tags: [a]\\nila: {results: [{metric: top1}]}", "tags: a", "- a: ["):
    try:
        out.append(RepoCard(f"---\\n{head}\\n---\\n# A\\n").validate())
    except ValueError as error:
        out.append(str(error))
    except Exception as error:
        out.append(type(error).__name__)
"""
    assert client(hub, tmp_path, code) == [None, None, '- Error: "tags" must be of type list.', "ParserError"]
    assert [request.status for request in hub.sent("POST", "/validate-yaml")] == [200, 200, 400]
