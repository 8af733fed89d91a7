"""Options: their ranges, the keywords of version 0.1, and the network that they make of a model."""

import copy

import pytest
import torch
from transformers import AutoConfig, HfArgumentParser

from support.evaluation_models import make_model
from transformers_ila import IlaVideoProcessor
from transformers_ila.distributed import Rank
from transformers_ila.evaluation import (
    EvaluationOptions,
    InferenceOptions,
    LabelOptions,
    ProbeOptions,
    evaluate,
    extract_features,
    label_videos,
)
from transformers_ila.evaluation.evaluator import collect_logits
from transformers_ila.evaluation.inference import (
    dtype_of,
    evaluating,
    has_bfloat16_instructions,
    load_processor,
    named_in_errors,
)
from transformers_ila.evaluation.prediction_files import read_results
from transformers_ila.evaluation.report_files import markdown
from transformers_ila.model.pairs_ila import AlignmentBatchNorm
from transformers_ila.motionbench.tasks import write_folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return [(path, 0) for path in write_folder(tmp_path_factory.mktemp("videos"), 5, seed=0, num_frames=6)]


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (InferenceOptions, {"protocol": "3x4"}, "protocol must be one of 1x1, 4x3, 1x3, 3x1, 10x3, got '3x4'"),
        (InferenceOptions, {"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        (InferenceOptions, {"workers": -1}, "workers must be a whole number of 0 or more, got -1"),
        (InferenceOptions, {"workers": 10**9}, "workers must be at most 1024, got 1000000000"),
        (InferenceOptions, {"seed": 10**30}, "seed must be at most 9223372036854775807, got 1000"),
        (InferenceOptions, {"seed": -1}, "seed must be a whole number of 0 or more, got -1"),
        (InferenceOptions, {"seed": 1.5}, "seed must be .* got 1.5"),
        (InferenceOptions, {"seed": True}, "seed must be .* got True"),
        (
            InferenceOptions,
            {"dtype": "half"},
            "dtype must be one of None, float32, bfloat16, float16, auto, got 'half'",
        ),
        (InferenceOptions, {"device": "gpu"}, "device must be one such as cpu or cuda:0, got 'gpu'"),
        (InferenceOptions, {"device": "cuda:99"}, "device must be one that is there, got 'cuda:99'; .* GPU"),
        (LabelOptions, {"format": "csv"}, "format must be one of jsonl, parquet, fiftyone, label-studio, got 'csv'"),
        (LabelOptions, {"top_k": 0}, "top_k must be a whole number of 1 or more, got 0"),
        (LabelOptions, {"batch_size": 0}, "batch_size must be"),
        (ProbeOptions, {"probes": []}, "probes must be some of knn, linear, got \\[\\]"),
        (ProbeOptions, {"weight_decay_seed": -1}, "weight_decay_seed must be"),
        (ProbeOptions, {"weight_decay_seed": 1, "probes": ["knn"]}, "weight_decay_seed is 1 and would have no effect"),
        (LabelOptions, {"seed": 1}, "seed is 1 and would have no effect; allowed: 0, or random_frames"),
    ],
)
def test_values_that_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


@pytest.mark.parametrize("kind", [InferenceOptions, EvaluationOptions, LabelOptions, ProbeOptions])
def test_every_field_is_an_option_of_a_command(kind):
    parser = HfArgumentParser(kind)
    assert parser.parse_args_into_dataclasses([]) == (kind(),)
    (given,) = parser.parse_args_into_dataclasses(["--dtype", "auto", "--no_fuse", "--workers", "2"])
    assert given == kind(dtype="auto", fuse=False, workers=2)


def test_keywords_of_version_0_1_still_work(model, processor, videos, tmp_path):
    with pytest.warns(DeprecationWarning, match="Pass one options object, `EvaluationOptions"):
        report = evaluate(
            model, processor, videos, protocol="3x1", num_workers=1, device=torch.device("cpu"), share=False
        )
    with pytest.warns(DeprecationWarning, match="use its `report"):
        assert report["protocol"]["name"] == "3x1" and report["counts"]["evaluated"] == 5
    names = [(path.name, str(path)) for path, _ in videos]
    with pytest.warns(DeprecationWarning, match="`LabelOptions"):
        label_videos(model, processor, names, output=tmp_path, top_k=2, num_workers=0, place=Rank(0, 2))
    rows = list(read_results(tmp_path))
    assert all(len(row["labels"]) == 2 for row in rows) and (tmp_path / "part-00000-of-00002.jsonl").exists()
    with pytest.warns(DeprecationWarning, match="`ProbeOptions"):
        assert len(extract_features(model, processor, videos, cache=str(tmp_path / "cache")).labels) == 5
    with pytest.raises(TypeError, match="colour"), pytest.warns(DeprecationWarning):
        evaluate(model, processor, videos, colour="red")


def test_nothing_warns_in_the_form_of_today(model, processor, videos, recwarn):
    evaluation = evaluate(model, processor, videos, EvaluationOptions(batch_size=2), rank=Rank())
    assert evaluation.metrics == evaluation.report()["metrics"]
    assert not [warning for warning in recwarn if warning.category is DeprecationWarning]


# -- the network -----------------------------------------------------------------------------------------------------


