"""Initialisers: the published variances and bounds, orthogonality, and what is refused."""

import copy
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpubackprop import initializers
from gpubackprop.initializers import (
    INITIALIZERS,
    Custom,
    Explicit,
    Initializer,
    Orthogonal,
    VarianceScaling,
)

N_OUT, N_IN = 300, 200
#: Variance of a weight as each paper gives it.
VARIANCE = {
    "glorot_uniform": 2 / (N_IN + N_OUT),
    "glorot_normal": 2 / (N_IN + N_OUT),
    "he_uniform": 2 / N_IN,
    "he_normal": 2 / N_IN,
    "lecun_uniform": 1 / N_IN,
    "lecun_normal": 1 / N_IN,
}
RECTIFIERS = ["relu", "leaky_relu", "elu", "silu", "gelu"]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("name", VARIANCE)
def test_mean_variance_and_kurtosis(name, rng):
    W = INITIALIZERS[name](rng, N_OUT, N_IN)
    assert W.shape == (N_OUT, N_IN)
    scaled = W.ravel() / math.sqrt(VARIANCE[name])
    # The standard errors of 60,000 draws are 0.004, 0.006 and at most 0.04: four of them.
    assert abs(scaled.mean()) < 0.017
    assert abs((scaled**2).mean() - 1) < 0.024
    kurtosis = 1.8 if name.endswith("uniform") else 3.0
    assert abs((scaled**4).mean() - kurtosis) < 0.16


def test_uniform_bounds(rng):
    """Glorot and Bengio, equation 16: +-sqrt(6 / (n_in + n_out))."""
    W = INITIALIZERS["glorot_uniform"](rng, 4, 1000)
    bound = math.sqrt(6 / 1004)
    assert 0.99 * bound < np.abs(W).max() <= bound
    W = INITIALIZERS["he_uniform"](rng, 4, 1000)
    bound = math.sqrt(6 / 1000)
    assert 0.99 * bound < np.abs(W).max() <= bound


def test_forward_variance_survives_fifty_layers(rng):
    """What He et al. is for: the outputs of a deep relu network neither die nor explode."""
    a = rng.normal(size=(256, 256))
    for _ in range(50):
        a = np.maximum(a @ INITIALIZERS["he_normal"](rng, 256, 256).T, 0)
    assert 0.05 < (a**2).mean() < 20


@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 5), (5, 1), (1, 1)])
def test_orthogonal(shape, rng):
    W = Orthogonal(gain=1.5)(rng, *shape)
    assert W.shape == shape
    assert W.flags.c_contiguous
    gram = W @ W.T if shape[0] <= shape[1] else W.T @ W
    assert_allclose(gram, 2.25 * np.eye(min(shape)), atol=1e-14)


def test_orthogonal_has_no_preferred_direction(rng):
    """Without the signs of R's diagonal, Q's first entry would be negative nearly always."""
    entries = np.array([Orthogonal()(rng, 2, 2).ravel() for _ in range(2000)])
    assert np.abs(entries.mean(axis=0)).max() < 4 * math.sqrt(0.5 / 2000)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_what_every_initialiser_promises(name):
    init = INITIALIZERS[name]
    W = init(np.random.default_rng(0), 3, 5)
    assert W.shape == (3, 5)
    assert W.dtype == np.float64
    assert_array_equal(init(np.random.default_rng(0), 3, 5), W)
    assert not np.array_equal(init(np.random.default_rng(1), 3, 5), W)
    for other in (pickle.loads(pickle.dumps(init)), copy.deepcopy(init), eval(repr(init))):
        assert other == init
        assert hash(other) == hash(init)


@pytest.mark.parametrize("what", [None, "auto"])
def test_default_follows_the_activation(what):
    for activation in RECTIFIERS:
        assert initializers.get(what, activation) is INITIALIZERS["he_normal"]
    for activation in ("sigmoid", "tanh", "softmax", "identity", "exp", "softplus", "my_own"):
        assert initializers.get(what, activation) is INITIALIZERS["glorot_uniform"]


