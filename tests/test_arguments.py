"""Bad input: each is refused before any work, in words that name argument, value and way out."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gpubackprop as gb
from gpubackprop import arguments
from gpubackprop.data import Batches

NAN, INF = math.nan, math.inf
RNG = np.random.default_rng(3)
N = 20
X = RNG.normal(size=(N, 3))
LABELS = RNG.integers(3, size=N)
Y = np.eye(3)[LABELS]


def planted(array, place, value):
    """Return a copy with one other value."""
    array = np.array(array, "float64")
    array[place] = value
    return array


class Sparse:
    """Looks as SciPy's sparse matrices do."""

    format = "coo"

    nnz, shape = 3, (N, 3)

    def toarray(self):
        raise AssertionError("nobody asked")


def make(backend="numpy", **options):
    options = {"hidden": "tanh", "rng": 0, **options}
    return gb.Network([3, 4, 3], **options, backend=backend)


# ---- the constructor -----------------------------------------------------------------------------

#: Arguments, the error, and words of its message: the name, the value, what it may be.
CONSTRUCTOR = [
    ({"sizes": [3]}, ValueError,
     "sizes must name inputs and outputs at least, such as [4, 1], got [3]"),
    ({"sizes": []}, ValueError, "sizes must name inputs and outputs"),
    ({"sizes": 3}, TypeError,
     "sizes must list the units of each layer, such as [784, 128, 10], got 3"),
    ({"sizes": "345"}, TypeError, "sizes must list the units of each layer"),
    ({"sizes": None}, TypeError, "sizes must list the units of each layer"),
    ({"sizes": [3, 0, 2]}, ValueError, "sizes[1] must be an integer >= 1, got 0"),
    ({"sizes": [3, -4, 2]}, ValueError, "sizes[1] must be an integer >= 1, got -4"),
    ({"sizes": [3, 4.0, 2]}, TypeError, "sizes[1] must be an integer >= 1, got 4.0"),
    ({"sizes": [3, True, 2]}, TypeError, "sizes[1] must be an integer >= 1, got True"),
    ({"sizes": [3, "4", 2]}, TypeError, "sizes[1] must be an integer >= 1, got '4'"),
    ({"hidden": "sigmod"}, ValueError, "hidden must be one of identity, sigmoid, tanh, relu"),
    ({"hidden": "sigmod"}, ValueError, "got 'sigmod'"),
    ({"hidden": ["tanh", "relu"]}, ValueError,
     "hidden must be one activation, or one for each of the 1 hidden layers, got 2"),
    ({"hidden": ["tan"]}, ValueError, "hidden[0] must be one of identity"),
    ({"hidden": [3]}, TypeError, "hidden[0] must be a name or an Activation, got 3"),
    ({"hidden": 5}, TypeError, "hidden must be"),
    ({"hidden": None}, TypeError, "hidden must be"),
    ({"hidden": "softmax"}, ValueError, "hidden activation 'softmax' works on whole rows"),
    ({"output": "soft"}, ValueError, "output must be one of identity"),
    ({"output": 1}, TypeError, "output must be a name or an Activation, got 1"),
    ({"sizes": [3, 1]}, ValueError,
     "output 'softmax' over a single unit is always 1; use output='sigmoid'"),
    ({"loss": "mse"}, ValueError, "loss must be one of squared, log_loss"),
    ({"loss": 3}, TypeError, "loss must be a name or a Loss, got 3"),
    ({"loss": "huber"}, ValueError, "loss 'huber' does not go with output 'softmax'"),
    ({"loss": "log_loss", "output": "tanh"}, ValueError,
     "loss 'log_loss' needs output 'sigmoid', got 'tanh'"),
    ({"loss": "cross_entropy", "output": "exp"}, ValueError, "needs output 'softmax', got 'exp'"),
    ({"loss": "poisson", "output": "relu"}, ValueError,
     "needs output 'exp' or 'softplus', got 'relu'"),
    ({"dropout": 1.0}, ValueError, "dropout must lie in 0..1, 1 excluded, got 1.0"),
    ({"dropout": -0.1}, ValueError, "dropout must lie in 0..1, 1 excluded, got -0.1"),
    ({"dropout": NAN}, ValueError, "dropout must lie in 0..1, 1 excluded, got nan"),
    ({"dropout": True}, ValueError, "dropout must lie in 0..1"),
    ({"dropout": "0.5"}, TypeError, "dropout must be a number in 0..1"),
    ({"dropout": None}, TypeError, "dropout must be a number in 0..1"),
    ({"dropout": ["0.5"]}, TypeError,
     "dropout must hold a number in 0..1 for each layer, got '0.5'"),
    ({"dropout": [0.1, 0.2]}, ValueError,
     "dropout must be a number in 0..1, or one for each of 1 layers"),
    ({"bias": "yes"}, TypeError, "bias must be True or False"),
    ({"bias": None}, TypeError, "bias must be True or False"),
    ({"bias": 1}, TypeError, "bias must be True or False"),
    ({"bias": [True]}, ValueError,
     "bias must be True or False, or one for each of 2 layers, got [True]"),
    ({"bias": [True, 0]}, TypeError, "bias must hold True or False for each layer, got 0"),
    ({"init": "xavier"}, ValueError, "got 'xavier'"),
    ({"init": ["he_normal"]}, ValueError,
     "init must be one initialiser, or one for each of 2 layers, got 1"),
    ({"init": [np.zeros((2, 2)), None]}, ValueError, "(4, 3)"),
    ({"init": [np.full((4, 3), NAN), None]}, ValueError, "nan"),
    ({"backend": "torch"}, ValueError, "backend must be one of auto, numpy, cupy"),
    ({"backend": "cupy:x"}, ValueError, "got 'cupy:x'"),
    ({"backend": 3}, TypeError, "backend must be a name or a Backend, got 3"),
    ({"dtype": "float16"}, ValueError, "dtype must be float32 or float64, got 'float16'"),
    ({"dtype": "single float"}, ValueError, "dtype must be float32 or float64"),
    ({"dtype": int}, ValueError, "dtype must be float32 or float64"),
    ({"rng": -1}, ValueError,
     "rng must be an integer >= 0, a numpy.random.Generator or None, got -1"),
    ({"rng": 1.5}, TypeError, "rng must be an integer >= 0"),
    ({"rng": True}, TypeError, "rng must be an integer >= 0"),
    ({"rng": np.random.RandomState(0)}, TypeError,
     "rng must be an integer >= 0, a numpy.random.Generator"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "words"), CONSTRUCTOR)
