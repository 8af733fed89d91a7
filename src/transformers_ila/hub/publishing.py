"""From an exported folder to the Hub: checked as its users will load it, then uploaded in one commit or not at all."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, RepoFile
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OIDCError, RepositoryNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..evaluation.report import fingerprint
from ..model.modeling_ila import IlaForVideoClassification
from ..motionbench.tasks import make_videos
from ..video_writing import write_mp4
from .cards import NO_LICENCE, OFFICIAL_RELEASE, RESULTS_OF, results_are_of, with_example_model
from .exporting import CARD_BEFORE, OWN_FILES


# What training leaves beside a model, and pickles, which nobody should load.
LEFT_OUT = (
    "checkpoint-*",
    "runs",
    "__pycache__",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.ckpt",
    "*.tmp",
    "*.lock",
    CARD_BEFORE,
    ".*",
)
REQUIRED = ("README.md", "config.json", "configuration_ila.py", "modeling_ila.py")
PROCESSORS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
MAIN = "main"
NO_ANSWER = (httpx2.HTTPError, OSError, json.JSONDecodeError)  # of the Hub; a proxy's page is no JSON
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
RELATIVE_IMPORT = re.compile(r"^\s*from \.(\w+) import ", re.MULTILINE)
UNFILLED = re.compile(r"\{\{ |\[More Information Needed\]")  # of this package's template, of the Hub's

# What a machine without this package does with the folder.
TRY_OUT = """
import json, math, pathlib, sys
sys.modules["transformers_ila"] = None
from safetensors import safe_open
from transformers import pipeline

folder, video = sys.argv[1:]
classify = pipeline("video-classification", model=folder, trust_remote_code=True)
stored = {name for file in pathlib.Path(folder).glob("model*.safetensors") for name in safe_open(file, "pt").keys()}
absent = sorted(set(classify.model.state_dict()) - stored)
if absent:
    sys.exit(f"{len(absent)} tensors of the classifier are in no file: {', '.join(absent[:3])}")
answers = classify(video, top_k=5)
if not answers or not all(math.isfinite(answer["score"]) for answer in answers):
    sys.exit(f"scores that are no numbers: {answers}")
print(json.dumps(answers[0]))
"""


class PublishError(RuntimeError):
    """Why nothing was published, or that it is not known; one sentence for the user."""


@dataclass(frozen=True)
class CheckedFolder:
    """files: names and sizes in bytes of what would be uploaded. left_out: what would not. answer: for the clip."""

    folder: Path
    files: dict[str, int]
    left_out: tuple[str, ...]
    card: ModelCard
    answer: dict[str, Any]


def check_folder(folder: str | Path, *, video: str | Path | None = None) -> CheckedFolder:
    """Check that a folder is complete, that its card is one, and that it labels a clip where this package is missing.

    Args:
        folder: as `hub.export` writes it.
        video: the clip; by default one is generated.

    Raises:
        PublishError: what is missing or wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"There is no folder {str(folder)!r}.")
    try:
        paths = sorted(folder.iterdir())
        left_out = [path for path in paths if path.is_dir() or _matches(path.name, LEFT_OUT)]
        files = {path.name: path.stat().st_size for path in paths if path not in left_out}
        empty = [f"{name} is empty" for name, size in files.items() if not size]
        problems = empty or _missing_files(folder, files)
        if problems:
            raise PublishError(
                f"{str(folder)!r} is not complete: {'; '.join(problems)}. `transformers_ila.hub.export(model, "
                "processor, folder)` writes everything."
            )
        card = _read_card(folder)
        _check_licence(folder, card)
        _check_results(folder, card)
    except OSError as error:
        raise PublishError(f"{str(folder)!r} cannot be read: {error}.") from error
    return CheckedFolder(folder, files, tuple(path.name for path in left_out), card, _try(folder, video))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _missing_files(folder: Path, files: dict[str, int]) -> list[str]:
    problems = [f"{name} is missing" for name in REQUIRED if name not in files]
    if not any(name in files for name in PROCESSORS):
        problems.append(f"there is no processor ({', '.join(PROCESSORS)})")
    if problems:
        return problems
    if INDEX in files and WEIGHTS in files:
        problems.append(f"{WEIGHTS} and {INDEX} are both there, and only one of them would be loaded")
    elif INDEX in files:
        shards = sorted({str(shard) for shard in _read_object(folder / INDEX, "weight_map").values()})
        problems += [f"{shard} is missing, {INDEX} names it" for shard in shards if shard not in files]
    elif WEIGHTS not in files:
        problems.append(f"there are no weights ({WEIGHTS} or {INDEX})")
    if "AutoModelForVideoClassification" not in _read_object(folder / "config.json", "auto_map"):
        problems.append("config.json does not name the code (auto_map)")
    config = _read_object(folder / "config.json")
    has_text_tower = config.get("classification_head") == "text" and config.get("class_features") != "merged"
    if has_text_tower and "tokenizer.json" not in files:
        problems.append("tokenizer.json is missing, new class names need it: an IlaProcessor has one")
    for code in [name for name in files if name.endswith("_ila.py")]:
        imported = RELATIVE_IMPORT.findall((folder / code).read_text(encoding="utf-8", errors="replace"))
        problems += [f"{name}.py is missing, {code} needs it" for name in imported if f"{name}.py" not in files]
    return list(dict.fromkeys(problems))


