"""What a network does over time, against the attentions that it returns itself and against plain loops."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from support.tiny_models import TINY_TEXT, TINY_VISION, save_siglip, tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.siglip import SiglipForVideoClassification
from transformers_ila.backbones.timesformer import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
)
from transformers_ila.evaluation.inspection.temporal_inspection import (
    NO_EFFECT,
    NOT_ATA,
    TEMPORAL_WHAT,
    inspect_temporal,
)
from transformers_ila.model.temporal_ila import aligned_routes


T, H, W = 4, 3, 3  # frames, rows, columns
SIZE = {"image_size": 12, "patch_size": 4}
TOLERANCE = 1e-5  # of probabilities


def shaken(model):
    """Weights so large that attentions are far from even."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def ila(**fields):
    torch.manual_seed(0)
    vision = {**TINY_VISION, **SIZE, **{k: fields.pop(k) for k in ("num_register_tokens",) if k in fields}}
    if "num_register_tokens" in vision:
        fields |= {"classification_head": "linear"}
    return shaken(IlaForVideoClassification(tiny_config(vision_config=vision, num_labels=3, **fields)).eval())


def timesformer(module="ata", **fields):
    torch.manual_seed(0)
    config = AlignedTimesformerConfig(
        **{**TINY_VISION, **SIZE, "num_frames": T, "temporal_module": module, "num_labels": 3, **fields}
    )
    return shaken(AlignedTimesformerForVideoClassification(config).eval())


def frozen_clip(**fields):
    torch.manual_seed(0)
    config = FrozenClipConfig(
        vision_config={**TINY_VISION, **SIZE},
        text_config=TINY_TEXT,
        num_frames=T,
        num_labels=3,
        decoder_num_layers=2,
        **fields,
    )
    return shaken(FrozenClipForVideoClassification(config).eval())


def clip(height=12, width=12):
    return torch.randn(1, T, 3, height, width, generator=torch.Generator().manual_seed(1))


