"""Blocks of rows: views where they can be, else buffers that are kept."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gpubackprop as gb
from gpubackprop.data import source
from gpubackprop.gather import Gather

N = 30
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype("float32")
Y = RNG.normal(size=(N, 2)).astype("float32")
LABELS = RNG.integers(2, size=N)
W = RNG.uniform(1, 2, size=N)


def model(loss="squared"):
    output = "softmax" if loss == "cross_entropy" else "identity"
    return gb.Network([3, 2], output=output, loss=loss, backend="numpy").model


def host(backend, arrays):
    return [None if a is None else backend.to_numpy(a) for a in arrays]


def test_views_of_rows_in_order(backend):
    x, y = backend.asarray(X), backend.asarray(Y)
    gather = Gather(model(), backend)
    found = gather.rows(source(x, y, None, model(), backend), None, 4, 20)
    assert_array_equal(backend.to_numpy(found[0]), X[4:20])
    assert_array_equal(backend.to_numpy(found[1]), Y[4:20])
    assert found[2] is None
    assert gather._buffers == {}
    x[5, 1] = 7
    assert backend.to_numpy(found[0])[1, 1] == 7


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("resident", [True, False])
def test_rows_in_any_order(loss, weighted, dtype, resident, backend, monkeypatch):
    if not resident:
        monkeypatch.setattr(backend, "free_bytes", lambda: 0)
    inputs, targets = (X * 10).astype(dtype), LABELS if loss == "cross_entropy" else Y
    rows = source(inputs, targets, W if weighted else None, model(loss), backend)
    order = np.random.default_rng(1).permutation(N).astype("int32")
    if rows.resident:
        order = backend.asarray(order)
    gather = Gather(model(loss), backend)
    expected_Y = np.eye(2)[LABELS] if loss == "cross_entropy" else Y
    for start, stop in ((0, 16), (16, 30), (3, 4)):
        for which in (order, None):
            chosen = np.arange(N) if which is None else backend.to_numpy(which)
            chosen = chosen[start:stop]
            found = host(backend, gather.rows(rows, which, start, stop))
            assert_array_equal(found[0], inputs[chosen].astype("float32"))
            assert_array_equal(found[1], expected_Y[chosen].astype("float32"))
            if weighted:
                np.testing.assert_allclose(found[2], (W / W.mean())[chosen], rtol=1e-6)
            else:
                assert found[2] is None


def test_inputs_are_viewed_where_only_the_targets_need_a_buffer(backend):
    x = backend.asarray(X)
    gather = Gather(model("cross_entropy"), backend)
    rows = source(x, LABELS, None, model("cross_entropy"), backend)
    found = gather.rows(rows, None, 2, 9)
    assert set(gather._buffers) == {"Y"}
    assert_array_equal(backend.to_numpy(found[1]), np.eye(2)[LABELS[2:9]])
    x[2, 0] = 5
    assert backend.to_numpy(found[0])[0, 0] == 5


def test_without_targets(backend):
    gather = Gather(model(), backend, targets=False)
    rows = source(X.astype("float64"), None, None, model(), backend)
    found = gather.rows(rows, None, 0, 7)
    assert_array_equal(backend.to_numpy(found[0]), X[:7])
    assert found[1:] == (None, None)


def test_buffers_are_kept_and_grow(backend):
    gather = Gather(model(), backend)
    rows = source(X, Y, None, model(), backend)
    order = np.arange(N, dtype="int32")
    order = backend.asarray(order) if rows.resident else order
    gather.rows(rows, order, 0, 8)
    first = gather._buffers["X"]
    gather.rows(rows, order, 8, 16)
    gather.rows(rows, order, 16, 20)
    assert gather._buffers["X"] is first
    gather.rows(rows, order, 0, 20)
    assert len(gather._buffers["X"]) == 20
