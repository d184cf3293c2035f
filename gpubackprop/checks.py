"""Checks of a user's arrays: every error names the argument, the value, its place and the way out.

A check looks at a block of rows through array methods alone (`min`, `max`, `sum`), so the same
lines serve every backend, and no temporary is larger than a block.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.model import Model
from gpubackprop.types import Array

#: Looks at a block of rows: its values, and which rows they are (a slice or an integer array).
Check = Callable[[Array, Any], None]

#: kDLCUDA of DLPack's header.
_DLPACK_CUDA = 2

#: Elements that are looked at together.
BLOCK = 2**20

#: How far the sum of a row of class probabilities may be from 1.
SUM_TOLERANCE = 1e-3


# ---- from what the user gave to an array of real numbers -----------------------------------------


def is_sparse(x: Any) -> bool:
    """Tell whether x is one of SciPy's sparse matrices or arrays, without importing SciPy."""
    return hasattr(x, "toarray") and hasattr(x, "nnz")


def as_csr(x: Any, name: str) -> Any:
    """Return a sparse matrix or array of real numbers in CSR format; x itself if it is that.

    Raises
    ------
    TypeError
        If it is in another format than CSR or CSC, or does not hold real numbers.
    """
    if x.format not in ("csr", "csc"):
        raise TypeError(f"{name} must be dense, CSR or CSC, got {x.format!r}; use {name}.tocsr()")
    _real(x.data, name)
    return x.tocsr()


def as_array(x: Any, name: str, backend: Backend) -> Array:
    """Return x as an array of real numbers; nothing is copied that is one already.

    Parameters
    ----------
    x : array-like
        An array of the backend, or anything that NumPy, DLPack or ``__cuda_array_interface__`` can
        read: lists, data frames, object arrays of numbers, memory maps.
    name : str
        What to call it in errors.
    backend : Backend

    Returns
    -------
    array
        On the backend's device if x is on one, else a NumPy array.

    Raises
    ------
    TypeError
        If x does not hold real numbers, is sparse or masked, or lives on a GPU while the backend
        does not.
    ValueError
        If rows have unequal lengths.
    """
    if is_sparse(x):
        raise TypeError(
            f"{name} must be dense, got a sparse {type(x).__name__}; use {name}.toarray()"
        )
    masks = sys.modules.get("numpy.ma")  # where it is not loaded, x is none of its arrays
    if masks is not None and isinstance(x, masks.MaskedArray) and x.mask.any():
        raise TypeError(f"{name} must not have masked values; fill them with {name}.filled(value)")
    if on_gpu(x, name):
        if backend.host:
            raise TypeError(
                f"{name} lives on a GPU and the network on {backend.name!r}; copy it to the host "
                f"({name}.get() or {name}.cpu()), or choose backend='cupy'"
            )
        return _real(x if backend.owns(x) else backend.asarray(x), name)
    return _real(_as_numpy(x, name), name)


def on_gpu(x: Any, name: str) -> bool:
    """Tell whether an array lives on a CUDA device, as far as it says."""
    try:
        if hasattr(x, "__cuda_array_interface__"):
            return True
        return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] == _DLPACK_CUDA
    except (RuntimeError, BufferError) as error:  # a PyTorch tensor that requires its gradient
        raise TypeError(f"{name} cannot be read: {error}") from None


def _as_numpy(x: Any, name: str) -> np.ndarray:
    """Return x as a NumPy array of any type, without a copy where it is one."""
    try:
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
            return np.from_dlpack(x)
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must be an array of numbers with rows of one length, "
            f"got {type(x).__name__}: {error}"
        ) from None


def _real(array: Array, name: str) -> Array:
    """Return the array if it holds real numbers, its conversion if it holds objects that are."""
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "O":
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"{name} must hold real numbers, got objects that do not convert: {error}; "
                "encode or remove them"
            ) from None
    way_out = {
        "c": f"use {name}.real, or real and imaginary parts as columns",
        "U": "encode text as numbers, e.g. np.unique(labels, return_inverse=True)[1] for labels",
    }
    kind = "U" if array.dtype.kind in "UST" else array.dtype.kind
    hint = way_out.get(kind, f"convert it, e.g. {name}.astype(float)")
    raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}; {hint}")


