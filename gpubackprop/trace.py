"""One training step with everything in it, from the code that trains."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.backprop import Dropping, State
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: What is printed of a large array.
_MOST_ROWS, _MOST_COLUMNS = 12, 10
#: Widths of the table: of what an array is called, and of a number with six digits, sign and
#: exponent.
_TITLE, _COLUMN = 40, 14


@dataclass(frozen=True, eq=False)
class Trace:
    """A training step, as NumPy arrays. Printed, it is an aligned table.

    Attributes
    ----------
    z : list of array of shape (n, n_out)
        ``z[l] = a[l] @ W[l].T + b[l]``
    a : list of array of shape (n, n_out)
        ``a[0]`` is X, ``a[l + 1] = f(z[l])``; after dropout where there is any.
    delta : list of array of shape (n, n_out)
        dL/dz of each layer.
    dW, db : list of array
        Gradients; None for a layer without biases.
    W, b : list of array
        Parameters before the step.
    new_W, new_b : list of array
        Parameters after it; the same as before where no optimizer was given.
    Y : array of shape (n, n_out)
        Targets; class numbers as one-hot rows.
    loss : float
        Mean loss of the batch, before the step.
    model : Model
    """

    z: list[np.ndarray]
    a: list[np.ndarray]
    delta: list[np.ndarray]
    dW: list[np.ndarray]
    db: list[np.ndarray | None]
    W: list[np.ndarray]
    b: list[np.ndarray | None]
    new_W: list[np.ndarray]
    new_b: list[np.ndarray | None]
    Y: np.ndarray
    loss: float
    model: Model

    def __str__(self) -> str:
        return "\n".join(_table(self))

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.model.sizes))
        what = f"{len(self.Y)} rows, loss {self.loss:.6g}"
        return f"<Trace of a {sizes} network, {what}; print() shows it>"


def trace(
    backend: Backend,
    model: Model,
    parameters: Parameters,
    X: Array,
    Y: Array,
    w: Array | None,
    dropping: Dropping | None,
    optimizer: Optimizer | None,
    state: State,
) -> Trace:
    """Run one step and keep everything.

    Parameters
    ----------
    backend : Backend
    model : Model
    parameters : Parameters
        Overwritten by the step: the caller passes a copy.
    X, Y : array of shape (n, n_in), (n, n_out)
    w : array of shape (n,) or None
        Sample weights.
    dropping : Dropping or None
    optimizer : Optimizer or None
    state : State
        Overwritten: the caller passes a copy.
    """

    def host(arrays: list[Array]) -> list[Any]:
        return [None if array is None else np.array(backend.to_numpy(array)) for array in arrays]

    ws = Workspace(model, len(X), backend, keep=True)
    out = backend.zeros((1,), "float64")
    backprop.forward(backend, model, parameters, X, ws, dropping)
    backend.loss(model, ws, Y, w, out)
    backprop.gradient(
        backend, model, parameters, X, Y, w, 1.0 / len(X), ws, state.gradient, dropping
    )
    before, gradient = host(parameters.weights), host(state.gradient.weights)
    b_before, b_gradient = host(parameters.biases), host(state.gradient.biases)
    if optimizer is not None:
        rate = optimizer.schedule.rate(0.0, optimizer.schedule.begin())
        backprop.update(backend, optimizer, parameters, state, rate)
    passed = ws.a if dropping is None else ws.h
    return Trace(
        z=host(ws.z), a=host([X, *passed]), delta=host(ws.delta), dW=gradient, db=b_gradient,
        W=before, b=b_before, new_W=host(parameters.weights), new_b=host(parameters.biases),
        Y=host([Y])[0], loss=float(backend.to_numpy(out)[0]) / len(X), model=model,
    )  # fmt: skip


# ---- as a table
# -------------------------------------------------------------------------------------


def _table(trace: Trace) -> list[str]:
    """Print a step in the order in which it happens."""
    model, last = trace.model, trace.model.n_layers - 1
    lines = _rows("a[0] = X", trace.a[0])
    for l, activation in enumerate(model.activations):
        b = "" if trace.b[l] is None else f" + b[{l}]"
        lines += [
            "",
            f"layer {l}   {activation.name}: a = {_formula(activation.name, activation.f)}",
        ]
        lines += _rows(f"W[{l}]", trace.W[l])
        if trace.b[l] is not None:
            lines += _rows(f"b[{l}]", trace.b[l])
        lines += _rows(f"z[{l}] = a[{l}] @ W[{l}].T{b}", trace.z[l])
        lines += _rows(f"a[{l + 1}] = f(z[{l}])" + (" = o" if l == last else ""), trace.a[l + 1])
    lines += ["", f"loss   {model.loss.name}"]
    lines += [*_rows("y", trace.Y), *_rows("loss", np.array([trace.loss]))]
    for l in reversed(range(model.n_layers)):
        activation = model.activations[l]
        lines += ["", f"back through layer {l}"]
        rule = "dL/dz" if l == last else f"(delta[{l + 1}] @ W[{l + 1}]) * f'(z)"
        if l != last:
            lines[-1] += f"   f' = {_formula(activation.name, activation.df)}"
        lines += _rows(f"delta[{l}] = {rule}", trace.delta[l])
        lines += _rows(f"dW[{l}] = delta[{l}].T @ a[{l}]", trace.dW[l])
        if trace.db[l] is not None:
            lines += _rows(f"db[{l}] = sum of delta[{l}]", trace.db[l])
    before: list[Any] = [*trace.W, *trace.b]
    after: list[Any] = [*trace.new_W, *trace.new_b]
    if any(w is not None and (w != v).any() for v, w in zip(before, after, strict=True)):
        lines += ["", "after the step"]
        for l in range(model.n_layers):
            lines += _rows(f"new W[{l}]", trace.new_W[l])
            if trace.new_b[l] is not None:
                lines += _rows(f"new b[{l}]", trace.new_b[l])
    return lines


def _formula(name: str, formula: str) -> str:
    return "exp(z) / sum(exp(z))" if name == "softmax" and "exp" in formula else formula


def _rows(title: str, array: np.ndarray | None) -> list[str]:
    """Print an array under its title, its columns aligned; large ones in part."""
    values = np.atleast_2d(np.asarray(array))
    n, m = values.shape
    lines = []
    for i, row in enumerate(values[:_MOST_ROWS, :_MOST_COLUMNS]):
        numbers = "".join(f"{value:>{_COLUMN}.6g}" for value in row)
        more = f"  ... ({m} columns)" if m > _MOST_COLUMNS and i == 0 else ""
        lines.append(f"  {title if i == 0 else '':<{_TITLE}}{numbers}{more}")
    if n > _MOST_ROWS:
        lines.append(f"  {'':<{_TITLE}}{'...':>{_COLUMN}}  ({n} rows)")
    return lines
