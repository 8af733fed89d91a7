"""Models that score any words, without training: CLIP, SigLIP, SigLIP 2, and ILA with a text head, opened by one call.

A CLIP or SigLIP has learned pictures, not time: each frame's feature is brought to unit length, and their mean again.
An ILA checkpoint keeps its own tower and reads new words by its text tower.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import CLIPModel, PreTrainedConfig
from transformers import initialization as init

from ..model.configuration_ila import IlaConfig
from ..model.loading_ila import HUB_KWARGS, refuse_adapter
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor


# How the names of classes are read by a CLIP or SigLIP that was trained on captions.
ZERO_SHOT_TEMPLATE = "a video of {}."
PLAIN = ("clip", "siglip", "siglip2")  # by `model_type`, the checkpoints that know pictures only
ALLOWED = "a CLIP, SigLIP or SigLIP 2 with both towers, or an ILA checkpoint with a text head and its text tower"


class AutoModelForZeroShotVideoClassification:
    """Open a model that scores any words, by the `model_type` of its checkpoint."""

    def __init__(self) -> None:
        raise OSError(f"{type(self).__name__} has no objects of its own: use `{type(self).__name__}.from_pretrained`.")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        labels: Iterable[str] | None = None,
        templates: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a CLIP, SigLIP, SigLIP 2 or ILA checkpoint as a classifier by words.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            labels: class names, in the order of the logits; `set_labels` names them later.
            templates: texts with `{}` in which names are read, one, several, or "actions". By default
                `ZERO_SHOT_TEMPLATE` for a CLIP or SigLIP as it was published, and for others those that their
                configuration holds, or the bare name.
            kwargs: of the model's own `from_pretrained`, such as `num_frames`, `dtype`, `revision`, `tokenizer`.

        Raises:
            ValueError: another kind of model, or an ILA checkpoint without a text tower.
            OSError: no such checkpoint.
        """
        path = pretrained_model_name_or_path
        refuse_adapter(path)
        where = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        config = PreTrainedConfig.get_config_dict(path, **where)[0]
        if not config:  # a folder without the file gives an empty dictionary
            raise OSError(f"{str(path)!r} holds no model: it has no config.json.")
        kind = config.get("model_type")
        if kind not in ("clip", "ila"):
            raise _refused(path, (config.get("architectures") or [None])[0], kind)
        if templates is None and kind in PLAIN:
            templates = ZERO_SHOT_TEMPLATE
        return IlaForVideoClassification.from_pretrained(
            path, *model_args, labels=labels, templates=templates, zero_shot=True, **kwargs
        )


def load_zero_shot(
    source: str | Path,
    labels: Iterable[str] | None = None,
    templates: str | Sequence[str] | None = None,
    **kwargs: Any,
) -> tuple[Any, IlaVideoProcessor]:
    """Load a model that scores any words, and the processor of its videos.

    Args:
        source, labels, templates, kwargs: as in `AutoModelForZeroShotVideoClassification.from_pretrained`.

    Returns:
        The model in eval mode, and its processor, as `zero_shot_processor` makes it.
    """
    model = AutoModelForZeroShotVideoClassification.from_pretrained(
        source, labels=labels, templates=templates, **kwargs
    )
    where = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
    return model.eval(), zero_shot_processor(source, model.config, **where)


def zero_shot_processor(source: str | Path, config: Any, **where: Any) -> IlaVideoProcessor:
    """Make the processor of a checkpoint's videos: its own, or that of its pictures for a CLIP or SigLIP.

    Args:
        source: folder or Hub id.
        config: of the model that was loaded from there; frame count and image size follow it.
        where: those arguments of `from_pretrained` that say where the files are.

    Raises:
        ValueError: an ILA checkpoint without a processor.
        OSError: no such checkpoint.
    """
    kind = PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type")
    if kind not in PLAIN:
        try:
            return IlaVideoProcessor.from_pretrained(source, **where)
        except OSError as error:
            raise ValueError(
                f"{str(source)!r} holds a model without its video processor: save one beside it, such as that of "
                "`load_zero_shot` or `IlaVideoProcessor.for_model(config)`, by `save_pretrained`."
            ) from error
    processor = IlaVideoProcessor.for_images(source, num_frames=config.num_frames, **where)
    side = getattr(config.vision_config, "image_size", None)
    return _of_size(processor, side) if isinstance(side, int) else processor


def zero_shot_model(model: Any) -> Any:
    """Return a model that scores any words, for a model of this package or transformers' own CLIP.

    A `CLIPModel` becomes an `IlaForVideoClassification` on the very same weights.

    Raises:
        ValueError: another kind of model, or one without a text tower.
    """
    if isinstance(model, CLIPModel):
        return _on_weights_of(model)
    config = getattr(model, "config", None)
    if not hasattr(model, "encode_texts"):
        raise _refused(getattr(config, "name_or_path", ""), type(model).__name__, getattr(config, "model_type", None))
    if not config.has_text_tower:
        head, features = config.classification_head, config.class_features
        raise ValueError(
            f"Words of your own need a text head and its text tower; this {type(model).__name__} has "
            f'classification_head="{head}", class_features="{features}" and knows the classes that it was given only: '
            'pipeline("video-classification"). Allowed: ' + ALLOWED + "."
        )
    return model


def _on_weights_of(clip: CLIPModel) -> IlaForVideoClassification:
    """Make the classifier of a CLIP's two towers, whose parameters are CLIP's own: what changes there changes here."""
    from ..model.configuration_ila import PLAIN_CLIP

    fields = {**PLAIN_CLIP, "label_templates": [ZERO_SHOT_TEMPLATE]}
    config = IlaConfig.from_dict({**clip.config.to_dict(), "model_type": "ila"}, **fields)
    with init.no_init_weights():
        model = IlaForVideoClassification(config)
    for name, parameter in clip.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
    model.name_or_path = clip.name_or_path
    return model.train(clip.training)


def _of_size(processor: IlaVideoProcessor, side: int) -> IlaVideoProcessor:
    """Let the processor make squares of `side` pixels, with as much around the crop as before."""
    cropped = processor.do_center_crop
    before = processor.crop_size["height"] if cropped else processor.size["height"]
    if before != side:
        short = processor.size.get("shortest_edge") if cropped else None
        square = {"height": side, "width": side}
        processor.size = square if short is None else {"shortest_edge": round(short * side / before)}
        processor.crop_size = square
    return processor


def _refused(path: Any, found: Any, kind: Any) -> ValueError:
    named = f"{str(path)!r} holds" if path else "Got"
    return ValueError(
        f"{named} a {found} (model_type {kind!r}), which scores no words of your own; allowed: {ALLOWED}."
    )
