"""What pictures are drawn from, against the model's own outputs, hooks and marks painted into videos."""

import pytest
import torch

from transformers_ila.evaluation.inspection import inspect_video
from transformers_ila.model.pairs_ila import pairs_to_frames


@pytest.fixture(scope="module")
def clip():
    return torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_points_masks_and_features_are_the_models_own(model, processor, clip):
    found = inspect_video(model, processor, clip)
    pixels = processor(clip, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixels, output_alignment=True, output_hidden_states=True)
    assert found.layers == (0, 1) and found.grid == (7, 7) and found.indices == [0, 1, 2, 3] and found.times is None
    for layer in found.layers:
        points, masks = output.interactive_points[layer], output.alignment_masks[layer]
        torch.testing.assert_close(found.points[layer], pairs_to_frames(points, "adjacent")[0])
        torch.testing.assert_close(found.masks[layer], pairs_to_frames(masks, "adjacent")[0])
        maps = output.hidden_states[layer + 1][0, :, 1:].mean(-1).unflatten(1, (7, 7))
        torch.testing.assert_close(found.features[layer], maps)
    best = output.logits.softmax(-1)[0].topk(5)
    assert [name for name, _ in found.labels] == [model.config.id2label[index] for index in best.indices.tolist()]
    torch.testing.assert_close(torch.tensor([score for _, score in found.labels]), best.values)
