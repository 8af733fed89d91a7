"""What users do with the models: load from CLIP, name classes, give views, cast, compile, checkpoint, save."""

import copy
import logging
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForVideoClassification, AutoTokenizer, CLIPModel

from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import save_clip, tiny_config
from transformers_ila import IlaConfig, IlaForVideoClassification, IlaModel, IlaVisionModel
from transformers_ila.backbones.frozen_clip import FrozenClipForVideoClassification
from transformers_ila.model.layers_ila import IlaEncoderLayer


LABELS = ["abseiling", "air drumming", "answering questions"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


# --- from CLIP -------------------------------------------------------------------------------------------------------


def test_one_line_from_a_clip_folder(clip):
    model, info = IlaForVideoClassification.from_pretrained(
        clip, labels=LABELS, num_frames=6, output_loading_info=True
    )
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["air drumming"] == 1
    assert model.config.num_frames == 6 and model.num_labels == 3
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    weights, original = model.state_dict(), CLIPModel.from_pretrained(clip).state_dict()
    for name, weight in original.items():
        assert torch.equal(weights[name], weight), name
    assert all(name not in original for name in info["missing_keys"])
    assert model.vision_model.encoder.layers[0].temporal.pairs.point_head.points.weight.abs().max() == 0
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    expected = AutoTokenizer.from_pretrained(clip)(LABELS, padding="max_length", max_length=32)["input_ids"]
    assert model.class_input_ids.tolist() == expected
    assert model.eval()(pixels(frames=6)).logits.shape == (2, 3)


def test_plain_clip_tower_equals_clip(clip):
    video = pixels(frames=5)
    ours = IlaVisionModel.from_pretrained(clip, temporal_module="none", num_frames=5).eval()
    theirs = CLIPModel.from_pretrained(clip).vision_model.eval()(video.flatten(0, 1))
    output = ours(video)
    torch.testing.assert_close(output.last_hidden_state.flatten(0, 1), theirs.last_hidden_state, **CLOSE)
    torch.testing.assert_close(output.pooler_output.flatten(0, 1), theirs.pooler_output, **CLOSE)


def test_text_features_equal_clip(clip):
    ids = AutoTokenizer.from_pretrained(clip)(LABELS, padding=True, return_tensors="pt")["input_ids"]
    ours = IlaModel.from_pretrained(clip).eval().get_text_features(ids).pooler_output
    theirs = CLIPModel.from_pretrained(clip).eval().get_text_features(ids).pooler_output
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_labels_without_a_tokenizer_say_what_to_do(tmp_path, clip):
    save_clip(tmp_path, tokenizer=False)
    with pytest.raises(ValueError, match="holds none.*tokenizer=.*set_class_input_ids"):
        IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS)
    tokenizer = AutoTokenizer.from_pretrained(clip)
    model = IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS, tokenizer=tokenizer)
    assert model.config.id2label[2] == LABELS[2]


def test_a_tokenizer_of_another_text_tower_is_refused(tmp_path):
    save_clip(tmp_path, eos_token_id=150)
    with pytest.raises(ValueError, match="eos_token_id.*150"):
        IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS)
    save_clip(tmp_path / "old", eos_token_id=2)
    assert IlaForVideoClassification.from_pretrained(tmp_path / "old", labels=LABELS).num_labels == 3


@pytest.mark.parametrize("labels", ["abseiling", [], ["a", "a"], ["a", ""], [1, 2], 3])
def test_bad_labels(clip, labels):
    with pytest.raises(ValueError, match="`labels` must be"):
        IlaForVideoClassification.from_pretrained(clip, labels=labels)


