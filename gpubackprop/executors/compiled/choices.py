"""What does each layer's products with a batch, and how many rows go through the network at once.

Rules of sizes, of the processor and of what is installed, each with what was measured.
"""

from gpubackprop.backends import blas
from gpubackprop.executors import cpu_cost
from gpubackprop.executors.compiled import amx
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
WIDE_WEIGHTS = 1 << 20
#: And so many bytes of each unit, where tiles do a layer that is not narrow: twice as many rows of
#: float32 are 1.01 to 1.02 times as fast on a Zen 4, of float64 0.94 to 0.98 times.
TILES_PIECE_BYTES = 512
#: With few inputs it is the units' outputs that should be in the cache: so many bytes of them.
#: 10-512-512-1 then trains 1.07 times as fast on a Zen 4, 20-100-100-1 in float64 1.05 times.
OUTPUT_BYTES = 3 << 17


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


def rows_of_columns(model: Model, kind: int) -> int:
    """Return from how many rows on the first layer's products, of a kind, want samples as columns;
    0 for never.
    """
    m, n = model.layout.shapes[0]
    if kind == LOOPS:
        return 2 if n <= FEW_INPUTS else 0
    n_bytes, registers = processor()
    most = TILES_INPUTS if registers == 32 and m > PANEL else FEW_INPUTS
    return n_bytes // model.dtype.itemsize if kind == TILES and n <= most else 0


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
