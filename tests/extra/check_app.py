"""`ila app` in Chromium and by Gradio's client: what is sent, asked, played and refused, and what is left afterwards.

Chromium is the system's (Debian: `apt install chromium`). DEMO names a folder of `ila demo`; else a small one is
made. With SCREENSHOTS=folder the pictures of docs/app.md are taken anew.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from extra.app_server import AppProcess, app_process, demo_folder
from transformers import pipeline

import transformers_ila  # noqa: F401  # which registers the pipelines
from support.paths import ROOT
from support.tiny_models import save_clip
from transformers_ila.video_writing import write_mp4


sync_api = pytest.importorskip("playwright.sync_api")
gradio_client = pytest.importorskip("gradio_client")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
WAIT = 120_000  # milliseconds, on a machine that has much else to do
WORDS = ["waving", "juggling", "swimming"]
SCREENSHOTS = os.environ.get("SCREENSHOTS")


# -- what is served --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return demo_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def videos(demo):
    return sorted((demo / "videos" / "held_out").rglob("*.mp4"))


@pytest.fixture(scope="session")
def place(tmp_path_factory, videos):
    """A folder that users may read, with a link that leads out of it, a broken file, a long one, and an index."""
    folder = tmp_path_factory.mktemp("place")
    allowed = folder / "allowed"
    allowed.mkdir()
    for number, video in enumerate(videos[:4]):
        shutil.copy(video, allowed / f"{number}.mp4")
    shutil.copy(videos[0], folder / "secret.mp4")
    (allowed / "link.mp4").symlink_to(folder / "secret.mp4")
    (allowed / "broken.mp4").write_bytes(videos[0].read_bytes()[:700])
    (allowed / "page.mp4").write_text("<html>404</html>")
    (allowed / "x<b onmouseover=alert(1)>.mp4").write_bytes(videos[1].read_bytes())
    brightness = np.arange(200)[:, None, None, None] % 100 + 50
    write_mp4(allowed / "long.mp4", np.broadcast_to(brightness, (200, 64, 96, 3)).astype(np.uint8), fps=10)
    save_clip(folder / "clip")
    command = [sys.executable, "-m", "transformers_ila", "index", allowed / "0.mp4", allowed / "1.mp4"]
    subprocess.run([*command, "--model", folder / "clip", "--output", folder / "index"], check=True)
    return folder


@pytest.fixture(scope="session")
def app(tmp_path_factory, demo, place, videos):
    (place / "my-ila").symlink_to(demo / "model")
    options = [
        "--folders",
        "allowed",
        "--index",
        "index",
        "--examples",
        videos[0],
        "--seconds",
        "60",
        "--megabytes",
        "5",
    ]
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with app_process(log, "my-ila", "clip", *options, cwd=place) as app:
        yield app
        print(app.text)


@pytest.fixture(scope="session")
def truth(demo, place):
    """What a model says of a video, name -> score, as Transformers' pipelines give it."""
    own = pipeline("video-classification", model=str(demo / "model"))
    words = pipeline("zero-shot-video-classification", model=str(place / "clip"))

    def ask(video, labels=None):
        rows = own(str(video), top_k=5) if labels is None else words(str(video), candidate_labels=labels)
        return {row["label"]: row["score"] for row in rows}

    return ask


@pytest.fixture(scope="session")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield browser
        browser.close()


@contextmanager
def opened(browser, app, **options):
    """The page as one user has it; it may ask nobody but its server, and have no error of its own."""
    context = browser.new_context(permissions=["camera", "microphone"], **options)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app.address)
    page.wait_for_selector("#ila-label-button")
    yield page
    foreign = [url for url in asked if not url.startswith((app.address, "data:", "blob:"))]
    context.close()
    assert not foreign and not errors


def send(page, video):
    page.set_input_files("#ila-video input[type=file]", video)
    page.wait_for_selector("#ila-video video[src]")


def said(page, pattern):
    """Wait until the line that screen readers read says something, and return it."""
    status = page.locator("#ila-status")
    sync_api.expect(status).to_contain_text(re.compile(pattern), timeout=WAIT)
    return status.inner_text()


def labels_of(page):
    """The table of labels as it is shown: name -> per cent."""
    rows = page.locator("#ila-labels tbody tr")
    rows.first.wait_for()
    return {row.locator("th").inner_text(): row.locator(".ila-number").inner_text() for row in rows.all()}


