"""Index rules against loop-written references; the processor's inputs, views, options and files."""

import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor

from support.videos import SHARED, barcode_frame, barcodes, write_video
from transformers_ila.model.video_frames_ila import INDEX_RULES, dense_indices, segment_indices, uniform_indices
from transformers_ila.model.video_processing_ila import IlaVideoProcessor
from transformers_ila.model.video_reading_ila import VideoDecodingError, read_video


RAW = {  # frames come out as they went in: barcodes stay readable
    "do_resize": False,
    "do_center_crop": False,
    "do_rescale": False,
    "do_normalize": False,
}
PIXEL_TOLERANCE = 1e-6


def raw_barcodes(pixel_values: torch.Tensor) -> list[int]:
    """(T, C, H, W) as `RAW` gives them -> the indices the frames carry."""
    return barcodes(pixel_values.permute(0, 2, 3, 1).numpy())


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 50)


def barcode_array(frames: int) -> np.ndarray:
    return np.stack([barcode_frame(index) for index in range(frames)])


# -- index rules -----------------------------------------------------------------------------------------------------

TOTALS = [1, 2, 3, 5, 7, 8, 9, 16, 31, 32, 50, 97, 250, 300]
FRAMES = [1, 2, 3, 8, 16, 32]


@pytest.mark.parametrize("num_frames", FRAMES)
@pytest.mark.parametrize("total", TOTALS)
def test_segments_against_a_loop(total, num_frames):
    for num_clips in (1, 2, 3, 4):
        for clip in range(num_clips):
            expected = []
            for i in range(num_frames):
                start = round((total - 1) / num_frames * i)
                end = round((total - 1) / num_frames * (i + 1))
                expected.append(start + ((end - start) * (2 * clip + 1)) // (2 * num_clips))
                if num_clips == 1:
                    assert expected[-1] == (start + end) // 2
            result = segment_indices(total, num_frames=num_frames, clip=clip, num_clips=num_clips)
            assert result.tolist() == expected


def test_segments_by_hand():
    assert segment_indices(9, num_frames=8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert segment_indices(17, num_frames=4).tolist() == [2, 6, 10, 14]
    assert segment_indices(17, num_frames=4, clip=0, num_clips=2).tolist() == [1, 5, 9, 13]
    assert segment_indices(17, num_frames=4, clip=1, num_clips=2).tolist() == [3, 7, 11, 15]
    assert segment_indices(1, num_frames=3).tolist() == [0, 0, 0]


def test_random_segments_fill_their_segments_independently():
    generator = torch.Generator().manual_seed(0)
    draws = np.stack([segment_indices(33, num_frames=4, random=True, generator=generator) for _ in range(2000)])
    for i in range(4):
        counts = np.bincount(draws[:, i], minlength=33)
        assert counts[: 8 * i].sum() == counts[8 * i + 9 :].sum() == 0
        assert counts[8 * i : 8 * i + 9].min() > 150  # 2000 / 9 = 222: uniform, both ends included
    correlation = np.corrcoef(draws.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.1


@pytest.mark.parametrize("num_frames", FRAMES)
@pytest.mark.parametrize("total", TOTALS)
def test_uniform_against_a_loop(total, num_frames):
    step = (total - 1) / max(num_frames - 1, 1)
    for num_clips in (1, 2, 3):
        for clip in range(num_clips):
            shift = ((clip + 0.5) / num_clips - 0.5) * step
            grid = np.linspace(0, total - 1, num_frames) if num_frames > 1 else [(total - 1) / 2]
            expected = [round(min(max(place + shift, 0), total - 1)) for place in grid]
            assert uniform_indices(total, num_frames=num_frames, clip=clip, num_clips=num_clips).tolist() == expected


def test_uniform_by_hand():
    assert uniform_indices(13, num_frames=4).tolist() == [0, 4, 8, 12]
    assert uniform_indices(13, num_frames=4, clip=0, num_clips=2).tolist() == [0, 3, 7, 11]
    assert uniform_indices(13, num_frames=4, clip=1, num_clips=2).tolist() == [1, 5, 9, 12]
    assert uniform_indices(13, num_frames=1).tolist() == [6]


def test_random_uniform_moves_all_frames_together():
    generator = torch.Generator().manual_seed(0)
    draws = np.stack([uniform_indices(101, num_frames=5, random=True, generator=generator) for _ in range(500)])
    assert (np.diff(draws[:, 1:4]) == 25).all()
    assert draws[:, 2].min() == 38
    assert draws[:, 2].max() == 62


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("num_frames", FRAMES)
@pytest.mark.parametrize("total", TOTALS)
def test_dense_against_a_loop(total, num_frames, stride):
    room = max(total - ((num_frames - 1) * stride + 1), 0)
    for num_clips in (1, 2, 3):
        for clip in range(num_clips):
            start = int(room * (clip + 0.5) / num_clips + 1e-9)
            expected = [min(start + stride * i, total - 1) for i in range(num_frames)]
            kwargs = {"num_frames": num_frames, "stride": stride, "clip": clip, "num_clips": num_clips}
            assert dense_indices(total, **kwargs).tolist() == expected


def test_dense_by_hand():
    assert dense_indices(16, num_frames=4, stride=2).tolist() == [4, 6, 8, 10]
    assert dense_indices(16, num_frames=4, stride=2, clip=0, num_clips=2).tolist() == [2, 4, 6, 8]
    assert dense_indices(16, num_frames=4, stride=2, clip=1, num_clips=2).tolist() == [6, 8, 10, 12]
    assert dense_indices(6, num_frames=4, stride=2).tolist() == [0, 2, 4, 5]


def test_random_dense_starts_everywhere():
    generator = torch.Generator().manual_seed(0)
    starts = {int(dense_indices(20, num_frames=4, stride=4, random=True, generator=generator)[0]) for _ in range(300)}
    assert starts == set(range(8))


@pytest.mark.parametrize("name", INDEX_RULES)
def test_rules_stay_inside_ascend_and_obey_the_seed(name):
    rule = INDEX_RULES[name]
    for total in TOTALS:
        for num_frames in FRAMES:
            first, second = (
                rule(total, num_frames=num_frames, random=True, generator=torch.Generator().manual_seed(1))
                for _ in range(2)
            )
            assert np.array_equal(first, second)
            assert first.dtype == np.int64
            assert first.shape == (num_frames,)
            assert first.min() >= 0
            assert first.max() < total
            assert (np.diff(first) >= 0).all()
    torch.manual_seed(0)
    first = rule(300, num_frames=8, random=True)
    assert not np.array_equal(first, rule(300, num_frames=8, random=True))
    torch.manual_seed(0)
    assert np.array_equal(first, rule(300, num_frames=8, random=True))


@pytest.mark.parametrize("name", INDEX_RULES)
@pytest.mark.parametrize(
    ("total", "options", "message"),
    [
        (0, {"num_frames": 8}, "total must be at least 1, got 0"),
        (9, {"num_frames": 0}, "num_frames must be at least 1, got 0"),
        (9, {"num_frames": 8, "clip": 2, "num_clips": 2}, r"clip must be in \[0, num_clips=2\), got 2"),
        (9, {"num_frames": 8, "clip": -1}, "got -1"),
        (9, {"num_frames": 8, "num_clips": 0}, "num_clips must be at least 1, got 0"),
    ],
)
def test_rules_refuse(name, total, options, message):
    with pytest.raises(ValueError, match=message):
        INDEX_RULES[name](total, **options)


def test_dense_refuses_a_stride_of_zero():
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        dense_indices(9, num_frames=8, stride=0)


# -- inputs ----------------------------------------------------------------------------------------------------------

SOURCES = {
    "str": str,
    "Path": Path,
    "bytes": Path.read_bytes,
    "file object": lambda path: io.BytesIO(path.read_bytes()),
    "dict": lambda path: {"path": str(path), "bytes": None},
}
ARRAYS = {
    "channels last": lambda array: array,
    "channels first": lambda array: np.moveaxis(array, -1, 1),
    "tensor": lambda array: torch.from_numpy(array).permute(0, 3, 1, 2),
    "tensor, channels last": torch.from_numpy,
    "float": lambda array: array.astype(np.float64),
    "int64": lambda array: array.astype(np.int64),
    "read-only": lambda array: np.frombuffer(array.tobytes(), dtype=np.uint8).reshape(array.shape),
    "list of PIL": lambda array: [Image.fromarray(frame) for frame in array],
    "list of palette PIL": lambda array: [Image.fromarray(frame).convert("P") for frame in array],
    "list of grey PIL": lambda array: [Image.fromarray(frame).convert("L") for frame in array],
    "list of RGBA PIL": lambda array: [Image.fromarray(frame).convert("RGBA") for frame in array],
    "list of arrays": list,
    "list of tensors": lambda array: list(torch.from_numpy(array).permute(0, 3, 1, 2)),
    "grey": lambda array: array[..., :1],
    "grey, channels first": lambda array: np.moveaxis(array[..., :1], -1, 1),
    "RGBA": lambda array: np.concatenate([array, np.full_like(array[..., :1], 255)], axis=-1),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_files(video, kind):
    pixel_values = IlaVideoProcessor(**RAW)(SOURCES[kind](video), return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 8, 3, 48, 64)
    assert raw_barcodes(pixel_values[0]) == segment_indices(50, num_frames=8).tolist()


@pytest.mark.parametrize("kind", ARRAYS)
def test_frames_in_memory(kind):
    frames = ARRAYS[kind](barcode_array(50))
    pixel_values = IlaVideoProcessor(**RAW)(frames, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 8, 3, 48, 64)
    assert raw_barcodes(pixel_values[0]) == segment_indices(50, num_frames=8).tolist()
    as_they_are = IlaVideoProcessor(**RAW)(ARRAYS[kind](barcode_array(8)), return_tensors="pt")["pixel_values"]
    assert raw_barcodes(as_they_are[0]) == list(range(8))


def test_reversed_array():
    pixel_values = IlaVideoProcessor(**RAW)(barcode_array(8)[::-1], return_tensors="pt")["pixel_values"]
    assert raw_barcodes(pixel_values[0]) == list(range(8))[::-1]


@pytest.mark.parametrize(("layout", "shape"), [("channels_first", (3, 20, 3)), ("channels_last", (3, 3, 20))])
def test_layout_of_an_ambiguous_array(layout, shape):
    array = np.zeros((8, 3, 20, 3), dtype=np.uint8)
    batch = IlaVideoProcessor(**RAW)(array, input_data_format=layout, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 8, *shape)


def test_alpha_is_laid_over_white():
    half = np.full((8, 32, 32, 4), 100, dtype=np.uint8)
    half[..., 3] = 51  # a fifth
    for frames, white in ((half, 255), (half.astype(np.float32) / 255, 1.0)):
        pixel_values = IlaVideoProcessor(**RAW)(frames, return_tensors="pt")["pixel_values"]
        assert pixel_values.shape == (1, 8, 3, 32, 32)
        expected = (0.2 * 100 / 255 + 0.8) * white
        assert torch.allclose(pixel_values.float(), torch.tensor(expected), atol=PIXEL_TOLERANCE * white)


def test_folder_of_frames(tmp_path):
    for index, frame in enumerate(barcode_array(20)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    pixel_values = IlaVideoProcessor(**RAW)(tmp_path, return_tensors="pt")["pixel_values"]
    assert raw_barcodes(pixel_values[0]) == segment_indices(20, num_frames=8).tolist()


def test_batch_of_mixed_kinds_and_sizes(video):
    large = np.full((11, 3, 300, 280), 128, dtype=np.uint8)
    images = [Image.fromarray(frame) for frame in barcode_array(3)]
    batch = [str(video), video, video.read_bytes(), large, images, barcode_array(9).astype(np.float32)]
    processor = IlaVideoProcessor()
    all_gather = processor(batch, return_tensors="pt")["pixel_values"]
    assert all_gather.shape == (6, 8, 3, 224, 224)
    assert all_gather.dtype == torch.float32
    for one, alone in zip(all_gather, batch, strict=True):
        assert torch.equal(one, processor(alone, return_tensors="pt")["pixel_values"][0])


def test_five_dimensions_are_a_batch():
    array = np.stack([barcode_array(10), barcode_array(10)[::-1]])
    pixel_values = IlaVideoProcessor(**RAW)(array, return_tensors="pt")["pixel_values"]
    assert [raw_barcodes(v) for v in pixel_values] == [
        segment_indices(10, num_frames=8).tolist(),
        (9 - segment_indices(10, num_frames=8)).tolist(),
    ]


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (None, "Got NoneType None"),
        (3, "Got int 3"),
        ([], r"Got list \[\]"),
        ([[]], r"Got list \[\]"),
        ([1, 2], "Got int 1"),
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 3)), r"shape \(4, 4, 3\)"),
        (np.zeros((0, 4, 4, 3)), r"shape \(0, 4, 4, 3\)"),
        (np.zeros((8, 5, 5, 5)), r"1, 3 or 4 channels.*\(8, 5, 5, 5\)"),
        (Image.new("RGB", (4, 4)), "Got Image"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "one shape"),
        ({"file": "x"}, "'path' or 'bytes'"),
    ],
)
def test_bad_inputs(videos, message):
    with pytest.raises(ValueError, match=message):
        IlaVideoProcessor()(videos)


