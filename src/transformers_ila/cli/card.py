"""Write model cards: that of an exported folder, with evaluation reports and a licence, or those of the ten published
checkpoints."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import atomic_write


EXAMPLES = (
    "ila card --model my-ila --reports report.json --license apache-2.0",
    "ila card --output model_cards",
)


@dataclass
class CardOptions:
    """Hold the options of `ila card`."""

    _argument_group_name = "options of ila card"

    model: str | None = field(default=None, metadata={"help": "exported folder to write README.md in"})
    reports: list[str] = field(default_factory=list, metadata={"help": "of `ila evaluate`, for --model"})
    license: str | None = field(
        default=None, metadata={"help": "licence that you give the weights of --model, such as apache-2.0"}
    )
    output: str = field(
        default="model_cards", metadata={"help": "folder for the cards of the published checkpoints, without --model"}
    )

    def __post_init__(self) -> None:
        """Raise a ValueError for options that need --model, or for files that are not there."""
        for name, value in (("--reports", self.reports), ("--license", self.license)):
            if value not in (None, []) and self.model is None:
                raise ValueError(f"{name} needs --model, the exported folder that it is about.")
        if self.model is not None and not (Path(self.model) / "config.json").is_file():
            raise ValueError(f"--model must be an exported folder; there is no config.json in {self.model!r}.")
        missing = [report for report in self.reports if not Path(report).is_file()]
        if missing:
            raise ValueError(f"There is no report {missing[0]!r}.")


def read_report(file: str) -> dict[str, Any]:
    """Read a report that `ila evaluate` wrote; a ValueError names the file and what is wrong with it."""
    from ..evaluation.report_fields import check_report

    try:
        report = json.loads(Path(file).read_text(encoding="utf-8"))
        check_report(report)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file!r} cannot be read: {error}") from error
    return report


def run(options: CardOptions) -> int:
    """Write the cards and print their paths."""
    from ..conversion.published import PUBLISHED
    from ..conversion.released_cards import published_card
    from ..hub.reports import card_of_folder

    if options.model is None:
        cards = {Path(options.output) / f"{row.name}.md": published_card(row) for row in PUBLISHED}
    else:
        card = card_of_folder(options.model, [*map(read_report, options.reports)], license=options.license)
        cards = {Path(options.model) / "README.md": card}
    for path, card in cards.items():
        with atomic_write(path) as file:
            file.write(str(card).rstrip() + "\n")
        print(path)
    return 0
