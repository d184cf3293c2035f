"""The order in which an epoch reads its rows: drawn on the host, the same for all backends."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

#: Rows that "blocks" keeps together, and how many such blocks it shuffles together.
BLOCK_ROWS, WINDOW_BLOCKS = 1024, 64


class Shuffling(Protocol):
    """Shuffles an array of one dimension in place."""

    def __call__(self, rng: np.random.Generator, rows: np.ndarray, /) -> None:
        """Shuffle `rows` to the bits of ``rng.shuffle(rows)``."""


class _Stored(Protocol):
    """What `default_shuffle` asks of a source."""

    @property
    def streamed(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...


def row_dtype(n: int) -> np.dtype:
    """Return the dtype of row numbers: int32 below 2**31 rows, else int64."""
    return np.dtype(np.int32 if n < 2**31 else np.int64)


#: Up to so many rows are shuffled as int64, the one size that NumPy is quick with.
_AS_INT64 = 1 << 20


def shuffled(rng: np.random.Generator, rows: np.ndarray) -> None:
    """Do ``rng.shuffle(rows)`` in half of the time."""
    if len(rows) <= _AS_INT64 and rows.dtype != np.int64:
        wide = rows.astype(np.int64)
        rng.shuffle(wide)
        rows[...] = wide
    else:
        rng.shuffle(rows)


def row_order(
    n: int,
    shuffle: bool | str,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    shuffling: Shuffling = shuffled,
) -> np.ndarray:
    """Draw the order of rows of an epoch.

    Parameters
    ----------
    n : int
        Number of rows.
    shuffle : {True, "full", "blocks", False}
        True or "full": any order is as likely as any other. "blocks": blocks of 1,024 neighbouring
        rows in random order, and rows shuffled within 64 such blocks, for data on disk.
        False: 0, 1, 2, ...; draws nothing.
    rng : numpy.random.Generator
    out : array of shape (n,), optional
        Overwritten and returned.
    shuffling : callable, optional
        Called with the generator and an array, that it shuffles to the bits of ``rng.shuffle``.

    Returns
    -------
    int32 array of shape (n,); int64 from 2**31 rows on

    Raises
    ------
    ValueError
        If `shuffle` is something else.
    """
    _check(shuffle)
    out = np.empty(n, row_dtype(n)) if out is None else out
    if shuffle == "blocks":
        return _shuffle_blocks(rng, out, shuffling)
    out[...] = np.arange(n, dtype=out.dtype)
    if shuffle:
        shuffling(rng, out)
    return out


def _shuffle_blocks(rng: np.random.Generator, out: np.ndarray, shuffling: Shuffling) -> np.ndarray:
    """Write a permutation that reads a file in blocks."""
    n = len(out)
    blocks = rng.permutation(-(-n // BLOCK_ROWS))
    filled = 0
    for window in range(0, len(blocks), WINDOW_BLOCKS):
        begin = filled
        for block in blocks[window : window + WINDOW_BLOCKS]:
            start = int(block) * BLOCK_ROWS
            stop = min(start + BLOCK_ROWS, n)
            out[filled : filled + stop - start] = np.arange(start, stop)
            filled += stop - start
        shuffling(rng, out[begin:filled])
    return out


def default_shuffle(source: _Stored, shuffle: bool | str, memory: int | None = None) -> bool | str:
    """Return what `shuffle` means for a source: one of "full", "blocks", False.

    True is "blocks" for memory maps larger than half of the machine's memory, else "full".

    Parameters
    ----------
    source : Source
    shuffle : {True, "full", "blocks", False}
    memory : int, optional
        The machine's memory in bytes; found out if not given.

    Raises
    ------
    ValueError
        If `shuffle` is something else.
    """
    _check(shuffle)
    if shuffle is not True:
        return shuffle
    large = source.streamed and source.nbytes > (memory or _memory()) / 2
    return "blocks" if large else "full"


def _check(shuffle: bool | str) -> None:
    """Refuse what is no way of shuffling."""
    if not isinstance(shuffle, bool) and shuffle not in ("full", "blocks"):
        raise ValueError(f"shuffle must be True, False, 'full' or 'blocks', got {shuffle!r}")


def _memory() -> int:
    """Return the machine's memory in bytes; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
