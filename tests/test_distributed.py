"""Which of the processes this one is: by torchrun's variables, and by Slurm's, as Slurm 22.05 sets them."""

import logging
import os

import pytest
import torch

from transformers_ila.cli import predict, train
from transformers_ila.cli.main import run_verb
from transformers_ila.distributed import (
    Rank,
    current_rank,
    export_srun_rank,
    is_first_of_machine,
    process_group,
    rank_from_environment,
)


JOB = {"SLURM_JOB_ID": 7, "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_CPUS_ON_NODE": 8, "SLURM_GTIDS": "0"}
SCRIPT = {
    **JOB,
    "SLURM_NTASKS": 4,
    "ENVIRONMENT": "BATCH",
}  # what a script of sbatch sees, started once
TASK = {**SCRIPT, "SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": 4, "SLURM_PROCID": 2, "SLURM_LOCALID": 1}
TASK["SLURM_GTIDS"] = "1,2"
ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
ALONE = Rank(0, 1, 0)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What `set_all` sets, and nothing that a launcher of the tests has set."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]


def set_all(*groups, **values):
    for name, value in {name: value for group in (*groups, values) for name, value in group.items()}.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)


@pytest.mark.parametrize(
    ("given", "rank"),
    [
        ({"SLURM_PROCID": 1, "SLURM_NTASKS": 2}, Rank(1, 2, 0)),
        ({"SLURM_PROCID": 0, "SLURM_NTASKS": 2, "SLURM_LOCALID": 0}, Rank(0, 2, 0)),  # by hand: no job
        ({"SLURM_PROCID": 0, "SLURM_NTASKS": 1}, ALONE),
        (TASK, Rank(2, 4, 1)),
        ({**TASK, "SLURM_STEP_NUM_TASKS": None}, Rank(2, 4, 1)),
        ({**TASK, "SLURM_STEP_ID": None, "SLURM_STEP_NUM_TASKS": None}, Rank(2, 4, 1)),
        ({**TASK, "SLURM_NTASKS": 8}, Rank(2, 4, 1)),  # srun --preserve-env: the job's tasks, and not the step's
        ({**TASK, "SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 1, "SLURM_NTASKS": 1}, ALONE),
        ({**TASK, "RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 3}, Rank(5, 8, 3)),  # torchrun within srun
        ({**TASK, "RANK": 2, "WORLD_SIZE": 4}, Rank(2, 4, 1)),  # by hand, of SLURM_PROCID and SLURM_NTASKS
        ({**TASK, "RANK": 0, "WORLD_SIZE": 1}, Rank(0, 1, 1)),
        ({"SLURM_NTASKS": "many", "RANK": 0, "WORLD_SIZE": 2}, Rank(0, 2, 0)),
    ],
)
def test_ranks(given, rank, caplog):
    set_all(given)
    assert rank_from_environment() == rank and not caplog.records


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (SCRIPT, 4),
        ({**SCRIPT, "SLURM_NTASKS": 5, "SLURM_STEP_ID": -5}, 5),  # the newest Slurm
        ({**SCRIPT, "SLURM_NTASKS": 6, "SLURM_STEP_ID": 0xFFFFFFFB}, 6),
        ({"SLURM_JOB_ID": 7, "SLURM_NTASKS": 7}, 7),  # salloc
        ({**SCRIPT, "SLURM_NTASKS": 8, "SLURM_STEP_ID": -6, "SLURM_STEP_NUM_TASKS": 1}, 8),  # its shell on a node
        ({**SCRIPT, "SLURM_NTASKS": 9, "SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": 1}, 9),  # sbatch within srun
    ],
)
def test_a_process_that_srun_did_not_start_is_alone_and_says_so(given, asked, caplog):
    set_all(given)
    with caplog.at_level(logging.WARNING):
        assert rank_from_environment() == ALONE
    assert f"Slurm was asked for {asked} tasks" in caplog.text and "does all of the work alone" in caplog.text


def test_a_batch_script_of_one_task_says_nothing(caplog):
    set_all(SCRIPT, SLURM_NTASKS=None)
    assert rank_from_environment() == ALONE and not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"SLURM_PROCID": 4},
            "0 <= SLURM_PROCID < SLURM_NTASKS; got .*'SLURM_PROCID': '4'.*'SLURM_STEP_NUM_TASKS': '4'",
        ),
        ({"SLURM_PROCID": -1}, "'SLURM_PROCID': '-1'"),
        ({"SLURM_NTASKS": "4(x2)"}, r"must be numbers.*'SLURM_NTASKS': '4\(x2\)'"),
        ({"SLURM_STEP_ID": "batch"}, "'SLURM_STEP_ID': 'batch'"),
        ({"SLURM_LOCALID": -1}, "'SLURM_LOCALID': '-1'"),
        ({"SLURM_NTASKS": None, "SLURM_STEP_NUM_TASKS": None}, "0 <= SLURM_PROCID < SLURM_NTASKS"),
        ({"WORLD_SIZE": 1}, "'RANK': None, 'WORLD_SIZE': '1'}, and of srun SLURM_PROCID=2, SLURM_NTASKS=4"),
        ({"WORLD_SIZE": 4}, "0 <= RANK < WORLD_SIZE; got .*SLURM_PROCID=2"),
        ({"RANK": 0}, "'RANK': '0', 'WORLD_SIZE': None"),
    ],
)
def test_contradictions(changes, message):
    set_all(TASK, changes)
    with pytest.raises(ValueError, match=message):
        rank_from_environment()


