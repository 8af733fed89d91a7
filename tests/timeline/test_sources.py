"""Frames with times from every kind of source: which frames, when, what is said of them, and that nothing hangs."""

import io
import os
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import av
import fsspec
import numpy as np
import pytest
from PIL import Image

from support.videos import (
    SHARED,
    Unseekable,
    barcode_frame,
    barcodes,
    encoded,
    needs_shared,
    packet_places,
    piped,
    write_video,
)
from transformers_ila.model.video_reading_ila import ReadLimits, VideoDecodingError, read_video
from transformers_ila.timeline import sources
from transformers_ila.timeline.sources import SourceNote, TimedFrame, open_frames
from transformers_ila.video_writing import write_mp4


PATIENT = 30.0  # seconds after which a test gives up waiting


def read(source, **options):
    """All frames of a source, their times, and its notes."""
    with open_frames(source, **options) as frames:
        items = list(frames)
        assert frames.finished and next(frames, None) is None and frames.poll() is None
    found = [item for item in items if isinstance(item, TimedFrame)]
    times = [frame.time for frame in found]
    assert times == sorted(times) and times[0] == 0
    return found, times, [item for item in items if isinstance(item, SourceNote)]


def kinds(notes):
    return [note.kind for note in notes]


def numbers(frames):
    return barcodes(np.stack([frame.image for frame in frames]))


def until(condition):
    """Wait for another thread."""
    end = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(scope="module")
def ts() -> bytes:
    return encoded(range(30))


# -- which frames ----------------------------------------------------------------------------------------------------


def assert_equal_to_the_reader(source, **options):
    images, metadata = read_video(source, range, **options)
    frames, times, _ = read(source, size=options.get("short_side"))
    assert [frame.index for frame in frames] == metadata.frames_indices
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images))
    return times, metadata.timestamps


@pytest.mark.parametrize("short_side", [None, 24])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".gif"])
def test_frames_and_times_are_those_of_the_reader(tmp_path, suffix, short_side):
    codec = {"codec": "gif", "pix_fmt": "pal8"} if suffix == ".gif" else {"codec": "libx264", "bf": 2}
    if suffix == ".gif":
        video = tmp_path / "clip.gif"
        pictures = [Image.fromarray(barcode_frame(i)) for i in range(12)]
        pictures[0].save(video, save_all=True, append_images=pictures[1:], duration=80)
    else:
        video = write_video(tmp_path / f"clip{suffix}", 12, **codec)
    times, stamps = assert_equal_to_the_reader(video, short_side=short_side)
    assert times == pytest.approx([stamp - stamps[0] for stamp in stamps])


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "broken/rotate_90.mp4",
        "broken/vfr.mp4",
        "broken/alpha_vp9.webm",
        "broken/hevc_10bit.mp4",
        "broken/rgb_gbrp_h264.mkv",
        "broken/odd_177x143_h264_444.mp4",
        "broken/bytes_flipped_middle.mp4",
        "broken/broken_start.ts",
        "broken/truncated_60pct_moov_front.mp4",
        "real/keyboard_rot90_3frames.mov",
        "real/hmdb51_wave_RATRACE.avi",
    ],
)
def test_frames_of_real_and_broken_videos_are_those_of_the_reader(name):
    assert_equal_to_the_reader(SHARED / name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [3.0, 8, 29.97, 1000])
def test_frame_k_is_the_first_at_or_after_k_over_rate(seed, rate):
    rng = np.random.default_rng(seed)
    shown = np.cumsum(rng.choice([20, 33, 34, 100, 700], size=40))  # milliseconds; gaps, too
    file = io.BytesIO()
    write_mp4(file, np.stack([barcode_frame(i) for i in range(40)]), times=shown / 1000)
    seconds = (shown - shown[0]) / 1000
    first = [np.flatnonzero(seconds >= k / rate - 1e-5) for k in range(int(seconds[-1] * rate) + 1)]
    frames, times, _ = read(file.getvalue(), rate=rate)
    assert numbers(frames) == [frame.index for frame in frames] == sorted({int(at[0]) for at in first})
    assert times == pytest.approx([seconds[frame.index] for frame in frames], abs=1e-6)


