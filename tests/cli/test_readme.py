"""The README's examples and commands, run as printed but for the names of checkpoints, videos and folders.

Some share a process, as imports take longer than they do.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from support.hub_stand_in import HubStandIn
from support.paths import RECIPES, ROOT
from support.release_files import save_release
from support.released_models import WIDE_TEXT, WIDE_VISION
from support.tiny_models import save_clip, save_timesformer, save_vit, tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.conversion.state_dicts import to_released_state_dict
from transformers_ila.motionbench.tasks import make_videos, write_folder
from transformers_ila.video_writing import write_mp4


README = ROOT / "README.md"


def examples():
    text = README.read_text()
    return dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("readme")
    save_clip(root / "openai" / "clip-vit-base-patch16")
    save_vit(root / "google" / "vit-base-patch16-224-in21k")
    save_timesformer(root / "facebook" / "timesformer-base-finetuned-k400", num_frames=8, num_labels=400)
    write_folder(root / "path" / "to" / "videos", 48, seed=0)
    write_mp4(root / "video.mp4", next(make_videos(1, seed=1)).frames)
    return root


def run(place, environment, *pieces, timeout=600):
    """What these examples (code) and commands (lists) print, one after the other in one process."""
    command = [sys.executable, "-W", "ignore", "-c", RUNNER, json.dumps(pieces, default=str)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(NEXT)[1:]


NEXT = "---- next ----\n"
RUNNER = f"""
import json, runpy, sys
for piece in json.loads(sys.argv[1]):
    print({NEXT!r}, end="")
    if isinstance(piece, str):
        exec(piece, {{}})
        continue
    sys.argv = piece
    try:
        runpy.run_path(piece[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1"}


def command(script, launcher="python "):
    """The README's command with this script."""
    (found,) = re.findall(rf"^\.venv/bin/{launcher}scripts/{script} (.*)$", README.read_text(), re.MULTILINE)
    return [ROOT / "scripts" / script, *found.split()]


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(place):
    """What is trained, then the commands on it; the Hub is a stand-in."""
    code = examples()
    trainer = code["trainer"].replace("num_train_epochs=10", "num_train_epochs=1")
    run(place, OFFLINE, trainer)
    pieces = ["pipeline", "smaller", "export", *(["weights"] if find_spec("torchao") else [])]
    label, smaller, _, *weights = run(place, OFFLINE, *(code[piece] for piece in pieces))
    assert all("'label'" in printed for printed in (label, smaller, *weights))
    assert "model.safetensors" in {path.name for path in (place / "my-ila-merged").iterdir()}
    assert (place / "my-ila-export" / "modeling_ila.py").is_file()

    write_folder(place / "path" / "to" / "other_videos", 16, seed=7)
    scripts = ("evaluate.py", "predict.py", "analyse.py", "probe.py", "make_model_cards.py")
    evaluated, predicted, analysed, probed, _ = run(place, OFFLINE, *map(command, scripts))
    assert "48 of 48, 0 unreadable" in evaluated
    assert json.loads((place / "report.json").read_text())["protocol"]["name"] == "4x3"
    assert "48 videos labelled, 0 unreadable" in predicted
    assert "48 videos, neighbouring frames" in analysed
    assert "linear" in probed
    assert "4 clips x 3 crops" in (place / "my-ila-export" / "README.md").read_text()
    with HubStandIn({"token-user": "user"}) as hub:
        (printed,) = run(place, hub.environment(place / "home"), command("publish.py"))
        assert printed.endswith(f"Published: {hub.endpoint}/user/my-ila\n") and hub.repositories["user/my-ila"].private


@pytest.mark.slow
def test_train_command(place):
    recipe = [part for part in command("train.py", "accelerate launch ") if part != "launch"]
    assert "src/transformers_ila/training/recipes/small_b16_8f.yaml" in recipe
    recipe[recipe.index("src/transformers_ila/training/recipes/small_b16_8f.yaml")] = RECIPES / "small_b16_8f.yaml"
    small = "--max_steps 2 --global_batch_size 8 --per_device_train_batch_size 8 --dataloader_num_workers 0".split()
    small += ["--dataloader_persistent_workers", "false"]  # as there are no workers
    launch = [sys.executable, "-m", "accelerate.commands.launch", *recipe, *small]
    trained = subprocess.run(launch, cwd=place, env=OFFLINE, capture_output=True, text=True, timeout=600)
    assert trained.returncode == 0 and "Trained 2 steps." in trained.stdout, trained.stderr
    assert (place / "my-run" / "training.yaml").is_file() and (place / "my-run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_examples_that_need_nothing_trained(place):
    code = examples()
    assert list(code) == [
        "session",
        "vit",
        "trainer",
        "pipeline",
        "smaller",
        "weights",
        "export",
        "reading",
        "adapters",
    ]
    untrained = [code[name] for name in ("session", "vit", "reading", "adapters")]
    session, vit, reading, adapters = run(place, OFFLINE, *untrained)
    assert session.startswith("tensor([[")
    assert vit == "torch.Size([1, 2]) linear\n"
    assert reading.startswith("(3, ")
    assert adapters.split("\n")[:2] == ["torch.Size([1, 400])", "torch.Size([1, 2])"]


@pytest.mark.slow
def test_convert_command(place):
    """On a small file of the release's form."""
    text = {**WIDE_TEXT, "vocab_size": 192, "max_position_embeddings": 32}
    config = tiny_config(vision_config=dict(WIDE_VISION), text_config=text, alignment_fusion="residual")
    released = to_released_state_dict(IlaForVideoClassification(config))
    save_release(place / "k400_b16_8f.pth", released)
    (printed,) = run(place, OFFLINE, command("convert.py"))
    assert "Verified: " in printed
    assert (place / "ila-base-patch16-8f-kinetics400" / "model.safetensors").is_file()


@pytest.mark.slow
def test_check_command(place):
    (printed,) = run(place, None, command("check_videos.py"))
    assert "48 ok" in printed
    assert len((place / "usable.txt").read_text().splitlines()) == 48


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"^[A-Z]+_[A-Z]+$", README.read_text(), re.MULTILINE)


def test_five_lines_are_enough():
    lines = [line for line in examples()["session"].splitlines() if line.strip()]
    assert len(lines) == 5


def test_every_field_of_the_table_exists_with_the_value_it_names():
    from transformers_ila import IlaConfig

    config = IlaConfig()
    text = README.read_text()
    table = re.search(r"\| field \|.*?\n\n", text, re.DOTALL).group()
    names = [name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(names) >= 12
    assert all(hasattr(config, name) or hasattr(config.vision_config, name) for name in names)
