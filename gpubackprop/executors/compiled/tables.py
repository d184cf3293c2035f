"""What the compiled loop is told about a network and its memory: positions and small numbers.

A position is an address divided by the size of an element.
"""

from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.buffers import Parameters
from gpubackprop.executors.compiled.source import PARAMETERS, Program
from gpubackprop.model import Model

#: Layers of at most this many weights are done by loops of ours: BLAS would take longer to begin.
SMALL_LAYER = 256
#: Rows that go through the network at once. OpenBLAS is quick with a first layer of few units where
#: there are few rows; where W is larger than the cache, each of its readings should serve many.
PIECE, NARROW_PIECE, WIDE_PIECE = 512, 32, 2048
NARROW_UNITS, WIDE_WEIGHTS = 64, 1 << 20


def piece_rows(model: Model) -> int:
    """Return how many rows of a batch go through the network at once: a power of two."""
    n_weights = [m * n for m, n in model.layout.shapes]
    if max(n_weights) > WIDE_WEIGHTS:
        return WIDE_PIECE
    narrow = model.sizes[1] <= NARROW_UNITS and n_weights[0] > SMALL_LAYER
    return NARROW_PIECE if narrow else PIECE


def position(array: np.ndarray | None) -> int:
    """Return where an array begins; 0 for None."""
    return 0 if array is None else int(array.ctypes.data) // array.itemsize


def rows_wise(model: Model) -> int:
    """Return what is done with whole rows: 1 softmax with cross_entropy, 2 softmax, else 0."""
    if model.activations[-1].elementwise:
        return 0
    return 1 if model.pair.loss is None else 2


class Workspace:
    """Memory of the rows that go through the network at once, and the table of the layers.

    Parameters
    ----------
    model : Model
    program : Program
    n_rows : int
    dropout_seed : int

    Attributes
    ----------
    fixed : dict of str to int
        Arguments of the compiled loop by their name.
    """

    def __init__(self, model: Model, program: Program, n_rows: int, dropout_seed: int) -> None:
        self.model, self.n_rows = model, n_rows
        self._held: list[np.ndarray] = []
        n, sizes = model.n_layers, model.sizes
        a = [self._place(m, n_rows) for m in sizes[1:]]
        keeps = list(model.keeps_z)
        keeps[-1] = keeps[-1] or not model.activations[-1].elementwise
        z = [self._place(sizes[l + 1], n_rows) if keeps[l] else a[l] for l in range(n)]
        dropped = [p > 0 for p in (*model.dropout, 0.0)]
        chances = (*model.dropout, 0.0)
        seeds = [dropout.layer_key(dropout_seed, l) for l in range(n)]
        reads = [activation.reads == "z" for activation in model.activations]
        self.fixed = {
            "n_layers": n,
            "n_in": self._table(sizes[:-1]),
            "n_out": self._table(sizes[1:]),
            "z": self._table(z),
            "a": self._table(a),
            "h": self._table(
                [self._place(sizes[l + 1], n_rows) if dropped[l] else a[l] for l in range(n)]
            ),
            "mask": self._table(
                [self._place(sizes[l + 1], n_rows) if dropped[l] else 0 for l in range(n)]
            ),
            "read": self._table([z[l] if reads[l] else a[l] for l in range(n)]),
            "delta": self._table([self._place(m, n_rows) for m in sizes[1:]]),
            "kind": self._table(program.kinds),
            "small": self._table([m * k <= SMALL_LAYER for m, k in model.layout.shapes]),
            "threshold": self._table([dropout.threshold(p) for p in chances]),
            "key": self._table(seeds),
            "keep": self._numbers([1 / (1 - p) for p in chances]),
            "C": self._numbers(program.constants),
            "X_buffer": self._place(sizes[0], n_rows),
            "Y_buffer": self._place(sizes[-1], n_rows),
            "w_buffer": self._place(1, n_rows),
            "row": self._place(1, n_rows),
            "rows_buffer": self._hold(np.empty(n_rows, np.int32)),
            "chunk": n_rows,
            "rows_wise": rows_wise(model),
            "factors": self._numbers([0.0, 0.0, 0.0]),
            "size": model.layout.size,
            "n_weights": model.layout.n_weights,
        }

    def _hold(self, array: np.ndarray) -> int:
        self._held.append(array)
        return position(array)

    def _place(self, n: int, n_rows: int) -> int:
        """Make room at a 64-byte boundary for some numbers per row."""
        itemsize = self.model.dtype.itemsize
        raw = self._hold(np.empty(n * n_rows + 64 // itemsize, self.model.dtype))
        return -(-raw * itemsize // 64) * 64 // itemsize

    def _table(self, values: Any) -> int:
        return self._hold(np.array([int(value) for value in values], np.int64))

    def _numbers(self, values: Any) -> int:
        return self._hold(np.array([*values, 0.0], self.model.dtype))


def parameter_tables(parameters: Parameters, gradient: Parameters) -> dict[str, np.ndarray]:
    """Return where each layer's W, b and their gradients are."""
    return {
        name: np.array([position(array) for array in arrays], np.int64)
        for name, arrays in (
            ("W", parameters.weights),
            ("b", parameters.biases),
            ("dW", gradient.weights),
            ("db", gradient.biases),
        )
    }


def pack(arguments: dict[str, int]) -> np.ndarray:
    """Return the array that the compiled function reads."""
    return np.array([arguments[name] for name in PARAMETERS], np.int64)
