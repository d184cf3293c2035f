"""`fit` against an independent implementation, and what surrounds the arithmetic of an epoch."""

import copy
import gc
import math
import multiprocessing
import threading
import warnings

import numpy as np
import pytest
import reference
from numpy.testing import assert_array_equal
from reference import compare, near

import gpubackprop as gb
from gpubackprop import backprop, buffers, pace, training
from gpubackprop.schedules import Constant

RNG = np.random.default_rng(7)
N = 37
X = RNG.normal(size=(N, 3)).astype("float32")
LABELS = RNG.integers(3, size=N)
Y = np.eye(3)[LABELS]
W = RNG.uniform(0.1, 3, size=N)


def make(backend="numpy", dtype="float64", **options):
    options = {"hidden": "tanh", "rng": 11, **options}
    return gb.Network([3, 4, 3], **options, backend=backend, dtype=dtype)


def numbers(net):
    """Return all parameters as one NumPy array."""
    return net.backend.to_numpy(net._parameters.flat).copy()


# ---- the arithmetic ------------------------------------------------------------------------------

#: Reference's rule, library's optimiser, learning rate, and what both are told besides.
RULES = {
    "sgd": (reference.sgd, gb.SGD(0.5), 0.5, {}),
    "momentum": (reference.momentum(0.9), gb.SGD(0.05, momentum=0.9), 0.05, {}),
    "nesterov": (
        reference.momentum(0.9, nesterov=True),
        gb.SGD(0.05, momentum=0.9, nesterov=True),
        0.05,
        {},
    ),
    "rmsprop": (reference.rmsprop(0.9, 1e-3), gb.RMSprop(0.01, epsilon=1e-3), 0.01, {}),
    "adam": (reference.adam(0.9, 0.999, 1e-3), gb.Adam(0.02, epsilon=1e-3), 0.02, {}),
    "adam, other epsilon": (
        reference.adam(0.9, 0.99, 1e-3, corrected=False),
        gb.Adam(0.02, beta2=0.99, epsilon=1e-3, epsilon_at="uncorrected"),
        0.02,
        {},
    ),
    "adamw": (
        reference.adam(0.9, 0.999, 1e-3),
        gb.AdamW(0.02, epsilon=1e-3, weight_decay=0.3),
        0.02,
        {"weight_decay": 0.3},
    ),
    "l1": (reference.sgd, gb.SGD(0.1, l1=0.03), 0.1, {"l1": 0.03}),
    "l2": (reference.momentum(0.5), gb.SGD(0.1, momentum=0.5, l2=0.2), 0.1, {"l2": 0.2}),
    "decay": (reference.sgd, gb.SGD(0.1, weight_decay=0.4), 0.1, {"weight_decay": 0.4}),
    "clipping": (reference.sgd, gb.SGD(0.5, clip_norm=0.2), 0.5, {"clip_norm": 0.2}),
    "all at once": (
        reference.momentum(0.9),
        gb.SGD(0.1, momentum=0.9, l1=0.01, l2=0.1, weight_decay=0.2, clip_norm=0.3),
        0.1,
        {"l1": 0.01, "l2": 0.1, "weight_decay": 0.2, "clip_norm": 0.3},
    ),
    "a function of the epoch": (
        reference.sgd,
        gb.SGD(lambda epoch: 0.5 / (1 + epoch)),
        lambda epoch: 0.5 / (1 + epoch),
        {},
    ),
}  # fmt: skip
#: Some twenty updates, each with its roundings.
FACTOR = 20


def train_both(
    net, rule, dtype, *, targets=Y, w=None, trainable=None, batch_size=5, epochs=2, **fit
):
    """Train a network and the reference, and compare parameters, losses and what they predict."""
    rule, optimizer, rate, options = RULES[rule] if isinstance(rule, str) else rule
    expected, rng = reference.Net(net), copy.deepcopy(net.rng)
    size = N if batch_size == "full" else batch_size
    losses = expected.fit(
        X, Y, size, epochs, rule, rate, rng=rng, w=w, trainable=trainable, **options
    )  # fmt: skip
    history = net.fit(
        X, targets, batch_size=batch_size, epochs=epochs, optimizer=optimizer,
        sample_weight=w, trainable=trainable, **fit,
    )  # fmt: skip
    compare(net, expected, dtype, FACTOR)
    near(history.loss, losses, dtype, FACTOR)
    near(net.loss(X, Y, sample_weight=w), expected.loss(X, Y, w), dtype, FACTOR)
    return history


