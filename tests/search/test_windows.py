"""Windows of videos: whatever comes with them in memory, in a batch or in time, a window is the same."""

import pytest
import torch

from support.videos import write_video
from transformers_ila import IlaVideoProcessor
from transformers_ila.evaluation.options import IndexOptions
from transformers_ila.search import windows
from transformers_ila.search.indexing import WindowRows
from transformers_ila.search.windows import WindowReader


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """100 frames at 25 a second."""
    return str(write_video(tmp_path_factory.mktemp("windows") / "video.mp4", 100))


def read_all(processor, options, path):
    read = WindowReader(processor, options)
    return [read(some) for some in read.windows("a video", path)]


@pytest.mark.parametrize("random_frames", [False, True])
def test_windows_depend_on_no_others(monkeypatch, processor, video, random_frames):
    options = IndexOptions(window=1, stride=0.5, random_frames=random_frames, seed=3 if random_frames else 0)
    (whole,) = read_all(processor, options, video)
    assert whole.key.total == len(whole.key.spans) == len(whole.views) == 7
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 3 * processor.num_frames * 3 * 64 * 48)  # of three windows
    several = read_all(processor, options, video)
    assert [some.key.first for some in several] == [0, 3, 6] and {some.key.total for some in several} == {7}
    torch.testing.assert_close(torch.cat([some.views for some in several]), whole.views, rtol=0, atol=0)
    again = IndexOptions(window=1, stride=0.5, random_frames=random_frames, seed=4 if random_frames else 0)
    others = torch.cat([some.views for some in read_all(processor, again, video)])
    assert torch.equal(others, whole.views) != random_frames


def test_views_larger_than_frames_count(monkeypatch, video):
    """Frames of 64 x 48 become views of 128 x 128: they are what fills the memory."""
    processor = IlaVideoProcessor(num_frames=4, size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128})
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 2 * 3 * 4 * 3 * 128 * 128)
    for protocol, together in (("1x1", 6), ("1x3", 2)):
        some = WindowReader(processor, IndexOptions(window=0.25, protocol=protocol)).windows("a video", video)
        assert {len(part.spans) for part in some[:-1]} == {together} and sum(len(part.spans) for part in some) == 16


def test_the_sides_of_views(processor):
    assert processor.view_sides(240, 320) == (28, 28)
    uncropped = {"do_center_crop": False}
    assert IlaVideoProcessor(**uncropped, size={"shortest_edge": 128}).view_sides(240, 320) == (128, 170)
    assert IlaVideoProcessor(**uncropped, size={"height": 64, "width": 96}).view_sides(240, 320) == (64, 96)
    assert IlaVideoProcessor(**uncropped, do_resize=False).view_sides(240, 320) == (240, 320)
    of_patches = IlaVideoProcessor(**uncropped, max_num_patches=256, patch_size=16)
    views = of_patches(torch.zeros(8, 3, 240, 320, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert of_patches.view_sides(240, 320) == tuple(views.shape[-2:])


def test_rows_of_windows_in_any_order(monkeypatch, processor, video):
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 1)
    options = IndexOptions(window=1)
    one, other = read_all(processor, options, video), read_all(processor, options, video)
    other = [some._replace(name="another", key=some.key._replace(name="another")) for some in other]
    features = torch.eye(4)
    order = [(one, 2), (other, 3), (one, 0), (one, 2), (other, 0), (one, 3), (other, 2), (one, 1), (other, 1)]
    put_together = WindowRows()
    rows = [put_together.add(some[number], features[[number]]) for some, number in order]
    assert rows[:7] == [None] * 7
    for row, name in zip(rows[7:], ("a video", "another")):
        assert (row["video"], row["path"], row["rows"], row["reason"]) == (name, video, 4, None)
        assert row["spans"] == [(0, 1), (1, 2), (2, 3), (3, 4)] and torch.equal(
            torch.from_numpy(row["features"]), features
        )


def test_a_video_with_a_window_that_cannot_be_read_has_no_rows(monkeypatch, processor, video):
    monkeypatch.setattr(windows, "BYTES_AT_ONCE", 1)
    one, put_together = read_all(processor, IndexOptions(window=1), video), WindowRows()
    for number, reason in ((1, "the second"), (3, ""), (2, "the third")):
        some = one[number]._replace(reason=reason, views=None)
        assert put_together.add(some, None if reason else torch.eye(4)[[number]]) is None
    row = put_together.add(one[0], torch.eye(4)[[0]])
    assert (row["rows"], row["reason"]) == (0, "the second") and "features" not in row
    (broken,) = WindowReader(processor, IndexOptions(window=1)).windows("missing", video + ".mp4")
    row = put_together.add(WindowReader(processor, IndexOptions(window=1))(broken), None)
    assert "no such file" in row["reason"]


def test_one_number_that_is_not_finite_leaves_a_video_without_rows(processor, video):
    (whole,) = read_all(processor, IndexOptions(window=1), video)
    features = torch.eye(4)
    features[3, 3] = torch.nan
    assert WindowRows().add(whole, features)["reason"] == "the model's features are not finite (NaN or infinite)"