def test_a_string_that_is_no_file():
    with pytest.raises(VideoDecodingError, match=r"'missing\.mp4': no such file"):
        IlaVideoProcessor()(["missing.mp4"])


# -- which frames, which views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", INDEX_RULES)
def test_clips_follow_the_rule(video, sampling):
    options = {"stride": 3} if sampling == "dense" else {}
    processor = IlaVideoProcessor(num_frames=4, frame_sampling=sampling, frame_stride=3, num_clips=3, **RAW)
    for source in (video, barcode_array(50)):
        batch = processor(source, return_tensors="pt", return_metadata=True)
        assert batch["pixel_values"].shape == (1, 3, 4, 3, 48, 64)
        expected = [INDEX_RULES[sampling](50, num_frames=4, clip=c, num_clips=3, **options).tolist() for c in range(3)]
        assert [raw_barcodes(view) for view in batch["pixel_values"][0]] == expected
        assert batch["video_metadata"][0].frames_indices == [index for clip in expected for index in clip]
        assert batch["video_metadata"][0].total_num_frames == 50


def test_random_frames(video):
    processor = IlaVideoProcessor(random_frames=True, **RAW)
    torch.manual_seed(0)
    first = raw_barcodes(processor(video, return_tensors="pt")["pixel_values"][0])
    torch.manual_seed(0)
    expected = segment_indices(50, num_frames=8, random=True).tolist()
    assert first == expected
    assert raw_barcodes(processor(video, return_tensors="pt", random_frames=False)["pixel_values"][0]) != first
    draws = {
        tuple(raw_barcodes(processor(barcode_array(8), return_tensors="pt")["pixel_values"][0])) for _ in range(9)
    }
    assert len(draws) > 1  # exactly num_frames frames are sampled too, when drawing at random


