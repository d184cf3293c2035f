"""The four equations against an independent implementation, on every backend."""

import numpy as np
import pytest
import reference
from conftest import require
from numpy.testing import assert_allclose, assert_array_equal
from random_networks import HIDDEN, allowed_pairs, random_network, targets
from reference import near

import gpubackprop as gb
from gpubackprop import backprop, dropout
from gpubackprop.buffers import Parameters, Workspace

#: Networks that between them take every way through the equations, by name.
NETWORKS = {
    "one layer": ([3, 2], {"output": "identity"}),
    "sigmoid": ([3, 4, 1], {"output": "sigmoid"}),
    "softmax": ([3, 4, 3], {"hidden": "tanh"}),
    "softmax squared": ([3, 4, 3], {"hidden": "tanh", "loss": "squared"}),
    "without biases": ([3, 5, 2], {"hidden": "tanh", "bias": False}),
    "some biases": ([3, 4, 4, 2], {"hidden": "sigmoid", "bias": [True, False, True]}),
    "reads z": (
        [3, 4, 5, 2],
        {"hidden": ["gelu", "silu"], "output": "softplus", "loss": "poisson"},
    ),
    "kinks": ([3, 6, 6, 2], {"hidden": ["relu", "leaky_relu"], "output": "exp", "loss": "huber"}),
    "z of the output": ([2, 3, 2], {"hidden": "elu", "output": "silu", "loss": "quantile"}),
}


def data(net, n_rows, seed=0, weighted=False):
    """Return X, Y and weights for a network."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, net.model.sizes[0]))
    Y = targets(net.model.loss.name, n_rows, net.model.sizes[-1], rng)
    return X, Y, rng.uniform(0.1, 2, size=n_rows) if weighted else None


def make(name, backend="numpy", dtype="float64", seed=1):
    sizes, options = NETWORKS[name]
    net = gb.Network(sizes, **options, backend=backend, dtype=dtype, rng=seed)
    rng = np.random.default_rng(seed)
    for b in net.biases:
        if b is not None:
            net.backend.upload(rng.normal(scale=0.3, size=b.shape), b)
    return net


def rounded(*arrays, dtype):
    """Return the numbers that a network of this dtype sees, in float64."""
    return [None if x is None else x.astype(dtype).astype("float64") for x in arrays]


def check_gradient(net, X, Y, w, dtype, factor=1.0):
    """Compare loss and gradient with the reference's."""
    expected = reference.Net(net)
    X, Y = rounded(X, Y, dtype=dtype)
    total, gradient = expected.batch(X, Y, reference.scaled(w))
    found = net.gradient(X, Y, sample_weight=w)
    for (dW, db), got_W, got_b in zip(gradient, found.weights, found.biases, strict=True):
        near(net.backend.to_numpy(got_W), dW, dtype, factor)
        assert (db is None) == (got_b is None)
        if db is not None:
            near(net.backend.to_numpy(got_b), db, dtype, factor)
    assert_allclose(
        net.loss(X, Y, sample_weight=w), total / len(X), rtol=reference.NEAR[dtype.name] * factor
    )
    near(net.backend.to_numpy(net.predict(X)), expected.outputs(X), dtype, factor)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n_rows", [1, 7])
def test_gradient_loss_and_outputs(name, n_rows, backend, dtype):
    net = make(name, backend, dtype)
    check_gradient(net, *data(net, n_rows, weighted=n_rows > 1), dtype)


@pytest.mark.parametrize(("output", "loss"), allowed_pairs())
def test_every_pair_of_output_and_loss(output, loss, dtype):
    hidden = HIDDEN[(len(output) + len(loss)) % len(HIDDEN)]
    net = gb.Network([3, 4, 2], hidden, output, loss, backend="numpy", dtype=dtype, rng=3)
    check_gradient(net, *data(net, 5, weighted=True), dtype, factor=2)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_hidden_activation(hidden, dtype):
    net = gb.Network(
        [3, 4, 3, 2], hidden, "identity", backend="numpy", dtype=dtype, rng=4, init="glorot_normal"
    )
    check_gradient(net, *data(net, 5), dtype, factor=2)


def test_labels_are_one_hot_rows(backend):
    net = make("softmax", backend)
    X, Y, w = data(net, 9, weighted=True)
    as_rows = backend.to_numpy(net.gradient(X, Y, sample_weight=w).flat)
    for labels in (Y.argmax(axis=1), Y.argmax(axis=1).astype("f4"), Y.argmax(axis=1).tolist()):
        found = net.gradient(X, labels, sample_weight=w)
        assert_array_equal(backend.to_numpy(found.flat), as_rows)
        assert net.loss(X, labels, sample_weight=w) == net.loss(X, Y, sample_weight=w)


