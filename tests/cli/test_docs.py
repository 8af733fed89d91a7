"""The examples and commands of README.md and docs/ run as printed, but for the checkpoints and videos they name.

Several share a process, as imports take longer than they do.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from support.hub_stand_in import HubStandIn
from support.paths import ROOT
from support.release_files import save_release
from support.released_models import WIDE_TEXT, WIDE_VISION
from support.tiny_models import save_clip, save_dinov2, save_siglip, save_timesformer, save_vit, tiny_config
from transformers_ila import IlaConfig, IlaForVideoClassification
from transformers_ila.cli.main import read_verb
from transformers_ila.conversion.state_dicts import to_released_state_dict
from transformers_ila.motionbench.tasks import MOTIONS, make_videos, write_folder
from transformers_ila.timeline.rules import CALIBRATION
from transformers_ila.video_writing import write_mp4


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# examples that load what the example "trainer" saves
TRAINED = ("pipeline", "smaller", "fused", "export", "timeline", "shared", "visualize", "weights")
UNTRAINED = tuple(
    "zeroshot vit dinov2 reading sources adapters lora features search words plain stream timelinefiles live "
    "faiss".split()
)
ELSEWHERE = ("mteb", "app")  # tests/extra/check_mteb.py and check_app.py run them
WORDS = "".join(f"{motion}\n" for motion in MOTIONS)
MODEL_FILES = ("config.json", "model.safetensors", "video_preprocessor_config.json", "README.md")
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1"}
NEXT = "---- next ----\n"
RUNNER = f"""
import json, sys
from ila_cli import main

for piece in json.loads(sys.argv[1]):
    print({NEXT!r}, end="", flush=True)
    if isinstance(piece, str):
        exec(piece, {{}})
    else:
        code = main(piece)
        assert code == 0, (piece, code)
