"""Outputs and losses of any number of rows, without training."""

from typing import Any

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.data import Source
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.types import Array

#: Numbers of X that are checked in one pass and go through the network at once.
_FEW = 65536


class Evaluator:
    """Computes outputs and losses of any number of rows, a slice at a time, with one workspace.

    Parameters
    ----------
    backend : Backend
    model : Model
    """

    def __init__(self, backend: Backend, model: Model) -> None:
        self.backend, self.model = backend, model
        self._workspace: Workspace | None = None
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
            o = backprop.forward(
                self.backend, self.model, parameters, X, self.workspace(stop - start)
            )
            self.backend.copy(o, out[start:stop])
        return out

    def at_once(self, parameters: Parameters, X: Any) -> Array | None:
        """Return the outputs for few rows that can be read as they are, in an array of their own.

        A source would take longer to make than a row takes to predict. None for anything else, bad
        data included: those take a source.
        """
        model, backend = self.model, self.backend
        if type(X) is not np.ndarray or not backend.host or X.dtype != model.dtype or X.ndim != 2:
            return None
        fits = X.shape[1] == model.sizes[0] and 0 < X.size <= _FEW and X.flags.c_contiguous
        if not fits or not np.isfinite(X).all():
            return None
        o = backprop.forward(backend, model, parameters, X, self.workspace(len(X)))
        return o.copy()

    def workspace(self, n: int) -> Workspace:
        """Return a workspace of n rows for going forward."""
        if self._workspace is None or self._workspace.n_rows < n:
            self._workspace = Workspace(self.model, n, self.backend, training=False)
        return self._workspace.rows(n)
