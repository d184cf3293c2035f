"""What the classifier and the regressor share."""

import functools
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from gpubackprop import backends, memory
from gpubackprop.container import PathLike
from gpubackprop.losses import Loss
from gpubackprop.model import Model
from gpubackprop.sklearn import files, parameters
from gpubackprop.sklearn.callbacks import Tasks
from gpubackprop.sklearn.engine import Engine
from gpubackprop.sklearn.interop import FLOATS, to_host, validated
from gpubackprop.sklearn.lbfgs import fit_lbfgs
from gpubackprop.sklearn.optimizer import OptimizerState, describe
from gpubackprop.sklearn.stochastic import StochasticFit
from gpubackprop.sklearn.validation import Training, Validation, split


def store(estimator: Any, values: dict[str, Any]) -> None:
    """Set the parameters of a constructor."""
    for name, value in values.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


class BaseMLP(CallbackSupportMixin, BaseEstimator, ABC):
    """Base of `MLPClassifier` and `MLPRegressor`."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = parameters.CONSTRAINTS
    #: Updates so far and seed of the masks, of networks with dropout.
    _steps = _dropout_seed = 0
    validation_loss_curve_: list[float] | None

    # ---- fitting --------------------------------------------------------------------------------

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> "BaseMLP":
        """Fit the model to data.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            NumPy, CuPy, PyTorch and JAX arrays, frames of pandas, polars and cuDF; CSR and CSC.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels, or numbers for a regressor.
        sample_weight : array-like of shape (n_samples,), optional
        validation_data : (X, y) or (X, y, sample_weight), optional
            Its loss after each epoch goes into `validation_loss_curve_`; with
            ``early_stopping=True`` its score decides, and nothing is split off the training data.

        Returns
        -------
        self

        Raises
        ------
        DivergenceError, also a ValueError
            At the first loss that is not finite. `coefs_` and `intercepts_` are as they were before
            that epoch.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation_data: Any = None, *, incremental: bool
    ) -> "BaseMLP":
        hidden = parameters.hidden_sizes(self.hidden_layer_sizes)
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, labels, Y = self._validate_input(X, y, incremental, reset=first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(to_host(sample_weight), X)
        self.n_outputs_ = self._n_columns(Y)
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize((X.shape[1], *hidden, self.n_outputs_), X.dtype)
        engine = self._network()
        engine.read(self.coefs_, self.intercepts_)
        tasks = Tasks(self, X, y)
        tasks.begin()
        if self.solver == "lbfgs":
            training = self._training(X, Y, sample_weight, self._class_weights(labels, incremental))
            with engine.backend.active():
                fit_lbfgs(self, engine, training, tasks)
        else:
            class_weights = self._class_weights(labels, incremental)
            self._fit_stochastic(
                engine, tasks, X, Y, [sample_weight, class_weights], validation_data, incremental
            )
        tasks.end()
        return self

    def _fit_stochastic(
        self,
        engine: Engine,
        tasks: Tasks,
        X: Any,
        Y: np.ndarray,
        weights: list[np.ndarray | None],
        validation_data: Any,
        incremental: bool,
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        going_on = incremental or (self.keep_optimizer and self.warm_start)
        if not going_on or not hasattr(self, "_optimizer"):
            schedule = self.learning_rate if self.solver == "sgd" else "constant"
            self._optimizer = OptimizerState(describe(self), schedule, self.power_t)
        validation = None
        if validation_data is not None:
            validation = self._given_validation(validation_data)
        elif self.early_stopping:
            (X, Y, *weights), held_out = split(self, X, Y, weights)
            X_val, Y_val, w_val, _ = held_out
            labels = self._to_labels(Y_val)
            validation = Validation(self, X_val, self._targets(Y_val), labels, w_val)
        if validation is not None and getattr(self, "validation_loss_curve_", None) is None:
            self.validation_loss_curve_ = []
        training = self._training(X, Y, *weights)
        with engine.backend.active():
            fit = StochasticFit(self, engine, training, validation, tasks, incremental=incremental)
            with memory.explained(
                engine.backend, lambda: memory.training_problem(fit.job, fit.source)
            ):
                fit.run()

    def _training(
        self, X: Any, Y: np.ndarray, w: np.ndarray | None, class_weights: np.ndarray | None
    ) -> Training:
        normalisation = self.weight_normalisation
        if class_weights is not None:
            w, normalisation = class_weights if w is None else w * class_weights, "dataset"
        return Training(X, self._targets(Y), w, normalisation)

    def _given_validation(self, data: Any) -> Validation:
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        X, y, *w = data[0], *(to_host(part) for part in data[1:])
        X = validated(self, backends.get(self.backend), X, dtype=FLOATS, reset=False)
        Y = self._encode(y)
        shape = len(Y), self._n_columns(Y)
        if shape != (X.shape[0], self.n_outputs_):
            raise ValueError(
                f"validation_data must have y of {X.shape[0]} rows and {self.n_outputs_} outputs, "
                f"got {shape}"
            )
        weights = _check_sample_weight(w[0], X) if w and w[0] is not None else None
        return Validation(self, X, self._targets(Y), self._to_labels(Y), weights)

    def _initialize(self, sizes: tuple[int, ...], dtype: np.dtype) -> None:
        """Draw the parameters and set what `fit` counts on."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self._sizes = sizes
        self.out_activation_ = self._output_activation()
        activations = parameters.hidden_activations(self.activation, len(sizes) - 2)
        self.coefs_, self.intercepts_ = parameters.draw(
            self._random_state, sizes, activations, self._dtype(dtype)
        )
        self._steps = self._dropout_seed = 0
        if any(parameters.dropout_rates(self.dropout, len(sizes) - 2)):
            self._dropout_seed = int(self._random_state.randint(2**32, dtype=np.uint32))
        self.validation_loss_curve_ = None
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            early = self.early_stopping
            self.best_loss_ = None if early else np.inf
            self.validation_scores_: list[float] | None = [] if early else None
            self.best_validation_score_ = -np.inf if early else None

    def _dtype(self, dtype: Any) -> np.dtype:
        """Return what is computed in where X is of `dtype`."""
        wanted: np.dtype = np.dtype(dtype if self.dtype is None else self.dtype)
        return wanted

    # ---- files ----------------------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Write the fitted estimator to a safetensors file, which `load` reads: no pickle.

        The file is a network's, so that `gpubackprop.load` opens it too, with the classes as
        labels. What a warm start would go on with (velocities, moments) is not in it.

        Parameters
        ----------
        path : path-like
            Such as "model.safetensors". A file of that name is replaced, whole or not at all.

        Raises
        ------
        TypeError
            If a parameter is a function, a RandomState or an object of a class of one's own.
        """
        files.save(self, path)

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read an estimator that `save` wrote. Runs no code from the file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no such file, or holds another class; the message says which.
        """
        return cast(Self, files.load(cls, path))

    # ---- the network ----------------------------------------------------------------------------

    def _network(self) -> Engine:
        """Return the engine that fits the parameters, the one in use if it does."""
        described, backend = self._description(), backends.get(self.backend)
        engine: Engine | None = self.__dict__.get("_engine")
        if engine is None or engine.described != described or engine.backend is not backend:
            engine = self._engine = Engine(self._model(*described[:2]), backend, described)
        return engine

    def _description(self) -> tuple[Any, ...]:
        """Return what the model depends on: sizes, dtype and the rest."""
        sizes = getattr(self, "_sizes", None)
        if sizes is None:  # coefs_ were set by hand
            sizes = (len(self.coefs_[0]), *(np.shape(coef)[1] for coef in self.coefs_))
        dtype = getattr(self.coefs_[0], "dtype", None)
        # L-BFGS works in float64, whatever X is.
        wide = dtype != np.float32 or (self.solver == "lbfgs" and self.dtype is None)
        rest = (
            tuple(value) if isinstance(value, list | np.ndarray) else value
            for value in (self.activation, self.dropout)
        )
        dtype = np.dtype(np.float64 if wide else np.float32)
        return (tuple(sizes), dtype, self.out_activation_, self.loss, *rest)

    def _model(self, sizes: tuple[int, ...], dtype: np.dtype) -> Model:
        n_hidden = len(sizes) - 2
        hidden = parameters.hidden_activations(self.activation, n_hidden)
        return Model(
            sizes,
            (*hidden, parameters.OUTPUT[self.out_activation_]),
            self._loss(dtype),
            (True,) * (n_hidden + 1),
            parameters.dropout_rates(self.dropout, n_hidden),
            dtype,
        )

    @classmethod
    @functools.cache
    def _get_param_names(cls) -> list[str]:
        """Return the names of the parameters; scikit-learn's reads the signature at each call."""
        names: list[str] = super()._get_param_names()
        return names

    def _outputs(self, X: Any, *, logits: bool = False) -> np.ndarray:
        """Return the network's outputs for data from outside."""
        engine = self._network()
        if not logits and not hasattr(self, "feature_names_in_"):
            found = engine.at_once(self.coefs_, self.intercepts_, X)
            if found is not None:
                return found
        if not self._is_good(X):
            X = validated(self, engine.backend, X, reset=False)
        engine.read(self.coefs_, self.intercepts_)
        outputs = engine.predict(X, logits=logits)
        if np.isnan(outputs).any():
            raise ValueError(
                "the outputs for these X hold NaN: X or coefs_ are too large for "
                f"{outputs.dtype}; scale X, or fit again with a smaller learning_rate_init"
            )
        return outputs

    def _check_is_fitted(self) -> None:
        """Raise an error if `fit` was not called; scikit-learn's own function takes longer."""
        if "coefs_" not in self.__dict__:
            check_is_fitted(self)

    def _is_good(self, X: Any) -> bool:
        """Tell whether X is what scikit-learn's validation returns as it is: that takes longer than
        a few rows take to predict.
        """
        return (
            type(X) is np.ndarray
            and X.dtype in FLOATS
            and X.ndim == 2
            and len(X) > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state = dict(state)
        state.pop("_engine", None)  # made anew where it is used
        return state

    # ---- what the two differ in -----------------------------------------------------------------

    @abstractmethod
    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Return X, y as the user has it, and y as a matrix (n_samples, n_outputs), or as numbers
        of classes (n_samples,) where these exclude each other.
        """

    @abstractmethod
    def _encode(self, y: Any) -> np.ndarray:
        """Return the matrix of validation targets."""

    def _n_columns(self, Y: np.ndarray) -> int:
        """Return how many outputs such a matrix stands for."""
        return int(Y.shape[1])

    @abstractmethod
    def _targets(self, Y: np.ndarray) -> np.ndarray:
        """Return the matrix as the core wants it."""

    @abstractmethod
    def _to_labels(self, Y: np.ndarray) -> np.ndarray:
        """Return y, or what outputs stand for, as the user has it."""

    @abstractmethod
    def _score_outputs(self, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        """Return the score of outputs."""

    @abstractmethod
    def _output_activation(self) -> str: ...

    @abstractmethod
    def _loss(self, dtype: np.dtype) -> Loss: ...

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        """Return what a validation split is stratified by."""
        return None

    def _class_weights(self, y: np.ndarray, incremental: bool) -> np.ndarray | None:
        """Return a weight for each row."""
        return None

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic"
                f" optimizers. {self.solver} is not stochastic."
            )
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
