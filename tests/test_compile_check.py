"""The CUDA kernels compiled by NVIDIA's compiler, and that the check of it sees what it should."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require

from benchmarks import compile_check
from gpubackprop.backends import show
from gpubackprop.backends.cuda import modules

ROOT = Path(__file__).resolve().parents[1]


def need_wheels():
    """Skip where NVRTC's wheels are missing; fail where they are required, as in CI."""
    require("cupy")
    reason = compile_check.problem()
    if reason and os.environ.get("GPUBACKPROP_REQUIRE_CUPY"):
        pytest.fail(f"GPUBACKPROP_REQUIRE_CUPY is set, and nothing can be compiled: {reason}")
    if reason:
        pytest.skip(reason)


def python(*arguments):
    # In a process of its own: in this one the emulator has taken NVRTC's place.
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=600
    )


def compiled(body, *, kernels="k", options="", architecture="90"):
    """Return what the check says of a kernel."""
    code = f"""
from benchmarks.compile_check import *
unit = Unit("unit", {body!r}, ("--std=c++17",), ({kernels!r},), ())
report = Report()
report.compile(unit, {architecture!r})
print("\\n".join(report.failures or report.lines()))
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


GOOD = """extern "C" __global__ void k(float* x) {
  __shared__ float s[32]; s[x[0] > 1] = 1; x[1] = s[1]; }"""
STACK = """extern "C" __global__ void k(int* x) {
  volatile int a[32]; for (int i = 0; i < 32; i++) a[i] = x[i]; x[0] = a[x[1]]; }"""
SPILL = """extern "C" __global__ void __launch_bounds__(1024, 2) k(float* x) {
  float a[64];
#pragma unroll
  for (int i = 0; i < 64; i++) a[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) x[i * 1024 + threadIdx.x] = a[i] * a[63 - i] + a[(i * 7) % 64]; }"""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (GOOD, r"\| unit \| `k` \|(.*\d+.*)\| 128 \|"),
        (GOOD.replace("x[1]", "y"), 'error: identifier "y" is undefined'),
        (GOOD.replace("x[1]", "int y = 1; x[1]"), "warning .* was declared but never referenced"),
        (GOOD.replace("void k", "void other"), "k is missing"),
        (STACK, "k has a stack frame of 128 bytes"),
        (SPILL, r"k spills \d+ bytes of registers|Registers are spilled"),
    ],
    ids=["good", "error", "warning", "missing", "stack frame", "spill"],
)
def test_the_check_sees(source, text):
    need_wheels()
    assert re.search(text, compiled(source))


def test_every_kernel_compiles():
    """A sample of what `benchmarks/compile_check.py --all` compiles."""
    need_wheels()
    done = python("benchmarks/compile_check.py")
    assert done.returncode == 0, done.stderr
    wanted = set(show.kernels()) | set(itertools.chain(*modules.KERNELS.values()))
    assert wanted <= set(re.findall(r"`(\w+)`", done.stdout))


def test_the_table_lists_every_kernel():
    """`python benchmarks/compile_check.py --all --write` writes it anew."""
    text = compile_check.TABLE.read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)` \|", text))
    assert set(show.kernels()) | set(itertools.chain(*modules.KERNELS.values())) <= listed
