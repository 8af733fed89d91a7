"""The Dockerfile: its linter, and its RUN steps one after the other in a Debian of their own (`pytest -s` shows them).

There is no Docker here. Root with debootstrap makes a fresh Debian, the base image's own kind, and the steps run in
it by chroot, the last command as the image's user. Elsewhere this test is skipped with the reason, and only the linter
and the file's own consistency are checked. Never run: the CUDA base, and the CPU build of torch (TORCH is empty here:
PyPI's build). Both stages share one root, so that nothing is copied between them.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from string import Template

import pytest

from support.paths import ROOT


FILE = ROOT / "Dockerfile"
IN_OWN_MOUNTS = ("unshare", "--mount", "sh", "-c")  # what is mounted ends with the process
MOUNT = 'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$@"'
CERTIFICATES = Path("/usr/local/share/given.pem")  # within the fresh Debian, where no package writes


def instructions():
    """(word, what stands behind it) of every instruction."""
    text = re.sub(r"^#.*\n", "", FILE.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def source(folder):
    """Copy what .dockerignore lets into the build."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"]
    for name in allowed:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, folder / name)


def test_linter():
    linted = subprocess.run(["hadolint", str(FILE)], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_last_instructions():
    """The image starts `ila`, as nobody who has rights, and keeps what the Hub gives."""
    after = dict(instructions())  # of each word the last
    assert after["ENTRYPOINT"] == '["ila"]' and after["CMD"] == '["--help"]'
    assert int(after["USER"]) >= 10000  # a number, which Kubernetes' runAsNonRoot needs
    assert "HF_HOME=/models" in after["ENV"] and after["VOLUME"] == "/models"


@pytest.fixture
def debian(tmp_path):
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("a Debian of its own needs root and debootstrap")
    suite = re.search(r"BASE=debian:(\w+)-slim", FILE.read_text("utf-8")).group(1)
    root = tmp_path / "root"
    made = subprocess.run(
        [*IN_OWN_MOUNTS[:2], "debootstrap", "--variant=minbase", suite, str(root)], capture_output=True
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    if given := os.environ.get("SSL_CERT_FILE"):  # of whoever stands between this machine and the registries
        shutil.copy(given, root / CERTIFICATES.relative_to("/"))
    yield root
    shutil.rmtree(root)  # some GB


def test_steps(debian):
    names = ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "http_proxy", "https_proxy")
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    environment |= {name: os.environ[name] for name in names if name in os.environ}
    if "SSL_CERT_FILE" in os.environ:
        environment |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), str(CERTIFICATES))
    folder, user = "/", "0"

    def run(*command, **changes):
        inside = [f"--userspec={user}:{user}", str(debian), "env", f"--chdir={folder}", *command]
        chroot = [*IN_OWN_MOUNTS, MOUNT, str(debian), *inside]
        return subprocess.run(chroot, env={**environment, **changes}, capture_output=True, text=True)

    for word, rest in instructions():
        value = Template(rest).safe_substitute(environment)
        if word == "ARG":
            name, _, default = value.partition("=")
            environment.setdefault(name, {"TORCH": ""}.get(name, default))
        elif word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in value.split())
        elif word == "WORKDIR":
            (debian / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
            folder = value
        elif word == "USER":
            user = value
        elif word == "COPY" and not value.startswith("--from"):
            source(debian / folder.lstrip("/"))
        elif word == "RUN":
            started = time.monotonic()
            done = run("sh", "-c", rest)
            print(f"{time.monotonic() - started:6.1f} s  {rest}")
            if done.returncode != 0:
                pytest.fail(f"{rest}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    shutil.rmtree(debian / "source")  # which the second stage does not have
    helped = run("ila", "--help")
    assert helped.returncode == 0 and "usage: ila" in helped.stdout, helped.stderr
    imported = run("python", "-c", "import ray.data, s3fs, torch, transformers_ila; print(transformers_ila.__file__)")
    assert imported.returncode == 0 and imported.stdout.startswith("/opt/ila/"), imported.stderr
    written = run("sh", "-c", "touch /models/a /data/b && ! touch /opt/ila/c")
    assert written.returncode == 0, written.stderr
