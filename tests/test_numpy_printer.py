"""Expressions printed as NumPy calls: the same numbers as a plain evaluation, and no allocation."""

import threading
import tracemalloc

import numpy as np
import pytest
import random_formulas
from numpy.testing import assert_allclose, assert_array_equal
from random_formulas import NAMES

from gpubackprop import backends
from gpubackprop.activations import ACTIVATIONS, GELU, RELU, SIGMOID
from gpubackprop.backends.numpy_blocks import BLOCK
from gpubackprop.backends.numpy_printer import to_numpy
from gpubackprop.expressions import Expression
from gpubackprop.optimizers import Adam

FLOAT64 = np.dtype("float64")
N_FORMULAS, N_PROGRAMS = 200, 100


def compiled(expression, backend="numpy", dtype=FLOAT64):
    return backends.get(backend).elementwise(expression, dtype)


def columns(rng, shape=(64,)):
    """Return arrays for x, y and z: signed numbers, small and large, some equal, and one NaN."""
    made = {name: rng.normal(scale=1.5, size=shape) for name in NAMES}
    made["y"].flat[::7] = made["x"].flat[::7]
    made["z"].flat[::9] = np.round(made["z"].flat[::9])
    made["x"].flat[3] = np.nan
    return made


def evaluate(function, *arguments):
    with np.errstate(all="ignore"):
        return function(*arguments)


# ---- random formulas -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(N_FORMULAS))
def test_random_formula(seed):
    """To the last bit, because both do the same operations; into fresh memory and in place."""
    rng = np.random.default_rng([1, seed])
    node = random_formulas.tree(rng, 4)
    values = columns(rng)
    expected = evaluate(random_formulas.value, node, values)
    expected = np.broadcast_to(expected, values["x"].shape)
    made = Expression("random", NAMES, {"out": random_formulas.text(node)})
    for name in ("numpy", "numpy-plain"):
        out = np.empty(64)
        before = [array.copy() for array in values.values()]
        evaluate(compiled(made, name), *values.values(), out)
        assert_array_equal(out, expected, err_msg=to_numpy(made).source)
        assert_array_equal(list(values.values()), before)  # arguments are only read
        for aliased in NAMES:
            arrays = {name: array.copy() for name, array in values.items()}
            evaluate(compiled(made, name), *arrays.values(), arrays[aliased])
            assert_array_equal(arrays[aliased], expected, err_msg=to_numpy(made).source)
            for other in set(NAMES) - {aliased}:
                assert_array_equal(arrays[other], values[other])


@pytest.mark.parametrize("seed", range(N_PROGRAMS))
def test_random_program(seed):
    """Two outputs that are read before and after they are written, and locals."""
    rng = np.random.default_rng([2, seed])
    statements = random_formulas.program(rng)
    values = columns(rng) | {name: rng.normal(size=64) for name in ("u", "v")}
    expected = evaluate(random_formulas.run_program, statements, values)
    made = Expression(
        "random",
        NAMES,
        {target: random_formulas.text(node) for target, node in statements},
        outputs=("u", "v"),
    )
    for name in ("numpy", "numpy-plain"):
        arrays = {name: array.copy() for name, array in values.items()}
        evaluate(compiled(made, name), *arrays.values())
        assert_array_equal([arrays["u"], arrays["v"]], expected, err_msg=to_numpy(made).source)
        for unchanged in NAMES:
            assert_array_equal(arrays[unchanged], values[unchanged])


def test_random_formulas_are_worth_something():
    """Most of them neither constant nor NaN, and together they use the whole language."""
    kinds, telling = set(), 0
    for seed in range(N_FORMULAS):
        rng = np.random.default_rng([1, seed])
        node = random_formulas.tree(rng, 4)
        values = columns(rng)
        result = np.asarray(evaluate(random_formulas.value, node, values))
        telling += np.unique(result[np.isfinite(result)]).size > 10
        kinds |= set(_kinds(node))
    assert telling > N_FORMULAS // 3
    assert kinds >= {*random_formulas.UNARY, *random_formulas.BINARY, "**", "where"}
    assert kinds >= set(random_formulas.COMPARISONS)


def _kinds(node):
    for part in node:
        if isinstance(part, tuple):
            yield from _kinds(part)
        elif isinstance(part, str):
            yield part


