"""A video file, opened with care: which formats, what it may cost, which of its streams, its packets one by one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .video_urls_ila import redact


try:
    import av

    AV_ERRORS: tuple[type[Exception], ...] = (av.error.FFmpegError,)
except ImportError:
    av = None  # type: ignore[assignment]  # only reading files needs it; frames in memory do without
    AV_ERRORS = ()


DEMUX_ERRORS: tuple[type[Exception], ...] = (*AV_ERRORS, IndexError)  # damage announced a stream PyAV did not expect
READ_ERRORS: tuple[type[Exception], ...] = (*AV_ERRORS, OSError)  # from the file object itself

MEDIA_FORMATS = (  # FFmpeg's demuxer names: media only, nothing that names further files
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,gif,apng,nut,mxf,dv,rm,"
    "ivf,obu,av1,h263,h264,hevc,vvc,mjpeg,mjpeg_2000,vc1,yuv4mpegpipe,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,swf,wtv"
)
ONE_FRAME_PER_PACKET = ("h264", "hevc", "av1", "vp9", "mjpeg")  # not VP8 (hidden frames), not MPEG-4 in AVI (packed)
ORDERED = ("avi",)  # formats that hold the order of decoding alone; what FFmpeg makes of it is out of turn
DEMUXER_RETRIES = 100  # unreadable places of one file that are stepped over
LARGEST_LIMIT = 2**53  # FFmpeg's own are near
FIELDS_UNKNOWN, FIELDS_NONE = 0, 1  # FFmpeg's numbers of field orders


class VideoDecodingError(ValueError):
    """Report a video that cannot be read; the message names it and the reason in one line, without secrets of URLs."""

    def __init__(self, name: str, reason: object) -> None:
        self.name, self.reason = redact(name), redact(str(reason))
        super().__init__(" ".join(f"Cannot read the video {self.name}: {self.reason}".split()))

    def __reduce__(self) -> tuple[Any, ...]:  # DataLoader workers send their errors back pickled
        return type(self), (self.name, self.reason)


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """Limit what reading one video may cost; a `VideoDecodingError` says which limit was met.

    max_pixels: of one frame, width x height, checked before any is decoded; the default is 8192 x 8192.
    max_frames: of one video, counted as packets. The default is more than nine hours at 30 a second.
    max_seconds: of time spent on one video, download included.
    max_memory_bytes: of the frames of one video that are kept, predicted before memory is taken: as they are decoded,
        resized, and as pixel values. The default is 8 GiB.
    max_download_bytes: of one URL. timeout: seconds its server may stay silent.
    formats: FFmpeg's names of the container formats that may be opened, comma-separated; among `MEDIA_FORMATS`.
    allow_private_addresses: whether URLs may lead to this machine, its network, or other addresses that are not
        public. Where they may not, the name of every URL and of every redirection is resolved first, the connection
        goes to that address, and no proxy is used.

    Raises:
        ValueError: a value that is not allowed.
    """

    max_pixels: int = 8192 * 8192
    max_frames: int = 1_000_000
    max_seconds: float = 300.0
    max_memory_bytes: int = 2**33
    max_download_bytes: int = 2**31
    timeout: float = 30.0
    formats: str = MEDIA_FORMATS
    allow_private_addresses: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("formats", "allow_private_addresses"):
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value <= LARGEST_LIMIT:
                raise ValueError(f"{name} must be a number up to {LARGEST_LIMIT}, got {value!r}.")
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}.")
        if not isinstance(self.allow_private_addresses, bool):
            raise ValueError(f"allow_private_addresses must be True or False, got {self.allow_private_addresses!r}.")
        known = set(MEDIA_FORMATS.split(","))
        if not isinstance(self.formats, str) or not set(self.formats.split(",")) <= known:  # others may open files
            raise ValueError(f"The formats of read_limits must be among {MEDIA_FORMATS}; got {self.formats!r}.")

    @classmethod
    def from_options(cls, options: dict[str, Any] | None) -> "ReadLimits":
        """Make the limits of a processor's `read_limits`; None gives the defaults."""
        unknown = set(options or {}) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"read_limits may have {', '.join(cls.__dataclass_fields__)}; got {options!r}.")
        return cls(**(options or {}))

    def check_memory(self, name: str, frames: int, height: int, width: int, *, bytes_each: int = 1) -> None:
        """Raise a VideoDecodingError, with a name in it, if so many frames of three colours take more than allowed."""
        needed = 3 * frames * height * width * bytes_each
        if needed > self.max_memory_bytes:
            raise VideoDecodingError(
                name, f"{frames} frames take {needed} bytes, more than max_memory_bytes={self.max_memory_bytes}"
            )


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """Hold a path or binary file object, its name in messages, and what reading it may cost.

    format: FFmpeg's name of the container format; None: what the content looks like.
    options: of FFmpeg, beside and before those that follow from the limits.
    """

    file: Any
    name: str
    limits: ReadLimits
    deadline: float  # on time.monotonic()
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    def check_time(self) -> None:
        """Raise a VideoDecodingError if the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise VideoDecodingError(self.name, f"reading it takes longer than max_seconds={self.limits.max_seconds}")

    def check_count(self, frames: int) -> None:
        """Raise a VideoDecodingError if the video has more frames than the limits allow."""
        if frames > self.limits.max_frames:
            raise VideoDecodingError(self.name, f"it has more frames than max_frames={self.limits.max_frames}")

    def check_bytes(self, count: int) -> None:
        """Raise a VideoDecodingError if a download has more bytes than the limits allow."""
        limit = self.limits.max_download_bytes
        if count > limit:
            raise VideoDecodingError(self.name, f"more than max_download_bytes={limit} bytes")

    def check_size(self, width: int, height: int) -> None:
        """Raise a VideoDecodingError if a frame of width x height pixels is larger than the limits allow."""
        if width * height > self.limits.max_pixels:
            size = f"{width} x {height}"
            raise VideoDecodingError(self.name, f"frames of {size} pixels exceed max_pixels={self.limits.max_pixels}")


class OpenVideo:
    """Hold an open container, its best video stream and that stream's decoder, within the file's limits."""

    container: Any
    stream: Any
    decoder: Any
    at_start: bool

    def __init__(self, file: VideoFile) -> None:
        self.file = file
        self.open()

    def open(self) -> None:
        """Open the file at its start and choose its video stream; raise a VideoDecodingError where it has none."""
        limits = self.file.limits
        if not isinstance(self.file.file, str) and hasattr(self.file.file, "seek"):
            self.file.file.seek(0)
        decoding = {"max_pixels": str(limits.max_pixels)}  # for probing, and where the size changes inside the stream
        opening = {"format_whitelist": limits.formats, "protocol_whitelist": "file", **decoding, **self.file.options}
        try:
            rest = max(self.file.deadline - time.monotonic(), 0.001)
            self.container = av.open(
                self.file.file, format=self.file.format, options=opening, metadata_errors="replace", timeout=rest
            )
        except av.error.ArgumentError as error:  # what FFmpeg says of formats that are not on the list
            reason = "invalid, or of a container format that is not allowed"
            raise VideoDecodingError(self.file.name, reason) from error
        self.at_start = True
        try:
            self.stream = _best_stream(self.container, name=self.file.name)
            self.decoder = self.stream.codec_context
            self.file.check_size(self.decoder.width, self.decoder.height)
            self.decoder.options = decoding
            # With several threads FFmpeg leaves out H.264's concealment of errors: damaged parts of a frame then show
            # whatever the memory held before.
            self.decoder.thread_count = 1
            for stream in self.container.streams:
                if stream is not self.stream:
                    stream.discard = av.stream.Discard.all
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """Yield all packets of the stream from its start; the last one is empty and flushes the decoder."""
        if not self.at_start:
            self.close()
            self.open()
        return self.packets_here()

    def packets_here(self) -> Iterator[Any]:
        """Yield the packets from where the file stands; places that cannot be read are stepped over."""
        self.at_start = False
        count = 0
        for _ in range(DEMUXER_RETRIES):
            try:
                for packet in self.container.demux(self.stream):
                    count += 1
                    self.file.check_count(count)
                    self.file.check_time()
                    yield packet
                return
            except DEMUX_ERRORS:
                self.file.check_time()
        yield None  # the decoder's spelling of an empty packet

    def seek(self, timestamp: int) -> Iterator[Any]:
        """Yield the packets from the last key frame at or before a time (in the stream's time base)."""
        self.container.seek(timestamp, stream=self.stream)
        return self.packets_here()

    @property
    def format(self) -> str:
        """Return FFmpeg's name of the container format, of several the first, such as "mov"."""
        return self.container.format.name.split(",")[0]

    @cached_property
    def codec(self) -> str:
        """Return FFmpeg's name of the codec, such as "h264"."""
        return self.decoder.codec.canonical_name

    @property
    def one_frame_per_packet(self) -> bool:
        """Return whether each packet holds one frame; interlaced video may come as one packet per field."""
        return self.codec in ONE_FRAME_PER_PACKET and self.decoder.field_order in (FIELDS_UNKNOWN, FIELDS_NONE)

    @cached_property
    def first_delay(self) -> int:
        """Return the time from decoding the first packet to showing it, in the stream's time base."""
        packet = next(self.packets())
        return 0 if packet is None or packet.pts is None or packet.dts is None else packet.pts - packet.dts


@contextmanager
def opened(file: VideoFile) -> Iterator[OpenVideo]:
    """Open a video and close it however the block ends; FFmpeg's errors in it become VideoDecodingErrors."""
    if av is None:
        raise ImportError("Reading video files needs PyAV: pip install av")
    try:
        video = OpenVideo(file)
        try:
            yield video
        finally:
            video.close()
    except READ_ERRORS as error:
        file.check_time()
        raise VideoDecodingError(file.name, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return what is wrong in FFmpeg's or the system's words, without the file's name."""
    if isinstance(error, av.error.ArgumentError):  # what decoders say of sizes over the limit
        return "its data are invalid, or its frames exceed max_pixels"
    return str(getattr(error, "strerror", None) or error)


def _best_stream(container: Any, *, name: str) -> Any:
    """Return the default video stream, among several the largest; a cover picture is no video."""
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & pictures]
    if not streams:
        raise VideoDecodingError(name, "it has no video stream")
    default = av.stream.Disposition.default
    return max(streams, key=lambda s: (bool(s.disposition & default), s.width * s.height, -s.index))
