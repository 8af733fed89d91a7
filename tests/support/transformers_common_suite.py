"""Transformers' own common test suites, from the source release of the installed version.

The wheel carries no tests; the source release does. It is fetched once through pip, what the suites need is unpacked
into a cache folder, and the modules are imported from there under another package name. Three of their imports lead
to files that the source release does not hold: stubs stand in for them. Of these, generation and a list of default
options do not concern this project; the tests of export are in `export_suite.py`.

    suite = common_suite("test_modeling_common")     # skips the calling test module, with the reason, when offline
    class ModelTest(suite.ModelTesterMixin, unittest.TestCase): ...
"""

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import transformers


PACKAGE = "transformers_common_tests"
FETCH_SECONDS = 300

STUBS = {  # module inside the package -> what stands there instead of transformers' file
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def common_suite(name: str) -> ModuleType:
    """The module `tests/<name>.py` of the installed transformers' source release.

    Skips the test module that asks, with the reason, when the release cannot be had.
    """
    try:
        parent = str(_cached_suites().parent)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        pytest.skip(f"transformers' test sources cannot be fetched: {error}", allow_module_level=True)
    if parent not in sys.path:
        sys.path.append(parent)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _cached_suites() -> Path:
    """The package folder; made at the first call on a machine, by one process while others wait."""
    root = Path(os.environ.get("ILA_CACHE") or Path.home() / ".cache" / "transformers-ila")
    folder = root / f"transformers-{transformers.__version__}-tests" / PACKAGE
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / ".lock"):
            if not folder.is_dir():
                _fetch(folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
        yield


def _fetch(folder: Path) -> None:
    """Download, unpack beside the goal, then rename: the folder is there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unpacked = Path(temporary) / "package"
        _unpack(_download(Path(temporary)), unpacked)
        for path, text in STUBS.items():
            (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / path).write_text(text, encoding="utf-8")
            (unpacked / path).with_name("__init__.py").touch()
        (unpacked / "__init__.py").touch()
        os.replace(unpacked, folder)


def _download(folder: Path) -> Path:
    # --no-deps and --no-build-isolation: only the archive is wanted, nothing is built or installed
    release = f"transformers=={transformers.__version__}"
    options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--quiet", "--dest", str(folder)]
    failures = []
    for python in (sys.executable, shutil.which("python3", path=os.defpath)):  # an environment made by uv has no pip
        if python is None:
            continue
        command = [python, "-m", "pip", "download", *options, release]
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=FETCH_SECONDS)
        archives = sorted(folder.glob("transformers-*.tar.gz"))
        if archives:  # pip's metadata step may fail behind the download; the archive is what counts
            return archives[0]
        failures.append(f"{python}: {run.stderr.strip().splitlines()[-1:] or run.returncode}")
    raise RuntimeError("; ".join(failures))


def _unpack(archive: Path, folder: Path) -> None:
    """The files `tests/*.py`, without their sub-folders."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                (folder / parts[2]).write_bytes(tar.extractfile(member).read())