@pytest.mark.parametrize("batch_size", [1, 5, 32, 37, "full"])
def test_three_modes(batch_size, backend, dtype):
    history = train_both(make(backend, dtype), "sgd", dtype, batch_size=batch_size)
    assert history.samples == [N, 2 * N]


@pytest.mark.parametrize("rule", RULES)
def test_every_optimizer_and_penalty(rule, backend, dtype):
    train_both(make(backend, dtype), rule, dtype)


def test_rprop(backend, dtype):
    rule = (reference.rprop(0.05), gb.Rprop(0.05), 0.05, {})
    train_both(make(backend, dtype), rule, dtype, batch_size="full", epochs=8)


@pytest.mark.parametrize("batch_size", [1, 5, "full"])
def test_sample_weights(batch_size, backend, dtype):
    train_both(make(backend, dtype), "momentum", dtype, w=W, batch_size=batch_size)


@pytest.mark.parametrize("rule", ["sgd", "all at once", "adamw"])
def test_frozen_entries(rule, backend, dtype):
    net = make(backend, dtype)
    rng = np.random.default_rng(3)
    trainable = tuple(
        [rng.uniform(size=tuple(a.shape)) < 0.6 for a in arrays]
        for arrays in (net.weights, net.biases)
    )
    before = [net.backend.to_numpy(a).copy() for a in net._parameters.arrays()]
    train_both(net, rule, dtype, trainable=trainable)
    masks = [*trainable[0], *trainable[1]]
    for old, array, mask in zip(before, net._parameters.arrays(), masks, strict=True):
        new = net.backend.to_numpy(array)
        assert_array_equal(new[~mask], old[~mask])
        assert (new != old)[mask].all()


def test_a_frozen_layer(backend):
    net = make(backend)
    before = [net.backend.to_numpy(a).copy() for a in net._parameters.arrays()]
    net.fit(X, Y, epochs=1, trainable=([False, None], None))
    changed = [
        (net.backend.to_numpy(new) != old).any()
        for old, new in zip(before, net._parameters.arrays(), strict=True)
    ]
    assert changed == [False, True, True, True]


@pytest.mark.parametrize("batch_size", [1, 5, "full"])
def test_dropout(batch_size, backend, dtype):
    train_both(make(backend, dtype, dropout=0.4), "sgd", dtype, batch_size=batch_size)


def test_dropout_goes_on_with_its_masks_in_a_second_fit():
    net = make(dropout=0.4)
    train_both(net, "sgd", np.dtype("float64"))
    assert net._steps == 16
    train_both(net, "sgd", np.dtype("float64"))


@pytest.mark.parametrize("bias", [False, [True, False]])
def test_without_biases(bias, backend, dtype):
    train_both(make(backend, dtype, bias=bias), "sgd", dtype)


@pytest.mark.parametrize("targets", [LABELS, LABELS.astype("f8"), LABELS.tolist()])
def test_labels(targets, backend, dtype):
    train_both(make(backend, dtype), "sgd", dtype, targets=targets)


def test_more_layers_and_other_activations(backend, dtype):
    net = gb.Network([3, 5, 4, 3], ["relu", "silu"], backend=backend, dtype=dtype, rng=2)
    train_both(net, "adam", dtype, w=W)


@pytest.mark.parametrize("shuffle", [True, "full", "blocks", False])
def test_orders_of_rows(shuffle):
    """Fewer rows than a block are shuffled by "blocks" too, in an order of its own."""
    seen = []

    def make_order(n, how, rng, out, shuffling):
        seen.append(how)
        return original(n, how, rng, out, shuffling)

    original = training.row_order
    net = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "row_order", make_order)
        net.fit(X, Y, shuffle=shuffle, epochs=2)
    assert seen == ([] if shuffle is False else ["full" if shuffle is True else shuffle] * 2)


