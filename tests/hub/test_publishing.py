"""Publishing, against a Hub on this machine: all of a folder or nothing, whatever fails on the way."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPTokenizer, pipeline

from support.hub_stand_in import GITATTRIBUTES, Answer, HubStandIn
from support.paths import ROOT, SCRIPTS
from support.tiny_models import TINY_ILA, save_clip, tiny_config
from transformers_ila import IlaForVideoClassification, IlaProcessor, IlaVideoProcessor
from transformers_ila.cli import publish as script
from transformers_ila.cli.main import run_verb
from transformers_ila.hub import checking
from transformers_ila.hub import exporting as exports
from transformers_ila.hub.checking import CheckedFolder, PublishError, check_folder
from transformers_ila.hub.facts import read_facts
from transformers_ila.hub.publishing import publish, published_card_text
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


pytestmark = pytest.mark.slow  # a minute and a half together


SCRIPT = SCRIPTS / "publish.py"
USERS = {"token-me": "me", "token-you": "you"}
ID = "me/tiny"
SCORE_TOLERANCE = 1e-6
NOTHING = {".gitattributes": GITATTRIBUTES}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """`sharded`, with text head, and `whole`, with linear head: exports that differ in every kind of file."""
    root = tmp_path_factory.mktemp("publish")
    clip = save_clip(root / "clip")
    model = IlaForVideoClassification.from_pretrained(clip, labels=["walking", "running"], **TINY_ILA)
    processor = IlaProcessor(IlaVideoProcessor.for_model(model.config), CLIPTokenizer.from_pretrained(clip))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "MAX_SHARD_SIZE", "300KB")
        exports.export(model, processor, root / "sharded")
    config = tiny_config(classification_head="linear", num_labels=3)
    exports.export(IlaForVideoClassification(config), IlaVideoProcessor.for_model(config), root / "whole")
    write_mp4(root / "clip.mp4", next(make_videos(1, seed=7)).frames)
    return root


@pytest.fixture(scope="module")
def checked(root) -> CheckedFolder:
    return check_folder(root / "sharded", video=root / "clip.mp4")


@pytest.fixture(scope="module")
def other(root, checked) -> CheckedFolder:
    """Another model, unchecked: what is uploaded is what counts."""
    files = {path.name: path.stat().st_size for path in sorted((root / "whole").iterdir())}
    return dataclasses.replace(checked, folder=root / "whole", files=files)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[HubStandIn]:
    """A Hub whose client is this process, as its first user; it does not wait long between its tries."""
    with HubStandIn(USERS) as hub:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", "token-me")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        sleep = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        close_session()
        disable_progress_bars()
        yield hub
        enable_progress_bars()
        close_session()


def expected(checked: CheckedFolder, repo_id: str = ID, *, branch: str | None = None) -> dict[str, bytes]:
    """The files of the repository, or of a branch of it, after publishing."""
    model = f'model="{repo_id}"' + (f', revision="{branch}"' if branch else "")
    files = {name: (checked.folder / name).read_bytes() for name in checked.files}
    fact = f"  model_id: {repo_id}\n" + (f"  revision: {branch}\n" if branch else "")
    card = files["README.md"].decode().replace(f"  model_id: {checked.folder.name}\n", fact)
    files["README.md"] = card.replace(f'model="{checked.folder.name}"', model).encode()
    return files | NOTHING


def shards(checked: CheckedFolder) -> dict[str, str]:
    """sha256 -> name of the files that are stored apart from git."""
    names = [name for name in checked.files if name.endswith(".safetensors")]
    return {hashlib.sha256((checked.folder / name).read_bytes()).hexdigest(): name for name in names}


def refused(message: str, *arguments, **options) -> str:
    """The error of `publish`, on one line, which says that nothing was published."""
    with pytest.raises(PublishError, match=message) as error:
        publish(*arguments, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) < 700
    return text


def changes(hub: HubStandIn) -> list[str]:
    """What it was asked to change; looking at a card changes nothing."""
    asked = [request for request in hub.requests if request.method not in ("GET", "HEAD")]
    return [request.path for request in asked if request.path != "/api/validate-yaml"]


# -- where it goes ---------------------------------------------------------------------------------------------------


def test_everything_in_one_commit(hub, checked):
    assert publish(checked, ID) == f"{hub.endpoint}/{ID}"
    repository = hub.repositories[ID]
    assert repository.files() == expected(checked) and not repository.private
    assert f'pipeline("video-classification", model="{ID}"'.encode() in repository.files()["README.md"]
    assert [commit.title for commit in repository.history()] == ["Add sharded", "initial commit"]
    assert len(shards(checked)) >= 3 and set(repository.objects) == set(shards(checked))
    assert [request.status for request in hub.sent("PUT")] == [200] * len(shards(checked))


def test_private(hub, checked):
    publish(checked, ID, private=True)
    assert hub.repositories[ID].private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token="token-you").model_info(ID)
    assert HfApi(token="token-me").model_info(ID).private
    publish(checked, "me/open")
    assert not hub.repositories["me/open"].private
    refused("exists and is public", checked, "me/open", private=True, update=True)


def test_nothing_is_said_about_privacy_where_it_was_not_asked_for(hub, checked, monkeypatch):
    """An organisation may have private repositories by default."""
    asked = []
    create = HfApi.create_repo
    monkeypatch.setattr(HfApi, "create_repo", lambda *a, **options: asked.append(options) or create(*a, **options))
    publish(checked, ID)
    publish(checked, "me/closed", private=True)
    assert [options["private"] for options in asked] == [None, True]


def test_revision(hub, checked, other):
    publish(checked, ID)
    assert publish(other, ID, revision="v2") == f"{hub.endpoint}/{ID}/tree/v2"
    repository = hub.repositories[ID]
    assert repository.files() == expected(checked) and repository.files("v2") == expected(other, branch="v2")
    assert publish(checked, ID, revision="v2").endswith("/tree/v2")
    assert repository.files("v2") == expected(checked, branch="v2")
    assert publish(other, "me/new", revision="v1") == f"{hub.endpoint}/me/new/tree/v1"
    assert hub.repositories["me/new"].files("v1") == expected(other, "me/new", branch="v1")
    assert hub.repositories["me/new"].files() == NOTHING
    before = dict(repository.refs)
    refused("is taken", other, ID, revision="main")
    refused("must be the name of a branch, got ''", other, ID, revision="")
    refused("goes to the main branch; got the revision 'v2'", other, ID, revision="v2", create_pr=True)
    assert repository.refs == before


def test_pull_request(hub, checked, other, monkeypatch):
    refused("nothing at 'me/tiny' that a pull request", checked, ID, create_pr=True)
    assert not hub.repositories
    publish(checked, ID)
    assert publish(other, ID, create_pr=True) == f"{hub.endpoint}/{ID}/discussions/1"
    monkeypatch.setenv("HF_TOKEN", "token-you")
    assert publish(other, ID, create_pr=True) == f"{hub.endpoint}/{ID}/discussions/2"
    repository = hub.repositories[ID]
    assert repository.files() == expected(checked)
    assert repository.files("refs/pr/1") == repository.files("refs/pr/2") == expected(other)
    assert [pull.author for pull in repository.pull_requests] == ["me", "you"]
    assert "has these files already" in publish(checked, ID, create_pr=True)
    assert len(repository.pull_requests) == 2


def test_update_leaves_nothing_of_the_old_model(hub, checked, other):
    publish(checked, ID)
    api, repository = HfApi(), hub.repositories[ID]
    names = ("notes.txt", "onnx/model.safetensors", "examples/train_ila.py")
    mine, adapter = dict.fromkeys(names, b"mine"), {"adapter_model.safetensors": b"an adapter's"}
    for name, content in (mine | adapter).items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=ID)
    refused(r"'me/tiny' is taken: .* --update .* --pr .* --revision", other, ID)
    assert repository.files() == expected(checked) | mine | adapter
    assert publish(other, ID, update=True) == f"{hub.endpoint}/{ID}"
    assert repository.files() == expected(other) | mine
    # neither a processor nor an adapter of before, which would win over the new model's, is there any more
    assert not {"processor_config.json", *adapter} & repository.files().keys()
    assert publish(other, ID, update=True) and publish(other, ID) and len(repository.history()) == 7
    assert publish(checked, ID, update=True) and repository.files() == expected(checked) | mine


# -- who may ---------------------------------------------------------------------------------------------------------


def test_who_may_not(hub, checked, monkeypatch):
    refused("token is of 'me', who cannot write to 'you'; allowed: me", checked, "you/tiny")
    refused("must be user/name, got 'tiny'", checked, "tiny")
    refused("Repo id must", checked, "me/ti ny")
    hub.fail_next("POST", "/repos/create", status=403)
    refused("may not write to 'me/tiny'", checked, ID)  # a token for reading
    monkeypatch.setenv("HF_TOKEN", "token-old")
    refused("does not accept the token", checked, ID)
    monkeypatch.delenv("HF_TOKEN")
    refused("no token: `hf auth login`", checked, ID)
    assert publish(checked, ID, token="token-me") and list(hub.repositories) == [ID]
    monkeypatch.setenv("HF_TOKEN", "token-you")
    refused("token is of 'you'", checked, ID, update=True)
    assert len(hub.repositories[ID].history()) == 2


def test_no_hub(hub, checked, monkeypatch):
    hub.stop()
    text = refused("connection to the Hub failed", checked, ID)
    assert text.endswith("No file is published; the same command goes on where it stopped.")
    monkeypatch.setattr(constants, "ENDPOINT", "http://[wrong")
    refused("No file is published", checked, ID)
    hub.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    refused("unset the `HF_HUB_OFFLINE`", checked, ID)
    assert not hub.requests


# -- what fails on the way -------------------------------------------------------------------------------------------


def test_a_busy_hub_is_asked_again(hub, checked):
    hub.fail_next("PUT", times=2)
    hub.fail_next("POST", "/preupload/", times=2)
    hub.drop_next("PUT", after_bytes=1000)
    publish(checked, ID)
    assert hub.repositories[ID].files() == expected(checked)
    assert sorted(request.status for request in hub.sent("PUT")) == [0, *[200] * len(shards(checked)), 503, 503]


def test_an_upload_that_breaks_off_goes_on_where_it_stopped(hub, checked):
    broken = next(iter(shards(checked)))
    hub.drop_next("PUT", broken, after_bytes=1000, times=math.inf)
    text = refused("RemoteProtocolError|ReadError|WriteError", checked, ID)
    assert text.endswith("No file is published; the same command goes on where it stopped.")
    repository = hub.repositories[ID]
    assert repository.files() == NOTHING and not hub.sent("POST", "/commit/")
    arrived = set(repository.objects)
    assert arrived == set(shards(checked)) - {broken}
    hub.heal()
    hub.requests.clear()
    publish(checked, ID)
    assert {request.path.rpartition("/")[2] for request in hub.sent("PUT")} == {broken}
    assert repository.files() == expected(checked) and len(repository.history()) == 2


def test_storage_that_is_down(hub, checked):
    hub.fail_next("PUT", times=math.inf)
    assert "503" in refused("goes on where it stopped", checked, ID)
    assert hub.repositories[ID].files() == NOTHING
    hub.heal()
    hub.fail_next("PUT", status=403, times=math.inf)  # as for an address that is too old
    assert "403" in refused("goes on where it stopped", checked, ID)
    hub.heal()
    publish(checked, ID)
    assert hub.repositories[ID].files() == expected(checked)


def test_a_commit_that_fails(hub, checked):
    hub.fail_next("POST", "/commit/")
    assert "503" in refused("No file is published; the same command goes on", checked, ID)
    repository = hub.repositories[ID]
    assert repository.files() == NOTHING and len(repository.history()) == 1
    hub.fail_next("POST", "/commit/", status=409)  # about the request: the same command would fail again
    assert "same command" not in refused("409.*No file is published.$", checked, ID)
    hub.requests.clear()
    publish(checked, ID)  # into the repository that is there, empty
    assert repository.files() == expected(checked) and len(repository.history()) == 2
    assert not hub.sent("PUT")


def test_a_commit_whose_answer_is_lost(hub, checked, other, monkeypatch):
    hub.lose_answer("POST", "/commit/")
    assert publish(checked, ID) == f"{hub.endpoint}/{ID}"
    repository = hub.repositories[ID]
    assert repository.files() == expected(checked) and len(repository.history()) == 2
    hub.lose_answer("POST", "/commit/")
    assert publish(other, ID, revision="v2") == f"{hub.endpoint}/{ID}/tree/v2"
    assert repository.files("v2") == expected(other, branch="v2")


def test_a_commit_whose_answer_is_lost_with_the_connection(hub, checked):
    hub.lose_answer("POST", "/commit/")
    hub.fail_next("GET", "/tree/", times=math.inf)
    text = refused("what became of it is not known. The same command finds out", checked, ID)
    assert "No file is published" not in text
    hub.heal()
    repository = hub.repositories[ID]
    assert repository.files() == expected(checked)
    hub.requests.clear()
    assert publish(checked, ID) == f"{hub.endpoint}/{ID}"  # and the name is not taken
    assert not changes(hub) and len(repository.history()) == 2


def test_a_pull_request_whose_answer_is_lost(hub, checked, other):
    publish(checked, ID)
    hub.lose_answer("POST", "/commit/")
    refused(f"Look for the pull request at {hub.endpoint}/{ID}/discussions before", other, ID, create_pr=True)
    assert len(hub.repositories[ID].pull_requests) == 1


STEPS = {
    "GET": ["/api/whoami-v2", f"/api/models/{ID}"],
    "POST": ["/validate-yaml", "/repos/create", "/branch/", "/preupload/", "/objects/batch", "/verify", "/commit/"],
    "PUT": [""],
}
FAULTS: dict[str, Callable[..., None]] = {
    "fails": HubStandIn.fail_next,
    "drops": HubStandIn.drop_next,
    "loses": HubStandIn.lose_answer,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method, path", [(method, path) for method in STEPS for path in STEPS[method]])
@pytest.mark.parametrize("revision", [None, "v1"])
def test_all_or_nothing_whatever_fails(hub, checked, revision, method, path, fault):
    """Every step fails in every way; the same call then finishes the work, and makes one commit of everything."""
    FAULTS[fault](hub, method, path, times=1 if fault == "loses" and path == "/commit/" else math.inf)
    try:
        publish(checked, ID, revision=revision)
        arrived = fault == "loses" and path == "/commit/"
        assert arrived or (path, revision) == ("/branch/", None), "the fault did not strike"
    except PublishError as error:
        assert "\n" not in str(error)
        repository = hub.repositories.get(ID)
        assert repository is None or all(repository.files(name) == NOTHING for name in repository.revisions)
    hub.heal()
    publish(checked, ID, revision=revision)
    repository = hub.repositories[ID]
    assert repository.files(revision or "main") == expected(checked, branch=revision)
    assert [commit.title for commit in repository.history(revision or "main")] == ["Add sharded", "initial commit"]


def test_a_page_that_is_no_answer(hub, checked, monkeypatch):
    """A network's login page says 200 to everything."""
    monkeypatch.setattr(hub, "answer", lambda *_: Answer(200, b"<html>Welcome</html>"))
    assert "JSONDecodeError" in refused("connection to the Hub failed", checked, ID)


