"""Predicting few rows takes a shorter way, with the same numbers and the same errors."""

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from interpreter import run_forked
from numpy.testing import assert_allclose
from random_networks import HIDDEN, allowed_pairs

import gpubackprop as gb
from gpubackprop import backprop, data, network
from gpubackprop.executors.compiled import predictor

RTOL = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(autouse=True, params=["never", "always"])
def path(request, monkeypatch):
    """What every test here goes through: the backend's operations, then compiled code."""
    if request.param == "always":
        pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")
        pytest.importorskip("scipy", reason="SciPy, of the extra fast, is not installed")
    monkeypatch.setenv("GPUBACKPROP_PREDICT", request.param)
    return request.param


def check_path(net, path):
    """Check that the last outputs were computed the way that this test is about."""
    found = net._evaluator()._choice.predictor(1)
    assert (found is not None) == (path == "always")


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
def test_few_rows_are_predicted_at_once(dtype, n, monkeypatch, path):
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
    check_path(net, path)


def test_the_other_way_gets_the_same_bits(monkeypatch):
    net, rows = make()
    found = net.predict(rows)
    monkeypatch.setattr(net._evaluator(), "at_once", lambda *_: None)
    assert (net.predict(rows) == found).all()


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize(("output", "loss"), allowed_pairs())
def test_every_output_and_hidden_activation(output, loss, dtype, path):
    """All hidden activations in one network, layers with and without biases."""
    sizes = [3, *range(4, 4 + len(HIDDEN)), 2]
    bias = [l % 3 > 0 for l in range(len(HIDDEN) + 1)]
    net = gb.Network(sizes, HIDDEN, output, loss, bias=bias, dtype=dtype, rng=3, backend="numpy")
    rows = np.random.default_rng(2).standard_normal((9, 3)).astype(dtype)
    expected = reference.Net(net).outputs(rows.astype("float64"))
    for n in (1, 2, 9):
        assert_allclose(
            net.predict(rows[:n]), expected[:n], rtol=20 * RTOL[dtype], atol=RTOL[dtype]
        )
    check_path(net, path)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize(
    "sizes", [(5, 3), (5, 1, 3), (64, 32, 10), (90, 7, 3), (200, 70, 40, 3), (5, *[6] * 12, 3)]
)
def test_any_depth_and_width(sizes, dtype, path):
    """Layers whose products are ours and BLAS's, and more rows than go through at once."""
    net = gb.Network(sizes, "sigmoid", "identity", dtype=dtype, rng=3, backend="numpy")
    rows = np.random.default_rng(2).standard_normal((9001, sizes[0])).astype(dtype)
    a = rows.astype("float64")
    for l, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        a = a @ W.T.astype("float64") + b
        a = a if l == len(sizes) - 2 else 1 / (1 + np.exp(-a))
    for n in (1, 2, 3, 193, 1000, 9001):
        assert_allclose(net.predict(rows[:n]), a[:n], rtol=20 * RTOL[dtype], atol=5 * RTOL[dtype])
    check_path(net, path)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("n", [1, 5])
def test_a_weight_that_is_not_a_number_reaches_the_outputs(hidden, n):
    net = gb.Network([5, 4, 3], hidden, backend="numpy", rng=0)
    rows = np.ones((n, 5), np.float32)
    net.weights[0][2, 1] = np.nan
    assert np.isnan(net.predict(rows)).all()


@pytest.mark.parametrize("n", [1, 2, 5, 20_000])
def test_outputs_that_are_not_finite_are_those_of_the_backend(n, monkeypatch):
    """inf - inf is NaN, but which of them a sum ends in depends on its order."""
    net = gb.Network([5, 9, 3], "identity", "identity", backend="numpy", rng=0)
    net.weights[0][...] *= 1e30
    net.weights[1][...] *= 1e30
    found = net.predict(np.ones((n, 5), np.float32))
    assert not np.isfinite(found).any()
    monkeypatch.setenv("GPUBACKPROP_PREDICT", "never")
    np.testing.assert_array_equal(found, net.copy().predict(np.ones((n, 5), np.float32)))


def test_saturated_outputs():
    """Sums of 1e4 and more: no overflow becomes a NaN."""
    for output in ("softmax", "sigmoid"):
        net = gb.Network([5, 4, 3], "relu", output, backend="numpy", rng=0)
        net.weights = [np.full((4, 5), 1e3), [[9.0] * 4, [0.0] * 4, [-9.0] * 4]]
        expected = [1, 0.5 if output == "sigmoid" else 0, 0]
        for n in (1, 5):
            assert_allclose(net.predict(np.ones((n, 5), np.float32)), [expected] * n)


def test_numbers_whose_sum_is_infinite():
    net = gb.Network([5, 3], output="identity", dtype="float64", backend="numpy", rng=0)
    net.weights = [np.eye(3, 5)]
    rows = np.full((4, 5), 1.5e308)
    assert_allclose(net.predict(rows), rows[:, :3])


