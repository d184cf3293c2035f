"""The loop over batches, which `source.py` copies into the module that Numba compiles.

Like `kernels`, never called from Python. Parameters that are annotated as `Ints`, `Numbers` or
`Doubles` are pointers there (the first three columns of the table of layers, for instance); all
others are positions or plain integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpubackprop.executors.compiled.kernels import (
    back_and_update, back_product, bias_gradient, cross_entropy, dropout_mask, forward_product,
    gather, gather_columns, gradient_product, matrix_vector, multiply, multiply_by, one_hot, outer,
    scale, softmax, softmax_delta, squares, start_with_bias, total, update_outer, vector_matrix, weigh,
)  # fmt: skip

if TYPE_CHECKING:
    from math import sqrt

    T: Any
    numbers: Any
    rows_at: Any  # position -> pointer to int32
    mix: Any
    is_finite: Any
    call: Any  # the address of one of `source.FORMULAS`, then seven integers

Ints = Numbers = Doubles = Any


def read_inputs(
    X: Any, order: Any, rows: Any, buffer: Any, s: Any, n: Any, k: Any, small: Any
) -> Any:
    """Return where k samples' inputs are: rows of X itself where that will do."""
    if k == 1:
        return X + rows_at(rows)[0] * n
    if small:
        gather_columns(X, rows_at(rows), buffer, n, k)
        return buffer
    if order == 0:
        return X + s * n
    gather(X, rows_at(rows), buffer, n, k)
    return buffer


def read_targets(Y: Any, labels: Any, coded: Any, rows: Any, buffer: Any, n: Any, k: Any) -> Any:
    """Return where k samples' targets are."""
    if coded:
        one_hot(labels, rows_at(rows), buffer, n, k)
        return buffer
    if k == 1:
        return Y + rows_at(rows)[0] * n
    gather_columns(Y, rows_at(rows), buffer, n, k)
    return buffer


def find_rows(order: Any, rows: Any, s: Any, k: Any) -> Any:
    """Return where the numbers of k rows are."""
    if order != 0:
        return order + s
    out = rows_at(rows)
    for i in range(k):
        out[i] = s + i
    return rows


def forward(
    n_layers: Any, n_in: Ints, n_out: Ints, W: Ints, b: Ints, z: Ints, a: Ints, h: Ints,
    mask: Ints, kind: Ints, small: Ints, threshold: Ints, key: Ints, keep: Numbers,
    f: Any, activate: Any, rows_wise: Any, C: Any, x: Any, row: Any, step_number: Any,
    first: Any, k: Any, single: Any,
) -> None:  # fmt: skip
    """Pass k samples through the network."""
    for l in range(n_layers):
        m = n_out[l]
        start_with_bias(b[l], z[l], m, k)
        if single:
            matrix_vector(W[l], numbers(x), numbers(z[l]), m, n_in[l])
        else:
            by_rows = l == 0 and (k == 1 or small[0] == 0)
            forward_product(f, W[l], x, z[l], m, n_in[l], k, by_rows, small[l])
        if rows_wise and l == n_layers - 1:
            softmax(z[l], a[l], numbers(row), m, k)
        else:
            call(activate, kind[l], z[l], a[l], m * k, C, 0, 0)
        x = a[l]
        if threshold[l] > 0:
            layer_key = mix(key[l] ^ (step_number & 0xFFFFFFFF))
            dropout_mask(layer_key, threshold[l], keep[l], first, mask[l], m, k)
            multiply(numbers(a[l]), numbers(mask[l]), numbers(h[l]), m * k)
            x = h[l]


def backward(
    n_layers: Any, n_in: Ints, n_out: Ints, W: Ints, b: Ints, dW: Ints, db: Ints, h: Ints,
    mask: Ints, read: Ints, delta: Ints, kind: Ints, small: Ints, threshold: Ints,
    f: Any, derive: Any, C: Any, x0: Any, k: Any, single: Any, fused: Any, rate: Any, added: Any,
) -> None:  # fmt: skip
    """Carry the output's delta back; step W and b if fused, else write or add up dW and db."""
    factor = -rate if fused else T(1)
    kept = T(1) if fused or added else T(0)
    for i in range(n_layers):
        l = n_layers - 1 - i
        m, n, d = n_out[l], n_in[l], delta[l]
        x = x0 if l == 0 else h[l - 1]
        out = W[l] if fused else dW[l]
        if single and fused and l > 0:
            back_and_update(W[l], numbers(d), rate, numbers(x), numbers(delta[l - 1]), m, n)
        elif single:
            if l > 0:
                vector_matrix(W[l], numbers(d), numbers(delta[l - 1]), m, n)
            if fused:
                update_outer(out, numbers(d), rate, numbers(x), m, n)
            else:
                outer(numbers(d), numbers(x), out, m, n)
        else:
            if l > 0:
                back_product(f, W[l], d, delta[l - 1], m, n, k, small[l])
            by_rows = l == 0 and (k == 1 or small[0] == 0)
            gradient_product(f, d, x, out, factor, kept, m, n, k, by_rows, small[l])
        if b[l] != 0:
            bias_gradient(d, b[l] if fused else db[l], factor, kept, m, k)
        if l > 0:
            if threshold[l - 1] > 0:
                multiply_by(numbers(delta[l - 1]), numbers(mask[l - 1]), n * k)
            call(derive, kind[l - 1], delta[l - 1], read[l - 1], n * k, C, 0, 0)


