"""Streams: any pieces give what one call of the tower gives of all frames, rows are independent, what is refused."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.forms import FORMS
from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import TINY_VISION, save_clip, tiny_config
from transformers_ila import IlaConfig, IlaForVideoClassification, IlaModel, IlaVisionModel, why_no_stream
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.timesformer import AlignedTimesformerConfig
from transformers_ila.model.pretrained_ila import IlaVisionModelOutput
from transformers_ila.model.streaming_ila import owned


SIDE, T = 12, 4
CAUSAL = {
    "interaction": {},
    "first": {"alignment_pairing": "first"},
    "standard": {"alignment_conv": "standard"},
    "windows": {"alignment_operator": "window_attention", "alignment_pairing": "first"},
    "mi_token": {"alignment_fusion": "mi_token"},
    "concat": {"alignment_fusion": "concat", "alignment_layers": [1]},
    "shift": {"temporal_module": "shift"},
    "on a DINOv2": FORMS["ila on a DINOv2"],
    "linear head": {"classification_head": "linear", "alignment_fusion": "add"},
    "mean of the frames": {"mit_num_hidden_layers": 0},
}
STREAMING = {name: {"alignment_causal": True, **fields} for name, fields in CAUSAL.items()}
STREAMING |= {
    "old mi_token": {"alignment_fusion": "mi_token"},
    "old first": {"alignment_fusion": "add", "alignment_pairing": "first"},
    "old standard": {"alignment_fusion": "concat", "alignment_conv": "standard"},
    "plain frames": {"temporal_module": "none", "normalize_frames": True, "mit_num_hidden_layers": 0},
    "average": {"temporal_module": "average"},
}


def small(**fields):
    fields = {"alignment_causal": True, **fields}
    config = tiny_config(vision_config={**TINY_VISION, "image_size": SIDE}, num_labels=3, **fields)
    return randomised(IlaForVideoClassification(config)).eval()


@pytest.fixture(scope="module")
def model():
    return small()


def video(frames=6, *, batch=2, seed=1, size=SIDE):
    return pixels(frames=frames, batch=batch, size=size, seed=seed)


def pushed(model, frames, pieces, cache=None, **options):
    """Outputs of a video in pieces, joined over the frames."""
    cache, outputs, begin = cache or model.start_stream(len(frames)), [], 0
    for piece in pieces:
        outputs.append(model.push(frames[:, begin : begin + piece], cache, **options))
        begin += piece
    assert begin == frames.shape[1]
    return {name: torch.cat([output[name] for output in outputs], dim=1) for name in outputs[-1]}


@torch.no_grad()
def in_windows(model, frames):
    """Logits of the window that ends with each frame, of the tower's features of all frames."""
    whole = model.vision_model(frames, any_num_frames=True)
    embeds, logits = model.visual_projection(whole.pooler_output), []
    for last in range(frames.shape[1]):
        window = [max(index, 0) for index in range(last - T + 1, last + 1)]
        tokens = whole.last_hidden_state[:, window]
        logits.append(model.classify(IlaVisionModelOutput(tokens, model.pool_frames(embeds[:, window]))))
    return embeds, torch.stack(logits, dim=1)