def test_no_shuffling_takes_the_rows_as_they_come(backend):
    net = make(backend)
    expected = reference.Net(net)
    expected.fit(X, Y, 5, 2, reference.sgd, 0.5)
    net.fit(X, Y, batch_size=5, epochs=2, optimizer=gb.SGD(0.5), shuffle=False)
    compare(net, expected, "float64", FACTOR)


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, "full"])
def test_same_seed_same_bits(batch_size, backend):
    found = []
    for _ in range(2):
        net = make(backend, "float32", dropout=0.2)
        history = net.fit(X, LABELS, batch_size=batch_size, epochs=2, optimizer=gb.Adam(0.01))
        found.append((numbers(net).tobytes(), history.loss))
    assert found[0] == found[1]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_where_an_epoch_is_cut_changes_no_bit(batch_size, backend, monkeypatch):
    rng = np.random.default_rng(0)
    n = 300 if backend.host else 41
    X, Y = rng.normal(size=(n, 3)), rng.integers(3, size=n)
    found, slices = set(), []
    for seconds, per_block in ((0.0, 1), (0.0, 4), (1e9, 1), (1e9, 16)):
        monkeypatch.setattr(pace, "_SLICE_SECONDS", seconds)
        for module in (training, training.executors.eager):
            monkeypatch.setattr(module, "batches_per_block", lambda *_, k=per_block: k)
        net, counter = make(backend, "float32", dropout=0.2), Recorder()
        net.fit(X, Y, batch_size=batch_size, epochs=2, optimizer=gb.Adam(0.01), callbacks=[counter])
        slices.append(counter.events.count("on_slice"))
        found.add(numbers(net).tobytes())
    assert len(set(slices)) > 2
    assert len(found) == 1


def test_orders_and_weights_are_those_of_every_backend(backend):
    net, other = make(backend, dropout=0.3), make("numpy", dropout=0.3)
    assert_array_equal(numbers(net), numbers(other))
    assert net._dropout_seed == other._dropout_seed
    net.fit(X, Y, epochs=2)
    other.fit(X, Y, epochs=2)
    assert net.rng.bit_generator.state == other.rng.bit_generator.state
    near(numbers(net), numbers(other), "float64", FACTOR)


def test_two_fits_go_on_with_the_generator():
    """As one fit would, where the optimiser remembers nothing."""
    once, twice = make(dropout=0.3), make(dropout=0.3)
    once.fit(X, Y, epochs=4)
    losses = twice.fit(X, Y, epochs=2).loss + twice.fit(X, Y, epochs=2).loss
    assert_array_equal(numbers(once), numbers(twice))
    assert losses == once.history.loss
    assert once._steps == twice._steps


def test_a_second_fit_has_fresh_slots():
    net = make()
    net.fit(X, Y, epochs=1, optimizer=gb.SGD(0.1, momentum=0.9))
    train_both(net, "momentum", np.dtype("float64"))


# ---- history and callbacks -----------------------------------------------------------------------


class Recorder:
    """Notes which events came, and stops where it is told to."""

    def __init__(self, stop_at=None):
        self.events, self.stop_at, self.rows = [], stop_at, []

    def _note(self, name, run):
        self.events.append(name)
        if self.stop_at == (name, run.epoch):
            run.stop()

    def on_fit_begin(self, run):
        self._note("on_fit_begin", run)

    def on_slice(self, run):
        self.rows.append((run.epoch, run.rows_done))
        self._note("on_slice", run)

    def on_epoch_end(self, run):
        self._note("on_epoch_end", run)

    def on_fit_end(self, run):
        self._note("on_fit_end", run)


def test_history(backend):
    net = make(backend)
    history = net.fit(X, Y, epochs=3, validation=(X[:10], Y[:10]), optimizer=gb.SGD(0.25))
    assert history is net.history
    assert history.epoch == [0, 1, 2]
    assert len(history.loss) == len(history.validation_loss) == 3
    assert all(math.isfinite(loss) and isinstance(loss, float) for loss in history.loss)
    assert history.validation_loss[-1] == net.loss(X[:10], Y[:10])
    assert history.learning_rate == [0.25] * 3
    assert history.seconds == sorted(history.seconds)
    assert history.seconds[0] > 0
    assert history.samples == [N, 2 * N, 3 * N]
    assert (history.backend, history.executor) == (backend.name, "eager")
    assert history.threads >= 1
    assert (history.best_epoch, history.stopped) == (None, None)
    text = repr(history)
    assert "3 epochs" in text
    assert "validation_loss" in text
    assert backend.name in text


def test_validation_with_weights():
    net, w = make(), W[:10]
    history = net.fit(X, Y, epochs=1, validation=(X[:10], LABELS[:10], w))
    assert history.validation_loss == [net.loss(X[:10], Y[:10], sample_weight=w)]
    near(history.validation_loss[0], reference.Net(net).loss(X[:10], Y[:10], w), "float64")


def test_history_of_nothing():
    class StopAtOnce:
        def on_slice(self, run):
            raise KeyboardInterrupt

    net = make()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, callbacks=[StopAtOnce()])
    assert repr(net.history) == "<History of 0 epochs on numpy/eager>"


