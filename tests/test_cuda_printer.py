"""Expressions printed as CUDA: typed as they should be, and the same numbers as elsewhere."""

import re

import numpy as np
import pytest
import random_formulas
from numpy.testing import assert_allclose, assert_array_equal
from random_formulas import NAMES

from gpubackprop import backends
from gpubackprop.activations import ACTIVATIONS, LEAKY_RELU, SIGMOID
from gpubackprop.backends import show
from gpubackprop.backends.cuda_printer import Kernel, dropout_kernel, to_kernel
from gpubackprop.expressions import FUNCTIONS, Expression
from gpubackprop.optimizers import SGD, Adam

FLOAT64 = np.dtype("float64")


# ---- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "kernel"),
    [
        (
            SIGMOID.delta,
            Kernel("sigmoid_delta", "T delta, T a", "T out", "out = delta * (a * (T(1.0) - a));"),
        ),
        (
            LEAKY_RELU.forward,
            Kernel("leaky_relu_forward", "T z, T slope", "T out",
                   "out = (z < T(0.0) ? slope * z : z);"),
        ),
        (
            SIGMOID.bias_keeping_z,
            Kernel("sigmoid_bias_z", "T x, T b", "T z, T out",
                   "z = x + b;\nout = T(1.0) / (T(1.0) + exp(-z));"),
        ),
        (
            SIGMOID.bias,
            Kernel("sigmoid_bias", "T x, T b", "T out",
                   "T z = x + b;\nout = T(1.0) / (T(1.0) + exp(-z));"),
        ),
        (
            SGD(0.1, momentum=0.5).expression,
            Kernel("momentum_step", "T g, T learning_rate, T momentum", "T w, T velocity",
                   "velocity = momentum * velocity - learning_rate * g;\nw = w + velocity;"),
        ),
    ],
    ids=lambda value: value.name,
)  # fmt: skip
def test_kernel(expression, kernel):
    assert to_kernel(expression) == kernel


def test_folded_constants_are_parameters_too():
    kernel = to_kernel(Adam().expression)
    names = re.findall(r"T (\w+)", kernel.inputs)
    assert names[:3] == ["g", "rate", "epsilon"]
    assert len(names) == len(set(names)) == 7  # beta1, beta2, 1 - beta1, 1 - beta2
    body = set(re.findall(r"[a-z_]\w*", kernel.operation))
    assert set(names) <= body


def test_text_of_a_kernel():
    kernel = Kernel("twice", "T x", "T y, T z", "y = x;\nz = y;")
    assert str(kernel) == "twice(T x) -> (T y, T z)\n    y = x;\n    z = y;"


KERNELS = {name: kernel for name, kernel in show.kernels().items() if name != "dropout_mask"}


@pytest.mark.parametrize("name", KERNELS)
def test_every_number_has_the_arrays_type(name):
    """A bare 1.0 is a double, which would drag a float32 kernel through float64."""
    without = re.sub(r"T\(-?[\d.e+-]+\)", "", KERNELS[name].operation)
    assert not re.findall(r"(?<![\w.])\d", without)


@pytest.mark.parametrize("name", KERNELS)
def test_every_name_is_declared(name):
    kernel = KERNELS[name]
    parameters = re.findall(r"(\w+) (\w+)", f"{kernel.inputs}, {kernel.outputs}")
    assert {kind for kind, _ in parameters} == {"T"}
    known = {name for _, name in parameters}
    for line in kernel.operation.splitlines():
        declared, target, formula = re.fullmatch(r"(T )?(\w+) = (.*);", line).groups()
        read = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"T\([^)]*\)", "", formula)))
        assert read <= known | set(FUNCTIONS)
        assert (target in known) != bool(declared)
        known.add(target)


def test_the_hash_is_done_in_64_bits():
    """As the plain backends do it: with a mask after each product."""
    operation = dropout_kernel().operation
    assert operation.startswith("unsigned long long x = ")
    assert operation.count("& 0xFFFFFFFFull") == 3
    assert "0x7feb352dull" in operation
    assert "0x846ca68bull" in operation


# ---- numbers: one kernel for many formulas, because each takes a while to compile ----------------


def one_kernel(formulas):
    """Return an expression with one output for each formula, o0, o1, ..."""
    outputs = tuple(f"o{k}" for k in range(len(formulas)))
    return Expression("many", NAMES, dict(zip(outputs, formulas, strict=True)), outputs)


@pytest.mark.parametrize("seed", range(2))
def test_random_formulas(cupy_backend, seed):
    rng = np.random.default_rng([3, seed])
    nodes, values = [], {name: rng.normal(scale=1.5, size=50) for name in NAMES}
    while len(nodes) < 15:
        node = random_formulas.tree(rng, 4)
        with np.errstate(all="ignore"):
            expected = np.asarray(random_formulas.value(node, values))
        if np.unique(expected[np.isfinite(expected)]).size > 10:  # a formula that tells something
            nodes.append((node, expected))
    made = one_kernel([random_formulas.text(node) for node, _ in nodes])
    out = [cupy_backend.empty(50, FLOAT64) for _ in nodes]
    arguments = [cupy_backend.asarray(array) for array in values.values()]
    cupy_backend.elementwise(made, FLOAT64)(*arguments, *out)
    for (node, expected), array in zip(nodes, out, strict=True):
        # The functions of the two libraries differ in the last bit, which a difference of two
        # near numbers may bring forward.
        actual = cupy_backend.to_numpy(array)
        text = random_formulas.text(node)
        assert_allclose(actual, expected, rtol=1e-10, atol=1e-10, err_msg=text)