def test_call_of_the_pipeline(video):
    pixel_values = IlaVideoProcessor(**RAW)(str(video), num_frames=5, do_sample_frames=True, return_tensors="pt")
    assert raw_barcodes(pixel_values["pixel_values"][0]) == segment_indices(50, num_frames=5).tolist()


def test_all_frames(video):
    pixel_values = IlaVideoProcessor(**RAW)(video, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    assert raw_barcodes(pixel_values[0]) == list(range(50))


def test_three_crops_along_the_long_side():
    """A picture whose value is its column: each crop shows which columns it took."""
    columns = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, None, :, None], (8, 80, 160, 3)).copy()
    options = {**RAW, "do_center_crop": True, "crop_size": 80, "num_crops": 3}
    wide = IlaVideoProcessor(**options)(columns, return_tensors="pt")["pixel_values"]
    assert wide.shape == (1, 3, 8, 3, 80, 80)
    for view, left in zip(wide[0], (0, 40, 80), strict=True):
        assert torch.equal(view[0, 0, 0], torch.arange(left, left + 80, dtype=torch.uint8))
    tall = IlaVideoProcessor(**options)(columns.swapaxes(1, 2).copy(), return_tensors="pt")["pixel_values"]
    assert torch.equal(tall.transpose(-1, -2), wide)


