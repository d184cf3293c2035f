"""The printed kernels: what the command shows is what CuPy is given."""

import pytest
from interpreter import run

from gpubackprop import activations, losses, optimizers
from gpubackprop.backends import show
from gpubackprop.backends.cuda_printer import dropout_kernel, to_kernel
from gpubackprop.expressions import Expression


def test_the_fused_sigmoid_delta(capsys):
    assert show.main(["sigmoid_delta"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "sigmoid_delta(T delta, T a) -> (T out)",
        "    out = delta * (a * (T(1.0) - a));",
    ]


def test_every_entry_of_the_tables_has_its_kernels():
    names = set(show.kernels())
    for activation in activations.ACTIVATIONS.values():
        if activation.elementwise:
            assert {activation.forward.name, activation.delta.name} <= names
    for optimizer in optimizers.OPTIMIZERS.values():
        assert optimizer().expression.name in names
    for name in losses.LOSSES:
        assert any(f"_{name}_delta" in kernel for kernel in names)
    assert {"dropout_mask", "record_loss", "penalty", "decay"} <= names


def test_locals_constants_and_scalars_are_typed():
    expression = Expression(
        "e",
        ("x",),
        {"half": "x / 2", "out": "where(half < limit, half * rate, -1e-30)"},
        scalars=("rate",),
        constants={"limit": 3.0},
    )
    kernel = to_kernel(expression)
    assert kernel.inputs == "T x, T rate, T limit"
    assert kernel.operation.splitlines() == [
        "T half = x / T(2.0);",
        "out = (half < limit ? half * rate : T(-1e-30));",
    ]


def test_the_dropout_kernel_is_the_hash():
    operation = dropout_kernel().operation
    assert "x ^= x >> 16;" in operation
    assert "x = x * 0x7feb352dull & 0xFFFFFFFFull;" in operation


def test_names_are_listed_and_close_ones_offered(capsys):
    assert show.main([]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == sorted(show.kernels())
    assert show.main(["sigmod_delta"]) == 2
    error = capsys.readouterr().err
    assert "no kernel 'sigmod_delta'" in error
    assert "sigmoid_delta" in error
    assert error.count("\n") == 1
    assert show.main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["adam_step"])
def test_the_command_needs_no_cupy(name):
    code = (
        "import sys; sys.modules['cupy'] = None\n"
        f"from gpubackprop.backends import show; sys.exit(show.main([{name!r}]))"
    )
    assert run(code).startswith("adam_step(T g, T rate, T epsilon, T beta1, T beta2")
