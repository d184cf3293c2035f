"""Losses and their pairs with outputs, against SciPy's and scikit-learn's definitions."""

import copy
import itertools
import math
import pickle

import definitions
import numpy as np
import pytest
import sklearn.metrics
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special

from gpubackprop import ACTIVATIONS, Activation, Loss, backends, losses
from gpubackprop.activations import EXP, IDENTITY, LEAKY_RELU, SIGMOID, SOFTMAX, SOFTPLUS
from gpubackprop.losses import CROSS_ENTROPY, HUBER, LOSSES, QUANTILE, SQUARED, check_pair, pair

FLOAT64 = np.dtype("float64")


def allowed(activation, loss):
    try:
        check_pair(ACTIVATIONS[activation], LOSSES[loss])
    except ValueError:
        return False
    return True


EVERY_PAIR = list(itertools.product(ACTIVATIONS, LOSSES))
PAIRS = [each for each in EVERY_PAIR if allowed(*each)]
#: Softmax's losses need whole rows: tests/test_backends.py.
ELEMENTWISE = [each for each in PAIRS if each[0] != "softmax"]
HOST = ("numpy", "numpy-plain")


def run(expression, *values, backend="numpy"):
    """Run an expression with one output in float64."""
    arrays = [np.array(v, "float64") if np.ndim(v) else v for v in values]
    out = np.empty_like(arrays[0])
    found = backends.get(backend)
    with found.active():
        found.elementwise(expression, FLOAT64)(*arrays, out)
    return out


def value_of(activation, loss, z, y):
    """Return the loss of each output by the library's own path from z."""
    z = np.asarray(z, "float64")
    return run(pair(activation, loss).loss, run(activation.forward, z), z, np.asarray(y, "float64"))


def delta_of(activation, loss, z, y, scale=1.0):
    z = np.asarray(z, "float64")
    y = np.asarray(y, "float64")
    return run(pair(activation, loss).delta, run(activation.forward, z), z, y, scale)


# ---- which go together ---------------------------------------------------------------------------


def expected_to_go_together(activation, loss):
    """Say what DESIGN.md allows."""
    special_outputs = {
        "log_loss": {"sigmoid"}, "cross_entropy": {"softmax"}, "poisson": {"exp", "softplus"},
    }  # fmt: skip
    if loss in special_outputs:
        return activation in special_outputs[loss]
    return activation != "softmax" or loss == "squared"


@pytest.mark.parametrize(("activation", "loss"), EVERY_PAIR)
def test_which_go_together(activation, loss):
    if expected_to_go_together(activation, loss):
        check_pair(ACTIVATIONS[activation], LOSSES[loss])
    else:
        with pytest.raises(ValueError, match=f"loss '{loss}' .*'{activation}'.*"):
            check_pair(ACTIVATIONS[activation], LOSSES[loss])


def test_refusals_say_why_and_what_would_do():
    with pytest.raises(ValueError, match="needs output 'exp' or 'softplus', got 'identity': its"):
        check_pair(IDENTITY, LOSSES["poisson"])
    with pytest.raises(ValueError, match="softmax goes with cross_entropy and squared"):
        check_pair(SOFTMAX, HUBER)


def test_softmax_takes_no_loss_that_only_has_a_known_name():
    """Rows of softmax are computed by operations that know these two losses alone."""
    for mine in (Loss("squared", "(o - y) ** 2", "2 * (o - y)"), SQUARED(), CROSS_ENTROPY()):
        if mine in (SQUARED, CROSS_ENTROPY):
            check_pair(SOFTMAX, mine)
        else:
            with pytest.raises(ValueError, match="does not go with output 'softmax'"):
                check_pair(SOFTMAX, mine)


# ---- values --------------------------------------------------------------------------------------

Z = np.concatenate([np.linspace(-8, -0.1, 23), np.linspace(0.1, 8, 23)])


