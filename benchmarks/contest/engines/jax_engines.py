"""JAX: a jitted step called from Python, and a whole epoch in one `lax.scan`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from contest.cells import Cell, Data
from contest.engines.base import Engine

_UNITS = {
    "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}  # fmt: skip


def loss_of(P: Any, x: Any, y: Any, cell: Cell) -> Any:
    """Return the mean loss of a batch, from logits where the pair allows."""
    kind = cell.loss
    for W, b in P[:-1]:
        x = _UNITS[cell.hidden](x @ W.T + b)
    W, b = P[-1]
    z = x @ W.T + b
    if kind == "cross_entropy":
        return -(y * jax.nn.log_softmax(z)).sum(1).mean()
    if kind == "log_loss":
        return (jax.nn.softplus(z) - z * y).sum(1).mean()
    o = jax.nn.sigmoid(z) if cell.output == "sigmoid" else z
    return 0.5 * ((o - y) ** 2).sum(1).mean()


def update(cell: Cell, state: Any, x: Any, y: Any) -> Any:
    """Return the state after one update."""
    P, m, v, t = state
    G = jax.grad(loss_of)(P, x, y, cell)
    rate = cell.learning_rate
    if not cell.adam:
        return jax.tree.map(lambda p, g: p - rate * g, P, G), m, v, t
    t = t + 1
    m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, G)
    v = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), v, G)
    c1, c2 = 1 - 0.9**t, 1 - 0.999**t
    P = jax.tree.map(lambda p, m, v: p - rate * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), P, m, v)
    return P, m, v, t


class _Jax(Engine):
    any_units = True

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        self.X, self.Y = jnp.asarray(data.X), jnp.asarray(data.Y)
        pairs = zip(data.weights, data.biases, strict=True)
        P = [(jnp.array(W), jnp.array(b)) for W, b in pairs]
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        m, v = (zeros(P), zeros(P)) if cell.adam else ((), ())
        self.state = P, m, v, jnp.zeros((), jnp.float32)

    def epochs(self, k: int, rows: int) -> None:
        super().epochs(k, rows)
        jax.block_until_ready(self.state)

    def parameters(self) -> list[Any]:
        return [np.asarray(p) for pair in self.state[0] for p in pair]


class Step(_Jax):
    """A step, rows gathered inside, parameters donated."""

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state: Any, X: Any, Y: Any, rows: Any) -> Any:
            return update(cell, state, X[rows], Y[rows])

        @functools.partial(jax.jit, donate_argnums=0)
        def whole(state: Any, X: Any, Y: Any) -> Any:
            return update(cell, state, X, Y)

        self.step, self.whole = step, whole

    def train(self, order: np.ndarray) -> None:
        if self.cell.full:
            for _ in range(0, len(order), self.cell.batch_size):
                self.state = self.whole(self.state, self.X, self.Y)
            return
        for rows in self.batches(order.astype(np.int32)):
            self.state = self.step(self.state, self.X, self.Y, rows)


class Scan(_Jax):
    """An epoch as one call: the steps in a scan over the batches' rows."""

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(state: Any, X: Any, Y: Any, order: Any) -> Any:
            def one(state: Any, rows: Any) -> Any:
                return update(cell, state, X[rows], Y[rows]), None

            return lax.scan(one, state, order)[0]

        @functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
        def wholes(state: Any, X: Any, Y: Any, k: int) -> Any:
            return lax.scan(lambda s, _: (update(cell, s, X, Y), None), state, None, length=k)[0]

        self.epoch, self.wholes = epoch, wholes

    def train(self, order: np.ndarray) -> None:
        n = self.cell.batch_size
        if self.cell.full:
            self.state = self.wholes(self.state, self.X, self.Y, len(order) // n)
            return
        batches = order.astype(np.int32).reshape(-1, n)
        self.state = self.epoch(self.state, self.X, self.Y, batches)

    def epochs(self, k: int, rows: int) -> None:
        if self.cell.full and rows == self.cell.rows:  # k is static: few values, each compiled once
            for _ in range(k // 8):
                self.state = self.wholes(self.state, self.X, self.Y, 8)
            for _ in range(k % 8):
                self.state = self.wholes(self.state, self.X, self.Y, 1)
            jax.block_until_ready(self.state)
            return
        super().epochs(k, rows)
