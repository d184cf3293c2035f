"""The NumPy backend: everything written into ``out=``, in blocks that stay in the cache."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.activations import Activation
from gpubackprop.backends.base import Backend, load_erf
from gpubackprop.backends.numpy_blocks import BLOCK, DropoutKernel, Kept, Kernel, aligned
from gpubackprop.backends.numpy_printer import to_numpy
from gpubackprop.backends.numpy_products import MANY_ROWS, NARROW, Products
from gpubackprop.expressions import Expression
from gpubackprop.types import Array


class NumpyBackend(Backend):
    """NumPy arrays; see `Backend` for the operations."""

    plain = False
    descends = True

    def __init__(self, name: str = "numpy") -> None:
        super().__init__(name, np)
        self._scratch, self._ones = Kept(np.empty), Kept(np.ones)
        self._products = Products(self._scratch, self._ones)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array whose values are arbitrary, at the beginning of a cache line."""
        return aligned(np.empty, shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array of zeros, at the beginning of a cache line."""
        return aligned(np.zeros, shape, dtype)

    def compile(self, expression: Expression, dtype: np.dtype) -> Callable[..., None]:
        """Print, as NumPy calls that allocate nothing, and compile."""
        printed = to_numpy(expression)
        scope: dict[str, Any] = {"np": np, "erf": load_erf() if "erf(" in printed.source else None}
        # 0-d arrays: the quickest form of a number for a ufunc, and one that has a dtype.
        scope |= {name: np.array(value, dtype) for name, value in printed.numbers.items()}
        exec(printed.source, scope)  # only names and operators that `parse` let through
        dtypes = [dtype] * printed.n_scratch + [np.dtype(bool)] * printed.n_flags
        return Kernel(scope[expression.name], dtypes)

    def copy(self, source: Array, out: Array) -> Array:
        """Copy, casting; returns `out`."""
        np.copyto(out, source, casting="unsafe")
        return out

    upload = copy

    def take_rows(self, X: Array, rows: Array, out: Array) -> Array:
        """Gather ``out[i] = X[rows[i]]``; returns `out`. Rows must be in range."""
        # mode="clip" writes straight into `out`; the default mode goes through a copy.
        return np.take(X, rows, axis=0, out=out, mode="clip")

    def matmul(self, A: Array, B: Array, out: Array) -> Array:
        """Return ``out = A @ B``."""
        self._products.matmul(A, B, out)
        return out

    def affine(self, a: Array, W: Array, b: Array | None, out: Array) -> Array:
        """Return ``out = a @ W.T + b``."""
        self._products.forward(a, W, out)
        if b is not None:
            self._products.add_bias(out, b)
        return out

    def layer(
        self, a: Array, W: Array, b: Array | None, activation: Activation, z: Array, out: Array
    ) -> Array:
        """Pass a batch through one layer; bias and activation in blocks of rows."""
        if z.size <= BLOCK:
            return super().layer(a, W, b, activation, z, out)
        self._products.forward(a, W, z)
        forward = self.elementwise(activation.forward, z.dtype)
        n_rows = max(1, BLOCK // z.shape[1])
        for start in range(0, len(z), n_rows):
            z_part, out_part = z[start : start + n_rows], out[start : start + n_rows]
            if b is not None:
                self._products.add_bias(z_part, b)
            if z is not out or not activation.linear:
                forward(z_part, out_part)
        return out

    def gradient(self, delta: Array, a: Array, dW: Array, db: Array | None) -> None:
        """Write the gradient of one layer."""
        self._products.matmul(delta.T, a, dW)
        if db is None:
            return
        if len(delta) == 1:
            np.copyto(db, delta[0])
        else:
            self._products.sum_columns(delta, out=db)

    def descend(self, delta: Array, a: Array, rate: float, W: Array, b: Array | None) -> None:
        """Step W and b."""
        self._products.descend(delta, a, rate, W, b)

    def softmax(self, z: Array, shifted: Array, row: Array, out: Array) -> Array:
        """Return the softmax of each row of z; the reductions without NumPy's Python wrappers."""
        if len(z) >= MANY_ROWS and z.shape[1] <= NARROW:
            # A reduction costs more for each short row than a copy as columns.
            columns = self._scratch.of(z.size, z.dtype).reshape(z.shape[::-1])
            np.copyto(columns, z.T)
            np.maximum.reduce(columns, axis=0, out=row[:, 0])
        else:
            np.maximum.reduce(z, axis=1, keepdims=True, out=row)
        np.subtract(z, row, out=shifted)
        np.exp(shifted, out=out)
        self.sum_rows(out, row)
        np.divide(out, row, out=out)
        np.log(row, out=row)
        return out

    def sum_rows(self, x: Array, out: Array) -> Array:
        """Sum each row of x into `out`, of shape (n, 1); many short ones as a product with ones."""
        if len(x) >= MANY_ROWS and x.shape[1] <= NARROW:
            np.dot(x, self._ones.of(x.shape[1], x.dtype), out=out[:, 0])
            return out
        return np.add.reduce(x, axis=1, keepdims=True, out=out)

    def total(self, x: Array, out: Array) -> Array:
        """Sum all elements in float64 into `out`, of shape (1,)."""
        np.add.reduce(x.reshape(-1), axis=0, keepdims=True, dtype=np.float64, out=out)
        return out

    def record(self, value: Array, step: int, total: Array, first_bad: Array) -> None:
        """Add a step's loss to the running total."""
        number = value.item()
        total[0] += number
        if first_bad[0] < 0 and not math.isfinite(number):
            first_bad[0] = step

    def add_penalty(self, w: Array, l1: float, l2: float, total: Array) -> None:
        """Add ``l1 * sum(|w|) + l2 / 2 * sum(w ** 2)`` to `total`."""
        if l2:
            total[0] += 0.5 * l2 * float(np.dot(w, w))
        if l1:
            total[0] += l1 * float(np.abs(w).sum())

    def clip_norm(self, g: Array, limit: float, cell: Array) -> None:
        """Scale a gradient down to an L2 norm of at most `limit`, in place."""
        norm = math.sqrt(np.dot(g, g))
        if math.isinf(norm):  # the square of a large float32 is infinite
            norm = float(np.linalg.norm(g.astype(np.float64)))
        if not norm <= limit:  # also when it is NaN, so that the loss can tell
            np.multiply(g, g.dtype.type(limit / norm), out=g)

    def all_finite(self, x: Array, out: Array) -> None:
        """Write whether every element is finite: the least and the largest are, if there is no NaN,
        which would be both. In blocks that are still in the cache for the second look.
        """
        flat, size = x.reshape(-1), 4 * BLOCK
        parts = [flat[start : start + size] for start in range(0, flat.size, size)]
        out[...] = all(math.isfinite(p.min()) and math.isfinite(p.max()) for p in parts)

    def dropout_mask(self, key: int, p: float, first: int, out: Array) -> Array:
        """Write a dropout mask: 1 / (1 - p) where an output is kept, else 0."""
        kernel = self._compiled.get("dropout")
        if kernel is None:
            kernel = self._compiled["dropout"] = DropoutKernel()
        kernel(key, dropout.threshold(p), 1 / (1 - p), first * out.shape[1], out)
        return out