def test_views_are_clip_major():
    columns = np.broadcast_to(np.arange(120, dtype=np.uint8)[None, None, :, None], (40, 60, 120, 3)).copy()
    columns += 3 * np.arange(40, dtype=np.uint8)[:, None, None, None]
    options = {**RAW, "do_center_crop": True, "crop_size": 60, "num_frames": 2}
    views = IlaVideoProcessor(**options, num_clips=2, num_crops=3)(columns, return_tensors="pt")["pixel_values"][0]
    expected = []
    for clip in range(2):
        for left in (0, 30, 60):
            for index in segment_indices(40, num_frames=2, clip=clip, num_clips=2):
                expected.append(3 * int(index) + left)
    assert views.shape == (6, 2, 3, 60, 60)
    assert views[:, :, 0, 0, 0].flatten().tolist() == expected


@pytest.mark.parametrize("shape", [(100, 100), (60, 60), (90, 300), (301, 57)])
@pytest.mark.parametrize("num_crops", [1, 2, 3, 5])
def test_crops_of_any_size(shape, num_crops):
    frames = np.zeros((8, *shape, 3), dtype=np.uint8)
    for do_resize in (True, False):
        processor = IlaVideoProcessor(crop_size=64, size=72, num_crops=num_crops, do_resize=do_resize)
        shape_out = processor(frames, return_tensors="pt")["pixel_values"].shape
        assert shape_out == ((1, 8, 3, 64, 64) if num_crops == 1 else (1, num_crops, 8, 3, 64, 64))


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_centre_crop_and_clip_normalisation():
    frames = np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), dtype=np.uint8)
    processor = IlaVideoProcessor(do_resize=False, crop_size=20)
    result = processor(frames, return_tensors="pt")["pixel_values"][0]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = ((frames[:, 10:30, 20:40] / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.abs(result.numpy() - expected).max() < PIXEL_TOLERANCE * 5


def test_resizing_keeps_the_shape_of_things():
    """Short side 256, centre crop 224, against the same two steps done by Pillow on each frame."""
    ramp = np.add.outer(np.arange(120), np.arange(160)).astype(np.uint8)
    frames = np.stack([np.stack([ramp // 2 + t] * 3, axis=-1) for t in range(8)]).astype(np.uint8)
    result = IlaVideoProcessor(do_normalize=False)(frames, return_tensors="pt")["pixel_values"][0]
    for got, frame in zip(result, frames, strict=True):
        image = np.asarray(Image.fromarray(frame).resize((341, 256), Image.Resampling.BICUBIC))
        expected = image[16 : 16 + 224, 58 : 58 + 224].transpose(2, 0, 1) / 255
        assert np.abs(got.numpy() - expected).max() < 2.5 / 255


def test_tensor_types(video):
    processor = IlaVideoProcessor()
    assert isinstance(processor(video, return_tensors="np")["pixel_values"], np.ndarray)
    assert isinstance(processor(video)["pixel_values"], list)
    assert processor(video, return_tensors="pt", device="cpu")["pixel_values"].device.type == "cpu"


def test_floats_up_to_one_are_warned_about(monkeypatch):
    warned = []
    monkeypatch.setattr("transformers_ila.model.video_processing_ila.logger.warning_once", warned.append)
    IlaVideoProcessor()(np.random.default_rng(0).random((8, 30, 30, 3)))
    assert "do_rescale=False" in warned[0]


# -- options and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_frames", 0, "at least 1"),
        ("num_frames", 2.5, "an integer"),
        ("num_frames", True, "an integer"),
        ("num_clips", 0, "at least 1"),
        ("num_crops", -1, "at least 1"),
        ("frame_stride", 0, "at least 1"),
        ("frame_sampling", "middle", "segments, uniform, dense"),
        ("random_frames", 1, "True or False"),
        ("fps", 3, "set num_frames"),
    ],
)
def test_bad_options(name, value, allowed):
    with pytest.raises(ValueError, match=rf"{name} must be .*{allowed}.* got '?{value}'?\."):
        IlaVideoProcessor(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be .*{allowed}"):
        IlaVideoProcessor()(barcode_array(8), **{name: value})


HUGE, NAN = 10**9, float("nan")
HOSTILE = [  # what a JSON file may say; most took all memory, or ended in a traceback
    *({name: HUGE} for name in ("num_frames", "num_clips", "num_crops", "frame_stride", "size", "crop_size")),
    *({"size": size} for size in ({"shortest_edge": -1}, {"shortest_edge": "a"}, {"x": 3}, [1, 2, 3], {}, True, NAN)),
    *({"crop_size": size} for size in ({"height": 10**6, "width": 9}, "big", [], {"height": NAN, "width": 9})),
    *({"image_mean": mean} for mean in ("abc", [0.5, 0.5], NAN, [0.5, "x", 0.5])),
    *({"image_std": std} for std in (0, [0, 1, 1], -1, float("inf"))),
    *({"rescale_factor": factor} for factor in ("x", float("inf"), 0, -1, True)),
    *({"do_resize": "no"}, {"do_rescale": 0}, {"do_normalize": "False"}, {"random_frames": "yes"}),
    *({"resample": 99}, {"resample": "bicubic"}, {"data_format": "channels_last"}, {"input_data_format": "THWC"}),
    *({"do_pad": True}, {"device": "nonsense"}, {"device": 5}, {"num_frames": [8]}, {"frame_sampling": {"a": 1}}),
    *({"read_limits": limits} for limits in (5, [1], {"max_seconds": "x"}, {"max_seconds": NAN}, {"timeout": 10**40})),
    *({"read_limits": limits} for limits in ({"formats": 5}, {"allow_private_addresses": 1}, {"max_pixels": True})),
]


@pytest.mark.parametrize("options", HOSTILE, ids=str)
def test_hostile_options_are_refused_by_name(options, tmp_path):
    ((name, value),) = options.items()
    name = next(iter(value)) if name == "read_limits" and isinstance(value, dict) else name
    with pytest.raises(ValueError, match=name):
        IlaVideoProcessor(**options)
    with pytest.raises(ValueError, match=name):
        IlaVideoProcessor()(barcode_array(8), **options)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match=name):
        IlaVideoProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "5", '"x"', '{"preprocess": 5}', '{"__class__": 1}', '{"video_metadata": 5}']
)
def test_files_that_are_no_processors(content, tmp_path):
    (tmp_path / "video_preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match="must hold a JSON object|cannot be set"):
        IlaVideoProcessor.from_pretrained(tmp_path)


def test_memory_is_predicted_before_it_is_taken(video):
    """Each would take tens of gigabytes: decoded frames, repeated ones, resized ones, pixel values."""
    thin = np.zeros((8, 2, 120_000, 3), np.uint8)
    large = {"crop_size": 16_000, "num_crops": 9}
    sources = [
        (video, {"num_frames": 10_000, "num_clips": 100}),
        (barcode_array(9), {"num_frames": 10_000, "num_clips": 100}),
        (thin, {"size": {"shortest_edge": 512}}),
        (barcode_array(8), large),
    ]
    for source, options in sources:
        with pytest.raises(VideoDecodingError, match=r"frames take .* bytes, more than max_memory_bytes=8589934592"):
            IlaVideoProcessor()(source, **options)
    limits = {"max_memory_bytes": 8 * 48 * 64 * 3 - 1}
    with pytest.raises(VideoDecodingError, match="8 frames take 73728 bytes, more than max_memory_bytes=73727"):
        IlaVideoProcessor()(video, read_limits=limits)


def test_sizes_of_a_call_reach_the_decoder(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 8)
    options = {"scale_in_decoder": True, "size": 24, "do_center_crop": False}
    assert IlaVideoProcessor()(path, return_tensors="pt", **options).pixel_values.shape[-2:] == (24, 32)


@pytest.mark.parametrize(
    "options",
    [
        {"num_clips": 2, "do_sample_frames": False},
        {"num_crops": 3, "do_center_crop": False},
        {"max_num_patches": 9, "patch_size": 4},
        {"max_num_patches": 9, "do_center_crop": False},
        {"patch_size": 9, "do_center_crop": False},
        {"max_num_patches": 9, "patch_size": 4, "do_center_crop": False, "scale_in_decoder": True},
        {"scale_in_decoder": True, "size": {"height": 9, "width": 9}, "do_center_crop": False},
    ],
)
def test_options_that_contradict(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        IlaVideoProcessor()(barcode_array(8), **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        IlaVideoProcessor(**options)(barcode_array(8))


def test_as_many_patches_as_allowed():
    options = {"max_num_patches": 12, "patch_size": 4, "do_center_crop": False, "num_frames": 2}
    processor = IlaVideoProcessor(**options)
    sizes = {(48, 64): (12, 16), (64, 48): (16, 12), (10, 400): (4, 48), (5, 5): (12, 12)}
    for (height, width), expected in sizes.items():
        frames = np.zeros((2, height, width, 3), dtype=np.uint8)
        found = processor(frames, return_tensors="pt").pixel_values.shape[-2:]
        assert found == expected and found[0] // 4 * (found[1] // 4) <= 12
    assert processor(barcode_array(2), return_tensors="pt", do_resize=False).pixel_values.shape[-2:] == (48, 64)
    with pytest.raises(ValueError, match="max_num_patches=12 sets the size, got size=20"):
        processor(barcode_array(2), size=20)


def test_none_means_the_processors_own_setting():
    options = dict.fromkeys(("num_frames", "num_clips", "frame_sampling", "do_sample_frames"))
    assert IlaVideoProcessor()(barcode_array(9), return_tensors="pt", **options)["pixel_values"].shape[1] == 8


@pytest.mark.parametrize("several", [{}, {"num_crops": 3, "crop_size": {"height": 24, "width": 24}}])
def test_scaling_in_the_decoder_is_nearly_the_same(tmp_path, several):
    path = write_video(tmp_path / "clip.mp4", 20, crf=5)
    options = {"size": {"shortest_edge": 24}, "do_center_crop": bool(several), "do_normalize": False, **several}
    exact = IlaVideoProcessor(**options)(path, return_tensors="pt").pixel_values
    scaled = IlaVideoProcessor(scale_in_decoder=True, **options)(path, return_tensors="pt").pixel_values
    assert scaled.shape == exact.shape
    assert not torch.equal(scaled, exact)
    assert (scaled - exact).abs().mean() < 0.03
    call = IlaVideoProcessor(**options)(path, return_tensors="pt", scale_in_decoder=True).pixel_values
    assert torch.equal(call, scaled)


def test_read_limits(video, tmp_path):
    processor = IlaVideoProcessor(read_limits={"max_frames": 49})
    with pytest.raises(VideoDecodingError, match="max_frames=49"):
        processor(video)
    with pytest.raises(VideoDecodingError, match="max_frames=49"):
        processor(video, do_sample_frames=False)
    assert processor(video, read_limits={"max_frames": 51}, return_tensors="pt").pixel_values.shape[1] == 8
    processor.save_pretrained(tmp_path)
    assert IlaVideoProcessor.from_pretrained(tmp_path).read_limits == {"max_frames": 49}
    with pytest.raises(ValueError, match="read_limits may have max_pixels, .*max_bytes"):
        IlaVideoProcessor(read_limits={"max_bytes": 5})(video)
    with pytest.raises(ValueError, match="formats of read_limits"):
        IlaVideoProcessor(read_limits={"formats": "concat,mov"})(video)
    with pytest.raises(ValueError, match="max_frames must be above 0"):
        IlaVideoProcessor(read_limits={"max_frames": 0})(video)


def test_random_frames_are_not_saved(tmp_path, video, caplog):
    """Whoever loads a processor gets the same answer twice; also where an earlier version saved it."""
    processor = IlaVideoProcessor(random_frames=True, **RAW)
    processor.save_pretrained(tmp_path / "new")
    assert "the processor is saved with random_frames=False" in caplog.text
    assert processor.random_frames and '"random_frames": true' in repr(processor)
    IlaVideoProcessor(**RAW).save_pretrained(tmp_path / "old")
    (file,) = (tmp_path / "old").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"random_frames": True}))
    for folder in ("new", "old"):
        loaded = IlaVideoProcessor.from_pretrained(tmp_path / folder)
        first, second = (loaded(video, return_tensors="pt")["pixel_values"] for _ in range(2))
        assert torch.equal(first, second) and not loaded.random_frames
        assert IlaVideoProcessor.from_pretrained(tmp_path / folder, random_frames=True).random_frames
    assert "was saved with random_frames=True, which is left out" in caplog.text


def test_saved_and_loaded_identically(tmp_path):
    processor = IlaVideoProcessor(
        num_frames=16, frame_sampling="dense", frame_stride=2, num_clips=4, num_crops=3, size=300
    )
    processor.save_pretrained(tmp_path)
    loaded = IlaVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.num_frames, loaded.frame_sampling, loaded.num_clips, loaded.num_crops) == (16, "dense", 4, 3)
    assert IlaVideoProcessor.from_pretrained(tmp_path, num_frames=2).num_frames == 2


OLD_CLIP_FILE = {"crop_size": 224, "size": 224, "feature_extractor_type": "CLIPFeatureExtractor"}
NEW_CLIP_FILE = {
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
}


@pytest.mark.parametrize("saved", [OLD_CLIP_FILE, NEW_CLIP_FILE], ids=["old", "new"])
def test_from_a_clip_folder(tmp_path, saved):
    steps = {"do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3}
    numbers = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**saved, **steps, **numbers}))
    processor = IlaVideoProcessor.from_pretrained(tmp_path)
    assert list(processor.image_mean) == numbers["image_mean"]
    assert list(processor.image_std) == numbers["image_std"]
    assert dict(processor.size) == {"shortest_edge": 224}
    assert processor.num_frames == 8
    assert processor(barcode_array(8), return_tensors="pt")["pixel_values"].shape == (1, 8, 3, 224, 224)
    assert processor.to_dict()["video_processor_type"] == "IlaVideoProcessor"
    assert not {"feature_extractor_type", "image_processor_type"} & set(processor.to_dict())


