"""A decoder on a frozen CLIP: what stays frozen, EVL's equations against loops, ILA in the tower and the decoder."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    CLIPVisionModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from support.tiny_models import save_clip, tiny_config
from transformers_ila import IlaVideoProcessor
from transformers_ila.backbones.frozen_clip import (
    DECODER_TEMPORAL,
    FrozenClipConfig,
    FrozenClipForVideoClassification,
    NeighbourAttention,
    TimeConvolution,
    queries_and_keys,
)
from transformers_ila.evaluation.inference import load_trained
from transformers_ila.hub.exporting import export
from transformers_ila.motionbench.tasks import make_videos, write_mp4


SMALL = {"num_frames": 4, "alignment_hidden_size": 8, "num_labels": 3}
EVL = {"temporal_module": "none"}
IN_DECODER = {"temporal_module": "none", "decoder_temporal": ["alignment"]}
BOTH = {"decoder_temporal": DECODER_TEMPORAL}
LABELS = torch.tensor([0, 2])
TOLERANCE = 1e-5  # of one module, sums in another order


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def clips():
    return torch.randn(2, 4, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def from_clip(folder, **fields):
    torch.manual_seed(1)
    given = {**SMALL, **fields}
    if "labels" in given:
        del given["num_labels"]
    return FrozenClipForVideoClassification.from_pretrained(folder, **given).eval()


def is_clips(name):
    return name.startswith("vision_model.") and ".temporal." not in name


def spread_temporal(model):
    """Numbers where EVL's temporal modules start with 0."""
    for layer in model.decoder.layers:
        for part in (layer.convolution, layer.neighbours):
            for weight in part.parameters() if part is not None else ():
                nn.init.normal_(weight)
        if hasattr(layer, "time_embedding"):
            nn.init.normal_(layer.time_embedding)
    return model


def test_which_hidden_states_come_back(clip, clips):
    model = from_clip(clip)
    every = model(clips, output_hidden_states=True).hidden_states
    assert len(every) == 3 and model(clips).hidden_states is None
    last = model(clips, output_hidden_states=[-1, 7]).hidden_states
    assert last[:2] == (None, None) and torch.equal(last[2], every[2])
    model.config.output_hidden_states = None
    assert model(clips).hidden_states is None


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, EVL, IN_DECODER, BOTH])
def test_all_of_clips_tower_is_loaded_and_only_new_weights_are_missing(clip, fields):
    model, info = FrozenClipForVideoClassification.from_pretrained(clip, **SMALL, **fields, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    ours = model.state_dict()
    assert info["missing_keys"] == {name for name in ours if not is_clips(name)}
    theirs = CLIPVisionModel.from_pretrained(clip).state_dict()
    loaded = {name.removeprefix("vision_model."): weight for name, weight in ours.items() if is_clips(name)}
    assert loaded.keys() == theirs.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize("fields", [{}, EVL, IN_DECODER, BOTH, {"temporal_module": "divided"}])
def test_saved_and_loaded_computes_the_same_bits(clip, clips, fields, tmp_path):
    model = spread_temporal(from_clip(clip, **fields))
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FrozenClipConfig)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    assert isinstance(again, FrozenClipForVideoClassification)
    assert torch.equal(again(clips).logits, model(clips).logits)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, weight in again.named_parameters() if weight.requires_grad} == trained


def test_the_pipeline_and_the_scripts_load_it(clip, clips, tmp_path):
    model = from_clip(clip, labels=["left", "right"])
    model.save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(model.config).save_pretrained(tmp_path)
    trained, processor = load_trained(tmp_path)
    assert isinstance(trained, FrozenClipForVideoClassification)
    assert torch.equal(trained.eval()(clips).logits, model(clips).logits)
    write_mp4(tmp_path / "video.mp4", next(make_videos(1, seed=0)).frames)
    found = pipeline("video-classification", model=str(tmp_path))(str(tmp_path / "video.mp4"))
    expected = model(**processor(str(tmp_path / "video.mp4"), return_tensors="pt")).logits.softmax(-1)
    assert {entry["label"] for entry in found} == {"left", "right"}
    assert abs(found[0]["score"] - expected.max().item()) < TOLERANCE


