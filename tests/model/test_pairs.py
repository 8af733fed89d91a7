"""The alignment as it is computed against the same network done plainly: the pairs' tensor, then layer after layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformers_ila.model.alignment_ila import ImplicitAlignment, PointPredictor, ResidualAlignment
from transformers_ila.model.configuration_ila import IlaVisionConfig


CLOSE, EXACT = 1e-5, 1e-10  # float32, float64; of the largest value, or of 1
SUMS = 1e-4  # float32 behind the statistics of a batch: gradients are sums over all frames, and biases' are 0
BFLOAT16 = 4e-2  # of the largest value: ten times its precision, for some ten layers
BFLOAT16_GRADIENTS = 0.1  # of their norm: a ReLU that opens here and not there is a gradient more
FUSIONS = ("mi_token", "interaction", "add", "concat", "residual")
PAIRINGS = ("adjacent", "first", "middle")
SHAPES = [  # frames, rows, columns
    (1, 3, 5),
    (2, 3, 5),
    (2, 7, 7),
    (5, 1, 2),
    (5, 7, 6),
    (64, 3, 5),
]


def alignment(fusion, *, seed=0, **fields):
    """A module with values everywhere, neither so small that nothing shows nor so large that all saturates."""
    numbers = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "alignment_hidden_size": 8}
    config = IlaVisionConfig(alignment_fusion=fusion, **numbers, **fields)
    module = (ResidualAlignment if fusion == "residual" else ImplicitAlignment)(config)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            values = 0.3 * torch.randn(tensor.shape, generator=generator)
            tensor.data.copy_(values.abs() + 0.5 if "var" in name else values + ("norm.weight" in name))
    return module


def frames_of(shape, *, seed=1):
    """One video where there are few frames, which takes a way of its own, and two elsewhere."""
    frames, rows, columns = shape
    videos = 1 if frames <= 5 and rows == 7 else 2
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(videos, frames, 1 + rows * columns, 16, generator=generator)


# --- the reference ---------------------------------------------------------------------------------------------------


def plain_pairs(frames, pairing):
    """(B, T, D, h, w) -> (B * (T-1), 2 D, h, w)"""
    count = frames.shape[1]
    anchor = {"adjacent": None, "first": 0, "middle": count // 2}[pairing]
    numbers = [(t - 1, t) for t in range(1, count)]
    if anchor is not None:
        numbers = [(anchor, t) for t in range(count) if t != anchor]
    pairs = [torch.cat([frames[:, one], frames[:, other]], dim=1) for one, other in numbers]
    return torch.stack(pairs, dim=1).flatten(0, 1)


def plain_block(features, block):
    """Convolution, batch norm, pool, ReLU."""
    layers = block.convolution if isinstance(block.convolution, nn.Sequential) else [block.convolution]
    for layer in layers:
        features = F.conv2d(features, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2, groups=layer.groups)
    norm = block.batch_norm
    normed = F.batch_norm(
        features.to(norm.weight.dtype),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.training,
        norm.momentum,
    )
    features = normed.to(features.dtype)
    if block.pool:
        features = F.max_pool2d(features, [min(2, size) for size in features.shape[-2:]])
    return features.relu()


def plain_points(self, patches, height, width):
    """`PointPredictor.forward`"""
    frames = patches.mT.unflatten(-1, (height, width))  # (B, T, D, h, w)
    features = plain_pairs(frames, self.config.alignment_pairing)
    for block in self.interaction:
        features = plain_block(features, block)
    head, inner = self.point_head, features
    for block in head.convolutions:
        inner = plain_block(inner, block)
    vectors = inner.amax((-2, -1))[..., None]
    hidden = F.conv1d(vectors, head.hidden.weight, head.hidden.bias, groups=2).relu()
    points = F.conv1d(hidden, head.points.weight, head.points.bias, groups=2)[..., 0]
    shape = (len(patches), -1)
    return features.unflatten(0, shape), (0.75 * points.tanh()).unflatten(0, shape).unflatten(-1, (2, 2))


def outcome(module, hidden, grid):
    """Everything that a layer takes from the module; gradients, and statistics where the batch is counted."""
    hidden = hidden.clone().requires_grad_()
    found = dict(zip(("hidden", "tokens", "loss", "points"), module(hidden, *grid)))
    found = {name: tensor for name, tensor in found.items() if tensor is not None}
    total = sum((tensor * tensor.detach().cos()).sum() for tensor in found.values())
    total.backward()
    gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    statistics = {name: value.clone() for name, value in module.named_buffers() if "running" in name}
    return found, {"hidden": hidden.grad, **gradients}, statistics


def both(monkeypatch, fusion, shape, *, training, dtype=torch.float32, **fields):
    """Outcomes of what is used and of the plain one."""
    outcomes = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(PointPredictor, "forward", plain_points)
        module = alignment(fusion, **fields).to(dtype).train(training)
        outcomes.append(outcome(module, frames_of(shape).to(dtype), shape[1:]))
    return outcomes


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_same_results_gradients_and_statistics(monkeypatch, fusion, training, shape):
    for dtype, tolerance in ((torch.float32, SUMS if training else CLOSE), (torch.float64, EXACT)):
        with monkeypatch.context() as patch:
            ours, plain = both(patch, fusion, shape, training=training, dtype=dtype)
        check(ours, plain, tolerance)
        assert (len(ours[1]) > 10) == (shape[0] > 1)  # a single frame is let through


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fusion", ["mi_token", "residual"])
def test_any_pairing(monkeypatch, fusion, training, pairing):
    for shape in ((2, 3, 3), (4, 3, 5)):
        with monkeypatch.context() as patch:
            outcomes = both(patch, fusion, shape, training=training, dtype=torch.float64, alignment_pairing=pairing)
        check(*outcomes, EXACT)


@pytest.mark.parametrize("fields", [{"alignment_conv": "standard"}, {"alignment_operator": "window_attention"}])
def test_other_interactions_see_the_same_pairs(monkeypatch, fields):
    module = alignment("mi_token", alignment_pairing="middle", **fields).eval()
    hidden, seen = frames_of((4, 3, 5)), []
    module.pairs.interaction[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(hidden, 3, 5)
    assert torch.equal(seen[0], plain_pairs(hidden[:, :, 1:].mT.unflatten(-1, (3, 5)), "middle"))


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 3, 5), (5, 7, 6), (64, 3, 5)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_in_bfloat16(monkeypatch, fusion, training, shape):
    (found, gradients, statistics), (expected, plain, others) = both(
        monkeypatch, fusion, shape, training=training, dtype=torch.bfloat16
    )
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        scale = tensor.float().abs().max()
        difference = (found[name].float() - tensor.float()).abs().max()
        assert difference <= BFLOAT16 * scale, (name, difference, scale)
    assert gradients.keys() == plain.keys()
    whole = torch.cat([gradient.float().flatten() for gradient in plain.values()])
    apart = torch.cat([(gradients[name].float() - plain[name].float()).flatten() for name in plain])
    assert apart.norm() <= BFLOAT16_GRADIENTS * whole.norm()
    for name, tensor in others.items():
        assert statistics[name].dtype == torch.float32
        torch.testing.assert_close(statistics[name], tensor, rtol=BFLOAT16, atol=BFLOAT16)


@pytest.mark.parametrize("name", ["interaction_skip.weight", "interaction_projection.weight", "message.weight"])
def test_weights_may_be_mapped_over(name):
    module, hidden = alignment("residual").eval(), frames_of((3, 3, 5))
    with torch.no_grad():
        before = module(hidden, 3, 5).tokens
        weights = torch.stack([module.get_parameter(name) + change for change in (0.0, 0.1)])
        called = [torch.func.functional_call(module, {name: weight}, (hidden, 3, 5)).tokens for weight in weights]
        for _ in range(2):
            mapped = torch.vmap(lambda w: torch.func.functional_call(module, {name: w}, (hidden, 3, 5)).tokens)(
                weights
            )
            check([{"tokens": mapped}], [{"tokens": torch.stack(called)}], CLOSE)
            assert torch.equal(module(hidden, 3, 5).tokens, before)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_without_gradients_the_result_is_the_same_and_what_was_given_is_left_alone(fusion, shape):
    module, hidden = alignment(fusion).eval(), frames_of(shape)
    given, expected = hidden.clone(), module(hidden, *shape[1:])
    with torch.no_grad():
        for found, plain in zip(module(hidden, *shape[1:]), expected):
            assert plain is None or (found - plain).abs().max() <= CLOSE * max(1, plain.abs().max())
    assert torch.equal(hidden, given)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_weights_may_be_elsewhere_between_calls(fusion):
    """Whatever moves weights hangs on the calls of the modules that own them."""
    accelerate = pytest.importorskip("accelerate")
    module, hidden = alignment(fusion).eval(), frames_of((3, 3, 5))
    with torch.no_grad():
        expected = module(hidden, 3, 5).tokens
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
        assert torch.equal(module(hidden, 3, 5).tokens, expected)


def check(ours, plain, tolerance):
    for found, expected in zip(ours, plain):
        assert found.keys() == expected.keys()
        scale = max([1.0, *(tensor.abs().max().item() for tensor in expected.values())])
        for name, tensor in expected.items():
            assert (found[name] - tensor).abs().max() <= tolerance * scale, name
