"""Where the rows of the data are, for the compiled loop: read in place, or gathered before."""

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.data import Source
from gpubackprop.executors.compiled.tables import position
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.types import Array


class Rows:
    """Arguments of the loop that say where X, Y, the weights and the order of rows are.

    Parameters
    ----------
    model : Model
    backend : Backend
    """

    def __init__(self, model: Model, backend: Backend) -> None:
        self._gather = Gather(model, backend)
        self._source: Source | None = None
        self._found: dict[str, int] | None = None

    def in_place(self, source: Source, order: Array | None) -> dict[str, int] | None:
        """Return where a source's own arrays are; None if they cannot be read as they are."""
        if source is not self._source:
            self._source, self._found = source, self._look(source)
        if self._found is None or not (order is None or order.dtype == np.int32):
            return None
        self._found["order"] = position(order)
        return self._found

    def _look(self, source: Source) -> dict[str, int] | None:
        arrays = source.in_place()
        if arrays is None:
            return None
        self._arrays = X, Y, w = arrays
        coded = Y.ndim == 1 and Y.dtype == np.int64
        return {
            "X": position(X), "w": position(w), "coded": int(coded),
            "Y": 0 if coded else position(Y), "labels": position(Y) if coded else 0,
        }  # fmt: skip

    def gathered(
        self, source: Source, order: Array | None, start: int, stop: int
    ) -> dict[str, int]:
        """Gather the rows ``order[start:stop]``; returns where they are until the next call."""
        X, Y, w = self._block = self._gather.rows(source, order, start, stop)
        return {
            "X": position(X), "Y": position(Y), "w": position(w),
            "labels": 0, "coded": 0, "order": 0,
        }  # fmt: skip
