"""Adding to an index: which videos are there already, and which are others of their names."""

import pytest

from transformers_ila.distributed import Rank
from transformers_ila.evaluation.prediction_files import video_id
from transformers_ila.search.indexing import IndexedVideos
from transformers_ila.search.search import VideoIndex


def test_videos_of_an_index_are_known_by_name(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    names = [f"clip {number}" for number in range(300)]
    index = VideoIndex.create(tmp_path / "index", 2)
    index.add(names, [[1, 0]] * 300, paths=[str(tmp_path / "a.mp4")] * 300)
    index.drop("clip 7")
    known = IndexedVideos(tmp_path / "index", 2, Rank())
    assert {video.tobytes() for video in known.ids.view("V16")} == {video_id(name) for name in names} - {
        video_id("clip 7")
    }
    assert all(known.check(name, str(tmp_path / "a.mp4")) is (name != "clip 7") for name in [*names, "clip 7"])
    assert known.check("clip 299", str(tmp_path / "moved.mp4"))  # nothing lies there, so it is no other
    with pytest.raises(ValueError, match=r"has a video named 'clip 3' already, '.*a.mp4', and '.*b.mp4' is another"):
        known.check("clip 3", str(tmp_path / "b.mp4"))
    shares = [IndexedVideos(tmp_path / "index", 2, Rank(rank, 3)) for rank in range(3)]
    assert sum(len(share.ids) for share in shares) == 299
    assert sum(share.check("clip 5", str(tmp_path / "a.mp4")) for share in shares) == 1


def test_an_index_without_videos_knows_none(tmp_path):
    VideoIndex.create(tmp_path, 2)
    known = IndexedVideos(tmp_path, 2, Rank())
    assert len(known.ids) == 0 and not known.check("a", "b")
