"""Executors on CuPy arrays: each the same numbers as NumPy in float64, and as few launches as said.

An executor that refuses a job is passed over: block does so with every batch size but 1.
"""

import cpucuda
import numpy as np
import pytest
from conftest import NEVER
from numpy.testing import assert_allclose, assert_array_equal
from random_networks import allowed_pairs, random_network, targets

import gpubackprop as gb
from gpubackprop import executors, optimizers
from gpubackprop.backends.cuda.precise import COMPUTE_CAPABILITY
from gpubackprop.executors import EXECUTORS, Job
from gpubackprop.executors import graph as graph_module
from gpubackprop.executors.graph import STEPS, Graph, steps_of_graph

HIDDEN = [name for name, entry in gb.ACTIVATIONS.items() if entry.elementwise]
RNG = np.random.default_rng(0)
N = 75
X = RNG.normal(size=(N, 9))
LABELS = RNG.integers(3, size=N)
#: float64: some roundings of 1e-16 an update. float32: those of 6e-8, over some hundred updates.
TOLERANCE = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-5}}


@pytest.fixture(params=[name for name in EXECUTORS if name != "compiled"])
def executor(request, cupy_backend):
    """Every executor for CuPy arrays in turn."""
    return request.param


def usual(executor, batch_size=8):
    """Return the batch size of a test that could take any: block takes 1 alone."""
    return 1 if executor == "block" else batch_size


def arrays(net):
    found = [*net.weights, *(b for b in net.biases if b is not None)]
    return [net.backend.to_numpy(array) for array in found]


def refuses(executor, net, fit):
    size = fit["batch_size"]
    job = Job(net.model, net.backend, optimizers.get(fit["optimizer"]), size, False, 0)
    reason = EXECUTORS[executor].refusal(job)
    assert reason is None or (executor == "block" and size != 1), reason
    return reason is not None


def train(backend, executor, sizes=(9, 7, 5, 3), *, data=(X, LABELS), fit=None, **options):
    """Train a network; returns its arrays and the losses, or None if the executor refuses."""
    options = {"hidden": "tanh", "dtype": "float64", "rng": 3, **options}
    net = gb.Network(list(sizes), **options, backend=backend)
    default = {"batch_size": 8, "epochs": 2, "optimizer": gb.SGD(0.1), "progress": False}
    fit = {**default, **(fit or {})}
    if refuses(executor, net, fit):
        return None
    history = net.fit(*data, executor=executor, **fit)
    assert history.executor == executor
    return arrays(net), history.loss


def check(executor, dtype="float64", **options):
    """Train on CuPy and, in float64, on NumPy; they agree."""
    options["fit"] = {"batch_size": usual(executor), **options.get("fit", {})}
    trained = train("cupy", executor, dtype=dtype, **options)
    if trained is None:
        return
    expected, losses = train("numpy", "eager", dtype="float64", **options)
    for one, two in zip(expected, trained[0], strict=True):
        assert two.dtype == dtype
        assert_allclose(two, one, **TOLERANCE[dtype])
    assert_allclose(trained[1], losses, rtol=1e-10 if dtype == "float64" else 1e-5)


# ---- every activation, loss and optimiser --------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 8, N])
def test_every_hidden_activation(batch_size, dtype, executor):
    """One network with all of them, one after the other; N = 9 * 8 + 3: a short last batch."""
    n = 20 if batch_size == 1 else N
    sizes = [9, *range(4, 4 + len(HIDDEN)), 3]
    fit = {"batch_size": batch_size, "optimizer": gb.SGD(0.001)}
    check(executor, dtype, sizes=sizes, hidden=HIDDEN, data=(X[:n], LABELS[:n]), fit=fit)