def test_other_sizes_than_the_checkpoints_interpolate(clip, tmp_path):
    spread_temporal(from_clip(clip)).save_pretrained(tmp_path)
    model = FrozenClipForVideoClassification.from_pretrained(tmp_path, num_frames=6, image_size=32).eval()
    assert model.decoder.layers[0].time_embedding.shape == (6, 32)
    assert model.decoder.layers[0].neighbours.before.shape == (15, 15, 32)
    assert model(torch.randn(1, 6, 3, 32, 32)).logits.shape == (1, 3)
    assert not any(weight.requires_grad for name, weight in model.named_parameters() if is_clips(name))
    assert all(weight.requires_grad for name, weight in model.named_parameters() if not is_clips(name))


# -- what it computes ------------------------------------------------------------------------------------------------


def test_the_tower_is_clip_on_every_frame(clip, clips):
    model, tower = from_clip(clip, **EVL), CLIPVisionModel.from_pretrained(clip).eval()
    found = model(clips, output_hidden_states=True).hidden_states
    expected = tower(clips.flatten(0, 1), output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours.flatten(0, 1), theirs, atol=TOLERANCE, rtol=TOLERANCE)
    assert model(clips).hidden_states is None


def test_the_decoder_against_loops(clip, clips):
    """q' = q + MHA(q, Y, Y), q'' = q' + MLP(q') for one video, Y = X + convolution + positions + neighbours."""
    model = spread_temporal(from_clip(clip, **EVL))
    states = model(clips, output_hidden_states=True).hidden_states
    query = model.decoder.query[None, None]
    for index, layer in enumerate(model.decoder.layers):
        below, features = states[index][:1], states[index + 1][:1]  # two layers in the tower, two in the decoder
        weight, bias = layer.convolution.weight[:, 0], layer.convolution.bias
        neighbours = layer.neighbours(*queries_and_keys(below, model.vision_model.encoder.layers[index]))
        memory = torch.zeros_like(features)
        for frame in range(4):
            for token in range(50):
                value = features[0, frame, token] + layer.time_embedding[frame] + bias
                for step in (-1, 0, 1):
                    if 0 <= frame + step < 4:
                        value = value + weight[:, step + 1] * features[0, frame + step, token]
                if token:
                    value = value + neighbours[0, frame, token - 1]
                memory[0, frame, token] = value
        memory = layer.memory_norm(memory.flatten(1, 2))
        query = query + layer.attention(layer.query_norm(query), memory, memory)[0]
        query = query + layer.mlp(layer.mlp_norm(query))
    found = model.get_video_features(clips[:1]).pooler_output
    torch.testing.assert_close(found, query[0], atol=TOLERANCE, rtol=TOLERANCE)