def test_constructor(options, error, words):
    options = {"sizes": [3, 4, 2], "backend": "numpy", **options}
    with pytest.raises(error) as caught:
        gb.Network(**options)
    assert words in str(caught.value)


def test_numpy_numbers_and_other_sequences_are_taken():
    net = gb.Network(
        np.array([3, 4, 2]),
        ("tanh",),
        bias=np.bool_(True),
        dropout=np.float32(0.25),
        rng=np.int64(3),
        dtype=np.float64,
        backend="numpy",
    )
    assert net.model.sizes == (3, 4, 2)
    assert type(net.model.sizes[0]) is int
    assert net.model.dropout == (0.25,)
    assert gb.Network(range(3, 5), backend="numpy").model.sizes == (3, 4)


# ---- data and options of fit ---------------------------------------------------------------------

#: What is passed instead of good arguments, the error, and words of its message.
FIT = [
    # X
    ({"X": planted(X, (7, 1), NAN)}, ValueError, "X must be finite, got nan at row 7, column 1"),
    ({"X": planted(X, (7, 1), INF)}, ValueError, "X must be finite, got inf at row 7, column 1"),
    ({"X": planted(X, (19, 2), -INF)}, ValueError, "got -inf at row 19, column 2; remove or fill"),
    ({"X": planted(X, (0, 0), 1e39)}, ValueError,
     "X must fit float32 (at most 3.4e+38 in size), got 1e+39"),
    ({"X": X[:, :2]}, ValueError,
     "X must have 3 columns, one for each input of the network, got shape (20, 2)"),
    ({"X": X[0], "Y": [0]}, ValueError, "X must be 2-D; for one sample use X[None, :]"),
    ({"X": X[:, :, None]}, ValueError,
     "X must be 2-D; flatten each sample with X.reshape(len(X), -1)"),
    ({"X": X[:0], "Y": Y[:0]}, ValueError, "X must have at least one row, got shape (0, 3)"),
    ({"X": []}, ValueError, "X must be 2-D"),
    ({"X": 3.0}, ValueError, "X must be 2-D"),
    ({"X": None}, ValueError, "X must be 2-D"),
    ({"X": [[1, 2, 3], [4, 5]]}, ValueError,
     "X must be an array of numbers with rows of one length"),
    ({"X": X.astype(str)}, TypeError, "X must hold real numbers, got dtype <U"),
    ({"X": X.astype(complex)}, TypeError, "got dtype complex128; use X.real"),
    ({"X": np.full((N, 3), "a", object)}, TypeError,
     "X must hold real numbers, got objects that do not convert"),
    ({"X": np.full((N, 3), None, object)}, ValueError,
     "X must be finite, got nan at row 0, column 0; remove or fill"),
    ({"X": np.zeros((N, 3), "M8[s]")}, TypeError, "got dtype datetime64[s]"),
    ({"X": Sparse()}, TypeError, "X must be dense, CSR or CSC, got 'coo'; use X.tocsr()"),
    ({"X": np.ma.masked_less(X, 0)}, TypeError, "X must not have masked values; fill them"),
    # Y
    ({"Y": None}, TypeError, "Y must be given"),
    ({"Y": LABELS[:-1]}, ValueError,
     "Y must have one row for each of the 20 rows of X, got shape (19,)"),
    ({"Y": Y[:-1]}, ValueError,
     "Y must have one row for each of the 20 rows of X, got shape (19, 3)"),
    ({"Y": 1}, ValueError, "Y must have one row for each of the 20 rows"),
    ({"Y": planted(LABELS, 4, 3)}, ValueError, "Y must hold class numbers 0..2, got 3 at row 4"),
    ({"Y": planted(LABELS, 4, -1)}, ValueError, "Y must hold class numbers 0..2, got -1 at row 4"),
    ({"Y": planted(LABELS, 4, 1.5)}, ValueError,
     "Y must hold class numbers 0..2, got 1.5 at row 4"),
    ({"Y": planted(LABELS, 4, NAN)}, ValueError,
     "Y must hold class numbers 0..2, got nan at row 4"),
    ({"Y": LABELS + 1}, ValueError, "got 3"),
    ({"Y": LABELS.astype(str)}, TypeError, "np.unique(labels, return_inverse=True)[1]"),
    ({"Y": LABELS[:, None]}, ValueError, "Y must have shape (20,) with class numbers or (20, 3)"),
    ({"Y": Y[:, :2]}, ValueError, "Y must have shape"),
    ({"Y": Y * 2}, ValueError,
     "Y must be in 0..1 (one-hot rows, or probabilities), got 2 at row 0"),
    ({"Y": planted(Y, (3, slice(None)), 0.5)}, ValueError,
     "Y must have rows that sum to 1 (one-hot, or probabilities), got a sum of 1.5 at row 3"),
    ({"Y": planted(Y, (3, 1), NAN)}, ValueError, "Y must be finite, got nan at row 3, column 1"),
    # weights
    ({"sample_weight": planted(np.ones(N), 5, NAN)}, ValueError,
     "sample_weight must be finite, got nan at row 5"),
    ({"sample_weight": planted(np.ones(N), 5, INF)}, ValueError,
     "sample_weight must be finite, got inf at row 5"),
    ({"sample_weight": planted(np.ones(N), 5, -1)}, ValueError,
     "sample_weight must be at least 0, got -1 at row 5"),
    ({"sample_weight": np.zeros(N)}, ValueError,
     "sample_weight must have a weight above 0, got zeros only"),
    ({"sample_weight": np.ones(N - 1)}, ValueError,
     "sample_weight must have shape (20,), one for each row of X, got (19,)"),
    ({"sample_weight": np.ones((N, 1))}, ValueError, "sample_weight must have shape (20,)"),
    ({"sample_weight": 1.0}, ValueError, "sample_weight must have shape (20,)"),
    ({"sample_weight": "balanced"}, TypeError, "sample_weight must hold real numbers"),
    # batch_size, epochs
    ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, got 0"),
    ({"batch_size": -3}, ValueError, "batch_size must be an integer >= 1, got -3"),
    ({"batch_size": 21}, ValueError,
     "batch_size must lie in 1..20, the rows of X, got 21; use 'full'"),
    ({"batch_size": 2.0}, TypeError, "batch_size must be an integer >= 1, got 2.0"),
    ({"batch_size": True}, TypeError, "batch_size must be an integer >= 1, got True"),
    ({"batch_size": "all"}, ValueError, "batch_size must be an integer, 'full' or None, got 'all'"),
    ({"epochs": 0}, ValueError, "epochs must be an integer >= 1, got 0"),
    ({"epochs": -1}, ValueError, "epochs must be an integer >= 1, got -1"),
    ({"epochs": 1.5}, TypeError, "epochs must be an integer >= 1, got 1.5"),
    ({"epochs": None}, TypeError, "epochs must be an integer >= 1, got None"),
    # optimizer
    ({"optimizer": "sdg"}, ValueError,
     "optimizer must be one of sgd, rmsprop, adam, adamw, rprop, got 'sdg'"),
    ({"optimizer": 0.1}, TypeError,
     "optimizer must be an optimiser such as SGD(learning_rate=0.1)"),
    ({"optimizer": gb.SGD}, TypeError,
     "optimizer must be an optimiser such as SGD(learning_rate=0.1)"),
    ({"optimizer": "rprop", "batch_size": 5}, ValueError,
     "optimizer Rprop needs the gradient of all samples: use batch_size='full', got 5"),
    ({"optimizer": gb.SGD(lambda epoch: NAN)}, ValueError,
     "the learning rate of epoch 0 must be finite and >= 0, got nan"),
    ({"optimizer": gb.SGD(lambda epoch: -1)}, ValueError,
     "the learning rate of epoch 0 must be finite and >= 0, got -1"),
    ({"optimizer": gb.SGD(lambda epoch: "fast")}, TypeError,
     "the learning rate of epoch 0 must be a number"),
    # the rest
    ({"shuffle": "random"}, ValueError,
     "shuffle must be True, False, 'full' or 'blocks', got 'random'"),
    ({"shuffle": 1}, ValueError, "shuffle must be True, False, 'full' or 'blocks', got 1"),
    ({"shuffle": None}, ValueError, "shuffle must be True, False, 'full' or 'blocks', got None"),
    ({"trainable": True}, TypeError, "trainable must be a pair (weights, biases)"),
    ({"trainable": ([True, True],)}, TypeError, "trainable must be a pair (weights, biases)"),
    ({"trainable": ([True], None)}, ValueError,
     "trainable weights must have one entry for each of 2 layers, got 1"),
    ({"trainable": (True, None)}, TypeError, "trainable weights must be"),
    ({"trainable": ([np.ones((4, 3)), None], None)}, TypeError,
     "trainable weights[0] must be boolean, got float64"),
    ({"trainable": ([np.ones((3, 4), bool), None], None)}, ValueError,
     "trainable weights[0] must have shape (4, 3), got (3, 4)"),
    ({"trainable": (None, [None, np.ones(4, bool)])}, ValueError,
     "trainable biases[1] must have shape (3,), got (4,)"),
    ({"validation": X}, TypeError,
     "validation must be (X, Y) or (X, Y, sample_weight), got ndarray"),
    ({"validation": (X,)}, TypeError, "validation must be (X, Y) or (X, Y, sample_weight)"),
    ({"validation": 0.1}, TypeError, "validation must be (X, Y)"),
    ({"validation": (X, None)}, TypeError, "validation Y must be given"),
    ({"validation": (X[:, :2], Y)}, ValueError, "validation X must have 3 columns"),
    ({"validation": (planted(X, (1, 1), NAN), Y)}, ValueError,
     "validation X must be finite, got nan at row 1, column 1"),
    ({"validation": (X, Y, -np.ones(N))}, ValueError,
     "validation sample_weight must be at least 0"),
    ({"early_stopping": 0}, ValueError, "early_stopping must be an integer >= 1, got 0"),
    ({"early_stopping": "yes"}, TypeError, "early_stopping must be an integer >= 1, got 'yes'"),
    ({"early_stopping": 2.5}, TypeError, "early_stopping must be an integer >= 1, got 2.5"),
    ({"callbacks": print}, TypeError, "callbacks must be a list of objects"),
    ({"callbacks": [print]}, TypeError,
     "callbacks[0] must be an object with a method on_fit_begin"),
    ({"progress": "yes"}, TypeError, "progress must be True or False, got 'yes'"),
    ({"progress": 1}, TypeError, "progress must be True or False, got 1"),
    ({"executor": "warp"}, ValueError, "executor must be one of auto, eager"),
    ({"threads": 0}, ValueError, "threads must lie in 1.."),
    ({"threads": 10_000}, ValueError, "threads must lie in 1.."),
    ({"threads": "all"}, TypeError, "threads must be an integer or None, got 'all'"),
    ({"threads": True}, TypeError, "threads must be an integer or None, got True"),
    # Batches
    ({"X": Batches(lambda: [(X, Y)])}, TypeError,
     "Y must be None with Batches, whose items hold it, got ndarray"),
    ({"X": Batches(lambda: [(X, Y)]), "Y": None, "batch_size": 5}, ValueError,
     "batch_size must be None with Batches, whose items are the batches, got 5"),
    ({"X": Batches(lambda: [(X, Y)]), "Y": None, "sample_weight": np.ones(N)}, TypeError,
     "sample_weight must be None with Batches"),
    ({"X": Batches(lambda: [(X, Y)]), "Y": None, "optimizer": "rprop"}, ValueError,
     "optimizer Rprop needs the gradient of all samples"),
    ({"X": Batches(lambda: []), "Y": None}, ValueError,
     "make must return a fresh iterator for each epoch"),
    ({"X": Batches(lambda: 3), "Y": None}, TypeError, "make must return an iterable of (X, Y)"),
    ({"X": Batches(lambda: [X]), "Y": None}, TypeError,
     "batch 0 must be (X, Y) or (X, Y, sample_weight), got ndarray"),
    ({"X": Batches(lambda: [(X,)]), "Y": None}, TypeError,
     "batch 0 must be (X, Y) or (X, Y, sample_weight), got 1 items"),
    ({"X": Batches(lambda: [(X, None)]), "Y": None}, TypeError, "batch 0: Y must be given"),
]  # fmt: skip


