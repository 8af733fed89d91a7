"""Models of the page: which a user may name, and a bounded number of them in memory, shared by all users."""

import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, PreTrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from ..backbones.zero_shot import PLAIN
from ..distributed import Rank
from ..evaluation.inference import (
    CLASSIFIERS,
    device_of,
    dtype_of,
    load_for_words,
    load_trained,
    named_in_errors,
    require_checkpoint,
)
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from ..search.index_files import local_folder, read_model
from .limits import AppError, Busy, quoted
from .options import MEBIBYTE, AppOptions


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack")  # of a repository, of which some are loaded
FAILURES = (ValueError, OSError, RuntimeError, ImportError, MemoryError, SafetensorError, StrictDataclassError)
LEAST_BYTES = 2  # of a parameter: bfloat16
KEPT_FAILURES = 100  # of models that could not be loaded
RETRY = 60.0  # seconds after which a model that could not be loaded is tried again


@dataclass(eq=False)
class Opened:
    """Hold a model that is loaded; in a `with` block it stays so, and no other thread computes with it.

    model, processor: in eval mode, on its device; the processor reads within the page's limits.
    name: the folder or Hub id that was chosen.
    """

    model: Any
    processor: IlaVideoProcessor
    name: str
    seconds: float = 600.0  # for which a thread waits for its turn
    users: int = 0  # threads in its `with` block, or before it
    last_used: float = field(default_factory=time.monotonic)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _count: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Opened":
        self._use(1)
        if not self._turn.acquire(timeout=self.seconds):
            self._use(-1)
            raise Busy(f"Busy: {self.name} is answering other questions. Try again in a few minutes.")
        return self

    def __exit__(self, *_: object) -> None:
        self._turn.release()
        self._use(-1)

    def _use(self, more: int) -> None:
        with self._count:
            self.users += more
            self.last_used = time.monotonic()


