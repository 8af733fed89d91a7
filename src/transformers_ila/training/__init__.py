"""Training: recipes, clips, the trainer and its checkpoints."""

from typing import TYPE_CHECKING

from ..moved import old_names
from .arguments import IlaTrainingArguments
from .clips import EvaluationClips, TrainingClips
from .recipes import parse
from .shard_clips import RowClips, ShardClips


if TYPE_CHECKING:
    from .run import train
    from .trainer import IlaTrainer

__all__ = [
    "EvaluationClips",
    "IlaTrainer",
    "IlaTrainingArguments",
    "RowClips",
    "ShardClips",
    "TrainingClips",
    "parse",
    "train",
]

__getattr__ = old_names("training", late={"IlaTrainer": "trainer", "train": "run"})  # with them comes the Trainer
