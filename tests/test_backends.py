"""Every operation of every backend against plain NumPy in float64, and the registry."""

import itertools
import math
import pickle
import sys

import definitions
import numpy as np
import pytest
from conftest import BACKENDS, close, require
from interpreter import run
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special

from gpubackprop import ACTIVATIONS, LOSSES, backends
from gpubackprop.backends import blas
from gpubackprop.backends.base import Backend, load_erf
from gpubackprop.buffers import Workspace
from gpubackprop.losses import check_pair
from gpubackprop.model import Model

DTYPES = ("float32", "float64")
#: Rows of a batch: one, odd, more than one block of NumPy's at 64 columns.
ROWS = (1, 7, 1001)


@pytest.fixture
def place(backend, dtype):
    """Return a function that puts numbers on the backend."""
    return lambda x, kind=dtype: backend.asarray(np.array(x, kind, order="C"))


def model(activation, loss, dtype):
    parts = (2, 3), (ACTIVATIONS[activation],), LOSSES[loss], (True,), (), np.dtype(dtype)
    return Model(*parts)


# ---- memory --------------------------------------------------------------------------------------


def test_arrays_go_in_and_out(backend, dtype):
    X = np.arange(6, dtype=dtype).reshape(2, 3)
    placed = backend.asarray(X)
    assert backend.owns(placed)
    assert backend.asarray(placed) is placed
    assert backend.asarray(placed, dtype) is placed
    assert (placed is X) == backend.host
    assert backend.owns(X) == backend.host
    back = backend.to_numpy(placed)
    assert type(back) is np.ndarray
    assert back.dtype == dtype
    assert_array_equal(back, X)
    assert not backend.owns([1, 2])


def test_asarray_casts(backend):
    placed = backend.asarray([[1, 2], [3, 4]], np.float32)
    assert placed.dtype == np.float32
    assert_array_equal(backend.to_numpy(placed), [[1, 2], [3, 4]])


def test_new_arrays(backend, dtype):
    assert_array_equal(backend.to_numpy(backend.zeros((2, 3), dtype)), np.zeros((2, 3)))
    empty = backend.empty(5, dtype)
    assert (empty.shape, empty.dtype) == ((5,), dtype)
    assert backend.owns(empty)


def test_copy_casts(backend, place, dtype):
    out = backend.zeros((2, 2), dtype)
    assert backend.copy(place([[0.1, 2], [3, 4]], "float64"), out) is out
    assert_array_equal(backend.to_numpy(out), np.array([[0.1, 2], [3, 4]], dtype))


