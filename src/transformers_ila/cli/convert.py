"""Convert a checkpoint of the official release, or of OpenAI's CLIP, to a folder that Transformers loads.

The release's weights have no licence and are not distributed with this package: use the files you have, for yourself.
No pickle is executed: of the file only tensors and the yacs configuration are read, and anything else is refused.
"""

from dataclasses import dataclass, field


EXAMPLES = (
    "ila convert --checkpoint k400_B_16_8.pth --output ila-b16 --verify",
    "ila convert --checkpoint ViT-B-16.pt --output clip-b16",
)


@dataclass
class ConvertOptions:
    """Hold the options of `ila convert`."""

    _argument_group_name = "options of ila convert"

    checkpoint: str = field(metadata={"help": "the release's .pth, or OpenAI's CLIP .pt (state dict or TorchScript)"})
    output: str = field(metadata={"help": "folder to write; new or empty"})
    labels: str | None = field(
        default=None, metadata={"help": "kinetics400, ssv2 or a file with one class per line (or id,name)"}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "of a text head: CLIP folder, Hub id (default openai/clip-vit-base-patch16), or a vocabulary file "
            "(bpe_simple_vocab_16e6.txt.gz)"
        },
    )
    own_weights: bool = field(
        default=False,
        metadata={"help": "you trained the file yourself: no remark on a missing licence, no published numbers"},
    )
    verify: bool = field(default=False, metadata={"help": "compare the folder with the file, weights and logits"})


def run(options: ConvertOptions) -> int:
    """Convert the file and print what it was."""
    from ..conversion.convert import convert_checkpoint

    done = convert_checkpoint(**vars(options))
    config = done.model.config
    vision = config.vision_config
    print(
        f"Form: {vision.alignment_fusion}, {vision.alignment_conv}, {config.classification_head} head; "
        f"{vision.num_frames} frames of {vision.image_size} pixels, patches of {vision.patch_size}."
    )
    print(f"Classes: {config.num_labels}, names from {done.labels or 'nowhere: call `set_labels`'}.")
    for line in done.verified:
        print(f"Verified: {line}.")
    print(f"Written: {options.output}")
    return 0
