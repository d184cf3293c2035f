"""What an engine does."""

from typing import Any

import numpy as np

from contest.cells import Cell, Data


class Engine:
    """Trains one cell.

    Parameters
    ----------
    cell : Cell
    data : Data
    threads : int

    Attributes
    ----------
    raw_epsilon : bool
        Whether its Adam adds epsilon before the bias correction.
    any_units : bool
        Whether it has others than sigmoid units, and linear outputs.
    """

    raw_epsilon = False
    any_units = False

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        self.cell, self.data, self.threads = cell, data, threads
        self.rng = np.random.default_rng(0)

    @classmethod
    def refusal(cls, cell: Cell) -> str | None:
        """Return why this cell cannot be done, in words; None if it can."""
        own = cls.any_units or (cell.hidden == "sigmoid" and cell.output != "identity")
        return None if own else "it is written for sigmoid units"

    @classmethod
    def loss(cls, cell: Cell) -> str:
        """Return the loss that is trained with: another one where the cell's cannot be had."""
        return cell.loss

    def train(self, order: np.ndarray) -> None:
        """Train on these rows, whole batches, in this order; an update after each batch."""
        raise NotImplementedError

    def epochs(self, k: int, rows: int) -> None:
        """Train for k epochs over the first rows, each in a fresh order."""
        for _ in range(k):
            order = np.arange(rows) if self.cell.full else self.rng.permutation(rows)
            self.train(order)

    def parameters(self) -> list[Any]:
        """Return W of shape (n_out, n_in) and b of each layer in turn."""
        raise NotImplementedError

    def batches(self, order: Any) -> Any:
        """Cut an order into batches."""
        n = self.cell.batch_size
        return (order[i : i + n] for i in range(0, len(order), n))
