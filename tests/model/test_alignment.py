"""The alignment against a plain reference: the paper's equations written out in loops over scalars, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from transformers_ila.model.alignment_ila import ImplicitAlignment, ResidualAlignment, alignment_masks
from transformers_ila.model.configuration_ila import IlaVisionConfig
from transformers_ila.model.pairs_ila import WindowAttention


EXACT = 1e-10


def config(**fields):
    return IlaVisionConfig(
        **{
            "alignment_fusion": "mi_token",
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "alignment_hidden_size": 8,
            **fields,
        }
    )


def random_alignment(vision_config, seed=0, kind=ImplicitAlignment):
    """A module in float64 with non-trivial weights and statistics everywhere."""
    generator = torch.Generator().manual_seed(seed)
    module = kind(vision_config).double()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(values.abs() + 0.5 if "var" in name else 0.5 * values)
    return module.eval()


# --- the reference ---------------------------------------------------------------------------------------------------


def loop_conv(image, conv):
    """(channels, rows, columns) -> (out, rows, columns): any kernel, groups, zero padding that keeps the size."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    out_channels, per_group, kernel, _ = weight.shape
    _, rows, columns = image.shape
    reach = kernel // 2
    out = np.zeros((out_channels, rows, columns))
    for o, r, c in itertools.product(range(out_channels), range(rows), range(columns)):
        first = (o * conv.groups // out_channels) * per_group
        total = bias[o]
        for i, dr, dc in itertools.product(range(per_group), range(kernel), range(kernel)):
            rr, cc = r + dr - reach, c + dc - reach
            if 0 <= rr < rows and 0 <= cc < columns:
                total += weight[o, i, dr, dc] * image[first + i, rr, cc]
        out[o, r, c] = total
    return out


def loop_norm(image, norm):
    out = np.empty_like(image)
    for channel in range(len(image)):
        mean, var = norm.running_mean[channel].item(), norm.running_var[channel].item()
        scale, shift = norm.weight[channel].item(), norm.bias[channel].item()
        out[channel] = (image[channel] - mean) / math.sqrt(var + norm.eps) * scale + shift
    return out


def loop_pool(image):
    channels, rows, columns = image.shape
    high, wide = min(2, rows), min(2, columns)
    out = np.empty((channels, rows // high, columns // wide))
    for k, r, c in itertools.product(range(channels), range(rows // high), range(columns // wide)):
        out[k, r, c] = image[k, r * high : (r + 1) * high, c * wide : (c + 1) * wide].max()
    return out


def loop_conv_norm(image, block):
    layers = block.convolution if isinstance(block.convolution, torch.nn.Sequential) else [block.convolution]
    for layer in layers:
        image = loop_conv(image, layer)
    image = loop_norm(image, block.batch_norm)
    return np.maximum(loop_pool(image) if block.pool else image, 0)


def loop_grouped(vector, layer):
    weight, bias = layer.weight.detach().numpy()[..., 0], layer.bias.detach().numpy()
    half_in, half_out = len(vector) // 2, len(weight) // 2
    out = []
    for o in range(len(weight)):
        offset = half_in if o >= half_out else 0
        out.append(bias[o] + sum(weight[o, i] * vector[offset + i] for i in range(half_in)))
    return np.array(out)


def loop_points(previous, current, module):
    """Eq. 5 for one pair, frames as (D, rows, columns): [[x, y] of previous, [x, y] of current]."""
    image = np.concatenate([previous, current])
    blocks, head = module.pairs.interaction, module.pairs.point_head
    for block in [*blocks, *head.convolutions]:
        image = loop_conv_norm(image, block)
    vector = image.max((1, 2))
    values = loop_grouped(np.maximum(loop_grouped(vector, head.hidden), 0), head.points)
    return 0.75 * np.tanh(values).reshape(2, 2)


def loop_weight(s, eta, delta, beta):
    return eta if s <= delta else max(0.0, eta - beta * (s - delta))


def loop_mask(point, rows, columns, distance, eta, delta, beta):
    """Eq. 6."""
    mask = np.empty((rows, columns))
    for r, c in itertools.product(range(rows), range(columns)):
        u = -1 + 2 * c / (columns - 1) if columns > 1 else 0.0
        v = -1 + 2 * r / (rows - 1) if rows > 1 else 0.0
        if distance == "separable":
            mask[r, c] = loop_weight(abs(u - point[0]), eta, delta, beta)
            mask[r, c] *= loop_weight(abs(v - point[1]), eta, delta, beta) / eta  # eta once
        else:
            mask[r, c] = loop_weight(math.hypot(u - point[0], v - point[1]), eta, delta, beta)
    return mask


def loop_pooled(mask, frame):
    """Eq. 7 and Eq. 3a: the plain mean of the weighted patches, (D,)."""
    _, rows, columns = frame.shape
    total = np.zeros(len(frame))
    for r, c in itertools.product(range(rows), range(columns)):
        total += mask[r, c] * frame[:, r, c]
    return total / (rows * columns)


def loop_alignment(hidden, module, rows, columns):
    """(T, 1 + N, D) of one video -> tokens (T, D), 1 - cosine per pair, points (T-1, 2, 2)."""
    frames = [frame[1:].T.reshape(-1, rows, columns) for frame in hidden]
    c = module.pairs.config
    tokens, losses, all_points = [None] * len(frames), [], []
    for t in range(1, len(frames)):
        points = loop_points(frames[t - 1], frames[t], module)
        numbers = (c.alignment_distance, c.alignment_eta, c.alignment_delta, c.alignment_beta)
        previous = loop_pooled(loop_mask(points[0], rows, columns, *numbers), frames[t - 1])
        current = loop_pooled(loop_mask(points[1], rows, columns, *numbers), frames[t])
        cosine = previous @ current / math.sqrt((previous @ previous) * (current @ current))  # Eq. 9
        losses.append(1 - cosine)
        all_points.append(points)
        tokens[t] = current
        if t == 1:
            tokens[0] = previous
    return np.stack(tokens), losses, np.stack(all_points)


# --- the tests -------------------------------------------------------------------------------------------------------

FORMS = [
    {},
    {"alignment_distance": "euclidean"},
    {"alignment_conv": "standard"},
    {"alignment_eta": 0.8, "alignment_delta": 0.1, "alignment_beta": 0.9, "alignment_distance": "euclidean"},
    {"alignment_eta": 1.2, "alignment_beta": 2.0},
]


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (2, 1)])
@pytest.mark.parametrize("fields", FORMS)
def test_points_masks_token_and_loss_equal_the_loops(fields, grid):
    module = random_alignment(config(**fields))
    rows, columns = grid
    hidden = torch.randn(2, 3, 1 + rows * columns, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, tokens, loss, points, _ = module(hidden, rows, columns)
    token = tokens[:, :, -1]
    expected = [loop_alignment(video.numpy(), module, rows, columns) for video in hidden]
    assert np.abs(points.detach().numpy() - np.stack([points for _, _, points in expected])).max() < EXACT
    assert np.abs(token.detach().numpy() - np.stack([tokens for tokens, _, _ in expected])).max() < EXACT
    mean = np.mean([losses for _, losses, _ in expected])
    assert abs(loss.item() - mean) < EXACT
    assert points.abs().max() <= 0.75 and points.std() > 0.01


@pytest.mark.parametrize("distance", ["separable", "euclidean"])
@pytest.mark.parametrize("grid", [(7, 7), (14, 9), (1, 4), (1, 1)])
def test_masks_equal_the_loops_also_with_jitter(distance, grid):
    points = torch.tensor([[0.3, -0.6], [0.0, 0.0], [-0.75, 0.75]], dtype=torch.float64)
    for jitter in (0.0, 0.2):
        masks = alignment_masks(points, *grid, distance=distance, jitter=jitter)
        for point, mask in zip(points.numpy(), masks.numpy()):
            moves = [-jitter, 0, jitter] if jitter else [0]
            all_masks = [loop_mask(point + [dx, dy], *grid, distance, 1, 0.25, 1.5) for dx in moves for dy in moves]
            assert np.abs(mask - np.mean(all_masks, 0)).max() < EXACT


def test_masks_have_finite_gradients_at_the_point_itself():
    points = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    for distance in ("separable", "euclidean"):
        alignment_masks(points, 5, 5, distance=distance, beta=1.0, delta=0.0).sum().backward()
        assert torch.isfinite(points.grad).all()


def test_a_new_module_points_at_the_centre_of_every_frame():
    from transformers_ila import IlaVisionModel

    model = IlaVisionModel(config(num_frames=3)).eval()
    output = model(torch.randn(1, 3, 3, 16, 16), output_alignment=True)
    assert output.interactive_points[0].abs().max() == 0
    mask = output.alignment_masks[0]
    assert torch.equal(mask, mask.flip(-1)) and torch.equal(mask, mask.flip(-2)) and mask.max() <= 1


def test_jitter_acts_in_training_mode_only():
    module = random_alignment(config())
    hidden = torch.randn(1, 3, 17, 8, dtype=torch.float64)
    token = module(hidden, 4, 4).tokens
    module.pairs.training = True  # the batch norms stay in eval mode
    assert not torch.allclose(token, module(hidden, 4, 4).tokens)
    module.pairs.jitter = 0.0
    assert torch.equal(token, module(hidden, 4, 4).tokens)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_updates_batch_statistics_once(use_reentrant):
    hidden = torch.randn(2, 3, 17, 8, dtype=torch.float64, requires_grad=True)
    plain, checkpointed = random_alignment(config()).train(), random_alignment(config()).train()
    for module in (plain, checkpointed):
        for name, buffer in module.named_buffers():
            buffer.zero_() if "num_batches" in name else None
    plain(hidden, 4, 4).tokens.sum().backward()
    checkpoint(lambda x: checkpointed(x, 4, 4).tokens, hidden, use_reentrant=use_reentrant).sum().backward()
    for (name, buffer), expected in zip(checkpointed.named_buffers(), plain.buffers()):
        assert torch.equal(buffer, expected), name
        assert "num_batches" not in name or buffer == 1
    for weight, expected in zip(checkpointed.parameters(), plain.parameters()):
        assert torch.allclose(weight.grad, expected.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_float32_statistics(dtype):
    module = ImplicitAlignment(config())
    before = {name: buffer.clone() for name, buffer in random_alignment(config()).float().named_buffers()}
    module.load_state_dict(before, strict=False)
    module.to(dtype)
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert module.pairs.point_head.hidden.weight.dtype == dtype
    _, tokens, loss, points, _ = module(torch.randn(1, 3, 17, 8, dtype=dtype), 4, 4)
    assert tokens.dtype == points.dtype == dtype and loss.dtype == torch.float32


# --- the other fusions (Table 9) and the published network -----------------------------------------------------------


def loop_masks(previous, current, module, rows, columns):
    """Masks and points of one pair of frames, (N, D) each."""
    config = module.pairs.config
    frames = [frame.T.reshape(-1, rows, columns) for frame in (previous, current)]
    points = loop_points(*frames, module)
    numbers = (config.alignment_distance, config.alignment_eta, config.alignment_delta, config.alignment_beta)
    return [loop_mask(point, rows, columns, *numbers) for point in points], points


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_adding_and_appending_aligned_patches(fusion, grid):
    module = random_alignment(config(alignment_fusion=fusion))
    rows, columns = grid
    hidden = torch.randn(1, 3, 1 + rows * columns, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept, tokens, *_ = module(hidden, rows, columns)
    frames = hidden[0, :, 1:].numpy()
    for t in range(3):
        pair = (0, 1) if t == 0 else (t - 1, t)
        masks, _ = loop_masks(frames[pair[0]], frames[pair[1]], module, rows, columns)
        aligned = masks[0 if t == 0 else 1].reshape(-1, 1) * frames[t]
        expected = frames[t] + aligned if fusion == "add" else np.concatenate([frames[t], aligned])
        assert np.abs(tokens[0, t, 1:].detach().numpy() - expected).max() < EXACT
    assert kept is hidden and torch.equal(tokens[:, :, 0], hidden[:, :, 0])


def pairs_of(pairing, frames):
    """Previous and current frame of each pair."""
    anchor = {"adjacent": None, "first": 0, "middle": frames // 2}[pairing]
    if anchor is None:
        return [(t - 1, t) for t in range(1, frames)]
    return [(anchor, t) for t in range(frames) if t != anchor]


@pytest.mark.parametrize("pairing", ["adjacent", "first", "middle"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
@pytest.mark.parametrize("frames", [2, 5])
def test_interaction_equals_its_equation_frame_by_frame(frames, grid, pairing):
    module = random_alignment(config(alignment_fusion="interaction", alignment_pairing=pairing))
    rows, columns = grid
    x = torch.randn(1, frames, 1 + rows * columns, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hidden, tokens, *_ = module(x, rows, columns)
    patches = x[0, :, 1:].numpy()
    normed = module.pairs_norm(x)[0, :, 1:].detach().numpy()
    halves, token = {t: ([], []) for t in range(frames)}, {}  # as previous and as current frame
    pairs = pairs_of(pairing, frames)
    for before, now in pairs:
        image = np.concatenate([normed[t].T.reshape(-1, rows, columns) for t in (before, now)])
        for block in module.pairs.interaction:
            image = loop_conv_norm(image, block)
        halves[before][0].append(image[: len(image) // 2])
        halves[now][1].append(image[len(image) // 2 :])
        masks, _ = loop_masks(normed[before], normed[now], module, rows, columns)
        token[now] = (masks[1].reshape(-1, 1) * patches[now]).mean(0)
        token.setdefault(("previous", before, now), (masks[0].reshape(-1, 1) * patches[before]).mean(0))
    (alone,) = set(range(frames)) - {now for _, now in pairs}  # "current" in no pair: from that of its predecessor
    token[alone] = token["previous", *pairs[max(alone - 1, 0)]]
    skip = [tensor.detach().numpy() for tensor in (module.interaction_skip.weight, module.interaction_skip.bias)]
    for t in range(frames):
        nothing = np.zeros_like(image[: len(image) // 2])
        both = np.concatenate([np.mean(role, 0) if role else nothing for role in halves[t]])
        motion = both.reshape(-1, rows * columns).T @ skip[0].T + skip[1]
        assert np.abs(hidden[0, t, 1:].detach().numpy() - (patches[t] + motion)).max() < EXACT
        assert np.abs(tokens[0, t, -1].detach().numpy() - token[t]).max() < EXACT
    assert torch.equal(tokens[:, :, :-1], hidden) and torch.equal(hidden[:, :, 0], x[:, :, 0])


def test_window_attention_sees_its_own_window_only():
    """Against attention over the members of each window, one by one, on a grid that windows do not tile."""
    torch.manual_seed(0)
    attention = WindowAttention(8, heads=2).double()
    maps = torch.randn(2, 8, 4, 7, dtype=torch.float64)
    output = attention(maps)
    for video in range(2):
        for top, left in [(top, left) for top in (0, 3) for left in (0, 3, 6)]:
            window = maps[video, :, top : top + 3, left : left + 3]
            members = window.flatten(1).T  # (n, C)
            queries, keys, values = (
                part.unflatten(1, (2, 4)).transpose(0, 1) for part in attention.in_projection(members).chunk(3, 1)
            )
            mixed = (queries @ keys.mT / 2).softmax(-1) @ values
            expected = attention.out_projection(mixed.transpose(0, 1).flatten(1)).T.view_as(window)
            assert (output[video, :, top : top + 3, left : left + 3] - expected).abs().max() < EXACT


@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
@pytest.mark.parametrize("conv", ["depthwise_separable", "standard"])
def test_residual_alignment_equals_its_equation_frame_by_frame(conv, grid, frames):
    module = random_alignment(config(alignment_fusion="residual", alignment_conv=conv), kind=ResidualAlignment)
    rows, columns = grid
    x = torch.randn(1, frames, 1 + rows * columns, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hidden, tokens, loss, points, _ = module(x, rows, columns)
    y = module.message_norm(module.message(x))[0]  # (T, L, D)
    roles = {t: [] for t in range(frames)}  # (mask, features) of each role
    losses = []
    for t in range(1, frames):
        masks, expected = loop_masks(y[t - 1, 1:].detach().numpy(), y[t, 1:].detach().numpy(), module, rows, columns)
        assert np.abs(points[0, t - 1].detach().numpy() - expected).max() < EXACT
        image = np.concatenate([y[i, 1:].detach().numpy().T.reshape(-1, rows, columns) for i in (t - 1, t)])
        for block in module.pairs.interaction:
            image = loop_conv_norm(image, block)
        half = len(image) // 2
        roles[t - 1].append((masks[0], image[:half]))
        roles[t].append((masks[1], image[half:]))
        pooled = [(mask.reshape(-1, 1) * y[i, 1:].detach().numpy()).sum(0) for mask, i in zip(masks, (t - 1, t))]
        losses.append(1 - pooled[0] @ pooled[1] / np.linalg.norm(pooled[0]) / np.linalg.norm(pooled[1]))
    assert abs(loss.item() - np.mean(losses)) < EXACT
    shared = [torch.tensor(np.mean([features for _, features in roles[t]], 0)) for t in range(frames)]
    kernel, bias = module.temporal_convolution.weight[..., 0, 0], module.temporal_convolution.bias
    for t in range(frames):
        weights = torch.tensor(np.mean([mask for mask, _ in roles[t]], 0)).reshape(-1, 1)
        mixed = bias[:, None, None] + sum(
            torch.einsum("oi,ihw->ohw", kernel[:, :, step + 1], shared[t + step])
            for step in (-1, 0, 1)
            if 0 <= t + step < frames
        )
        interaction = module.interaction_projection(mixed.flatten(1).T)
        aligned = torch.cat([y[t, :1], weights * y[t, 1:]])
        expected = x[0, t] + module.aligned_skip(aligned) + module.interaction_skip(torch.cat([y[t, :1], interaction]))
        assert (hidden[0, t] - expected).abs().max() < EXACT
    assert tokens is hidden


def test_a_new_residual_model_is_plain_clip():
    from transformers_ila import IlaVisionModel

    fields = {"num_frames": 3}
    model = IlaVisionModel(config(alignment_fusion="residual", **fields)).eval()
    plain = IlaVisionModel(config(temporal_module="none", alignment_fusion="interaction", **fields)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    pixels = torch.randn(1, 3, 3, 16, 16)
    assert torch.equal(model(pixels).last_hidden_state, plain(pixels).last_hidden_state)
