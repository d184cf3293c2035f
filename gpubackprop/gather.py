"""Blocks of rows of a source, as views where possible, else gathered into buffers that are kept."""

import contextlib

from gpubackprop.backends.base import Backend
from gpubackprop.data import Source
from gpubackprop.model import Model
from gpubackprop.types import Array


class Gather:
    """Reads X, Y and weights of blocks of rows. What it returns lasts until the next call.

    Data that do not live on the device are copied into two sets of buffers in turn, so that the
    device can compute with one block while the next is on its way.

    Parameters
    ----------
    model : Model
    backend : Backend
    targets : bool, optional
        Whether Y is wanted.
    views : bool, optional
        Whether views of the data itself will do. Without them, what is returned begins at one of a
        few addresses.
    """

    def __init__(
        self, model: Model, backend: Backend, *, targets: bool = True, views: bool = True
    ) -> None:
        self.model, self.backend, self.targets, self.views = model, backend, targets, views
        self._turns = backend.turns()
        self._sets = [_Set(model, backend) for _ in range(self._turns.n_sets)]

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
        if order is None and self.views:
            view = source.view(start, stop)
            if view is not None:
                return view
            X = source.view_inputs(start, stop)
        ahead = not source.resident
        buffers = self._sets[self._turns.next() if ahead else 0]
        X_out = buffers.get("X", n, sizes[0]) if X is None else None
        Y = buffers.get("Y", n, sizes[-1]) if self.targets else None
        w = buffers.get("w", n) if source.weighted else None
        rows = slice(start, stop) if order is None else order[start:stop]
        if X_out is not None or Y is not None or w is not None:
            fresh, buffers.fresh = buffers.fresh, False
            with self._turns.filling(fresh) if ahead else contextlib.nullcontext():
                source.take(rows, X_out, Y, w)
        return X_out if X is None else X, Y, w


class _Set:
    """Buffers by name; they grow.

    Attributes
    ----------
    arrays : dict of str to array
    fresh : bool
        Whether one was allocated since this was last set to False.
    """

    def __init__(self, model: Model, backend: Backend) -> None:
        self._dtype, self._backend = model.dtype, backend
        self.arrays: dict[str, Array] = {}
        self.fresh = False

    def get(self, name: str, n: int, *columns: int) -> Array:
        """Return n rows of a buffer."""
        buffer = self.arrays.get(name)
        if buffer is None or len(buffer) < n:
            buffer = self.arrays[name] = self._backend.empty((n, *columns), self._dtype)
            self.fresh = True
        return buffer[:n]
