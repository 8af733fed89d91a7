"""Streams: a causal tower goes on with a video, and a new frame costs one frame.

What is unusual about it:
- A layer needs of the frames before only what the last one gives as the previous frame of a pair, its half
  (`pairs_ila.py`). The tower keeps nothing else, however long the video is.
- The state (`IlaStreamCache`) is the caller's, as a key-value cache is, and one cache holds many streams (rows), which
  begin and end at different times. No module has any.
- Towers that were trained before `alignment_causal` ("mi_token", "add", "concat") look ahead from their first frame
  alone: it waits for the second one.

Exactness: pushed in any pieces, frames get what one call of the tower over all of them gives (`any_num_frames`), up to
rounding. The head reads a window of `num_frames` frames, the newest last; their features come from the stream, not
from a clip that begins with the window. The idea is the online shift of TSM (Lin et al. 2019, Section 4.2), which
keeps the shifted channels of the last frame and replaces them by the next one's; MoViNets (Kondratyuk et al. 2021,
Section 3.2) state it as stream buffers: the last frames of every causal convolution's input stand before those of the
next piece, zeros before the first one, and the outputs equal those of the whole video.

Shapes: `B` rows pushed, `n` frames, `m` frames answered, `k` windows answered, others as in `modeling_ila.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.utils import ModelOutput

from .layers_ila import check_pixel_values
from .pairs_ila import Past
from .pretrained_ila import IlaVisionModelOutput
from .validation_ila import looks_ahead, mixes_time


WINDOWS_AT_ONCE = 32  # which the head reads in one call; each holds the patches of all its frames


def why_no_stream(config: Any) -> str | None:
    """Return why models of a configuration have no stream, in words that follow "as", or None where they have one.

    config: of a model or of a tower alone.
    """
    if config.model_type not in ("ila", "ila_vision_model"):
        return (
            f'`model_type` is "{config.model_type}", whose frames are not seen one after the other; "ila" can stream'
        )
    vision = getattr(config, "vision_config", config)
    ahead = looks_ahead(vision)
    if ahead is not None or vision.alignment_causal or not mixes_time(vision):
        return ahead
    if vision.temporal_module == "shift":
        return 'temporal_module="shift" without alignment_causal takes channels from the frame after'
    if vision.alignment_fusion == "interaction":
        return 'alignment_fusion="interaction" without alignment_causal adds to a frame what the next one makes of it'
    if vision.num_frames == 1:
        return "num_frames is 1, and without alignment_causal a single frame is not aligned"
    return None


class StreamForm(NamedTuple):
    """Describe what the streams of a model keep. A cache fits models of its own form only.

    layers: index of a layer that keeps something -> the last size of that tensor.
    num_frames: T, frames that the head reads; 1 of a tower alone.
    embeds: E, of the frames' features; 0 of a tower alone.
    tokens: D, where the head reads the frames' patches (`use_video_prompt`); else 0.
    waits: the first frame waits for the second.
    """

    layers: Mapping[int, int]
    num_frames: int
    embeds: int
    tokens: int
    waits: bool


def stream_form(config: Any, *, embeds: int = 0, tokens: int = 0) -> StreamForm:
    """Return the form of a tower's streams, and of the head above it.

    Args:
        config: of the tower.
        embeds, tokens: as in `StreamForm`.

    Raises:
        ValueError: the tower has no stream.
    """
    refuse_without_stream(config)
    width = config.hidden_size // config.shift_division
    if config.temporal_module == "ila":
        width = config.alignment_hidden_size * (2 if config.alignment_conv == "standard" else 1)
        width = config.hidden_size if config.alignment_operator == "window_attention" else width
    is_mixed = mixes_time(config)
    return StreamForm(
        layers=dict.fromkeys(config.temporal_layers if is_mixed else (), width),
        num_frames=config.num_frames if embeds else 1,
        embeds=embeds,
        tokens=tokens,
        waits=is_mixed and not config.alignment_causal,
    )


def refuse_without_stream(config: Any) -> None:
    """Raise a ValueError where models of a configuration have no stream, and say why."""
    reason = why_no_stream(config)
    if reason is not None:
        raise ValueError(
            f"This model has no stream, as {reason}. Windows of {getattr(config, 'num_frames', 'its')} frames work; "
            "a model trained with `alignment_causal=True` can stream."
        )


# -- the state --------------------------------------------------------------------------------------------------------


class IlaStreamCache:
    """Hold what streams keep between two calls of `push`, one row for each stream (camera).

    `model.start_stream(batch_size)` makes one. What is kept is allocated by the first frames; its size depends on
    theirs and does not grow. Tensors are replaced, and never written into. What the rows keep:

    - for each layer the last frame's half, (rows, 1, h, w, C): C is `alignment_hidden_size`, twice that for
      `alignment_conv="standard"`, D for `alignment_operator="window_attention"`; with `alignment_pairing="first"` it
      is the first frame's. Of "shift" it is the shifted channels of all tokens, (rows, 1, L, C).
    - the features of the last T - 1 frames, (rows, T - 1, E), oldest first, and with `use_video_prompt` their tokens,
      (rows, T - 1, L, D). A stream begins with its first frame in all places, so a window that is longer than what was
      seen has the first frame repeated in front.
    - the pixels of first frames that wait for the second one, (rows, 1, C, H, W), of old checkpoints.

    Attributes:
        frames_seen: (rows,) frames that were pushed since the row began, on the CPU.
        size: (H, W) of the frames in pixels, None before the first ones.
        precision: dtype in which the tower computes (autocast's where it is on), None before the first frames.
    """

    def __init__(self, form: StreamForm, batch_size: int = 1) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size!r}; allowed: 1 or more, the number of streams.")
        self.form = form
        self.frames_seen = torch.zeros(batch_size, dtype=torch.long)
        self.size: tuple[int, int] | None = None
        self.precision: torch.dtype | None = None
        self.tensors: dict[str, torch.Tensor] = {}

    @property
    def batch_size(self) -> int:
        """Return the number of rows."""
        return len(self.frames_seen)

    @property
    def device(self) -> torch.device | None:
        """Return where the state lies, or None before the first frames."""
        return next((tensor.device for tensor in self.tensors.values()), None)

    def __repr__(self) -> str:
        seen = self.frames_seen.tolist()
        return f"IlaStreamCache(frames_seen={seen}, size={self.size}, precision={self.precision}, {self.nbytes()} B)"

    def nbytes(self) -> int:
        """Return how many bytes all rows together take."""
        return sum(tensor.nbytes for tensor in (self.frames_seen, *self.tensors.values()))

    def copy(self) -> "IlaStreamCache":
        """Return a cache with memory of its own, which goes on independently."""
        return self._with(self.frames_seen.clone(), {name: kept.clone() for name, kept in self.tensors.items()})

    def select(self, rows: Any) -> "IlaStreamCache":
        """Return a cache of some rows, in the order given."""
        chosen = row_indices(rows, self.batch_size)
        kept = {name: tensor[chosen.to(tensor.device)] for name, tensor in self.tensors.items()}
        return self._with(self.frames_seen[chosen], kept)._released()

    def join(self, other: "IlaStreamCache") -> "IlaStreamCache":
        """Return a cache of this one's rows and then the other's.

        Raises:
            ValueError: the other one is of another form, size of frames, precision or device.
        """
        self.require_form(other.form)
        for name in ("size", "precision", "device"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError(f"Streams of different {name} cannot be joined: {ours} here, {theirs} in the other.")
        kept = {}
        for name in {**self.tensors, **other.tensors}:
            like = self.tensors.get(name, other.tensors.get(name))
            assert like is not None
            halves = [
                each.tensors.get(name, like.new_zeros(each.batch_size, *like.shape[1:])) for each in (self, other)
            ]
            kept[name] = torch.cat(halves)
        joined = self._with(torch.cat([self.frames_seen, other.frames_seen]), kept)
        joined.size, joined.precision = self.size or other.size, self.precision or other.precision
        return joined

    def reset(self, rows: Any = None) -> None:
        """Let rows begin anew with the next frames pushed to them; by default all, then also with another size."""
        self.frames_seen = self.frames_seen.index_fill(0, row_indices(rows, self.batch_size), 0)
        self._released()

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> "IlaStreamCache":
        """Move the state to a device, cast it to the dtype of a model that was cast, or both; return the cache.

        Raises:
            ValueError: a dtype that is no floating-point one.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"`dtype` is {dtype}; allowed: a floating-point one, as models have.")
        self.tensors = {name: tensor.to(device=device, dtype=dtype) for name, tensor in self.tensors.items()}
        if self.precision is not None and dtype is not None:
            self.precision = dtype
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all that is kept, under names that safetensors can save; before the first frames `frames_seen` only.

        The tensors share the cache's memory, into which nothing is written.
        """
        if self.size is None:
            return {"frames_seen": self.frames_seen}
        precision = torch.zeros(1, dtype=self.precision)
        return {
            "frames_seen": self.frames_seen,
            "size": torch.tensor(self.size),
            "precision": precision,
            **self.tensors,
        }

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take what `state_dict` returned of a cache of the same form, with all its rows.

        Raises:
            ValueError: missing or unknown names, shapes of another model, and what no stream keeps, such as a number
                of frames below 0. The cache is then as it was.
        """
        state = dict(state_dict)
        others = sorted(name for name, tensor in state.items() if not isinstance(tensor, torch.Tensor))
        if others:
            raise ValueError(f"The state of a stream holds tensors, and this one other things: {others}.")
        if "frames_seen" not in state:
            raise ValueError(f"The state of a stream holds `frames_seen`, this one only {sorted(state)}.")
        seen = state["frames_seen"].cpu()
        if seen.ndim != 1 or not len(seen) or seen.dtype != torch.long or (seen < 0).any():
            raise ValueError(f"`frames_seen` is {seen}; allowed: whole numbers of 0 or more, one for each stream.")
        needed = {"frames_seen", *(("size", "precision") if seen.any() else ())}
        needed |= {*self._names()} if (seen > int(self.form.waits)).any() else set()
        needed |= {"waiting"} if self.form.waits and (seen == 1).any() else set()
        known = {"frames_seen", "size", "precision", *self._names(), *(("waiting",) if self.form.waits else ())}
        if not needed <= {*state} <= known:
            raise ValueError(
                f"The state of a stream of this form holds {sorted(known)}; missing: {sorted(needed - {*state})}, "
                f"unknown: {sorted({*state} - known)}."
            )
        size, precision = state.pop("size", None), state.pop("precision", None)
        if size is not None and (size.shape != (2,) or size.is_floating_point() or (size < 1).any()):
            raise ValueError(f"`size` is {size}; allowed: the height and width of the frames.")
        if precision is not None and not precision.is_floating_point():
            raise ValueError(f"`precision` is of {precision.dtype}; allowed: a floating-point one, as models have.")
        del state["frames_seen"]
        self._check_shapes(state, len(seen))
        self.frames_seen, self.tensors = seen, state
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.precision = None if precision is None else precision.dtype

    def _check_shapes(self, kept: Mapping[str, torch.Tensor], rows: int) -> None:
        """Raise a ValueError for tensors that are not those of `rows` streams of this form, or fit no other one."""
        widths = {f"layers.{index}": width for index, width in self.form.layers.items()}
        widths |= {"frame_embeds": self.form.embeds, "frame_tokens": self.form.tokens}
        ranks = {"frame_embeds": (3,), "frame_tokens": (4,), "waiting": (5,)}  # those of layers: 5, of "shift" 4
        for name, tensor in kept.items():
            frames = self.form.num_frames - 1 if name.startswith("frame_") else 1
            given = (*tensor.shape[:2], *tensor.shape[-1:])
            wanted = (rows, frames, widths.get(name, given[-1] if given else 1))
            if given != wanted or tensor.ndim not in ranks.get(name, (4, 5)):
                raise ValueError(f"`{name}` is {tuple(tensor.shape)}; its first two and last sizes must be {wanted}.")
            if not tensor.is_floating_point():
                raise ValueError(f"`{name}` is of {tensor.dtype}; allowed: a floating-point one, as models have.")
        grids = {tuple(tensor.shape[2:-1]) for name, tensor in kept.items() if name.startswith("layers.")}
        if len(grids) > 1:
            raise ValueError(f"The layers keep frames of different sizes, in patches: {sorted(grids)}; allowed: one.")

    def require_form(self, form: StreamForm) -> None:
        """Raise a ValueError where the cache was made by a model of another form."""
        if form != self.form:
            raise ValueError(
                f"The cache is of another model's streams: it keeps {tuple(self.form)}, this one {tuple(form)}. "
                f"`start_stream` of the model that is pushed to makes one; the order is {StreamForm._fields}."
            )

    def past(self, rows: torch.Tensor, num_layers: int) -> list[Past]:
        """Return what each layer keeps of rows, (B,) indices: the input `past` of the tower."""
        cold = self.is_cold(rows)
        if cold.all():
            return [Past()] * num_layers
        pasts = [Past()] * num_layers
        for index in self.form.layers:
            kept = self.rows_of(f"layers.{index}", rows)
            assert kept is not None
            pasts[index] = Past(kept, cold.to(kept.device, non_blocking=True) if cold.any() else None)
        return pasts

    def is_cold(self, rows: torch.Tensor) -> torch.Tensor:
        """Return which rows have gone through the tower with no frame yet: (B,) indices -> (B,) bool."""
        return self.frames_seen[rows] <= (1 if self.form.waits else 0)

    def rows_of(self, name: str, rows: torch.Tensor) -> torch.Tensor | None:
        """Return one of the kept tensors for rows, or None before the first frames."""
        tensor = self.tensors.get(name)
        if tensor is None or self._are_all(rows):
            return tensor
        return tensor[rows.to(tensor.device)]

    def take(
        self, answers: Iterable["Answer"], rows: torch.Tensor, pixel_values: torch.Tensor, precision: torch.dtype
    ) -> None:
        """Keep what frames (B, n, C, H, W) pushed to rows gave: all of it, or after an error nothing."""
        after = self._with(self.frames_seen, dict(self.tensors))
        for answer in answers:
            for name, values in answer.kept.items():
                after._put(name, answer.rows, values)
        after.frames_seen = self.frames_seen.index_add(0, rows, torch.full_like(rows, pixel_values.shape[1]))
        after.size, after.precision = (pixel_values.shape[-2], pixel_values.shape[-1]), precision
        vars(self).update(vars(after._released()))

    def _put(self, name: str, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Replace one of the kept tensors in rows; `values` (B, ...) must be no view of something larger."""
        if self._are_all(rows):
            self.tensors[name] = values
            return
        kept = self.tensors.get(name)
        if kept is None:
            kept = values.new_zeros(self.batch_size, *values.shape[1:])
        self.tensors[name] = kept.index_copy(0, rows.to(kept.device), values)

    def _are_all(self, rows: torch.Tensor) -> bool:
        return len(rows) == self.batch_size and torch.equal(rows, torch.arange(self.batch_size))

    def _names(self) -> list[str]:
        rings = {"frame_embeds": self.form.embeds, "frame_tokens": self.form.tokens}
        return [*(f"layers.{index}" for index in self.form.layers), *(name for name, width in rings.items() if width)]

    def _with(self, frames_seen: torch.Tensor, tensors: dict[str, torch.Tensor]) -> "IlaStreamCache":
        other = IlaStreamCache(self.form, len(frames_seen))
        other.frames_seen, other.tensors = frames_seen, tensors
        other.size, other.precision = self.size, self.precision
        return other

    def _released(self) -> "IlaStreamCache":
        """Drop first frames that no row needs any more, and everything where no row has seen a frame; return self."""
        if not (self.frames_seen == 1).any():
            self.tensors.pop("waiting", None)
        if not self.frames_seen.any():
            self.tensors, self.size, self.precision = {}, None, None
        return self


def row_indices(rows: Any, batch_size: int) -> torch.Tensor:
    """Return rows of a cache as indices on the CPU: None for all, or different whole numbers from 0 on. (B,)

    Raises:
        ValueError: others.
    """
    if rows is None:
        return torch.arange(batch_size)
    given = rows.tolist() if hasattr(rows, "tolist") else rows  # of torch or NumPy
    numbers = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else [given]
    valid = [isinstance(row, int) and not isinstance(row, bool) and 0 <= row < batch_size for row in numbers]
    if not numbers or not all(valid) or len(set(numbers)) != len(numbers):
        raise ValueError(f"`rows` is {rows!r}; allowed: None, or different numbers from 0 to {batch_size - 1}.")
    return torch.tensor(numbers)


# -- what a push gives ------------------------------------------------------------------------------------------------


@dataclass
class IlaStreamOutput(ModelOutput):
    """Hold what frames pushed to a stream give, the newest last.

    A row that gave fewer than others (the first frame of an old checkpoint waits for the second) has NaN in front.

    logits: of a classifier: one row for each window, which ends with that frame, (B, k, K).
    frame_embeds: every frame's feature in the space of the texts, (B, m, E); `None` of a tower alone.
    pooler_output: the windows' video features, (B, k, E); of a tower alone the frames' class tokens, (B, m, D).
    last_hidden_state: of a tower alone, (B, m, L, D).
    frames: each frame's index in its stream, from 0 on, (B, m), and -1 where a row gave none.
    warming_up: whether a window has fewer than `num_frames` frames that were seen, so that the first one is repeated
        in front, (B, k); `None` of a tower alone.
    """

    logits: torch.Tensor = None  # type: ignore[assignment]
    frame_embeds: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]
    last_hidden_state: torch.Tensor | None = None
    frames: torch.Tensor = None  # type: ignore[assignment]
    warming_up: torch.Tensor = None  # type: ignore[assignment]


class Answer(NamedTuple):
    """Hold what a push gives for some rows of a cache, before the cache takes it.

    rows: (B,) indices. fields: of `IlaStreamOutput`. kept: names in the cache -> (B, ...).
    """

    rows: torch.Tensor
    fields: dict[str, torch.Tensor]
    kept: dict[str, torch.Tensor]


class StreamingTower:
    """Give the vision tower streams: `start_stream` and `push`."""

    config: Any
    training: bool

    def start_stream(self, batch_size: int = 1) -> IlaStreamCache:
        """Return the state of streams that have seen nothing yet, one row for each.

        Raises:
            ValueError: the model has no stream (`why_no_stream`), its configuration was given another
                `alignment_causal` after it was made, or `batch_size` is no number of 1 or more.
        """
        self._refuse_changed_form()
        return IlaStreamCache(self._stream_form(), batch_size)

    @torch.no_grad()
    def push(
        self,
        pixel_values: torch.Tensor,
        cache: IlaStreamCache,
        rows: Any = None,
        logits_to_keep: int | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> IlaStreamOutput:
        """Go on with streams by the next frames of each, and let the cache keep what those after them need.

        ```python
        cache = model.start_stream()
        for frames in camera:  # (1, n, C, H, W) each, n as you like
            logits = model.push(frames, cache).logits  # (1, n, K)
        ```

        Rows are independent. A row with numbers that are not finite answers with NaN until it is reset, and the others
        go on. After an error the cache is as it was. No gradients are taken.

        Args:
            pixel_values: (B, n, C, H, W), n >= 1 frames for each of the rows.
            cache: of `start_stream`; it is changed.
            rows: indices of the cache's rows that the frames belong to, (B,), in their order; by default all.
            logits_to_keep: how many of the new frames' windows the head reads: None for all, 0 for none, k for the
                last k. The head costs a part of a frame, most of it `use_video_prompt` with many classes.
            interpolate_pos_encoding: take any H and W, the same in all calls.

        Raises:
            ValueError: training mode, where batch norms would take the statistics of what is pushed; a cache of
                another model; frames of another shape, size, dtype or device than those before; rows that do not fit.
        """
        rows = self._check_push(pixel_values, cache, rows, logits_to_keep, interpolate_pos_encoding)
        answers = []
        for of_group in row_groups(cache, rows):
            pixels = pixel_values[of_group.to(pixel_values.device)] if len(of_group) < len(rows) else pixel_values
            answers.append(self._answer(pixels, cache, rows[of_group], logits_to_keep, interpolate_pos_encoding))
        output = joined_output(answers, rows)
        cache.take(answers, rows, pixel_values, precision_of(self._streaming_tower()))
        return output

    def _check_push(
        self,
        pixel_values: torch.Tensor,
        cache: IlaStreamCache,
        rows: Any,
        logits_to_keep: int | None,
        any_size: bool,
    ) -> torch.Tensor:
        """Raise `push`'s errors, and return the rows as indices."""
        tower = self._streaming_tower()
        if self.training or any(module.training for module in tower.modules()):
            raise ValueError(
                "`push` was called in training mode, in which batch norms take the statistics of what is pushed: call "
                "`model.eval()` before."
            )
        if not isinstance(cache, IlaStreamCache):
            kind = type(cache).__name__
            raise ValueError(f"`cache` is a {kind}; allowed: an IlaStreamCache, as `start_stream()` makes it.")
        cache.require_form(self._stream_form())
        keep = logits_to_keep
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 0):
            raise ValueError(f"`logits_to_keep` is {keep!r}; allowed: None for all, 0 for none, k for the last k.")
        check_pixel_values(pixel_values, tower.config, any_size=any_size, any_frames=True)
        rows = row_indices(rows, cache.batch_size)
        if len(rows) != len(pixel_values):
            raise ValueError(
                f"`pixel_values` has frames of {len(pixel_values)} streams, for {len(rows)} rows of a cache of "
                f"{cache.batch_size}: `rows` says which ones they belong to."
            )
        weight = tower.embeddings.patch_embedding.weight
        asked = {
            "size": (pixel_values.shape[-2], pixel_values.shape[-1]),
            "precision": precision_of(tower),
            "device": pixel_values.device if weight.is_meta else weight.device,
        }
        for name, now in asked.items():
            before = getattr(cache, name)
            if before is not None and before != now:
                raise ValueError(
                    f"The streams of this cache began with {name} {before}, and now it is {now}. `cache.to(...)` "
                    "moves or casts what is kept; `cache.reset()` of all rows begins anew."
                )
        if pixel_values.device != asked["device"]:
            raise ValueError(f"`pixel_values` are on {pixel_values.device}, the model is on {asked['device']}.")
        return rows

    def _answer(
        self, pixels: torch.Tensor, cache: IlaStreamCache, rows: torch.Tensor, keep: int | None, any_size: bool
    ) -> Answer:
        """Run rows that begin or go on together, by frames (B, n, C, H, W)."""
        kept: dict[str, torch.Tensor] = {}
        first = cache.frames_seen[rows]  # of the frames that are answered
        if cache.form.waits and (first == 1).any():
            held = cache.rows_of("waiting", rows)
            assert held is not None
            pixels, first = torch.cat([held.to(pixels.dtype), pixels], dim=1), first - 1
        elif cache.form.waits and pixels.shape[1] == 1 and (first == 0).any():
            kept["waiting"], pixels = pixels.clone(), pixels[:, :0]
        tower = self._streaming_tower()
        outputs = tower._empty_output(pixels)
        if pixels.shape[1]:
            past = cache.past(rows, tower.config.num_hidden_layers)
            outputs = tower(pixels, interpolate_pos_encoding=any_size, past=past, return_dict=True)
            for index in cache.form.layers:
                kept[f"layers.{index}"] = owned(outputs.kept[index])
        frames = first[:, None] + torch.arange(pixels.shape[1])
        fields, of_head = self._head(outputs, cache, rows, keep)
        windows = frames.shape[1] if keep is None else min(keep, frames.shape[1])
        fields["frames"] = frames.to(pixels.device, non_blocking=True)
        if cache.form.embeds:
            fields["warming_up"] = fields["frames"][:, frames.shape[1] - windows :] + 1 < cache.form.num_frames
        return Answer(rows, fields, {**kept, **of_head})

    def _streaming_tower(self) -> Any:
        return self

    def _stream_form(self) -> StreamForm:
        return stream_form(self.config)

    def _refuse_changed_form(self) -> None:
        """Raise a ValueError where the configuration names another form than the one that the layers have."""
        tower = self._streaming_tower()
        wanted = tower.config.alignment_causal
        for layer in tower.encoder.layers:
            made = getattr(layer.temporal, "causal", wanted)
            if made != wanted:
                raise ValueError(
                    f"`alignment_causal` of the configuration is {wanted}, and the model was made with {made}; "
                    f"allowed: {made}. It is how weights were trained, and setting it later changes no layer."
                )

    def _head(
        self, outputs: IlaVisionModelOutput, cache: IlaStreamCache, rows: torch.Tensor, keep: int | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return fields of the output and what the cache is to keep, of the tower's output for rows of the cache."""
        return {"pooler_output": outputs.pooler_output, "last_hidden_state": outputs.last_hidden_state}, {}

    def _empty_output(self, pixel_values: torch.Tensor) -> IlaVisionModelOutput:
        """Return the tower's output for pixel values of no frame, (B, 0, C, H, W)."""
        patch, weight = self.config.patch_size, self._streaming_tower().post_layernorm.weight
        rows, (height, width) = pixel_values.shape[0], pixel_values.shape[-2:]
        tokens = 1 + (height // patch) * (width // patch)
        hidden = weight.new_zeros(rows, 0, tokens, self.config.hidden_size)
        return IlaVisionModelOutput(last_hidden_state=hidden, pooler_output=hidden[:, :, 0])


class StreamingModel(StreamingTower):
    """Give a model whose head integrates the frames of a window streams, with logits where it classifies."""

    def _streaming_tower(self) -> Any:
        model: Any = self
        return model.vision_model

    def _stream_form(self) -> StreamForm:
        refuse_without_stream(self.config)
        config, vision = self.config, self.config.vision_config
        reads_tokens = self._classifies and config.classification_head == "text" and config.use_video_prompt
        return stream_form(vision, embeds=config.projection_dim, tokens=vision.hidden_size if reads_tokens else 0)

    @property
    def _classifies(self) -> bool:
        return hasattr(self, "classify")

    def _head(
        self, outputs: IlaVisionModelOutput, cache: IlaStreamCache, rows: torch.Tensor, keep: int | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Read the windows that end with each of the last `keep` frames, and keep the last T - 1 frames."""
        model: Any = self
        embeds = model.visual_projection(outputs.pooler_output)  # (B, m, E)
        count = embeds.shape[1] if keep is None else min(keep, embeds.shape[1])
        named = {"frame_embeds": embeds}
        if cache.form.tokens:
            named["frame_tokens"] = outputs.last_hidden_state
        recent = {name: with_recent(name, frames, cache, rows) for name, frames in named.items()}
        kept = {name: owned(frames[:, embeds.shape[1] :]) for name, frames in recent.items() if embeds.shape[1]}
        pooled = [embeds.new_zeros(len(rows), 0, cache.form.embeds)]
        logits = [embeds.new_zeros(len(rows), 0, self.config.num_labels)]
        windows = {name: windows_of(frames, cache.form.num_frames, count) for name, frames in recent.items()}
        step = max(1, WINDOWS_AT_ONCE // len(rows))
        for begin in range(0, count, step):
            part = {name: frames[:, begin : begin + step].flatten(0, 1) for name, frames in windows.items()}
            features = model.pool_frames(part["frame_embeds"])
            read = IlaVisionModelOutput(pooler_output=features, last_hidden_state=part.get("frame_tokens"))  # type: ignore[arg-type]
            pooled.append(features.unflatten(0, (len(rows), -1)))
            if self._classifies:
                logits.append(model.classify(read).unflatten(0, (len(rows), -1)))
        fields = {"frame_embeds": embeds, "pooler_output": torch.cat(pooled, dim=1)}
        if self._classifies:
            fields["logits"] = torch.cat(logits, dim=1)
        return fields, kept


def precision_of(tower: Any) -> torch.dtype:
    """Return the dtype in which a tower computes: that of its weights, or autocast's."""
    weight = tower.embeddings.patch_embedding.weight
    kind = weight.device.type  # "meta" where weights are offloaded, which knows no autocast
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def row_groups(cache: IlaStreamCache, rows: torch.Tensor) -> list[torch.Tensor]:
    """Split rows into those that go through the tower together: positions in `rows`, all of them where none waits."""
    if not cache.form.waits:
        return [torch.arange(len(rows))]
    stages = cache.frames_seen[rows].clamp(max=2)  # nothing seen, one frame waits, more
    return [(stages == stage).nonzero()[:, 0] for stage in stages.unique()]


def owned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor that is a view of a larger one, so that the larger one is freed; else the tensor."""
    is_all = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()  # `nbytes` does not compile
    return tensor if is_all else tensor.clone()


def with_recent(name: str, frames: torch.Tensor, cache: IlaStreamCache, rows: torch.Tensor) -> torch.Tensor:
    """Put the last T - 1 frames before new ones, (B, m, ...) -> (B, T - 1 + m, ...); in rows that begin, the first."""
    if not frames.shape[1]:
        return frames
    cold = cache.is_cold(rows)
    first = frames[:, :1].expand(-1, cache.form.num_frames - 1, *frames.shape[2:])
    kept = None if cold.all() else cache.rows_of(name, rows)
    past = Past(kept, cold.to(frames.device, non_blocking=True) if cold.any() else None)
    return torch.cat([past.before(first), frames], dim=1)


def windows_of(frames: torch.Tensor, num_frames: int, count: int) -> torch.Tensor:
    """Return the last windows of T frames, each one frame on: (B, T - 1 + m, ...) -> (B, count, T, ...), a view."""
    if not count:
        return frames[:, :0, None]
    begin = frames.shape[1] - (num_frames - 1 + count)
    return frames[:, begin:].unfold(1, num_frames, 1).movedim(-1, 2)


def joined_output(answers: list[Answer], rows: torch.Tensor) -> IlaStreamOutput:
    """Join the answers of groups of rows in the order of the rows, the newest last, NaN and -1 where there is none."""
    if len(answers) == 1:
        return IlaStreamOutput(**answers[0].fields)
    place = {row: index for index, row in enumerate(rows.tolist())}
    fields = {}
    for name, like in answers[0].fields.items():
        parts = [answer.fields[name] for answer in answers]
        most = max(part.shape[1] for part in parts)
        missing = -1 if name == "frames" else name == "warming_up" or float("nan")
        joined = like.new_full((len(rows), most, *like.shape[2:]), missing)
        for answer, part in zip(answers, parts):
            places = torch.tensor([place[row] for row in answer.rows.tolist()], device=joined.device)
            joined[places, most - part.shape[1] :] = part.to(joined.dtype)
        fields[name] = joined
    return IlaStreamOutput(**fields)
