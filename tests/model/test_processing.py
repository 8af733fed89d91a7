"""The processor: videos and texts in one call, saved, loaded, and made from a CLIP folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from transformers_ila.model.processing_ila import IlaProcessor
from transformers_ila.model.video_processing_ila import IlaVideoProcessor


FRAMES = np.random.default_rng(0).integers(0, 256, (12, 40, 50, 3), dtype=np.uint8)
START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture
def clip_folder(tmp_path) -> Path:
    """What a CLIP checkpoint has beside its weights, with a tiny vocabulary."""
    vocabulary = [START, END, "a</w>", "b</w>", "ab</w>", "a", "b"]
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "bos_token": START, "model_max_length": 77}
    tokenizer |= dict.fromkeys(("eos_token", "unk_token", "pad_token"), END)
    image_processor = {"image_processor_type": "CLIPImageProcessor", "size": 224, "crop_size": 224}
    image_processor |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    files = {
        "vocab.json": json.dumps({token: index for index, token in enumerate(vocabulary)}),
        "merges.txt": "#version: 0.2\na b</w>\n",
        "tokenizer_config.json": json.dumps(tokenizer),
        "preprocessor_config.json": json.dumps(image_processor),
    }
    folder = tmp_path / "clip"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def processor(clip_folder) -> IlaProcessor:
    return IlaProcessor(IlaVideoProcessor(num_frames=4), CLIPTokenizer.from_pretrained(clip_folder))


def test_videos_and_texts(processor):
    batch = processor(videos=[FRAMES, FRAMES], text=["a b", "ab", "a a a"], return_tensors="pt")
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    assert batch["pixel_values"].shape == (2, 4, 3, 224, 224)
    assert batch["input_ids"].tolist() == [[0, 2, 3, 1, 1], [0, 4, 1, 1, 1], [0, 2, 2, 2, 1]]
    assert batch["attention_mask"].sum(-1).tolist() == [4, 3, 5]


def test_one_of_the_two(processor):
    alone = processor(videos=FRAMES, return_tensors="pt")
    assert set(alone) == {"pixel_values"}
    assert torch.equal(alone["pixel_values"], processor.video_processor(FRAMES, return_tensors="pt")["pixel_values"])
    assert set(processor(text=["a"], return_tensors="pt")) == {"input_ids", "attention_mask"}
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def test_options_reach_the_video_processor(processor):
    batch = processor(videos=FRAMES, text=["a"], num_frames=2, num_clips=3, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 2, 3, 224, 224)
    with pytest.raises(ValueError, match="frame_sampling must be one of"):
        processor(videos=FRAMES, frame_sampling="none")


def test_metadata_on_request(processor):
    batch = processor(videos=FRAMES, return_metadata=True, return_tensors="pt")
    assert batch["video_metadata"][0].frames_indices == [1, 4, 7, 9]


def test_saved_and_loaded_identically(processor, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    loaded = IlaProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.video_processor.to_dict() == processor.video_processor.to_dict()
    expected = processor(videos=FRAMES, text=["a b", "ab"], return_tensors="pt")
    for name, value in loaded(videos=FRAMES, text=["a b", "ab"], return_tensors="pt").items():
        assert torch.equal(value, expected[name])


def test_random_frames_are_not_saved(processor, tmp_path, caplog):
    processor.video_processor.random_frames = True
    try:
        processor.save_pretrained(tmp_path)
    finally:
        processor.video_processor.random_frames = False
    assert not IlaProcessor.from_pretrained(tmp_path).video_processor.random_frames
    assert "the processor is saved with random_frames=False" in caplog.text


def test_from_a_clip_folder(clip_folder):
    processor = IlaProcessor.from_pretrained(clip_folder)
    assert isinstance(processor.video_processor, IlaVideoProcessor)
    assert list(processor.video_processor.image_mean) == [0.1, 0.2, 0.3]
    batch = processor(videos=FRAMES, text=["a b", "ab"], return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 8, 3, 224, 224)
    assert batch["input_ids"].tolist() == [[0, 2, 3, 1], [0, 4, 1, 1]]
