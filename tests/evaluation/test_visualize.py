"""Pictures from a model and a video: what is drawn, what is refused, and what the files hold."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from support.figures import assert_legible
from support.tiny_models import TINY_VISION, tiny_config
from support.videos import SHARED, barcodes, needs_shared, packet_places, write_video
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor, visualize
from transformers_ila.evaluation.animation import SourceFrames
from transformers_ila.evaluation.inspection.clips import read_clip
from transformers_ila.evaluation.inspection.models import open_model
from transformers_ila.evaluation.visualize import PICTURES, check_options, read_layers
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.model.video_container_ila import ReadLimits, VideoDecodingError
from transformers_ila.model.video_reading_ila import list_frames, read_video
from transformers_ila.visualization.files import read_about


def opened(**fields):
    """A model of two layers, and its processor."""
    torch.manual_seed(0)
    config = tiny_config(classification_head="linear", **label_fields(["a", "b"]), **fields)
    return IlaForVideoClassification(config).eval(), IlaVideoProcessor.for_model(config)


@pytest.fixture(scope="module")
def ila():
    return opened()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", 30)


MODULES = {"matches": "ata", "routes": "ata", "weights": "gta", "regions": "gta", "attention": "divided"}


@pytest.mark.slow
@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_is_drawn(picture, ila, video):
    own = opened(temporal_module=MODULES[picture]) if picture in MODULES else ila
    figure = visualize(own[0], video, picture, processor=own[1])
    assert_legible(figure)


@pytest.mark.slow
def test_several_models_stand_side_by_side(ila, video, tmp_path):
    other = opened(temporal_module="divided")
    models, processors = [ila[0], other[0]], [ila[1], other[1]]
    figure = visualize(models, video, "features", processor=processors, layers="all", output=tmp_path / "a.svg")
    assert_legible(figure)
    about = read_about(tmp_path / "a.svg")
    assert about["picture"] == "features" and [one["layers"] for one in about["models"]] == [[0, 1], [0, 1]]
    assert about["models"][0]["fingerprint"] != about["models"][1]["fingerprint"]
    visualize(models, video, "features", processor=processors, output=tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == ila[0].config.vision_config.num_frames and gif.width > 2 * 250


def test_the_last_layer_is_each_models_own(ila, video, monkeypatch):
    deep = opened(vision_config={**TINY_VISION, "num_hidden_layers": 3})
    seen = []
    monkeypatch.setattr(
        "transformers_ila.evaluation.visualize._sheet", lambda found, rows: seen.append(found) or Figure()
    )
    for order in ((ila, deep), (deep, ila)):
        models, processors = zip(*order)
        visualize([*models], video, "features", processor=[*processors], layers="last")
        visualize([*models], video, "points", processor=[*processors])
    assert [[one.layers for one in found] for found in seen] == [
        [(1,), (2,)],
        [(0, 1), (0, 1, 2)],
        [(2,), (1,)],
        [(0, 1, 2), (0, 1)],
    ]


def test_layers_are_those_that_are_drawn(ila, video, tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(
        "transformers_ila.evaluation.visualize._sheet", lambda found, own: rows.extend(own) or Figure()
    )
    model, processor = opened(vision_config={**TINY_VISION, "num_hidden_layers": 4})
    visualize(model, video, "points", processor=processor, layers=[0, 3])
    assert rows[0].name == "layers 0, 3"
    visualize(model, video, "integration", processor=processor, output=tmp_path / "a.svg")
    assert read_about(tmp_path / "a.svg")["layers"] == [*range(len(model.mit.encoder.layers))] != [0, 1, 2, 3]


def test_a_part_of_a_file_is_what_is_drawn(ila, video, tmp_path):
    part = {"path": str(video), "start": 0.4, "end": 0.8}
    visualize(ila[0], part, processor=ila[1], output=tmp_path / "a.mp4")
    about = read_about(tmp_path / "a.mp4")
    assert (about["start"], about["end"]) == (0.4, 0.8) and {*about["frames"]} <= {*range(10, 20)}
    assert list_frames(tmp_path / "a.mp4").total_num_frames == 10
    with pytest.raises(ValueError, match="start=0.5, end=None stand beside a video that has its own"):
        visualize(ila[0], part, processor=ila[1], start=0.5)


def test_the_video_itself_is_not_overwritten(ila, tmp_path):
    video = write_video(tmp_path / "video.mp4", 8)
    content = video.read_bytes()
    (tmp_path / "link.mp4").symlink_to(video)
    for name in ("video.mp4", "link.mp4"):
        with pytest.raises(ValueError, match="would overwrite what is drawn"):
            visualize(ila[0], str(video), processor=ila[1], output=tmp_path / name)
    assert video.read_bytes() == content


def test_an_mp4_shows_all_frames_at_their_times(ila, video, tmp_path):
    done = []
    visualize(ila[0], video, "points", processor=ila[1], output=tmp_path / "a.mp4", progress=lambda *s: done.append(s))
    before, after = list_frames(video), list_frames(tmp_path / "a.mp4")
    np.testing.assert_allclose(after.timestamps, before.timestamps, atol=1e-4)
    assert (after.width, after.height) == (before.width, before.height)
    assert len(done) == 30 and done[-1] == (pytest.approx(29 / 25), pytest.approx(30 / 25))
    about = read_about(tmp_path / "a.mp4")
    assert about["layers"] == [1] and about["seed"] is None and about["video"] == "video.mp4"
    assert "limits" not in about
    visualize(ila[0], video, processor=ila[1], output=tmp_path / "b.mp4", start=0.4, end=0.8)
    assert read_about(tmp_path / "b.mp4")["limits"] == [[0, 1]]
    assert list_frames(tmp_path / "b.mp4").total_num_frames == 10


def test_the_map_of_an_mp4_is_that_of_the_seen_frame_nearest_in_time(ila, video, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "transformers_ila.evaluation.animation.Panel.draw",
        lambda panel, image, index, **how: drawn.append((index, how["seen"])) or image,
    )
    visualize(ila[0], video, processor=ila[1], output=tmp_path / "a.mp4")
    seen = read_about(tmp_path / "a.mp4")["frames"]
    assert [number for number, (_, is_seen) in enumerate(drawn) if is_seen] == sorted(set(seen))
    for number, (index, _) in enumerate(drawn):
        assert abs(seen[index] - number) == min(abs(one - number) for one in seen)


def test_source_frames_are_those_of_the_reader(video):
    frames = list(SourceFrames(video, ReadLimits()))
    assert barcodes(np.stack([frame.image for frame in frames])) == list(range(30))
    np.testing.assert_array_equal(frames[7].image, read_video(video, lambda total: [7])[0][0])
    np.testing.assert_allclose([frame.seconds for frame in frames], list_frames(video).timestamps, atol=1e-6)


def test_times_count_from_the_first_frame_even_if_it_is_damaged(ila, tmp_path):
    video = write_video(tmp_path / "video.mp4", 30, g=10, bf=0)
    content, places = bytearray(video.read_bytes()), packet_places(video)
    for start, size in places[:10]:
        content[start : start + size] = bytes(size)
    video.write_bytes(content)
    frames = list(SourceFrames(video, ReadLimits()))
    assert barcodes(np.stack([frame.image for frame in frames])) == list(range(10, 30))
    np.testing.assert_allclose([frame.seconds for frame in frames], [index / 25 for index in range(10, 30)])
    clip = read_clip(ila[1], str(video))  # which the maps are of
    np.testing.assert_allclose([frames[index].seconds for index in clip.indices], clip.times, atol=1e-6)


@needs_shared
def test_frames_of_an_avi_are_all_there():
    """AVI holds no times, and what FFmpeg makes of its order is out of turn."""
    video = SHARED / "real" / "hmdb51_wave_RATRACE.avi"
    seconds = [frame.seconds for frame in SourceFrames(video, ReadLimits())]
    assert len(seconds) == 72  # as the reader counts
    np.testing.assert_allclose(np.diff(seconds), 1 / 30, atol=1e-6)


def test_what_was_opened_is_one_model(ila, video):
    figure = visualize(open_model(*ila), video, layers=0, seed=1)
    assert figure._repr_png_().startswith(b"\x89PNG")  # by which notebooks show it


def test_a_gif_of_frames_without_times_needs_fps(ila, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="no times: say by fps"):
        visualize(ila[0], frames, processor=ila[1], output=tmp_path / "a.gif")
    visualize(ila[0], frames, processor=ila[1], output=tmp_path / "a.gif", fps=4)
    with pytest.raises(ValueError, match="of a video with times"):
        visualize(ila[0], frames, processor=ila[1], output=tmp_path / "a.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_a_folder_of_pictures_is_no_mp4(tmp_path):
    for index in range(3):
        Image.fromarray(np.full((40, 40, 3), 80 * index, np.uint8)).save(tmp_path / f"{index}.png")
    with pytest.raises(VideoDecodingError, match="have no times"):
        next(iter(SourceFrames(tmp_path, ReadLimits())))


@pytest.mark.slow
def test_a_video_shorter_than_a_clip_is_animated(ila, tmp_path):
    video = write_video(tmp_path / "short.mp4", 2)
    for name in ("a.gif", "a.mp4"):
        visualize(ila[0], video, processor=ila[1], output=tmp_path / name)
    assert list_frames(tmp_path / "a.mp4").total_num_frames == 2


@pytest.mark.parametrize(
    ("given", "layers"),
    [("all", "all"), (["last"], "last"), (-1, [-1]), (["0", "-1"], [0, -1]), ((1, 0), [1, 0]), (np.int64(1), [1])],
)
def test_layers_are_read(given, layers):
    assert read_layers(given) == layers


@pytest.mark.parametrize(
    ("picture", "given", "more", "complaint"),
    [
        ("faces", {}, {}, "picture must be one of masks, .*; got 'faces'"),
        ("masks", {"reduce": "norm"}, {}, "reduce would have no effect; allowed: with features"),
        ("masks", {"size": 0.2}, {}, "size would have no effect; allowed: with points"),
        ("integration", {"layers": [0]}, {}, "layers would have no effect"),
        ("masks", {"fps": 4.0}, {"output": "a.mp4"}, "fps would have no effect; allowed: with a .gif file"),
        ("masks", {}, {"output": "a.jpg"}, "must end in .png, .svg, .pdf, .gif, .mp4; got 'a.jpg'"),
        ("matches", {}, {"output": "a.gif"}, "must end in .png, .svg, .pdf; got 'a.gif'"),
        ("matches", {}, {"models": 2}, "is of one model, got 2; of several there are masks, points, features"),
        ("masks", {}, {"models": 2, "output": "a.mp4"}, "shows one model, got 2"),
        ("masks", {"layers": "all"}, {"output": "a.mp4"}, "An .mp4 shows one layer; got 'all'"),
        ("regions", {"layers": [0, 1]}, {}, "'regions' shows one layer"),
        ("masks", {"layers": ["last", "0"]}, {}, "whole numbers, or 'all' or 'last' alone"),
        ("masks", {"layers": [0.5]}, {}, "layers must be whole numbers"),
        ("masks", {"layers": []}, {}, "layers must be whole numbers"),
        ("masks", {"layers": 5.0}, {}, "layers must be whole numbers"),
        ("points", {"size": 0}, {}, "size must be a number above 0, at most 1; got 0"),
        ("points", {"fps": 99}, {"output": "a.gif"}, "fps must be a number above 0, at most 50"),
        ("routes", {"count": 0}, {}, "count must be a whole number, 1 or more; got 0"),
        ("routes", {"query": [0, 0]}, {}, "query must be a patch's frame, row and column"),
        ("routes", {"query": [0, 0, 0], "count": 2}, {}, "count would have no effect beside query"),
    ],
)
def test_what_has_no_effect_is_refused(picture, given, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_options(picture, given, **more)


def test_what_a_model_lacks_is_an_error_and_writes_nothing(ila, video, tmp_path):
    with pytest.raises(ValueError, match="temporal_module"):
        visualize(ila[0], video, "weights", processor=ila[1], output=tmp_path / "a.png")
    with pytest.raises(ValueError, match="one for each of 1 models, got 2"):
        visualize(ila[0], video, processor=[ila[1]] * 2)
    assert not any(tmp_path.iterdir())