# ---- outputs that are read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "expected"),
    [  # from u = 2, v = 3, x = 5
        ({"u": "v", "v": "u"}, (3, 3)),
        ({"t": "u", "u": "v", "v": "t"}, (3, 2)),
        ({"u": "u + v", "v": "u - v"}, (5, 2)),
        ({"v": "u * x", "u": "v + u"}, (12, 10)),
        ({"t": "u * v", "u": "x", "v": "t + u"}, (5, 11)),
        ({"u": "x", "v": "x"}, (5, 5)),
        ({"u": "7", "v": "u"}, (7, 7)),
        ({"u": "u", "v": "v"}, (2, 3)),
        ({"s": "u", "t": "v", "u": "where(s < t, t, s)", "v": "where(s < t, s, t)"}, (3, 2)),
        ({"u": "where(u < v, v + u, u)", "v": "where(v < u, u, v)"}, (5, 5)),
    ],
)
@pytest.mark.parametrize("name", ["numpy", "numpy-plain"])
def test_outputs_are_read_as_they_stand(statements, expected, name):
    made = Expression("k", ("x",), statements, outputs=("u", "v"))
    x, u, v = np.full(4, 5.0), np.full(4, 2.0), np.full(4, 3.0)
    compiled(made, name)(x, u, v)
    assert_array_equal([u[0], v[0]], expected)
    assert_array_equal(x, [5.0] * 4)


def test_scalars_and_constants_are_numbers_of_the_dtype():
    made = Expression("k", ("x",), {"out": "c * x + s"}, scalars=("s",), constants={"c": 0.1})
    out = np.empty(3, "float32")
    for scalar in (0.2, np.float64(0.2), np.float32(0.2)):
        compiled(made, dtype=np.dtype("float32"))(np.ones(3, "float32"), scalar, out)
        assert_array_equal(out, np.float32(0.1) + np.float32(0.2))


# ---- blocks --------------------------------------------------------------------------------------

