"""Killed at any point, training goes on to the weights of an unbroken run, bit for bit."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from support.paths import ROOT, SCRIPTS
from support.tiny_models import save_clip
from transformers_ila import IlaForVideoClassification
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.training.checkpoints import verify_manifest


STEPS, SAVE = 32, 4


def options_of(folder, clip, videos, /, **changes):
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
    return [f"--{name}={value}" for name, value in (fields | changes).items()]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_folder(folder / "train", 27, seed=0, num_frames=6)  # three are left out of every epoch
    write_folder(folder / "val", 8, seed=1, num_frames=6)
    return save_clip(folder / "clip"), folder


def drive(folder, jobs):
    """Exit codes of the attempts; of several processes the one they all have."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(jobs))
    paths = [str(ROOT / "tests"), str(SCRIPTS), str(ROOT / "src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tests" / "support" / "resume_driver.py", plan],
        env=environment,
        timeout=3600,  # of a busy machine
    )
    assert run.returncode == 0
    results = json.loads(plan.with_suffix(".results").read_text())
    return [codes[0] if len(set(codes)) == 1 else codes for codes in (result["codes"] for result in results)]


def state_of(folder):
    """All that a run ends with, by name."""
    last = folder / f"checkpoint-{STEPS}"
    assert verify_manifest(last) is None
    found = {f"result.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    found |= {f"weights.{name}": value for name, value in load_file(last / "model.safetensors").items()}
    found |= {f"average.{name}": value for name, value in load_file(last / "moving_average.safetensors").items()}
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    found |= {f"optimizer.{i}.{name}": value for i, entry in optimizer.items() for name, value in entry.items()}
    if not (last / "rng_state.pth").is_file():
        return found  # of several processes, who each have their own
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
    """Ten points: between steps, in each phase of saving, and anywhere in a step."""
    draw = random.Random(seed)
    deaths = [{"step": draw.randrange(1, STEPS)} for _ in range(3)]
    deaths += [{"write": draw.randrange(1, 30)} for _ in range(3)]  # model, average, optimiser, schedule, generators
    deaths += [{"seal": draw.randrange(1, 8)}, {"rotate": draw.randrange(1, 5)}]
    return [*deaths, *({"during": draw.randrange(1, STEPS - 4)} for _ in range(2))]


def with_pictures(*jobs):
    """Let these attempts write pictures to TensorBoard, which must change nothing."""
    for job in jobs:
        job["options"] = [*job["options"], "--report_to=tensorboard", "--tensorboard_pictures=1"]


@pytest.mark.slow
def test_ten_killed_runs_end_with_the_weights_of_an_unbroken_one(material, tmp_path):
    clip, videos = material
    deaths = random_deaths()
    jobs = [{"options": options_of(tmp_path / "whole", clip, videos), "when": {}, "log": str(tmp_path / "whole.log")}]
    for index, death in enumerate(deaths):
        job = {"options": options_of(tmp_path / f"run{index}", clip, videos), "log": str(tmp_path / f"run{index}.log")}
        jobs += [{**job, "when": death}, {**job, "when": {}}]
    with_pictures(jobs[1], jobs[4])  # of one run the part before its death, of another the part behind it
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
        assert len([path for path in (tmp_path / f"run{index}").glob("checkpoint-*") if verify_manifest(path)]) <= 1


@pytest.mark.slow
def test_a_run_that_is_started_twice_runs_once(material, tmp_path):
    """Whenever the second one comes, also when the first one is killed, one of the two goes on to its end."""
    clip, videos = material
    short = {"max_steps": 8, "save_steps": 2, "eval_strategy": "no"}
    jobs = [{"options": options_of(tmp_path / "whole", clip, videos, **short), "log": str(tmp_path / "whole.log")}]
    for index, delay in enumerate((0, 0.7)):
        job = {"options": options_of(tmp_path / f"run{index}", clip, videos, **short), "twice": delay}
        jobs.append({**job, "log": str(tmp_path / f"run{index}.log")})
    killed = {"options": options_of(tmp_path / "killed", clip, videos, **short), "log": str(tmp_path / "killed.log")}
    codes = drive(tmp_path, [*({**job, "when": {}} for job in jobs), {**killed, "when": {"step": 5}, "twice": 0.4}])
    codes += drive(tmp_path, [{**killed, "when": {}}])
    assert codes[0] == codes[-1] == 0 and [sorted(both) for both in codes[1:3]] == [[0, 2]] * 2
    assert sorted(codes[3]) == [-9, 2]
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for name in ("run0", "run1", "killed"):
        said = (tmp_path / f"{name}.log").read_text() + (tmp_path / f"{name}.1.log").read_text()
        assert said.count("ila train: error: Another process writes to") == 1 and "Wait for it or end it" in said
        found = load_file(tmp_path / name / "model.safetensors")
        assert not [name for name, value in whole.items() if not torch.equal(value, found[name])]


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


# -- two processes ---------------------------------------------------------------------------------------------------

CURVE_TOLERANCE = 1e-4  # of losses near 2: float32 sums in another order, over twelve steps


def curve(folder, step):
    """Loss, both parts and the gradient's norm of every step."""
    history = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
    names = ("loss", "classification_loss", "alignment_loss", "grad_norm")
    return torch.tensor([[line[name] for name in names] for line in history if "loss" in line])


def damage(videos, folder, count):
    """A list of the training videos of which so many are missing."""
    paths = sorted((videos / "train").rglob("*.mp4"))
    names = [str(path.relative_to(videos / "train")) for path in paths]
    lines = [f"{name} {index % 8}" for index, name in enumerate(names)]
    for place in range(count):
        lines[place * 8 % len(lines)] = f"missing_{place}.mp4 0"
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    (folder / "names.txt").write_text("\n".join(f"class {index}" for index in range(8)) + "\n")
    lists = {"train_list": folder / "list.txt", "val_list": folder / "list.txt"}
    return lists | {"videos": videos / "train", "labels": folder / "names.txt", "format": "list"}


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(material, tmp_path):
    clip, videos = material
    still = {"config": json.dumps({"alignment_hidden_size": 8, "classifier_dropout": 0.0}), "mixup": 0, "cutmix": 0}
    still |= {"max_steps": 12, "save_steps": 12, "eval_strategy": "no", "logging_steps": 1, "global_batch_size": 8}
    still["alignment_fusion"] = "mi_token"  # AdamW makes whole steps of the noise in gradients of zero weights
    jobs = []
    for world in (1, 2):
        options = options_of(tmp_path / f"{world}", clip, videos, **still, per_device_train_batch_size=8 // world)
        jobs.append({"options": options, "when": {}, "log": str(tmp_path / f"{world}.log"), "world": world})
        jobs[-1]["options"].append(f"--expect_processes={world}")
    assert drive(tmp_path, jobs) == [0, 0]
    one, two = curve(tmp_path / "1", 12), curve(tmp_path / "2", 12)
    assert len(one) == 12
    difference = (one[:, :3] - two[:, :3]).abs().max().item()
    print(f"largest difference of the losses over 12 steps: {difference:.1e}")
    print("loss of one process: ", [round(value, 4) for value in one[:, 0].tolist()])
    print("loss of two processes:", [round(value, 4) for value in two[:, 0].tolist()])
    assert difference < CURVE_TOLERANCE
    torch.testing.assert_close(one[:, 3], two[:, 3], atol=0, rtol=1e-3)
    statistics = [load_file(tmp_path / f"{n}" / "checkpoint-12" / "model.safetensors") for n in (1, 2)]
    for name, value in statistics[0].items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(value, statistics[1][name], atol=1e-3, rtol=1e-2)


SHARDED = {  # what `accelerate launch --config_file recipes/accelerate/fsdp2.yaml` sets
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "IlaEncoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


@pytest.mark.slow
def test_sharded_weights_follow_the_curve_and_resume(material, tmp_path):
    clip, videos = material
    still = {
        "config": json.dumps({"alignment_hidden_size": 8}),
        "classification_head": "text",
        "mixup": 0,
        "cutmix": 0,
    }
    still |= {"max_steps": 12, "save_steps": 4, "eval_strategy": "no", "logging_steps": 1, "ema_decay": "null"}
    still |= {"global_batch_size": 8}
    two = {**still, "per_device_train_batch_size": 4, "expect_processes": 2}
    one = {**still, "per_device_train_batch_size": 8}
    jobs = [
        {"options": options_of(tmp_path / "one", clip, videos, **one), "log": str(tmp_path / "one.log"), "when": {}}
    ]
    sharded = {"world": 2, "environment": {**SHARDED, "ACCELERATE_TORCH_DEVICE": "cpu"}}
    whole = {"options": options_of(tmp_path / "whole", clip, videos, **two), "log": str(tmp_path / "whole.log")}
    run = {"options": options_of(tmp_path / "run", clip, videos, **two), "log": str(tmp_path / "run.log")}
    jobs += [
        {**whole, **sharded, "when": {}},
        {**run, **sharded, "when": {"step": 10}},
        {**run, **sharded, "when": {}},
    ]
    plain = {"options": options_of(tmp_path / "plain", clip, videos, **two), "log": str(tmp_path / "plain.log")}
    jobs += [{**plain, "world": 2, "environment": SHARDED, "when": {}}]
    assert drive(tmp_path, jobs) == [0, 0, -9, 0, 2]
    assert "FSDP was asked for" in (tmp_path / "plain.log").read_text()
    difference = (curve(tmp_path / "one", 12)[:, :3] - curve(tmp_path / "whole", 12)[:, :3]).abs().max().item()
    print(f"largest difference of the losses, one process and two with sharded weights: {difference:.1e}")
    assert difference < CURVE_TOLERANCE
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run")]
    assert files[0].keys() == files[1].keys() and files[0]["logit_scale"].shape == ()
    assert not [name for name, value in files[0].items() if not torch.equal(value, files[1][name])]
    model, info = IlaForVideoClassification.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and model.logit_scale.ndim == 0


@pytest.mark.slow
def test_killed_adapters_end_with_the_weights_of_an_unbroken_one(material, tmp_path):
    """And two processes train one."""
    clip, videos = material
    small = {"lora_r": 2, "lora_dropout": 0.1, "max_steps": 2 * SAVE, "gradient_checkpointing": "true"}
    small |= {"dataloader_num_workers": 0, "dataloader_persistent_workers": "false"}
    deaths = [{"step": SAVE + 2}]
    names = ["whole", *(f"run{index}" for index in range(len(deaths)))]
    runs = [
        {"options": options_of(tmp_path / name, clip, videos, **small), "log": str(tmp_path / f"{name}.log")}
        for name in names
    ]
    jobs = [{**runs[0], "when": {}}]
    for run, death in zip(runs[1:], deaths):
        jobs += [{**run, "when": death}, {**run, "when": {}}]
    two = {**small, "max_steps": 1, "per_device_train_batch_size": 2, "eval_strategy": "no", "bf16": "true"}
    options = options_of(tmp_path / "two", clip, videos, **two)
    jobs.append({"options": options, "log": str(tmp_path / "two.log"), "world": 2, "when": {}})
    codes = drive(tmp_path, jobs)
    assert codes == [0] + [-9, 0] * len(deaths) + [0], (tmp_path / "two.log").read_text()[-2000:]
    found = [load_file(tmp_path / name / "adapter_model.safetensors") for name in names]
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(other[name], value) for name, value in found[0].items())
    assert load_file(tmp_path / "two" / "adapter_model.safetensors").keys() == found[0].keys()


@pytest.mark.slow
def test_two_processes_resume_and_stop_together(material, tmp_path):
    clip, videos = material
    two = {"per_device_train_batch_size": 2, **damage(videos, tmp_path, 3)}
    whole = {"options": options_of(tmp_path / "whole", clip, videos, **two), "log": str(tmp_path / "whole.log")}
    job = {"options": options_of(tmp_path / "run", clip, videos, **two), "log": str(tmp_path / "run.log")}
    (tmp_path / "bad").mkdir()
    bad = {**two, **damage(videos, tmp_path / "bad", 12)}
    jobs = [{**whole, "when": {}}, {**job, "when": {"step": 13, "rank": 1}}]
    jobs += [{**job, "when": {"term": 21, "rank": 1}}, {**job, "when": {}}]
    jobs += [
        {"options": options_of(tmp_path / "stop", clip, videos, **bad), "log": str(tmp_path / "stop.log"), "when": {}}
    ]
    with_pictures(jobs[1], jobs[3])
    codes = drive(tmp_path, [{**job, "world": 2} for job in jobs])
    assert codes == [0, -9, 0, 0, 2]
    assert len([*(tmp_path / "run").rglob("events.out.tfevents*")]) == 2  # by the first process of each attempt
    expected, found = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    assert not [name for name, value in expected.items() if not torch.equal(value, found[name])]
    report = json.loads((tmp_path / "run" / "unreadable_videos.json").read_text())
    assert set(report["videos"]) == {"missing_0.mp4", "missing_1.mp4", "missing_2.mp4"}
    assert [rank["rank"] for rank in report["per_rank"]] == [0, 1]
    assert "Going on from" in (tmp_path / "run.log").read_text()
    said = [(tmp_path / name).read_text().count("ila train: error") for name in ("stop.log", "stop.1.log")]
    assert "readings failed" in (tmp_path / "stop.log").read_text() and said == [1, 0]