@pytest.mark.parametrize(("output", "loss"), allowed_pairs())
def test_every_pair(output, loss, executor):
    Y = targets(loss, 16, 3, np.random.default_rng(1))
    for batch_size, n in ((1, 6), (7, 16)):
        fit = {
            "batch_size": batch_size,
            "optimizer": gb.SGD(0.01),
            "sample_weight": np.linspace(0, 2, n),
        }
        check(executor, output=output, loss=loss, data=(X[:n], Y[:n]), fit=fit)


# Rates at which training is not chaotic: there, any rounding grows until nothing agrees.
OPTIMIZERS = {
    "SGD": gb.SGD(0.1),
    "momentum": gb.SGD(0.01, momentum=0.9),
    "nesterov": gb.SGD(0.01, momentum=0.9, nesterov=True),
    "RMSprop": gb.RMSprop(0.01),
    "Adam": gb.Adam(0.01),
    "Adam, uncorrected": gb.Adam(0.01, epsilon_at="uncorrected"),
    "AdamW": gb.AdamW(0.01),
    "Rprop": gb.Rprop(0.01),
    "everything": gb.SGD(0.1, momentum=0.5, l1=1e-3, l2=1e-2, weight_decay=0.1, clip_norm=0.05),
    "a rate an update": gb.SGD(gb.Cosine(0.1, epochs=3, warmup=1)),
    "Adam, a rate an update": gb.Adam(gb.OneCycle(0.01, epochs=3)),
}


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser(name, masked, executor):
    optimizer = OPTIMIZERS[name]
    fit = {"optimizer": optimizer, "epochs": 3}
    if masked:
        rng = np.random.default_rng(2)
        shapes = [(7, 9), (5, 7), (3, 5)], [(7,), (5,), (3,)]
        fit["trainable"] = tuple([rng.random(one) < 0.7 for one in some] for some in shapes)
    for batch_size, n in ((30, 30),) if optimizer.batch_only else ((1, 10), (8, 30)):
        data = X[:n], LABELS[:n]
        check(executor, data=data, fit={**fit, "batch_size": batch_size})


def test_optimisers_in_float32(executor):
    for name in ("Adam", "everything"):
        check(executor, "float32", fit={"optimizer": OPTIMIZERS[name]})