def test_a_target_of_one_output_may_be_flat(backend):
    net = make("sigmoid", backend)
    X, Y, _ = data(net, 6)
    flat, column = net.gradient(X, Y[:, 0]), net.gradient(X, Y)
    assert_array_equal(backend.to_numpy(flat.flat), backend.to_numpy(column.flat))


def test_saturated_outputs_have_a_finite_loss_and_gradient(backend, dtype):
    for output, Y in (("sigmoid", [[0.0, 1.0]]), ("softmax", [[0.0, 1.0]])):
        net = gb.Network([1, 2], output=output, backend=backend, dtype=dtype, rng=0)
        backend.upload(np.array([[200.0], [-200.0]]), net.weights[0])
        gradient = backend.to_numpy(net.gradient([[1.0]], Y).weights[0])
        assert_allclose(gradient, [[1.0], [-1.0]], rtol=1e-6)
        assert net.loss([[1.0]], Y) == 400.0
        assert net.loss([[-1.0]], Y) == pytest.approx(0.0, abs=1e-30)


def test_gradient_is_a_sum_over_rows(backend):
    """Doubling the data changes nothing; a weight of 0 removes a row."""
    net = make("softmax", backend)
    X, Y, _ = data(net, 6)
    once = backend.to_numpy(net.gradient(X, Y).vector())
    twice = net.gradient(np.vstack([X, X]), np.vstack([Y, Y]))
    assert_allclose(backend.to_numpy(twice.vector()), once, rtol=1e-12, atol=1e-15)
    w = np.array([1.0, 0, 1, 0, 1, 0])
    picked = backend.to_numpy(net.gradient(X[::2], Y[::2]).vector())
    found = net.gradient(X, Y, sample_weight=w)
    assert_allclose(backend.to_numpy(found.vector()), picked, rtol=1e-12, atol=1e-15)


def test_padding_stays_zero(backend):
    net = make("some biases", backend)
    X, Y, _ = data(net, 6)
    net.fit(X, Y, batch_size=2, epochs=2, optimizer=gb.Adam(0.1, l1=0.1, l2=0.1, weight_decay=0.1))
    used = np.zeros(net.model.layout.size, bool)
    for array in Parameters(net.model, used).arrays():
        array[...] = True
    for flat in (net._parameters.flat, net.gradient(X, Y).flat):
        assert not backend.to_numpy(flat)[~used].any()
        assert backend.to_numpy(flat)[used].all()


# ---- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 5, 2**32 // 7 - 2])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_mask_has_the_bits_of_the_integer_hash(first, p, backend, dtype):
    n_rows, n_out, seed, layer, steps = 11, 7, 2**32 - 5, 2, 12345
    out = backend.empty((n_rows, n_out), dtype)
    backend.dropout_mask(dropout.key(seed, layer, steps), p, first, out)
    expected = [reference.mask(seed, layer, steps, p, first + i, n_out) for i in range(n_rows)]
    assert_array_equal(backend.to_numpy(out), np.array(expected).astype(dtype))


def test_masks_drop_the_share_asked_for():
    backend = gb.Network([1, 1], output="identity", backend="numpy").backend
    out = np.empty((1000, 100), "float32")
    for layer in range(3):
        backend.dropout_mask(dropout.key(0, layer, 0), 0.3, 0, out)
        share = (out == 0).mean()
        # Five standard deviations of 100,000 draws.
        assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 1e5) ** 0.5
        by_unit, by_row = (out == 0).mean(axis=0), (out == 0).mean(axis=1)
        assert abs(by_unit - 0.3).max() < 5 * (0.21 / 1000) ** 0.5
        assert abs(by_row - 0.3).max() < 5 * (0.21 / 100) ** 0.5


def test_masks_differ_by_seed_layer_step_and_row():
    keys = {dropout.key(s, l, t) for s in range(8) for l in range(8) for t in range(8)}
    assert len(keys) == 512
    rows = {tuple(reference.mask(0, 0, 0, 0.5, row, 24) > 0) for row in range(100)}
    assert len(rows) == 100


def test_forward_without_dropping_drops_nothing(backend):
    net = gb.Network([3, 50, 2], dropout=0.5, backend=backend, rng=0)
    plain = gb.Network([3, 50, 2], backend=backend, rng=0)
    X = np.random.default_rng(0).normal(size=(4, 3))
    assert_array_equal(backend.to_numpy(net.predict(X)), backend.to_numpy(plain.predict(X)))