def test_what_the_processes_of_a_machine_share(monkeypatch):
    """GPUs by their number, or one that each sees alone; CPUs once, also where Slurm has bound a task to its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    set_all(TASK)
    rank = rank_from_environment()
    assert rank.device() == "cuda:1" and rank.usual_workers() == 3 and not is_first_of_machine()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert rank.device() == "cuda:0"
    set_all(SLURM_CPUS_PER_TASK=3)
    assert rank.usual_workers() == 2
    set_all(SLURM_CPUS_PER_TASK=None, SLURM_GTIDS=None, SLURM_NTASKS_PER_NODE=4)
    assert rank.usual_workers() == 1
    set_all(SLURM_GTIDS="1,2")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))  # of the machine's 8: bound
    assert rank.usual_workers() == 3
    set_all(RANK=0, WORLD_SIZE=4, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2)  # torchrun within a task
    assert rank.usual_workers() == 1 and is_first_of_machine()


def test_a_process_group_of_srun_needs_an_address(capsys):
    set_all(TASK, SLURM_LOCALID=0)
    with pytest.raises(ValueError, match="4 processes meet at .* MASTER_ADDR and MASTER_PORT are not set.*scontrol"):
        with process_group():
            pass
    assert run_verb(train, ["small_b16_8f", "--train_list", "videos"]) == 2
    assert "ila train: error: 4 processes meet at MASTER_ADDR and MASTER_PORT" in capsys.readouterr().err
    set_all(MASTER_PORT=1)
    with pytest.raises(ValueError, match="and MASTER_ADDR is not set"):
        export_srun_rank()
    set_all(ADDRESS, RANK=0, WORLD_SIZE=1)  # a run of its own in every task
    with process_group() as rank:
        assert rank.world_size == 1 and current_rank() == ALONE


def test_training_reads_the_rank_of_srun():
    set_all(TASK, ADDRESS)
    export_srun_rank()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    assert [os.environ[name] for name in names] == ["2", "4", "1", "2"]
    set_all(SLURM_PROCID=3)
    export_srun_rank()
    assert os.environ["RANK"] == "2"  # what is set wins


@pytest.mark.parametrize("given", [SCRIPT, {}, {**TASK, "RANK": 0, "WORLD_SIZE": 4}])
def test_nothing_is_exported_elsewhere(given):
    set_all(given)
    before = dict(os.environ)
    export_srun_rank()
    assert os.environ == before


def test_of_the_tasks_of_a_machine_one_says_what_is_wrong_with_options(capsys):
    for local, said in (("0", 1), ("1", 0)):
        set_all(TASK, SLURM_LOCALID=local)
        assert run_verb(predict, ["--nonsense"]) == 2
        assert capsys.readouterr().err.count("--nonsense") == said
