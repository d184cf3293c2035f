"""Sources of training data: arrays, memory maps, device arrays, and iterators of batches.

A `Source` writes chosen rows of the data into buffers on the backend. What fits the device is put
there once; on the host nothing is copied whole, but for what `Source.settle` casts. The user's
arrays are only ever read.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpubackprop import checks
from gpubackprop.backends.base import Backend
from gpubackprop.columns import CODES, Buffers, Column, Csr, Labels, Rows, is_memory_map, put
from gpubackprop.model import Model
from gpubackprop.order import default_shuffle, row_dtype, row_order, shuffled
from gpubackprop.types import Array

__all__ = [
    "Batches",
    "Source",
    "checked_source",
    "default_shuffle",
    "row_order",
    "shuffled",
    "source",
]

#: Share of the device's free memory that data may fill.
DEVICE_SHARE = 0.8


class Source:
    """Checked training data, of which blocks of rows are asked. Made by `source`.

    It keeps buffers between calls, so one thread at a time may use it.

    Attributes
    ----------
    n_samples : int
    weighted : bool
        Whether there are sample weights.
    streamed : bool
        Whether X or Y is a memory map on the host: its values are checked as they are read.
    resident : bool
        Whether all arrays are in the backend's own memory. Then `take` accepts rows that are there
        too, which saves it their upload. On NumPy it is always so.
    nbytes : int
        Size of X and Y.
    """

    def __init__(self, columns: "_Columns", model: Model, backend: Backend) -> None:
        X, Y, w = columns
        self._X = Csr(X, backend) if checks.is_sparse(X.array) else Rows(X, backend)
        self._Y: Rows | None = None
        if Y is not None and Y.array.ndim == 1:
            self._Y = Labels(Y, backend, model.sizes[-1], model.dtype)
        elif Y is not None:
            self._Y = Rows(Y, backend)
        self._w = None if w is None else Rows(w, backend)
        data = [part for part in (self._X, self._Y) if part is not None]
        parts = data if self._w is None else [*data, self._w]
        self.n_samples: int = X.array.shape[0]
        self.weighted = w is not None
        self.resident = all(part.resident for part in parts)
        self.streamed = any(is_memory_map(part.array) for part in data)
        self.nbytes = sum(
            (part.array.data if isinstance(part, Csr) else part.array).nbytes for part in data
        )
        self._backend = backend
        self._mixed = not self.resident and any(part.resident for part in parts)
        self._host_rows = Buffers(np.empty, (), np.dtype(np.int64))
        self._device_rows = Buffers(backend.empty, (), row_dtype(self.n_samples))

    def take(
        self,
        rows: Any,
        X_out: Array | None,
        Y_out: Array | None = None,
        w_out: Array | None = None,
    ) -> None:
        """Write rows of the data into buffers on the backend.

        Allocates nothing after the first call of a size, where the arrays are C-contiguous.

        Parameters
        ----------
        rows : slice or int32 or int64 array of shape (n,)
            Which rows, each in 0..n_samples - 1: not checked. A slice has a start, a stop and no
            step. An array is on the host, or on the backend where the source is `resident`.
        X_out : array of shape (n, n_in) or None
            Overwritten. None leaves X out, e.g. where `view_inputs` has it.
        Y_out : array of shape (n, n_out) or None
            Overwritten with the targets, class numbers as one-hot rows. None leaves them out.
        w_out : array of shape (n,) or None
            Overwritten with the sample weights. None leaves them out.

        Raises
        ------
        ValueError
            If a memory map holds a bad value in these rows; names the row of the map. Buffers may
            have been overwritten.
        """
        here = there = rows
        if type(rows) is not slice:
            here, there = self._indices(rows)
        if X_out is not None:
            self._X.take(there if self._X.resident else here, X_out)
        if Y_out is not None:
            assert self._Y is not None, "a source without targets was asked for them"
            self._Y.take(there if self._Y.resident else here, Y_out)
        if w_out is not None:
            assert self._w is not None, "a source without weights was asked for them"
            self._w.take(there if self._w.resident else here, w_out)

    def _indices(self, rows: Any) -> tuple[Any, Any]:
        """Return the rows for arrays on the host and for resident ones; None where unneeded."""
        backend = self._backend
        if self.resident and not backend.host:
            return None, (rows if backend.owns(rows) else self._upload(rows))
        here = rows
        if rows.dtype != np.int64:  # else take() would convert them, in memory of its own
            here = self._host_rows[len(rows)]
            here[...] = rows
        return here, (self._upload(rows) if self._mixed else here)

    def _upload(self, rows: np.ndarray) -> Array:
        """Copy row numbers to the device."""
        return self._backend.upload(rows, self._device_rows[len(rows)])

    def reweight(self, w: np.ndarray) -> None:
        """Overwrite the weights of a source that `checked_source` made.

        Parameters
        ----------
        w : array of shape (n_samples,)
            On the host.
        """
        assert self._w is not None, "a source without weights was given some"
        if self._w.resident:
            self._backend.upload(w, self._w.array)
        else:
            self._w.array[...] = w

    def settle(self) -> None:
        """Copy what is on the host in another dtype or layout than the model's, unless it is large,
        sparse or a memory map: for data that is read in many epochs on NumPy.
        """
        if not self._backend.host or self.streamed:
            return
        for part in (self._X, self._Y):
            if isinstance(part, Rows):
                part.settle()

    def view_inputs(self, start: int, stop: int) -> Array | None:
        """Return rows start..stop of X without a copy, not to be written to.

        Returns
        -------
        array of shape (stop - start, n_in) or None
            None unless X is C-contiguous, of the model's dtype and in the backend's memory.

        Raises
        ------
        ValueError
            If X is a memory map with a bad value in these rows.
        """
        return self._X.view(slice(start, stop))

    def view(self, start: int, stop: int) -> tuple[Array, Array | None, Array | None] | None:
        """Return rows start..stop of X, Y and the weights without a copy, not to be written to.

        Returns
        -------
        (X, Y, w) or None
            As `take` would write them; Y or w is None where there is none. None in all if any of
            them has to be copied: another dtype, layout or memory, or class numbers.

        Raises
        ------
        ValueError
            If a memory map holds a bad value in these rows.
        """
        rows = slice(start, stop)
        views: list[Array | None] = []
        for part in (self._X, self._Y, self._w):
            view = None if part is None else part.view(rows)
            if part is not None and view is None:
                return None
            views.append(view)
        return views[0], views[1], views[2]

    def in_place(self) -> tuple[Array, Array, Array | None] | None:
        """Return X, Y and the weights themselves, for code that gathers rows on its own.

        Returns
        -------
        (X, Y, w) or None
            Not to be written to. X and w are C-contiguous and of the model's dtype. Y is so too,
            or holds class numbers, as C-contiguous int64 (a copy, if need be). None if X, w or
            targets that are no class numbers would have to be copied, are on a device, or are a
            memory map, whose values are checked as they are read.
        """
        X, Y, w = self._X, self._Y, self._w
        if isinstance(X, Csr) or Y is None or self.streamed or not self._backend.host:
            return None
        if not X.direct:
            return None
        if not Y.direct and not isinstance(Y, Labels):
            return None
        targets = Y.array
        if isinstance(Y, Labels):
            targets = np.ascontiguousarray(targets, CODES)
        return X.array, targets, None if w is None else w.array

    def on_device(self) -> tuple[Array, Array, Array | None] | None:
        """Return X, Y and the weights themselves, for kernels that gather rows on their own.

        Returns
        -------
        (X, Y, w) or None
            Not to be written to. All C-contiguous, on the device, and of the model's dtype; Y may
            be class numbers, of int64. None if any of them is anything else.
        """
        X, Y, w = self._X, self._Y, self._w
        if self._backend.host or isinstance(X, Csr) or Y is None:
            return None
        if not all(part.direct for part in (X, Y, w) if part is not None):
            return None
        return X.array, Y.array, None if w is None else w.array


class _Columns(NamedTuple):
    """The three arguments, checked."""

    X: Column
    Y: Column | None
    w: Column | None


def source(
    X: Any, Y: Any, sample_weight: Any, model: Model, backend: Backend, *, prefix: str = ""
) -> Source:
    """Check data and make it ready to be read in blocks of rows.

    Arrays on the backend's device stay where they are. Arrays on the host are put on the device
    once, in the model's dtype, if all of them fit in 80 % of its free memory; else they stay, and
    blocks of rows are gathered and uploaded. On NumPy the caller's arrays are read in place,
    whatever their dtype and layout.

    Parameters
    ----------
    X : array-like or SciPy CSR or CSC matrix of shape (n_samples, n_in)
        A sparse one stays on the host and is densified a block of rows at a time.
    Y : array-like or None
        Targets of shape (n_samples, n_out), or (n_samples,) where n_out is 1: in 0..1 for log_loss,
        at least 0 for poisson. For cross_entropy, class numbers 0..n_out - 1 of shape (n_samples,),
        or rows of probabilities. None if there are none.
    sample_weight : array-like of shape (n_samples,) or None
        Finite, not negative, not all 0. Scaled to mean 1 in float64.
    model : Model
    backend : Backend
    prefix : str, optional
        Put before names in errors: "validation " makes X "validation X".

    Raises
    ------
    ValueError, TypeError
        That names the argument, the value, its row and column, and the way out. Values of memory
        maps are checked as they are read.
    """
    return _placed(_checked(X, Y, sample_weight, model, backend, prefix), model, backend)


def checked_source(X: Any, Y: Any, w: Any, model: Model, backend: Backend) -> Source:
    """Make data ready to be read that its owner has checked: as `source`, without the checks.

    Parameters
    ----------
    X : NumPy array or CSR matrix of shape (n_samples, n_in)
    Y : NumPy array of shape (n_samples, n_out), class numbers of shape (n_samples,), or None
    w : NumPy array of shape (n_samples,) or None
        Used as they are. `Source.reweight` overwrites them.
    model : Model
    backend : Backend
    """
    targets = None
    if Y is not None:
        targets = Column(Y, CODES if Y.ndim == 1 else model.dtype)
    weights = None if w is None else Column(w.astype(model.dtype), model.dtype)
    return _placed(_Columns(Column(X, model.dtype), targets, weights), model, backend)


def _placed(columns: _Columns, model: Model, backend: Backend) -> Source:
    """Put what is on the host on the device, if all of it fits."""
    if _fits(columns, backend):
        columns = _Columns(
            columns.X if checks.is_sparse(columns.X.array) else put(columns.X, backend),
            None if columns.Y is None else put(columns.Y, backend),
            None if columns.w is None else put(columns.w, backend),
        )
    return Source(columns, model, backend)


def _checked(
    X: Any,
    Y: Any,
    sample_weight: Any,
    model: Model,
    backend: Backend,
    prefix: str,
    scale: bool = True,
) -> _Columns:
    """Check X, Y and the weights, the values of memory maps excepted; scale the weights."""
    if isinstance(X, Batches):
        raise TypeError(f"{prefix}X must be an array here, got Batches; only `fit` reads them")
    name, dtype = f"{prefix}X", model.dtype
    sparse = checks.is_sparse(X)
    X = checks.as_csr(X, name) if sparse else checks.as_array(X, name, backend)
    checks.check_inputs(X, name, model.sizes[0])
    inputs, targets, weights = _column(X, dtype, checks.Range(name, dtype)), None, None
    if Y is not None:
        Y = checks.as_array(Y, f"{prefix}Y", backend)
        Y, check = checks.check_targets(Y, f"{prefix}Y", X.shape[0], model)
        targets = _column(Y, CODES if Y.ndim == 1 else dtype, check)
    if sample_weight is not None:
        name, limit = f"{prefix}sample_weight", np.dtype(np.float64) if scale else dtype
        w = checks.check_weights(sample_weight, name, X.shape[0], limit, backend)
        w = _mean_one(w, name) if scale else w
        weights = Column(w.astype(dtype, copy=False), dtype)
    return _Columns(inputs, targets, weights)


def _column(array: Array, dtype: np.dtype, check: checks.Check) -> Column:
    """Check an array's values now, or leave it to when they are read."""
    if checks.is_sparse(array):
        checks.check_csr(array, check)
        return Column(array, dtype)
    if is_memory_map(array):
        return Column(array, dtype, check)
    checks.check_all(array, check)
    return Column(array, dtype)