def refused(net, options, error, words, call="fit"):
    before, state = net.backend.to_numpy(net._parameters.flat).copy(), net.rng.bit_generator.state
    arrays = [value for value in options.values() if isinstance(value, np.ndarray)]
    bytes_before = [array.tobytes() for array in arrays]
    good = {"X": X, "Y": Y, **options}
    with pytest.raises(error) as caught:
        getattr(net, call)(**good)
    assert words in str(caught.value)
    assert_array_equal(net.backend.to_numpy(net._parameters.flat), before)
    assert net._steps == 0
    assert [array.tobytes() for array in arrays] == bytes_before
    return net.rng.bit_generator.state == state


@pytest.mark.parametrize(("options", "error", "words"), FIT)
def test_fit(options, error, words):
    refused(make(), options, error, words)


DATA = [
    row for row in FIT if not {"X", "Y", "sample_weight"}.isdisjoint(row[0]) and len(row[0]) == 1
]


@pytest.mark.parametrize("call", ["loss", "gradient", "step", "trace"])
@pytest.mark.parametrize(("options", "error", "words"), DATA)
def test_the_others_refuse_the_same_data(options, error, words, call):
    if isinstance(options.get("X"), Batches):
        error, words = TypeError, "X must be an array here, got Batches; only `fit` reads them"
    assert refused(make(), options, error, words, call)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [row for row in DATA if "X" in row[0] and not isinstance(row[0]["X"], Batches)],
)
def test_predict_refuses_the_same_inputs(options, error, words):
    for call in ("predict", "predict_classes"):
        with pytest.raises(error) as caught:
            getattr(make(), call)(options["X"])
        assert words in str(caught.value)


