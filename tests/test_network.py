"""The face: what it returns, what it keeps, and how it is copied and sent about."""

import copy
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import reference
from conftest import NO_CUPY, require
from numpy.testing import assert_array_equal
from reference import near

import gpubackprop as gb
from gpubackprop import backends

RNG = np.random.default_rng(5)
N = 12
X = RNG.normal(size=(N, 3))
LABELS = RNG.integers(3, size=N)
Y = np.eye(3)[LABELS]


def make(backend="numpy", dtype="float64", **options):
    options = {"hidden": "tanh", "rng": 11, **options}
    return gb.Network([3, 4, 3], **options, backend=backend, dtype=dtype)


def numbers(net):
    """Return all parameters as one NumPy array."""
    return net.backend.to_numpy(net._parameters.flat).copy()


# ---- construction --------------------------------------------------------------------------------


def test_what_a_network_starts_with(backend, dtype):
    net = gb.Network([3, 5, 4, 2], bias=[True, False, True], backend=backend, dtype=dtype, rng=0)
    assert [W.shape for W in net.weights] == [(5, 3), (4, 5), (2, 4)]
    assert [None if b is None else b.shape for b in net.biases] == [(5,), None, (2,)]
    assert all(W.dtype == dtype for W in net.weights)
    assert not any(net.backend.to_numpy(b).any() for b in net.biases if b is not None)
    assert all(net.backend.to_numpy(W).all() for W in net.weights)
    assert net.n_parameters == 15 + 5 + 20 + 8 + 2
    assert net.history is None
    assert repr(net) == (
        "<Network 3-5-4-2: sigmoid, softmax; cross_entropy; 50 parameters, "
        f"{dtype} on {backend.name}>"
    )


def test_same_seed_same_weights_on_every_backend(backend, dtype):
    ours = [backend.to_numpy(W) for W in make(backend, dtype).weights]
    for W, expected in zip(ours, make("numpy", "float64").weights, strict=True):
        assert_array_equal(W, expected.astype(dtype))
    other = make(backend, dtype, rng=12).weights[0]
    assert (backend.to_numpy(other) != ours[0]).all()


def test_a_generator_is_used_and_moved_on():
    rng = np.random.default_rng(11)
    first, second = make(rng=rng), make(rng=rng)
    assert_array_equal(numbers(first), numbers(make(rng=11)))
    assert (first.weights[0] != second.weights[0]).all()
    assert first.rng is rng


def test_without_a_seed_networks_differ():
    assert (make(rng=None).weights[0] != make(rng=None).weights[0]).all()


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("softmax", "cross_entropy"),
        ("sigmoid", "log_loss"),
        ("identity", "squared"),
        ("exp", "squared"),
    ],
)
def test_the_loss_follows_the_output(output, loss):
    assert make(output=output).model.loss.name == loss


def test_explicit_weights_are_copied():
    first, second = np.arange(12.0).reshape(4, 3), np.arange(12.0).reshape(3, 4)
    net = make(init=[first, second])
    assert_array_equal(net.weights[0], first)
    assert_array_equal(net.weights[1], second)
    net.weights[0][...] = 0
    assert first.any()


# ---- views ---------------------------------------------------------------------------------------


def test_weights_are_views(backend):
    net = make(backend)
    W, b = np.full((4, 3), 0.5), np.arange(3.0)
    net.weights[0][...] = backend.asarray(W)
    net.biases[1][...] = backend.asarray(b)
    expected = reference.Net(net)
    assert_array_equal(expected.layers[0][0], W)
    assert_array_equal(expected.layers[1][1], b)
    near(backend.to_numpy(net.predict(X)), expected.outputs(X), "float64")
    net.weights.clear()
    assert len(net.weights) == 2


