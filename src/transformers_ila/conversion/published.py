"""The ten published checkpoints: what each one is, what it was trained on, and what the paper reports for it.

The weights have no licence and are not distributed here; `ila convert` reads the files their users have.
"""

from dataclasses import dataclass
from typing import Any

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from ..data.class_names import DATA_SETS, class_names, fill_up, used_names
from ..model.class_names_ila import label_fields
from ..model.configuration_ila import PRESETS, IlaConfig
from ..model.video_processing_ila import IlaVideoProcessor


# The release normalises as ImageNet models do, not as CLIP does. Its short side, 256 to a crop of 224 or 384 to 336,
# and its rule for the frames are the processor's own.
RELEASED_PREPROCESSING: dict[str, Any] = {
    "image_mean": IMAGENET_DEFAULT_MEAN,
    "image_std": IMAGENET_DEFAULT_STD,
    "resample": PILImageResampling.BILINEAR,
    "frame_sampling": "segments",
}


PAPER_TABLES = {"kinetics400": 1, "ssv2": 2}
HEADS: dict[str, dict[str, Any]] = {  # fields of IlaConfig
    "kinetics400": {"classification_head": "text"},
    "ssv2": {"classification_head": "linear", "alignment_conv": "standard"},
}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Hold one row of the paper's Table 1 or 2.

    data_set: a key of `DATA_SETS`.
    size: a key of `CLIP_SIZES`, such as "B/16".
    num_frames: frames of a clip.
    top1, top5: accuracies in percent, with 4 clips x 3 crops.
    gmacs: billions of multiply-accumulates of one view, as the paper states them.
    counted_gmacs: those of the network of the paper's equations, as `ila cost --tables` counts them.
    """

    data_set: str
    size: str
    num_frames: int
    top1: float
    top5: float
    gmacs: int
    counted_gmacs: float

    @property
    def name(self) -> str:
        """Return the name that a repository would have, such as ila-base-patch16-8f-kinetics400."""
        tower, _, patch = self.size.partition("/")
        base = {"B": "base", "L": "large"}[tower]
        return f"ila-{base}-patch{patch.replace('@', '-')}-{self.num_frames}f-{self.data_set}"

    @property
    def title(self) -> str:
        """Return the title for people, such as "ILA-B/16, 8 frames, Kinetics-400"."""
        return f"ILA-{self.size}, {self.num_frames} frames, {DATA_SETS[self.data_set].title}"

    @property
    def table(self) -> int:
        """Return the number of the paper's table that states the accuracies."""
        return PAPER_TABLES[self.data_set]

    def config(self, **fields: Any) -> IlaConfig:
        """Make the configuration of the released network.

        Given fields replace its own: `**PRESETS["paper"]` gives the network of the paper's equations.
        """
        head = HEADS[self.data_set]
        labels = class_names(self.data_set)
        if head["classification_head"] == "linear":
            labels = fill_up(labels, RELEASED_OUTPUTS)
        own = {"num_frames": self.num_frames, **head, **label_fields(labels)}
        return IlaConfig.released(self.size, **{**IlaConfig.fields_in_use(own, fields), **fields})


PUBLISHED = [
    PublishedCheckpoint("kinetics400", "B/32", 8, 81.3, 95.0, 40, 39.3),
    PublishedCheckpoint("kinetics400", "B/32", 16, 82.4, 95.8, 75, 76.7),
    PublishedCheckpoint("kinetics400", "B/16", 8, 84.0, 96.6, 149, 149.9),
    PublishedCheckpoint("kinetics400", "B/16", 16, 85.7, 97.2, 295, 298.2),
    PublishedCheckpoint("kinetics400", "L/14", 8, 88.0, 98.1, 673, 675.1),
    PublishedCheckpoint("kinetics400", "L/14@336", 16, 88.7, 97.8, 3130, 3162.1),
    PublishedCheckpoint("ssv2", "B/16", 8, 65.0, 89.2, 214, 214.3),
    PublishedCheckpoint("ssv2", "B/16", 16, 66.8, 90.3, 438, 439.1),
    PublishedCheckpoint("ssv2", "L/14", 8, 67.8, 90.5, 907, 891.8),
    PublishedCheckpoint("ssv2", "L/14@336", 16, 70.2, 91.8, 3723, 4228.0),
]
PUBLISHED_VIEWS = "4x3"  # clips x crops
RELEASED_OUTPUTS = 400  # of the release's linear heads, whatever the data set has


def published_like(config: IlaConfig) -> PublishedCheckpoint | None:
    """Find the published checkpoint whose tower, frames, form and classes a configuration has, if there is one."""
    found = _shape(config)
    return next((checkpoint for checkpoint in PUBLISHED if _shape(checkpoint.config()) == found), None)


def _shape(config: IlaConfig) -> tuple[Any, ...]:
    vision = config.vision_config
    towers = ("hidden_size", "num_hidden_layers", "patch_size", "image_size", "num_frames")
    form = ("alignment_conv", *(name for name in PRESETS["released"] if name != "alignment_jitter"))  # of training
    numbers = tuple(getattr(vision, field) for field in (*towers, *form))
    return (*numbers, config.classification_head, used_names(config.class_names))


def released_processor(config: IlaConfig) -> IlaVideoProcessor:
    """Make a processor with the release's preprocessing for a model of this configuration."""
    return IlaVideoProcessor.for_model(config, **RELEASED_PREPROCESSING)