@pytest.mark.parametrize(("image_size", "short_side"), [(224, 256), (336, 384), (32, 37), ((64, 224), 256)])
def test_for_model(image_size, short_side):
    vision = SimpleNamespace(image_size=image_size, num_frames=16)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    for config in (vision, SimpleNamespace(vision_config=vision)):
        processor = IlaVideoProcessor.for_model(config)
        assert processor.num_frames == 16
        assert dict(processor.size) == {"shortest_edge": short_side}
        assert dict(processor.crop_size) == {"height": height, "width": width}
        assert processor(barcode_array(20), return_tensors="pt")["pixel_values"].shape == (1, 16, 3, height, width)
    assert IlaVideoProcessor.for_model(vision, num_frames=4, num_crops=3).num_frames == 4


# -- as a checkpoint's image processor -------------------------------------------------------------------------------

IMAGE_PROCESSORS = {
    "clip": CLIPImageProcessor(),
    "clip_old": CLIPImageProcessor(size=96, crop_size=64),
    "padded": CLIPImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 70, "width": 60}),
    "no_crop": CLIPImageProcessor(do_center_crop=False, size={"height": 40, "width": 70}, resample=2),
    "raw": CLIPImageProcessor(do_resize=False, do_normalize=False, do_rescale=False),
    "siglip": SiglipImageProcessor(),
}


