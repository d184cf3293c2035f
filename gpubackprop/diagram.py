"""Where a network's units stand in a picture of it; large layers folded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Units of a layer that are drawn; a larger layer shows two fewer and one node for the others.
MOST = 10


@dataclass(frozen=True)
class Column:
    """A layer of units in a picture: the inputs are column 0.

    Attributes
    ----------
    units : tuple of int
        Those that are drawn, in their order.
    folded : int
        How many others there are: they share one node below the last unit.
    """

    units: tuple[int, ...]
    folded: int

    @property
    def rows(self) -> int:
        """Nodes in this column."""
        return len(self.units) + bool(self.folded)

    def heights(self, tallest: int) -> list[float]:
        """Return the place of each node, the folded one last, in 0..tallest - 1 from the top."""
        return [(tallest - self.rows) / 2 + k for k in range(self.rows)]


def columns(
    weights: Sequence[np.ndarray], sizes: Sequence[np.ndarray] | None = None, most: int = MOST
) -> list[Column]:
    """Choose the units to be drawn: of a layer too large, those that matter most.

    Parameters
    ----------
    weights : sequence of array of shape (n_out, n_in)
        W of each layer.
    sizes : sequence of array of shape (n_units,), optional
        How large each unit's value is, inputs first; by default all count the same. A hidden unit
        or an input matters by its size times the norm of the weights that leave it, an output by
        its size times the norm of those that enter it.
    most : int, optional
        Units of a column that are drawn, >= 3.
    """
    found = []
    for l in range(len(weights) + 1):
        W = weights[l] if l < len(weights) else weights[-1].T
        matters = np.linalg.norm(W, axis=0)
        if sizes is not None:
            matters = matters * np.abs(sizes[l])
        n = len(matters)
        kept = n if n <= most else most - 2
        order = np.argsort(-matters, kind="stable")[:kept]
        found.append(Column(tuple(int(i) for i in np.sort(order)), n - kept))
    return found
