"""SigLIP and SigLIP 2 of transformers as video classifiers for any words, without training.

Every frame goes through SigLIP's own tower and pooling head, its feature is brought to unit length, the features are
averaged, and the average is brought to unit length again. One frame gives what transformers' models give of a picture.

What is unusual here:
- Scores are sigmoids, sigmoid(scale * cosine + bias): every class has a probability of its own, and they need not sum
  to 1. So the scores of several names can all be low, and "none of these" has a score.
- The class names' text features are computed when the names are set and lie in the checkpoint (`class_embeds`). The
  text tower is frozen.
- `model_type` "siglip" reads squares of one size, also that of SigLIP 2's checkpoints of one resolution; "siglip2"
  (NaFlex) reads frames of any aspect, cut into patches here.

Sources: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (Algorithm 1); Tschannen et al. 2025,
"SigLIP 2".

Shapes: `B` videos, `V` views, `T` frames, `L` patches of a frame, `D` width, `E` width of the features, `K` classes,
`N` texts.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Siglip2TextModel,
    Siglip2VisionModel,
    SiglipTextModel,
    SiglipVisionModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from ..model.class_features_ila import (
    BARE_NAME,
    TEXTS_AT_ONCE,
    average_templates,
    check_templates,
    fill_in,
    load_tokenizer,
    padded_tokens,
    require_texts,
)
from ..model.class_names_ila import check_labels, explicit_names, settle_label_fields
from ..model.fusing_ila import FusableModel
from ..model.loading_ila import HUB_KWARGS, refuse_adapter
from ..model.modeling_ila import UPLOAD_ARGUMENTS, IlaForVideoClassification, build_tower
from ..model.named_classes_ila import NamedClasses
from ..model.numerics_ila import at_least_float32
from ..model.pretrained_ila import IlaVideoClassifierOutput
from ..model.validation_ila import (
    require_classification,
)
from .siglip_configuration import SiglipVideoConfig, sides


logger = logging.get_logger(__name__)

NONE_OF_THESE = "none of these"  # the label of what no label fits
TOWERS = {  # by the `model_type` of their configurations
    "siglip_vision_model": SiglipVisionModel,
    "siglip_text_model": SiglipTextModel,
    "siglip2_vision_model": Siglip2VisionModel,
    "siglip2_text_model": Siglip2TextModel,
}


@dataclass
class SiglipVideoFeatures(ModelOutput):
    """Hold the output of `get_video_features`.

    last_hidden_state: the tower's last layer after its norm, (B, T, L, D).
    frame_embeds: each frame's feature by SigLIP's pooling head, (B, T, E).
    pooler_output: the video's feature, (B, E): the mean of the frames' directions, of unit length.
    hidden_states, attentions: the tower's, of B * T frames.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    frame_embeds: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class SiglipForVideoClassification(NamedClasses, FusableModel, PreTrainedModel):
    """Classify videos by words with a SigLIP or SigLIP 2, without training: `labels` are any names.

    ```python
    source = "google/siglip-base-patch16-224"
    model = SiglipForVideoClassification.from_pretrained(source, labels=["waving", "jumping"])
    ```

    Logits are scale * cosine + bias and scores their sigmoids, each on its own. The tokenizer of SigLIP needs the
    packages `sentencepiece` and `protobuf`, that of SigLIP 2 none.

    The vision tower can be trained, as any model's; the text tower is frozen, as the classes' features are constant.
    """

    config: SiglipVideoConfig
    config_class = SiglipVideoConfig
    base_model_prefix = "siglip"
    main_input_name = "pixel_values"
    input_modalities = ("video", "text")
    accepts_loss_kwargs = False  # the loss is a mean; the Trainer must not rescale it by a count of items
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar[list[str]] = [  # type: ignore[misc]
        f"{family}{part}"
        for family in ("Siglip", "Siglip2")
        for part in ("VisionEmbeddings", "TextEmbeddings", "EncoderLayer", "MultiheadAttentionPoolingHead")
    ]
    new_parameters: ClassVar[tuple[str, ...]] = ()  # all are SigLIP's
    class_keys: ClassVar[tuple[str, ...]] = ("class_embeds",)  # type: ignore[misc]
    class_embeds: torch.Tensor | None  # (K, E) of unit length; None until the classes have names

    average_views: Any = IlaForVideoClassification.average_views
    classification_loss: Any = IlaForVideoClassification.classification_loss
    _find_tokenizer: Any = IlaForVideoClassification._find_tokenizer

    def __init__(self, config: SiglipVideoConfig) -> None:
        settle_label_fields(config)
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self._source: dict[str, Any] = {}  # where the checkpoint came from, beside its name
        self._has_no_tokenizer = False  # known once it was looked for
        self.vision_model = build_tower(TOWERS[config.vision_config.model_type], config.vision_config)
        self.text_model = build_tower(TOWERS[config.text_config.model_type], config.text_config)
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))
        named = explicit_names(config.class_names) is not None
        self.register_buffer("class_embeds", torch.zeros(config.num_labels, config.projection_dim) if named else None)
        self.text_model.requires_grad_(False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.get_input_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Start scale and bias as SigLIP does (Algorithm 1); classes that have no features yet get zeros."""
        if module is self:
            init.constant_(self.logit_scale, torch.tensor(10.0).log().item())
            init.constant_(self.logit_bias, -10.0)
            if self.class_embeds is not None:
                init.zeros_(self.class_embeds)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        labels: Iterable[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        templates: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a SigLIP, a SigLIP 2 or what this class saved, for the words that are asked for.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            labels: class names, in the order of the logits. Without them, and names of the checkpoint's own, the model
                only computes features until `set_labels`.
            tokenizer: of the text tower, or where to load it from; by default the checkpoint's own.
            templates: sentences with `{}` in which the class names are read, one or several, or "actions"; by default
                those that the checkpoint was saved with, else the bare names.
            kwargs: of `PreTrainedModel.from_pretrained`, and any configuration field.

        Raises:
            ValueError: names that contradict each other, or are no different, non-empty strings, or that the tokenizer
                reads alike; no tokenizer; a checkpoint without both towers.
        """
        refuse_adapter(pretrained_model_name_or_path)
        templates = kwargs.pop("label_templates", None) if templates is None else templates
        wants_info, count = kwargs.pop("output_loading_info", False), kwargs.get("num_labels")
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            labels=labels,
            tokenizer=tokenizer,
            templates=templates,
            output_loading_info=True,
            **kwargs,
        )
        names = explicit_names(model.config.class_names)
        if names is None and count is not None:
            raise ValueError(f"`num_labels` is {count!r}, but nothing names the classes: give `labels`.")
        if labels is None and names is not None and (templates is not None or "class_embeds" in info["missing_keys"]):
            model.set_labels(names)
        info["missing_keys"] -= {"class_embeds"}
        return (model, info) if wants_info else model

    @classmethod
    def _load_weights(cls, path: Any, *args: Any, tokenizer: Any = None, templates: Any = None, **kwargs: Any) -> Any:
        source = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        config = kwargs.get("config")
        if isinstance(config, PreTrainedConfig) and not isinstance(config, SiglipVideoConfig):
            kwargs["config"] = SiglipVideoConfig.from_dict(config.to_dict())
        model, info = super()._load_weights(path, *args, **kwargs)
        lacking = set(info["missing_keys"]) - {"class_embeds"}
        if path is not None and lacking:
            raise ValueError(
                f"{str(path)!r} holds no whole SigLIP, which has two towers, a scale and a bias: {len(lacking)} "
                f"weights are missing, such as {min(lacking)!r}."
            )
        model.text_model.requires_grad_(False)  # loading made every weight trainable
        model._source = source
        model.tokenizer = load_tokenizer(tokenizer)
        if templates is not None:
            model.config.label_templates = check_templates(templates)
        return model, info

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does, with the tokenizer, which `set_labels` needs once loaded."""
        super().save_pretrained(save_directory, *args, **kwargs)
        tokenizer = self._find_tokenizer() if kwargs.get("is_main_process", True) else None
        if tokenizer is not None:
            upload = {name: kwargs[name] for name in UPLOAD_ARGUMENTS if name in kwargs}
            tokenizer.save_pretrained(save_directory, **upload)

    # -- words --------------------------------------------------------------------------------------------------------

    def set_labels(
        self,
        labels: Iterable[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        templates: str | Sequence[str] | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> None:
        """Name the classes anew, whatever they are, and compute their text features.

        Args:
            labels: K different names, in the order of the logits.
            tokenizer: of the text tower, or where to load it from; by default the one given before, or that of the
                checkpoint loaded.
            templates: sentences with `{}` in which the names are read, one or several, or "actions"; by default those
                in use.
            ignore_mismatched_sizes: of the other classifiers; any names may be set here.

        Raises:
            ValueError: no list of different names, names that the tokenizer reads alike, no tokenizer.
        """
        names = check_labels(labels)
        require_classification(self.config, len(names))
        if explicit_names(names) is None:
            raise ValueError(f"`labels` must be words, got the numbers {names}.")
        used, chosen = self._use_tokenizer(tokenizer), self._templates(templates)
        embeds = self._label_features(names, used, chosen)
        self.tokenizer = used
        self.config.label_templates = None if chosen == [*BARE_NAME] else chosen
        self.register_buffer("class_embeds", embeds)
        self._name_classes(names)

    def _set_labels(self, names: list[str], renew: bool) -> bool:
        self.set_labels(names)
        return False

    def _start_classes(self, names: list[str]) -> None:
        self.set_labels(names)

    def label_features(
        self,
        labels: Iterable[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        templates: str | Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Compute the text features that the classes would have under these names, (K, E), and leave them as they are.

        Args and errors as for `set_labels`.
        """
        return self._label_features(check_labels(labels), self._use_tokenizer(tokenizer), self._templates(templates))

    def _label_features(
        self, names: list[str], tokenizer: PreTrainedTokenizerBase, templates: list[str]
    ) -> torch.Tensor:
        tokens = self._tokenize(fill_in(templates, names), tokenizer)
        for template, rows in zip(templates, tokens["input_ids"].split(len(names))):
            _refuse_alike(names, rows, template)
        return self._encode(tokens, len(templates))

    def _use_tokenizer(self, tokenizer: Any) -> PreTrainedTokenizerBase:
        known = self.tokenizer if tokenizer is None else load_tokenizer(tokenizer)
        return load_tokenizer(self.name_or_path, **self._source) if known is None else known

    def encode_texts(self, texts: Sequence[str], templates: str | Sequence[str] | None = None) -> torch.Tensor:
        """Compute the features of texts, of unit length and without gradients: N texts -> (N, E).

        Args:
            texts: any sentences; longer ones than the text tower reads are cut, and a warning names them.
            templates: as in `set_labels`, by default those in which the class names are read; "{}" reads the texts as
                they are. Several are averaged: each feature is brought to unit length, and so is their mean.

        Raises:
            ValueError: no tokenizer, no list of strings, or templates that are none.
        """
        chosen, given = self._templates(templates), require_texts(texts)
        if not given:
            return self.logit_scale.detach().new_empty(0, self.config.projection_dim)
        self.tokenizer = self._use_tokenizer(None)
        return self._encode(self._tokenize(fill_in(chosen, given), self.tokenizer), len(chosen))

    def _templates(self, templates: str | Sequence[str] | None) -> list[str]:
        return check_templates(templates) if templates is not None else [*(self.config.label_templates or BARE_NAME)]

    def _encode(self, tokens: dict[str, torch.Tensor], templates: int) -> torch.Tensor:
        """Encode tokens and average over the templates: (M * N, length) -> (N, E) of unit length."""
        count = len(tokens["input_ids"])
        with in_eval_mode(self.text_model), torch.autocast(self.device.type, enabled=False):
            chunks = [
                self.get_text_features(**{name: ids[start : start + TEXTS_AT_ONCE] for name, ids in tokens.items()})
                for start in range(0, count, TEXTS_AT_ONCE)
            ]
        return average_templates(torch.cat([chunk.pooler_output for chunk in chunks]), templates)

    def _tokenize(self, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
        """Tokenise texts as SigLIP was trained, padded to one length, for its feature is read at the last place."""
        length = min(self.config.text_config.max_position_embeddings, tokenizer.model_max_length)
        encoded = padded_tokens(texts, tokenizer, length)
        return {name: ids.to(self.device) for name, ids in encoded.items() if name in ("input_ids", "attention_mask")}

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        normalize: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Compute the features of tokenised texts: (N, length) -> `pooler_output` (N, E).

        Args:
            input_ids: padded to the length that the tower was trained with, as its feature is the last token's.
            attention_mask: (N, length); real tokenizers of SigLIP give none.
            normalize: bring them to unit length.
        """
        kwargs.pop("return_dict", None)
        outputs = self.text_model(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
        if normalize:
            outputs.pooler_output = F.normalize(outputs.pooler_output, dim=-1)
        return outputs

    # -- videos -------------------------------------------------------------------------------------------------------

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        normalize: bool = False,
        **kwargs: Any,
    ) -> SiglipVideoFeatures:
        """Compute the features of videos: (B, T, C, H, W) -> `pooler_output` (B, E), of unit length.

        Args:
            pixel_values: H and W are the configuration's `image_size`, or with NaFlex any multiples of `patch_size`.
            interpolate_pos_encoding: take any H and W, which NaFlex does anyway.
            normalize: bring `frame_embeds` to unit length, too.

        Raises:
            ValueError: on another rank, number of channels or size, or integers.
        """
        self._check_pixel_values(pixel_values, any_size=interpolate_pos_encoding)
        frames = pixel_values.flatten(0, 1)
        kwargs.pop("return_dict", None)
        if self.config.is_naflex:
            inputs: dict[str, Any] = patches_of(frames, self.config.vision_config.patch_size)
        else:
            inputs = {"pixel_values": frames, "interpolate_pos_encoding": interpolate_pos_encoding}
        outputs = self.vision_model(**inputs, return_dict=True, **kwargs)
        videos = pixel_values.shape[:2]
        embeds = outputs.pooler_output.unflatten(0, videos)  # (B, T, E)
        unit = F.normalize(at_least_float32(embeds), dim=-1)
        return SiglipVideoFeatures(
            last_hidden_state=outputs.last_hidden_state.unflatten(0, videos),
            frame_embeds=unit.to(embeds) if normalize else embeds,
            pooler_output=F.normalize(unit.mean(1), dim=-1).to(embeds),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _check_pixel_values(self, pixel_values: torch.Tensor, *, any_size: bool, views: bool = False) -> None:
        vision = self.config.vision_config
        shape = tuple(pixel_values.shape) if isinstance(pixel_values, torch.Tensor) else None
        patch = sides(vision.patch_size)
        if self.config.is_naflex or any_size:
            side = f"multiples of {patch[0]}, multiples of {patch[1]}"
            fits = shape is not None and all(size and size % one == 0 for size, one in zip(shape[-2:], patch))
        else:
            size = sides(vision.image_size)
            side, fits = f"{size[0]}, {size[1]}", shape is not None and shape[-2:] == size
        if shape is None or len(shape) != 5 + views or not shape[-4] or shape[-3] != vision.num_channels or not fits:
            several = "views, " if views else ""
            raise ValueError(
                f"`pixel_values` must be (videos, {several}frames, channels, height, width) = (any, {several}any, "
                f"{vision.num_channels}, {side}), got {type(pixel_values).__name__ if shape is None else shape}."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(f"`pixel_values` must be normalised by the processor, got {pixel_values.dtype}.")

    def classify(self, video_outputs: SiglipVideoFeatures) -> torch.Tensor:
        """Turn the output of `get_video_features` into logits (B, K).

        Raises:
            ValueError: the classes have no names yet.
        """
        if self.class_embeds is None:
            raise ValueError("The classes have no names: call `set_labels`, or load with `labels=`.")
        require_classification(self.config)  # it may have been set since the configuration was made
        return self.match(video_outputs, self.class_embeds)[0]

    def match(
        self, video_outputs: SiglipVideoFeatures, text_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the scaled cosines of videos and texts, plus the bias.

        Args:
            video_outputs: what `get_video_features` returned.
            text_embeds: text features, (K, E).

        Returns:
            Logits (B, K), unit video features (B, E), unit text features (K, E).
        """
        video_embeds = F.normalize(at_least_float32(video_outputs.pooler_output), dim=-1)
        text_embeds = F.normalize(text_embeds.to(video_embeds), dim=-1)
        scale, bias = self.logit_scale.to(video_embeds).exp(), self.logit_bias.to(video_embeds)
        return scale * (video_embeds @ text_embeds.mT) + bias, video_embeds, text_embeds

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> IlaVideoClassifierOutput:
        """Classify videos: `logits` (B, K), and with labels the `loss`.

        Args:
            pixel_values: (B, T, C, H, W), or (B, V, T, C, H, W) for several views of each video.
            labels: as in `IlaForVideoClassification.forward`.
            interpolate_pos_encoding: take any H and W.
        """
        views = pixel_values.shape[1] if getattr(pixel_values, "ndim", 5) == 6 else None
        if views is not None:
            self._check_pixel_values(pixel_values, any_size=interpolate_pos_encoding, views=True)
            pixel_values = pixel_values.flatten(0, 1)
        outputs = self.get_video_features(pixel_values, interpolate_pos_encoding, **kwargs)
        logits = self.classify(outputs)  # (B, K), with views (B * V, K)
        if views is not None:
            logits = self.average_views(logits.unflatten(0, (-1, views)))
        return IlaVideoClassifierOutput(
            loss=None if labels is None else self.classification_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    # -- what other classifiers have ----------------------------------------------------------------------------------

    def constant_class_features(self) -> AbstractContextManager[None]:
        """Change nothing: the classes' features are constant (see `IlaForVideoClassification`)."""
        return nullcontext()

    def untrained(self) -> list[str]:
        """Return the names of weights that were drawn at random: none, as all are SigLIP's."""
        return []

    def mark_trained(self) -> None:
        """Change nothing: no weight is untrained (see `IlaForVideoClassification`)."""


def patches_of(frames: torch.Tensor, size: int) -> dict[str, torch.Tensor | None]:
    """Return frames cut into patches, as the inputs of SigLIP 2's NaFlex tower.

    Args:
        frames: (N, C, H, W) with H and W multiples of `size`.
        size: side of a patch.

    Returns:
        `pixel_values` (N, h w, size * size * C), row after row, each patch's channels last; `spatial_shapes` (N, 2),
        h and w; `pixel_attention_mask`, None, as no frame is padded.
    """
    rows, columns = frames.shape[-2] // size, frames.shape[-1] // size
    patches = frames.unflatten(-1, (columns, size)).unflatten(-3, (rows, size))  # (N, C, h, size, w, size)
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "spatial_shapes": torch.tensor([rows, columns], device="cpu").expand(len(frames), 2),  # where they are read
        "pixel_attention_mask": None,
    }


def none_of_these(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the probability that none of the classes is there, (..., K) -> (...): the product of 1 - p.

    That is what sigmoids say together: each was trained as a yes or no of its own. A softmax has nothing left.
    """
    return (1 - probabilities).prod(-1)


def _refuse_alike(names: list[str], input_ids: torch.Tensor, template: str) -> None:
    """Raise a ValueError for two names whose tokens (K, length) are the same ones."""
    first: dict[tuple[int, ...], int] = {}
    for index, row in enumerate(map(tuple, input_ids.tolist())):
        if (before := first.setdefault(row, index)) != index:
            raise ValueError(
                f"`labels` must be names that the tokenizer can tell apart, but it reads {names[before]!r} and "
                f"{names[index]!r} alike in {template!r}: the two classes would always get the same score."
            )


@contextmanager
def in_eval_mode(tower: nn.Module) -> Iterator[None]:
    """Let a model or a tower compute without gradients and dropout; its modes are afterwards what they were."""
    modes = [(module, module.training) for module in tower.modules()]
    try:
        tower.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
