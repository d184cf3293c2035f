"""Several short epochs as one call: bits, history and generator of one after another."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_compiled import cold  # noqa: F401  (a cache of its own)

import gpubackprop as gb
from gpubackprop import pace

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")

from gpubackprop.executors.compiled import executor, several, shuffle

N = 50


class EachEpoch:
    """Asks for every epoch."""

    def on_epoch_end(self, run):
        """Do nothing."""


class Patient(EachEpoch):
    patient = True


@pytest.fixture
def strides(monkeypatch):
    """How many epochs each call of several was asked for."""
    counts, original = [], several.run

    def counting(*given):
        counts.append(len(given[-1].losses))
        original(*given)

    monkeypatch.setattr(executor.several, "run", counting)
    monkeypatch.setattr(shuffle.cache, "is_loaded", lambda text: True)
    monkeypatch.setattr(pace, "_SLICE_SECONDS", np.inf)  # whatever else this processor does
    return counts


def network(sizes=(5, 4, 2), dtype="float32", dropout=0.0, rng=0):
    return gb.Network(
        sizes, "tanh", "sigmoid", "log_loss", dtype=dtype, dropout=dropout, backend="numpy", rng=rng
    )


def data(n_in=5, n_out=2, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, n_in)), (rng.random((N, n_out)) < 0.5).astype(float)


def trained(net, callbacks, X=None, Y=None, **options):
    given = {"batch_size": 8, "epochs": 20, "optimizer": gb.SGD(0.1), "progress": False}
    if X is None:
        X, Y = data(net.model.sizes[0], net.model.sizes[-1])
    net.fit(X, Y, executor="compiled", threads=1, callbacks=callbacks, **(given | options))
    return net


def assert_same_parameters(one, two):
    for a, b in zip([*one.weights, *one.biases], [*two.weights, *two.biases], strict=True):
        assert_array_equal(a, b)


def assert_same(one, two):
    assert_same_parameters(one, two)
    for name in ("epoch", "loss", "learning_rate", "samples", "stopped", "executor"):
        assert getattr(one.history, name) == getattr(two.history, name), name
    assert len(one.history.seconds) == len(one.history.epoch)
    assert all(np.diff([0.0, *one.history.seconds]) > 0)
    assert one.rng.bit_generator.state == two.rng.bit_generator.state


JOBS = {
    "mini-batch": {},
    "sgd": {"batch_size": 1},
    "whole batches only": {"batch_size": 10},
    "full": {"batch_size": "full"},
    "not shuffled": {"shuffle": False},
    "adam": {"optimizer": gb.Adam(0.01)},
    "momentum": {"optimizer": gb.SGD(0.1, momentum=0.9, l2=0.01), "batch_size": 1},
    "clipped": {"optimizer": gb.SGD(0.5, clip_norm=0.01)},
    "weighted": {"sample_weight": np.linspace(0, 1, N)},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("job", JOBS)
def test_they_are_one_after_another(strides, monkeypatch, job, dtype):
    has_a_program = dtype == "float32" and job in ("mini-batch", "sgd")
    monkeypatch.setenv("GPUBACKPROP_FIXED", "always" if has_a_program else "never")
    one, two = (trained(network(dtype=dtype), c, **JOBS[job]) for c in ([], [EachEpoch()]))
    assert sum(strides) == 19
    assert strides[0] == 2
    assert_same(one, two)
    # Steps, slots and the generator go on as well.
    assert_same(trained(one, []), trained(two, [EachEpoch()]))


def test_dropout_and_updates_kept_back(strides):
    for sizes, dropout, options in (
        ((5, 4, 2), 0.3, {}),
        ((80, 40, 2), 0.0, {"batch_size": 1}),
        ((80, 40, 2), 0.2, {"batch_size": 1}),
    ):
        one, two = (
            trained(network(sizes, dropout=dropout), c, **options) for c in ([], [EachEpoch()])
        )
        assert sum(strides) == 19
        strides.clear()
        assert_same(one, two)


@pytest.mark.parametrize("batch_size", [8, "full"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("blows_up", [3, 7, 16])
def test_divergence_is_found_in_its_epoch(strides, batch_size, dtype, blows_up):
    """Numbers that grow by themselves: of a linear network, by the same factor at each update."""
    found = []
    largest = float(np.finfo(dtype).max)
    updates = blows_up * (7 if batch_size == 8 else 1)
    for callbacks in [], [EachEpoch()]:
        net = gb.Network(
            [1, 1], output="identity", loss="squared", bias=False, dtype=dtype, backend="numpy",
            rng=0,
        )  # fmt: skip
        net.weights[0][...] = 1.0
        # W is multiplied by 1 - learning_rate at each update; its square must not be too large.
        rate = 1 + largest ** (0.5 / updates)
        with pytest.raises(gb.DivergenceError) as raised:
            trained(
                net, callbacks, np.ones((N, 1)), np.zeros((N, 1)), batch_size=batch_size,
                optimizer=gb.SGD(rate),
            )  # fmt: skip
        found.append((net, raised.value))
    (one, error), (two, other) = found
    assert sum(strides) > 0
    assert (error.epoch, error.batch) == (other.epoch, other.batch)
    assert abs(error.epoch - blows_up) <= 1
    assert np.isfinite(one.weights[0]).all()
    assert_same(one, two)


def test_parameters_that_are_not_finite_though_the_losses_were(strides):
    for callbacks in [], [EachEpoch()]:
        net = gb.Network(
            [1, 1], output="identity", loss="absolute", bias=False, dtype="float32",
            backend="numpy", rng=0,
        )  # fmt: skip
        net.weights[0][...] = 1.0
        X = np.full((4, 1), 1.7e38)
        with pytest.raises(gb.DivergenceError) as raised:
            trained(net, callbacks, X, X * 0, batch_size="full", optimizer=gb.SGD(1.5), epochs=9)
        assert np.isfinite(net.weights[0]).all()
        assert len(net.history.epoch) == raised.value.epoch


@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": [EachEpoch()]},
        {"validation": data(seed=4)},
        {"early_stopping": gb.EarlyStopping(patience=30)},
        {"optimizer": gb.SGD(gb.schedules.Step(0.1, every=5))},
        {"optimizer": gb.SGD(lambda epoch: 0.1 / (1 + epoch))},
        {"shuffle": "blocks"},
        {"executor": "eager"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_where_something_happens_in_between_each_is_a_call(strides, options):
    given = {"executor": "compiled", "epochs": 20, "progress": False, "optimizer": gb.SGD(0.1)}
    network().fit(*data(), **(given | options))
    assert strides == []


def test_generators_that_compiled_code_cannot_follow(strides):
    net = network(rng=np.random.Generator(np.random.MT19937(0)))
    trained(net, [])
    assert strides == []
    assert len(net.history.epoch) == 20
    trained(net, [], batch_size="full")  # which draws nothing
    assert sum(strides) == 19


def test_a_patient_callback_does_not_hinder(strides):
    trained(network(), [Patient()])
    assert sum(strides) == 19


def test_an_interrupt_leaves_what_was_done(strides, monkeypatch):
    counting, expected = several.run, trained(network(), [], epochs=7)
    strides.clear()

    def interrupted(*given):
        counting(*given)
        if sum(strides) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(executor.several, "run", interrupted)
    net = network()
    with pytest.raises(KeyboardInterrupt):
        trained(net, [])
    assert net.history.stopped == "interrupted"
    assert net.history.epoch == list(range(1 + sum(strides)))
    assert_same_parameters(net, expected)
