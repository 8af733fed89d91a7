"""`ila train`: what it says, what it refuses, and what its output folder is good for."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import pipeline

from support.paths import RECIPES, ROOT
from support.tiny_models import save_clip
from transformers_ila import IlaVideoProcessor
from transformers_ila.cli import evaluate, train
from transformers_ila.cli.main import run_verb
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.training.checkpoints import verify_manifest


ACCELERATE = sorted((RECIPES / "accelerate").glob("*.yaml"))
FIELDS = {
    "num_frames": 4,
    "config": json.dumps({"alignment_hidden_size": 8}),
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 2,
    "max_steps": -1,
    "bf16": "false",
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": "false",
    "disable_tqdm": "true",
    "report_to": "none",
    "use_cpu": "true",
}
RECIPE = str(RECIPES / "small_b16_8f.yaml")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    write_folder(folder / "train", 16, seed=0, num_frames=6)
    write_folder(folder / "val", 8, seed=1, num_frames=6)
    save_clip(folder / "clip")
    return folder


def options(material, output, **changes):
    lists = {"train_list": material / "train", "val_list": material / "val", "clip": material / "clip"}
    fields = {**FIELDS, **lists, "output_dir": output, **changes}
    return [RECIPE, *(f"--{name}={value}" for name, value in fields.items())]


@pytest.fixture(scope="module")
def trained(material, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "run"
    assert run_verb(train, options(material, output)) == 0
    return output


def test_the_output_folder_is_a_model(trained, material, tmp_path):
    video = next((material / "val").rglob("*.mp4"))
    answers = pipeline("video-classification", model=str(trained))(str(video), top_k=8)
    assert len(answers) == 8 and {answer["label"] for answer in answers} == {
        p.name for p in (material / "val").iterdir()
    }
    assert IlaVideoProcessor.from_pretrained(trained).num_frames == 4
    report = tmp_path / "report.json"
    command = ["--model", str(trained), "--videos", str(material / "val"), "--output", str(report)]
    assert run_verb(evaluate, command) == 0
    assert report.is_file()


def test_the_output_folder_says_how_it_came_about(trained):
    values = yaml.safe_load((trained / "training.yaml").read_text())
    assert values["global_batch_size"] == 8 and values["gradient_accumulation_steps"] == 2
    assert values["flip"] == 0.0 and values["val_fraction"] == 0.0  # classes name left and right; there is a val_list
    assert "1 processes" in (trained / "training.yaml").read_text().splitlines()[0]
    assert json.loads((trained / "unreadable_videos.json").read_text())["unreadable"] == 0
    checkpoints = sorted(trained.glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-2", "checkpoint-4"]
    assert not any(map(verify_manifest, checkpoints))


def test_a_folder_with_checkpoints_is_not_begun_in_again(trained, material, capsys):
    assert run_verb(train, options(material, trained)) == 2
    assert "holds checkpoints: go on with --resume" in capsys.readouterr().err


def test_resuming_says_from_where_and_refuses_another_run(trained, material, capsys):
    assert run_verb(train, [*options(material, trained), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert f"Going on from {str(trained / 'checkpoint-4')!r}." in printed and "Trained 4 steps." in printed
    assert run_verb(train, [*options(material, trained, learning_rate=1), "--resume"]) == 2
    assert "learning_rate: 8e-06, now 1.0" in capsys.readouterr().err


def test_half_a_checkpoint_is_passed_over(trained, material, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    state = copy / "checkpoint-4" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert run_verb(train, [*options(material, copy), "--resume"]) == 0
    assert f"Going on from {str(copy / 'checkpoint-2')!r}." in capsys.readouterr().out
    assert verify_manifest(copy / "checkpoint-4") is None


def test_resuming_where_nothing_is_begins(material, tmp_path, capsys):
    fields = {"max_steps": 1, "save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": "false"}
    assert run_verb(train, [*options(material, tmp_path / "new", **fields), "--resume"]) == 0
    assert "this is the beginning" in capsys.readouterr().out


def test_a_part_is_held_out_by_default(material, tmp_path, capsys, caplog):
    """Of eight classes of two videos one each is held out."""
    fields = {"global_batch_size": 4, "num_train_epochs": 1, "val_list": "null"}
    chosen = options(material, tmp_path / "run", **fields, val_fraction=0.5)
    assert run_verb(train, chosen) == 0
    printed = capsys.readouterr().out
    assert "Held out 8 of 16 videos to evaluate on (50%), which is 50% of each class" in printed
    assert re.search(r"^Accuracy on 8 videos: top-1 \d+\.\d%, top-5 \d+\.\d%$", printed, re.MULTILINE)
    assert "The run has 2 steps and its warm-up takes 2" in caplog.text  # three epochs of two
    values = yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())
    assert values["val_fraction"] == 0.5 and values["val_list"] is None
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert any("eval_top1" in line for line in state["log_history"])
    assert run_verb(train, [*chosen, "--resume"]) == 0  # the same videos
    assert "Accuracy on 8 videos" in capsys.readouterr().out
    assert run_verb(train, options(material, tmp_path / "none", **fields, max_steps=1, val_fraction=0)) == 0
    printed = capsys.readouterr().out
    assert "`val_fraction` is 0 and there is no `val_list`" in printed and "Nothing was evaluated." in printed


def test_an_adapter_goes_on_from_its_checkpoint_and_is_opened(material, tmp_path, capsys):
    lora = {"lora_r": 2, "lora_mlp": "true", "load_best_model_at_end": "false"}
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run_verb(train, options(material, whole, **lora)) == 0
    size = sum(file.stat().st_size for file in whole.iterdir() if file.is_file())
    assert not list(whole.glob("model*")) and size < 2e6
    assert "library_name: peft" in (whole / "README.md").read_text()
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoint-4")
    (part / "adapter_model.safetensors").unlink()
    torch.manual_seed(1234)  # or earlier tests may have left the very state that the first weights were drawn in
    save_clip(tmp_path / "other")  # other random weights
    assert run_verb(train, [*options(material, part, **{**lora, "clip": tmp_path / "other"}), "--resume"]) == 2
    assert "was trained on other weights than this model's" in capsys.readouterr().err
    assert run_verb(train, [*options(material, part, **lora), "--resume"]) == 0
    same = [(folder / "adapter_model.safetensors").read_bytes() for folder in (whole, part)]
    assert same[0] == same[1]
    said = re.search("Accuracy on 8 videos: top-1 (.*)%,", capsys.readouterr().out)[1]
    command = ["--model", str(part), "--videos", str(material / "val"), "--output", str(tmp_path / "report.json")]
    assert run_verb(evaluate, command) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert f"{report['metrics']['top1']:.1%}" == f"{said}%"
    assert run_verb(train, options(material, tmp_path / "no", **lora, from_scratch="true", clip="null")) == 2
    assert "`lora_r` adapts weights that can be loaded again" in capsys.readouterr().err


def test_what_is_wrong_is_found_before_weights_are_loaded(material, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers_ila.training.run.model_of", None)
    for changes in (
        {"mixup": -1},
        {"jitter": 7},
        {"flip": "often"},
        {"global_batch_size": 64},
        {"val_list": "no.txt"},
    ):
        assert run_verb(train, options(material, tmp_path, **changes)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_recipes_can_be_found_by_other_programs(capsys):
    for name, file in (("small_b16_8f", "small_b16_8f.yaml"), ("ddp", "accelerate/ddp.yaml")):
        with pytest.raises(SystemExit) as ended:
            run_verb(train, ["--print_path", name])
        assert not ended.value.code and capsys.readouterr().out == f"{RECIPES / file}\n"
    assert run_verb(train, ["--print_path"]) == 2
    assert "it is neither a file nor one of head_b16_8f, k400_b16_16f" in capsys.readouterr().err


def test_several_labels(material, tmp_path, capsys):
    names = [str(path.relative_to(material / "train")) for path in sorted((material / "train").rglob("*.mp4"))]
    lines = [f"{name} {index % 3} {3 + index % 2}" for index, name in enumerate(names)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "names.txt").write_text("\n".join("abcde") + "\n")
    lists = {"train_list": tmp_path / "list.txt", "val_list": tmp_path / "list.txt", "videos": material / "train"}
    changes = {**lists, "labels": tmp_path / "names.txt", "num_train_epochs": 1, "classification_head": "linear"}
    assert run_verb(train, options(material, tmp_path / "run", **changes)) == 2  # they must be asked for
    assert "list.txt', line 1, column" in (said := capsys.readouterr().err) and "--multi_label" in said
    assert run_verb(train, [*options(material, tmp_path / "run", **changes), "--multi_label"]) == 0
    assert "Best loss" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["problem_type"] == "multi_label_classification"


def test_streamed_shards(material, tmp_path, capsys):
    paths = sorted((material / "train").rglob("*.mp4"))
    names = sorted({path.parent.name for path in paths})
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for index, path in enumerate(paths[shard::2]):
                number = 1 + names.index(path.parent.name)  # as the file of names counts
                (tmp_path / "label").write_text(str(number) if shard else path.parent.name)
                tar.add(path, f"{shard}-{index}.mp4")
                tar.add(tmp_path / "label", f"{shard}-{index}.cls")
    (tmp_path / "names.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names, 1)))
    changes = {"train_list": tmp_path / "train-{0..1}.tar", "labels": tmp_path / "names.txt", "stream": "true"}
    assert run_verb(train, options(material, tmp_path / "run", **changes)) == 0
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4 and state["epoch"] == 2.0
    changes["val_list"] = "null"
    assert run_verb(train, options(material, tmp_path / "alone", **changes)) == 0
    assert "`stream` reads shards in one pass, from which no video can be held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rte": 1}, "error: there is no option --learning_rte; did you mean --learning_rate?"),
        ({"train_list": "nowhere.txt"}, "nowhere.txt"),
        ({"clip": "/no/such/folder"}, "/no/such/folder"),
        ({"clip": "nope"}, "There is no folder 'nope', and it is no Hub id (`user/name`) either."),
        ({"expect_processes": 2}, "2 processes were expected, and there are 1."),
        ({"global_batch_size": 64}, "16 videos are fewer than one global batch of 64."),
        ({"config": '{"nothing": 1}'}, "IlaConfig has no 'nothing'"),
        ({"mixup": -1}, "mixup must be"),
        ({"tower": "B/7"}, "`tower` must be one of B/32"),
    ],
)
def test_what_is_wrong_ends_with_two_and_one_line(material, tmp_path, capsys, changes, message):
    assert run_verb(train, options(material, tmp_path, **changes)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and error[0].startswith("ila train: error: ") and message in error[0]


def test_recipes_that_are_not_there(capsys):
    assert run_verb(train, ["nowhere.yaml"]) == 2 and "nowhere.yaml" in capsys.readouterr().err
    assert run_verb(train, ["--help"]) == 0
    printed = capsys.readouterr().out
    for shown in (
        "usage: ila train [RECIPE] [options]\n",
        "\nRecipes:\n  head_b16_8f, k400_b16_16f,",
        "annotations to train on (required)\n",
        "probability of mirroring a clip",
        "--resume",
        "\nmodel:\n",
        "\nvideos:\n",
        "\nclips:\n",
        "\nrun:\n",
        "\noptimisation:\n",
        "--learning_rate",
    ):
        assert shown in printed


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_files(file):
    config = load_config_from_file(str(file))
    assert config.num_processes in (1, 8, 16)
    assert {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(file.stem, "") in str(config.distributed_type)


@pytest.mark.slow
def test_a_disk_that_is_really_full(material, trained, tmp_path, capsys):
    """A file system of memory, with room for one checkpoint and a half."""
    size = sum(path.stat().st_size for path in (trained / "checkpoint-4").iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2 // 1024}k", "tmpfs", str(disk)])
    if mount.returncode != 0:
        pytest.skip("mounting is not permitted")
    try:
        assert run_verb(train, options(material, disk / "run")) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "checkpoint-4' could not be written" in error and "MiB are free" in error and "checkpoint-2'" in error
        assert verify_manifest(disk / "run" / "checkpoint-2") is None
        assert not (disk / "run" / "checkpoint-4").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_one_process_in_place_of_two_is_refused(material, tmp_path):
    """`accelerate launch --cpu` starts one, whatever is asked for."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += [str(ROOT / "scripts" / "train.py"), *options(material, tmp_path, expect_processes=2)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode != 0 and "2 processes were expected, and there are 1." in run.stderr


