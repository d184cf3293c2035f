"""Estimators as files, which are networks' files with more in them, and as ONNX models."""

import json
import math
from functools import partial
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from gpubackprop import losses, onnx_export, optimizers, schedules, storage
from gpubackprop.activations import Activation
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Parameters
from gpubackprop.container import MALFORMED, PathLike
from gpubackprop.losses import Loss
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.schedules import Schedule
from gpubackprop.schema import Schema
from gpubackprop.storage import ESTIMATOR

#: Fitted attributes that a file holds, where there are any.
_FITTED = (
    "n_iter_", "t_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_", "loss_",
    "best_loss_", "loss_curve_", "validation_scores_", "validation_loss_curve_",
    "best_validation_score_", "_no_improvement_count", "_steps", "_dropout_seed",
)  # fmt: skip
_DESCRIPTIONS: dict[str, type] = {
    **{found.__name__: found for found in optimizers.OPTIMIZERS.values()},
    **{
        name: found
        for name, found in vars(schedules).items()
        if isinstance(found, type) and issubclass(found, Schedule) and found is not Schedule
    },
}


def save(estimator: Any, path: PathLike) -> None:
    """Write a fitted estimator to a file; see `BaseMLP.save`."""
    check_is_fitted(estimator)
    model, parameters = network(estimator)
    fitted = {
        name: _encode(getattr(estimator, name), name)
        for name in _FITTED
        if hasattr(estimator, name)
    }
    text = {
        "class": type(estimator).__name__,
        "parameters": {k: _encode(v, k) for k, v in estimator.get_params(deep=False).items()},
        "fitted": fitted,
        "dtype": np.dtype(estimator.coefs_[0].dtype).name,
    }
    if hasattr(estimator, "classes_"):
        text["classes"] = [estimator.classes_.dtype.str, estimator.classes_.tolist()]
        text["several"] = _several(estimator)
    described = json.dumps(text, allow_nan=False)
    storage.save(path, model, parameters, schema(estimator), text={ESTIMATOR: described})


def load(cls: type, path: PathLike) -> Any:
    """Read an estimator of a class from a file; see `BaseMLP.load`."""
    stored = storage.load(path)
    if ESTIMATOR not in stored.text:
        raise ValueError(f"{path} holds no estimator: read it with gpubackprop.load")
    try:
        text = json.loads(stored.text[ESTIMATOR])
        if text["class"] != cls.__name__:
            raise ValueError(f"a {text['class']}, read it with {text['class']}.load")
        estimator = cls(**{k: _decode(v) for k, v in text["parameters"].items()})
        for name, value in text["fitted"].items():
            if name in _FITTED:
                setattr(estimator, name, _decode(value))
        dtype = np.dtype(text["dtype"])
        if not _is_float(dtype):
            raise ValueError(f"dtype {dtype}")
        if "classes" in text:
            kind, classes = text["classes"]
            estimator.classes_ = np.array(classes, dtype=np.dtype(kind))
            known = np.eye(len(classes), dtype=int) if text["several"] else estimator.classes_
            estimator._label_binarizer = LabelBinarizer().fit(known)
    except MALFORMED as error:
        raise ValueError(f"{path} holds another estimator, or is damaged: {error}") from None
    weights, biases = stored.weights, stored.biases
    estimator._sizes = stored.model.sizes
    estimator.coefs_ = [np.ascontiguousarray(W.T, dtype) for W in weights]
    estimator.intercepts_ = [np.array(b, dtype) for b in biases if b is not None]
    if stored.schema.feature_names is not None:
        estimator.feature_names_in_ = np.array(stored.schema.feature_names, dtype=object)
    return estimator


def network(estimator: Any) -> tuple[Model, Parameters]:
    """Return the network of a fitted estimator, on the host."""
    model = estimator._model(*estimator._description()[:2])
    parameters = Parameters(model, np.zeros(model.layout.size, model.dtype))
    for l, (W, b) in enumerate(zip(parameters.weights, parameters.biases, strict=True)):
        W[...], b[...] = np.transpose(estimator.coefs_[l]), estimator.intercepts_[l]
    return model, parameters


def schema(estimator: Any) -> Schema:
    """Return the labels and the feature names of an estimator."""
    names, labels = getattr(estimator, "feature_names_in_", None), None
    classes = getattr(estimator, "classes_", None)
    # Of a y with one class there is one output all the same, and no name for the other class.
    if classes is not None and len(classes) == max(estimator.n_outputs_, 2):
        labels = tuple(classes.tolist())
    return Schema(labels, None if names is None else tuple(str(name) for name in names))


def _several(estimator: Any) -> bool:
    """Tell whether a classifier gives a row several labels."""
    return bool(estimator._label_binarizer.y_type_.startswith("multilabel"))


# ---- ONNX ----------------------------------------------------------------------------------------


def export_classifier(estimator: Any, path: PathLike, zipmap: bool, dtype: Any) -> None:
    """Write a classifier as an ONNX model; see `MLPClassifier.export_onnx`."""
    check_is_fitted(estimator)
    labels = onnx_export.usable_labels(estimator.classes_.tolist())
    if len(labels) == 1:
        raise ValueError(f"an ONNX model needs two classes or more, got {labels[0]!r} alone")
    exclusive = not _several(estimator)
    outputs = partial(onnx_export.labelled_outputs, labels, exclusive, False, zipmap)
    _export(estimator, path, dtype, outputs)


def export_regressor(estimator: Any, path: PathLike, dtype: Any) -> None:
    """Write a regressor as an ONNX model; see `MLPRegressor.export_onnx`."""
    check_is_fitted(estimator)
    _export(estimator, path, dtype, partial(onnx_export.plain_output, "variable"))


def _export(estimator: Any, path: PathLike, dtype: Any, outputs: Any) -> None:
    model, parameters = onnx_export.in_dtype(*network(estimator), dtype)
    onnx_export.export(path, model, parameters, schema(estimator), outputs)


# ---- parameters as text --------------------------------------------------------------------------


def _encode(value: Any, name: str) -> Any:
    """Return a parameter or a fitted attribute as JSON has it.

    Raises
    ------
    TypeError
        That names the parameter, if it is code or has a memory.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(one, name) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, name), _encode(v, name)] for k, v in value.items()]}
    if isinstance(value, np.dtype | type) and _is_float(value):
        return np.dtype(value).name
    if isinstance(value, Backend):
        return value.name
    if isinstance(value, Activation):
        return {"activation": storage.describe_activation(value)}
    if isinstance(value, Loss):
        return {"loss": value.state()}
    if isinstance(value, Optimizer | Schedule) and type(value) in _DESCRIPTIONS.values():
        fields = {k: _encode(v, name) for k, v in vars(value).items() if k in _names(value)}
        return {type(value).__name__: fields}
    raise TypeError(
        f"{name}={value!r} cannot be saved: a file holds no code and no generator; set it to a "
        f"number or a name with set_params({name}=...), or pickle the estimator"
    )


def _decode(value: Any) -> Any:
    """Return what `_encode` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "float":
        return float(held)
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_decode(one) for one in held)
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in held}
    if kind == "activation":
        return storage.build_activation(held)
    if kind == "loss":
        return losses.rebuild(dict(held))
    return _DESCRIPTIONS[kind](**{k: _decode(v) for k, v in held.items()})


def _names(value: Any) -> set[str]:
    """Return the names of a description's fields."""
    return set(type(value).__dataclass_fields__)


def _is_float(value: Any) -> bool:
    try:
        return np.dtype(value).name in ("float32", "float64")
    except TypeError:
        return False
