"""Write model cards: those of the ten published checkpoints, or that of a folder, with evaluation reports."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..conversion.published import PUBLISHED
from ..hub.cards import card_of_folder, published_card


EXAMPLES = (
    "ila card --model my-ila --reports evaluation.json",
    "ila card --output model_cards",
)


@dataclass
class CardArguments:
    output: str = field(default="model_cards", metadata={"help": "folder for the cards of the published checkpoints"})
    model: str | None = field(default=None, metadata={"help": "exported folder to write README.md in, instead"})
    reports: list[str] = field(default_factory=list, metadata={"help": "of `ila evaluate`, for --model"})

    def __post_init__(self) -> None:
        if self.reports and self.model is None:
            raise ValueError("--reports needs --model, the folder that was evaluated.")


def run(args: CardArguments) -> int:
    if args.model is not None:
        reports = [json.loads(Path(report).read_text(encoding="utf-8")) for report in args.reports]
        cards = {Path(args.model) / "README.md": card_of_folder(args.model, reports)}
    else:
        Path(args.output).mkdir(parents=True, exist_ok=True)
        cards = {Path(args.output) / f"{row.name}.md": published_card(row) for row in PUBLISHED}
    for path, card in cards.items():
        path.write_text(str(card).rstrip() + "\n", encoding="utf-8")
        print(path)
    return 0
