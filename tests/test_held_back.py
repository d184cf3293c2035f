"""SGD with updates kept back is direct SGD to rounding, and is done only where it can be."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_compiled import HIDDEN, arrays, cold  # noqa: F401  (cold: a cache of its own)

import gpubackprop as gb
from gpubackprop import optimizers
from gpubackprop.executors import Job

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")
pytest.importorskip("scipy", reason="SciPy, of the extra fast, is not installed")

from gpubackprop.executors.compiled import linear, plans

N, N_IN, N_OUT = 203, 70, 3  # no multiple of the updates that are kept back
RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(N, N_IN)), RNG.integers(N_OUT, size=N)
#: float64: some roundings of 1e-16 an update. float32: what direct SGD drifts from float64 itself.
TOLERANCE = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-5}}
#: The first is held alone; in the second, layers above too; in the third, by BLAS.
SIZES = [(N_IN, 33, N_OUT), (N_IN, 60, 160, 90, N_OUT), (N_IN, 150, 150, N_OUT)]
LINEAR = {
    "SGD": gb.SGD(0.05),
    "momentum": gb.SGD(0.01, momentum=0.9),
    "nesterov": gb.SGD(0.01, momentum=0.9, nesterov=True),
    "a rate an update": gb.SGD(gb.Cosine(0.05, epochs=2, warmup=1)),
    "momentum, a rate an update": gb.SGD(gb.Cosine(0.01, epochs=2, warmup=1), momentum=0.9),
}


def job(sizes=SIZES[0], optimizer="sgd", batch_size=1, **changes):
    net = gb.Network(list(sizes), backend="numpy", **changes.pop("net", {}))
    return Job(net.model, net.backend, optimizers.get(optimizer), batch_size, False, 0, **changes)


def train(path, sizes, monkeypatch, *, data=(X, LABELS), fit=None, **options):
    """Train for an epoch or two by one of the loops; returns arrays and losses."""
    monkeypatch.setattr(plans, "HELD_WEIGHTS", 1 if path == "held back" else 1 << 62)
    options = {"hidden": "sigmoid", "dtype": "float64", "rng": 3, **options}
    net = gb.Network(list(sizes), **options, backend="numpy")
    fit = {"optimizer": gb.SGD(0.05), "epochs": 2, **(fit or {})}
    assert plans.loop_of(job(sizes, fit["optimizer"]), masked=False) == path
    history = net.fit(*data, batch_size=1, executor="compiled", progress=False, **fit)
    return arrays(net), history.loss


def check(sizes, monkeypatch, dtype="float64", **options):
    """Held back and direct agree."""
    (held, losses), (direct, others) = (
        train(path, sizes, monkeypatch, dtype=dtype, **options) for path in ("held back", "direct")
    )
    for one, two in zip(held, direct, strict=True):
        assert_allclose(one, two, **TOLERANCE[dtype])
    assert_allclose(losses, others, rtol=1e-10 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("sizes", SIZES)
def test_held_back_is_direct_sgd(sizes, name, dtype, monkeypatch):
    check(sizes, monkeypatch, dtype, fit={"optimizer": LINEAR[name]})


def test_float32_drifts_no_further_than_direct_sgd(monkeypatch):
    """Both against float64: the recurrences lose no digits of their own."""
    data = X.astype("float32"), LABELS
    exact, _ = train("direct", SIZES[1], monkeypatch, data=(data[0].astype("float64"), LABELS))
    drift = {}
    for path in ("direct", "held back"):
        found, _ = train(path, SIZES[1], monkeypatch, data=data, dtype="float32")
        drift[path] = max(
            np.abs(one - two).max() / np.abs(two).max()
            for one, two in zip(found, exact, strict=True)
        )
    assert drift["held back"] < 3 * drift["direct"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_hidden_activation(dtype, monkeypatch):
    for momentum in (0.0, 0.5):
        sizes = [N_IN, *range(30, 30 + len(HIDDEN)), N_OUT]
        optimizer = gb.SGD(0.002, momentum=momentum)
        check(sizes, monkeypatch, dtype, hidden=HIDDEN, fit={"optimizer": optimizer})


@pytest.mark.parametrize(
    ("output", "loss"),
    [("identity", "squared"), ("softmax", "squared"), ("sigmoid", "log_loss"), ("tanh", "huber")],
)
def test_dropout_weights_and_layers_without_biases(output, loss, monkeypatch):
    Y = np.eye(N_OUT)[LABELS]
    for bias, dropout in ((False, 0.3), (True, 0.0)):
        check(
            SIZES[0], monkeypatch, output=output, loss=loss, bias=bias, dropout=dropout,
            hidden="gelu", data=(X, Y),
            fit={"optimizer": gb.SGD(0.01, momentum=0.5), "sample_weight": np.linspace(0, 2, N)},
        )  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES[1:])
@pytest.mark.parametrize("data", [(X.astype("float32"), LABELS), (X[::-1], LABELS[::-1])])
def test_rows_that_cannot_be_read_in_place(data, sizes, monkeypatch):
    for shuffle in (True, False):
        check(sizes, monkeypatch, data=data, fit={"shuffle": shuffle})


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("sizes", [SIZES[0], (N_IN, 150, 3), (5000, 30, 3), (70_000, 3)])
def test_the_same_bits_however_epochs_are_cut(sizes, momentum, monkeypatch):
    """Slices end where updates are applied anyway, also where one row fills a block."""
    rng = np.random.default_rng(1)
    data = rng.normal(size=(83, sizes[0])).astype("float32"), rng.integers(3, size=83)
    optimizer = gb.SGD(0.01 / sizes[0], momentum=momentum)
    fit = {"optimizer": optimizer, "epochs": 2}
    path = "direct" if sizes[0] == 70_000 else "held back"
    whole, losses = train(path, sizes, monkeypatch, data=data, fit=fit, dtype="float32")
    monkeypatch.setattr(gb.pace, "_SLICE_SECONDS", 0.0)
    cut, others = train(path, sizes, monkeypatch, data=data, fit=fit, dtype="float32")
    for one, two in zip(whole, cut, strict=True):
        assert_array_equal(one, two)
    assert losses == others


@pytest.mark.parametrize("row", [0, 5, 31, 100, N - 1])
def test_the_sample_whose_loss_is_not_finite(row, monkeypatch):
    monkeypatch.setattr(plans, "HELD_WEIGHTS", 1)
    Y = np.zeros((N, 1))
    Y[row] = 1e200  # its squared loss overflows
    net = gb.Network([N_IN, 33, 1], output="identity", dtype="float64", backend="numpy")
    with pytest.raises(gb.DivergenceError) as caught:
        net.fit(X, Y, batch_size=1, shuffle=False, executor="compiled", progress=False)
    assert caught.value.batch == row


# ---- which loop a job gets -----------------------------------------------------------------------


class Heavier(gb.SGD):
    """An optimiser of a user's own with another formula."""

    @property
    def expression(self):
        return optimizers.Expression(
            "heavier", ("g",), {"w": "w - 2 * learning_rate * g"}, ("w",), ("learning_rate",)
        )


