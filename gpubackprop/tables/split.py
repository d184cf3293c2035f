"""Which rows are held out for validation, drawn as they come by."""

from __future__ import annotations

import numpy as np

#: Stretches whose rows are drawn together.
_AT_ONCE = 1024


class HeldOut:
    """Draws a share of the rows of a table of unknown length, spread evenly over it.

    With a share p, one row in each stretch of 1 / p rows is held out, each as likely as any other.
    So n rows have about p * n that are held out, wherever the table is cut into chunks.

    Parameters
    ----------
    share : float
        In 0..1, 1 excluded.
    seed : int
    """

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._rng = np.random.default_rng(seed)
        self._begun, self._stretches = 0, 0
        self._rows = np.empty(0, np.int64)

    def mask(self, n: int) -> np.ndarray:
        """Return which of the next n rows are held out, as booleans."""
        held = np.zeros(n, bool)
        begun, self._begun = self._begun, self._begun + n
        while self._share and (not len(self._rows) or self._rows[-1] < self._begun):
            self._rows = np.concatenate([self._rows, self._draw()])
        known = int(np.searchsorted(self._rows, self._begun))
        held[self._rows[:known] - begun] = True
        self._rows = self._rows[known:]
        return held

    def _draw(self) -> np.ndarray:
        """Return the rows of the next stretches, ascending."""
        stretches = self._stretches + np.arange(_AT_ONCE)
        self._stretches += _AT_ONCE
        rows = np.floor((stretches + self._rng.random(_AT_ONCE)) / self._share)
        return rows.astype(np.int64)