def test_what_is_wrong_here_is_found_before_anything_changes_there(hub, checked, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(checked.folder, folder)
    moved = dataclasses.replace(checked, folder=folder)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("tags:\n", "tags: tiny\nothers:\n"))
    refused('does not accept the card: - Error: "tags" must be of type list. No file is published', moved, ID)
    (folder / "README.md").write_text(card)
    (folder / "modeling_ila.py").unlink()
    refused("No file is published", moved, ID)
    assert not hub.repositories and not changes(hub)


# -- the check -------------------------------------------------------------------------------------------------------


def test_a_checked_folder(checked, root):
    assert checked.files == {path.name: path.stat().st_size for path in (root / "sharded").iterdir()}
    assert not checked.left_out and set(checked.answer) == {"label", "score"}
    model = IlaForVideoClassification.from_pretrained(root / "sharded")
    pixels = AutoProcessor.from_pretrained(root / "sharded")(videos=str(root / "clip.mp4"), return_tensors="pt")
    with torch.no_grad():
        score, index = model(pixels["pixel_values"]).logits.softmax(-1)[0].max(0)
    assert checked.answer["label"] == model.config.id2label[index.item()]
    assert abs(checked.answer["score"] - score.item()) < SCORE_TOLERANCE  # another process, with other threads


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def remove(pattern: str) -> Callable[[Path], object]:
    return lambda folder: [path.unlink() for path in list(folder.glob(pattern))]


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


