"""`fuse()`: the snapshot computes the same on the same memory, the model stays as it was, and what is refused."""

import copy
import pickle

import pytest
import torch
from torch import nn

from support.inputs import pixels, randomised
from support.tiny_models import TINY_ILA, TINY_VISION, tiny_config
from transformers_ila import IlaForVideoClassification, IlaModel, IlaVisionModel
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification
from transformers_ila.model.alignment_ila import FusedResidualAlignment, ResidualAlignment
from transformers_ila.model.configuration_ila import IlaVisionConfig
from transformers_ila.model.layers_ila import QuickGELU


CLOSE, LOGITS = 1e-5, 1e-4  # float32: of one module's largest value; of the largest logit
HALF = {torch.bfloat16: 0.03, torch.float16: 0.005}  # of the largest logit, beside twice the plain form's error
FORMS = ("mi_token", "interaction", "residual")


def classifier(form="residual", **fields):
    config = tiny_config(alignment_fusion=form, num_labels=3, **fields)
    torch.manual_seed(0)
    return randomised(IlaForVideoClassification(config)).eval()


def closeness(found, expected):
    """The largest difference, relative to the largest expected value."""
    return ((found.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def storages(model):
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}


# -- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["adjacent", "first"])
@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 4, 3, 5), (2, 5, 7, 7)])  # videos, frames, rows, columns
def test_the_residual_module(shape, pairing):
    videos, frames, rows, columns = shape
    numbers = {"hidden_size": 16, "num_attention_heads": 2, "alignment_hidden_size": 8}
    plain = ResidualAlignment(IlaVisionConfig(alignment_fusion="residual", alignment_pairing=pairing, **numbers))
    generator = torch.Generator().manual_seed(0)
    for weight in plain.parameters():
        weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    hidden = torch.randn(videos, frames, 1 + rows * columns, 16, generator=generator)
    given, fused = hidden.clone(), plain.eval().fused()
    with torch.no_grad():
        outputs = zip(fused(hidden, rows, columns), plain(hidden, rows, columns))
        assert all(found is expected is None or closeness(found, expected) <= CLOSE for found, expected in outputs)
    assert torch.equal(hidden, given) and type(plain.fused()) is FusedResidualAlignment and fused.fused() is fused


def test_the_one_matrix_keeps_its_digits_in_bfloat16_beside_a_large_bias():
    """Rows a hundredth of the bias, as trained ones may be."""
    config = IlaVisionConfig(
        alignment_fusion="residual", hidden_size=16, num_attention_heads=2, alignment_hidden_size=8
    )
    plain = randomised(ResidualAlignment(config)).eval()
    for layer in (plain.interaction_projection, plain.interaction_skip):
        layer.weight.data.mul_(0.1)
        layer.bias.data.fill_(1.0)
    hidden, aligned, motion = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16), torch.randn(1, 3, 15, 8)
    expected = plain.add_skips(hidden, aligned, motion)
    plain, inputs = plain.bfloat16(), [tensor.bfloat16() for tensor in (hidden, aligned, motion)]
    with torch.no_grad():
        ours, theirs = (closeness(module.add_skips(*inputs), expected) for module in (plain.fused(), plain))
    assert ours <= 2 * theirs


@pytest.mark.parametrize("fields", [{}, {"use_video_prompt": False}, {"classification_head": "linear"}])
@pytest.mark.parametrize("form", FORMS)
def test_the_classifier(form, fields):
    model, clips = classifier(form, **fields), pixels(2)  # two views
    with torch.no_grad():
        for given in (clips, clips[:, 0]):
            options = {"output_hidden_states": True, "output_attentions": True, "output_alignment": True}
            snapshot = model.fuse()  # also of a model that records its hidden states
            expected, found = model(given, **options), snapshot(given, **options)
            assert closeness(found.logits, expected.logits) <= LOGITS
            for name in ("hidden_states", "attentions", "interactive_points", "alignment_masks"):
                for one, other in zip(found[name] or (), expected[name] or ()):
                    assert closeness(one, other) <= LOGITS
            assert closeness(found.alignment_loss, expected.alignment_loss) <= LOGITS


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("form", FORMS)
def test_in_half_precision_before_and_after(form, dtype):
    model = classifier(form)
    with torch.no_grad():
        expected, plain = model(pixels()).logits, copy.deepcopy(model).to(dtype)
        error = closeness(plain(pixels().to(dtype)).logits, expected)
        for half in (plain.fuse(), model.fuse().to(dtype)):
            found = half(pixels().to(dtype)).logits
            assert found.dtype == dtype and closeness(found, expected) <= 2 * error + HALF[dtype]
        assert torch.equal(model(pixels()).logits, expected)
        with torch.autocast("cpu", torch.bfloat16):
            error = closeness(model(pixels()).logits, expected)
            assert closeness(model.fuse()(pixels()).logits, expected) <= 2 * error + HALF[torch.bfloat16]
    assert model.dtype == torch.float32