def test_linear_head_needs_no_text_tower(clip):
    model, info = IlaForVideoClassification.from_pretrained(
        clip, labels=LABELS, classification_head="linear", output_loading_info=True
    )
    assert not hasattr(model, "text_model") and not info["unexpected_keys"]
    assert model.classifier.out_features == 3 and model.config.id2label[0] == "abseiling"
    assert model.eval()(pixels(frames=8)).logits.shape == (2, 3)
    for call in (
        lambda: model.set_class_input_ids(torch.ones(2, 4, dtype=torch.long)),
        lambda: model.get_text_features(torch.ones(2, 4, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match='"linear"'):
            call()


@pytest.mark.parametrize("frames,size", [(4, 28), (7, 28), (3, 36), (16, 20)])
def test_another_size_on_load_interpolates_and_says_so(tmp_path, caplog, frames, size):
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3)))
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = IlaForVideoClassification.from_pretrained(tmp_path, num_frames=frames, image_size=size).eval()
    assert loaded(pixels(frames=frames, size=size)).logits.shape == (2, 3)
    before, after = model.mit.position_embedding, loaded.mit.position_embedding
    assert after.shape[1] == frames
    expected = F.interpolate(before.mT, size=frames, mode="linear").mT
    torch.testing.assert_close(after, expected, **CLOSE)
    assert (f"4 to {frames} frames" in caplog.text) == (frames != 4)
    assert (f"28 to {size} pixels" in caplog.text) == (size != 28)
    patches = loaded.vision_model.embeddings.position_embedding.weight
    assert patches.shape[0] == 1 + (size // 4) ** 2
    assert torch.equal(patches[0], model.vision_model.embeddings.position_embedding.weight[0])
    loaded.save_pretrained(tmp_path / "again")
    again = IlaForVideoClassification.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(pixels(frames=frames, size=size)).logits, loaded(pixels(frames=frames, size=size)).logits)


def test_a_config_with_another_size_does_the_same(tmp_path):
    IlaForVideoClassification(tiny_config()).save_pretrained(tmp_path)
    config = IlaConfig.from_pretrained(tmp_path, num_frames=6)
    model = AutoModelForVideoClassification.from_pretrained(tmp_path, config=config)
    assert model.mit.position_embedding.shape[1] == model.config.num_frames == 6


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [IlaForVideoClassification, FrozenClipForVideoClassification])
def test_what_clip_does_not_have_is_new(clip, kind):
    model, info = kind.from_pretrained(clip, labels=LABELS[:2], num_frames=4, output_loading_info=True)
    parameters = {name for name, _ in model.named_parameters()}
    new = {name for name in parameters if any(part in name for part in model.new_parameters)}
    assert new == parameters & set(info["missing_keys"]) and new < parameters


def test_the_old_name_of_averaging_views():
    model, logits = IlaForVideoClassification(tiny_config(num_labels=3)), torch.randn(2, 4, 3)
    with pytest.warns(DeprecationWarning, match="average_views"):
        assert torch.equal(model.fuse_views(logits), model.average_views(logits))


def test_classes_are_renamed_at_any_time_also_after_saving(tmp_path, clip):
    model = IlaForVideoClassification.from_pretrained(clip, labels=LABELS, num_frames=4).eval()
    before = model(pixels()).logits
    model.set_labels(["zumba", "abseiling"])
    after = model(pixels()).logits
    torch.testing.assert_close(after[:, 1], before[:, 0], **CLOSE)
    model.save_pretrained(tmp_path)
    loaded = IlaForVideoClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.id2label == {0: "zumba", 1: "abseiling"}
    assert torch.equal(loaded(pixels()).logits, after)
    loaded.set_labels(LABELS)  # the tokenizer was saved beside the weights
    torch.testing.assert_close(loaded(pixels()).logits, before, **CLOSE)
    other = IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS).eval()
    torch.testing.assert_close(other(pixels()).logits, before, **CLOSE)


def test_class_tokens_and_class_embeddings(tmp_path):
    model = IlaForVideoClassification(tiny_config(num_labels=3)).eval()
    ids = torch.randint(3, 90, (5, 7))
    ids[:, -1] = 98
    model.set_class_input_ids(ids)
    assert model.num_labels == model.config.num_labels == 5 and model.config.id2label[4] == "LABEL_4"
    assert torch.equal(model.class_input_ids[:, :7], ids) and model.class_input_ids.shape == (5, 16)
    logits = model(pixels()).logits
    embeds = model.get_text_features(ids).pooler_output
    model.set_class_embeddings(embeds, labels=list("abcde"))
    torch.testing.assert_close(model(pixels()).logits, logits, **CLOSE)
    for weight in model.text_model.parameters():
        weight.data.fill_(float("nan"))  # the text tower is not used any more
    torch.testing.assert_close(model(pixels()).logits, logits, **CLOSE)
    model.save_pretrained(tmp_path)
    loaded, info = IlaForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and loaded.config.id2label[0] == "a"
    assert torch.equal(loaded.eval()(pixels()).logits, model(pixels()).logits)


