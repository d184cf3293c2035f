"""The compiled executor: equal to the eager one, and honest about what it cannot do."""

import itertools
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from interpreter import run, run_forked
from numpy.testing import assert_allclose, assert_array_equal
from random_networks import allowed_pairs, random_network, targets

import gpubackprop as gb
from gpubackprop import executors, optimizers
from gpubackprop.executors import Job, cpu_cost

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")
pytest.importorskip("scipy", reason="SciPy, of the extra fast, is not installed")

from gpubackprop.executors.compiled import amx, cache, choices, formulas, source

HIDDEN = [name for name, entry in gb.ACTIVATIONS.items() if entry.elementwise]
RNG = np.random.default_rng(0)
N = 150
X = RNG.normal(size=(N, 9))
LABELS = RNG.integers(3, size=N)
#: float64: some roundings of 1e-16 an update. float32: those of 6e-8, over some hundred updates.
TOLERANCE = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-5}}


@pytest.fixture(scope="session", autouse=True)
def cold(tmp_path_factory):
    """A cache of its own, empty at the begin: what is tested was compiled here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUBACKPROP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def arrays(net):
    return [*net.weights, *(b for b in net.biases if b is not None)]


def train(executor, sizes=(9, 7, 5, 3), *, data=(X, LABELS), fit=None, **options):
    """Train a network; returns its arrays and the losses."""
    options = {"hidden": "tanh", "dtype": "float64", "rng": 3, **options}
    net = gb.Network(list(sizes), **options, backend="numpy")
    fit = {
        "batch_size": 32,
        "epochs": 2,
        "optimizer": gb.SGD(0.1),
        "progress": False,
        **(fit or {}),
    }
    history = net.fit(*data, executor=executor, **fit)
    assert history.executor == executor
    return arrays(net), history.loss


def check(dtype="float64", **options):
    """Train with both executors; they agree."""
    (expected, losses), (found, other) = (
        train(name, dtype=dtype, **options) for name in ("eager", "compiled")
    )
    for one, two in zip(expected, found, strict=True):
        assert two.dtype == dtype
        assert_allclose(two, one, **TOLERANCE[dtype])
    assert_allclose(other, losses, rtol=1e-10 if dtype == "float64" else 1e-5)


# ---- the same as eager: every activation, loss and pair ------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 32, 150])
def test_every_hidden_activation(batch_size, dtype):
    """One network with all of them, one after the other: one program."""
    sizes = [9, *range(4, 4 + len(HIDDEN)), 3]
    check(dtype, sizes=sizes, hidden=HIDDEN, fit={"batch_size": batch_size})


#: In float32 those whose formulas call functions that are others there.
PAIRS = [
    (*pair, dtype)
    for pair in allowed_pairs()
    for dtype in ("float64", "float32")
    if dtype == "float64" or pair[0] in ("sigmoid", "softmax", "exp", "softplus", "tanh")
]


@pytest.mark.parametrize(("output", "loss", "dtype"), PAIRS)
def test_every_pair(output, loss, dtype):
    Y = targets(loss, N, 3, np.random.default_rng(1))
    options = {"output": output, "loss": loss, "data": (X, Y)}
    for batch_size in (1, 40, N):
        check(dtype, **options, fit={"batch_size": batch_size, "optimizer": gb.SGD(0.01)})


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
    "clipping": gb.SGD(0.1, clip_norm=0.05),
    "a rate an update": gb.SGD(gb.Cosine(0.1, epochs=3, warmup=1)),
    "Adam, a rate an update": gb.Adam(gb.OneCycle(0.01, epochs=3)),
}


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser(name, masked):
    optimizer = OPTIMIZERS[name]
    fit = {"optimizer": optimizer, "epochs": 3}
    if masked:
        rng = np.random.default_rng(2)
        shapes = [(7, 9), (5, 7), (3, 5)], [(7,), (5,), (3,)]
        fit["trainable"] = tuple([rng.random(one) < 0.7 for one in some] for some in shapes)
    for batch_size in (N,) if optimizer.batch_only else (1, 32):
        check(fit={**fit, "batch_size": batch_size})


# ---- penalties that are divided by each batch's weights ------------------------------------------


def penalised(executor, optimizer, batch_size, weight_sums, dtype, data=(X, LABELS)):
    """Train for two epochs as the estimators do; returns the parameters and the tallies."""
    net = gb.Network([9, 7, 3], "tanh", dtype=dtype, rng=3, backend="numpy")
    job = Job(net.model, net.backend, optimizer, batch_size, False, 0, penalised=True)
    runner = executors.get(executor, job)
    x, y = data
    rows = gb.data.checked_source(x.astype(dtype), y, None, net.model, net.backend)
    state = gb.backprop.new_state(net.backend, net.model, optimizer)
    tally, tallies = executors.base.Tally(net.backend), []
    order = np.random.default_rng(0).permutation(len(x)).astype("int32")
    for _ in range(2):
        tally.clear()
        progress = executors.base.Progress(lambda batch: 0.01, weight_sums=weight_sums)
        for start in range(0, len(x), 4 * batch_size):
            stop = min(start + 4 * batch_size, len(x))
            runner.run(
                rows, order, start, stop, batch_size, net._parameters, state, progress, tally
            )
        tallies.append(tally.read())
    return net._parameters.flat, tallies


@pytest.mark.parametrize("batch_size", [1, 32, 150])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        gb.SGD(0.01, l2=0.5),
        gb.SGD(0.01, l1=0.1, l2=0.5, momentum=0.9, nesterov=True, clip_norm=1.0),
        gb.Adam(0.01, l1=0.1),
        gb.SGD(0.01),
    ],
    ids=["l2", "everything", "l1", "none"],
)
def test_penalised_jobs(optimizer, weights, batch_size):
    n_batches = -(-N // batch_size)
    sums = np.linspace(0.5, 2.0, n_batches).tolist() if weights else None
    for dtype in ("float64", "float32"):
        given = optimizer, batch_size, sums, dtype
        (expected, losses), (found, others) = (
            penalised(executor, *given) for executor in ("eager", "compiled")
        )
        assert_allclose(found, expected, **TOLERANCE[dtype])
        assert_allclose(
            [total for total, *_ in others],
            [total for total, *_ in losses],
            rtol=1e-12 if dtype == "float64" else 1e-5,
        )


def test_the_penalty_of_a_large_penalised_batch():
    """A batch that comes in several calls: its penalty is added once, for all its rows."""
    rng = np.random.default_rng(4)
    data = rng.normal(size=(9000, 9)), rng.integers(3, size=9000)
    for sums in (None, [400.0]):
        given = gb.SGD(0.01, l2=0.5), 9000, sums, "float64", data
        (expected, losses), (found, others) = (
            penalised(executor, *given) for executor in ("eager", "compiled")
        )
        assert_allclose(found, expected, **TOLERANCE["float64"])
        assert_allclose(others[1][0], losses[1][0], rtol=1e-12)


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 150])
def test_options_together(batch_size, dtype):
    """Dropout, weights, layers without biases, targets as rows, a short last batch."""
    check(
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


@pytest.mark.parametrize("i", range(12))
def test_random_networks(i):
    results = []
    for executor in ("eager", "compiled"):
        net, data = random_network(5 * i)
        net.fit(
            **data,
            batch_size=2,
            epochs=3,
            optimizer=gb.SGD(0.01),
            executor=executor,
            progress=False,
        )
        results.append(arrays(net))
    for one, two in zip(*results, strict=True):
        assert_allclose(two, one, **TOLERANCE["float64"])


@pytest.mark.parametrize("sizes", [(9, 3), (9, 1, 3), (9, 40, 33, 3), (9, *[6] * 12, 3)])
@pytest.mark.parametrize("batch_size", [1, 33])
def test_any_depth_and_width(sizes, batch_size):
    check(sizes=sizes, fit={"batch_size": batch_size})


@pytest.mark.parametrize(
    "data",
    [
        (X.astype("float32"), LABELS),
        (np.asfortranarray(X), LABELS),
        (X[::-1], LABELS[::-1]),
        (X, LABELS.astype("uint8")),
        (X, LABELS.astype("float32")),
        (X.tolist(), LABELS.tolist()),
    ],
    ids=["float32", "columns", "backwards", "uint8 labels", "float labels", "lists"],
)
@pytest.mark.parametrize("batch_size", [1, 32, 150])
def test_data_that_cannot_be_read_in_place(data, batch_size):
    for shuffle in (True, False):
        check(data=data, fit={"batch_size": batch_size, "shuffle": shuffle})


def test_data_is_left_alone():
    x, y = X.copy(), np.eye(3)[LABELS]
    before = x.copy(), y.copy()
    train("compiled", data=(x, y))
    assert_array_equal(x, before[0])
    assert_array_equal(y, before[1])


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("batch_size", [9000, 20000])
def test_large_batches(batch_size, in_place):
    """More rows than go through the network at once, gathered and in place, with dropout."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20000, 3))
    y = rng.integers(2, size=20000)
    data = (x if in_place else x.astype("float32"), y)
    fit = {"batch_size": batch_size, "epochs": 2, "sample_weight": rng.random(20000)}
    check(sizes=(3, 4, 2), data=data, dropout=0.2, hidden="gelu", bias=False, fit=fit)