def test_get():
    assert initializers.get("orthogonal", "relu") == Orthogonal()
    init = VarianceScaling(1 / 3)
    assert initializers.get(init, "relu") is init
    with pytest.raises(ValueError, match=r"one of auto, glorot_uniform, .*, got 'xavier'"):
        initializers.get("xavier", "relu")
    with pytest.raises(TypeError, match=r"write Orthogonal\(\)"):
        initializers.get(Orthogonal, "relu")


def test_explicit_weights_are_copied_in_and_out(rng):
    given = np.arange(6, dtype="float32").reshape(2, 3)
    init = initializers.get(given, "relu")
    given[...] = -1
    W = init(rng, 2, 3)
    assert_array_equal(W, [[0, 1, 2], [3, 4, 5]])
    assert W.dtype == np.float64
    W[...] = -1
    assert_array_equal(init(rng, 2, 3), [[0, 1, 2], [3, 4, 5]])
    assert rng.random() == np.random.default_rng(11).random()


@pytest.mark.parametrize(
    "given",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], order="F"),
        np.array([[1, 2], [3, 4]], ">f8"),
        np.array([[1, 2], [3, 4]], object),
        np.array([[1, 0, 2], [3, 0, 4]], "float16")[:, ::2],
    ],
)
def test_explicit_weights_of_every_kind(given, rng):
    W = initializers.get(given, "relu")(rng, 2, 2)
    assert_array_equal(W, [[1, 2], [3, 4]])
    assert W.dtype == np.dtype("float64")
    assert W.flags.c_contiguous


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(3), r"must have shape \(n_out, n_in\), got shape \(3,\)"),
        (0.5, r"got shape \(\)"),
        ([[0, np.nan]], r"must be finite, got nan at \[0, 1\]"),
        ([[0], [-np.inf]], r"must be finite, got -inf at \[1, 0\]"),
        ([["a", "b"]], "must be a 2-D array of real numbers"),
        ([[1, 2], [3]], "must be a 2-D array of real numbers"),
        ([[1j]], "must be a 2-D array of real numbers: they are complex"),
    ],
)
def test_bad_explicit_weights(values, message):
    with pytest.raises((ValueError, TypeError), match=message):
        initializers.get(values, "relu")


def test_explicit_weights_of_another_layers_shape(rng):
    init = Explicit(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"shape \(n_out, n_in\) = \(2, 3\), got \(3, 2\)"):
        init(rng, 2, 3)


def test_function(rng):
    def constant(rng, n_out, n_in):
        return np.full((n_out, n_in), 0.5, "float32")

    init = initializers.get(constant, "relu")
    assert init == Custom(constant)
    assert_array_equal(init(rng, 2, 3), np.full((2, 3), 0.5))


@pytest.mark.parametrize("wrong", [np.ones((3, 2)), np.full((2, 3), np.nan), 1.0, None])
def test_function_that_returns_no_weights(wrong, rng):
    def broken(rng, n_out, n_in):
        return wrong

    with pytest.raises((ValueError, TypeError), match="weights returned by broken must"):
        initializers.get(broken, "relu")(rng, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VarianceScaling(0), "scale must be finite and > 0, got 0"),
        (lambda: VarianceScaling(math.nan), "scale must be finite and > 0, got nan"),
        (lambda: VarianceScaling(fan="out"), 'fan must be "in" or "average"'),
        (lambda: VarianceScaling(distribution="cauchy"), 'must be "uniform" or "normal"'),
        (lambda: Orthogonal(gain=-1), "gain must be finite and > 0, got -1"),
        (lambda: Orthogonal(gain=math.inf), "gain must be finite and > 0, got inf"),
        (lambda: Orthogonal(gain="2"), "gain must be a number, got '2'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_an_initialiser_of_ones_own(rng):
    class Zeros(Initializer):
        def __call__(self, rng, n_out, n_in):
            return np.zeros((n_out, n_in))

    assert_array_equal(initializers.get(Zeros(), "relu")(rng, 1, 2), [[0, 0]])
    with pytest.raises(NotImplementedError, match="Initializer must define __call__"):
        Initializer()(rng, 1, 2)
