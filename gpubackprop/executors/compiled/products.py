"""The three products of a layer with a batch, by whatever does them quickest: see `choices`.

BLAS, loops over rows of ours, our tiles, or the processor's matrix unit. Like `loop`, whose
functions these are copied beside, never called from Python. Arrays of a batch have their units as
rows and their samples as columns.
"""

from typing import TYPE_CHECKING, Any

from gpubackprop.executors.compiled.kernels import matrix_vector, start_with_bias
from gpubackprop.executors.compiled.micro import apply_rows, clear, product_rows, scale_all
from gpubackprop.executors.compiled.panels import multiply_rows_split, multiply_split
from gpubackprop.executors.compiled.tiles import multiply_rows, multiply_tiles, transpose

if TYPE_CHECKING:
    T: Any = None
    numbers: Any = None
    gemm: Any = None  # address of BLAS's gemm, then its arguments by value
    NO: Any = None
    YES: Any = None
    TILES: int = 2
    FAR: int = 1 << 18  # numbers that the second cache does not keep
    SPLIT: int = 3
    PANEL: int = 32  # lines that the matrix unit takes at once

Ints = Any


def through_layer(
    K: Ints, W: int, b: int, x: int, z: int, m: int, n: int, k: int, own: int, by_rows: int, f: int,
    x_rows: int, iota: int, unit: int, panels: int,
) -> None:  # fmt: skip
    """Write ``W @ x + b``; if `by_rows`, x has the samples as rows."""
    if k == 1 or own < TILES:
        start_with_bias(b, z, m, k)
    if k == 1:
        matrix_vector(W, x, z, m, n)
    elif own == SPLIT and by_rows and m <= PANEL:
        multiply_rows_split(x, W, z, k, m, k, n, b, unit, panels)
    elif own == SPLIT:
        pitch = n if by_rows else k
        multiply_split(W, n, 1, x, pitch, by_rows, z, k, m, k, n, unit, b, panels)
    elif own == TILES and by_rows:
        multiply_rows(x, x_rows, n, W, z, k, m, k, n, b)
    elif own == TILES:
        multiply_tiles(W, iota, n, 1, x, iota, k, z, k, m, k, n, unit, b, 0)
    elif own and by_rows:
        product_rows(x, n, x_rows, W, z, n, m, k, 1, k)
    elif own:
        apply_rows(x, k, iota, W, z, k, m, n, 1, n)
    elif by_rows:
        gemm(f, YES, NO, k, m, n, T(1), x, n, W, n, T(1), z, k)
    else:
        gemm(f, NO, NO, k, m, n, T(1), x, k, W, n, T(1), z, k)


def carry_back(
    K: Ints, W: int, d: int, below: int, m: int, n: int, k: int, own: int, f: int, iota: int,
    unit: int, spare: int, panels: int,
) -> None:  # fmt: skip
    """Write ``W.T @ d``."""
    if own == SPLIT:
        multiply_split(W, n, 0, d, k, 0, below, k, n, k, m, unit, 0, panels)
    elif own == TILES and m * n > FAR:
        # W's rows as they are, and what comes out turned, rather than W column by column.
        multiply_tiles(d, iota, 1, k, W, iota, n, spare, n, k, n, m, unit, 0, 0)
        transpose(spare, iota, n, below, k, n, k, 0)
    elif own == TILES:
        multiply_tiles(W, iota, 1, n, d, iota, k, below, k, n, k, m, unit, 0, 0)
    elif own:
        clear(below, n * k)
        apply_rows(d, k, iota, W, below, k, n, m, n, 1)
    else:
        gemm(f, NO, YES, k, n, m, T(1), d, k, W, n, T(0), below, k)


def weight_gradient(
    K: Ints, d: int, x: int, out: int, m: int, n: int, k: int, own: int, by_rows: int, f: int,
    x_rows: int, iota: int, spare: int, factors: int, panels: int, ahead: int,
) -> None:  # fmt: skip
    """Write ``factors[0] * d @ x.T + factors[1] * out``; if `by_rows`, x is ``x.T`` already."""
    factor, kept = numbers(factors)[0], numbers(factors)[1]
    if own == SPLIT:
        pitch = n if by_rows else k
        multiply_split(d, k, 1, x, pitch, 1 - by_rows, out, n, m, n, k, factors, 0, panels)
    elif own == TILES:
        if by_rows == 0:
            transpose(x, iota, k, spare, n, k, n, 0)
            x, x_rows = spare, iota
        multiply_tiles(d, iota, k, 1, x, x_rows, n, out, n, m, n, k, factors, 0, ahead)
    elif own:
        scale_all(factors, d, m * k)
        if kept == 0:
            clear(out, m * n)
        if by_rows:
            apply_rows(x, n, x_rows, d, out, n, m, k, 1, k)
        else:
            product_rows(d, k, iota, x, out, k, n, m, n, 1)
    elif by_rows:
        gemm(f, NO, NO, n, m, k, factor, x, n, d, k, kept, out, n)
    else:
        gemm(f, YES, NO, n, m, k, factor, x, k, d, k, kept, out, n)