def _read_object(path: Path, key: str | None = None) -> dict[str, Any]:
    """A JSON file, or the part under a key of it, empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{str(path)!r} is no JSON: {error}.") from error
    part = content.get(key) if key is not None and isinstance(content, dict) else content
    return part if isinstance(part, dict) else {}


def _read_card(folder: Path) -> ModelCard:
    try:
        card = ModelCard.load(folder / "README.md")
    except OSError:
        raise
    except Exception as error:  # of the YAML library and of the Hub's
        reason = " ".join(str(error).split())
        raise PublishError(f"The card {str(folder / 'README.md')!r} cannot be read: {reason}") from error
    wrong = [
        f"{field} is {card.data.get(field)!r} and must be {value!r}"
        for field, value in {"library_name": "transformers", "pipeline_tag": "video-classification"}.items()
        if card.data.get(field) != value
    ]
    if found := UNFILLED.search(card.text):
        wrong.append(f"places were not filled in ({card.text[found.start() :][:30]!r})")
    if wrong:
        raise PublishError(f"The card {str(folder / 'README.md')!r} is not right: {'; '.join(wrong)}.")
    return card


def _check_licence(folder: Path, card: ModelCard) -> None:
    if _read_object(folder / "config.json").get("weights_origin") == OFFICIAL_RELEASE and not card.data.get("license"):
        raise PublishError(
            f"The weights of {str(folder)!r} are, or began as, a published checkpoint's, for which nobody granted a "
            "licence; the card does not say so. `scripts/make_model_cards.py --model FOLDER` writes one that does."
        )


def _check_results(folder: Path, card: ModelCard) -> None:
    """Load the weights, only where the card says whose its results are."""
    if RESULTS_OF.search(card.text) is None:
        return
    try:
        found = fingerprint(IlaForVideoClassification.from_pretrained(folder, dtype="auto"))
    except Exception as error:  # of any kind, for a folder that does not load
        raise PublishError(f"{str(folder)!r} does not load: {_one_line(error)}") from error
    if not results_are_of(card, found):
        raise PublishError(
            f"The results in the card of {str(folder)!r} are of other weights or class names than it holds: "
            "`scripts/make_model_cards.py --model FOLDER --reports ...` writes a card of these."
        )


def _try(folder: Path, video: str | Path | None) -> dict[str, Any]:
    """The best answer for the clip, from a process that has only Transformers and the folder."""
    with tempfile.TemporaryDirectory() as place:
        if video is None:
            video = Path(place) / "clip.mp4"
            write_mp4(video, next(make_videos(1, seed=0)).frames)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": place, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-W", "ignore", "-c", TRY_OUT, str(folder.resolve()), str(video)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode != 0:
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise PublishError(f"{str(folder)!r} cannot label a clip without this package: {reason}")
    return json.loads(run.stdout.strip().splitlines()[-1])


# -- the Hub ---------------------------------------------------------------------------------------------------------


def publish(
    checked: CheckedFolder,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    update: bool = False,
    token: str | None = None,
    announce: Callable[[list[str]], object] | None = None,
) -> str:
    """Upload a checked folder in one commit: everything of it is there afterwards, or nothing.

    An upload that broke off is repeated by the same call; large files that had arrived are not sent again. The usage
    example of the card gets the repository's id.

    Args:
        checked: of `check_folder`.
        repo_id: "user/name".
        private: for a new repository.
        create_pr: propose the files to an existing repository, anybody's.
        revision: branch, made from the main one if it does not exist.
        update: allow a commit to a main branch that has files already.
        token: by default the one of `hf auth login` or `HF_TOKEN`.
        announce: called, before anything is sent, with the files of an earlier export there that the commit deletes.

    Weights without a licence go to private repositories only.

    Returns:
        The URL of the repository, the branch or the pull request.

    Raises:
        PublishError: no token, no right, a name that is taken, a network failure.
    """
    branch = None if revision == MAIN else revision
    if branch is not None and not branch.strip():
        raise PublishError(f"The revision must be the name of a branch, got {branch!r}.")
    if create_pr and branch is not None:
        raise PublishError(f"A pull request goes to the main branch; got the revision {branch!r} too.")
    if checked.card.data.get("license_name") == NO_LICENCE and not private:
        raise PublishError(
            f"The card says that nobody granted a licence for these weights ({NO_LICENCE}): only their authors may "
            "pass them on. A private repository, for yourself, is possible (--private); whoever was granted a licence "
            "states it in the card."
        )
    api = HfApi(token=token)
    url = f"{api.endpoint}/{repo_id}"
    with _clear_errors(repo_id):
        validate_repo_id(repo_id)
        _check_writer(api, repo_id, create_pr=create_pr)
        additions = _additions(
            checked, repo_id, branch
        )  # everything that can be wrong here is, before anything changes there
        existing = _files_there(api, repo_id, private=private)
        if create_pr and not existing:
            raise PublishError(f"There is nothing at {repo_id!r} that a pull request could be made to.")
        if existing and not (create_pr or branch is not None or update):
            if _is_there(api, repo_id, MAIN, [*additions, *_deletions(checked, existing)]):
                return url
            raise PublishError(
                f"The name {repo_id!r} is taken: the repository has {len(existing)} files. Choose another name, "
                "--update to commit on top of them, --pr to propose the files, --revision to put them on a branch."
            )
        _check_card(api, published_card_text(checked, repo_id, branch))
        if existing is None:
            # not False: an organisation may have private repositories by default
            api.create_repo(repo_id, private=private or None, exist_ok=True)
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
            existing = api.list_repo_files(repo_id, revision=branch)
        deletions = _deletions(checked, existing or [])
        if announce is not None and deletions:
            announce([deletion.path_in_repo for deletion in deletions])
        api.preupload_lfs_files(repo_id, additions, revision=branch, create_pr=create_pr, free_memory=False)
        operations = [*additions, *deletions]
        message = f"Add {checked.folder.resolve().name}"
        pull_request = _commit(api, repo_id, operations, message=message, create_pr=create_pr, branch=branch)
    if create_pr:
        return pull_request or f"{url} (it has these files already)"
    return url if branch is None else f"{url}/tree/{branch}"


def _check_writer(api: HfApi, repo_id: str, *, create_pr: bool) -> None:
    """The client takes others' public repositories for its own until the upload begins."""
    user = api.whoami()
    owner, _, name = repo_id.partition("/")
    own = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if not name:
        raise PublishError(f"The repository must be user/name, got {repo_id!r}.")
    if owner not in own and not create_pr:
        raise PublishError(
            f"The token is of {user['name']!r}, who cannot write to {owner!r}; allowed: {', '.join(own)}."
        )


