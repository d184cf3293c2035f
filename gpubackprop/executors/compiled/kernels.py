"""The loops of the compiled executor, which `source.py` copies into the module that Numba compiles.

They are never called from Python; the names that they share with the printed formulas are declared
under TYPE_CHECKING. Matrices are given as positions: an address divided by the size of an element,
of which ``numbers(position)`` makes a pointer. So nothing is counted, sliced or checked in a loop.

Arrays of a batch have their units as rows and their samples as columns, so that each loop over
samples is contiguous and a bias is constant in it. With one sample that is a plain vector.

No loop may hide a NaN: every comparison is written so that NaN takes the branch that keeps it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    T: Any  # the arrays' dtype
    numbers: Any  # position -> pointer to T
    gemm: Any  # address of BLAS's gemm, then its arguments by value
    exp_all: Any
    log: Any
    mix: Any
    NO: Any
    YES: Any


def fill(x: Any, n: Any, value: Any) -> None:
    """Set n numbers."""
    for i in range(n):
        x[i] = value


def copy(x: Any, out: Any, n: Any) -> None:
    """Copy n numbers."""
    for i in range(n):
        out[i] = x[i]


def scale(x: Any, factor: Any, n: Any) -> None:
    """Multiply n numbers by one."""
    for i in range(n):
        x[i] *= factor


def multiply(x: Any, y: Any, out: Any, n: Any) -> None:
    """Multiply n numbers by n others."""
    for i in range(n):
        out[i] = x[i] * y[i]


def multiply_by(x: Any, y: Any, n: Any) -> None:
    """Multiply n numbers in place."""
    for i in range(n):
        x[i] *= y[i]


def weigh(x: Any, w: Any, n: Any, k: Any) -> None:
    """Multiply n rows of k numbers, each by the same k weights."""
    for j in range(n):
        row = numbers(x + j * k)
        for i in range(k):
            row[i] *= w[i]


def total(x: Any, n: Any) -> Any:
    """Sum n numbers in float64."""
    s = 0.0
    for i in range(n):
        s += x[i]
    return s


def squares(x: Any, n: Any) -> Any:
    """Sum the squares of n numbers."""
    s = T(0)
    for i in range(n):
        s += x[i] * x[i]
    return s


# ---- one sample ----------------------------------------------------------------------------------


def matrix_vector(W: Any, x: Any, z: Any, m: Any, n: Any) -> None:
    """Add ``W @ x`` to z; W is (m, n)."""
    j = 0
    while j + 4 <= m:
        w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
        w2, w3 = numbers(W + (j + 2) * n), numbers(W + (j + 3) * n)
        s0, s1, s2, s3 = T(0), T(0), T(0), T(0)
        for i in range(n):
            s0 += w0[i] * x[i]
            s1 += w1[i] * x[i]
            s2 += w2[i] * x[i]
            s3 += w3[i] * x[i]
        z[j] += s0
        z[j + 1] += s1
        z[j + 2] += s2
        z[j + 3] += s3
        j += 4
    while j < m:
        w0, s0 = numbers(W + j * n), T(0)
        for i in range(n):
            s0 += w0[i] * x[i]
        z[j] += s0
        j += 1


def vector_matrix(W: Any, d: Any, out: Any, m: Any, n: Any) -> None:
    """Write ``d @ W`` into out; W is (m, n)."""
    fill(out, n, T(0))
    j = 0
    while j + 4 <= m:
        w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
        w2, w3 = numbers(W + (j + 2) * n), numbers(W + (j + 3) * n)
        d0, d1, d2, d3 = d[j], d[j + 1], d[j + 2], d[j + 3]
        for i in range(n):
            out[i] += (w0[i] * d0 + w1[i] * d1) + (w2[i] * d2 + w3[i] * d3)
        j += 4
    while j < m:
        w0, d0 = numbers(W + j * n), d[j]
        for i in range(n):
            out[i] += w0[i] * d0
        j += 1


def back_and_update(W: Any, d: Any, rate: Any, x: Any, out: Any, m: Any, n: Any) -> None:
    """Write ``d @ W`` into out, then ``W -= rate * outer(d, x)``, reading W once."""
    fill(out, n, T(0))
    j = 0
    while j + 2 <= m:
        w0, w1 = numbers(W + j * n), numbers(W + (j + 1) * n)
        d0, d1 = d[j], d[j + 1]
        r0, r1 = rate * d0, rate * d1
        for i in range(n):
            p, q, v = w0[i], w1[i], x[i]
            out[i] += p * d0 + q * d1
            w0[i] = p - r0 * v
            w1[i] = q - r1 * v
        j += 2
    while j < m:
        w0, d0 = numbers(W + j * n), d[j]
        r0 = rate * d0
        for i in range(n):
            p = w0[i]
            out[i] += p * d0
            w0[i] = p - r0 * x[i]
        j += 1


def update_outer(W: Any, d: Any, rate: Any, x: Any, m: Any, n: Any) -> None:
    """Subtract ``rate * outer(d, x)`` from W."""
    for j in range(m):
        w, r = numbers(W + j * n), rate * d[j]
        for i in range(n):
            w[i] -= r * x[i]


def outer(d: Any, x: Any, out: Any, m: Any, n: Any) -> None:
    """Write ``outer(d, x)``."""
    for j in range(m):
        row, r = numbers(out + j * n), d[j]
        for i in range(n):
            row[i] = r * x[i]


# ---- some samples through few units: BLAS would take longer to begin ----------------------------


def small_forward(W: Any, a: Any, z: Any, m: Any, n: Any, k: Any) -> None:
    """Add ``W @ a`` to z; W is (m, n), a (n, k), z (m, k)."""
    for j in range(m):
        row, w = numbers(z + j * k), numbers(W + j * n)
        q = 0
        while q + 4 <= n:
            a0, a1 = numbers(a + q * k), numbers(a + (q + 1) * k)
            a2, a3 = numbers(a + (q + 2) * k), numbers(a + (q + 3) * k)
            w0, w1, w2, w3 = w[q], w[q + 1], w[q + 2], w[q + 3]
            for i in range(k):
                row[i] += (w0 * a0[i] + w1 * a1[i]) + (w2 * a2[i] + w3 * a3[i])
            q += 4
        while q < n:
            a0, w0 = numbers(a + q * k), w[q]
            for i in range(k):
                row[i] += w0 * a0[i]
            q += 1


def small_back(W: Any, d: Any, out: Any, m: Any, n: Any, k: Any) -> None:
    """Write ``W.T @ d`` into out; W is (m, n), d (m, k), out (n, k)."""
    w = numbers(W)
    for q in range(n):
        row = numbers(out + q * k)
        fill(row, k, T(0))
        j = 0
        while j + 4 <= m:
            d0, d1 = numbers(d + j * k), numbers(d + (j + 1) * k)
            d2, d3 = numbers(d + (j + 2) * k), numbers(d + (j + 3) * k)
            w0, w1 = w[j * n + q], w[(j + 1) * n + q]
            w2, w3 = w[(j + 2) * n + q], w[(j + 3) * n + q]
            for i in range(k):
                row[i] += (w0 * d0[i] + w1 * d1[i]) + (w2 * d2[i] + w3 * d3[i])
            j += 4
        while j < m:
            d0, w0 = numbers(d + j * k), w[j * n + q]
            for i in range(k):
                row[i] += w0 * d0[i]
            j += 1


def small_gradient(
    d: Any, a: Any, out: Any, factor: Any, keep: Any, m: Any, n: Any, k: Any
) -> None:
    """Write ``keep * out + factor * d @ a.T``; d is (m, k), a (n, k), out (m, n)."""
    for j in range(m):
        row, g = numbers(d + j * k), numbers(out + j * n)
        for q in range(n):
            x, s = numbers(a + q * k), T(0)
            for i in range(k):
                s += row[i] * x[i]
            g[q] = factor * s if keep == 0 else keep * g[q] + factor * s


# ---- products: (units, samples) = W times (units, samples) or (samples, units) -------------------


def forward_product(
    f: Any, W: Any, a: Any, z: Any, m: Any, n: Any, k: Any, by_rows: Any, small: Any
) -> None:
    """Add ``W @ a`` to z. By rows, a is (k, n) and its transpose is meant."""
    if by_rows:
        gemm(f, YES, NO, k, m, n, T(1), a, n, W, n, T(1), z, k)
    elif small:
        small_forward(W, a, z, m, n, k)
    else:
        gemm(f, NO, NO, k, m, n, T(1), a, k, W, n, T(1), z, k)


def back_product(f: Any, W: Any, d: Any, out: Any, m: Any, n: Any, k: Any, small: Any) -> None:
    """Write ``W.T @ d`` into out."""
    if small:
        small_back(W, d, out, m, n, k)
    else:
        gemm(f, NO, YES, k, n, m, T(1), d, k, W, n, T(0), out, k)


def gradient_product(
    f: Any, d: Any, a: Any, out: Any, factor: Any, keep: Any, m: Any, n: Any, k: Any,
    by_rows: Any, small: Any,
) -> None:  # fmt: skip
    """Write ``keep * out + factor * d @ a.T``."""
    if by_rows:
        gemm(f, NO, NO, n, m, k, factor, a, n, d, k, keep, out, n)
    elif small:
        small_gradient(d, a, out, factor, keep, m, n, k)
    else:
        gemm(f, YES, NO, n, m, k, factor, a, k, d, k, keep, out, n)


def bias_gradient(d: Any, out: Any, factor: Any, keep: Any, m: Any, k: Any) -> None:
    """Write ``keep * out + factor * (sum of each row of d)``; d is (m, k)."""
    b = numbers(out)
    for j in range(m):
        row, s = numbers(d + j * k), T(0)
        for i in range(k):
            s += row[i]
        b[j] = factor * s if keep == 0 else keep * b[j] + factor * s


def start_with_bias(b: Any, z: Any, m: Any, k: Any) -> None:
    """Fill each row of z with its unit's bias, or with 0 where the position of b is 0."""
    bias = numbers(b)
    if k == 1 and b != 0:
        copy(bias, numbers(z), m)
        return
    for j in range(m):
        value = T(0)
        if b != 0:
            value = bias[j]
        fill(numbers(z + j * k), k, value)


