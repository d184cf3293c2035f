"""The loops of the compiled executor: `source.py` copies them into a module that Numba compiles.

They are never called from Python. Every argument is an int64: counts, and positions of arrays,
which are addresses divided by the size of an element; ``numbers(position)`` makes a pointer. So
nothing is counted, sliced or checked in a loop, and each function can be called by its address.

That matters: code that Numba links into a caller goes through LLVM's loop passes again, and these
broke vectorised loops of short vectors (seen in LLVM 22). So no loop here calls another loop,
and nothing calls these but by address.

Arrays of a batch have their units as rows and their samples as columns, so that each loop over
samples is contiguous and a bias is constant in it. With one sample that is a plain vector.

No loop may hide a NaN: every comparison is written so that NaN takes the branch that keeps it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    T: Any = None  # the arrays' dtype
    numbers: Any = None  # position -> pointer to T
    doubles: Any = None  # to float64
    codes: Any = None  # to int64
    rows_at: Any = None  # to int32
    exp: Any = None
    log: Any = None
    sqrt: Any = None
    mix: Any = None
    fetch: Any = None  # brings the cache line of a position near
    LINE: int = 16  # numbers in it
    AHEAD: int = 2  # rows


def count(first: int, out: int, n: int) -> None:
    """Write the row numbers first, first + 1, ..."""
    _out = rows_at(out)
    for i in range(n):
        _out[i] = first + i


def multiply(x: int, y: int, out: int, n: int) -> None:
    """Multiply n numbers by n others; `out` may be x."""
    _x, _y, _out = numbers(x), numbers(y), numbers(out)
    for i in range(n):
        _out[i] = _x[i] * _y[i]


def weigh(x: int, w: int, n: int, k: int) -> None:
    """Multiply n rows of k numbers, each by the same k weights."""
    _w = numbers(w)
    for j in range(n):
        row = numbers(x + j * k)
        for i in range(k):
            row[i] *= _w[i]


def add_total(x: int, n: int, out: int) -> None:
    """Add the sum of n numbers, in float64, to one."""
    _x, s = numbers(x), 0.0
    for i in range(n):
        s += _x[i]
    doubles(out)[0] += s


def add_penalty(w: int, scalars: int, n: int, out: int) -> None:
    """Add the penalties of n weights, times the rows of the batch, in float64, to one number."""
    _w, _scalars = numbers(w), numbers(scalars)
    squares, sizes = 0.0, 0.0
    if _scalars[2] > 0:
        for i in range(n):
            squares += _w[i] * _w[i]
    if _scalars[3] > 0:
        for i in range(n):
            sizes += _w[i] if _w[i] > 0 else -_w[i]
    penalty = 0.5 * _scalars[2] * squares + _scalars[3] * sizes
    doubles(out)[0] += _scalars[4] * penalty


def clip(g: int, limit: int, n: int) -> None:
    """Scale n numbers down to a norm of at most `limit`."""
    _g, s, largest = numbers(g), T(0), numbers(limit)[0]
    for i in range(n):
        s += _g[i] * _g[i]
    norm = T(sqrt(s))
    if not norm <= largest:  # also when it is NaN, so that the loss can tell
        factor = largest / norm
        for i in range(n):
            _g[i] *= factor


# ---- one sample ----------------------------------------------------------------------------------


def matrix_vector(W: int, x: int, z: int, m: int, n: int) -> None:
    """Add ``W @ x`` to z; W is (m, n)."""
    _x, _z, j = numbers(x), numbers(z), 0
    while j + 4 <= m:
        w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
        w2, w3 = numbers(W + (j + 2) * n), numbers(W + (j + 3) * n)
        s0, s1, s2, s3 = T(0), T(0), T(0), T(0)
        for i in range(n):
            s0 += w0[i] * _x[i]
            s1 += w1[i] * _x[i]
            s2 += w2[i] * _x[i]
            s3 += w3[i] * _x[i]
        _z[j] += s0
        _z[j + 1] += s1
        _z[j + 2] += s2
        _z[j + 3] += s3
        j += 4
    while j < m:
        w0, s0 = numbers(W + j * n), T(0)
        for i in range(n):
            s0 += w0[i] * _x[i]
        _z[j] += s0
        j += 1


def vector_matrix(W: int, d: int, out: int, m: int, n: int) -> None:
    """Write ``d @ W`` into out; W is (m, n)."""
    _d, _out, j = numbers(d), numbers(out), 0
    for i in range(n):
        _out[i] = T(0)
    while j + 4 <= m:
        w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
        w2, w3 = numbers(W + (j + 2) * n), numbers(W + (j + 3) * n)
        d0, d1, d2, d3 = _d[j], _d[j + 1], _d[j + 2], _d[j + 3]
        for i in range(n):
            _out[i] += (w0[i] * d0 + w1[i] * d1) + (w2[i] * d2 + w3[i] * d3)
        j += 4
    while j < m:
        w0, d0 = numbers(W + j * n), _d[j]
        for i in range(n):
            _out[i] += w0[i] * d0
        j += 1


def back_and_update(W: int, d: int, rate: int, x: int, out: int, m: int, n: int) -> None:
    """Write ``d @ W`` into out, then ``W -= _rate * outer(d, x)``, reading W once."""
    _d, _x, _out, j = numbers(d), numbers(x), numbers(out), 0
    _rate = numbers(rate)[0]
    for i in range(n):
        _out[i] = T(0)
    while j + 2 <= m:
        w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
        d0, d1 = _d[j], _d[j + 1]
        r0, r1 = _rate * d0, _rate * d1
        for i in range(n):
            p, q, v = w0[i], w1[i], _x[i]
            _out[i] += p * d0 + q * d1
            w0[i] = p - r0 * v
            w1[i] = q - r1 * v
        j += 2
    while j < m:
        w0, d0 = numbers(W + j * n), _d[j]
        r0 = _rate * d0
        for i in range(n):
            p = w0[i]
            _out[i] += p * d0
            w0[i] = p - r0 * _x[i]
        j += 1


def update_outer(W: int, d: int, rate: int, x: int, m: int, n: int) -> None:
    """Subtract ``rate * outer(d, x)`` from W."""
    _d, _x, _rate = numbers(d), numbers(x), numbers(rate)[0]
    for j in range(m):
        w, r = numbers(W + j * n), _rate * _d[j]
        for i in range(n):
            w[i] -= r * _x[i]


def outer(d: int, x: int, out: int, m: int, n: int) -> None:
    """Write ``outer(d, x)``."""
    _d, _x = numbers(d), numbers(x)
    for j in range(m):
        row, r = numbers(out + j * n), _d[j]
        for i in range(n):
            row[i] = r * _x[i]


# ---- biases --------------------------------------------------------------------------------------


def bias_gradient(d: int, out: int, factors: int, m: int, k: int) -> None:
    """Write ``keep * out + factor * (sum of each row of d)``; d is (m, k)."""
    b, factor, keep = numbers(out), numbers(factors)[0], numbers(factors)[1]
    for j in range(m):
        row, s = numbers(d + j * k), T(0)
        for i in range(k):
            s += row[i]
        b[j] = factor * s if keep == 0 else keep * b[j] + factor * s


def start_with_bias(b: int, z: int, m: int, k: int) -> None:
    """Fill each row of z with its unit's bias, or with 0 where the position of b is 0."""
    bias = numbers(b)
    for j in range(m):
        value, row = T(0), numbers(z + j * k)
        if b != 0:
            value = bias[j]
        for i in range(k):
            row[i] = value


