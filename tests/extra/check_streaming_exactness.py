"""How far a stream is from one forward over the whole video, in real towers; `make test-extra PARTS=streams`.

Prints the worst difference of each run (`-s` shows it).
"""

import random

import pytest
import torch

from support.streams import (
    HEADS,
    STREAMING,
    TOWERS,
    by_frame,
    even_chunks,
    head_of_windows,
    moving_video,
    push_all,
    random_chunks,
    stream_config,
    strong,
    whole,
)
from transformers_ila import IlaConfig, IlaForVideoClassification, IlaVisionModel


FRAMES = 24
FORMS = ("interaction, adjacent, separable", "mi_token, adjacent, separable", "old mi_token, adjacent, separable")


def bfloat16_step(values):
    """The distance of neighbouring bfloat16 numbers at the largest of the values: 8 bits hold a number."""
    return 2.0 ** (values.abs().max().float().log2().floor().item() - 7)


def worst(outputs, expected):
    rows = range(len(expected.last_hidden_state))
    found = [by_frame(outputs, "last_hidden_state", row) - expected.last_hidden_state[row] for row in rows]
    return torch.stack(found).abs().max().item()


def tower_of(size, form, **fields):
    torch.manual_seed(0)
    config = IlaConfig.from_clip_size(size, text_config={"num_hidden_layers": 1}, **STREAMING[form], **fields)
    return strong(IlaVisionModel(config.vision_config))


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_twelve_layers_of_b32_in_float32(form):
    model, video = tower_of("B/32", form), moving_video(1, FRAMES, (224, 224), dtype=torch.float32)
    expected = whole(model, video)
    for length in (1, 3, 5, 17):
        outputs = push_all(model, video, even_chunks(FRAMES, length))
        found = worst(outputs, expected)
        print(f"B/32, {form}, chunks of {length}: {found:.1e} of up to {expected.last_hidden_state.abs().max():.1f}")
        assert found < 1e-5


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_twelve_layers_of_b32_in_bfloat16(form):
    model = tower_of("B/32", form)
    video = moving_video(1, FRAMES, (224, 224), dtype=torch.float32)
    exact, model, video = whole(model, video).last_hidden_state, model.bfloat16(), video.bfloat16()
    expected = whole(model, video)
    step, rounding = (
        bfloat16_step(expected.last_hidden_state),
        (expected.last_hidden_state - exact).abs().max().item(),
    )
    for length in (1, 5):
        found = worst(push_all(model, video, even_chunks(FRAMES, length)), expected)
        print(f"B/32 bfloat16, {form}, chunks of {length}: {found / step:.2f} steps; of float32 {rounding / step:.1f}")
        assert found <= 2 * step


@pytest.mark.parametrize("seed", range(100))
@torch.inference_mode()
def test_random_models_and_cuts_in_float32(seed):
    draw = random.Random(seed)
    fields = {**STREAMING[draw.choice([*STREAMING])], **HEADS[draw.choice([*HEADS])]}
    if fields.get("temporal_module", "ila") == "ila" and draw.random() < 0.3:
        fields |= TOWERS[draw.choice([*TOWERS])]
    size = (4 * draw.randint(1, 6), 4 * draw.randint(1, 6))
    layers = {"num_hidden_layers": draw.randint(2, 12)}
    model = strong(IlaForVideoClassification(stream_config(vision_config=layers, **fields)), seed)
    length, batch = draw.randint(2, 40), draw.randint(1, 3)
    video = moving_video(batch, length, size, seed, torch.float32)
    tower = whole(model, video)
    expected = head_of_windows(model, tower)
    outputs = push_all(model, video, random_chunks(length, draw, most=17), interpolate_pos_encoding=True)
    for row in range(batch):
        torch.testing.assert_close(by_frame(outputs, "logits", row), expected[row], atol=1e-4, rtol=0)
