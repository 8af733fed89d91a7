"""One rule for pixels at all doors: what a list of pictures, a file, its bytes and a folder become is the same."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from transformers_ila import IlaVideoProcessor, read_video
from transformers_ila.model.video_frames_ila import frames_first
from transformers_ila.model.video_reading_ila import VideoDecodingError, check_video


RAW = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
DOORS = {
    "path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "file object": lambda path: path.open("rb"),
    "dict": lambda path: {"path": None, "bytes": path.read_bytes()},
    "folder": lambda path: path.parent,
    "PIL": lambda path: [Image.open(path)],
}
HALF = np.zeros((40, 56, 3), np.uint8)
HALF[:20] = 200
GREY = np.full((40, 56), 40_000, np.uint16)
CLEAR = np.full((40, 56, 4), (100, 100, 100, 51), np.uint8)  # a fifth of 100, over white: 224


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def raw(video, **options) -> np.ndarray:
    """(T, H, W, 3) as they go in."""
    found = IlaVideoProcessor(num_frames=1, **RAW, **options)(video, return_tensors="pt")["pixel_values"][0]
    return found.permute(0, 2, 3, 1).numpy()


# -- pictures --------------------------------------------------------------------------------------------------------

PICTURES = {  # name -> (picture, how it is saved, the value that all its pixels have)
    "grey16.png": (Image.fromarray(GREY), {}, 156),
    "grey16.tif": (Image.fromarray(GREY), {}, 156),
    "grey32.tif": (Image.fromarray(GREY.astype(np.int32)), {}, 156),
    "float.tif": (Image.fromarray(np.full((40, 56), 77, np.float32)), {}, 77),
    "rgba.png": (Image.fromarray(CLEAR), {}, 224),
    "rgba.webp": (Image.fromarray(CLEAR), {"lossless": True, "exact": True}, 224),
    "grey_alpha.png": (Image.fromarray(CLEAR).convert("LA"), {}, 224),
    "palette.png": (Image.new("P", (56, 40)), {"transparency": 0}, 255),
    "cmyk.jpg": (Image.new("RGB", (56, 40), (100, 100, 100)).convert("CMYK"), {"quality": 100}, 100),
    "bits.png": (Image.new("1", (56, 40), 1), {}, 255),
    "rgb.ppm": (Image.new("RGB", (56, 40), (90, 90, 90)), {}, 90),
    "rgb.bmp": (Image.new("RGB", (56, 40), (90, 90, 90)), {}, 90),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_through_every_door(tmp_path, name):
    picture, options, value = PICTURES[name]
    picture.save(tmp_path / name, **options)
    for door, source in DOORS.items():
        found = raw(source(tmp_path / name))
        assert found.shape == (1, 40, 56, 3), door
        assert np.abs(found.astype(int) - value).max() <= 1, door


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.webp", "picture.tif", "grey16.png"])
def test_exif_orientation_is_applied_through_every_door(tmp_path, name):
    picture = Image.fromarray(HALF[..., 0].astype(np.uint16) << 8 if name == "grey16.png" else HALF)
    for orientation, upright in ((6, np.rot90(HALF, -1)), (2, HALF[:, ::-1]), (5, HALF.transpose(1, 0, 2))):
        picture.save(tmp_path / name, exif=exif(orientation))
        for door, source in DOORS.items():
            found = raw(source(tmp_path / name))[0]
            assert found.shape == upright.shape, (door, orientation)
            assert np.abs(found.astype(int) - upright).mean() < 4, (door, orientation)
    assert check_video(tmp_path / name).total_num_frames == 1


def test_motion_jpeg_with_orientation_stays_a_video(tmp_path):
    """PyAV knows no name for EXIF data at frames, and raised a ValueError that no caller expects."""
    for orientation in (1, 6):
        Image.fromarray(HALF).save(tmp_path / "one.jpg", exif=exif(orientation), quality=95)
        (tmp_path / "clip.mjpeg").write_bytes((tmp_path / "one.jpg").read_bytes() * 5)
        frames, metadata = read_video(tmp_path / "clip.mjpeg", range)
        upright = HALF if orientation == 1 else np.rot90(HALF, -1)
        assert frames.shape == (5, *upright.shape)
        assert np.abs(frames.astype(int) - upright).mean() < 4
        assert metadata.rotation % 360 == (0 if orientation == 1 else 270)


def test_transparent_animations_lie_over_white(tmp_path):
    frames = [Image.fromarray(CLEAR), Image.fromarray(CLEAR[:, ::-1])]
    for name, value in (("clip.png", 224), ("clip.gif", 255)):
        clear = frames if name == "clip.png" else [Image.new("P", (56, 40))] * 2
        options = {} if name == "clip.png" else {"transparency": 0}
        clear[0].save(tmp_path / name, save_all=True, append_images=clear[1:], **options)
        assert set(raw(tmp_path / name).flatten()) == {value}


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.fromarray(np.full((8, 8), 0.5, np.float32)), "floats needs values from 0 to 255, got 0.5 to 0.5"),
        (Image.fromarray(np.full((8, 8), 300, np.float32)), "floats needs values from 0 to 255, got 300"),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), "floats needs values from 0 to 255, got nan"),
        (Image.fromarray(np.full((8, 8), 70_000, np.int32)), "mode 'I' needs values of 16 bits"),
        (Image.fromarray(np.full((8, 8), -1, np.int32)), "mode 'I' needs values of 16 bits"),
        (Image.new("L", (8, 8), 200).convert("I"), "up to 200 may have 8 bits or 16: convert it to 'L' or 'I;16'"),
    ],
)
def test_pictures_without_a_known_brightness(tmp_path, picture, message):
    with pytest.raises(ValueError, match=message):
        raw([picture])
    picture.save(tmp_path / "1.tif")
    for source in (tmp_path, tmp_path / "1.tif"):
        with pytest.raises(VideoDecodingError, match=message):  # which is a row, and does not end a run
            raw(source)


def test_an_animation_is_no_frame(tmp_path):
    pictures = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 250)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:])
    opened = Image.open(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"an animation of 2 pictures \(PNG\): pass its path, or a list of copies"):
        raw(list(ImageSequence.Iterator(opened)))  # twice the same object: both would be the last frame
    copies = [frame.copy() for frame in ImageSequence.Iterator(opened)]
    assert frames_first(copies)[:, 0, 0, 0].tolist() == [10, 250]


# -- values ----------------------------------------------------------------------------------------------------------

CLIP = np.full((8, 40, 56, 3), 156, np.uint8)
SAME = {  # what becomes 156, or white
    "uint16": CLIP.astype(np.uint16) * 256 + 17,
    "uint16, other byte order": (CLIP.astype(np.uint16) * 256).astype(">u2"),
    "torch.uint16": torch.from_numpy((CLIP.astype(np.uint16) * 256).transpose(0, 3, 1, 2).copy()),
    "int64": CLIP.astype(np.int64),
    "uint64": CLIP.astype(np.uint64),
    "torch.int32": torch.from_numpy(CLIP).int(),
    "float16": CLIP.astype(np.float16),
    "longdouble": CLIP.astype(np.longdouble),
    "other byte order": CLIP.astype(">f4"),
    "torch.bfloat16": torch.from_numpy(CLIP).bfloat16(),
    "16-bit PIL": [Image.fromarray(np.full((40, 56), 40_000, np.uint16))] * 8,
    "list of uint16": list(CLIP.astype(np.uint16) * 256),
}


@pytest.mark.parametrize("kind", SAME)
def test_any_kind_of_number_gives_the_same_pixels(kind):
    processor = IlaVideoProcessor(size=32, crop_size=28)
    expected = processor(CLIP, return_tensors="pt")["pixel_values"]
    found = processor(SAME[kind], return_tensors="pt")["pixel_values"]
    assert torch.allclose(found, expected, atol=0.02)  # bfloat16 holds 156 as 156

    assert torch.allclose(processor([SAME[kind], CLIP], return_tensors="pt")["pixel_values"], expected, atol=0.02)


def test_bool_is_black_and_white():
    for frames in (CLIP > 0, torch.from_numpy(CLIP > 0), [Image.new("1", (56, 40), 1)]):
        assert set(raw(frames).flatten()) == {255}


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (CLIP.astype(np.int32) * 256, "from 0 to 255, got 39936 to 39936 as int32; pixels of 16 bits must be uint16"),
        (torch.full((8, 3, 40, 56), -1), "from 0 to 255, got -1 to -1 as int64"),
        (CLIP.astype(np.uint32) * 256, "from 0 to 255, got 39936"),
        (CLIP * np.float32(np.nan), "must be finite; got NaN"),
        (CLIP.astype(np.float64) * 1e300, "must be finite"),
        (CLIP * np.float32(2), "floats need values from 0 to 255, .* got 312 to 312"),
        (CLIP / np.float32(-255), "floats need values from 0 to 255, .* got -0.6"),
        (CLIP.astype(np.complex64), "array of complex64"),
        (CLIP.astype(object), "array of object"),
        (torch.zeros(8, 3, 40, 56, dtype=torch.complex64), "tensor of torch.complex64"),
        ([CLIP[0], CLIP[0].astype(np.float32)], "one dtype; got float32, uint8"),
        ([CLIP[0], Image.fromarray(CLIP[0])], "of one kind; got PIL images and arrays"),
        ([np.zeros((40, 0, 3), np.uint8)], r"shape \(40, 0, 3\)"),
    ],
)
def test_values_that_are_no_pixels(video, message):
    with pytest.raises(ValueError, match=message):
        IlaVideoProcessor()(video)


def test_floats_may_have_been_rounded():
    """Frames that were normalised and are not any more leave 0 to 255 by a rounding error."""
    assert IlaVideoProcessor()(np.float32([-1e-5, 255 + 1e-4]).repeat(8 * 40 * 56 * 3 // 2).reshape(8, 40, 56, 3))


def test_pixel_values_stay_on_the_scale_of_the_normalisation():
    """Up to 934 without a word, where frames are not rescaled, or rescaled by another factor."""
    unscaled = IlaVideoProcessor(do_rescale=False)
    for video, options in (
        (CLIP, {"do_rescale": False}),
        (CLIP.astype(np.float32), {"do_rescale": False}),
        (CLIP, {"rescale_factor": 1.0}),
    ):
        with pytest.raises(ValueError, match=r"not on the scale of image_mean.*pixel values would reach"):
            IlaVideoProcessor()(video, **options)
    with pytest.raises(ValueError, match="not on the scale"):
        unscaled.normalize_on("cpu", torch.from_numpy(CLIP).permute(0, 3, 1, 2))
    expected = IlaVideoProcessor()(CLIP, return_tensors="pt")["pixel_values"]
    assert torch.allclose(unscaled(CLIP / np.float32(255), return_tensors="pt")["pixel_values"], expected, atol=1e-5)
    own_scale = {"image_mean": [120.0] * 3, "image_std": [60.0] * 3}
    assert unscaled(CLIP, return_tensors="pt", **own_scale)["pixel_values"].max() < 1
    kept = raw(CLIP * np.float32(-7))  # neither rescaled nor normalised: whatever it is, it stays
    assert set(kept.flatten()) == {-1092.0}


# -- axes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("shape", [(3, 4, 40, 56), (3, 3, 40, 56), (3, 1, 40, 56), (1, 4, 40, 56), (8, 3, 40, 3)])
def test_an_ambiguous_order_of_axes(make, shape):
    video = make(shape, dtype=np.uint8 if make is np.zeros else torch.uint8)
    for given in (video, [video, video], np.stack([video] * 2)):
        with pytest.raises(ValueError, match="is ambiguous: pass input_data_format, 'channels_first'"):
            raw(given)
    assert raw(video, input_data_format="channels_first").shape[1:3] == shape[2:]
    assert raw(list(video), input_data_format="channels_first").shape[1:3] == shape[2:]
    if shape[3] == 3:
        assert raw(video, input_data_format="channels_last").shape[1:3] == shape[1:3]
    else:
        assert raw(list(video)).shape[1:3] == shape[2:]  # a list is of frames: its first axis is time


def test_a_given_order_of_axes_has_an_effect():
    video = np.zeros((8, 40, 56, 3), np.uint8)
    with pytest.raises(ValueError, match=r"'channels_first' needs .* second axis; got .* \(8, 40, 56, 3\)"):
        raw(video, input_data_format="channels_first")
    with pytest.raises(ValueError, match=r"'channels_last' needs .* last axis; got .* \(8, 3, 40, 56\)"):
        IlaVideoProcessor()(video.transpose(0, 3, 1, 2), input_data_format="channels_last")
    with pytest.raises(ValueError, match=r"None, 'channels_first' or 'channels_last', got 'THWC'"):
        IlaVideoProcessor()(video, input_data_format="THWC")
    with pytest.raises(ValueError, match=r"\(C, T, H, W\) must be transposed"):
        raw(video.transpose(3, 0, 1, 2))
    for everyday in ((4, 3, 40, 56), (1, 3, 40, 56), (4, 40, 56, 3), (3, 40, 56, 3), (8, 1, 40, 56)):
        assert raw(np.zeros(everyday, np.uint8)).shape == (1, 40, 56, 3)