@pytest.mark.parametrize("first", [0, 1, 2, 100])
def test_a_clock_of_milliseconds_loses_no_frame_at_the_sources_own_rate(first):
    frames, times, _ = read(encoded(range(first, first + 30), format="matroska"), rate=30)
    assert [frame.index for frame in frames] == list(range(30))
    assert times == pytest.approx(np.arange(30) / 30, abs=1e-3)


def test_only_frames_that_are_asked_for_are_converted(ts, monkeypatch):
    converted = []
    from transformers_ila.timeline.decoder import FrameConverter

    convert = FrameConverter.convert
    monkeypatch.setattr(FrameConverter, "convert", lambda self, frame: converted.append(frame) or convert(self, frame))
    with open_frames(ts, rate=5) as source:
        assert len([item for item in source]) == len(converted) == 5 and source.decoded == 30


# -- doors -----------------------------------------------------------------------------------------------------------


def test_every_door_gives_the_same(ts, tmp_path, monkeypatch):
    path = tmp_path / "clip.ts"
    path.write_bytes(ts)
    fsspec.filesystem("memory").pipe("/ila/clip.ts", ts)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=partial(fifo.write_bytes, ts), daemon=True).start()
    with open(path, "rb") as file, open(path, "rb") as again, piped(ts) as pipe, piped(ts) as standard:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=os.fdopen(standard, "rb")))
        doors = [path, str(path), ts, bytearray(ts), file, {"path": str(path)}, {"bytes": ts, "path": None}]
        doors += [f"file://{path}", "memory://ila/clip.ts", str(fifo), Unseekable(ts), os.fdopen(pipe, "rb"), "-"]
        for door in doors:
            frames, times, notes = read(door, rate=6)
            assert numbers(frames) == [0, 5, 10, 15, 20, 25] and not notes, door
            assert times == pytest.approx(np.arange(6) / 6), door
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=again))  # `ila timeline - < clip.ts`
        assert numbers(read("-", rate=6)[0]) == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize("format", ["mpegts", "matroska"])
def test_what_arrives_is_neither_copied_nor_kept(format, monkeypatch):
    data = encoded(range(60), format=format)
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    for given in (None, format):
        with piped(data) as pipe:
            frames, _, notes = read(os.fdopen(pipe, "rb"), format=given)
        assert numbers(frames) == list(range(60)) and not notes


def test_bytes_that_a_file_object_has_read_ahead_are_not_lost(ts):
    with piped(ts) as pipe, os.fdopen(pipe, "rb", buffering=2**14) as file:
        assert file.peek(1)[:1] == b"G"
        assert numbers(read(file, rate=6)[0]) == [0, 5, 10, 15, 20, 25]


def test_pictures_need_a_rate_and_have_the_times_that_it_gives(tmp_path):
    for index in range(12):
        Image.fromarray(barcode_frame(index)).save(tmp_path / f"frame_{index}.png")
    with pytest.raises(VideoDecodingError, match="its 12 pictures have no times: say how many a second"):
        open_frames(tmp_path)
    frames, times, _ = read(tmp_path, rate=4)
    assert numbers(frames) == list(range(12)) and times == [k / 4 for k in range(12)]
    frames, times, _ = read(tmp_path, rate=2, frame_rate=6)
    assert numbers(frames) == [0, 3, 6, 9] and times == [0.0, 0.5, 1.0, 1.5]
    (tmp_path / "frame_3.png").write_bytes(b"none")
    frames, _, notes = read(tmp_path, rate=4)
    assert numbers(frames) == [0, 1, 2, *range(4, 12)] and kinds(notes) == ["damage"] and "frame_3" in notes[0].text
    for index in range(12):
        (tmp_path / f"frame_{index}.png").write_bytes(b"none")
    with pytest.raises(VideoDecodingError, match="none of its frames is readable"):
        read(tmp_path, rate=4)


def test_one_picture_is_one_frame(tmp_path):
    Image.fromarray(barcode_frame(5)).save(tmp_path / "one.png")
    assert numbers(read(tmp_path / "one.png")[0]) == numbers(read(tmp_path, rate=None)[0]) == [5]


