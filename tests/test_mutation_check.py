"""Mutants of the CUDA kernels: the table of them is up to date, and six are caught again."""

import itertools
import subprocess
import sys

import cpucuda
import pytest
from conftest import require

from benchmarks import mutation_check
from gpubackprop.backends.cuda import modules

#: One barrier, or where a file has none, one bound, that the table calls caught.
FILES = ("block.cu", "gemm.cu", "layers.cu", "output.cu", "rows.cu", "update.cu")


def chosen(file):
    """Return a mutant of a file, alone on its line."""
    known, every = mutation_check.known(), mutation_check.mutants(file)
    lines = [mutant.line for mutant in every]
    caught = [m for m in every if lines.count(m.line) == 1 and known.get(m.row) == "caught"]
    barriers = [mutant for mutant in caught if mutant.kind == "barrier"]
    return (barriers or caught)[0]


def test_six_mutants_are_caught():
    require("cupy")
    if not cpucuda.installed():
        pytest.skip("mutants could harm a real GPU's driver")
    mutants = {file: chosen(file) for file in FILES}
    places = [f"{file}:{mutant.line}" for file, mutant in mutants.items()]
    # In a process of its own: its children are forks, and some of them crash.
    done = subprocess.run(
        [sys.executable, mutation_check.__file__, *places],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert found == dict.fromkeys(places, "caught")


def test_every_file_of_kernels_has_mutants():
    files = {f"{name}.cu" for name in (*modules.UNITS, *itertools.chain(*modules.FILES.values()))}
    assert set(mutation_check.EXECUTORS) == files | {"common.cu"}


@pytest.mark.parametrize("file", mutation_check.EXECUTORS)
def test_the_table_is_up_to_date(file):
    """After a change of kernels: `python benchmarks/mutation_check.py CHANGED.cu --write`."""
    known = mutation_check.known()
    missing = [mutant.row for mutant in mutation_check.mutants(file) if mutant.row not in known]
    assert not missing


def test_every_survivor_has_an_argument():
    text = mutation_check.TABLE.read_text(encoding="utf-8").split("<!--")[0]
    for row, end in mutation_check.known().items():
        if end == "survives":
            code = row.split("`")[1]
            assert f"`{code}`" in text, row
