"""Videos and words of your own to scores, as a task of transformers' `pipeline`.

Registered when the package is imported:

    pipeline("zero-shot-video-classification", model=clip)("video.mp4", candidate_labels=["juggling", "waving"])

Shapes: `B` videos, `V` views, `T` frames, `K` words, `E` projection.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import BaseImageProcessor, PreTrainedTokenizerBase
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline, VideoClassificationPipeline
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor

from .backbones.siglip import NONE_OF_THESE
from .backbones.siglip import none_of_these as score_of_none
from .backbones.zero_shot import (
    AutoModelForZeroShotVideoClassification,
    text_state,
    video_logits,
    zero_shot_model,
    zero_shot_processor,
)
from .model.class_features_ila import BARE_NAME, check_templates, load_tokenizer
from .model.class_names_ila import check_labels
from .model.pretrained_ila import warn_of_untrained
from .model.validation_ila import MULTI_LABEL
from .model.video_container_ila import VideoDecodingError
from .model.video_frames_ila import FRAME, is_frames
from .model.video_processing_ila import IlaVideoProcessor


logger = logging.get_logger(__name__)

TASK = "zero-shot-video-classification"
DEFAULT_MODEL = ("openai/clip-vit-base-patch32", "3d74acf")  # that of transformers' task for images
VIEWS = ("num_frames", "frame_sampling", "frame_stride", "num_clips", "num_crops")  # the processor's, of a call


class ZeroShotVideoClassificationPipeline(Pipeline):
    """Score videos by words of your own, without training.

    ```python
    >>> import transformers_ila
    >>> from transformers import pipeline

    >>> classify = pipeline("zero-shot-video-classification", model="openai/clip-vit-base-patch32")
    >>> classify("video.mp4", candidate_labels=["juggling", "waving"])
    ```

    Args of `pipeline`, beside transformers' own (`device`, `dtype`, `batch_size`, `num_workers`, `revision`, ...):
        model: Hub id or folder of a CLIP, a SigLIP or SigLIP 2, or an ILA checkpoint with a text head; or a model of
            one of these kinds, whose own labels stay as they are.
        tokenizer: of the text tower, or where to load it from; by default the model's.
        video_processor: an `IlaVideoProcessor`, or where to load it from; by default the model's. Frames of a CLIP or
            SigLIP are prepared as its own image processor prepares pictures. `image_processor` and `processor` (which
            holds a tokenizer, too) may stand for it.
        candidate_labels, ...: every argument of a call, as its default.
    """

    # The model knows where its files are: all parts come from one place, and what fails to load says so.
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        video_processor: Any = None,
        image_processor: Any = None,
        processor: Any = None,
        feature_extractor: Any = None,
        **kwargs: Any,
    ) -> None:
        if feature_extractor is not None:
            raise ValueError("`feature_extractor` has no effect here: pass what prepares videos as `video_processor`.")
        if video_processor is not None and image_processor is not None:
            raise ValueError("`video_processor` and `image_processor` are two names of one part: pass one of them.")
        model = zero_shot_model(model)
        tokenizer = getattr(processor, "tokenizer", None) if tokenizer is None else tokenizer
        parts = (getattr(processor, name, None) for name in ("video_processor", "image_processor"))
        pixels = next((part for part in (video_processor, image_processor, *parts) if part is not None), None)
        self._kept: tuple[Any, torch.Tensor] | None = None  # what text features were computed for, and they
        warn_of_untrained(model)
        super().__init__(
            model=model, tokenizer=_tokenizer(tokenizer, model), video_processor=_processor(pixels, model), **kwargs
        )

    def __call__(  # type: ignore[override]
        self, videos: Any, candidate_labels: str | Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Score videos by words.

        Args:
            videos: one video, in any form that `IlaVideoProcessor` takes (a path, a URL, bytes, an array, a list of
                PIL images, a folder of frames, ...); or several: a list of these, a data set, or any iterable, of
                which an iterator over the answers comes back that reads one batch after the other.
            candidate_labels: K different words or phrases, as a list or as one string with commas between them.
            hypothesis_template: sentence in which every word is read, with `{}` for the word; several, whose features
                are averaged; or "actions", a set for actions. By default the one that the model was saved with
                (`config.label_templates`), else the bare words. A CLIP or SigLIP as it was published reads
                `ZERO_SHOT_TEMPLATE`, "a video of {}.".
            top_k: answers per video; by default all.
            none_of_these: True, or a name, adds an answer whose score is the probability that none of the words fits,
                the product of 1 - p. It takes a model whose words have probabilities of their own (SigLIP).
            num_frames, frame_sampling, frame_stride, num_clips, num_crops: of the processor, for this call. The scores
                of several views are averaged. An ILA tower reads the number of frames that it was loaded with
                (`model_kwargs={"num_frames": 16}` loads it with another).
            batch_size, num_workers: of transformers' pipelines.

        Returns:
            For one video a list of {"score", "label"}, the best first; for several a list of such lists. Scores are a
            softmax over the words, or sigmoids where the model's `problem_type` says that several may fit.

        Raises:
            ValueError: no words, words alike, arguments that are not allowed, or a video that cannot be read
                (`VideoDecodingError`); of several videos its number is named.
        """
        if candidate_labels is not None:
            kwargs["candidate_labels"] = candidate_labels
        elif "candidate_labels" not in self._forward_params:
            raise ValueError('Words of your own are needed: `candidate_labels=["juggling", "waving"]`.')
        several = _several(videos)
        if several is None:
            return super().__call__(_Video(videos), **kwargs)
        if isinstance(several, list) and not several:
            return []
        return super().__call__(several, **kwargs)

    def _sanitize_parameters(
        self,
        candidate_labels: str | Sequence[str] | None = None,
        hypothesis_template: str | Sequence[str] | None = None,
        top_k: int | None = None,
        none_of_these: bool | str | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(kwargs.keys() - set(VIEWS))
        if unknown:
            allowed = ("candidate_labels", "hypothesis_template", "top_k", "none_of_these", *VIEWS)
            raise ValueError(f"{', '.join(unknown)} is no argument of {TASK}; allowed: {', '.join(allowed)}.")
        forward: dict[str, Any] = {}
        answers: dict[str, Any] = {}
        if candidate_labels is not None:
            if isinstance(candidate_labels, str):
                candidate_labels = [word.strip() for word in candidate_labels.split(",") if word.strip()]
            with _named("labels", "candidate_labels"):
                forward["candidate_labels"] = answers["candidate_labels"] = check_labels(candidate_labels)
        if hypothesis_template is not None:
            with _named("templates", "hypothesis_template"):
                forward["hypothesis_template"] = check_templates(hypothesis_template)
        if top_k is not None:
            if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
                raise ValueError(f"`top_k` must be a whole number of at least 1, or None for all, got {top_k!r}.")
            answers["top_k"] = top_k
        if none_of_these is not None:
            answers["none_of_these"] = self._name_of_none(none_of_these)
        return {name: value for name, value in kwargs.items() if value is not None}, forward, answers

    def _name_of_none(self, none_of_these: Any) -> str | None:
        if not isinstance(none_of_these, (bool, str)) or none_of_these == "":
            raise ValueError(f"`none_of_these` must be True, False or a name, got {none_of_these!r}.")
        if none_of_these is False:
            return None
        if not self._has_sigmoids:
            raise ValueError(
                "`none_of_these` needs a model whose words have probabilities of their own, such as SigLIP; those of "
                f"this {type(self.model).__name__} are a softmax, which always sums to 1. Add a word for the rest, "
                'such as "something else".'
            )
        return NONE_OF_THESE if none_of_these is True else none_of_these

    @property
    def _has_sigmoids(self) -> bool:
        return self.model.config.problem_type == MULTI_LABEL

    def run_single(self, inputs: Any, preprocess_params: dict, forward_params: dict, postprocess_params: dict) -> Any:
        """Answer for one video, with the words' features computed before."""
        encoded = self._encoded(forward_params, postprocess_params)
        return super().run_single(inputs, preprocess_params, encoded, postprocess_params)

    def get_iterator(  # type: ignore[override]
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> Any:
        """Answer for several videos, with the words' features computed before the first."""
        params = (preprocess_params, self._encoded(forward_params, postprocess_params), postprocess_params)
        return super().get_iterator(inputs, num_workers, batch_size, *params)

    def _encoded(self, forward_params: dict[str, Any], postprocess_params: dict[str, Any]) -> dict[str, Any]:
        """Put the text features in the place of the words; they are computed anew where anything has changed."""
        words, templates = forward_params["candidate_labels"], forward_params.get("hypothesis_template")
        none = postprocess_params.get("none_of_these")
        if none in words:
            raise ValueError(f"`none_of_these` is {none!r}, which is one of the words: give it another name.")
        if len(words) == 1 and not self._has_sigmoids:
            logger.warning(f"{words[0]!r} stands alone, and a softmax over one word is always 1: give more words.")
        if templates is None:
            templates = [*(self.model.config.label_templates or BARE_NAME)]
        state = text_state(self.model)
        key = (words, templates, self.tokenizer, state)
        if state is None or self._kept is None or self._kept[0] != key:
            with _named("labels", "candidate_labels"):
                self._kept = key, self.model.label_features(words, self.tokenizer, templates=templates)
        return {"text_embeds": self._kept[1]}

    def preprocess(self, video: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Read one video: `views`, its pixel values, (1, T, C, H, W) or (1, V, T, C, H, W)."""
        video = video if isinstance(video, _Video) else _Video(video)
        try:
            pixels = self.video_processor(video.source, return_tensors="pt", **options)["pixel_values"]
            if len(pixels) > 1:
                raise ValueError(f"One video was expected, got {len(pixels)} in one list: list them side by side.")
        except VideoDecodingError as error:  # which says the name
            if video.place is None:
                raise
            raise VideoDecodingError(f"{error.name} (videos[{video.place}])", error.reason) from error
        except (ValueError, OSError) as error:
            if video.place is None:
                raise
            kind = ValueError if isinstance(error, ValueError) else OSError
            raise kind(f"videos[{video.place}]: {error}") from error
        return {"views": [pixels]}  # in a list, which is not joined: videos may differ in shape

    def _forward(self, model_inputs: dict[str, Any], text_embeds: torch.Tensor) -> dict[str, Any]:  # type: ignore[override]
        """Compute logits (B, K) of the batch's videos; those of one shape that follow each other go together."""
        views = [pixels for item in model_inputs["views"] for pixels in (item if isinstance(item, list) else [item])]
        runs: list[list[torch.Tensor]] = []
        for pixels in views:
            if runs and runs[-1][0].shape == pixels.shape:
                runs[-1].append(pixels)
            else:
                runs.append([pixels])
        batches = [torch.cat(run).to(self.model.dtype) for run in runs]
        return {"logits": torch.cat([video_logits(self.model, batch, text_embeds) for batch in batches])}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        candidate_labels: Sequence[str],
        top_k: int | None = None,
        none_of_these: str | None = None,
    ) -> list[dict[str, Any]]:
        """Turn the logits of one video, (1, K), into answers, the best first."""
        logits = model_outputs["logits"][0].double()
        scores = logits.sigmoid() if self._has_sigmoids else logits.softmax(-1)
        names = list(candidate_labels)
        if none_of_these is not None:
            names, scores = [*names, none_of_these], torch.cat([scores, score_of_none(scores)[None]])
        answers = [{"score": score, "label": name} for score, name in zip(scores.tolist(), names)]
        return sorted(answers, key=lambda answer: -answer["score"])[:top_k]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model, its tokenizer and its video processor; the task is loaded from there again."""
        for part in (self.model, self.tokenizer, self.video_processor):
            part.save_pretrained(save_directory, **kwargs)  # type: ignore[union-attr]


# -- videos and parts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Video:
    """Hold one video and its place among several; as an object of its own, transformers looks for no chats in it."""

    source: Any
    place: int | None = None


class _Videos(Dataset):
    """Number the videos of a data set."""

    def __init__(self, videos: Any) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> _Video:
        return _Video(self.videos[index], index)


def _several(videos: Any) -> list[_Video] | _Videos | Iterator[_Video] | None:
    """Return several videos, numbered; None for one."""
    if isinstance(videos, (str, os.PathLike, bytes, bytearray, memoryview, dict)) or hasattr(videos, "read"):
        return None
    if isinstance(videos, FRAME):
        videos = [*videos] if getattr(videos, "ndim", 3) == 5 else None  # type: ignore[misc]
    elif isinstance(videos, (list, tuple)):
        videos = None if is_frames(videos) else videos
    elif hasattr(videos, "__getitem__") and hasattr(videos, "__len__") and not isinstance(videos, IterableDataset):
        return _Videos(videos)
    elif isinstance(videos, Iterable):
        return (_Video(video, place) for place, video in enumerate(videos))
    else:
        return None
    return None if videos is None else [_Video(video, place) for place, video in enumerate(videos)]


@contextmanager
def _named(field: str, argument: str) -> Iterator[None]:
    """Let errors name the argument of this task in the place of the model's field."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(f"`{field}`", f"`{argument}`")) from error


def _tokenizer(given: Any, model: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer given, or load it from where that says; without one, the model's own."""
    where, arguments = given if isinstance(given, tuple) else (given, {})  # transformers' form with arguments
    tokenizer = model._find_tokenizer() if where is None else load_tokenizer(where, **arguments)
    if tokenizer is None:
        return load_tokenizer(model.name_or_path)  # which says why there is none
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"`tokenizer` must be a tokenizer, a folder or a Hub id, got {type(tokenizer).__name__}.")
    return tokenizer


def _processor(given: Any, model: Any) -> Any:
    """Return the processor given, or load it from where that says; without one, the model's own."""
    config = model.config
    if isinstance(given, BaseImageProcessor) and not isinstance(given, BaseVideoProcessor):
        return IlaVideoProcessor.for_images(given, num_frames=config.num_frames)
    if given is None and not model.name_or_path:
        raise ValueError(
            f"This {type(model).__name__} comes from no folder or Hub id that holds a processor: pass "
            "`video_processor=`, such as `IlaVideoProcessor.for_images(...)` of the CLIP that it is."
        )
    if given is None:
        return zero_shot_processor(model.name_or_path, config, **model._source)
    if isinstance(given, (str, os.PathLike)):
        return zero_shot_processor(given, config)
    if not hasattr(given, "num_clips"):  # that of an exported folder is another class of the same name
        raise ValueError(f"`video_processor` must be an IlaVideoProcessor, got {type(given).__name__}.")
    return given


class WarningVideoClassificationPipeline(VideoClassificationPipeline):
    """Classify videos as transformers' own class does, after a warning of a model with weights that are random."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        warn_of_untrained(self.model)


def register() -> None:
    """Make the task known to transformers' `pipeline`, and let "video-classification" warn of untrained models."""
    PIPELINE_REGISTRY.supported_tasks["video-classification"]["impl"] = WarningVideoClassificationPipeline
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=ZeroShotVideoClassificationPipeline,
            pt_model=AutoModelForZeroShotVideoClassification,
            default={"model": DEFAULT_MODEL},
            type="multimodal",
        )
