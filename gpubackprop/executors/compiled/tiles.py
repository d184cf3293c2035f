"""Products of layers that fit into the cache, and transposes: loops over the tiles of `vectors`.

Like `kernels`, never called from Python, made of positions, and called by their addresses alone.
BLAS packs both matrices before it multiplies them; here rows are read where they are, by int32
numbers at the positions `a_rows` and `b_rows`, the update is part of the product, and a bias its
start.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    T: Any = None  # the arrays' dtype
    numbers: Any = None  # position -> pointer to T
    tile: Any = None
    transposed: Any = None
    rows_of_next: Any = None  # rows of the next tile of so many
    dots: Any = None
    SAMPLES: int = 4  # of which it does so many at once
    UNITS: int = 6
    LANES: int = 16  # numbers in a vector
    PAIR: int = 17  # columns from which a tile has two
    DEPTH: int = 256  # columns of A that are multiplied before the next
    FAR: int = 1 << 18  # numbers that the second cache does not keep
    NEAR: int = 4096  # that the first does
    WHOLE_TILE: int = 8  # rows
    FAR_PAIR: int = 3  # so many rows and two vectors, and what comes next is brought near
    codes: Any = None  # position -> pointer to int64
    rows_at: Any = None  # to int32
    fetch_near: Any = None  # has the line of a position brought into the second cache
    LINE: int = 16  # numbers in it

Ints: TypeAlias = Any


def _fetch_lines(ahead: Ints, work: int) -> None:
    """Have what comes next brought near, a line for each `ahead[4]` of so many multiplications.

    These are ahead[3] rows of ahead[2] numbers, at ahead[0] by the row numbers at ahead[1]; from
    the column ahead[6] of row ahead[5] on, which move on.
    """
    left, n, t, q = work // ahead[4] * LINE, ahead[2], ahead[5], ahead[6]
    while left > 0 and t < ahead[3]:
        row, stop = ahead[0] + rows_at(ahead[1])[t] * n, min(q + left, n)
        for i in range(q, stop, LINE):
            fetch_near(row + i)
        left, q = left - (stop - q), stop
        if q >= n:
            t, q = t + 1, 0
    ahead[5], ahead[6] = t, q


def multiply_tiles(
    A: int, a_rows: int, a_pitch: int, a_step: int, B: int, b_rows: int, b_pitch: int, C: int,
    c_pitch: int, m: int, n: int, depth: int, factors: int, bias: int, ahead: int,
) -> None:  # fmt: skip
    """Write ``factors[0] * (A @ B + bias) + factors[1] * C`` to C, which is (m, n).

    Numbers of a row of A are `a_step` apart, and A has `depth` of them. At 0 there is no bias, and
    nothing for `_fetch_lines` to bring near meanwhile.
    """
    factor, p, pair = numbers(factors)[0], 0, 2
    if depth * n > FAR or m * n > FAR:
        pair = FAR_PAIR
    while p < depth:
        part, place = min(DEPTH, depth - p), 0
        kept = numbers(factors)[1] if p == 0 else T(1)
        # Rows of A that stay in the second cache, and columns of B that stay in the first.
        height = max(FAR // (4 * part * WHOLE_TILE), 1) * WHOLE_TILE
        width = max(NEAR // part // (2 * LANES), 1) * 2 * LANES
        blocks = -(-n // width)
        while place < blocks * -(-m // height):
            top, first = place // blocks * height, place % blocks * width
            bottom, stop, i = min(top + height, m), min(first + width, n), top
            while i < bottom:
                rows, start, q = rows_of_next(bottom - i), 0, first
                if bias != 0 and p == 0:
                    start = bias + i
                while q < stop:
                    vectors = 2 if stop - q >= PAIR else 1
                    kind = pair if vectors == 2 and rows == WHOLE_TILE else vectors
                    if ahead != 0:
                        _fetch_lines(codes(ahead), rows * vectors * part)
                    tile(
                        rows, kind, A + p * a_step, a_rows + i, a_pitch, a_step, B + q,
                        b_rows + p, b_pitch, C + i * c_pitch + q, c_pitch, part, factor, kept,
                        start, stop - q - (vectors - 1) * LANES,
                    )  # fmt: skip
                    q += vectors * LANES
                i += rows
            place += 1
        p += part


def multiply_rows(
    X: int, rows: int, pitch: int, W: int, out: int, out_pitch: int, m: int, k: int, depth: int,
    bias: int,
) -> None:  # fmt: skip
    """Write ``W @ X[rows].T + bias`` to out, which is (m, k); all rows have `depth` numbers."""
    groups = -(-m // UNITS)
    most = -(-m // groups)
    # Samples that stay in the second cache, while the rows of W go by.
    block = max(FAR // (4 * depth * SAMPLES), 1) * SAMPLES
    for first in range(0, k, block):
        last = min(first + block, k)
        for j in range(0, m, most):
            start = 0
            if bias != 0:
                start = bias + j
            for t in range(first, last, SAMPLES):
                dots(
                    min(most, m - j), X, rows + t, min(SAMPLES, last - t), pitch, W + j * depth,
                    depth, out + j * out_pitch + t, out_pitch, start,
                )  # fmt: skip


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