def penalised(backend, executor, optimizer, batch_size, weight_sums, dtype):
    """Train for two epochs as the estimators do; returns the parameters and the losses' sums."""
    net = gb.Network([9, 7, 3], "tanh", dtype=dtype, rng=3, backend=backend)
    given = Job(net.model, net.backend, optimizer, batch_size, False, 0, penalised=True)
    if EXECUTORS[executor].refusal(given):
        return None
    with net.backend.active():
        runner = executors.get(executor, given)
        rows = gb.data.checked_source(X.astype(dtype), LABELS, None, net.model, net.backend)
        state = gb.backprop.new_state(net.backend, net.model, optimizer)
        tally, totals = executors.base.Tally(net.backend), []
        order = net.backend.asarray(np.random.default_rng(0).permutation(N).astype("int32"))
        for _ in range(2):
            tally.clear()
            progress = executors.base.Progress(lambda batch: 0.01, weight_sums=weight_sums)
            runner.run(rows, order, 0, N, batch_size, net._parameters, state, progress, tally)
            totals.append(tally.read()[0])
    return arrays(net), totals


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        gb.SGD(0.01, l2=0.5),
        gb.SGD(0.01, l1=0.1, l2=0.5, momentum=0.9, clip_norm=1.0),
        gb.Adam(0.01),
    ],
    ids=["l2", "everything", "none"],
)
def test_penalties_divided_by_each_batchs_weights(optimizer, weights, batch_size, executor):
    """And part of the loss: as the estimators have it."""
    sums = np.linspace(0.5, 2.0, -(-N // batch_size)).tolist() if weights else None
    expected, losses = penalised("numpy", "eager", optimizer, batch_size, sums, "float64")
    for dtype in ("float64", "float32"):
        found = penalised("cupy", executor, optimizer, batch_size, sums, dtype)
        if found is None:
            return
        for one, two in zip(expected, found[0], strict=True):
            assert_allclose(two, one, **TOLERANCE[dtype])
        assert_allclose(found[1], losses, rtol=1e-12 if dtype == "float64" else 1e-5)


# ---- options and shapes --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 7, 32, N])
def test_options_together(batch_size, dtype, executor):
    """Dropout, weights, layers without biases, targets as rows, a short last batch."""
    check(
        executor,
        dtype,
        hidden="gelu",
        dropout=[0.3, 0.5],
        bias=False,
        data=(X, np.eye(3)[LABELS]),
        fit={
            "batch_size": batch_size,
            "sample_weight": np.linspace(0, 2, N),
            "optimizer": gb.SGD(0.01),
        },
    )


@pytest.mark.parametrize("i", range(6))
def test_random_networks(i, executor):
    results = []
    for backend, name in (("numpy", "eager"), ("cupy", executor)):
        net, data = random_network(10 * i + 1, backend)
        size = usual(executor, 2)
        fit = {"batch_size": size, "epochs": 3, "optimizer": gb.SGD(0.01), "progress": False}
        if refuses(name, net, fit):
            return
        net.fit(**data, **fit, executor=name)
        results.append(arrays(net))
    for one, two in zip(*results, strict=True):
        assert_allclose(two, one, **TOLERANCE["float64"])


@pytest.mark.parametrize("sizes", [(9, 3), (9, 1, 3), (9, 70, 33, 2), (9, *[6] * 12, 3), (9, 40)])
@pytest.mark.parametrize("batch_size", [1, 33, 70])
def test_any_depth_and_width(sizes, batch_size, executor):
    """Wider than a tile and a warp, with products whose sums are split."""
    n = 12 if batch_size == 1 else N
    data = X[:n], LABELS[:n] % sizes[-1]
    fit = {"batch_size": batch_size, "optimizer": gb.SGD(0.01)}
    check(executor, sizes=sizes, data=data, fit=fit)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_saturated_outputs(output, dtype, executor):
    """Weights of thousands: the loss is that of the logarithm's formula, and finite."""
    data = (X[:20], LABELS[:20] if output == "softmax" else np.eye(3)[LABELS[:20]])
    losses = []
    for backend, name in (("numpy", "eager"), ("cupy", executor)):
        net = gb.Network([9, 3], output=output, backend=backend, dtype=dtype, rng=0)
        net.weights[0][...] *= 5000
        size = usual(executor, 4)
        fit = {"batch_size": size, "epochs": 1, "optimizer": gb.SGD(1e-6), "progress": False}
        if refuses(name, net, fit):
            return
        losses += net.fit(*data, executor=name, **fit).loss
    assert losses[0] > 100
    assert_allclose(losses[1], losses[0], rtol=1e-5)


# ---- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["host", "device", "other dtype", "int32 labels", "columns"])
def test_data_of_every_kind(kind, shuffle, executor):
    import cupy

    x, y = X, LABELS
    if kind == "device":
        x, y = cupy.asarray(X), cupy.asarray(np.eye(3)[LABELS])
    elif kind == "other dtype":
        x = cupy.asarray(X.astype("float32"))
    elif kind == "int32 labels":
        x, y = cupy.asarray(X), cupy.asarray(LABELS.astype("int32"))
    elif kind == "columns":
        x = cupy.asarray(X.T.copy()).T
    fit = {"shuffle": shuffle, "batch_size": usual(executor), "epochs": 2, "progress": False}
    x_host = X.astype("float32") if kind == "other dtype" else X
    expected, losses = train("numpy", "eager", data=(x_host, LABELS), fit=fit)
    found, others = train("cupy", executor, data=(x, y), fit=fit) or (expected, losses)
    for one, two in zip(expected, found, strict=True):
        assert_allclose(two, one, **TOLERANCE["float64"])
    assert_allclose(others, losses, rtol=1e-10)


@pytest.mark.parametrize("shuffle", [True, False])
def test_data_that_do_not_fit_the_device(shuffle, executor, cupy_backend, monkeypatch):
    monkeypatch.setattr(type(cupy_backend), "free_bytes", lambda self: 0)
    check(executor, fit={"shuffle": shuffle, "sample_weight": np.linspace(0, 2, N)})


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_same_bits_however_epochs_are_cut(batch_size, executor, monkeypatch):
    fit = {"batch_size": batch_size, "epochs": 3, "optimizer": gb.Adam(0.01)}
    trained = train("cupy", executor, fit=fit, dtype="float32")
    if trained is None:
        return
    whole, losses = trained
    monkeypatch.setattr(gb.training, "batches_per_block", lambda *_: 1)
    monkeypatch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
    cut, others = train("cupy", executor, fit=fit, dtype="float32")
    for one, two in zip(whole, cut, strict=True):
        assert_array_equal(one, two)
    assert losses == others


def test_the_same_bits_in_any_order_of_threads(executor):
    """Sums have a fixed order: no thread that comes first changes a bit."""
    if not cpucuda.installed():
        pytest.skip("a real GPU chooses the order itself")
    found = []
    for order in (0, 1, 7):
        cpucuda.set_order(order)
        fit = {"batch_size": usual(executor, 70), "optimizer": gb.SGD(0.1, clip_norm=0.1)}
        found.append(train("cupy", executor, (9, 70, 3), fit=fit, dtype="float32"))
    for other in found[1:]:
        assert other[1] == found[0][1]
        for one, two in zip(found[0][0], other[0], strict=True):
            assert_array_equal(one, two)


# ---- NaN, infinity, Ctrl-C -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_batch_of_a_planted_number(batch_size, value, executor, cupy_backend):
    """The first batch with a loss that is not finite is named, and the epoch undone."""
    net = gb.Network([9, 3], output="identity", dtype="float64", rng=0, backend=cupy_backend)
    before = arrays(net)
    fit = {"batch_size": batch_size, "optimizer": gb.SGD(0.01), "shuffle": False}
    if refuses(executor, net, fit):
        return
    x = X.copy()
    x[70] = 1e300 if np.isinf(value) else 1.0
    y = np.zeros((N, 3))
    if np.isnan(value):
        y[70] = 1e300
    with pytest.raises(gb.DivergenceError) as caught:
        net.fit(x, y, executor=executor, **fit, progress=False)
    assert caught.value.batch == 70 // batch_size
    for one, two in zip(before, arrays(net), strict=True):
        assert_array_equal(one, two)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_nan_reaches_the_loss(hidden, executor, cupy_backend):
    net = gb.Network([9, 4, 3], hidden, rng=0, backend=cupy_backend)
    fit = {"batch_size": usual(executor), "optimizer": gb.SGD(0.01)}
    assert not refuses(executor, net, fit)
    net.weights[0][0, 0] = np.nan
    with pytest.raises(gb.DivergenceError) as caught:
        net.fit(X, LABELS, executor=executor, **fit, progress=False)
    assert caught.value.batch == 0


def test_ctrl_c_leaves_a_usable_network(executor, cupy_backend):
    class Interrupt:
        def on_slice(self, run):
            raise KeyboardInterrupt

    net = gb.Network([9, 7, 5, 3], "tanh", rng=0, backend=cupy_backend)
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, LABELS, batch_size=1, executor=executor, callbacks=[Interrupt()], progress=False)
    assert np.isfinite(net.loss(X, LABELS))


# ---- the graph -----------------------------------------------------------------------------------


class Counts:
    """Differences of cpucuda's counters from slice to slice, by epoch."""

    def __init__(self):
        self.slices = []

    def on_slice(self, run):
        self.slices.append((run.epoch, dict(cpucuda.counters())))

    def changed(self, epoch):
        """Return what the slices of an epoch behind the first took."""
        counts = [counters for e, counters in self.slices if e == epoch]
        first, last = counts[0], counts[-1]
        return {name: last[name] - first[name] for name, n in first.items() if isinstance(n, int)}


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}, {"dtype": "float64"}])
@pytest.mark.parametrize("optimizer", [gb.SGD(0.1), gb.Adam(0.01), gb.SGD(gb.Cosine(0.1, 2))])
def test_a_graph_is_one_launch_for_many_updates(optimizer, options, counting, monkeypatch):
    """Of K updates: one launch by the host, a gathering and 3 L + 1 passes on the device."""
    monkeypatch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(gb.training, "batches_per_block", lambda *_: STEPS)
    n_layers, n_slices, counts = 3, 4, Counts()
    net = gb.Network([8, 6, 5, 3], "tanh", backend=counting, rng=0, **options)
    n = 2 * STEPS * n_slices
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 8)), rng.integers(3, size=n)
    net.fit(
        x, y, batch_size=2, epochs=2, optimizer=optimizer, executor="graph", callbacks=[counts],
        progress=False,
    )  # fmt: skip
    changed = counts.changed(1)
    assert changed["graph_launches"] == n_slices - 1
    assert changed["launches"] == (n_slices - 1) * (STEPS * (3 * n_layers + 1) + 1)
    for name in (*NEVER, "host_to_device", "blas_calls"):
        assert changed[name] == 0, (name, changed)