def test_weights_are_assigned_from_arrays_of_any_kind(backend, dtype):
    net = make(backend, dtype)
    W = [np.arange(12).reshape(4, 3), np.ones((3, 4)).tolist()]
    b = [backend.asarray(np.full(4, 0.5)), np.asfortranarray([1, 2, 3])]
    flat = net._parameters.flat
    net.weights, net.biases = W, b
    assert net._parameters.flat is flat
    assert_array_equal(backend.to_numpy(net.weights[0]), W[0])
    assert_array_equal(backend.to_numpy(net.weights[1]), 1)
    assert_array_equal(backend.to_numpy(net.biases[0]), 0.5)
    assert_array_equal(backend.to_numpy(net.biases[1]), [1, 2, 3])
    other = make("numpy", dtype, bias=[False, True])
    other.biases = [None, np.zeros(3)]
    other.weights = (backend.to_numpy(array) for array in net.weights)
    assert_array_equal(other.weights[0], W[0])


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("weights", [np.ones((4, 3))], "weights must hold one array for each of 2 layers, got 1"),
        ("weights", [np.ones((4, 3))] * 2, "weights[1] must have shape (3, 4), got (4, 3)"),
        ("weights", [np.full((4, 3), np.nan), [[1] * 4] * 3], "weights[0] must be finite, got nan"),
        ("weights", [np.full((4, 3), 1e39), np.ones((3, 4))], "weights[0] must fit float32"),
        ("weights", [None, np.ones((3, 4))], "weights[0] must be an array"),
        ("biases", [np.ones(4), np.ones(3)], "biases[0] must be None"),
        ("biases", [None, [1, 2]], "biases[1] must have shape (3,), got (2,)"),
    ],
)  # fmt: skip
def test_bad_weights_are_refused_before_any_is_set(name, values, words):
    net = make("numpy", "float32", bias=[False, True])
    before = numbers(net)
    with pytest.raises(ValueError, match=re.escape(words)):
        setattr(net, name, values)
    assert_array_equal(numbers(net), before)


def test_outputs_live_where_the_network_lives(backend):
    net = make(backend, "float32")
    gradient = net.gradient(X, LABELS)
    arrays = [
        net.predict(X),
        net.predict_classes(X),
        *net.weights,
        gradient.flat,
        gradient.vector(),
    ]
    assert all(backend.owns(array) for array in arrays)
    assert net.predict(X).dtype == np.float32
    assert isinstance(net.loss(X, LABELS), float)
    assert isinstance(net.step(X, LABELS), float)


def test_gradient_has_the_shape_of_the_parameters(backend):
    net = make(backend, bias=[True, False])
    gradient = net.gradient(X, Y)
    assert [g.shape for g in gradient.weights] == [W.shape for W in net.weights]
    assert gradient.biases[1] is None
    parts = [gradient.weights[0], gradient.weights[1], gradient.biases[0]]
    expected = np.concatenate([backend.to_numpy(part).ravel() for part in parts])
    assert_array_equal(backend.to_numpy(gradient.vector()), expected)
    assert gradient.vector().shape == (net.n_parameters,)
    assert gradient.flat.shape == net._parameters.flat.shape
    assert "3-4-3" in repr(gradient)
    again = net.gradient(X, Y)
    again.flat[...] = 0
    assert backend.to_numpy(gradient.flat).any()


# ---- prediction ----------------------------------------------------------------------------------


def test_predict_classes(backend):
    net = make(backend)
    o = backend.to_numpy(net.predict(X))
    assert_array_equal(
        backend.to_numpy(net.predict_classes(X)), [max(range(3), key=row.__getitem__) for row in o]
    )
    one = gb.Network([3, 1], output="sigmoid", backend=backend, rng=3)
    backend.upload(np.array([[0.0, 1.0, 0.0]]), one.weights[0])
    x = [[5.0, -0.1, 0.0], [5.0, 0.0, 1.0], [5.0, 0.1, 1.0]]
    classes = backend.to_numpy(one.predict_classes(x))
    assert_array_equal(classes, [0, 1, 1])  # from 0.5 on it is class 1
    assert classes.dtype == np.int64
    several = gb.Network([3, 2], output="sigmoid", backend=backend, rng=3)
    expected = backend.to_numpy(several.predict(X)) >= 0.5
    assert_array_equal(backend.to_numpy(several.predict_classes(X)), expected.astype(int))


def test_predict_classes_needs_probabilities():
    with pytest.raises(
        ValueError, match=r"output 'softmax' or 'sigmoid', got 'identity'; use predict"
    ):
        make(output="identity").predict_classes(X)


def test_loss_is_the_mean_over_rows(backend):
    net = make(backend, dropout=0.5)
    losses = [net.loss(X[i : i + 1], LABELS[i : i + 1]) for i in range(N)]
    near(net.loss(X, LABELS), sum(losses) / N, "float64")
    w = np.arange(N, dtype=float)
    near(net.loss(X, LABELS, sample_weight=w), np.average(losses, weights=w), "float64")


def test_nothing_but_training_changes_a_network(backend):
    net = make(backend, dropout=0.5)
    before, state = numbers(net), net.rng.bit_generator.state
    net.predict(X), net.predict_classes(X), net.loss(X, Y), net.gradient(X, Y)
    net.trace(X, Y, "adam"), repr(net), net.copy(), pickle.dumps(net)
    assert_array_equal(numbers(net), before)
    assert net.rng.bit_generator.state == state
    assert net._steps == 0


