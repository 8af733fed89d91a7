"""How fast and how frugal the reader is, beside transformers' `load_video` and torchcodec, in one run.

    python benchmarks/video_reading.py [--videos FOLDER] [--output benchmarks/video_reading.md]

Eight frames of each clip, those that `load_video(num_frames=8)` takes: every (total / 8)-th from the first on. The
long clips are encoded by the script; with --videos every video of that folder is read too. Readers take turns in every
round and the median of the rounds is shown. All decode with one thread but "transformers" and "PyAV sequential", whose
default is as many as there are cores. torchcodec joins where it can be imported (it needs FFmpeg's libraries). Memory
and threads, on Linux, are how far the peaks of a fresh process rise above what it had before it read.

At 30 frames a second the eight frames of the two-minute clip are all key frames, at 25 they lie anywhere in their
groups: that is what a reader can save at most, and what it saves on average.
"""

import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import transformers
from transformers import HfArgumentParser
from transformers.video_utils import load_video

from transformers_ila import read_video


try:
    import torchcodec
    from torchcodec.decoders import VideoDecoder
except (ImportError, OSError, RuntimeError):
    torchcodec = None

LONG_CLIPS = {  # name: (minutes, frames a second, width, height, frames between key frames)
    "10 min 160x96 gop 250": (10, 25, 160, 96, 250),
    "2 min 640x360 gop 250": (2, 30, 640, 360, 250),
    "2 min 640x360 gop 30": (2, 30, 640, 360, 30),
    "2 min 640x360 gop 30, 25 fps": (2, 25, 640, 360, 30),
}


def eight(total: int) -> list[int]:
    """transformers' own uniform rule."""
    return np.arange(0, total, total / 8).astype(int).tolist()


@dataclass
class Arguments:
    """videos: a folder of real clips. output: a file for the table. rounds: how often each reader reads each clip."""

    videos: str | None = field(default=None)
    output: str | None = field(default=None)
    rounds: int = field(default=5)


# -- the readers -----------------------------------------------------------------------------------------------------


def read_ours(path: str) -> None:
    read_video(path, eight)


def read_ours_small(path: str) -> None:
    read_video(path, eight, short_side=224)


def read_transformers(path: str) -> None:
    load_video(path, num_frames=8, backend="pyav")


def read_torchcodec(path: str) -> None:
    decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1)
    decoder.get_frames_at(eight(len(decoder)))


def read_sequentially(path: str) -> None:
    """Plain PyAV, as careful code would be written: everything decoded, only the wanted frames converted."""
    with av.open(path) as container:
        wanted = set(eight(container.streams.video[0].frames or 1))
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frame.to_ndarray(format="rgb24", threads=1)


READERS: dict[str, Callable[[str], None]] = {
    "ours": read_ours,
    "ours, short side 224": read_ours_small,
    "transformers": read_transformers,
    "torchcodec": read_torchcodec,
    "PyAV sequential": read_sequentially,
}


# -- measuring -------------------------------------------------------------------------------------------------------


