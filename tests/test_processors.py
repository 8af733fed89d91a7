"""The tests of numbers, once for each set of instructions that the processor has: kernels differ, bounds must hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT


# What oneDNN calls a set -> what ATen calls it, and the processor's flag. Each set contains those before it.
SETS = {
    "AVX2": ("avx2", "avx2"),
    "AVX512_CORE": ("avx512", "avx512dq"),
    "AVX512_CORE_BF16": ("avx512", "avx512_bf16"),
    "AVX512_CORE_AMX": ("avx512", "amx_bf16"),
}
NUMERIC = [  # files, and tests of larger ones, that compare the results of two ways to compute the same
    "backbones/test_frozen_clip.py",
    "conversion/test_state_dicts.py",
    "model/test_alignment.py",
    "model/test_class_features.py::test_int8_weights_as_the_readme_makes_them",
    "model/test_class_features.py::test_merged_in_half_precision",
    "model/test_fusing.py",
    "model/test_layers.py",
    "model/test_modeling.py::test_attention_implementations_agree_everywhere",
    "model/test_modeling.py::test_half_precision",
    "model/test_pairs.py",
    "model/test_temporal.py::test_mixed_precision",
    "model/test_temporal.py::test_saved_loaded_cast_and_checkpointed",
]
HALF = [  # of these, those in which half precision or int8 takes part
    "model/test_alignment.py::test_half_precision_keeps_float32_statistics",
    "model/test_class_features.py::test_int8_weights_as_the_readme_makes_them",
    "model/test_class_features.py::test_merged_in_half_precision",
    "model/test_fusing.py::test_in_half_precision_before_and_after",
    "model/test_fusing.py::test_the_model_stays_as_it_was",
    "model/test_fusing.py::test_the_one_matrix_keeps_its_digits_in_bfloat16_beside_a_large_bias",
    "model/test_fusing.py::test_under_inference_mode_and_used_after_it",
    "model/test_layers.py",
    "model/test_modeling.py::test_half_precision",
    "model/test_pairs.py::test_in_bfloat16",
    "model/test_temporal.py::test_mixed_precision",
    "model/test_temporal.py::test_saved_loaded_cast_and_checkpointed",
]


def processor_flags() -> set[str]:
    """The flags of the first processor; empty where the system lists none, and on processors of another kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_bounds_hold_with_the_instructions(name):
    flags = processor_flags()
    here = [other for other, (_, flag) in SETS.items() if flag in flags]
    if name not in here:
        pytest.skip(f"the processor has no {name}")
    if name == here[-1]:
        pytest.skip(f"{name} is the largest set that the processor has: all other tests run with it")
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": name, "ATEN_CPU_CAPABILITY": SETS[name][0]}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    # AVX-512's sets differ in half precision and int8 only; float32 is computed with the largest by all other tests
    chosen = HALF if SETS[name][0] == SETS[here[-1]][0] else NUMERIC
    tests = [str(ROOT / "tests" / test) for test in chosen]
    run = subprocess.run([*command, *tests], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-1000:]
