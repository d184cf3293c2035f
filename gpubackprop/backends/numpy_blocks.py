"""Passes over NumPy arrays in blocks that stay in the cache, with memory that each thread keeps."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.types import Array

#: Elements of an array that are worked on at once: 128 KiB of float32, so that a pass of several
#: calls over a few arrays stays in a second-level cache of 1 MiB or more. Half of it costs 20 % for
#: the calls, four times it gains nothing (sigmoid and its delta, 32,768 to 8 million elements).
BLOCK = 32768
#: Bytes of a cache line, and of the widest vectors.
LINE = 64
_KEPT_SHAPES = 64


def aligned(
    make: Callable[..., np.ndarray], shape: int | tuple[int, ...], dtype: Any
) -> np.ndarray:
    """Return an array from `make` that begins where a cache line does: half of its whole vectors
    would lie in two lines (1024-2048-2048-10 then trains 1.1 to 1.2 times as fast, on a Zen 4).
    """
    sizes, dtype = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
    n = math.prod(sizes) * dtype.itemsize
    raw: np.ndarray = make(n + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    array: np.ndarray = raw[start : start + n].view(dtype).reshape(shape)
    return array


class Kept(threading.local):
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


class Kernel(threading.local):
    """A printed expression with scratch of its own in each thread."""

    def __init__(self, function: Callable[..., None], dtypes: list[np.dtype]) -> None:
        self.function = function
        self.scratch = [np.empty(BLOCK, dtype) for dtype in dtypes]
        self.shaped: dict[tuple[int, ...], tuple[np.ndarray, ...]] = {}

    def __call__(self, *values: Any) -> None:
        """Pass over the arrays among the values; the last is overwritten."""
        out = values[-1]
        shaped = self.shaped.get(out.shape)
        if shaped is None:
            if out.size > BLOCK:
                return self._in_blocks(values, out.size)
            if len(self.shaped) >= _KEPT_SHAPES:
                self.shaped.clear()
            shaped = tuple(s[: out.size].reshape(out.shape) for s in self.scratch)
            self.shaped[out.shape] = shaped
        self.function(*values, *shaped)

    def _in_blocks(self, values: tuple[Any, ...], size: int) -> None:
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


class DropoutKernel(threading.local):
    """The hash of `gpubackprop.dropout` in place, with scratch of its own in each thread."""

    def __init__(self) -> None:
        self.x, self.shifted = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
        self.kept = np.empty(BLOCK, bool)
        self.counters = np.arange(BLOCK, dtype=np.uint64)

    def __call__(self, key: int, threshold: int, scale: float, first: int, out: Array) -> None:
        """Write `scale` where the hash of an element's number, from `first` on, is >= threshold,
        else 0.
        """
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