def test_callbacks_come_in_order():
    first, second, order = Recorder(), Recorder(), []
    first.on_epoch_end = lambda run: order.append("first")
    second.on_epoch_end = lambda run: order.append("second")
    full = Recorder()
    make().fit(X, Y, epochs=2, batch_size="full", callbacks=[first, full, second])
    epoch = ["on_slice", "on_epoch_end"]
    assert full.events == ["on_fit_begin", *epoch, *epoch, "on_fit_end"]
    assert order == ["first", "second"] * 2


def test_a_callback_may_have_some_of_the_methods():
    class Losses:
        def __init__(self):
            self.seen = []

        def on_epoch_end(self, run):
            self.seen.append((run.epoch, run.epochs, run.n_samples, run.history.loss[-1]))

    class Nothing:
        on_slice = None

    callback, net = Losses(), make()
    history = net.fit(X, Y, epochs=2, callbacks=(c for c in [callback, Nothing()]))
    assert callback.seen == [(0, 2, N, history.loss[0]), (1, 2, N, history.loss[1])]


def test_what_a_run_shows():
    seen = {}

    class Look:
        def on_slice(self, run):
            seen.update(
                batch_size=run.batch_size,
                rows=run.rows_done,
                weights=run.weights[0],
                b=run.biases[1],
            )

    net = make()
    net.fit(X, Y, epochs=1, batch_size=37, callbacks=[Look()])
    assert (seen["batch_size"], seen["rows"]) == (37, 37)
    assert seen["weights"].base is net.weights[0].base
    assert_array_equal(seen["b"], net.biases[1])


@pytest.mark.parametrize(
    ("stop_at", "epochs", "rows"),
    [
        (("on_slice", 0), 1, [(0, 5)]),
        (("on_slice", 1), 2, [(0, 5), (1, 5)]),
        (("on_epoch_end", 0), 1, None),
        (("on_epoch_end", 2), 3, None),
    ],
)
def test_stop(stop_at, epochs, rows, monkeypatch):
    monkeypatch.setattr(training, "batches_per_block", lambda *_: 1)
    monkeypatch.setattr(pace, "_SLICE_SECONDS", 0.0)
    recorder, net = Recorder(stop_at), make()
    history = net.fit(X, Y, epochs=5, batch_size=5, callbacks=[recorder])
    assert len(history.epoch) == epochs
    assert history.stopped == "callback"
    assert recorder.events[-1] == "on_fit_end"
    if rows:
        assert recorder.rows[0] == rows[0]
        assert recorder.rows[-1] == rows[-1]
        assert history.samples[-1] == N * (epochs - 1) + 5
        expected = reference.Net(make())
        order = np.arange(N, dtype=np.int32)
        copy.deepcopy(make().rng).shuffle(order)
        total = expected.batch(X[order[:5]], Y[order[:5]])[0]
        if epochs == 1:
            near(history.loss[0], total / 5, "float64")


def test_stop_before_the_first_slice():
    net = make()
    before = numbers(net)
    history = net.fit(X, Y, epochs=5, callbacks=[Recorder(("on_fit_begin", 0))])
    assert (history.epoch, history.stopped) == ([], "callback")
    assert_array_equal(numbers(net), before)