# ---- shapes --------------------------------------------------------------------------------------


def check_inputs(X: Array, name: str, n_in: int) -> None:
    """Check that X is (n_samples, n_in) with at least one row.

    Raises
    ------
    ValueError
    """
    if X.ndim != 2:
        way_out = (
            f"for one sample use {name}[None, :], for one feature {name}[:, None]"
            if X.ndim == 1
            else f"flatten each sample with {name}.reshape(len({name}), -1)"
        )
        raise ValueError(f"{name} must be 2-D; {way_out}; got shape {X.shape}")
    if X.shape[1] != n_in:
        raise ValueError(
            f"{name} must have {n_in} columns, one for each input of the network, "
            f"got shape {X.shape}"
        )
    if X.shape[0] == 0:
        raise ValueError(f"{name} must have at least one row, got shape {X.shape}")


def check_targets(Y: Array, name: str, n_samples: int, model: Model) -> tuple[Array, Check]:
    """Check the shape of the targets and choose the check of their values.

    Returns
    -------
    array of shape (n_samples, n_out), or (n_samples,) where they are class numbers
        A view of Y.
    Check

    Raises
    ------
    ValueError
    """
    n_out, loss = model.sizes[-1], model.loss
    if Y.ndim == 0 or len(Y) != n_samples:
        raise ValueError(
            f"{name} must have one row for each of the {n_samples} rows of X, got shape {Y.shape}"
        )
    if Y.ndim == 1 and loss.targets == "classes":
        return Y, ClassNumbers(name, n_out)
    if Y.ndim == 1 and n_out == 1:
        Y = Y[:, None]
    if Y.shape != (n_samples, n_out):
        hint = f"; use {name}.ravel()" if loss.targets == "classes" and Y.shape[1:] == (1,) else ""
        raise ValueError(
            f"{name} must have shape {_wanted(n_samples, model)} for loss {loss.name!r}, "
            f"got {Y.shape}{hint}"
        )
    if loss.targets == "classes":
        return Y, Probabilities(name, model.dtype)
    low, high = {"unit": (0.0, 1.0), "counts": (0.0, None)}.get(loss.targets, (None, None))
    return Y, Range(name, model.dtype, low, high, f" for loss {loss.name!r}")


def _wanted(n_samples: int, model: Model) -> str:
    """Name the shapes that targets may have."""
    full = f"({n_samples}, {model.sizes[-1]})"
    if model.loss.targets == "classes":
        return f"({n_samples},) with class numbers or {full} with rows of probabilities"
    return f"({n_samples},) or {full}" if model.sizes[-1] == 1 else full


