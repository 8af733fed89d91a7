"""Publish an exported folder on the Hub.

The folder is checked first as its users will load it, without this package; then all of it is uploaded in one commit.
"""

from dataclasses import dataclass, field

from ..hub.cards import NO_LICENCE
from ..hub.publishing import CheckedFolder, check_folder, publish


POSITIONAL = "folder"
EXAMPLES = (
    "ila publish my-ila --repo user/my-ila --dry_run",
    "ila publish my-ila --repo user/my-ila --private",
)


@dataclass
class PublishArguments:
    repo: str = field(metadata={"help": "user/name"})
    folder: str = field(default="", metadata={"help": "exported folder, as `transformers_ila.hub.export` writes it"})
    private: bool = field(default=False, metadata={"help": "make a private repository"})
    pr: bool = field(default=False, metadata={"help": "propose the files to an existing repository"})
    revision: str | None = field(default=None, metadata={"help": "branch to commit to; made if it does not exist"})
    update: bool = field(default=False, metadata={"help": "commit to a repository that has files already"})
    video: str | None = field(default=None, metadata={"help": "clip to try the model on; default a generated one"})
    dry_run: bool = field(default=False, metadata={"help": "check and show, upload nothing"})

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("name the exported folder: ila publish FOLDER --repo user/name.")


def show(checked: CheckedFolder) -> None:
    print(f"Checked: without the package it gives a clip {checked.answer['label']!r} ({checked.answer['score']:.3f}).")
    for name, size in checked.files.items():
        print(f"  {size / 1e6:10.3f} MB  {name}")
    print(f"  {sum(checked.files.values()) / 1e6:10.3f} MB  in {len(checked.files)} files")
    if checked.left_out:
        print(f"Left out: {', '.join(checked.left_out)}.")
    licence = checked.card.data.get("license_name") or checked.card.data.get("license")
    print(f"Licence in the card: {licence or 'none'}.")
    if licence == NO_LICENCE:
        print("These weights were released without a licence: only a private repository is possible.")


def run(args: PublishArguments) -> int:
    checked = check_folder(args.folder, video=args.video)
    show(checked)
    if args.dry_run:
        return 0
    url = publish(
        checked,
        args.repo,
        private=args.private,
        create_pr=args.pr,
        revision=args.revision,
        update=args.update,
        announce=lambda names: print(f"Deleted there, of an earlier export: {', '.join(names)}."),
    )
    print(f"Published: {url}")
    return 0
