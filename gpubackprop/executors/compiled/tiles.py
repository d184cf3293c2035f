"""Products of layers that fit into the cache, and transposes: loops over the tiles of `vectors`.

Like `kernels`, never called from Python, made of positions, and called by their addresses alone.
BLAS packs both matrices before it multiplies them; here rows are read where they are, by int32
numbers at the positions `a_rows` and `b_rows`, the update is part of the product, and a bias its
start.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    T: Any = None  # the arrays' dtype
    numbers: Any = None  # position -> pointer to T
    tile: Any = None
    transposed: Any = None
    rows_of_next: Any = None  # rows of the next tile of so many
    LANES: int = 16  # numbers in a vector
    PAIR: int = 17  # columns from which a tile has two
    DEPTH: int = 256  # columns of A that are multiplied before the next


def multiply_tiles(
    A: int, a_rows: int, a_pitch: int, a_step: int, B: int, b_rows: int, b_pitch: int, C: int,
    c_pitch: int, m: int, n: int, depth: int, factors: int, bias: int,
) -> None:  # fmt: skip
    """Write ``factors[0] * (A @ B + bias) + factors[1] * C`` to C, which is (m, n).

    Numbers of a row of A are `a_step` apart, and A has `depth` of them. At 0 there is no bias.
    """
    factor, p = numbers(factors)[0], 0
    while p < depth:
        part, i = min(DEPTH, depth - p), 0
        kept = numbers(factors)[1] if p == 0 else T(1)
        while i < m:
            rows, start, q = rows_of_next(m - i), 0, 0
            if bias != 0 and p == 0:
                start = bias + i
            while q < n:
                vectors = 2 if n - q >= PAIR else 1
                tile(
                    rows, vectors, A + p * a_step, a_rows + i, a_pitch, a_step, B + q, b_rows + p,
                    b_pitch, C + i * c_pitch + q, c_pitch, part, factor, kept, start,
                    n - q - (vectors - 1) * LANES,
                )  # fmt: skip
                q += vectors * LANES
            i += rows
        p += part


def transpose(
    X: int, rows: int, pitch: int, out: int, out_pitch: int, n: int, k: int, bias: int
) -> None:
    """Write k rows of X, of n numbers each, as columns of out, plus a bias (none at 0)."""
    q = 0
    while q < n:
        start, t = 0, 0
        if bias != 0:
            start = bias + q
        while t < k:
            transposed(
                X + q, rows + t, pitch, out + q * out_pitch + t, out_pitch, min(LANES, n - q),
                k - t, start,
            )  # fmt: skip
            t += LANES
        q += LANES
