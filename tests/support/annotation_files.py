"""Annotation files for tests: written, read, and what is wrong in them."""

import io
import tarfile
from pathlib import Path

import pytest

from transformers_ila.data.annotations import AnnotationError, Annotations, read_annotations


datasets = pytest.importorskip("datasets")

NAMES = ["abseiling", "massaging person's head", "petting animal (not cat)", "Putting something, something and more"]
KINETICS = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,validate
massaging person's head,--07WQ2iBlw,1,11,validate
"petting animal (not cat)","-0aWKoDGKFc",20.0,30.0,"train"
"rock, paper, scissors",0ZgNP0IJUGk,7,17,train
"""


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(folder: Path, content: str | bytes, name: str = "list.txt", **options) -> Annotations:
    return read_annotations(write(folder / name, content), **options)


def rows(annotations: Annotations) -> list[tuple]:
    """Names and labels; one label bare."""
    return [(s.name, s.labels[0] if len(s.labels) == 1 else s.labels) for s in annotations.samples]


def fault(folder: Path, content: str | bytes, name: str = "list.txt", **options) -> tuple[int | None, int | None, str]:
    """Line, column and message of what is raised; the message names file, line and column, too."""
    with pytest.raises(AnnotationError) as caught:
        read(folder, content, name, **options)
    error, message = caught.value, str(caught.value)
    place = "" if error.line is None else f", line {error.line}, column {error.column}"
    assert message.startswith(f"'{folder / name}'{place}: ") and message[-1] in ".?"
    return error.line, error.column, message


def write_shard(file: Path, members: dict[str, str | bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def data_set(tmp_path, labels, feature, column="label", videos=None, **more):
    touch(tmp_path, "a.mp4", "b c.mp4")
    videos = videos or [str(tmp_path / "a.mp4"), {"bytes": b"inside", "path": "x.mp4"}]
    features = datasets.Features({"clip": datasets.Video(**more), column: feature})
    return datasets.Dataset.from_dict({"clip": videos, column: labels}, features=features)
