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
    assert all(buffers.arrays == {} for buffers in gather._sets)
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
    assert {name for buffers in gather._sets for name in buffers.arrays} == {"Y"}
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
    first = gather._sets[0].arrays["X"]
    gather.rows(rows, order, 8, 16)
    gather.rows(rows, order, 16, 20)
    assert gather._sets[0].arrays["X"] is first
    gather.rows(rows, order, 0, 20)
    assert len(gather._sets[0].arrays["X"]) == 20


def test_blocks_from_the_host_take_turns(cupy_backend, monkeypatch):
    # What was returned is still there while the next block is copied.
    monkeypatch.setattr(cupy_backend, "free_bytes", lambda: 0)
    gather = Gather(model(), cupy_backend)
    rows = source(X, Y, W, model(), cupy_backend)
    assert not rows.resident
    order = np.random.default_rng(2).permutation(N)
    blocks = [gather.rows(rows, order, i, i + 10) for i in (0, 10)]
    for block, start in zip(blocks, (0, 10), strict=True):
        assert_array_equal(block[0].get(), X[order[start : start + 10]])
        assert_array_equal(block[1].get(), Y[order[start : start + 10]])
    third = gather.rows(rows, order, 20, 30)
    assert third[0].data.ptr == blocks[0][0].data.ptr  # two sets, and no more


def test_copies_from_the_host_go_by_a_stream_of_their_own(cupy_backend, monkeypatch):
    monkeypatch.setattr(cupy_backend, "free_bytes", lambda: 0)
    streams, cp = [], cupy_backend.xp
    rows = source(X, Y, None, model(), cupy_backend)
    take = rows.take

    def watch(*arguments):
        streams.append(cp.cuda.get_current_stream().ptr)
        take(*arguments)

    monkeypatch.setattr(rows, "take", watch)
    gather = Gather(model(), cupy_backend)
    for start in (0, 10, 20):
        gather.rows(rows, None, start, start + 10)
    assert len(set(streams)) == 1
    assert streams[0] not in (0, cp.cuda.get_current_stream().ptr)
