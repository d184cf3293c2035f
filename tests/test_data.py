"""Sources: rows of arrays, maps and batches, whatever their dtype, layout and place."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpubackprop import columns
from gpubackprop.activations import get as activation
from gpubackprop.backends import get
from gpubackprop.data import Batches, Source, source
from gpubackprop.losses import get as loss
from gpubackprop.model import Model

NUMPY = get("numpy")
OUTPUT = {"log_loss": "sigmoid", "cross_entropy": "softmax", "poisson": "exp"}
DTYPES = ["?", "u1", "i4", "i8", "f2", "f4", "f8", "g", ">f4", ">f8", ">i4", "O"]
N = 50
ROWS = [[3], [49, 0, 7, 7, 21], list(range(N))]


def network(n_in=4, n_out=2, cost="squared", dtype="float32"):
    """Return the model of a network of one layer."""
    output = activation(OUTPUT.get(cost, "identity"))
    return Model((n_in, n_out), (output,), loss(cost), (True,), (), np.dtype(dtype))


def read(data, rows, model, backend):
    """Take rows of a source; returns X, Y and the weights as NumPy arrays."""
    n = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    shapes = ((n, model.sizes[0]), (n, model.sizes[-1]), (n,))
    X, Y, w = (backend.zeros(shape, model.dtype) for shape in shapes)
    data.take(rows, X, Y if data._Y else None, w if data.weighted else None)
    return backend.to_numpy(X), backend.to_numpy(Y), backend.to_numpy(w)


def table(n=N, width=4, dtype="f8"):
    """Return small whole numbers, which every dtype can hold."""
    x = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (n, width))
    return x.astype(dtype)


LAYOUTS = {
    "C": lambda x: x,
    "F": np.asfortranarray,
    "columns": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "rows": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": lambda x: unaligned(x),
    "list": lambda x: x.tolist(),
}


def unaligned(x):
    """Return a copy that begins at an odd address, where it may: objects have no bytes to move."""
    if x.dtype.hasobject:
        return x
    return np.frombuffer(b"_" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)


def snapshot(x):
    return x.tobytes(), x.dtype, x.shape, x.strides, x.flags.writeable


@pytest.fixture(params=[False, True], ids=["fits", "does not fit"])
def room(request, backend, monkeypatch):
    """Let the device have room for data, or not."""
    if request.param:
        monkeypatch.setattr(backend, "free_bytes", lambda: 1000)
    return not request.param


# ---- what comes out is what went in --------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("computed", ["float32", "float64"])
def test_any_dtype_and_layout(dtype, layout, computed, backend, room):
    X, Y = LAYOUTS[layout](table(dtype=dtype)), LAYOUTS[layout](table(width=2, dtype=dtype))
    before = [snapshot(x) for x in (X, Y) if isinstance(x, np.ndarray)]
    model = network(dtype=computed)
    data = source(X, Y, None, model, backend)
    assert data.n_samples == N
    assert data.resident == (backend.host or room)
    for rows in ROWS:
        for kind in (np.int32, np.int64):
            got = read(data, np.array(rows, kind), model, backend)
            assert_array_equal(got[0], np.array(X, "f8")[rows].astype(computed))
            assert_array_equal(got[1], np.array(Y, "f8")[rows].astype(computed))
    got = read(data, slice(3, 40), model, backend)
    assert_array_equal(got[0], np.array(X, "f8")[3:40].astype(computed))
    assert before == [snapshot(x) for x in (X, Y) if isinstance(x, np.ndarray)]


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_on_the_device_stay_there(dtype, order, backend, monkeypatch):
    monkeypatch.setattr(backend, "free_bytes", lambda: 0)
    X, Y = table(dtype=dtype), table(width=2, dtype=dtype)
    model = network()
    X_there = backend.asarray(np.asarray(X, order=order))
    if order == "F":
        X_there = backend.asarray(X.T.copy()).T
    data = source(X_there, backend.asarray(Y), None, model, backend)
    assert data.resident
    assert data._X.array is X_there or backend.host
    for rows in ROWS:
        for given in (np.array(rows, np.int32), backend.asarray(np.array(rows, np.int32))):
            got = read(data, given, model, backend)
            assert_array_equal(got[0], X[rows].astype("f4"))
            assert_array_equal(got[1], Y[rows].astype("f4"))


def test_X_on_the_device_and_the_rest_on_the_host(backend, room):
    X, y, w = table(dtype="f4"), np.arange(N) % 2, np.arange(N) + 1.0
    model = network(cost="cross_entropy")
    if not room:
        w = w.repeat(20)[::20]
    data = source(backend.asarray(X), y, w, model, backend)
    for rows in (np.array([4, 1, 49], np.int32), slice(10, 20)):
        got = read(data, rows, model, backend)
        assert_array_equal(got[0], X[rows])
        assert_array_equal(got[1], np.eye(2)[y[rows]])
        assert_allclose(got[2], (w / w.mean())[rows], rtol=1e-6)


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    model = network()
    frame = pandas.DataFrame({"a": [1, 2], "b": [1.5, 2.5], "c": [True, False], "d": [0, 255]})
    data = source(frame, frame[["a", "b"]], frame["a"], model, NUMPY)
    X, Y, w = read(data, np.array([1, 0]), model, NUMPY)
    assert_array_equal(X, [[2, 2.5, 0, 255], [1, 1.5, 1, 0]])
    assert_array_equal(Y, [[2, 2.5], [1, 1.5]])
    assert_allclose(w, [4 / 3, 2 / 3], rtol=1e-6)


def test_what_speaks_dlpack_alone():
    class Tensor:
        def __init__(self, x):
            self.x = x

        def __dlpack__(self, **arguments):
            return self.x.__dlpack__(**arguments)

        def __dlpack_device__(self):
            return self.x.__dlpack_device__()

    X, model = table(), network()
    data = source(Tensor(X), None, None, model, NUMPY)
    assert_array_equal(read(data, slice(0, N), model, NUMPY)[0], X)


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_array"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_sparse_rows_are_densified_a_block_at_a_time(kind, dtype, backend):
    sparse = pytest.importorskip("scipy.sparse")
    dense = (table() * (table() > 0)).astype(dtype)
    data = source(getattr(sparse, kind)(dense), table(width=2), None, network(), backend)
    assert data.n_samples == N
    assert data.view_inputs(0, 2) is None
    for rows in (np.array([5, 0, 5, 3], np.int32), slice(2, 4)):
        out = backend.empty((len(dense[rows]), 4), "float32")
        data.take(rows, out, backend.empty((len(out), 2), "float32"))
        assert_array_equal(backend.to_numpy(out), dense[rows].astype("float32"))


def test_prediction_has_no_targets(backend, room):
    X, model = table(), network()
    data = source(X, None, None, model, backend)
    assert not data.weighted
    out = backend.zeros((3, 4), model.dtype)
    data.take(np.array([9, 0, 9]), out, None, None)
    assert_array_equal(backend.to_numpy(out), X[[9, 0, 9]])
    data.take(slice(0, 3), out)
    assert_array_equal(backend.to_numpy(out), X[:3])


def test_parts_can_be_left_out(backend):
    model = network()
    data = source(table(), table(width=2), None, model, backend)
    Y = backend.zeros((2, 2), model.dtype)
    data.take(slice(4, 6), None, Y, None)
    assert_array_equal(backend.to_numpy(Y), table(width=2)[4:6])


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_one_output(shape, backend, room):
    Y, model = table(width=1), network(n_out=1)
    data = source(table(), Y.reshape(shape), None, model, backend)
    assert_array_equal(read(data, np.array([5, 3]), model, backend)[1], Y[[5, 3]])


# ---- class numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [t for t in DTYPES if t != "?"])
@pytest.mark.parametrize("n_classes", [3, 100, columns.IDENTITY + 1])
def test_labels_become_one_hot_rows(dtype, n_classes, backend, room):
    classes = np.random.default_rng(0).integers(0, 3, N)
    model = network(n_out=n_classes, cost="cross_entropy")
    table_of_labels = np.stack([classes, classes]).astype(dtype).T  # a column of it is strided
    for y in (classes.astype(dtype), table_of_labels[:, 0], classes.tolist()):
        data = source(table(), y, None, model, backend)
        for rows in (*(np.array(r, np.int32) for r in ROWS), slice(2, 30)):
            got = read(data, rows, model, backend)[1]
            assert_array_equal(got, np.eye(n_classes)[classes[rows]])


def test_labels_on_the_device(backend):
    classes = np.arange(N) % 3
    model = network(n_out=3, cost="cross_entropy")
    for dtype in ("i4", "i8", "u1", "f4"):
        data = source(table(), backend.asarray(classes.astype(dtype)), None, model, backend)
        got = read(data, np.array([4, 3, 2]), model, backend)[1]
        assert_array_equal(got, np.eye(3)[[1, 0, 2]])


def test_probabilities(backend):
    Y = np.random.default_rng(0).dirichlet([1, 1, 1], N)
    model = network(n_out=3, cost="cross_entropy")
    data = source(table(), Y, None, model, backend)
    assert_array_equal(read(data, np.array([8, 1]), model, backend)[1], Y[[8, 1]].astype("f4"))


# ---- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "?", "O"])
def test_weights_have_mean_one(dtype, backend, room):
    w = (np.arange(N) % 4).astype(dtype)
    before, model = w.tobytes(), network()
    data = source(table(), table(width=2), w, model, backend)
    assert data.weighted
    got = read(data, np.arange(N), model, backend)[2]
    assert_allclose(got, w.astype("f8") / w.astype("f8").mean(), rtol=1e-6)
    assert w.tobytes() == before


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e308])
def test_extreme_weights(scale):
    model = network(dtype="float64")
    data = source(table(), table(width=2), np.full(N, scale), model, NUMPY)
    assert_array_equal(read(data, slice(0, N), model, NUMPY)[2], np.ones(N))


# ---- views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_views(dtype, backend):
    X, Y, w = table(dtype=dtype), table(width=2, dtype=dtype), np.ones(N)
    model = network(dtype=dtype)
    data = source(X, Y, w, model, backend)
    X_view, Y_view, w_view = data.view(10, 20)
    assert backend.owns(X_view)
    assert_array_equal(backend.to_numpy(X_view), X[10:20])
    assert_array_equal(backend.to_numpy(Y_view), Y[10:20])
    assert_array_equal(backend.to_numpy(w_view), w[10:20])
    assert w_view.dtype == dtype
    if backend.host:
        assert np.shares_memory(X_view, X)
        assert np.shares_memory(Y_view, Y)
    assert source(X, None, None, model, backend).view(0, 5)[1:] == (None, None)


def test_no_view_where_a_copy_is_needed(backend):
    X, Y, model = table(dtype="f4"), table(width=2, dtype="f4"), network()

    def there(x):
        return backend.asarray(x)

    assert source(there(X), there(Y), None, model, backend).view(0, 5) is not None
    assert source(there(X), there(Y.astype("f8")), None, model, backend).view(0, 5) is None
    assert source(there(X.astype("i4")), there(Y), None, model, backend).view(0, 5) is None
    assert source(there(X.T.copy()).T, there(Y), None, model, backend).view(0, 5) is None
    labels = source(there(X), np.zeros(N, int), None, network(cost="cross_entropy"), backend)
    assert labels.view(0, 5) is None
    assert_array_equal(backend.to_numpy(labels.view_inputs(0, 5)), X[:5])


def test_no_view_of_what_does_not_fit(backend, monkeypatch):
    monkeypatch.setattr(backend, "free_bytes", lambda: 0)
    data = source(table(dtype="f4"), table(width=2, dtype="f4"), None, network(), backend)
    assert data.resident == backend.host
    assert (data.view(0, 5) is None) == (not backend.host)
    assert (data.view_inputs(0, 5) is None) == (not backend.host)


def test_what_fits_is_put_on_the_device_once(backend, monkeypatch):
    needed = N * (4 + 2 + 1) * 4
    for free, fits in ((needed / 0.8 + 1, True), (needed / 0.8 - 1, False), (None, True)):
        monkeypatch.setattr(backend, "free_bytes", lambda free=free: free)
        data = source(table(), table(width=2), np.ones(N), network(), backend)
        assert data.resident == (fits or backend.host)


# ---- memory maps ---------------------------------------------------------------------------------


def mapped(path, x):
    """Write an array to a file; returns it as a read-only map."""
    np.save(path, x)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", ">f4", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_maps(dtype, order, backend, room, tmp_path):
    X = table(dtype=dtype)
    X_map = mapped(tmp_path / "X.npy", np.asarray(X, order=order))
    Y_map = mapped(tmp_path / "Y.npy", np.arange(N) % 3)
    model = network(n_out=3, cost="cross_entropy")
    data = source(X_map[:, :], Y_map, None, model, backend)
    assert data.streamed == (backend.host or not room)
    for rows in (*(np.array(r, np.int32) for r in ROWS), slice(5, 25)):
        got = read(data, rows, model, backend)
        assert_array_equal(got[0], X[rows].astype("f4"))
        assert_array_equal(got[1], np.eye(3)[Y_map[rows]])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_of_maps_are_checked_as_they_are_read(value, tmp_path):
    X = table()
    X[30, 2] = value
    X_map, model = mapped(tmp_path / "X.npy", X), network()
    for x in (X_map, X_map[::-1][::-1], mapped(tmp_path / "F.npy", np.asfortranarray(X))):
        data = source(x, None, None, model, NUMPY)
        read(data, np.array([29, 31, 0]), model, NUMPY)
        read(data, slice(0, 30), model, NUMPY)
        for rows in (np.array([5, 30, 6]), np.array([30], np.int32), slice(28, 32)):
            with pytest.raises(ValueError, match=r"X must .* at row 30, column 2"):
                read(data, rows, model, NUMPY)


def test_bad_values_of_maps_of_the_networks_own_dtype(tmp_path):
    X = table(dtype="f4")
    X[30, 2] = np.nan
    model = network()
    data = source(mapped(tmp_path / "X.npy", X), None, None, model, NUMPY)
    assert data.view(0, 30) is not None
    for broken in (lambda: data.view(20, 40), lambda: data.view_inputs(30, 31)):
        with pytest.raises(ValueError, match="X must be finite, got nan at row 30, column 2"):
            broken()
    with pytest.raises(ValueError, match="row 30, column 2"):
        read(data, np.array([1, 2, 30]), model, NUMPY)


def test_bad_values_of_maps_on_every_backend(backend, room, tmp_path):
    X, y, model = table(), np.arange(N) % 2, network(cost="cross_entropy")
    X[30, 2], y[40] = np.nan, 2
    good = mapped(tmp_path / "good.npy", table())
    rows = np.array([30, 40])
    maps = mapped(tmp_path / "X.npy", X), mapped(tmp_path / "y.npy", y)
    for data, words in (
        ((maps[0], y % 2), "X must be finite, got nan at row 30"),
        ((good, maps[1]), "Y must hold class numbers 0..1, got 2 at row 40"),
    ):
        with pytest.raises(ValueError, match=words):
            read(source(*data, None, model, backend), rows, model, backend)


def test_shapes_of_maps_are_checked_at_once(tmp_path):
    X = mapped(tmp_path / "X.npy", table(width=5))
    with pytest.raises(ValueError, match="X must have 4 columns"):
        source(X, None, None, network(), NUMPY)


def test_what_a_map_is(tmp_path):
    X = mapped(tmp_path / "X.npy", table())
    assert columns.is_memory_map(X)
    assert columns.is_memory_map(np.asarray(X)[3:, ::2].T)
    assert columns.is_memory_map(np.memmap(tmp_path / "new", "f4", "w+", shape=(3, 2)))
    assert not columns.is_memory_map(X[[1, 2]])
    assert not columns.is_memory_map(np.array(X))
    assert not columns.is_memory_map(table())


def test_a_map_is_read_in_blocks(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "f8", (200_000, 40))  # 64 MB
    model = network(40)
    with peak() as used:
        data = source(X, None, None, model, NUMPY)
        assert data.streamed
        assert data.nbytes == X.nbytes
        out = np.empty((1000, 40), "f4")
        rng = np.random.default_rng(0)
        for _ in range(50):
            data.take(rng.integers(0, len(X), 1000), out, None, None)
    assert used.bytes < 2e6


# ---- memory --------------------------------------------------------------------------------------


class peak:
    """Measures the most memory that was allocated within a `with`."""

    bytes = 0

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *error):
        self.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "?", ">f4", "i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_never_copied_whole(dtype, order):
    X = np.ones((400_000, 20), dtype, order=order)  # 8 to 64 MB
    model = network(20, 1)
    y = np.ones(len(X))
    X.flags.writeable = False
    with peak() as used:
        data = source(X, y, None, model, NUMPY)
        buffers = np.empty((1000, 20), "f4"), np.empty((1000, 1), "f4"), None
        for start in range(0, 20_000, 1000):
            data.take(np.arange(start, start + 1000, dtype=np.int32), *buffers)
    assert used.bytes < 1.5e6


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "?", ">f4", "i8", "g"])
@pytest.mark.parametrize("labels", ["i8", "i4", "u1", "f8", ">i2", None])
@pytest.mark.parametrize("n", [1, 4000])
@pytest.mark.parametrize("rows_dtype", [np.int32, np.int64])
def test_taking_rows_allocates_nothing(dtype, labels, n, rows_dtype):
    X = np.ones((5000, 30), dtype)
    model = network(30, 10, "squared" if labels is None else "cross_entropy")
    Y = np.ones((5000, 10), "f8") if labels is None else np.ones(5000, labels)
    data = source(X, Y, np.ones(5000), model, NUMPY)
    buffers = np.empty((n, 30), "f4"), np.empty((n, 10), "f4"), np.empty(n, "f4")
    rows = np.arange(n, dtype=rows_dtype)
    data.take(rows, *buffers)
    with peak() as used:
        for _ in range(10):
            data.take(rows, *buffers)
    assert used.bytes < 2000  # Python's own objects; any array of 4,000 rows is larger


# ---- iterators of batches ------------------------------------------------------------------------


def test_batches(backend):
    X, Y, model = table(), table(width=2), network()
    batches = Batches(lambda: ((X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)))
    assert batches.n_samples is None
    for _ in range(2):
        parts = list(batches.read(model, backend))
        assert [part.n_samples for part in parts] == [20, 20, 10]
        assert all(isinstance(part, Source) and not part.weighted for part in parts)
        got = [read(part, slice(0, part.n_samples), model, backend) for part in parts]
        assert_array_equal(np.concatenate([g[0] for g in got]), X)
        assert_array_equal(np.concatenate([g[1] for g in got]), Y)


def test_batches_are_read_one_by_one():
    asked = []

    def make():
        for number in range(3):
            asked.append(number)
            yield table(), table(width=2)

    reading = Batches(make).read(network(), NUMPY)
    assert asked == []
    next(reading)
    assert asked == [0]


def test_weights_of_batches_are_used_as_they_are(backend):
    X, y, model = table(), np.zeros(N, int), network(cost="cross_entropy")
    w = np.full(N, 0.25)
    batches = Batches(lambda: [(X, y, w), [X, y, 0 * w], (X, y, None)])
    first, second, third = batches.read(model, backend)
    assert_array_equal(read(first, slice(0, N), model, backend)[2], w)
    assert_array_equal(read(second, slice(0, N), model, backend)[2], 0 * w)
    assert not third.weighted


def bad(X, row, column, value):
    X = X.copy()
    X[row, column] = value
    return X


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ((bad(table(), 3, 1, np.nan), table(width=2)), ValueError, "batch 1: X .* row 3, column 1"),
        ((table(), table(n=4, width=2)), ValueError, "batch 1: Y must .* 50 rows"),
        ((table(), table(width=2), np.full(N, -1)), ValueError, "batch 1: sample_weight .* row 0"),
        ((table(), table(width=2), np.full(N, 1e39)), ValueError, "sample_weight must fit float32"),
        ((table(width=3), table(width=2)), ValueError, "batch 1: X must have 4 columns"),
        (table(), TypeError, "batch 1 must be .*, got ndarray"),
        ((table(),), TypeError, "batch 1 must be .*, got 1 items"),
        ((1, 2, 3, 4), TypeError, "batch 1 must be .*, got 4 items"),
    ],
)
def test_bad_batches(item, error, words):
    batches = Batches(lambda: iter([(table(), table(width=2)), item]))
    reading = batches.read(network(), NUMPY)
    next(reading)
    with pytest.raises(error, match=words):
        next(reading)


def test_a_generator_is_used_up_after_one_epoch():
    generator = iter([(table(), table(width=2))])
    with pytest.raises(TypeError, match=r"make must be a function .* use Batches\(lambda: ...\)"):
        Batches(generator)
    batches = Batches(lambda: generator)
    assert len(list(batches.read(network(), NUMPY))) == 1
    with pytest.raises(ValueError, match="make must return a fresh iterator for each epoch"):
        list(batches.read(network(), NUMPY))


def test_make_returns_an_iterable():
    with pytest.raises(TypeError, match=r"make must return an iterable .*, got NoneType"):
        list(Batches(lambda: None).read(network(), NUMPY))


def test_batches_are_no_array():
    with pytest.raises(TypeError, match="validation X must be an array here, got Batches"):
        source(Batches(list), None, None, network(), NUMPY, prefix="validation ")