@pytest.mark.parametrize("event", ["on_slice", "on_epoch_end"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_a_usable_network(event, error):
    ended = []

    class Interrupt:
        def on_fit_end(self, run):
            ended.append(run.history.stopped)

    def interrupt(run):
        if run.epoch == 2:
            raise error

    callback = Interrupt()
    setattr(callback, event, interrupt)
    net, same = make(dropout=0.2), make(dropout=0.2)
    with pytest.raises(error):
        net.fit(X, Y, epochs=5, batch_size=37, callbacks=[callback])
    done = 2 if event == "on_slice" else 3
    assert net.history.epoch == list(range(done))
    assert len(net.history.loss) == done
    expected = "interrupted" if error is KeyboardInterrupt else None
    assert ended == [expected]
    assert net.history.stopped == expected
    assert net._steps == 3
    same.fit(X, Y, epochs=3, batch_size=37)
    assert_array_equal(numbers(net), numbers(same))
    assert net.fit(X, Y, epochs=1).epoch == [0]


# ---- early stopping ------------------------------------------------------------------------------


class Losses:
    """Moves the first weight before each validation, so that the losses are those wanted."""

    def __init__(self, losses):
        self.losses = losses

    def on_slice(self, run):
        run.weights[0][...] = math.sqrt(2 * self.losses[run.epoch])


def stopped(losses, rule, **options):
    """Train a network whose validation loss takes given values; x = 1, y = 0, o = w."""
    net = gb.Network([1, 1], output="identity", bias=False, backend="numpy", dtype="float64", rng=0)
    history = net.fit(
        [[1.0]], [0.0], epochs=len(losses), validation=([[1.0]], [0.0]), early_stopping=rule,
        callbacks=[Losses(losses)], **options,
    )  # fmt: skip
    return history, net.weights[0][0, 0] ** 2 / 2


@pytest.mark.parametrize(
    ("losses", "rule", "n_epochs", "best", "stopped_by"),
    [
        ([5, 4, 3, 2, 1], 1, 5, 4, None),
        ([5, 4, 4.5, 3, 1], 1, 3, 1, "early_stopping"),
        ([5, 4, 4.5, 3, 1], 2, 5, 4, None),
        ([5, 4, 4, 4, 1], 2, 4, 1, "early_stopping"),
        ([5, 4.9, 4.8, 4.7, 1], gb.EarlyStopping(2, min_delta=0.5), 3, 0, "early_stopping"),
        ([5, 4.4, 4.3, 3.9, 3.8], gb.EarlyStopping(3, min_delta=0.5), 5, 3, None),
        ([5, 6, 7], True, 3, 0, None),
        ([5] * 14, True, 11, 0, "early_stopping"),
    ],
)
def test_early_stopping(losses, rule, n_epochs, best, stopped_by):
    history, loss = stopped(losses, rule)
    assert history.epoch == list(range(n_epochs))
    near(history.validation_loss, losses[:n_epochs], "float64")
    assert history.best_epoch == best
    assert history.stopped == stopped_by
    near(loss, losses[best], "float64")


def test_early_stopping_after_a_first_loss_that_is_no_number(monkeypatch):
    losses = iter([math.nan, 3, 2, 1])
    monkeypatch.setattr(training.Evaluator, "loss", lambda *_: next(losses))
    history = make().fit(X, Y, epochs=4, validation=(X, Y), early_stopping=gb.EarlyStopping(2))
    assert (history.best_epoch, history.stopped) == (3, None)


def test_early_stopping_may_keep_the_last():
    history, loss = stopped([3, 2, 4, 5, 6], gb.EarlyStopping(2, restore_best=False))
    assert (history.best_epoch, len(history.epoch)) == (1, 4)
    near(loss, 5.0, "float64")


def test_early_stopping_without_validation_watches_the_training_loss(backend):
    net = make(backend)
    history = net.fit(
        X, Y, epochs=50, batch_size="full", optimizer=gb.SGD(0.5),
        early_stopping=gb.EarlyStopping(1, min_delta=0.05),
    )  # fmt: skip
    falls = -np.diff(history.loss)
    assert history.stopped == "early_stopping"
    assert (falls[:-1] > 0.05).all()
    assert falls[-1] <= 0.05
    # The parameters are those after the best epoch.
    again = make(backend)
    again.fit(X, Y, epochs=history.best_epoch + 1, batch_size="full", optimizer=gb.SGD(0.5))
    assert_array_equal(numbers(net), numbers(again))


def test_best_parameters_are_restored_at_an_interruption():
    class Interrupt:
        def on_epoch_end(self, run):
            if run.epoch == 2:
                raise KeyboardInterrupt

    net = gb.Network([1, 1], output="identity", bias=False, backend="numpy", rng=0)
    callbacks = [Losses([3, 2, 4]), Interrupt()]
    with pytest.raises(KeyboardInterrupt):
        net.fit(
            [[1.0]], [0.0], validation=([[1.0]], [0.0]), early_stopping=5, callbacks=callbacks
        )  # fmt: skip
    assert net.weights[0][0, 0] == np.float32(2.0)


# ---- learning rates ------------------------------------------------------------------------------


class Rates(gb.Schedule):
    """Notes when it is asked; a new rate for each update."""

    per_update = True
    asked: list = []  # noqa: RUF012 - of all instances

    def rate(self, epoch, state):
        self.asked.append(epoch)
        return 0.5 / (1 + epoch)


def test_rates_of_every_update(backend):
    Rates.asked.clear()
    net, expected = make(backend), reference.Net(make(backend))
    history = net.fit(X, Y, batch_size=10, epochs=2, optimizer=gb.SGD(Rates()), shuffle=False)
    asked = sorted(set(Rates.asked))
    assert asked == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert history.learning_rate == [0.5 / 1.75, 0.5 / 2.75]
    for update, epoch in enumerate(asked):
        start = update % 4 * 10
        rows = slice(start, start + 10)
        _, gradient = expected.batch(X[rows], Y[rows])
        expected.update(gradient, reference.sgd, 0.5 / (1 + epoch))
    compare(net, expected, "float64", FACTOR)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (gb.Step(1.0, every=2, factor=0.5), [1, 1, 0.5, 0.5]),
        (gb.Exponential(1.0, 0.5), [1, 0.5, 0.25, 0.125]),
        (gb.InverseScaling(1.0, 1.0), [1, 1 / 2, 1 / 3, 1 / 4]),
        (lambda epoch: 0.1 * (epoch + 1), [0.1, 0.2, 0.1 * 3, 0.4]),
        (Constant(0.3), [0.3] * 4),
        # One update an epoch, at its beginning.
        (gb.Cosine(1.0, 4), [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]),
    ],
)
def test_schedules_in_a_fit(schedule, rates):
    history = make().fit(X, Y, batch_size="full", epochs=4, optimizer=gb.SGD(schedule))
    near(history.learning_rate, rates, "float64")


