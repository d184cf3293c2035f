"""The user's arguments of `Network` and `fit`: checked, and made into what the rest works with."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpubackprop import activations, initializers, losses
from gpubackprop.activations import Activation
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Parameters
from gpubackprop.checks import Range, as_array, check_all
from gpubackprop.data import Batches
from gpubackprop.executors.base import PRECISIONS
from gpubackprop.history import EarlyStopping
from gpubackprop.initializers import Initializer
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.run import EVENTS
from gpubackprop.types import Array


def integer(name: str, value: Any, low: int, high: float = math.inf) -> int:
    """Check an integer in low..high; the error names it."""
    wanted = f"in {low}..{high}" if high < math.inf else f">= {low}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer {wanted}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be an integer {wanted}, got {value}")
    return int(value)


def boolean(name: str, value: Any) -> bool:
    """Check a boolean; the error names it."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def positive(name: str, value: Any) -> float:
    """Check a finite number above 0; the error names it."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not 0 < value < math.inf
    ):
        raise ValueError(f"{name} must be a number > 0, got {value!r}")
    return float(value)


def generator(rng: Any) -> np.random.Generator:
    """Return the random generator that `rng` stands for: a seed, a generator, or None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    whole = isinstance(rng, numbers.Integral) and not isinstance(rng, bool)
    if not whole or rng < 0:
        raise (ValueError if whole else TypeError)(
            f"rng must be an integer >= 0, a numpy.random.Generator or None, got {rng!r}"
        )
    return np.random.default_rng(int(rng))


def initial(init: Any, model: Model) -> list[Initializer]:
    """Return how weights start: `init` is one for all layers, or a list of one each."""
    several = isinstance(init, list | tuple)
    if several and len(init) != model.n_layers:
        raise ValueError(
            f"init must be one initialiser, or one for each of {model.n_layers} layers, "
            f"got {len(init)}"
        )
    each = init if several else [init] * model.n_layers
    return [initializers.get(one, a.name) for one, a in zip(each, model.activations, strict=True)]


def layer_arrays(
    name: str, values: Any, views: list[Array], backend: Backend
) -> list[Array | None]:
    """Check arrays that are to become the weights, or the biases, of each layer."""
    listed = list(values)
    if len(listed) != len(views):
        raise ValueError(
            f"{name} must hold one array for each of {len(views)} layers, got {len(listed)}"
        )
    checked: list[Array | None] = []
    for l, (value, view) in enumerate(zip(listed, views, strict=True)):
        if view is None or value is None:
            if (view is None) != (value is None):
                raise ValueError(f"{name}[{l}] must be {'None' if view is None else 'an array'}")
            checked.append(None)
            continue
        array = as_array(value, f"{name}[{l}]", backend)
        if array.shape != view.shape:
            raise ValueError(f"{name}[{l}] must have shape {view.shape}, got {array.shape}")
        check_all(array, Range(f"{name}[{l}]", view.dtype))
        checked.append(array)
    return checked


def with_dtype(model: Model, dtype: Any) -> Model:
    """Return the same model with another dtype."""
    return dataclasses.replace(model, dtype=_dtype(dtype))


def precision(value: Any) -> str | None:
    """Return a precision of products, checked."""
    if value is None or (isinstance(value, str) and value in PRECISIONS):
        return value
    raise ValueError(f"precision must be None or one of {', '.join(PRECISIONS)}, got {value!r}")


def class_output(model: Model) -> str:
    """Return "softmax" or "sigmoid", or refuse a network whose outputs are no probabilities."""
    name = model.activations[-1].name
    if name not in ("softmax", "sigmoid"):
        raise ValueError(
            f"predict_classes needs output 'softmax' or 'sigmoid', got {name!r}; use predict"
        )
    return name


def batches(X: Any, Y: Any, sample_weight: Any) -> Batches | None:
    """Return X if it is a source of batches, which then comes alone."""
    if not isinstance(X, Batches):
        if Y is None:
            raise TypeError("Y must be given: the targets of X; only Batches come without")
        return None
    for name, value in (("Y", Y), ("sample_weight", sample_weight)):
        if value is not None:
            raise TypeError(
                f"{name} must be None with Batches, whose items hold it, got {type(value).__name__}"
            )
    return X