def per_cent(scores):
    return {name: f"{score:.1%}" for name, score in scores.items()}


def choose(page, name):
    page.get_by_role("tab", name=name).click()


def shot(page, name, **options):
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.jpg", type="jpeg", quality=60, **options)


# -- in the browser --------------------------------------------------------------------------------------------------


def test_label_of_an_upload_and_own_words(browser, app, videos, truth, place):
    with opened(browser, app) as page:
        send(page, videos[0])
        page.click("#ila-label-button")
        said(page, "Most likely")
        assert labels_of(page) == per_cent(truth(videos[0]))
        page.locator("#ila-model input").fill("clip")
        page.locator("#ila-model input").press("Enter")
        sync_api.expect(page.locator("#ila-facts")).to_contain_text("no labels of its own", timeout=WAIT)
        page.locator("#ila-words textarea").fill(", ".join(WORDS))
        page.click("#ila-label-button")
        said(page, "your 3 words")
        assert labels_of(page) == per_cent(truth(videos[0], WORDS))


def test_where_it_looked_plays_and_changes_with_the_layer(browser, app, place):
    with opened(browser, app) as page:
        send(page, place / "allowed" / "0.mp4")
        choose(page, "Where it looked")
        page.click("#ila-look-button")
        overlay = page.locator("#ila-overlay video")
        overlay.wait_for()
        said(page, "layer")
        first = overlay.get_attribute("src")
        overlay.evaluate("video => { video.muted = true; return video.play() }")
        page.wait_for_function("document.querySelector('#ila-overlay video').currentTime > 0.2")
        shot(page, "app_look")
        slider = page.locator("#ila-layer input[type=range]")
        slider.focus()
        slider.press("ArrowLeft")
        page.click("#ila-look-button")  # letting go of the slider by the mouse asks by itself
        page.wait_for_function("first => document.querySelector('#ila-overlay video')?.src !== first", arg=first)
        overlay.wait_for()
        assert overlay.evaluate("video => video.readyState") >= 0


def test_timeline_moves_the_player(browser, app, place):
    with opened(browser, app) as page:
        page.locator("#ila-model input").fill("clip")
        page.locator("#ila-model input").press("Enter")
        page.locator("#ila-words textarea").fill("bright, dark")
        send(page, place / "allowed" / "long.mp4")
        choose(page, "Timeline")
        page.click("#ila-timeline-button")
        page.wait_for_selector("#ila-timeline .ila-plot")
        box = page.locator(".ila-plot").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
        page.wait_for_function("document.querySelector('#ila-video video').currentTime > 3")
        rows = page.locator("#ila-timeline .ila-seek")
        if rows.count():  # by the keyboard
            wanted = float(rows.last.get_attribute("data-seek"))
            rows.last.focus()
            page.keyboard.press("Enter")
            moved = "wanted => Math.abs(document.querySelector('#ila-video video').currentTime - wanted) < 0.5"
            page.wait_for_function(moved, arg=wanted)
        shot(page, "app_timeline")


def test_search_by_words(browser, app):
    with opened(browser, app) as page:
        choose(page, "Search")
        page.locator("#ila-query textarea, #ila-query input").fill("somebody waves")
        page.click("#ila-search-button")
        page.wait_for_selector("#ila-hits table")
        assert page.locator("#ila-hits tbody tr").count() == 2


def test_a_recording_of_the_camera(browser, app):
    with opened(browser, app) as page:
        page.locator("#ila-video").get_by_role("button", name="Capture from camera").click()
        page.get_by_text("Click to Access Webcam").click()
        record = page.get_by_role("button", name="start recording")  # Gradio's name of it, also while it records
        record.click()
        page.wait_for_timeout(2500)
        record.click()
        page.wait_for_selector("#ila-video video[src]")
        page.wait_for_timeout(500)
        page.click("#ila-label-button")
        said(page, "Most likely")
        choose(page, "Where it looked")
        page.click("#ila-look-button")
        page.wait_for_selector("#ila-overlay video")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.mp4", "is no video in the folders"),
        ("link.mp4", "is no video in the folders"),
        ("/etc/passwd", "is no video in the folders"),
        ("http://127.0.0.1:9/a.mp4", "Addresses are not taken"),
        ("broken.mp4", "broken.mp4.* cannot be read"),
        ("page.mp4", "page.mp4.* cannot be read"),
        ("x<b onmouseover=alert(1)>.mp4", "Most likely"),
    ],
)
def test_paths_on_the_server(browser, app, path, message):
    with opened(browser, app) as page:
        page.locator("#ila-path textarea, #ila-path input").fill(path)
        page.click("#ila-label-button")
        told = said(page, message)
        assert "Traceback" not in page.content() and "/place" not in told
        assert not page.locator("b[onmouseover]").count()