def test_capture_allocates_nothing(counting, monkeypatch):
    import cupy

    pool, seen, begin = cupy.get_default_memory_pool(), [], cupy.cuda.Stream.begin_capture
    end = cupy.cuda.Stream.end_capture
    monkeypatch.setattr(
        cupy.cuda.Stream, "begin_capture",
        lambda self, *a: (seen.append((pool.used_bytes(), pool.total_bytes())), begin(self, *a))[1],
    )  # fmt: skip
    monkeypatch.setattr(
        cupy.cuda.Stream, "end_capture",
        lambda self: (seen.append((pool.used_bytes(), pool.total_bytes())), end(self))[1],
    )  # fmt: skip
    train("cupy", "graph", dropout=0.5, fit={"optimizer": gb.Adam(0.01, clip_norm=1.0)})
    assert len(seen) >= 2
    assert seen[0::2] == seen[1::2]


def test_cublas_in_a_graph(counting, monkeypatch):
    """Off by default: a GPU has to show that it can be captured."""
    before = cpucuda.counters()["blas_calls"]
    own = train("cupy", "graph", fit={"batch_size": 25})
    assert cpucuda.counters()["blas_calls"] == before
    monkeypatch.setattr(graph_module, "CUBLAS", True)
    for dtype in ("float64", "float32"):
        blas = train("cupy", "graph", fit={"batch_size": 25}, dtype=dtype)
        for one, two in zip(own[0], blas[0], strict=True):
            assert_allclose(two, one, **TOLERANCE[dtype])
    n_products, n_updates = 3 * 3 - 1, 2 * 3
    assert cpucuda.counters()["blas_calls"] - before == 2 * n_products * n_updates


