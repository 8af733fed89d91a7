"""Any format: found out, asked for, handed on."""

import pytest
import torch
from PIL import Image

from support.annotation_files import data_set, fault, read, write_shard
from transformers_ila import IlaVideoProcessor
from transformers_ila.data.annotations import FORMATS, read_annotations, read_list, stream_shard
from transformers_ila.model.video_reading_ila import read_video
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


datasets = pytest.importorskip("datasets")


# -- any format ------------------------------------------------------------------------------------------------------


def test_what_is_no_annotation(tmp_path):
    for name, content in {"a.mp4": b"\0\0\0 ftypisom", "b.txt": b"\0\1", "c.txt": b"\n"}.items():
        with pytest.raises(ValueError, match="is no annotation. What is read: 'list' .*; 'datasets' "):
            read(tmp_path, content, name)
    with pytest.raises(ValueError, match="no annotation at .*neither a file nor a folder nor shards"):
        read_annotations(tmp_path / "nowhere.txt")
    for name in ("[HD] a.mp4", "{x} a.mp4", '[{"x".mp4', "[]a.mp4"):
        assert read(tmp_path, name + " 1\n").format == "list"
    with pytest.raises(ValueError, match="Cannot read annotations from int 5: 'list'"):
        read_annotations(5)
    assert "but in UTF-16" in fault(tmp_path, "a.mp4 1\n".encode("utf-16"))[2]
    assert fault(tmp_path, "a.mp4 1\ncafé.mp4 2\n".encode("latin-1"))[:2] == (2, 4)
    with pytest.raises(ValueError, match="SlowFast frame list"):
        read(tmp_path, 'original_vido_id video_id frame_id path labels\n1 0 0 1/1_000001.jpg ""\n')
    with pytest.raises(ValueError, match="`format` must be one of 'list' .*; got 'csv'"):
        read(tmp_path, "a.mp4 1\n", format="csv")
    with pytest.raises(ValueError, match="'split' does not go with the format 'list'"):
        read(tmp_path, "a.mp4 1\n", split="train")
    with pytest.raises(ValueError, match="no annotation file"):
        read_list(tmp_path)


def test_the_processor_takes_every_source(tmp_path):
    """A file, frames, a member of a shard, its bytes and a row of a data set: the same pixels."""
    frames = next(iter(make_videos(1, seed=0, num_frames=6))).frames
    write_mp4(tmp_path / "a.mp4", frames)
    for index, frame in enumerate(read_video(tmp_path / "a.mp4", range)[0]):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "frames" / f"img_{index:05d}.png")
    content = (tmp_path / "a.mp4").read_bytes()
    shard = write_shard(tmp_path / "a.tar", {"a.mp4": content, "a.cls": "1"})
    rows_ = data_set(tmp_path / "other", [1], datasets.Value("int64"), videos=[{"bytes": content, "path": None}])
    found = [
        *read(tmp_path, "a.mp4 1\nframes 1\n").samples,
        *read_annotations(shard).samples,
        *stream_shard(shard),
        *read_annotations(rows_).samples,
    ]
    processor = IlaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = [processor(sample.source(), return_tensors="pt")["pixel_values"] for sample in found]
    assert len(pixels) == 5 and all(torch.equal(values, pixels[0]) for values in pixels)


def test_every_format_says_what_it_reads():
    assert all(reader.__doc__ for reader in FORMATS.values())