def targets(loss, n, rng):
    """Return targets that suit a loss, with those at the ends of their range."""
    if LOSSES[loss].targets == "unit":
        return np.concatenate([[0, 1, 0, 1], rng.uniform(size=n - 4)])
    if LOSSES[loss].targets == "counts":
        return np.concatenate([[0, 0, 1, 2.5], rng.poisson(2.0, size=n - 4)])
    return rng.normal(scale=3, size=n)


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize(("activation", "loss"), ELEMENTWISE)
def test_value(activation, loss, backend, rng):
    y = targets(loss, len(Z), rng)
    o = definitions.outputs(activation, Z)
    expected = definitions.terms(activation, loss, Z, y)
    actual = run(pair(ACTIVATIONS[activation], LOSSES[loss]).loss, o, Z, y, backend=backend)
    # Where the terms of a loss nearly cancel, the rest is of the order of their roundings.
    assert_allclose(actual, expected, rtol=1e-12, atol=1e-14 * max(1, abs(o).max()))


@pytest.mark.parametrize(("activation", "loss"), ELEMENTWISE)
def test_f_alone_is_the_same_loss(activation, loss, rng):
    """The formula in terms of o, where the one in terms of z is not needed."""
    z = np.linspace(-3, 3, 40)
    y = targets(loss, len(z), rng)
    o = definitions.outputs(activation, z)
    if loss == "log_loss":
        o = special.expit(z)
    entry = LOSSES[loss]
    plain = Loss("plain", entry.f, entry.df, **entry.parameters)
    actual = run(pair(IDENTITY, plain).loss, o, z, y)
    assert_allclose(actual, definitions.terms(activation, loss, z, y), rtol=1e-12, atol=1e-13)


