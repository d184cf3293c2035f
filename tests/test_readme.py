"""The README: its code runs and prints what it says, its tables and kernels are the real ones."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.activations import SIGMOID
from gpubackprop.backends.cuda_printer import to_kernel
from gpubackprop.executors import EXECUTORS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = [
    code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "import gpubackprop" in code
]
NUMBER = r"\d+\.\d+"


@pytest.mark.parametrize("number", range(len(CODE)))
def test_code_runs_and_prints_what_stands_below_it(number, capsys):
    exec(compile(CODE[number], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    if number == 0:
        (shown,) = re.findall(r"<!-- printed by the example -->\n```text\n(.*?)```", TEXT, re.S)
        for line, promised in zip(printed.splitlines()[:3], shown.splitlines()[:3], strict=True):
            assert re.sub(NUMBER, "", line) == re.sub(NUMBER, "", promised)
            # To rounding on this machine; another BLAS may end a little elsewhere.
            got, wanted = re.findall(NUMBER, line), re.findall(NUMBER, promised)
            np.testing.assert_allclose(float(got[0]), float(wanted[0]), rtol=0.2)
            np.testing.assert_allclose(float(got[1]), float(wanted[1]), atol=2)
        assert float(re.findall(r"largest error (\S+)", printed)[0]) < 1e-8
    else:
        assert "delta[0] = (delta[1] @ W[1]) * f'(z)" in printed


def test_both_commands_stand_where_they_are_looked_for():
    for name, command in (
        ("main", 'python -m pip install ".[all]" && gpubackprop compare'),
        ("test", 'python -m pip install ".[test]" && python -m pytest -n auto'),
    ):
        (found,) = re.findall(rf"<!-- {name} command -->\n```console\n(.*?)\n```", TEXT)
        assert found == command


def test_the_kernel_shown_is_the_one_that_runs():
    kernel = to_kernel(SIGMOID.delta)
    for part in (kernel.inputs, kernel.outputs, kernel.operation, kernel.name):
        assert f'"{part}"' in TEXT


def test_the_tables_name_every_executor():
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.M)
    assert set(EXECUTORS) <= set(rows)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