INDEX = "model.safetensors.index.json"
HALF_MADE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "There is no folder"),
    "nothing in it": (remove("*"), "README.md is missing; config.json is missing"),
    "no shard": (remove("model-00002-*"), f"model-00002-of-0000..safetensors is missing, {INDEX} names it"),
    "no index": (remove(INDEX), "there are no weights"),
    "two kinds of weights": (write("model.safetensors", "x"), f"model.safetensors and {INDEX} are both there"),
    "no code": (remove("layers_ila.py"), "layers_ila.py is missing, modeling_ila.py needs it"),
    "no modeling": (remove("modeling_ila.py"), "modeling_ila.py is missing"),
    "no card": (remove("README.md"), "README.md is missing"),
    "no processor": (remove("*processor_config.json"), "there is no processor"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json is missing, new class names need it"),
    "no auto_map": (edit("config.json", "auto_map", "map"), r"config.json does not name the code \(auto_map\)"),
    "empty": (write("processor_config.json", ""), "processor_config.json is empty"),
    "broken config": (write("config.json", '{"auto_map": {'), "config.json' is no JSON"),
    "a list for a config": (write("config.json", "[]"), "config.json does not name the code"),
    "an odd index": (write(INDEX, '{"weight_map": {"a": ["x"], "b": 1}}'), "1 is missing, .* names it"),
    "half an index": (lambda folder: (folder / INDEX).write_bytes(b'{"weight_map": "\xff'), "index.json' is no JSON"),
    "unfilled": (edit("README.md", "## Use it", "{{ usage }}"), "places were not filled in .'{{ usage }}"),
    "unfilled, the Hub's": (edit("README.md", "## Use it", "[More Information Needed]"), "were not filled in"),
    "broken YAML": (edit("README.md", "tags:", "tags: [\nx: {"), "README.md' cannot be read: while parsing a flow"),
    "a list for metadata": (write("README.md", "---\n- a\n---\n# A\n"), "README.md' cannot be read"),
    "no metadata": (write("README.md", "# A\n"), "library_name is None and must be 'transformers'; pipeline_tag"),
    "another task": (edit("README.md", "pipeline_tag: video", "pipeline_tag: image"), "'image-classification' and"),
    "a link to nothing": (lambda folder: (folder / "a.txt").symlink_to("gone"), "cannot be read: .*a.txt"),
}