def test_neighbour_attention_against_loops():
    height, width, channels, frames = 2, 3, 5, 3
    module = NeighbourAttention(height, width, channels)
    nn.init.normal_(module.before)
    nn.init.normal_(module.after)
    queries, keys = torch.randn(2, 1, frames, 2, height * width, 4)  # one video, two heads of four channels
    expected = torch.zeros(1, frames, height * width, channels)
    for frame in range(frames):
        for other, weights in ((frame - 1, module.before), (frame + 1, module.after)):
            if not 0 <= other < frames:
                continue
            for place in range(height * width):
                scores = torch.stack([keys[0, other, head] @ queries[0, frame, head, place] / 2 for head in range(2)])
                attention = scores.softmax(-1).mean(0)
                for there in range(height * width):
                    down, across = place // width - there // width, place % width - there % width
                    expected[0, frame, place] += attention[there] * weights[down + height - 1, across + width - 1]
    torch.testing.assert_close(module(queries, keys), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_before_training_evls_decoder_knows_no_order(clip, clips):
    model, order = from_clip(clip, **EVL), [2, 0, 3, 1]
    torch.testing.assert_close(model(clips[:, order]).logits, model(clips).logits, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("module", DECODER_TEMPORAL[:3])
def test_each_of_evls_modules_tells_the_order_once_it_learned(clip, clips, module):
    model = spread_temporal(from_clip(clip, **EVL, decoder_temporal=[module]))
    assert not torch.allclose(model(clips.flip(1)).logits, model(clips).logits, atol=10 * TOLERANCE, rtol=0)


def test_without_a_temporal_module_there_is_no_order_to_learn(clip, clips):
    model = spread_temporal(from_clip(clip, **EVL, decoder_temporal=[]))
    assert not any(isinstance(part, (TimeConvolution, NeighbourAttention)) for part in model.modules())
    torch.testing.assert_close(model(clips.flip(1)).logits, model(clips).logits, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "fields, layers", [({}, 2), (EVL, 0), (IN_DECODER, 2), (BOTH, 4), ({"decoder_num_layers": 1}, 2)]
)
def test_alignments_add_their_losses(clip, clips, fields, layers):
    model = from_clip(clip, **({"alignment_loss_weight": 0.5} if layers else {}), **fields)
    output = model(clips, labels=LABELS)
    cross_entropy = nn.functional.cross_entropy(output.logits, LABELS)
    if not layers:
        assert output.alignment_loss is None
        torch.testing.assert_close(output.loss, cross_entropy)
        return
    losses = []
    for part in model.modules():
        if type(part).__name__ == "ImplicitAlignment":
            part.register_forward_hook(lambda module, arguments, temporal: losses.append(temporal.loss))
    model(clips)
    assert len(losses) == layers
    torch.testing.assert_close(output.alignment_loss, torch.stack(losses).sum())
    torch.testing.assert_close(output.loss, cross_entropy + 0.5 * output.alignment_loss)


def test_the_decoders_token_joins_each_frames_features(clip, clips):
    model, seen = from_clip(clip, **IN_DECODER), []
    model.decoder.layers[0].memory_norm.register_forward_hook(lambda module, arguments, output: seen.append(output))
    model(clips)
    assert seen[0].shape == (2, 4, 51, 32)


def test_several_views_are_averaged(clip, clips):
    model = from_clip(clip)
    views = torch.stack([clips, clips.flip(-1)], dim=1)
    expected = (model(clips).logits.softmax(-1) + model(clips.flip(-1)).logits.softmax(-1)) / 2
    torch.testing.assert_close(model(views).logits.softmax(-1), expected, atol=TOLERANCE, rtol=TOLERANCE)


# -- what stays frozen, what learns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, EVL, IN_DECODER, BOTH])
def test_a_training_step_leaves_clip_as_it_is(clip, clips, fields):
    model = spread_temporal(from_clip(clip, **fields)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    for _ in range(2):  # points start in the centre, and their layer with 0: what is below it learns from then on
        optimizer.zero_grad()
        model(clips, labels=LABELS).loss.backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(is_clips(name) for name in changed)
    unchanged = {name for name, _ in model.named_parameters() if not is_clips(name)} - changed
    assert unchanged == set()


@pytest.mark.parametrize("fields", [{}, EVL, IN_DECODER])
def test_clips_modules_stay_in_eval_mode(clip, fields):
    model = from_clip(clip, **fields).train()
    training = {name for name, module in model.named_modules() if module.training}
    layers = {f"vision_model.encoder.layers.{index}" for index in range(2)}  # their own flag: for checkpointing
    assert not {name for name in training if name.startswith("vision_model") and ".temporal" not in name} - layers
    assert {"decoder.layers.0.mlp", "classifier_dropout"} <= training
    assert ("vision_model.encoder.layers.0.temporal.pairs" in training) == (fields == {})
    assert not {name for name, module in model.eval().named_modules() if module.training}


def kept_by_the_tower(model, clips):
    """Bytes that autograd keeps while the tower runs."""
    kept, tower = [], model.vision_model.forward

    def counted(*args, **kwargs):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes), lambda _: None):
            return tower(*args, **kwargs)

    model.vision_model.forward = counted
    model(clips, labels=LABELS)
    return sum(kept)


def test_without_a_module_in_the_tower_none_of_its_activations_is_kept(clip, clips):
    assert kept_by_the_tower(from_clip(clip, **EVL).train(), clips) == 0
    assert kept_by_the_tower(from_clip(clip, **IN_DECODER).train(), clips) == 0
    everywhere = kept_by_the_tower(from_clip(clip).train(), clips)
    assert 0 < kept_by_the_tower(from_clip(clip, alignment_layers=[1]).train(), clips) < everywhere


def test_gradient_checkpointing_changes_nothing_but_memory(clip, clips):
    gradients, kept = [], []
    for checkpointing in (False, True):
        model = from_clip(clip, alignment_jitter=0.0, classifier_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(clips, labels=LABELS).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
        kept.append(kept_by_the_tower(model, clips))
    torch.testing.assert_close(gradients[1], gradients[0], atol=TOLERANCE, rtol=TOLERANCE)
    assert kept[1] < kept[0] / 2


def test_trains_with_the_trainer(clip, clips, tmp_path):
    model = from_clip(clip)
    data = [{"pixel_values": clip, "labels": index} for index, clip in enumerate(clips)]
    arguments = TrainingArguments(tmp_path, max_steps=2, report_to=[], use_cpu=True, save_strategy="no")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert trainer.predict(data).predictions.shape == (2, 3)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if is_clips(name))
    assert not torch.equal(after["decoder.query"], before["decoder.query"])


@pytest.mark.slow
@pytest.mark.proof
def test_evls_decoder_learns_which_way_a_picture_fades(clip):
    """Every frame may be of either class: without its temporal modules the decoder can only guess."""
    torch.manual_seed(0)
    picture = torch.randn(3, 28, 28)

    def fades(number):
        labels, strength = torch.randint(2, (number,)), torch.linspace(0, 1, 4).expand(number, 4)
        strength = torch.where(labels[:, None] == 1, strength, strength.flip(1))
        ground = 0.5 * torch.randn(number, 1, 3, 28, 28)
        return picture * strength[..., None, None, None] + ground, labels

    model = from_clip(clip, **EVL, num_labels=2, classifier_dropout=0.0).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    for _ in range(200):
        clips, labels = fades(16)
        optimizer.zero_grad()
        model(clips, labels=labels).loss.backward()
        optimizer.step()
    clips, labels = fades(200)
    with torch.no_grad():
        right = (model.eval()(clips).logits.argmax(-1) == labels).float().mean()
    assert right > 0.9


def test_labels_can_be_named(clip, clips):
    model = from_clip(clip, labels=["left", "right"])
    assert model(clips).logits.shape == (2, 2) and model.config.id2label == {0: "left", 1: "right"}
    with pytest.raises(ValueError, match="learned other classes"):
        model.set_labels(["up", "down", "still"])
    model.set_labels(["up", "down", "still"], ignore_mismatched_sizes=True)
    assert model(clips).logits.shape == (2, 3)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("decoder_num_layers", 3, "num_hidden_layers=2"),
        ("decoder_num_layers", 0, "None or 1 to"),
        ("decoder_temporal", ["shift"], "convolution, positions, attention, alignment"),
        ("decoder_temporal", ["positions", "positions"], "different ones"),
        ("decoder_num_attention_heads", 5, "divisor of hidden_size=32"),
        ("classification_head", "text", "linear"),
        ("alignment_hidden_size", 6, "multiple of 4"),
    ],
)
def test_values_that_are_not_allowed(clip, field, value, allowed):
    for make in (
        lambda: FrozenClipForVideoClassification.from_pretrained(clip, **{**SMALL, field: value}),
        lambda: FrozenClipConfig(vision_config=tiny_config().vision_config.to_dict(), **{field: value}),
    ):
        with pytest.raises(Exception, match=f"(?s){field}.*{allowed}") as error:
            make()
        assert "Strict" in type(error.value).__name__ and str(value) in str(error.value)


