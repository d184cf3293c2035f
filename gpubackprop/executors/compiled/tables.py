"""What the compiled loop is told about a network and its memory: positions and small numbers.

A position is an address divided by the size of an element.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.backends import blas
from gpubackprop.buffers import Parameters
from gpubackprop.executors import cpu_cost
from gpubackprop.executors.compiled import amx
from gpubackprop.executors.compiled.formulas import Program
from gpubackprop.executors.compiled.header import BLAS, LOOPS, PANEL, SPLIT, TILES
from gpubackprop.executors.compiled.vectors import processor
from gpubackprop.model import Model

#: Layers of at most this many units, or weights, are done by loops of ours: BLAS would take longer
#: to begin, or to pack.
NARROW_UNITS, FEW_WEIGHTS = cpu_cost.LEAST_UNITS, 1024
#: Of these, those with more weights are done in tiles, of two rows or more: 64-64-64-10 then trains
#: 3.9 times as fast at 8 rows as with loops over rows, 3 times at 2 (Zen 4). With 16 registers and
#: `MANY_INPUTS` loops are quicker up to so many rows: 1.6 times in 784-30-10.
LEAST_WEIGHTS, ROWS_OF_LOOPS = 64, 8
#: Large layers from more rows on, where tiles beat BLAS: 500-300-100-5 then trains 1.2 times as
#: fast at 8 rows; at 4 it would be 0.85 times.
ROWS_OF_BLAS = 4
#: From so many rows on a matrix unit gains: 784-256-128-10 then trains 1.05 times as fast as with
#: MKL at 64 rows, 1.25 at 128, 1.4 at 256. It is as fast as so many threads of BLAS.
ROWS_OF_PANELS, EQUAL_THREADS = cpu_cost.LEAST_ROWS, 2
#: Of narrow layers it gains on tiles where there are so many units, of the 32 that it always does,
#: so many inputs, and rows: 784-30-10 then trains 1.06 times as fast at 128 rows, 1.2 to 1.3 times
#: at 256 and in full on a quiet processor, and as fast on a busy one.
NARROW_PANEL, MANY_INPUTS, NARROW_ROWS = 24, 256, 128
#: With at most this many inputs, loops over rows want the samples of a batch as columns, and so do
#: tiles where they fill a vector: 8-64-1 then trains 1.3 times as fast at 16 rows on a Zen 4, 1.5
#: times at 200; 40-64-1 1.1 times. With 32 registers, and layers wider than 32, tiles do with at
#: most so many: 1.03 to 1.1 times; of more, rows of samples are long enough for inner products.
FEW_INPUTS, TILES_INPUTS = 64, 160
#: Rows that go through the network at once: they are read twice, and should be in the cache then.
#: Where W is larger than the cache, each of its readings should serve many: more of BLAS's.
PIECE, NARROW_PIECE, WIDE_PIECE, WIDE_TILES_PIECE = 512, 64, 2048, 256
#: And so many bytes of each unit, where tiles do a layer that is not narrow: twice as many rows of
#: float32 are 1.01 to 1.02 times as fast on a Zen 4, of float64 0.94 to 0.98 times.
TILES_PIECE_BYTES = 512
#: With few inputs it is the units' outputs that should be in the cache: so many bytes of them.
#: 10-512-512-1 then trains 1.07 times as fast on a Zen 4, 20-100-100-1 in float64 1.05 times.
OUTPUT_BYTES = 3 << 17
WIDE_WEIGHTS = 1 << 20


def own_layers(model: Model) -> list[bool]:
    """Tell of each layer whether its products are loops of ours."""
    return [m <= NARROW_UNITS or m * n <= FEW_WEIGHTS for m, n in model.layout.shapes]


def calls_blas(model: Model) -> bool:
    """Tell whether some layer's products may be BLAS's."""
    return not all(own_layers(model))


def tiles_beat_blas(threads: int = 1) -> bool:
    """Tell whether tiles of ours multiply large matrices, too: with AVX-512, where MKL is not used,
    against one thread of BLAS.

    On a Zen 4 they reach 100 to 107 GFLOP/s of float32 where OpenBLAS has 91 to 98 with 256 rows,
    and 93 to 107 where it has 55 to 76 with 32. 784-256-128-10 then trains 1.1 times as fast,
    1024-2048-2048-10 1.4 times with 32 rows. On a Xeon they did not beat MKL.
    """
    return threads == 1 and processor()[0] == 64 and blas.library() != "mkl"


def product_kinds(model: Model, n_rows: int, blas_threads: int = 1) -> list[int]:
    """Return what does each layer's products with n_rows samples, as `header` numbers it, where
    BLAS has so many threads.
    """
    splits = amx.usable(model.dtype) and blas_threads <= EQUAL_THREADS
    splits = splits and n_rows >= ROWS_OF_PANELS
    kinds = []
    for own, (m, n) in zip(own_layers(model), model.layout.shapes, strict=True):
        if own and n_rows >= NARROW_ROWS and _fits_panels(model, m, n):
            kinds.append(SPLIT)
        elif own:
            few = ROWS_OF_LOOPS if n > MANY_INPUTS and processor()[1] == 16 else 1
            kinds.append(TILES if n_rows > few and m * n > LEAST_WEIGHTS else LOOPS)
        elif splits and n > NARROW_UNITS:
            kinds.append(SPLIT)
        else:
            tiles = n_rows > ROWS_OF_BLAS and tiles_beat_blas(blas_threads)
            kinds.append(TILES if tiles else BLAS)
    return kinds


def wants_columns(model: Model, kind: int, n_rows: int) -> bool:
    """Tell whether the first layer's products, of a kind, want samples as columns."""
    m, n = model.layout.shapes[0]
    if kind == LOOPS:
        return n <= FEW_INPUTS
    n_bytes, registers = processor()
    most = TILES_INPUTS if registers == 32 and m > PANEL else FEW_INPUTS
    return kind == TILES and n <= most and n_rows * model.dtype.itemsize >= n_bytes


