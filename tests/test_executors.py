"""Executors: how they are chosen, and that their hot loops neither allocate nor wait."""

import itertools
import tracemalloc

import cpucuda
import numpy as np
import pytest
from conftest import NEVER, require
from numpy.testing import assert_array_equal

import gpubackprop as gb
from gpubackprop import backends, executors, optimizers
from gpubackprop.executors import EXECUTORS, Job
from gpubackprop.executors.base import Tally, batches_per_block

RNG = np.random.default_rng(0)
N = 6000
X = RNG.normal(size=(N, 8)).astype("float32")
LABELS = RNG.integers(3, size=N)


def make(backend="numpy", **options):
    options = {"hidden": "tanh", "rng": 0, **options}
    return gb.Network([8, 16, 3], **options, backend=backend)


def job(batch_size=32, backend="numpy"):
    net = make(backend)
    return Job(net.model, net.backend, optimizers.get("sgd"), batch_size, False, 0)


# ---- the registry --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXECUTORS)
def test_each_can_be_forced(name):
    """On the first backend where it runs, for the batch sizes that it takes."""
    for backend, batch_size in itertools.product(("numpy", "cupy"), (32, 1)):
        require(backend)
        if EXECUTORS[name].refusal(job(batch_size, backend)) is None:
            break
    found = executors.get(name, job(batch_size, backend))
    assert isinstance(found, EXECUTORS[name])
    assert found.name == name
    fit = {"batch_size": batch_size, "epochs": 1, "executor": name}
    assert make(backend).fit(X[:200], LABELS[:200], **fit).executor == name


def test_auto_chooses_one():
    assert make().fit(X, LABELS, epochs=1).executor in EXECUTORS


@pytest.mark.parametrize("name", ["Eager", "fast", None, 3])
def test_an_unknown_one(name):
    with pytest.raises(ValueError, match="executor must be one of auto, eager") as caught:
        executors.get(name, job())
    assert repr(name) in str(caught.value)


def test_one_that_cannot_do_a_job_says_why(monkeypatch):
    class Picky(EXECUTORS["eager"]):
        @staticmethod
        def refusal(job):
            return "it does not like Mondays"

    monkeypatch.setitem(executors.EXECUTORS, "picky", Picky)
    with pytest.raises(
        ValueError, match="'picky' cannot do this job: it does not like Mondays; use"
    ):
        make().fit(X, LABELS, executor="picky")


# ---- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32, 100, 1024, 5000])
@pytest.mark.parametrize("n_in", [1, 8, 784, 100_000])
def test_batches_are_gathered_in_powers_of_two(batch_size, n_in):
    model = gb.Network([n_in, 1], output="identity", backend="numpy").model
    n = batches_per_block(model, batch_size)
    assert n & (n - 1) == 0
    assert n >= 1
    rows = n * batch_size
    assert n == 1 or (rows <= 1024 and rows * n_in <= 65536)
    assert 2 * rows > 1024 or 2 * rows * n_in > 65536


def test_tally(backend):
    tally = Tally(backend)
    assert tally.read() == (0.0, None, False)
    for step, value in enumerate([1.5, 2.0, float("nan"), 1.0, float("inf")]):
        tally.value[...] = value
        backend.record(tally.value, step, tally.total, tally.first_bad)
        if step == 1:
            assert tally.read()[:2] == (3.5, None)
    backend.all_finite(backend.asarray(np.ones(3, "f4")), tally.finite)
    total, first_bad, finite = tally.read()
    assert np.isnan(total)
    assert (first_bad, finite) == (2, True)
    for bad in (np.nan, np.inf, -np.inf):
        backend.all_finite(backend.asarray(np.array([1, bad, 1], "f4")), tally.finite)
        assert not tally.read()[2]
    tally.clear()
    assert tally.read()[:2] == (0.0, None)


# ---- nothing is allocated ------------------------------------------------------------------------

JOBS = {
    "SGD": (1, {}),
    "mini-batch": (32, {}),
    "full": ("full", {}),
    "Adam, dropout, weights": (
        32,
        {"optimizer": gb.Adam(0.01, l2=0.1), "weighted": True, "dropout": 0.2},
    ),
    "momentum, clipping": (
        32,
        {"optimizer": gb.SGD(0.1, momentum=0.9, clip_norm=1.0, weight_decay=0.1)},
    ),
    "in float64": (32, {"dtype": "float64"}),
    "softplus and gelu": (32, {"hidden": "gelu"}),
}


