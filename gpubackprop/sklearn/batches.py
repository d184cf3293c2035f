"""The order of rows and the weights of an epoch, as scikit-learn draws and divides them."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Epoch:
    """What an epoch trains on.

    Attributes
    ----------
    order : integer array or None
        Rows in order; None is 0, 1, 2, ...
    n_rows : int
        How many of them are trained on.
    weights : array of shape (n_samples,) or None
        By row of the data: sum(weights * loss) / rows is each batch's loss.
    weight_sums : list of float or None
        Of each batch.
    """

    order: np.ndarray | None
    n_rows: int
    weights: np.ndarray | None = None
    weight_sums: list[float] | None = None


class Epochs:
    """Makes an `Epoch` after the other.

    Parameters
    ----------
    n_samples, batch_size : int
    random_state : numpy.random.RandomState or None
        Shuffles; each epoch's order is a shuffle of the last one's. None: no shuffling.
    weights : array of shape (n_samples,) or None
        Sample weights, each batch's to be divided by their own sum. A batch whose weights sum to 0
        is skipped.
    """

    def __init__(
        self,
        n_samples: int,
        batch_size: int,
        random_state: np.random.RandomState | None,
        weights: np.ndarray | None,
    ) -> None:
        self.n_samples, self.batch_size = n_samples, batch_size
        self.random_state, self.weights = random_state, weights
        self._order = np.arange(n_samples)

    def draw(self) -> Epoch:
        """Return the next epoch."""
        if self.random_state is not None:
            # The same draws, and the same accumulation, as sklearn.utils.shuffle(order).
            indices = np.arange(self.n_samples)
            self.random_state.shuffle(indices)
            self._order = self._order[indices]
        # A batch of all rows is the same in any order.
        whole = self.random_state is None or self.batch_size >= self.n_samples
        order = None if whole else self._order
        if self.weights is None:
            return Epoch(order, self.n_samples)
        return self._weighted(self._order if order is not None else np.arange(self.n_samples))

    def _weighted(self, order: np.ndarray) -> Epoch:
        assert self.weights is not None
        in_order = self.weights[order].astype(np.float64)
        starts = np.arange(0, self.n_samples, self.batch_size)
        rows = np.diff(starts, append=self.n_samples)
        sums = np.add.reduceat(in_order, starts)
        kept = sums != 0
        factors = np.divide(rows, sums, where=kept, out=np.zeros(len(sums)))
        weights = np.empty(self.n_samples)
        weights[order] = in_order * np.repeat(factors, rows)
        if not kept.all():
            order = order[np.repeat(kept, rows)]
        return Epoch(order, len(order), weights, sums[kept].tolist())
