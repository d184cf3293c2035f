"""Bad input: each kind is refused with the argument, the value, its place and the way out."""

import re

import numpy as np
import pytest

from gpubackprop.activations import get as activation
from gpubackprop.backends import get
from gpubackprop.data import source
from gpubackprop.losses import get as loss
from gpubackprop.model import Model

NUMPY = get("numpy")
OUTPUT = {"log_loss": "sigmoid", "cross_entropy": "softmax", "poisson": "exp"}


def network(n_in=3, n_out=1, cost="squared", dtype="float32"):
    """Return the model of a network of one layer."""
    output = activation(OUTPUT.get(cost, "identity"))
    return Model((n_in, n_out), (output,), loss(cost), (True,), (), np.dtype(dtype))


def refused(error, words, X, Y=None, w=None, model=None, backend=NUMPY, prefix=""):
    """Check that the data are refused, and that the error says all of the words."""
    with pytest.raises(error) as caught:
        source(X, Y, w, model or network(), backend, prefix=prefix)
    for word in words:
        assert word in str(caught.value)


def good(n=4, width=3):
    return np.arange(n * width, dtype=np.float64).reshape(n, width)


def spoiled(value, row=2, column=1, **kind):
    X = good(**kind)
    X[row, column] = value
    return X


# ---- shapes --------------------------------------------------------------------------------------

BAD_SHAPES = {
    "1-D": (np.zeros(3), ["X must be 2-D", "for one sample use X[None, :]", "(3,)"]),
    "0-D": (5.0, ["X must be 2-D", "()"]),
    "3-D": (np.zeros((4, 3, 1)), ["X must be 2-D", "X.reshape(len(X), -1)", "(4, 3, 1)"]),
    "columns": (np.zeros((4, 2)), ["X must have 3 columns", "(4, 2)"]),
    "empty": (np.zeros((0, 3)), ["X must have at least one row", "(0, 3)"]),
    "empty list": ([], ["X must be 2-D", "(0,)"]),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_shape_of_X(case, backend):
    X, words = BAD_SHAPES[case]
    refused(ValueError, words, X, backend=backend)
    if isinstance(X, np.ndarray):
        refused(ValueError, words, backend.asarray(X), backend=backend)


BAD_TARGET_SHAPES = {
    "unequal lengths": ("squared", 1, np.zeros(3), ["Y", "each of the 4 rows of X", "(3,)"]),
    "0-D": ("squared", 1, 1.0, ["Y", "each of the 4 rows of X", "()"]),
    "columns": ("squared", 2, np.zeros((4, 3)), ["Y must have shape (4, 2)", "(4, 3)"]),
    "flat": ("squared", 2, np.zeros(4), ["Y must have shape (4, 2)", "'squared'", "(4,)"]),
    "3-D": ("squared", 1, np.zeros((4, 1, 1)), ["(4,) or (4, 1)", "(4, 1, 1)"]),
    "labels as a column": ("cross_entropy", 3, np.zeros((4, 1)), ["(4,)", "(4, 3)", "Y.ravel()"]),
    "two columns of three": ("cross_entropy", 3, np.zeros((4, 2)), ["(4, 3)", "got (4, 2)"]),
    "log_loss": ("log_loss", 1, np.zeros((4, 2)), ["(4,) or (4, 1)", "'log_loss'", "(4, 2)"]),
}


@pytest.mark.parametrize("case", BAD_TARGET_SHAPES)
def test_shape_of_Y(case):
    cost, n_out, Y, words = BAD_TARGET_SHAPES[case]
    refused(ValueError, words, good(), Y, model=network(3, n_out, cost))


@pytest.mark.parametrize("shape", [(3,), (4, 1), ()])
def test_shape_of_weights(shape):
    words = ["sample_weight must have shape (4,)", str(shape)]
    refused(ValueError, words, good(), np.zeros(4), np.ones(shape))


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", ">f4", "object"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_X_not_finite(value, dtype, order):
    words = ["X must be finite", f"got {value}", "row 2, column 1"]
    refused(ValueError, words, spoiled(value).astype(dtype, order=order))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_on_the_backend(value, backend):
    bad, Y = spoiled(value), np.zeros((4, 1))
    words = [f"got {value}", "row 2, column 1"]
    refused(ValueError, ["X must be finite", *words], backend.asarray(bad), backend=backend)
    refused(ValueError, ["X must be finite", *words], bad, backend=backend)
    model = network(3, 3)
    for given in (bad, backend.asarray(bad)):
        refused(ValueError, ["Y must be finite", *words], good(), given, None, model, backend)
    w = np.array([1, value, 1, 1])
    words = ["sample_weight must be finite", f"got {value}", "row 1"]
    for given in (w, backend.asarray(w)):
        refused(ValueError, words, good(), Y, given, backend=backend)


def test_the_first_bad_value_of_a_large_array_is_named():
    X = np.zeros((900_000, 3), np.float32)
    X[700_000, 2] = X[700_001, 0] = X[899_999, 0] = np.nan
    refused(ValueError, ["row 700000, column 2"], X)


@pytest.mark.parametrize("value", [1e39, -1e39, 1.7e308])
def test_what_float32_cannot_hold(value):
    words = ["X must fit float32", "3.4e+38", f"{value:g}", "row 2, column 1", "dtype='float64'"]
    refused(ValueError, words, spoiled(value))
    words[0] = "Y must fit float32"
    refused(ValueError, words, good(), spoiled(value), model=network(3, 3))
    source(spoiled(value), None, None, network(dtype="float64"), NUMPY)
    if value > 0:
        words[1:] = [f"{value:g}", "row 2"]
        refused(ValueError, words, good(), [1, 2, value, 0], model=network(3, 1, "poisson"))


@pytest.mark.parametrize("value", [3.4028234e38, -3.4028234e38])
def test_the_largest_of_float32_is_taken(value):
    source(spoiled(value).astype(np.float32), None, None, network(), NUMPY)


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(float).max, reason="longdouble is float64 here"
)
def test_what_float64_cannot_hold():
    X = good().astype(np.longdouble)
    X[0, 0] = np.longdouble("1e4000")
    refused(ValueError, ["X must be finite", "inf", "row 0"], X, model=network(dtype="float64"))


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_large_integers_fit(dtype):
    X = np.full((2, 3), np.iinfo(dtype).max, dtype)
    source(X, None, None, network(), NUMPY)


