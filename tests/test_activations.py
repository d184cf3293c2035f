"""Every activation on every target against SciPy's functions in float64."""

import copy
import itertools
import math
import pickle

import definitions
import numpy as np
import pytest
from conftest import BACKENDS, require
from numpy.testing import assert_allclose, assert_array_equal

import gpubackprop as gb
from gpubackprop import Activation, activations, backends
from gpubackprop.activations import ACTIVATIONS, ELU, LEAKY_RELU, SOFTMAX

ELEMENTWISE = [name for name, entry in ACTIVATIONS.items() if entry.elementwise]
#: float32: some ulps of each function's own (CUDA's expf and tanhf have 2), a product or two.
RTOL = {"float32": 1e-6, "float64": 1e-14}
#: Far out, and on both sides of what float32 and float64 can exponentiate.
FAR = [40.0, 88.0, 89.0, 103.0, 709.0, 746.0, 1e4]
NEAR = [1e-8, 1e-3, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0]
Z = np.array([*(-z for z in FAR), *(-z for z in NEAR), -0.0, 0.0, *NEAR, *FAR, np.nan])


def absolute_tolerance(name, dtype):
    """Return what may be lost below the relative tolerance."""
    info = np.finfo(dtype)
    if name == "gelu":
        # 1 + erf(z / sqrt(2)) cancels for z < 0: some roundings of 1, times z / 2.
        return 8 * info.eps
    # Below the normal range: 1 / inf is 0 where the true value would be subnormal, times z.
    return 1e4 * float(info.tiny)


