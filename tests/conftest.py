"""Marks that transformers' own suites carry, so that pytest knows them; the benchmarks; one thread per process."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch


# Also of the processes that tests start: with many cores and workers theirs would be cores times workers threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

SUITE_MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_expert_parallel_test",
    "is_fsdp_test",
    "is_pipeline_test",
    "is_tensor_parallel_test",
    "is_training_test",
    "order",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for mark in SUITE_MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' common suites")
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through all imported modules again and again, a seventh of the time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def compiled_code_of_others_is_forgotten(request: pytest.FixtureRequest) -> None:
    """Compiled code is kept per function, not per model: what earlier tests compiled would count against the limit."""
    if "compile" in request.node.name:
        torch.compiler.reset()
