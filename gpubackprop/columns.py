"""One array of the training data: its rows are written into buffers on the backend."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.checks import Check, blocks
from gpubackprop.types import Array

#: Class numbers, once they are taken out of whatever array they came in.
CODES = np.dtype(np.int64)

#: What is read in many epochs is cast once if it takes at most so many bytes then: gathering and
#: casting rows anew took more than half of an epoch of 784-30-10 on float64 data.
CAST = 256 * 2**20

#: Up to so many classes, one-hot rows are read from an identity matrix: 4 MiB of float32.
IDENTITY = 1024


class Buffers(dict[int, Array]):
    """Buffers by their number of rows: views of one, which grows when more rows are asked for.

    Parameters
    ----------
    empty : callable
        Makes an array of a shape and a dtype.
    row : tuple of int
        Shape of a row.
    dtype : numpy.dtype
    """

    def __init__(self, empty: Callable[..., Array], row: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__()
        self._empty, self._row, self._dtype = empty, row, dtype
        self._whole: Array = ()

    def __missing__(self, n: int) -> Array:
        if n > len(self._whole):
            self.clear()
            self._whole = self._empty((n, *self._row), self._dtype)
        view = self[n] = self._whole[:n]
        return view


@dataclass(frozen=True)
class Column:
    """X, Y or the weights, checked.

    Attributes
    ----------
    array : array
        The caller's, or a view of it: (n_samples, width), or (n_samples,).
    dtype : numpy.dtype
        What its rows become on the backend.
    check : Check or None
        Of the values, where they are to be checked as they are read.
    """

    array: Array
    dtype: np.dtype
    check: Check | None = None


def put(column: Column, backend: Backend) -> Column:
    """Put an array on the device, block by block; what is there already stays as it is.

    Raises
    ------
    ValueError
        If the values are checked as they are read, and one is bad.
    """
    array = column.array
    if not isinstance(array, np.ndarray):
        return column
    placed = backend.empty(array.shape, column.dtype)
    for rows in blocks(array):
        if column.check is not None:
            column.check(array[rows], rows)
        backend.upload(array[rows], placed[rows])
    return Column(placed, column.dtype)


class Rows:
    """Writes rows of one array into a buffer on the backend.

    Rows are gathered where the array lives, in its own dtype, and then cast or uploaded; where that
    would change nothing, they are gathered into the buffer itself.

    Attributes
    ----------
    array : array
    resident : bool
        Whether the array is in the backend's own memory.
    direct : bool
        Whether it also has the dtype and the layout of the buffers, so that views of it serve.
    """

    def __init__(self, column: Column, backend: Backend) -> None:
        array = column.array
        on_host = isinstance(array, np.ndarray)
        self.array, self._check = array, column.check
        self.resident = backend.host or not on_host
        # take() copies an array of any other layout whole; indexing copies the rows alone.
        self._takes = bool(array.flags.c_contiguous and (not on_host or array.flags.aligned))
        self.direct = bool(self._takes and self.resident and array.dtype == column.dtype)
        self._pick = _take if on_host else backend.take_rows
        self._move = backend.upload if on_host else backend.copy
        self._buffers = Buffers(
            np.empty if on_host else backend.empty, array.shape[1:], array.dtype
        )
        self._cast = backend.empty, column.dtype

    def settle(self) -> None:
        """Copy an array on the host that is not `direct` as buffers hold it, unless that is large:
        it is to be read many times.
        """
        empty, dtype = self._cast
        if self.direct or self._check is not None or self.array.size * dtype.itemsize > CAST:
            return
        copy = empty(self.array.shape, dtype)
        self._move(self.array, copy)
        self.array, self._takes, self.direct = copy, True, True

    def take(self, rows: Any, out: Array) -> None:
        """Write rows (a slice, or integers in the array's memory) into `out`."""
        if type(rows) is slice or not self._takes:
            values = self.array[rows]
        else:
            values = out if self.direct else self._buffers[len(rows)]
            self._pick(self.array, rows, values)
        if self._check is not None:
            self._check(values, rows)
        if values is not out:
            self._move(values, out)

    def view(self, rows: slice) -> Array | None:
        """Return rows of the array itself; None unless it is `direct`."""
        if not self.direct:
            return None
        values = self.array[rows]
        if self._check is not None:
            self._check(values, rows)
        return values


class Csr:
    """Writes rows of a CSR matrix on the host, densified, into a buffer on the backend.

    Attributes
    ----------
    array : SciPy CSR matrix or array
    resident : bool
        Whether the host is where the buffers are.
    """

    def __init__(self, column: Column, backend: Backend) -> None:
        self.array, self.resident = column.array, backend.host
        self._direct = backend.host and column.array.dtype == column.dtype
        self._move = backend.upload
        self._buffers = Buffers(np.empty, column.array.shape[1:], column.array.dtype)

    def take(self, rows: Any, out: Array) -> None:
        """Write rows (a slice, or integers on the host) into `out`."""
        dense = out if self._direct else self._buffers[len(out)]
        self.array[rows].toarray(out=dense)
        if dense is not out:
            self._move(dense, out)

    def view(self, rows: slice) -> None:
        """Return None: the dense rows are nowhere yet."""
        return


class Labels(Rows):
    """Writes class numbers as one-hot rows of `n_classes` numbers of a dtype."""

    def __init__(self, column: Column, backend: Backend, n_classes: int, dtype: np.dtype) -> None:
        super().__init__(column, backend)
        self._codes = Buffers(backend.empty, (), CODES)
        self._one_hot = backend.one_hot
        if backend.host and n_classes <= IDENTITY:
            # A one-hot row is a row of the identity. Comparing instead would allocate.
            identity = np.eye(n_classes, dtype=dtype)
            self._one_hot = lambda labels, out: identity.take(labels, 0, out, "clip")

    def take(self, rows: Any, out: Array) -> None:
        """Write one-hot rows of rows (a slice, or integers in the array's memory) into `out`."""
        codes = self._codes[len(out)]
        super().take(rows, codes)
        self._one_hot(codes, out)

    def view(self, rows: slice) -> None:
        """Return None: the one-hot rows are nowhere yet."""
        return


def _take(array: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Gather ``out[i] = array[rows[i]]``; rows int64 and in range, out of the array's dtype."""
    # "clip" writes straight into `out`, the default goes through a copy; np.take costs 1 us more.
    array.take(rows, 0, out, "clip")


def is_memory_map(array: Any) -> bool:
    """Tell whether an array's values are in a mapped file: a `numpy.memmap`, or a view of one."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)