def rounded(x, dtype):
    """Round to a dtype; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(dtype)


def reference(name, z):
    assert name in definitions.ACTIVATION, f"give {name} a definition in tests/definitions.py"
    with np.errstate(all="ignore"):
        return definitions.ACTIVATION[name](np.asarray(z, "float64"))


def run(backend, expression, dtype, *arrays):
    """Run an expression with one output on NumPy arrays of any dtype."""
    placed = [backend.asarray(np.asarray(x, dtype)) for x in arrays]
    out = backend.empty(placed[0].shape, dtype)
    backend.elementwise(expression, dtype)(*placed, out)
    assert out.dtype == dtype
    return backend.to_numpy(out)


# ---- forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_forward(backend, dtype, name):
    z = Z.astype(dtype)
    expected = rounded(reference(name, z), dtype)
    assert np.isnan(expected[-1])
    actual = run(backend, ACTIVATIONS[name].forward, dtype, z)
    assert_allclose(actual, expected, RTOL[dtype.name], absolute_tolerance(name, dtype))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_forward_into_its_argument(backend, dtype, name):
    z = backend.asarray(Z.astype(dtype))
    apart = run(backend, ACTIVATIONS[name].forward, dtype, Z)
    backend.elementwise(ACTIVATIONS[name].forward, dtype)(z, z)
    assert_array_equal(backend.to_numpy(z), apart)


@pytest.mark.parametrize("kept", [False, True], ids=["bias", "bias_keeping_z"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_forward_after_the_bias(name, kept):
    """On the host; tests/test_backends.py has layers of every backend, and fewer to compile."""
    backend, dtype = backends.get("numpy"), np.dtype("float32")
    x, b = np.float32([-3, -0.25, 2, 1e4, np.nan]), np.float32([1, 0.5, -1, 0, 1])
    placed = [backend.asarray(array) for array in (x, b)]
    z, out = backend.empty(5, dtype), backend.empty(5, dtype)
    with backend.active():
        if kept:
            backend.elementwise(ACTIVATIONS[name].bias_keeping_z, dtype)(*placed, z, out)
            assert_array_equal(backend.to_numpy(z), x + b)
        else:
            backend.elementwise(ACTIVATIONS[name].bias, dtype)(*placed, out)
    expected = rounded(reference(name, x + b), dtype)
    tolerance = absolute_tolerance(name, dtype)
    assert_allclose(backend.to_numpy(out), expected, RTOL["float32"], tolerance)


# ---- derivative ----------------------------------------------------------------------------------


@pytest.fixture(
    params=[each for each in itertools.product(BACKENDS, RTOL) if each != ("cupy", "float64")],
    ids="-".join,
)
def target(request):
    """Every backend in both dtypes, but for CuPy's kernels in float64.

    Those are tested in tests/test_cuda_printer.py, as one kernel, which compiles faster.
    """
    name, dtype = request.param
    require(name)
    found = backends.get(name)
    with found.active():
        yield found, np.dtype(dtype)


#: Around 0 but not at it, where some have a kink; within exp's good range.
SMOOTH = np.concatenate([np.linspace(-6, -0.05, 41), np.linspace(0.05, 6, 41)])


def read_by(name, z):
    """Return what f' reads: z, or the float64 reference of a."""
    return z if ACTIVATIONS[name].reads == "z" else reference(name, z)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivative_is_the_slope_of_f(name, dtype):
    """On the host; the other backends print the same formula within `delta`."""
    z = SMOOTH.astype(dtype).astype("float64")
    expected = definitions.slope(definitions.ACTIVATION[name], z)
    for which in ("numpy", "numpy-plain"):
        actual = run(backends.get(which), ACTIVATIONS[name].derivative, dtype, read_by(name, z))
        # The central differences are good to 1e-9; in float32 1 - a loses digits where a is near 1.
        atol = {"float32": 5e-7, "float64": 1e-9}[dtype.name]
        assert_allclose(actual, expected, {"float32": 2e-6, "float64": 1e-9}[dtype.name], atol)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_delta_is_the_error_times_the_slope(target, name):
    backend, dtype = target
    z = SMOOTH.astype(dtype).astype("float64")
    delta = np.random.default_rng(5).normal(size=z.shape).astype(dtype)
    expected = delta.astype("float64") * definitions.slope(definitions.ACTIVATION[name], z)
    actual = run(backend, ACTIVATIONS[name].delta, dtype, delta, read_by(name, z))
    atol = {"float32": 1e-6, "float64": 3e-9}[dtype.name]
    assert_allclose(actual, expected, {"float32": 4e-6, "float64": 1e-9}[dtype.name], atol)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_delta_into_the_error_and_into_what_is_read(backend, name):
    dtype = np.dtype("float32")
    delta, read = np.float32([1, -2, 3, 0.5]), np.float32(read_by(name, np.r_[-2, -0.5, 0.5, 2]))
    apart = run(backend, ACTIVATIONS[name].delta, dtype, delta, read)
    for out in (0, 1):
        placed = [backend.asarray(array.copy()) for array in (delta, read)]
        backend.elementwise(ACTIVATIONS[name].delta, dtype)(*placed, placed[out])
        assert_array_equal(backend.to_numpy(placed[out]), apart)
        assert_array_equal(backend.to_numpy(placed[1 - out]), (delta, read)[1 - out])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slope_at_zero(target, name):
    """With both signs of zero, and of the a that goes with it."""
    backend, dtype = target
    read = read_by(name, np.array([0.0, -0.0]))
    actual = run(backend, ACTIVATIONS[name].delta, dtype, [1.0, 1.0], read)
    # 0.5 exp(...) and such: one rounding
    assert_allclose(actual, [definitions.SLOPE_AT_0[name]] * 2, rtol=np.finfo(dtype).eps)