SHAPES = [(BLOCK,), (BLOCK + 1,), (3 * BLOCK + 17,), (5, BLOCK), (257, 129), (1, 1), (0,), (0, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "expression", [GELU.delta, RELU.forward, SIGMOID.delta], ids=lambda e: e.name
)
def test_large_arrays_equal_small_ones(expression, shape, rng):
    """One pass over an array of any size is the pass over each of its parts."""
    arrays = [rng.normal(size=shape) for _ in expression.arguments]
    out = np.empty(shape)
    compiled(expression)(*arrays, out)
    parts = []
    for start in range(0, out.size, 1000):
        part = [array.reshape(-1)[start : start + 1000] for array in arrays]
        parts.append(np.empty(part[0].size))
        compiled(expression)(*part, parts[-1])
    assert_array_equal(out.reshape(-1), np.concatenate(parts) if parts else [])


def test_large_arrays_with_scalars_and_several_outputs(rng):
    """Adam on more than one block, against the same in plain NumPy."""
    n = 2 * BLOCK + 5
    g, w, m = (rng.normal(size=n) for _ in range(3))
    v = rng.uniform(size=n)
    m_new, v_new = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    expected = w - 0.01 * m_new / (np.sqrt(v_new) + 1e-8)
    compiled(Adam().expression)(g, 0.01, 1e-8, w, m, v)
    assert_allclose(m, m_new, rtol=1e-13, atol=1e-15)
    assert_allclose(v, v_new, rtol=1e-13)
    assert_allclose(w, expected, rtol=1e-12, atol=1e-14)


def test_large_arrays_must_be_contiguous():
    """Refused rather than written into a copy that is thrown away."""
    x = np.ones((400, 400))
    with pytest.raises(ValueError, match="must be C-contiguous; copy them first"):
        compiled(SIGMOID.forward)(x, np.empty((400, 800))[:, ::2])
    with pytest.raises(ValueError, match="must be C-contiguous"):
        compiled(SIGMOID.forward)(x.T, np.empty((400, 400)))


def test_views_of_rows_work(rng):
    """Rows of a larger array, as the workspace's short last batch is."""
    z, out = rng.normal(size=(300, 100)), np.zeros((300, 100))
    compiled(SIGMOID.forward)(z[:7], out[:7])
    assert_allclose(out[:7], 1 / (1 + np.exp(-z[:7])), rtol=1e-14)
    assert_array_equal(out[7:], 0)


# ---- no allocation, threads ----------------------------------------------------------------------

EVERY = [
    expression
    for entry in ACTIVATIONS.values()
    for expression in (entry.forward, entry.delta)
] + [Adam().expression]  # fmt: skip


@pytest.mark.parametrize("size", [BLOCK, 4 * BLOCK])
def test_nothing_is_allocated(size):
    """After the first call with a shape: the peak is less than any array would take."""
    dtype = np.dtype("float32")
    arrays = [np.full(size, 0.5, dtype) for _ in range(8)]
    calls = []
    for expression in EVERY:
        inputs, scalars = arrays[: len(expression.arguments)], [0.1] * len(expression.scalars)
        calls.append((compiled(expression, dtype=dtype),
                      [*inputs, *scalars, *arrays[4 : 4 + len(expression.outputs)]]))  # fmt: skip
    for call, values in calls:
        call(*values)
    tracemalloc.start()
    try:
        for call, values in calls:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            call(*values)
            after, peak = tracemalloc.get_traced_memory()
            assert peak - before < BLOCK  # an array of bool has that many bytes, of float32 4 times
            assert after - before < 2048
    finally:
        tracemalloc.stop()


def test_nothing_piles_up():
    """Many shapes and many calls leave no more memory in use than a few."""
    call, dtype = compiled(GELU.delta, dtype=np.dtype("float32")), "float32"
    arrays = [np.zeros(1000, dtype) for _ in range(3)]

    def use():
        for n in range(1, 500):
            call(*[array[:n] for array in arrays])

    use()
    tracemalloc.start()
    try:
        use()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            use()
        # The scratch of some shapes is kept, in turn; one view a call would be a megabyte.
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()


def test_threads_do_not_share_scratch():
    """The same expression on different numbers in several threads at once."""
    n_threads, rounds = 4, 50
    inputs = [np.random.default_rng(i).normal(size=(2, 3 * BLOCK)) for i in range(n_threads)]
    call = compiled(GELU.delta)
    expected = []
    for delta, z in inputs:
        expected.append(np.empty(3 * BLOCK))
        call(delta, z, expected[-1])
    wrong, start = [], threading.Barrier(n_threads)

    def work(i):
        out = np.empty(3 * BLOCK)
        start.wait()
        for _ in range(rounds):
            out.fill(0)
            call(*inputs[i], out)
            if not np.array_equal(out, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- the printed source --------------------------------------------------------------------------


def test_a_common_part_is_computed_once():
    source = to_numpy(ACTIVATIONS["silu"].delta).source
    assert source.count("np.exp(") == 1


@pytest.mark.parametrize(
    ("expression", "n_calls"),
    [
        (RELU.forward, 1),  # np.maximum
        (SIGMOID.forward, 4),  # negative, exp, add, divide
        (SIGMOID.delta, 3),  # subtract, multiply, multiply
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_number_of_calls(expression, n_calls):
    printed = to_numpy(expression)
    assert printed.source.count("np.") == n_calls


def test_no_scratch_where_the_output_will_do():
    printed = to_numpy(SIGMOID.forward)
    assert (printed.n_scratch, printed.n_flags) == (0, 0)


def test_what_is_never_read_is_not_computed():
    made = Expression("k", ("x",), {"t": "exp(x)", "out": "x + 1"})
    assert "exp" not in to_numpy(made).source


def test_relu_keeps_nan_and_is_exact_at_zero():
    out = np.empty(4)
    compiled(RELU.forward)(np.array([np.nan, -1.0, 0.0, 2.0]), out)
    assert_array_equal(out, [np.nan, 0, 0, 2])


@pytest.mark.parametrize("branches", [(0, 1), (1, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_choice_of_0_and_1_is_the_condition_itself(branches, dtype, rng):
    """No masked copy, which costs a wrong guess for every other element."""
    one, other = branches
    made = Expression("chosen", NAMES, {"out": f"z * where(x < y, {one}, {other})"})
    assert "where=" not in to_numpy(made).source
    values = {name: array.astype(dtype) for name, array in columns(rng).items()}
    expected = values["z"] * np.where(values["x"] < values["y"], one, other)
    for aliased in (None, *NAMES):
        arrays = {name: array.copy() for name, array in values.items()}
        out = np.empty(64, dtype) if aliased is None else arrays[aliased]
        evaluate(compiled(made, dtype=np.dtype(dtype)), *arrays.values(), out)
        assert_array_equal(out, expected.astype(dtype))
