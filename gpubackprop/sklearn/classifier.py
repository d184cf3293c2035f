"""The classifier."""

from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)

from gpubackprop import backends
from gpubackprop.container import PathLike
from gpubackprop.losses import Loss
from gpubackprop.sklearn import files, losses
from gpubackprop.sklearn.base import BaseMLP, store
from gpubackprop.sklearn.interop import FLOATS, to_host, validated


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multi-layer perceptron that classifies, minimising the log-loss.

    The parameters of scikit-learn's class have the same names, defaults and meaning, and the same
    `random_state` gives the same curve and weights. The page docs/scikit-learn.md lists what
    differs.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, optional
        Units of each hidden layer.
    activation : str, Activation, or one for each hidden layer, optional
        "identity", "logistic", "tanh", "relu", or any elementwise activation of the core.
    solver : {"adam", "sgd", "lbfgs", "rmsprop", "adamw", "rprop"} or Optimizer, optional
        An `Optimizer` brings its own learning rate; `alpha` is added to its `l2`.
    alpha : float, optional
        Factor of the L2 penalty, which is divided by each batch's sum of weights (its rows).
    batch_size : int or "auto", optional
        Rows of an update; "auto" is min(200, n_samples), and all of them for rprop.
    learning_rate : {"constant", "invscaling", "adaptive"}, Schedule or callable, optional
        The names are for solver "sgd".
    learning_rate_init, power_t : float, optional
    max_iter : int, optional
        Epochs, or iterations of L-BFGS.
    shuffle : bool, optional
    random_state : int, RandomState or None, optional
    tol : float, optional
        Training stops after more than `n_iter_no_change` epochs that improve by less.
    verbose, warm_start : bool, optional
    momentum : float, optional
    nesterovs_momentum : bool, optional
    early_stopping : bool, optional
        Stop by the score of held-out data, and keep the best parameters.
    validation_fraction : float, optional
    beta_1, beta_2, epsilon : float, optional
        Of Adam.
    n_iter_no_change : int, optional
    max_fun : int, optional
        Most calls of the cost by L-BFGS.
    class_weight : dict, "balanced" or None, optional
        Weights of the classes, multiplied with the sample weights and normalised over the dataset.
    dropout : float, or one for each hidden layer, optional
        Chance in 0..1 (1 excluded) that a hidden output is dropped in a training step.
    weight_decay : float, optional
        Decoupled from the gradient, >= 0.
    clip_norm : float or None, optional
        Largest norm of a gradient.
    weight_normalisation : {"batch", "dataset"}, optional
        Sample weights are divided by their sum over each batch, as in scikit-learn, or by their
        mean over the dataset, so that they count at every batch size.
    validation_split : {"sklearn", "stratified"}, optional
        "sklearn" keeps the classes' shares where there are two of them only.
    keep_optimizer : bool, optional
        Whether a warm start keeps velocities, moments and learning rate.
    dtype : {"float32", "float64"} or None, optional
        What is computed in. None: as X is.
    backend : str, optional
        "auto", "numpy", "cupy", ...
    executor : str, optional

    Attributes
    ----------
    coefs_, intercepts_ : list of array of shape (n_in, n_out), (n_out,)
        The model. They may be written to, item by item or in place.
    classes_ : array
    loss_, best_loss_ : float
        With penalty.
    loss_curve_ : list of float
    validation_scores_, validation_loss_curve_ : list of float or None
        After each epoch.
    best_validation_score_ : float or None
    n_iter_, t_, n_layers_, n_outputs_, n_features_in_ : int
    feature_names_in_ : array of str
    out_activation_ : str

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier(max_iter=1000, random_state=1).fit(X, y)
    >>> classifier.score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }
    loss = "log_loss"

    def __init__(
        self,
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
        class_weight: Any = None,
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

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> "MLPClassifier":
        """Train for one epoch, going on from the present parameters.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
        sample_weight : array-like of shape (n_samples,), optional
        classes : array of shape (n_classes,), optional
            All classes that any call will have; needed in the first one.

        Returns
        -------
        self
        """
        y = to_host(y)
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer.fit(y if several else classes)
        self._fit(X, y, sample_weight, incremental=True)
        return self

    # ---- predicting -----------------------------------------------------------------------------

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted classes, or an indicator matrix of labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_labels)
        """
        self._check_is_fitted()
        return self._to_labels(self._outputs(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, in the order of `classes_`.

        One that underflows is the dtype's smallest normal number, so that its logarithm is finite.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_classes)
        """
        self._check_is_fitted()
        o = self._outputs(X)
        o = np.hstack([1 - o, o]) if self.n_outputs_ == 1 else o
        floored: np.ndarray = np.maximum(o, np.finfo(o.dtype).tiny)
        return floored

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of `predict_proba`, where that is 0 computed from z: always finite.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_classes)
        """
        p = self.predict_proba(X)
        vanished = p <= np.finfo(p.dtype).tiny
        logarithms: np.ndarray = np.log(p, out=p)
        if vanished.any():
            logarithms[vanished] = self._log_proba_from_z(X)[vanished]
        return logarithms

    def _log_proba_from_z(self, X: Any) -> np.ndarray:
        logarithms: np.ndarray
        z = self._outputs(X, logits=True)
        if self.out_activation_ == "softmax":
            logarithms = log_softmax(z, axis=1)
            return logarithms
        if self.n_outputs_ == 1:
            z = np.hstack([-z, z])
        logarithms = -np.logaddexp(z.dtype.type(0), -z)
        return logarithms

    def export_onnx(self, path: PathLike, *, zipmap: bool = True, dtype: Any = None) -> None:
        """Write an ONNX model with the inputs and outputs that skl2onnx would give it.

        Its input is "X". "output_label" is what `predict` returns, as int64 or strings;
        "output_probability" has what `predict_proba` returns, each row as a map from classes.

        Parameters
        ----------
        path : path-like
        zipmap : bool, optional
            False: the outputs are "label" and "probabilities", of shape (n_samples, n_classes).
        dtype : {"float32", "float64"}, optional
            Of X and of the numbers; by default that of `coefs_`.

        Raises
        ------
        ImportError
            If onnx, of the extra "onnx", is not installed.
        ValueError
            If the classes are neither text nor whole numbers.
        """
        files.export_classifier(self, path, zipmap, dtype)

    # ---- labels and targets ---------------------------------------------------------------------

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        dtype = FLOATS if self.dtype is None else self._dtype(None)
        X, y = validated(self, backends.get(self.backend), X, y, dtype=dtype, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y))
        return X, y, self._encode_known(y)

    def _check_classes(self, classes: np.ndarray) -> None:
        """Refuse classes that a model at work does not know."""
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same "
                    "classes as in the previous call to fit. Previously "
                    f"got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _encode(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(f"validation_data has classes that y has not: {unknown}")
        return self._encode_known(y)

    def _encode_known(self, y: np.ndarray) -> np.ndarray:
        """Encode labels that are all in `classes_`."""
        kind = self._label_binarizer.y_type_
        if y.ndim != 1 or kind not in ("binary", "multiclass"):
            several: np.ndarray = self._label_binarizer.transform(y).astype(bool)
            return several
        codes: np.ndarray = np.searchsorted(self.classes_, y)
        return codes if kind == "multiclass" else codes[:, None] == 1

    def _n_columns(self, Y: np.ndarray) -> int:
        return len(self.classes_) if Y.ndim == 1 else Y.shape[1]

    def _targets(self, Y: np.ndarray) -> np.ndarray:
        return Y if Y.ndim == 1 else np.asarray(Y, dtype=self.coefs_[0].dtype)

    def _to_labels(self, Y: np.ndarray) -> np.ndarray:
        labels: np.ndarray
        if self.out_activation_ == "softmax":
            labels = np.take(self.classes_, Y if Y.ndim == 1 else Y.argmax(axis=1))
            return labels
        if self.n_outputs_ == 1:
            Y = Y.ravel()
        labels = self._label_binarizer.inverse_transform(Y)
        return labels

    def _score_outputs(self, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        return float(accuracy_score(y, self._to_labels(outputs), sample_weight=w))

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        if self.n_outputs_ == 1:
            return y
        return y if self.validation_split == "stratified" and y.ndim == 1 else None

    def _class_weights(self, y: np.ndarray, incremental: bool) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all "
                "of y; use compute_class_weight('balanced', classes=classes, y=y) of "
                "sklearn.utils.class_weight and pass a dict"
            )
        weights: np.ndarray = compute_sample_weight(self.class_weight, y)
        return weights

    def _output_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _loss(self, dtype: np.dtype) -> Loss:
        return losses.classification(self.out_activation_, dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