def test_gradient_check_refuses_the_same_data():
    with pytest.raises(ValueError, match="X must be finite, got nan at row 7"):
        gb.gradient_check(make(), planted(X, (7, 1), NAN), Y)
    with pytest.raises(TypeError, match="Y must be given"):
        gb.gradient_check(make(), X, None)
    with pytest.raises(TypeError, match="dropout must be True or False"):
        gb.gradient_check(make(), X, Y, dropout=0.5)


@pytest.mark.parametrize("i", range(0, len(DATA), 6))
def test_on_every_backend(i, backend):
    refused(make(backend), *DATA[i])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"loss": "poisson", "output": "exp"},
            ValueError,
            "Y must be at least 0 for loss 'poisson', got -",
        ),
        ({"output": "sigmoid"}, ValueError, "Y must be in 0..1 for loss 'log_loss', got "),
    ],
)
def test_targets_of_other_losses(options, error, words):
    refused(make(**options), {"Y": X}, error, words)


def test_targets_of_another_shape():
    refused(
        make(output="identity"),
        {"Y": LABELS},
        ValueError,
        "Y must have shape (20, 3) for loss 'squared', got (20,)",
    )


@pytest.mark.parametrize("value", [0, -0.1, NAN, INF, "fast", None, True])
def test_learning_rates(value):
    with pytest.raises((TypeError, ValueError), match="learning_rate must be"):
        gb.SGD(value)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_patience(value):
    with pytest.raises((TypeError, ValueError), match="patience must be an integer >= 1"):
        gb.EarlyStopping(value)


