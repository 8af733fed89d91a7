"""What a trained model is asked with: the options of evaluation, labelling, probing and indexing.

Every field is an option of `ila evaluate`, `ila predict`, `ila probe` and `ila index` too: `HfArgumentParser` reads
these classes.
"""

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from ..distributed import MOST_WORKERS, Rank
from .formats import TOOLS


MOST = 2**63 - 1  # that torch takes
PROTOCOLS: dict[str, tuple[int, int]] = {  # name -> clips, crops
    "1x1": (1, 1),
    "4x3": (4, 3),  # the paper's
    "1x3": (1, 3),
    "3x1": (3, 1),
    "10x3": (10, 3),
}
DTYPES = ("float32", "bfloat16", "float16", "auto")
RESULT_FORMATS = ("jsonl", "parquet")
FRAME_ORDERS = ("shuffled", "reversed", "single_frame")  # of a clip's frames, beside the original one
PROBES = ("knn", "linear")


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Hold how videos are read, and how the model computes.

    `device=None` is where the model is; the commands take the first GPU, else the CPU. `workers=None` is none where
    the CPU computes, which needs every core, and beside a GPU this process's share of the cores.

    Raises:
        ValueError: a value that is not allowed.
    """

    _argument_group_name = "reading and computing"

    protocol: str = field(
        default="1x1",
        metadata={"help": "clips x crops of a video, whose probabilities are averaged", "choices": tuple(PROTOCOLS)},
    )
    batch_size: int = field(default=8, metadata={"help": "videos that go through the model together"})
    workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that read videos beside each one that computes; default: beside a GPU the cores that "
            "it leaves, else 0"
        },
    )
    device: str | None = field(
        default=None,
        metadata={"help": "where to compute, such as cpu or cuda:0; default: a GPU, else the CPU"},
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "precision to compute in; auto: bfloat16 where the processor has instructions for it, else "
            "float32; default: that of the weights",
            "choices": DTYPES,
        },
    )
    random_frames: bool = field(
        default=False, metadata={"help": "draw the frames at random from --seed, as the official release trains"}
    )
    seed: int = field(default=0, metadata={"help": "seed of random frames and of shuffled ones"})
    fuse: bool = field(default=True, metadata={"help": "compute with `model.fuse()` where that is possible"})

    def __post_init__(self) -> None:
        require_one_of("protocol", self.protocol, PROTOCOLS)
        require_one_of("dtype", self.dtype, (None, *DTYPES))
        require_whole_number("batch_size", self.batch_size, least=1)
        require_whole_number("seed", self.seed, least=0)
        if self.workers is not None:
            require_whole_number("workers", self.workers, least=0, most=MOST_WORKERS)
        if self.device is not None:
            self.check_device(self.device)

    def check_device(self, device: str) -> None:
        """Raise a ValueError where there is no such device."""
        _require_device(device)

    def processor_options(self) -> dict[str, Any]:
        """Return what `IlaVideoProcessor` is called with: clips, crops, and whether frames are drawn."""
        clips, crops = PROTOCOLS[self.protocol]
        return {"num_clips": clips, "num_crops": crops, "random_frames": self.random_frames}


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(InferenceOptions):
    """Hold the options of `evaluate`."""

    _argument_group_name = "what is measured"

    temporal_reliance: bool = field(
        default=False,
        metadata={"help": "evaluate also with shuffled and reversed frames, and with a single one repeated"},
    )
    batch_statistics: bool = field(
        default=False,
        metadata={"help": "repeat a fault of the official release's validation, see `batch_statistics_mode`"},
    )
    data_set: str | None = field(default=None, metadata={"help": "name of the data set for the report"})
    split: str | None = field(default=None, metadata={"help": "name of the split for the report"})
    zero_shot: bool | None = field(
        default=None,
        metadata={
            "help": "whether the model was trained on none of the classes, for the report; default: of CLIP, SigLIP "
            "and --labels the command knows"
        },
    )

    @property
    def orders(self) -> tuple[str, ...]:
        """Return the orders of frames that are evaluated beside the original one."""
        return FRAME_ORDERS if self.temporal_reliance else ()


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(InferenceOptions):
    """Hold the options of `evaluate_retrieval`."""

    _argument_group_name = "what the report says"

    data_set: str | None = field(default=None, metadata={"help": "name of the data set for the report"})
    split: str | None = field(default=None, metadata={"help": "name of the split for the report"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed and not self.random_frames:
            raise ValueError(f"seed is {self.seed} and would have no effect; allowed: 0, or random_frames beside it.")


@dataclass(frozen=True, kw_only=True)
class LabelOptions(InferenceOptions):
    """Hold the options of `label_videos`."""

    _argument_group_name = "what results hold"

    format: str = field(
        default="jsonl",
        metadata={
            "help": "format of the results; fiftyone and label-studio write what these tools open beside JSON lines",
            "choices": (*RESULT_FORMATS, *TOOLS),
        },
    )
    document_root: str | None = field(
        default=None,
        metadata={
            "help": "label-studio: folder above all videos from which Label Studio serves files, its "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; default: /"
        },
    )
    top_k: int = field(default=5, metadata={"help": "labels that a video gets, at most"})
    embeddings: bool = field(default=False, metadata={"help": "also write the video's feature, of unit length"})
    retry: bool = field(default=False, metadata={"help": "try again what could not be read in earlier runs"})
    none_of_these: bool = field(
        default=False,
        metadata={
            "help": "give the label 'none of these' a score, too, where each label has a probability of its own "
            "(SigLIP, several labels a video)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("format", self.format, (*RESULT_FORMATS, *TOOLS))
        if self.document_root is not None and self.format != "label-studio":
            raise ValueError(f"document_root has no effect on the format {self.format!r}; allowed: label-studio.")
        if self.document_root == "":
            raise ValueError("document_root is empty; allowed: the folder from which Label Studio serves files.")
        if self.embeddings and self.format == "label-studio":
            raise ValueError("Label Studio has no use for embeddings; allowed: another format.")
        require_whole_number("top_k", self.top_k, least=1)
        if self.seed and not self.random_frames:
            raise ValueError(f"seed is {self.seed} and would have no effect; allowed: 0, or random_frames beside it.")


@dataclass(frozen=True, kw_only=True)
class IndexOptions(InferenceOptions):
    """Hold the options of `index_videos`."""

    _argument_group_name = "rows of the index"

    window: float | None = field(
        default=None, metadata={"help": "seconds of a video that a row stands for; default: all of it is one row"}
    )
    stride: float | None = field(
        default=None, metadata={"help": "seconds from the start of a window to that of the next; default: --window"}
    )
    retry: bool = field(default=False, metadata={"help": "try again what could not be read in earlier runs"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed and not self.random_frames:
            raise ValueError(f"seed is {self.seed} and would have no effect; allowed: 0, or random_frames beside it.")
        for name in ("window", "stride"):
            require_seconds(name, getattr(self, name))
        if self.window is None and self.stride is not None:
            raise ValueError(
                f"stride is {self.stride} and would have no effect; allowed: None, or a window beside it."
            )
        if self.window is not None and PROTOCOLS[self.protocol][0] > 1:
            one = ", ".join(name for name, (clips, _) in PROTOCOLS.items() if clips == 1)
            raise ValueError(f"A window is one clip, got the protocol {self.protocol!r}; allowed beside it: {one}.")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(InferenceOptions):
    """Hold the options of `extract_features` and `probe`."""

    _argument_group_name = "probes"

    probes: list[str] = field(
        default_factory=lambda: list(PROBES), metadata={"help": "which probes to fit", "choices": PROBES}
    )
    cache: str | None = field(
        default=None, metadata={"help": "folder for features, so that they are computed once; made if it is missing"}
    )
    weight_decay_seed: int | None = field(
        default=None,
        metadata={"help": "seed that draws the training videos which choose the weight decay; default: --seed"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [kind for kind in self.probes if kind not in PROBES]
        if unknown or not self.probes:
            raise ValueError(f"probes must be some of {', '.join(PROBES)}, got {list(self.probes)}.")
        if self.weight_decay_seed is not None:
            require_whole_number("weight_decay_seed", self.weight_decay_seed, least=0)
            if "linear" not in self.probes:
                found = f"weight_decay_seed is {self.weight_decay_seed} and would have no effect"
                raise ValueError(f"{found}; allowed: None, or the linear probe among probes {list(self.probes)}.")


def require_one_of(name: str, value: Any, allowed: Any) -> None:
    """Raise a ValueError that names the option, its value and those allowed, unless it is one of them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}.")