"""


def blocks(language: str) -> list[tuple[str, str | None, str]]:
    """(page, name in the comment above it, text) of every block of the pages."""
    pattern = rf"(?:<!-- test: (\w+) -->\n)?```{language}\n(.*?)```"
    return [
        (page.name, name or None, text)
        for page in PAGES
        for name, text in re.findall(pattern, page.read_text("utf-8"), re.DOTALL)
    ]


def commands(page: str | None = None, verb: str | None = None) -> list[list[str]]:
    """The words of every command line, of one page and one verb of `ila` only where they are given."""
    lines = [line for name, _, text in blocks("bash") if page in (None, name) for line in text.strip().splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if verb is None or words[:2] == ["ila", verb]]


def examples() -> dict[str, str]:
    return {name: text for _, name, text in blocks("python") if name}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("docs")
    save_clip(root / "openai" / "clip-vit-base-patch16")
    save_vit(root / "google" / "vit-base-patch16-224-in21k")
    save_dinov2(root / "facebook" / "dinov2-small", image_size=518, patch_size=14)
    save_timesformer(root / "facebook" / "timesformer-base-finetuned-k400", num_frames=8, num_labels=400)
    write_folder(root / "path" / "to" / "videos", 48, seed=0)
    write_folder(root / "path" / "to" / "other_videos", 16, seed=7)
    write_mp4(root / "video.mp4", next(make_videos(1, seed=1)).frames)
    return root


def run(place, environment, *pieces, timeout=600):
    """What these examples (code) and commands (words after `ila`) print, one after the other in one process."""
    command = [sys.executable, "-W", "ignore", "-c", RUNNER, json.dumps(pieces)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(NEXT)[1:]


def only(page: str, verb: str) -> list[str]:
    """The words after `ila` of the one command of this verb on this page."""
    (words,) = commands(page, verb)
    return words[1:]


# -- fast: nothing is left out, nothing is out of date ---------------------------------------------------------------


def test_every_example_has_a_test():
    names = [name for _, name, _ in blocks("python")]
    assert sorted(names) == sorted([*TRAINED, *UNTRAINED, *ELSEWHERE, "trainer"])


def test_every_command_is_one_that_there_is(tmp_path, monkeypatch):
    """Options of `ila` are read as the command reads them; programs and files exist."""
    models = [
        f"{model}/{file}"
        for model in ("my-ila", "my-ila-export", "my-run", "my-adapter", "demo_output/model")
        for file in MODEL_FILES
    ]
    videos = ["video.mp4", "path/to/videos/waving/a.mp4", "path/to/other_videos/waving/a.mp4"]
    for file in (*models, *videos, "k400_b16_8f.pth", "results/report.json", "train.txt", "test.txt", "video.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    (tmp_path / "words.txt").write_text(WORDS)
    (tmp_path / "truth.json").write_text('{"database": {"a": {}}}')
    (tmp_path / "rules.json").write_text(json.dumps({"format": CALIBRATION, "version": 1, "rules": {}}))
    for folder, window in ((tmp_path / "index", 4), (tmp_path / "my-index", None)):
        folder.mkdir()
        (folder / "_settings.json").write_text(json.dumps({"dimension": 4, "window": window}))
        (folder / "_model.json").write_text('{"model": "openai/clip-vit-base-patch16"}')
    monkeypatch.chdir(tmp_path)
    for words in commands():
        if "transformers_ila" in words:
            assert words[0] in ("accelerate", "torchrun", "python"), words
            words = ["ila", *words[words.index("transformers_ila") + 1 :]]
        if words[0] == "ila":
            verb = import_module(f"transformers_ila.cli.{words[1].replace('-', '_')}")
            read_verb(verb, words[2:])
        elif words[0] in ("python", "bash"):
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[0] in ("pip", "make", "tensorboard") or words[0].endswith("=1"), words


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), (page.name, target)


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert not re.findall(r"^[|\s]*[A-Z0-9]+_[A-Z]+[|\s]*$", page.read_text("utf-8"), re.MULTILINE), page.name


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 170
    assert len([line for line in examples()["zeroshot"].splitlines() if line.strip()]) <= 5


def test_every_field_of_the_table_exists_with_the_value_it_names():
    config = IlaConfig()
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    table = re.search(r"\| field \|.*?\n\n", text, re.DOTALL).group()
    names = [name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(names) >= 12
    assert all(hasattr(config, name) or hasattr(config.vision_config, name) for name in names)


# -- slow: they run --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(place):
    """What is trained, then the commands on it; the Hub is a stand-in."""
    code = examples()
    run(place, OFFLINE, code["trainer"].replace("num_train_epochs=10", "num_train_epochs=1"))
    pieces = [code[name] for name in TRAINED if name != "weights" or find_spec("torchao")]
    printed = run(place, OFFLINE, *pieces)
    silent = ("export", "timeline", "shared", "visualize")
    assert all("'label'" in text for name, text in zip(TRAINED, printed) if name not in silent)
    assert json.loads((place / "video.json").read_text())["settings"]["rate"] == 5
    assert "model.safetensors" in {path.name for path in (place / "my-ila-merged").iterdir()}
    assert (place / "my-ila-export" / "modeling_ila.py").is_file()

    one, many = (words[1:] for words in commands("evaluation.md", "predict"))
    later = [only("evaluation.md", "evaluate"), one, many, only("evaluation.md", "probe"), only("paper.md", "analyse")]
    evaluated, table, predicted, probed, analysed, _ = run(place, OFFLINE, *later, only("hub.md", "card"))
    assert "48 of 48, 0 unreadable" in evaluated
    assert json.loads((place / "results" / "report.json").read_text())["protocol"]["name"] == "4x3"
    assert "video.mp4" in table and "48 videos labelled, 0 unreadable" in predicted
    assert "linear" in probed and "48 videos, neighbouring frames" in analysed
    assert "4 clips x 3 crops" in (place / "my-ila-export" / "README.md").read_text()
    shutil.copytree(place / "my-ila", place / "my-run")
    drawn = [words[1:] for words in commands("pictures.md", "show")]
    run(place, OFFLINE, *drawn)
    shutil.rmtree(place / "my-run")  # which another command trains
    assert all((place / words[words.index("--output") + 1]).is_file() for words in drawn)
    labelling = [words[1:] for verb in ("predict", "timeline") for words in commands("labelling.md", verb)]
    fiftyone, studio, segments = run(place, OFFLINE, *labelling)
    assert "samples.json: 48 videos, and 0 unreadable" in fiftyone and "tasks.json: 48 videos" in studio
    assert "48 done before" in studio and "samples.json: 48 videos" in segments and "tasks.json: 48 videos" in segments
    with HubStandIn({"token-user": "user"}) as hub:
        (printed,) = run(place, hub.environment(place / "home"), only("hub.md", "publish"))
        assert printed.endswith(f"Published: {hub.endpoint}/user/my-ila\n") and hub.repositories["user/my-ila"].private


@pytest.mark.slow
def test_the_commands_of_the_readme_and_of_adapters(place):
    """They label by words, index, search, train, evaluate and label; then an adapter is trained and evaluated."""
    small = "--max_steps 2 --global_batch_size 8 --per_device_train_batch_size 8 --dataloader_num_workers 0".split()
    small += ["--use_cpu", "true"]
    words, own_classes = (command[1:] for command in commands("README.md", "predict"))
    plain = [words, only("README.md", "index"), only("README.md", "search"), only("README.md", "check-videos")]
    trained_on = [*only("README.md", "train"), *small], only("README.md", "evaluate"), own_classes
    lora = next(words[1:] for words in commands("training.md", "train") if "lora_b16_8f" in words)
    *printed, adapted, evaluated_adapter = run(
        place, OFFLINE, *plain, *trained_on, [*lora, *small], only("training.md", "evaluate")
    )
    by_words, indexed, found, checked, trained, evaluated, labelled = printed
    assert "juggling" in by_words and "48 videos indexed as 48 rows" in indexed and found.count(".mp4") == 5
    assert "48 ok" in checked and len((place / "usable.txt").read_text().splitlines()) == 48
    assert "Trained 2 steps." in trained and (place / "my-run" / "training.yaml").is_file()
    assert "48 of 48, 0 unreadable" in evaluated and "video.mp4" in labelled
    assert "Trained 2 steps." in adapted and (place / "my-adapter" / "adapter_model.safetensors").is_file()
    assert "16 of 16, 0 unreadable" in evaluated_adapter


@pytest.mark.slow
def test_examples_that_need_nothing_trained(place):
    pieces = [examples()[name] for name in UNTRAINED if name != "faiss" or find_spec("faiss")]
    zeroshot, vit, dinov2, reading, sources, adapters, lora, features, search, words, plain, *rest = run(
        place, OFFLINE, *pieces
    )
    stream, files, live, *faiss = rest
    assert zeroshot.count("'score'") == 2 and "'juggling'" in zeroshot
    assert vit == "torch.Size([1, 2]) linear\n"
    assert dinov2 == "torch.Size([1, 2]) 224\n"
    assert reading.startswith("(3, ")
    assert sources.startswith("0.00 s: frame 0, (")
    assert adapters.split("\n")[:2] == ["torch.Size([1, 400])", "torch.Size([1, 2])"]
    assert lora == "['juggling', 'waving']\n"
    assert features.startswith("(1, 64) (1, 8, 64) (2, 64)\ntensor([[")
    assert words.count("'score'") == 3 and "'waving'" in words
    assert plain.endswith("['walking', 'running', 'standing'] ['a video of {}.']\n")
    assert stream.startswith("0.0 tensor([") and "tensor(True)" in stream
    assert files == "['juggling', 'waving']\n" and '<video id="video"' in (place / "video.html").read_text("utf-8")
    assert live.startswith("{'event': 'start'") and "'event': 'end'" in live
    assert len(search.splitlines()) == 3 and all(".mp4" in text for text in (search, *faiss))


@pytest.mark.slow
def test_the_commands_of_words(place):
    """They label, evaluate and rank by words, of a CLIP and a SigLIP, one after the other."""
    save_siglip(place / "google" / "siglip-base-patch16-224")
    (place / "words.txt").write_text(WORDS)
    videos = sorted((place / "path").rglob("*.mp4"))
    numbers = {name: number for number, name in enumerate(MOTIONS)}
    rows = [(path.relative_to(place), path.parent.name) for path in videos]
    (place / "val.txt").write_text("".join(f"{path} {numbers[name]}\n" for path, name in rows[::6]))
    (place / "captions.csv").write_text("path,caption\n" + "".join(f"{path},a dot is {name}\n" for path, name in rows))
    predicts, evaluates, ranks = (
        [words[1:] for words in commands("zero_shot.md", verb)]
        for verb in ("predict", "evaluate", "evaluate-retrieval")
    )
    table, folder, templates, actions, none, *rest = run(place, OFFLINE, *predicts, *evaluates, *ranks)
    assert table.count("riding a bike") == 48 and "48 videos labelled" in folder
    assert all(text.count("%") == 6 for text in (templates, actions))  # five labels, and the time that was waited
    assert "none of these" in none
    assert all("trained on none of the classes" in text for text in rest[:2])
    assert all("text to video" in text and "by chance" in text for text in rest[2:]) and "read as: {}" in rest[3]


@pytest.mark.slow
def test_the_commands_of_the_index(place):
    """They index, search by words and by an example, and drop, one after the other."""
    index, *searches = ([words[1:] for words in commands("search.md", verb)] for verb in ("index", "search"))
    add, drop, missing, _ = index  # the last one is Ray's
    added, words, example, template, dropped, gone = run(place, OFFLINE, add, *searches[0], drop, missing)
    assert "48 videos indexed as 48 rows, 0 unreadable" in added
    assert [len(text.splitlines()) for text in words.split("\n\n")] == [6, 6] and "0:00.0-" in words
    assert example.startswith("video.mp4\n") and len((place / "results.jsonl").read_text().splitlines()) == 10
    assert template.startswith("someone falls\n") and "6 videos dropped" in dropped and "0 videos dropped" in gone


@pytest.mark.slow
def test_convert_command(place):
    """On a small file of the release's form."""
    text = {**WIDE_TEXT, "vocab_size": 192, "max_position_embeddings": 32}
    config = tiny_config(vision_config=dict(WIDE_VISION), text_config=text, alignment_fusion="residual")
    save_release(place / "k400_b16_8f.pth", to_released_state_dict(IlaForVideoClassification(config)))
    (printed,) = run(place, OFFLINE, only("hub.md", "convert"))
    assert "Verified: " in printed
    assert (place / "ila-base-patch16-8f-kinetics400" / "model.safetensors").is_file()
