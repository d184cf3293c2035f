"""Updates by one sample as one pass over W and the slots: equal to the eager ones."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpubackprop as gb
from gpubackprop import executors
from gpubackprop.executors import Job
from gpubackprop.expressions import Expression

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")
pytest.importorskip("scipy", reason="SciPy, of the extra fast, is not installed")

from gpubackprop.executors.compiled import formulas, outer_step, plans

N = 61
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 9))
LABELS = RNG.integers(3, size=N)
#: The third layer's W is stepped in several blocks of rows, the last one shorter.
SIZES = [9, 7, 70, 50, 3]
#: float64: some roundings of 1e-16 an update. float32: those of 6e-8, over some hundred updates.
TOLERANCE = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-5}}


@dataclasses.dataclass(frozen=True, repr=False)
class Clashing(gb.optimizers.Optimizer):
    """One of one's own, whose names are also those of penalty, decay and rows of W."""

    @property
    def expression(self):
        statements = {"m": "g * 0.5", "slot0": "b * slot0 + m", "x": "x + rate * g"}
        statements["d"] = "d - l2 * slot0 - 0.1 * rate * x"
        names = ("d", "slot0", "x")
        return Expression("clashing", ("g",), statements, names, ("l2", "rate"), {"b": 0.7})

    def scalars(self, step, learning_rate):
        return learning_rate, 0.1 / step