def test_the_short_last_batch_runs_eagerly(counting, monkeypatch):
    counts = Counts()
    net = gb.Network([9, 3], backend=counting, rng=0)
    before = dict(cpucuda.counters())
    net.fit(
        X[:35], LABELS[:35], batch_size=8, epochs=1, executor="graph", callbacks=[counts],
        progress=False,
    )  # fmt: skip
    after = counts.slices[-1][1]
    assert after["graph_launches"] - before["graph_launches"] >= 1
    assert after["blas_calls"] - before["blas_calls"] == 2  # forward, and its gradient


def test_graphs_are_few(cupy_backend):
    """One for each power of two of updates; every epoch uses them again."""
    made = []

    class Watched(Graph):
        def _capture(self, k, *arguments):
            made.append(k)
            return super()._capture(k, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "graph", Watched)
        train("cupy", "graph", fit={"batch_size": 1, "epochs": 5})
    assert sorted(made) == sorted(set(made))
    assert all(k & (k - 1) == 0 and k <= STEPS for k in made)


def test_graphs_of_data_on_the_host_are_few(cupy_backend, monkeypatch):
    # Rows are copied into one of two sets of buffers while the other is trained on.
    monkeypatch.setattr(cupy_backend, "free_bytes", lambda: 0)
    made = []
    capture = Graph._capture
    monkeypatch.setattr(
        Graph, "_capture", lambda self, k, *rest: (made.append(k), capture(self, k, *rest))[1]
    )
    net = gb.Network([9, 7, 3], hidden="tanh", backend="cupy", rng=0)
    rows = np.tile(X, (40, 1)), np.tile(LABELS, 40)
    net.fit(*rows, batch_size=8, epochs=6, executor="graph", progress=False)
    assert len(made) <= 2 * len(set(made)) + 8  # and a few while the buffers grow