def test_a_broken_upload_and_one_that_is_too_large(browser, app, place, tmp_path):
    with opened(browser, app) as page:
        page.set_input_files("#ila-video input[type=file]", place / "allowed" / "broken.mp4")
        page.wait_for_timeout(1500)
        page.click("#ila-label-button")
        said(page, "cannot be read")
    with opened(browser, app) as page:
        (tmp_path / "large.mp4").write_bytes(bytes(6 * 2**20))
        page.set_input_files("#ila-video input[type=file]", tmp_path / "large.mp4")
        page.get_by_text(re.compile("at most 5|maximum|exceeded|too large", re.IGNORECASE)).first.wait_for()


def test_two_users_at_once(browser, app, videos, truth):
    with opened(browser, app) as one, opened(browser, app) as two:
        for page, video in ((one, videos[0]), (two, videos[-1])):
            send(page, video)
        for page in (one, two):
            page.click("#ila-label-button")
        for page, video in ((one, videos[0]), (two, videos[-1])):
            said(page, "Most likely")
            assert labels_of(page) == per_cent(truth(video))
        assert truth(videos[0]) != truth(videos[-1])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_and_axe(browser, app, videos, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    with opened(browser, app, **phone) as page:
        send(page, videos[0])
        page.click("#ila-label-button")
        said(page, "Most likely")
        for tab in ("Label", "Where it looked", "Timeline", "Search"):
            choose(page, tab)  # each is there: Gradio puts what does not fit in a menu
            wide = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
            assert wide <= 0, (tab, wide)
            found = axe.run(page).response["violations"]
            ours = [
                (violation["id"], node["html"][:200])
                for violation in found
                for node in violation["nodes"]
                if violation["impact"] in ("serious", "critical") and "ila-" in node["html"]
            ]
            print(scheme, tab, [(violation["id"], len(violation["nodes"])) for violation in found])
            assert not ours, ours


def test_by_the_keyboard_alone(browser, app, videos, truth):
    with opened(browser, app) as page:
        send(page, videos[1])
        page.evaluate("document.activeElement.blur()")
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id") == (
                "ila-label-button"
            ):
                break
        else:
            pytest.fail("The button is not reached by the key Tab.")
        page.keyboard.press("Enter")
        said(page, "Most likely")
        assert labels_of(page) == per_cent(truth(videos[1]))


# -- by a program ----------------------------------------------------------------------------------------------------


@pytest.fixture
def client(app):
    client = gradio_client.Client(app.address, verbose=False)
    yield client
    client.close()


def test_the_api(client, videos, truth, place):
    """The examples of docs/app.md."""
    answer = client.predict(video=gradio_client.handle_file(videos[0]), api_name="/label")
    assert {row["label"]: row["score"] for row in answer["labels"]} == pytest.approx(truth(videos[0]), abs=1e-6)
    words = {"path": "1.mp4", "model": "clip", "words": ", ".join(WORDS)}
    answer = client.predict(**words, api_name="/label")
    scores = {row["label"]: row["score"] for row in answer["labels"]}
    assert scores == pytest.approx(truth(videos[1], WORDS), abs=1e-6)
    answer, overlay = client.predict(video=gradio_client.handle_file(videos[0]), api_name="/look")
    assert answer["notes"] and Path(overlay).stat().st_size > 1000
    answer, files = client.predict(path="long.mp4", api_name="/timeline")
    assert answer["duration"] == pytest.approx(20, abs=0.2) and any(file.endswith(".json") for file in files)
    assert len(client.predict(query="waving", api_name="/search")["hits"]) == 2


