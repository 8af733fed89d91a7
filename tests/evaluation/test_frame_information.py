"""Mutual information against closed forms, exponents against powers, costs against what the modules are."""

import math

import pytest
import torch

from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.cost import cost, fitted_exponent, growth, kept_for_backward, module_gmacs
from transformers_ila.evaluation.frame_information import earth_movers_distance, last_patches, mutual_information


def on_circle(angles):
    """Features of length 1: (..., N) radians -> (..., N, 2)."""
    return torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)


def test_transport_between_points_on_a_short_arc_is_that_of_sorted_points():
    """On a line the cheapest plan joins the sorted points; a short arc is nearly one."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(2, 3, 40, generator=generator, dtype=torch.float64) * 1e-3
    expected = (angles.sort(-1).values.diff(dim=1)).abs().mean(-1)
    torch.testing.assert_close(earth_movers_distance(on_circle(angles)), expected, rtol=1e-6, atol=0)


def test_transport_by_a_rotation_of_single_points():
    angles = torch.zeros(1, 4, 1, dtype=torch.float64)
    angles[0, :, 0] = torch.tensor([0.0, 0.5, 0.5, 0.5 + math.pi])
    expected = torch.tensor([[2 * math.sin(0.25), 0.0, 2.0]], dtype=torch.float64)  # chords
    torch.testing.assert_close(earth_movers_distance(on_circle(angles)), expected, rtol=0, atol=1e-12)


def test_transport_knows_neither_order_nor_length():
    torch.manual_seed(0)
    frame = torch.randn(12, 8)
    clip = torch.stack([frame, 3 * frame[torch.randperm(12)]])[None]
    assert earth_movers_distance(clip).item() < 1e-6


def test_shared_information_between_its_bounds():
    same = torch.eye(6)[None, None].repeat(1, 2, 1, 1)
    torch.testing.assert_close(
        mutual_information(same, temperature=1e-2).item(), math.log(6), rtol=0, atol=1e-9
    )  # every patch tells which one comes next
    alike = torch.ones(1, 2, 6, 4)
    assert abs(mutual_information(alike).item()) < 1e-12  # and here nothing does
    p = 1 / (1 + math.exp(-1 / 0.5))  # two patches, cosines 1 and 0, temperature 0.5
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    found = mutual_information(torch.eye(2)[None, None].repeat(1, 2, 1, 1), temperature=0.5)
    torch.testing.assert_close(found.item(), math.log(2) - entropy, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="more than 0"):
        mutual_information(same, temperature=0)


def test_patches_of_the_last_layer():
    model = IlaForVideoClassification(tiny_config(num_labels=2)).eval()
    patches = last_patches(model, torch.randn(2, 4, 3, 28, 28))
    assert patches.shape == (2, 4, 49, 32) and earth_movers_distance(patches).shape == (2, 3)


def test_exponents():
    assert abs(fitted_exponent([1, 2, 4, 8], [3 * size**1.5 for size in (1, 2, 4, 8)]) - 1.5) < 1e-12
    assert math.isnan(fitted_exponent([1, 2], [0, 0]))
    for sizes, costs in (([1], [1]), ([1, 2], [1])):
        with pytest.raises(ValueError, match="two sizes or more"):
            fitted_exponent(sizes, costs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module,frames,patches",
    [("ila", 1, 1), ("average", 1, 1), ("joint", 2, 2), ("divided", (1, 2), 1), ("gta", (1, 2), (1, 1.6))],
)
def test_growth_is_that_of_the_table(module, frames, patches):
    found = growth(tiny_config(temporal_module=module, gta_groups=4, mit_num_hidden_layers=0, use_video_prompt=False))
    for exponent, expected in ((found.frames_exponent, frames), (found.patches_exponent, patches)):
        low, high = expected if isinstance(expected, tuple) else (expected, expected)
        assert low - 0.12 < exponent < high + 0.12, found


def test_modules_without_products_cost_nothing():
    assert module_gmacs(tiny_config(temporal_module="shift")) == 0
    assert module_gmacs(tiny_config(temporal_module="none")) == 0


def test_cost_of_a_model():
    found = cost(tiny_config(num_labels=2), rounds=2)
    assert found.gmacs > 0 and found.parameters > 0 and found.milliseconds > 0


def test_memory_is_of_activations_only():
    """Twice the clips keep twice the activations; weights are not among them, and checkpointing keeps fewer."""
    model = IlaForVideoClassification(tiny_config(num_labels=2, classification_head="linear")).train()
    clips = torch.randn(2, 4, 3, 28, 28)
    one, two = (kept_for_backward(model, clips[:number]) for number in (1, 2))
    assert 1.9 * one < two < 2.1 * one
    weights = sum(weight.numel() * 4 for weight in model.parameters()) / 2**20
    frozen = model.requires_grad_(False)
    assert weights > 0.05 and kept_for_backward(frozen, clips) == 0
    model.requires_grad_(True).gradient_checkpointing_enable()
    assert kept_for_backward(model, clips) < two / 2


def test_plain_frames_take_their_own_time():
    found = cost(tiny_config(num_labels=2, temporal_module="none"), rounds=1)
    assert found.times_plain > 0 and found.memory > 0