def check_targets(Y: Any) -> None:
    """Refuse to go on without targets."""
    if Y is None:
        raise TypeError("Y must be given: the targets of X, got None")


def validation(value: Any) -> tuple[Any, Any, Any]:
    """Check `validation`: (X, Y) or (X, Y, sample_weight)."""
    if not isinstance(value, tuple | list) or len(value) not in (2, 3):
        raise TypeError(
            f"validation must be (X, Y) or (X, Y, sample_weight), got {type(value).__name__}"
        )
    X, Y, sample_weight = (*value, None)[:3]
    if Y is None:
        raise TypeError("validation Y must be given, got None")
    return X, Y, sample_weight


def callbacks(value: Any) -> list[Any]:
    """Check `callbacks`: objects with at least one of the methods that are called."""
    if not isinstance(value, Iterable):
        raise TypeError(f"callbacks must be a list of objects, got {value!r}")
    listed = list(value)
    for i, one in enumerate(listed):
        if isinstance(one, type) or not any(hasattr(one, event) for event in EVENTS):
            raise TypeError(
                f"callbacks[{i}] must be an object with a method {', '.join(EVENTS)}, got {one!r}"
            )
    return listed


def check_batch_only(optimizer: Optimizer, size: int | None, n_samples: int | None) -> None:
    """Refuse an optimiser that works on whole-set gradients alone, in another mode."""
    if optimizer.batch_only and (size is None or size != n_samples):
        raise ValueError(
            f"optimizer {type(optimizer).__name__} needs the gradient of all samples: "
            f"use batch_size='full', got {'Batches' if size is None else size}"
        )


def build_model(
    sizes: Any, hidden: Any, output: Any, loss: Any, bias: Any, dropout: Any, dtype: Any
) -> Model:
    """Check the arguments of `Network` that say what it is.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what it may be.
    """
    sizes = _sizes(sizes)
    n_hidden = len(sizes) - 2
    last = activations.get(output, "output")
    if last.name == "softmax" and sizes[-1] == 1:
        raise ValueError(
            "output 'softmax' over a single unit is always 1; use output='sigmoid' with "
            f"loss='log_loss', or 2 or more units in sizes, got {list(sizes)}"
        )
    chosen = (
        losses.NATURAL_LOSS.get(last.name, losses.SQUARED) if loss is None else losses.get(loss)
    )
    biases = _each("bias", bias, len(sizes) - 1, bool | np.bool_, "True or False")
    drops = tuple(
        _share(p) for p in _each("dropout", dropout, n_hidden, numbers.Real, "a number in 0..1")
    )
    return Model(
        sizes=sizes,
        activations=(*_hidden(hidden, n_hidden), last),
        loss=chosen,
        bias=tuple(bool(b) for b in biases),
        dropout=drops,
        dtype=_dtype(dtype),
    )


def _sizes(sizes: Any) -> tuple[int, ...]:
    if isinstance(sizes, str | numbers.Number) or not hasattr(sizes, "__iter__"):
        raise TypeError(
            f"sizes must list the units of each layer, such as [784, 128, 10], got {sizes!r}"
        )
    checked = tuple(integer(f"sizes[{i}]", size, 1) for i, size in enumerate(sizes))
    if len(checked) < 2:
        raise ValueError(
            f"sizes must name inputs and outputs at least, such as [4, 1], got {sizes!r}"
        )
    return checked


def _hidden(hidden: Any, n_hidden: int) -> tuple[Activation, ...]:
    if isinstance(hidden, str | Activation):
        return (activations.get(hidden, "hidden"),) * n_hidden
    if not isinstance(hidden, Iterable):
        raise TypeError(
            "hidden must be a name or an Activation, or one for each of the "
            f"{n_hidden} hidden layers, got {hidden!r}"
        )
    chosen = [activations.get(one, f"hidden[{i}]") for i, one in enumerate(hidden)]
    if len(chosen) != n_hidden:
        raise ValueError(
            f"hidden must be one activation, or one for each of the {n_hidden} hidden layers, "
            f"got {len(chosen)}"
        )
    return tuple(chosen)