def test_the_example_of_the_docs(app, videos, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(
        r"<!-- test: app -->\n```python\n(.*?)```", (ROOT / "docs" / "app.md").read_text("utf-8"), re.DOTALL
    )
    shutil.copy(videos[0], tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:7860", app.address), {})
    assert "'score'" in capsys.readouterr().out


def question(app, video, name="label"):
    """What the server answers to a question that a program has made itself: the event's lines."""
    data = [video, "", "", ""]
    posted = httpx.post(f"{app.address}/gradio_api/call/{name}", json={"data": data}, timeout=60)
    if posted.status_code != 200:
        return str(posted.status_code)
    event = posted.json()["event_id"]
    return httpx.get(f"{app.address}/gradio_api/call/{name}/{event}", timeout=120).text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{place}/secret.mp4", "{place}/allowed/0.mp4", "{root}", "{root}/../_writer.lock", "~/x"]
)
def test_forged_paths(app, place, path):
    path = path.format(place=place, root=app.folder / "files")
    told = question(app, {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert "event: error" in told and "labels" not in told and "root:" not in told


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{port}/x.mp4", "http://169.254.169.254/x", "https://example.org/x"]
)
def test_addresses_are_never_fetched(app, address):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)
        address = address.format(port=server.getsockname()[1])
        for video in ({"path": address}, {"path": "x.mp4", "url": address}):
            told = question(app, {**video, "meta": {"_type": "gradio.FileData"}})
            assert "event: error" in told and "labels" not in told
        assert httpx.get(f"{app.address}/gradio_api/file={address}").status_code == 404
        assert httpx.get(f"{app.address}/gradio_api/proxy={address}").status_code == 404
        with pytest.raises(TimeoutError):
            server.accept()


def test_files_of_the_server_are_not_served(app, place):
    for path in (
        "/etc/passwd",
        place / "secret.mp4",
        place / "allowed" / "0.mp4",
        app.folder / "_writer.lock",
        "config.json",
    ):
        assert httpx.get(f"{app.address}/gradio_api/file={path}").status_code in (403, 404)


def test_uploads_of_one_content_have_folders_of_their_own(app, videos):
    def upload():
        with videos[0].open("rb") as file:
            return httpx.post(f"{app.address}/gradio_api/upload", files={"files": ("a.mp4", file)}).json()[0]

    assert upload() != upload()


def test_busy_in_words(tmp_path, demo, place):
    options = ["--folders", place / "allowed", "--queue", "1", "--users", "2"]
    with app_process(tmp_path / "log.txt", demo / "model", *options) as app:
        url, data = f"{app.address}/gradio_api/call/timeline", [None, "long.mp4", str(demo / "model"), "", 10]
        answers = [httpx.post(url, json={"data": data}, timeout=60) for _ in range(8)]
        busy = [answer.json()["detail"] for answer in answers if answer.status_code == 503]
        assert busy and all(words.startswith("Busy: 1 questions wait already") for words in busy)


# -- the end ---------------------------------------------------------------------------------------------------------


def test_nothing_is_left(tmp_path, demo, videos):
    app = AppProcess(tmp_path / "log.txt", demo / "model", "--idle_minutes", "0.1")
    try:
        client = gradio_client.Client(app.address, verbose=False)
        client.predict(video=gradio_client.handle_file(videos[0]), api_name="/look")
        assert app.files()
        end = time.monotonic() + 120
        while app.files() and time.monotonic() < end:
            time.sleep(1)
        assert not app.files()
        client.predict(video=gradio_client.handle_file(videos[0]), api_name="/look")
        folder = app.folder
        assert app.end(signal.SIGINT) == 130 and not folder.exists()
        assert "Traceback" not in app.text and app.text.rstrip().endswith("ila app: interrupted")
    finally:
        app.process.kill()


def test_what_a_killed_server_left_goes_with_the_next_start(tmp_path, demo, videos):
    with app_process(tmp_path / "a.txt", demo / "model") as killed:
        client = gradio_client.Client(killed.address, verbose=False)
        client.predict(video=gradio_client.handle_file(videos[0]), api_name="/label")
        folder = killed.folder
        killed.process.kill()
        killed.process.wait()
    assert any(folder.rglob("*.mp4"))
    with app_process(tmp_path / "b.txt", demo / "model") as app:
        assert not folder.exists()
        command = [sys.executable, "-m", "transformers_ila", "app", "--port", app.address.rpartition(":")[2]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "cannot be listened on" in done.stderr and done.stderr.count("\n") == 1


def test_without_a_model_the_page_says_what_to_do(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with app_process(tmp_path / "log.txt") as app, opened(browser, app) as page:
        sync_api.expect(page.locator("#ila-facts")).to_contain_text("ila demo")
