"""Every form of ILA as one ONNX file for any number of videos; run by `make test-extra PARTS=exporters`."""

import pytest
import torch
from transformers.exporters.exporter_onnx import OnnxExporter

from support.forms import PROGRAMS
from support.inputs import pixels, randomised
from support.tiny_models import TINY_TEXT, TINY_VISION, tiny_config
from transformers_ila import IlaForVideoClassification


@pytest.mark.parametrize("name", PROGRAMS)
@torch.no_grad()
def test_an_onnx_file_gives_the_same_logits(name):
    one_layer = {"vision_config": {**TINY_VISION, "num_hidden_layers": 1}}
    one_layer["text_config"] = {**TINY_TEXT, "num_hidden_layers": 1}
    config = tiny_config(**{**one_layer, "gta_groups": 4, "num_labels": 3, **PROGRAMS[name]})
    model, frames = randomised(IlaForVideoClassification(config)).eval(), config.num_frames
    shapes = {"pixel_values": {0: torch.export.Dim("videos")}}
    exported = OnnxExporter().export(model, {"pixel_values": pixels(frames=frames)}, {"dynamic_shapes": shapes})
    for videos in (1, 2, 5):
        each = pixels(frames=frames, batch=videos, seed=videos)
        torch.testing.assert_close(exported(pixel_values=each).logits, model(each).logits, atol=6e-6, rtol=0)
