"""Write model cards: those of the ten published checkpoints, or that of a folder, with evaluation reports."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..conversion.published import PUBLISHED
from ..hub.cards import card_of_folder, published_card


@dataclass
class CardArguments:
    output: str = field(default="model_cards", metadata={"help": "folder for the cards of the published checkpoints"})
    model: str | None = field(default=None, metadata={"help": "exported folder to write README.md in, instead"})
    reports: list[str] = field(default_factory=list, metadata={"help": "of scripts/evaluate.py, for --model"})


def run(args: CardArguments) -> int:
    try:
        if args.model is not None:
            reports = [json.loads(Path(report).read_text(encoding="utf-8")) for report in args.reports]
            cards = {Path(args.model) / "README.md": card_of_folder(args.model, reports)}
        elif args.reports:
            raise ValueError("--reports needs --model, the folder that was evaluated.")
        else:
            Path(args.output).mkdir(parents=True, exist_ok=True)
            cards = {Path(args.output) / f"{row.name}.md": published_card(row) for row in PUBLISHED}
    except (ValueError, OSError) as error:
        print(f"ila card: error: {error}", file=sys.stderr)
        return 2
    for path, card in cards.items():
        path.write_text(str(card).rstrip() + "\n", encoding="utf-8")
        print(path)
    return 0


def main(arguments: list[str] | None = None) -> int:
    return run(
        *HfArgumentParser(CardArguments, description=__doc__, prog="ila card").parse_args_into_dataclasses(
            arguments, look_for_args_file=False
        )
    )