@pytest.mark.parametrize("kind", IMAGE_PROCESSORS)
@pytest.mark.parametrize("portrait", [False, True], ids=["landscape", "portrait"])
def test_frames_are_what_the_image_processor_makes_of_pictures(tmp_path, video, kind, portrait):
    images = IMAGE_PROCESSORS[kind]
    real = next((SHARED / "real").glob("kinetics_flipping*"), video)
    source = read_video(real, partial(segment_indices, num_frames=3))[0]
    source = source.transpose(0, 2, 1, 3) if portrait else source
    wanted = images([Image.fromarray(frame) for frame in source], return_tensors="pt")["pixel_values"]
    images.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    for origin in (images, tmp_path, str(tmp_path)):
        processor = IlaVideoProcessor.for_images(origin, num_frames=3)
        pixels = processor(source, return_tensors="pt")["pixel_values"]
        assert processor.num_frames == 3 and torch.equal(pixels[0], wanted.to(pixels))
    if not portrait:
        assert torch.equal(processor(real, return_tensors="pt")["pixel_values"], pixels)


def test_a_checkpoint_without_an_image_processor_has_its_kinds_defaults(tmp_path):
    for content, wanted in {
        '{"model_type": "clip"}': {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
        '{"model_type": "clip", "vision_config": {"image_size": 336}}': {"size": {"shortest_edge": 336}},
        '{"model_type": "siglip"}': {"size": {"height": 224, "width": 224}, "do_center_crop": False},
    }.items():
        (tmp_path / "config.json").write_text(content)
        processor = IlaVideoProcessor.for_images(tmp_path)
        found = {name: getattr(processor, name) for name in wanted}
        assert {name: dict(v) if isinstance(wanted[name], dict) else v for name, v in found.items()} == wanted
        assert processor.image_mean[0] == (0.5 if "siglip" in content else CLIPImageProcessor.image_mean[0])


def test_processors_that_frames_cannot_follow(tmp_path):
    padding = CLIPImageProcessor(do_pad=True)
    with pytest.raises(ValueError, match="CLIPImageProcessor has do_pad=True, which IlaVideoProcessor cannot do"):
        IlaVideoProcessor.for_images(padding)
    with pytest.raises(ValueError, match="Got int 3; allowed: a folder, a Hub id or an image processor"):
        IlaVideoProcessor.for_images(3)
    with pytest.raises(OSError, match="holds neither a config.json nor"):
        IlaVideoProcessor.for_images(tmp_path)