def test_batches():
    parts = [(X[:10], LABELS[:10]), (X[10:80], LABELS[10:80]), (X[80:81], LABELS[80:81])]
    check(data=(gb.Batches(lambda: iter(parts)),), fit={"batch_size": None})


def test_memory_maps(tmp_path):
    np.save(tmp_path / "x.npy", X)
    check(data=(np.load(tmp_path / "x.npy", mmap_mode="r"), LABELS))
    bad = X.copy()
    bad[77, 2] = np.nan
    np.save(tmp_path / "x.npy", bad)
    with pytest.raises(ValueError, match="row 77"):
        train("compiled", data=(np.load(tmp_path / "x.npy", mmap_mode="r"), LABELS))


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_same_bits_however_epochs_are_cut(batch_size, monkeypatch):
    fit = {"batch_size": batch_size, "epochs": 3, "optimizer": gb.Adam(0.01)}
    whole, losses = train("compiled", fit=fit, dtype="float32")
    monkeypatch.setattr(gb.training, "batches_per_block", lambda *_: 1)
    monkeypatch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
    cut, others = train("compiled", fit=fit, dtype="float32")
    for one, two in zip(whole, cut, strict=True):
        assert_array_equal(one, two)
    assert losses == others


def test_fits_in_two_threads_and_after_a_fork():
    alone, _ = train("compiled")
    results = []
    threads = [threading.Thread(target=lambda: results.append(train("compiled"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    for found, _ in results:
        for one, two in zip(alone, found, strict=True):
            assert_array_equal(one, two)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fit_after_a_fork():
    run_forked("""
X = np.random.default_rng(0).normal(size=(50, 9))
def outputs():
    net = gb.Network([9, 7, 5, 3], "tanh", dtype="float64", rng=0, backend="numpy")
    net.fit(X, np.arange(50) % 3, executor="compiled", progress=False)
    return net.weights
""")


# ---- NaN, infinity, Ctrl-C -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_what_is_not_finite_reaches_the_loss(hidden, value, batch_size):
    """A weight is NaN, or so large that a sum overflows: the batch is the one that eager finds."""
    sizes, n = [9, *range(4, 4 + len(HIDDEN)), 3], HIDDEN.index(hidden)
    found = []
    for executor in ("eager", "compiled"):
        net = gb.Network(sizes, HIDDEN, dtype="float64", rng=3, backend="numpy")
        net.weights[n][0, 0] = value
        try:
            net.fit(X, LABELS, batch_size=batch_size, shuffle=False, executor=executor, epochs=1)
            found.append(None)
        except gb.DivergenceError as error:
            found.append((error.epoch, error.batch))
    assert found[0] == found[1]
    if np.isnan(value):
        assert found[0] == (0, 0)


def test_the_batch_of_a_planted_infinity():
    x = X.copy()
    x[70] = 1e308
    for batch_size, batch in ((1, 70), (32, 2)):
        with pytest.raises(gb.DivergenceError) as caught:
            train(
                "compiled",
                data=(x, np.zeros((N, 3))),
                output="identity",
                loss="squared",
                sizes=(9, 3),
                fit={"batch_size": batch_size, "shuffle": False},
            )
        assert caught.value.batch == batch


def test_ctrl_c_leaves_a_usable_network():
    class Interrupt:
        def on_slice(self, run):
            raise KeyboardInterrupt

    net = gb.Network([9, 7, 5, 3], "tanh", dtype="float64", rng=0, backend="numpy")
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, LABELS, executor="compiled", callbacks=[Interrupt()], progress=False)
    assert np.isfinite(net.loss(X, LABELS))


# ---- exp and its kin -----------------------------------------------------------------------------


def spread(low, high, n=100_003):
    """Numbers of all sizes in a range of exponents of ten, of both signs."""
    x = 10.0 ** np.linspace(low, high, n)
    return np.concatenate([-x, x])


#: Where each function is tried: by the decimal exponents that its dtype has.
RANGES = {
    "exp": lambda limit, top: [np.linspace(-top, top, 400_003), spread(-9, 0)],
    "expm1": lambda limit, top: [np.linspace(-top, top, 400_003), spread(-limit, 0)],
    "tanh": lambda limit, top: [np.linspace(-25, 25, 200_003), spread(-limit, 0)],
    "log": lambda limit, top: [np.abs(spread(-limit, limit)), np.linspace(0.5, 2, 200_003)],
    "log1p": lambda limit, top: [np.abs(spread(-limit, limit)), spread(-limit, -1e-6)],
    "erf": lambda limit, top: [np.linspace(-7, 7, 200_003), spread(-limit, 0)],
}
#: NumPy has none: Python's own, whose float64 is within 1 ulp.
erf = np.vectorize(math.erf, otypes=[np.float64])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RANGES)
def test_functions_are_within_4_ulp(name, dtype):
    """Against 80-bit numbers, or for float32 against float64."""
    from numba import njit

    if dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
        pytest.skip("this machine's long double is no more exact than float64")
    written: dict = {}
    exec(source.write_kernels(np.dtype(dtype), "kernels"), written)
    function = written[name]

    @njit
    def run(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    limit, top = (307, 708.3) if dtype == "float64" else (37, 87.3)
    x = np.concatenate(RANGES[name](limit, top)).astype(dtype)
    out, wide = np.empty_like(x), np.longdouble if dtype == "float64" else np.float64
    run(x, out)
    true = erf if name == "erf" else getattr(np, name)
    exact = true(x.astype(wide))
    ulp = np.spacing(np.abs(exact).astype(dtype))
    assert np.max(np.abs(out - exact) / ulp) < 4
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, -2.0, 1e30, -1e30, 89.0, -95.0, 710.0,
               -740.0, 709.5, 88.5, np.finfo(dtype).smallest_subnormal * 5]  # fmt: skip
    x = np.array(special, dtype)
    out = np.empty_like(x)
    run(x, out)
    with np.errstate(all="ignore"):
        smallest = np.finfo(dtype).smallest_subnormal
        assert_allclose(out, true(x), rtol=1e-6, atol=2 * smallest)


# ---- the cache -----------------------------------------------------------------------------------


def program():
    net = gb.Network([9, 3], backend="numpy", dtype="float64")
    return formulas.write_formulas(net.model, gb.SGD(0.1)).text


def test_sizes_and_numbers_need_no_program_of_their_own():
    def text(sizes, slope, rate):
        hidden = gb.LEAKY_RELU(slope=slope) if hasattr(gb, "LEAKY_RELU") else "leaky_relu"
        net = gb.Network(sizes, hidden, backend="numpy")
        return formulas.write_formulas(net.model, gb.SGD(rate, momentum=rate)).text

    assert text([9, 5, 3], 0.1, 0.5) == text([4, 7, 8, 2], 0.2, 0.9)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
def test_the_folder_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path / "new" / "folder"))
    assert cache.folder() == tmp_path / "new" / "folder"
    assert cache.folder().stat().st_mode & 0o777 == 0o700
    cache.folder().chmod(0o777)
    assert cache.folder() != tmp_path / "new" / "folder"
    monkeypatch.setenv("GPUBACKPROP_CACHE", "/proc/nowhere")
    assert cache.folder().is_dir()
    assert cache.folder() == cache.folder()


