"""Rows of data that are on the device, gathered there in one launch."""

from gpubackprop.backends.base import Backend
from gpubackprop.data import Source
from gpubackprop.model import Model
from gpubackprop.types import Array


class Resident:
    """A source's arrays, if kernels can gather from them, and buffers for gathered rows.

    Parameters
    ----------
    model : Model
    backend : Backend
    """

    def __init__(self, model: Model, backend: Backend) -> None:
        self.model, self.backend = model, backend
        self._source: Source | None = None
        self._found: tuple[Array, Array, Array | None] | None = None
        self._buffers: tuple[Array, Array, Array | None] | None = None

    def of(self, source: Source) -> tuple[Array, Array, Array | None] | None:
        """Return X, Y and the weights; None where `source.take` has to do it."""
        if source is not self._source:
            self._source, self._found = source, source.on_device()
        return self._found

    def buffers(self, n: int, weighted: bool) -> tuple[Array, Array, Array | None]:
        """Return room for n rows of X, Y and the weights: the same as before, or more."""
        known = self._buffers
        if known is None or len(known[0]) < n or (weighted and known[2] is None):
            empty, sizes, dtype = self.backend.empty, self.model.sizes, self.model.dtype
            X, Y = empty((n, sizes[0]), dtype), empty((n, sizes[-1]), dtype)
            known = self._buffers = X, Y, empty((n,), dtype) if weighted else None
        X, Y, w = known
        return X[:n], Y[:n], w[:n] if weighted and w is not None else None