def _mean_one(w: np.ndarray, name: str) -> np.ndarray:
    """Scale weights to mean 1."""
    largest = w.max()
    if largest == 0:
        raise ValueError(f"{name} must have a weight above 0, got zeros only; leave it out")
    w = w / largest  # so that the sum cannot overflow
    w /= w.mean()
    return w


def _fits(columns: _Columns, backend: Backend) -> bool:
    """Tell whether the host's arrays fit the device. False where the device is the host."""
    if backend.host:
        return False
    free = backend.free_bytes()
    here = [column for column in columns if column and isinstance(column.array, np.ndarray)]
    needed = sum(column.array.size * column.dtype.itemsize for column in here)
    return free is None or needed <= DEVICE_SHARE * free


class Batches:
    """Training data that comes as batches: each is one update.

    Parameters
    ----------
    make : callable
        Called without arguments at the beginning of each epoch. Returns a fresh iterable of (X, Y)
        or (X, Y, sample_weight). Weights are used as they are: only their maker knows their mean.

    Raises
    ------
    TypeError
        If `make` is not callable, as a generator is not.

    Examples
    --------
    >>> import numpy as np
    >>> parts = [(np.zeros((2, 3)), np.zeros(2)), (np.ones((1, 3)), np.ones(1))]
    >>> batches = Batches(lambda: iter(parts))
    """

    #: How many rows there are is not known before they are read.
    n_samples: int | None = None

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        if not callable(make):
            raise TypeError(
                "make must be a function that returns a fresh iterator for each epoch, "
                f"got {type(make).__name__}; use Batches(lambda: ...)"
            )
        self.make = make

    def read(self, model: Model, backend: Backend, skip: int = 0) -> Iterator[Source]:
        """Read one epoch, each batch as a `Source` of its own that stays where it is.

        Parameters
        ----------
        model : Model
        backend : Backend
        skip : int, optional
            Batches at the beginning that are passed over.

        Yields
        ------
        Source

        Raises
        ------
        ValueError, TypeError
            If a batch is bad, with its number, counted from 0; if there is none; if `make` returns
            nothing that can be iterated over.
        """
        made = self.make()
        if not isinstance(made, Iterable):
            raise TypeError(
                "make must return an iterable of (X, Y) or (X, Y, sample_weight), "
                f"got {type(made).__name__}"
            )
        number = -1
        for number, item in enumerate(made):
            if number < skip:
                continue
            prefix = f"batch {number}: "
            columns = _checked(*_triple(item, number), model, backend, prefix, scale=False)
            yield Source(columns, model, backend)
        if number < 0:
            raise ValueError(
                "make must return a fresh iterator for each epoch, got one without any batch; "
                "a generator can be read only once, so make a new one at each call"
            )


def _triple(item: Any, number: int) -> tuple[Any, Any, Any]:
    """Return X, Y and the weights (or None) of a batch."""
    if not isinstance(item, tuple | list):
        got = type(item).__name__
    elif len(item) not in (2, 3):
        got = f"{len(item)} items"
    else:
        X, Y, *w = item
        if Y is None:
            raise TypeError(f"batch {number}: Y must be given, got None")
        return X, Y, (w[0] if w else None)
    raise TypeError(f"batch {number} must be (X, Y) or (X, Y, sample_weight), got {got}")
