"""`trace`: every number of a step, from the code that trains, printed as an aligned table."""

import re

import numpy as np
import pytest
import reference
from numpy.testing import assert_array_equal
from random_networks import random_network
from reference import near

import gpubackprop as gb

RNG = np.random.default_rng(5)
X = RNG.normal(size=(5, 3))
LABELS = RNG.integers(3, size=5)
Y = np.eye(3)[LABELS]
MOMENTUM = gb.SGD(0.1, momentum=0.9, l2=0.1, weight_decay=0.1)


def make(backend="numpy", **options):
    options = {"hidden": ["tanh", "silu"], "rng": 11, "dtype": "float64", **options}
    return gb.Network([3, 4, 5, 3], **options, backend=backend)


def host(net, arrays):
    return [None if a is None else net.backend.to_numpy(a).copy() for a in arrays]


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_array_equal(one, other)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, [True, False, True]])
def test_a_trace_is_the_next_step(dropout, bias, backend):
    """To the last bit, on the second step too, where the momentum is there."""
    net = make(backend, dropout=dropout, bias=bias)
    w = np.arange(1.0, 6.0)
    for _ in range(2):
        step = net.trace(X, LABELS, MOMENTUM, sample_weight=w)
        same(step.W, host(net, net.weights))
        same(step.b, host(net, net.biases))
        if not dropout:
            gradient = net.gradient(X, LABELS, sample_weight=w)
            same(step.dW, host(net, gradient.weights))
            same(step.db, host(net, gradient.biases))
            # On a GPU training sums in another order than `loss`.
            assert step.loss == pytest.approx(net.loss(X, LABELS, sample_weight=w), rel=1e-14)
            assert_array_equal(step.a[-1], net.backend.to_numpy(net.predict(X)))
        loss = net.step(X, LABELS, MOMENTUM, sample_weight=w)
        assert step.loss == loss
        same(step.new_W, host(net, net.weights))
        same(step.new_b, host(net, net.biases))


def test_every_number(backend):
    net = make(backend)
    expected = reference.Net(net)
    step = net.trace(X, LABELS)
    assert_array_equal(step.a[0], X)
    assert_array_equal(step.Y, Y)
    assert [len(part) for part in (step.z, step.a, step.delta, step.dW, step.db)] == [3, 4, 3, 3, 3]
    for i in range(5):
        a = X[i]
        for l, (W, b) in enumerate(expected.layers):
            z = W @ a + b
            a = reference.F[expected.activations[l]](z)
            near(step.z[l][i], z, "float64")
            near(step.a[l + 1][i], a, "float64")
        _, gradient = expected.sample(X[i], Y[i])
        for l in range(3):
            near(step.delta[l][i], gradient[l][1] / 5, "float64")
    assert all(isinstance(a, np.ndarray) for a in (*step.z, *step.a, *step.dW, step.Y))
    same(step.new_W, step.W)
    same(step.new_b, step.b)
    assert (
        repr(step)
        == f"<Trace of a 3-4-5-3 network, 5 rows, loss {step.loss:.6g}; print() shows it>"
    )


def test_a_after_dropout_is_what_the_next_layer_reads():
    net = make(dropout=[0.5, 0.0])
    step = net.trace(X, Y)
    masks = [reference.mask(net._dropout_seed, 0, 0, 0.5, row, 4) for row in range(5)]
    near(step.a[1], np.tanh(step.z[0]) * masks, "float64")
    near(step.z[1], step.a[1] @ step.W[1].T + step.b[1], "float64")
    near(step.dW[1], step.delta[1].T @ step.a[1], "float64")


def test_frozen_entries():
    step = make().trace(X, Y, gb.SGD(0.1), trainable=([True, False, True], [False, None, True]))
    assert_array_equal(step.new_W[1], step.W[1])
    assert_array_equal(step.new_b[0], step.b[0])
    assert (step.new_W[0] != step.W[0]).all()
    assert step.dW[1].any()  # the gradient is there, only not used


