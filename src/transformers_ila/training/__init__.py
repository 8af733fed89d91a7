"""Training: recipes, clips, the trainer and its checkpoints."""

from typing import TYPE_CHECKING

from ..moved import old_names
from .arguments import IlaTrainingArguments
from .clips import EvaluationClips, TrainingClips
from .recipes import parse
from .shard_clips import RowClips, ShardClips


if TYPE_CHECKING:
    from .adapters import load_adapter, lora_config
    from .run import train
    from .trainer import IlaTrainer

__all__ = [
    "EvaluationClips",
    "IlaTrainer",
    "IlaTrainingArguments",
    "RowClips",
    "ShardClips",
    "TrainingClips",
    "load_adapter",
    "lora_config",
    "parse",
    "train",
]

LATE = {"IlaTrainer": "trainer", "train": "run"}  # with them comes the Trainer
LATE |= {"load_adapter": "adapters", "lora_config": "adapters"}  # and with these PEFT
__getattr__ = old_names("training", late=LATE)