def test_towers_and_models_without_classes():
    torch.manual_seed(0)
    model = randomised(IlaModel(tiny_config(alignment_fusion="residual"))).eval()
    texts, snapshot = torch.randint(0, 97, (5, 7)), model.fuse()
    with torch.no_grad():
        assert closeness(snapshot(texts, pixels()).logits_per_video, model(texts, pixels()).logits_per_video) <= LOGITS
        tower = snapshot.vision_model(pixels()).last_hidden_state
        assert closeness(tower, model.vision_model.fuse()(pixels()).last_hidden_state) <= CLOSE
    assert isinstance(model.vision_model.fuse(), IlaVisionModel)


def test_other_backbones():
    vision = {**TINY_VISION, **TINY_ILA, "alignment_fusion": "residual"}
    frozen = FrozenClipForVideoClassification(FrozenClipConfig(vision_config=vision, num_labels=3))
    timesformer = AlignedTimesformerForVideoClassification(
        AlignedTimesformerConfig(**{**TINY_VISION, **TINY_ILA}, num_labels=3)
    )
    for model in (frozen, timesformer):
        randomised(model).train()
        modes = [module.training for module in model.modules()]
        snapshot = model.fuse()
        assert modes == [module.training for module in model.modules()] and not snapshot.training
        with torch.no_grad():
            assert closeness(snapshot(pixels()).logits, model.eval()(pixels()).logits) <= LOGITS
        with pytest.raises(ValueError, match="`train` was called on a snapshot"):
            snapshot.train()
    with pytest.raises(ValueError, match="`freeze_tower` was called on a snapshot"):
        frozen.fuse().freeze_tower()


def test_models_without_a_text_tower_and_with_one_that_trains():
    merged = classifier().merge_text_tower()
    training = classifier(freeze_text_model=False)
    with torch.no_grad():
        for model in (merged, training):
            assert closeness(model.fuse()(pixels()).logits, model(pixels()).logits) <= LOGITS


def test_gradients_reach_the_input_and_no_weight():
    model, given = classifier(), pixels().requires_grad_()
    (expected,) = torch.autograd.grad(model(given).logits.sum(), given)
    (found,) = torch.autograd.grad(model.fuse()(given).logits.sum(), given)
    assert closeness(found, expected) <= LOGITS and all(weight.grad is None for weight in model.parameters())


def test_under_inference_mode_and_used_after_it():
    model = classifier()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        snapshot = model.fuse()
    found = snapshot(pixels().requires_grad_()).logits
    found.sum().backward()
    assert closeness(found, model(pixels()).logits) <= LOGITS


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiled_and_exported(form):
    model = classifier(form)
    snapshot = model.fuse()
    with torch.no_grad():
        expected = model(pixels()).logits
        compiled = torch.compile(snapshot, fullgraph=True, backend="aot_eager")
        assert closeness(compiled(pixels()).logits, expected) <= LOGITS
        exported = torch.export.export(snapshot, (pixels(),)).module()
        assert closeness(exported(pixels()).logits, expected) <= LOGITS


# -- the model and its snapshot --------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_model_stays_as_it_was(training):
    model = classifier().train(training)
    model.vision_model.eval()
    modules, modes = dict(model.named_modules()), [module.training for module in model.modules()]
    state, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    asked = {name: weight.requires_grad for name, weight in model.named_parameters()}
    with torch.no_grad():
        torch.manual_seed(0)
        before = model(pixels()).logits
        snapshot = model.fuse()
        snapshot(pixels())
        snapshot.half()
        torch.manual_seed(0)
        assert torch.equal(model(pixels()).logits, before)
    assert not any(module.training for module in snapshot.modules())
    assert dict(model.named_modules()) == modules and [module.training for module in model.modules()] == modes
    assert model.config.to_dict() == config and not model.is_fused
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == asked
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_snapshot_shares_the_weights_and_holds_what_was_computed():
    model = classifier()
    snapshot = model.fuse()
    assert storages(model.vision_model) < storages(snapshot)
    assert storages(model) - storages(snapshot) <= {model.class_input_ids.untyped_storage().data_ptr()}
    kinds = {type(module) for module in snapshot.modules()}
    assert FusedResidualAlignment in kinds and ResidualAlignment not in kinds
    assert all(module.inplace for module in snapshot.modules() if isinstance(module, QuickGELU))
    with torch.no_grad():
        before = snapshot(pixels()).logits
        for weight in (*model.text_model.parameters(), model.vision_model.encoder.layers[0].temporal.message.weight):
            weight.mul_(1.1)
        after = model(pixels()).logits
        assert closeness(snapshot(pixels()).logits, before) > LOGITS  # the weights are the model's
        assert closeness(model.fuse()(pixels()).logits, after) <= LOGITS


def test_copies_and_snapshots_of_snapshots():
    model = classifier()
    snapshot = model.fuse()
    assert snapshot.fuse() is snapshot
    with torch.no_grad():
        expected = snapshot(pixels()).logits
        for copied in (copy.deepcopy(snapshot), pickle.loads(pickle.dumps(snapshot))):
            assert copied.is_fused and torch.equal(copied(pixels()).logits, expected)
            assert not storages(copied) & storages(model)