def test_against_scikit_learn(rng):
    """Mean losses as scikit-learn's metrics define them."""
    z = rng.normal(size=50)
    classes = rng.integers(2, size=50).astype("float64")
    counts = rng.poisson(1.5, size=50).astype("float64")
    numbers = rng.normal(size=50)
    p, mu = special.expit(z), np.exp(z)
    metrics, mean = sklearn.metrics, np.mean
    found = {
        "log_loss": (mean(value_of(SIGMOID, LOSSES["log_loss"], z, classes)),
                     metrics.log_loss(classes, p)),
        "poisson": (mean(value_of(EXP, LOSSES["poisson"], z, counts)),
                    metrics.mean_poisson_deviance(counts, mu) / 2),
        "softplus": (mean(value_of(SOFTPLUS, LOSSES["poisson"], z, counts)),
                     metrics.mean_poisson_deviance(counts, np.logaddexp(z, 0)) / 2),
        "quantile": (mean(value_of(IDENTITY, QUANTILE(q=0.2), z, numbers)),
                     metrics.mean_pinball_loss(numbers, z, alpha=0.2)),
        "squared": (mean(value_of(IDENTITY, SQUARED, z, numbers)),
                    metrics.mean_squared_error(numbers, z) / 2),
        "absolute": (mean(value_of(IDENTITY, LOSSES["absolute"], z, numbers)),
                     metrics.mean_absolute_error(numbers, z)),
        "huber": (mean(value_of(IDENTITY, HUBER(limit=0.7), z, numbers)),
                  mean(special.huber(0.7, numbers - z))),
    }  # fmt: skip
    for actual, expected in found.values():
        assert actual == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "loss", "z", "y", "expected"),
    [
        # -log(1 - sigmoid(1e4)) = 1e4 to the last digit, and so on.
        (SIGMOID, "log_loss", [1e4, 1e4, -1e4, -1e4], [0, 1, 0, 1], [1e4, 0, 0, 1e4]),
        (SIGMOID, "squared", [1e4, 1e4, -1e4, -1e4], [0, 1, 0, 1], [0.5, 0, 0, 0.5]),
        # o - y + y (log y - log o) with log o = z for both at the lower end
        (EXP, "poisson", [-1e4, -1e4], [0, 2], [0, -2 + 2 * (math.log(2) + 1e4)]),
        (SOFTPLUS, "poisson", [-1e4, -1e4], [0, 2], [0, -2 + 2 * (math.log(2) + 1e4)]),
        (SOFTPLUS, "poisson", [1e4], [2], [1e4 - 2 + 2 * math.log(2 / 1e4)]),
        (IDENTITY, "squared", [1e4, -1e4], [0, 0], [5e7, 5e7]),
        (IDENTITY, "huber", [1e4, -1e4], [0, 0], [9999.5, 9999.5]),
        (IDENTITY, "absolute", [1e4, -1e4], [0, 0], [1e4, 1e4]),
        (IDENTITY, "quantile", [1e4, -1e4], [0, 0], [5e3, 5e3]),
    ],
)
def test_saturated_values_are_finite(activation, loss, z, y, expected):
    actual = value_of(activation, LOSSES[loss], z, y)
    assert_allclose(actual, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize(("activation", "loss"), ELEMENTWISE)
def test_a_nan_reaches_the_loss(activation, loss, backend):
    """From z, and so from o, and from y: a diverged network must not report a finite loss."""
    entry = pair(ACTIVATIONS[activation], LOSSES[loss])
    z, y = np.array([np.nan, np.nan, 0.5]), np.array([0.0, 1.0, np.nan])
    o = run(ACTIVATIONS[activation].forward, z)
    assert np.isnan(run(entry.loss, o, z, y, backend=backend)).all()


# ---- deltas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize(("activation", "loss"), ELEMENTWISE)
def test_delta_is_the_slope_of_the_loss(activation, loss, backend, rng):
    y = targets(loss, len(Z), rng)
    o = definitions.outputs(activation, Z)
    # Away from the kinks at o = y, and at |o - y| = 1 of huber, by more than the differences reach.
    near = (abs(o - y) < 0.02) | (abs(abs(o - y) - 1) < 0.02)
    if loss in ("absolute", "huber", "quantile"):
        y = y + 0.04 * near
    expected = definitions.slope(lambda z: definitions.terms(activation, loss, z, y), Z)
    expression = pair(ACTIVATIONS[activation], LOSSES[loss]).delta
    actual = run(expression, o, Z, y, 0.5, backend=backend)
    scale = max(1, abs(expected).max())
    assert_allclose(actual, 0.5 * expected, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize(
    ("activation", "loss", "z", "y", "expected"),
    [
        (SIGMOID, "log_loss", [1e4, 1e4, -1e4, -1e4], [0, 1, 0, 1], [1, 0, 0, -1]),
        (SIGMOID, "squared", [1e4, 1e4, -1e4, -1e4], [0, 1, 0, 1], [0, 0, 0, 0]),
        (EXP, "poisson", [-1e4, -1e4], [0, 2], [0, -2]),
        # d/dz of o - y log o, with o = exp(z): exp(z) - y
        (SOFTPLUS, "poisson", [-1e4, -1e4, -800, 1e4], [0, 2, 3, 2], [0, -2, -3, 1 - 2 / 1e4]),
        (SOFTPLUS, "poisson", [-30, -20], [2, 0.5], [-2, -0.5]),
        (IDENTITY, "squared", [1e4, -1e4], [0, 0], [1e4, -1e4]),
        (IDENTITY, "huber", [1e4, -1e4, 1, -1], [0, 0, 0, 0], [1, -1, 1, -1]),
        # 0 where the prediction is exact, which is a subgradient
        (IDENTITY, "absolute", [1e4, -1e4, 3], [0, 0, 3], [1, -1, 0]),
        (IDENTITY, "quantile", [1e4, -1e4, 3], [0, 0, 3], [0.5, -0.5, 0]),
    ],
)
def test_deltas_at_saturation_and_at_kinks(activation, loss, z, y, expected):
    # exp(-20) = 2e-9 is what separates softplus from exp there
    assert_allclose(delta_of(activation, LOSSES[loss], z, y), expected, rtol=1e-8, atol=1e-12)


def test_matched_deltas_are_exactly_o_minus_y():
    """No f' that would vanish where a unit is saturated and wrong."""
    o, y = np.array([0.0, 1.0, 0.3]), np.array([1.0, 0.0, 0.3])
    for activation, loss in [("identity", "squared"), ("sigmoid", "log_loss"),
                             ("softmax", "cross_entropy"), ("exp", "poisson")]:  # fmt: skip
        delta = pair(ACTIVATIONS[activation], LOSSES[loss]).delta
        assert_array_equal(run(delta, o, np.full(3, np.nan), y, 0.25), (o - y) * 0.25)


def test_which_pairs_keep_z():
    """Where z is not read again, the workspace lets it share memory with a."""
    keeping = {each for each in PAIRS if pair(*lookup(each)).reads_z}
    rule = {("sigmoid", "log_loss"), ("exp", "poisson"), ("softplus", "poisson")}
    rule |= {(a, loss) for a in ("silu", "gelu")
             for loss in ("squared", "absolute", "huber", "quantile")}  # fmt: skip
    assert keeping == rule


def lookup(names):
    return ACTIVATIONS[names[0]], LOSSES[names[1]]


# ---- parameters, and one's own -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "value", "delta"),
    [  # at o - y = -3 and 2
        (HUBER(limit=2.5), [2.5 * (3 - 1.25), 2.0], [-2.5, 2]),
        (HUBER(limit=0.5), [0.5 * (3 - 0.25), 0.5 * (2 - 0.25)], [-0.5, 0.5]),
        (QUANTILE(q=0.9), [2.7, 0.2], [-0.9, 0.1]),
        (QUANTILE(q=0.25), [0.75, 1.5], [-0.25, 0.75]),
    ],
)
def test_parameters(loss, value, delta):
    z, y = np.array([-2.0, 3.0]), np.array([1.0, 1.0])
    assert_allclose(value_of(IDENTITY, loss, z, y), value, rtol=1e-14)
    assert_allclose(delta_of(IDENTITY, loss, z, y), delta, rtol=1e-14)


def test_with_parameters_is_another_loss():
    assert HUBER(limit=2) != HUBER
    assert HUBER(limit=1) == HUBER() == HUBER
    assert len({HUBER, HUBER(limit=2), HUBER(limit=2.0)}) == 2
    assert HUBER(limit=2).targets == "any"
    assert dict(QUANTILE(q=0.9).parameters) == {"q": 0.9}


@pytest.mark.parametrize("value", [math.nan, -math.inf, "1", None, False])
def test_parameters_must_be_numbers(value):
    with pytest.raises(ValueError, match="parameter limit of 'huber' must be a finite number"):
        HUBER(limit=value)


CAUCHY = Loss("cauchy", "log1p(((o - y) / c) ** 2)", "2 * (o - y) / (c * c + (o - y) ** 2)", c=2)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "softmax"])
def test_a_loss_of_ones_own(activation, rng):
    """It goes with every elementwise output; its delta is the chain rule."""
    y = rng.normal(size=len(Z))
    entry = ACTIVATIONS[activation]
    check_pair(entry, CAUCHY)

    def loss(z):
        return np.log1p(((definitions.ACTIVATION[activation](z) - y) / 2) ** 2)

    assert_allclose(value_of(entry, CAUCHY, Z, y), loss(Z), rtol=1e-12)
    expected = definitions.slope(loss, Z)
    assert_allclose(delta_of(entry, CAUCHY, Z, y), expected, rtol=1e-8, atol=1e-9)


