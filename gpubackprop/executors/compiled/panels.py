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
    begin_sums: Any = None
    add_products: Any = None
    write_sums: Any = None
    split_tile: Any = None
    T: Any = None  # float32
    ONE: int = 16  # where the room has a number 1
    SCRATCH: int = 32  # and a block of 32 by 32 numbers, before the panels
    PANEL: int = 32  # lines of a panel, and numbers of a step of the depth
    STEP: int = 1536  # what a panel takes for a step, in float32 numbers
    NEXT: int = 64  # how far ahead, in numbers of the depth, what is split next is brought near
    DEEP: int = 512  # of the depth, what is multiplied before the next
    BROAD: int = 256  # columns of B whose panels stay in the second cache
    HIGH: int = 2048  # rows of A whose panels are kept for all columns of B


def _split_step(
    X: int, pitch: int, along: int, turned: int, lines: int, depth: int, factor: int, out: int,
    A: int, B: int,
) -> None:  # fmt: skip
    """Write up to 32 lines of a matrix, and 32 of their numbers, as a step of a panel.

    Lines are its rows if `along`, else columns. Unless A is 0, the product of two other steps, at A
    and B, is added to the sums meanwhile.
    """
    for line in range(0, PANEL, 16):
        left = lines - line
        if along:
            at = X + line * pitch
            split_tile(
                turned, at, at + 16, pitch, left, left, depth, depth - 16, numbers(factor)[0],
                out, A, B, line // 16, NEXT,
            )  # fmt: skip
        else:
            at = X + line
            split_tile(
                turned, at, at + 16 * pitch, pitch, depth, depth - 16, left, left,
                numbers(factor)[0], out, A, B, line // 16, NEXT * pitch,
            )  # fmt: skip
        out += 256


def _split_panel(
    X: int, pitch: int, along: int, turned: int, lines: int, depth: int, factor: int, out: int
) -> None:
    """Write up to 32 lines as a panel."""
    down = PANEL
    if along == 0:
        down = PANEL * pitch
    for k in range(0, depth, PANEL):
        _split_step(X, pitch, along, turned, lines, depth - k, factor, out, 0, 0)
        X += down
        out += STEP


def _finish_block(C: int, c_pitch: int, m: int, n: int, keeps: int, bias: int, block: int) -> None:
    """Write the sums of a block to C, of which (m, n) count, plus what is there or a bias."""
    if keeps == 0 and bias == 0 and m >= PANEL and n >= PANEL:
        write_sums(C, c_pitch)
    else:
        write_sums(block, PANEL)
        for r in range(min(m, PANEL)):
            source, out, start = numbers(block + r * PANEL), numbers(C + r * c_pitch), T(0)
            if bias != 0:
                start = numbers(bias)[r]
            if keeps:
                for c in range(min(n, PANEL)):
                    out[c] += source[c]
            else:
                for c in range(min(n, PANEL)):
                    out[c] = source[c] + start


def _split_and_multiply(
    kept: int, X: int, pitch: int, along: int, turned: int, lines: int, depth: int, one: int,
    out: int, stays: int,
) -> None:  # fmt: skip
    """Write lines of a matrix as a panel, and add its product with another panel to the sums.

    They are columns of B if `turned` is `along`, else rows of A. The matrix unit multiplies one
    step while the next is split. If it stays, the panel is whole afterwards; else two steps take
    turns, which are nearer.
    """
    down, before = PANEL, out
    if along == 0:
        down = PANEL * pitch
    for k in range(0, depth, PANEL):
        step = k // PANEL
        at = out + step * STEP
        if stays == 0:
            at = out + step % 2 * STEP
        A, B = 0, before
        if k > 0:
            A = kept + (step - 1) * STEP
            if turned != along:
                A, B = B, A
        _split_step(X, pitch, along, turned, lines, depth - k, one, at, A, B)
        before = at
        X += down
    A, B = kept + (depth - 1) // PANEL * STEP, before
    if turned != along:
        A, B = B, A
    add_products(A, B, 1)


