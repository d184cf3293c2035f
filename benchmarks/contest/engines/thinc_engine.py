"""thinc on its NumPy operations: `begin_update`, the output's delta, `finish_update`."""

from typing import Any

import numpy as np
from thinc.api import Linear, NumpyOps, Optimizer, Sigmoid, Softmax, chain, set_current_ops

from contest.cells import Cell, Data
from contest.engines.base import Engine


class Thinc(Engine):
    """Layers that thinc has, a flat loop over batches."""

    raw_epsilon = True

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        set_current_ops(NumpyOps())
        last = {"cross_entropy": Softmax, "log_loss": Linear, "squared": Sigmoid}[cell.loss]
        shapes = list(zip(cell.sizes[1:], cell.sizes[:-1], strict=True))
        self.layers = [Sigmoid(*s) for s in shapes[:-1]] + [last(*shapes[-1])]
        self.model: Any = chain(*self.layers)
        self.model.initialize()
        pairs = zip(self.layers, data.weights, data.biases, strict=True)
        for layer, W, b in pairs:
            layer.set_param("W", W.copy())
            layer.set_param("b", b.copy())
        moments = {"beta1": 0.9, "beta2": 0.999} if cell.adam else {"beta1": 0.0, "beta2": 0.0}
        self.optimizer = Optimizer(
            cell.learning_rate, **moments, eps=1e-8, L2=0.0, grad_clip=0.0, use_averages=False
        )

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        o, backprop = self.model.begin_update(x)
        if self.cell.loss == "log_loss":
            o = 1 / (1 + np.exp(-o))
        backprop((o - y) * np.float32(1 / len(x)))
        self.model.finish_update(self.optimizer)

    def train(self, order: np.ndarray) -> None:
        X, Y = self.data.X, self.data.Y
        if self.cell.full:
            for _ in range(0, len(order), self.cell.batch_size):
                self.step(X, Y)
            return
        for rows in self.batches(order):
            self.step(X[rows], Y[rows])

    def parameters(self) -> list[Any]:
        return [layer.get_param(name) for layer in self.layers for name in ("W", "b")]
