"""Products of float32 matrices by the processor's matrix unit: see `amx` for what it does.

Like `kernels`, never called from Python, made of positions, and called by their addresses alone;
what begins with "_" becomes part of what calls it. Both matrices are split into panels of 32 lines,
rows of A or columns of B, cut along the depth.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    numbers: Any = None  # position -> pointer to float32
    begin_tiles: Any = None
    end_tiles: Any = None
    multiply_panels: Any = None
    split_tile: Any = None
    T: Any = None  # float32
    ONE: int = 16  # where the room has a number 1
    SCRATCH: int = 32  # and a block of 32 by 32 numbers, before the panels
    PANEL: int = 32  # lines of a panel, and numbers of a step of the depth
    STEP: int = 1536  # what a panel takes for a step, in float32 numbers
    DEEP: int = 512  # of the depth, what is multiplied before the next
    BROAD: int = 256  # columns of B whose panels stay in the second cache
    HIGH: int = 2048  # rows of A whose panels are kept for all columns of B


def _split_panel(
    X: int, pitch: int, along: int, turned: int, lines: int, depth: int, factor: int, out: int
) -> None:
    """Write up to 32 lines of a matrix as a panel; lines are its rows if `along`, else columns."""
    for k in range(0, depth, PANEL):
        for line in range(0, PANEL, 16):
            n, left = depth - k, lines - line
            if along:
                at = X + line * pitch + k
                split_tile(
                    turned, at, at + 16, pitch, left, left, n, n - 16, numbers(factor)[0], out
                )
            else:
                at = X + k * pitch + line
                split_tile(
                    turned, at, at + 16 * pitch, pitch, n, n - 16, left, left, numbers(factor)[0],
                    out,
                )  # fmt: skip
            out += 256
        out += STEP - 512


def _finish_block(block: int, C: int, c_pitch: int, m: int, n: int, keeps: int, bias: int) -> None:
    """Write a block of 32 by 32 sums to C, of which (m, n) count, plus what is there or a bias."""
    for r in range(m):
        source, out, start = numbers(block + r * PANEL), numbers(C + r * c_pitch), T(0)
        if bias != 0:
            start = numbers(bias)[r]
        if keeps:
            for c in range(n):
                out[c] += source[c]
        else:
            for c in range(n):
                out[c] = source[c] + start


def _multiply_panels(
    a: int, b: int, steps: int, C: int, c_pitch: int, m: int, n: int, keeps: int, bias: int,
    block: int,
) -> None:  # fmt: skip
    """Multiply the panels of m rows with those of n columns.

    Sums begin at 0: from a weight, each small product would be lost in its last bit.
    """
    for i in range(0, m, PANEL):
        panel, below = a + i // PANEL * steps * STEP, 0
        if bias != 0:
            below = bias + i
        for j in range(0, n, PANEL):
            other, at = b + j // PANEL * steps * STEP, C + i * c_pitch + j
            rows, columns = min(PANEL, m - i), min(PANEL, n - j)
            if keeps == 0 and bias == 0 and rows == PANEL and columns == PANEL:
                multiply_panels(panel, other, steps, at, c_pitch)
            else:
                multiply_panels(panel, other, steps, block, PANEL)
                _finish_block(block, at, c_pitch, rows, columns, keeps, below)


def multiply_split(
    A: int, a_pitch: int, a_along: int, B: int, b_pitch: int, b_along: int, C: int, c_pitch: int,
    m: int, n: int, depth: int, factors: int, bias: int, room: int,
) -> None:  # fmt: skip
    """Write ``factors[0] * A @ B + bias + factors[1] * C`` to C, which is (m, n).

    If `a_along`, rows of A are `a_pitch` apart, else its columns are; if `b_along`, columns of B
    are, else its rows. ``factors[1]`` is 0 or 1, and where it is 1 there is no bias. `room` is what
    `amx.room` and `amx.settings` tell.
    """
    begin_tiles(room)
    one, block = room + ONE, room + SCRATCH
    a_step, a_down, b_step, b_down = 1, a_pitch, 1, b_pitch
    if a_along:
        a_step, a_down = a_pitch, 1
    if b_along:
        b_step, b_down = b_pitch, 1
    for i in range(0, m, HIGH):
        high = min(HIGH, m - i)
        for p in range(0, depth, DEEP):
            deep, start = min(DEEP, depth - p), 0
            steps, keeps = (deep + PANEL - 1) // PANEL, int(p > 0 or numbers(factors)[1] != T(0))
            if bias != 0 and p == 0:
                start = bias + i
            a = block + PANEL * PANEL
            b = a + (high + PANEL - 1) // PANEL * steps * STEP
            for k in range(0, high, PANEL):
                at = A + (i + k) * a_step + p * a_down
                _split_panel(
                    at, a_pitch, a_along, 1 - a_along, high - k, deep, factors,
                    a + k // PANEL * steps * STEP,
                )  # fmt: skip
            for q in range(0, n, BROAD):
                broad = min(BROAD, n - q)
                for k in range(0, broad, PANEL):
                    at = B + (q + k) * b_step + p * b_down
                    _split_panel(
                        at, b_pitch, b_along, b_along, broad - k, deep, one,
                        b + k // PANEL * steps * STEP,
                    )  # fmt: skip
                at = C + i * c_pitch + q
                _multiply_panels(a, b, steps, at, c_pitch, high, broad, keeps, start, block)
    end_tiles()