def test_rate_falls_on_a_plateau_of_the_validation_loss():
    history, _ = stopped(
        [5, 4, 4, 4, 3, 3, 3, 3], None, optimizer=gb.SGD(gb.OnPlateau(0.1, factor=0.5, patience=1))
    )
    assert history.learning_rate == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]


def test_a_bad_rate_of_a_function_names_the_epoch():
    net = make()
    with pytest.raises(ValueError, match="epoch 1 must be finite and >= 0, got nan"):
        net.fit(X, Y, epochs=3, optimizer=gb.SGD(lambda epoch: 0.1 if epoch == 0 else math.nan))
    assert net.history.epoch == [0]


# ---- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, "full"])
def test_divergence(batch_size, backend):
    net = gb.Network([3, 4, 3], "identity", "identity", backend=backend, dtype="float32", rng=0)
    good = net.copy()
    net.fit(X, Y, epochs=1, optimizer=gb.SGD(0.001), batch_size=batch_size)
    good.fit(X, Y, epochs=1, optimizer=gb.SGD(0.001), batch_size=batch_size)
    with pytest.raises(gb.DivergenceError, match="smaller learning_rate") as caught:
        net.fit(X * 100, Y, epochs=40, optimizer=gb.SGD(1e4), batch_size=batch_size)
    error = caught.value
    assert error.learning_rate == 1e4
    assert error.epoch == len(net.history.epoch)
    assert error.batch is None or 0 <= error.batch < N
    assert np.isfinite(numbers(net)).all()
    if error.epoch == 0:
        assert_array_equal(numbers(net), numbers(good))
        assert math.isfinite(net.fit(X, Y, epochs=1, optimizer=gb.SGD(0.001)).loss[0])


def test_divergence_names_the_first_bad_batch(backend):
    x = np.ones((8, 1))
    x[5] = 1e30  # its square is beyond float32, but each number is fine
    net = gb.Network([1, 1], output="identity", backend=backend, dtype="float32", rng=0)
    before = numbers(net)
    with pytest.raises(gb.DivergenceError, match="batch 2 of epoch 0 is NaN or infinite") as caught:
        net.fit(x, np.zeros(8), batch_size=2, shuffle=False, epochs=3, optimizer=gb.SGD(0.01))
    assert (caught.value.epoch, caught.value.batch, caught.value.learning_rate) == (0, 2, 0.01)
    assert_array_equal(numbers(net), before)
    assert net.history.epoch == []


def test_parameters_that_are_not_finite_are_noticed_at_the_end_of_the_epoch(backend):
    """The only update of an epoch overflows: every loss was finite."""
    net = gb.Network([1, 1], output="identity", backend=backend, dtype="float32", rng=0)
    before = numbers(net)
    with pytest.raises(gb.DivergenceError, match="a weight or a bias of epoch 0") as caught:
        net.fit([[1e15]], [0.0], epochs=3, optimizer=gb.SGD(1e30))
    assert caught.value.batch is None
    assert_array_equal(numbers(net), before)


def test_a_planted_nan_is_noticed_in_the_first_batch(backend):
    for output in ("identity", "sigmoid", "softmax"):
        net = gb.Network([3, 4, 3], "relu", output, backend=backend, dtype="float32", rng=0)
        values = net.backend.to_numpy(net.weights[0]).copy()
        values[1, 1] = math.nan
        net.backend.upload(values, net.weights[0])
        with pytest.raises(gb.DivergenceError) as caught:
            net.fit(X, Y, batch_size=10, epochs=2)
        assert (caught.value.epoch, caught.value.batch) == (0, 0)


