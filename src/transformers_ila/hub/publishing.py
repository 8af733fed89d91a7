"""Uploads a checked folder to the Hub in one commit, or not at all.

`HfApi.upload_folder` cannot promise that: with hf_xet installed it splits a commit that fails into several, and a
model would be there in part. So the files go through `HfApi.create_commit`, which makes one.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, RepoFile
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OIDCError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..model.loading_ila import ADAPTER
from .cards import example
from .checking import CheckedFolder, PublishError, one_line
from .exporting import OWN_FILES
from .facts import FACTS_KEY, NO_LICENCE, read_facts


MAIN = "main"
NO_ANSWER = (httpx2.HTTPError, OSError, json.JSONDecodeError)  # of the Hub; a proxy's page is no JSON


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
    example of the card gets the repository's id. Weights without a licence go to private repositories only.

    Args:
        checked: what `check_folder` returned.
        repo_id: "user/name".
        private: make a private repository; one that exists must be private.
        create_pr: propose the files to an existing repository, anybody's.
        revision: the branch to commit to, made from the main one if it does not exist.
        update: allow a commit to a main branch that has files already.
        token: by default the one of `hf auth login` or `HF_TOKEN`.
        announce: called, before anything is sent, with the files of an earlier export there that the commit deletes.

    Returns:
        The URL of the repository, the branch or the pull request.

    Raises:
        PublishError: no token, no right, a name that is taken, weights without a licence, a network failure.
    """
    check_destination(repo_id, create_pr=create_pr, revision=revision)
    branch = None if revision == MAIN else revision
    if checked.card.data.get("license_name") == NO_LICENCE and not private:
        raise PublishError(
            f"The card says that nobody granted a licence for these weights ({NO_LICENCE}): only their authors may "
            "pass them on. A private repository, for yourself, is possible (--private). Whoever was granted a licence "
            f"writes it as `license` in place of it at the head of {checked.folder / 'README.md'}."
        )
    api = HfApi(token=token)
    url = f"{api.endpoint}/{repo_id}"
    with _clear_errors(repo_id):
        _check_writer(api, repo_id, create_pr=create_pr)
        card = published_card_text(checked, repo_id, branch)
        additions = _additions(checked, card)  # what is wrong here is found before anything changes there
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
        _check_card(card)
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
        message = f"Add {checked.folder.resolve().name}"
        operations = [*additions, *deletions]
        pull_request = _commit(api, repo_id, operations, message=message, create_pr=create_pr, branch=branch)
    if create_pr:
        return pull_request or f"{url} (it has these files already)"
    return url if branch is None else f"{url}/tree/{branch}"


def check_destination(repo_id: str, *, create_pr: bool = False, revision: str | None = None) -> None:
    """Raise a PublishError for a name that no repository can have, or for options that contradict each other."""
    if "/" not in repo_id:
        raise PublishError(f"The repository must be user/name, got {repo_id!r}.")
    with _clear_errors(repo_id):
        validate_repo_id(repo_id)
    if revision is not None and not revision.strip():
        raise PublishError(f"The revision must be the name of a branch, got {revision!r}.")
    if create_pr and revision not in (None, MAIN):
        raise PublishError(f"A pull request goes to the main branch; got the revision {revision!r} too.")


def _check_writer(api: HfApi, repo_id: str, *, create_pr: bool) -> None:
    """Raise a PublishError if the token's user cannot write there; the client would notice when the upload begins."""
    user = api.whoami()
    owner = repo_id.partition("/")[0]
    own = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if owner not in own and not create_pr:
        raise PublishError(
            f"The token is of {user['name']!r}, who cannot write to {owner!r}; allowed: {', '.join(own)}."
        )


def _files_there(api: HfApi, repo_id: str, *, private: bool) -> list[str] | None:
    """List the files of the repository's main branch; None if there is no such repository."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None
    if private and not info.private:
        raise PublishError(f"{repo_id!r} exists and is public; nothing was uploaded.")
    return [file.rfilename for file in info.siblings or [] if file.rfilename != ".gitattributes"]


def _check_card(text: str) -> None:
    """Ask the Hub whether it accepts the card; the commit would ask the same after the repository was made."""
    try:
        RepoCard(text).validate()  # a `ModelCard` would mend some of what is wrong
    except ValueError as error:
        raise PublishError(f"The Hub does not accept the card: {one_line(error)} No file is published.") from error


def _additions(checked: CheckedFolder, card: str) -> list[CommitOperationAdd]:
    files = {name: checked.folder / name for name in checked.files} | {"README.md": card.encode()}
    return [CommitOperationAdd(name, content) for name, content in files.items()]


def published_card_text(checked: CheckedFolder, repo_id: str, branch: str | None = None) -> str:
    """Write the card with a usage example that loads the repository, or a branch of it."""
    text = (checked.folder / "README.md").read_bytes().decode("utf-8-sig")
    card = RepoCard(text)
    facts = read_facts(card)
    there = replace(facts, model_id=repo_id, revision=branch)
    adapter = ADAPTER in checked.files
    here, changed = example(facts, adapter=adapter), example(there, adapter=adapter)
    if FACTS_KEY not in card.data:
        return text if facts.model_id is None else _in_code(text, here, changed)
    stored = {**card.data[FACTS_KEY], "model_id": repo_id, "revision": branch}
    card.data[FACTS_KEY] = {key: value for key, value in stored.items() if value is not None}
    card.text = _in_code(card.text, here, changed)
    return str(card)


def _in_code(text: str, old: str, new: str) -> str:
    """Replace words in the blocks of code of a card, and nowhere else: a class may be called so."""
    return re.sub(r"^```.*?^```", lambda block: block[0].replace(old, new), text, flags=re.MULTILINE | re.DOTALL)


def _deletions(checked: CheckedFolder, existing: Iterable[str]) -> list[CommitOperationDelete]:
    """List the files of an earlier export that the folder has not: they would be loaded with the new ones."""
    existing = list(existing)
    if "modeling_ila.py" not in existing and ADAPTER not in existing:  # nothing there is an export's
        return []
    own = [name for name in existing if "/" not in name and any(fnmatch(name, pattern) for pattern in OWN_FILES)]
    return [CommitOperationDelete(name) for name in own if name not in checked.files]


def _is_there(api: HfApi, repo_id: str, revision: str, operations: Sequence[Any]) -> bool:
    """Return whether the revision is as the operations would make it."""
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
    """Commit, look up what became of it if the answer is lost, and return the pull request's URL if there is one."""
    try:
        return api.create_commit(
            repo_id, operations, commit_message=message, create_pr=create_pr, revision=branch
        ).pr_url
    except NO_ANSWER as error:
        if not _may_succeed_later(error):
            raise
        unknown = f"The Hub's answer to the commit is lost ({one_line(error)}); what became of it is not known."
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
    except PublishError:
        raise
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
        return f"A file cannot be read ({one_line(cause)}). No file is published."
    if isinstance(cause, HfHubHTTPError):
        what = f"The Hub answered with an error ({status}): {one_line(cause)}"
    elif isinstance(cause, (*NO_ANSWER, RuntimeError)):
        what = f"The connection to the Hub failed ({one_line(cause)})."
    else:
        return f"{one_line(cause)} No file is published."
    advice = "; the same command goes on where it stopped" if _may_succeed_later(cause) or cause is not error else ""
    return f"{what} No file is published{advice}."


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_succeed_later(error: Exception) -> bool:
    """Return whether there was no answer, or one that is not about the request."""
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)