SOURCES = {
    "same": lambda X: X,
    "float64": lambda X: X.astype("float64"),
    "int64": lambda X: X.astype("int64"),
    "big-endian": lambda X: X.astype(">f4"),
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "bool": lambda X: X > 3,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_upload(backend, dtype, kind):
    source = SOURCES[kind](np.arange(35, dtype=dtype).reshape(5, 7))
    before = source.copy()
    out = backend.empty((5, 7), dtype)
    assert backend.upload(source, out) is out
    assert_array_equal(backend.to_numpy(out), before.astype(dtype))
    assert_array_equal(source, before)


def test_uploads_do_not_overtake_each_other(backend, dtype):
    """The source may be overwritten as soon as the call returns."""
    source = np.empty((4, 5), dtype)
    out = [backend.empty((4, 5), dtype) for _ in range(7)]
    for k, array in enumerate(out):
        source.fill(k)
        backend.upload(source, array)
    source.fill(-1)
    for k, array in enumerate(out):
        assert_array_equal(backend.to_numpy(array), np.full((4, 5), k))


def test_long_uploads_go_in_pieces(cupy_backend, monkeypatch):
    from gpubackprop.backends import cupy_copies as module

    monkeypatch.setattr(module, "_LARGEST_STAGED", 64)
    source = np.arange(1000, dtype="float64").reshape(50, 20)
    out = cupy_backend.empty((50, 20), "float32")
    cupy_backend.upload(source, out)
    assert_array_equal(cupy_backend.to_numpy(out), source)


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_take_rows(backend, place, dtype, kind):
    X = np.arange(40, dtype=dtype).reshape(10, 4)
    rows = np.array([9, 0, 3, 3, 1], kind)
    out = backend.empty((5, 4), dtype)
    assert backend.take_rows(place(X), backend.asarray(rows), out) is out
    assert_array_equal(backend.to_numpy(out), X[[9, 0, 3, 3, 1]])
    w = backend.empty(5, dtype)
    backend.take_rows(place(X[:, 1]), backend.asarray(rows), w)
    assert_array_equal(backend.to_numpy(w), [37, 1, 13, 13, 5])
    one = backend.empty((1, 4), dtype)
    backend.take_rows(place(X), backend.asarray(rows[:1]), one)
    assert_array_equal(backend.to_numpy(one), X[9:])


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_one_hot(backend, dtype, kind):
    labels = backend.asarray(np.array([2, 0, 1, 1], kind))
    out = backend.empty((4, 3), dtype)
    assert backend.one_hot(labels, out) is out
    assert out.dtype == dtype
    expected = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert_array_equal(backend.to_numpy(out), expected)
    wide = backend.empty((1, 300), dtype)
    backend.one_hot(backend.asarray(np.array([257], kind)), wide)
    assert_array_equal(np.flatnonzero(backend.to_numpy(wide)), [257])


def test_waiting_and_naming(backend):
    """Nothing here can be seen from the host but that it returns."""
    backend.wait(backend.mark())
    backend.synchronize()
    assert backend.xp.__version__ in backend.describe()
    free = backend.free_bytes()
    assert free is None if backend.host else free > 0


# ---- forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", ROWS)
def test_affine(backend, place, dtype, rng, n, bias):
    a, W, b = rng.normal(size=(n, 5)), rng.normal(size=(64, 5)), rng.normal(size=64)
    placed = [place(a), place(W), place(b) if bias else None]
    out = backend.empty((n, 64), dtype)
    assert backend.affine(*placed, out) is out
    close(backend.to_numpy(out), a @ W.T + b * bias, dtype, factor=5)
    assert_array_equal(backend.to_numpy(placed[1]), W.astype(dtype))


#: One that needs z itself, one with a parameter, one that is nothing: the rest is in
#: tests/test_activations.py.
LAYERS = ("leaky_relu", "gelu", "identity")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(backend, place, dtype, rng, name, bias):
    """With z kept and with z and out in one array, for small and large batches."""
    for n in ROWS if name == "gelu" else ROWS[1:]:  # CuPy compiles once more for n = 1
        a, W, b = rng.normal(size=(n, 5)), rng.normal(size=(64, 5)), rng.normal(size=64)
        arguments = [place(a), place(W), place(b) if bias else None]
        z_expected = a @ W.T + b * bias
        expected = definitions.ACTIVATION[name](z_expected)
        z, out = backend.empty((n, 64), dtype), backend.empty((n, 64), dtype)
        assert backend.layer(*arguments, ACTIVATIONS[name], z, out) is out
        close(backend.to_numpy(z), z_expected, dtype, factor=5)
        close(backend.to_numpy(out), expected, dtype, factor=5)
        assert backend.layer(*arguments, ACTIVATIONS[name], z, z) is z
        close(backend.to_numpy(z), expected, dtype, factor=5)


def test_layer_at_saturation(backend, place, dtype):
    a, W, b = place([[1e2], [-1e2], [np.nan]]), place([[1e2]]), place([0.0])
    z, out = backend.empty((3, 1), dtype), backend.empty((3, 1), dtype)
    backend.layer(a, W, b, ACTIVATIONS["sigmoid"], z, out)
    assert_array_equal(backend.to_numpy(z)[:, 0], [1e4, -1e4, np.nan])
    assert_array_equal(backend.to_numpy(out)[:, 0], [1, 0, np.nan])


@pytest.mark.parametrize("n_out", [1, 3, 130])
def test_softmax(backend, place, dtype, rng, n_out):
    for n in (1, 7):
        z = rng.normal(scale=4, size=(n, n_out))
        shifted, out = backend.empty((n, n_out), dtype), backend.empty((n, n_out), dtype)
        row = backend.empty((n, 1), dtype)
        placed = place(z)
        assert backend.softmax(placed, shifted, row, out) is out
        close(backend.to_numpy(out), special.softmax(z, axis=1), dtype)
        close(backend.to_numpy(shifted), z - z.max(axis=1, keepdims=True), dtype, factor=5)
        exponents = special.logsumexp(z, axis=1, keepdims=True) - z.max(axis=1, keepdims=True)
        close(backend.to_numpy(row), exponents, dtype)
        assert_array_equal(backend.to_numpy(placed), z.astype(dtype))
        backend.softmax(placed, placed, row, out)  # shifted may be z
        close(backend.to_numpy(out), special.softmax(z, axis=1), dtype)


@pytest.mark.parametrize("n_out", [2, 10, 32, 33])
def test_softmax_of_many_rows(dtype, n_out):
    """Short ones are reduced as columns, a row that has lost its numbers too."""
    backend, rng = backends.get("numpy"), np.random.default_rng(0)
    z = (20 * rng.standard_normal((700, n_out))).astype(dtype)
    z[0], z[1, 0] = np.nan, np.inf
    out, row = np.empty_like(z), np.empty((len(z), 1), dtype)
    with backend.active():
        backend.softmax(z, np.empty_like(z), row, out)
    assert np.isnan(out[:2]).all()
    close(out[2:], special.softmax(z[2:].astype("f8"), axis=1), dtype)
    top = z[2:].max(1).astype("f8")
    close(row[2:, 0] + top, special.logsumexp(z[2:].astype("f8"), axis=1), dtype)


def test_softmax_at_saturation(backend, place, dtype):
    z = [[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, 9999], [np.nan, 0, 0], [0, 0, 0]]
    shifted, out = backend.empty((5, 3), dtype), backend.empty((5, 3), dtype)
    row = backend.empty((5, 1), dtype)
    backend.softmax(place(z), shifted, row, out)
    e = 1 / (2 + math.exp(-1))
    expected = [[1, 0, 0], [1 / 3] * 3, [e, e, e * math.exp(-1)], [np.nan] * 3, [1 / 3] * 3]
    close(backend.to_numpy(out), expected, dtype)
    close(backend.to_numpy(row)[[0, 1, 4], 0], [0, math.log(3), math.log(3)], dtype)


def test_multiply_and_add(backend, place, dtype):
    x, y = place([[1, -2], [3, 4]]), place([[5, 6], [-7, 0.5]])
    out = backend.empty((2, 2), dtype)
    assert backend.multiply(x, y, out) is out
    assert_array_equal(backend.to_numpy(out), [[5, -12], [-21, 2]])
    backend.multiply(x, place([[10], [100]]), out)
    assert_array_equal(backend.to_numpy(out), [[10, -20], [300, 400]])
    assert backend.add(x, out) is out
    assert_array_equal(backend.to_numpy(out), [[11, -22], [303, 404]])
    assert_array_equal(backend.to_numpy(x), [[1, -2], [3, 4]])


# ---- dropout (more in tests/test_model.py) -------------------------------------------------------


def unmix(x):
    """Undo the hash, with the inverse that its author publishes."""
    x ^= x >> 16
    x = x * 0x43021123 & 0xFFFFFFFF
    x ^= x >> 15 ^ x >> 30
    x = x * 0x1D69E2A5 & 0xFFFFFFFF
    return x ^ x >> 16


def test_masks_keep_what_the_inverse_hash_says(backend):
    """An output whose hash is the threshold itself is kept; the next smaller one is dropped."""
    p, n_out = 0.25, 4
    for hashed, kept in ((2**30, True), (2**30 - 1, False), (2**32 - 1, True), (0, False)):
        key = unmix(hashed) ^ 6  # so that counter 6, row 1 and unit 2, has that hash
        mask = backend.to_numpy(
            backend.dropout_mask(key, p, 0, backend.empty((2, n_out), "float64"))
        )
        assert (mask[1, 2] != 0) == kept


def test_counters_go_round_at_32_bits(backend):
    """Rows so far in a batch that row * n_out needs more than 32 bits."""
    first, n_out, key = 2**32 // 3 - 1, 3, 77
    out = backend.to_numpy(backend.dropout_mask(key, 0.5, first, backend.empty((4, 3), "float32")))
    expected = [
        [_hash(((first + i) * n_out + j) % 2**32 ^ key) >= 2**31 for j in range(3)]
        for i in range(4)
    ]
    assert_array_equal(out != 0, expected)


def _hash(x):
    """Return the only number whose inverse is x, by the same steps the other way round."""
    y = x
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        y = (y ^ y >> shift) * factor % 2**32
    y ^= y >> 16
    assert unmix(y) == x
    return y


@pytest.mark.parametrize(("p", "share"), [(0.0, 1.0), (1 - 1e-12, 0.0)])
def test_masks_at_the_ends(backend, dtype, p, share):
    out = backend.dropout_mask(123, p, 0, backend.empty((30, 11), dtype))
    assert (backend.to_numpy(out) != 0).mean() == share


# ---- loss and output delta, for every pair -------------------------------------------------------


def allowed():
    for activation, loss in itertools.product(ACTIVATIONS, LOSSES):
        try:
            check_pair(ACTIVATIONS[activation], LOSSES[loss])
        except ValueError:
            continue
        yield activation, loss


PAIRS = list(allowed())


def cases(part):
    """Return every pair on every backend in both dtypes, with fewer on CuPy, which compiles each.

    There it is those with a formula of their own, and each loss with sigmoid. All the others are
    one kernel in tests/test_cuda_printer.py.
    """
    made = []
    for (activation, loss), backend, dtype in itertools.product(PAIRS, BACKENDS, DTYPES):
        own = LOSSES[loss].from_z if part == "loss" else LOSSES[loss].matched
        chosen = activation in (*own, "softmax") or (activation, dtype) == ("sigmoid", "float32")
        if backend != "cupy" or chosen:
            case = activation, loss, backend, dtype
            made.append(pytest.param(*case, id="-".join(case)))
    return made


def batch(loss, rng, n, n_out=3):
    """Return z, of which no entry is near a kink, and targets that suit a loss."""
    z = rng.uniform(0.1, 2.5, size=(n, n_out)) * rng.choice([-1, 1], size=(n, n_out))
    kind = LOSSES[loss].targets
    if kind == "classes":
        y = rng.dirichlet([0.5] * n_out, size=n)
        y[0] = np.eye(n_out)[1]
    elif kind == "unit":
        y = rng.uniform(size=(n, n_out)).round(rng.integers(2))
    elif kind == "counts":
        y = rng.poisson(1.0, size=(n, n_out)).astype("float64")
    else:
        y = rng.normal(scale=2, size=(n, n_out))
    return z, y


def away_from_kinks(activation, z, y):
    """Move targets away from where a loss has a kink: o = y, and |o - y| = 1 of huber."""
    e = definitions.outputs(activation, z) - y
    near = (abs(e) < 0.02) | (abs(abs(e) - 1) < 0.02)
    return np.where(near, y + 0.05, y)


def forward(backend, network, z):
    """Return a workspace as `forward` leaves it, with z given."""
    ws = Workspace(network, len(z), backend)
    backend.copy(backend.asarray(np.asarray(z, network.dtype)), ws.z[-1])
    activation = network.activations[-1]
    if activation.elementwise:
        backend.elementwise(activation.forward, network.dtype)(ws.z[-1], ws.a[-1])
    else:
        backend.softmax(ws.z[-1], ws.shifted, ws.row, ws.a[-1])
    return ws


@pytest.mark.parametrize(("activation", "loss", "name", "dtype"), cases("loss"))
def test_loss(activation, loss, name, dtype, rng):
    """The sum over a batch, with and without weights."""
    require(name)
    backend, network = backends.get(name), model(activation, loss, dtype)
    with backend.active():
        for n in (1, 7):
            z, y = batch(loss, rng, n)
            rows = definitions.terms(activation, loss, z, y).sum(axis=1)
            Y, out = backend.asarray(y.astype(dtype)), backend.empty((1,), "float64")
            for w in (None, rng.uniform(0, 3, size=n), np.zeros(n)):
                ws = forward(backend, network, z)
                placed = None if w is None else backend.asarray(w.astype(dtype))
                assert backend.loss(network, ws, Y, placed, out) is out
                assert out.dtype == np.float64
                expected = (rows if w is None else w * rows).sum()
                size = abs(definitions.outputs(activation, z)).max() + abs(rows).max()
                tolerance = {"float32": 4e-6, "float64": 1e-14}[dtype] * n * size
                assert_allclose(backend.to_numpy(out), [expected], rtol=0, atol=tolerance)
            assert_array_equal(backend.to_numpy(Y), y.astype(dtype))


@pytest.mark.parametrize(("activation", "loss", "name", "dtype"), cases("delta"))
def test_output_delta(activation, loss, name, dtype, rng):
    """scale * w * dloss/dz, with and without weights, against central differences."""
    require(name)
    backend, network = backends.get(name), model(activation, loss, dtype)
    with backend.active():
        for n in (1, 7):
            z, y = batch(loss, rng, n)
            z = z.astype(dtype).astype("float64")
            if loss in ("absolute", "huber", "quantile"):
                y = away_from_kinks(activation, z, y)
            y = y.astype(dtype).astype("float64")
            slopes = definitions.delta(activation, loss, z, y)
            Y = backend.asarray(y.astype(dtype))
            for w in (None, rng.uniform(0, 3, size=n)):
                ws = forward(backend, network, z)
                placed = None if w is None else backend.asarray(w.astype(dtype))
                delta = backend.output_delta(network, ws, Y, placed, 1 / 8)
                assert delta is ws.delta[-1]
                expected = slopes / 8 * (1 if w is None else w[:, None])
                scale = abs(expected).max()
                # float64: what central differences are good for.
                tolerance = {"float32": 4e-6, "float64": 1e-8}[dtype] * max(scale, 0.1)
                assert_allclose(backend.to_numpy(delta), expected, rtol=0, atol=tolerance)


SATURATED = [
    ("sigmoid", "log_loss", [[1e4, -1e4, 1e4]], [[0, 1, 1]], 2e4, [[1, -1, 0]]),
    ("softmax", "cross_entropy", [[1e4, -1e4, 0]], [[0, 1, 0]], 2e4, [[1, -1, 0]]),
    ("softmax", "cross_entropy", [[1e4, -1e4, 0]], [[1, 0, 0]], 0, [[0, 0, 0]]),
    ("softmax", "squared", [[1e4, -1e4, 0]], [[0, 1, 0]], 1, [[0, 0, 0]]),
    ("softplus", "poisson", [[-1e4, 0, -1e4]], [[0, math.log(2), 1]],
     9999, [[0, 0, -1]]),
    ("sigmoid", "squared", [[1e4, -1e4, 1e4]], [[0, 1, 1]], 1, [[0, 0, 0]]),
]  # fmt: skip


@pytest.mark.parametrize(("activation", "loss", "z", "y", "value", "delta"), SATURATED)
def test_saturated_outputs(backend, dtype, activation, loss, z, y, value, delta):
    """Logits of 1e4: a finite loss, and a delta that still points the right way."""
    network = model(activation, loss, dtype)
    Y, out = backend.asarray(np.array(y, dtype)), backend.empty((1,), "float64")
    backend.loss(network, forward(backend, network, z), Y, None, out)
    assert_allclose(backend.to_numpy(out), [value], rtol=1e-7, atol=1e-7)
    actual = backend.output_delta(network, forward(backend, network, z), Y, None, 1.0)
    assert_allclose(backend.to_numpy(actual), delta, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("activation", "loss"), [("softmax", "cross_entropy"), ("softmax", "squared")]
)
def test_a_nan_reaches_the_loss(backend, dtype, activation, loss):
    """One NaN output in one row is enough."""
    network = model(activation, loss, dtype)
    Y, out = backend.asarray(np.eye(3, dtype=dtype)), backend.empty((1,), "float64")
    z = [[0, 1, 2], [0, np.nan, 1], [0, 0, 0]]
    backend.loss(network, forward(backend, network, z), Y, None, out)
    assert np.isnan(backend.to_numpy(out)).all()


def test_a_short_last_batch_uses_the_first_rows(backend, dtype, rng):
    """Views of a larger workspace: the rest of it is not touched."""
    network = model("softmax", "cross_entropy", dtype)
    z, y = batch("cross_entropy", rng, 3)
    ws = Workspace(network, 8, backend)
    for array in (ws.a[-1], ws.delta[-1], ws.shifted, ws.row):
        array[...] = 99
    view = ws.rows(3)
    backend.copy(backend.asarray(z.astype(dtype)), view.z[-1])
    backend.softmax(view.z[-1], view.shifted, view.row, view.a[-1])
    Y, out = backend.asarray(y.astype(dtype)), backend.empty((1,), "float64")
    delta = backend.output_delta(network, view, Y, None, 1.0)
    close(backend.to_numpy(delta), special.softmax(z, axis=1) - y, dtype)
    backend.loss(network, view, Y, None, out)
    expected = definitions.terms("softmax", "cross_entropy", z, y).sum()
    close(backend.to_numpy(out), [expected], dtype)
    for array in (ws.a[-1], ws.delta[-1], ws.shifted, ws.row):
        assert_array_equal(backend.to_numpy(array)[3:], 99)


# ---- back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["sigmoid", "gelu", "identity"])
def test_backprop(backend, place, dtype, rng, name, masked):
    for n in ROWS:
        delta, W = rng.normal(size=(n, 4)), rng.normal(size=(4, 64))
        z = rng.uniform(0.1, 2, size=(n, 64))
        mask = rng.choice([0.0, 2.0], size=(n, 64)) if masked else None
        read = z if ACTIVATIONS[name].reads == "z" else definitions.ACTIVATION[name](z)
        placed = [place(delta), place(W), place(read), place(mask) if masked else None]
        out = backend.empty((n, 64), dtype)
        returned = backend.backprop(
            placed[0], placed[1], ACTIVATIONS[name], placed[2], placed[3], out
        )
        assert returned is out
        expected = delta @ W * definitions.slope(definitions.ACTIVATION[name], z)
        if masked:
            expected = expected * mask
        tolerance = {"float32": 1e-5, "float64": 1e-8}[dtype.name]
        assert_allclose(backend.to_numpy(out), expected, rtol=0, atol=tolerance)
        assert_array_equal(backend.to_numpy(placed[0]), delta.astype(dtype))
        assert_array_equal(backend.to_numpy(placed[2]), read.astype(dtype))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", ROWS)
def test_gradient(backend, place, dtype, rng, n, bias):
    delta, a = rng.normal(size=(n, 3)), rng.normal(size=(n, 5))
    dW, db = backend.empty((3, 5), dtype), backend.empty(3, dtype) if bias else None
    backend.gradient(place(delta), place(a), dW, db)
    expected = sum(np.outer(d, x) for d, x in zip(delta, a, strict=True))
    close(backend.to_numpy(dW), expected, dtype, factor=50)
    if bias:
        close(backend.to_numpy(db), delta.sum(axis=0), dtype, factor=50)


# ---- sums, norms, checks -------------------------------------------------------------------------


def test_total_is_summed_in_float64(backend, place):
    """0.1 a hundred thousand times: in float32 the sum is wrong in its fourth digit."""
    out = backend.empty((1,), "float64")
    x = place(np.full((1000, 100), 0.1), "float32")
    assert backend.total(x, out) is out
    assert_allclose(backend.to_numpy(out), [1e5 * float(np.float32(0.1))], rtol=1e-12)


def test_sum_rows(backend, place, dtype):
    out = backend.empty((2, 1), dtype)
    backend.sum_rows(place([[1, 2, 3], [-1, 0.5, 0]]), out)
    assert_array_equal(backend.to_numpy(out), [[6], [-0.5]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_record(backend, bad):
    """The total goes on, and the first bad step is kept."""
    total, first_bad = backend.zeros((1,), "float64"), backend.zeros((1,), "float64")
    first_bad -= 1
    seen = []
    for step, value in enumerate([1.5, 2.5, bad, 1.0, bad]):
        backend.record(backend.asarray(np.array([value])), step, total, first_bad)
        seen.append((backend.to_numpy(total).item(), backend.to_numpy(first_bad).item()))
    assert seen[:2] == [(1.5, -1), (4.0, -1)]
    assert [first for _, first in seen] == [-1, -1, 2, 2, 2]
    assert not np.isfinite([value for value, _ in seen[2:]]).any()


def test_record_keeps_a_first_step_of_0(backend):
    total, first_bad = backend.zeros((1,), "float64"), backend.zeros((1,), "float64")
    first_bad -= 1
    for step in (0, 1):
        backend.record(backend.asarray(np.array([np.nan])), step, total, first_bad)
    assert backend.to_numpy(first_bad) == [0]


@pytest.mark.parametrize(
    ("limit", "factor"), [(20.0, 1.0), (13.0, 1.0), (6.5, 0.5), (1e-3, 1e-3 / 13)]
)
def test_clip_norm(backend, place, dtype, limit, factor):
    g = place([3, -4, 0, 12])  # of norm 13
    backend.clip_norm(g, limit, backend.empty((1,), dtype))
    expected = np.array([3, -4, 0, 12]) * factor
    assert_allclose(backend.to_numpy(g), expected, rtol=4 * np.finfo(dtype).eps)


def test_clip_norm_of_nothing_and_of_nan(backend, place, dtype):
    cell = backend.empty((1,), dtype)
    g = place([0, 0, 0])
    backend.clip_norm(g, 1.0, cell)
    assert_array_equal(backend.to_numpy(g), [0, 0, 0])
    g = place([1, np.nan, 0])
    backend.clip_norm(g, 1.0, cell)
    assert np.isnan(backend.to_numpy(g)).any()  # the loss of the next step tells


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 1000])
def test_all_finite(backend, place, dtype, size, bad):
    x = np.full(size, np.finfo(dtype).max)  # whose sum is not finite
    if bad is not None:
        x[-1] = bad
    out = backend.empty((1,), "float64")
    backend.all_finite(place(x), out)
    assert_array_equal(backend.to_numpy(out), [float(bad is None)])


# ---- expressions ---------------------------------------------------------------------------------


def test_an_expression_is_compiled_once(backend, dtype):
    entry = ACTIVATIONS["sigmoid"]
    call = backend.elementwise(entry.forward, dtype)
    assert backend.elementwise(entry.forward, dtype) is call
    same = pickle.loads(pickle.dumps(entry))
    assert backend.elementwise(same.forward, dtype) is call
    other = np.dtype("float32" if dtype == np.float64 else "float64")
    assert backend.elementwise(entry.forward, other) is not call


def test_erf_without_scipy(monkeypatch):
    """NumPy has none: then Python's, as exact and slower."""
    x = np.array([-3.0, -0.5, 0, 1e-9, 2, np.nan])
    load_erf.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    try:
        erf = load_erf()
        assert_allclose(erf(x), special.erf(x), rtol=1e-15)
        out = np.empty(6, "float32")
        erf(x.astype("float32"), out=out)
        assert_allclose(out, special.erf(x), rtol=1e-6)
        assert erf(x.astype("float32")).dtype == np.float32
    finally:
        load_erf.cache_clear()


# ---- registry ------------------------------------------------------------------------------------


WITHOUT_CUPY = "import sys; sys.modules['cupy'] = None; from gpubackprop import backends\n"


def test_get():
    assert backends.get("numpy").name == "numpy"
    assert backends.get("numpy") is backends.get("numpy")
    assert type(backends.get("numpy-plain")) is Backend
    mine = Backend("mine")
    assert backends.get(mine) is mine


@pytest.mark.parametrize("name", BACKENDS)
def test_names_and_pickles(name):
    require(name)
    found = backends.get(name)
    assert found.name == name
    assert found.plain == name.endswith("-plain")
    assert found.host == name.startswith("numpy")
    assert pickle.loads(pickle.dumps(found)) is found
    assert backends.problem(name) is None
    assert name in backends.usable(plain=True)
    assert (name in backends.usable()) == (not found.plain)


@pytest.mark.parametrize("name", ["tpu", "", "cupy:", "cupy:x", "numpy:0", "CUPY", "cupy:1000"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="backend must be one of auto, numpy, cupy") as caught:
        backends.get(name)
    assert repr(name) in str(caught.value)
    with pytest.raises(ValueError, match="must be one of") as caught:
        backends.problem(name)
    assert repr(name) in str(caught.value)


def test_what_is_no_name():
    with pytest.raises(TypeError, match="backend must be a name or a Backend, got 3"):
        backends.get(3)
    with pytest.raises(TypeError, match="device must be a name or a Backend, got None"):
        backends.get(None, "device")


def test_a_device_that_is_not_there(cupy_backend):
    n = cupy_backend.xp.cuda.runtime.getDeviceCount()
    name = f"cupy:{n + 5}"
    with pytest.raises(RuntimeError, match=f"there are {n} CUDA devices, so no number {n + 5}"):
        backends.get(name)
    assert "CUDA devices" in backends.problem(name)


def test_the_environment_says_what_auto_means(monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BACKEND", "numpy-plain")
    assert backends.get("auto").name == "numpy-plain"
    assert backends.get().name == "numpy-plain"
    monkeypatch.setenv("GPUBACKPROP_BACKEND", "gpu")
    with pytest.raises(ValueError, match=r"variable GPUBACKPROP_BACKEND must be one of .*'gpu'"):
        backends.get()
    assert backends.get("numpy").name == "numpy"


def test_auto_without_cupy():
    code = "print(backends.get().name, backends.usable(), backends.usable(plain=True))"
    printed = run(WITHOUT_CUPY + code)
    assert printed == "numpy ['numpy'] ['numpy', 'numpy-plain']"
    assert run(WITHOUT_CUPY + code, GPUBACKPROP_BACKEND="auto") == printed


def test_auto_is_cupy_where_it_works(monkeypatch, cupy_backend):
    monkeypatch.setenv("GPUBACKPROP_BACKEND", "auto")
    assert backends.get() is cupy_backend


@pytest.mark.parametrize("name", ["cupy", "cupy-plain", "cupy:1"])
def test_cupy_is_missing(name):
    code = f"""
try:
    backends.get({name!r})
except ImportError as error:
    print(error)
print(backends.problem({name!r}))
"""
    printed = run(WITHOUT_CUPY + code)
    message, problem = printed.splitlines()
    assert message == (
        "CuPy is not installed; install it with: "
        "python -m pip install 'gpubackprop[cuda13]' or 'gpubackprop[cuda12]'"
    )
    assert "cupy" in problem


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libnvrtc.so.13: cannot open')", "ImportError: libnvrtc.so.13: cannot"),
        ("raise OSError('driver\\n  too old')", "OSError: driver too old"),
        ("import a_dependency_of_cupy", "No module named 'a_dependency_of_cupy'"),
        ("", "has no attribute 'cuda'"),
    ],
)
def test_cupy_is_broken(tmp_path, source, reason):
    """The reason is kept as text, and everything else works."""
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(source)
    code = """
from gpubackprop import backends
print(backends.get().name)
try:
    backends.get("cupy")
except RuntimeError as error:
    print(error)
print(backends.problem("cupy"))
"""
    name, message, problem = run(code, tmp_path).splitlines()
    assert name == "numpy"
    assert reason in message
    assert message.startswith("the GPU cannot be used: ")
    assert message.endswith("; choose backend='numpy'")
    assert reason in problem


def test_saved_with_cupy_and_loaded_without():
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(backends.rebuild("cupy").name)
(warning,) = caught
print(warning.category.__name__, warning.message)
print(backends.rebuild("numpy-plain").name)
"""
    first, second, third = run(WITHOUT_CUPY + code).splitlines()
    assert (first, third) == ("numpy", "numpy-plain")
    assert second.startswith("RuntimeWarning saved with backend 'cupy', which cannot be used here")
    assert second.endswith("it runs on NumPy")


def test_rebuild():
    for name in backends.usable(plain=True):
        assert backends.rebuild(name) is backends.get(name)


def test_a_norm_whose_square_is_infinite_is_clipped(backend):
    g = backend.asarray(np.array([3e19, 4e19, 0.0], np.float32))
    backend.clip_norm(g, 5.0, backend.empty((1,), np.float32))
    close(backend.to_numpy(g), [3.0, 4.0, 0.0], "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_out", [1, 3, 4, 32, 33])
@pytest.mark.parametrize("n", [511, 1000, 8192])
def test_many_short_rows_get_their_bias_and_their_sum(n, n_out, dtype):
    """Rows are joined for the addition, and what is left over is added by itself."""
    backend, rng = backends.get("numpy"), np.random.default_rng(0)
    a, W = rng.integers(-9, 9, (n, 5)), rng.integers(-9, 9, (n_out, 5))
    b = np.arange(n_out) + 0.5
    z, db = np.empty((n, n_out), dtype), np.empty(n_out, dtype)
    backend.affine(*(x.astype(dtype) for x in (a, W, b)), z)
    assert_array_equal(z, a @ W.T + b)  # small whole numbers and halves: without rounding
    backend.gradient(z, a.astype(dtype), np.empty((n_out, 5), dtype), db)
    assert_array_equal(db, (a @ W.T + b).sum(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_out", [1, 10, 16, 30, 32, 33])
def test_a_narrow_layer_of_many_weights(n_out, dtype, monkeypatch):
    """OpenBLAS gets W with rows of zeros below, and rows in blocks, the last one shorter."""
    monkeypatch.setenv("GPUBACKPROP_BLAS", "numpy")
    backend, rng = backends.get("numpy"), np.random.default_rng(0)
    a, W = rng.integers(-9, 9, (2100, 700)), rng.integers(-9, 9, (n_out, 700))
    b, z = np.arange(n_out) + 0.5, np.empty((2100, n_out), dtype)
    for _ in range(2):  # with scratch that holds other numbers, too
        backend.affine(*(x.astype(dtype) for x in (a, W, b)), z)
        assert_array_equal(z, a @ W.T + b)  # whole numbers and halves below 2^16: without rounding
        W = W[::-1]


@pytest.mark.parametrize("library", ["mkl", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_product_is_right_however_its_arrays_lie(library, dtype, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BLAS", library)
    if library == "mkl" and not blas.uses_mkl():
        pytest.skip("mkl is not installed")
    rng, backend = np.random.default_rng(0), backends.get("numpy")
    wide = rng.standard_normal((130, 222)).astype(dtype)
    W = rng.standard_normal((90, 111)).astype(dtype)
    lying = wide[:, :111].copy(), wide[:, 5:116], wide[:, ::2], wide[::-1, :111]
    for a in (*lying, np.asfortranarray(lying[0])):
        exact = a.astype(np.float64)
        z, dW = np.empty((130, 90), dtype), np.empty_like(W)
        backend.affine(a, W, None, z)
        close(z, exact @ W.T.astype(np.float64), dtype, factor=50)
        backend.gradient(z, a, dW, None)
        close(dW, z.T.astype(np.float64) @ exact, dtype, factor=1000)
