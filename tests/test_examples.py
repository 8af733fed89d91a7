"""The files of examples/: scripts and configurations that their readers take, with commands that there are.

tests/extra/check_examples.py checks more with programs that are installed for it.
"""

import re
import shlex
import subprocess
from importlib import import_module

import pytest
import yaml

from support.paths import ROOT
from transformers_ila.cli.main import read_verb


SCRIPTS = sorted((ROOT / "examples").rglob("*.sh"))
CONFIGURATIONS = sorted((ROOT / "examples").rglob("*.yaml"))
ENDS = {"||", "&&", "|", ";", ")"}


def commands(path):
    """The words after `ila` of every command of a script, or of a RayJob's entrypoint."""
    text = path.read_text("utf-8")
    if path.suffix == ".yaml":
        text = yaml.safe_load(text)["spec"]["entrypoint"]
    text = re.sub(r"(\$\(|\))", r" \1 ", text.replace("\\\n", " "))
    words = shlex.split(text, comments=True)
    words = [re.sub(r"^\$\{?(processes|PROCESSES).*$", "16", word) for word in words]
    words = [word.replace("s3://", "memory://") for word in words]  # whose client the tests' environment has
    for start, word in enumerate(words):
        if word in ("ila", "transformers_ila"):
            end = next((place for place in range(start, len(words)) if words[place] in {*ENDS, "$@"}), len(words))
            yield words[start + 1 : end]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that holds what the examples name."""
    for name in ("config.json", "model.safetensors", "video_preprocessor_config.json"):
        (tmp_path / "my-ila").mkdir(exist_ok=True)
        (tmp_path / "my-ila" / name).write_text("")
    for video in ("path/to/videos/waving/a.mp4", "shards/train-000000.tar"):
        (tmp_path / video).parent.mkdir(parents=True)
        (tmp_path / video).write_text("")
    (tmp_path / "classes.txt").write_text("waving\nwalking\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", [*SCRIPTS, *CONFIGURATIONS], ids=lambda path: path.name)
def test_commands_are_read_by_their_verbs(path, place, capsys):
    found = list(commands(path))
    assert found, path
    for verb, *words in found:
        module = import_module(f"transformers_ila.cli.{verb.replace('-', '_')}")
        if "--print_path" in words:
            with pytest.raises(SystemExit, match="^0$"):
                read_verb(module, words)
            assert capsys.readouterr().out.endswith(".yaml\n")
        else:
            read_verb(module, words)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(path):
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines and path.stat().st_mode & 0o111
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]  # which Slurm would not read


def test_the_ray_job_is_what_the_dockerfile_makes():
    """Names that must fit each other; the schema itself is in tests/extra/."""
    job = yaml.safe_load((ROOT / "examples" / "kuberay" / "rayjob.yaml").read_text("utf-8"))
    cluster = job["spec"]["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"]
    containers = [group["template"]["spec"]["containers"][0] for group in (cluster["headGroupSpec"], *workers)]
    assert len({container["image"] for container in containers}) == 1
    assert all("envFrom" in container for container in containers)
    words = next(commands(ROOT / "examples" / "kuberay" / "rayjob.yaml"))
    wanted = {name: int(words[words.index(f"--{name}") + 1]) for name in ("replicas", "readers")}
    resources = [container["resources"]["requests"] for container in containers[1:]]
    counts = [group["replicas"] for group in workers]
    assert wanted["replicas"] == sum(n * int(each.get("nvidia.com/gpu", 0)) for n, each in zip(counts, resources))
    assert wanted["readers"] + wanted["replicas"] < sum(n * int(each["cpu"]) for n, each in zip(counts, resources))