@pytest.mark.parametrize("form", STREAMING)
def test_any_pieces_equal_one_call(form):
    fields = {"alignment_causal": False, **STREAMING[form]}
    model, frames = small(**fields), video()
    embeds, logits = in_windows(model, frames)
    for pieces in ([1] * 6, [2, 3, 1]):
        found = pushed(model, frames, pieces)
        assert found["frames"].tolist() == [list(range(6))] * 2
        assert found["warming_up"].tolist() == [[True] * (T - 1) + [False] * (7 - T)] * 2
        torch.testing.assert_close(found["frame_embeds"], embeds, **CLOSE)
        torch.testing.assert_close(found["logits"], logits, **CLOSE)
    clip = model(frames[:, :T]).logits  # the first window of a stream is a clip
    torch.testing.assert_close(logits[:, T - 1], clip, **CLOSE)
    if form in ("interaction", "standard", "shift"):  # a stream that begins there is another one
        cold = pushed(model, frames[:, 1:], [5])["frame_embeds"]
        assert (cold[:, 0] - embeds[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("fields", [{}, {"alignment_causal": False, "alignment_fusion": "mi_token"}])
def test_rows_begin_and_end_apart(fields):
    """What a row gives does not depend on the others: pushed together, alone, from the start or later, or never."""
    model, frames = small(**fields), video(7, batch=3)
    cache, found = model.start_stream(3), {row: [] for row in range(3)}
    expected = {row: pushed(model, frames[row : row + 1], [1, 1, 2, 2, 1]) for row in range(3)}
    begin = [0, 0, 0]
    for rows, count in (([0], 1), ([0, 2], 1), ([2, 0], 2), ([0, 1, 2], 1), ([1, 0], 2), ([1], 1), ([2], 3), ([1], 3)):
        pieces = torch.stack([frames[row, begin[row] : begin[row] + count] for row in rows])
        output = model.push(pieces, cache, rows=rows)
        for place, row in enumerate(rows):
            begin[row] += count
            given = output.frames[place] >= 0
            found[row].append((output.frames[place][given], output.logits[place][given]))
            assert output.logits[place][~given].isnan().all() and output.warming_up[place][~given].all()
    assert cache.frames_seen.tolist() == begin == [7, 7, 7]
    for row, answers in found.items():
        indices, logits = (torch.cat(parts) for parts in zip(*answers))
        assert indices.tolist() == list(range(7))
        torch.testing.assert_close(logits, expected[row]["logits"][0], **CLOSE)


def test_the_first_frame_waits_in_models_from_before():
    model, frames = small(alignment_causal=False, alignment_fusion="mi_token"), video(3, batch=1)
    cache = model.start_stream()
    nothing = model.push(frames[:, :1], cache)
    assert nothing.logits.shape == (1, 0, 3) and nothing.frames.shape == (1, 0) and cache.frames_seen.tolist() == [1]
    assert "waiting" in cache.state_dict()
    both = model.push(frames[:, 1:2], cache)
    assert both.frames.tolist() == [[0, 1]] and "waiting" not in cache.state_dict()
    tower = model.vision_model
    alone = tower.start_stream()
    assert tower.push(frames[:, :1], alone).last_hidden_state.shape == (1, 0, 10, 32)


def test_one_stream_fails_alone(model):
    frames = video(6)
    cache, other = model.start_stream(2), model.start_stream(1)
    for index in range(6):
        piece = frames[:, index : index + 1].clone()
        if index == 2:
            piece[0, 0, 0, 0, 0] = float("nan")
        both, one = model.push(piece, cache), model.push(frames[1:, index : index + 1], other)
        torch.testing.assert_close(both.logits[1], one.logits[0], **CLOSE)
        assert both.logits[0].isnan().all() == (index >= 2)
    cache.reset([0])
    again = model.push(frames[:, :2], cache)
    assert again.frames.tolist() == [[0, 1], [6, 7]] and again.warming_up.tolist() == [[True, True], [False, False]]
    torch.testing.assert_close(again.logits[0], pushed(model, frames[:1, :2], [2])["logits"][0], **CLOSE)


def test_what_fails_while_the_state_is_replaced_changes_nothing(model):
    """A device may have no memory for the second of the layers."""
    frames, cache = video(4), model.start_stream(2)
    model.push(frames[:, :2], cache)
    before, shape = cache.state_dict(), model.push(frames[:1, 2:3], cache.copy(), rows=[0]).logits.shape
    real, calls = torch.Tensor.index_copy, []

    def full(kept, *args):
        calls.append(kept)
        if len(calls) == 2:
            raise MemoryError("full")
        return real(kept, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "index_copy", full)
        with pytest.raises(MemoryError, match="full"):
            model.push(frames[:1, 2:3], cache, rows=[0])
    after = cache.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert model.push(frames[:1, 2:3], cache, rows=[0]).logits.shape == shape


def test_the_head_reads_what_is_asked_for(model):
    frames = video(6)
    everything = pushed(model, frames, [6])["logits"]
    for keep, wanted in ((0, 0), (1, 1), (2, 2), (9, 6)):
        cache = model.start_stream(2)
        output = model.push(frames, cache, logits_to_keep=keep)
        assert output.logits.shape == (2, wanted, 3) and output.frames.shape == (2, 6)
        assert output.warming_up.shape == (2, wanted) and output.pooler_output.shape == (2, wanted, 64)
        torch.testing.assert_close(output.logits, everything[:, 6 - wanted :], **CLOSE)
    for keep in (-1, True, 1.0):
        with pytest.raises(ValueError, match=f"`logits_to_keep` is {keep}"):
            model.push(frames, model.start_stream(2), logits_to_keep=keep)


def test_what_is_kept_does_not_grow_and_is_no_view(model):
    cache = model.start_stream(2)
    sizes = set()
    for count in (1, 5, 1, 9, 2):
        model.push(video(count), cache)
        sizes.add(cache.nbytes())
        for tensor in cache.tensors.values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    halves, embeds, tokens = 2 * 9 * 8, (T - 1) * 64, (T - 1) * 10 * 32
    assert sizes == {2 * (4 * (halves + embeds + tokens) + 8)}
    with torch.inference_mode():  # what was begun there goes on outside, and nothing holds on to gradients
        cache = model.start_stream(2)
        model.push(video(2), cache)
    model.push(video(2), cache)
    assert not any(tensor.requires_grad for tensor in cache.tensors.values())


def test_copies_selections_and_joins_go_on_apart(model):
    frames = video(8, batch=3)
    cache = model.start_stream(3)
    model.push(frames[:, :4], cache)
    saved = cache.copy()
    expected = model.push(frames[:, 4:], cache).logits
    torch.testing.assert_close(model.push(frames[:, 4:], saved.copy()).logits, expected, **CLOSE)
    chosen = saved.select([2, 0])
    torch.testing.assert_close(model.push(frames[[2, 0], 4:], chosen).logits, expected[[2, 0]], **CLOSE)
    joined = model.start_stream(1).join(saved.select([1])).join(saved.select(torch.tensor([0])))
    assert joined.frames_seen.tolist() == [0, 4, 4] and saved.frames_seen.tolist() == [4, 4, 4]
    output = model.push(frames[[2, 1, 0], 4:], joined)
    torch.testing.assert_close(output.logits[1:], expected[[1, 0]], **CLOSE)
    assert output.warming_up[0].tolist() == [True, True, True, False]
    saved.reset()
    assert saved.size is None and saved.nbytes() == 24 and "frames_seen=[0, 0, 0]" in repr(saved)


@pytest.mark.parametrize("fusion", ["interaction", "old mi_token"])
def test_the_state_is_saved_and_loaded(tmp_path, fusion):
    fields = {"alignment_causal": False, "alignment_fusion": "mi_token"} if fusion != "interaction" else {}
    model, frames = small(**fields).to(torch.bfloat16), video(6)
    cache = model.start_stream(2)
    model.push(frames[1:, :1], cache, rows=[1])
    for count in (1, 3):
        save_file(cache.state_dict(), tmp_path / "stream.safetensors")
        again = model.start_stream()
        again.load_state_dict(load_file(tmp_path / "stream.safetensors"))
        assert (again.size, again.precision, again.frames_seen.tolist()) == (
            cache.size,
            torch.bfloat16,
            cache.frames_seen.tolist(),
        )
        found, expected = model.push(frames[:, :count], again), model.push(frames[:, :count], cache)
        assert all(torch.equal(found[name].nan_to_num(), expected[name].nan_to_num()) for name in expected)
    fresh = model.start_stream(5)
    again.load_state_dict(fresh.state_dict())
    assert again.batch_size == 5 and again.size is None
    state = cache.state_dict()
    for change, message in (
        ({"layers.1": None}, r"missing: \['layers.1'\]"),
        ({"layer.9": state["size"]}, r"unknown: \['layer.9'\]"),
        ({"frames_seen": None}, "holds `frames_seen`"),
        ({"layers.0": state["layers.0"][:1]}, r"`layers.0` is \(1, 1, 3, 3, 8\)"),
        ({"frame_embeds": state["frame_embeds"][:, :1]}, "`frame_embeds` is"),
        ({"frame_embeds": torch.tensor(0.0)}, r"`frame_embeds` is \(\)"),
        ({"layers.0": state["layers.0"][:, :, 0, 0]}, r"`layers.0` is \(2, 1, 8\)"),
        ({"layers.0": state["layers.0"][:, :, :2]}, "different sizes"),
        ({"layers.0": state["layers.0"].long()}, "`layers.0` is of torch.int64"),
        ({"frames_seen": [4, 4]}, "other things: .'frames_seen'."),
        ({"frames_seen": torch.tensor([-1, 4])}, "`frames_seen` is"),
        ({"frames_seen": torch.tensor([1.5, 4])}, "`frames_seen` is"),
        ({"frames_seen": torch.tensor([[4], [4]])}, "`frames_seen` is"),
        ({"frames_seen": torch.zeros(0, dtype=torch.long)}, "`frames_seen` is"),
        ({"size": torch.tensor(12)}, "`size` is"),
        ({"size": torch.tensor([-12, 12])}, "`size` is"),
        ({"precision": torch.zeros(1, dtype=torch.long)}, "`precision` is of torch.int64"),
    ):
        broken = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        with pytest.raises(ValueError, match=message):
            model.start_stream().load_state_dict(broken)


@pytest.mark.slow
def test_what_a_stream_owns_is_told_apart_in_compiled_code():
    """With sizes that are not known, of which `nbytes` is an error."""
    compiled = torch.compile(lambda frames: owned(frames * 2), backend="eager", dynamic=True)
    frames = torch.ones(3, 4)
    torch.testing.assert_close(compiled(frames), frames * 2)


def test_a_tower_and_a_model_without_classes(model):
    frames = video(6)
    tower = pushed(model.vision_model, frames, [2, 4])
    whole = model.vision_model(frames, any_num_frames=True)
    torch.testing.assert_close(tower["last_hidden_state"], whole.last_hidden_state, **CLOSE)
    torch.testing.assert_close(tower["pooler_output"], whole.pooler_output, **CLOSE)
    both = IlaModel(model.config).eval()
    both.load_state_dict(model.state_dict(), strict=False)
    found = pushed(both, frames, [1, 5])
    assert "logits" not in found and found["pooler_output"].shape == (2, 6, 64)
    clip = both.get_video_features(frames[:, :T]).pooler_output
    torch.testing.assert_close(found["pooler_output"][:, T - 1], clip, **CLOSE)


def test_snapshots_other_sizes_and_one_call_for_any_number_of_frames():
    model, frames = small(), video(6)
    torch.testing.assert_close(
        pushed(model.fuse(), frames, [2, 4])["logits"], pushed(model, frames, [3, 3])["logits"], **CLOSE
    )
    wide = torch.randn(1, 6, 3, 8, 20, generator=torch.Generator().manual_seed(0))
    tower, options = model.vision_model, {"interpolate_pos_encoding": True}
    whole = tower(wide, any_num_frames=True, **options).last_hidden_state
    torch.testing.assert_close(pushed(tower, wide, [1, 5], **options)["last_hidden_state"], whole, **CLOSE)
    with pytest.raises(ValueError, match=r"`vision_model\(..., any_num_frames=True\)`; frame after frame: `push`"):
        model(frames)
    with pytest.raises(ValueError, match='temporal_module="gta" has weights for each of 4 frames'):
        small(alignment_causal=False, temporal_module="gta", gta_groups=4).vision_model(frames, any_num_frames=True)
    with pytest.raises(ValueError, match="`any_num_frames`"):
        model(frames, any_num_frames=True)
    one = small(mit_num_hidden_layers=0)
    assert one(frames, any_num_frames=True).logits.shape == (2, 3)


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16(autocast):
    """Two steps of that precision, of values below 8."""
    model, frames = small(), video(6)
    if not autocast:
        model = model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        whole = model.vision_model(frames, any_num_frames=True).last_hidden_state
        cache = model.vision_model.start_stream(2)
        found = pushed(model.vision_model, frames, [1, 2, 3], cache)["last_hidden_state"]
    assert (found.float() - whole.float()).abs().max() <= 2 * 2**-6 * whole.float().abs().max() / 2
    assert cache.precision == torch.bfloat16
    with pytest.raises(ValueError, match="began with precision torch.bfloat16, and now it is torch.float32"):
        (model if autocast else model.float()).vision_model.push(frames, cache)
    cache.to(torch.float32)
    model.vision_model.push(frames, cache)
    with pytest.raises(ValueError, match="`dtype` is torch.int64; allowed: a floating-point one"):
        cache.to(dtype=torch.long)


@pytest.mark.parametrize(
    "push, message",
    [
        (
            lambda m, c: m.push(video(2, size=16), c, interpolate_pos_encoding=True),
            r"size \(12, 12\), and now it is \(16, 16",
        ),
        (lambda m, c: m.push(video(2, size=16), c), "Another image size: `interpolate_pos_encoding=True`"),
        (lambda m, c: m.push(video(2)[0], c), "must be"),
        (lambda m, c: m.push(video(0), c), r"= \(any, 1 or more, 3, 12, 12\), got \(2, 0, 3, 12, 12\)"),
        (lambda m, c: m.push(video(2).to(torch.uint8), c), "normalised by the processor, got torch.uint8"),
        (lambda m, c: m.push(video(2, batch=3), c), "frames of 3 streams, for 2 rows of a cache of 2"),
        (lambda m, c: m.push(video(2), c, rows=[0]), "frames of 2 streams, for 1 rows"),
        (
            lambda m, c: m.push(video(2), c, rows=[0, 2]),
            r"`rows` is \[0, 2\]; allowed: None, or different numbers from 0 to 1",
        ),
        (lambda m, c: m.push(video(2), c, rows=[1, 1]), r"`rows` is \[1, 1\]"),
        (lambda m, c: m.push(video(2), c, rows=[-1, 0]), r"`rows` is \[-1, 0\]"),
        (lambda m, c: m.push(video(2), c, rows=[]), r"`rows` is \[\]"),
        (lambda m, c: m.push(video(2), None), "`cache` is a NoneType; allowed: an IlaStreamCache"),
        (lambda m, c: m.push(video(2), m.vision_model.start_stream(2)), "another model's streams"),
        (lambda m, c: m.push(video(2), small(alignment_conv="standard").start_stream(2)), "another model's streams"),
        (lambda m, c: m.push(video(2).to("meta"), c), "`pixel_values` are on meta, the model is on cpu"),
        (lambda m, c: copy.deepcopy(m).train().push(video(2), c), "in training mode"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(model, push, message):
    frames = video(3)
    cache = model.start_stream(2)
    model.push(frames, cache)
    before = {name: tensor.clone() for name, tensor in cache.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        push(model, cache)
    after = cache.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, None])
def test_numbers_of_streams(model, count):
    with pytest.raises(ValueError, match="`batch_size` is"):
        model.start_stream(count)


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({}, 'alignment_fusion="interaction" without alignment_causal'),
        ({"alignment_fusion": "residual"}, "looks two frames ahead"),
        ({"alignment_fusion": "mi_token", "alignment_pairing": "middle"}, "with a later one"),
        ({"alignment_fusion": "mi_token", "num_frames": 1}, "num_frames is 1"),
        ({"temporal_module": "shift"}, "takes channels from the frame after"),
        *(({"temporal_module": name}, "all frames") for name in ("joint", "divided", "message", "ata")),
    ],
)
def test_models_without_a_stream_say_why(fields, reason):
    config = tiny_config(**fields)
    for each in (config, config.vision_config):
        assert reason in why_no_stream(each)
    with pytest.raises(ValueError, match=f"has no stream, as .*{reason}"):
        IlaVisionModel(config.vision_config).start_stream()
    assert why_no_stream(IlaConfig(alignment_causal=True)) is None


@pytest.mark.parametrize(
    "fields", [{}, {"alignment_fusion": "mi_token"}, {"temporal_module": "shift"}], ids=["interaction", "mi", "shift"]
)
def test_a_configuration_that_is_changed_later_makes_no_stream(fields):
    model = small(**fields, alignment_causal=False)
    model.config.vision_config.alignment_causal = True
    for changed in (model, model.vision_model):
        with pytest.raises(ValueError, match="the model was made with False; allowed: False"):
            changed.start_stream()


def test_other_backbones_have_none():
    config = FrozenClipConfig(vision_config={**TINY_VISION, "image_size": SIDE}, num_frames=T, num_labels=3)
    for each in (config, AlignedTimesformerConfig(**TINY_VISION)):
        assert f'`model_type` is "{each.model_type}"' in why_no_stream(each)
    with pytest.raises(ValueError, match='This model has no stream, as `model_type` is "ila_frozen_clip"'):
        FrozenClipForVideoClassification(config).start_stream()


@pytest.mark.parametrize("trained", [True, False])
def test_causality_is_never_switched_for_trained_weights(tmp_path, trained):
    model, other = small(alignment_causal=trained), not trained
    model.save_pretrained(tmp_path / "ila")
    model.vision_model.save_pretrained(tmp_path / "tower")
    config = copy.deepcopy(model.config)
    config.vision_config.alignment_causal = other
    for kind, folder, given in (
        (IlaForVideoClassification, "ila", {"alignment_causal": other}),
        (IlaForVideoClassification, "ila", {"config": config}),
        (IlaModel, "ila", {"vision_config": {"alignment_causal": other}}),
        (IlaVisionModel, "tower", {"alignment_causal": other, "num_frames": 8}),
        (IlaVisionModel, "ila", {"alignment_causal": other}),
    ):
        message = f"was trained with alignment_causal={trained}, got {other} for it; allowed: {trained}"
        with pytest.raises(ValueError, match=message):
            kind.from_pretrained(tmp_path / folder, **given)
    again = IlaForVideoClassification.from_pretrained(tmp_path / "ila", alignment_causal=trained)
    assert again.config.vision_config.alignment_causal == trained
    torch.testing.assert_close(again(video(T)).logits, model(video(T)).logits, **CLOSE)
    if trained:
        with pytest.raises(ValueError, match="was trained with alignment_causal=True, got False"):
            FrozenClipForVideoClassification.from_pretrained(tmp_path / "ila", labels=["a", "b", "c"])
    fields = {
        "temporal_module": "shift",
        "alignment_causal": other,
    }  # which was not trained there, and begins as asked
    shifted = IlaForVideoClassification.from_pretrained(tmp_path / "ila", **fields)
    assert (why_no_stream(shifted.config) is None) == other
    clip = save_clip(tmp_path / "clip")
    started = IlaForVideoClassification.from_pretrained(clip, labels=["a", "b"], alignment_causal=other)
    assert started.config.vision_config.alignment_causal == other
