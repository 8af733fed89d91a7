"""Models that score any words, without training: CLIP, SigLIP, SigLIP 2, and ILA with a text head, opened by one call.

A CLIP or SigLIP has learned pictures, not time: each frame's feature is brought to unit length, and their mean again.
An ILA checkpoint keeps its own tower and reads new words by its text tower.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import CLIPModel, PreTrainedConfig, Siglip2Model, SiglipModel
from transformers import initialization as init

from ..model.configuration_ila import PLAIN_CLIP, IlaConfig
from ..model.loading_ila import HUB_KWARGS, refuse_adapter
from ..model.modeling_ila import IlaForVideoClassification
from ..model.numerics_ila import at_least_float32
from ..model.video_processing_ila import IlaVideoProcessor
from .siglip import SiglipForVideoClassification, in_eval_mode
from .siglip_configuration import SiglipVideoConfig


# How the names of classes are read by a CLIP or SigLIP that was trained on captions.
ZERO_SHOT_TEMPLATE = "a video of {}."
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
PLAIN = ("clip", "siglip", "siglip2")  # by `model_type`, the checkpoints that know pictures only
ALLOWED = (
    "a CLIP, SigLIP or SigLIP 2 with both towers, or an ILA checkpoint with a text head and its text tower "
    "(IlaForVideoClassification)"
)


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
        if not kwargs.pop("zero_shot", True):
            raise ValueError(f"zero_shot=False: {cls.__name__} opens what needs no training; allowed: True.")
        refuse_adapter(path)
        where = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        config = PreTrainedConfig.get_config_dict(path, **where)[0]
        if not config:  # a folder without the file gives an empty dictionary
            raise OSError(f"{str(path)!r} holds no model: it has no config.json.")
        kind = config.get("model_type")
        if templates is None and kind in PLAIN:
            templates = ZERO_SHOT_TEMPLATE
        if kind in ("clip", "ila"):
            kwargs["zero_shot"] = True
            return IlaForVideoClassification.from_pretrained(
                path, *model_args, labels=labels, templates=templates, **kwargs
            )
        if kind in SiglipVideoConfig.loads:
            return SiglipForVideoClassification.from_pretrained(
                path, *model_args, labels=labels, templates=templates, **kwargs
            )
        raise _refused(path, (config.get("architectures") or [None])[0], kind)


def load_zero_shot(
    source: str | os.PathLike,
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


def zero_shot_processor(source: str | os.PathLike, config: Any, **where: Any) -> IlaVideoProcessor:
    """Make the processor of a checkpoint's videos: its own, or that of its pictures for a CLIP or SigLIP.

    Args:
        source: folder or Hub id.
        config: of the model that was loaded from there. Where its frame count or image size is another than the
            checkpoint's, the processor follows.
        where: those arguments of `from_pretrained` that say where the files are.

    Raises:
        ValueError: an ILA checkpoint without a processor.
        OSError: no such checkpoint.
    """
    kind = PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type")
    if kind == "clip" and not config.vision_config.normalize_frames:  # an ILA tower on the weights of a CLIP
        return IlaVideoProcessor.for_model(config)
    if kind in PLAIN:
        processor = IlaVideoProcessor.for_images(source, num_frames=config.num_frames, **where)
        return _of_size(processor, config)
    try:
        processor = IlaVideoProcessor.from_pretrained(source, **where)
    except OSError as error:
        raise ValueError(
            f"{str(source)!r} holds a model without its video processor: save one beside it, such as that of "
            "`load_zero_shot` or `IlaVideoProcessor.for_model(config)`, by `save_pretrained`."
        ) from error
    stored = type(config).from_pretrained(source, **where) if kind == config.model_type else config
    if stored.num_frames != config.num_frames:
        processor.num_frames = config.num_frames
    before, now = (getattr(of.vision_config, "image_size", None) for of in (stored, config))  # NaFlex has none
    return processor if before == now else _of_size(processor, config)


def _of_size(processor: IlaVideoProcessor, config: Any) -> IlaVideoProcessor:
    """Let frames become squares of the tower's `image_size`, with as much around the crop as before."""
    side = getattr(config.vision_config, "image_size", None)
    before = dict(processor.crop_size if processor.do_center_crop else processor.size).get("height")
    if not isinstance(side, int) or before in (side, None):
        return processor
    square = {"height": side, "width": side}
    size = {name: round(value * side / before) for name, value in dict(processor.size).items() if value}
    sizes = {"size": size, "crop_size": square} if processor.do_center_crop else {"size": square}
    return IlaVideoProcessor.from_dict({**processor.to_dict(), **sizes})