class Later(gb.SGD):
    """One with the formula of SGD and another number in it."""

    def scalars(self, step, learning_rate):
        return (learning_rate / step,)


CANNOT = {
    "a mini-batch": {"batch_size": 2},
    "batches of the source's": {"batch_size": None},
    "a small first layer": {"sizes": (4, 4, 1), "net": {"loss": "log_loss", "output": "sigmoid"}},
    "one row a block": {"sizes": (70_000, 3)},
    **{
        name: {"optimizer": optimizer}
        for name, optimizer in {
            "clipping": gb.SGD(0.1, clip_norm=1.0),
            "l1": gb.SGD(0.1, l1=1e-3),
            "l2": gb.SGD(0.1, l2=1e-3),
            "decay": gb.SGD(0.1, weight_decay=1e-3),
            "momentum and decay": gb.SGD(0.005, momentum=0.9, weight_decay=1e-3),
            "RMSprop": gb.RMSprop(),
            "Adam": gb.Adam(),
            "AdamW": gb.AdamW(),
            "Rprop": gb.Rprop(),
            "a formula of one's own": Heavier(0.1),
            "a rate of one's own": Later(0.1),
        }.items()
    },
}


@pytest.mark.parametrize("name", CANNOT)
def test_no_updates_are_kept_back_for_a_job_that_cannot(name):
    assert plans.loop_of(job(**CANNOT[name]), masked=False) == "direct"


@pytest.mark.parametrize("name", LINEAR)
def test_updates_are_kept_back_for_a_job_that_can(name):
    able = job(optimizer=LINEAR[name])
    assert plans.loop_of(able, masked=False) == "held back"
    assert plans.loop_of(able, masked=True) == "direct"


@pytest.mark.parametrize(
    "optimizer",
    [one["optimizer"] for one in CANNOT.values() if isinstance(one.get("optimizer"), gb.SGD)],
    ids=lambda one: type(one).__name__,
)
def test_what_cannot_is_done_by_the_direct_loop_and_right(optimizer):
    """As eager has it: first layers large enough that updates would be kept back."""
    results = []
    for executor in ("eager", "compiled"):
        net = gb.Network(list(SIZES[0]), "sigmoid", dtype="float64", rng=3, backend="numpy")
        net.fit(
            X,
            LABELS,
            batch_size=1,
            epochs=1,
            optimizer=optimizer,
            executor=executor,
            progress=False,
        )
        results.append(arrays(net))
    for one, two in zip(*results, strict=True):
        assert_allclose(one, two, **TOLERANCE["float64"])


def test_frozen_weights_stay(monkeypatch):
    trainable = (
        [np.ones(w, bool) for w in ((33, N_IN), (3, 33))],
        [np.ones(33, bool), np.ones(3, bool)],
    )
    trainable[0][0][:, ::2] = False
    net = gb.Network(list(SIZES[0]), "sigmoid", rng=3, backend="numpy")
    before = net.weights[0].copy()
    net.fit(X, LABELS, batch_size=1, epochs=1, trainable=trainable, executor="compiled",
            progress=False)  # fmt: skip
    assert_array_equal(net.weights[0][:, ::2], before[:, ::2])
    assert (net.weights[0][:, 1::2] != before[:, 1::2]).any()


@pytest.mark.parametrize("optimizer", [one for one in LINEAR.values() if one.slots])
def test_responses_against_a_worked_recurrence(optimizer):
    """velocity = momentum * velocity - g, w += velocity, by hand."""
    found, mu = linear.responses(optimizer, job().backend, 5), optimizer.momentum
    velocity, w, ahead = 0.0, 0.0, float(optimizer.nesterov)
    for j in range(1, 6):
        g = 1.0 if j == 1 else 0.0
        velocity = mu * velocity - g
        w += velocity if not ahead else mu * velocity - g
        assert_allclose([found.response[j], found.memory[j]], [-w, -velocity])
        assert_allclose(found.kept[j], mu**j)
        assert_allclose(found.drift[j], sum(mu ** (i + ahead) for i in range(1, j + 1)))