def test_the_tokenizer_stays_with_checkpoints_saved_again(tmp_path, clip):
    folder = clip
    for name in "abc":  # the second and third time without naming labels
        labels = {"labels": LABELS} if name == "a" else {}
        IlaForVideoClassification.from_pretrained(folder, **labels).save_pretrained(tmp_path / name)
        folder = tmp_path / name
    model = IlaForVideoClassification.from_pretrained(folder)
    model.set_labels(["walking", "running"])
    assert model.num_labels == 2


def test_names_given_the_librarys_way_are_tokenised_and_missing_ones_are_told(clip, caplog):
    named = IlaForVideoClassification.from_pretrained(clip, labels=LABELS)
    names = dict(enumerate(LABELS))
    model = IlaForVideoClassification.from_pretrained(clip, id2label=names, label2id={v: k for k, v in names.items()})
    assert torch.equal(model.class_input_ids, named.class_input_ids) and "placeholders" not in caplog.text
    IlaForVideoClassification.from_pretrained(clip, num_labels=3)
    assert "placeholders" in caplog.text


def test_a_checkpoint_without_a_tokenizer_is_saved_and_named_later(tmp_path, clip, caplog):
    save_clip(tmp_path / "clip", tokenizer=False)
    with pytest.raises(ValueError, match="holds none"):
        IlaForVideoClassification.from_pretrained(tmp_path / "clip", id2label=dict(enumerate(LABELS)))
    model = IlaForVideoClassification.from_pretrained(tmp_path / "clip", num_labels=3)
    assert "call `set_labels`" in caplog.text
    model.save_pretrained(tmp_path / "saved")
    assert "saved without their tokens" in caplog.text
    with pytest.raises(ValueError, match="holds none"):
        model.set_labels(LABELS)
    model.set_labels(LABELS, AutoTokenizer.from_pretrained(clip))
    assert torch.equal(
        model.class_input_ids, IlaForVideoClassification.from_pretrained(clip, labels=LABELS).class_input_ids
    )


def test_tokenizer_and_configuration_in_other_forms(tmp_path, clip):
    save_clip(tmp_path, tokenizer=False)
    named = IlaForVideoClassification.from_pretrained(clip, labels=LABELS)
    model = IlaForVideoClassification.from_pretrained(tmp_path, labels=tuple(LABELS), tokenizer=str(clip))
    assert torch.equal(model.class_input_ids, named.class_input_ids)
    config = CLIPModel.from_pretrained(clip).config
    assert IlaForVideoClassification.from_pretrained(clip, config=config, labels=LABELS).num_labels == 3


def test_classes_are_named_also_when_weights_are_offloaded():
    accelerate = pytest.importorskip("accelerate")
    model = IlaForVideoClassification(tiny_config(num_labels=3)).eval()
    ids = torch.randint(3, 90, (2, 5))
    expected = copy.deepcopy(model)
    expected.set_class_input_ids(ids)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    model(pixels())
    model.set_class_input_ids(ids)
    torch.testing.assert_close(model(pixels()).logits, expected(pixels()).logits, **CLOSE)


@pytest.mark.parametrize(
    "ids", [torch.zeros(3), torch.zeros(3, 4), torch.full((2, 4), 99), torch.zeros(2, 17, dtype=torch.long)]
)
def test_bad_class_tokens(ids):
    with pytest.raises(ValueError, match="`input_ids` must"):
        IlaForVideoClassification(tiny_config()).set_class_input_ids(ids)


def test_the_text_tower_trains_on_request(tmp_path):
    model = IlaForVideoClassification(tiny_config(num_labels=3, freeze_text_model=False))
    model(pixels(), labels=torch.tensor([0, 1])).loss.backward()
    assert all(weight.grad is not None for weight in model.text_model.parameters())
    model.save_pretrained(tmp_path)
    frozen = IlaForVideoClassification.from_pretrained(tmp_path, freeze_text_model=True)
    assert not any(weight.requires_grad for weight in frozen.text_model.parameters())
    frozen.freeze_text_model(False)
    assert all(weight.requires_grad for weight in frozen.text_projection.parameters())


FROZEN = {  # temporal module -> which parts of a name in a frozen tower are trained all the same
    **{name: () for name in ("none", "average", "shift")},
    **{name: (".temporal.",) for name in ("ila", "message", "gta")},
    **{name: (".temporal.", "time_embedding") for name in ("divided", "ata")},
    "joint": ("time_embedding",),
}


