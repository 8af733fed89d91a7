"""ILA and ATA inside TimeSformer, beside Transformers' own TimeSformer with the same weights."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    TimesformerForVideoClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from support.tiny_models import TINY_VISION, save_timesformer
from transformers_ila import IlaVideoProcessor
from transformers_ila.backbones.timesformer import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    AlignedTimesformerLayer,
    AlignedTimesformerModel,
)
from transformers_ila.model.alignment_ila import ImplicitAlignment
from transformers_ila.model.temporal_ila import TemporalOutput
from transformers_ila.motionbench.tasks import make_videos, write_mp4


TINY = {**TINY_VISION, "num_hidden_layers": 3, "num_frames": 4, "num_labels": 5}
PATCHES = 49
TOLERANCE = 1e-5  # of one module, sums in another order


def spread(model, scale=0.2):
    """Weights so large that every one shows in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A TimeSformer as Transformers has it, and a folder with it."""
    folder = tmp_path_factory.mktemp("timesformer")
    return save_timesformer(folder, **TINY), folder


@pytest.fixture
def clips():
    return torch.randn(2, 4, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def adapted(folder, **fields):
    return AlignedTimesformerForVideoClassification.from_pretrained(
        folder, **{"alignment_hidden_size": 8, **fields}
    ).eval()


def without_attention_over_time(model):
    """The same TimeSformer when its attention over time adds nothing."""
    for layer in model.timesformer.encoder.layer:
        nn.init.zeros_(layer.temporal_dense.weight)
        nn.init.zeros_(layer.temporal_dense.bias)
    return model


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["ila", "ata", "none"])
def test_loads_every_weight_that_has_a_place(original, module):
    model, folder = original
    loaded, info = AlignedTimesformerForVideoClassification.from_pretrained(
        folder, temporal_module=module, output_loading_info=True
    )
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all(".alignment." in key for key in info["missing_keys"])
    assert bool(info["missing_keys"]) == (module == "ila")
    theirs, ours = model.state_dict(), loaded.state_dict()
    replaced = {key for key in theirs if ".temporal_" in key} if module != "ata" else set()
    assert set(theirs) - set(ours) == replaced and len(replaced) in (0, 3 * 8)
    assert all(torch.equal(theirs[key], ours[key]) for key in set(theirs) - replaced)


def test_the_base_model_loads_from_a_classifier(original, clips):
    model, folder = original
    base = AlignedTimesformerModel.from_pretrained(folder, temporal_module="ata", alignment_layers=[]).eval()
    assert torch.equal(base(clips).last_hidden_state, model.timesformer(clips).last_hidden_state)
    aligning = AlignedTimesformerModel.from_pretrained(folder).eval()
    found = aligning(clips, output_alignment=True)
    assert found.alignment_loss.ndim == 0
    assert [points.shape for points in found.interactive_points] == [(2, 3, 2, 2)] * 3
    assert aligning(clips).interactive_points is None


@pytest.mark.parametrize("fields", [{}, {"alignment_fusion": "interaction"}, {"temporal_module": "ata"}])
def test_saved_and_loaded_computes_the_same_bits(original, clips, fields, tmp_path):
    model = spread(adapted(original[1], **fields))
    model.save_pretrained(tmp_path)
    again = AlignedTimesformerForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(clips).logits, model(clips).logits)


def test_auto_classes_know_it(original, clips, tmp_path):
    model = adapted(original[1])
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), AlignedTimesformerConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), AlignedTimesformerModel)
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(clips).logits, model(clips).logits)


def test_the_pipeline_takes_it(original, tmp_path):
    model = adapted(original[1])
    model.save_pretrained(tmp_path)
    processor = IlaVideoProcessor.for_model(model.config)
    processor.save_pretrained(tmp_path)
    write_mp4(tmp_path / "video.mp4", next(make_videos(1, seed=0)).frames)
    (best, *_) = pipeline("video-classification", model=str(tmp_path))(str(tmp_path / "video.mp4"))
    expected = model(**processor(str(tmp_path / "video.mp4"), return_tensors="pt")).logits.softmax(-1)
    assert abs(best["score"] - expected.max().item()) < TOLERANCE


# -- what it computes ------------------------------------------------------------------------------------------------


def test_layers_left_out_are_timesformers_own(original, clips):
    model, folder = original
    expected = model(clips, output_attentions=True, output_hidden_states=True)
    found = adapted(folder, alignment_layers=[])(clips, output_attentions=True, output_hidden_states=True)
    assert torch.equal(found.logits, expected.logits)
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(expected[name])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[name], expected[name]))


def test_nothing_in_its_place_is_timesformer_without_attention_over_time(original, clips, tmp_path):
    model, folder = original
    logits = adapted(folder, temporal_module="none")(clips).logits
    expected = without_attention_over_time(TimesformerForVideoClassification.from_pretrained(folder).eval())
    assert torch.equal(logits, expected(clips).logits)
    assert not torch.allclose(logits, model(clips).logits, atol=1e-3)


def test_ila_without_its_token_is_timesformer_without_attention_over_time(original, clips, monkeypatch):
    _, folder = original
    model, bare = adapted(folder), adapted(folder, temporal_module="none")
    assert not torch.equal(model(clips).logits, bare(clips).logits)
    monkeypatch.setattr(ImplicitAlignment, "forward", lambda self, frames, *grid: TemporalOutput(frames, frames))
    assert torch.equal(model(clips).logits, bare(clips).logits)


def test_a_single_frame_has_nothing_to_align_with(tmp_path):
    model = save_timesformer(tmp_path, **{**TINY, "num_frames": 1})
    clip = torch.randn(2, 1, 3, 28, 28)
    found = adapted(tmp_path)(clip, labels=torch.tensor([0, 1]))
    assert torch.equal(found.logits, without_attention_over_time(model)(clip).logits)
    assert found.alignment_loss is None


def test_the_token_joins_every_frames_spatial_attention(original, clips):
    """One layer against loops over videos and frames: the token pooled by hand, the class token's copies averaged."""
    layer = spread(adapted(original[1])).timesformer.encoder.layer[1]
    hidden = torch.randn(2, 1 + PATCHES * 4, 32)
    found, attention, loss, points = layer(hidden, True)
    assert attention.shape == (8, 4, 51, 51) and points.shape == (2, 3, 2, 2) and loss.ndim == 0
    for video in range(2):
        class_token, patches = hidden[video, :1], hidden[video, 1:].reshape(PATCHES, 4, 32)
        masks = layer.alignment.pairs.masks(points, 7, 7)[video].reshape(3, 2, PATCHES, 1)
        of_class, of_patches = [], []
        for frame in range(4):
            mask = masks[frame - 1, 1] if frame else masks[0, 0]
            token = (mask * patches[:, frame]).sum(0, keepdim=True) / PATCHES
            tokens = torch.cat([class_token, patches[:, frame], token])
            attended = layer.attention(layer.layernorm_before(tokens)[None])[0][0]
            of_class.append(attended[:1])
            of_patches.append(patches[:, frame] + attended[1 : 1 + PATCHES])
        after = torch.cat([class_token + torch.stack(of_class).mean(0), torch.stack(of_patches, 1).flatten(0, 1)])
        after = after + layer.output(layer.intermediate(layer.layernorm_after(after)))
        torch.testing.assert_close(found[video], after, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("fusion, tokens", [("interaction", 51), ("add", 50), ("concat", 99)])
def test_other_fusions_change_what_space_sees(original, clips, fusion, tokens):
    model = adapted(original[1], alignment_fusion=fusion)
    output = model(clips, output_attentions=True)
    assert output.attentions[0].shape[-1] == tokens
    as_the_token = torch.equal(output.logits, adapted(original[1])(clips).logits)
    assert as_the_token == (fusion == "interaction")  # its skip starts with 0


def test_interaction_carries_motion_once_its_skip_has_learned(original, clips):
    model = adapted(original[1], alignment_fusion="interaction")
    before = model(clips).logits
    nn.init.normal_(model.timesformer.encoder.layer[0].alignment.interaction_skip.weight)
    assert not torch.allclose(model(clips).logits, before, atol=1e-4)


# -- ATA -------------------------------------------------------------------------------------------------------------


def test_equal_frames_match_in_place_and_give_the_original(original, clips):
    model, folder = original
    still = clips[:, :1].expand(-1, 4, -1, -1, -1)
    assert torch.equal(adapted(folder, temporal_module="ata")(still).logits, model(still).logits)


def test_only_layers_named_are_aligned(original, clips):
    model, folder = original
    everywhere = adapted(folder, temporal_module="ata")(clips).logits
    first = adapted(folder, temporal_module="ata", alignment_layers=[0])(clips).logits
    assert not torch.equal(first, model(clips).logits) and not torch.equal(first, everywhere)


def aligned_layer():
    return spread(AlignedTimesformerLayer(AlignedTimesformerConfig(**TINY, temporal_module="ata"), 0))


def test_moving_patches_along_moves_what_they_get():
    """Each frame shuffled on its own: routes follow their patches, and plain attention over time would not."""
    layer, patches = aligned_layer(), torch.randn(2, 1, PATCHES, 32) + 0.05 * torch.randn(2, 4, PATCHES, 32)
    orders = torch.stack([torch.randperm(PATCHES) for _ in range(4)])

    def shuffled(frames):
        return torch.stack([frames[:, frame, order] for frame, order in enumerate(orders)], dim=1)

    torch.testing.assert_close(
        layer.over_time(shuffled(patches)), shuffled(layer.over_time(patches)), atol=TOLERANCE, rtol=TOLERANCE
    )
    layer.temporal_module = "own"
    assert not torch.allclose(layer.over_time(shuffled(patches)), shuffled(layer.over_time(patches)), atol=1e-2)


def test_shifted_frames_are_attended_to_as_if_they_stood_still():
    layer, still = aligned_layer(), torch.randn(1, 1, PATCHES, 32).expand(-1, 4, -1, -1)
    moving = torch.stack([still[:, frame].roll(frame, dims=1) for frame in range(4)], dim=1)
    found = layer.over_time(moving)
    for frame in range(4):
        expected = layer.over_time(still)[:, frame].roll(frame, dims=1)
        torch.testing.assert_close(found[:, frame], expected, atol=TOLERANCE, rtol=TOLERANCE)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"alignment_fusion": "interaction"}, {"temporal_module": "ata"}])
