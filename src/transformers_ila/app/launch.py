"""Serves the page: a folder of its own for temporary files, Gradio's server behind a guard, and an end in order.

What is unusual here:
- Gradio keeps uploads of the same content in one folder. Here each has its own, under a name that nobody guesses.
- Gradio fetches what a program names by an address in place of a file. Here nothing is fetched.
"""

import ctypes
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..files import FolderInUseError, only_writer
from .guard import Guard
from .models import ModelCache
from .options import LOOPBACK, MEBIBYTE, AppOptions
from .uploads import Inputs


PREFIX = "transformers_ila_app_"  # of the folder of temporary files
EVERY = 5.0  # seconds between two looks at what can be deleted
PATIENCE = 10.0  # seconds for which answers at work are waited for when the page ends
HELPERS = 8  # threads beside those that compute; each one has memory of its own that it keeps
# What others may have set for Gradio, and what would let more through than the options say.
NOT_HEEDED = (
    "GRADIO_ALLOWED_PATHS", "GRADIO_BLOCKED_PATHS", "GRADIO_LOCAL_DEV_MODE", "GRADIO_MCP_SERVER", "GRADIO_NUM_WORKERS",
    "GRADIO_SHARE", "GRADIO_SSR_MODE", "GRADIO_VIBE_MODE", "GRADIO_WATCH_DIRS",
)  # fmt: skip
HINT = "The page needs Gradio: pip install 'transformers-ila[app]'"


class Server(NamedTuple):
    """Hold a page that is served.

    address: of this machine. public: of gradio.live, or None. demo: the `gradio.Blocks`.
    """

    address: str
    public: str | None
    demo: Any
    inputs: Inputs
    model_cache: ModelCache


def launch(options: AppOptions) -> None:
    """Serve the page and print where, until the process is interrupted.

    Raises:
        ImportError: Gradio is missing.
        OSError: the port is taken, or the host is no address of this machine.
    """
    with serving(options) as server:
        print(f"The page: {server.address}" + (f"  public: {server.public}" if server.public else ""), flush=True)
        if options.host.strip("[]") not in LOOPBACK or server.public:
            print("Everybody who reaches this address can use it.", flush=True)
        print("Ctrl-C ends it.", flush=True)
        threading.Event().wait()


@contextmanager
def serving(options: AppOptions) -> Iterator[Server]:
    """Serve the page while the block runs; afterwards nothing of it is left on disk.

    Raises:
        ImportError: Gradio is missing.
        OSError: the port is taken, or the host is no address of this machine.
    """
    if find_spec("gradio") is None:
        raise ImportError(HINT)
    host = options.host.strip("[]")
    port = _free_port(host, options.port)
    with ExitStack() as stack:
        root = stack.enter_context(_temporary_folder())
        stack.enter_context(_environment(root))
        import gradio  # which reads the environment

        from .page import build_page

        stack.enter_context(_own_folders_of_uploads())
        inputs, model_cache = Inputs(options, root), ModelCache(options)
        stack.callback(inputs.close)
        stack.callback(model_cache.close)
        demo = build_page(options, model_cache, inputs)
        _forget_who_leaves(demo, inputs, gradio)
        for block in demo.blocks.values():
            _fetch_nothing(block, gradio)
            inputs.shared |= {Path(file).resolve() for file in getattr(block, "keep_in_cache", ())}
        demo.queue(max_size=options.queue, default_concurrency_limit=options.jobs, api_open=False)
        stack.callback(inputs.wait_for_work, PATIENCE)  # a thread that computes while Python ends aborts it
        stack.callback(demo.close, verbose=False)
        stack.callback(demo.stop_all)

        def waiting() -> int:
            return len(demo._queue)

        _, address, public = demo.launch(
            max_threads=options.jobs + HELPERS,
            prevent_thread_lock=True,
            quiet=True,
            share=options.share,
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            max_file_size=int(options.megabytes * MEBIBYTE),
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            app_kwargs={"middleware": [_middleware(options, inputs, waiting)]},
            **demo.look,
        )
        stack.enter_context(_sweeping(inputs, waiting))
        yield Server(address, public or None, demo, inputs, model_cache)