@pytest.mark.parametrize("name", HALF_MADE)
def test_half_made_folders(hub, root, tmp_path, monkeypatch, capsys, name):
    """Found without any process, said on one line; the Hub hears nothing of it."""
    folder = tmp_path / "sharded"
    shutil.copytree(root / "sharded", folder)
    change, message = HALF_MADE[name]
    change(folder)
    monkeypatch.setattr(checking, "_try", lambda *_: pytest.fail("what is wrong was not found"))
    with pytest.raises(PublishError, match=message):
        check_folder(folder)
    assert run_verb(script, [str(folder), "--repo", ID]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("ila publish: error: ") and printed.err.count("\n") == 1
    assert not printed.out and not hub.requests


def test_double_braces_of_a_bibliography_are_none_to_fill_in(root, tmp_path, monkeypatch):
    folder = tmp_path / "sharded"
    shutil.copytree(root / "sharded", folder)
    edit("README.md", "title     = {Implicit", "title     = {{Implicit")(folder)
    monkeypatch.setattr(checking, "_try", lambda *_: {})
    assert "{{Implicit" in check_folder(folder).card.text


def test_what_is_left_out(hub, checked, root, tmp_path, monkeypatch):
    folder = tmp_path / "sharded"
    shutil.copytree(root / "sharded", folder)
    for name in ("checkpoint-10/model.safetensors", "runs/events", ".env", "optimizer.pt", "training_args.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    (folder / "labels.txt").write_text("mine")
    monkeypatch.setattr(checking, "_try", lambda *_: {})
    more = check_folder(folder)
    assert more.left_out == (".env", "checkpoint-10", "optimizer.pt", "runs", "training_args.bin")
    publish(more, ID)
    assert hub.repositories[ID].files() == expected(checked) | {"labels.txt": b"mine"}


def not_a_number(folder: Path) -> None:
    path = next(folder.glob("model-00001-*"))
    tensors = load_file(path)
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.view(-1)[0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})


def one_tensor_less(folder: Path) -> None:
    path = next(folder.glob("model-00002-*"))
    tensors = load_file(path)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))


