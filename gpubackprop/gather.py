"""Blocks of rows of a source, as views where possible, else gathered into buffers that are kept."""

from gpubackprop.backends.base import Backend
from gpubackprop.data import Source
from gpubackprop.model import Model
from gpubackprop.types import Array


class Gather:
    """Reads X, Y and weights of blocks of rows. What it returns lasts until the next call.

    Parameters
    ----------
    model : Model
    backend : Backend
    targets : bool, optional
        Whether Y is wanted.
    """

    def __init__(self, model: Model, backend: Backend, *, targets: bool = True) -> None:
        self.model, self.backend, self.targets = model, backend, targets
        self._buffers: dict[str, Array] = {}

    def rows(
        self, source: Source, order: Array | None, start: int, stop: int
    ) -> tuple[Array, Array, Array | None]:
        """Return X, Y and the weights of the rows ``order[start:stop]``.

        Parameters
        ----------
        source : Source
        order : integer array or None
            On the host, or where a resident source lives; None stands for 0, 1, 2, ...
        start, stop : int

        Returns
        -------
        X : array of shape (n, n_in)
        Y : array of shape (n, n_out), or None if not wanted
        w : array of shape (n,), or None if there are no weights
        """
        n, sizes = stop - start, self.model.sizes
        X = None
        if order is None:
            view = source.view(start, stop)
            if view is not None:
                return view
            X = source.view_inputs(start, stop)
        X_out = self._buffer("X", n, sizes[0]) if X is None else None
        Y = self._buffer("Y", n, sizes[-1]) if self.targets else None
        w = self._buffer("w", n) if source.weighted else None
        rows = slice(start, stop) if order is None else order[start:stop]
        if X_out is not None or Y is not None or w is not None:
            source.take(rows, X_out, Y, w)
        return X_out if X is None else X, Y, w

    def _buffer(self, name: str, n: int, *columns: int) -> Array:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < n:
            buffer = self._buffers[name] = self.backend.empty((n, *columns), self.model.dtype)
        return buffer[:n]