# ---- rows ----------------------------------------------------------------------------------------


def softmax(z: Any, a: Any, row: Any, m: Any, k: Any) -> None:
    """Write softmax over the m units into a, z less its largest into z, log of the sum into row."""
    copy(numbers(z), row, k)
    for j in range(1, m):
        x = numbers(z + j * k)
        for i in range(k):
            row[i] = x[i] if x[i] > row[i] else row[i]
    for j in range(m):
        x = numbers(z + j * k)
        for i in range(k):
            x[i] -= row[i]
    exp_all(numbers(z), numbers(a), m * k)
    fill(row, k, T(0))
    for j in range(m):
        x = numbers(a + j * k)
        for i in range(k):
            row[i] += x[i]
    for j in range(m):
        x = numbers(a + j * k)
        for i in range(k):
            x[i] /= row[i]
    for i in range(k):
        row[i] = log(row[i])


def cross_entropy(shifted: Any, y: Any, row: Any, terms: Any, m: Any, k: Any) -> None:
    """Write each sample's loss into the first row of terms: ``log(sum) - sum(y * shifted)``."""
    t = numbers(terms)
    copy(row, t, k)
    for j in range(m):
        x, target = numbers(shifted + j * k), numbers(y + j * k)
        for i in range(k):
            t[i] -= target[i] * x[i]