# -- the folder of temporary files -----------------------------------------------------------------------------------


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make the folder of this server's temporary files, and delete it afterwards, with those of servers that died."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, FolderInUseError):
            if folder.is_dir() and not folder.is_symlink() and _is_own(folder):
                with only_writer(folder):  # which its server holds as long as it runs
                    shutil.rmtree(folder / "files", ignore_errors=True)
                folder.rmdir()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with only_writer(folder, wait=True):  # another one that starts may look whether it is a dead server's
            files = folder / "files"
            files.mkdir(mode=0o700)
            yield files
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    """Return whether this user made a folder: in that of another one, a link could lead what is written elsewhere."""
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


@contextmanager
def _environment(root: Path) -> Iterator[None]:
    """Let Gradio, and all temporary files of this process, use a folder, and send no word of it to anybody."""
    before, folder = dict(os.environ), tempfile.tempdir
    for name in NOT_HEEDED:
        os.environ.pop(name, None)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(root),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    tempfile.tempdir = str(root)
    try:
        yield
    finally:
        tempfile.tempdir = folder
        os.environ.clear()
        os.environ |= before


@contextmanager
def _sweeping(inputs: Inputs, waiting: Callable[[], int]) -> Iterator[None]:
    """Delete what users left behind, and give back memory that is free, every few seconds, while the block runs."""
    done, trim = threading.Event(), _glibc_trim()

    def sweep() -> None:
        before = 0
        while not done.wait(EVERY):
            now = waiting()
            inputs.sweep(max(before, now))  # one that waited just now may not have opened its video yet
            before = now
            if trim is not None:
                trim(0)

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=EVERY)


def _glibc_trim() -> Any:
    """Return what gives free memory back to the system, which glibc else keeps for each thread; None elsewhere."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


# -- Gradio ----------------------------------------------------------------------------------------------------------


def _middleware(options: AppOptions, inputs: Inputs, waiting: Callable[[], int]) -> Any:
    from starlette.middleware import Middleware  # which Gradio needs

    return Middleware(Guard, options=options, inputs=inputs, waiting=waiting)


@contextmanager
def _own_folders_of_uploads() -> Iterator[None]:
    """Let Gradio name the folder of an upload by chance, and that of a result by more than its content."""
    from gradio import processing_utils, route_utils

    plain, seed = route_utils.GradioUploadFile, processing_utils.hash_seed

    class UploadFile(plain):  # type: ignore[misc, valid-type]
        """Name an upload's folder by its content and by chance."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.sha.update(secrets.token_bytes(32))

    route_utils.GradioUploadFile = UploadFile  # type: ignore[misc]
    processing_utils.hash_seed = secrets.token_bytes(32)
    try:
        yield
    finally:
        route_utils.GradioUploadFile, processing_utils.hash_seed = plain, seed  # type: ignore[misc]


def _forget_who_leaves(demo: Any, inputs: Inputs, gradio: Any) -> None:
    def leave(request: gradio.Request) -> None:
        inputs.forget(request.session_hash)

    with demo:
        demo.unload(leave)


def _fetch_nothing(block: Any, gradio: Any) -> None:
    """Let a component take files of its users, and refuse addresses, which Gradio would fetch."""
    take = getattr(block, "async_move_resource_to_block_cache", None)
    if take is None:
        return

    async def take_files(url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise gradio.Error("Addresses are not taken here. Send the video instead.", print_exception=False)
        return await take(url_or_file_path)

    block.async_move_resource_to_block_cache = take_files


def _free_port(host: str, port: int) -> int:
    """Return the port if it is free, or any free one for 0; an OSError says that it is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"--host {host!r} is no address of this machine: {error.strerror}.") from error
    with socket.socket(found[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(found[4])
        except OSError as error:
            raise OSError(
                f"Port {port} of {host!r} cannot be listened on: {error.strerror}. Another page may run there; "
                "name another port by --port, or 0 for one that is free."
            ) from error
        return int(probe.getsockname()[1])