class Answers(BaseHTTPRequestHandler):
    """Send the server's content; `/short` breaks off, `/away` redirects."""

    def do_GET(self):
        content = self.server.content
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "/clip")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path.startswith("/short") else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(ts):
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.content = ts
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


def test_urls_are_copied_or_read_as_they_arrive_within_the_limits(server):
    for live in (False, True):
        assert read(f"{server}/away?token=abc", rate=6, live=live, lag=PATIENT)[1] == pytest.approx(np.arange(6) / 6)
        private = ReadLimits(allow_private_addresses=False)
        with pytest.raises(VideoDecodingError, match="not public") as caught:
            read(f"{server}/clip?token=abc", live=live, limits=private)
        assert "secret" not in str(caught.value) and "abc" not in str(caught.value)
    with pytest.raises(VideoDecodingError, match="max_download_bytes=1000"):
        read(f"{server}/clip", limits=ReadLimits(max_download_bytes=1000))
    with pytest.raises(VideoDecodingError, match="the download ended after"):
        read(f"{server}/short")
    notes = read(f"{server}/short", live=True, lag=PATIENT)[2]
    assert notes[-1].kind == "end_early" and "bytes are missing" in notes[-1].text


# -- times -----------------------------------------------------------------------------------------------------------


def test_a_gap_invents_no_frames():
    frames, times, notes = read(encoded([*range(10), *range(100, 110)]), rate=10)
    assert numbers(frames) == [0, 3, 6, 9, 10, 12, 15, 18][:3] + [9] + numbers(frames)[4:]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 100 / 30, 3.4, 3.5, 3.6], abs=0.001)
    assert kinds(notes) == ["gap"] and notes[0].time == pytest.approx(100 / 30)


@pytest.mark.parametrize("arrives", [False, True])
def test_streams_after_one_another_are_one(arrives, ts):
    other = encoded(range(30), size=(128, 96))
    whole = ts + other + ts
    frames, times, notes = read(Unseekable(whole) if arrives else whole)
    assert times == pytest.approx(np.arange(90) / 30)
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert kinds(notes) == ["jump", "size", "jump", "size"] and "128 x 96 after 64 x 48" in notes[1].text


@pytest.mark.parametrize("arrives", [False, True])
def test_33_bits_run_over(arrives):
    over = 2**33 * 30 // 90_000
    data = encoded(range(over - 15, over + 15))
    _, times, notes = read(Unseekable(data) if arrives else data)
    assert times == pytest.approx(np.arange(30) / 30, abs=1e-4) and not notes


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_late_start_is_noted_and_times_count_from_the_first_frame(format):
    with open_frames(encoded(range(60, 70), format=format, sound=True)) as source:
        items = list(source)
    assert items[0].kind == "late_start" and source.start == pytest.approx(2.0, abs=0.05)
    assert [item.time for item in items[1:]] == pytest.approx(np.arange(10) / 30, abs=1e-3)


def test_negative_times():
    assert read(encoded(range(-5, 5), format="nut"))[1] == pytest.approx(np.arange(10) / 30)


@pytest.mark.parametrize("arrives", [False, True])
def test_bare_frames_say_that_they_have_no_times(arrives):
    data = encoded(range(20), format="h264")
    _, times, notes = read(Unseekable(data) if arrives else data)
    assert len(times) == 20 and kinds(notes) == ["untimed"]
    _, times, notes = read(Unseekable(data) if arrives else data, frame_rate=10)
    assert times == pytest.approx(np.arange(20) / 10) and not notes
    frames, times, notes = read(Unseekable(data), live=True, lag=PATIENT)
    assert "arrival" in notes[0].text and times == sorted(times) and len(frames) == 20


def test_no_header_is_believed():
    """A header that promises another rate and length changes no time."""
    honest = encoded(range(30), format="avi")
    place = honest.index(b"avih") + 8
    lying = honest[:place] + (10**6).to_bytes(4, "little") + honest[place + 4 :]  # microseconds per frame
    assert read(lying)[1] == read(honest)[1]


