"""The tests of numbers, once for each set of instructions that the processor has: kernels differ, bounds must hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT


# What oneDNN calls a set -> what ATen calls it, and the processor's flag. Each holds those before it.
SETS = {
    "AVX2": ("avx2", "avx2"),
    "AVX512_CORE": ("avx512", "avx512dq"),
    "AVX512_CORE_BF16": ("avx512", "avx512_bf16"),
    "AVX512_CORE_AMX": ("avx512", "amx_bf16"),
}


def processor_flags() -> set[str]:
    """The flags of the first processor; empty where the system or the processor tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def numeric_files() -> list[str]:
    """The files in which a test carries the mark, so that the others are not even imported."""
    files = sorted((ROOT / "tests").glob("*/test_*.py"))
    return [str(file) for file in files if "pytest.mark.numeric" in file.read_text(encoding="utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_bounds_hold_with_the_instructions(name):
    aten, flag = SETS[name]
    flags = processor_flags()
    if flag not in flags:
        pytest.skip(f"the processor has no {name}")
    if name == [other for other, (_, needed) in SETS.items() if needed in flags][-1]:
        pytest.skip(f"{name} is the highest that the processor has: all other tests run with it")
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": name, "ATEN_CPU_CAPABILITY": aten}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "numeric and not slow", "-p", "no:cacheprovider"]
    run = subprocess.run([*command, *numeric_files()], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-1000:]