def test_parameters_may_change_between_two_calls():
    net, rows = make()
    net.predict(rows[:1]), net.predict(rows)
    net.weights[0][...] *= 2
    assert_allclose(net.predict(rows), by_hand(net, rows), rtol=2e-6)
    net.biases = [np.arange(4.0), None if net.biases[1] is None else np.arange(3.0)]
    assert_allclose(net.predict(rows[:1]), by_hand(net, rows[:1]), rtol=2e-6)
    net.fit(rows, np.arange(300) % 3, epochs=1, progress=False)
    assert_allclose(net.predict(rows), by_hand(net, rows), rtol=2e-6)
    other = net.copy()
    net._parameters = other._parameters
    other.weights[0][...] += 1
    assert_allclose(net.predict(rows[:1]), by_hand(other, rows[:1]), rtol=2e-6)
    assert_allclose(net.predict(rows), by_hand(other, rows), rtol=2e-6)


def test_copies_predict_the_same_bits():
    net, rows = make()
    found = net.predict(rows)
    for other in (net.copy(), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (other.predict(rows) == found).all()


def test_a_network_in_several_threads():
    net, rows = make()
    parts = [rows[i : i + 1] for i in range(40)] + [rows[:n] for n in range(2, 40)]
    alone = [net.predict(part) for part in parts]
    begin = threading.Barrier(4)

    def predict(i):
        begin.wait()
        return [net.predict(part) for _ in range(20) for part in parts[i:] + parts[:i]]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predict, range(4)))
    for i, found in enumerate(results):
        for one, two in zip(found, 20 * (alone[i:] + alone[:i]), strict=True):
            assert (one == two).all()


@pytest.mark.parametrize("n", [801, 30_001])
def test_rows_that_several_threads_share(n, path, monkeypatch):
    pytest.importorskip("threadpoolctl", reason="threadpoolctl, of the extra fast, is missing")
    if path == "always":
        monkeypatch.setattr(predictor, "usable_threads", lambda _: 3)
        monkeypatch.setattr(predictor, "SPLIT_PRODUCTS", 1)
    net, _ = make()
    rows = np.random.default_rng(5).standard_normal((n, 5)).astype(np.float32)
    found = net.predict(rows)
    assert_allclose(found, by_hand(net, rows), rtol=2e-6)
    if path == "always":
        assert len(net._evaluator()._choice.predictor(1)._others) == 2
    assert (net.predict(rows) == found).all()
    rows[n - 1, 2] = np.nan
    with pytest.raises(ValueError, match=str(n - 1)):
        net.predict(rows)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork():
    run_forked("""
net = gb.Network([5, 4, 3], "tanh", rng=0, backend="numpy")
rows = np.random.default_rng(0).standard_normal((300, 5)).astype("float32")
def outputs():
    return net.predict(rows), net.predict(rows[:1])
""")


def test_classes():
    net, rows = make()
    expected = by_hand(net, rows).argmax(1)
    assert (net.predict_classes(rows) == expected).all()
    assert net.predict_classes(rows[:1]) == expected[:1]


@pytest.mark.parametrize(
    "rows",
    [
        [[0.0] * 5],
        np.zeros((2, 5)),
        np.asfortranarray(np.ones((4, 5), np.float32)),
        np.ones((4, 10), np.float32)[:, ::2],
        np.ones((2, 5), np.int64),
        np.ones((2, 5), np.dtype("f4").newbyteorder()),
        np.frombuffer(b" " + np.ones(10, np.float32).tobytes(), "f4", offset=1).reshape(2, 5),
        np.ones((2, 5), np.float32).view(np.recarray),
    ],
)
def test_what_cannot_be_read_as_it_is_is_predicted_all_the_same(rows):
    net, _ = make()
    assert net._evaluator().compiled(net._parameters, rows) is None
    assert_allclose(net.predict(rows), by_hand(net, np.asarray(rows)), rtol=2e-6)


def test_rows_that_may_not_be_written_to():
    net, rows = make()
    before = rows.copy()
    rows.flags.writeable = False
    assert_allclose(net.predict(rows), by_hand(net, rows), rtol=2e-6)
    assert (rows == before).all()


def test_float64_rows_for_a_float32_network(path, monkeypatch):
    """They are converted in slices, each of which goes the same way as rows that need not be."""
    net, rows = make()
    found = net.predict(rows)
    if path == "always":
        monkeypatch.setattr(backprop, "forward", None)
    assert (net.predict(rows.astype("float64")) == found).all()


def test_sparse_rows():
    scipy = pytest.importorskip("scipy.sparse")
    net, rows = make()
    rows[rows < 0] = 0
    assert_allclose(net.predict(scipy.csr_matrix(rows)), by_hand(net, rows), rtol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_data_are_refused_as_before(bad):
    net, rows = make()
    rows[2, 3] = bad
    with pytest.raises(ValueError, match="X"):
        net.predict(rows[:4])
    rows = np.repeat(rows[:1], 9000, axis=0)
    rows[8999, 4] = bad
    with pytest.raises(ValueError, match="8999"):
        net.predict(rows)
    with pytest.raises(ValueError, match="5"):
        net.predict(rows[:2, :4].copy())
    assert data.source is network.source