def footage(videos: str | None, *, width: int, height: int) -> list[np.ndarray]:
    """200 frames to encode: of the first real clip, scaled; without one a texture that drifts under sensor noise."""
    if videos:
        with av.open(
            str(next(path for path in sorted(Path(videos).iterdir()) if "kinetics" in path.name))
        ) as container:
            frames = itertools.islice(container.decode(video=0), 200)
            return [frame.to_ndarray(format="rgb24", width=width, height=height, threads=1) for frame in frames]
    random = np.random.default_rng(0)
    texture = random.integers(40, 215, (height // 8, width // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    noise = random.integers(-3, 4, (16, *texture.shape))
    drift = (np.roll(texture, (index // 2, index), axis=(0, 1)) + noise[index % 16] for index in range(200))
    return [frame.astype(np.uint8) for frame in drift]


def write_clip(path: Path, frames: list[np.ndarray], *, minutes: int, fps: int, gop: int) -> None:
    """The frames forwards and backwards, over and over, as H.264, a key frame every `gop` frames."""
    there_and_back = itertools.cycle([*frames, *frames[-2:0:-1]])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": str(gop), "sc_threshold": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in itertools.islice(there_and_back, minutes * 60 * fps):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def medians(path: str, readers: list[str], rounds: int) -> dict[str, float | None]:
    """Milliseconds per reader, None for one that cannot read the clip; the readers take turns."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    failed = set()
    for _ in range(rounds):
        for name in readers:
            if name in failed:
                continue
            start = time.perf_counter()
            try:
                READERS[name](path)
            except Exception as error:  # a peer's failure is a result too
                print(f"{name} cannot read {path}: {str(error)[:100]!r}", file=sys.stderr)
                failed.add(name)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: None if name in failed else statistics.median(times[name]) for name in readers}


def costs(path: str, reader: str) -> tuple[float, int]:
    """MB that the peak of a fresh process rises by while it reads, and the most threads it has beyond those before."""
    command = [sys.executable, __file__, "--measure", reader, path]
    memory, threads = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(memory), int(threads)


def measure(reader: str, path: str) -> None:
    """In the fresh process: what one reading adds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    memory, most = _status("VmRSS"), 0
    reading = threading.Thread(target=READERS[reader], args=(path,))
    threads = _status("Threads") + 1
    reading.start()
    while reading.is_alive():
        most = max(most, _status("Threads"))
        time.sleep(0.0005)
    print((_status("VmHWM") - memory) / 1024, max(most - threads, 0))


def _status(name: str) -> int:
    """Memory in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


# -- the table -------------------------------------------------------------------------------------------------------


def versions() -> str:
    found = {
        "Python": platform.python_version(),
        "PyAV": av.__version__,
        "its libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "transformers": transformers.__version__,
        "torchcodec": getattr(torchcodec, "__version__", "not installed"),
    }
    return ", ".join(f"{name} {version}" for name, version in found.items()) + f"; {os.cpu_count()} cores"


def table(clips: dict[str, str], rounds: int) -> list[str]:
    readers = [name for name in READERS if torchcodec or name != "torchcodec"]
    lines = [
        "| clip | " + " | ".join(f"{name}, ms" for name in readers) + " | transformers / ours | ours / torchcodec |",
        "|---|" + "---|" * (len(readers) + 2),
    ]
    for clip, path in clips.items():
        result = medians(path, readers, rounds)
        ours, theirs, codec = result["ours"], result["transformers"], result.get("torchcodec")
        cells = ["fails" if result[name] is None else f"{result[name]:.1f}" for name in readers]
        cells.append(f"{theirs / ours:.1f}x" if theirs and ours else "-")
        cells.append(f"{ours / codec:.2f}x" if codec and ours else "-")
        lines.append(f"| {clip} | " + " | ".join(cells) + " |")
    return lines


def cost_table(clips: dict[str, str]) -> list[str]:
    readers = [name for name in READERS if torchcodec or name != "torchcodec"]
    lines = ["| MB, threads added | " + " | ".join(readers) + " |", "|---|" + "---|" * len(readers)]
    for clip, path in clips.items():
        cells = ("{:.0f}, {}".format(*costs(path, name)) for name in readers)
        lines.append(f"| {clip} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        return measure(*sys.argv[2:4])
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    with tempfile.TemporaryDirectory() as folder:
        clips = {}
        for name, (minutes, fps, width, height, gop) in LONG_CLIPS.items():
            path = Path(folder, f"{name}.mp4")
            frames = footage(arguments.videos, width=width, height=height)
            write_clip(path, frames, minutes=minutes, fps=fps, gop=gop)
            clips[name] = str(path)
        written = dict(clips)
        for path in sorted(Path(arguments.videos).iterdir()) if arguments.videos else []:
            if path.suffix in (".mp4", ".mkv", ".mov", ".webm", ".avi"):
                clips[path.name] = str(path)
        lines = [versions(), "", *table(clips, arguments.rounds), "", *cost_table(written)]
    print("\n".join(lines))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