def half_a_shard(folder: Path) -> None:
    path = next(folder.glob("model-00003-*"))
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (not_a_number, "scores that are no numbers"),
        (one_tensor_less, "1 tensors of the classifier are in no file: "),
        (half_a_shard, "SafetensorError"),
        (edit("modeling_ila.py", "import copy", "import copyist"), "copyist"),
    ],
    ids=["not a number", "one tensor less", "half a shard", "broken code"],
)
def test_folders_that_do_not_work(hub, root, tmp_path, capsys, change, message):
    folder = tmp_path / "sharded"
    shutil.copytree(root / "sharded", folder)
    change(folder)
    assert run_verb(script, [str(folder), "--repo", ID]) == 2
    printed = capsys.readouterr()
    assert "cannot label a clip without this package: " in printed.err and printed.err.count("\n") == 1
    assert message in printed.err and not printed.out and not hub.requests


# -- the script ------------------------------------------------------------------------------------------------------


def test_script(hub, checked, other, monkeypatch, capsys):
    """Its options reach `publish`, and all that is uploaded is shown."""
    monkeypatch.setattr(checking, "check_folder", lambda folder, video: {"a": checked, "b": other}[folder])

    def run(*arguments: str) -> tuple[int, str]:
        code = run_verb(script, [arguments[0], "--repo", ID, *arguments[1:]])
        printed = capsys.readouterr()
        assert (printed.err == "") == (code == 0) and printed.err.count("\n") <= 1
        return code, printed.out + printed.err

    code, printed = run("a", "--dry_run")
    assert code == 0 and not hub.requests
    lines = [line.split() for line in printed.splitlines()]
    listed = {line[2]: float(line[0]) for line in lines if len(line) == 3 and line[1] == "MB"}
    assert listed == {name: round(size / 1e6, 3) for name, size in checked.files.items()}
    assert f"in {len(checked.files)} files" in printed and "Licence in the card: none." in printed
    assert f"`ila card --model {checked.folder} --license apache-2.0` states one" in printed

    url = f"{hub.endpoint}/{ID}"
    assert run("a", "--private")[1].endswith(f"Published: {url}\n") and hub.repositories[ID].private
    code, printed = run("b")
    assert code == 2 and "ila publish: error: The name 'me/tiny' is taken" in printed
    assert run("b", "--pr")[1].endswith(f"Published: {url}/discussions/1\n")
    assert run("b", "--revision", "v2")[1].endswith(f"Published: {url}/tree/v2\n")
    assert run("b", "--update")[1].endswith(f"Published: {url}\n")
    repository = hub.repositories[ID]
    assert [repository.files(name) for name in ("refs/pr/1", "main")] == [expected(other)] * 2
    assert repository.files("v2") == expected(other, branch="v2")
    monkeypatch.delenv("HF_TOKEN")
    code, printed = run("a", "--update")
    assert code == 2 and "error: There is no token: `hf auth login`, or set HF_TOKEN to one that may write." in printed