def test_a_trace_changes_nothing(backend):
    net, other = make(backend, dropout=0.3), make(backend, dropout=0.3)
    for one in (net, other):
        one.step(X, Y, MOMENTUM)
    net.trace(X, Y, MOMENTUM)
    net.trace(X, Y, "rprop")
    net.trace(X, Y)
    assert net.step(X, Y, MOMENTUM) == other.step(X, Y, MOMENTUM)
    same(host(net, net.weights), host(other, other.weights))


# ---- printed -------------------------------------------------------------------------------------

NUMBER = re.compile(r"-?(\d+(\.\d+)?(e[+-]\d+)?|nan|inf)")


def numbers_of(lines):
    """Return (first column, last column, value) of every number behind the titles."""
    return [
        [(m.start(), m.end(), float(m.group())) for m in re.finditer(r"(?<=\s)\S+(?=\s|$)", line)
         if NUMBER.fullmatch(m.group())]
        for line in lines
    ]  # fmt: skip


def test_the_names_of_the_table():
    text = str(make().trace(X, Y, "sgd"))
    for title in (
        "a[0] = X", "W[0]", "b[0]", "z[0] = a[0] @ W[0].T + b[0]", "a[1] = f(z[0])",
        "a[3] = f(z[2]) = o", "layer 1   silu: a = z / (1 + exp(-z))",
        "softmax: a = exp(z) / sum(exp(z))", "loss   cross_entropy", "delta[2] = dL/dz",
        "delta[1] = (delta[2] @ W[2]) * f'(z)", "dW[0] = delta[0].T @ a[0]",
        "db[2] = sum of delta[2]", "new W[2]", "new b[0]", "f' = 1 - a * a",
    ):  # fmt: skip
        assert title in text
    order = ["a[0] = X", "z[0] =", "z[2] =", "delta[2] =", "delta[0] =", "new W[0]"]
    places = [text.index(title) for title in order]
    assert places == sorted(places)


def test_the_table_holds_the_numbers():
    step = make().trace(X, Y, "sgd")
    lines = str(step).splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith("delta[1]"))
    for row, found in zip(step.delta[1], numbers_of(lines[at : at + 5]), strict=True):
        np.testing.assert_allclose([value for *_, value in found], row, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-7, -1.234567e-5, -1e12, 1e300])
def test_columns_never_touch(scale):
    """Numbers end in the same columns in all rows of the table, and stand apart."""
    for i in range(0, 200, 17):
        net, arguments = random_network(i)
        for W in net.weights:
            W *= scale
        with np.errstate(all="ignore"):
            step = net.trace(**arguments, optimizer="sgd")
        lines = [line for line in str(step).splitlines() if line.startswith("  ")]
        ends = {}
        for line, found in zip(lines, numbers_of(lines), strict=True):
            sizes = sum(len(NUMBER.findall(word)) > 0 for word in line.split()[-len(found) :])
            assert found
            assert sizes == len(found)
            for column, (start, end, _) in enumerate(found):
                assert line[start - 1] == " "
                ends.setdefault(column, set()).add(end)
        assert all(len(columns) == 1 for columns in ends.values())


def test_long_names_of_deep_networks_do_not_touch_the_numbers():
    net = gb.Network([2] * 13, "tanh", "identity", backend="numpy", rng=0)
    text = str(net.trace([[1.0, 2.0]], [[0.0, 0.0]]))
    assert re.search(r"delta\[10\] = \(delta\[11\] @ W\[11\]\) \* f'\(z\) +-?\d", text)


def test_a_step_of_the_biases_alone_is_shown():
    step = make().trace(X, Y, gb.SGD(0.1), trainable=([False] * 3, None))
    assert "new b[1]" in str(step)
    assert "after the step" not in str(make().trace(X, Y))


def test_large_arrays_are_shown_in_part():
    net = gb.Network([20, 3], backend="numpy", rng=0)
    text = str(net.trace(np.zeros((30, 20)), np.zeros(30, int)))
    assert "(30 rows)" in text
    assert " ..." in text
    assert max(map(len, text.splitlines())) < 300