# ---- rows ----------------------------------------------------------------------------------------


def softmax(z: int, a: int, row: int, m: int, k: int) -> None:
    """Write softmax over the m units into a, z less its largest into z, log of the sum into row."""
    _z, _a, _row = numbers(z), numbers(a), numbers(row)
    for i in range(k):
        _row[i] = _z[i]
    for j in range(1, m):
        x = numbers(z + j * k)
        for i in range(k):
            _row[i] = x[i] if x[i] > _row[i] else _row[i]
    for j in range(m):
        x = numbers(z + j * k)
        for i in range(k):
            x[i] -= _row[i]
    for i in range(m * k):
        _a[i] = exp(_z[i])
    for i in range(k):
        _row[i] = T(0)
    for j in range(m):
        x = numbers(a + j * k)
        for i in range(k):
            _row[i] += x[i]
    for j in range(m):
        x = numbers(a + j * k)
        for i in range(k):
            x[i] /= _row[i]
    for i in range(k):
        _row[i] = log(_row[i])


def cross_entropy(shifted: int, y: int, row: int, terms: int, m: int, k: int) -> None:
    """Write each sample's loss into the first row of terms: ``log(sum) - sum(y * shifted)``."""
    t, _row = numbers(terms), numbers(row)
    for i in range(k):
        t[i] = _row[i]
    for j in range(m):
        x, target = numbers(shifted + j * k), numbers(y + j * k)
        for i in range(k):
            t[i] -= target[i] * x[i]


def softmax_delta(o: int, y: int, factor: int, row: int, out: int, m: int, k: int) -> None:
    """Write ``o * (e - sum(e * o))`` with ``e = factor * (o - y)``: softmax, squared loss."""
    _row, _factor = numbers(row), numbers(factor)[0]
    for i in range(k):
        _row[i] = T(0)
    for j in range(m):
        a, t, d = numbers(o + j * k), numbers(y + j * k), numbers(out + j * k)
        for i in range(k):
            e = _factor * (a[i] - t[i])
            d[i] = e
            _row[i] += e * a[i]
    for j in range(m):
        a, d = numbers(o + j * k), numbers(out + j * k)
        for i in range(k):
            d[i] = a[i] * (d[i] - _row[i])


def dropout_mask(key: int, threshold: int, keep: int, first: int, out: int, m: int, k: int) -> None:
    """Write a number where an output is kept, else 0; `first` is the batch's row of column 0."""
    kept = numbers(keep)[0]
    for j in range(m):
        row = numbers(out + j * k)
        for i in range(k):
            x = mix((((first + i) * m + j) & 0xFFFFFFFF) ^ key)
            row[i] = kept if x >= threshold else T(0)


# ---- reading rows of the data --------------------------------------------------------------------


def gather(X: int, rows: int, out: int, n: int, k: int) -> None:
    """Copy k rows of X, of n numbers each, one after another; fetch some rows ahead."""
    _rows = rows_at(rows)
    for i in range(k):
        x, o = numbers(X + _rows[i] * n), numbers(out + i * n)
        if i + AHEAD < k:
            ahead = X + _rows[i + AHEAD] * n
            for q in range(0, n, LINE):
                fetch(ahead + q)
        for q in range(n):
            o[q] = x[q]


def gather_columns(X: int, rows: int, out: int, n: int, k: int) -> None:
    """Copy k rows of X into the columns of out."""
    o, _rows = numbers(out), rows_at(rows)
    for i in range(k):
        x = numbers(X + _rows[i] * n)
        for q in range(n):
            o[q * k + i] = x[q]


def one_hot(labels: int, rows: int, out: int, n: int, k: int) -> None:
    """Write 1 into column i at the label of row i, else 0."""
    o, _rows, _labels = numbers(out), rows_at(rows), codes(labels)
    for i in range(n * k):
        o[i] = T(0)
    for i in range(k):
        o[_labels[_rows[i]] * k + i] = T(1)