@pytest.mark.parametrize("batch_size", [1, 32, 1000, 8192])
@pytest.mark.parametrize("n_in", [1, 784, 100_000])
def test_how_many_updates_a_graph_holds(batch_size, n_in):
    model = gb.Network([n_in, 1], output="identity", backend="numpy").model
    k = steps_of_graph(model, batch_size)
    assert k & (k - 1) == 0
    assert 1 <= k <= STEPS
    assert k == 1 or k * batch_size * n_in <= 1 << 22


def job(backend="cupy", batch_size=8, optimizer="sgd", **options):
    net = gb.Network([9, 3], backend=backend)
    return Job(net.model, net.backend, optimizers.get(optimizer), batch_size, False, 0, **options)


def test_a_graph_says_what_it_cannot_do(cupy_backend):
    for given, reason in (
        (job("numpy"), "'cupy' alone, not on 'numpy'"),
        (job("cupy-plain"), "not on 'cupy-plain'"),
        (job(batch_size=None), "fixed shapes"),
        (job(batch_size=9000), "in slices of 8192"),
    ):
        with pytest.raises(ValueError, match="cannot do this job") as caught:
            executors.get("graph", given)
        assert reason in str(caught.value)
    assert Graph.refusal(job(optimizer=gb.SGD(0.1, l2=0.1), penalised=True)) is None


# ---- rounded products ----------------------------------------------------------------------------


def rounded(x, precision):
    """Round to the nearest number of so many digits; ties go to the even one."""
    digits = {"tf32": 11, "float16": 11, "bfloat16": 8}[precision]
    mantissa, exponent = np.frexp(np.asarray(x, "float64"))
    return np.ldexp(np.rint(mantissa * 2.0**digits) / 2.0**digits, exponent)


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_products_of_rounded_inputs(precision, cupy_backend):
    """Two layers, by hand: sums and all else are not rounded."""
    net = gb.Network([9, 6, 3], "tanh", "identity", backend=cupy_backend, rng=0)
    (V, W), (c, b) = ([a.get().astype("float64") for a in x] for x in (net.weights, net.biases))
    y, rate, n = np.eye(3)[LABELS], 0.5, N
    net.fit(
        X, y, batch_size="full", epochs=1, optimizer=gb.SGD(rate), precision=precision,
        progress=False,
    )  # fmt: skip

    def r(x):
        return rounded(np.asarray(x, "float32"), precision)

    a = np.tanh(r(X) @ r(V).T + c)
    delta = (r(a) @ r(W).T + b - y) / n
    below = (r(delta) @ r(W)) * (1 - a * a)
    expected = V - rate * r(below).T @ r(X), W - rate * r(delta).T @ r(a)
    for found, exact, start in zip(net.weights, expected, (V, W), strict=True):
        assert_allclose(found.get(), exact, rtol=0, atol=3e-3 * np.abs(exact - start).max())
    # Nearer to that than to what is computed without rounding.
    full = gb.Network([9, 6, 3], "tanh", "identity", backend=cupy_backend, rng=0)
    full.fit(X, y, batch_size="full", epochs=1, optimizer=gb.SGD(rate), progress=False)
    for found, exact, other in zip(net.weights, expected, full.weights, strict=True):
        assert np.abs(found.get() - exact).max() < np.abs(found.get() - other.get()).max() / 3