def test_every_weight_gets_a_gradient(original, clips, fields):
    model = spread(adapted(original[1], **fields)).train()
    model(clips, labels=torch.tensor([0, 1])).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A convolution's bias in front of a batch norm is subtracted again; its gradient is 0 but for rounding.
    assert [name for name in without if "convolution" not in name] == []


def test_the_loss_is_the_weighted_sum(original, clips):
    labels = torch.tensor([0, 1])
    model = adapted(original[1], alignment_loss_weight=0.25)
    output = model(clips, labels=labels)
    expected = nn.functional.cross_entropy(output.logits, labels) + 0.25 * output.alignment_loss
    assert output.alignment_loss > 0
    torch.testing.assert_close(output.loss, expected)
    soft = nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(model(clips, labels=soft).loss, expected)
    as_tuple = model(clips, labels=labels, return_dict=False)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)


def test_several_views_are_averaged_as_probabilities(original, clips):
    model = adapted(original[1])
    views = torch.stack([clips, clips.flip(1)], dim=1)  # (B, V, T, C, H, W)
    with torch.no_grad():
        logits = model(views).logits
        each = torch.stack([model(view).logits for view in views.unbind(1)], dim=1)
        features = model.get_video_features(clips)
        assert torch.equal(model.classify(features), each[:, 0]) and features.pooler_output.shape == (2, 32)
    torch.testing.assert_close(logits.softmax(-1), each.softmax(-1).mean(1), atol=TOLERANCE, rtol=TOLERANCE)
    with model.constant_class_features():  # as the other classifiers have it
        assert model.config.class_names == [f"LABEL_{index}" for index in range(5)]


