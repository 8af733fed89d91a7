"""ILA as an ONNX program gives the logits of the model; run by `make test-extra PARTS=exporters`."""

import onnxruntime
import pytest
import torch
from torch import nn

from support.inputs import pixels, randomised
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification


class Logits(nn.Module):
    """A classifier whose only output is its logits."""

    def __init__(self, model: IlaForVideoClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


@pytest.mark.parametrize("fusion", ["interaction", "mi_token", "residual"])
def test_an_onnx_program_gives_the_same_logits(fusion, tmp_path):
    model = randomised(IlaForVideoClassification(tiny_config(num_labels=3, alignment_fusion=fusion))).eval()
    with torch.no_grad():
        expected = model(pixels()).logits
        program = torch.onnx.export(Logits(model), (pixels(),), dynamo=True)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (found,) = session.run(None, {given.name: pixels().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