class Peaks:
    """Measures, on the host, how much more memory than at its begin each epoch takes at most."""

    def __init__(self):
        self.growth = []

    def on_epoch_end(self, run):
        now, peak = tracemalloc.get_traced_memory()
        if run.epoch:
            self.growth.append(peak - self.before)
        tracemalloc.reset_peak()
        self.before = now


@pytest.mark.parametrize("name", JOBS)
def test_epochs_allocate_nothing_on_the_host(name):
    batch_size, options = JOBS[name]
    options = dict(options)
    optimizer = options.pop("optimizer", gb.SGD(0.01))
    weights = np.linspace(1, 2, N) if options.pop("weighted", False) else None
    net, peaks = make(**options), Peaks()
    n = 300 if batch_size == 1 else N
    weights = None if weights is None else weights[:n]
    tracemalloc.start()
    try:
        net.fit(
            X[:n],
            LABELS[:n],
            batch_size=batch_size,
            epochs=6,
            optimizer=optimizer,
            sample_weight=weights,
            callbacks=[peaks],
        )
    finally:
        tracemalloc.stop()
    # The first epochs make buffers, for the short last batch too. What is left are Python's numbers
    # and views, and the order of the next epoch: 4 bytes a row, and as much while it is drawn. Of a
    # full batch no order is drawn; NumPy itself takes a buffer of fixed size to add a bias to it.
    allowed = 8 * np.getbufsize() if batch_size == "full" else 2 * 4 * n
    assert min(peaks.growth) <= allowed + 4096, peaks.growth
    assert allowed + 4096 < N * 16 * 4, "no array of the whole batch would pass"


@pytest.mark.parametrize("batch_size", [1, 32, "full"])
def test_updates_allocate_nothing_on_the_device(batch_size, cupy_backend):
    """Neither in the pool nor from the device, from the second slice of an epoch to its last."""
    import cupy

    class Pool(cupy.cuda.MemoryHook):
        name = "counting"
        counts = 0

        def malloc_preprocess(self, **arguments):
            self.counts += 1

    net, pool, seen = make(cupy_backend), Pool(), []

    class Look:
        def on_slice(self, run):
            seen.append((run.epoch, pool.counts))

    rows = slice(0, 70 if batch_size == 1 else 200)
    with pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gb.training, "batches_per_block", lambda *_: 2)
        patch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
        patch.setattr(gb.executors.eager, "batches_per_block", lambda *_: 2)
        net.fit(X[rows], LABELS[rows], batch_size=batch_size, epochs=3, callbacks=[Look()])
    for epoch in (1, 2):
        counts = [count for e, count in seen if e == epoch]
        assert counts[0] == counts[-1]
    epochs = [max(count for e, count in seen if e == epoch) for epoch in range(3)]
    # Each epoch has an order of rows of its own.
    assert epochs[2] - epochs[1] <= 2


# ---- nothing is waited for -----------------------------------------------------------------------


class Device:
    """Reads cpucuda's counters at each slice."""

    def __init__(self):
        self.slices = []

    def on_slice(self, run):
        self.slices.append((run.epoch, dict(cpucuda.counters())))


def train_counting(net, n, batch_size, *, per_slice=2, targets=LABELS, **options):
    """Train two epochs in slices of some batches; returns what one of the second epoch's took."""
    device = Device()
    with pytest.MonkeyPatch.context() as patch:
        for module in (gb.training, gb.executors.eager):
            patch.setattr(module, "batches_per_block", lambda *_: per_slice)
        patch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
        net.fit(X[:n], targets[:n], batch_size=batch_size, epochs=2, callbacks=[device], **options)
    counts = [counters for epoch, counters in device.slices if epoch == 1]
    first, last = counts[0], counts[-1]
    changed = {key: last[key] - first[key] for key in first if isinstance(first[key], int)}
    return changed, len(counts) - 1


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": gb.Adam(0.01, clip_norm=1.0)}, {"optimizer": gb.SGD(gb.Cosine(0.1, 2))}],
)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_an_epoch_never_waits_and_never_allocates(batch_size, options, counting):
    changed, slices = train_counting(make(counting), 12 * batch_size, batch_size, **options)
    assert slices == 5
    assert changed["launches"] > 40
    for name in (*NEVER, "host_to_device"):
        assert changed[name] == 0, (name, changed)
    # An event two slices old may be waited for, at most once a slice.
    assert changed["event_waits"] <= slices


