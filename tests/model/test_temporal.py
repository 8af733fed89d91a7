"""The temporal modules: each against its equation in loops or against another implementation, and what all must do."""

import itertools
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import XCLIPVisionConfig
from transformers.models.x_clip.modeling_x_clip import XCLIPVisionModel

from support.forms import FORMS, IN_EXTRA
from support.tiny_models import TINY_ILA, TINY_VISION, tiny_config
from transformers_ila import IlaForVideoClassification, IlaVisionConfig, IlaVisionModel
from transformers_ila.cost import count
from transformers_ila.model.temporal_ila import TEMPORAL_MODULES, aligned_routes, rearranged


MODULES = sorted(TEMPORAL_MODULES)
EXACT, CLOSE = 1e-12, 1e-5  # float64, float32


def vision_config(**fields):
    return IlaVisionConfig(**{**TINY_VISION, **TINY_ILA, "gta_groups": 4, "attn_implementation": "eager", **fields})


def module_of(name, *, randomise=True, **fields):
    """A layer's module in float64, with random weights everywhere."""
    config = vision_config(temporal_module=name, **fields)
    torch.manual_seed(0)
    module = IlaVisionModel(config).double().eval().encoder.layers[1].temporal
    if randomise:
        with torch.no_grad():
            for weight in module.parameters():
                weight.normal_(std=0.3)
    return module


def states(*, videos=2, frames=4, height=3, width=5, seed=1):
    torch.manual_seed(seed)
    return torch.randn(videos, frames, 1 + height * width, 32, dtype=torch.float64)


# -- what all must do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frames,size", [(4, (28, 28)), (3, (12, 20)), (2, (8, 4)), (1, (8, 8))])
def test_any_form_trains_on_any_grid(form, frames, size):
    config = tiny_config(
        **{"gta_groups": 4, "alignment_hidden_size": 32, "num_labels": 3, "num_frames": frames, **FORMS[form]}
    )
    torch.manual_seed(0)
    model = IlaForVideoClassification(config)
    with torch.no_grad():  # what starts with zeros would block the gradient of what lies before it
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    model.train()
    pixels = torch.randn(2, frames, 3, *size)
    output = model(pixels, labels=torch.tensor([0, 2]), interpolate_pos_encoding=True)
    assert output.logits.shape == (2, 3) and output.logits.isfinite().all()
    output.loss.backward()
    if frames > 1:
        new = {name: weight.grad for name, weight in model.named_parameters() if ".temporal." in name}
        # a key's bias adds the same to all scores, which the softmax takes out again, as batch norm does a bias
        cancelled = ("k_proj.bias", "convolution.bias", "convolution.1.bias")
        idle = [name for name, grad in new.items() if grad is None or not (grad.any() or name.endswith(cancelled))]
        if form == "message":  # class tokens of all frames are equal in the first layer: whom they ask is no matter
            idle = [name for name in idle if not re.search(r"layers\.0\.temporal\.attention\.[qk]_proj", name)]
        assert idle == []


