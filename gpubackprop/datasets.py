"""Real data for ``gpubackprop compare``: rows with a class each, split and scaled."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.errors import missing

#: Data sets that come with scikit-learn, without a download.
BUNDLED = ("digits", "iris", "wine", "breast_cancer")
#: Share of each class's rows that is held out.
HELD_OUT = 0.2
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Dataset:
    """Rows with a class each.

    Attributes
    ----------
    name : str
    X_train, X_test : float32 array of shape (n, n_features)
        Each column scaled to mean 0 and standard deviation 1 over the training rows.
    Y_train, Y_test : int64 array of shape (n,)
        Class numbers, 0..n_classes - 1.
    n_classes : int
    """

    name: str
    X_train: np.ndarray
    Y_train: np.ndarray
    X_test: np.ndarray
    Y_test: np.ndarray
    n_classes: int

    def describe(self) -> dict[str, Any]:
        """Return name and sizes, for a report."""
        return {
            "name": self.name,
            "training_rows": len(self.X_train),
            "held_out_rows": len(self.X_test),
            "features": self.X_train.shape[1],
            "classes": self.n_classes,
            "scaling": "each column to mean 0 and standard deviation 1 over the training rows",
            "split": f"stratified, {HELD_OUT:.0%} held out, seed {_SPLIT_SEED}",
        }


def load(data: str) -> Dataset:
    """Load, split and scale a data set.

    Parameters
    ----------
    data : str
        A name in `BUNDLED`, or the path of an .npz file with arrays X (one row a sample; images are
        flattened) and Y (a class each: numbers or strings).

    Raises
    ------
    ValueError
        If there is no such data set, or the file's arrays are not as described.
    ImportError
        If scikit-learn is needed and not installed.
    OSError
        If the file cannot be read.
    """
    if data in BUNDLED:
        X, Y = _bundled(data)
    elif str(data).lower().endswith(".npz"):
        X, Y = _npz(Path(data))
    else:
        raise ValueError(
            f"data must be one of {', '.join(BUNDLED)}, or an .npz file with arrays X and Y, "
            f"got {data!r}"
        )
    return split(Path(data).name, *_checked(X, Y))


def _bundled(name: str) -> tuple[Any, Any]:
    try:
        from sklearn import datasets
    except ImportError:
        raise missing(f"scikit-learn, which brings the data set {name!r},", "sklearn") from None
    bunch = getattr(datasets, f"load_{name}")()
    return bunch.data, bunch.target


def _npz(path: Path) -> tuple[Any, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"data must be an .npz file that exists, got {str(path)!r}")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {name.lower(): name for name in file.files}
            if not {"x", "y"} <= names.keys():
                raise ValueError(
                    f"it has the arrays {', '.join(file.files) or '(none)'}; save it with "
                    "numpy.savez(path, X=..., Y=...)"
                )
            return file[names["x"]], file[names["y"]]
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"data must be an .npz file with numeric arrays X and Y, and {str(path)!r} is not: "
            f"{error}"
        ) from None


def _checked(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return X of shape (n, n_features) and Y of shape (n,), or refuse them."""
    if X.ndim < 2 or X.dtype.kind not in "buif" or not X.size:
        raise ValueError(
            "X in data must hold numbers, one row a sample, "
            f"got shape {X.shape} and dtype {X.dtype}"
        )
    if Y.shape != (len(X),):
        raise ValueError(
            f"Y in data must hold one class for each of {len(X)} rows of X, got shape {Y.shape}"
        )
    X = X.reshape(len(X), -1)
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(
            f"X in data must be finite, got {X[row, column]} in row {row}, column {column}; "
            "remove or fill such rows"
        )
    if Y.dtype.kind == "f" and not (np.isfinite(Y).all() and (np.round(Y) == Y).all()):
        raise ValueError("Y in data must hold classes: whole numbers or strings, got fractions")
    return X, Y


def split(name: str, X: np.ndarray, Y: np.ndarray) -> Dataset:
    """Hold out a fixed fifth of each class, and scale by what is left.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or too few rows to hold any out.
    """
    classes, numbers = np.unique(Y, return_inverse=True)
    rng = np.random.default_rng(_SPLIT_SEED)
    held_out = np.zeros(len(Y), bool)
    for k in range(len(classes)):
        rows = rng.permutation(np.flatnonzero(numbers == k))
        held_out[rows[: round(HELD_OUT * len(rows))]] = True
    if len(classes) < 2 or not held_out.any():
        raise ValueError(
            f"data must have two classes at least and five rows of one, got {len(classes)} "
            f"classes in {len(Y)} rows"
        )
    mean = X[~held_out].mean(axis=0, dtype=np.float64)
    deviation = X[~held_out].std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1.0
    X_train, X_test = (
        np.ascontiguousarray((X[part] - mean) / deviation, np.float32)
        for part in (~held_out, held_out)
    )
    Y_train, Y_test = (numbers[part].astype(np.int64) for part in (~held_out, held_out))
    return Dataset(name, X_train, Y_train, X_test, Y_test, len(classes))
