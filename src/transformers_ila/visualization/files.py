"""Figures, animations and videos as files that appear whole or not at all, each with the facts of its making in it.

`about` is a dict of what JSON can hold: model, versions, seed, video, kind of picture, layers. It stands as JSON in
ASCII where each format has room for words: PNG and SVG in `Description`, PDF in `Subject`, GIF and MP4 in the comment.
"""

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import av
import numpy as np
from PIL import Image, PngImagePlugin

from ..files import atomic_write
from ..model.video_urls_ila import redact
from ..version import __version__
from ..video_writing import write_mp4


if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES, ANIMATION, VIDEO = (".png", ".svg", ".pdf"), ".gif", ".mp4"
DPI = 300  # of PNG files, and of pictures inside of the others
MAKER = f"transformers-ila {__version__}"
MOST = 2**20  # bytes of the facts, so that each format holds them
SHORTEST = 2  # hundredths of a second: browsers show a frame of a GIF that is shorter five times as long
PALETTE_PIXELS = 2**17  # of all frames, from which the colours of a GIF are chosen
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


def write_figure(
    figure: "Figure", path: str | Path, about: Mapping[str, Any], *, dpi: int = DPI, colours: int | None = None
) -> None:
    """Write a figure as .png, .svg or .pdf, its facts in it.

    A figure without a layout engine is cut or widened to what is drawn. Two files of one figure and the same facts
    are equal: they hold no date.

    Args:
        figure: the figure; it is left as it is.
        path: the file; its folder is made.
        about: the facts, of what JSON can hold; URLs in them lose what may be secret.
        dpi: dots per inch.
        colours: of a PNG, where it has few: with a palette of so many it is a third as large.

    Raises:
        ValueError: another suffix; facts that JSON cannot hold, or more than a MiB of them.
        OSError: the file cannot be written.
    """
    content = figure_bytes(figure, _suffix(path, FIGURES), about, dpi=dpi, colours=colours)
    with atomic_write(path, "wb") as file:
        file.write(content)


def figure_bytes(
    figure: "Figure", suffix: str, about: Mapping[str, Any], *, dpi: int = DPI, colours: int | None = None
) -> bytes:
    """Return the content of the file that `write_figure` writes; `suffix` is .png, .svg or .pdf."""
    from matplotlib import rc_context  # here, as most who import this draw nothing

    form, facts = suffix[1:], _facts(about)
    words: dict[str, dict[str, Any]] = {
        "png": {"Software": MAKER, "Description": facts},
        "svg": {"Creator": MAKER, "Description": facts, "Date": None},
        "pdf": {"Creator": MAKER, "Subject": facts, "CreationDate": None},
    }
    options: dict[str, Any] = {"dpi": dpi, "metadata": words[form], "pad_inches": 0.05}
    options["bbox_inches"] = "tight" if figure.get_layout_engine() is None else None
    if form == "png" and colours is not None:
        options["pil_kwargs"] = {"compress_level": 1}  # it is written anew
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": MAKER, "pdf.fonttype": 42}):  # 42: letters stay letters, as printers ask for
        figure.savefig(content, format=form, **options)
    if form == "png" and colours is not None:
        content = _few_colours(content, words[form], dpi, colours)
    return content.getvalue()


def _few_colours(content: io.BytesIO, metadata: Mapping[str, str], dpi: int, colours: int) -> io.BytesIO:
    words, written = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in metadata.items():
        words.add_text(key, text)
    picture = Image.open(content).convert("RGB").quantize(colours)
    picture.save(written, "png", optimize=True, pnginfo=words, dpi=(dpi, dpi))
    return written


def write_gif(
    images: Iterable[np.ndarray],
    path: str | Path,
    about: Mapping[str, Any],
    *,
    fps: float | None = None,
    times: Iterable[float] | None = None,
) -> float:
    """Write images as a GIF that is repeated without end, its facts in it.

    All frames have the 256 colours that suit them together, so that nothing flickers. GIF counts hundredths of a
    second: rounding does not add up. The last frame is shown as long as the frames are on the average.

    Args:
        images: (height, width, 3) uint8 each, all of one size; all are in memory.
        path: the file, ending in .gif; its folder is made.
        about: the facts, of what JSON can hold; URLs in them lose what may be secret.
        fps: images a second; either this or `times`.
        times: the seconds at which the images are shown, rising.

    Returns:
        The speed at which it is shown: 1.0, or less where frames follow each other in less than 1/50 of a second,
        since no browser shows them faster.

    Raises:
        ValueError: another suffix; no image, or images of different sizes or kinds; both or neither of `fps` and
            `times`; times that do not rise, or not one each; facts that JSON cannot hold.
        OSError: the file cannot be written.
    """
    _suffix(path, (ANIMATION,))
    facts, frames = _facts(about), [np.asarray(image) for image in images]
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != frames[0].shape:
            raise ValueError(
                f"Images must be (height, width, 3) uint8 of one size; image {index} is {frame.shape} {frame.dtype}"
                f" and image 0 is {frames[0].shape}."
            )
    if not frames:
        raise ValueError("There are no images to write.")
    durations, speed = _durations(len(frames), fps, times)
    palette = _palette(frames)
    pictures = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for f in frames]
    content = io.BytesIO()
    pictures[0].save(
        content,
        "gif",
        save_all=True,
        append_images=pictures[1:],
        duration=[10 * hundredths for hundredths in durations],
        loop=0,
        comment=facts.encode("ascii"),
        optimize=False,
    )
    with atomic_write(path, "wb") as file:
        file.write(content.getvalue())
    return speed


