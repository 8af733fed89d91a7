"""Checkpoint files of the original formats to tensors; no pickle in them is ever executed.

- `.pth` of the release, `.pt` and others written by `torch.save`: torch's own weights-only reader. The release pickles
  its configuration, a yacs `CfgNode`, beside the weights; a stand-in that is only a dictionary takes its place.
- TorchScript archives, as OpenAI's CLIP: the tensors of `data.pkl`, read here, because torch would run the archive's
  program to load it.
- `.safetensors`.

Whatever else a pickle names is refused with its name.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors.torch import load_file


REFUSED = re.compile(r"(?:GLOBAL|Unsupported global: GLOBAL|unsupported GLOBAL) ([\w.]+)")
EXPECTED = re.compile(  # of what pickles of state dicts and of the release's configuration name
    r"collections\.OrderedDict|yacs\.config\.CfgNode|__builtin__\.set|builtins\.set|"
    r"torch\.(\w*Storage|_utils\._rebuild_(tensor_v2|parameter))"
)
STATE_DICT_KEYS = ("model", "state_dict")  # under which training scripts save the weights
TYPED_STORAGE = {  # as archives name them
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class CheckpointFile(NamedTuple):
    """Hold what `read_checkpoint` keeps of a file: its tensors, and what the release writes beside them."""

    state_dict: dict[str, torch.Tensor]
    settings: dict[str, Any]  # the release's configuration, nested; empty where there is none
    max_accuracy: float | None = None  # best validation accuracy in percent, as the release's training recorded it


def read_checkpoint(path: str | Path) -> CheckpointFile:
    """Read the tensors of a checkpoint file, to the CPU.

    Raises:
        ValueError: no such file, an unknown or damaged format, a pickle that names anything but tensors (the message
            has the name), or no tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no checkpoint file {str(path)!r}.")
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except Exception as error:  # the library's own error has no public class
            raise ValueError(f"{str(path)!r} cannot be read as safetensors: {error}") from error
        return CheckpointFile(_only_tensors(tensors, path), {})
    if is_torchscript(path):
        return CheckpointFile(_only_tensors(read_torchscript(path), path), {})
    content = _load_tensors(path)
    tensors = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), dict)), content)
    settings, accuracy = content.get("config"), content.get("max_accuracy")
    return CheckpointFile(
        _only_tensors(tensors, path), settings if isinstance(settings, dict) else {}, _percentage(accuracy)
    )


def _percentage(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= 100 else None  # 0 is what training starts from


def _only_tensors(tensors: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    others = [f"{key!s:.80}" for key, value in tensors.items() if not (isinstance(key, str) and _is_plain(value))]
    if others or not tensors:
        found = f"entries that are no named, plain tensors: {', '.join(others[:5])}" if others else "nothing"
        raise ValueError(
            f"{str(path)!r} must hold a state dict, by itself or as 'model' or 'state_dict'; got {found}."
        )
    return {key: value.detach() for key, value in tensors.items()}


def _is_plain(value: Any) -> bool:
    """Return whether the value is a dense tensor with data, whose numbers are stored once each."""
    is_tensor = isinstance(value, torch.Tensor)
    if not is_tensor or value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


class _Settings:
    """Stands in for yacs' `CfgNode`: its constructor returns an empty ordered dictionary."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def _load_tensors(path: Path) -> dict[Any, Any]:
    try:
        with torch.serialization.safe_globals([(_Settings, "yacs.config.CfgNode")]):
            # mapped: of the optimizer's two thirds of a released file nothing is read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_begins_as_zip(path))
        content = _plain(content, {})
    except Exception as error:  # a refusal, or whatever a damaged file makes of torch's reader
        refused = REFUSED.search(str(error))
        name = refused[1] if refused is not None else _foreign_name(path) if "operand" in str(error) else None
        if name is not None:
            raise ValueError(f"{str(path)!r} is refused: it names {name}, and only tensors are read.") from error
        raise ValueError(f"{str(path)!r} is no checkpoint that can be read: {_reason(path, error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a dictionary of tensors, got {type(content).__name__}.")
    return content


def _begins_as_zip(path: Path) -> bool:
    """Return whether the file begins as a zip archive, by which torch tells its new format from the old one."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _plain(value: Any, made: dict[int, Any]) -> Any:
    """Copy nested dictionaries to plain ones; a pickle may give an OrderedDict attributes that hide its methods."""
    if not isinstance(value, dict):
        return value
    if id(value) not in made:
        plain: dict[Any, Any] = {}
        made[id(value)] = plain
        plain.update((key, _plain(inner, made)) for key, inner in dict.items(value))
    return made[id(value)]


def _reason(path: Path, error: Exception) -> str:
    """Say what is wrong with a file, by its first bytes or by the line of torch's message that says it.

    Torch's other lines advise to run the pickle, and are left out.
    """
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file that it stands for"
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        return f"it begins with {start[:12]!r}, not as a file of `torch.save`" if start else "it is empty"
    advice = ("Weights only load failed", "Check the documentation", "Re-running", "Please file an issue")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not any(part in line for part in advice)), type(error).__name__)