def test_fused_and_plain_say_the_same(processor, videos):
    model = make_model(alignment_fusion="residual").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused, plain = (evaluate(model, processor, videos, EvaluationOptions(fuse=fuse)) for fuse in (True, False))
    torch.testing.assert_close(fused.predictions.logits, plain.predictions.logits, atol=1e-4, rtol=0)
    assert fused.report()["inference"] == {"dtype": "float32", "fused": True, "why_not_fused": None}
    assert plain.report()["inference"]["why_not_fused"] == "fuse=False"
    assert "float32, fused |" in markdown(fused.report())
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_with_hooks_is_evaluated_as_it_is(model, processor, videos):
    model, seen = copy.deepcopy(model), []
    model.vision_model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs or [1])))
    inference = evaluate(model, processor, videos).report()["inference"]
    assert seen and inference["fused"] is False and "vision_model" in inference["why_not_fused"]
    assert "float32, not fused (\\`fuse()\\`" in markdown(evaluate(model, processor, videos).report())


@pytest.mark.parametrize("fuse", [True, False])
def test_another_precision_is_computed_by_a_copy(model, processor, videos, fuse):
    identities = [(id(weight), weight.data_ptr(), weight.dtype) for weight in model.parameters()]
    with evaluating(model, InferenceOptions(dtype="bfloat16", fuse=fuse)) as network:
        assert network.module is not model and network.module.dtype is torch.bfloat16
        norms = [part for part in network.module.modules() if isinstance(part, AlignmentBatchNorm)]
        assert norms and all(norm.running_mean.dtype is torch.float32 for norm in norms)  # statistics need it
    assert [(id(weight), weight.data_ptr(), weight.dtype) for weight in model.parameters()] == identities
    exact = evaluate(model, processor, videos)
    rough = evaluate(model, processor, videos, EvaluationOptions(dtype="bfloat16", fuse=fuse))
    largest = exact.predictions.logits.abs().max()
    assert 0 < (rough.predictions.logits - exact.predictions.logits).abs().max() < 0.1 * largest
    report = rough.report()
    assert report["inference"]["dtype"] == "bfloat16" and report["inference"]["fused"] is fuse
    assert report["model"] == exact.report()["model"]  # which says what the weights are: a card finds them again


def test_weights_in_half_precision_stay_so_unless_asked(model, processor, videos):
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert evaluate(half, processor, videos).report()["inference"]["dtype"] == "bfloat16"
    assert (
        evaluate(half, processor, videos, EvaluationOptions(dtype="float32")).report()["inference"]["dtype"]
        == "float32"
    )
    assert half.dtype is torch.bfloat16


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_and_offloaded_weights_have_one_precision(model):
    int8 = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="are quantised"), evaluating(int8, InferenceOptions(dtype="bfloat16")):
        pass
    away = copy.deepcopy(model).to("meta")
    with pytest.raises(ValueError, match="offloaded"), evaluating(away, InferenceOptions(device="cpu")):
        pass


def test_a_folder_without_a_processor_can_be_given_one(tmp_path, model):
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without its video processor") as caught:
        load_processor(tmp_path)
    advice = str(caught.value).split("`")[1]
    eval(advice, {"IlaVideoProcessor": IlaVideoProcessor, "AutoConfig": AutoConfig})
    assert load_processor(tmp_path).num_frames == model.config.num_frames


def test_errors_name_the_checkpoint():
    with pytest.raises(OSError, match="^'nobody/nope' cannot be loaded: no network$"), named_in_errors("nobody/nope"):
        raise OSError("no network")
    with pytest.raises(OSError, match="^nobody/nope is gone$"), named_in_errors("nobody/nope"):
        raise OSError("nobody/nope is gone")


CAPABILITIES = [
    ({"avx512_bf16": True, "amx_bf16": False}, "", True),
    ({"avx512_bf16": False, "amx_bf16": True}, "ALL", True),
    ({"avx512_bf16": False}, "", False),
    ({"avx512_bf16": True}, "avx2", False),
    ({"avx512_bf16": True}, "AVX512_CORE", False),
    ({"avx512_bf16": True}, "AVX512_CORE_BF16", True),
    ({}, "", False),
]


@pytest.mark.parametrize(("capabilities", "limit", "expected"), CAPABILITIES)
def test_auto_takes_bfloat16_where_the_processor_has_it(model, monkeypatch, capabilities, limit, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_bfloat16_instructions(torch.device("cpu")) is expected
    assert dtype_of(model, InferenceOptions(dtype="auto")) is (torch.bfloat16 if expected else torch.float32)
    assert not has_bfloat16_instructions(torch.device("meta"))


def test_modes_are_restored_after_an_error(model):
    model = copy.deepcopy(model).train()
    model.text_model.eval()
    modes = [part.training for part in model.modules()]
    with pytest.raises(KeyError), evaluating(model, InferenceOptions(fuse=False)) as network:
        assert network.module is model and not model.training and not torch.is_grad_enabled()
        raise KeyError
    assert [part.training for part in model.modules()] == modes and torch.is_grad_enabled()


@pytest.mark.parametrize("fuse", [True, False])
def test_trained_texts_are_computed_once_in_each_evaluation(processor, videos, fuse, monkeypatch):
    model = make_model(freeze_text_model=False)
    calls, encode = [], type(model).get_text_features
    monkeypatch.setattr(
        type(model), "get_text_features", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k)
    )
    options = EvaluationOptions(batch_size=1, fuse=fuse)
    first = collect_logits(model, processor, videos, options).logits
    assert len(calls) == 1
    with torch.no_grad():
        for weight in model.text_model.parameters():
            weight.data.mul_(1.5)  # as fused optimizers write: no version tells of it
    second = collect_logits(model, processor, videos, options).logits
    assert len(calls) == 2 and not torch.allclose(first, second, atol=1e-3)
