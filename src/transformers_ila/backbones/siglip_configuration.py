"""Configuration of SigLIP and SigLIP 2 as video classifiers: transformers' two towers, and the classes above them."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, SiglipTextConfig, SiglipVisionConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.image_utils import PILImageResampling

from ..model.class_names_ila import settle_label_fields, with_label_arguments
from ..model.configuration_ila import IlaConfig, take_fields, validated
from ..model.validation_ila import (
    LOSS_USES,
    check_model_type,
    fields_in_use,
    refuse_unknown,
    require,
    require_classification,
    require_effects,
    require_sizes,
    require_templates,
    validate_transformer,
    without_unknown,
)


SIGLIP, NAFLEX = "siglip", "siglip2"  # transformers' `model_type` of the two
# The fields of both kinds' towers are called alike, but for what NaFlex has in place of `image_size`.
TOWER_KINDS = {"vision_config": SiglipVisionConfig, "text_config": SiglipTextConfig}


@strict
class SiglipVideoConfig(PreTrainedConfig):
    """Configure a SigLIP as a classifier of videos. The `config.json` of a SigLIP or SigLIP 2 folder loads unchanged.

    Fields:
        vision_config, text_config: of transformers' towers, of one `model_type`: `SiglipVisionConfig` and
            `SiglipTextConfig`, or `Siglip2VisionConfig` and `Siglip2TextConfig`.
        num_frames: frames of a clip, for the processor; the model takes any number.
        label_templates: sentences with `{}` in which the class names are read, or None for the bare names.
        problem_type: "multi_label_classification", whose scores are sigmoids as SigLIP learned them, or
            "single_label_classification" for a softmax over the classes.
        label_smoothing: of the cross-entropy.
        frame_rate: as in `IlaConfig`.

    Raises:
        StrictDataclassFieldValidationError, StrictDataclassClassValidationError: on a value that is not allowed,
            naming the field, the value and what is allowed.
    """

    model_type = "ila_siglip"
    loads = frozenset({"ila_siglip", SIGLIP, NAFLEX})
    uses = LOSS_USES
    sub_configs_defaults = {  # noqa: RUF012
        "vision_config": SubConfigSpec(AutoConfig, model_type="siglip_vision_model"),
        "text_config": SubConfigSpec(AutoConfig, model_type="siglip_text_model"),
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions"]
    has_text_tower = True

    vision_config: Any = None
    text_config: Any = None
    problem_type: Literal["multi_label_classification", "single_label_classification"] = "multi_label_classification"
    num_frames: int = 8
    label_templates: list[str] | tuple[str, ...] | None = None
    label_smoothing: float | int = 0.0
    frame_rate: float | int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown(type(self), kwargs, TOWER_KINDS)
        require_sizes({"num_labels": kwargs.get("num_labels")})
        settle_label_fields(self, kwargs.get("num_labels"))
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        config_dict, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_model_type(config_dict, pretrained_model_name_or_path, cls.loads)
        return cls._of_siglip(config_dict), unused

    @classmethod
    def _of_siglip(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a SigLIP's own file with what each tower is, and those of this class unchanged."""
        family = fields.get("model_type")
        if family not in (SIGLIP, NAFLEX):
            return fields
        towers = {
            f"{part}_config": {**(fields.get(f"{part}_config") or {}), "model_type": f"{family}_{part}_model"}
            for part in ("vision", "text")
        }
        fields = {name: value for name, value in fields.items() if name != "problem_type"}  # of a head that goes
        return {**fields, **towers, "model_type": cls.model_type}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "SiglipVideoConfig":
        given = take_fields(cls, kwargs, TOWER_KINDS)
        stored = without_unknown(cls, with_label_arguments(cls._of_siglip(config_dict), kwargs), TOWER_KINDS)
        stored = fields_in_use(cls, stored, {**kwargs, **given}, warn=True)
        return validated(super().from_dict({**stored, **given}, **kwargs))

    class_names = IlaConfig.class_names
    validate_labels = IlaConfig.validate_labels
    validate_frame_rate = IlaConfig.validate_frame_rate

    @property
    def projection_dim(self) -> int:
        """Return E, the width of the features of videos and texts."""
        return self.vision_config.hidden_size

    @property
    def is_naflex(self) -> bool:
        """Return whether frames of any aspect ratio are read, as by SigLIP 2's NaFlex checkpoints."""
        return self.vision_config.model_type == "siglip2_vision_model"

    @property
    def image_size(self) -> int:
        """Return the side of a square frame: of any, or with NaFlex of one with all its patches."""
        vision = self.vision_config
        if self.is_naflex:
            return math.isqrt(vision.num_patches) * vision.patch_size
        return sides(vision.image_size)[0]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Return the settings of an `IlaVideoProcessor` that does what SigLIP's image processor does by default."""
        settings: dict[str, Any] = {"num_frames": self.num_frames, "do_center_crop": False}
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        vision = self.vision_config
        if self.is_naflex:
            patches = {"max_num_patches": vision.num_patches, "patch_size": vision.patch_size}
            return {**settings, **patches, "resample": PILImageResampling.BILINEAR}
        height, width = sides(vision.image_size)
        return {**settings, "size": {"height": height, "width": width}, "resample": PILImageResampling.BICUBIC}

    def validate_towers(self) -> None:
        """Raise a ValueError for towers that are no SigLIP's, do not fit together, or have impossible sizes."""
        vision, text = self.vision_config, self.text_config
        kinds = {"vision_config": "vision", "text_config": "text"}
        for field, part in kinds.items():
            found, allowed = getattr(self, field).model_type, [f"{family}_{part}_model" for family in (SIGLIP, NAFLEX)]
            require(found in allowed, field=f"{field}.model_type", value=found, allowed=" or ".join(allowed))
            validate_transformer(getattr(self, field))
        of_text, of_vision = (found.model_type.split("_")[0] for found in (text, vision))
        require(of_text == of_vision, field="text_config.model_type", value=text.model_type, allowed=of_vision)
        head, size = vision.vision_use_head, text.projection_size
        require(head, field="vision_config.vision_use_head", value=head, allowed="True: features are the head's")
        fits = size == self.projection_dim
        require(fits, field="text_config.projection_size", value=size, allowed=f"hidden_size={self.projection_dim}")

    def validate_sizes(self) -> None:
        """Raise a ValueError for a number of frames or classes that is not allowed."""
        require_sizes({"num_frames": self.num_frames, "num_labels": self.num_labels})

    def validate_templates(self) -> None:
        """Raise a ValueError unless `label_templates` are sentences with one place for a name."""
        if self.label_templates is not None:
            require_templates(self.label_templates, "label_templates")

    def validate_classes(self) -> None:
        """Raise a ValueError for regression, or for one class alone under a softmax."""
        require_classification(self)

    def validate_effects(self) -> None:
        """Raise a ValueError for a field that others make ineffective, unless it has its default."""
        require_effects(self)


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size in a configuration, which is one number for both or two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