def _foreign_name(path: Path) -> str | None:
    """Find the first unexpected name in a pickle, where torch's reader stopped at an instruction before any name."""
    try:
        with path.open("rb") as file:
            streams: list[IO[bytes]] = [file] * 4  # of the old format: three numbers for torch, then the content
            if _begins_as_zip(path):
                archive = zipfile.ZipFile(file)
                streams = [archive.open(name) for name in archive.namelist() if name.endswith("data.pkl")]
            names = (name for stream in streams for name in _pickled_names(stream))
            return next((name for name in names if not EXPECTED.fullmatch(name)), None)
    except Exception:  # damaged
        return None


def _pickled_names(stream: IO[bytes]) -> Iterator[str]:
    """Yield the classes and functions that a pickle of any protocol names, without executing it."""
    pushed: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(map(str, pushed[-2:]))
        elif opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
            memo[len(memo) if argument is None else argument] = pushed[-1] if pushed else None
        elif opcode.name.endswith("GET"):
            pushed.append(memo.get(int(str(argument))))
        elif opcode.stack_after:
            pushed.append(argument)


# -- TorchScript -----------------------------------------------------------------------------------------------------


def is_torchscript(path: str | Path) -> bool:
    """Return whether the file is a zip archive with a program (`constants.pkl`) beside its data."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # of half a dozen kinds: no archive, or a damaged one
        return False


def read_torchscript(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a TorchScript archive, parameters and buffers alike, by their dotted names.

    Raises:
        ValueError: a damaged archive, or one that names anything but modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (data,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
            root = _ArchiveUnpickler(archive, data.removesuffix("data.pkl")).load()
        tensors = dict(_named_tensors(root, ""))
    except _RefusedError as error:
        raise ValueError(f"{str(path)!r} is refused: it {error}, and only tensors are read.") from error
    except Exception as error:
        raise ValueError(f"{str(path)!r} is no TorchScript archive that can be read: {error!r}") from error
    if not tensors:
        raise ValueError(f"{str(path)!r} is a TorchScript archive without tensors.")
    return tensors


class _RefusedError(Exception):
    pass


class _Module:
    """Stands in for a TorchScript class and only keeps its attributes."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _named_tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, _Module) and isinstance(value.state, dict):
        for attribute, inner in value.state.items():
            yield from _named_tensors(inner, f"{name}.{attribute}" if name else str(attribute))


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads `data.pkl`: modules become `_Module`, tensors are built from the archive's bytes, all else is refused."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self.archive, self.prefix = archive, prefix
        self.storages: dict[str, torch.Tensor] = {}
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in TYPED_STORAGE:
            return TYPED_STORAGE[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *args: _strided(*args)  # a new function each time, as a pickle may set its attributes
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dictionaries
            return lambda value, *_: value
        raise _RefusedError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            raise _RefusedError(f"refers to {pid!r:.80}")
        _, dtype, key, _, numel = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            empty = torch.empty(0, dtype=dtype)
            self.storages[key] = torch.frombuffer(content, dtype=dtype, count=numel) if numel else empty
        return self.storages[key]


def _strided(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    return storage.as_strided(size, stride, offset)