def test_script_says_what_a_licence_forbids(checked, capsys):
    card = type(checked.card)("---\nlicense: other\nlicense_name: none-granted\n---\n# A\n")
    script.show(dataclasses.replace(checked, card=card, left_out=("runs", ".env")))
    printed = capsys.readouterr().out
    assert "Left out: runs, .env." in printed and "Licence in the card: none-granted." in printed
    assert "only a private repository is possible" in printed


def test_the_branchs_card_loads_the_branch(hub, checked):
    publish(checked, ID, revision="v1")
    assert f'model="{ID}", revision="v1", trust' in hub.repositories[ID].files("v1")["README.md"].decode()


def test_only_code_is_given_the_repositorys_id(checked):
    folder = checked.folder.with_name("worded")
    folder.mkdir()
    said = f'A class is called model="{read_facts(checked.card).model_id}", trust_remote_code=True.'
    (folder / "README.md").write_text(f"{checked.card}\n\n{said}\n", encoding="utf-8")
    text = published_card_text(dataclasses.replace(checked, folder=folder), "user/name")
    assert 'model="user/name", trust' in text and said in text


def test_deletions_are_announced_and_others_files_stay(hub, checked, other):
    announced = []
    publish(checked, ID)
    publish(other, ID, update=True, announce=announced.append)
    (deleted,) = announced
    assert deleted and set(deleted) <= set(checked.files) - set(other.files)
    theirs = HfApi(token="token-you")
    theirs.create_repo("you/theirs")
    for name in ("tokenizer.json", "custom_ila.py"):  # of no export
        theirs.upload_file(path_or_fileobj=b"theirs", path_in_repo=name, repo_id="you/theirs")
    publish(other, "you/theirs", create_pr=True, announce=announced.append)
    proposed = hub.repositories["you/theirs"].files("refs/pr/1")
    assert proposed["custom_ila.py"] == b"theirs" and len(announced) == 1