@pytest.mark.parametrize("value", [-1e-9, NAN, INF, "0"])
def test_min_delta(value):
    with pytest.raises((TypeError, ValueError), match="min_delta must be a number >= 0"):
        gb.EarlyStopping(min_delta=value)


# ---- data of any kind, never changed -------------------------------------------------------------


def frozen(x):
    x = np.array(x)
    x.setflags(write=False)
    return x


KINDS = {
    "read-only": frozen,
    "Fortran": np.asfortranarray,
    "strided": lambda x: (
        np.repeat(np.repeat(x, 2, axis=0), 2, axis=-1)[::2, ::2]
        if x.ndim == 2
        else np.repeat(x, 2)[::2]
    ),
    "backwards": lambda x: x[::-1].copy()[::-1],
    "int": lambda x: x.astype("i8"),
    "uint8": lambda x: x.astype("u1"),
    "float16": lambda x: x.astype("f2"),
    "float32": lambda x: x.astype("f4"),
    "big-endian": lambda x: x.astype(">f8"),
    "object": lambda x: x.astype(object),
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())) if x.ndim == 2 else tuple(x.tolist()),
}


def frozen_state(x):
    if isinstance(x, np.ndarray):
        return x.tobytes(), x.dtype, x.shape, x.strides, x.flags.writeable
    return repr(x)