# ---- single steps --------------------------------------------------------------------------------

STEPS = {
    "sgd": (reference.sgd, gb.SGD(0.5)),
    "momentum": (reference.momentum(0.9), gb.SGD(0.5, momentum=0.9)),
    "adam": (reference.adam(0.9, 0.999, 1e-3), gb.Adam(0.5, epsilon=1e-3)),
    "rprop": (reference.rprop(0.5), gb.Rprop(0.5)),
}


@pytest.mark.parametrize("rule", STEPS)
def test_steps(rule, backend, dtype):
    """Three in a row: slots, dropout masks and the count of updates go on."""
    rule, optimizer = STEPS[rule]
    net = make(backend, dtype, dropout=0.3)
    expected, w, x = reference.Net(net), np.arange(1.0, N + 1), X.astype(dtype).astype("f8")
    for _ in range(3):
        total, gradient = expected.batch(x, Y, reference.scaled(w), dropping=True)
        expected.update(gradient, rule, 0.5)
        near(net.step(x, LABELS, optimizer, sample_weight=w), total / N, dtype, 10)
    reference.compare(net, expected, dtype, 20)


def test_steps_with_frozen_entries(backend):
    net = make(backend)
    expected = reference.Net(net)
    trainable = ([X[:4] > 0, X[:3, :1] > 0], [False, True])
    spread = (
        [trainable[0][0], np.broadcast_to(trainable[0][1], (3, 4))],
        [np.zeros(4, bool), np.ones(3, bool)],
    )
    for _ in range(2):
        _, gradient = expected.batch(X, Y)
        expected.update(gradient, reference.momentum(0.9), 0.5, spread)
        net.step(X, Y, gb.SGD(0.5, momentum=0.9), trainable=trainable)
    reference.compare(net, expected, "float64", 10)


def test_another_optimizer_or_mask_begins_anew():
    momentum = gb.SGD(0.1, momentum=0.9)
    for between in (
        lambda net: net.step(X, Y, gb.SGD(0.1)),
        lambda net: net.step(X, Y, gb.SGD(0.1, momentum=0.8)),
        lambda net: net.step(X, Y, momentum, trainable=([False, True], None)),
    ):
        net = make()
        net.step(X, Y, momentum)
        between(net)
        expected = reference.Net(net)
        net.step(X, Y, momentum)
        expected.update(expected.batch(X, Y)[1], reference.momentum(0.9), 0.1)
        reference.compare(net, expected, "float64")


def test_an_equal_optimizer_goes_on():
    net, other = make(), make()
    optimizer = gb.SGD(0.1, momentum=0.9)
    for _ in range(3):
        net.step(X, Y, optimizer)
        other.step(X, Y, gb.SGD(0.1, momentum=0.9))
    assert_array_equal(numbers(net), numbers(other))


def test_a_schedule_stays_at_its_beginning():
    net, other = make(), make()
    for _ in range(3):
        net.step(X, Y, gb.SGD(gb.Step(0.1, every=1)))
        other.step(X, Y, gb.SGD(0.1))
    assert_array_equal(numbers(net), numbers(other))


# ---- copies --------------------------------------------------------------------------------------


def trained(backend, dtype="float64"):
    """Return a network with slots, a history and a count of updates."""
    net = make(backend, dtype, dropout=0.3)
    net.fit(X, LABELS, batch_size=5, epochs=1)
    net.step(X, LABELS, gb.SGD(0.1, momentum=0.9), trainable=([X[:4] > 0, True], None))
    return net


def go_on(net):
    """Train on; returns what came of it."""
    loss = net.step(X, LABELS, gb.SGD(0.1, momentum=0.9), trainable=([X[:4] > 0, True], None))
    history = net.fit(X, LABELS, batch_size=5, epochs=1, optimizer=gb.Adam(0.01))
    return loss, history.loss, numbers(net).tobytes()


