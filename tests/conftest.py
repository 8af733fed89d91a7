"""Marks that transformers' own suites carry, so that pytest knows them; the scripts; one thread per test process."""

import sys
from pathlib import Path

import pytest
import torch


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
