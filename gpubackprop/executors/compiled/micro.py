"""Products of rows for the compiled executor: of few units, or of one sample.

Like `kernels`, never called from Python, made of positions, and called by their addresses alone. A
row of a table is ``pitch`` numbers after the one before; `rows` is the position of int32 row
numbers, so that rows of the data are read where they are, without a copy.

With few units BLAS spends its time on packing: these read each number of W once for two rows of the
data, or for four. Their inner loops are plain, over what is contiguous, and hold as many sums as a
processor has registers for with vectors of any length.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    T: Any = None  # the arrays' dtype
    numbers: Any = None  # position -> pointer to T
    rows_at: Any = None  # to int32
    fetch: Any = None  # brings the cache line of a position near
    LINE: int = 16  # numbers in it


def product_rows(
    X: int, pitch: int, rows: int, W: int, out: int, n: int, m: int, k: int, t_step: int,
    j_step: int,
) -> None:  # fmt: skip
    """Add ``X[rows[t]] @ W[j]`` to ``out[t * t_step + j * j_step]``; k rows, W is (m, n)."""
    _rows, _out, t = rows_at(rows), numbers(out), 0
    share = n * 4 // m + LINE  # of a row, to fetch while four units are done
    while t < k:
        x0, o, j = numbers(X + _rows[t] * pitch), t * t_step, 0
        x1, p = x0, o
        if t + 1 < k:
            x1, p = numbers(X + _rows[t + 1] * pitch), o + t_step
        next0 = X + _rows[t + 2 if t + 2 < k else t] * pitch
        next1 = X + _rows[t + 3 if t + 3 < k else t] * pitch
        ahead = 0
        while j + 4 <= m:
            stop = min(ahead + share, n)
            while ahead < stop:
                fetch(next0 + ahead)
                fetch(next1 + ahead)
                ahead += LINE
            w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
            w2, w3 = numbers(W + (j + 2) * n), numbers(W + (j + 3) * n)
            s0, s1, s2, s3, r0, r1, r2, r3 = T(0), T(0), T(0), T(0), T(0), T(0), T(0), T(0)
            for i in range(n):
                x, y = x0[i], x1[i]
                s0 += x * w0[i]
                s1 += x * w1[i]
                s2 += x * w2[i]
                s3 += x * w3[i]
                r0 += y * w0[i]
                r1 += y * w1[i]
                r2 += y * w2[i]
                r3 += y * w3[i]
            _out[o + j * j_step] += s0
            _out[o + (j + 1) * j_step] += s1
            _out[o + (j + 2) * j_step] += s2
            _out[o + (j + 3) * j_step] += s3
            if p != o:
                _out[p + j * j_step] += r0
                _out[p + (j + 1) * j_step] += r1
                _out[p + (j + 2) * j_step] += r2
                _out[p + (j + 3) * j_step] += r3
            j += 4
        while j < m:
            w0, s0, r0 = numbers(W + j * n), T(0), T(0)
            for i in range(n):
                s0 += x0[i] * w0[i]
                r0 += x1[i] * w0[i]
            _out[o + j * j_step] += s0
            if p != o:
                _out[p + j * j_step] += r0
            j += 1
        t += 2


def dot_rows(X: int, pitch: int, rows: int, x: int, out: int, n: int, k: int) -> None:
    """Write ``X[rows[t]] @ x`` to ``out[t]`` for k rows."""
    _rows, _x, _out, t = rows_at(rows), numbers(x), numbers(out), 0
    while t + 4 <= k:
        x0, x1 = numbers(X + _rows[t] * pitch), numbers(X + _rows[t + 1] * pitch)
        x2, x3 = numbers(X + _rows[t + 2] * pitch), numbers(X + _rows[t + 3] * pitch)
        s0, s1, s2, s3 = T(0), T(0), T(0), T(0)
        for i in range(n):
            s0 += x0[i] * _x[i]
            s1 += x1[i] * _x[i]
            s2 += x2[i] * _x[i]
            s3 += x3[i] * _x[i]
        _out[t], _out[t + 1], _out[t + 2], _out[t + 3] = s0, s1, s2, s3
        t += 4
    while t < k:
        x0, s0 = numbers(X + _rows[t] * pitch), T(0)
        for i in range(n):
            s0 += x0[i] * _x[i]
        _out[t] = s0
        t += 1


def combine_rows(X: int, pitch: int, c: int, out: int, n: int, k: int) -> None:
    """Add ``c[t]`` times each of k rows of X, one after another, to out."""
    _c, _out, t = numbers(c), numbers(out), 0
    while t + 4 <= k:
        x0, x1 = numbers(X + t * pitch), numbers(X + (t + 1) * pitch)
        x2, x3 = numbers(X + (t + 2) * pitch), numbers(X + (t + 3) * pitch)
        c0, c1, c2, c3 = _c[t], _c[t + 1], _c[t + 2], _c[t + 3]
        for i in range(n):
            _out[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])
        t += 4
    while t < k:
        x0, c0 = numbers(X + t * pitch), _c[t]
        for i in range(n):
            _out[i] += c0 * x0[i]
        t += 1


def apply_rows(
    X: int, pitch: int, rows: int, d: int, W: int, n: int, m: int, k: int, t_step: int,
    j_step: int,
) -> None:  # fmt: skip
    """Add ``d[t * t_step + j * j_step]`` times ``X[rows[t]]`` of k rows to ``W[j]``."""
    _rows, _d, t = rows_at(rows), numbers(d), 0
    while t + 4 <= k:
        x0, x1 = numbers(X + _rows[t] * pitch), numbers(X + _rows[t + 1] * pitch)
        x2, x3 = numbers(X + _rows[t + 2] * pitch), numbers(X + _rows[t + 3] * pitch)
        j = 0
        while j < m:
            o, p, w0 = t * t_step + j * j_step, t * t_step + (j + 1) * j_step, numbers(W + j * n)
            c0, c1 = _d[o], _d[o + t_step]
            c2, c3 = _d[o + 2 * t_step], _d[o + 3 * t_step]
            if j + 1 < m:
                w1 = numbers(W + (j + 1) * n)
                e0, e1 = _d[p], _d[p + t_step]
                e2, e3 = _d[p + 2 * t_step], _d[p + 3 * t_step]
                for i in range(n):
                    s, r = w0[i], w1[i]
                    s += c0 * x0[i]
                    r += e0 * x0[i]
                    s += c1 * x1[i]
                    r += e1 * x1[i]
                    s += c2 * x2[i]
                    r += e2 * x2[i]
                    s += c3 * x3[i]
                    r += e3 * x3[i]
                    w0[i], w1[i] = s, r
            else:
                for i in range(n):
                    w0[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])
            j += 2
        t += 4
    while t < k:
        x0 = numbers(X + _rows[t] * pitch)
        for j in range(m):
            w0, c0 = numbers(W + j * n), _d[t * t_step + j * j_step]
            for i in range(n):
                w0[i] += c0 * x0[i]
        t += 1


def clear(out: int, n: int) -> None:
    """Write n zeros."""
    _out = numbers(out)
    for i in range(n):
        _out[i] = T(0)


def scale_all(factor: int, out: int, n: int) -> None:
    """Multiply n numbers by a factor."""
    _factor, _out = numbers(factor)[0], numbers(out)
    for i in range(n):
        _out[i] *= _factor


# ---- updates that are kept back, see `held_back` -------------------------------------------------


def start_row(b: int, x: int, step: int, out: int, m: int) -> None:
    """Write m numbers x, `step` apart, plus b; the position 0 stands for zeros."""
    _b, _x, _out = numbers(b), numbers(x), numbers(out)
    if x == 0:
        for j in range(m):
            _out[j] = T(0)
    else:
        for j in range(m):
            _out[j] = _x[j * step]
    if b != 0:
        for j in range(m):
            _out[j] += _b[j]


def add_scaled(factor: int, x: int, step: int, out: int, m: int) -> None:
    """Add a factor times m numbers x, `step` apart, to out."""
    _factor, _x, _out = numbers(factor)[0], numbers(x), numbers(out)
    for j in range(m):
        _out[j] += _factor * _x[j * step]


def coefficients(rates: int, response: int, c: int, t: int, bias: int) -> None:
    """Turn t inner products into what t updates have added by now, without their deltas."""
    _rates, _response, _c, _bias = numbers(rates), numbers(response), numbers(c), T(bias)
    for i in range(t):
        _c[i] = -_rates[i] * _response[t - i] * (_c[i] + _bias)


def scale_rows(d: int, pitch: int, rates: int, response: int, out: int, k: int) -> None:
    """Write each of k deltas times what its update adds by the end of the k."""
    _rates, _response = numbers(rates), numbers(response)
    for t in range(k):
        _d, _out, factor = (
            numbers(d + t * pitch),
            numbers(out + t * pitch),
            -_rates[t] * _response[k - t],
        )
        for j in range(pitch):
            _out[j] = factor * _d[j]


def add_rows(x: int, pitch: int, b: int, m: int, k: int) -> None:
    """Add k rows of x to b; x is used up. Their sum comes first, so that b loses no digits."""
    s, _b = numbers(x), numbers(b)
    for t in range(1, k):
        row = numbers(x + t * pitch)
        for j in range(m):
            s[j] += row[j]
    for j in range(m):
        _b[j] += s[j]
