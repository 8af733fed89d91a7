"""Words of one's own without training: equality with Transformers' CLIP, templates, features of texts and videos."""

import pytest
import torch
from transformers import CLIPModel

from support.inputs import CLOSE, pixels, randomised
from support.paths import SHARED
from support.tiny_models import save_clip
from transformers_ila import (
    IlaForVideoClassification,
    IlaVideoProcessor,
)
from transformers_ila.model.class_features_ila import check_templates


WORDS = ["juggle", "waving", "falls"]
TWO = ["a video of {}.", "{}, filmed"]
REAL = SHARED / "videos" / "real" / "ucf101_v_SoccerJuggling_g23_c01.avi"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP checkpoint whose features differ much between frames and between texts."""
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    randomised(CLIPModel.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(clip, tmp_path_factory):
    """An ILA checkpoint with a text head and a tower of its own."""
    folder = tmp_path_factory.mktemp("trained")
    model = IlaForVideoClassification.from_pretrained(clip, labels=WORDS, num_frames=4, alignment_hidden_size=8)
    randomised(model).save_pretrained(folder)
    return folder


def zero_shot(path, labels=WORDS, **options):
    return IlaForVideoClassification.from_pretrained(path, labels=labels, zero_shot=True, **options).eval()


def of_clip(folder, tokenizer, videos, sentences):
    """Logits of Transformers' CLIP: frames and texts one by one, averaged at unit length. (B, T, ...) -> (B, K)"""
    model = CLIPModel.from_pretrained(folder).eval()

    def unit(output):
        return F.normalize(output if isinstance(output, torch.Tensor) else output.pooler_output, dim=-1)

    with torch.no_grad():
        tokens = [tokenizer(same, return_tensors="pt", padding=True) for same in sentences]
        texts = torch.stack([unit(unit(model.get_text_features(**inputs)).mean(0)) for inputs in tokens])
        found = torch.stack([unit(unit(model.get_image_features(frames)).mean(0)) for frames in videos])
        return model.logit_scale.exp() * found @ texts.T


@pytest.mark.parametrize("templates", [None, "a video of {}.", TWO, "actions"])
def test_it_equals_clip_of_transformers(clip, templates):
    model = zero_shot(clip, num_frames=5, templates=templates)
    shapes = check_templates(templates or "{}")
    sentences = [[shape.replace("{}", word) for shape in shapes] for word in WORDS]
    expected = of_clip(clip, model.tokenizer, pixels(frames=5), sentences)
    torch.testing.assert_close(model(pixels(frames=5)).logits, expected, **CLOSE)
    assert model.config.class_names == WORDS and expected.std() > 0.01


@pytest.mark.skipif(not REAL.is_file(), reason="the shared videos are not here")
def test_it_equals_clip_of_transformers_on_a_real_video(clip):
    model = zero_shot(clip)
    videos = IlaVideoProcessor.for_model(model.config)(str(REAL), return_tensors="pt")["pixel_values"]
    expected = of_clip(clip, model.tokenizer, videos, [[word] for word in WORDS])
    torch.testing.assert_close(model(videos).logits, expected, **CLOSE)