#: f' at -1e4 and 1e4, from the limits of the definitions.
SATURATED = {
    "identity": (1, 1), "sigmoid": (0, 0), "tanh": (0, 0), "relu": (0, 1), "leaky_relu": (0.01, 1),
    "elu": (0, 1), "softplus": (0, 1), "silu": (0, 1), "gelu": (0, 1), "exp": (0, np.inf),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_delta_at_saturation(target, name):
    backend, dtype = target
    read = rounded(read_by(name, rounded([-1e4, 1e4], dtype)), dtype)
    actual = run(backend, ACTIVATIONS[name].delta, dtype, [2.0, -2.0], read)
    low, high = SATURATED[name]
    assert_allclose(actual, [2.0 * low, -2.0 * high], rtol=np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_nan_error_stays_one(target, name):
    """Even where f' is 0: a loss that is NaN must not be turned into an update by zeros."""
    backend, dtype = target
    read = read_by(name, np.array([-1.0, 1.0]))
    assert np.isnan(run(backend, ACTIVATIONS[name].delta, dtype, [np.nan] * 2, read)).all()


def test_what_is_read_again():
    """Only two formulas need z; for every other one a training step keeps a alone."""
    assert {name for name, entry in ACTIVATIONS.items() if entry.reads == "z"} == {"silu", "gelu"}
    assert [name for name, entry in ACTIVATIONS.items() if entry.linear] == ["identity"]
    assert [name for name, entry in ACTIVATIONS.items() if not entry.elementwise] == ["softmax"]


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "at_minus_2", "slope_at_minus_2"),
    [
        (LEAKY_RELU(slope=0.2), -0.4, 0.2),
        (LEAKY_RELU(slope=0.3)(slope=0.25), -0.5, 0.25),
        (ELU(alpha=1.5), 1.5 * (math.exp(-2) - 1), 1.5 * math.exp(-2)),
        (LEAKY_RELU, -0.02, 0.01),
    ],
    ids=["slope 0.2", "twice", "alpha 1.5", "unchanged"],
)
def test_parameters(backend, activation, at_minus_2, slope_at_minus_2):
    dtype = np.dtype("float64")
    a = run(backend, activation.forward, dtype, [-2.0, 3.0])
    assert_allclose(a, [at_minus_2, 3.0], rtol=1e-14)
    actual = run(backend, activation.delta, dtype, [1.0, 1.0], a)
    assert_allclose(actual, [slope_at_minus_2, 1.0], rtol=1e-14)


def test_with_parameters_is_another_activation():
    assert LEAKY_RELU(slope=0.2) != LEAKY_RELU
    assert LEAKY_RELU(slope=0.2) == LEAKY_RELU(slope=0.2)
    assert LEAKY_RELU() == LEAKY_RELU(slope=0.01) == LEAKY_RELU
    assert len({LEAKY_RELU, LEAKY_RELU(slope=0.2), LEAKY_RELU(slope=0.01)}) == 2
    assert dict(LEAKY_RELU(slope=1).parameters) == {"slope": 1.0}
    with pytest.raises(TypeError):
        LEAKY_RELU.parameters["slope"] = 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.1", None, True, 1j, [0.1]])