def layer_inputs(model, pixel_values):
    """Embeddings and every layer's output, each (T, L, D) as the tower has them."""
    tower = model.vision_model
    state = tower.embeddings(pixel_values[0], interpolate_pos_encoding=True)[None]
    if hasattr(tower, "time_embedding"):
        state = tower.time_embedding(state)
    states = [tower.pre_layrnorm(state)]
    for layer in tower.encoder.layers:
        states.append(layer(states[-1], (pixel_values.shape[-2] // 4, pixel_values.shape[-1] // 4))[0])
    return [state[0] for state in states]


FORMS = [
    {},
    {"alignment_fusion": "mi_token"},
    {"alignment_fusion": "residual"},
    {"temporal_module": "none"},
    {"temporal_module": "average"},
    {"temporal_module": "shift", "shift_division": 4},
    {"temporal_module": "divided"},
    {"temporal_module": "ata"},
    {"temporal_module": "joint"},
    {"temporal_module": "gta", "gta_groups": 4},
    {"temporal_module": "joint", "num_register_tokens": 2},
    {"temporal_module": "ata", "num_register_tokens": 2},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@torch.no_grad()
def test_attention_in_space_is_what_the_model_returns(form):
    model, query = ila(**form), (2, 1, 2)
    found = inspect_temporal(model, clip(), what="query_attention", query=query)
    model.set_attn_implementation("eager")
    attentions = model.get_video_features(clip(), output_attentions=True).attentions
    token = 1 + query[1] * W + query[2]
    for index, attention in enumerate(attentions):
        got = found.query_attention[index]
        if form.get("temporal_module") == "joint":
            tokens = attention.shape[-1] // T
            row = attention[0].mean(0)[query[0] * tokens + token]
            wanted = torch.stack([row[t * tokens + 1 : t * tokens + 1 + H * W] for t in range(T)])
            torch.testing.assert_close(got["spatiotemporal"], wanted.reshape(T, H, W), atol=TOLERANCE, rtol=0)
            assert "spatial" not in got and "temporal" not in got
        else:
            row = attention[query[0]].mean(0)[token]
            wanted = row[1 : 1 + H * W]
            torch.testing.assert_close(got["spatial"], wanted.reshape(H, W), atol=TOLERANCE, rtol=0)
        assert abs(float(got["elsewhere"] + wanted.sum()) - 1) < TOLERANCE
        assert ("temporal" in got) == (form.get("temporal_module") in ("divided", "ata", "gta"))


def over_time(attention, sequence):
    """The probabilities of one sequence (T, D) by a loop, the mean over heads, (T, T)."""
    width = sequence.shape[-1] // attention.num_heads
    queries, keys = attention.q_proj(sequence), attention.k_proj(sequence)
    total = torch.zeros(len(sequence), len(sequence))
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        for one in range(len(sequence)):
            scores = torch.tensor([float(queries[one, part] @ key[part]) * width**-0.5 for key in keys])
            total[one] += scores.softmax(0) / attention.num_heads
    return total


@pytest.mark.parametrize("module", ["divided", "ata"])
@torch.no_grad()
def test_attention_over_time_follows_the_place_or_the_route(module):
    model, (frame, row, column) = ila(temporal_module=module), (3, 0, 2)
    found = inspect_temporal(model, clip(), what="query_attention", query=(frame, row, column))
    for index, state in enumerate(layer_inputs(model, clip())[:-1]):
        patches, module_of_layer = state[:, 1:], model.vision_model.encoder.layers[index].temporal.attention
        route = torch.full((T,), row * W + column)
        if module == "ata":
            routes = aligned_routes(patches[None])[0]
            (place,) = (routes[frame] == row * W + column).nonzero()[0].tolist()
            route = routes[:, place]
            assert found.query_attention[index]["route"].tolist() == route.tolist()
        sequence = module_of_layer.norm(torch.stack([patches[t, route[t]] for t in range(T)]))
        wanted = over_time(module_of_layer.attention, sequence)[frame]
        torch.testing.assert_close(found.query_attention[index]["temporal"], wanted, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_routes_and_similarities():
    model = ila(temporal_module="ata")
    found = inspect_temporal(model, clip(), what="routes")
    assert found.aligned == (0, 1) and NOT_ATA not in found.notes and found.grid == (H, W)
    for index, state in enumerate(layer_inputs(model, clip())[:-1]):
        patches = state[:, 1:]
        assert torch.equal(found.routes[index], aligned_routes(patches[None])[0])
        for t in range(1, T):
            for n, (before, now) in enumerate(
                zip(found.routes[index][t - 1].tolist(), found.routes[index][t].tolist())
            ):
                cosine = F.cosine_similarity(patches[t - 1, before], patches[t, now], dim=0)
                assert abs(float(cosine - found.similarities[index][t - 1, n])) < TOLERANCE


@torch.no_grad()
def test_patches_that_stay_on_their_routes_are_shown_where_they_were():
    model, (frame, row, column) = ila(temporal_module="ata", ata_dealignment=False), (2, 1, 0)
    found = inspect_temporal(model, clip(), what=("routes", "query_attention"), query=(frame, row, column))
    assert any("where it was in its own frame" in note for note in found.notes)
    model.set_attn_implementation("eager")
    attentions = model.get_video_features(clip(), output_attentions=True).attentions
    order = torch.arange(H * W).repeat(T, 1)  # the patch in each place
    for index, state in enumerate(layer_inputs(model, clip())[:-1]):
        places = aligned_routes(state[None, :, 1:])[0]
        order = torch.stack([order[t][places[t]] for t in range(T)])
        assert torch.equal(found.routes[index], order)
        query = order[frame].tolist().index(row * W + column)
        weights = attentions[index][frame].mean(0)[1 + query, 1:]
        spatial = found.query_attention[index]["spatial"].flatten()
        for place in range(H * W):
            assert abs(float(spatial[order[frame, place]] - weights[place])) < TOLERANCE
        assert found.query_attention[index]["route"].tolist() == order[:, query].tolist()


@pytest.mark.parametrize("module", ["ata", "ila", "none"])
@torch.no_grad()
def test_timesformer(module):
    model, query = timesformer(module, alignment_layers=[1]), (1, 2, 0)
    found = inspect_temporal(model, clip(), what=("routes", "query_attention"), query=query)
    outputs = model.timesformer(clip(), output_attentions=True, output_hidden_states=True)
    assert sorted(found.routes) == ([1] if module == "ata" else [0, 1])
    for index, layer in enumerate(model.timesformer.encoder.layer):
        got = found.query_attention[index]
        wanted = outputs.attentions[index][query[0]].mean(0)[1 + query[1] * W + query[2], 1 : 1 + H * W]
        torch.testing.assert_close(got["spatial"], wanted.reshape(H, W), atol=TOLERANCE, rtol=0)
        patches = outputs.hidden_states[index][0, 1:].reshape(H * W, T, -1).transpose(0, 1)
        if index in found.routes:
            assert torch.equal(found.routes[index], aligned_routes(patches[None])[0])
        if index == 1 and module != "ata":
            assert "temporal" not in got
            continue
        route = got["route"] if index == 1 else torch.full((T,), query[1] * W + query[2])
        assert route[query[0]] == query[1] * W + query[2]
        sequence = layer.temporal_layernorm(torch.stack([patches[t, route[t]] for t in range(T)]))
        weights = layer.temporal_attention.attention(sequence[None], True)[1][0].mean(0)[query[0]]
        torch.testing.assert_close(got["temporal"], weights, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_gta():
    model = ila(temporal_module="gta", gta_groups=4, gta_regions=5)
    found = inspect_temporal(model, clip(), what=("weights", "regions", "query_attention"), query=(1, 0, 0))
    for index, layer in enumerate(model.vision_model.encoder.layers):
        for name, own in (("pixels", layer.temporal.pixel_weights), ("regions", layer.temporal.region_weights)):
            wanted = sum(own[head, group] for head in range(4) for group in range(4)) / 16
            torch.testing.assert_close(found.weights[index][name], wanted.abs(), atol=TOLERANCE, rtol=0)
        assert torch.equal(found.query_attention[index]["temporal"], found.weights[index]["pixels"][1])
        seen: list[torch.Tensor] = []
        handle = layer.temporal.norm.register_forward_hook(lambda module, args, output, to=seen: to.append(output))
        model.get_video_features(clip())
        handle.remove()
        wanted = torch.einsum("kd,tnd->tkn", layer.temporal.regions.weight, seen[0][0, :, 1:]) / 3  # root of N
        torch.testing.assert_close(found.regions[index], wanted.reshape(T, 5, H, W), atol=1e-4, rtol=1e-4)
    asked = inspect_temporal(model, clip(), what="regions", layers=[-1])
    assert list(asked.regions) == [1] and not asked.weights


@torch.no_grad()
def test_frame_integration():
    model = ila()
    found = inspect_temporal(model, clip(), what="frame_attention").frame_attention
    model.set_attn_implementation("eager")
    seen = []
    for layer in model.mit.encoder.layers:
        layer.self_attn.register_forward_hook(lambda module, args, output: seen.append(output[1][0]))
    model.get_video_features(clip())
    assert len(seen) == len(found) >= 1
    for index, wanted in enumerate(seen):
        torch.testing.assert_close(found[index], wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip(family, tmp_path):
    save_siglip(tmp_path, family)
    model = SiglipForVideoClassification.from_pretrained(
        tmp_path, labels=["a", "b"], attn_implementation="eager"
    ).eval()
    pixels = clip(12, 20) if family == "siglip2" else clip(28, 28)
    found = inspect_temporal(model, pixels, what=("query_attention", "routes"), query=(3, 2, 1))
    grid = (3, 5) if family == "siglip2" else (7, 7)
    attentions = model.get_video_features(pixels, output_attentions=True).attentions
    for index, attention in enumerate(attentions):
        wanted = attention[3].mean(0)[2 * grid[1] + 1].detach().reshape(grid)
        torch.testing.assert_close(found.query_attention[index]["spatial"], wanted, atol=TOLERANCE, rtol=0)
        assert found.routes[index].shape == (T, grid[0] * grid[1])
    assert NOT_ATA in found.notes


def test_other_sizes_frozen_clip_fused_and_half_precision():
    found = inspect_temporal(ila(), clip(12, 20), what=("query_attention", "routes"), query=(0, 2, 4))
    assert found.grid == (3, 5) and found.query_attention[0]["spatial"].shape == (3, 5)
    assert inspect_temporal(frozen_clip(), clip(), what="routes").routes[1].shape == (T, H * W)
    plain = ila(temporal_module="ata")
    for other in (plain.fuse(), plain.bfloat16()):
        found = inspect_temporal(other, clip(), what=("routes", "query_attention", "frame_attention"))
        assert found.query == (2, 1, 1) and found.query_attention[1]["spatial"].dtype == torch.float32
        assert (found.routes[0].sort(-1)[0] == torch.arange(H * W)).all()


def test_the_model_stays_as_it_is():
    model = ila(temporal_module="ata").train()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    before = model.config._attn_implementation
    for _ in range(2):
        inspect_temporal(model, clip(), what=("routes", "query_attention", "frame_attention"))
    with pytest.raises(ValueError, match="must be"):
        inspect_temporal(model, clip()[:, :2], what="routes")  # the model's own error
    assert [module.training for module in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert model.config._attn_implementation == before


def test_weights_that_add_nothing_are_said():
    torch.manual_seed(0)
    model = IlaForVideoClassification(
        tiny_config(vision_config={**TINY_VISION, **SIZE}, num_labels=3, temporal_module="divided")
    )
    assert NO_EFFECT in inspect_temporal(model, clip(), what="query_attention").notes
    assert NO_EFFECT not in inspect_temporal(shaken(model), clip(), what="query_attention").notes


def test_what_cannot_be_asked():
    model, pixels = ila(), clip()
    for arguments, message in (
        ({"what": "points"}, "allowed: one or several of routes, weights"),
        ({"what": ()}, "allowed: one or several"),
        ({"what": "weights"}, "\"weights\" are GTA's.*temporal_module='ila'"),
        ({"what": "routes", "layers": [2]}, r"`layers` is \[2\]; allowed: one or several of 0 to 1, or -2 to -1"),
        ({"what": "routes", "layers": [True]}, r"`layers` is \[True\]"),
        ({"what": "routes", "layers": []}, r"`layers` is \[\]"),
        ({"what": "routes", "query": (0, 0, 0)}, 'has an effect on "query_attention" only'),
        ({"what": "query_attention", "query": (4, 0, 0)}, "frame 0 to 3, row 0 to 2, column 0 to 2"),
        ({"what": "query_attention", "query": (0, 0)}, "frame 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            inspect_temporal(model, pixels, **arguments)
    with pytest.raises(ValueError, match=r"one clip.*got \(2, 4"):
        inspect_temporal(model, pixels.repeat(2, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="video classifier of this package, got Linear"):
        inspect_temporal(torch.nn.Linear(2, 2), pixels)
    gta = ila(temporal_module="gta", gta_groups=4, alignment_layers=[1])
    assert list(inspect_temporal(gta, pixels, what="weights").weights) == [1]
    with pytest.raises(ValueError, match=r"layers \[0\] have none; its layers \[1\] have them"):
        inspect_temporal(gta, pixels, what="regions", layers=[0, 1])
    for other, how in (
        (ila(mit_num_hidden_layers=0), "averages the frames' features .mit_num_hidden_layers=0."),
        (timesformer(), "one class token for all frames"),
        (frozen_clip(), "gathers the frames by a decoder"),
    ):
        with pytest.raises(ValueError, match=how):
            inspect_temporal(other, pixels, what="frame_attention")
    assert {field.name for field in dataclasses.fields(inspect_temporal(model, pixels))} >= {*TEMPORAL_WHAT}


@pytest.mark.parametrize(
    "form",
    [{"temporal_module": "ata", "ata_dealignment": False}, {"temporal_module": "gta", "gta_groups": 4}],
    ids=str,
)
def test_code_that_came_with_a_checkpoint_is_known_by_its_names(form):
    model = ila(**form)
    wanted = inspect_temporal(model, clip(), what=("routes", "query_attention"))
    for layer in model.vision_model.encoder.layers:  # another class of that name, as the Hub's code is
        own = type(layer.temporal)
        layer.temporal.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
    found = inspect_temporal(model, clip(), what=("routes", "query_attention"))
    assert found.aligned == wanted.aligned and found.notes == wanted.notes
    for index, own in wanted.query_attention.items():
        assert own.keys() == found.query_attention[index].keys()
        assert all(torch.equal(own[name], found.query_attention[index][name]) for name in own)