def _files_there(api: HfApi, repo_id: str, *, private: bool) -> list[str] | None:
    """What the repository's main branch holds; None if there is no such repository."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None
    if private and not info.private:
        raise PublishError(f"{repo_id!r} exists and is public; nothing was uploaded.")
    return [file.rfilename for file in info.siblings or [] if file.rfilename != ".gitattributes"]


def _check_card(api: HfApi, text: str) -> None:
    """The commit would ask the same, after the repository was made."""
    question = {"content": text, "repoType": "model"}
    response = get_session().post(f"{api.endpoint}/api/validate-yaml", json=question)
    if response.status_code == 400:
        wrong = "; ".join(" ".join(str(error.get("message")).split()) for error in response.json().get("errors", []))
        raise PublishError(f"The Hub does not accept the card: {wrong}. No file is published.")
    hf_raise_for_status(response)


def _additions(checked: CheckedFolder, repo_id: str, branch: str | None) -> list[CommitOperationAdd]:
    additions = []
    for name in checked.files:
        card = published_card_text(checked, repo_id, branch).encode() if name == "README.md" else None
        additions.append(CommitOperationAdd(name, card or checked.folder / name))
    return additions


def published_card_text(checked: CheckedFolder, repo_id: str, branch: str | None = None) -> str:
    """The card with a usage example that loads the repository, or a branch of it."""
    text = (checked.folder / "README.md").read_bytes().decode("utf-8")
    return with_example_model(text, repo_id, revision=branch)


def _deletions(checked: CheckedFolder, existing: Iterable[str]) -> list[CommitOperationDelete]:
    """What an earlier export left there and is not in the folder: it would be loaded with the new files."""
    existing = list(existing)
    if "modeling_ila.py" not in existing:  # nothing there is an export's
        return []
    own = [name for name in existing if "/" not in name and _matches(name, OWN_FILES)]
    return [CommitOperationDelete(name) for name in own if name not in checked.files]


def _is_there(api: HfApi, repo_id: str, revision: str, operations: Sequence[Any]) -> bool:
    """Whether nothing is left to do."""
    entries = {entry.path: entry for entry in api.list_repo_tree(repo_id, revision=revision)}
    return all(
        operation.path_in_repo not in entries
        if isinstance(operation, CommitOperationDelete)
        else _same_content(operation, entries.get(operation.path_in_repo))
        for operation in operations
    )


def _same_content(addition: CommitOperationAdd, entry: Any) -> bool:
    if not isinstance(entry, RepoFile) or entry.size != addition.upload_info.size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return entry.blob_id == git_hash(file.read())


def _commit(
    api: HfApi, repo_id: str, operations: Sequence[Any], *, message: str, create_pr: bool, branch: str | None
) -> str | None:
    """The pull request's URL, if there is one. What became of a commit whose answer is lost is looked up."""
    try:
        return api.create_commit(
            repo_id, operations, commit_message=message, create_pr=create_pr, revision=branch
        ).pr_url
    except NO_ANSWER as error:
        if not _may_succeed_later(error):
            raise
        unknown = f"The Hub's answer to the commit is lost ({_one_line(error)}); what became of it is not known."
        if create_pr:
            look = f"{api.endpoint}/{repo_id}/discussions"
            raise PublishError(f"{unknown} Look for the pull request at {look} before you repeat it.") from error
        try:
            arrived = _is_there(api, repo_id, branch or MAIN, operations)
        except NO_ANSWER:
            raise PublishError(f"{unknown} The same command finds out, and goes on.") from error
        if not arrived:
            raise
        return None


