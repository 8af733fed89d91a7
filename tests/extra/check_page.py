"""The page of a timeline in Chromium, and subtitles in other readers: what is seen, clicked, typed and played.

Chromium is the system's (Debian: `apt install chromium`).
"""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from support.timelines import HOSTILE, make_timeline
from transformers_ila.markup import plain_line
from transformers_ila.timeline.formats import NO_NAME, SUBRIP, write_timeline
from transformers_ila.timeline.segments import Segment
from transformers_ila.video_writing import write_mp4


sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
FPS, SECONDS, STEP = 10, 20, 10  # a frame is as bright as STEP times its second


def frames(count: int) -> np.ndarray:
    brightness = 20 + np.arange(count) // FPS * STEP
    return np.broadcast_to(brightness[:, None, None, None], (count, 96, 128, 3)).astype(np.uint8)


def write_late(path, *, first: float, sound: float | None) -> None:
    """Write a video whose first frame comes at `first` seconds, and its sound, if it has one, at `sound`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        if sound is not None:
            audio = container.add_stream("aac", rate=16000)
            audio.layout = "mono"
            for index in range(160):
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                samples.sample_rate, samples.time_base = 16000, Fraction(1, 16000)
                samples.pts = round(sound * 16000) + 1024 * index
                packets += audio.encode(samples)
            packets += audio.encode()
        for index, image in enumerate(frames(8 * FPS)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * (first + index / FPS)), Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_mp4(folder / "clip.mp4", frames(SECONDS * FPS), fps=FPS)
    return folder


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        # pictures of files may be read by the page's own file, so that the test sees which frame is shown
        options = ["--no-sandbox", "--allow-file-access-from-files", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def show(chromium):
    """Return what opens a page; at the end nothing may have been logged, asked, or loaded from elsewhere."""
    faults, contexts = [], []

    def opened(path, width=1100, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: r.url.startswith(("file:", "blob:", "data:")) or faults.append(r.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [fault for fault in faults if "ERR_FILE_NOT_FOUND" not in fault]


def wait(page, condition: str) -> None:
    """Wait until a condition in JavaScript holds (the page's policy forbids Playwright's own way)."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{condition} did not come true in 20 s.")


def playing(page) -> None:
    """Wait until the player has its first frame, and the page has seen it."""
    wait(page, "video.readyState >= 2 && playable")
    page.wait_for_timeout(400)


def second_shown(page) -> int:
    """Return the second that the brightness of the frame on the screen names."""
    wait(page, "!video.seeking")
    page.wait_for_timeout(200)
    brightness = page.evaluate(
        """() => {
            const pen = Object.assign(document.createElement("canvas"), {width: 128, height: 96}).getContext("2d");
            pen.drawImage(video, 0, 0);
            return pen.getImageData(64, 48, 1, 1).data[0];
        }"""
    )
    return round((brightness - 20) / STEP)


def click_at(page, seconds: float, end: float) -> None:
    box = page.locator("#axis").bounding_box()
    page.mouse.click(box["x"] + box["width"] * seconds / end, box["y"] + 100)


# -- the player ------------------------------------------------------------------------------------------------------


def test_clicks_and_keys_jump(folder, show):
    timeline = make_timeline(
        seconds=float(SECONDS), segments=[Segment("running", 3.25, 6, 0.9), Segment("waving", 12.5, 14, 0.8)]
    )
    write_timeline(timeline, folder / "keys.html", video=folder / "clip.mp4")
    page = show(folder / "keys.html")
    playing(page)
    assert page.evaluate("offset") == 0 and page.locator("#chooser").is_hidden()
    click_at(page, 16.5, SECONDS)
    assert second_shown(page) == 16 and page.evaluate("video.currentTime") == pytest.approx(16.5, abs=0.05)
    page.get_by_role("button", name="0:12.5, waving").click()
    assert second_shown(page) == 12 and page.evaluate("video.currentTime") == 12.5
    assert page.locator("tr[aria-current]").inner_text().startswith("waving")
    slider = page.get_by_role("slider", name="Time in the video")
    slider.focus()
    assert (
        slider.get_attribute("aria-valuetext") == "0:12.5, waving" and slider.get_attribute("aria-valuemax") == "20.0"
    )
    keys = {
        "PageUp": 3.25,
        "ArrowRight": 4.25,
        "Shift+ArrowRight": 14.25,
        "ArrowLeft": 13.25,
        "Home": 0,
        "PageDown": 3.25,
    }
    for key, seconds in keys.items():
        slider.press(key)
        assert page.evaluate("now") == seconds, key
    assert second_shown(page) == 3
    slider.press("End")
    assert page.evaluate("now") == SECONDS
    slider.press("Home")
    slider.press(" ")
    wait(page, "now > .4")  # the playhead follows
    slider.press(" ")
    assert page.evaluate("video.paused") and page.evaluate("parseFloat(head.style.left)") > 0
    for _ in range(9):
        slider.press("+")
    assert page.evaluate("line.clientWidth / scroll.clientWidth") > 3
    click_at(page, page.evaluate("end * (scroll.scrollLeft + 50) / line.clientWidth"), SECONDS)
    assert page.evaluate("now") == pytest.approx(
        page.evaluate("end * (scroll.scrollLeft + 50) / line.clientWidth"), abs=0.05
    )


