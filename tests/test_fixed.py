"""Programs for one small network: equal to the eager executor, and made only where they pay."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_compiled import HIDDEN, check, cold, train  # noqa: F401  (cold: a cache of its own)

import gpubackprop as gb
from gpubackprop import optimizers
from gpubackprop.executors import Job

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")

from gpubackprop.executors.compiled import Compiled, fixed, plans

N = 150  # no multiple of the samples that are done at once
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2))
OPTIONS = {
    "sizes": (3, 4, 3, 2), "output": "identity", "loss": "huber", "hidden": ["tanh", "gelu"],
    "data": (X, Y),
}  # fmt: skip


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_FIXED", "always")
    loaded = []
    monkeypatch.setattr(Compiled, "_load", lambda self, name, load=Compiled._load: (
        loaded.append(name) or load(self, name)
    ))  # fmt: skip
    yield
    assert set(loaded) == {"fixed"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_trains_as_eager_does(dtype, always):
    for batch_size in (1, 32, 70, N):
        for shuffle in (True, False):
            check(dtype, **OPTIONS, fit={"batch_size": batch_size, "shuffle": shuffle})


@pytest.mark.parametrize("batch_size", [1, 32])
def test_every_hidden_activation(batch_size, always):
    """One network with all of them, a unit each: every parameter takes time to compile."""
    sizes = [3, *[1] * len(HIDDEN), 1]
    options = {"output": "sigmoid", "loss": "log_loss", "hidden": HIDDEN}
    y = RNG.integers(2, size=N)
    check(sizes=sizes, data=(X, y), **options, fit={"batch_size": batch_size})


def test_rows_that_cannot_be_read_in_place(always):
    for batch_size in (1, 32):
        check(**OPTIONS | {"data": (X.astype("float32"), Y)}, fit={"batch_size": batch_size})


def test_a_batch_in_slices(always):
    n = 2 * gb.backprop.SLICE + 5
    x, y = RNG.normal(size=(n, 3)), RNG.normal(size=n)
    options = {"sizes": (3, 2, 1), "hidden": "sigmoid", "output": "identity", "loss": "squared"}
    for rows in (x, x.astype("float32")):  # read in place, and gathered slice by slice
        for batch_size in (n, n - 3):
            fit = {"batch_size": batch_size, "epochs": 2}
            check(**options, data=(rows, y), fit=fit)


@pytest.mark.parametrize("count", [(5, 3), (1, 1), (7, 6)])
def test_rows_of_any_width(count, always):
    """Whose numbers come in fours, twos and one by one."""
    n_in, n_out = count
    data = RNG.normal(size=(N, n_in)), RNG.normal(size=(N, n_out))
    options = OPTIONS | {"sizes": (n_in, 2, n_out), "hidden": ["sigmoid"], "data": data}
    for batch_size in (1, 7, 64):
        check(**options, fit={"batch_size": batch_size})


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_schedule_and_however_epochs_are_cut(batch_size, always, monkeypatch):
    rate = gb.SGD(gb.Cosine(0.1, epochs=3, warmup=1))
    fit = {"batch_size": batch_size, "epochs": 3, "optimizer": rate}
    check(**OPTIONS, fit=fit)
    whole, losses = train("compiled", **OPTIONS, fit=fit)
    monkeypatch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
    cut, others = train("compiled", **OPTIONS, fit=fit)
    for one, two in zip(whole, cut, strict=True):
        assert_array_equal(one, two)
    # Sums of losses are added in another order.
    np.testing.assert_allclose(losses, others, rtol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_batch_whose_loss_is_not_finite(batch_size, always):
    y = Y.copy()
    y[100, 0] = 1e200  # its squared loss overflows
    options = OPTIONS | {"data": (X, y), "loss": "squared", "sizes": (3, 2), "hidden": []}
    with pytest.raises(gb.DivergenceError) as caught:
        train("compiled", **options, fit={"batch_size": batch_size, "shuffle": False})
    assert caught.value.batch == 100 // batch_size
    for layer in range(3):
        net = gb.Network([3, 4, 3, 2], ["tanh", "gelu"], "identity", "huber", dtype="float64",
                         backend="numpy")  # fmt: skip
        net.weights[layer][0, 0] = np.nan
        with pytest.raises(gb.DivergenceError) as caught:
            net.fit(X, Y, batch_size=batch_size, executor="compiled", progress=False)
        assert caught.value.batch == 0


# ---- which jobs get one --------------------------------------------------------------------------


def job(sizes=(4, 4, 4, 1), optimizer="sgd", batch_size=1, weighted=False, net=None, **changes):
    options = {"output": "sigmoid", "loss": "log_loss", "backend": "numpy", **(net or {})}
    made = gb.Network(list(sizes), **options)
    return Job(
        made.model, made.backend, optimizers.get(optimizer), batch_size, weighted, 0, **changes
    )


CANNOT = {
    "momentum": {"optimizer": gb.SGD(0.1, momentum=0.9)},
    "Adam": {"optimizer": "adam"},
    "l2": {"optimizer": gb.SGD(0.1, l2=1e-3)},
    "l1": {"optimizer": gb.SGD(0.1, l1=1e-3)},
    "decay": {"optimizer": gb.SGD(0.1, weight_decay=1e-3)},
    "clipping": {"optimizer": gb.SGD(0.1, clip_norm=1.0)},
    "weights": {"weighted": True},
    "dropout": {"net": {"dropout": 0.1}},
    "softmax": {"sizes": (4, 4, 2), "net": {"output": "softmax", "loss": "cross_entropy"}},
    "softmax with squared": {"sizes": (4, 4, 2), "net": {"output": "softmax", "loss": "squared"}},
    "a layer of 65 parameters": {"sizes": (12, 5, 1)},
    "many layers": {"sizes": (7, *[7] * 5, 1)},
    "batches of the source's": {"batch_size": None},
    "a batch that threads share": {"batch_size": 1 << 21, "threads": 4},
}


@pytest.mark.parametrize("name", CANNOT)
def test_no_program_for_a_job_that_it_cannot_do(name, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_FIXED", "always")
    assert plans.loop_of(job(**CANNOT[name]), masked=False) == "direct"
    assert plans.loop_of(job(), masked=True) == "direct"
    assert plans.loop_of(job(), masked=False) == "fixed"


def test_a_program_is_made_for_a_long_job_alone(monkeypatch):
    monkeypatch.delenv("GPUBACKPROP_FIXED", raising=False)
    short, long = job(n_samples=1000), job(n_samples=1000, epochs=1_000_000)
    for there in (False, True):  # what is in the cache must not change a job's bits
        monkeypatch.setattr(fixed.cache, "is_ready", lambda text, there=there: there)
        assert plans.loop_of(short, masked=False) == "direct"
        assert plans.loop_of(long, masked=False) == "fixed"
    other = job(sizes=(4, 3, 1), n_samples=1000)
    assert plans.loop_of(other, masked=False) == "direct"
    monkeypatch.setenv("GPUBACKPROP_FIXED", "never")
    assert plans.loop_of(long, masked=False) == "direct"
