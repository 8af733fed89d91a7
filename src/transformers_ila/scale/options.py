"""Which engine runs `ila predict` and `ila index`, and how many actors it has."""

import re
from dataclasses import dataclass, field, fields

from ..distributed import MOST_WORKERS
from ..evaluation.options import InferenceOptions, require_one_of, require_seconds, require_whole_number
from ..model.video_urls_ila import redact


ENGINES = ("plain", "ray")
HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):\d{1,5}")


def check_cluster_address(address: str, called: str) -> None:
    """Raise a ValueError where an address is no Ray cluster's: `called` is the option or variable that has it."""
    if address.lower().startswith("ray://"):
        raise ValueError(
            f"{called} {redact(address)!r} is a Ray client's, whose files are not the cluster's; allowed: auto or "
            "host:port, on a machine of the cluster (`ray job submit` starts a command there)."
        )
    if address not in ("auto", "local") and HOST_AND_PORT.fullmatch(address) is None:
        raise ValueError(redact(f"{called} must be auto, local or host:port, got {address!r}."))


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Hold which engine shares the work, how many actors it has, and how long and how often a video is tried.

    Raises:
        ValueError: a value that is not allowed, or one without effect as the engine is not Ray.
    """

    _argument_group_name = "engine"

    engine: str = field(
        default="plain",
        metadata={
            "help": "plain: this process, or those of a launcher; ray: actors of Ray Data, on this machine or on a "
            "cluster (pip install 'transformers-ila[ray]')",
            "choices": ENGINES,
        },
    )
    address: str | None = field(
        default=None,
        metadata={
            "help": "of the Ray cluster, such as auto or host:6379; default: RAY_ADDRESS, else one on this machine"
        },
    )
    readers: int | None = field(
        default=None,
        metadata={"help": "actors that read videos, a CPU each; default: the CPUs that the replicas leave"},
    )
    replicas: int | None = field(
        default=None, metadata={"help": "actors that hold the model; default: one for each GPU, or one on the CPU"}
    )
    retries: int = field(
        default=2,
        metadata={"help": "how often a video is tried again that could not be read, or that killed its reader"},
    )
    video_timeout: float = field(
        default=300.0,
        metadata={"help": "seconds of reading after which a video is given up, all its tries and windows together"},
    )
    id_column: str | None = field(
        default=None,
        metadata={"help": "column of a Parquet manifest with the names of videos; default: found by name"},
    )
    video_column: str | None = field(
        default=None,
        metadata={"help": "column of a Parquet manifest with paths, addresses or bytes; default: found by name"},
    )

    def __post_init__(self) -> None:
        require_one_of("engine", self.engine, ENGINES)
        if self.engine == "plain":
            own = {entry.name: entry.default for entry in fields(EngineOptions)}
            if given := [f"--{name}" for name, default in own.items() if getattr(self, name) != default]:
                raise ValueError(f"{', '.join(given)} would have no effect; allowed: beside --engine ray.")
            return
        for name in ("readers", "replicas"):
            if getattr(self, name) is not None:
                require_whole_number(name, getattr(self, name), least=1, most=MOST_WORKERS)
        require_whole_number("retries", self.retries, least=0, most=100)
        require_seconds("video_timeout", self.video_timeout)
        for name in ("address", "id_column", "video_column"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must not be empty.")
        if self.address is not None:
            check_cluster_address(self.address, "address")

    def check_device(self, device: str) -> None:
        """Raise a ValueError where there is no such device; on Ray the replicas' machines have them, not this one."""
        if self.engine == "plain":
            super().check_device(device)  # type: ignore[misc]

    def check(self, options: InferenceOptions) -> None:
        """Raise a ValueError where options of reading and computing would have no effect on Ray."""
        if self.engine != "ray":
            raise ValueError(f"engine must be ray here, got {self.engine!r}.")
        if options.workers is not None:
            found = f"workers is {options.workers} and would have no effect on Ray"
            raise ValueError(f"{found}; allowed: None, and readers, which says how many actors read.")
        if options.device not in (None, "cpu", "cuda"):
            raise ValueError(
                f"device must be cpu or cuda on Ray, where each replica has a GPU of its own; got {options.device!r}."
            )
