"""A stream gives what one forward over the whole video gives, however the video is cut, and a wrong cache shows.

In float64, where what is exact differs by 1e-14 and a frame that went astray by 1e-3 or more.
"""

import random

import pytest
import torch
from safetensors.torch import load, save

from support.streams import (
    ALONE,
    GRIDS,
    HEADS,
    STREAMING,
    by_frame,
    head_of_windows,
    moving_video,
    push_all,
    random_chunks,
    stream_config,
    strong,
    whole,
)
from transformers_ila import IlaForVideoClassification, IlaVisionModel


EXACT, WRONG = 1e-10, 1e-3
FRAMES = 9


@pytest.fixture(autouse=True)
def same_weights():
    """`strong` adds to what a new model drew, and by some draws a wrong cache changes less than `WRONG`."""
    torch.manual_seed(0)


def apart(left, right):
    assert left.shape == right.shape
    return (left - right).abs().max().item()


@pytest.mark.parametrize("name", STREAMING)
@torch.inference_mode()
def test_any_chunking_is_one_forward_and_a_wrong_cache_shows(name):
    """Each form in one cut of its own, single frames among it; `tests/extra` cuts more."""
    number, options = [*STREAMING].index(name), {"interpolate_pos_encoding": True}
    model = strong(IlaVisionModel(stream_config(**STREAMING[name]).vision_config).double(), number)
    video = moving_video(2, FRAMES, GRIDS[number % 2], seed=number)
    expected, cache = whole(model, video), model.start_stream(2)
    outputs = push_all(model, video[:, :2], [1, 1], cache, **options)
    older = cache.copy()
    outputs += push_all(model, video[:, 2:3], [1], cache, **options)

    if name not in ALONE:
        zeroed, state = cache.copy(), cache.state_dict()
        zeroed.load_state_dict({key: 0 * kept if key.startswith("layers") else kept for key, kept in state.items()})
        wrong = {"zeroed": zeroed, "of another row": cache.select([1, 0])}
        if STREAMING[name].get("alignment_pairing") != "first":  # which keeps the first frame for ever
            wrong["one frame old"] = older
        for what, other in wrong.items():
            found = model.push(video[:, 3:4], other, **options).last_hidden_state
            assert (found - expected.last_hidden_state[:, 3:4]).abs().amax((1, 2, 3)).min() > WRONG, what

    chunks = random_chunks(FRAMES - 3, random.Random(number))
    outputs += push_all(model, video[:, 3:], chunks, cache, **options)
    for row in range(len(video)):
        for field in ("last_hidden_state", "pooler_output"):
            assert apart(by_frame(outputs, field, row), expected[field][row]) < EXACT, (chunks, field)


# -- heads ------------------------------------------------------------------------------------------------------------


def classifier(seed=0, **fields):
    return strong(IlaForVideoClassification(stream_config(**fields)).double(), seed)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["interaction, adjacent, separable", "old mi_token, adjacent, separable"])
@torch.inference_mode()
def test_logits_are_those_of_the_last_frames(head, form):
    model = classifier(**HEADS[head], **STREAMING[form])
    video = moving_video(2, FRAMES, GRIDS[0])
    tower = whole(model, video)
    expected, embeds = head_of_windows(model, tower), model.visual_projection(tower.pooler_output)
    outputs = push_all(model, video, [1, 1, *random_chunks(FRAMES - 2, random.Random(head))])
    for row in range(len(video)):
        assert apart(by_frame(outputs, "logits", row), expected[row]) < EXACT
        assert apart(by_frame(outputs, "frame_embeds", row), embeds[row]) < EXACT
        warming = by_frame(outputs, "warming_up", row).tolist()
        assert warming == [frame < model.config.num_frames - 1 for frame in range(FRAMES)]


@pytest.mark.parametrize("form", ["interaction, adjacent, separable", "mi_token, first, standard", "shift", "none"])
@torch.inference_mode()
def test_a_clip_in_a_cold_stream_is_the_model_on_that_clip(form):
    model = classifier(**STREAMING[form])
    clip = moving_video(2, model.config.num_frames, GRIDS[0])
    logits = model.push(clip, model.start_stream(2), logits_to_keep=1).logits[:, -1]
    assert apart(logits, model(clip).logits) < EXACT


@pytest.mark.parametrize("keep", [0, 1, 3])
@torch.inference_mode()
def test_logits_of_some_frames_change_no_others(keep):
    model = classifier(**STREAMING["interaction, adjacent, separable"])
    video = moving_video(2, FRAMES, GRIDS[0])
    expected = head_of_windows(model, whole(model, video))
    cache = model.start_stream(2)
    model.push(video[:, :4], cache, logits_to_keep=keep)
    found = model.push(video[:, 4:], cache, logits_to_keep=keep)
    assert found.logits.shape[1] == found.warming_up.shape[1] == keep
    assert (found.logits - expected[:, FRAMES - keep :]).abs().sum() < EXACT
    again = model.push(video[:, :1], cache, logits_to_keep=1).logits
    assert apart(again, head_of_windows(model, whole(model, torch.cat([video, video[:, :1]], dim=1)))[:, -1:]) < EXACT