def test_divergence_does_not_restore_the_best_of_early_stopping():
    class Poison:
        def on_slice(self, run):
            if run.epoch == 2:
                run.weights[0][0, 0] = math.nan

    net = make()
    with pytest.raises(gb.DivergenceError) as caught:
        net.fit(X, Y, epochs=5, batch_size=37, early_stopping=2, callbacks=[Poison()])
    assert (caught.value.epoch, caught.value.batch) == (2, None)
    assert net.history.epoch == [0, 1]
    same = make()
    same.fit(X, Y, epochs=2, batch_size=37)
    assert_array_equal(numbers(net), numbers(same))


def test_a_divergence_error_pickles():
    import pickle

    error = pickle.loads(pickle.dumps(gb.DivergenceError(3, None, 0.5)))
    assert (error.epoch, error.batch, error.learning_rate) == (3, None, 0.5)


# ---- sources -------------------------------------------------------------------------------------


def parts(size):
    return [(X[i : i + size], LABELS[i : i + size]) for i in range(0, N, size)]


def test_batches_are_one_update_each(backend):
    net = make(backend)
    expected = reference.Net(net)
    losses = expected.fit(X, Y, 10, 2, reference.momentum(0.9), 0.1)
    history = net.fit(
        gb.Batches(lambda: iter(parts(10))), epochs=2, optimizer=gb.SGD(0.1, momentum=0.9)
    )
    compare(net, expected, "float64", FACTOR)
    near(history.loss, losses, "float64", FACTOR)
    assert history.samples == [N, 2 * N]
    assert net._steps == 8


def test_batches_with_weights():
    net = make()
    expected = reference.Net(net)
    w = np.array([0.5, 2.0, 1.0])
    _, gradient = expected.batch(X[:3], Y[:3], w)
    expected.update(gradient, reference.sgd, 0.1)
    net.fit(gb.Batches(lambda: [(X[:3], Y[:3], w)]), epochs=1, optimizer=gb.SGD(0.1))
    compare(net, expected, "float64")


def test_batches_of_any_size_and_a_batch_that_is_larger_than_a_slice(monkeypatch):
    monkeypatch.setattr(backprop, "SLICE", 8)
    net = make()
    expected = reference.Net(net)
    sizes = [3, 20, 1, 13]
    ends = np.cumsum(sizes)
    pieces = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    for rows in pieces:
        expected.update(expected.batch(X[rows], Y[rows])[1], reference.sgd, 0.1)
    net.fit(
        gb.Batches(lambda: ((X[rows], Y[rows]) for rows in pieces)), epochs=1, optimizer=gb.SGD(0.1)
    )
    compare(net, expected, "float64", FACTOR)


def test_a_bad_batch_is_named():
    bad = X[10:20].copy()
    bad[4, 1] = math.nan
    items = [*parts(10)[:1], (bad, LABELS[10:20])]
    net = make()
    with pytest.raises(ValueError, match="batch 1: X must be finite, got nan at row 4, column 1"):
        net.fit(gb.Batches(lambda: items))
    assert np.isfinite(numbers(net)).all()


def test_a_source_that_runs_dry():
    generator = iter(parts(10))
    with pytest.raises(ValueError, match="fresh iterator"):
        make().fit(gb.Batches(lambda: generator), epochs=2)


def test_per_update_schedules_with_batches_are_asked_once_an_epoch():
    Rates.asked.clear()
    history = make().fit(gb.Batches(lambda: parts(10)), epochs=2, optimizer=gb.SGD(Rates()))
    assert history.learning_rate == [0.5, 0.25]


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
def test_a_memory_map(shuffle, tmp_path, backend):
    rng = np.random.default_rng(0)
    n = 2500 if backend.host else 100
    inputs, labels = rng.normal(size=(n, 3)).astype("float32"), rng.integers(3, size=n)
    np.save(tmp_path / "X.npy", inputs)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    found = []
    for data in (inputs, mapped):
        net = make(backend, "float32")
        net.fit(data, labels, batch_size=100, epochs=2, shuffle=shuffle)
        found.append((numbers(net).tobytes(), net.loss(data, labels)))
    assert found[0] == found[1]