@pytest.mark.parametrize("module", FROZEN)
@pytest.mark.parametrize("head", ["text", "linear"])
def test_a_frozen_tower_trains_what_is_new(module, head, tmp_path):
    fields = {"temporal_module": module, "classification_head": head, "gta_groups": 4, "num_labels": 3}
    model = randomised(IlaForVideoClassification(tiny_config(**fields, freeze_vision_model=True))).train()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    new = ("mit.", "classifier", "prompts_", "logit_scale", *FROZEN[module])
    assert trained == {name for name, _ in model.named_parameters() if any(part in name for part in new)}
    assert all(any(part in name for name in trained) for part in FROZEN[module])
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model.gradient_checkpointing_enable()
    model(pixels(), labels=torch.tensor([0, 1])).loss.backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == trained
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == trained
    model.save_pretrained(tmp_path)
    loaded = IlaForVideoClassification.from_pretrained(tmp_path)
    assert {name for name, weight in loaded.named_parameters() if weight.requires_grad} == trained
    loaded.freeze_vision_model(False)
    assert all(weight.requires_grad for weight in loaded.vision_model.parameters())
    assert loaded.visual_projection.weight.requires_grad and not loaded.config.freeze_vision_model


# --- forward ---------------------------------------------------------------------------------------------------------


def test_views_are_averaged_as_probabilities():
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=5))).eval()
    views = pixels(3)
    mean = torch.stack([model(views[:, index]).logits.softmax(-1) for index in range(3)]).mean(0)
    output = model(views, labels=torch.tensor([1, 4]))
    torch.testing.assert_close(output.logits.softmax(-1), mean, **CLOSE)
    torch.testing.assert_close(output.logits, mean.log(), **CLOSE)
    expected = F.nll_loss(mean.log(), torch.tensor([1, 4])) + output.alignment_loss
    torch.testing.assert_close(output.loss, expected, **CLOSE)


def test_losses():
    config = tiny_config(num_labels=5, label_smoothing=0.1, alignment_loss_weight=0.5, alignment_jitter=0.0)
    model = randomised(IlaForVideoClassification(config))
    hard = torch.tensor([1, 4])
    for training in (True, False):
        model.train(training)
        output = model(pixels(), labels=hard)
        smoothing = 0.1 if training else 0.0
        expected = F.cross_entropy(output.logits, hard, label_smoothing=smoothing) + 0.5 * output.alignment_loss
        torch.testing.assert_close(output.loss, expected)
    soft = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.1, 0.9]])
    output = model(pixels(), labels=soft)
    expected = -(soft * output.logits.log_softmax(-1)).sum(-1).mean() + 0.5 * output.alignment_loss
    torch.testing.assert_close(output.loss, expected)
    one_hot = model(pixels(), labels=F.one_hot(hard, 5).float()).loss
    torch.testing.assert_close(one_hot, model(pixels(), labels=hard.int()).loss)
    for bad in (torch.zeros(3, dtype=torch.long), torch.zeros(2, 4), torch.zeros(2)):
        with pytest.raises(ValueError, match="`labels` must be"):
            model(pixels(), labels=bad)


def test_several_labels_per_video():
    model = IlaForVideoClassification(tiny_config(num_labels=5, problem_type="multi_label_classification")).eval()
    target = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
    output = model(pixels(), labels=target)
    expected = F.binary_cross_entropy_with_logits(output.logits, target) + output.alignment_loss
    torch.testing.assert_close(output.loss, expected)
    mean = torch.stack([model(pixels(3)[:, index]).logits.sigmoid() for index in range(3)]).mean(0)
    torch.testing.assert_close(model(pixels(3)).logits.sigmoid(), mean, **CLOSE)


@pytest.mark.parametrize("distance", ["separable", "euclidean"])
def test_alignment_is_returned_on_request(distance):
    model = randomised(
        IlaForVideoClassification(tiny_config(alignment_distance=distance, alignment_layers=[1]))
    ).eval()
    assert model(pixels()).interactive_points is None
    output = model(pixels(), output_alignment=True)
    (points,), (masks,) = output.interactive_points, output.alignment_masks
    assert points.shape == (2, 3, 2, 2) and masks.shape == (2, 3, 2, 7, 7)
    assert points.abs().max() <= 0.75 and 0 <= masks.min() and masks.max() <= 1
    brightest = masks[0, 0, 1].flatten().argmax().item()
    x, y = -1 + 2 * (brightest % 7) / 6, -1 + 2 * (brightest // 7) / 6
    assert abs(points[0, 0, 1, 0] - x) <= 0.34 and abs(points[0, 0, 1, 1] - y) <= 0.34


def test_one_value_per_channel_trains():
    model = IlaForVideoClassification(tiny_config(num_labels=2, num_frames=2, image_size=8)).train()
    output = model(pixels(frames=2, size=8, batch=1), labels=torch.tensor([0]))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())


