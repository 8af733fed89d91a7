"""Killed at any point, training goes on to the weights of an unbroken run, bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_clip

from transformers_ila.motionbench import write_folder
from transformers_ila.whole_checkpoints import what_is_missing


HERE = Path(__file__).parent
STEPS, SAVE = 32, 4


def options_of(folder, clip, videos):
    fields = {
        "output_dir": folder,
        "clip": clip,
        "train_list": videos / "train",
        "val_list": videos / "val",
        "num_frames": 4,
        "classification_head": "linear",
        "use_video_prompt": "false",
        "config": json.dumps(
            {"alignment_hidden_size": 8, "classifier_dropout": 0.5, "vision_config": {"attention_dropout": 0.1}}
        ),
        "max_steps": STEPS,
        "global_batch_size": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_epochs": 1,
        "jitter_decay_epoch": 2,
        "ema_decay": 0.9,
        "dataloader_num_workers": 2,
        "dataloader_persistent_workers": "true",
        "eval_strategy": "steps",
        "eval_steps": 2 * SAVE,
        "save_strategy": "steps",
        "save_steps": SAVE,
        "save_total_limit": 2,
        "logging_steps": 3,
        "report_to": "none",
        "disable_tqdm": "true",
        "use_cpu": "true",
        "resume": "true",
    }
    return [f"--{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_folder(folder / "train", 27, seed=0, num_frames=6)  # three are left out of every epoch
    write_folder(folder / "val", 8, seed=1, num_frames=6)
    return save_clip(folder / "clip"), folder


def drive(folder, jobs):
    """Exit codes of the attempts."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(jobs))
    paths = [str(HERE), str(HERE.parent / "scripts"), str(HERE.parent / "src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "resume_driver.py", plan], env=environment, timeout=600
    )
    assert run.returncode == 0
    return [result["code"] for result in json.loads(plan.with_suffix(".results").read_text())]


def state_of(folder):
    """All that a run ends with, by name."""
    last = folder / f"checkpoint-{STEPS}"
    assert what_is_missing(last) is None
    found = {f"result.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    found |= {f"weights.{name}": value for name, value in load_file(last / "model.safetensors").items()}
    found |= {f"average.{name}": value for name, value in load_file(last / "moving_average.safetensors").items()}
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    found |= {f"optimizer.{i}.{name}": value for i, entry in optimizer.items() for name, value in entry.items()}
    found["rng"] = torch.load(last / "rng_state.pth", weights_only=False)["cpu"]
    assert torch.load(last / "scheduler.pt", weights_only=True)["last_epoch"] == STEPS
    return found


def batches_of(log):
    """Step -> digest of its batch; a step that was taken twice had the same both times."""
    digests = {}
    for line in log.with_suffix(".trace").read_text().splitlines():
        step, digest = line.split()
        assert digests.setdefault(int(step), digest) == digest, f"step {step} had another batch after resuming"
    return digests


def random_deaths(seed=0):
    """Ten points: between steps, in each phase of saving, and whenever the clock says."""
    draw = random.Random(seed)
    deaths = [{"step": draw.randrange(1, STEPS)} for _ in range(3)]
    deaths += [{"write": draw.randrange(1, 30)} for _ in range(3)]  # model, average, optimiser, schedule, generators
    deaths += [{"seal": draw.randrange(1, 8)}, {"rotate": draw.randrange(1, 5)}]
    return [*deaths, *({"seconds": draw.uniform(0.1, 2.0)} for _ in range(2))]


@pytest.mark.slow
def test_ten_killed_runs_end_with_the_weights_of_an_unbroken_one(material, tmp_path):
    clip, videos = material
    deaths = random_deaths()
    jobs = [{"options": options_of(tmp_path / "whole", clip, videos), "when": {}, "log": str(tmp_path / "whole.log")}]
    for index, death in enumerate(deaths):
        job = {"options": options_of(tmp_path / f"run{index}", clip, videos), "log": str(tmp_path / f"run{index}.log")}
        jobs += [{**job, "when": death}, {**job, "when": {}}]
    codes = drive(tmp_path, jobs)
    assert codes == [0] + [-9, 0] * 10, [(tmp_path / f"run{i}.log").read_text()[-2000:] for i in range(10)][:1]
    whole, batches = state_of(tmp_path / "whole"), batches_of(tmp_path / "whole.log")
    assert len(batches) == STEPS == len(set(batches.values()))
    for index, death in enumerate(deaths):
        state = state_of(tmp_path / f"run{index}")
        assert state.keys() == whole.keys()
        other = [name for name, value in whole.items() if not torch.equal(value, state[name])]
        log = (tmp_path / f"run{index}.log").read_text()
        said = [line for line in log.splitlines() if "Going on" in line or "no whole" in line or "left alone" in line]
        print(f"killed at {death}: {len(whole)} tensors, {len(other)} differ; {said[-1].split('/')[-1]}")
        assert not other, f"after {death}: {other[:5]}"
        assert batches_of(tmp_path / f"run{index}.log") == batches
        assert len([path for path in (tmp_path / f"run{index}").glob("checkpoint-*") if what_is_missing(path)]) <= 1


@pytest.mark.slow
def test_sigterm_is_a_good_end_and_resumed_exactly(material, tmp_path):
    clip, videos = material
    jobs = [{"options": options_of(tmp_path / "whole", clip, videos), "when": {}, "log": str(tmp_path / "whole.log")}]
    job = {"options": options_of(tmp_path / "run", clip, videos), "log": str(tmp_path / "run.log")}
    jobs += [{**job, "when": {"term": 9}}, {**job, "when": {}}, {**job, "when": {}}]
    assert drive(tmp_path, jobs) == [0, 0, 0, 0]
    log = (tmp_path / "run.log").read_text()
    assert "SIGTERM: saved after step 10; --resume goes on." in log and "checkpoint-10'" in log
    assert log.count(f"Trained {STEPS} steps") == 2  # the last process found nothing to do
    whole, state = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    assert all(torch.equal(value, state[name]) for name, value in whole.items())
    assert batches_of(tmp_path / "run.log") == batches_of(tmp_path / "whole.log")
