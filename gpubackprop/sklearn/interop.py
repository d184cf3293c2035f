"""Arrays and frames of other libraries, validated as scikit-learn does: on the device where they
are there and the estimator computes there, else on the host.
"""

from typing import Any

import numpy as np
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    check_consistent_length,
    validate_data,
)

from gpubackprop import checks
from gpubackprop.backends.base import Backend
from gpubackprop.types import Array

#: What scikit-learn says for "there is no y to validate"; None is a y that is missing.
NOTHING = "no_validation"
#: What X may be; anything else becomes the first.
FLOATS = (np.float64, np.float32)


def _library(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def to_host(x: Any) -> Any:
    """Return what scikit-learn's validation reads; x itself if it lives on the host.

    CuPy arrays, tensors of PyTorch (also those on a GPU or with a gradient), JAX arrays and cuDF
    frames and series are copied to the host; cuDF's names of columns are kept.
    """
    if x is None or isinstance(x, np.ndarray | list):
        return x
    library = _library(x)
    if library == "cudf":
        return x.to_pandas()
    if library == "torch":
        return x.detach().cpu().numpy()
    if library == "cupy":
        return x.get()
    if library in ("jax", "jaxlib"):
        return np.asarray(x)
    if checks.on_gpu(x, "X"):
        from gpubackprop.backends.cupy_backend import to_host as copied

        return copied(x)
    return x


def on_device(x: Any, backend: Backend) -> Array | None:
    """Return x as an array of a backend on a GPU, without a way through the host; None where x does
    not live on a GPU, or the backend does not. Only a cuDF frame is copied, on the GPU, because its
    columns are apart.
    """
    if backend.host or x is None or isinstance(x, np.ndarray | list):
        return None
    library = _library(x)
    if library == "cudf":
        x = x.to_cupy()
    elif library == "torch":
        x = x.detach()
    return checks.as_array(x, "X", backend) if checks.on_gpu(x, "X") else None


def validated(
    estimator: Any, backend: Backend, X: Any, y: Any = NOTHING, *, reset: bool, **rules: Any
) -> Any:
    """Validate data as scikit-learn does.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    backend : Backend
        Where it computes.
    X : array, frame or sparse matrix of shape (n_samples, n_features)
    y : array of shape (n_samples,) or (n_samples, n_outputs), optional
    reset : bool
        Whether the number and the names of the features are learnt from X.
    **rules
        Of `sklearn.utils.validation.validate_data`: what `dtype` X is to have, `y_numeric`.

    Returns
    -------
    X, or (X, y) where y is given
        X is dense or CSR, on the backend's GPU where it came from there; y is on the host.
    """
    with backend.active():
        there = on_device(X, backend)
    alone = isinstance(y, str) and y == NOTHING
    several = {} if alone else {"multi_output": True}
    if there is None:
        found = validate_data(
            estimator, to_host(X), to_host(y), accept_sparse=["csr", "csc"], reset=reset,
            **several, **rules,
        )  # fmt: skip
        X, y = (found, y) if alone else found
        X = X.tocsr() if hasattr(X, "tocsr") else X
        return X if alone else (X, y)
    if not alone:
        numeric = {name: rules[name] for name in ("y_numeric",) if name in rules}
        y = validate_data(estimator, y=to_host(y), **several, **numeric)
        check_consistent_length(there, y)
    names = X.head(0).to_pandas() if _library(X) == "cudf" else there
    with backend.active():
        there = _checked_there(estimator, there, names, reset, rules.get("dtype", FLOATS))
    return there if alone else (there, y)


def _checked_there(estimator: Any, X: Array, names: Any, reset: bool, dtypes: Any) -> Array:
    """Validate X on a GPU, with one wait; returns it with one of the dtypes."""
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"X must have shape (n_samples, n_features) with at least one of both, got {X.shape}; "
            "Reshape your data"
        )
    _check_feature_names(estimator, names, reset=reset)
    _check_n_features(estimator, X, reset=reset)
    allowed = [np.dtype(one) for one in (dtypes if isinstance(dtypes, tuple) else (dtypes,))]
    X = X.astype(X.dtype if X.dtype in allowed else allowed[0], copy=False)
    checks.check_all(X, checks.Range("X", X.dtype))
    return X
