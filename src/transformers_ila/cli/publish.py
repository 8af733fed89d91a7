"""Publish an exported folder on the Hub.

The folder is checked first as its users will load it, without this package; then all of it is uploaded in one commit.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.video_urls_ila import redact


if TYPE_CHECKING:
    from ..hub.checking import CheckedFolder


POSITIONAL = "folder"
EXAMPLES = (
    "ila publish my-ila --repo user/my-ila --dry_run",
    "ila publish my-ila --repo user/my-ila --private",
)


@dataclass
class PublishOptions:
    """Hold the options of `ila publish`."""

    _argument_group_name = "options of ila publish"

    repo: str = field(metadata={"help": "user/name"})
    folder: str = field(default="", metadata={"help": "exported folder, as `transformers_ila.hub.export` writes it"})
    private: bool = field(default=False, metadata={"help": "make a private repository"})
    pr: bool = field(default=False, metadata={"help": "propose the files to an existing repository"})
    revision: str | None = field(default=None, metadata={"help": "branch to commit to; made if it does not exist"})
    update: bool = field(default=False, metadata={"help": "commit to a repository that has files already"})
    video: str | None = field(default=None, metadata={"help": "clip to try the model on; default a generated one"})
    dry_run: bool = field(default=False, metadata={"help": "check and show, upload nothing"})

    def __post_init__(self) -> None:
        """Raise a ValueError for a destination that cannot be, or files that are not there."""
        from ..hub.publishing import check_destination

        if not self.folder:
            raise ValueError("name the exported folder: ila publish FOLDER --repo user/name.")
        check_destination(self.repo, create_pr=self.pr, revision=self.revision)
        if self.video is not None and not Path(self.video).is_file():
            raise ValueError(f"There is no video {self.video!r}.")


def show(checked: "CheckedFolder") -> None:
    """Print what would be uploaded, and what the card says of the licence."""
    from ..hub.facts import NO_LICENCE, read_facts
    from ..markup import plain_line
    from ..model.loading_ila import ADAPTER

    how = "on the weights below" if ADAPTER in checked.files else "without the package"
    print(f"Checked: {how} it gives a clip {checked.answer['label']!r} ({checked.answer['score']:.3f}).")
    for name, size in checked.files.items():
        print(f"  {size / 1e6:10.3f} MB  {plain_line(name)}")
    print(f"  {sum(checked.files.values()) / 1e6:10.3f} MB  in {len(checked.files)} files")
    if checked.left_out:
        print(f"Left out: {', '.join(map(plain_line, checked.left_out))}.")
    licence = read_facts(checked.card).licence
    print(f"Licence in the card: {plain_line(licence or 'none')}.")
    if licence is None:
        print(
            f"`ila card --model {checked.folder} --license apache-2.0` states one, for weights that are yours to give."
        )
    if licence == NO_LICENCE:
        print("These weights were released without a licence: only a private repository is possible.")


def run(options: PublishOptions) -> int:
    """Check the folder, print what is in it, and upload it."""
    from ..hub.checking import check_folder
    from ..hub.publishing import publish

    checked = check_folder(options.folder, video=options.video)
    show(checked)
    if options.dry_run:
        return 0
    url = publish(
        checked,
        options.repo,
        private=options.private,
        create_pr=options.pr,
        revision=options.revision,
        update=options.update,
        announce=lambda names: print(f"Deleted there, of an earlier export: {', '.join(names)}."),
    )
    print(f"Published: {redact(url)}")
    return 0
