"""Products of matrices on NumPy arrays, and what goes with them, each by what is quickest for its
shape: NumPy's BLAS or MKL's, a narrow W padded, a large one stepped by blocks.
"""

import numpy as np

from gpubackprop.backends import blas
from gpubackprop.backends.numpy_blocks import BLOCK, Kept
from gpubackprop.types import Array

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


class Products:
    """What a layer does with its W and b; see `NumpyBackend`.

    Parameters
    ----------
    scratch, ones : Kept
        Memory of arbitrary numbers, and of ones.
    """

    def __init__(self, scratch: Kept, ones: Kept) -> None:
        self._scratch, self._ones = scratch, ones
        self._found: dict[tuple[str, np.dtype], blas.Product] = {}

    def matmul(self, A: Array, B: Array, out: Array) -> None:
        """Write ``out = A @ B``; a single row is left to NumPy, which is as quick."""
        large = len(A) > 1 and A.size * B.shape[1] >= LARGE
        if not (large and blas.uses_mkl() and self._by_blas("mkl", A, B, out)):
            np.dot(A, B, out=out)

    def _by_blas(
        self, library: str, A: Array, B: Array, out: Array, alpha: float = 1, beta: float = 0
    ) -> bool:
        """Write ``out = alpha * A @ B + beta * out``; return False where that cannot be done."""
        product = self._found.get((library, out.dtype))
        if product is None:
            product = self._found[library, out.dtype] = blas.Product(library, out.dtype)
        return product(A, B, out, alpha, beta)

    def forward(self, a: Array, W: Array, out: Array) -> None:
        """Write ``out = a @ W.T``; a handful of weights as columns, which BLAS reads twice as
        quickly.
        """
        n, n_out = out.shape
        odd = n_out <= NARROW and n_out % LANES and n * W.size >= LARGE
        if odd and blas.for_arrays() == "numpy":
            self._padded(a, W, out)
            return
        if W.size <= NARROW and n >= MANY_ROWS:
            W = np.array(W, order="F")
        self.matmul(a, W.T, out)

    def _padded(self, a: Array, W: Array, out: Array) -> None:
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

    def add_bias(self, z: Array, b: Array) -> None:
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

    def sum_columns(self, x: Array, out: Array) -> Array:
        """Sum each column of x: a product with ones, as NumPy's reduction goes row by row."""
        return np.dot(self._ones.of(len(x), x.dtype), x, out=out)

    def descend(self, delta: Array, a: Array, rate: float, W: Array, b: Array | None) -> None:
        """Step W and b, see `Backend.descend`: by BLAS where that is large, else by blocks of W's
        rows.
        """
        if delta.size * a.shape[1] >= LARGE:
            library = blas.for_arrays()
            if library is not None and self._by_blas(library, delta.T, a, W, -rate, 1):
                if b is not None:
                    db = self.sum_columns(delta, out=self._scratch.of(len(b), b.dtype))
                    np.multiply(db, b.dtype.type(rate), out=db)
                    np.subtract(b, db, out=b)
                return
        np.multiply(delta, delta.dtype.type(rate), out=delta)
        if b is not None:
            db = delta[0]
            if len(delta) > 1:
                db = self.sum_columns(delta, out=self._scratch.of(len(b), b.dtype))
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
