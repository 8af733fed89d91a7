"""Linear layers whose weights torchao keeps as int8, by Transformers' own configuration."""

import pytest
import torch
from transformers import TorchAoConfig

from support.inputs import pixels, randomised
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.evaluation.report import fingerprint


torchao = pytest.importorskip("torchao.quantization", reason="needs torchao: pip install '.[int8]'")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"classification_head": "linear", "num_labels": 3},
        {"alignment_fusion": "residual"},
        {"alignment_fusion": "interaction"},
        {"temporal_module": "gta"},
    ],
)
def test_the_same_answers_but_for_the_rounding(fields, tmp_path):
    randomised(IlaForVideoClassification(tiny_config(**fields))).save_pretrained(tmp_path)
    exact = IlaForVideoClassification.from_pretrained(tmp_path)
    small = IlaForVideoClassification.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(torchao.Int8WeightOnlyConfig())
    )
    linear = [name for name, module in exact.named_modules() if isinstance(module, torch.nn.Linear)]
    kept = [name for name in linear if type(small.get_submodule(name).weight) is not torchao.Int8Tensor]
    assert not kept, kept
    # What it is, computed plainly: every weight rounded to 127 steps of its row's largest.
    with torch.no_grad():
        for name in linear:
            exact.get_submodule(name).weight.copy_(small.get_submodule(name).weight.dequantize())
        for batch in (1, 3):
            clips = pixels(batch=batch)
            torch.testing.assert_close(small(clips).logits, exact(clips).logits, atol=1e-4, rtol=1e-4)


def test_a_fingerprint_is_of_the_rounded_weights(tmp_path):
    randomised(IlaForVideoClassification(tiny_config())).save_pretrained(tmp_path)
    rounding = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    one, same = (IlaForVideoClassification.from_pretrained(tmp_path, quantization_config=rounding) for _ in range(2))
    assert fingerprint(one) == fingerprint(same) != fingerprint(IlaForVideoClassification.from_pretrained(tmp_path))
    same.vision_model.encoder.layers[0].mlp.fc1.weight.qdata[0, 0] += 1
    assert fingerprint(one) != fingerprint(same)