def _multiply_panels(
    a: int, size: int, B: int, b_pitch: int, b_along: int, b_step: int, depth: int, one: int,
    b: int, C: int, c_pitch: int, m: int, n: int, keeps: int, bias: int, block: int,
) -> None:  # fmt: skip
    """Multiply all panels of A with columns of B, which are split beside the first."""
    for q in range(0, n, PANEL):
        panel = b
        if m > PANEL:
            panel = b + q // PANEL * size
        begin_sums()
        at = B + q * b_step
        _split_and_multiply(
            a, at, b_pitch, b_along, b_along, n - q, depth, one, panel, int(m > PANEL)
        )  # fmt: skip
        _finish_block(C + q, c_pitch, m, n - q, keeps, bias, block)
    for i in range(PANEL, m, PANEL):
        below = 0
        if bias != 0:
            below = bias + i
        for q in range(0, n, PANEL):
            begin_sums()
            add_products(a + i // PANEL * size, b + q // PANEL * size, size // STEP)
            _finish_block(C + i * c_pitch + q, c_pitch, m - i, n - q, keeps, below, block)


def multiply_split(
    A: int, a_pitch: int, a_along: int, B: int, b_pitch: int, b_along: int, C: int, c_pitch: int,
    m: int, n: int, depth: int, factors: int, bias: int, room: int,
) -> None:  # fmt: skip
    """Write ``factors[0] * A @ B + bias + factors[1] * C`` to C, which is (m, n).

    If `a_along`, rows of A are `a_pitch` apart, else its columns are; if `b_along`, columns of B
    are, else its rows. ``factors[1]`` is 0 or 1, and where it is 1 there is no bias. `room` is what
    `amx.room` and `amx.settings` tell. Sums begin at 0: from a weight, each small product would be
    lost in its last bit.
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
            size = (deep + PANEL - 1) // PANEL * STEP
            keeps = int(p > 0 or numbers(factors)[1] != T(0))
            if bias != 0 and p == 0:
                start = bias + i
            a = block + PANEL * PANEL
            b = a + (high + PANEL - 1) // PANEL * size
            for k in range(0, high, PANEL):
                _split_panel(
                    A + (i + k) * a_step + p * a_down, a_pitch, a_along, 1 - a_along, high - k,
                    deep, factors, a + k // PANEL * size,
                )  # fmt: skip
            for q in range(0, n, BROAD):
                _multiply_panels(
                    a, size, B + q * b_step + p * b_down, b_pitch, b_along, b_step, deep, one, b,
                    C + i * c_pitch + q, c_pitch, high, min(BROAD, n - q), keeps, start, block,
                )  # fmt: skip
    end_tiles()


def multiply_rows_split(
    X: int, W: int, out: int, out_pitch: int, m: int, k: int, depth: int, bias: int, unit: int,
    room: int,
) -> None:  # fmt: skip
    """Write ``W @ X.T + bias`` of up to 32 units and k samples to out, which is (m, k).

    Samples are split as rows of the first matrix: as columns of the second, numbers that stand
    beside each other would have to be turned. `unit` is where 1 is, `room` as for `multiply_split`.
    """
    begin_tiles(room)
    block = room + SCRATCH
    w = block + PANEL * PANEL
    x = w + (depth + PANEL - 1) // PANEL * STEP
    _split_panel(W, depth, 1, 1, m, depth, unit, w)
    for t in range(0, k, PANEL):
        begin_sums()
        _split_and_multiply(w, X + t * depth, depth, 1, 0, k - t, depth, unit, x, 0)
        write_sums(block, PANEL)
        source = numbers(block)
        for j in range(m):
            row, start = numbers(out + j * out_pitch + t), T(0)
            if bias != 0:
                start = numbers(bias)[j]
            for i in range(min(k - t, PANEL)):
                row[i] = source[i * PANEL + j] + start
    end_tiles()
