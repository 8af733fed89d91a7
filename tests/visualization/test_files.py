"""Files of pictures: what is in them, that their facts come back from every kind, and that none is left half."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from transformers_ila.model.video_reading_ila import read_video
from transformers_ila.visualization.files import read_about, write_figure, write_gif, write_video


IMAGES = np.linspace(0, 255, 6 * 24 * 33 * 3).reshape(6, 24, 33, 3).astype(np.uint8)
ABOUT = {
    "model": "somebody/model (a) \\ )( \\n",
    "video": "\u9a91\u81ea\u884c\u8f66 \u00e9 \U0001f600 \udc80 <&>\"'.mp4",
    "layers": [0, 11],
    "seed": None,
    "versions": {"torch": "2.15", "long": "(\\" * 30_000},
    "share": 0.1,
}
KINDS = ("png", "svg", "pdf", "gif", "mp4")


def write(path, about, **options):
    if path.suffix.lower() == ".gif":
        return write_gif(IMAGES, path, about, **({"fps": 8} | options))
    if path.suffix.lower() == ".mp4":
        return write_video(iter(IMAGES), path, about, **({"fps": 8} | options))
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "words")
    return write_figure(figure, path, about, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_come_back(tmp_path, kind):
    path = tmp_path / "new" / f"a.{kind.upper()}"
    write(path, ABOUT)
    assert read_about(path) == ABOUT
    content = path.read_bytes()
    write(path, ABOUT)
    assert path.read_bytes() == content or kind == "mp4"  # no date is in it; x264 differs in nothing that is seen
    write(path, {})
    assert read_about(path) == {} and [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_and_nothing_half(tmp_path, monkeypatch, kind):
    path = tmp_path / f"a.{kind}"
    write(path, {"video": "https://me:secret@host/a.mp4?token=abc", "more": ["s3://me:secret@bucket/a"]})
    assert b"secret" not in path.read_bytes() and read_about(path)["video"].startswith("https://***@host/a.mp4?***")
    content = path.read_bytes()
    monkeypatch.setattr("transformers_ila.visualization.files.MOST", 1000)
    for about in ({"a": float("nan")}, {1: 2}, {"a": {1}}, {"a": "b" * 1000}):
        with pytest.raises(ValueError, match="JSON"):
            write(path, about)
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match=r"must end in .*, got 'a\.txt'"):
        {"gif": write_gif, "mp4": write_video}.get(kind, write_figure)([], "a.txt", {})


def test_facts_of_other_files(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.gif", comment=b"[1]")
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 /Subject (words)")
    (tmp_path / "a.txt").write_bytes(b"\xff\0")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="holds no facts of a picture that transformers-ila wrote"):
            read_about(path)
    with pytest.raises(OSError):
        read_about(tmp_path / "none.png")


def test_figures_are_printed_whole(tmp_path):
    for layout, options, size in ((None, {}, None), ("constrained", {"dpi": 100}, (200, 100))):
        figure = Figure(figsize=(2, 1), layout=layout)
        figure.text(0.9, 0.5, "words that run out of it")
        write_figure(figure, tmp_path / "a.png", {}, **options)
        with Image.open(tmp_path / "a.png") as picture:
            dpi = options.get("dpi", 300)
            assert picture.info["dpi"] == pytest.approx((dpi, dpi), abs=0.1)
            assert picture.size == size or (size is None and picture.width > 1.6 * dpi)
    figure.add_subplot().imshow(IMAGES[0])
    write_figure(figure, tmp_path / "few.png", ABOUT, colours=16)
    with Image.open(tmp_path / "few.png") as picture:
        assert picture.mode == "P" and len(picture.getcolors()) <= 16
    assert read_about(tmp_path / "few.png") == ABOUT


def frames_of(path) -> tuple[list[int], np.ndarray]:
    """The milliseconds and pixels of a GIF's frames."""
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        frames = [(frame.info["duration"], np.asarray(frame.convert("RGB"))) for frame in ImageSequence.Iterator(gif)]
    return [duration for duration, _ in frames], np.stack([pixels for _, pixels in frames])


def test_a_gif_keeps_colours_and_time(tmp_path):
    path = tmp_path / "a.gif"
    assert write_gif(iter(IMAGES), path, {}, times=[3, 3.125, 3.25, 3.375, 3.5, 4.0]) == 1
    durations, pixels = frames_of(path)
    assert set(durations[:4]) == {120, 130} and sum(durations[:4]) == 500 and durations[4:] == [500, 200]
    assert abs(pixels.astype(int) - IMAGES).mean() < 4
    assert write_gif(IMAGES, path, {}, fps=30) == 1
    assert sum(frames_of(path)[0]) == 200 and set(frames_of(path)[0]) == {30, 40}
    assert write_gif(IMAGES, path, {}, fps=100) == pytest.approx(0.5)  # no browser shows it faster
    assert set(frames_of(path)[0]) == {20}
    assert write_gif(IMAGES[:1], path, {}, times=[7]) == 1 and len(frames_of(path)[0]) <= 1


def test_a_video_begins_at_once(tmp_path):
    write_video(iter(IMAGES), tmp_path / "a.mp4", {}, times=iter([5.0, 5.5, 5.6, 7.0, 8.0, 8.1]), pixel_aspect=2)
    frames, metadata = read_video(tmp_path / "a.mp4", range)
    assert metadata.timestamps == pytest.approx([0, 0.5, 0.6, 2.0, 3.0, 3.1], abs=1e-4) and metadata.pixel_aspect == 2
    assert frames.shape == (6, 24, 34, 3) and abs(frames[:, :, :33].astype(int) - IMAGES).mean() < 4


@pytest.mark.parametrize("writer", [write_gif, write_video])
@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGES, {}, "either `fps` or `times`, got fps=None and no times"),
        (IMAGES, {"fps": 1, "times": [1]}, "either `fps` or `times`, got fps=1 and some times"),
        (IMAGES, {"fps": 0}, "positive"),
        (IMAGES, {"times": [1, 2]}, "2 times"),
        (IMAGES[:2], {"times": [1, 1]}, "rise"),
        (IMAGES[:2], {"times": [1, float("inf")]}, "rise"),
        ([], {"fps": 1}, "There are no"),
        ([IMAGES[0], IMAGES[0, 2:]], {"fps": 1}, r"\(22, 33, 3\)"),
        ([IMAGES[0] / 255], {"fps": 1}, "float64"),
    ],
)
def test_what_is_no_animation(tmp_path, writer, images, options, message):
    path = tmp_path / ("a.gif" if writer is write_gif else "a.mp4")
    with pytest.raises(ValueError, match=message):
        writer(images, path, {}, **options)
    assert not list(tmp_path.iterdir())