@torch.inference_mode()
def test_merged_text_and_snapshots_stream_alike():
    model = classifier(**STREAMING["interaction, adjacent, separable"])
    video = moving_video(1, FRAMES, GRIDS[0])
    expected = by_frame(push_all(model, video, [1, 3, 5]), "logits")
    assert apart(by_frame(push_all(model.fuse(), video, [5, 3, 1]), "logits"), expected) < EXACT
    assert apart(by_frame(push_all(model.merge_text_tower(), video, [5, 3, 1]), "logits"), expected) < EXACT


@torch.inference_mode()
def test_a_stream_forgets_its_beginning_and_takes_no_more_memory():
    """After as many frames as layers align nothing is left of the frame that was paired with itself."""
    model = classifier(**HEADS["linear"], **STREAMING["interaction, adjacent, separable"])
    video = moving_video(1, 20, GRIDS[0])
    layers, cache = model.config.vision_config.num_hidden_layers, model.start_stream()
    later, sizes = whole(model, video[:, 5:]).last_hidden_state, []
    for chunk in video.split([4, 1, 9, 6], dim=1):
        model.push(chunk, cache)
        kept = cache.state_dict().values()
        sizes.append((cache.nbytes(), sum(tensor.untyped_storage().nbytes() for tensor in kept)))
    assert len({*sizes}) == 1
    whole_video = whole(model, video).last_hidden_state[:, 5:]
    assert apart(later[:, layers:], whole_video[:, layers:]) < EXACT
    assert apart(later[:, layers - 1], whole_video[:, layers - 1]) > WRONG


# -- cameras that come and go -----------------------------------------------------------------------------------------


class Cameras:
    """Streams of several videos in one cache, each checked against one forward over its own video."""

    def __init__(self, model, draw):
        self.model, self.draw, self.cache = model, draw, None
        self.seen, self.videos, self.expected, self.rows = {}, {}, {}, []  # rows: which camera is where
        self.count = self.checked = 0

    def new(self):
        name, self.count = self.count, self.count + 1
        self.videos[name] = moving_video(1, 2 * FRAMES, GRIDS[0], seed=100 + name)
        self.expected[name] = head_of_windows(self.model, whole(self.model, self.videos[name]))[0]
        self.seen[name] = 0
        return name

    def push(self):
        named = self.draw.sample(range(len(self.rows)), self.draw.randint(1, len(self.rows)))
        length = self.draw.randint(1, 4)
        names = [self.rows[row] for row in named]
        frames = [self.videos[name][:, self.seen[name] : self.seen[name] + length] for name in names]
        if any(part.shape[1] < length for part in frames):
            return
        rows = None if named == [*range(len(self.rows))] else named
        found = self.model.push(torch.cat(frames), self.cache, rows=rows)
        for row, name in enumerate(names):
            self.seen[name] += length
            for frame, logits in zip(found.frames[row].tolist(), found.logits[row]):
                if frame >= 0:
                    assert apart(logits, self.expected[name][frame]) < EXACT, (name, frame)
                    self.checked += 1

    def come(self):
        self.cache = self.cache.join(self.model.start_stream(1))
        self.rows.append(self.new())

    def start_anew(self):
        row = self.draw.randrange(len(self.rows))
        self.cache.reset([row])
        self.rows[row] = self.new()

    def leave(self):
        kept = self.draw.sample(range(len(self.rows)), max(1, len(self.rows) - 1))
        self.cache, self.rows = self.cache.select(kept), [self.rows[row] for row in kept]

    def be_copied(self):
        other = self.cache.copy()
        self.model.push(moving_video(len(self.rows), 2, GRIDS[0], seed=7), other)  # which is no business of ours
        copied = self.cache.copy()
        self.model.push(moving_video(len(self.rows), 2, GRIDS[0], seed=8), self.cache)
        self.cache = copied

    def be_saved(self):
        loaded = self.model.start_stream(len(self.rows))
        loaded.load_state_dict(load(save(self.cache.state_dict())))
        self.cache = loaded


@pytest.mark.parametrize("form", ["interaction, adjacent, separable", "old mi_token, first, separable", "shift"])
@torch.inference_mode()
def test_cameras_come_and_go(form):
    cameras = Cameras(classifier(**HEADS["linear"], **STREAMING[form]), random.Random(form))
    cameras.cache, cameras.rows = cameras.model.start_stream(2), [cameras.new(), cameras.new()]
    changes = (cameras.come, cameras.start_anew, cameras.leave, cameras.be_copied, cameras.be_saved)
    for number in range(10):
        cameras.push()
        changes[number % len(changes)]()
    assert cameras.checked > 15