def update(
    penalize: Any, decay: Any, step: Any, w: Any, g: Any, slots: Any, trainable: Any,
    size: Any, n_weights: Any, limit: Numbers, scalars: Any, C: Any,
) -> None:  # fmt: skip
    """Let the optimiser move the parameters, in the order that `backprop.update` has."""
    call(penalize, w, g, n_weights, C, 0, 0, 0)
    if trainable != 0:
        multiply_by(numbers(g), numbers(trainable), size)
    if limit[0] > 0:
        norm = T(sqrt(squares(numbers(g), size)))
        if not norm <= limit[0]:  # also when it is NaN, so that the loss can tell
            scale(numbers(g), limit[0] / norm, size)
    call(decay, w, trainable, scalars, n_weights, C, 0, 0)
    call(step, w, g, slots, scalars, size, C, 0)


def record(value: Doubles, batch: Any, sums: Doubles) -> None:
    """Add a batch's loss to the sum; remember the first batch whose loss is not finite."""
    sums[0] += value[0]
    if sums[1] < 0 and not is_finite(value[0]):
        sums[1] = batch


def train(
    n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, dW: Ints, db: Ints, z: Ints,
    a: Ints, h: Ints, mask: Ints, read: Ints, delta: Ints, kind: Ints, small: Ints,
    threshold: Ints, key: Ints, keep: Numbers,
    X: int, Y: int, labels: Ints, coded: int, w: int, order: int,
    start: int, stop: int, batch_size: int, whole: int, first: int, last: int, chunk: int,
    X_buffer: int, Y_buffer: int, w_buffer: int, row: int, rows_buffer: int,
    plain: int, scalars: int, scalars_step: int, steps: int, batch: int,
    value: Doubles, sums: Doubles, f: int, C: int, factor: Numbers, factor_at: int,
    flat: int, g: int, slots: int, trainable: int, size: int, n_weights: int, limit: Numbers,
    rows_wise: int, activate: int, derive: int, loss_terms: int, loss_delta: int, penalize: int,
    decay: int, step: int,
) -> None:  # fmt: skip
    """Train on rows start..stop of an order, an update after each `batch_size` of them.

    A batch that comes in several calls has `whole` rows in all, of which `first` came before;
    `last` tells whether these are its last. `rows_wise` is 1 for softmax with cross_entropy, 2 for
    softmax with another loss, else 0.
    """
    s, done, end = start, 0, n_layers - 1
    o, zo, do, m = a[end], z[end], delta[end], n_out[end]
    while s < stop:
        n = min(batch_size, stop - s)
        n_batch = n if whole == 0 else whole
        single = n_batch == 1
        fused = plain and n == n_batch and n <= chunk
        sc = scalars + done * scalars_step
        factor[0] = T(1.0 / n_batch)
        if first == 0:
            value[0] = 0.0
        for p in range(0, n, chunk):
            k = min(chunk, n - p)
            rows = find_rows(order, rows_buffer, s + p, k)
            x = read_inputs(X, order, rows, X_buffer, s + p, n_in[0], k, small[0])
            y = read_targets(Y, labels, coded, rows, Y_buffer, m, k)
            forward(
                n_layers, n_in, n_out, W, b, z, a, h, mask, kind, small, threshold, key, keep,
                f, activate, rows_wise, C, x, row, steps + done, first + p, k, single,
            )  # fmt: skip
            n_terms = m
            if rows_wise == 1:
                cross_entropy(zo, y, numbers(row), do, m, k)
                n_terms = 1
            else:
                call(loss_terms, o, zo, y, do, m * k, C, 0)
            if w != 0:
                gather_columns(w, rows_at(rows), w_buffer, 1, k)
                weigh(do, numbers(w_buffer), n_terms, k)
            value[0] += total(numbers(do), n_terms * k)
            if rows_wise == 2:
                softmax_delta(o, y, factor[0], numbers(row), do, m, k)
            else:
                call(loss_delta, o, zo, y, do, factor_at, m * k, C)
            if w != 0:
                weigh(do, numbers(w_buffer), m, k)
            backward(
                n_layers, n_in, n_out, W, b, dW, db, h, mask, read, delta, kind, small, threshold,
                f, derive, C, x, k, single, fused, numbers(sc)[0], p + first > 0,
            )  # fmt: skip
        if last:
            record(value, batch + done, sums)
            if not fused:
                update(
                    penalize, decay, step, flat, g, slots, trainable, size, n_weights, limit, sc, C
                )
            done += 1
        s += n