@pytest.fixture(scope="module", autouse=True)
def cold(tmp_path_factory):
    """A cache of its own, empty at the begin: what is tested was compiled here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUBACKPROP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def job(optimizer, sizes=SIZES, batch_size=1, *, dtype="float64", **options):
    """Return a network and a job of it."""
    penalised = options.pop("penalised", False)
    net = gb.Network(sizes, "tanh", dtype=dtype, rng=3, backend="numpy", **options)
    return net, Job(net.model, net.backend, optimizer, batch_size, False, 5, penalised=penalised)


def run(executor, net, one, *, data=(X, LABELS, None), cut=16, weight_sums=None, threads=1):
    """Train for two epochs in slices of `cut` updates: flat parameters, slots and tallies."""
    one = dataclasses.replace(one, threads=threads)
    runner, optimizer = executors.get(executor, one), one.optimizer
    x, y, w = data
    rows = gb.data.checked_source(x.astype(one.model.dtype), y, w, net.model, net.backend)
    state = gb.backprop.new_state(net.backend, net.model, optimizer)
    tally, tallies = executors.base.Tally(net.backend), []
    order = np.random.default_rng(1).permutation(len(x)).astype("int32")
    progress = executors.base.Progress(lambda batch: 0.01, weight_sums=weight_sums)
    for _ in range(2):
        tally.clear()
        progress.batch = 0
        for start in range(0, len(x), cut * one.batch_size):
            stop = min(start + cut * one.batch_size, len(x))
            part = one.batch_size, net._parameters, state, progress, tally
            runner.run(rows, order, start, stop, *part)
        tallies.append(tally.read())
    return net._parameters.flat, state.slots, tallies


def check(make, **options):
    """Train with both executors; they agree. Returns whether W was stepped in one pass."""
    (expected, slots, losses), (found, others, tallies) = (
        run(executor, *make(), **options) for executor in ("eager", "compiled")
    )
    dtype = expected.dtype.name
    assert found.dtype == dtype
    for one, other in zip([expected, *slots], [found, *others], strict=True):
        assert_allclose(other, one, **TOLERANCE[dtype])
    for one, other in zip(losses, tallies, strict=True):
        assert_allclose(other[0], one[0], rtol=1e-10 if dtype == "float64" else 1e-5)
        assert other[1:] == one[1:]
    return plans.steps_outer(make()[1], masked=False)


#: Some divide by the root of g ** 2, which may be rounding alone: their epsilon is large.
KINDS = {
    "SGD": gb.SGD,
    "momentum": lambda **extras: gb.SGD(momentum=0.9, **extras),
    "nesterov": lambda **extras: gb.SGD(momentum=0.9, nesterov=True, **extras),
    "RMSprop": lambda **extras: gb.RMSprop(epsilon=0.01, **extras),
    "Adam": lambda **extras: gb.Adam(epsilon=0.01, **extras),
    "one's own": lambda **extras: Clashing(0.01, **extras),
}
EXTRAS = {
    "no penalty": {},
    "l2": {"l2": 0.3},
    "all": {"l1": 0.05, "l2": 0.3, "weight_decay": 0.1},
}


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_optimiser_with_every_penalty(kind, extras):
    """As part of the loss, divided by weights of the batches, and neither."""
    optimizer = KINDS[kind](**EXTRAS[extras])
    sums = np.linspace(0.5, 2.0, N).tolist()
    stepped = [
        check(lambda: job(optimizer, penalised=True)),
        check(lambda: job(optimizer, penalised=True), weight_sums=sums),
        check(lambda: job(optimizer), threads=2),
    ]
    assert stepped == [optimizer != gb.SGD()] * 3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bias", [True, False, [True, False, True, False]])
def test_dropout_sample_weights_and_biases(bias, dtype):
    data = X, LABELS, np.linspace(0, 2, N)
    # Not l1: in float32 a weight near 0 has either sign.
    optimizer = KINDS["nesterov"](l2=0.3, weight_decay=0.1)
    options = {"bias": bias, "dropout": [0.3, 0.0, 0.5], "dtype": dtype, "penalised": True}
    assert check(lambda: job(optimizer, **options), data=data)


def test_one_layer():
    assert check(lambda: job(KINDS["momentum"](**EXTRAS["l2"]), [9, 3], penalised=True))


def test_where_slices_end_changes_no_bit():
    optimizer = KINDS["nesterov"](**EXTRAS["all"])
    results = [run("compiled", *job(optimizer, penalised=True), cut=cut) for cut in (1, 16, N)]
    for flat, slots, tallies in results[1:]:
        assert_array_equal(flat, results[0][0])
        assert_array_equal(slots[0], results[0][1][0])
        assert tallies == results[0][2]


@pytest.mark.parametrize("kind", ["nesterov", "Adam"])
def test_the_first_bad_batch(kind):
    """A NaN in the data reaches the loss of its batch, all weights, and the loss for good."""
    data = X.copy(), LABELS, None
    data[0][7, 3] = np.nan
    optimizer = KINDS[kind](**EXTRAS["l2"])
    results = [
        run(executor, *job(optimizer, penalised=True), data=data)
        for executor in ("eager", "compiled")
    ]
    order = np.random.default_rng(1).permutation(N)
    for _, _, tallies in results:
        assert np.isnan([total for total, *_ in tallies]).all()
        assert [first for _, first, *_ in tallies] == [list(order).index(7), 0]
    for one, other in zip(results[0][0], results[1][0], strict=True):
        assert np.isnan(one) == np.isnan(other)


CANNOT = {
    "clipping": lambda: job(gb.SGD(0.01, momentum=0.9, clip_norm=0.05)),
    "a larger batch": lambda: job(gb.SGD(0.01, momentum=0.9), batch_size=2),
    "a plain step": lambda: job(gb.SGD(0.01)),
    "kept back": lambda: job(gb.SGD(0.01, momentum=0.9), [9, 300, 3]),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_one_pass(name):
    """It is done as before: with batches of 2, the last one has one sample."""
    assert not check(CANNOT[name])


def test_frozen_weights_cannot_be_one_pass():
    _, able = job(gb.SGD(0.01, momentum=0.9))
    assert plans.steps_outer(able, masked=False)
    assert not plans.steps_outer(able, masked=True)


def test_numbers_are_not_part_of_the_text():
    texts = {
        outer_step.write_outer_step(np.dtype("float64"), gb.Adam(rate, beta1=rate, l2=rate))[0]
        for rate in (0.1, 0.2)
    }
    assert len(texts) == 1


def test_formulas_are_printed_once_for_equal_ones():
    """One of a user's own makes its formulas anew at each look, and need not be hashable."""
    model = job(gb.SGD(0.1))[1].model
    one, two = (formulas.write_formulas(model, Clashing(0.1)) for _ in range(2))
    assert one is two

    class Listed(Clashing):
        __hash__ = None

    assert formulas.write_formulas(model, Listed(0.1)) is one
    for other in (Clashing(0.1, l2=0.1), Clashing(0.1, weight_decay=0.1), gb.Adam()):
        assert formulas.write_formulas(model, other) != one
    values = [formulas.write_formulas(model, gb.Adam(beta1=b)).constants for b in (0.5, 0.25)]
    assert values[0] != values[1]