def test_a_snapshot_for_inference_computes_the_same(original, clips):
    model = adapted(original[1], alignment_fusion="interaction").train()
    snapshot = model.fuse()
    assert model.training and not snapshot.training
    with torch.no_grad():
        torch.testing.assert_close(snapshot(clips).logits, model.eval()(clips).logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="`save_pretrained` was called on a snapshot"):
        snapshot.save_pretrained("nowhere")


def test_what_no_timesformer_has_is_new(original):
    model, info = AlignedTimesformerForVideoClassification.from_pretrained(
        original[1], alignment_hidden_size=8, output_loading_info=True
    )
    parameters = {name for name, _ in model.named_parameters()}
    new = {name for name in parameters if any(part in name for part in model.new_parameters)}
    own = {
        "timesformer.embeddings.time_embeddings",
        "classifier.weight",
        "classifier.bias",
    }  # loaded ones
    assert new - own == parameters & set(info["missing_keys"]) and own < new


@pytest.mark.parametrize("module", ["ila", "ata"])
def test_gradient_checkpointing_changes_nothing(original, clips, module):
    gradients, statistics = [], []
    for checkpointing in (False, True):
        model = adapted(original[1], temporal_module=module, alignment_jitter=0.0)
        spread(model).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(clips, labels=torch.tensor([0, 1])).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
        statistics.append(dict(model.named_buffers()))
    for found in (gradients, statistics):
        torch.testing.assert_close(found[1], found[0], atol=TOLERANCE, rtol=TOLERANCE)


