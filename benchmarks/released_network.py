"""Compare the converted network with tensors that the released network computed.

    python benchmarks/released_network.py ../shared/reference/*.safetensors

Prints for every tensor the largest difference, and the same relative to the tensor's largest value. A file holds
random weights under the released names, inputs, and the outputs of the released network in float32 on a CPU.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from transformers_ila import IlaForVideoClassification
from transformers_ila.conversion.state_dicts import convert_state_dict
from transformers_ila.model import alignment_ila


class Comparison(NamedTuple):
    """One tensor; difference is the largest, scale the largest value of the expected tensor."""

    name: str
    difference: float
    scale: float


def compare(file: str | Path) -> Iterator[Comparison]:
    """All tensors of a file, in the order of the network."""
    model, golden = golden_model(file)
    pixels = golden["input.pixel_values"]
    for name, found in outputs(model, pixels).items():
        yield _compared(name, found, golden)
    for module in model.modules():  # jitter alone: batch normalisation stays in eval mode
        module.training = isinstance(module, alignment_ila.PointPredictor)
    with torch.no_grad():
        output = model(pixels)
    yield _compared("logits_with_jitter", output.logits, golden)
    yield _compared("alignment_cosine_loss_with_jitter", output.alignment_loss, golden)


def golden_model(file: str | Path) -> tuple[IlaForVideoClassification, dict[str, torch.Tensor]]:
    """The converted model, in eval mode, and the file's tensors."""
    tensors = load_file(file)
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    config, converted = convert_state_dict(weights)
    model = IlaForVideoClassification(config).eval()
    model.load_state_dict(converted, strict=False)
    if "input.input_ids" in tensors:
        model.set_class_input_ids(tensors["input.input_ids"])
    return model, tensors


@torch.no_grad()
def outputs(model: IlaForVideoClassification, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the released network was recorded with, by the same names."""
    pooled = []
    pool = alignment_ila.masked_average_pool

    def recorded(masks: torch.Tensor, patches: torch.Tensor, pairing: str) -> torch.Tensor:
        """The mean over patches here, the sum there."""
        result = pool(masks, patches, pairing)
        pooled.append(result.flatten(-2) * patches.shape[2])
        return result

    with patch.object(alignment_ila, "masked_average_pool", recorded):
        output = model(pixels, output_alignment=True, output_hidden_states=True)
    found = {}
    for index, points in enumerate(output.interactive_points):
        found[f"block{index}.points"] = points.flatten(-2)
        found[f"block{index}.pooled_pairs"] = pooled[index]
        found[f"block{index}.hidden"] = output.hidden_states[index + 1].flatten(0, 1)
    if model.config.classification_head == "text":
        found["video_features"] = model.get_video_features(pixels).pooler_output
        found["text_features"] = model.class_text_features()
    else:  # there the file has the logits
        found["video_features"] = output.logits
    return {**found, "logits": output.logits, "alignment_cosine_loss": output.alignment_loss}


def _compared(name: str, found: torch.Tensor, golden: dict[str, torch.Tensor]) -> Comparison:
    expected = golden[f"output.{name}"]
    if "loss" in name:
        expected = expected.sum()  # there per block
    if found.shape != expected.shape:
        raise ValueError(f"{name} has the shape {tuple(found.shape)}, expected {tuple(expected.shape)}.")
    return Comparison(name, (found - expected).abs().max().item(), expected.abs().max().item())


def main(files: list[str]) -> None:
    if not files:
        raise SystemExit(__doc__)
    for file in files:
        print(f"{Path(file).name}\n{'tensor':40}{'largest difference':>20}{'of the scale':>14}")
        for name, difference, scale in compare(file):
            print(f"{name:40}{difference:20.2e}{difference / scale:14.2e}")


if __name__ == "__main__":
    main(sys.argv[1:])