def _durations(count: int, fps: float | None, times: Iterable[float] | None) -> tuple[list[int], float]:
    """Return for how many hundredths of a second each of the images is shown, and the speed."""
    _require_one(fps, times)
    if fps is not None:
        steps = np.full(count, 1 / fps)
    else:
        starts = np.array(list(times or ()), dtype=float)
        if len(starts) != count:
            raise ValueError(f"There are {count} images and {len(starts)} times.")
        steps = np.diff(starts)
        if not np.isfinite(starts).all() or (steps <= 0).any():
            raise ValueError("Times must be numbers of seconds that rise.")
        steps = np.append(steps, steps.mean() if count > 1 else 1.0)
    speed = min(1.0, float(steps.min()) * 100 / SHORTEST)
    shown = np.diff(np.round(np.cumsum(steps) * 100 / speed), prepend=0).astype(int)
    return np.maximum(shown, SHORTEST).tolist(), speed


def _palette(frames: list[np.ndarray]) -> Image.Image:
    """Return an image whose palette suits all frames, from as many pixels of each as a limit allows."""
    step = max(1, int(np.ceil(np.sqrt(sum(frame[..., 0].size for frame in frames) / PALETTE_PIXELS))))
    pixels = np.concatenate([frame[::step, ::step].reshape(-1, 3) for frame in frames])
    return Image.fromarray(pixels[None]).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)


def write_video(
    images: Iterable[np.ndarray],
    path: str | Path,
    about: Mapping[str, Any],
    *,
    fps: float | Fraction | None = None,
    times: Iterable[float] | None = None,
    pixel_aspect: float = 1.0,
    quality: int = 18,
) -> None:
    """Write images as an MP4 (H.264, no sound) that browsers play, its facts in it; any number, a few in memory.

    An odd width or height becomes even by a copy of the last column or row (`video_writing.write_mp4`).

    Args:
        images: (height, width, 3) uint8 each, all of one size.
        path: the file, ending in .mp4; its folder is made.
        about: the facts, of what JSON can hold; URLs in them lose what may be secret.
        fps: images a second; either this or `times`.
        times: the seconds at which the images are shown, rising; the video begins with the first one. An iterator is
            asked once an image, after the image.
        pixel_aspect: width / height of one pixel.
        quality: the constant rate factor; lower is better.

    Raises:
        ValueError: another suffix; no image, or images of different sizes or kinds; both or neither of `fps` and
            `times`; times that do not rise, or not one each; facts that JSON cannot hold.
        OSError: the file cannot be written.
    """
    _suffix(path, (VIDEO,))
    facts = _facts(about)
    _require_one(fps, times)
    how: dict[str, Any] = {"quality": quality, "pixel_aspect": pixel_aspect, "comment": facts}
    how |= {"fps": fps} if times is None else {"times": _from_zero(times)}
    with atomic_write(path, "wb") as file:
        is_plain = os.path.isfile(path) or not os.path.exists(path)
        write_mp4(file.name if is_plain else file, images, **how)  # by its name, as the index is put to the front


def _from_zero(times: Iterable[float]) -> Iterator[float]:
    first = None
    for seconds in times:
        first = seconds if first is None else first
        yield seconds - first


def _require_one(fps: float | Fraction | None, times: Iterable[float] | None) -> None:
    if (fps is None) == (times is None):
        raise ValueError(
            f"Give either `fps` or `times`, got fps={fps!r} and {'no' if times is None else 'some'} times."
        )
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"`fps` must be a positive number, got {fps!r}.")


# -- the facts in a file ---------------------------------------------------------------------------------------------


def read_about(path: str | Path) -> dict[str, Any]:
    """Return the facts in a file that one of these functions wrote, as they were given; tuples come back as lists.

    Raises:
        ValueError: a file of another kind, or without such facts.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    try:
        if start.startswith((b"\x89PNG", b"GIF8")):
            with Image.open(path) as picture:
                found = picture.info.get("Description" if picture.format == "PNG" else "comment")
        elif start.startswith(b"%PDF"):
            found = _pdf_subject(Path(path).read_bytes())
        elif start[4:8] == b"ftyp":
            with av.open(str(Path(path).absolute())) as container:
                found = container.metadata.get("comment")
        else:
            found = ElementTree.parse(path).findtext(f".//{DESCRIPTION}")
        about = json.loads(found or "")
    except (ValueError, SyntaxError, av.FFmpegError) as error:
        raise ValueError(
            f"{str(path)!r} holds no facts of a picture that transformers-ila wrote ({error})."
        ) from error
    if not isinstance(about, dict):
        raise ValueError(f"{str(path)!r} holds no facts of a picture that transformers-ila wrote.")
    return about


def _pdf_subject(content: bytes) -> bytes | None:
    found = re.search(rb"/Subject \(((?:[^\\()]|\\.)*)\)", content, re.DOTALL)
    return None if found is None else re.sub(rb"\\(.)", rb"\1", found[1])


def _suffix(path: str | Path, allowed: tuple[str, ...]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        raise ValueError(f"The file must end in {' or '.join(allowed)}, got {redact(str(path))!r}.")
    return suffix


def _facts(about: Mapping[str, Any]) -> str:
    """Return facts as JSON in ASCII, whatever may be secret in URLs hidden."""
    try:
        facts = json.dumps(_redacted(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`about` must hold what JSON can hold ({error}).") from error
    if len(facts) > MOST:
        raise ValueError(f"`about` has {len(facts)} bytes as JSON, and {MOST} are allowed.")
    return facts


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"keys must be words, got {bad[0]!r}")
        return {redact(key): _redacted(inner) for key, inner in value.items()}
    return [_redacted(inner) for inner in value] if isinstance(value, (list, tuple)) else value
