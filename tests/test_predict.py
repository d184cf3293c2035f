"""Predicting few rows takes a shorter way, with the same numbers and the same errors."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import gpubackprop as gb
from gpubackprop import data, network

RTOL = {"float32": 2e-6, "float64": 1e-13}


def make(dtype="float32"):
    net = gb.Network([5, 4, 3], hidden="tanh", output="softmax", loss="cross_entropy",
                     dropout=0.5, dtype=dtype, backend="numpy", rng=0)  # fmt: skip
    rows = np.random.default_rng(1).standard_normal((300, 5)).astype(dtype)
    return net, rows


def by_hand(net, rows):
    W, b = ([np.asarray(p, np.float64) for p in ps] for ps in (net.weights, net.biases))
    z = np.tanh(rows.astype(np.float64) @ W[0].T + b[0]) @ W[1].T + b[1]
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("n", [1, 2, 31, 300])
def test_few_rows_are_predicted_at_once(dtype, n, monkeypatch):
    net, rows = make(dtype)

    def source(*_, **__):
        raise AssertionError("a source was made")

    monkeypatch.setattr(network, "source", source)
    found = net.predict(rows[:n])
    assert found.dtype == np.dtype(dtype)
    assert_allclose(found, by_hand(net, rows[:n]), rtol=RTOL[dtype], atol=1e-12)
    kept = found.copy()
    net.predict(rows[-n:])  # what was returned before is nobody's workspace
    assert (found == kept).all()


def test_the_other_way_gets_the_same_bits(monkeypatch):
    net, rows = make()
    found = net.predict(rows)
    monkeypatch.setattr("gpubackprop.evaluation._FEW", 0)
    assert (net.predict(rows) == found).all()


@pytest.mark.parametrize(
    "rows",
    [
        [[0.0] * 5],
        np.zeros((2, 5)),
        np.asfortranarray(np.ones((4, 5), np.float32)),
        np.ones((4, 10), np.float32)[:, ::2],
        np.ones((2, 5), np.int64),
    ],
)
def test_what_cannot_be_read_as_it_is_is_predicted_all_the_same(rows):
    net, _ = make()
    assert_allclose(net.predict(rows), by_hand(net, np.asarray(rows)), rtol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_data_are_refused_as_before(bad):
    net, rows = make()
    rows[2, 3] = bad
    with pytest.raises(ValueError, match="X"):
        net.predict(rows[:4])
    with pytest.raises(ValueError, match="5"):
        net.predict(rows[:2, :4].copy())
    assert data.source is network.source
