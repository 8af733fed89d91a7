"""ILA as an ONNX program gives the logits of the model; run by `make test-extra PARTS=exporters`."""

import onnxruntime
import pytest
import torch

from support.inputs import pixels, randomised
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification


@pytest.mark.parametrize("fusion", ["interaction", "mi_token", "residual"])
def test_an_onnx_program_gives_the_same_logits(fusion, tmp_path):
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3, alignment_fusion=fusion))).eval()
    with torch.no_grad():
        expected = model(pixels()).logits
        program = torch.onnx.export(model, (), kwargs={"pixel_values": pixels()}, dynamo=True)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (name,) = (tensor.name for tensor in session.get_inputs())
    outputs = dict(zip((tensor.name for tensor in session.get_outputs()), session.run(None, {name: pixels().numpy()})))
    torch.testing.assert_close(torch.from_numpy(outputs["logits"]), expected, atol=1e-4, rtol=1e-4)