def test_parameters_must_be_numbers(value):
    with pytest.raises(ValueError, match="parameter slope of 'leaky_relu' must be a finite number"):
        LEAKY_RELU(slope=value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LEAKY_RELU(alpha=0.1), "'leaky_relu' has no parameter 'alpha'; it has slope"),
        (lambda: SOFTMAX(slope=0.1), "'softmax' has no parameter 'slope'; it has none"),
    ],
)
def test_unknown_parameters(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- one's own -----------------------------------------------------------------------------------

SOFTSIGN = Activation("softsign", f="z / (1 + fabs(z))", df="(1 - fabs(a)) ** 2")


def test_an_activation_of_ones_own(backend, dtype):
    z = np.array([-1e4, -3.0, -0.0, 0.0, 0.5, 1e4])
    a = run(backend, SOFTSIGN.forward, dtype, z)
    eps = float(np.finfo(dtype).eps)
    assert_allclose(a, z / (1 + abs(z)), rtol=4 * eps)
    slopes = run(backend, SOFTSIGN.delta, dtype, np.ones(6), a)
    # 1 - |a| has lost digits where a is near 1: an absolute tolerance
    assert_allclose(slopes, 1 / (1 + abs(z)) ** 2, rtol=8 * eps, atol=8 * eps)
    assert SOFTSIGN.reads == "a"


@pytest.mark.parametrize("entry", [*ACTIVATIONS.values(), SOFTSIGN], ids=lambda entry: entry.name)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_equal(entry, duplicate):
    same = duplicate(entry)
    assert same == entry
    assert hash(same) == hash(entry)
    assert type(same) is type(entry)
    assert repr(same) == repr(entry)
    assert same.elementwise == entry.elementwise


def test_equality_is_of_every_part():
    f, df = "slope * z", "slope"
    entry = Activation("line", f, df, slope=2)
    others = [
        Activation("line2", f, df, slope=2),
        Activation("line", "z * slope", df, slope=2),
        Activation("line", f, "slope * 1", slope=2),
        Activation("line", f, df, slope=3),
    ]
    for other in [*others, "line", None]:
        assert entry != other
    assert entry == Activation("line", f, df, slope=2.0)


def test_repr_can_be_evaluated():
    for entry in (SOFTSIGN, ELU(alpha=0.5)):
        assert eval(repr(entry), {"Activation": Activation}) == entry


@pytest.mark.parametrize(
    ("name", "f", "df", "parameters", "message"),
    [
        ("mine", "z +", "1", {}, r"formula 'z \+' cannot be parsed"),
        ("mine", "sin(z)", "1", {}, r"'sin\(z\)' is not allowed"),
        ("mine", "z * slope", "1", {}, "'mine_forward' reads the unknown name 'slope'"),
        ("mine", "z", "a * k", {}, "'mine_derivative' reads the unknown name 'k'"),
        ("mine", "a", "1", {}, "'mine_forward' reads the unknown name 'a'"),
        ("mine", "z", "a * z", {}, "df of activation 'mine' reads both a and z"),
        ("mine", "where(z, z, 0)", "1", {}, "the condition 'z' of where must be one comparison"),
        ("my own", "z", "1", {}, "'my own"),
        ("mine", "z * z1", "1", {"z1": math.inf}, "parameter z1 of 'mine' must be a finite number"),
        ("mine", "z * z", "z", {"z": 1}, "uses the name 'z' twice"),
        ("mine", "z * n", "1", {"n": 1}, "'n' in expression 'mine_forward' cannot be used"),
    ],
)
def test_malformed_activations(name, f, df, parameters, message):
    with pytest.raises(ValueError, match=message):
        Activation(name, f, df, **parameters)


# ---- the table -----------------------------------------------------------------------------------


def test_table_is_by_name_and_read_only():
    assert all(entry.name == name for name, entry in ACTIVATIONS.items())
    with pytest.raises(TypeError):
        ACTIVATIONS["mine"] = SOFTSIGN


def test_get():
    assert all(activations.get(name) is entry for name, entry in ACTIVATIONS.items())
    assert activations.get(SOFTSIGN) is SOFTSIGN
    with pytest.raises(
        ValueError, match=r"hidden must be one of identity, sigmoid, .* got 'sigmoud'"
    ):
        activations.get("sigmoud", "hidden")
    with pytest.raises(TypeError, match="activation must be a name or an Activation, got 3"):
        activations.get(3)


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_a_slope_that_would_turn_the_sign_is_refused(value):
    """df reads the sign of a; with such a value it would not be the sign of z."""
    with pytest.raises(ValueError, match=r"slope of 'leaky_relu' must be > 0, got"):
        activations.LEAKY_RELU(slope=value)
    with pytest.raises(ValueError, match=r"alpha of 'elu' must be > 0, got"):
        activations.ELU(alpha=value)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_a_name_of_the_table_with_other_formulas_is_refused(name):
    """Losses take the delta of a matched pair by the activation's name."""
    own = Activation(name, f="z / 2", df="0.5")
    with pytest.raises(ValueError, match=f"activation '{name}' has other formulas"):
        gb.Network([2, 2], output=own, loss="squared", backend="numpy")