def test_a_loss_of_ones_own_with_an_activation_of_ones_own():
    softsign = Activation("softsign", "z / (1 + fabs(z))", "(1 - fabs(a)) ** 2")
    z, y = np.array([-3.0, 0.5]), np.array([1.0, 0.25])
    o = z / (1 + abs(z))
    assert_allclose(value_of(softsign, CAUCHY, z, y), np.log1p(((o - y) / 2) ** 2), rtol=1e-14)
    expected = 2 * (o - y) / (4 + (o - y) ** 2) / (1 + abs(z)) ** 2
    assert_allclose(delta_of(softsign, CAUCHY, z, y), expected, rtol=1e-14)


def test_a_clash_of_parameters_is_refused():
    mine = Loss("mine", "slope * (o - y) ** 2", "2 * slope * (o - y)", slope=3)
    with pytest.raises(
        ValueError, match=r"'mine' and activation 'leaky_relu' both have .* 'slope'"
    ):
        pair(LEAKY_RELU, mine)


@pytest.mark.parametrize("entry", [*LOSSES.values(), CAUCHY, HUBER(limit=3)], ids=lambda e: e.name)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda entry: pickle.loads(pickle.dumps(entry))]
)
def test_copies_are_equal(entry, duplicate):
    same = duplicate(entry)
    assert same == entry
    assert hash(same) == hash(entry)
    assert same.targets == entry.targets
    assert same.outputs == entry.outputs
    assert dict(same.matched) == dict(entry.matched)
    assert dict(same.from_z) == dict(entry.from_z)
    assert repr(same) == repr(entry)


