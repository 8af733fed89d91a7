"""The speed benchmark measures what it says, on a tower small enough for a test."""

import json
import math
import subprocess
import sys

import model_speed
import pytest
import torch
from PIL import Image

from support.paths import ROOT
from transformers_ila.model import configuration_ila
from transformers_ila.model.configuration_ila import CLIP_SIZES


@pytest.fixture(autouse=True)
def sizes_stay():
    """The programs add a tiny tower to the four that there are; other tests count them."""
    yield
    CLIP_SIZES.pop("tiny", None)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"tiny": ({**vision, "patch_size": 32, "image_size": 224}, text, 64)}
    monkeypatch.setattr(configuration_ila, "CLIP_SIZES", sizes)


def run(monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["model_speed.py", "--sizes", "tiny", "--rounds", "1", *options])
    model_speed.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_tables(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(model_speed, "PEAK_SIDE", 64)
    file, options = tmp_path / "speed.json", ["--frames", "2", "--batches", "1", "--forms", "mi_token", "residual"]
    monkeypatch.setattr(model_speed, "peak_memory", lambda *arguments: (2.0, 1.0))  # its processes know no such size
    printed = run(
        monkeypatch, capsys, "--tables", "inference", "classification", "training", *options, "--output", str(file)
    )
    kept = json.loads(file.read_text())
    for table in ("inference", "classification", "training"):
        assert [row["form"] for row in kept[table]] == ["mi_token", "residual"] and f"\n{table}\n" in printed
        assert all(math.isfinite(value) for row in kept[table] for value in row.values() if isinstance(value, float))
    assert kept["inference"][1]["in GMACs"] > kept["inference"][0]["in GMACs"] > 1
    assert kept["training"][0]["memory ratio"] == 1


@pytest.mark.slow
def test_compiled_models_have_no_graph_breaks(monkeypatch, capsys):
    monkeypatch.setattr(model_speed, "PEAK_SIDE", 64)
    compiled, options = [], ["--frames", "2", "--batches", "1", "--forms", "mi_token", "--compile"]

    def compile_without_code(call, *, mode, fullgraph):
        compiled.append((mode, fullgraph))
        return real(call, backend="eager", fullgraph=fullgraph)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_without_code)
    printed = run(monkeypatch, capsys, "--tables", "inference", *options)
    assert "compiled True" in printed and compiled == [("default", True)] * 3  # ILA, plain frames, CLIP


@pytest.mark.slow
def test_growth_and_its_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(model_speed, "peak_memory", lambda prepare, name, size, sizes: (0.0, float(sizes["frames"])))
    monkeypatch.setattr(model_speed, "GROWING_FRAMES", (2, 4))
    monkeypatch.setattr(model_speed, "GROWING_SIDES", (2, 3))
    picture = tmp_path / "growth.png"
    printed = run(monkeypatch, capsys, "--tables", "growth", "--picture", str(picture))
    assert "| tiny | frames | ILA, MiB | 1.000 |" in printed and min(Image.open(picture).size) > 400


@pytest.mark.slow
def test_memory_is_that_of_the_work():
    whole, added = model_speed.peak_memory(prepare_bytes, 64, 32)
    assert 30 <= added <= 48 and 90 <= whole <= 130


def prepare_bytes(before, more):
    kept = b"1" * (before << 20)
    return lambda: len(kept) + len(b"1" * (more << 20))


@pytest.mark.slow
def test_beside_older_code(tmp_path):
    """This repository stands for the older one; in a process of its own, as it registers its classes again."""
    options = ["--tables", "against", "--against", str(ROOT), "--sizes", "tiny", "--frames", "2", "--batches", "1"]
    options += ["--rounds", "1", "--forms", "residual", "--output", str(tmp_path / "speed.json")]
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "model_speed.py"), *options], check=True)
    (row,) = json.loads((tmp_path / "speed.json").read_text())["against"]
    assert row["plain / before"] > 0 and row["fused / before"] > 0 and float(row["logits apart"]) < 1e-4


def test_older_code_has_to_be_named(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--tables", "against")
    assert "--against" in capsys.readouterr().err


def test_what_is_measured_on_the_cpu_only(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--device", "cuda", "--tables", "growth")
