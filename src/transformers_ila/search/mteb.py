"""Models of this package as encoders of the `mteb` library, whose video tasks (MVEB) compare embeddings.

```python
import mteb
from transformers_ila.search.mteb import MtebEncoder

mteb.evaluate(MtebEncoder("openai/clip-vit-base-patch32"), mteb.get_tasks(modalities=["video"]))
```

Videos come as the task has them: torchcodec decoders (the `Video` columns of `datasets`), of which only the frames
that the model sees are decoded, or anything that `IlaVideoProcessor` reads: frames as tensors, paths, bytes.

Shapes: `N` inputs, `T` frames, `E` projection.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoConfig
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file
from transformers.video_utils import VideoMetadata

from ..backbones.zero_shot import load_zero_shot
from ..evaluation.inference import CLASSIFIERS, load_classifier, load_encoder, load_processor, require_checkpoint
from ..evaluation.report import fingerprint
from ..model.loading_ila import HUB_KWARGS, TOWERS
from ..model.pretrained_ila import warn_of_untrained


try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise ImportError("Tasks of MTEB need its library: pip install 'transformers-ila[mteb]'.") from error


AS_IT_IS = "{}"  # texts of tasks are sentences, captions or prompts already: no template is put around them
# Arguments of `from_pretrained` about classes, which no feature depends on.
OF_CLASSES = {"labels", "templates", "label_templates", "id2label", "label2id", "num_labels"}
INPUTS = ("text", "image", "video", "audio")  # columns that mteb gives an encoder to encode


class MtebEncoder(AbsEncoder):
    """Encode videos and texts with a checkpoint of this package, or any CLIP or SigLIP, for tasks of `mteb`.

    A text is encoded as the task gives it, without a template, and prompts of tasks, which are instructions to
    language models, are not used. A video and a text given together are the sum of their features, as mteb's own CLIP
    has it. A model with a linear head encodes videos only.

    Args:
        model_name: folder or Hub id of a model, of an adapter, or of an image tower (ViT, DINOv2), which encodes
            videos alone, by the mean of their frames.
        revision: of a Hub id; of a folder the fingerprint of its weights. mteb keeps results by the commit that it
            stands for, or by this fingerprint.
        device: by default a GPU if there is one.
        kwargs: of `from_pretrained`, such as `dtype` and `num_frames`, where the model has a text tower.

    Raises:
        ValueError: another kind of model, a folder with other weights than `revision` says, or arguments that have no
            effect on features, such as `labels`.
        OSError: no such checkpoint.
    """

    def __init__(
        self, model_name: str | Path, revision: str | None = None, *, device: Any = None, **kwargs: Any
    ) -> None:
        is_folder = Path(model_name).is_dir()
        source = {} if is_folder or revision is None else {"revision": revision}
        model, self.processor = _load(model_name, **source, **kwargs)
        self.has_text = bool(getattr(model.config, "has_text_tower", hasattr(model, "encode_texts")))
        warn_of_untrained(model)
        weights = fingerprint(model)
        if is_folder and revision not in (None, weights):
            raise ValueError(f"`revision` is {revision!r}, and the fingerprint of {str(model_name)!r} is {weights!r}.")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        version = weights if is_folder else _commit(model_name, **source, **kwargs)
        self.mteb_model_meta = self._describe(str(model_name), version, kwargs)

    def encode(self, inputs: Iterable[dict[str, Any]], **kwargs: Any) -> np.ndarray:
        """Encode batches of inputs, as mteb's loaders give them.

        Args:
            inputs: batches with "text" (strings), "video" (videos), or both.
            kwargs: mteb's: `show_progress_bar` draws a bar, `precision` must be "float32"; what describes the task
                has no effect on a feature.

        Returns:
            (N, E) float32, each row of unit length.

        Raises:
            ValueError: batches with images or sound, or with other numbers of texts than of videos, texts for a model
                without a text tower, another precision, or a video that cannot be read.
        """
        precision = kwargs.get("precision", "float32")
        if precision != "float32":
            raise ValueError(f'`precision` is {precision!r}; allowed: "float32", other ones are made of these rows.')
        batches = tqdm(inputs, desc="Encoding", disable=not kwargs.get("show_progress_bar", False))
        rows = [self._encode_batch(batch) for batch in batches]
        if not rows:
            return np.zeros((0, self.model.config.projection_dim), np.float32)
        return torch.cat(rows).numpy()

    def _encode_batch(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the features of one batch, of unit length: (N, E) float32 on the CPU."""
        encoders = {"text": self._encode_texts, "video": self._encode_videos}
        given = [name for name in INPUTS if name in batch]
        if not given or not encoders.keys() >= set(given):
            raise ValueError(f"Inputs must have text, video or both; got {', '.join(given or map(str, batch))}.")
        is_single = any(isinstance(batch[name], (str, bytes)) for name in given)
        if is_single or len({len(batch[name]) for name in given}) > 1:
            got = ", ".join(f"{name}: {_count(batch[name])}" for name in given)
            raise ValueError(f"A batch must have lists of as many texts as videos; got {got}.")
        with torch.no_grad():
            parts = torch.stack([encoders[name](batch[name]) for name in given])
            return F.normalize(parts.sum(0), dim=-1)

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        if not self.has_text:
            raise ValueError(f"This {type(self.model).__name__} has no text tower: it runs tasks of videos alone.")
        return self.model.encode_texts(list(texts), templates=AS_IT_IS).float().cpu()

    def _encode_videos(self, videos: Sequence[Any]) -> torch.Tensor:
        if len(videos) == 0:
            return torch.zeros(0, self.model.config.projection_dim)
        pixels = [self._pixels(video) for video in videos]
        features: list[torch.Tensor] = []
        while len(features) < len(pixels):  # videos of one shape that follow each other go together
            first = pixels[len(features)]
            run = [first]
            for other in pixels[len(features) + 1 :]:
                if other.shape != first.shape:
                    break
                run.append(other)
            views = torch.stack(run).to(self.device, self.model.dtype)
            features += F.normalize(self.model.get_video_features(views).pooler_output.float(), dim=-1).cpu()
        return torch.stack(features)

    def _pixels(self, video: Any) -> torch.Tensor:
        """Return the pixel values of a video, (T, C, H, W)."""
        if hasattr(video, "get_frames_at"):
            video = self._frames(video)
        clip = {"num_frames": self.model.config.num_frames, "num_clips": 1, "num_crops": 1}
        return self.processor(video, return_tensors="pt", **clip)["pixel_values"][0]

    def _frames(self, decoder: Any) -> torch.Tensor:
        """Decode those frames of a torchcodec decoder that the processor's rule takes: (T, C, H, W) uint8."""
        frames, total = self.model.config.num_frames, decoder.metadata.num_frames
        while total:
            indices = self.processor.sample_frames(VideoMetadata(total_num_frames=total), frames, num_clips=1)
            try:
                return decoder.get_frames_at(indices.tolist()).data
            except RuntimeError:  # the file promises more frames than it has
                total -= 1
        raise ValueError("A video has no frame that can be decoded.")

    def _describe(self, name: str, revision: str | None, options: dict[str, Any]) -> Any:
        """Return what mteb knows models by: results are kept by name, revision and options."""
        config, weights = self.model.config, [*self.model.parameters()]
        text = getattr(config, "text_config", None) if self.has_text else None
        folder = Path(name).resolve()
        # mteb writes both beside the results, and names folders by those that tell experiments apart
        written = {key: value for key, value in options.items() if key != "token"}
        experiment = {key: str(value) for key, value in options.items() if key not in {*HUB_KWARGS} - {"subfolder"}}
        about = {
            "loader": type(self),
            "loader_kwargs": written,
            "name": f"{folder.parent.name}/{folder.name}" if Path(name).is_dir() else name,
            "revision": revision,
            "n_parameters": sum(weight.numel() for weight in weights),
            "memory_usage_mb": sum(weight.nbytes for weight in weights) / 2**20,
            "max_tokens": getattr(text, "max_position_embeddings", None),
            "embed_dim": config.projection_dim,
            "framework": ["PyTorch", "Transformers"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": False,
            "modalities": ["video", "text"] if self.has_text else ["video"],
            "experiment_kwargs": experiment or None,
        }
        unknown = ("release_date", "languages", "license", "open_weights", "public_training_code")
        return ModelMeta(**dict.fromkeys((*unknown, "public_training_data", "training_datasets")), **about)


def _load(source: str | Path, **options: Any) -> tuple[Any, Any]:
    """Load a model and its processor: for any words where there is a text tower, else as it was trained."""
    require_checkpoint(source)
    where = {name: options[name] for name in HUB_KWARGS if name in options}
    if find_adapter_config_file(source, **where) is not None:
        _refuse(options, source)
        return load_encoder(source)
    config = AutoConfig.from_pretrained(source, **where)
    if config.model_type in TOWERS:
        _refuse(options.keys() - where.keys(), source)
        return load_encoder(source, **where)
    _refuse(options.keys() & OF_CLASSES, source)
    if type(config).model_type in CLASSIFIERS and not getattr(config, "has_text_tower", False):
        return load_classifier(source, **options), load_processor(source, **where)
    return load_zero_shot(source, **options)


def _commit(source: str | Path, **options: Any) -> str | None:
    """Return the commit of the files that a Hub id and its revision stand for now: a branch may move."""
    where = {name: options[name] for name in HUB_KWARGS if name in options}
    return extract_commit_hash(cached_file(source, CONFIG_NAME, **where), None)


def _refuse(options: Iterable[str], source: str | Path) -> None:
    """Raise a ValueError for arguments that would change no feature of this checkpoint."""
    if names := sorted(options):
        raise ValueError(f"{', '.join(names)} have no effect on {str(source)!r}: leave them out.")


def _count(values: Any) -> str:
    return repr(values) if isinstance(values, (str, bytes)) else str(len(values))
