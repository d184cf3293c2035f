"""The NumPy backend: everything written into ``out=``, in blocks that stay in the cache."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.activations import Activation
from gpubackprop.backends import blas
from gpubackprop.backends.base import Backend, load_erf
from gpubackprop.backends.numpy_printer import to_numpy
from gpubackprop.expressions import Expression
from gpubackprop.types import Array

#: Elements of an array that are worked on at once: 128 KiB of float32, so that a pass of several
#: calls over a few arrays stays in a second-level cache of 1 MiB or more. Half of it costs 20 % for
#: the calls, four times it gains nothing (sigmoid and its delta, 32,768 to 8 million elements).
BLOCK = 32768
#: Elements of W whose gradient is computed and taken off at once, where BLAS cannot do both: 2 MiB
#: of float32. Fewer rows of a product would make BLAS pack its other operand too often.
PRODUCT_BLOCK = 1 << 19
#: Columns below which an addition to each row costs more for the rows than for the elements: rows
#: are joined to some of this many elements.
NARROW = 32
JOINED = 1024
#: Units that OpenBLAS computes together: of a narrow layer with other numbers of units, the rest
#: takes it a third of the time (30 and 10 units, AVX-512).
LANES = 16
#: Rows from which joined rows, or W laid out as columns, are worth the copy (4 and 30 columns).
MANY_ROWS = 512
#: Multiplications of a product from which BLAS is called by its address. The call costs 2.5 us.
LARGE = 1 << 20
_KEPT_SHAPES = 64


class _Kernel(threading.local):
    """A printed expression with scratch of its own in each thread."""

    def __init__(self, function: Callable[..., None], dtypes: list[np.dtype]) -> None:
        self.function = function
        self.scratch = [np.empty(BLOCK, dtype) for dtype in dtypes]
        self.shaped: dict[tuple[int, ...], tuple[np.ndarray, ...]] = {}

    def __call__(self, *values: Any) -> None:
        out = values[-1]
        shaped = self.shaped.get(out.shape)
        if shaped is None:
            if out.size > BLOCK:
                return self.in_blocks(values, out.size)
            if len(self.shaped) >= _KEPT_SHAPES:
                self.shaped.clear()
            shaped = tuple(s[: out.size].reshape(out.shape) for s in self.scratch)
            self.shaped[out.shape] = shaped
        self.function(*values, *shaped)

    def in_blocks(self, values: tuple[Any, ...], size: int) -> None:
        arrays = [(i, v) for i, v in enumerate(values) if isinstance(v, np.ndarray) and v.ndim]
        if not all(v.flags.c_contiguous for _, v in arrays):
            raise ValueError(
                "the arrays of an elementwise pass must be C-contiguous; copy them first"
            )
        flat = [(i, v.reshape(-1)) for i, v in arrays]
        given, scratch = list(values), self.scratch
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            if stop - start < BLOCK:
                scratch = [s[: stop - start] for s in scratch]
            for i, v in flat:
                given[i] = v[start:stop]
            self.function(*given, *scratch)


class NumpyBackend(Backend):
    """NumPy arrays; see `Backend` for the operations."""

    plain = False
    descends = True

    def __init__(self, name: str = "numpy") -> None:
        super().__init__(name, np)
        self._scratch = _Kept(np.empty)
        self._ones = _Kept(np.ones)
        self._products: dict[tuple[str, np.dtype], blas.Product] = {}

    def _by_blas(
        self, library: str, A: Array, B: Array, out: Array, alpha: float = 1, beta: float = 0
    ) -> bool:
        """Write ``out = alpha * A @ B + beta * out``; return False where that cannot be done."""
        product = self._products.get((library, out.dtype))
        if product is None:
            product = self._products[library, out.dtype] = blas.Product(library, out.dtype)
        return product(A, B, out, alpha, beta)

    def _multiply(self, A: Array, B: Array, out: Array) -> None:
        """Write ``out = A @ B``; a single row is left to NumPy, which is as quick."""
        large = len(A) > 1 and A.size * B.shape[1] >= LARGE
        if not (large and blas.uses_mkl() and self._by_blas("mkl", A, B, out)):
            np.dot(A, B, out=out)

    def compile(self, expression: Expression, dtype: np.dtype) -> Callable[..., None]:
        """Print, as NumPy calls that allocate nothing, and compile."""
        printed = to_numpy(expression)
        scope: dict[str, Any] = {"np": np, "erf": load_erf() if "erf(" in printed.source else None}
        # 0-d arrays: the quickest form of a number for a ufunc, and one that has a dtype.
        scope |= {name: np.array(value, dtype) for name, value in printed.numbers.items()}
        exec(printed.source, scope)  # only names and operators that `parse` let through
        dtypes = [dtype] * printed.n_scratch + [np.dtype(bool)] * printed.n_flags
        return _Kernel(scope[expression.name], dtypes)

    def copy(self, source: Array, out: Array) -> Array:
        """Copy, casting; returns `out`."""
        np.copyto(out, source, casting="unsafe")
        return out

    upload = copy

    def take_rows(self, X: Array, rows: Array, out: Array) -> Array:
        """Gather ``out[i] = X[rows[i]]``; returns `out`. Rows must be in range."""
        # mode="clip" writes straight into `out`; the default mode goes through a copy.
        return np.take(X, rows, axis=0, out=out, mode="clip")

    def affine(self, a: Array, W: Array, b: Array | None, out: Array) -> Array:
        """Return ``out = a @ W.T + b``."""
        self._forward_product(a, W, out)
        if b is not None:
            self._add_bias(out, b)
        return out

    def _forward_product(self, a: Array, W: Array, out: Array) -> None:
        """Write ``out = a @ W.T``; a handful of weights as columns, which BLAS reads twice as
        quickly.
        """
        n, n_out = out.shape
        odd = n_out <= NARROW and n_out % LANES and n * W.size >= LARGE
        if odd and blas.for_arrays() == "numpy":
            self._padded_product(a, W, out)
            return
        if W.size <= NARROW and n >= MANY_ROWS:
            W = np.array(W, order="F")
        self._multiply(a, W.T, out)

    def _padded_product(self, a: Array, W: Array, out: Array) -> None:
        """Write ``out = a @ W.T`` with rows of zeros below W, by blocks that are in the cache."""
        n_out, n_in = W.shape
        padded = -(-n_out // LANES) * LANES
        scratch = self._scratch.of(padded * (n_in + JOINED), W.dtype)
        wide, z = scratch[: padded * n_in].reshape(padded, n_in), scratch[padded * n_in :]
        wide[:n_out], wide[n_out:] = W, 0
        for start in range(0, len(a), JOINED):
            rows = a[start : start + JOINED]
            part = z[: len(rows) * padded].reshape(len(rows), padded)
            np.dot(rows, wide.T, out=part)
            np.copyto(out[start : start + JOINED], part[:, :n_out])

    def _add_bias(self, z: Array, b: Array) -> None:
        """Add b to each row; where rows are short, to several of them at once."""
        n, n_out = z.shape
        if n < MANY_ROWS or not 1 < n_out <= NARROW or not z.flags.c_contiguous:
            np.add(z, b, out=z)
            return
        joined = JOINED // n_out
        whole = n - n % joined
        repeated = self._scratch.of(joined * n_out, z.dtype)
        np.copyto(repeated.reshape(joined, n_out), b)
        rows = z[:whole].reshape(-1, joined * n_out)
        np.add(rows, repeated, out=rows)
        np.add(z[whole:], b, out=z[whole:])

    def layer(
        self, a: Array, W: Array, b: Array | None, activation: Activation, z: Array, out: Array
    ) -> Array:
        """Pass a batch through one layer; bias and activation in blocks of rows."""
        if z.size <= BLOCK:
            return super().layer(a, W, b, activation, z, out)
        self._forward_product(a, W, z)
        forward = self.elementwise(activation.forward, z.dtype)
        n_rows = max(1, BLOCK // z.shape[1])
        for start in range(0, len(z), n_rows):
            z_part, out_part = z[start : start + n_rows], out[start : start + n_rows]
            if b is not None:
                self._add_bias(z_part, b)
            if z is not out or not activation.linear:
                forward(z_part, out_part)
        return out

    def backprop(
        self,
        delta: Array,
        W: Array,
        activation: Activation,
        read: Array,
        mask: Array | None,
        out: Array,
    ) -> Array:
        """Carry the error one layer back."""
        self._multiply(delta, W, out)
        if mask is not None:
            np.multiply(out, mask, out=out)
        if not activation.linear:
            self.elementwise(activation.delta, out.dtype)(out, read, out)
        return out

    def gradient(self, delta: Array, a: Array, dW: Array, db: Array | None) -> None:
        """Write the gradient of one layer."""
        self._multiply(delta.T, a, dW)
        if db is None:
            return
        if len(delta) == 1:
            np.copyto(db, delta[0])
        else:
            self._sum_over_rows(delta, out=db)

    def _sum_over_rows(self, x: Array, out: Array) -> Array:
        """Sum each column of x: a product with ones, as NumPy's reduction goes row by row."""
        return np.dot(self._ones.of(len(x), x.dtype), x, out=out)

    def descend(self, delta: Array, a: Array, rate: float, W: Array, b: Array | None) -> None:
        """Step W and b: by BLAS where that is large, else by blocks of W's rows."""
        if delta.size * a.shape[1] >= LARGE:
            library = blas.for_arrays()
            if library is not None and self._by_blas(library, delta.T, a, W, -rate, 1):
                if b is not None:
                    db = self._sum_over_rows(delta, out=self._scratch.of(len(b), b.dtype))
                    np.multiply(db, b.dtype.type(rate), out=db)
                    np.subtract(b, db, out=b)
                return
        np.multiply(delta, delta.dtype.type(rate), out=delta)
        if b is not None:
            db = delta[0]
            if len(delta) > 1:
                db = self._sum_over_rows(delta, out=self._scratch.of(len(b), b.dtype))
            np.subtract(b, db, out=b)
        self._descend_by_blocks(delta, a, W)

    def _descend_by_blocks(self, step: Array, a: Array, W: Array) -> None:
        """Write ``W -= step.T @ a`` by blocks of W's rows: what is taken from a block is still in
        the cache.
        """
        m, n = W.shape
        size = BLOCK if len(step) == 1 else PRODUCT_BLOCK
        n_rows = min(max(1, size // n), m)
        scratch = self._scratch.of(n_rows * n, W.dtype)
        product = scratch.reshape(n_rows, n)
        for start in range(0, m, n_rows):
            stop = min(start + n_rows, m)
            W_part, part = W[start:stop], product[: stop - start]
            if len(step) == 1:
                np.multiply(step[0, start:stop, None], a, out=part)
            else:
                np.dot(step[:, start:stop].T, a, out=part)
            np.subtract(W_part, part, out=W_part)

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
            kernel = self._compiled["dropout"] = _DropoutKernel()
        kernel(key, dropout.threshold(p), 1 / (1 - p), first * out.shape[1], out)
        return out


class _Kept(threading.local):
    """Memory of each thread that is kept for the next call, as `make` makes it."""

    def __init__(self, make: Callable[..., np.ndarray]) -> None:
        self.make = make
        self.kept: dict[np.dtype, np.ndarray] = {}

    def of(self, size: int, dtype: np.dtype) -> np.ndarray:
        """Return so many elements."""
        found = self.kept.get(dtype)
        if found is None or found.size < size:
            found = self.kept[dtype] = self.make(size, dtype)
        return found[:size]


class _DropoutKernel(threading.local):
    """The hash of `gpubackprop.dropout` in place, with scratch of its own in each thread."""

    def __init__(self) -> None:
        self.x, self.shifted = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
        self.kept = np.empty(BLOCK, bool)
        self.counters = np.arange(BLOCK, dtype=np.uint64)

    def __call__(self, key: int, threshold: int, scale: float, first: int, out: Array) -> None:
        flat, word = out.reshape(-1), np.uint64(0xFFFFFFFF)
        for start in range(0, flat.size, BLOCK):
            n = min(BLOCK, flat.size - start)
            x, shifted, kept = self.x[:n], self.shifted[:n], self.kept[:n]
            np.add(self.counters[:n], np.uint64(first + start), out=x)
            np.bitwise_and(x, word, out=x)
            np.bitwise_xor(x, np.uint64(key), out=x)
            for step, constant in dropout.MIX:
                if step == "xor_shift":
                    np.right_shift(x, np.uint64(constant), out=shifted)
                    np.bitwise_xor(x, shifted, out=x)
                else:
                    np.multiply(x, np.uint64(constant), out=x)
                    np.bitwise_and(x, word, out=x)
            np.greater_equal(x, np.uint64(threshold), out=kept)
            np.multiply(kept, out.dtype.type(scale), out=flat[start : start + n])