def test_trains_with_the_trainer(original, clips, tmp_path):
    model = adapted(original[1])
    data = [{"pixel_values": clip, "labels": index} for index, clip in enumerate(clips)]
    arguments = TrainingArguments(tmp_path, max_steps=2, report_to=[], use_cpu=True, save_strategy="no")
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.train()
    assert not torch.equal(model.classifier.weight, before["classifier.weight"])
    predicted = trainer.predict(data)
    assert predicted.predictions.shape == (2, 5)
    trainer.save_model(tmp_path / "saved")
    again = AutoModelForVideoClassification.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(again(clips).logits, model.eval()(clips).logits)


@pytest.mark.slow
@pytest.mark.proof
def test_interaction_learns_which_way_a_square_moves():
    """From scratch; it starts anywhere and goes around, so that no single frame tells."""
    torch.manual_seed(1)

    def moves(number):
        labels, start, row = torch.randint(2, (number,)), torch.randint(7, (number, 1)), torch.randint(7, (number, 1))
        columns = (start + (2 * labels[:, None] - 1) * torch.arange(4)) % 7  # (number, 4)
        grid = torch.zeros(number, 4, 7, 7)
        grid[torch.arange(number)[:, None], torch.arange(4), row, columns] = 3.0
        frames = grid.repeat_interleave(4, -1).repeat_interleave(4, -2)
        return frames[:, :, None].expand(-1, -1, 3, -1, -1), labels

    # not 0.02: a layer norm makes as much of an empty patch's tiny embedding as of the square's
    config = {**TINY_VISION, "num_frames": 4, "num_labels": 2, "alignment_hidden_size": 8, "initializer_range": 0.1}
    model = AlignedTimesformerForVideoClassification(
        AlignedTimesformerConfig(**config, alignment_fusion="interaction")
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(250):
        clips, labels = moves(32)
        optimizer.zero_grad()
        model(clips, labels=labels).loss.backward()
        optimizer.step()
    clips, labels = moves(200)
    with torch.no_grad():
        right = (model.eval()(clips).logits.argmax(-1) == labels).float().mean()
    assert right > 0.9


def test_half_precision_keeps_statistics_in_single(original, clips):
    model = adapted(original[1], dtype=torch.bfloat16)
    assert model.classifier.weight.dtype == torch.bfloat16
    assert {b.dtype for n, b in model.named_buffers() if "running" in n} == {torch.float32}
    assert model(clips.bfloat16()).logits.isfinite().all()


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 8, 3, 28, 28), (2, 4, 3, 32, 28), (2, 4, 1, 28, 28), (4, 3, 28, 28)])
def test_other_shapes_are_errors_that_name_them(original, shape):
    with pytest.raises(ValueError, match=r"\(any, 4, 3, 28, 28\), got " + str(shape).replace("(", r"\(")[:-1]):
        adapted(original[1])(torch.zeros(shape))


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("attention_type", "space_only", "divided_space_time"),
        ("temporal_module", "gta", "ata"),
        ("alignment_fusion", "residual", "interaction"),
        ("alignment_hidden_size", 6, "multiple of 4"),
        ("alignment_layers", [3], "between 0 and 2"),
        ("num_frames", 0, "1 or more"),
        ("patch_size", 29, "at least one patch"),
        ("alignment_loss_weight", -1, "0 or more"),
        ("label_smoothing", 1.0, "0 <= value < 1"),
    ],
)
def test_values_that_are_not_allowed(field, value, allowed):
    with pytest.raises(Exception, match=f"(?s){field}.*{allowed}") as error:
        AlignedTimesformerConfig(**{**TINY, field: value})
    assert "Strict" in type(error.value).__name__ and str(value) in str(error.value)


def test_labels_of_another_shape(original, clips):
    with pytest.raises(ValueError, match=r"class indices \(2,\) or probabilities \(2, 5\), got \(3,\)"):
        adapted(original[1])(clips, labels=torch.tensor([0, 1, 2]))