# ---- slices of a large batch ---------------------------------------------------------------------


def small_slices(monkeypatch, rows):
    """Let a batch go through the network so many rows at a time."""
    monkeypatch.setattr(backprop, "SLICE", rows)


@pytest.mark.parametrize("rows", [1, 8, 23, 24])
def test_slices_of_a_batch_add_up(rows, backend, monkeypatch):
    X, Y, w = data(make("softmax"), 23, weighted=True)

    def everything():
        net = make("softmax", backend)
        gradient = backend.to_numpy(net.gradient(X, Y, sample_weight=w).vector())
        loss, o = net.loss(X, Y, sample_weight=w), backend.to_numpy(net.predict(X))
        history = net.fit(X, Y, sample_weight=w, batch_size=20, epochs=2, optimizer=gb.Adam(0.01))
        return [gradient, loss, o, history.loss, *map(backend.to_numpy, net.weights)]

    whole = everything()
    small_slices(monkeypatch, rows)
    for got, expected in zip(everything(), whole, strict=True):
        near(got, expected, "float64")


def test_dropout_masks_do_not_depend_on_slices(backend, monkeypatch):
    X, Y = np.random.default_rng(0).normal(size=(23, 3)), np.arange(23) % 2

    def trained():
        net = gb.Network([3, 6, 2], dropout=0.4, backend=backend, dtype="float64", rng=0)
        net.fit(X, Y, batch_size="full", epochs=3)
        return [backend.to_numpy(W) for W in net.weights]

    whole = trained()
    small_slices(monkeypatch, 5)
    for got, expected in zip(trained(), whole, strict=True):
        near(got, expected, "float64")


def test_ten_thousand_rows_in_one_batch(dtype):
    """More rows than a slice has, as they come: compared with products over all of them at once."""
    net = gb.Network([2, 3, 1], "tanh", "identity", backend="numpy", dtype=dtype, rng=0)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(10_000, 2)), rng.normal(size=(10_000, 1))
    assert len(X) > backprop.SLICE
    (W0, W1), X64 = (W.astype("f8") for W in net.weights), X.astype(dtype).astype("f8")
    a = np.tanh(np.einsum("ni,oi->no", X64, W0))
    o = np.einsum("ni,oi->no", a, W1)
    delta = (o - Y.astype(dtype)) / len(X)
    dW1 = np.einsum("no,ni->oi", delta, a)
    dW0 = np.einsum("no,ni->oi", np.einsum("no,oi->ni", delta, W1) * (1 - a**2), X64)
    found = net.gradient(X, Y)
    # Sums over 10,000 rows lose a few more digits than a handful of rows do.
    near(found.weights[0], dW0, dtype, factor=10)
    near(found.weights[1], dW1, dtype, factor=10)
    near(net.predict(X), o, dtype)
    assert_allclose(net.loss(X, Y), ((o - Y) ** 2).sum() / 2e4, rtol=reference.NEAR[dtype.name])


# ---- workspaces ----------------------------------------------------------------------------------


def test_workspace_shares_memory_where_z_is_not_read():
    net = make("softmax")
    ws = Workspace(net.model, 4, net.backend)
    assert ws.z[0] is ws.a[0]
    kept = Workspace(net.model, 4, net.backend, keep=True)
    assert not np.shares_memory(kept.z[0], kept.a[0])
    gelu = make("reads z")
    ws = Workspace(gelu.model, 4, gelu.backend)
    assert not np.shares_memory(ws.z[0], ws.a[0])
    view = ws.rows(3)
    assert view is ws.rows(3)
    assert view.n_rows == 3
    assert view.rows(3) is view
    assert np.shares_memory(view.delta[1], ws.delta[1])


# ---- random networks: NumPy against CuPy ---------------------------------------------------------


@pytest.mark.parametrize("name", ["cupy"])
def test_gradients_of_random_networks_are_those_of_numpy(name):
    require(name)
    worst = 0.0
    for i in range(200):
        found = []
        for backend in ("numpy", name):
            net, arguments = random_network(i, backend)
            if any(net.model.dropout):
                step = net.trace(**arguments)
                parts = [*step.dW, *(db for db in step.db if db is not None)]
                found.append(np.concatenate([part.ravel() for part in parts]))
            else:
                found.append(net.backend.to_numpy(net.gradient(**arguments).vector()))
        largest = np.abs(found[0]).max()
        worst = max(worst, np.abs(found[1] - found[0]).max() / (largest or 1.0))
        assert worst <= 1e-12, f"network {i}: {worst}"
