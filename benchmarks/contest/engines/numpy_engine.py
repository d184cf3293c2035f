"""NumPy as its expert would write it: workspaces, ``out=``, one flat buffer. A yardstick."""

import numpy as np

from contest.cells import Cell, Data
from contest.engines.base import Engine


class ByHand(Engine):
    """Losses are not summed."""

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        pairs = list(zip(data.weights, data.biases, strict=True))
        size = sum(W.size + b.size for W, b in pairs)
        self.flat, self.gradient = np.empty(size, np.float32), np.empty(size, np.float32)
        self.W, self.b = self._views(self.flat)
        self.dW, self.db = self._views(self.gradient)
        for l, (W, b) in enumerate(pairs):
            self.W[l][...], self.b[l][...] = W, b
        n, sizes = cell.batch_size, cell.sizes
        self.x, self.y = None, None
        if not cell.full:
            self.x = np.empty((n, sizes[0]), np.float32)
            self.y = np.empty((n, sizes[-1]), np.float32)
        self.a, self.delta = ([np.empty((n, m), np.float32) for m in sizes[1:]] for _ in range(2))
        self.ones, self.column = np.ones(n, np.float32), np.empty((n, 1), np.float32)
        self.t = 0
        if cell.adam:
            self.m, self.v, self.spare = (np.zeros_like(self.flat) for _ in range(3))

    def _views(self, flat: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        W, b, i = [], [], 0
        for m, k in zip(self.cell.sizes[1:], self.cell.sizes[:-1], strict=True):
            W.append(flat[i : i + m * k].reshape(m, k))
            b.append(flat[i + m * k : i + m * k + m])
            i += m * k + m
        return W, b

    def activate(self, z: np.ndarray, softmax: bool) -> None:
        if softmax:
            np.max(z, axis=1, keepdims=True, out=self.column)
            np.subtract(z, self.column, out=z)
            np.exp(z, out=z)
            np.sum(z, axis=1, keepdims=True, out=self.column)
            np.divide(z, self.column, out=z)
        else:
            np.negative(z, out=z)
            np.exp(z, out=z)
            np.add(z, 1, out=z)
            np.reciprocal(z, out=z)

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        cell, a, below = self.cell, self.a, x
        for l, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            np.dot(below, W.T, out=a[l])
            np.add(a[l], b, out=a[l])
            self.activate(a[l], cell.loss == "cross_entropy" and l == len(self.W) - 1)
            below = a[l]
        delta = np.subtract(a[-1], y, out=self.delta[-1])
        if len(x) > 1:
            np.multiply(delta, np.float32(1 / len(x)), out=delta)
        if cell.loss == "squared":
            self._derive(delta, a[-1])
        for l in reversed(range(len(self.W))):
            below = a[l - 1] if l else x
            np.dot(delta.T, below, out=self.dW[l])
            np.dot(self.ones, delta, out=self.db[l])
            if l:
                np.dot(delta, self.W[l], out=self.delta[l - 1])
                delta = self.delta[l - 1]
                self._derive(delta, below)
        self.update()

    def _derive(self, delta: np.ndarray, a: np.ndarray) -> None:
        """Multiply by a * (1 - a); overwrites both."""
        np.multiply(delta, a, out=delta)
        np.subtract(1, a, out=a)
        np.multiply(delta, a, out=delta)

    def update(self) -> None:
        g, rate = self.gradient, self.cell.learning_rate
        if self.cell.adam:
            self.t += 1
            m, v, spare = self.m, self.v, self.spare
            np.multiply(np.subtract(g, m, out=spare), np.float32(0.1), out=spare)
            np.add(m, spare, out=m)
            np.subtract(np.multiply(g, g, out=spare), v, out=spare)
            np.add(v, np.multiply(spare, np.float32(0.001), out=spare), out=v)
            np.multiply(np.sqrt(v, out=spare), np.float32((1 - 0.999**self.t) ** -0.5), out=spare)
            np.divide(m, np.add(spare, np.float32(1e-8), out=spare), out=g)
            rate /= 1 - 0.9**self.t
        np.multiply(g, np.float32(rate), out=g)
        np.subtract(self.flat, g, out=self.flat)

    def train(self, order: np.ndarray) -> None:
        X, Y = self.data.X, self.data.Y
        if self.cell.full:
            for _ in range(0, len(order), self.cell.batch_size):
                self.step(X, Y)
        elif self.cell.batch_size == 1:
            for i in order.tolist():
                self.step(X[i : i + 1], Y[i : i + 1])
        else:
            for rows in self.batches(order):
                np.take(X, rows, axis=0, out=self.x, mode="clip")
                np.take(Y, rows, axis=0, out=self.y, mode="clip")
                self.step(self.x, self.y)

    def parameters(self) -> list[np.ndarray]:
        return [p for pair in zip(self.W, self.b, strict=True) for p in pair]