@contextmanager
def _clear_errors(repo_id: str) -> Iterator[None]:
    try:
        yield
    except (*NO_ANSWER, httpx2.InvalidURL, OIDCError, RuntimeError, ValueError) as error:
        raise PublishError(_reason(error, repo_id)) from error


def _reason(error: Exception, repo_id: str) -> str:
    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    status = _status(cause)
    if isinstance(cause, LocalTokenNotFoundError):
        return "There is no token: `hf auth login`, or set HF_TOKEN to one that may write."
    if status == 401:
        return "The Hub does not accept the token: `hf auth login` with one that may write."
    if status == 403 and cause is error:  # in an upload, the address for it was too old
        return f"The token may not write to {repo_id!r}: it needs the right to write."
    if isinstance(cause, OSError) and cause.filename is not None:
        return f"A file cannot be read ({_one_line(cause)}). No file is published."
    if isinstance(cause, HfHubHTTPError):
        what = f"The Hub answered with an error ({status}): {_one_line(cause)}"
    elif isinstance(cause, (*NO_ANSWER, RuntimeError)):
        what = f"The connection to the Hub failed ({_one_line(cause)})."
    else:
        return f"{_one_line(cause)} No file is published."
    advice = "; the same command goes on where it stopped" if _may_succeed_later(cause) or cause is not error else ""
    return f"{what} No file is published{advice}."


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_succeed_later(error: Exception) -> bool:
    """No answer, or one that is not about the request."""
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)


def _one_line(error: Exception) -> str:
    speaks = isinstance(error, (HfHubHTTPError, ValueError)) and not isinstance(error, json.JSONDecodeError)
    return ("" if speaks else f"{type(error).__name__}: ") + " ".join(str(error).split())[:300]