def softmax_delta(o: Any, y: Any, factor: Any, row: Any, out: Any, m: Any, k: Any) -> None:
    """Write ``o * (e - sum(e * o))`` with ``e = factor * (o - y)``: squared loss behind softmax."""
    fill(row, k, T(0))
    for j in range(m):
        a, t, d = numbers(o + j * k), numbers(y + j * k), numbers(out + j * k)
        for i in range(k):
            e = factor * (a[i] - t[i])
            d[i] = e
            row[i] += e * a[i]
    for j in range(m):
        a, d = numbers(o + j * k), numbers(out + j * k)
        for i in range(k):
            d[i] = a[i] * (d[i] - row[i])


def dropout_mask(
    key: Any, threshold: Any, keep: Any, first: Any, out: Any, m: Any, k: Any
) -> None:
    """Write `keep` where an output is kept, else 0; `first` is the batch's row of column 0."""
    for j in range(m):
        row = numbers(out + j * k)
        for i in range(k):
            x = mix((((first + i) * m + j) & 0xFFFFFFFF) ^ key)
            row[i] = keep if x >= threshold else T(0)


# ---- reading rows of the data --------------------------------------------------------------------


def gather(X: Any, rows: Any, out: Any, n: Any, k: Any) -> None:
    """Copy k rows of X, of n numbers each, one after another."""
    for i in range(k):
        copy(numbers(X + rows[i] * n), numbers(out + i * n), n)


def gather_columns(X: Any, rows: Any, out: Any, n: Any, k: Any) -> None:
    """Copy k rows of X into the columns of out."""
    o = numbers(out)
    for i in range(k):
        x = numbers(X + rows[i] * n)
        for q in range(n):
            o[q * k + i] = x[q]


def one_hot(labels: Any, rows: Any, out: Any, n: Any, k: Any) -> None:
    """Write 1 into column i at the label of row i, else 0."""
    o = numbers(out)
    fill(o, n * k, T(0))
    for i in range(k):
        o[labels[rows[i]] * k + i] = T(1)