def _each(name: str, value: Any, n: int, kind: Any, wanted: str) -> tuple[Any, ...]:
    """Give each of n layers its value: one for all, or one each."""
    single = isinstance(value, kind)
    values = (value,) * n if single else tuple(value) if isinstance(value, Iterable) else ()
    if not single and (isinstance(value, str) or not isinstance(value, Iterable)):
        raise TypeError(f"{name} must be {wanted}, or one for each of {n} layers, got {value!r}")
    for one in values:
        if not isinstance(one, kind):
            raise TypeError(f"{name} must hold {wanted} for each layer, got {one!r}")
    if len(values) != n:
        raise ValueError(f"{name} must be {wanted}, or one for each of {n} layers, got {value!r}")
    return values


def _share(p: Any) -> float:
    if isinstance(p, bool) or not 0 <= p < 1:
        raise ValueError(f"dropout must lie in 0..1, 1 excluded, got {p!r}")
    return float(p)


def _dtype(dtype: Any) -> np.dtype:
    try:
        checked: np.dtype | None = np.dtype(dtype)
    except TypeError:
        checked = None
    if checked is None or checked not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    return checked


def batch_size(value: Any, n_samples: int | None) -> int | None:
    """Check `batch_size`: an int in 1..n_samples, "full", or None = min(32, n_samples).

    For a source of unknown length (`Batches`) only None is allowed: the source decides.
    """
    if n_samples is None:
        if value is not None:
            raise ValueError(
                f"batch_size must be None with Batches, whose items are the batches, got {value!r}"
            )
        return None
    if value is None:
        return min(32, n_samples)
    if isinstance(value, str):
        if value != "full":
            raise ValueError(f"batch_size must be an integer, 'full' or None, got {value!r}")
        return n_samples
    size = integer("batch_size", value, 1, math.inf)
    if size > n_samples:
        raise ValueError(
            f"batch_size must lie in 1..{n_samples}, the rows of X, got {size}; use 'full' for all"
        )
    return size


def early_stopping(value: Any) -> EarlyStopping | None:
    """Check `early_stopping`: None or False, True, a patience in epochs, or an `EarlyStopping`."""
    if value is None or value is False:
        return None
    if isinstance(value, EarlyStopping):
        return value
    if value is True:
        return EarlyStopping()
    return EarlyStopping(patience=integer("early_stopping", value, 1))


def trainable(value: Any, model: Model) -> np.ndarray | None:
    """Turn `trainable` into a flat array of 0 and 1, laid out like the parameters, or None for all.

    Parameters
    ----------
    value : None, or a pair (weights, biases)
        Each a list with a boolean, an array of booleans that broadcasts to the layer's shape, or
        None (all) for each layer; or None for all layers.

    Raises
    ------
    TypeError, ValueError
        If a mask is not boolean or has another shape.
    """
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(
            "trainable must be a pair (weights, biases) of lists of booleans shaped like the "
            f"network's, got {type(value).__name__}"
        )
    flat = np.ones(model.layout.size, model.dtype)
    parameters = Parameters(model, flat)
    for name, masks, arrays in (
        ("weights", value[0], parameters.weights),
        ("biases", value[1], parameters.biases),
    ):
        if masks is None:
            continue
        if not isinstance(masks, Sequence | np.ndarray):
            raise TypeError(
                f"trainable {name} must be a list with one entry for each of {len(arrays)} layers, "
                f"got {masks!r}"
            )
        if len(masks) != len(arrays):
            raise ValueError(
                f"trainable {name} must have one entry for each of {len(arrays)} layers, "
                f"got {len(masks)}"
            )
        for l, (mask, array) in enumerate(zip(masks, arrays, strict=True)):
            if mask is not None and array is not None:
                array[...] = _mask(f"trainable {name}[{l}]", mask, array.shape)
    return flat


def _mask(name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(mask)
    if array.dtype != bool:
        raise TypeError(f"{name} must be boolean, got {array.dtype}")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}") from None