def test_a_map_larger_than_the_buffers_is_never_in_memory_whole(tmp_path):
    import tracemalloc

    n, columns = 60_000, 40
    mapped = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "float32", (n, columns))
    mapped[:] = np.random.default_rng(0).normal(size=(1, columns))
    labels = np.arange(n) % 2
    net = gb.Network([columns, 2], backend="numpy", rng=0)
    tracemalloc.start()
    try:
        net.fit(mapped, labels, batch_size=256, epochs=1)
        net.loss(mapped, labels)
        net.fit(mapped, labels, batch_size="full", epochs=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A slice of 8,192 rows, and the order of the rows: far from the 9.6 MB of X.
    assert peak < 0.4 * mapped.nbytes


def test_a_bad_value_in_a_map_is_named_when_it_is_read(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "float32", (N, 3))
    mapped[:] = X
    mapped[30, 2] = math.inf
    net = make()
    with pytest.raises(ValueError, match="got inf at row 30, column 2"):
        net.fit(mapped, LABELS, batch_size=5)
    assert np.isfinite(numbers(net)).all()


def test_data_that_do_not_fit_the_device(cupy_backend, monkeypatch):
    found = []
    for free in (1 << 30, 100):
        monkeypatch.setattr(cupy_backend, "free_bytes", lambda free=free: free)
        net = make(cupy_backend, "float32")
        net.fit(X, LABELS, batch_size=5, epochs=2, sample_weight=W)
        found.append(numbers(net).tobytes())
    assert found[0] == found[1]


def test_data_on_the_device(cupy_backend):
    import cupy

    found = []
    for put in (np.asarray, cupy.asarray):
        net = make(cupy_backend, "float32")
        net.fit(put(X), put(LABELS), batch_size=5, epochs=2)
        assert net.loss(put(X), put(Y)) == net.loss(X, Y)
        found.append(numbers(net).tobytes())
    assert found[0] == found[1]


# ---- threads and processes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_several_networks_train_in_several_threads(name, request):
    if name == "cupy":
        request.getfixturevalue("cupy_backend")
    epochs = 30 if name == "numpy" else 3

    def train(seed, found):
        net = make(name, "float32", rng=seed, dropout=0.2)
        net.fit(X, LABELS, batch_size=5, epochs=epochs, optimizer=gb.Adam(0.01), progress=False)
        found[seed] = numbers(net).tobytes()

    alone, together = {}, {}
    for seed in range(4):
        train(seed, alone)
    workers = [threading.Thread(target=train, args=(seed, together)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert together == alone


def test_one_network_predicts_from_several_threads(backend):
    net = make(backend, "float32")
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(n, 3)) for n in (1, 20, 300, 7)]
    alone = [backend.to_numpy(net.predict(x)) for x in inputs]
    failures = []

    def predict(i):
        for _ in range(20 if backend.host else 3):
            if not np.array_equal(backend.to_numpy(net.predict(inputs[i])), alone[i]):
                failures.append(i)

    workers = [threading.Thread(target=predict, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


def _train_in_a_child(queue):
    net = make("numpy", "float32")
    net.fit(X, LABELS, epochs=3, batch_size=5, progress=False)
    queue.put(numbers(net).tobytes())


def test_training_after_a_fork():
    net = make("numpy", "float32")
    net.fit(X, LABELS, epochs=3, batch_size=5)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork of a process that has threads, which BLAS has.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=_train_in_a_child, args=(queue,))
        child.start()
    found = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert found == numbers(net).tobytes()


def test_threads_are_limited_meanwhile():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    seen = []

    class Look:
        def on_slice(self, run):
            seen.extend(
                pool["num_threads"]
                for pool in threadpoolctl.threadpool_info()
                if pool["user_api"] == "blas"
            )

    history = make().fit(X, Y, epochs=1, threads=1, callbacks=[Look()])
    assert history.threads == 1
    assert seen
    assert set(seen) == {1}


@pytest.mark.parametrize("executor", ["eager", "compiled"])
def test_a_run_s_memory_is_free_at_its_end(executor):
    if executor == "compiled":
        pytest.importorskip("numba")

    def of_runs():
        kinds = training.Trainer, backprop.State, buffers.Workspace
        return [one for one in gc.get_objects() if type(one) in kinds]

    net, schedule = make(), gb.Cosine(0.1, 2)
    gc.collect()
    others = of_runs()  # of other tests
    gc.disable()  # so that what stands in a circle is still there
    try:
        net.fit(
            X, Y, epochs=2, batch_size=8, optimizer=gb.SGD(schedule), validation=(X, Y),
            early_stopping=1, executor=executor, progress=False,
        )  # fmt: skip
        left = [type(one).__name__ for one in of_runs() if all(one is not two for two in others)]
    finally:
        gc.enable()
    assert left == []