@pytest.mark.parametrize("targets", ["labels", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_data_of_any_kind(kind, targets, backend):
    """The same numbers come out, and what was given stays as it was."""
    numbers = RNG.integers(0, 5, size=(N, 3)).astype(float)
    plain_Y, plain_w = LABELS.astype(float) if targets == "labels" else Y, np.arange(float(N))
    results = []
    for convert in (np.asarray, KINDS[kind]):
        data = [convert(x) for x in (numbers, plain_Y, plain_w)]
        before = [frozen_state(x) for x in data]
        (inputs, outputs, weights), net = data, make(backend, dropout=0.2)
        history = net.fit(
            inputs, outputs, sample_weight=weights, batch_size=7, epochs=2, optimizer="adam",
            validation=(inputs, outputs, weights),
        )  # fmt: skip
        results.append(
            [
                history.loss,
                net.loss(inputs, outputs, sample_weight=weights),
                net.step(inputs, outputs, sample_weight=weights),
                backend.to_numpy(net.gradient(inputs, outputs).flat).tolist(),
                backend.to_numpy(net.predict(inputs)).tolist(),
                backend.to_numpy(net.predict_classes(inputs)).tolist(),
                net.trace(inputs, outputs, "sgd", sample_weight=weights).loss,
                backend.to_numpy(net._parameters.flat).tolist(),
            ]
        )
        assert [frozen_state(x) for x in data] == before
    for got, expected in zip(*results, strict=True):
        # A gather and a view of the same rows may lie at another address: the last bit may differ.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_booleans(backend):
    bits = X > 0
    net, other = make(backend), make(backend)
    net.fit(bits, Y.astype(bool), epochs=2)
    other.fit(bits.astype(float), Y, epochs=2)
    assert_array_equal(backend.to_numpy(net.weights[0]), backend.to_numpy(other.weights[0]))


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    net, other = make(), make()
    net.fit(frame, pandas.Series(LABELS), epochs=2)
    other.fit(X, LABELS, epochs=2)
    assert_array_equal(net.weights[0], other.weights[0])


# ---- helpers -------------------------------------------------------------------------------------


def test_batch_size_by_default():
    assert arguments.batch_size(None, 20) == 20
    assert arguments.batch_size(None, 1000) == 32
    assert arguments.batch_size("full", 1000) == 1000
    assert arguments.batch_size(np.int32(7), 1000) == 7
    assert arguments.batch_size(None, None) is None


def test_early_stopping():
    assert arguments.early_stopping(None) is None
    assert arguments.early_stopping(False) is None
    assert arguments.early_stopping(True) == gb.EarlyStopping(10)
    assert arguments.early_stopping(4) == gb.EarlyStopping(4)
    rule = gb.EarlyStopping(2, min_delta=0.1)
    assert arguments.early_stopping(rule) is rule


def test_trainable_broadcasts_and_leaves_the_padding():
    model = make().model
    flat = arguments.trainable(([[[True], [False], [True], [False]], None], (False, True)), model)
    assert flat.dtype == model.dtype
    assert_array_equal(flat[:12].reshape(4, 3), np.repeat([[1.0], [0], [1], [0]], 3, axis=1))
    assert flat[model.layout.W[1] :][:12].all()
    assert not flat[model.layout.b[0] :][:4].any()
    assert flat[model.layout.b[1] :][:3].all()