def zero_shot_model(model: Any) -> Any:
    """Return a model that scores any words, for a model of this package or transformers' own CLIP or SigLIP.

    A `CLIPModel` becomes an `IlaForVideoClassification` on the very same weights, a `SiglipModel` or `Siglip2Model` a
    `SiglipForVideoClassification`.

    Raises:
        ValueError: another kind of model, or one without a text tower.
    """
    if isinstance(model, (CLIPModel, SiglipModel, Siglip2Model)):
        return _on_weights_of(model)
    config: Any = getattr(model, "config", None)
    if not hasattr(model, "label_features"):
        raise _refused(getattr(config, "name_or_path", ""), type(model).__name__, getattr(config, "model_type", None))
    if not config.has_text_tower:
        head, features = config.classification_head, config.class_features
        raise ValueError(
            f"Words of your own need a text head and its text tower; this {type(model).__name__} has "
            f'classification_head="{head}", class_features="{features}" and knows the classes that it was given only: '
            'pipeline("video-classification"). Allowed: ' + ALLOWED + "."
        )
    return model


def text_state(model: Any) -> list[Any] | None:
    """Return what text features depend on beside the words, by value: each weight of the text side and its bits.

    Bits are summed as integers that wrap around, along rows and along columns, and these sums with their numbers: a
    value that changes shows, and so do values that change places. Where many change alike, by their sign or a factor
    of two, the highest bits may sum to nothing, so the values are summed, too. (Versions of tensors would not show
    it: fused optimizers raise none.) None where that cannot be told: with adapters, which are switched unseen, and
    with weights that are quantised or not in memory.
    """
    weights = [
        (n, w.detach()) for n, w in model.named_parameters() if any(p.startswith("text_") for p in n.split("."))
    ]
    adapted = any(hasattr(type(module), "active_adapter") for module in model.modules())
    if adapted or any(weight.is_meta or type(weight) is not torch.Tensor for _, weight in weights):
        return None
    sums = torch.stack([_sums_of_bits(weight) for _, weight in weights]).tolist()
    return [(name, weight.dtype, weight.device, weight.shape, of) for (name, weight), of in zip(weights, sums)]


def _sums_of_bits(weight: torch.Tensor) -> torch.Tensor:
    bits = torch.atleast_2d(_bits(weight)).flatten(1)
    values = at_least_float32(torch.atleast_2d(weight).flatten(1))
    sums = [bits.sum(axis, dtype=bits.dtype).long() for axis in (0, 1)]  # sums of int64 take six times as long
    sums.append(values @ _numbers(values.shape[1], values))
    return torch.stack([_bits(of @ _numbers(len(of), of)).long() for of in sums])


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(INTEGERS[values.itemsize])


def _numbers(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(1, 1 + count, dtype=like.dtype, device=like.device)


def video_logits(model: Any, views: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Compute logits (B, K) of videos and text features.

    Args:
        model: as `zero_shot_model` returns it.
        views: (B, T, C, H, W), or (B, V, T, C, H, W) for several views of each video, which are averaged.
        text_embeds: (K, E), as `label_features` computes them.

    No gradients are taken and nothing is drawn; the modes of the model are afterwards what they were. Cosines are
    computed in float32 at least, as half precision gives many words one score.
    """
    several = views.ndim == 6
    with in_eval_mode(model):
        outputs = model.get_video_features(views.flatten(0, 1) if several else views)
        if not getattr(model.config, "use_video_prompt", False):  # whose layers have the precision of the weights
            outputs.pooler_output = at_least_float32(outputs.pooler_output)
        logits = model.match(outputs, text_embeds)[0]
        return model.average_views(logits.unflatten(0, (-1, views.shape[1]))) if several else logits


def _on_weights_of(images: CLIPModel | SiglipModel | Siglip2Model) -> Any:
    """Make the classifier of a model's two towers on its own parameters, so that what changes there changes here."""
    fields: dict[str, Any] = {"label_templates": [ZERO_SHOT_TEMPLATE]}
    stored = images.config.to_dict()
    with init.no_init_weights():
        model: Any
        if isinstance(images, CLIPModel):
            model = IlaForVideoClassification(
                IlaConfig.from_dict({**stored, "model_type": "ila"}, **PLAIN_CLIP, **fields)
            )
        else:
            model = SiglipForVideoClassification(SiglipVideoConfig.from_dict(stored, **fields))
    given, needed = dict(images.named_parameters()), dict(model.named_parameters())
    if given.keys() != needed.keys():
        other = min(given.keys() ^ needed.keys())
        raise ValueError(
            f"This {type(images).__name__} has other weights than the published one, such as {other!r}: merge "
            "adapters first (`merge_and_unload()`)."
        )
    for name, parameter in given.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
    model.name_or_path = images.name_or_path
    return model.train(images.training)


def _refused(path: Any, found: Any, kind: Any) -> ValueError:
    named = f"{str(path)!r} holds" if path else "Got"
    return ValueError(
        f"{named} a {found} (model_type {kind!r}), which scores no words of your own; allowed: {ALLOWED}."
    )