# ---- values --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """Check that values are finite numbers of a dtype, in low..high where these are given.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
        What the network computes in.
    low, high : float or None
        None: as far as the dtype reaches.
    purpose : str
        Behind the range in an error: " for loss 'log_loss'".
    """

    name: str
    dtype: np.dtype
    low: float | None = None
    high: float | None = None
    purpose: str = ""

    def __call__(self, values: Array, rows: Any) -> None:
        """Raise a ValueError that names the first bad row."""
        if self.low is None and self.high is None and values.dtype.kind != "f":
            return  # integers are finite, and the largest of them is far below the largest float32
        limit = float(np.finfo(self.dtype).max)
        low = -limit if self.low is None else self.low
        high = limit if self.high is None else self.high
        # A NaN makes both comparisons false.
        if not (low <= float(values.min()) and float(values.max()) <= high):
            self.refuse(values, rows, low, high, limit)

    def refuse(self, values: Array, rows: Any, low: float, high: float, limit: float) -> NoReturn:
        """Raise the error."""
        with np.errstate(over="ignore"):
            values = values.astype(np.float64)
        value, place = _first(~((values >= low) & (values <= high)), values, rows)
        if not np.isfinite(value):
            wanted, way_out = "be finite", "; remove or fill such rows"
        elif abs(value) > limit:
            wanted = f"fit {self.dtype} (at most {limit:.3g} in size)"
            way_out = "; scale it, or use dtype='float64'"
        else:
            span = f"at least {low:g}" if self.high is None else f"in {low:g}..{high:g}"
            wanted, way_out = f"be {span}{self.purpose}", ""
        raise ValueError(f"{self.name} must {wanted}, got {value:g} at {place}{way_out}")


@dataclass(frozen=True)
class ClassNumbers:
    """Check that values are whole numbers 0..n_classes - 1, of whatever dtype."""

    name: str
    n_classes: int

    def __call__(self, values: Array, rows: Any) -> None:
        """Raise a ValueError that names the first bad row."""
        if self.good(values):
            return
        values = values.astype(np.float64)
        bad = ~((values >= 0) & (values < self.n_classes) & (values % 1 == 0))
        value, place = _first(bad, values, rows)
        raise ValueError(
            f"{self.name} must hold class numbers 0..{self.n_classes - 1}, "
            f"got {value:g} at {place}; "
            "np.unique(labels, return_inverse=True)[1] numbers labels of any kind"
        )

    def good(self, values: Array) -> bool:
        """Tell whether all is well, without a temporary for integers."""
        # A NaN makes both comparisons false.
        if not (float(values.min()) >= 0 and float(values.max()) < self.n_classes):
            return False
        return values.dtype.kind != "f" or bool((values % 1 == 0).all())


@dataclass(frozen=True)
class Probabilities:
    """Check that rows are one-hot, or probabilities that sum to 1."""

    name: str
    dtype: np.dtype

    def __call__(self, values: Array, rows: Any) -> None:
        """Raise a ValueError that names the first bad row."""
        Range(self.name, self.dtype, 0.0, 1.0, " (one-hot rows, or probabilities)")(values, rows)
        sums = values.sum(axis=1, dtype=np.float64)
        bad = abs(sums - 1) > SUM_TOLERANCE
        if bool(bad.any()):
            value, place = _first(bad, sums, rows)
            raise ValueError(
                f"{self.name} must have rows that sum to 1 (one-hot, or probabilities), "
                f"got a sum of {value:g} at {place}"
            )


def _first(bad: Array, values: Array, rows: Any) -> tuple[float, str]:
    """Return the first value that is bad, and where it stands."""
    row, *column = np.unravel_index(int(bad.argmax()), bad.shape)
    value = float(values[row, *column])
    first = rows.start + row if isinstance(rows, slice) else int(rows[row])
    return value, f"row {first}" + (f", column {column[0]}" if column else "")


def blocks(array: Array) -> list[slice]:
    """Cut an array's rows into blocks of about `BLOCK` elements."""
    n_rows = max(1, BLOCK // max(1, array[:1].size))
    return [slice(i, min(i + n_rows, len(array))) for i in range(0, len(array), n_rows)]


def check_all(array: Array, check: Check) -> None:
    """Check a whole array, block by block.

    Raises
    ------
    ValueError
        That names the first bad row.
    """
    for rows in blocks(array):
        check(array[rows], rows)


def check_csr(X: Any, check: Check) -> None:
    """Check the values that a CSR matrix stores.

    Raises
    ------
    ValueError
        That names the first bad row.
    """
    try:
        check_all(X.data[:, None], check)
    except ValueError:
        for row in range(X.shape[0]):  # again, row by row, for its name
            check(X[row : row + 1].toarray(), slice(row, row + 1))
        raise


def check_weights(
    sample_weight: Any, name: str, n_samples: int, dtype: np.dtype, backend: Backend
) -> np.ndarray:
    """Check the weights of samples: finite, not negative, and such that they fit a dtype.

    Returns
    -------
    float64 array of shape (n_samples,)
        On the host. The caller's own array if it is one already.

    Raises
    ------
    ValueError
        If the shape is another, or a weight is negative or not finite.
    """
    w = as_array(sample_weight, name, backend)
    if w.shape != (n_samples,):
        raise ValueError(
            f"{name} must have shape ({n_samples},), one for each row of X, got {w.shape}"
        )
    check_all(w, Range(name, dtype, low=0.0))
    return np.asarray(backend.to_numpy(w), dtype=np.float64)