def test_weights_without_a_licence_stay_private(hub, checked, tmp_path, caplog):
    card = type(checked.card)("---\nlicense: other\nlicense_name: none-granted\n---\n# A\n")
    unlicensed = dataclasses.replace(checked, card=card)
    for options in ({}, {"create_pr": True}, {"revision": "v2"}, {"update": True}):
        refused("nobody granted a licence .*--private.* writes it as `license` .*README.md", unlicensed, ID, **options)
    assert not hub.requests and ID not in hub.repositories
    publish(unlicensed, ID, private=True)
    assert hub.repositories[ID].private

    folder = Path(shutil.copytree(checked.folder, tmp_path / "silent"))
    config = json.loads((folder / "config.json").read_text())
    random = {"untrained_weights": ["mit.position_embedding"]}
    (folder / "config.json").write_text(json.dumps({**config, **random, "weights_origin": "official_release"}))
    with pytest.raises(PublishError, match="nobody granted a licence; the card does not say so"):
        check_folder(folder)
    assert "Nothing has trained 1 of the weights" in caplog.text and "'mit.position_embedding'" in caplog.text


ELSEWHERE = """
import json, sys

sys.modules["transformers_ila"] = None
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor
from transformers import pipeline

def load(auto, **options):
    return auto.from_pretrained("me/tiny", trust_remote_code=True, **options)

out = []
try:
    out.append(str(load(AutoConfig)))
except OSError as error:
    out.append(type(error).__name__)
mine = {"token": sys.argv[2]}
for revision in ("main", "v2", "refs/pr/1"):
    options = {**mine, "revision": revision}
    classify = pipeline("video-classification", model="me/tiny", trust_remote_code=True, **options)
    out.append(classify(sys.argv[1], top_k=1)[0])
parts = [load(auto, **mine) for auto in (AutoConfig, AutoModel, AutoVideoProcessor, AutoProcessor)]
assert all(type(part).__module__.startswith("transformers_modules.me.tiny.") for part in parts), parts
model = load(AutoModelForVideoClassification, **mine)
model.set_labels(["sitting", "standing", "lying"])
out.append(model.config.id2label[2])
print("\\n" + json.dumps(out))
"""


