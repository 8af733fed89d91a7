"""The reader: exactly the frames asked for, from every kind of source, and clear errors for the rest.

Every frame of the videos made here carries its index as a barcode, so that a frame proves which one it is.
"""

import base64
import contextlib
import http.server
import importlib
import io
import os
import pickle
import re
import socket
import sys
import tarfile
import tempfile
import threading
import traceback
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from PIL import Image

from support.videos import (
    EIGHT_SEGMENTS,
    HEIGHT,
    SHARED,
    WIDTH,
    barcode_frame,
    barcodes,
    manifest,
    needs_shared,
    packet_places,
    write_video,
)
from transformers_ila.model import video_container_ila, video_urls_ila
from transformers_ila.model.video_frames_ila import segment_indices
from transformers_ila.model.video_processing_ila import IlaVideoProcessor
from transformers_ila.model.video_reading_ila import (
    ReadLimits,
    VideoDecodingError,
    check_video,
    list_frames,
    read_timed,
    read_video,
)
from transformers_ila.model.video_urls_ila import is_public, redact
from transformers_ila.video_writing import write_mp4


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 50)


# -- exactly the frames asked for ------------------------------------------------------------------------------------

CONTAINERS = [
    ("clip.mp4", "libx264", {"bf": 3, "g": 12}),
    ("open_gop.mp4", "libx264", {"bf": 3, "g": 12, "x264-params": "open-gop=1"}),
    ("clip.mkv", "libx264", {}),
    ("clip.ts", "libx264", {"g": 10}),
    ("clip.flv", "libx264", {}),
    ("clip.avi", "mpeg4", {"bf": 2}),
    ("clip.webm", "libvpx", {}),
    ("clip.mpg", "mpeg2video", {}),
    ("raw.h264", "libx264", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_frames_are_those_of_the_rule(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, 45, codec=codec, **options)
    wanted = [7, 3, 3, 44, 0, 20, 7]
    totals = []
    frames, metadata = read_video(path, lambda total: totals.append(total) or wanted)
    assert totals[-1] == metadata.total_num_frames == 45
    assert frames.shape == (7, HEIGHT, WIDTH, 3)
    assert frames.dtype == np.uint8
    assert barcodes(frames) == wanted == metadata.frames_indices
    assert metadata.frames_lost == 0


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_short_videos_repeat_frames(tmp_path, frames):
    path = write_video(tmp_path / "short.mp4", frames)
    read, _ = read_video(path, EIGHT_SEGMENTS)
    assert barcodes(read) == segment_indices(frames, num_frames=8).tolist()


def test_equal_to_plain_sequential_decoding(video):
    with av.open(str(video)) as container:
        expected = np.stack([f.to_ndarray(format="rgb24", threads=1) for f in container.decode(video=0)])
    frames, _ = read_video(video, range)
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_times_are_listed_without_decoding(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, 50, codec=codec, **options)
    listed, times = list_frames(path), read_video(path, range)[1].timestamps
    if None in times:  # a bare stream has a rate only
        times = np.arange(50) / listed.fps
    assert listed.total_num_frames == len(listed.timestamps) == 50
    assert listed.timestamps == pytest.approx(np.subtract(times, times[0]), abs=2e-3)
    assert listed.duration == pytest.approx(listed.timestamps[-1] + 1 / listed.fps)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.tiff")
    with pytest.raises(VideoDecodingError, match="pictures have no times"):
        list_frames(tmp_path / "picture.tiff")


@pytest.mark.parametrize("changing", [False, True])
def test_a_part_is_read_as_if_it_were_all(tmp_path, changing):
    levels = np.repeat(np.arange(30, dtype=np.uint8) * 8, 32 * 32 * 3).reshape(30, 32, 32, 3)
    times = np.cumsum([0.0, *([0.1] * 14), *([0.2] * 15)]) if changing else np.arange(30) / 10
    write_mp4(tmp_path / "v.mp4", levels, fps=10, times=times)
    path, content = str(tmp_path / "v.mp4"), (tmp_path / "v.mp4").read_bytes()
    for start, end in ((0.0, 1.0), (0.95, 2.05), (1.5, None), (None, 0.3), (2.9, 99.0)):
        inside = [i for i, time in enumerate(times) if (start or 0) - 1e-6 <= time < (end or 99) - 1e-6]
        for source in ({"path": path}, {"bytes": content}):
            part = {**source, "start": start, "end": end}
            frames, _ = read_video(part, range)
            assert np.round(frames.mean((1, 2, 3)) / 8).astype(int).tolist() == inside
            listed = list_frames(part)
            assert listed.timestamps == pytest.approx(times[inside] - times[inside[0]], abs=2e-3)
            assert listed.total_num_frames == len(inside)
    one, _ = read_video({"path": path, "start": 1.01, "end": 1.02}, lambda total: list(range(total)))
    assert len(one) == 1 and round(one.mean() / 8) == 10  # none begins there: the one that is shown


def test_parts_that_are_none(tmp_path):
    write_mp4(tmp_path / "v.mp4", np.zeros((10, 16, 16, 3), np.uint8), fps=10)
    path = str(tmp_path / "v.mp4")
    for start, end in ((2, 1), (1, 1), (-1, 2), ("a", 2), (float("nan"), 2), (True, 2)):
        with pytest.raises(ValueError, match="0 <= start < end, in seconds; got start="):
            read_video({"path": path, "start": start, "end": end}, lambda total: [0])
    with pytest.raises(VideoDecodingError, match="from 20 s on is behind its end at 1 s; was it cut out before"):
        read_video({"path": path, "start": 20, "end": 30}, lambda total: [0])
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "frames" / "1.png")
    with pytest.raises(VideoDecodingError, match="pictures have no times"):
        read_video({"path": str(tmp_path / "frames"), "end": 30}, lambda total: [0])
    with pytest.raises(ValueError, match="at least one index in"):
        read_video({"path": path, "start": 0.5}, lambda total: [total])


def test_metadata(video):
    _, metadata = read_video(video, lambda total: [0, 10, 10])
    assert (metadata.width, metadata.height, metadata.fps, metadata.duration) == (WIDTH, HEIGHT, 25.0, 2.0)
    assert metadata.video_backend == "pyav"
    assert metadata.timestamps == [0.0, 0.4, 0.4]
    assert (metadata.rotation, metadata.frames_lost) == (0, 0)


@pytest.mark.parametrize("indices", [[50], [-1], []])
def test_rule_outside_the_video(video, indices):
    with pytest.raises(ValueError, match=r"\[0, 50\)"):
        read_video(video, lambda total: indices)


def test_resolution_change_inside_the_stream(tmp_path):
    small = write_video(tmp_path / "small.h264", 5)
    with av.open(str(tmp_path / "large.h264"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 2 * WIDTH, 2 * HEIGHT, "yuv420p"
        for index in range(5, 10):
            image = barcode_frame(index).repeat(2, axis=0).repeat(2, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + (tmp_path / "large.h264").read_bytes())
    frames, _ = read_video(both, range)
    assert frames.shape == (10, HEIGHT, WIDTH, 3)
    assert barcodes(frames) == list(range(10))


# -- every kind of source --------------------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """A file object that can only be read onwards."""

    def __init__(self, content: bytes) -> None:
        self.rest = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.rest.readinto(buffer)


SOURCES = {
    "str": str,
    "Path": Path,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "pipe": lambda path: Pipe(path.read_bytes()),
    "dict of path": lambda path: {"path": str(path), "bytes": None},
    "dict of bytes": lambda path: {"path": "inside/an/archive.mp4", "bytes": path.read_bytes()},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_source_kinds(video, kind):
    frames, _ = read_video(SOURCES[kind](video), EIGHT_SEGMENTS)
    assert barcodes(frames) == segment_indices(50, num_frames=8).tolist()


@pytest.mark.parametrize("kind", ["gzip", "bz2", "lzma", "zip", "tar", "spooled"])
def test_files_that_are_not_quite_files(tmp_path, video, kind):
    packed = tmp_path / "packed"
    with contextlib.ExitStack() as stack:
        if kind == "zip":
            with zipfile.ZipFile(packed, "w") as archive:
                archive.write(video, "clip.mp4")
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(packed)).open("clip.mp4"))
        elif kind == "tar":
            with tarfile.open(packed, "w") as archive:
                archive.add(video, "clip.mp4")
            archive = stack.enter_context(tarfile.open(packed, "r|"))
            file = archive.extractfile(next(iter(archive)))
        elif kind == "spooled":
            file = stack.enter_context(tempfile.SpooledTemporaryFile())
            file.write(video.read_bytes())
        else:
            module = importlib.import_module(kind)
            with module.open(packed, "wb") as output:
                output.write(video.read_bytes())
            file = stack.enter_context(module.open(packed, "rb"))
        assert barcodes(read_video(file, EIGHT_SEGMENTS)[0]) == segment_indices(50, num_frames=8).tolist()
        if kind in ("gzip", "bz2", "lzma"):
            packed.write_bytes(packed.read_bytes()[:-500])
            with module.open(packed, "rb") as cut, pytest.raises(VideoDecodingError):
                read_video(cut, EIGHT_SEGMENTS)


def test_files_that_cannot_be_read(tmp_path, video):
    closed = video.open("rb")
    closed.close()
    with pytest.raises(VideoDecodingError, match="closed"):
        read_video(closed, EIGHT_SEGMENTS)
    with (tmp_path / "out").open("wb") as write_only, pytest.raises(VideoDecodingError, match="not readable|read"):
        read_video(write_only, EIGHT_SEGMENTS)
    (tmp_path / "empty.mp4").touch()
    with (tmp_path / "empty.mp4").open("rb") as empty, pytest.raises(VideoDecodingError):
        read_video(empty, EIGHT_SEGMENTS)


def test_pipes_have_a_limit(video):
    with pytest.raises(VideoDecodingError, match="max_download_bytes=1000"):
        read_video(Pipe(video.read_bytes()), EIGHT_SEGMENTS, limits=ReadLimits(max_download_bytes=1000))


def test_open_file_is_read_from_its_start_and_left_open(video):
    with video.open("rb") as file:
        file.seek(100)
        for _ in range(2):
            frames, _ = read_video(file, EIGHT_SEGMENTS)
            assert barcodes(frames) == segment_indices(50, num_frames=8).tolist()
        assert not file.closed


ODD_NAMES = [
    "-dash.mp4",
    "colon:in:name.mp4",
    "http:x",
    "file:y.mp4",
    "%03d.mp4",
    "with space",
    "no_extension",
    "动作🎬.mp4",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_relative_names(tmp_path, monkeypatch, video, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(video.read_bytes())
    frames, _ = read_video(name, lambda total: [4])
    assert barcodes(frames) == [4]


# -- URLs ------------------------------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    stop = threading.Event()
    seen: ClassVar[list[tuple[str, str]]] = []  # paths, and user:password

    def do_GET(self) -> None:
        content = Path(self.directory, "clip.mp4").read_bytes()
        given = self.headers.get("Authorization", "")
        self.seen.append((self.path, base64.b64decode(given.removeprefix("Basic ")).decode()))
        if self.path == "/silent":
            self.stop.wait(10)
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/unannounced":  # no Content-Length: the end of the connection ends it
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)
        elif self.path == "/broken_off":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-1000])
        elif self.path == "/slow":  # never silent for long, never done
            self.send_response(200)
            self.end_headers()
            while not self.stop.wait(0.05):
                self.wfile.write(b"x")
        else:
            super().do_GET()

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(video):
    Handler.stop.clear()
    Handler.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(video.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def temporary_files(tmp_path, monkeypatch):
    """The folder where temporary files go, checked to be empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def test_url(server, temporary_files):
    frames, _ = read_video(f"{server}/clip.mp4", EIGHT_SEGMENTS)
    assert barcodes(frames) == segment_indices(50, num_frames=8).tolist()


def test_url_errors(server, temporary_files):
    for url, reason in [
        (f"{server}/missing.mp4", "404"),
        (f"{server}/", "Invalid data"),  # a page of HTML
        ("http://127.0.0.1:1/clip.mp4", "refused"),
        ("http://", "no host"),
    ]:
        with pytest.raises(VideoDecodingError, match=reason) as error:
            read_video(url, EIGHT_SEGMENTS)
        assert url in str(error.value)
    with pytest.raises(VideoDecodingError, match="timed out"):
        read_video(f"{server}/silent", EIGHT_SEGMENTS, limits=ReadLimits(timeout=0.2))
    with pytest.raises(VideoDecodingError, match=r"max_seconds=0\.5"):
        read_video(f"{server}/slow", EIGHT_SEGMENTS, limits=ReadLimits(max_seconds=0.5))
    with pytest.raises(VideoDecodingError, match="the download ended after"):
        read_video(f"{server}/broken_off", EIGHT_SEGMENTS)


@pytest.mark.parametrize("page", ["clip.mp4", "unannounced"])
def test_download_limit(server, temporary_files, video, page):
    size = video.stat().st_size
    assert len(read_video(f"{server}/{page}", EIGHT_SEGMENTS, limits=ReadLimits(max_download_bytes=size))[0]) == 8
    with pytest.raises(VideoDecodingError, match=f"max_download_bytes={size - 1}"):
        read_video(f"{server}/{page}", EIGHT_SEGMENTS, limits=ReadLimits(max_download_bytes=size - 1))


def test_redirections_lead_to_http_only(server, temporary_files, video):
    assert len(read_video(f"{server}/to/{server}/clip.mp4", EIGHT_SEGMENTS)[0]) == 8
    for target in (f"file://{video}", "ftp://127.0.0.1/clip.mp4", f"data:video/mp4,{video}"):
        with pytest.raises(VideoDecodingError, match="not allowed|unknown url type"):
            read_video(f"{server}/to/{target}", EIGHT_SEGMENTS)


def test_urls_in_any_letters(server, video):
    (video.parent / "动作 é.mp4").write_bytes(video.read_bytes())
    assert len(read_video(f"{server}/动作 é.mp4", EIGHT_SEGMENTS)[0]) == 8
    for url in ("http://[::1", "http://℀.com/x", f"{server}/to/http://[::1/"):
        with pytest.raises(VideoDecodingError):
            read_video(url, EIGHT_SEGMENTS)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.mp4", "rtsp://127.0.0.1/a", "file:///a.mp4", "concat:a.mp4|b.mp4"])
def test_other_protocols_are_names_of_files_at_most(url):
    with pytest.raises(VideoDecodingError, match="no such file"):
        read_video(url, EIGHT_SEGMENTS)


SECRET = "S3CRET"
SECRETIVE = {  # what is written -> what may be shown
    f"https://me:{SECRET}@host/a.mp4": "https://***@host/a.mp4",
    f"https://me:{SECRET}/with?all#of@it@host:8080/a.mp4": "https://***@host:8080/a.mp4",
    f"HTTP://{SECRET}@[::1]:80/a.mp4": "HTTP://***@[::1]:80/a.mp4",
    f"https://host/a.mp4?X-Amz-Signature={SECRET}&x=1": "https://host/a.mp4?***30de1d31",
    f"https://host/a b's.mp4?sig={SECRET} and 'more'": "https://host/a b's.mp4?***5d17c4b8",
    f"https://host/a.mp4#access_token={SECRET}": "https://host/a.mp4",
    f"https://host/a.mp4;jsessionid={SECRET}": "https://host/a.mp4;***30de1d31",
    f"https:me:{SECRET}@host/a.mp4": "https:***@host/a.mp4",
    f"//me:{SECRET}@host/a.mp4": "//***@host/a.mp4",
    "folder//me@home.mp4": "folder//me@home.mp4",
    f"s3://key:{SECRET}@bucket/a.mp4": "s3://***@bucket/a.mp4",
    f"https:/me:{SECRET}@host/a.mp4": "https:/***@host/a.mp4",  # of `Path`
    f"zip://x/a.mp4::https://me:{SECRET}@host/a.zip": "zip://x/a.mp4::https://***@host/a.zip",
    f"simplecache::s3://me:{SECRET}@bucket/a.mp4": "simplecache::s3://***@bucket/a.mp4",
    f"no answer from 'https://me:{SECRET}@host/a.mp4', again": "no answer from 'https://***@host/a.mp4', again",
    "https://host:8080/a@2x.mp4": "https://host:8080/a@2x.mp4",
    "C:/videos/a.mp4": "C:/videos/a.mp4",
    "/videos/what?/a#1.mp4": "/videos/what?/a#1.mp4",
}


@pytest.mark.parametrize("text", SECRETIVE)
def test_secrets_of_urls_are_not_shown(text, monkeypatch):
    def no_such_name(*args, **options):
        raise socket.gaierror("no such name")

    monkeypatch.setattr(video_urls_ila.socket, "getaddrinfo", no_such_name)
    shown = redact(text)
    assert SECRET not in shown
    assert re.sub(r"\*\*\*[0-9a-f]{8}", "***", shown) == re.sub(r"\*\*\*[0-9a-f]{8}", "***", SECRETIVE[text])
    assert redact(shown) == shown
    with pytest.raises(VideoDecodingError) as error:
        read_video(text, EIGHT_SEGMENTS, limits=ReadLimits(timeout=1, allow_private_addresses=False))
    told = "".join(traceback.format_exception(error.value)) + repr(pickle.loads(pickle.dumps(error.value)))
    assert SECRET not in told


KEY = f"{SECRET}ab/cd+ef=="  # as S3's and Azure's are
REPEATED = {  # what a client of a store may say -> what may be shown; DIGEST is that of a hash
    f"abfs://clips@account.dfs.core.windows.net/a.mp4?sv=1&sig={SECRET}": (
        "abfs://clips@account.dfs.core.windows.net/a.mp4?DIGEST"
    ),
    f"abfs://clips:{KEY}@account/a.mp4": "abfs://***@account/a.mp4",
    f"hf://user:hf_{SECRET}@datasets/me/clips@main/a.mp4": "hf://***@datasets/me/clips@main/a.mp4",
    f"403: https://b.s3.amazonaws.com/a.mp4?AWSAccessKeyId={SECRET}&Signature={SECRET}": (
        "403: https://b.s3.amazonaws.com/a.mp4?DIGEST"
    ),
    f"Max retries exceeded with url: /b/a.mp4?X-Amz-Credential={SECRET}%2F2026&X-Amz-Signature={SECRET} (timeout)": (
        "Max retries exceeded with url: /b/a.mp4?X-Amz-Credential=DIGEST&X-Amz-Signature=DIGEST (timeout)"
    ),
    f"GET /c/a.mp4?sv=2026&sig={SECRET}": "GET /c/a.mp4?sv=2026&sig=DIGEST",
    f"403, url=URL('https://host/a.mp4?X-Goog-Signature={SECRET}')": "403, url=URL('https://host/a.mp4?DIGEST')",
    f'Invalid bucket name "KEY:{KEY}@bucket": it must match': 'Invalid bucket name "***@bucket": it must match',
    f"AccountName=x;AccountKey={KEY};EndpointSuffix=y": "AccountName=x;AccountKey=DIGEST;EndpointSuffix=y",
    f"{{'secret': '{KEY}', \"token\": \"{SECRET}\", 'anon': False}}": (
        "{'secret': '***', \"token\": \"***\", 'anon': False}"
    ),
    f"S3FileSystem(secret='{KEY}', token=\"{SECRET}\")": "S3FileSystem(secret='***', token=\"***\")",
    f"{{'Authorization': 'AWS4-HMAC-SHA256 Credential={SECRET}/x, Signature={SECRET}', 'Host': 'x'}}": (
        "{'Authorization': 'AWS4-HMAC-SHA256 ***', 'Host': 'x'}"
    ),
    f"<CIMultiDict('x-amz-security-token': '{SECRET}')>": "<CIMultiDict('x-amz-security-token': '***')>",
    f"Authorization: Bearer {SECRET}": "Authorization: Bearer ***",
    f"Authorization=SharedKey account:{KEY}": "Authorization=SharedKey ***",
    f"no access with hf_{SECRET * 4}": "no access with DIGEST",
    f"the key AKIA{SECRET}ABCDEFGHIJ": "the key DIGEST",
    f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----": "***",
}


@pytest.mark.parametrize("text", REPEATED)
def test_secrets_that_clients_repeat_are_not_shown(text):
    shown = redact(text)
    assert SECRET not in shown
    assert re.sub(r"\*\*\*[0-9a-f]{8}", "DIGEST", shown) == REPEATED[text]
    assert redact(shown) == shown


def test_what_is_no_secret_is_shown():
    for text in (
        "abfs://clips@account.dfs.core.windows.net/a.mp4",  # the container: two of an account are two places
        "hf://datasets/me/clips@main/a.mp4",
        "clip_token=5.mp4",
        "sig=1.mp4",
        "folder/me:you@home.mp4",
        "'C:/videos/me@home.mp4'",
        "no key: 'video' in row",
        "token=None",
    ):
        assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/clip #1.mp4", "s3://bucket/clip #1.mp4"),
        ("gs://bucket/a#?1.mp4", "gs://bucket/a#?***"),
        (f"s3://me:123#{SECRET}@bucket/a 1.mp4", "s3://***@bucket/a 1.mp4"),
        (f"sftp://host/a#{SECRET}.mp4", "sftp://host/a#***"),
        (f"https://host/a.mp4?b#{SECRET}", "https://host/a.mp4?***"),
    ],
)
def test_where_a_fragment_is_part_of_the_place_it_tells_places_apart(text, shown):
    assert re.sub(r"\*\*\*[0-9a-f]{8}", "***", redact(text)) == shown and redact(redact(text)) == redact(text)
    other = redact(text.replace("1.mp4", "2.mp4").replace(SECRET, "other"))
    assert (other == redact(text)) == text.startswith("https")


def test_names_that_look_like_tokens_stay_apart():
    first, second = (redact(f"clips/hf_clip000000000000000{number}.mp4") for number in (1, 2))
    assert first != second and "clip0" not in first and redact(first) == first


def test_urls_that_differ_in_their_query_stay_apart():
    for address in ("https://host/a.mp4?id=", "s3://bucket/take #", "hf://datasets/me/clips/a#b?"):
        first, second = (redact(f"{address}{number}.mp4") for number in (1, 2))
        assert first != second
        assert redact(first) == first
    assert redact("https://host/a.mp4#t=1") == redact("https://host/a.mp4#t=2")  # one file


@pytest.mark.parametrize("video", [{f"https://me:{SECRET}@host"}, {"https": f"https://me:{SECRET}@host/{'a' * 80}"}])
def test_secrets_of_what_is_no_source(video):
    for read in (IlaVideoProcessor(), lambda source: read_video(source, EIGHT_SEGMENTS)):
        with pytest.raises(ValueError) as error:
            read(video)
        assert SECRET not in str(error.value)


def test_secrets_of_file_objects(tmp_path):
    class Remote(io.BytesIO):
        name = f"https://me:{SECRET}@host/a.mp4"

        def read(self, size=-1):
            raise OSError(f"GET {self.name}?token={SECRET}: 403")

    with pytest.raises(VideoDecodingError, match=r"'https://\*\*\*@host/a.mp4'.* 403") as error:
        read_video(Remote(), EIGHT_SEGMENTS)
    assert SECRET not in str(error.value)


def test_user_and_password_are_sent_to_their_server_only(server, temporary_files):
    other = server.replace("127.0.0.1", "localhost")
    with_user = server.replace("//", "//me:pass%20word@")
    assert len(read_video(f"{with_user}/to/{server}/clip.mp4", EIGHT_SEGMENTS)[0]) == 8
    assert Handler.seen == [(f"/to/{server}/clip.mp4", "me:pass word"), ("/clip.mp4", "me:pass word")]
    Handler.seen.clear()
    read_video(f"{with_user}/to/{other}/clip.mp4", EIGHT_SEGMENTS)
    assert Handler.seen[-1] == ("/clip.mp4", "")
    with pytest.raises(VideoDecodingError, match=r"'http://\*\*\*@127.*404") as error:
        read_video(f"{with_user}/missing.mp4?token={SECRET}", EIGHT_SEGMENTS)
    assert SECRET not in str(error.value) and "pass" not in str(error.value)


PRIVATE = [
    "127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0.0.0.0", "10.0.0.1", "172.16.3.4",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::7f00:1]",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused(host, temporary_files):
    with pytest.raises(VideoDecodingError, match="an address that is not public"):
        read_video(f"http://{host}:9/clip.mp4", EIGHT_SEGMENTS, limits=ReadLimits(allow_private_addresses=False))


def test_public_addresses():
    for address in ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert is_public(address)


def test_private_addresses_are_refused_behind_redirections_and_names(server, temporary_files, monkeypatch):
    """The tests' server counts as public here, and nothing else of this machine does."""
    port = int(server.rpartition(":")[2])
    answers = {"public.test": "127.0.0.1", "rebound.test": "127.0.0.1", "internal.test": "127.0.0.2"}
    asked = []

    def resolve(host, port, *args, **options):
        asked.append(host)
        address = answers.get(host, host)
        if host == "rebound.test":
            answers[host] = "127.0.0.2"  # what the next question would hear
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(video_urls_ila.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(video_urls_ila, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.2:9")  # which would resolve names by itself
    strict = ReadLimits(allow_private_addresses=False)
    for host in ("public.test", "rebound.test"):
        assert len(read_video(f"http://{host}:{port}/clip.mp4", EIGHT_SEGMENTS, limits=strict)[0]) == 8
    assert asked.count("rebound.test") == 1
    public = f"http://public.test:{port}"
    assert len(read_video(f"{public}/to/{public}/clip.mp4", EIGHT_SEGMENTS, limits=strict)[0]) == 8
    for target in (f"http://internal.test:{port}/clip.mp4", "http://127.0.0.2/", "https://internal.test/"):
        with pytest.raises(VideoDecodingError, match="an address that is not public"):
            read_video(f"{public}/to/{public}/to/{target}", EIGHT_SEGMENTS, limits=strict)


# -- folders of images -----------------------------------------------------------------------------------------------


def test_folder_in_natural_order_opens_only_wanted_images(tmp_path):
    for index in range(12):
        Image.fromarray(barcode_frame(index)).save(tmp_path / f"frame_{index + 1}.png")
    (tmp_path / "frame_6.png").write_bytes(b"broken, and not asked for")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image either")
    frames, metadata = read_video(tmp_path, lambda total: [total - 1, 0, 1, 1, 9])
    assert barcodes(frames) == [11, 0, 1, 1, 9]
    assert metadata.total_num_frames == 12
    with pytest.raises(VideoDecodingError, match=r"frame_6\.png"):
        read_video(tmp_path, lambda total: [5])


def test_folder_images_of_another_mode_and_size(tmp_path):
    Image.fromarray(barcode_frame(1)).save(tmp_path / "1.png")
    Image.fromarray(barcode_frame(2)).convert("L").resize((2 * WIDTH, 2 * HEIGHT)).save(tmp_path / "2.png")
    frames, _ = read_video(str(tmp_path), range)
    assert barcodes(frames) == [1, 2]


def test_folder_has_the_same_limits(tmp_path):
    for index in range(4):
        Image.fromarray(barcode_frame(index)).save(tmp_path / f"{index}.png")
    for limits, reason in [
        (ReadLimits(max_frames=3), "max_frames=3"),
        (ReadLimits(max_pixels=WIDTH * HEIGHT - 1), "max_pixels"),
        (ReadLimits(max_seconds=1e-9), "max_seconds"),
    ]:
        with pytest.raises(VideoDecodingError, match=reason):
            read_video(tmp_path, range, limits=limits)


def test_folder_scaled_and_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise
    Image.fromarray(barcode_frame(5)).save(tmp_path / "1.png", exif=turned)
    frames, _ = read_video(tmp_path, range)
    assert np.array_equal(frames[0], np.rot90(barcode_frame(5), -1))
    assert read_video(tmp_path, range, short_side=24)[0].shape == (1, 32, 24, 3)


def test_folder_images_of_16_bits(tmp_path):
    ramp = np.linspace(0, 65535, WIDTH).astype(np.uint16)
    Image.fromarray(np.broadcast_to(ramp, (HEIGHT, WIDTH)).copy()).save(tmp_path / "1.png")
    frames, _ = read_video(tmp_path, range)
    assert np.abs(frames[0, 0, :, 0] - np.linspace(0, 255, WIDTH)).max() <= 1


def test_folder_images_start_no_program(tmp_path):
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(VideoDecodingError, match="cannot identify"):
        read_video(tmp_path, range)


def test_check_folder(tmp_path):
    for index in range(4):
        Image.fromarray(barcode_frame(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    metadata = check_video(tmp_path)
    assert (metadata.total_num_frames, metadata.frames_lost, metadata.width) == (3, 1, WIDTH)
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    with pytest.raises(VideoDecodingError, match="none of its 4 images"):
        check_video(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(VideoDecodingError, match="no images"):
        read_video(tmp_path, EIGHT_SEGMENTS)


def test_truncated_file_gives_what_it_holds(tmp_path):
    """The index at the front promises 90 frames, the rest of the file holds 60."""
    path = write_video(tmp_path / "clip.mp4", 90, container_options={"movflags": "faststart"}, bf=0)
    content = path.read_bytes()[: packet_places(path)[60][0]]
    totals = []
    frames, metadata = read_video(content, lambda total: totals.append(total) or segment_indices(total, num_frames=8))
    assert metadata.total_num_frames == totals[-1] == 60
    assert barcodes(frames) == segment_indices(60, num_frames=8).tolist()


def test_bad_packets_are_skipped_counted_and_reported(tmp_path, caplog):
    path = write_video(tmp_path / "clip.mp4", 90, g=10, bf=0)
    content = bytearray(path.read_bytes())
    for position, size in packet_places(path)[30:33]:  # three frames of the fourth group of ten
        content[position : position + size] = b"\xff" * size
    frames, metadata = read_video(bytes(content), range)
    assert metadata.total_num_frames == len(frames) == 90 - metadata.frames_lost
    assert 3 <= metadata.frames_lost <= 10  # the decoder also drops what referred to the lost key frame
    read = barcodes(frames)
    assert read[:30] == list(range(30))
    assert read[-50:] == list(range(40, 90))
    assert f"{metadata.frames_lost} of 90 frames are lost" in caplog.text


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        picture = av.VideoFrame.from_ndarray(barcode_frame(1), format="rgb24")
        for stream, frame in ((sound, silence), (cover, picture)):
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # PyAV takes the picture for a video
    with pytest.raises(VideoDecodingError, match="no video stream"):
        read_video(path, EIGHT_SEGMENTS)


def test_unreadable_sources(tmp_path):
    concat = tmp_path / "concat.mp4"
    write_video(tmp_path / "sibling.mp4", 9)
    concat.write_text("ffconcat version 1.0\nfile sibling.mp4\n")
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsibling.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("<html>Not found</html>\n" * 20)
    for source, reason in [
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path / "empty.mp4", "Invalid data"),
        (tmp_path / "text.mp4", "Invalid data"),
        (write_audio(tmp_path / "audio.mp4"), "no video stream"),
        (concat, "not allowed|Invalid"),
        (playlist, "not allowed|Invalid"),
    ]:
        with pytest.raises(VideoDecodingError, match=reason) as error:
            read_video(source, EIGHT_SEGMENTS)
        assert str(source) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(VideoDecodingError, match="5 bytes"):
        read_video(b"bytes", EIGHT_SEGMENTS)
    with pytest.raises(VideoDecodingError, match="no such file"):
        read_video("new\nline\0.mp4", EIGHT_SEGMENTS)


@pytest.mark.parametrize("source", [None, 3, ["a.mp4"], {"file": "a.mp4"}, {"path": None, "bytes": None}])
def test_not_a_source(source):
    with pytest.raises(ValueError, match="path"):
        read_video(source, EIGHT_SEGMENTS)


def test_text_file_object():
    with pytest.raises(ValueError, match="binary mode"):
        read_video(io.StringIO("text"), EIGHT_SEGMENTS)


def test_without_pyav_only_files_fail(tmp_path, monkeypatch, video):
    monkeypatch.setattr(video_container_ila, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        read_video(video, EIGHT_SEGMENTS)
    Image.fromarray(barcode_frame(3)).save(tmp_path / "3.png")
    assert barcodes(read_video(tmp_path, range)[0]) == [3]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path, video):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(video.read_bytes()[:1000])

    def read_all() -> int:
        for source in (str(video), video.read_bytes()):
            read_video(source, EIGHT_SEGMENTS)
        with pytest.raises(VideoDecodingError):
            read_video(bad, EIGHT_SEGMENTS)
        with pytest.raises(ValueError, match="index rule"):
            read_video(video, lambda total: [total])
        return len(os.listdir("/proc/self/fd"))

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        before, threads = read_all(), threading.active_count()
        assert [read_all() for _ in range(10)] == [before] * 10
    assert threading.active_count() <= threads


@needs_shared
@pytest.mark.parametrize("entry", manifest("real"), ids=lambda entry: entry["file"])
def test_real_videos(entry):
    frames, metadata = read_video(SHARED / "real" / entry["file"], EIGHT_SEGMENTS)
    assert metadata.total_num_frames == entry["decoded_frames"]
    height, width = entry["height"], entry["width"]
    turned = entry["rotation"][0] // 90 % 2 == 1
    assert frames.shape == (8, width, height, 3) if turned else (8, height, width, 3)


@needs_shared
@pytest.mark.parametrize("entry", manifest("broken"), ids=lambda entry: entry["file"])
def test_broken_videos(entry):
    path = SHARED / "broken" / entry["file"]
    if entry["expected"] == "error":
        with pytest.raises(VideoDecodingError):
            read_video(path, EIGHT_SEGMENTS)
        return
    num_frames = 2 if entry["file"].startswith("bomb") else 8  # 201 MB a frame
    frames, metadata = read_video(path, partial(segment_indices, num_frames=num_frames))
    assert len(frames) == num_frames
    assert metadata.total_num_frames == entry.get("frames_skipping_bad_packets", entry["frames"])


@needs_shared
def test_rotation_is_applied():
    path = SHARED / "broken" / "rotate_90.mp4"
    with av.open(str(path)) as container:
        lying = next(container.decode(video=0))
    frames, metadata = read_video(path, lambda total: [0])
    assert metadata.rotation == lying.rotation == -90
    assert (metadata.width, metadata.height) == (lying.height, lying.width)
    # -90: the picture is turned clockwise, its first row becomes the last column
    assert np.array_equal(frames[0][:, -1], lying.to_ndarray(format="rgb24", threads=1)[0])


@needs_shared
def test_the_larger_of_two_streams():
    _, metadata = read_video(SHARED / "broken" / "two_video_streams.mkv", EIGHT_SEGMENTS)
    assert (metadata.width, metadata.height) == (176, 144)


@needs_shared
def test_barcodes_of_a_long_video():
    frames, _ = read_video(SHARED / "broken" / "long_10min_gop250.mp4", EIGHT_SEGMENTS)
    bits = [[f[64 + 16 * (b // 10) :, 16 * (b % 10) :][:16, :16].mean() > 125 for b in range(20)] for f in frames]
    read = [sum(1 << b for b, on in enumerate(row) if on) for row in bits]
    assert read == segment_indices(15000, num_frames=8).tolist()


def test_frames_of_an_avi_are_timed_by_their_order(tmp_path):
    """AVI holds no times, and what FFmpeg makes of its order has frames with B-frames out of turn."""
    video = write_video(tmp_path / "clip.avi", 30, bf=2, g=12)
    frames, metadata, times, _ = read_timed(str(video), lambda total, edges: range(total))
    assert metadata.timestamps != sorted(metadata.timestamps)
    assert barcodes(frames) == list(range(30))
    np.testing.assert_allclose(times, [index / 25 for index in range(30)])
