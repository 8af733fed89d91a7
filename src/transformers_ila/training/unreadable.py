"""What could not be read in training: logged once each, counted over all ranks, reported, and a reason to stop."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback
from transformers.utils import logging

from ..files import atomic_write


logger = logging.get_logger(__name__)


REPORT = "unreadable_videos.json"


class UnreadableVideosError(RuntimeError):
    """Training cannot go on without the videos that cannot be read."""


@dataclass
class UnreadableVideos(TrainerCallback):
    """The count of one rank, and what all ranks make of it.

    `agree` is a collective that every rank enters once a step, whatever its data set did: so that one rank's trouble
    ends all of them at the same step, with the same words.

    share: of all readings that may fail, those before resuming included; more stops training.
    videos: in the data set; fewer readings than these (at most `ENOUGH`) are too few to tell a share.
    """

    share: float
    videos: int
    readings: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    resumed: Path | None = None  # the checkpoint, whose report has the counts of just its steps
    _before: dict[str, Any] = field(default_factory=dict)  # of the run that was resumed; on rank 0 only

    ENOUGH = 256

    def count(self, clips: int, unreadable: list[tuple[str, str]]) -> None:
        """Of one batch."""
        self.readings += clips + len(unreadable)
        self.failures += len(unreadable)
        for name, reason in unreadable:
            if name not in self.reasons:
                self.reasons[name] = reason
                logger.warning(f"Another video replaces {name!r}: {reason}.")

    def agree(self, error: str | None, device: torch.device, *, ended: bool = False) -> bool:
        """Stop all ranks where one has an error, or where all together failed too often.

        Args:
            error: what this rank could not do.
            device: of the collective.
            ended: this rank has nothing more to read, and that is no error.

        Returns:
            whether any rank has ended.

        Raises:
            UnreadableVideosError: on every rank.
        """
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        before = [self._before.get(name, 0) for name in ("readings", "failures")]
        counts = [float(error is not None), self.readings + before[0], self.failures + before[1], float(ended)]
        votes = torch.tensor(counts, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        if several:
            distributed.all_reduce(votes)
        stops, readings, failures, ends = votes.tolist()
        if stops:
            raise UnreadableVideosError(_first_error(error))
        if readings >= min(self.videos, self.ENOUGH) and failures > self.share * readings:
            raise UnreadableVideosError(
                f"{int(failures)} of {int(readings)} readings failed, {failures / readings:.1%}, and "
                f"{self.share:.1%} is allowed (`max_unreadable`). On this rank, {self._examples()}."
            )
        return ends > 0

    def _examples(self) -> str:
        some = [f"{name!r}: {reason}" for name, reason in list(self.reasons.items())[:3]]
        return f"{len(self.reasons)} videos: " + "; ".join(some) if some else "none"

    # the report

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = {}
        if not state.global_step or not state.is_world_process_zero:
            return
        last = _read(Path(args.output_dir) / REPORT)  # which may have seen more than the checkpoint
        self._before = (self.resumed and _read(self.resumed / REPORT)) or last
        if self._before:
            self._before["videos"] = last.get("videos", {}) | self._before["videos"]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(args.output_dir)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = self.write(args.output_dir)
        if found:
            logger.warning(f"{found} videos could not be read: {str(Path(args.output_dir) / REPORT)!r} lists them.")

    def write(self, folder: str | Path, *, stopped: str | None = None) -> int:
        """The report of all ranks, by rank 0, which gets the number of videos; a collective.

        stopped: why training did not go on.
        """
        own = {"rank": 0, "readings": self.readings, "failures": self.failures, "videos": self.reasons}
        ranks: list[Any] = [own]
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            own["rank"] = distributed.get_rank()
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, own)
            if own["rank"]:
                return 0
        report = merged(ranks, self._before) | ({} if stopped is None else {"stopped": stopped})
        with atomic_write(Path(folder) / REPORT) as file:
            file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        return report["unreadable"]


def _first_error(error: str | None) -> str:
    """Return the error of the first rank that has one; a collective."""
    errors = [error]
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        errors = [None] * distributed.get_world_size()
        distributed.all_gather_object(errors, error)
    return next(f"{text} (process {rank})" if len(errors) > 1 else text for rank, text in enumerate(errors) if text)


def _read(file: Path) -> dict[str, Any]:
    """A report; empty where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def merged(ranks: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """One report of the ranks' counts, and of an earlier report of the same run, whose ranks may have been others."""
    videos = dict(before.get("videos", {}))
    per_rank: dict[int, dict[str, int]] = {entry["rank"]: dict(entry) for entry in before.get("per_rank", [])}
    for rank in ranks:
        videos = rank["videos"] | videos
        earlier = per_rank.get(rank["rank"], {})
        sums = {name: earlier.get(name, 0) + rank[name] for name in ("readings", "failures")}
        per_rank[rank["rank"]] = {"rank": rank["rank"], **sums}
    return {
        "unreadable": len(videos),
        "readings": before.get("readings", 0) + sum(rank["readings"] for rank in ranks),
        "failures": before.get("failures", 0) + sum(rank["failures"] for rank in ranks),
        "per_rank": [per_rank[rank] for rank in sorted(per_rank)],
        "videos": dict(sorted(videos.items())),
    }