def test_random_programs(cupy_backend):
    """Outputs that are read before and after they are written, as optimisers do."""
    for seed in range(3):
        rng = np.random.default_rng([4, seed])
        statements = random_formulas.program(rng)
        values = {name: rng.normal(size=50) for name in (*NAMES, "u", "v")}
        with np.errstate(all="ignore"):
            expected = random_formulas.run_program(statements, values)
        formulas = {target: random_formulas.text(node) for target, node in statements}
        made = Expression("random_program", NAMES, formulas, outputs=("u", "v"))
        arrays = [cupy_backend.asarray(array) for array in values.values()]
        cupy_backend.elementwise(made, FLOAT64)(*arrays)
        for array, right in zip(arrays[3:], expected, strict=True):
            assert_allclose(cupy_backend.to_numpy(array), right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", [f for f, count in FUNCTIONS.items() if count == 2])
def test_fmax_and_fmin_leave_nan_out(backend, function):
    """As in C and NumPy; which is why no formula whose NaN must survive relies on them alone."""
    made = Expression(f"{function}_of_two", ("x", "y"), {"out": f"{function}(x, y)"})
    x, y = np.array([1.0, np.nan, 2.0, np.nan]), np.array([np.nan, 1.0, 3.0, np.nan])
    out = backend.empty(4, FLOAT64)
    backend.elementwise(made, FLOAT64)(backend.asarray(x), backend.asarray(y), out)
    expected = [1, 1, {"fmax": 3, "fmin": 2}[function], np.nan]
    assert_array_equal(backend.to_numpy(out), expected)


def every_derivative():
    entries = [entry for entry in ACTIVATIONS.values() if entry.elementwise]
    constants = {k: v for entry in entries for k, v in entry.parameters.items()}
    outputs = tuple(f"of_{entry.name}" for entry in entries)
    formulas = {out: f"delta * ({entry.df})" for out, entry in zip(outputs, entries, strict=True)}
    made = Expression("deltas", ("delta", "a", "z"), formulas, outputs, constants=constants)
    return entries, made


def test_every_activations_delta(cupy_backend):
    """All in one kernel, in float64, far out and at 0 too, against the plain backend."""
    entries, made = every_derivative()
    a = np.r_[np.linspace(-0.9, 0.9, 20), 0.0, -0.0, 1.0, -1.0, 1e4, -1e4, np.nan]
    z = np.r_[np.linspace(-5.0, 5.0, 20), 0.0, -0.0, 1e4, -1e4, 800.0, -800.0, np.nan]
    delta = np.linspace(-3, 2, len(a))
    out = [cupy_backend.empty(len(a), FLOAT64) for _ in entries]
    arguments = [cupy_backend.asarray(array) for array in (delta, a, z)]
    cupy_backend.elementwise(made, FLOAT64)(*arguments, *out)
    plain = backends.get("numpy-plain")
    for entry, array in zip(entries, out, strict=True):
        expected = np.empty(len(a))
        with plain.active():
            read = z if entry.reads == "z" else a
            plain.elementwise(entry.delta, FLOAT64)(delta, read, expected)
        assert_allclose(cupy_backend.to_numpy(array), expected, rtol=1e-13, atol=1e-15)


def every_pair():
    """Return the pairs with elementwise formulas, and one expression with all of these."""
    pairs, constants = list(show.of_pairs()), {}
    for expression in pairs:
        constants |= expression.constants
    outputs = tuple(f"out{k + 1}" for k in range(len(pairs)))
    formulas = (expression.statements["out"] for expression in pairs)
    statements = {"a": "o", **dict(zip(outputs, formulas, strict=True))}
    arguments = ("o", "z", "y")
    return pairs, Expression("pairs", arguments, statements, outputs, ("scale",), constants)


def test_every_pairs_loss_and_delta(cupy_backend, dtype):
    """As above. o, z and y need not go together for this."""
    pairs, made = every_pair()
    assert len(pairs) > 80
    rng = np.random.default_rng(7)
    o, y = rng.uniform(0.05, 0.95, size=40), rng.uniform(0, 1, size=40).round(1)
    z = rng.normal(scale=3, size=40)
    z[:4] = 1e4, -1e4, 0.0, np.nan
    o, y, z = (array.astype(dtype) for array in (o, y, z))
    out = [cupy_backend.empty(40, dtype) for _ in pairs]
    arguments = [cupy_backend.asarray(array) for array in (o, z, y)]
    cupy_backend.elementwise(made, dtype)(*arguments, 0.25, *out)
    plain = backends.get("numpy-plain")
    for expression, array in zip(pairs, out, strict=True):
        expected = np.empty(40, dtype)
        with plain.active():
            scale = [0.25] * len(expression.scalars)
            plain.elementwise(expression, dtype)(o, z, y, *scale, expected)
        rtol = {"float32": 1e-5, "float64": 1e-13}[dtype.name]
        actual = cupy_backend.to_numpy(array)
        assert_allclose(actual, expected, rtol=rtol, atol=rtol, err_msg=expression.name)
