"""Plain descent as part of the gradient's products, without a gradient array."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import gpubackprop as gb
from gpubackprop import backends, backprop
from gpubackprop.backends import blas
from gpubackprop.executors import eager
from gpubackprop.optimizers import SGD, Adam, Optimizer

RTOL = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(params=["mkl", "numpy", None])
def library(request, monkeypatch):
    """Whose product takes the gradient off: None is a NumPy with a BLAS that is not found."""
    monkeypatch.setenv("GPUBACKPROP_BLAS", request.param or "numpy")
    if request.param is None:
        monkeypatch.setattr(blas, "_found", lambda name, kind: None)
    if blas.for_arrays() != request.param:
        pytest.skip(f"no BLAS of {request.param} is found here")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (300, 3000), (3, 40000)])
def test_a_layer_is_stepped_by_its_gradient(dtype, n, shape):
    backend, rng = backends.get("numpy"), np.random.default_rng(0)
    m, k = shape
    W, b, delta, a = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (m,), (n, m), (n, k)))
    expected_W = W - 0.25 * (delta.T.astype(np.float64) @ a)
    expected_b = b - 0.25 * delta.sum(0, dtype=np.float64)
    kept = a.copy()
    backend.descend(delta, a, 0.25, W, b)
    assert W.dtype == b.dtype == np.dtype(dtype)
    assert_allclose(W, expected_W, rtol=RTOL[dtype], atol=RTOL[dtype] * 10)
    assert_allclose(b, expected_b, rtol=RTOL[dtype], atol=RTOL[dtype] * 10)
    assert (a == kept).all()


@pytest.mark.parametrize("batch_size", [1, 4, 7, "full"])
def test_it_is_what_gradient_and_update_do(batch_size, monkeypatch):
    # Slices of 5 rows: some batches, the short last one too, go through several and are not plain.
    monkeypatch.setattr(backprop, "SLICE", 5)
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((15, 3)), np.eye(2)[rng.integers(0, 2, 15)]
    make = {"hidden": "tanh", "output": "softmax", "loss": "cross_entropy", "dtype": "float64"}
    net = gb.Network([3, 4, 2], **make, backend="numpy", rng=0)
    other = net.copy()
    net.fit(X, Y, batch_size=batch_size, epochs=2, optimizer=SGD(0.5), shuffle=False,
            progress=False, executor="eager")  # fmt: skip
    size = 15 if batch_size == "full" else batch_size
    for _ in range(2):
        for i in range(0, 15, size):
            gradient = other.gradient(X[i : i + size], Y[i : i + size])
            for W, dW in zip(other.weights, gradient.weights, strict=True):
                W -= 0.5 * dW
            for b, db in zip(other.biases, gradient.biases, strict=True):
                b -= 0.5 * db
    for found, expected in zip(net.weights + net.biases, other.weights + other.biases, strict=True):
        assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_only_plain_descent_is_plain():
    assert SGD(0.1).plain
    assert SGD(lambda epoch: 0.1 / (epoch + 1)).plain
    others: list[Optimizer] = [
        SGD(0.1, momentum=0.9), SGD(0.1, l2=0.1), SGD(0.1, l1=0.1), SGD(0.1, clip_norm=1.0),
        SGD(0.1, weight_decay=0.1), Adam(),
    ]  # fmt: skip
    assert not any(optimizer.plain for optimizer in others)


@pytest.mark.parametrize("optimizer", [SGD(0.5), SGD(0.5, momentum=0.9, l2=0.01), Adam(0.01)])
@pytest.mark.parametrize("slice_rows", [8192, 70])
def test_a_batch_in_pieces_is_what_it_is_as_a_whole(optimizer, slice_rows, monkeypatch):
    """With dropout, weights and a short last piece and slice."""
    monkeypatch.setattr(backprop, "SLICE", slice_rows)
    rng = np.random.default_rng(2)
    X, Y, w = rng.standard_normal((150, 3)), rng.integers(0, 2, 150), rng.random(150)
    make = {"hidden": "gelu", "output": "softmax", "dropout": 0.3, "dtype": "float64", "rng": 0}

    def trained():
        net = gb.Network([3, 6, 4, 2], **make, backend="numpy")
        history = net.fit(X, Y, batch_size=120, epochs=2, optimizer=optimizer, sample_weight=w,
                          progress=False, executor="eager")  # fmt: skip
        return [*net.weights, *net.biases], history.loss, net.gradient(X, Y).vector()

    rows: list[int] = []
    run = backprop.forward
    monkeypatch.setattr(backprop, "forward", lambda *a: [rows.append(len(a[3])), run(*a)][1])
    parameters, loss, gradient = trained()
    assert max(rows) == min(slice_rows, 150)
    monkeypatch.setattr(eager, "_PIECE_BYTES", 1)
    monkeypatch.setattr(eager, "_PIECE_ROWS", 16)
    rows.clear()
    again, loss_again, gradient_again = trained()
    assert set(rows) <= {16, *range(1, 63)}
    assert rows.count(16) > len(rows) / 2
    for one, two in zip(again, parameters, strict=True):
        assert_allclose(one, two, rtol=1e-11, atol=1e-13)
    assert_allclose(loss_again, loss, rtol=1e-12)
    assert_allclose(gradient_again, gradient, rtol=1e-11, atol=1e-13)