def test_two_processes_at_once(tmp_path):
    code = "from test_compiled import *; import gpubackprop as gb; print(train('compiled')[1])"
    env = {**os.environ, "GPUBACKPROP_CACHE": str(tmp_path), "GPUBACKPROP_BACKEND": "numpy"}
    env["PYTHONPATH"] = os.pathsep.join([p for p in sys.path if p])
    start = [sys.executable, "-c", code]
    both = [subprocess.Popen(start, env=env, stdout=subprocess.PIPE) for _ in range(2)]
    texts = {process.communicate(timeout=300)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(texts) == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert not [name for name in names if name.endswith(".part")]
    # Read from the folder by a third, which compiles nothing.
    assert subprocess.run(start, env=env, capture_output=True, check=True).stdout in texts
    assert sorted(path.name for path in tmp_path.iterdir()) == names


# ---- choosing ------------------------------------------------------------------------------------


def job(sizes=(9, 7, 3), batch_size=32, backend="numpy", optimizer="sgd"):
    net = gb.Network(list(sizes), backend=backend)
    return Job(net.model, net.backend, optimizers.get(optimizer), batch_size, False, 0)


def test_refusals():
    compiled = executors.EXECUTORS["compiled"]
    assert compiled.refusal(job()) is None
    assert "numpy-plain" in compiled.refusal(job(backend="numpy-plain"))
    with pytest.raises(ValueError, match="cannot do this job: it runs on the backend 'numpy'"):
        executors.get("compiled", job(backend="numpy-plain"))


def test_numba_that_is_not_there():
    code = """
import sys
sys.modules["numba"] = None
import numpy as np, gpubackprop as gb
net = gb.Network([2, 1], output="identity", backend="numpy")
X = np.zeros((8, 2))
print(net.fit(X, X[:, 0], progress=False).executor)
try:
    net.fit(X, X[:, 0], executor="compiled")
except ValueError as error:
    print(error)
"""
    first, second = run(code).splitlines()
    assert first == "eager"
    assert "gpubackprop[fast]" in second


def test_numba_is_not_imported_to_find_out_that_it_does_not_pay(tmp_path):
    """A job that would have to compile, and saves less than that takes."""
    code = """
import sys
import numpy as np, gpubackprop as gb
net = gb.Network([4, 8, 3], backend="numpy", rng=0)
X, Y = np.zeros((150, 4)), np.zeros(150, int)
history = net.fit(X, Y, epochs=400, progress=False)
print(history.executor, "numba" in sys.modules, "gpubackprop.executors.compiled" in sys.modules)
"""
    assert run(code, GPUBACKPROP_CACHE=str(tmp_path)).split() == ["eager", "False", "True"]


def test_numba_is_not_imported_before_it_is_used():
    code = "import sys, gpubackprop.executors.compiled; print('numba' in sys.modules)"
    assert run(code) == "False"


def test_pieces_of_a_batch_are_powers_of_two():
    for sizes in ([4, 4, 1], [784, 30, 10], [1024, 2048, 2048, 10], [100_000, 10]):
        net = gb.Network(sizes, output="identity", backend="numpy")
        rows = choices.piece_rows(net.model)
        assert rows & (rows - 1) == 0
        assert rows <= gb.backprop.SLICE


def large(**changes):
    network = {"backend": "numpy", "dtype": "float32"}
    network |= {name: changes.pop(name) for name in network if name in changes}
    net = gb.Network(changes.pop("sizes", [9, 7, 3]), **network)
    given = {"batch_size": 32, "n_samples": 10_000, "epochs": 10, **changes}
    optimizer = optimizers.get(given.pop("optimizer", "sgd"))
    size = given.pop("batch_size")
    return Job(net.model, net.backend, optimizer, size, False, 0, **given)


MID, WIDE = {"sizes": [784, 256, 128, 10]}, {"sizes": [1024, 2048, 2048, 10]}
#: (job, whether its code is in the cache, what auto chooses)
CHOICES = [
    ({"n_samples": 100, "epochs": 1}, False, "eager"),
    ({"n_samples": 100, "epochs": 1}, True, "eager"),
    ({"batch_size": 1}, True, "compiled"),
    ({"batch_size": 1, "n_samples": 60_000}, False, "compiled"),
    ({"batch_size": 1, "epochs": 1}, False, "eager"),
    ({"epochs": 1000}, True, "compiled"),
    ({"epochs": 1}, True, "eager"),
    ({"batch_size": 10_000}, True, "eager"),
    ({"batch_size": None}, True, "eager"),
    ({"batch_size": 1, "n_samples": None}, True, "eager"),
    ({"batch_size": 1, "backend": "numpy-plain"}, True, "eager"),
    # Large full batches: their elementwise passes are done at once.
    (MID | {"batch_size": 8192, "n_samples": 8192, "epochs": 3}, True, "eager"),
    (MID | {"batch_size": 8192, "n_samples": 8192, "epochs": 20}, True, "compiled"),
    (MID | {"batch_size": 8192, "n_samples": 8192, "epochs": 100}, True, "compiled"),
    (MID | {"batch_size": 8192, "n_samples": 8192, "epochs": 100}, False, "eager"),
    (MID | {"batch_size": 8192, "n_samples": 8192, "epochs": 10_000}, False, "compiled"),
    (MID | {"batch_size": 256, "n_samples": 60_000, "epochs": 10}, True, "compiled"),
    (WIDE | {"batch_size": 1, "n_samples": 16, "epochs": 1}, True, "eager"),
    (WIDE | {"batch_size": 1, "n_samples": 10_000, "epochs": 1}, True, "compiled"),
]


@pytest.mark.parametrize(("changes", "ready", "expected"), CHOICES)
def test_what_auto_chooses(changes, ready, expected, monkeypatch):
    monkeypatch.setattr(cache, "is_ready", lambda text: ready)
    monkeypatch.setattr(cpu_cost.processor, "has_matrix_unit", lambda: False)
    assert executors.choose(large(**changes)).name == expected


def test_auto_counts_what_a_matrix_unit_saves(monkeypatch):
    monkeypatch.setattr(cache, "is_ready", lambda text: True)
    for has, expected in (False, "eager"), (True, "compiled"):
        monkeypatch.setattr(cpu_cost.processor, "has_matrix_unit", lambda has=has: has)
        job = large(**MID, batch_size=4096, n_samples=4096, epochs=7)
        assert executors.choose(job).name == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("has", [True, False])
def test_auto_counts_the_layers_that_a_matrix_unit_does(has, dtype, monkeypatch):
    """Those of `choices.product_kinds`, of one thread and batches that narrow layers gain nothing
    in; each adds as much as its weights, forward, back and in the gradient.
    """
    monkeypatch.setattr(amx, "_is_there", lambda: has)
    for m, n, rows in itertools.product((16, 63, 64, 65, 300), (16, 63, 64, 65, 300), (63, 64, 65)):
        given = large(sizes=[n, m], batch_size=rows, dtype=dtype)
        monkeypatch.setattr(cpu_cost.processor, "has_matrix_unit", lambda: False)
        without = cpu_cost.seconds_saved(given)
        monkeypatch.setattr(cpu_cost.processor, "has_matrix_unit", lambda: has)
        more = cpu_cost.seconds_saved(given) - without
        done = choices.product_kinds(given.model, rows) == [3]
        products = 2 * m * n * given.n_samples * given.epochs  # no delta goes to layer -1
        assert more == pytest.approx(done * products * cpu_cost.MULTIPLY_SECONDS, rel=1e-6)


def test_auto_trains_with_it():
    net = gb.Network([9, 7, 3], "tanh", dtype="float64", backend="numpy", rng=0)
    x, y = np.tile(X, (100, 1)), np.tile(LABELS, 100)
    train("compiled", sizes=(9, 7, 3), fit={"batch_size": 1, "optimizer": gb.SGD(0.001)})
    history = net.fit(x, y, batch_size=1, epochs=2, optimizer=gb.SGD(0.001), progress=False)
    assert history.executor == "compiled"
