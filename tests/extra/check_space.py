"""The Space: its Dockerfile's linter, its front matter, and the folder run from its own requirements, lending nothing.

`make space` fills the folder. SPACE_ENVIRONMENT names an environment that has its requirements; else uv makes one.
DEMO names a folder of `ila demo`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from support.paths import ROOT


FOLDER = ROOT / "examples" / "space"
gradio_client = pytest.importorskip("gradio_client")
PORT = 7860  # a Space's


def test_linter():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    linted = subprocess.run(["hadolint", str(FOLDER / "Dockerfile")], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_front_matter():
    text = (FOLDER / "README.md").read_text("utf-8")
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert (front["sdk"], front["app_port"], front["license"]) == ("docker", PORT, "apache-2.0")
    assert front["title"] and front["emoji"] and len(front["short_description"]) <= 80
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # that the Hub knows
    assert {front["colorFrom"], front["colorTo"]} <= colours
    dockerfile = (FOLDER / "Dockerfile").read_text("utf-8")
    assert "USER 1000" in dockerfile and f"EXPOSE {PORT}" in dockerfile


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The folder of `make space`, in another place."""
    demo = os.environ.get("DEMO")
    if demo is None:
        pytest.skip("DEMO names no folder of `ila demo`")
    environment = Path(sys.executable).parents[1]
    venv = (
        environment
        if (environment / "bin" / "uv").exists()
        else next(Path(folder).parent for folder in os.environ["PATH"].split(":") if (Path(folder) / "uv").exists())
    )
    subprocess.run(["make", "-s", "space", f"VENV={venv}", f"MODEL={demo}/model"], cwd=ROOT, check=True)
    folder = shutil.copytree(ROOT / "build" / "space", tmp_path_factory.mktemp("space") / "space")
    yield folder, venv / "bin" / "uv"
    shutil.rmtree(ROOT / "build")


def test_the_folder_runs_from_its_own_requirements(space, tmp_path):
    folder, uv = space
    assert not list(folder.rglob("*.bin")) and len(list((folder / "examples").glob("*.mp4"))) > 1
    started = time.monotonic()
    if given := os.environ.get("SPACE_ENVIRONMENT"):
        python = Path(given) / "bin" / "python"
        again = ["--no-deps", "--reinstall-package", "transformers-ila", *map(str, (folder / "wheels").glob("*.whl"))]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *again], check=True)
    else:
        python = tmp_path / "venv" / "bin" / "python"
        subprocess.run([uv, "venv", "--quiet", tmp_path / "venv"], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", python, "--requirement", "requirements.txt"]
        subprocess.run(install, cwd=folder, check=True)
    print(f"installed in {time.monotonic() - started:.0f} s")
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    log = tmp_path / "log.txt"
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen([python, "app.py"], cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        while "The page" not in log.read_text():
            assert process.poll() is None and time.monotonic() - started < 300, log.read_text()
            time.sleep(0.2)
        print(f"served after {time.monotonic() - started:.0f} s")
        client = gradio_client.Client(f"http://127.0.0.1:{PORT}", verbose=False)
        video = next((folder / "examples").glob("*.mp4"))
        answer = client.predict(video=gradio_client.handle_file(video), api_name="/label")
        assert len(answer["labels"]) == 5 and answer["model"] == "model"
        assert httpx.get(f"http://127.0.0.1:{PORT}/").status_code == 200
        memory = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]
        print(f"answered; memory {int(memory) / 1024:.0f} MB")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        process.kill()