@pytest.mark.parametrize("size,patch", [(28, 4), (12, 4), (8, 4), (4, 4), (14, 4)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_small_grids_and_few_frames(size, patch, frames):
    config = tiny_config(num_labels=3, num_frames=frames, image_size=size, patch_size=patch)
    model = IlaForVideoClassification(config)
    output = model(pixels(frames=frames, size=size), labels=torch.tensor([0, 1]), output_alignment=True)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert len(output.interactive_points) == (2 if frames > 1 else 0)
    grads = [weight.grad for name, weight in model.named_parameters() if ".temporal." in name]
    assert all((grad is None) == (frames == 1) for grad in grads)


def test_any_size_with_interpolated_positions():
    model = IlaForVideoClassification(tiny_config()).eval()
    video = torch.randn(1, 4, 3, 24, 40)
    with pytest.raises(ValueError, match="28"):
        model(video)
    output = model(video, interpolate_pos_encoding=True, output_alignment=True)
    assert output.alignment_masks[0].shape[-2:] == (6, 10)


@pytest.mark.parametrize(
    "shape", [(4, 3, 28, 28), (2, 5, 3, 28, 28), (2, 4, 1, 28, 28), (2, 4, 3, 32, 28), (2, 2, 9, 3, 28, 28), (28,)]
)
def test_wrong_shapes_say_what_was_expected(shape):
    model = IlaForVideoClassification(tiny_config())
    with pytest.raises(ValueError, match=r"any, 4, 3, 28, 28.*got") as error:
        model(torch.randn(*shape))
    assert str(shape) in str(error.value) and ("several views" in str(error.value)) == (len(shape) != 5)
    with pytest.raises(ValueError, match="got list"):
        model([1, 2])


def test_wrong_class_indices_say_which():
    model = IlaForVideoClassification(tiny_config(num_labels=3))
    with pytest.raises(ValueError, match=r"0 to 2, got \[7\]"):
        model(pixels(), labels=torch.tensor([0, 7]))


def test_order_of_frames_matters_to_the_alignment_alone():
    """Without frame integration the tower sees order through its pairs; plain CLIP does not see it at all."""
    video = pixels()
    for module, sees_order in (("ila", True), ("none", False)):
        config = tiny_config(temporal_module=module, mit_num_hidden_layers=0)
        model = randomised(IlaForVideoClassification(config)).eval()
        same = torch.allclose(model(video).logits, model(video.flip(1)).logits, atol=1e-4)
        assert same != sees_order


# --- machinery -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clip_in_half_precision_gets_float32_statistics(tmp_path, clip, dtype):
    model = IlaForVideoClassification.from_pretrained(clip, labels=LABELS, num_frames=4, dtype=dtype)
    model.save_pretrained(tmp_path)
    for loaded in (model, IlaForVideoClassification.from_pretrained(tmp_path, dtype=dtype)):
        norms = {name: tensor.dtype for name, tensor in loaded.state_dict().items() if "batch_norm" in name}
        counts = {dtype for name, dtype in norms.items() if "num_batches" in name}
        assert counts == {torch.int64} and set(norms.values()) == {torch.float32, torch.int64}
        assert loaded.visual_projection.weight.dtype == dtype
        assert torch.isfinite(loaded.eval()(pixels().to(dtype)).logits).all()


@pytest.mark.parametrize("head", ["text", "linear"])
def test_save_and_load_is_bit_equal(tmp_path, head):
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3, classification_head=head))).eval()
    model.save_pretrained(tmp_path)
    for loader in (IlaForVideoClassification, AutoModelForVideoClassification):
        loaded = loader.from_pretrained(tmp_path)
        assert torch.equal(loaded(pixels()).logits, model(pixels()).logits)
        assert loaded.config.to_dict().keys() == model.config.to_dict().keys()
    assert isinstance(AutoModel.from_pretrained(tmp_path), IlaModel)


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision(tmp_path, dtype, tolerance):
    model = IlaForVideoClassification(tiny_config(num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    half = IlaForVideoClassification.from_pretrained(tmp_path, dtype=dtype)
    statistics = {name: tensor.dtype for name, tensor in half.state_dict().items() if "batch_norm.running" in name}
    assert statistics and set(statistics.values()) == {torch.float32}
    assert half.vision_model.pre_layrnorm.weight.dtype == dtype
    output = half(pixels().to(dtype), labels=torch.tensor([0, 1]))
    assert (output.logits.float() - model(pixels()).logits).abs().max() < tolerance
    output.loss.backward()


def test_attention_implementations_agree_everywhere():
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3))).eval()
    logits = model(pixels()).logits
    model.set_attn_implementation("eager")
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    assert {config._attn_implementation for config in configs.values()} == {"eager"}
    output = model(pixels(), output_attentions=True)
    torch.testing.assert_close(output.logits, logits, **CLOSE)
    assert [attention.shape for attention in output.attentions] == [(8, 4, 51, 51)] * 2