def test_equality_is_of_every_part():
    parts = {"name": "mine", "f": "k * (o - y)", "df": "k", "outputs": ("exp",), "targets": "any",
             "matched": {"exp": "k * o"}, "from_z": {"exp": "k * (o - y)"}, "k": 1}  # fmt: skip
    others = [{"name": "other"}, {"f": "k * o"}, {"df": "1 * k"}, {"outputs": None}, {"k": 2},
              {"targets": "unit"}, {"matched": {}}, {"from_z": {}}]  # fmt: skip
    assert Loss(**parts) == Loss(**parts)
    for change in others:
        assert Loss(**parts) != Loss(**{**parts, **change})


@pytest.mark.parametrize(
    ("f", "df", "options", "message"),
    [
        ("(o - y", "1", {}, r"formula '\(o - y' cannot be parsed"),
        ("o - y", "cos(o)", {}, r"'cos\(o\)' is not allowed"),
        ("o - t", "1", {}, "'mine_loss' reads the unknown name 't'"),
        ("o - y", "w", {}, "'mine_derivative' reads the unknown name 'w'"),
        ("o - y", "1", {"q": math.inf}, "parameter q of 'mine' must be a finite number, got inf"),
        ("o - y", "1", {"targets": "labels"}, "targets of loss 'mine' must be any, .* 'labels'"),
        ("o - y", "nonsense(", {"matched": {"identity": "o"}}, r"formula .*nonsense\("),
        ("nonsense(", "1", {"from_z": {"identity": "o"}}, r"formula .*nonsense\("),
        ("o - y", "1", {"matched": {"sigmoid": "o - u"}}, "unknown name 'u'"),
        ("o - y", "1", {"from_z": {"sigmoid": "o - u"}}, "unknown name 'u'"),
        ("o - y", "1", {"matched": {"my_own": "o - u"}}, "unknown name 'u'"),
    ],
)
def test_malformed_losses(f, df, options, message):
    with pytest.raises(ValueError, match=message):
        Loss("mine", f, df, **options)


def test_unknown_parameters():
    with pytest.raises(ValueError, match="loss 'huber' has no parameter 'delta'; it has limit"):
        HUBER(delta=2.0)
    with pytest.raises(ValueError, match="loss 'squared' has no parameter 'q'; it has none"):
        SQUARED(q=2.0)


# ---- the table -----------------------------------------------------------------------------------


def test_table():
    assert all(entry.name == name for name, entry in LOSSES.items())
    assert {name: entry.targets for name, entry in LOSSES.items() if entry.targets != "any"} == {
        "log_loss": "unit", "cross_entropy": "classes", "poisson": "counts",
    }  # fmt: skip
    with pytest.raises(TypeError):
        LOSSES["mine"] = CAUCHY


def test_get():
    assert all(losses.get(name) is entry for name, entry in LOSSES.items())
    assert losses.get(CAUCHY) is CAUCHY
    with pytest.raises(ValueError, match=r"loss must be one of squared, .* or a Loss, got 'mse'"):
        losses.get("mse")
    with pytest.raises(TypeError, match="loss must be a name or a Loss, got None"):
        losses.get(None)