@pytest.mark.slow
def test_one_of_several_processes_says_what_is_wrong(material, tmp_path):
    """Three runs, one after the other in the same two processes."""
    wrong = [{"train_list": "nowhere.txt"}, {"clip": "/no/such/folder"}, {"mixup": "much"}]
    program = tmp_path / "three_runs.py"
    program.write_text(
        "import sys\nimport ila_cli\n"
        f"runs = {[['train', *map(str, options(material, tmp_path, **changes))] for changes in wrong]!r}\n"
        "codes = [ila_cli.main(each) for each in runs]\n"
        "sys.exit(0 if codes == [2, 2, 2] else f'exit codes {codes}')\n"
    )
    processes = start_two([[], []], program)
    errors = "".join(process.communicate(timeout=600)[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert errors.count("ila train: error: ") == 3 and "Traceback" not in errors
    assert all(errors.count(str(value)) == 1 for changes in wrong for value in changes.values()), errors


def start_two(each, program=ROOT / "scripts" / "train.py"):
    """One process of the program for the options of each rank, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank, chosen in enumerate(each):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, str(program), *map(str, chosen)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    return processes


@pytest.mark.slow
def test_sigterm_to_all_processes_of_a_run_saves_and_ends(material, tmp_path):
    """As schedulers send it: to the workers of the loaders, too."""
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": "true", "jitter": 1, "max_steps": 500}
    command = [sys.executable, str(ROOT / "scripts" / "train.py")]
    command += options(material, tmp_path / "run", logging_steps=1, logging_strategy="steps", **workers)
    lines_at_once = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=lines_at_once
    ) as run:
        lines = []
        for line in run.stdout:
            lines.append(line)
            if "'loss'" in line and "'epoch': '3" in line:  # the evaluation's workers have been there, too
                os.killpg(run.pid, signal.SIGTERM)
                break
        lines += run.stdout
    said = "".join(lines)
    assert run.returncode == 0, said[-3000:]
    assert "SIGTERM: saved after step" in said and "killed by signal" not in said
    step = said.split("SIGTERM: saved after step ")[1].split(";")[0]
    assert verify_manifest(tmp_path / "run" / f"checkpoint-{step}") is None


@pytest.mark.slow
def test_machines_that_do_not_share_the_output_folder_do_not_go_on(material, trained, tmp_path):
    """One has the last checkpoint, the other an earlier one."""
    folders = [shutil.copytree(trained, tmp_path / name) for name in ("a", "b")]
    shutil.rmtree(folders[1] / "checkpoint-4")
    runs = start_two([[*options(material, folder), "--resume"] for folder in folders])
    errors = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [2, 2], errors
    assert "same checkpoint: process 0: checkpoint-4; process 1: checkpoint-2. All machines must" in errors[0]
    assert "ila train: error" not in errors[1]


@pytest.mark.slow
def test_two_machines(material, tmp_path):
    """The example: two network namespaces, one process in each, each with shards of its own."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "classes.txt").write_text("\n".join(sorted(path.name for path in (material / "train").iterdir())))
    for number in range(4):
        with tarfile.open(tmp_path / "shards" / f"train-{number:06}.tar", "w") as tar:
            for video in sorted((material / "train").rglob("*.mp4"))[number::4]:
                (tmp_path / "label").write_text(video.parent.name)
                tar.add(video, f"{video.parent.name}-{video.name}")
                tar.add(tmp_path / "label", f"{video.parent.name}-{video.stem}.cls")
    command = [str(ROOT / "tests" / "support" / "two_machines.sh"), str(tmp_path / "second.log")]
    command += [str(ROOT / "examples" / "accelerate" / "two_machines.sh")]
    command += options(material, "my-run", train_list="shards", max_steps=4)[1:]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=tmp_path)
    if run.returncode == 77:
        pytest.skip(f"network namespaces are not permitted: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr[-2000:] + (tmp_path / "second.log").read_text()[-2000:]
    assert "2 processes, 8 videos a step" in run.stdout and "Trained 4 steps." in run.stdout
