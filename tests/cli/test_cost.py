"""`ila cost` and `ila analyse`: what they print, and what they refuse."""

import math

import pytest

from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import analyse, cost
from transformers_ila.cli.main import run_verb
from transformers_ila.cost import count
from transformers_ila.motionbench.tasks import write_folder


@pytest.fixture
def saved(tmp_path):
    model = IlaForVideoClassification(tiny_config(classification_head="linear", num_labels=8))
    model.save_pretrained(tmp_path / "model")
    IlaVideoProcessor.for_model(model.config, size={"shortest_edge": 28}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_cost_of_a_saved_model_reads_no_weights(saved, capsys):
    config = IlaForVideoClassification.from_pretrained(saved).config
    (saved / "model.safetensors").unlink()
    assert run_verb(cost, ["--model", str(saved), "--measure"]) == 0
    printed = capsys.readouterr().out
    assert "8 classes" in printed and "x plain frames" in printed and "MiB kept for the backward pass" in printed
    assert f"{count(config).gmacs:.1f} GMACs a clip, {count(config).parameters:.1f} M parameters" in printed


def test_cost_of_a_size(capsys):
    options = ["--size", "B/32", "--frames", "4", "--config", '{"temporal_module": "none"}']
    assert run_verb(cost, options) == 0
    heading, numbers = capsys.readouterr().out.splitlines()
    assert heading == "ILA-B/32: none, 4 frames of 224 pixels, 400 classes" and "of the text tower" in numbers


@pytest.mark.parametrize(
    "options,message",
    [
        (["--config", "[1]"], "--config must be a JSON object"),
        (["--config", '{"temporal_modul": "ata"}'], "IlaConfig has no 'temporal_modul'"),
        (["--config", '{"vision_config": 5}'], "`vision_config` is 5; allowed: a dictionary of fields"),
        (["--size", "B/8"], "invalid choice: 'B/8'"),
        (["--frames", "0"], "--frames must be 1 or more, got 0"),
        (["--model", "x", "--config", "{}"], "--model has a configuration"),
        (["--model", "nope"], "There is no folder 'nope', and it is no Hub id (`user/name`) either."),
    ],
)
def test_what_cost_refuses(options, message, capsys):
    assert run_verb(cost, options) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ila cost: error: ") and message in error


@pytest.mark.parametrize(
    "options,message",
    [
        (["--model", "x"], "the following arguments are required: --videos"),
        (["--model", "x", "--videos", "nowhere"], "there is no 'nowhere'"),
        (["--model", "x", "--videos", ".", "--limit", "0"], "--limit must be 1 or more, got 0"),
        (["--model", "nope", "--videos", "."], "There is no folder 'nope', and it is no Hub id (`user/name`)"),
    ],
)
def test_what_analyse_refuses(options, message, capsys):
    assert run_verb(analyse, options) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ila analyse: error: ") and message in error


def test_what_analyse_prints(saved, tmp_path, capsys):
    write_folder(tmp_path / "videos", 16, seed=0)
    options = ["--model", str(saved), "--videos", str(tmp_path / "videos"), "--limit", "5", "--batch_size", "2"]
    assert run_verb(analyse, options) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("4 videos, neighbouring frames")  # every fourth of 16
    distance, nats = (float(line.split()[-3]) for line in printed[1:])
    assert 0 < distance < 2 and 0 <= nats < math.log(49)
