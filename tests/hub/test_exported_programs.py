"""Exported programs (torch.export): one for any number of videos and views, which computes what the model computes.

ONNX files of the kinds of models are tested in `test_modeling_common_suite.py`, those of all forms by
`make test-extra PARTS=exporters`.
"""

import pytest
import torch

from support.forms import FORMS, IN_EXTRA, MATCHING, PROGRAMS
from support.inputs import pixels, randomised
from support.tiny_models import TINY_ILA, TINY_TEXT, TINY_VISION, tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.timesformer import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
)


EQUAL = 6e-6  # of logits below 10
ONE_LAYER = {"vision_config": {**TINY_VISION, "num_hidden_layers": 1}, "gta_groups": 4, "num_labels": 3}
ONE_LAYER["text_config"] = {**TINY_TEXT, "num_hidden_layers": 1}
BACKBONE = {**TINY_VISION, **TINY_ILA, "num_hidden_layers": 1, "num_labels": 3}


def small(**fields):
    return randomised(IlaForVideoClassification(tiny_config(**{**ONE_LAYER, **fields}))).eval()


def program(model, example, *axes):
    """The exported model as a function of pixels to logits, any length of the named axes."""
    shapes = {"pixel_values": {axis: torch.export.Dim(name) for axis, name in enumerate(axes)}}
    exported = torch.export.export(model, (), {"pixel_values": example}, dynamic_shapes=shapes).module()
    return lambda videos: exported(pixel_values=videos).logits


def check_any_videos_and_views(model, frames=4):
    exported = program(model, pixels(2, frames=frames), "videos", "views")
    for videos, views in ((1, 1), (3, 2), (2, 5)):
        each = pixels(views, frames=frames, batch=videos, seed=videos)
        torch.testing.assert_close(exported(each), model(each).logits, atol=EQUAL, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in IN_EXTRA])
@torch.no_grad()
def test_one_program_for_any_videos_and_views(name):
    fields = PROGRAMS[name]
    check_any_videos_and_views(small(**fields), fields.get("num_frames", 4))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["interaction", "residual"])
@torch.no_grad()
def test_snapshots_merged_texts_and_kept_features(fusion):
    model = small(alignment_fusion=fusion)
    model(pixels())  # keeps the class features, which the program then holds
    check_any_videos_and_views(model)
    check_any_videos_and_views(model.fuse())
    check_any_videos_and_views(model.merge_text_tower())


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"alignment_fusion": "interaction"}, {"temporal_module": "none"}])
@torch.no_grad()
def test_a_timesformer(fields):
    config = AlignedTimesformerConfig(**BACKBONE, **fields)
    check_any_videos_and_views(randomised(AlignedTimesformerForVideoClassification(config)).eval())


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"temporal_module": "none", "decoder_temporal": ["alignment"]}])
@torch.no_grad()
def test_a_frozen_clip(fields):
    config = FrozenClipConfig(**{**ONE_LAYER, **TINY_ILA, **fields})
    check_any_videos_and_views(randomised(FrozenClipForVideoClassification(config)).eval())


@torch.no_grad()
def test_the_default_is_one_program_for_any_number_of_videos():
    """The fast tier's only one."""
    model = small()
    exported = program(model, pixels(), "videos")
    for videos in (1, 5):
        each = pixels(batch=videos, seed=videos)
        torch.testing.assert_close(exported(each), model(each).logits, atol=EQUAL, rtol=0)


@pytest.mark.parametrize("name", [*MATCHING, "timesformer"])
@torch.no_grad()
def test_matching_on_the_cpu_is_refused_by_name(name):
    """A trace would hold the routes of its example, for every video."""
    if name == "timesformer":
        model = AlignedTimesformerForVideoClassification(AlignedTimesformerConfig(**BACKBONE, temporal_module="ata"))
    else:
        model = small(**FORMS[name])
    model.eval().requires_grad_(False)
    with pytest.raises(NotImplementedError, match='`temporal_module="ata"` cannot be exported: SciPy matches'):
        torch.export.export(model, (pixels(),))
    with pytest.raises(NotImplementedError, match='`temporal_module="ata"` cannot be exported: SciPy matches'):
        torch.jit.trace(lambda videos: model(videos).logits, (pixels(),))
