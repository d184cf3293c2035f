"""Checks a network's gradient against central differences, in float64."""

from dataclasses import dataclass

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.backprop import Dropping
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.expressions import Expression, to_python
from gpubackprop.model import Model
from gpubackprop.types import Array


@dataclass(frozen=True)
class GradientCheck:
    """How far the gradient of backpropagation is from central differences.

    Attributes
    ----------
    error : float
        Largest ``|analytic - numeric|`` over the judged entries, divided by the largest
        ``|gradient|`` of the network.
    where : str
        The entry with that error, such as ``"W[1][0, 3]"``.
    analytic, numeric : float
        The two values there.
    kinks : tuple of str
        Entries that were not judged: moving them by h changes the branch of a ``where``, so that
        the loss has a kink between the two points.
    n_entries : int
        Weights and biases in all.
    """

    error: float
    where: str
    analytic: float
    numeric: float
    kinks: tuple[str, ...]
    n_entries: int

    def __str__(self) -> str:
        kinks = f", {len(self.kinks)} at a kink and not judged" if self.kinks else ""
        return (
            f"largest error {self.error:.2e} of the largest gradient, at {self.where} "
            f"(analytic {self.analytic:.9g}, numeric {self.numeric:.9g}); "
            f"{self.n_entries} entries{kinks}"
        )


class _Loss:
    """The mean loss as a function of the parameters, and the branches that its formulas take."""

    def __init__(
        self,
        backend: Backend,
        model: Model,
        X: Array,
        Y: Array,
        w: Array | None,
        dropping: Dropping | None,
    ) -> None:
        self.backend, self.model, self.X, self.Y, self.w = backend, model, X, Y, w
        self.dropping = dropping
        self.ws = Workspace(model, len(X), backend, keep=True)
        self.out = backend.zeros((1,), "float64")
        self.y = backend.to_numpy(Y)

    def __call__(self, parameters: Parameters) -> float:
        backprop.forward(self.backend, self.model, parameters, self.X, self.ws, self.dropping)
        self.backend.loss(self.model, self.ws, self.Y, self.w, self.out)
        return float(self.backend.to_numpy(self.out)[0]) / len(self.X)

    def gradient(self, parameters: Parameters) -> np.ndarray:
        """Return the flat gradient of backpropagation at the parameters that went forward last."""
        flat = self.backend.zeros(parameters.flat.shape, self.model.dtype)
        out = Parameters(self.model, flat)
        n = len(self.X)
        backprop.gradient(
            self.backend, self.model, parameters, self.X, self.Y, self.w, 1.0 / n, self.ws, out,
            self.dropping,
        )  # fmt: skip
        return self.backend.to_numpy(flat)

    def branches(self) -> list[np.ndarray]:
        """Return which way each ``where`` went in the last pass."""
        z = [self.backend.to_numpy(one) for one in self.ws.z]
        taken: list[np.ndarray] = []
        for activation, one in zip(self.model.activations, z, strict=True):
            taken += _conditions(activation.forward, {"z": one})
        if self.model.pair.loss is not None:
            o = self.backend.to_numpy(self.ws.a[-1])
            taken += _conditions(self.model.pair.loss, {"o": o, "z": z[-1], "y": self.y})
        return taken


def _conditions(expression: Expression, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    scope = {"xp": np, "T": np.float64, **expression.folded.constants, **arrays}
    return [
        np.array(eval(to_python(condition), scope))  # only what `parse` let through
        for _, node in expression.folded.statements
        for condition in node.conditions()
    ]


def check(
    backend: Backend,
    model: Model,
    parameters: Parameters,
    X: Array,
    Y: Array,
    w: Array | None,
    dropping: Dropping | None,
    h: float,
) -> GradientCheck:
    """Compare the gradient with central differences; everything in float64 and on one backend.

    Parameters
    ----------
    backend : Backend
    model : Model
        With dtype float64.
    parameters : Parameters
        Moved by h and put back, entry by entry.
    X, Y : array of shape (n, n_in), (n, n_out)
    w : array of shape (n,) or None
        Sample weights.
    dropping : Dropping or None
        The same masks in every pass.
    h : float
        Half the distance of the two points.
    """
    loss = _Loss(backend, model, X, Y, w, dropping)
    loss(parameters)
    branches = loss.branches()
    analytic = loss.gradient(parameters)
    names = entry_names(model)
    kinks: list[str] = []
    numeric = np.full(analytic.shape, np.nan)
    for i, name in names.items():
        values, same = [], True
        entry = parameters.flat[i : i + 1]
        before = float(backend.to_numpy(entry)[0])
        for moved in (before + h, before - h):
            entry[...] = moved
            values.append(loss(parameters))
            same = same and all(
                np.array_equal(a, b) for a, b in zip(branches, loss.branches(), strict=True)
            )
        entry[...] = before
        if same:
            # The two points as they were rounded, not 2 h.
            numeric[i] = (values[0] - values[1]) / ((before + h) - (before - h))
        else:
            kinks.append(name)
    return _report(analytic, numeric, names, kinks)


def _report(
    analytic: np.ndarray, numeric: np.ndarray, names: dict[int, str], kinks: list[str]
) -> GradientCheck:
    judged = sorted(i for i, name in names.items() if name not in set(kinks))
    if not judged:
        return GradientCheck(0.0, "nowhere", 0.0, 0.0, tuple(kinks), len(names))
    largest = max(float(np.abs(analytic).max()), float(np.abs(numeric[judged]).max()))
    errors = np.abs(analytic[judged] - numeric[judged]) / (largest or 1.0)
    at = judged[int(np.argmax(errors))]  # a NaN counts as the largest
    error = float(np.max(errors))
    return GradientCheck(
        error, names[at], float(analytic[at]), float(numeric[at]), tuple(kinks), len(names)
    )


def entry_names(model: Model) -> dict[int, str]:
    """Return what each entry of the flat parameters is called, such as ``"W[0][2, 1]"``; padding is
    left out.
    """
    places = Parameters(model, np.arange(model.layout.size))
    named = {}
    for letter, arrays in (("W", places.weights), ("b", places.biases)):
        for l, array in enumerate(arrays):
            for index in np.ndindex(array.shape) if array is not None else ():
                named[int(array[index])] = f"{letter}[{l}][{', '.join(map(str, index))}]"
    return named