def test_activation_checkpointing_gives_the_same_gradients_and_statistics():
    plain = randomised(IlaForVideoClassification(tiny_config(num_labels=3, alignment_jitter=0.0))).train()
    for reentrant in (True, False):
        other = copy.deepcopy(plain)
        other.gradient_checkpointing_enable({"use_reentrant": reentrant})
        reference = copy.deepcopy(plain)
        video = pixels().requires_grad_()
        for model in (reference, other):
            model(video, labels=torch.tensor([0, 1])).loss.backward()
        for (name, weight), expected in zip(other.named_parameters(), reference.parameters()):
            if weight.requires_grad:
                torch.testing.assert_close(weight.grad, expected.grad, msg=name)
        for (name, buffer), expected in zip(other.named_buffers(), reference.named_buffers()):
            assert torch.equal(buffer, expected[1]), name


def test_stochastic_depth_rises_with_depth_and_acts_in_training_only():
    model = IlaForVideoClassification(tiny_config(drop_path_rate=0.5))
    layers = [module for module in model.modules() if isinstance(module, IlaEncoderLayer)]
    assert [layer.drop_path.p for layer in layers] == [0.0, 0.5]
    assert torch.equal(model.eval()(pixels()).logits, model(pixels()).logits)
    model.train()
    torch.manual_seed(0)
    assert len({model(pixels()).logits.sum().item() for _ in range(16)}) > 1


def test_device_map(tmp_path):
    pytest.importorskip("accelerate")
    model = IlaForVideoClassification(tiny_config(num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    loaded = IlaForVideoClassification.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(loaded(pixels()).logits, model(pixels()).logits)


def test_lora_trains_by_module_name():
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["temporal", "mit"])
    model = peft.get_peft_model(IlaForVideoClassification(tiny_config(num_labels=3)), lora)
    model(pixel_values=pixels(), labels=torch.tensor([0, 1])).loss.backward()
    trained = [name for name, weight in model.named_parameters() if weight.grad is not None]
    assert any("lora_A" in name for name in trained) and any("point" in name for name in trained)


def test_building_a_model_leaves_the_configuration_as_it_is():
    config = tiny_config(num_labels=3)
    before = config.to_dict()
    IlaForVideoClassification(config)
    assert config.to_dict() == before


@pytest.mark.slow
@pytest.mark.parametrize("head, backend", [("text", "aot_eager"), ("linear", "inductor")])
def test_compiles_without_a_graph_break(head, backend):
    """The text tower's code and a second layer's would take minutes of a C++ compiler; the former is Transformers'."""
    config = tiny_config(num_labels=3, classification_head=head)
    if backend == "inductor":
        config.vision_config.num_hidden_layers = 1
    model = randomised(IlaForVideoClassification(config)).eval()
    logits = model(pixels()).logits
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels()).logits, logits, **CLOSE)
        torch.testing.assert_close(compiled(pixels(2)).logits, model(pixels(2)).logits, **CLOSE)
    model.train()
    compiled(pixels(), labels=torch.tensor([0, 1])).loss.backward()


