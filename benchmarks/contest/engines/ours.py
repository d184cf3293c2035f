"""gpubackprop on each executor, by `Network.fit`, as a user would."""

import numpy as np

import gpubackprop as gb
from contest.cells import Cell, Data
from contest.engines.base import Engine


class _Ours(Engine):
    executor = ""
    any_units = True

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        self.net = gb.Network(
            cell.sizes, hidden=cell.hidden, output=cell.output, loss=cell.loss,
            backend="numpy", rng=0,
        )  # fmt: skip
        self.net.weights, self.net.biases = data.weights, data.biases
        rate = cell.learning_rate
        self.optimizer = gb.Adam(rate) if cell.adam else gb.SGD(rate)
        self.targets = data.labels if cell.loss == "cross_entropy" else data.Y

    def _fit(self, X: np.ndarray, Y: np.ndarray, epochs: int, shuffle: bool) -> None:
        self.net.fit(
            X, Y, batch_size="full" if self.cell.full else self.cell.batch_size, epochs=epochs,
            optimizer=self.optimizer, shuffle=shuffle, progress=False,
            executor=self.executor, threads=self.threads,
        )  # fmt: skip

    def train(self, order: np.ndarray) -> None:
        if self.cell.full:
            self._fit(self.data.X, self.targets, len(order) // self.cell.rows, False)
        else:
            self._fit(self.data.X[order], self.targets[order], 1, False)

    def epochs(self, k: int, rows: int) -> None:
        self._fit(self.data.X[:rows], self.targets[:rows], k, True)

    def parameters(self) -> list[np.ndarray]:
        pairs = zip(self.net.weights, self.net.biases, strict=True)
        return [p for pair in pairs for p in pair]


class Eager(_Ours):
    """The operations one by one, without Numba."""

    executor = "eager"


class Compiled(_Ours):
    """One native call for a slice of an epoch."""

    executor = "compiled"


class Auto(_Ours):
    """Whatever `executor="auto"` chooses."""

    executor = "auto"
