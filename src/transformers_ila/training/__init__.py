"""Training: recipes, clips, the trainer and its checkpoints."""

from ..moved import old_names
from .arguments import IlaTrainingArguments
from .clips import EvaluationClips, TrainingClips
from .recipes import parse
from .run import train
from .shard_clips import RowClips, ShardClips
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

__getattr__ = old_names("training")
