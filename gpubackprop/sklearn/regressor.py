"""The regressor."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions

from gpubackprop import backends
from gpubackprop.container import PathLike
from gpubackprop.losses import Loss
from gpubackprop.sklearn import files, losses
from gpubackprop.sklearn.base import BaseMLP, store
from gpubackprop.sklearn.interop import FLOATS, to_host, validated


class MLPRegressor(RegressorMixin, BaseMLP):
    """Multi-layer perceptron that predicts numbers.

    The parameters of scikit-learn's class have the same names, defaults and meaning, and the same
    `random_state` gives the same curve and weights. The page docs/scikit-learn.md lists what
    differs.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute", "huber", "quantile"} or Loss, optional
        Half the squared error, half the Poisson deviance (of the exponential of the last layer, for
        y >= 0), or another loss of the core: ``HUBER(limit=2.0)``. A sample's loss is the sum over
        its outputs; "squared_error" is reported as their mean, as in scikit-learn.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, \
power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, \
nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
n_iter_no_change, max_fun, dropout, weight_decay, clip_norm, weight_normalisation, \
keep_optimizer, dtype, backend, executor : optional
        See `MLPClassifier`.
    validation_split : {"sklearn", "stratified"}, optional
        Without effect.

    Attributes
    ----------
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_, \
validation_loss_curve_, best_validation_score_, n_iter_, t_, n_layers_, n_outputs_, \
n_features_in_, feature_names_in_, out_activation_
        See `MLPClassifier`. Scores are R2.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> regressor = MLPRegressor(max_iter=2000, tol=0.1, random_state=1).fit(X, y)
    >>> regressor.score(X, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", *losses.REGRESSION}), Loss],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        weight_normalisation: str = "batch",
        validation_split: str = "sklearn",
        keep_optimizer: bool = False,
        dtype: Any = None,
        backend: Any = "auto",
        executor: str = "auto",
    ) -> None:
        store(self, locals())

    # As in scikit-learn, there with every solver: with L-BFGS it is a fit that goes on.
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MLPRegressor":
        """Train for one epoch, going on from the present parameters.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self
        """
        self._fit(X, to_host(y), sample_weight, incremental=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted values.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_outputs)
        """
        self._check_is_fitted()
        return self._to_labels(self._outputs(X))

    def export_onnx(self, path: PathLike, *, dtype: Any = None) -> None:
        """Write an ONNX model: "X" in, "variable" of shape (n_samples, n_outputs) out.

        Parameters
        ----------
        path : path-like
        dtype : {"float32", "float64"}, optional
            Of X and of the numbers; by default that of `coefs_`.

        Raises
        ------
        ImportError
            If onnx, of the extra "onnx", is not installed.
        """
        files.export_regressor(self, path, dtype)

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        dtype = FLOATS if self.dtype is None else self._dtype(None)
        X, y = validated(
            self, backends.get(self.backend), X, y, dtype=dtype, reset=reset, y_numeric=True
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y, self._encode(y)

    def _encode(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        counts = self._loss(np.dtype(np.float64), 1).targets == "counts"
        if counts and len(y) and not y.min() >= 0:
            row = np.unravel_index(int(np.argmin(y)), y.shape)[0]
            raise ValueError(
                f"y must be at least 0 for loss={self.loss!r}, got {y.min()} at row {row}"
            )
        encoded: np.ndarray = y[:, None] if y.ndim == 1 else y
        return encoded

    def _targets(self, Y: np.ndarray) -> np.ndarray:
        return Y

    def _to_labels(self, Y: np.ndarray) -> np.ndarray:
        return Y.ravel() if Y.shape[1] == 1 else Y

    def _score_outputs(self, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        return float(r2_score(y, self._to_labels(outputs), sample_weight=w))

    def _output_activation(self) -> str:
        return losses.output_activation(self.loss)

    def _loss(self, dtype: np.dtype, n_outputs: int | None = None) -> Loss:
        return losses.regression(self.loss, n_outputs or self.n_outputs_)