@pytest.mark.slow
def test_compiled_code_holds_no_text_features_of_a_tower_that_trains():
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3, freeze_text_model=False))).eval()
    with torch.no_grad():
        model(pixels())  # computes and keeps them
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for weight in model.text_model.parameters():  # as an optimizer's step does
            weight.mul_(1.5)
        before = compiled(pixels()).logits
        for weight in model.text_model.parameters():
            weight.mul_(0.5)
        torch.testing.assert_close(compiled(pixels()).logits, model(pixels()).logits, **CLOSE)
    assert not torch.allclose(before, model(pixels()).logits)


def test_logit_scale_and_prompt_start_as_the_design_wants():
    model = IlaForVideoClassification(tiny_config())
    assert math.isclose(model.logit_scale.item(), 2.6592, rel_tol=1e-6)
    assert torch.equal(model.prompts_generator.alpha, torch.full((64,), 0.1))


# --- equations of the layer and the heads, written out video by video and frame by frame, in float64 -----------------

EXACT = {"atol": 1e-10, "rtol": 1e-10}


def attention(query, key, value, heads):
    """softmax(q k / sqrt(d)) v, head by head: (n, D), (m, D), (m, D) -> (n, D)."""
    size = query.shape[1] // heads
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        weights = (query[:, cut] @ key[:, cut].T / math.sqrt(size)).softmax(-1)
        parts.append(weights @ value[:, cut])
    return torch.cat(parts, 1)


def self_attention(module, tokens, heads):
    mixed = attention(module.q_proj(tokens), module.k_proj(tokens), module.v_proj(tokens), heads)
    return module.out_proj(mixed)


def test_layer_equals_equations_3_and_4():
    model = randomised(IlaVisionModel(tiny_config(alignment_fusion="mi_token").vision_config)).double().eval()
    layer = model.encoder.layers[0]
    z = torch.randn(2, 4, 50, 32, dtype=torch.float64)
    output, *_ = layer(z, (7, 7))
    tokens = layer.temporal(z, 7, 7).tokens[:, :, -1]
    for video in range(2):
        for frame in range(4):
            joined = torch.cat([z[video, frame], tokens[video, frame, None]])  # [z, z_mut]
            attended = self_attention(layer.self_attn, layer.layer_norm1(joined), 4) + joined  # Eq. 3b
            kept = attended[:-1]  # the token is dropped
            expected = layer.mlp(layer.layer_norm2(kept)) + kept  # Eq. 4
            torch.testing.assert_close(output[video, frame], expected, **EXACT)


def test_logits_equal_equation_8_and_the_prompt():
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3, projection_dim=128))).double().eval()
    video = pixels().double()
    logits = model(video).logits
    tower = model.vision_model(video)
    texts = model.get_text_features(model.class_input_ids).pooler_output
    mit, prompt = model.mit.encoder.layers[0], model.prompts_generator
    for index in range(2):
        frames = model.visual_projection(tower.pooler_output[index])  # (T, E), projected class tokens
        x = frames + model.mit.position_embedding[0]
        x = x + self_attention(mit.self_attn, mit.layer_norm1(x), 2)
        x = x + mit.mlp(mit.layer_norm2(x)) + frames
        v = x.mean(0)  # Eq. 8
        patches = model.prompts_visual_layernorm(tower.last_hidden_state[index, :, 1:])
        patches = patches @ model.prompts_visual_projection.weight
        memory = prompt.layernorm(patches.mean(0))
        t = texts
        for layer in prompt.decoder:
            cross, query = layer.cross_attn, layer.norm1(t)
            mixed = attention(cross.q_proj(query), cross.k_proj(memory), cross.v_proj(memory), 2)
            t = t + cross.proj(mixed)
            t = t + layer.mlp(layer.norm3(t))
        c = texts + prompt.alpha * t
        cosines = torch.stack([v @ one / (v.norm() * one.norm()) for one in c])
        torch.testing.assert_close(logits[index], model.logit_scale.exp() * cosines, **EXACT)


def test_linear_head_is_normalised_mean_norm_dropout_linear():
    config = tiny_config(num_labels=3, classification_head="linear", mit_num_hidden_layers=0)
    model = randomised(IlaForVideoClassification(config)).double().eval()
    frames = model.visual_projection(model.vision_model(pixels().double()).pooler_output)
    mean = frames.mean(1)
    expected = model.classifier(model.classifier_norm(mean / mean.norm(dim=-1, keepdim=True)))
    torch.testing.assert_close(model(pixels().double()).logits, expected, **EXACT)