def require_whole_number(name: str, value: Any, *, least: int, most: int = MOST) -> None:
    """Raise a ValueError that names the option and its value, unless it is a whole number in this range."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}.")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}.")


def require_seconds(name: str, value: Any) -> None:
    """Raise a ValueError that names the option and its value, unless it is None or a number of seconds."""
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.01 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, 0.01 or more, got {value!r}.")


def _require_device(device: str) -> None:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be one such as cpu or cuda:0, got {device!r}.") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ValueError(f"device must be one that is there, got {device!r}; torch finds {there} GPUs, and the CPU.")


Options = TypeVar("Options", bound=InferenceOptions)


def with_keywords(options: Options, rank: Rank | None, keywords: dict[str, Any]) -> tuple[Options, Rank | None]:
    """Return options and rank with those given as separate keywords, and warn that this form will go.

    Raises:
        TypeError: a keyword that no field had.
    """
    if not keywords:
        return options, rank
    kind = type(options).__name__
    warnings.warn(
        f"Pass one options object, `{kind}(...)`, and `rank`, in place of {', '.join(sorted(keywords))}.",
        DeprecationWarning,
        stacklevel=3,
    )
    fields = dict(keywords)
    if not fields.pop("share", True):
        rank = Rank()
    rank = fields.pop("place", rank)
    if "num_workers" in fields:
        fields["workers"] = fields.pop("num_workers")
    if fields.get("device") is not None:
        fields["device"] = str(fields["device"])
    return replace(options, **fields), rank
