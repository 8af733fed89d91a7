"""Videos that cannot be read in training: they are logged, counted over all ranks, reported, and if many a stop."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback
from transformers.utils import logging

from ..distributed import all_gather, current_rank
from ..files import atomic_write


logger = logging.get_logger(__name__)


REPORT = "unreadable_videos.json"


class UnreadableVideosError(RuntimeError):
    """Report that training cannot go on without the videos that cannot be read."""


@dataclass
class UnreadableVideos(TrainerCallback):
    """Count what one rank cannot read, and stop all ranks together where it is too much.

    `agree` is a collective that every rank enters once a step, whatever its data set did, so that one rank's failure
    ends all of them at the same step with the same message.

    Attributes:
        share: the share of all readings that may fail, counting those before resuming.
        videos: the number of videos in the data set; fewer readings than that, or than `ENOUGH`, show no share.
        readings, failures: how often this rank read a video, and how often in vain.
        reasons: name -> why it could not be read.
        resumed: the checkpoint that the run goes on from, whose report counts its steps.
    """

    share: float
    videos: int
    readings: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    resumed: Path | None = None
    _before: dict[str, Any] = field(default_factory=dict)  # the report of the run that is resumed; on rank 0 only

    ENOUGH = 256

    def count(self, clips: int, unreadable: list[tuple[str, str]]) -> None:
        """Count one batch: its clips, and names and reasons of the videos that could not be read for it."""
        self.readings += clips + len(unreadable)
        self.failures += len(unreadable)
        for name, reason in unreadable:
            if name not in self.reasons:
                self.reasons[name] = reason
                logger.warning(f"Another video replaces {name!r}: {reason}.")

    def agree(self, error: str | None, device: torch.device, *, ended: bool = False) -> bool:
        """Stop all ranks where one has an error, or where all together failed too often.

        Args:
            error: what this rank could not do; None: nothing failed.
            device: the device of the collective.
            ended: this rank has nothing more to read, and that is no error.

        Returns:
            Whether any rank has ended.

        Raises:
            UnreadableVideosError: a rank has an error, or the share is exceeded; raised on every rank.
        """
        before = [self._before.get(name, 0) for name in ("readings", "failures")]
        counts = [float(error is not None), self.readings + before[0], self.failures + before[1], float(ended)]
        votes = torch.tensor(counts, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        if current_rank().world_size > 1:
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
        """Write the report of all ranks; a collective.

        Args:
            folder: where `unreadable_videos.json` is written, by rank 0.
            stopped: why training did not go on; None: it did.

        Returns:
            The number of videos that could not be read, on rank 0; 0 on the others.
        """
        rank = current_rank().rank
        own = {"rank": rank, "readings": self.readings, "failures": self.failures, "videos": self.reasons}
        ranks = all_gather(lambda: own)
        if rank > 0:
            return 0
        report = merged(ranks, self._before) | ({} if stopped is None else {"stopped": stopped})
        with atomic_write(Path(folder) / REPORT) as file:
            file.write(json.dumps(report, indent=1) + "\n")  # names may be bytes that are no text
        return report["unreadable"]


def _first_error(error: str | None) -> str:
    """Return the error of the first rank that has one; a collective."""
    errors = all_gather(lambda: error)
    return next(f"{text} (process {rank})" if len(errors) > 1 else text for rank, text in enumerate(errors) if text)


def _read(file: Path) -> dict[str, Any]:
    """Read a report; it is empty where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def merged(ranks: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """Return one report of the ranks' counts and of an earlier report of the run, which may have had other ranks."""
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