@pytest.mark.parametrize("form", FORMS)
def test_saved_loaded_cast_and_checkpointed(form, tmp_path):
    torch.manual_seed(0)
    model = IlaForVideoClassification(tiny_config(**{"gta_groups": 4, "num_labels": 3, **FORMS[form]})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    pixels, labels = torch.randn(2, 4, 3, 28, 28), torch.tensor([0, 2])
    model.save_pretrained(tmp_path)
    loaded = IlaForVideoClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model(pixels).logits
        assert torch.equal(loaded(pixels).logits, expected)
        half = IlaForVideoClassification.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
        assert half(pixels.bfloat16()).logits.isfinite().all()
    half.train()(pixels.bfloat16(), labels=labels).loss.backward()
    trained = {name: weight.grad for name, weight in half.named_parameters() if weight.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.isfinite().all()] == []
    loaded.gradient_checkpointing_enable()
    gradients = []
    for each in (model, loaded):
        each.train()
        each.zero_grad()
        torch.manual_seed(0)
        each(pixels, labels=labels).loss.backward()
        gradients.append({name: weight.grad for name, weight in each.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def form_of(form, layers):
    """A small classifier whose module acts."""
    torch.manual_seed(0)
    fields = {"gta_groups": 4, "num_labels": 3, "classification_head": "linear"}
    fields |= {"vision_config": {**TINY_VISION, "num_hidden_layers": layers}, **FORMS[form]}
    model = IlaForVideoClassification(tiny_config(**fields)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model


def any_batch(videos):
    """Pixels whose first axis compiled code must take at any size."""
    pixels = torch.randn(videos, 4, 3, 28, 28)
    torch._dynamo.mark_dynamic(pixels, 0)
    return pixels


# ATA matches on the CPU, which no compiler reads: one place, that every layer comes by. Each of the calls that lead
# there ends a graph, which makes so many, whatever the number of layers (torch 2.15).
ATA_GRAPHS = 7

# On a CPU torch asks a convolution whether it has 16 images or more, and compiles once for either answer. All of these
# have, counted in frames and in pairs of frames.
BATCHES = (6, 7, 9)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ata", "joint", "ila interaction", "ila residual"])
def test_one_graph_for_any_batch(form):
    """Compiled it is the same, without a break but ATA's, and other batch sizes compile nothing anew.

    That no form has a break is seen in training below, and that none takes a batch for a constant in
    `tests/hub/test_exported_programs.py`.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, matched = form_of(form, layers=2), FORMS[form].get("temporal_module") == "ata"
    compiled = torch.compile(model, backend="eager", fullgraph=not matched)
    graphs = []
    with torch.no_grad():
        for videos in BATCHES:
            pixels = any_batch(videos)
            torch.testing.assert_close(compiled(pixels).logits, model(pixels).logits, rtol=CLOSE, atol=CLOSE)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    breaks = torch._dynamo.utils.counters["graph_break"]
    assert all("aligned_routes" in reason for reason in breaks) and bool(breaks) == matched
    # behind a break the mark on the batch is lost: of ATA's the second size makes graphs for all sizes
    assert graphs == ([ATA_GRAPHS, 2 * ATA_GRAPHS, 2 * ATA_GRAPHS] if matched else [1, 1, 1])


# A second layer compiles the same code in twice the time: only these show that layers do not disturb each other.
TWO_LAYERS = ("ata", "ila interaction", "ila residual")


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in FORMS if form not in IN_EXTRA])
def test_compiled_training_has_the_same_gradients_and_statistics(form):
    torch._dynamo.reset()
    models = [form_of(form, layers=2 if form in TWO_LAYERS else 1).train() for _ in range(2)]
    fullgraph = FORMS[form].get("temporal_module") != "ata"
    steps = [torch.compile(models[0], backend="aot_eager", fullgraph=fullgraph), models[1]]
    pixels = torch.randn(2, 4, 3, 28, 28)
    for step in steps:
        torch.manual_seed(0)
        step(pixels, labels=torch.tensor([0, 2])).loss.backward()
    for (name, weight), expected in zip(models[0].named_parameters(), models[1].parameters()):
        torch.testing.assert_close(weight.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)
    for (name, buffer), expected in zip(models[0].named_buffers(), models[1].buffers()):
        torch.testing.assert_close(buffer, expected, msg=name)


@pytest.mark.parametrize("name", ["shift", "divided", "ata", "gta", "interaction"])
def test_what_starts_silent_starts_as_plain_frames(name):
    """With CLIP's weights a tower begins as CLIP; shift and the tokens change what the attention sees at once."""
    field = {"alignment_fusion": name} if name == "interaction" else {"temporal_module": name}
    plain = "mi_token" if name == "interaction" else "none"
    other = {"alignment_fusion": plain} if name == "interaction" else {"temporal_module": plain}
    torch.manual_seed(0)
    model = IlaVisionModel(vision_config(**field)).eval()
    reference = IlaVisionModel(vision_config(**other)).eval()
    missing, _ = reference.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    pixels = torch.randn(2, 4, 3, 28, 28)
    with torch.no_grad():
        same = torch.equal(model(pixels).last_hidden_state, reference(pixels).last_hidden_state)
        difference = (model(pixels).last_hidden_state - reference(pixels).last_hidden_state).abs().max()
    assert same == (name != "shift") or difference < CLOSE


@pytest.mark.parametrize("name,sees", [("none", 0), ("average", 0), ("shift", 2), ("message", 4), ("divided", 4)])
def test_how_far_a_layer_sees(name, sees):
    """A change of the last frame reaches as many other frames in two layers as the module says."""
    torch.manual_seed(0)
    model = IlaVisionModel(vision_config(temporal_module=name, num_frames=5)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        pixels = torch.randn(1, 5, 3, 28, 28)
        changed = pixels.clone()
        changed[:, 4] += 1
        difference = (model(pixels).last_hidden_state - model(changed).last_hidden_state).abs().amax((0, 2, 3))
    assert (difference[:4] > 1e-7).sum() == sees and difference[4] > 1e-7


@pytest.mark.parametrize("form", ["joint", "divided", "ata", "gta", "ila mi_token"])
def test_other_numbers_of_frames_on_loading(form, tmp_path, caplog):
    model = IlaForVideoClassification(tiny_config(**{"gta_groups": 4, "num_labels": 3, **FORMS[form]}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    model.save_pretrained(tmp_path)
    longer = IlaForVideoClassification.from_pretrained(tmp_path, num_frames=8).eval()
    assert longer(torch.randn(1, 8, 3, 28, 28)).logits.isfinite().all()
    tower, before = longer.vision_model, model.vision_model
    if hasattr(tower, "time_embedding"):
        torch.testing.assert_close(tower.time_embedding.weight.mean(0), before.time_embedding.weight.mean(0))
    if form == "gta":
        mixed = [each.encoder.layers[0].temporal.pixel_weights.sum(-1).mean(-1) for each in (tower, before)]
        torch.testing.assert_close(*mixed)
    again = IlaForVideoClassification.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_mixed_precision(form, dtype):
    """A training step under autocast, on which no part of a module may stumble; features stay in half precision."""
    torch.manual_seed(0)
    model = IlaForVideoClassification(tiny_config(**{"gta_groups": 4, "num_labels": 3, **FORMS[form]}))
    pixels, labels = torch.randn(2, 4, 3, 28, 28), torch.tensor([0, 2])
    exact = model(pixels, labels=labels)
    with torch.autocast("cpu", dtype=dtype):
        output = model(pixels, labels=labels)
        hidden = torch.randn(2, 4, 17, 32)
        aligning = getattr(model.vision_model.encoder.layers[0].temporal, "pairs", None)
        if aligning is not None:
            assert aligning(hidden[:, :, 1:], 4, 4)[0].dtype == dtype
    output.loss.backward()
    assert (output.logits.float() - exact.logits).abs().max() < 0.15
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_matching_of_what_is_not_finite_leaves_it_to_the_loss():
    patches = torch.full((1, 3, 4, 8), torch.nan)
    assert aligned_routes(patches).sort(-1).values.tolist() == [[[0, 1, 2, 3]] * 3]


# -- one by one ------------------------------------------------------------------------------------------------------


CAUSAL = {
    f"{fusion} {pairing} {kind}": {"alignment_fusion": fusion, "alignment_pairing": pairing, **fields}
    for fusion in ("interaction", "mi_token", "add", "concat")
    for pairing in ("adjacent", "first")
    for kind, fields in {
        "separable": {},
        "standard": {"alignment_conv": "standard"},
        "windows": {"alignment_operator": "window_attention"},
    }.items()
}
CAUSAL |= {
    "on a DINOv2": FORMS["ila on a DINOv2"],
    "shift": {"temporal_module": "shift"},
    "one layer": {"alignment_layers": [1]},
}


@pytest.mark.parametrize("form", CAUSAL)
def test_no_frame_depends_on_a_later_one(form):
    """By values and by gradients; and each depends on the one that it is paired with."""
    torch.manual_seed(0)
    fields = {"alignment_beta": 0.4} if form != "shift" else {}  # no mask is 0 anywhere, which would hide the pair
    model = IlaVisionModel(vision_config(image_size=12, alignment_causal=True, **fields, **CAUSAL[form])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    clip = torch.randn(1, 6, 3, 12, 12, requires_grad=True)
    hidden = model(clip, any_num_frames=True).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden[:, 3].sum(), clip)
    paired = 0 if "first" in form else 2
    assert gradient[:, paired].any() and not gradient[:, 4:].any()
    with torch.no_grad():
        other = torch.cat([clip[:, :4], torch.randn(1, 2, 3, 12, 12)], dim=1)
        changed = model(other, any_num_frames=True).last_hidden_state
    apart = (changed - hidden).abs().amax((0, 2, 3))
    assert apart[:4].max() < CLOSE and apart[4] > 0.1


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"alignment_fusion": "residual"}, "looks two frames ahead"),
        ({"alignment_pairing": "middle"}, "pairs the frames of the first half with a later one"),
        *(({"temporal_module": name}, f'"{name}" ') for name in ("joint", "divided", "message", "ata", "gta")),
    ],
)
def test_what_looks_ahead_is_refused_as_causal(fields, reason):
    with pytest.raises(StrictDataclassError, match=f"`alignment_causal` is True; allowed: False, as .*{reason}"):
        vision_config(alignment_causal=True, **fields)


def test_average_token():
    hidden = states()
    output = module_of("average")(hidden, 3, 5)
    assert torch.equal(output.hidden_states, hidden) and output.tokens.shape == (2, 4, 17, 32)
    expected = sum(hidden[1, 2, 1 + patch] for patch in range(15)) / 15
    torch.testing.assert_close(output.tokens[1, 2, -1], expected, rtol=0, atol=EXACT)


def test_shift():
    hidden = states()
    tokens = module_of("shift")(hidden, 3, 5).tokens  # 4 of 32 channels each way
    for frame, token, channel in itertools.product(range(4), range(16), range(32)):
        source = frame - 1 if channel < 4 else frame + 1 if channel < 8 else frame
        expected = hidden[:, source, token, channel] if 0 <= source < 4 else torch.zeros(2, dtype=torch.float64)
        assert torch.equal(tokens[:, frame, token, channel], expected)


def test_message_equals_transformers_x_clip():
    """Whole towers with the same weights."""
    fields = {**TINY_VISION, "num_frames": 4, "drop_path_rate": 0.0, "mit_hidden_size": 32, "hidden_act": "quick_gelu"}
    torch.manual_seed(0)
    theirs = XCLIPVisionModel(XCLIPVisionConfig(**fields)).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    ours = IlaVisionModel(vision_config(temporal_module="message", hidden_act="quick_gelu")).eval()
    names = {
        "pre_layernorm": "pre_layrnorm",
        "message_fc": "temporal.message",
        "message_ln": "temporal.norm",
        "message_attn": "temporal.attention",
    }
    weights = {}
    for key, value in theirs.state_dict().items():
        for old, new in names.items():
            key = key.replace(f"{old}.", f"{new}.")
        weights[key.removeprefix("vision_model.")] = value
    ours.load_state_dict(weights)
    pixels = torch.randn(3, 4, 3, 28, 28)
    with torch.no_grad():
        expected, found = theirs(pixels.flatten(0, 1)), ours(pixels)
    torch.testing.assert_close(found.last_hidden_state.flatten(0, 1), expected.last_hidden_state, rtol=0, atol=CLOSE)
    torch.testing.assert_close(found.pooler_output.flatten(0, 1), expected.pooler_output, rtol=0, atol=CLOSE)


def attention_over_time(module, sequence):
    """TimeSformer's temporal attention of one position in plain steps: (T, D) -> (T, D)."""
    normed = module.norm(sequence)
    attention, heads, size = module.attention, 4, 8
    out = torch.empty_like(normed)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        queries, keys, values = (getattr(attention, f"{kind}_proj")(normed)[:, part] for kind in ("q", "k", "v"))
        out[:, part] = (queries @ keys.T * size**-0.5).softmax(-1) @ values
    return sequence + module.projection(attention.out_proj(out))


def test_divided_attention():
    hidden, module = states(), module_of("divided")
    output = module(hidden, 3, 5)
    assert torch.equal(output.hidden_states[:, :, 0], hidden[:, :, 0]) and output.tokens is output.hidden_states
    for video, patch in itertools.product(range(2), range(1, 16)):
        expected = attention_over_time(module.attention, hidden[video, :, patch])
        torch.testing.assert_close(output.tokens[video, :, patch], expected, rtol=0, atol=CLOSE)


def test_joint_attention_is_one_attention_over_all_tokens():
    torch.manual_seed(0)
    model = IlaVisionModel(vision_config(temporal_module="joint")).double().eval()
    layer, hidden = model.encoder.layers[0], states(height=7, width=7)
    with torch.no_grad():
        found, *_ = layer(hidden, (7, 7))
        flat = hidden.flatten(1, 2)
        flat = flat + layer.self_attn(layer.layer_norm1(flat))[0]
        flat = flat + layer.mlp(layer.layer_norm2(flat))
    torch.testing.assert_close(found.flatten(1, 2), flat, rtol=0, atol=EXACT)
    assert model.time_embedding.weight.shape == (4, 32)
    assert not hasattr(IlaVisionModel(vision_config()), "time_embedding")


# -- ata -------------------------------------------------------------------------------------------------------------


def serial_routes(patches):
    """ATA's algorithm as its paper writes it: each frame is matched with the rearranged one before; by brute force."""
    count = patches.shape[1]
    aligned = patches.clone()
    routes = [list(range(count))]
    for frame in range(1, len(patches)):
        cosines = F.normalize(aligned[frame - 1], dim=-1) @ F.normalize(patches[frame], dim=-1).T
        best = max(
            itertools.permutations(range(count)), key=lambda order: sum(cosines[i, j] for i, j in enumerate(order))
        )
        routes.append(list(best))
        aligned[frame] = patches[frame, list(best)]
    return torch.tensor(routes)


@pytest.mark.parametrize("patches", [1, 2, 5, 6])
def test_routes_are_those_of_brute_force(patches):
    torch.manual_seed(patches)
    hidden = torch.randn(2, 4, patches, 8)
    routes = aligned_routes(hidden)
    for video in range(2):
        assert torch.equal(routes[video], serial_routes(hidden[video]))


def test_patches_that_only_move_are_followed():
    torch.manual_seed(0)
    frame = torch.randn(30, 16)
    orders = torch.stack([torch.arange(30), *(torch.randperm(30) for _ in range(5))])
    clip = frame[orders][None]
    assert torch.equal(rearranged(clip, aligned_routes(clip))[0], frame.expand(6, -1, -1))


def test_the_round_trip_is_exact():
    hidden = states()[:, :, 1:]
    routes = aligned_routes(hidden)
    assert torch.equal(routes.sort(-1).values, torch.arange(15).expand(2, 4, 15))
    assert torch.equal(rearranged(rearranged(hidden, routes), routes.argsort(-1)), hidden)


@pytest.mark.parametrize("dealignment", [True, False])
def test_aligned_attention(dealignment):
    hidden, module = states(), module_of("ata", ata_dealignment=dealignment)
    found = module(hidden, 3, 5).tokens
    routes = aligned_routes(hidden[:, :, 1:])
    for video, start in itertools.product(range(2), range(15)):
        places = [1 + int(routes[video, frame, start]) for frame in range(4)]
        expected = attention_over_time(module.attention, hidden[video, range(4), places])
        landed = places if dealignment else [1 + start] * 4
        torch.testing.assert_close(found[video, range(4), landed], expected, rtol=0, atol=CLOSE)


def test_matching_has_no_gradient_and_no_parameters():
    assert {name for name, _ in module_of("ata").named_parameters()} == {
        name for name, _ in module_of("divided").named_parameters()
    }
    assert not aligned_routes(states().requires_grad_()).requires_grad


# -- gta -------------------------------------------------------------------------------------------------------------


def test_global_temporal_attention():
    """Eq. 5 to 8 of its paper, sum by sum, for one video."""
    hidden, module = states(videos=1), module_of("gta", gta_regions=3)
    found = module.after_attention(hidden)
    normed, groups = module.norm(hidden)[0], 4

    def mixed(weights, values):  # (T, D) -> (T, D): heads side by side, each the sum over groups
        parts = values.split(8, dim=-1)
        heads = [sum(weights[head, group] @ parts[group] for group in range(groups)) for head in range(groups)]
        return torch.cat(heads, dim=-1)

    expected = hidden[0].clone()
    for position in range(16):
        values = module.pixel_value(normed[:, position])
        expected[:, position] += module.pixel_out(mixed(module.pixel_weights, values))
    patches = normed[:, 1:]  # (T, N, D)
    grouping = module.regions.weight @ patches.mT / 15**0.5  # (T, K, N), G of every frame
    of_regions = module.region_value(grouping @ patches)  # (T, K, D)
    of_regions = torch.stack([mixed(module.region_weights, of_regions[:, k]) for k in range(3)], dim=1)
    expected[:, 1:] += module.region_out(grouping.mT @ of_regions)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"temporal_module": "gta", "gta_groups": 5}, "gta_groups.*divisor of hidden_size=32"),
        ({"gta_regions": 0}, "gta_regions"),
        ({"shift_division": 1}, "shift_division"),
        ({"temporal_module": "lstm"}, "temporal_module"),
        ({"alignment_operator": "window_attention", "alignment_fusion": "residual"}, "alignment_operator"),
        ({"alignment_pairing": "last"}, "alignment_pairing"),
    ],
)
def test_values_that_are_not_allowed(fields, message):
    with pytest.raises(Exception, match=message):
        vision_config(**fields)


def test_scipy_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("transformers_ila.model.temporal_ila.linear_sum_assignment", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        aligned_routes(torch.randn(1, 2, 3, 4))


# -- cost ------------------------------------------------------------------------------------------------------------


def test_order_of_costs_is_the_papers():
    """Of Table 4: nothing for the shift, one token for average and message, attention over time for the others."""
    cost = {name: count(tiny_config(gta_groups=4, temporal_module=name)).gmacs for name in (*MODULES, "none", "ila")}
    assert cost["none"] == cost["shift"] < cost["average"] < cost["message"] < cost["divided"] == cost["ata"]
