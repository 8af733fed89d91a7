"""Transformers' VideoProcessingTestMixin, run against IlaVideoProcessor."""

import unittest

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

import transformers_ila  # noqa: F401 - registers the class with AutoVideoProcessor
from support.transformers_common_suite import common_suite
from transformers_ila.model.video_processing_ila import IlaVideoProcessor


suite = common_suite("test_video_processing_common")


class IlaVideoProcessingTester:
    """What the suite asks of a tester: a processor's settings, videos, and the shape they must become."""

    batch_size = 5
    num_frames = 8
    num_channels = 3
    crop = 18

    def prepare_video_processor_dict(self) -> dict:
        return {
            "num_frames": self.num_frames,
            "size": {"shortest_edge": 20},
            "crop_size": {"height": self.crop, "width": self.crop},
            "image_mean": OPENAI_CLIP_MEAN,
            "image_std": OPENAI_CLIP_STD,
            "do_convert_rgb": True,
        }

    def expected_output_video_shape(self, videos: list) -> list[int]:
        return [self.num_frames, 3, self.crop, self.crop]

    def prepare_video_inputs(self, *, equal_resolution: bool = False, return_tensors: str = "pil") -> list:
        return suite.prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=30,
            max_resolution=80,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )


class IlaVideoProcessingCommonTest(suite.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = IlaVideoProcessor
    input_name = "pixel_values"  # the model's input name; the suite's default is that of vision-language models
    test_cast_dtype = True  # switches the suite's cast test on

    def setUp(self) -> None:
        super().setUp()
        np.random.seed(0)
        self.video_processor_tester = IlaVideoProcessingTester()
        self.video_processor_dict = self.video_processor_tester.prepare_video_processor_dict()

    def test_call_sample_frames(self) -> None:
        """Overridden: the suite's version asks for sampling by `fps` and for an error on videos shorter than
        `num_frames`. Ours refuses `fps`, as the model's number of frames is fixed, and repeats frames of short videos.
        """
        videos = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")
        processor = IlaVideoProcessor(**self.video_processor_dict)
        processor.do_sample_frames = False
        for video in (videos[0], videos):
            self.assertEqual(processor(video, return_tensors="pt", num_frames=3)["pixel_values"].shape[1], 8)
        processor.do_sample_frames = True
        for video in (videos[0], videos):
            for frames in (3, 8, 10):
                batch = processor(video, return_tensors="pt", num_frames=frames)
                self.assertEqual(batch["pixel_values"].shape[1], frames)
        short = processor(videos[0], return_tensors="pt", num_frames=10)["pixel_values"][0]
        self.assertLess(len(torch.unique(short.flatten(1), dim=0)), 10)
        with self.assertRaisesRegex(ValueError, "fps must be None, .* got 3"):
            processor(videos[0], fps=3)
