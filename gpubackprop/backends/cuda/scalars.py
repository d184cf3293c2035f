"""The numbers that change from update to update, in device memory."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop.backends.cuda import functions, modules
from gpubackprop.optimizers import Optimizer

#: Updates whose scalars are on the device at once.
TABLE_ROWS = 1024


class Scalars:
    """The numbers of each update, and where a run stands, in device memory.

    They are uploaded ahead, for the rest of an epoch or as many updates as the table has rows, and
    only if they differ from those that are there.

    Attributes
    ----------
    table : array of shape (rows, row_length)
    row_step : int
        Numbers from one update's row to the next; 0 where all updates have the same.
    state : int64 array of shape (4,)
        `State` of common.cu; the device moves it on.
    """

    def __init__(
        self, backend: Any, dtype: np.dtype, optimizer: Optimizer, rows: int = TABLE_ROWS
    ) -> None:
        self.backend, self.optimizer = backend, optimizer
        width = functions.row_length(optimizer)
        self.table = backend.empty((rows, width), dtype)
        self.state = backend.zeros(modules.STATE.itemsize // 8, np.int64)
        self._rows = np.empty((0, width))
        self._at = [0, -1, -1, -1]
        same = type(optimizer).scalars is Optimizer.scalars or not optimizer.scalar_names
        self._same = same and not optimizer.schedule.per_update
        self.row_step = 0

    def begin(
        self,
        n: int,
        ahead: int,
        updates: int,
        steps: int,
        batch: int,
        position: int,
        learning_rate: Callable[[int], float],
        share: Callable[[int], float] | None,
    ) -> None:
        """See to it that the next updates find their numbers.

        Parameters
        ----------
        n : int
            How many there are for certain, 1..rows.
        ahead : int
            How many there are to be in the epoch from here.
        updates, steps, batch, position : int
            Where the run stands.
        learning_rate, share : callable
            Of a batch of the epoch. Without `share`, the penalties' factors are multiplied by 1.
        """
        row, *at = self._at
        same = self._same and share is None
        self.row_step = 0 if same else self.table.shape[1]
        now = self._row(updates, batch, learning_rate, share)
        known = 0 if same else row
        ready = known + (1 if same else n) <= len(self._rows)
        if not ready or tuple(self._rows[known]) != now:
            many = 1 if same else max(n, min(ahead, len(self.table)))
            rows = [now] + [
                self._row(updates + i, batch + i, learning_rate, share) for i in range(1, many)
            ]
            self._rows = np.array(rows)
            self.backend.upload(self._rows, self.table[:many])
            row = 0
        if [row, steps, batch, position] != [self._at[0], *at]:
            self._at = [row, steps, batch, position]
            self.backend.upload(np.array(self._at), self.state)

    def _row(
        self,
        updates: int,
        batch: int,
        learning_rate: Callable[[int], float],
        share: Callable[[int], float] | None,
    ) -> tuple[float, ...]:
        """Return the numbers of one update."""
        optimizer, rate = self.optimizer, learning_rate(batch)
        penalties = optimizer.penalty_factors(1.0 if share is None else share(batch))
        scalars = optimizer.scalars(updates + 1, rate)
        return rate * optimizer.weight_decay, *penalties, *scalars

    def moved(self, rows: int, updates: int = 1) -> None:
        """Note that the device has moved its state on."""
        self._at[0] += updates
        self._at[1] += updates
        self._at[2] += updates
        self._at[3] += rows * updates
