"""What the page offers, whom it serves, and what a user may ask of it: the options of `ila app`."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.inference import require_checkpoint
from ..evaluation.options import DTYPES, InferenceOptions, require_one_of, require_whole_number
from ..model.video_container_ila import ReadLimits
from ..model.video_urls_ila import is_url
from ..search.index_files import read_settings


DEMO_MODEL = "demo_output/model"  # where `ila demo` and `make demo` leave theirs
MEBIBYTE = 2**20
MOST_EXAMPLES = 6  # of the demo's videos
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # hosts that nobody reaches from elsewhere
LONGEST_HOST = 253  # letters of a name in DNS


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Hold what one user, and all together, may ask of the page. The defaults fit two cores and 16 GB.

    Raises:
        ValueError: a value that is not allowed.
    """

    _argument_group_name = "limits"

    megabytes: float = field(default=100.0, metadata={"help": "size of a video, at most"})
    seconds: float = field(default=900.0, metadata={"help": "length of a video, at most"})
    pixels: int = field(
        default=4096 * 2304, metadata={"help": "width times height of a video, at most; known before it is decoded"}
    )
    job_seconds: float = field(default=600.0, metadata={"help": "time that one answer may take"})
    jobs: int = field(default=1, metadata={"help": "answers that are computed at once"})
    queue: int = field(default=20, metadata={"help": "questions that wait at once; one more is told that all is busy"})
    users: int = field(default=50, metadata={"help": "users whose files are kept at once; one more is told to wait"})
    idle_minutes: float = field(
        default=30.0, metadata={"help": "minutes after which what a user left behind, such as a result, is deleted"}
    )
    disk_megabytes: float = field(default=2000.0, metadata={"help": "temporary files of all users together, at most"})
    models_in_memory: int = field(
        default=2, metadata={"help": "models that stay loaded; the one that was used least recently goes first"}
    )
    model_megabytes: float = field(
        default=4000.0, metadata={"help": "size of the weights of a model that a user names, at most"}
    )

    def __post_init__(self) -> None:
        for name in ("megabytes", "seconds", "job_seconds", "idle_minutes", "disk_megabytes", "model_megabytes"):
            _require_above_zero(name, getattr(self, name))
        require_whole_number("pixels", self.pixels, least=1)
        for name in ("jobs", "queue", "users", "models_in_memory"):
            require_whole_number(name, getattr(self, name), least=1, most=10_000)
        if self.disk_megabytes < self.megabytes:
            raise ValueError(
                f"disk_megabytes must hold one video of {self.megabytes:g} megabytes, got {self.disk_megabytes:g}."
            )

    def read_limits(self) -> ReadLimits:
        """Return the reader's limits, under which every video of a user is opened; URLs reach public servers only."""
        return ReadLimits(
            max_pixels=self.pixels,
            max_seconds=self.job_seconds,
            max_memory_bytes=2**31,
            max_download_bytes=max(1, int(self.megabytes * MEBIBYTE)),
            allow_private_addresses=False,
        )


@dataclass(frozen=True, kw_only=True)
class AppOptions(LimitOptions):
    """Hold what the page offers, and where it is served.

    Raises:
        ValueError: a value that is not allowed, or a folder or file that is not there.
    """

    _argument_group_name = "page"

    models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "folders or Hub ids of models that can be chosen, the first one opens; default: "
            f"{DEMO_MODEL}, where `ila demo` was run"
        },
    )
    fixed_models: bool = field(
        default=False, metadata={"help": "let users choose among these models only, and name no Hub id of their own"}
    )
    folders: list[str] = field(
        default_factory=list,
        metadata={"help": "folders whose videos and models every user may open by their paths; default: none"},
    )
    index: str | None = field(default=None, metadata={"help": "index of `ila index` that can be searched"})
    examples: list[str] = field(
        default_factory=list,
        metadata={"help": "videos that are offered; default: some of those beside the demo's model"},
    )
    urls: bool = field(
        default=False, metadata={"help": "let users name videos by http(s) addresses of public servers, too"}
    )
    host: str = field(
        default="127.0.0.1", metadata={"help": "address that is listened on; 0.0.0.0: every one of this machine"}
    )
    port: int = field(default=7860, metadata={"help": "port that is listened on; 0: one that is free"})
    share: bool = field(
        default=False,
        metadata={"help": "open a public address of gradio.live, through which anybody reaches the page"},
    )
    device: str | None = field(
        default=None, metadata={"help": "where to compute, such as cpu or cuda:0; default: a GPU, else the CPU"}
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "precision to compute in; auto: bfloat16 where the processor has instructions for it, else "
            "float32; default: that of the weights",
            "choices": DTYPES,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for model in self.models:
            require_checkpoint(model)
        for folder in self.folders:
            if not Path(folder).is_dir():
                raise ValueError(f"folders: there is no folder {folder!r}.")
            if Path(folder).resolve() == Path(Path(folder).resolve().anchor):
                raise ValueError(f"folders: {folder!r} is the whole machine; name the folders that users may read.")
        for example in self.examples:
            if not Path(example).is_file():
                raise ValueError(f"examples: there is no file {example!r}.")
        if self.index is not None:
            read_settings(self.index)
        if self.fixed_models and not self.chosen_models:
            raise ValueError("fixed_models needs models to choose among, got none.")
        if not self.host or len(self.host) > LONGEST_HOST or is_url(self.host) or not self.host.isprintable():
            raise ValueError(f"host must be a name or an address such as 127.0.0.1, got {self.host!r}.")
        require_whole_number("port", self.port, least=0, most=65535)
        require_one_of("dtype", self.dtype, (None, *DTYPES))
        self.inference_options()  # which checks the device

    @property
    def chosen_models(self) -> list[str]:
        """Return the models that are offered: those named, or the demo's where it lies in the working folder."""
        return self.models or ([DEMO_MODEL] if Path(DEMO_MODEL, "config.json").is_file() else [])

    @property
    def chosen_examples(self) -> list[str]:
        """Return the videos that are offered: those named, or one of each class that the demo held out."""
        if self.examples or self.chosen_models != [DEMO_MODEL]:
            return self.examples
        classes = sorted(folder for folder in Path(DEMO_MODEL).parent.glob("videos/held_out/*") if folder.is_dir())
        videos = [min(folder.glob("*.mp4"), default=None) for folder in classes]
        return [str(video) for video in videos if video is not None][:MOST_EXAMPLES]

    def inference_options(self, **others: Any) -> InferenceOptions:
        """Return the options of device and number type under which the models compute."""
        return InferenceOptions(device=self.device, dtype=self.dtype, **others)


def _require_above_zero(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not value > 0:
        raise ValueError(f"{name} must be a number above 0, got {value!r}.")