@pytest.mark.parametrize(
    ("name", "first", "sound"), [("a.mp4", 2.0, 0.0), ("b.mp4", 3.0, 1.0), ("c.mp4", 2.0, None), ("d.webm", 0.0, None)]
)
def test_times_are_right_where_pictures_start_late(folder, show, name, first, sound):
    if name.endswith("webm"):
        write_vp9(folder / name)
    else:
        write_late(folder / name, first=first, sound=sound)
    timeline = make_timeline(seconds=8.0, segments=[Segment("running", 3.25, 5, 0.9)], start=first - (sound or 0))
    write_timeline(timeline, folder / f"{name}.html", video=folder / name)
    page = show(folder / f"{name}.html")
    playing(page)
    page.get_by_role("button", name="0:03.3, running").click()
    assert second_shown(page) == 3
    assert page.evaluate("captions.cues[0].startTime - video.currentTime") == pytest.approx(0, abs=0.01)


def write_vp9(path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=FPS, options={"cpu-used": "8", "deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for image in frames(8 * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_a_video_in_the_page(folder, show):
    write_timeline(make_timeline(seconds=float(SECONDS)), folder / "in.html", video=folder / "clip.mp4", embed=True)
    elsewhere = folder / "elsewhere" / "in.html"
    elsewhere.parent.mkdir()
    shutil.move(folder / "in.html", elsewhere)
    page = show(elsewhere)
    playing(page)
    click_at(page, 7.5, SECONDS)
    assert second_shown(page) == 7


def test_what_cannot_be_played_is_said_and_another_file_can_be_opened(folder, show):
    with av.open(str(folder / "clip.mp4")) as source, av.open(str(folder / "clip.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    shutil.copy(folder / "clip.ts", folder / "wrong.mp4")
    cases = {
        "clip.ts": "most browsers do not play .ts files",
        "wrong.mp4": "does not play its format",
        "gone.mp4": "is not where",
    }
    for name, reason in cases.items():
        write_timeline(make_timeline(seconds=float(SECONDS), video=name), folder / f"{name}.html", video=folder / name)
        page = show(folder / f"{name}.html")
        page.locator("#trouble").wait_for()
        assert reason in page.locator("#trouble").inner_text() and page.locator("video").is_hidden()
        click_at(page, 7.5, SECONDS)  # works without
        assert page.evaluate("now") == pytest.approx(7.5, abs=0.05)
    page.locator("#file").set_input_files(folder / "clip.mp4")
    wait(page, "playable")
    assert second_shown(page) == 7 and page.locator("#trouble").is_hidden()
    write_timeline(make_timeline(seconds=3.0), folder / "short.html")
    page = show(folder / "short.html")
    assert page.locator("#trouble").inner_text() == "The video is not part of this page."
    page.locator("#file").set_input_files(folder / "clip.mp4")
    wait(page, "playable")
    assert "lasts 0:20.0, and this timeline 0:03.0: is it another video?" in page.locator("#trouble").inner_text()


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_labels_are_text(folder, show):
    timeline = make_timeline(HOSTILE, video="</title><script>alert(3)</script>")
    write_timeline(timeline, folder / "hostile.html", video=folder / "clip.mp4", truth=timeline.segments)
    page = show(folder / "hostile.html", width=360)
    playing(page)
    names = [plain_line(label) or NO_NAME for label in HOSTILE]
    assert page.locator(".name").evaluate_all("all => all.map(one => one.firstChild.data)") == names
    assert page.evaluate("[...captions.cues].map(cue => cue.getCueAsHTML().textContent)") == names
    assert page.locator("tbody").first.evaluate("all => [...all.rows].map(row => row.cells[0].textContent)") == names
    assert page.title() == timeline.video and page.evaluate("document.scripts.length") == 3


@pytest.mark.parametrize(
    ("count", "width", "scheme"), [(1, 360, "light"), (30, 360, "dark"), (30, 1100, "light"), (400, 1100, "dark")]
)
def test_it_fits_the_screen_and_is_accessible(folder, show, count, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    labels = [f"somebody does {'something with ' * (index % 5)}thing {index}" for index in range(count)]
    timeline = (
        make_timeline(labels, seconds=3 * 3600.0, rate=0.2, segments=[]) if count == 400 else make_timeline(labels)
    )
    write_timeline(timeline, folder / f"{count}.html", truth=timeline.segments)
    page = show(folder / f"{count}.html", width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".lane").count() == min(count, 12 if count == 30 else 5)
    ticks = page.locator("#axis span").evaluate_all("all => all.map(one => one.getBoundingClientRect())")
    assert len(ticks) > 1 and all(left["right"] <= right["left"] + 1 for left, right in zip(ticks, ticks[1:]))
    found = axe.Axe().run(page)
    assert not found.response["violations"], found.generate_report()
    if count > 12:
        page.locator("summary").first.click()
        page.get_by_label("Find a label").fill(f"thing {count - 1}")
        box = page.locator("#choices label:visible input")
        assert box.count() == 1
        if not box.is_checked():
            before = page.locator(".lane").count()
            box.check()
            assert page.locator(".lane").count() == before + 1 and page.locator(".lane path").last.get_attribute("d")


def test_it_prints(folder, show):
    write_timeline(make_timeline(), folder / "print.html", video=folder / "clip.mp4")
    page = show(folder / "print.html", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert (
        page.locator("video").is_hidden() and page.locator("#keys").is_hidden() and page.locator(".lane").count() == 3
    )
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


# -- subtitles -------------------------------------------------------------------------------------------------------


def test_subtitles_in_the_browser_and_in_other_readers(folder, show):
    pysubs2, webvtt = pytest.importorskip("pysubs2"), pytest.importorskip("webvtt")
    timeline = make_timeline(HOSTILE, seconds=101 * 3600.0, rate=0.001, start=1.5)
    times = [(1.5 + s.start, 1.5 + s.end) for s in timeline.segments]
    names = [plain_line(label) or NO_NAME for label in HOSTILE]
    for suffix in ("srt", "vtt"):
        write_timeline(timeline, folder / f"a.{suffix}")
    (folder / "track.html").write_text(
        '<video src="clip.mp4"><track default kind="subtitles" src="a.vtt"></video>', encoding="utf-8"
    )
    page = show(folder / "track.html")
    wait(page, "document.querySelector('track').readyState === 2")
    cues = "[...document.querySelector('track').track.cues]"
    assert page.evaluate(f"{cues}.map(cue => cue.getCueAsHTML().textContent)") == names
    found = page.evaluate(f"{cues}.map(cue => [cue.startTime, cue.endTime])")
    np.testing.assert_allclose(found, times, atol=6e-4)
    captions = webvtt.read(str(folder / "a.vtt"))
    assert len(captions) == len(names)
    np.testing.assert_allclose([caption.start_in_seconds for caption in captions], [int(s) for s, _ in times])
    subtitles = pysubs2.load(str(folder / "a.srt"))
    assert [event.plaintext for event in subtitles] == [name.translate(SUBRIP) for name in names]
    read = [(event.start / 1000, event.end / 1000) for event in subtitles[:-1]]  # it knows two digits of hours
    np.testing.assert_allclose(read, times[:-1], atol=6e-4)
    with av.open(str(folder / "a.srt")) as container:  # FFmpeg knows more
        starts = [float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None]
    np.testing.assert_allclose(starts, [start for start, _ in times], atol=6e-4)