class ModelCache:
    """Load models at their first use and keep as many as the options say; the least recently used one goes first."""

    def __init__(self, options: AppOptions) -> None:
        self.options = options
        self.folders = [Path(folder).resolve() for folder in options.folders]
        self._opened: dict[str, Opened] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # when and why
        self._loading: dict[str, threading.Lock] = {}
        self._fetched: set[str] = set()  # what users have named and nobody had downloaded before
        self._lock = threading.Lock()

    @property
    def choices(self) -> list[str]:
        """Return the names of the models that the page offers, the first one first."""
        return list(dict.fromkeys(self.options.chosen_models))

    @property
    def offered(self) -> list[str]:
        """Return the models that whoever started the page has named: the choices, and the model of the index."""
        index = None if self.options.index is None else read_model(local_folder(self.options.index))
        return [*self.choices, *([index] if index else [])]

    def open(self, name: str) -> Opened:
        """Return a model, loaded where it is not yet; another one's loading is not waited for.

        Args:
            name: one of the choices; a folder in an allowed one; or a Hub id, where the options let users name one.

        Raises:
            AppError: a model that may not be opened, or cannot be; the message says why.
        """
        source = self.source_of(name)
        with self._lock:
            if (found := self._opened.get(source)) is not None:
                found.last_used = time.monotonic()
                return found
            turn = self._loading.setdefault(source, threading.Lock())
        if not turn.acquire(timeout=self.options.job_seconds):
            raise Busy(f"Busy: {name} is being loaded. Try again in a few minutes.")
        try:
            with self._lock:
                if (found := self._opened.get(source)) is not None:
                    return found
                when, why = self._failed.get(source, (-RETRY, ""))
            if time.monotonic() - when < RETRY:
                raise AppError(why)
            try:
                self._make_room()
                if source not in self.offered and not Path(source).is_dir() and not _is_downloaded(source):
                    self._fetched.add(source)
                opened = self._load(source, name)
            except AppError as error:
                self._note(source, error)
                self._delete(source)
                raise
            with self._lock:
                self._opened[source] = opened
            self._make_room(0)
            return opened
        finally:
            turn.release()
            with self._lock:
                self._loading.pop(source, None)

    def source_of(self, name: str) -> str:
        """Return the folder or Hub id to load; raise an AppError where a user may not name it.

        A folder is compared with its links followed. What is no folder to be read and no Hub id gets one message,
        whether something lies there or not.
        """
        name = str(name or "").strip()
        if not name:
            raise AppError("Choose a model first: a folder or a Hub id, such as user/name.")
        if name in self.offered:
            return name
        if self.options.fixed_models:
            raise AppError(f"{quoted(name)} is not offered here. Choose among: {', '.join(self.choices)}.")
        for folder in self.folders:
            found = _folder(folder / name)
            if found is not None and any(found.is_relative_to(allowed) for allowed in self.folders):
                return str(found)
        if HUB_ID.fullmatch(name) and not os.path.lexists(name):
            return name
        raise AppError(
            f"{quoted(name)} is neither offered here, nor a folder that this page may read, nor a Hub id (user/name)."
        )

    # -- loading ------------------------------------------------------------------------------------------------------

    def _load(self, source: str, name: str) -> Opened:
        """Load a model and its processor; an AppError says why that is not possible."""
        try:
            if source not in self.offered:
                self._check(source)
            with named_in_errors(source):
                kind = AutoConfig.from_pretrained(source).model_type
            model, processor = load_for_words(source) if kind in PLAIN else load_trained(source)
            options = self.options.inference_options()
            device = device_of(model, options) if self.options.device else Rank().device()
            model = model.to(device)
            model = model.to(dtype_of(model, options)).eval().requires_grad_(False)
        except AppError:
            raise
        except FAILURES as error:
            raise AppError(f"{quoted(name)} cannot be opened: {_words(error)}") from error
        reader: Any = processor
        reader.read_limits = vars(self.options.read_limits())
        return Opened(model, processor, name, self.options.job_seconds)

    def _check(self, source: str) -> None:
        """Check a model that a user named, before anything large is read: its kind, and the size of its weights.

        An adapter is refused, as it names another place where the rest of it lies. Code of a repository is never run:
        the kinds that are allowed are those whose code this package and Transformers have.
        """
        if not Path(source).is_dir():
            self._check_size(source, _sizes_on_hub(source))
        require_checkpoint(source)
        with named_in_errors(source):
            if find_adapter_config_file(source) is not None:
                raise AppError(f"{quoted(source)} is an adapter. Only whole models can be named here.")
            kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        if kind not in (*CLASSIFIERS, *PLAIN):
            allowed = ", ".join((*CLASSIFIERS, *PLAIN))
            raise AppError(f"{quoted(source)} holds a model of kind {kind!r}; this page opens: {allowed}.")
        if Path(source).is_dir():
            sizes = {file.name: file.stat().st_size for file in Path(source).iterdir() if file.is_file()}
            self._check_size(source, sizes)
        self._check_parameters(source, kind)

    def _check_parameters(self, source: str, kind: str) -> None:
        """Refuse a configuration of more parameters than the weights may have, before memory is taken for them."""
        with named_in_errors(source), torch.device("meta"):
            made_by: Any = AutoModel if kind in PLAIN else AutoModelForVideoClassification
            model = made_by.from_config(AutoConfig.from_pretrained(source))
        count = sum(values.numel() for values in [*model.parameters(), *model.buffers()])
        if LEAST_BYTES * count > self.options.model_megabytes * MEBIBYTE:
            raise AppError(
                f"{quoted(source)} has {count / 1e6:.0f} million parameters, {LEAST_BYTES * count / MEBIBYTE:.0f} "
                f"megabytes or more; at most {self.options.model_megabytes:g} are taken here."
            )

    def _check_size(self, source: str, sizes: dict[str, int]) -> None:
        """Raise an AppError where the weights are larger than a user may ask for, or there are none."""
        by_kind = [sum(size for file, size in sizes.items() if file.endswith(suffix)) for suffix in WEIGHTS]
        size = next((found for found in by_kind if found), 0)  # the first kind that is there is what is loaded
        if not size:
            raise AppError(f"{quoted(source)} holds no weights.")
        if size > self.options.model_megabytes * MEBIBYTE:
            raise AppError(
                f"{quoted(source)} has weights of {size / MEBIBYTE:.0f} megabytes; at most "
                f"{self.options.model_megabytes:g} are taken here."
            )

    # -- room ---------------------------------------------------------------------------------------------------------

    def _make_room(self, more: int = 1) -> None:
        """Let go of the models used least recently, none in use, until `more` fit; a Busy where all are in use."""
        with self._lock:
            while len(self._opened) + more > self.options.models_in_memory:
                free = [source for source, opened in self._opened.items() if not opened.users]
                if not free:
                    if more:
                        raise Busy("Busy: all models that fit in memory are at work. Try again in a few minutes.")
                    return
                oldest = min(free, key=lambda source: self._opened[source].last_used)
                del self._opened[oldest]
                self._delete(oldest)

    def close(self) -> None:
        """Let go of all models, and delete what was downloaded for users alone."""
        with self._lock:
            self._opened.clear()
            for source in list(self._fetched):
                self._delete(source)

    def _delete(self, source: str) -> None:
        """Delete a model from the Hub's cache, if a user has named it and nobody had downloaded it before."""
        if source not in self._fetched:
            return
        self._fetched.discard(source)
        with suppress(CacheNotFound, OSError):
            cache = scan_cache_dir()
            found = [repo for repo in cache.repos if (repo.repo_id, repo.repo_type) == (source, "model")]
            cache.delete_revisions(*(revision.commit_hash for repo in found for revision in repo.revisions)).execute()

    def _note(self, source: str, error: AppError) -> None:
        """Keep why a model cannot be opened, so that who asks for it again and again does not load it as often."""
        if isinstance(error, Busy):
            return
        with self._lock:
            self._failed[source] = (time.monotonic(), str(error))
            while len(self._failed) > KEPT_FAILURES:
                del self._failed[next(iter(self._failed))]


def _is_downloaded(source: str) -> bool:
    return isinstance(try_to_load_from_cache(source, "config.json"), str)


def _folder(path: Path) -> Path | None:
    """Return a folder with its links followed, or None."""
    try:
        found = path.resolve(strict=True)
        return found if found.is_dir() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _sizes_on_hub(source: str) -> dict[str, int]:
    """Return the bytes of each file at the top of a repository, by name; an AppError where the Hub does not say."""
    try:
        found = list(HfApi().list_repo_tree(source))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise AppError(f"{quoted(source)} cannot be opened: {_words(error)}") from error
    except Exception as error:  # of whatever carries the request: no network, a time-out
        raise AppError(f"{quoted(source)} cannot be opened: the Hub does not answer.") from error
    return {item.path: getattr(item, "size", 0) for item in found}


def _words(error: BaseException) -> str:
    """Return an error's first line, and the next where it ends with a colon, without what may be secret."""
    lines = [line.strip() for line in redact(str(error)).strip().splitlines()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__
