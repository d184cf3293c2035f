"""What an estimator trains on, and what it watches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from gpubackprop.data import Source
from gpubackprop.sklearn.engine import Engine


@dataclass
class Training:
    """Checked training data.

    Attributes
    ----------
    X : array or CSR matrix of shape (n_samples, n_in)
    Y : array of shape (n_samples, n_out), or class numbers of shape (n_samples,)
    w : array of shape (n_samples,) or None
        Sample weights.
    normalisation : {"batch", "dataset"}
        Whether weights are divided by their sum over each batch or their mean over all rows.
    """

    X: Any
    Y: np.ndarray
    w: np.ndarray | None
    normalisation: str

    def scaled_weights(self) -> np.ndarray | None:
        """Return the weights with mean 1."""
        return None if self.w is None else self.w / self.w.mean(dtype=np.float64)


class Validation:
    """Held-out data.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    X : array or CSR matrix of shape (n_samples, n_in)
    Y : array
        As `Training` has it.
    y : array
        As the user has it: labels.
    w : array of shape (n_samples,) or None
    """

    def __init__(self, estimator: Any, X: Any, Y: np.ndarray, y: Any, w: np.ndarray | None) -> None:
        self.estimator, self.X, self.Y, self.y, self.w = estimator, X, Y, y, w
        self._source: Source | None = None

    def source(self, engine: Engine) -> Source:
        """Return the data where the engine reads them."""
        if self._source is None:
            w = None if self.w is None else self.w / self.w.mean()
            self._source = engine.source(self.X, self.Y, w)
        return self._source

    def loss(self, engine: Engine) -> float:
        """Return the mean loss, without penalty."""
        return engine.loss(self.source(engine))

    def score(self, engine: Engine) -> float:
        """Return the accuracy or R2; NaN if an output is not finite."""
        outputs = engine.outputs(self.source(engine))
        if not np.isfinite(outputs).all():
            return np.nan
        score: float = self.estimator._score_outputs(outputs, self.y, self.w)
        return score


def split(
    estimator: Any, X: Any, y: np.ndarray, weights: list[np.ndarray | None]
) -> tuple[list[Any], list[Any]]:
    """Split off validation data as scikit-learn does.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    X : array or sparse matrix
    y : array of shape (n_samples, n_out)
    weights : list of array or None

    Returns
    -------
    training, validation : list
        X, y and each of the weights.

    Raises
    ------
    ValueError
        If less than two rows would be left for validation.
    """
    # Of rows' numbers: X may live on a GPU.
    kept, held = train_test_split(
        np.arange(X.shape[0]),
        random_state=estimator._random_state,
        test_size=estimator.validation_fraction,
        stratify=estimator._strata(y),
    )
    if len(held) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' "
            "or the size of your dataset."
        )
    training, validation = (
        [part if part is None else part[rows] for part in (X, y, *weights)] for rows in (kept, held)
    )
    return training, validation
