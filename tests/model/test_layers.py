"""The MLP beside CLIP's: the same numbers in every precision, and what keeps it from its own way of computing them."""

import pytest
import torch
from transformers.activations import ACT2FN
from transformers.models.clip.modeling_clip import CLIPMLP

from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import TINY_VISION, tiny_config
from transformers_ila import IlaVisionModel
from transformers_ila.model.mlp_ila import QuickGelu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_quick_gelu_is_that_of_transformers(dtype):
    values = (5 * torch.randn(1000, generator=torch.Generator().manual_seed(0))).to(dtype)
    largest = torch.tensor([-torch.finfo(dtype).max, torch.finfo(dtype).max], dtype=dtype) / 2
    values = torch.cat([values, largest]).requires_grad_()
    expected = ACT2FN["quick_gelu"](values)
    close = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 0}[dtype]
    torch.testing.assert_close(QuickGelu()(values), expected, atol=close, rtol=close)
    with torch.no_grad():
        before = values.clone()
        torch.testing.assert_close(QuickGelu()(values), expected, atol=close, rtol=close)
        assert torch.equal(values, before)


@pytest.mark.parametrize("shape", [(7, 32), (2, 3, 5, 32), (1, 32), (2, 0, 32)])
@pytest.mark.parametrize("hidden", [37, 32, 128])
def test_the_mlp_without_gradients_is_clips(shape, hidden, monkeypatch):
    config = tiny_config(vision_config={**TINY_VISION, "intermediate_size": hidden}).vision_config
    tower = randomised(IlaVisionModel(config)).eval()
    ours, theirs = tower.encoder.layers[0].mlp, CLIPMLP(tower.config)
    theirs.load_state_dict(ours.state_dict())
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(given)
        with monkeypatch.context() as fast:
            fast.setattr(CLIPMLP, "forward", None)  # so it is not computed as it stands
            torch.testing.assert_close(ours(given), expected, **CLOSE)
        for half in (torch.bfloat16, torch.float16):
            assert ours.to(half)(given.to(half)).dtype == half
            torch.testing.assert_close(ours(given.to(half)), theirs.to(half)(given.to(half)), atol=0.02, rtol=0.02)
        ours.float(), theirs.float()
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ours(given), theirs(given), atol=0.02, rtol=0.02)


def with_hook(mlp, seen):
    mlp.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))


def with_activation_hook(mlp, seen):
    mlp.activation_fn.register_forward_hook(lambda module, inputs, output: seen.append(output))


def in_a_wrapper(mlp, seen):
    mlp.fc2 = torch.nn.Sequential(mlp.fc2)
    mlp.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))


def with_another_forward(mlp, seen):
    forward = mlp.fc2.forward
    mlp.fc2.forward = lambda values: seen.append(values) or forward(values)  # as offloading does it


def with_a_hook_on_all_modules(mlp, seen):
    def keep(module, inputs):
        if module is mlp.fc2:
            seen.append(inputs[0])

    return torch.nn.modules.module.register_module_forward_pre_hook(keep)


WATCHERS = [with_hook, with_activation_hook, in_a_wrapper, with_another_forward, with_a_hook_on_all_modules]


@pytest.mark.parametrize("watch", WATCHERS)
def test_whoever_watches_the_mlp_sees_its_layers(watch):
    tower, seen = randomised(IlaVisionModel(tiny_config().vision_config)).eval(), []
    mlp = tower.encoder.layers[0].mlp
    given = torch.randn(3, mlp.fc1.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, activated = mlp(given), ACT2FN["quick_gelu"](mlp.fc1(given))
        handle = watch(mlp, seen)
        torch.testing.assert_close(mlp(given), expected, **CLOSE)
        if handle is not None:
            handle.remove()
        torch.testing.assert_close(seen[0], activated, **CLOSE)


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