COPIES = {
    "copy": lambda net: net.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_goes_on_as_the_original_would(way, backend):
    net = trained(backend)
    other = COPIES[way](net)
    assert other.model == net.model
    assert other.backend is net.backend
    assert other.history == net.history
    before = numbers(net)
    assert_array_equal(numbers(other), before)
    found = go_on(other)
    assert_array_equal(numbers(net), before)  # they are independent
    assert go_on(net) == found


def test_a_copy_before_any_training(backend):
    net = make(backend)
    assert go_on(net.copy()) == go_on(net)


def test_a_copy_in_another_dtype():
    net = trained("numpy", "float32")
    double = net.copy(dtype="float64")
    assert double.weights[0].dtype == np.float64
    assert_array_equal(numbers(double), numbers(net))
    assert_array_equal(numbers(double.copy(dtype="float32")), numbers(net))
    assert double.step(X, LABELS, gb.SGD(0.1, momentum=0.9)) > 0


@pytest.mark.parametrize("target", ["numpy", "cupy"])
def test_a_copy_on_another_backend(target, backend):
    require(target)
    net = trained(backend)
    other = net.copy(backend=target)
    assert other.backend is backends.get(target)
    assert_array_equal(numbers(other), numbers(net))
    found, expected = go_on(other), go_on(net)
    near(found[0], expected[0], "float64", 10)
    near(np.frombuffer(found[2]), np.frombuffer(expected[2]), "float64", 20)


@pytest.mark.skipif(bool(NO_CUPY), reason=str(NO_CUPY))
def test_a_network_of_a_gpu_loads_without_one(monkeypatch):
    net = trained("cupy")
    data, expected = pickle.dumps(net), numbers(net)
    assert b"cupy" in data
    # Nothing in it needs CuPy: arrays travel as NumPy's.
    for module in (b"cupy._core", b"cupy.cuda", b"gpubackprop.backends.cupy"):
        assert module not in data
    monkeypatch.setattr(backends, "problem", lambda name: "no driver" if "cupy" in name else None)
    with pytest.warns(RuntimeWarning) as caught:
        loaded = pickle.loads(data)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "'cupy'" in text
    assert "no driver" in text
    assert "NumPy" in text
    assert loaded.backend.name == "numpy"
    assert_array_equal(numbers(loaded), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, _, _ = go_on(loaded)
    near(loss, go_on(net)[0], "float64", 10)


#: Reads a network, trains it on, and writes it.
WORKER = """
import pickle, sys
import numpy as np
net, X, labels, executor = pickle.load(sys.stdin.buffer)
net.fit(X, labels, batch_size=5, epochs=2, executor=executor)
net.step(X, labels, "adam")
pickle.dump(net, sys.stdout.buffer)
"""


@pytest.mark.parametrize("executor", ["eager", "compiled"])
def test_a_network_goes_to_a_worker_process_and_back(executor):
    """With what the executor has made for it; there it goes on to the same bits."""
    net, options = make(dropout=0.3), {"batch_size": 5, "epochs": 2, "executor": executor}
    net.fit(X, LABELS, **options)
    sent = pickle.dumps((net, X, LABELS, executor))
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, stdout=subprocess.PIPE)
    assert done.returncode == 0
    there = pickle.loads(done.stdout)
    net.fit(X, LABELS, **options)
    net.step(X, LABELS, "adam")
    assert_array_equal(numbers(there), numbers(net))
    assert there.history.loss == net.history.loss
    assert go_on(there) == go_on(net)


def test_deepcopy_of_something_that_holds_it_twice():
    net = make()
    first, second = copy.deepcopy([net, net])
    assert first is second


# ---- which backend -------------------------------------------------------------------------------


def test_auto_is_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BACKEND", "numpy-plain")
    assert make("auto").backend.name == "numpy-plain"
    monkeypatch.setenv("GPUBACKPROP_BACKEND", "nothing")
    with pytest.raises(ValueError, match="variable GPUBACKPROP_BACKEND must be one of auto, numpy"):
        make("auto")


def test_auto_without_a_gpu(monkeypatch):
    monkeypatch.delenv("GPUBACKPROP_BACKEND")
    monkeypatch.setattr(backends, "problem", lambda name: "no driver")
    assert make("auto").backend.name == "numpy"


def test_cupy_asked_for_without_a_gpu(monkeypatch):
    from gpubackprop.backends import cupy_backend

    monkeypatch.setattr(cupy_backend, "problem", lambda device=0: "no driver")
    monkeypatch.setattr(backends, "_make", backends._make.__wrapped__)
    with pytest.raises((RuntimeError, ImportError)) as caught:
        make("cupy")
    if isinstance(caught.value, RuntimeError):
        assert "no driver" in str(caught.value)
        assert "backend='numpy'" in str(caught.value)


def test_a_second_device_that_is_not_there():
    require("cupy")
    with pytest.raises(RuntimeError, match="CUDA device"):
        make("cupy:99")


def test_a_backend_may_be_given_itself():
    backend = backends.get("numpy-plain")
    assert make(backend).backend is backend