def test_classes_may_be_named_anew():
    model = classifier()
    snapshot = model.fuse()
    with torch.no_grad():
        expected = model.get_text_features(model.class_input_ids).pooler_output
        torch.testing.assert_close(snapshot.get_text_features(model.class_input_ids).pooler_output, expected)
        snapshot.set_class_embeddings(torch.randn(5, 64), list("abcde"))
        assert snapshot(pixels()).logits.shape == (2, 5) and model(pixels()).logits.shape == (2, 3)
    assert model.config.num_labels == 3 and model.config.class_features == "tokens"
    snapshot.set_class_input_ids(model.class_input_ids[[2, 0]], ["c", "a"])
    with torch.no_grad():
        assert closeness(snapshot(pixels()).logits, model(pixels()).logits[:, [2, 0]]) <= LOGITS


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method,arguments", [
    ("train", ()),
    ("train", (True,)),
    ("save_pretrained", ("folder",)),
    ("push_to_hub", ("name",)),
    ("load_state_dict", ({},)),
    ("requires_grad_", ()),
    ("requires_grad_", (True,)),
    ("resize_positions", ()),
])  # fmt: skip
def test_what_a_snapshot_refuses(method, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshot = classifier().fuse()
    for part in (snapshot, snapshot.vision_model):
        with pytest.raises(ValueError, match=f"`{method}` was called on a snapshot that `fuse\\(\\)` made"):
            getattr(part, method)(*arguments)
    assert not list(tmp_path.iterdir()) and not snapshot.eval().training and not snapshot.train(False).training


@pytest.mark.parametrize("method,arguments", [
    ("freeze_text_model", ()),
    ("freeze_text_model", (False,)),
    ("freeze_vision_model", ()),
    ("freeze_vision_model", (False,)),
    ("merge_text_tower", ()),
])  # fmt: skip
def test_what_a_snapshot_of_the_classifier_refuses(method, arguments):
    model = classifier()
    snapshot = model.fuse()
    with pytest.raises(ValueError, match=f"`{method}` was called on a snapshot"):
        getattr(snapshot, method)(*arguments)
    assert not any(weight.requires_grad for weight in snapshot.requires_grad_(False).parameters())
    getattr(model, method)(*arguments)


def test_a_snapshot_keeps_its_linear_head():
    snapshot = classifier(classification_head="linear").fuse()
    snapshot.set_labels(["x", "y", "z"])
    with pytest.raises(ValueError, match="`set_labels` was called on a snapshot"):
        snapshot.set_labels(["x", "y"])
    assert snapshot.config.class_names == ["x", "y", "z"] and snapshot(pixels()).logits.shape == (2, 3)


def with_an_adapter(model):
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), model.vision_model)


def with_a_hook(model):
    model.visual_projection.register_forward_hook(lambda module, inputs, output: None)


def with_a_hook_before(model):
    model.visual_projection.register_forward_pre_hook(lambda module, inputs: None)


def with_another_forward(model):
    model.visual_projection.forward = lambda inputs: inputs


def offloaded(model):
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def on_the_meta_device(model):
    model.visual_projection.to("meta")


def with_weights_of_another_kind(model):
    class Sharded(nn.Parameter):
        pass

    model.visual_projection.weight = Sharded(model.visual_projection.weight.data)


def with_integers(model):
    weight = model.visual_projection.weight.data
    model.visual_projection.weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)


def quantised(model):
    torch.ao.quantization.quantize_dynamic(model.visual_projection, inplace=True)
    whole = nn.Sequential(nn.Linear(32, 64, bias=False))
    torch.ao.quantization.quantize_dynamic(whole, {nn.Linear}, inplace=True)
    model.visual_projection = whole[0]


OBSTACLES = [
    (with_an_adapter, "`vision_model.encoder.layers.0.self_attn.q_proj` is an adapter"),
    (with_a_hook, "`visual_projection` has a hook"),
    (with_a_hook_before, "`visual_projection` has a hook"),
    (with_another_forward, "`visual_projection` has a hook, or another function as its `forward`"),
    (offloaded, "is offloaded"),
    (on_the_meta_device, "`visual_projection` is offloaded"),
    (with_weights_of_another_kind, r"`visual_projection` has sharded or quantised weights \(Sharded"),
    (with_integers, r"`visual_projection` has sharded or quantised weights \(Parameter, torch.int8"),
    (quantised, "`visual_projection` is sharded or quantised"),
]


@pytest.mark.filterwarnings("ignore")  # that torch's quantisation will move
@pytest.mark.parametrize("change,message", OBSTACLES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_fused_is_named(change, message):
    model = classifier()
    change(model)
    with pytest.raises(ValueError, match=message):
        model.fuse()


def test_hooks_on_all_modules_and_hooks_that_are_gone():
    model = classifier()
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(lambda *arguments: None)
        with pytest.raises(ValueError, match="hooks on all modules"):
            model.fuse()
        handle.remove()
    handle = model.visual_projection.register_forward_hook(lambda module, inputs, output: None)
    handle.remove()
    assert model.fuse().is_fused
