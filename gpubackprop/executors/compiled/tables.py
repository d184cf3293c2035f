"""What the compiled loop is told about a network and its memory: positions and small numbers.

A position is an address divided by the size of an element.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.buffers import Parameters
from gpubackprop.executors.compiled import amx
from gpubackprop.executors.compiled.choices import product_kinds, rows_of_columns
from gpubackprop.executors.compiled.formulas import Program
from gpubackprop.executors.compiled.header import BLAS, SPLIT, TILES
from gpubackprop.model import Model


def position(array: np.ndarray | None) -> int:
    """Return where an array begins; 0 for None."""
    return 0 if array is None else int(array.ctypes.data) // array.itemsize


def rows_wise(model: Model) -> int:
    """Return what is done with whole rows: 0 nothing; softmax, and besides 1 the loss, 2 the delta,
    3 neither, where the loss has formulas of both.
    """
    if model.activations[-1].elementwise:
        return 0
    if model.pair.loss is None:
        return 1
    return 2 if model.pair.delta is None else 3


class Memory:
    """Arrays that live as long as this, by their positions."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._held: list[np.ndarray] = []

    def hold(self, array: np.ndarray) -> int:
        """Keep an array; returns its position."""
        self._held.append(array)
        return position(array)

    def place(self, n: int) -> int:
        """Make room for n numbers, zeros, at a 64-byte boundary."""
        itemsize = self.dtype.itemsize
        raw = self.hold(np.zeros(n + 64 // itemsize, self.dtype))
        return -(-raw * itemsize // 64) * 64 // itemsize

    def table(self, values: Any) -> int:
        """Keep integers."""
        return self.hold(np.array([int(value) for value in values], np.int64))

    def ahead(self) -> int:
        """Make room for what `loop.tell_ahead` tells of the rows that come next."""
        return self.table([0] * 7)

    def numbers(self, values: Any) -> int:
        """Keep numbers of the dtype."""
        return self.hold(np.array([*values, 0.0], self.dtype))


class Workspace(Memory):
    """Memory of the rows that go through the network at once, and the table of the layers.

    Parameters
    ----------
    model : Model
    program : Program
    n_rows : int
    dropout_seed : int
    blas_threads : int, optional
        Those of BLAS meanwhile.

    Attributes
    ----------
    fixed : dict of str to int
        Arguments of the compiled loop by their name.
    """

    def __init__(
        self,
        model: Model,
        program: Program,
        n_rows: int,
        dropout_seed: int,
        blas_threads: int = 1,
    ) -> None:
        super().__init__(model.dtype)
        self.model, self.n_rows = model, n_rows
        sizes = model.sizes
        a = self._rows(sizes[1:])
        z = [self.place(m * n_rows) if keeps else one for keeps, m, one in
             zip(keeps_z(model), sizes[1:], a, strict=True)]  # fmt: skip
        dropped = [p > 0 for p in (*model.dropout, 0.0)]
        h = [self.place(m * n_rows) if drops else 0 for drops, m in
                 zip(dropped, sizes[1:], strict=True)]  # fmt: skip
        kinds = product_kinds(model, n_rows, blas_threads)
        columns = rows_of_columns(model, kinds[0])
        gathers = kinds[0] in (BLAS, SPLIT)
        self.fixed = {
            **shared_tables(self, model, program, dropout_seed),
            "z": self.table(z),
            "a": self.table(a),
            "h": self.table([p or one for p, one in zip(h, a, strict=True)]),
            "mask": self.table(
                self._rows([m * p for m, p in zip(sizes[1:], dropped, strict=True)])
            ),
            "read": self.table(read_places(model, z, a)),
            "delta": self.table(self._rows(sizes[1:])),
            "own": self.table(kinds),
            "by_columns": columns,
            "unit": self.numbers([1.0, 0.0]),
            "spare": self.place(n_rows * max(sizes[1:])),
            "panels": self._panels(kinds),
            "ahead": self.ahead() if kinds[0] == TILES else 0,
            "iota": self.hold(np.arange(max(n_rows, *sizes), dtype=np.int32)),
            "X_buffer": self.place(sizes[0] * n_rows * gathers),
            "X_columns": self.place(sizes[0] * n_rows * (columns > 0)),
            "Y_buffer": self.place(sizes[-1] * n_rows),
            "w_buffer": self.place(n_rows),
            "row": self.place(n_rows),
            "rows_buffer": self.hold(np.empty(n_rows, np.int32)),
            "chunk": n_rows,
            "factors": self.numbers([0.0, 0.0, 0.0]),
            "size": model.layout.size,
            "n_weights": model.layout.n_weights,
        }

    def _panels(self, kinds: list[int]) -> int:
        """Make room for the products of the matrix unit; returns where, or 0."""
        k, shapes = self.n_rows, self.model.layout.shapes
        wanted = [
            amx.room(*sizes)
            for (m, n), kind in zip(shapes, kinds, strict=True) if kind == SPLIT
            for sizes in ((m, k, n), (n, k, m), (m, n, k))
        ]  # fmt: skip
        if not wanted:
            return 0
        wanted.append(amx.room_of_rows(shapes[0][1]))
        at = self.place(max(wanted))
        room = self._held[-1]
        offset = at - position(room)
        room[offset : offset + amx.SCRATCH] = amx.settings()
        return at

    def _rows(self, widths: Iterable[int]) -> list[int]:
        return [self.place(width * self.n_rows) for width in widths]


def keeps_z(model: Model) -> list[bool]:
    """Tell of each layer whether its z has a place of its own."""
    keeps = list(model.keeps_z)
    keeps[-1] = keeps[-1] or not model.activations[-1].elementwise
    return keeps


def read_places(model: Model, z: list[int], a: list[int]) -> list[int]:
    """Return of each layer what f' reads."""
    return [
        z[l] if activation.reads == "z" else a[l] for l, activation in enumerate(model.activations)
    ]


def shared_tables(
    memory: Memory, model: Model, program: Program, dropout_seed: int
) -> dict[str, int]:
    """Return what every loop is told about a network, by the names of arguments."""
    chances = (*model.dropout, 0.0)
    return {
        "n_layers": model.n_layers,
        "n_in": memory.table(model.sizes[:-1]),
        "n_out": memory.table(model.sizes[1:]),
        "kind": memory.table(program.kinds),
        "threshold": memory.table(dropout.threshold(p) for p in chances),
        "key": memory.table(dropout.layer_key(dropout_seed, l) for l in range(model.n_layers)),
        "keep": memory.numbers([1 / (1 - p) for p in chances]),
        "C": memory.numbers(program.constants),
        "rows_wise": rows_wise(model),
    }


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


def pack(parameters: Iterable[str], arguments: dict[str, int]) -> np.ndarray:
    """Return the array that a compiled loop reads."""
    return np.array([arguments[name] for name in parameters], np.int64)
