"""Outputs of rows by compiled code: one native call for each slice of them."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gpubackprop.backends import blas
from gpubackprop.backprop import SLICE
from gpubackprop.buffers import Layers
from gpubackprop.executors.compiled import cache, usable
from gpubackprop.executors.compiled.choices import WIDE_PIECE, calls_blas, piece_rows
from gpubackprop.executors.compiled.formulas import write_activations
from gpubackprop.executors.compiled.loaded import LoadedLoop, texts
from gpubackprop.executors.compiled.split import LARGE_LAYER, ROWS_STEP, SPLIT_PRODUCTS, bounds
from gpubackprop.executors.compiled.tables import Workspace, pack, position
from gpubackprop.model import Model
from gpubackprop.threads import can_limit, limited, run_all, usable_threads

#: What compiling takes: the loop over rows, and the activations of a network.
LOOP_SECONDS, ACTIVATIONS_SECONDS = 1.0, 0.3
#: So many rows go through the network one at a time: products of matrices would take longer to
#: begin.
SINGLE_ROWS = 2
#: Few rows have less memory. Of more, so many go through the network at once. As columns they are
#: that far apart in memory: at powers of two they would share places in the cache.
FEW_ROWS, PIECE = 64, 448
#: Multiplications for which other threads of Python may wait: 50 us.
AT_ONCE = 1 << 22
#: The least rows of a thread: there are no gradients to be added up, as in `split`.
SHARE_ROWS = 64


_Call: TypeAlias = Callable[[np.ndarray, np.ndarray], bool]


class Predictor:
    """Computes outputs with memory of its own: for one thread at a time.

    Parameters
    ----------
    model : Model
    strict : bool, optional
        Whether parameters that are not finite are left to the backend too.
    """

    def __init__(self, model: Model, *, strict: bool = False) -> None:
        self.model, self._strict = model, int(strict)
        self._width, self._dtype = model.sizes[-1], model.dtype
        self._program = write_activations(model)
        self._loop = LoadedLoop(model.dtype, "predict")
        self._shared = {
            "K": position(self._loop.addresses),
            "f": blas.gemm(model.dtype) if calls_blas(model) else 0,
            "activate": cache.load(self._program.text).activate.address,
        }  # fmt: skip
        self._value = np.zeros(1)
        self._never_dropped = np.zeros(model.n_layers, np.int64)
        self._parameters: Layers | None = None
        self._workspaces: dict[int, Workspace] = {}
        self._runs: dict[int, np.ndarray] = {}
        self._one: _Call | None = None
        self._few: _Call | None = None
        self._many: _Call | None = None
        n_weights = [m * n for m, n in model.layout.shapes]
        self._products, self._largest = sum(n_weights), max(n_weights)
        self._others: list[Predictor] = []
        large = self._largest >= LARGE_LAYER
        self._blas_threads = usable_threads(None) if large else 1

    def outputs(self, parameters: Layers, X: np.ndarray) -> np.ndarray | None:
        """Return the outputs in an array of their own; None if a number of theirs, or of X, may not
        be finite: the backend tells.

        Parameters
        ----------
        parameters : Layers
            C-contiguous arrays of the model's dtype. They may be written to, not replaced.
        X : array of shape (n, n_in)
            C-contiguous, of the model's dtype.
        """
        n = len(X)
        out = np.empty((n, self._width), self._dtype)
        return out if self.into(parameters, X, out, n) else None

    def into(self, parameters: Layers, X: np.ndarray, out: np.ndarray, n: int) -> bool:
        """Write the outputs of all n rows into an array; tell whether that could be done."""
        if n <= FEW_ROWS:
            return self._run(parameters, X, out, n)
        threads = self._threads(n)
        if threads == 1 and n <= SLICE:
            return self._run(parameters, X, out, n)
        step = threads * SLICE
        with limited(None if threads == 1 else 1):
            # Between two slices Ctrl-C is noticed.
            return all(
                self._share(parameters, X[s : s + step], out[s : s + step], threads)
                for s in range(0, n, step)
            )

    def _threads(self, n: int) -> int:
        """Return how many threads share n rows; 1 where BLAS's own threads gain more."""
        if n * self._products < SPLIT_PRODUCTS or self._largest >= LARGE_LAYER or not can_limit():
            return 1
        return max(1, min(usable_threads(None), n // SHARE_ROWS))

    def _share(self, parameters: Layers, X: np.ndarray, out: np.ndarray, threads: int) -> bool:
        """Do a slice with several threads, each with part of its rows."""
        rows = bounds(len(X), threads, ROWS_STEP)
        while len(self._others) < threads - 1:
            self._others.append(Predictor(self.model, strict=bool(self._strict)))
        done = [False] * threads

        def do(i: int, one: Predictor) -> None:
            here = slice(rows[i], rows[i + 1])
            done[i] = one._run(parameters, X[here], out[here], rows[i + 1] - rows[i])

        workers = [self, *self._others[: threads - 1]]
        run_all([functools.partial(do, i, one) for i, one in enumerate(workers)])
        return all(done)

    def _run(self, parameters: Layers, X: np.ndarray, out: np.ndarray, n: int) -> bool:
        """Do n rows in this thread."""
        if parameters is not self._parameters:
            self._place(parameters)
        if n <= SINGLE_ROWS:
            run = self._one
        else:
            run = (self._few if n <= FEW_ROWS else self._many) or self._place_rows(n)
        assert run is not None  # it has been placed
        return run(X, out)

    def _place(self, parameters: Layers) -> None:
        """Take up other parameters, which are held: they stay where they are."""
        self._parameters = None
        self._tables = {
            name: np.array([position(array) for array in arrays], np.int64)
            for name, arrays in (("W", parameters.weights), ("b", parameters.biases))
        }
        self._one, self._few, self._many = self._written(1), None, None
        self._parameters = parameters

    def _place_rows(self, n: int) -> _Call:
        """Make ready for n rows."""
        if n <= FEW_ROWS:
            self._few = self._written(FEW_ROWS)
            return self._few
        wide = piece_rows(self.model, self._blas_threads) == WIDE_PIECE
        self._many = self._written(WIDE_PIECE if wide else PIECE)
        return self._many

    def _written(self, n_rows: int) -> _Call:
        """Write what the compiled code reads for at most so many rows at once; returns it."""
        if n_rows not in self._workspaces:
            self._workspaces[n_rows] = Workspace(
                self.model, self._program, n_rows, 0, self._blas_threads
            )
        arguments = {
            **self._workspaces[n_rows].fixed, **self._shared,
            **{name: position(table) for name, table in self._tables.items()},
            "threshold": position(self._never_dropped), "value": position(self._value),
            "strict": self._strict,
        }  # fmt: skip
        run = self._runs[n_rows] = pack(self._loop.parameters, arguments)
        if n_rows * self._products <= AT_ONCE and self._loop.builtin is not None:
            return self._loop.builtin(position(run))
        entry, at = self._loop.entry, position(run)
        return lambda X, out: bool(entry(at, id(X), id(out)))


def get(model: Model, *, strict: bool, compiling: bool) -> Predictor | None:
    """Return a predictor; None if compiled code cannot run here, or would have to be compiled.

    Parameters
    ----------
    model : Model
    strict : bool
        See `Predictor`.
    compiling : bool
        Whether it may be compiled, which takes seconds.
    """
    if usable.loader_problem() is not None:
        return None
    compiles = not all(cache.is_ready(text) for text in _texts(model))
    if compiles and not compiling:
        return None
    if usable.problem(compiles=compiles, multiplies=calls_blas(model)) is not None:
        return None
    return Predictor(model, strict=strict)


def prepare(model: Model) -> None:
    """Compile what predicting with a network takes, if only that is not there."""
    *kernels, loop, activations = _texts(model)
    if all(cache.is_ready(text) for text in kernels):
        cache.load(loop)
        cache.load(activations)


def seconds_to_prepare(model: Model) -> float:
    """Return about how long that takes."""
    *_, loop, activations = _texts(model)
    of_loop = 0.0 if cache.is_ready(loop) else LOOP_SECONDS
    return of_loop + (0.0 if cache.is_ready(activations) else ACTIVATIONS_SECONDS)


def _texts(model: Model) -> list[str | cache.Written]:
    """Return the modules that predicting takes."""
    return [*texts(model.dtype, "predict"), write_activations(model).text]