def test_the_end_is_that_of_the_last_frame(ts):
    with open_frames(ts, rate=2) as source:
        assert source.duration == pytest.approx(1.0) and source.start is None
        assert [item.time for item in source] == pytest.approx([0.0, 0.5])
        assert source.duration == pytest.approx(1.0) and source.start == 0.0


# -- what is broken --------------------------------------------------------------------------------------------------


def test_damage_is_counted_and_frames_keep_coming(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 60, bf=0)
    data = bytearray(path.read_bytes())
    for position, size in packet_places(path)[20:50]:
        data[position + size // 2 : position + size] = bytes(size - size // 2)
    frames, times, notes = read(bytes(data))
    assert set(kinds(notes)) - {"gap"} == {"damage"} and 2 <= len(notes) <= 12 and " more" in notes[-1].text
    assert times[-1] == pytest.approx(59 / 25)


@pytest.mark.parametrize("format", ["mpegts", "matroska", "flv"])
def test_what_breaks_off_in_the_middle_says_so(format):
    data = encoded(range(90), format=format)
    frames, _, notes = read(Unseekable(data[: len(data) // 2 + 1]))
    assert 10 < len(frames) < 70
    assert "end_early" in kinds(notes) or format == "flv"
    assert "end_early" not in kinds(read(Unseekable(data))[2])


@pytest.mark.parametrize("format", ["mpegts", "matroska"])
def test_bytes_that_do_not_belong_there_are_no_end(format):
    """Wherever they lie, and whatever they move; a stream that then breaks off says so."""
    data = encoded(range(90), format=format, **({"cluster_time_limit": "200"} if format == "matroska" else {}))
    for place in (len(data) // 2, len(data) // 3):
        noise = np.random.default_rng(place).bytes(1001)
        damaged = data[:place] + noise + data[place:]
        frames, _, notes = read(Unseekable(damaged))
        assert len(frames) > 50 and "end_early" not in kinds(notes)
        assert "end_early" in kinds(read(Unseekable(damaged[:-50]))[2])


@pytest.mark.parametrize("before, after", [(4, 0), (0, 16)])
def test_longer_packets_of_mpeg_are_whole(before, after):
    """Those of Blu-rays begin with a time, those of broadcasts end with parity."""
    data = encoded(range(30))
    packets = [bytes(before) + data[place : place + 188] + bytes(after) for place in range(0, len(data), 188)]
    found, _, notes = read(Unseekable(b"".join(packets)))
    assert len(found) == 30 and notes == []
    assert kinds(read(Unseekable(b"".join(packets)[:-50]))[2])[-1:] == ["end_early"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv", ".avi"])
def test_a_file_that_is_cut_off_says_so(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    video = write_video(tmp_path / f"clip{suffix}", 100, container_options=options, codec=codec)
    assert read(video)[2] == []
    data = video.read_bytes()
    _, times, notes = read(data[: len(data) * 2 // 3])
    assert times[-1] < 3 and "end_early" in kinds(notes) and "promises" in notes[-1].text


def test_an_error_of_the_source_ends_it_with_what_is_there(ts):
    reads = []

    def wait():
        reads.append(1)
        if len(reads) > 3:
            raise OSError("the cable is out")

    frames, _, notes = read(Unseekable(ts, piece=len(ts) // 4, wait=wait))
    assert len(frames) > 5 and notes[-1].kind == "end_early" and "the cable is out" in notes[-1].text


def test_a_file_that_grows_is_read_to_the_end_that_is_reached(ts, tmp_path):
    path = tmp_path / "clip.ts"
    half = len(ts) // 188 // 2 * 188
    path.write_bytes(ts[:half])
    with open_frames(path) as source, open(path, "ab") as file:
        items = [next(source)]
        file.write(ts[half:])
        file.flush()
        items += list(source)
    assert items[-1].kind == "grew" and f"from {half} to {len(ts)} bytes" in items[-1].text
    times = [item.time for item in items[:-1]]
    assert times == pytest.approx(np.arange(len(times)) / 30)


def test_one_frame(tmp_path):
    with open_frames(write_video(tmp_path / "one.mp4", 1)) as source:
        (frame,) = source
        assert (frame.time, frame.index, frame.image.shape) == (0.0, 0, (48, 64, 3))
        assert source.duration == pytest.approx(0.04)


def audio_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bytes, "0 bytes"),
        (lambda: b"no video at all" * 100, "Invalid data"),
        (audio_only, "no video stream"),
        (lambda: encoded(range(9))[:300], "video"),
    ],
    ids=["empty", "text", "audio only", "a beginning"],
)
def test_no_video_is_an_error(make, reason, arrives):
    data = make()
    with pytest.raises(VideoDecodingError, match=reason):
        read(Unseekable(data) if arrives else data)


def test_an_mp4_file_with_its_index_at_the_end_cannot_arrive():
    noise = np.random.default_rng(0).integers(0, 255, (8, 96, 128, 3), dtype=np.uint8)
    write_mp4(file := io.BytesIO(), noise, quality=1)
    with pytest.raises(VideoDecodingError, match="such as MPEG-TS or Matroska"):
        read(Unseekable(file.getvalue()))


def test_places_that_hold_no_source(tmp_path):
    for place, reason in {
        tmp_path / "none.mp4": "no such file or folder",
        tmp_path: "no images in this folder",
        "memory://ila/none.ts": "there is no such file",
        "/dev/video99": "no such device; cameras here: ",
        "/dev/null": "Inappropriate ioctl",
        "rtsp://me:secret@camera/1": "rtsp",
    }.items():
        with pytest.raises(VideoDecodingError, match=reason) as caught:
            read(place)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="Cannot read frames from int 5: give a path"):
        open_frames(5)
    with pytest.raises(ValueError, match="must be opened in binary mode"):
        open_frames(io.StringIO("text"))
    with pytest.raises(ValueError, match="needs 'path' or 'bytes'"):
        open_frames({"array": 1})
    controller, terminal = os.openpty()
    with open(terminal, "rb", buffering=0) as file, pytest.raises(VideoDecodingError, match="it is a terminal"):
        read(file)
    os.close(controller)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be"),
        ({"rate": float("nan")}, "rate must be"),
        ({"frame_rate": -1}, "frame_rate must be"),
        ({"patience": 0}, "patience must be seconds above 0"),
        ({"give_up": 1.0}, "give_up must be at least patience=10"),
        ({"lag": None}, "lag must be"),
        ({"live": 1}, "live must be True or False"),
        ({"size": 2.5}, "size must be a short side"),
        ({"format": "exe"}, "format must be one of mov,mp4"),
        ({"format": "mpegts", "limits": ReadLimits(formats="mov,mp4")}, "format must be one of mov,mp4"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        open_frames(b"", **options)


def test_limits(ts):
    with pytest.raises(VideoDecodingError, match="max_frames=10"):
        read(ts, limits=ReadLimits(max_frames=10))
    with pytest.raises(VideoDecodingError, match="max_pixels"):
        read(ts, limits=ReadLimits(max_pixels=100))
    with pytest.raises(VideoDecodingError, match="max_memory_bytes=100"):
        read(ts, limits=ReadLimits(max_memory_bytes=100))
    with pytest.raises(VideoDecodingError, match="not allowed"):
        read(ts, limits=ReadLimits(formats="mov,mp4"))


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_a_stall_is_noted_and_waited_for(ts):
    go_on = threading.Event()
    reads = []

    def wait():
        reads.append(1)
        if len(reads) == 3:
            assert go_on.wait(PATIENT)

    with open_frames(Unseekable(ts, piece=len(ts) // 3, wait=wait), patience=0.02) as source:
        items = []
        for item in source:
            items.append(item)
            if isinstance(item, SourceNote):
                go_on.set()
    assert "stall" in kinds(item for item in items if isinstance(item, SourceNote))
    assert len([item for item in items if isinstance(item, TimedFrame)]) == 30


def test_a_source_that_stays_silent_is_given_up(ts):
    with (
        piped(ts, close=False) as pipe,
        open_frames(os.fdopen(pipe, "rb"), patience=PATIENT, give_up=PATIENT) as source,
    ):
        frames = [next(source) for _ in range(20)]
        source.patience, source.give_up = 0.05, 0.15
        rest = list(source)
        assert isinstance(frames[-1], TimedFrame) and source.finished
        assert rest[-1].kind == "end_early" and "given up" in rest[-1].text


def test_a_source_that_never_gives_anything_is_an_error():
    with piped(b"", close=False) as pipe, open_frames(os.fdopen(pipe, "rb"), patience=0.05, give_up=0.1) as source:
        notes = []
        with pytest.raises(VideoDecodingError, match="nothing came"):
            notes.extend(source)
        assert kinds(notes)[-1] == "end_early"
        assert source.finished and next(source, None) is None


def test_closing_does_not_wait_for_what_does_not_come(monkeypatch):
    monkeypatch.setattr(sources, "CLOSING", 0.05)
    never = threading.Event()
    for source in (Unseekable(b"", wait=never.wait), None):
        with piped(b"", close=False) as pipe:
            frames = open_frames(source or os.fdopen(pipe, "rb"))
            assert frames.poll(0.01) is None and not frames.finished
            began = time.monotonic()
            frames.close()
            assert time.monotonic() - began < PATIENT and frames.finished and list(frames) == []
        never.set()


def test_closing_early_lets_go_of_the_file(ts, tmp_path):
    (tmp_path / "clip.ts").write_bytes(ts)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with open_frames(tmp_path / "clip.ts") as source:
            next(source)
        with piped(ts) as pipe, open_frames(file := os.fdopen(pipe, "rb")) as source:
            next(source)
        file.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer where an earlier test's are let go meanwhile
    until(lambda: not any(thread.name.startswith("frames of") for thread in threading.enumerate()))


def test_a_slow_consumer_of_a_live_source_gets_the_newest_frame(ts):
    with open_frames(Unseekable(ts), live=True, lag=PATIENT, frame_rate=1000) as source:
        first = next(source)
        until(lambda: not source._thread.is_alive())
        source.lag = 0.01
        time.sleep(0.03)  # longer than the 30 frames are shown
        rest = list(source)
    assert first.index == 0 and [item.index for item in rest if isinstance(item, TimedFrame)] == [29]
    assert source.dropped == 28 and source.decoded == 30
    assert kinds(rest[1:]) == ["dropped"] and "28 frames are dropped" in rest[-1].text


def test_a_live_source_keeps_so_many_frames_at_most(monkeypatch):
    monkeypatch.setattr(sources, "LOOK", 0.01)
    with open_frames(Unseekable(encoded(range(100))), live=True, lag=0.01, frame_rate=1000) as source:
        until(lambda: not source._thread.is_alive())
        source.lag = PATIENT  # what is left is not dropped, too
        frames = [item for item in source if isinstance(item, TimedFrame)]
    assert [frame.index for frame in frames] == list(range(68, 100)) and source.dropped == 68


def test_a_burst_is_not_dropped_while_it_is_ahead_of_its_own_time():
    with open_frames(Unseekable(encoded(range(100))), live=True, lag=PATIENT, frame_rate=0.01) as source:
        next(source)
        source.lag = 0.001  # the next one is due in 100 s, on however slow a machine
        time.sleep(0.02)
        assert len([item for item in source if isinstance(item, TimedFrame)]) == 99 and source.dropped == 0


def test_what_arrives_but_is_not_live_waits_for_its_consumer():
    with open_frames(Unseekable(encoded(range(100)))) as source:
        next(source)
        time.sleep(0.02)
        assert len(source._waiting) <= 32
        assert len(list(source)) == 99 and source.dropped == 0


def test_a_live_file_is_read_at_its_own_speed():
    began = time.monotonic()
    frames, times, notes = read(encoded(range(5), format="mp4"), live=True, rate=30, lag=PATIENT)
    assert time.monotonic() - began > times[-1] > 0.13 and len(frames) == 5 and not notes
    assert all(frame.arrived - began > frame.time - 0.05 for frame in frames[1:])


def test_a_failing_consumer_leaves_no_thread(ts):
    with pytest.raises(KeyError), open_frames(Unseekable(ts)) as source:
        next(source)
        raise KeyError
    until(lambda: not source._thread.is_alive())


def test_scaled_frames(tmp_path):
    assert read(write_video(tmp_path / "clip.mp4", 3), size=24)[0][0].image.shape == (24, 32, 3)
