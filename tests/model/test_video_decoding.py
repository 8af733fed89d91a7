"""Decoding only what is needed gives what decoding everything gives, whichever way a file is read.

`sequential` below is the judge: plain PyAV, one thread, packet after packet, bad packets skipped.
"""

import json
import logging
import struct
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from support.videos import SHARED, barcode_frame, barcodes, manifest, needs_shared, packet_places, write_video
from transformers_ila.model import video_decoding_ila
from transformers_ila.model.video_frames_ila import dense_indices, segment_indices, uniform_indices
from transformers_ila.model.video_packets_ila import Picture, parse_picture
from transformers_ila.model.video_reading_ila import ReadLimits, VideoDecodingError, check_video, read_video


RULES = {
    "segments": partial(segment_indices, num_frames=8),
    "uniform": partial(uniform_indices, num_frames=8),
    "dense": partial(dense_indices, num_frames=4, stride=2),
    "first": lambda total: [0],
    "last": lambda total: [total - 1],
    "out of order": lambda total: [total - 1, total // 2, 0, total // 2, total // 3],
    "all": range,
}


def sequential(path: Path, *, stream: int = 0) -> list[np.ndarray]:
    frames = []
    with av.open(str(path), metadata_errors="replace") as container:
        video = container.streams.video[stream]
        video.codec_context.thread_count = 1
        for packet in container.demux(video):
            try:
                decoded = video.codec_context.decode(packet)
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                image = frame.to_ndarray(format="rgb24", threads=1)
                frames.append(np.rot90(image, k=frame.rotation // 90))
    return frames


@pytest.fixture
def ways(monkeypatch) -> list[str]:
    """The ways taken, in order, a failed one with a question mark; short videos take the fast ones too."""
    taken: list[str] = []
    groups, everything = video_decoding_ila._decode_groups, video_decoding_ila._decode_sequentially

    def note_groups(video, packets, kept):
        done = groups(video, packets, kept)
        taken.append(("index" if packets.times is None else "scan") + ("" if done else "?"))
        return done

    def note_everything(*args, **kwargs):
        taken.append("sequential")
        return everything(*args, **kwargs)

    monkeypatch.setattr(video_decoding_ila, "SHORT", 0)
    monkeypatch.setattr(video_decoding_ila, "_decode_groups", note_groups)
    monkeypatch.setattr(video_decoding_ila, "_decode_sequentially", note_everything)
    return taken


def assert_equal_to_sequential(path: Path, **kwargs) -> None:
    expected = sequential(path, **kwargs)
    for name, rule in RULES.items():
        frames, metadata = read_video(path, rule)
        assert metadata.total_num_frames == len(expected), name
        assert metadata.frames_indices == list(rule(len(expected))), name
        assert all(np.array_equal(frame, expected[i]) for frame, i in zip(frames, metadata.frames_indices)), name


# -- which way, and that it is right ---------------------------------------------------------------------------------

FILES = [  # name, encoder, options, way
    ("plain.mp4", "libx264", {"g": 12, "bf": 3}, "index"),
    ("no_b_frames.mp4", "libx264", {"g": 12, "bf": 0}, "index"),
    ("pyramid.mp4", "libx264", {"g": 48, "bf": 8, "x264-params": "b-pyramid=normal:ref=5"}, "index"),
    ("intra.mp4", "mjpeg", {}, "index"),
    ("vp9.mp4", "libvpx-vp9", {"g": 12, "deadline": "realtime", "cpu-used": 8}, "index"),
    ("av1.mp4", "libsvtav1", {"g": 12, "preset": 12}, "index"),
    ("closed.mp4", "libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}, "index"),
    ("plain.mov", "libx264", {"g": 12}, "index"),
    ("plain.mkv", "libx264", {"g": 12, "bf": 3}, "scan"),
    ("vp9.webm", "libvpx-vp9", {"g": 12, "deadline": "realtime", "cpu-used": 8}, "scan"),
    ("open_gop.mp4", "libx265", {"x265-params": "keyint=12:open-gop=1:scenecut=0:log-level=none"}, "scan"),
    ("open_gop.mkv", "libx265", {"x265-params": "keyint=12:open-gop=1:scenecut=0:log-level=none"}, "scan"),
    ("no_b_frames.avi", "mpeg4", {"g": 12}, "scan"),
    ("no_b_frames_mpeg4.mp4", "mpeg4", {"g": 12}, "scan"),
    ("intra.avi", "mjpeg", {}, "scan"),
    ("vp8.webm", "libvpx", {"g": 12}, "sequential"),  # may have frames that are never shown
    ("plain.ts", "libx264", {"g": 12}, "sequential"),
    ("plain.mpg", "mpeg2video", {"g": 12}, "sequential"),
    ("plain.flv", "libx264", {"g": 12}, "sequential"),
    ("plain.avi", "mpeg4", {"g": 12, "bf": 2}, "sequential"),
    ("plain.h264", "libx264", {"g": 12}, "sequential"),
    ("animated.gif", "gif", {}, "sequential"),
]


@pytest.mark.parametrize(("name", "codec", "options", "way"), FILES, ids=[f[0] for f in FILES])
def test_every_way_gives_what_sequential_decoding_gives(tmp_path, ways, name, codec, options, way):
    pixels = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    path = write_video(tmp_path / name, 90, codec=codec, pix_fmt=pixels, **options)
    assert_equal_to_sequential(path)
    read_video(path, lambda total: [80])
    assert ways[-1] == way
    if codec != "gif":
        assert barcodes(read_video(path, lambda total: [total - 1, 50, 51, 3])[0]) == [89, 50, 51, 3]


def test_open_gop_of_h264_starts_only_at_idr_pictures(tmp_path, ways):
    path = write_video(tmp_path / "open.mp4", 90, g=12, bf=3, **{"x264-params": "open-gop=1"})
    assert_equal_to_sequential(path)


def remux(path: Path, parts: list[Path], change=lambda packet: packet) -> Path:
    """The parts' packets, one part after the other, into one file; `change` may edit each."""
    with av.open(str(path), "w") as output:
        stream, shift = None, 0
        for part in parts:
            with av.open(str(part)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                packets = [packet for packet in container.demux(video) if packet.size]
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(change(packet))
                shift += len(packets) * packets[0].duration
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_times_in_decoding_order_do_not_tell_the_order_of_b_frames(tmp_path, ways, suffix):
    def lie(packet):
        packet.pts = packet.dts
        return packet

    path = write_video(tmp_path / "clip.mp4", 120, g=30, bf=3, b_strategy=0, sc_threshold=0)
    assert_equal_to_sequential(remux(tmp_path / f"lying.{suffix}", [path], lie))
    assert ways[-1] == "sequential"


def test_h264_in_avi_has_no_times_of_display(tmp_path, ways):
    assert_equal_to_sequential(write_video(tmp_path / "clip.avi", 120, g=30, bf=3, b_strategy=0, sc_threshold=0))
    assert ways[-1] == "sequential"


def units(*contents: bytes) -> bytes:
    return b"".join(len(content).to_bytes(4, "big") + content for content in contents)


SPS, OTHER_SPS, IDR, SLICE, DISPOSABLE = b"\x67ab", b"\x67cd", b"\x65\x88x", b"\x41\x9ax", b"\x01\x9ax"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (units(IDR), Picture(1, anew=True, disposable=False, steady=True)),
        (units(SPS, IDR), Picture(1, anew=True, disposable=False, steady=True)),
        (units(OTHER_SPS, IDR), Picture(1, anew=True, disposable=False, steady=False)),
        (units(SLICE), Picture(1, anew=False, disposable=False, steady=True)),
        (units(DISPOSABLE), Picture(1, anew=False, disposable=True, steady=True)),
        (units(SLICE, b"\x41\x20y"), Picture(1, anew=False, disposable=False, steady=True)),  # its second slice
        (units(SLICE, SLICE), Picture(2, anew=False, disposable=False, steady=True)),
        (units(b"\x06sei"), Picture(0, anew=False, disposable=False, steady=True)),
        (units(IDR)[:6], Picture(1, anew=True, disposable=False, steady=True)),  # the first bytes only
    ],
)
def test_what_the_bytes_of_h264_say(data, expected):
    assert parse_picture(data, codec="h264", nal_length=4, header=b"header" + SPS) == expected
    starts = data.replace(b"\0\0\0\x03", b"\0\0\0\1").replace(b"\0\0\0\x04", b"\0\0\0\1")
    if b"\0\0\0\1" in starts:
        assert parse_picture(starts, codec="h264", nal_length=0, header=b"header" + SPS) == expected


HEVC = {"idr": b"\x26\x01\x80", "bla": b"\x20\x01\x80", "cra": b"\x2a\x01\x80", "trail": b"\x02\x01\x80"}


@pytest.mark.parametrize(
    ("kinds", "anew", "steady"),
    [(["idr"], True, True), (["cra"], True, True), (["bla"], True, False), (["trail"], False, True)],
)
def test_what_the_bytes_of_hevc_say(kinds, anew, steady):
    data = units(*(HEVC[kind] for kind in kinds))
    assert parse_picture(data, codec="hevc", nal_length=4, header=b"") == Picture(1, anew, False, steady)
    ended = units(HEVC[kinds[0]], b"\x48\x01")  # end of sequence
    assert not parse_picture(ended, codec="hevc", nal_length=4, header=b"").steady


def test_the_rule_is_called_once(tmp_path, ways):
    path = write_video(tmp_path / "open.mp4", 120, g=12, bf=3, **{"x264-params": "open-gop=1"})
    totals = []
    read_video(path, lambda total: totals.append(total) or [100])
    assert len(ways) > 1  # or more than one way was not tried
    assert totals == [120]


@pytest.mark.parametrize("answer", [None, 5, [1.9], ["1"]])
def test_rule_that_gives_no_whole_numbers(tmp_path, answer):
    with pytest.raises(ValueError, match="index rule must give"):
        read_video(write_video(tmp_path / "clip.mp4", 5), lambda total: answer)


def test_fragmented_and_hybrid_files_are_scanned(tmp_path, ways):
    """A sample table in front of further fragments lists only the first part of the video."""
    fragmented = {"movflags": "frag_keyframe"}
    path = write_video(tmp_path / "hybrid.mp4", 90, g=30, container_options=fragmented)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames < 90
    assert_equal_to_sequential(path)
    assert set(ways) == {"scan"}


def write_timed(path: Path, times: list[int], *, codec: str = "libx264", container_options=None, **options) -> Path:
    """A barcode video whose frames are shown at the given thousandths of a second."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=1000, options={k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(barcode_frame(index), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path, ways, suffix):
    times = np.cumsum(np.random.default_rng(0).integers(20, 250, 90)).tolist()
    path = write_timed(tmp_path / f"vfr.{suffix}", times, g=12)
    assert_equal_to_sequential(path)
    _, metadata = read_video(path, lambda total: [70, 10])
    start = read_video(path, lambda total: [0])[1].timestamps[0]
    measured = [round(1000 * (time - start)) for time in metadata.timestamps]
    assert measured == [times[70] - times[0], times[10] - times[0]]


def test_edit_list_that_leaves_frames_out(tmp_path, ways):
    """The first second is cut away by the edit list: its packets are there, its frames are not shown."""
    path = write_video(tmp_path / "cut.mp4", 90, g=12, bf=0, container_options={"use_editlist": "1"})
    content = bytearray(path.read_bytes())
    table = content.index(b"elst")
    count = struct.unpack(">I", content[table + 8 : table + 12])[0]
    with av.open(str(path)) as container:
        ticks = container.streams.video[0].time_base.denominator
    media_time = table + 12 + 12 * (count - 1) + 4
    content[media_time : media_time + 4] = struct.pack(">I", ticks)
    path.write_bytes(content)
    expected = sequential(path)
    assert 60 <= len(expected) < 90  # or the file made here proves nothing
    assert_equal_to_sequential(path)
    assert set(ways) == {"sequential"}


def test_start_before_time_zero(tmp_path, ways):
    path = write_timed(
        tmp_path / "negative.mkv",
        list(range(-400, 3200, 40)),
        g=12,
        container_options={"avoid_negative_ts": "disabled"},
    )
    assert_equal_to_sequential(path)


def test_a_failing_seek_leads_to_decoding_from_the_start(tmp_path, ways, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 90, g=12)

    def fail(self, time):
        raise av.error.PermissionError(1, "not permitted")

    monkeypatch.setattr(video_decoding_ila.OpenVideo, "seek", fail)
    assert barcodes(read_video(path, lambda total: [80])[0]) == [80]
    assert ways == ["index?", "scan?", "sequential"]


def test_a_lying_seek_is_noticed(tmp_path, ways, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 90, g=12)
    seek = video_decoding_ila.OpenVideo.seek
    monkeypatch.setattr(video_decoding_ila.OpenVideo, "seek", lambda self, time: seek(self, max(time // 2, 0)))
    frames, _ = read_video(path, lambda total: [80])
    assert barcodes(frames) == [80]
    assert ways == ["index?", "scan?", "sequential"]


def test_only_needed_frames_are_decoded(tmp_path, ways, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 240, g=24, bf=0, sc_threshold=0)
    fed = []
    decoded = video_decoding_ila._decoded
    monkeypatch.setattr(
        video_decoding_ila, "_decoded", lambda video, packet: fed.append(packet) or decoded(video, packet)
    )
    frames, _ = read_video(path, lambda total: [0, 100, 216])
    assert barcodes(frames) == [0, 100, 216]
    assert len([packet for packet in fed if packet is not None]) == 1 + 5 + 1  # 96 and 216 are key frames
    fed.clear()
    pyramid = write_video(tmp_path / "b_frames.mp4", 240, g=240, bf=3, sc_threshold=0, b_strategy=0)
    frames, _ = read_video(pyramid, lambda total: [200])
    assert barcodes(frames) == [200]
    assert len(fed) < 140  # without the frames no other refers to, which are half of them here


def test_damage_in_a_wanted_group_is_found(tmp_path, ways, caplog):
    path = write_video(tmp_path / "clip.mp4", 240, g=24, bf=0)
    content = bytearray(path.read_bytes())
    for position, size in packet_places(path)[30:32]:
        content[position + 8 : position + size] = b"\xff" * (size - 8)
    path.write_bytes(content)
    expected = sequential(path)
    frames, metadata = read_video(path, lambda total: [10, 40, total - 1])
    assert metadata.total_num_frames == len(expected) == 240 - metadata.frames_lost
    assert all(np.array_equal(frame, expected[i]) for frame, i in zip(frames, metadata.frames_indices))
    assert metadata.frames_lost + metadata.frames_corrupt > 0
    assert ways[-1] == "sequential"
    elsewhere, _ = read_video(path, lambda total: [100])
    assert barcodes(elsewhere) == [100]


def test_damaged_frames_do_not_depend_on_what_memory_held(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 60, g=12)
    content = bytearray(path.read_bytes())
    position, size = packet_places(path)[12]
    content[position + size // 2 : position + size] = b"\xff" * (size - size // 2)
    path.write_bytes(content)
    first, metadata = read_video(path, range)
    assert metadata.frames_corrupt > 0
    read_video(write_video(tmp_path / "other.mp4", 60), range)
    assert np.array_equal(read_video(path, range)[0], first)


# -- shared files ----------------------------------------------------------------------------------------------------

DECODING = [
    (folder, entry["file"])
    for folder in ("real", "broken")
    for entry in manifest(folder)
    if entry.get("expected", "decodes") == "decodes" and not entry["file"].startswith(("bomb", "long"))
]


@needs_shared
@pytest.mark.parametrize("short", [0, video_decoding_ila.SHORT])
@pytest.mark.parametrize(("folder", "name"), DECODING, ids=[name for _, name in DECODING])
def test_shared_files_are_equal_to_sequential_decoding(monkeypatch, folder, name, short):
    if short == 0 and name.startswith("bytes_flipped"):
        pytest.skip("its damage lies in groups that some rules do not ask for")
    monkeypatch.setattr(video_decoding_ila, "SHORT", short)
    assert_equal_to_sequential(SHARED / folder / name, stream=1 if name.startswith("two_video") else 0)


@needs_shared
def test_barcodes_prove_every_jump():
    wanted = np.random.default_rng(0).integers(0, 15000, 40).tolist()
    frames, _ = read_video(SHARED / "broken" / "long_10min_gop250.mp4", lambda total: wanted)
    bits = [[f[64 + 16 * (b // 10) :, 16 * (b % 10) :][:16, :16].mean() > 125 for b in range(20)] for f in frames]
    assert [sum(1 << b for b, on in enumerate(row) if on) for row in bits] == wanted


# -- upright, in RGB, of one size ------------------------------------------------------------------------------------

TURNS = {  # display matrix (a, b, c, d) of column, row -> (a x + c y, b x + d y): what it does to a picture
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
}


@pytest.mark.parametrize("matrix", TURNS)
def test_display_matrix_is_applied(tmp_path, matrix):
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        a, b, c, d = (value << 16 for value in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(0b100110001011), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        lying = next(container.decode(video=0)).to_ndarray(format="rgb24", threads=1)
    frames, metadata = read_video(path, range)
    assert np.array_equal(frames[0], TURNS[matrix](lying))
    turned = np.rot90(lying, metadata.rotation // 90)
    assert np.array_equal(frames[0], turned[:, ::-1] if metadata.mirrored else turned)
    assert (metadata.height, metadata.width) == frames.shape[1:3]


def test_pixel_aspect_is_noted(tmp_path):
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(1), format="rgb24")))
        container.mux(stream.encode(None))
    frames, metadata = read_video(path, range)
    assert metadata.pixel_aspect == pytest.approx(4 / 3)
    assert frames.shape == (1, 48, 64, 3)


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        ("libx264", "yuv420p10le"),
        ("libx264", "yuv422p"),
        ("libx264", "yuv444p"),
        ("libx264", "yuvj420p"),
        ("ffv1", "gray"),
        ("libx265", "yuv420p10le"),
        ("libvpx-vp9", "yuva420p"),
        ("libx264rgb", "rgb24"),
        ("ffv1", "gray16le"),
        ("ffv1", "bgra"),
        ("ffv1", "yuv420p16le"),
    ],
)
def test_pixel_formats_become_sane_rgb(tmp_path, codec, pixels):
    """Grey levels survive every way of storing them, within what the codec loses."""
    levels = np.linspace(16, 235, 64).astype(np.uint8)
    image = np.repeat(np.broadcast_to(levels, (48, 64))[..., None], 3, axis=-1)
    path = tmp_path / "levels.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "5"} if codec.startswith("libx") else {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))
    frames, _ = read_video(path, range)
    assert frames.shape == (3, 48, 64, 3)
    assert np.abs(frames.astype(int) - image).mean() < 4


@pytest.mark.parametrize(("size", "expected"), [((64, 48), (32, 24)), ((48, 64), (24, 32)), ((65, 48), (32, 24))])
def test_short_side(tmp_path, size, expected):
    width, height = size
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for _ in range(3):
            image = barcode_frame(0b101, height=height, width=width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    small, metadata = read_video(path, range, short_side=24)
    assert small.shape == (3, expected[1], expected[0], 3)
    assert (metadata.width, metadata.height) == expected
    full, _ = read_video(path, range)
    assert np.array_equal(read_video(path, range, short_side=48)[0], full)  # never up
    assert np.array_equal(read_video(path, range, short_side=1000)[0], full)
    blocks = full[:, : 2 * (height // 2), : 2 * (width // 2)].reshape(3, height // 2, 2, width // 2, 2, 3)
    assert np.abs(small.astype(float) - blocks.mean(axis=(2, 4))).mean() < 4
    with pytest.raises(ValueError, match="short_side"):
        read_video(path, range, short_side=0)


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_limits_are_kept(tmp_path, name):
    path = write_video(tmp_path / name, 90)
    for limits, reason in [
        (ReadLimits(max_pixels=64 * 48 - 1), "max_pixels"),
        (ReadLimits(max_frames=89), "max_frames=89"),
        (ReadLimits(max_seconds=1e-9), "max_seconds"),
        (ReadLimits(formats="ogg"), "format"),
    ]:
        for read in (partial(read_video, index_rule=RULES["segments"]), check_video):
            with pytest.raises(VideoDecodingError, match=reason) as error:
                read(path, limits=limits)
            assert name in str(error.value) and "\n" not in str(error.value)
    enough = ReadLimits(max_pixels=64 * 48, max_frames=91, max_seconds=60, formats="mov,matroska,mpegts")
    assert len(read_video(path, RULES["segments"], limits=enough)[0]) == 8


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="max_frames must be above 0, got 0"):
        ReadLimits(max_frames=0)


def test_size_that_grows_inside_the_stream_is_limited(tmp_path):
    small = write_video(tmp_path / "small.h264", 5)
    large = tmp_path / "large.h264"
    with av.open(str(large), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 128, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    both = small.read_bytes() + large.read_bytes()
    assert read_video(both, range)[1].total_num_frames == 10
    _, metadata = read_video(both, range, limits=ReadLimits(max_pixels=64 * 48))
    assert (metadata.total_num_frames, metadata.width, metadata.height) == (5, 64, 48)
    assert metadata.frames_lost == 5


# -- check_video -----------------------------------------------------------------------------------------------------


def test_check_video_counts_every_fault(tmp_path, caplog):
    path = write_video(tmp_path / "clip.mp4", 240, g=24, bf=0)
    assert (check_video(path).total_num_frames, check_video(path).frames_lost) == (240, 0)
    content = bytearray(path.read_bytes())
    for position, size in packet_places(path)[100:103]:
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        metadata = check_video(path)
    assert metadata.total_num_frames == len(sequential(path)) == 240 - metadata.frames_lost
    assert metadata.frames_lost >= 3
    assert (metadata.width, metadata.height, metadata.frames_indices) == (64, 48, [])
    assert f"{metadata.frames_lost} of 240 frames are lost" in caplog.text


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4"])
def test_cut_off_files_say_what_is_missing(tmp_path, suffix):
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = write_video(
        tmp_path / f"clip.{suffix}", 200, g=12, codec=codec, container_options={"movflags": "faststart"}
    )
    assert check_video(path).frames_lost == 0
    content = path.read_bytes()
    cut = content[: len(content) * 6 // 10]
    for metadata in (check_video(cut), read_video(cut, RULES["segments"])[1]):
        assert 40 < metadata.total_num_frames < 160
        assert metadata.total_num_frames + metadata.frames_lost == pytest.approx(200, abs=3)


def test_a_last_frame_shown_for_long_is_not_an_end_cut_off(tmp_path):
    path = write_timed(tmp_path / "slides.mkv", [0, 1000, 2000, 30000], g=1)
    assert check_video(path).frames_lost == 0


def test_check_video_sees_frames_upright(tmp_path):
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(1), format="rgb24")))
        container.mux(stream.encode(None))
    metadata = check_video(path)
    assert (metadata.width, metadata.height, abs(metadata.rotation)) == (48, 64, 90)


@needs_shared
@pytest.mark.parametrize("entry", manifest("broken"), ids=lambda entry: entry["file"])
def test_check_video_agrees_with_the_manifest(entry):
    path = SHARED / "broken" / entry["file"]
    if entry["expected"] == "error":
        with pytest.raises(VideoDecodingError):
            check_video(path)
    elif not entry["file"].startswith(("bomb", "long")):
        assert check_video(path).total_num_frames == entry.get("frames_skipping_bad_packets", entry["frames"])


def test_metadata_can_be_written_as_json(tmp_path):
    _, metadata = read_video(write_video(tmp_path / "clip.mp4", 10), RULES["segments"])
    assert json.loads(json.dumps(vars(metadata)))["frames_indices"] == metadata.frames_indices
