"""Outputs and losses of any number of rows, without training."""

from typing import Any

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Layers, Parameters, Workspace
from gpubackprop.data import Source
from gpubackprop.executors.prediction import Choice
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.types import Array

#: Numbers of X that the backend checks in one pass and passes through the network at once.
_FEW = 65536


class Evaluator:
    """Computes outputs and losses of any number of rows, a slice at a time, with one workspace.

    Parameters
    ----------
    backend : Backend
    model : Model
    strict : bool, optional
        Whether compiled code is to leave parameters that are not finite to the backend.
    """

    def __init__(self, backend: Backend, model: Model, *, strict: bool = False) -> None:
        self.backend, self.model = backend, model
        self._workspace: Workspace | None = None
        self._choice = Choice(model, backend, strict=strict)
        self._gather = Gather(model, backend)
        self._gather_X = Gather(model, backend, targets=False)

    def loss(self, parameters: Parameters, source: Source) -> float:
        """Return the mean (weighted) loss over a source. Waits for the device."""
        backend, n = self.backend, source.n_samples
        value, total = backend.zeros((1,), "float64"), backend.zeros((1,), "float64")
        for start in range(0, n, backprop.SLICE):
            stop = min(start + backprop.SLICE, n)
            X, Y, w = self._gather.rows(source, None, start, stop)
            ws = self.workspace(stop - start)
            backprop.forward(backend, self.model, parameters, X, ws)
            backend.loss(self.model, ws, Y, w, value)
            backend.add(value, total)
        return float(backend.to_numpy(total)[0]) / n

    def outputs(self, parameters: Parameters, source: Source, out: Array) -> Array:
        """Write the network's outputs for every row of a source into `out`, of shape (n, n_out)."""
        n = source.n_samples
        for start in range(0, n, backprop.SLICE):
            stop = min(start + backprop.SLICE, n)
            X, _, _ = self._gather_X.rows(source, None, start, stop)
            if self._written(parameters, X, out[start:stop]):
                continue
            o = backprop.forward(
                self.backend, self.model, parameters, X, self.workspace(stop - start)
            )
            self.backend.copy(o, out[start:stop])
        return out

    def _written(self, parameters: Parameters, X: Array, out: Array) -> bool:
        """Write outputs by compiled code; tell whether that could be done."""
        if not self._reads(X):
            return False
        predictor = self._choice.predictor(len(X))
        return predictor is not None and predictor.into(parameters, X, out, len(X))

    def at_once(self, parameters: Parameters, X: Any) -> Array | None:
        """Return the outputs for rows that can be read as they are, in an array of their own.

        A source would take longer to make than a row takes to predict. None for anything else, bad
        data included: those take a source. So do many rows, without compiled code.
        """
        if not self._reads(X):
            return None
        o = self._outputs(parameters, X)
        if o is not None or X.size > _FEW or not np.isfinite(X).all():
            return o
        with self.backend.active():
            ws = self.workspace(len(X))
            return backprop.forward(self.backend, self.model, parameters, X, ws).copy()

    def compiled(self, parameters: Layers, X: Any) -> np.ndarray | None:
        """Return the outputs of compiled code; None where it is not to be had, or where a number
        may not be finite.
        """
        return self._outputs(parameters, X) if self._reads(X) else None

    def _outputs(self, parameters: Layers, X: np.ndarray) -> np.ndarray | None:
        predictor = self._choice.predictor(len(X))
        try:
            return None if predictor is None else predictor.outputs(parameters, X)
        except MemoryError:  # there is a way that can say why
            return None

    def _reads(self, X: Any) -> bool:
        """Tell whether rows can be read as they are."""
        if type(X) is not np.ndarray or not self.backend.host or X.ndim != 2:
            return False
        n, n_in = X.shape
        fits = n > 0 and n_in == self.model.sizes[0] and X.dtype == self.model.dtype
        return fits and X.flags.c_contiguous and X.flags.aligned

    def workspace(self, n: int) -> Workspace:
        """Return a workspace of n rows for going forward."""
        if self._workspace is None or self._workspace.n_rows < n:
            self._workspace = Workspace(self.model, n, self.backend, training=False)
        return self._workspace.rows(n)