def test_no_residual_form_in_the_decoder():
    for decoder in (["alignment"], ["positions"]):
        fields = {"alignment_fusion": "residual", "decoder_temporal": decoder}
        if decoder == ["positions"]:
            FrozenClipConfig(vision_config=tiny_config().vision_config.to_dict(), **fields)
        else:
            with pytest.raises(Exception, match="`alignment_fusion` is 'residual'; allowed: .*interaction"):
                FrozenClipConfig(vision_config=tiny_config().vision_config.to_dict(), **fields)


@pytest.mark.parametrize("shape", [(2, 8, 3, 28, 28), (2, 4, 3, 32, 32), (4, 3, 28, 28)])
def test_other_shapes_are_errors_that_name_them(clip, shape):
    with pytest.raises(
        ValueError, match=r"\(any, 4, 3, 28, 28\), (with.*)?got " + str(shape).replace("(", r"\(")[:-1]
    ):
        from_clip(clip)(torch.zeros(shape))


def test_export_does_not_take_it(clip, tmp_path):
    """Its code is not among the files that an export holds."""
    model = from_clip(clip)
    with pytest.raises(ValueError, match="got FrozenClipForVideoClassification"):
        export(model, IlaVideoProcessor.for_model(model.config), tmp_path / "export")


def test_sizes_of_the_call_are_an_error_that_says_what_to_do(clip):
    with pytest.raises(ValueError, match=r"interpolate_pos_encoding.*image_size="):
        from_clip(clip)(torch.zeros(2, 4, 3, 32, 32), interpolate_pos_encoding=True)
