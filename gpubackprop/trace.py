"""One training step with everything in it, from the code that trains."""

from typing import Any

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.backprop import Dropping, State
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.executors.base import Tally
from gpubackprop.expressions import parse, to_text
from gpubackprop.model import Model
from gpubackprop.optimizers import SGD, Optimizer
from gpubackprop.types import Array
from gpubackprop.worked import page
from gpubackprop.worked.step import Step, Update

#: What is printed of a large array.
_MOST_ROWS, _MOST_COLUMNS = 12, 10
#: Widths of the table: of what an array is called, and of a number with six digits, sign and
#: exponent.
_TITLE, _COLUMN = 40, 14


class Trace(Step):
    """A training step, as NumPy arrays. Printed, it is an aligned table.

    Its attributes are those of `Step`.
    """

    def __str__(self) -> str:
        return "\n".join(_table(self))

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.model.sizes))
        what = f"{len(self.Y)} rows, loss {self.loss:.6g}"
        return f"<Trace of a {sizes} network, {what}; print() shows it>"

    def to_html(self, samples: int = page.SAMPLES) -> str:
        """Return the step as one HTML file: the network drawn, with every equation.

        The file needs no network access. It steps through forward pass, loss, deltas and update;
        pointing at a unit or a weight shows its equations with the numbers put in, and lights what
        they are made of. Layers of more than ten units are folded.

        Parameters
        ----------
        samples : int, optional
            Samples that can be looked at, >= 1: the first ones of the batch.

        Raises
        ------
        ImportError
            If jinja2 is not installed.

        Examples
        --------
        >>> Path("step.html").write_text(trace.to_html(), encoding="utf-8")
        """
        return page.to_html(self, str(self), samples)

    def _repr_html_(self) -> str | None:
        """Show the page in a notebook; without jinja2 the notebook shows the text."""
        try:
            return page.to_frame(self.to_html(), repr(self))
        except ImportError:
            return None


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
    tally = Tally(backend)
    backprop.forward(backend, model, parameters, X, ws, dropping)
    rate = 0.0 if optimizer is None else optimizer.schedule.rate(0.0, optimizer.schedule.begin())
    # On a GPU training is fused passes: they are what is shown.
    fused = backend.step(model, optimizer or SGD(), 0 if dropping is None else dropping.seed)
    if fused is None:
        backend.loss(model, ws, Y, w, tally.value)
        backprop.gradient(
            backend, model, parameters, X, Y, w, 1.0 / len(X), ws, state.gradient, dropping
        )
    else:
        steps, first = (0, None) if dropping is None else (dropping.step, dropping.first)
        fused.scalars.begin(1, 1, state.updates, steps, 0, 0, lambda batch: rate, None)
        fused.gradient(X, Y, w, 1.0 / len(X), parameters, ws, state.gradient, tally.value, first)
    before, gradient = host(parameters.weights), host(state.gradient.weights)
    b_before, b_gradient = host(parameters.biases), host(state.gradient.biases)
    undropped, known = host(ws.a), None
    if optimizer is not None:
        known = _known(backend, model, optimizer, rate, state)
        if fused is None:
            backprop.update(backend, optimizer, parameters, state, rate)
        else:
            fused.update(parameters, state.gradient, state.slots, state.trainable, len(X), tally)
    passed = ws.a if dropping is None else ws.h
    return Trace(
        z=host(ws.z), a=host([X, *passed]), delta=host(ws.delta), dW=gradient, db=b_gradient,
        W=before, b=b_before, new_W=host(parameters.weights), new_b=host(parameters.biases),
        Y=host([Y])[0], loss=float(backend.to_numpy(tally.value)[0]) / len(X), model=model,
        w=host([w])[0], mask=host([None if dropping is None else mask for mask in ws.mask]),
        undropped=undropped, update=known,
    )  # fmt: skip


def _known(
    backend: Backend, model: Model, optimizer: Optimizer, learning_rate: float, state: State
) -> Update:
    """Copy what an update will read."""

    def both(flat: Array) -> tuple[list[Any], list[Any]]:
        parts = Parameters(model, np.array(backend.to_numpy(flat)))
        return parts.weights, parts.biases

    return Update(
        optimizer, learning_rate, state.updates + 1,
        {name: both(slot) for name, slot in zip(optimizer.slots, state.slots, strict=True)},
        None if state.trainable is None else both(state.trainable),
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
    printed = to_text(parse(formula))
    return "exp(z) / sum(exp(z))" if name == "softmax" and "exp" in formula else printed


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