def _fits_panels(model: Model, m: int, n: int) -> bool:
    """Tell whether a matrix unit does a narrow layer of m units and n inputs, if there is one."""
    return m >= NARROW_PANEL and n >= MANY_INPUTS and amx.usable(model.dtype)


def piece_rows(model: Model, blas_threads: int = 1) -> int:
    """Return how many rows of a batch go through the network at once, where BLAS has so many
    threads: a power of two.
    """
    (m, n), own = model.layout.shapes[0], own_layers(model)[0]
    wide = max(m * n for m, n in model.layout.shapes) > WIDE_WEIGHTS
    if wide or not own:
        tiles = tiles_beat_blas(blas_threads) and not amx.usable(model.dtype)
        if wide:
            return WIDE_TILES_PIECE if tiles else WIDE_PIECE
        if not tiles:
            return PIECE
    elif _fits_panels(model, m, n):
        return PIECE
    if n > FEW_INPUTS:
        return NARROW_PIECE if own else TILES_PIECE_BYTES // model.dtype.itemsize
    rows = OUTPUT_BYTES // (sum(model.sizes[1:]) * model.dtype.itemsize)
    return max(NARROW_PIECE, min(1 << rows.bit_length() >> 1, PIECE))


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
        columns = wants_columns(model, kinds[0], n_rows)
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
            "by_columns": int(columns),
            "unit": self.numbers([1.0, 0.0]),
            "spare": self.place(n_rows * max(sizes[1:])),
            "panels": self._panels(kinds),
            "ahead": self.ahead() if kinds[0] == TILES else 0,
            "iota": self.hold(np.arange(max(n_rows, *sizes), dtype=np.int32)),
            "X_buffer": self.place(sizes[0] * n_rows * gathers),
            "X_columns": self.place(sizes[0] * n_rows * columns),
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