BAD_TARGETS = {
    "below 0..1": (
        "log_loss",
        1,
        [0, 1, -0.5, 1],
        ["Y must be in 0..1", "'log_loss'", "-0.5", "row 2"],
    ),
    "above 0..1": ("log_loss", 1, [0, 2, 1, 1], ["Y must be in 0..1", "got 2", "row 1, column 0"]),
    "NaN in 0..1": ("log_loss", 1, [0, np.nan, 1, 1], ["Y must be finite", "nan", "row 1"]),
    "integer in 0..1": ("log_loss", 1, np.array([0, 255, 1, 1], np.uint8), ["0..1", "got 255"]),
    "negative counts": (
        "poisson",
        1,
        [0, 3, 10, -1],
        ["Y must be at least 0", "'poisson'", "-1", "row 3"],
    ),
    "label too large": ("cross_entropy", 3, [0, 1, 3, 2], ["class numbers 0..2", "got 3", "row 2"]),
    "labels from 1": (
        "cross_entropy",
        3,
        [1, 2, 3, 1],
        ["class numbers 0..2", "got 3", "np.unique"],
    ),
    "negative label": (
        "cross_entropy",
        3,
        [0, 1, -1, 2],
        ["class numbers 0..2", "got -1", "row 2"],
    ),
    "fractional label": ("cross_entropy", 3, [0, 1, 2, 1.5], ["class numbers", "got 1.5", "row 3"]),
    "NaN label": ("cross_entropy", 3, [0, 1, np.nan, 1], ["class numbers", "got nan", "row 2"]),
    "uint8 label": (
        "cross_entropy",
        300,
        np.array([300, 0, 0, 0], np.uint16),
        ["got 300", "row 0"],
    ),
    "sum": ("cross_entropy", 2, [[1, 0], [0.6, 0.6], [0, 1], [0, 1]], ["sum to 1", "1.2", "row 1"]),
    "no class": (
        "cross_entropy",
        2,
        [[1, 0], [0, 1], [0, 0], [0, 1]],
        ["sum to 1", "of 0", "row 2"],
    ),
    "negative share": (
        "cross_entropy",
        2,
        [[1, 0], [0, 1], [-1, 2], [0, 1]],
        ["in 0..1", "-1", "row 2"],
    ),
    "NaN share": (
        "cross_entropy",
        2,
        [[1, 0], [0, np.nan], [1, 0], [0, 1]],
        ["finite", "row 1, column 1"],
    ),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_values_of_Y(case, backend):
    cost, n_out, Y, words = BAD_TARGETS[case]
    model = network(3, n_out, cost)
    refused(ValueError, words, good(), Y, None, model, backend)
    refused(ValueError, words, good(), backend.asarray(np.asarray(Y)), None, model, backend)


GOOD_TARGETS = {
    "bool": ("log_loss", 1, np.array([True, False, True, True])),
    "shares": ("log_loss", 1, np.array([[0.0], [0.25], [1.0], [1e-30]])),
    "several outputs": ("log_loss", 2, np.eye(4)[:, :2]),
    "float labels": ("cross_entropy", 3, np.array([0.0, 2.0, 1.0, 1.0])),
    "bool labels": ("cross_entropy", 2, np.array([True, False, True, True])),
    "float16 labels": ("cross_entropy", 70_000, np.array([0, 1, 2, 2048], np.float16)),
    "probabilities": ("cross_entropy", 2, np.array([[0.3, 0.7], [0.9999, 0], [1, 0], [0.5, 0.5]])),
    "zero counts": ("poisson", 1, np.array([0, 0, 1, 10**6])),
    "any": ("squared", 1, np.array([-5, 7, 1e30, 0])),
}


@pytest.mark.parametrize("case", GOOD_TARGETS)
def test_good_targets(case, backend):
    cost, n_out, Y = GOOD_TARGETS[case]
    model = network(3, n_out, cost)
    source(good(), Y, None, model, backend)
    source(good(), backend.asarray(Y), None, model, backend)


@pytest.mark.parametrize(
    ("w", "words"),
    [
        ([1, 1, -1, 1], ["sample_weight must be at least 0", "got -1", "row 2"]),
        ([0, 0, 0, 0], ["sample_weight must have a weight above 0"]),
    ],
)
def test_weights(w, words):
    refused(ValueError, words, good(), np.zeros(4), w)


# ---- types ---------------------------------------------------------------------------------------


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("detach me first")


BAD_TYPES = {
    "strings": (TypeError, np.full((4, 3), "a"), ["X must hold real numbers", "<U1", "np.unique"]),
    "numbers as text": (TypeError, [["1", "2", "3"]], ["X must hold real numbers", "<U1"]),
    "bytes": (TypeError, np.full((4, 3), b"a"), ["X must hold real numbers", "|S1"]),
    "objects": (TypeError, [[1, 2, {}]], ["X must hold real numbers", "objects", "dict"]),
    "text objects": (TypeError, np.array([[1, 2, "a"]], object), ["X", "objects", "'a'"]),
    "huge integers": (TypeError, [[1, 2, 10**400]], ["X", "objects", "too large"]),
    "complex": (TypeError, np.zeros((4, 3), complex), ["X must hold real numbers", "X.real"]),
    "complex objects": (TypeError, np.array([[1, 2, 1j]], object), ["X", "objects", "complex"]),
    "dates": (TypeError, np.zeros((4, 3), "M8[s]"), ["X must hold real numbers", "datetime64"]),
    "records": (TypeError, np.zeros(4, "f4,f4"), ["X must hold real numbers", "astype"]),
    "a set": (TypeError, {1, 2, 3}, ["X must hold real numbers", "set"]),
    "ragged": (ValueError, [[1, 2, 3], [4, 5]], ["X must be an array", "one length", "list"]),
    "masked": (
        TypeError,
        np.ma.masked_array(good(), good() == 5),
        ["X must not have masked values", "X.filled(value)"],
    ),
    "no array": (ValueError, Unreadable(), ["X must be an array", "Unreadable", "detach me"]),
}


@pytest.mark.parametrize("case", BAD_TYPES)
def test_types(case):
    error, X, words = BAD_TYPES[case]
    refused(error, words, X)


def test_string_labels():
    words = ["Y must hold real numbers", "np.unique(labels, return_inverse=True)[1]"]
    refused(TypeError, words, good(2), ["cat", "dog"], model=network(3, 2, "cross_entropy"))


def test_missing_values_are_not_finite():
    refused(ValueError, ["X must be finite", "nan", "row 0, column 1"], [[1, None, 2]])


def test_sparse():
    sparse = pytest.importorskip("scipy.sparse")
    refused(
        TypeError, ["X must be dense, CSR or CSC", "coo", "X.tocsr()"], sparse.coo_array(good())
    )
    refused(TypeError, ["X must hold real numbers"], sparse.csr_array(good() * 1j))
    for kind in (sparse.csr_matrix, sparse.csc_array):
        refused(ValueError, ["X must be finite, got nan at row 2, column 1"], kind(spoiled(np.nan)))
        Y = kind(good()[:, :1])
        refused(TypeError, ["Y must be dense", type(Y).__name__, "Y.toarray()"], good(), Y)


def test_a_gpu_array_on_numpy(backend):
    if backend.host:

        class Foreign:
            __cuda_array_interface__ = {"shape": (4, 3)}  # noqa: RUF012

        X = Foreign()
    else:
        X = backend.asarray(good())
    refused(TypeError, ["X lives on a GPU", "'numpy'", "X.get()", "backend='cupy'"], X)


class Tensor:
    """Another library's array on the GPU, which speaks one protocol alone."""

    def __init__(self, x, protocol):
        self.x = x
        if protocol == "interface":
            self.__cuda_array_interface__ = x.__cuda_array_interface__

    def __getattr__(self, name):
        if name in ("__dlpack__", "__dlpack_device__") and "__cuda" not in str(vars(self)):
            return getattr(self.x, name)
        raise AttributeError(name)


@pytest.mark.parametrize("protocol", ["interface", "dlpack"])
def test_arrays_of_other_libraries_on_the_gpu_are_read_in_place(cupy_backend, protocol):
    x = cupy_backend.asarray(good().astype("float32"))
    tensor = Tensor(x, protocol)
    assert hasattr(tensor, "__dlpack__") == (protocol == "dlpack")
    data = source(tensor, None, None, network(), cupy_backend)
    view = data.view_inputs(0, len(x))
    assert view.data.ptr == x.data.ptr
    refused(TypeError, ["X lives on a GPU", "'numpy'"], tensor)


def test_a_tensor_that_cannot_be_read():
    class Variable:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("requires grad; use detach()")

    refused(TypeError, ["X cannot be read: requires grad; use detach()"], Variable())


def test_complex_on_the_backend(backend):
    X = backend.asarray(good().astype(complex))
    refused(TypeError, ["X must hold real numbers", "complex128"], X, backend=backend)


def test_a_mask_that_masks_nothing_is_fine():
    source(np.ma.masked_array(good(), False), None, None, network(), NUMPY)


def test_prefix_names_the_argument():
    Y, w = np.zeros(4), np.ones(4)
    refused(ValueError, ["validation X must be finite"], spoiled(np.nan), Y, prefix="validation ")
    refused(ValueError, ["validation Y must"], good(), Y[:2], prefix="validation ")
    refused(ValueError, ["validation sample_weight must"], good(), Y, -w, prefix="validation ")


@pytest.mark.parametrize("case", [*BAD_SHAPES, *BAD_TYPES])
def test_every_error_tells_what_it_got(case):
    X = (BAD_SHAPES | {key: value[1:] for key, value in BAD_TYPES.items()})[case][0]
    with pytest.raises((ValueError, TypeError)) as caught:
        source(X, None, None, network(), NUMPY)
    assert re.search(r"\bgot\b|masked", str(caught.value))
