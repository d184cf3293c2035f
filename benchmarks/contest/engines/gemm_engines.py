"""The matrix products of training and nothing else, called from compiled code: the yardstick.

For each batch a layer's ``x W'``, ``delta' x`` and, but for the first layer, ``delta W``. A batch
of one row takes matrix-vector products and a rank-one update: the weights' way through the memory.
"""

import ctypes
import functools
from typing import Any

import numba
import numpy as np

from contest.cells import Cell, Data
from contest.engines.base import Engine
from gpubackprop.backends.blas import scipy_address

_ARGUMENTS = {"gemm": 13, "gemv": 11, "ger": 9}


@functools.cache
def _mkl() -> Any:
    """Return MKL, or why it cannot be had."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [f for f in files("mkl") or () if f.name.startswith("libmkl_rt.so")]
        return ctypes.CDLL(str(found[0].locate().resolve()))
    except (PackageNotFoundError, IndexError, OSError) as error:
        return f"MKL cannot be loaded: {error}"


def _function(address: int, n: int) -> Any:
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n)(address)


@functools.cache
def _loop(make: Any) -> Any:
    """Compile the products of one BLAS."""
    gemm, gemv, ger = make("gemm"), make("gemv"), make("ger")

    @numba.njit
    def loop(n, rows, P, S, one, numbers):  # type: ignore[no-untyped-def]
        # P[l]: x, W, z, delta below, dW; S[l]: the addresses of n_in, n_out and rows.
        N, T = numbers[0], numbers[1]
        inc, zero, tiny = numbers[2], one + 4, one + 8
        for _ in range(n):
            for l in range(len(P)):
                x, W, z = P[l, 0], P[l, 1], P[l, 2]
                k, m, b = S[l, 0], S[l, 1], S[l, 2]
                if rows == 1:
                    gemv(T, k, m, one, W, k, x, inc, zero, z, inc)
                else:
                    gemm(T, N, m, b, k, one, W, k, x, k, zero, z, m)
            for j in range(len(P)):
                l = len(P) - 1 - j
                x, W, z, d = P[l, 0], P[l, 1], P[l, 2], P[l, 3]
                k, m, b = S[l, 0], S[l, 1], S[l, 2]
                if l:
                    if rows == 1:
                        gemv(N, k, m, one, W, k, z, inc, zero, d, inc)
                    else:
                        gemm(N, N, k, b, m, one, W, k, z, m, zero, d, k)
                if rows == 1:
                    ger(k, m, tiny, x, inc, z, inc, W, k)
                else:
                    gemm(N, T, k, m, b, tiny, x, k, z, m, one, W, k)

    return loop


def _make_openblas(name: str) -> Any:
    return _function(scipy_address(f"s{name}"), _ARGUMENTS[name])


def _make_mkl(name: str) -> Any:
    pointer = ctypes.cast(getattr(_mkl(), f"s{name}_"), ctypes.c_void_p)
    return _function(pointer.value or 0, _ARGUMENTS[name])


class OpenBlas(Engine):
    """SciPy's OpenBLAS. It has no parameters to check."""

    make = staticmethod(_make_openblas)

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        n, sizes = cell.batch_size, cell.sizes
        self.held: list[np.ndarray] = [data.X[:n]]
        self.held += [np.zeros((n, m), np.float32) for m in sizes[1:]]
        below = [np.zeros((n, k), np.float32) for k in sizes[:-1]]
        W = [W.copy() for W in data.weights]
        self.numbers = np.array([1.0, 0.0, 1e-30], np.float32)
        self.integers = np.array([*sizes, n, 1], np.int32)
        self.letters = np.frombuffer(b"NT", np.uint8)
        L = len(sizes) - 1
        self.P = np.array(
            [[_at(self.held[l]), _at(W[l]), _at(self.held[l + 1]), _at(below[l])] for l in range(L)]
        )
        i = _at(self.integers) + 4 * np.arange(L + 3)
        self.S = np.array([[i[l], i[l + 1], i[L + 1]] for l in range(L)])
        letters = _at(self.letters)
        self.codes = np.array([letters, letters + 1, i[L + 2]])
        self.held += [*below, *W]
        self.loop = _loop(self.make)

    def train(self, order: np.ndarray) -> None:
        n = len(order) // self.cell.batch_size
        self.loop(n, self.cell.batch_size, self.P, self.S, _at(self.numbers), self.codes)

    def parameters(self) -> list[Any]:
        return []


def _at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


class Mkl(OpenBlas):
    """Intel's MKL."""

    make = staticmethod(_make_mkl)

    @classmethod
    def refusal(cls, cell: Cell) -> str | None:
        found = _mkl()
        return found if isinstance(found, str) else super().refusal(cell)

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        _mkl().MKL_Set_Num_Threads(threads)
        super().__init__(cell, data, threads)