def test_uploads_do_not_wait_either(counting, monkeypatch):
    """Data that do not fit the device go there block by block, through page-locked memory."""
    monkeypatch.setattr(counting, "free_bytes", lambda: 0)
    changed, _ = train_counting(make(counting), 12 * 32, 32)
    assert changed["host_to_device"] > 0
    for name in NEVER:
        assert changed[name] == 0, (name, changed)


def test_an_epoch_is_read_once(counting):
    """One copy to the host at the end of an epoch: the loss, and whether all went well."""
    device = Device()
    device.on_epoch_end = lambda run: device.slices.append((run.epoch, dict(cpucuda.counters())))
    make(counting).fit(
        X[:64], LABELS[:64], batch_size=32, epochs=3, shuffle=False, callbacks=[device]
    )
    (_, before), (_, after) = [pair for pair in device.slices if pair[0] == 2]
    assert after["device_to_host"] - before["device_to_host"] == 1
    assert after["synchronizations"] - before["synchronizations"] <= 1


@pytest.mark.parametrize("n_layers", [1, 2, 4])
@pytest.mark.parametrize(
    ("output", "options", "more"),
    [
        ("softmax", {}, 0),
        ("identity", {}, 0),
        ("softmax", {"dropout": 0.5, "weighted": True}, 0),
        ("softmax", {"optimizer": gb.Adam(0.01, l2=0.1, weight_decay=0.1)}, 0),
        ("softmax", {"optimizer": gb.SGD(0.01, momentum=0.9, clip_norm=1.0)}, 1),
    ],
)
def test_launches_of_an_update(output, options, more, n_layers, counting):
    """Kernels and products of one update: at most 5 for each layer, and 2.

    Each layer takes a product and a pass forward, a product for its gradient, and a product and a
    pass back to the one below it; the output layer's passes are one, there is nothing below layer
    0, and the step is one: 5 L - 1. A gradient that is clipped is measured first. Besides, the rows
    of each block, of two batches here, are gathered.
    """
    options = dict(options)
    sizes, dropout = [8, *[16] * (n_layers - 1), 3], options.pop("dropout", 0.0)
    net = gb.Network(sizes, "sigmoid", output, dropout=dropout, backend=counting, rng=0)
    targets = LABELS if output == "softmax" else np.eye(3)[LABELS]
    if options.pop("weighted", False):
        options["sample_weight"] = np.linspace(1, 2, 12 * 32)
    changed, slices = train_counting(net, 12 * 32, 32, targets=targets, **options)
    of_updates = changed["launches"] + changed["blas_calls"] - slices
    assert of_updates / (2 * slices) == 5 * n_layers - 1 + more
    assert of_updates / (2 * slices) + 1 <= 5 * n_layers + 2  # also if each batch is a block


# ---- the same on every backend -------------------------------------------------------------------


def test_the_workspace_grows_with_the_batch(backend):
    """A step of more rows than the last one had."""
    net, other = make(backend, dtype="float64"), make(backend, dtype="float64")
    optimizer = gb.SGD(0.1, momentum=0.9)
    for n in (1, 5, 3, 40):
        net.step(X[:n], LABELS[:n], optimizer)
        other.copy()
        other.step(X[:n].copy(), LABELS[:n].copy(), optimizer)
    assert_array_equal(backend.to_numpy(net.weights[0]), backend.to_numpy(other.weights[0]))


def test_every_backend_that_can_be_used_is_listed():
    assert backends.usable()[0] == "numpy"
    assert set(backends.usable(plain=True)) >= {"numpy", "numpy-plain"}
    require("cupy")
    assert backends.usable(plain=True) == ["numpy", "cupy", "numpy-plain", "cupy-plain"]