def test_an_adapter_is_published_and_loaded_over_its_base(hub, root, tmp_path, monkeypatch):
    from peft import get_peft_model

    from transformers_ila.training.adapters import lora_config

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    place = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
    HfApi().create_repo("me/clip")
    HfApi().create_branch("me/clip", branch="v1")
    HfApi().upload_folder(repo_id="me/clip", folder_path=root / "clip", revision="v1")
    labels = ["walking", "running"]
    model = IlaForVideoClassification.from_pretrained("me/clip", revision="v1", labels=labels, **TINY_ILA)
    adapted = get_peft_model(model, lora_config(model, r=2, init_lora_weights=False)).eval()
    processor = IlaVideoProcessor.for_model(model.config)
    folder = exports.export_adapter(adapted, processor, tmp_path / "adapter")
    for name in ("adapter_base.safetensors", "adapter_model.safetensors", "video_preprocessor_config.json"):
        (folder / name).rename(tmp_path / name)
        with pytest.raises(PublishError, match="is not complete: .*export_adapter"):
            check_folder(folder)
        (tmp_path / name).rename(folder / name)
    checked = check_folder(folder, video=root / "clip.mp4")
    with torch.no_grad():
        scores = adapted(**processor(str(root / "clip.mp4"), return_tensors="pt")).logits.softmax(-1)
    assert checked.answer["score"] == pytest.approx(float(scores.max()), abs=SCORE_TOLERANCE)
    publish(checked, ID)
    card = hub.repositories[ID].files()["README.md"].decode()
    assert f'load_adapter("{ID}").merge' in card and "base_model: me/clip" in card
    assert sum(map(len, hub.repositories[ID].files().values())) < 2e6
    publish(checked, ID, revision="v2")
    card = hub.repositories[ID].files("v2")["README.md"].decode()
    assert f'load_adapter("{ID}", revision="v2").merge' in card
    code = card.split("```python\n")[1].split("```")[0].replace('"video.mp4"', repr(str(root / "clip.mp4")))
    printed = hub.run(tmp_path / "home", code, PYTHONPATH=str(ROOT / "src")).splitlines()[-2]
    assert printed == f"{checked.answer['label']} {round(checked.answer['score'], 3)}"


@pytest.mark.slow
def test_published_and_loaded_by_id(hub, checked, other, root, tmp_path):
    """By the script, for real; then where there is no package and no right to see it, with a token; then offline."""
    command = [sys.executable, SCRIPT, root / "sharded", "--repo", ID, "--private", "--video", root / "clip.mp4"]
    environment = hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT / "src"))
    run = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith(f"Published: {hub.endpoint}/{ID}\n") and hub.repositories[ID].private
    assert all(f"  {name}\n" in run.stdout for name in checked.files)
    assert hub.repositories[ID].files() == expected(checked)
    publish(other, ID, revision="v2")
    publish(other, ID, create_pr=True)

    classify = pipeline("video-classification", model=str(other.folder))
    answer = classify(str(root / "clip.mp4"), top_k=1)[0]
    code = f"import sys; sys.argv = ['-c', {str(root / 'clip.mp4')!r}, 'token-me']\n{ELSEWHERE}"

    def check(**changes: str) -> str:
        without, *answers, label = json.loads(hub.run(tmp_path / "other", code, **changes).splitlines()[-1])
        for one, wanted in zip(answers, (checked.answer, answer, answer), strict=True):
            assert one["label"] == wanted["label"] and abs(one["score"] - wanted["score"]) < SCORE_TOLERANCE
        assert label == "lying"
        return without

    assert check(HF_TOKEN="token-you") == "OSError"
    hub.stop()
    hub.requests.clear()
    check(HF_TOKEN="token-you", HF_HUB_OFFLINE="1")
    assert not hub.requests
