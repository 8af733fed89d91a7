"""Twenty users ask the page for two minutes: every answer is right or says that all is busy, and memory stays.

DEMO names a folder of `ila demo`; else a small one is made. SECONDS, USERS: of the load.
"""

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from extra.app_server import app_process, demo_folder
from transformers import pipeline

import transformers_ila  # noqa: F401  # which registers the pipelines


gradio_client = pytest.importorskip("gradio_client")
SECONDS, USERS = float(os.environ.get("SECONDS", 120)), int(os.environ.get("USERS", 20))
SETTLED = 30.0  # seconds after which memory is measured for the first time
GROWTH = 50.0  # megabytes


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return demo_folder(tmp_path_factory)


class User(threading.Thread):
    """Send videos and ask about them until the time is over."""

    def __init__(self, address, videos, truth, end, seed):
        super().__init__(daemon=True)
        self.address, self.videos, self.truth, self.end, self.random = address, videos, truth, end, random.Random(seed)
        self.counts, self.wrong, self.longest = Counter(), [], 0.0

    def run(self):
        client = gradio_client.Client(self.address, verbose=False, httpx_kwargs={"timeout": 60})
        while time.monotonic() < self.end:
            video = self.random.choice(self.videos)
            started, name = time.monotonic(), "/look" if self.random.random() < 0.1 else "/label"
            try:
                answer = client.predict(video=gradio_client.handle_file(video), api_name=name)
            except Exception as error:
                busy = type(error).__name__ == "QueueError" or "Busy" in str(error)
                self.counts["busy" if busy else "failed"] += 1
                if not busy:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                time.sleep(1)
                continue
            self.longest = max(self.longest, time.monotonic() - started)
            if name == "/look":
                right = Path(answer[1]).stat().st_size > 1000
                os.unlink(answer[1])
            else:
                scores = {row["label"]: row["score"] for row in answer["labels"]}
                right = scores == pytest.approx(self.truth[video], abs=1e-5)
            self.counts[name if right else "wrong"] += 1
            if not right:
                self.wrong.append(f"{name} {video}: {answer}")
        client.close()


@pytest.mark.parametrize("queue", [20, 4])
def test_every_answer_is_right_or_busy(demo, tmp_path, queue):
    videos = sorted((demo / "videos" / "held_out").rglob("*.mp4"))[:12]
    classify = pipeline("video-classification", model=str(demo / "model"))
    truth = {video: {row["label"]: row["score"] for row in classify(str(video), top_k=5)} for video in videos}
    assert len({str(scores) for scores in truth.values()}) > 6  # a mix-up of users would be seen
    seconds = SECONDS if queue >= USERS else SECONDS / 4
    options = ["--queue", queue, "--idle_minutes", "0.2", "--users", USERS + 1]
    with app_process(tmp_path / "log.txt", demo / "model", *options) as app:
        first = gradio_client.Client(app.address, verbose=False)
        for name in ("/label", "/look"):  # which load the model, and what draws
            first.predict(video=gradio_client.handle_file(videos[0]), api_name=name)
        first.close()
        start = time.monotonic()
        users = [User(app.address, videos, truth, start + seconds, seed) for seed in range(USERS)]
        for user in users:
            user.start()
        memory = []
        while any(user.is_alive() for user in users):
            time.sleep(1)
            memory.append((time.monotonic() - start, app.megabytes))
            assert time.monotonic() - start < seconds + 300, "a user waits for ever"
        wrong = [words for user in users for words in user.wrong]
        counts = sum((user.counts for user in users), Counter())
        settled = next((found for when, found in memory if when >= min(SETTLED, seconds / 2)), memory[0][1])
        files = len(app.files())
        end = time.monotonic() + 120
        while app.files() and time.monotonic() < end:
            time.sleep(1)
        last, highest = app.megabytes, max(found for _, found in memory)
        print(
            f"{USERS} users, {seconds:.0f} s, queue {queue}: {dict(counts)}; longest answer "
            f"{max(user.longest for user in users):.1f} s; memory {settled:.0f} MB at {SETTLED:.0f} s, {last:.0f} at "
            f"the end, {highest:.0f} at most; wrong: {wrong[:3]}; {files} temporary files under load, "
            f"{len(app.files())} afterwards"
        )
        assert not wrong, wrong[:5]
        assert counts["/label"] > USERS and all(user.counts["/label"] for user in users if queue >= USERS)
        assert counts["busy"] or queue >= USERS
        assert last - settled < GROWTH and memory[-1][1] - settled < GROWTH
        assert not app.files() and "Traceback" not in app.text
