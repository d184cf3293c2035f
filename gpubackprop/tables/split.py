"""Which rows are held out for validation, drawn as they come by."""

from __future__ import annotations

import math

import numpy as np


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
        self._begun, self._stretch = 0, 0
        self._next = self._draw()

    def _draw(self) -> int:
        """Return the row of the next stretch."""
        if self._share == 0:
            return -1
        row = math.floor((self._stretch + self._rng.random()) / self._share)
        self._stretch += 1
        return row

    def mask(self, n: int) -> np.ndarray:
        """Return which of the next n rows are held out, as booleans."""
        held = np.zeros(n, bool)
        end = self._begun + n
        while self._begun <= self._next < end:
            held[self._next - self._begun] = True
            self._next = self._draw()
        self._begun = end
        return held
