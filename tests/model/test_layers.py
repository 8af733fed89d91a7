"""The MLP beside CLIP's: the same numbers in every precision; towers under function transforms and tracing."""

import pytest
import torch
from transformers.activations import ACT2FN
from transformers.models.clip.modeling_clip import CLIPMLP

from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import tiny_config
from transformers_ila import IlaVisionModel
from transformers_ila.model.layers_ila import QuickGELU


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_quick_gelu_is_that_of_transformers(dtype):
    values = (5 * torch.randn(1000, generator=torch.Generator().manual_seed(0))).to(dtype)
    largest = torch.tensor([-torch.finfo(dtype).max, torch.finfo(dtype).max], dtype=dtype) / 2
    values = torch.cat([values, largest]).requires_grad_()
    expected = ACT2FN["quick_gelu"](values)
    close = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 0}[dtype]
    torch.testing.assert_close(QuickGELU()(values), expected, atol=close, rtol=close)
    with torch.no_grad():
        before = values.clone()
        torch.testing.assert_close(QuickGELU()(values), expected, atol=close, rtol=close)
        assert torch.equal(values, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_place_it_gives_the_same_numbers_and_gradients(dtype):
    given = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    results = []
    for activation in (QuickGELU(), QuickGELU().fused()):
        result = activation(1 * given)
        results.append((result, *torch.autograd.grad(result.sum(), given)))
        with torch.no_grad():
            assert torch.equal(activation(1 * given), result)
    assert all(torch.equal(*pair) for pair in zip(*results))


def test_the_mlp_is_clips_and_keeps_what_hooks_are_given():
    tower = randomised(IlaVisionModel(tiny_config().vision_config)).eval()
    ours, theirs, seen = tower.encoder.layers[0].mlp, CLIPMLP(tower.config), []
    assert type(ours) is CLIPMLP
    theirs.load_state_dict(ours.state_dict())
    given = torch.randn(2, 3, 5, ours.fc1.in_features, generator=torch.Generator().manual_seed(0))
    ours.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            torch.testing.assert_close(ours(given), theirs(given), **CLOSE)
            assert torch.equal(seen.pop(), theirs.fc1(given))


@pytest.mark.parametrize("fields", [{}, {"temporal_module": "none"}])
def test_a_tower_can_be_mapped_over_and_called_with_other_weights(fields):
    tower = randomised(IlaVisionModel(tiny_config(**fields).vision_config)).eval()
    clips = pixels(batch=3)
    with torch.no_grad():
        expected = tower(clips).pooler_output
        mapped = torch.vmap(lambda clip: tower(clip[None]).pooler_output[0])(clips)
        torch.testing.assert_close(mapped, expected, **CLOSE)
        doubled = {name: 2 * weight for name, weight in tower.named_parameters()}
        other = torch.func.functional_call(tower, doubled, (clips,)).pooler_output
        for weight in tower.parameters():
            weight.mul_(2)
        torch.testing.assert_close(other, tower(clips).pooler_output, **CLOSE)


@pytest.mark.filterwarnings("ignore")  # of tracing: shapes are compared in Python
def test_a_trace_of_plain_frames_takes_other_batch_sizes():
    tower = randomised(IlaVisionModel(tiny_config(temporal_module="none").vision_config)).eval()
    tower.requires_grad_(False)  # the trace holds its weights as constants
    with torch.no_grad():
        traced = torch.jit.trace(lambda clips: tower(clips).pooler_output, pixels(), check_trace=False)
        torch.testing.assert_close(traced(pixels(batch=3)), tower(pixels(batch=3)).pooler_output, **CLOSE)