def test_small_deltas_survive_float16(cupy_backend):
    """Divided by a large batch they would be below its smallest number."""
    x = np.full((8192, 1), 1.0)
    found = []
    for precision in (None, "float16"):
        net = gb.Network([1, 1], output="identity", backend=cupy_backend, rng=0)
        net.weights[0][...], net.biases[0][...] = 1.0, 0.0
        net.fit(
            x, x + 2.0**-10, batch_size=8192, epochs=1, optimizer=gb.SGD(1.0), precision=precision,
            progress=False,
        )  # fmt: skip
        found.append(float(net.weights[0][0, 0]) - 1)
    assert found[0] == pytest.approx(2.0**-10)
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_a_precision_that_cannot_be(cupy_backend, monkeypatch):
    def fit(backend="cupy", dtype="float32", **options):
        net = gb.Network([9, 3], backend=backend, dtype=dtype)
        net.fit(X, LABELS, progress=False, **options)

    with pytest.raises(ValueError, match=r"precision must be None or one of tf32, .*, got 'half'"):
        fit(precision="half")
    with pytest.raises(ValueError, match="needs backend='cupy', not 'numpy'"):
        fit("numpy", precision="tf32")
    with pytest.raises(ValueError, match="needs dtype='float32', not 'float64'"):
        fit(dtype="float64", precision="tf32")
    with pytest.raises(ValueError, match=r"'graph' cannot do this job: .* for executor='eager'"):
        fit(precision="tf32", executor="graph")
    monkeypatch.setitem(COMPUTE_CAPABILITY, "bfloat16", 9999)
    with pytest.raises(ValueError, match="needs compute capability 9999, the device has"):
        fit(precision="bfloat16")


# ---- what auto chooses ---------------------------------------------------------------------------


def chosen(sizes, batch_size, n_samples, epochs=1, multiprocessors=132, optimizer="sgd"):
    """Return the name of what auto means on a GPU of so many multiprocessors."""
    net = gb.Network(list(sizes), backend="cupy")
    of = net.model, net.backend, optimizers.get(optimizer), batch_size, False, 0
    given = Job(*of, n_samples=n_samples, epochs=epochs)
    return executors.choose_on_gpu(given, multiprocessors).name


def test_auto_goes_by_the_cost_model(cupy_backend):
    """Launches decide for small steps, cuBLAS for large ones, and nothing pays for a short run."""
    assert chosen((784, 30, 10), 32, 60_000, 20) == "graph"
    assert chosen((784, 256, 128, 10), 256, 60_000, 200) == "graph"
    assert chosen((1024, 2048, 2048, 10), 4096, 60_000, 1000) == "eager"
    assert chosen((784, 30, 10), 32, 640) == "eager"
    assert chosen((784, 30, 10), 9000, 60_000, 10_000) == "eager"  # a graph refuses it
    assert chosen((784, 30, 10), None, None) == "eager"


def test_more_multiprocessors_make_launches_dearer(cupy_backend):
    """The step at which cuBLAS takes over moves up with the device."""
    names = [
        [chosen((1024, 1024, 10), n, 1 << 20, 1000, sms) for n in (32, 128, 512, 2048, 8192)]
        for sms in (20, 132, 1000)
    ]
    graphs = [row.count("graph") for row in names]
    assert graphs == sorted(graphs)
    assert graphs[0] < graphs[2]
    for row in names:  # one change, from graph to eager
        assert row == sorted(row, reverse=True)


def test_auto_does_what_it_says(cupy_backend):
    assert train("cupy", "eager")
    net = gb.Network([9, 3], backend=cupy_backend)
    assert net.fit(X, LABELS, epochs=1, progress=False).executor == "eager"
