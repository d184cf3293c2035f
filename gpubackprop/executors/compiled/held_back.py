"""SGD, one update per sample, with the updates of K samples kept back and applied as one product.

Direct SGD reads and writes all of W for each sample. Here W stays as it was for K samples, and what
their updates would have changed is computed from the deltas d and the inputs x that they are made
of. With learning rates e and without momentum, before the update of sample t, ::

    W_t = W - sum over i < t of e[i] * outer(d[i], x[i])
    W_t @ x[t] + b_t = W @ x[t] + b - sum of e[i] * (x[i] @ x[t] + 1) * d[i]
    delta @ W_t = delta @ W - sum of e[i] * (d[i] @ delta) * x[i]

The 1 is the bias's input. It is the same SGD, to rounding. With momentum an update goes on acting:
one that is j updates old has moved W by ``-response[j] * e * outer(d, x)``, and the velocity V from
before the K samples has moved it by ``drift[t] * V``, which are what `linear.responses` finds by
running the optimiser's own formula on an impulse. Without momentum they are 1 and 0.

Of the layers but the first, only large ones are held (all of them with momentum); the others are
stepped at once. Like `loop`, never called from Python, and copied into a module by `source`. A
table of rows has one for each of the K samples, `pitch` numbers apart; a step of 0 is one row for
all.
"""

from __future__ import annotations  # `source` reads them

from typing import TYPE_CHECKING, Any, TypeAlias

from gpubackprop.executors.compiled.kernels import (
    add_total,
    back_and_update,
    count,
    cross_entropy,
    dropout_mask,
    gather,
    matrix_vector,
    multiply,
    one_hot,
    softmax,
    softmax_delta,
    update_outer,
    vector_matrix,
    weigh,
)
from gpubackprop.executors.compiled.loop import tell_ahead
from gpubackprop.executors.compiled.micro import (
    add_rows,
    add_scaled,
    coefficients,
    combine_rows,
    dot_rows,
    scale_all,
    scale_rows,
    start_row,
)
from gpubackprop.executors.compiled.tiles import multiply_rows, multiply_tiles

if TYPE_CHECKING:
    T: Any = None
    numbers: Any = None
    doubles: Any = None
    rows_at: Any = None
    codes: Any = None
    gemm: Any = None
    mix: Any = None
    is_finite: Any = None
    call: Any = None
    SAMPLES: int = 4
    NO: Any = None
    YES: Any = None

Ints: TypeAlias = Any
Numbers: TypeAlias = Any
Doubles: TypeAlias = Any


def begin_block(
    K: Ints, n: int, m: int, W: int, V: int, X: int, Z: int, ZV: int, gram: int, pitch: int,
    iota: int, k: int,
) -> None:  # fmt: skip
    """Multiply the inputs of k samples by the first layer's W, by its velocity, and by those of the
    samples before each; tables of the k have rows of `pitch` numbers.
    """
    multiply_rows(X, iota, n, W, Z, pitch, m, k, n, 0)
    if V != 0:
        multiply_rows(X, iota, n, V, ZV, pitch, m, k, n, 0)
    for t in range(0, k, SAMPLES):
        some, last = min(SAMPLES, k - t), min(t + SAMPLES, k)
        multiply_rows(X, iota, n, X + t * n, gram + t * pitch, pitch, some, last, n, 0)


def forward(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, V: Ints, vb: Ints, x: Ints,
    x_pitch: Ints, z: Ints, z_step: Ints, a: Ints, a_step: Ints, d: Ints,
    d_pitch: Ints, mask: Ints, kind: Ints, held: Ints, threshold: Ints, key: Ints, keep: int,
    activate: int, rows_wise: int, C: int, Z: int, ZV: int, rates: int,
    response: int, drift: int, c: int, spare: int, row: int, iota: int, gram: int, back: int,
    step_number: int, t: int,
) -> None:  # fmt: skip
    """Pass sample t of the K through the network."""
    for l in range(n_layers):
        m, n = n_out[l], n_in[l]
        x_t = x[l] + t * x_pitch[l]
        zl, al = z[l] + t * z_step[l], a[l] + t * a_step[l]
        if l == 0:
            start_row(b[0], Z + t, back, zl, m)
        else:
            start_row(b[l], 0, 1, zl, m)
            matrix_vector(W[l], x_t, zl, m, n)
        if held[l] and t > 0:
            if V[l] != 0 and l == 0:
                add_scaled(drift + t, ZV + t, back, zl, m)
            elif V[l] != 0:
                start_row(0, 0, 1, spare, m)
                matrix_vector(V[l], x_t, spare, m, n)
                add_scaled(drift + t, spare, 1, zl, m)
            if V[l] != 0 and b[l] != 0:
                add_scaled(drift + t, vb[l], 1, zl, m)
            if l == 0:
                start_row(0, gram + t * back, 1, c, t)
            else:
                dot_rows(x[l], x_pitch[l], iota, x_t, c, n, t)
            coefficients(rates, response, c, t, int(b[l] != 0))
            combine_rows(d[l], d_pitch[l], c, zl, m, t)
        if rows_wise and l == n_layers - 1:
            softmax(zl, al, row, m, 1)
        else:
            call(activate, kind[l], zl, al, m, C, 0, 0)
        if threshold[l] > 0:
            layer_key = mix(key[l] ^ (step_number & 0xFFFFFFFF))
            dropout_mask(layer_key, threshold[l], keep + l, 0, mask[l], m, 1)
            multiply(al, mask[l], x[l + 1] + t * x_pitch[l + 1], m)


def backward(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, V: Ints, x: Ints,
    x_pitch: Ints, d: Ints, d_pitch: Ints, mask: Ints, read: Ints, read_step: Ints, kind: Ints,
    held: Ints, threshold: Ints, derive: int, C: int, rates: int, response: int, drift: int,
    c: int, spare: int, iota: int, one: int, t: int,
) -> None:  # fmt: skip
    """Carry the delta of sample t back; step the layers that are not held."""
    for i in range(n_layers - 1):
        l = n_layers - 1 - i
        m, n = n_out[l], n_in[l]
        delta, out = d[l] + t * d_pitch[l], d[l - 1] + t * d_pitch[l - 1]
        x_t = x[l] + t * x_pitch[l]
        if held[l]:
            vector_matrix(W[l], delta, out, m, n)
            if V[l] != 0 and t > 0:
                vector_matrix(V[l], delta, spare, m, n)
                add_scaled(drift + t, spare, 1, out, n)
            dot_rows(d[l], d_pitch[l], iota, delta, c, m, t)
            coefficients(rates, response, c, t, 0)
            combine_rows(x[l], x_pitch[l], c, out, n, t)
        else:
            back_and_update(W[l], delta, rates + t, x_t, out, m, n)
            if b[l] != 0:
                update_outer(b[l], one, rates + t, delta, 1, m)
        if threshold[l - 1] > 0:
            multiply(out, mask[l - 1], out, n)
        call(derive, kind[l - 1], out, read[l - 1] + t * read_step[l - 1], n, C, 0, 0)


def apply(
    K: Ints, W: int, b: int, m: int, n: int, X: int, pitch: int, d: int, d_pitch: int, own: int,
    f: int, rates: int, response: int, scaled: int, iota: int, ones: int, ahead: int, k: int,
) -> None:  # fmt: skip
    """Add to W and b what k updates have added to them by the end of the k."""
    scale_rows(d, d_pitch, rates, response, scaled, k)
    if own:
        multiply_tiles(scaled, iota, 1, d_pitch, X, iota, pitch, W, n, m, n, k, ones, 0, ahead)
    else:
        gemm(f, NO, YES, n, m, k, T(1), X, pitch, scaled, d_pitch, T(1), W, n)
    if b != 0:
        add_rows(scaled, d_pitch, b, m, k)


def end_block(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, V: Ints, vb: Ints, x: Ints,
    x_pitch: Ints, d: Ints, d_pitch: Ints, held: Ints, own: Ints, f: int, rates: int,
    response: int, memory: int, drift: int, kept: int, scaled: int, iota: int, ones: int,
    ahead: int, k: int,
) -> None:  # fmt: skip
    """Apply the k updates that were kept back."""
    for l in range(n_layers):
        m, n, soon = n_out[l], n_in[l], 0
        if l == 0:
            soon = ahead
        if held[l]:
            if V[l] != 0:
                add_scaled(drift + k, V[l], 1, W[l], m * n)
                scale_all(kept + k, V[l], m * n)
                if b[l] != 0:
                    add_scaled(drift + k, vb[l], 1, b[l], m)
                    scale_all(kept + k, vb[l], m)
                apply(
                    K, V[l], vb[l], m, n, x[l], x_pitch[l], d[l], d_pitch[l], own[l], f, rates,
                    memory, scaled, iota, ones, 0, k,
                )  # fmt: skip
            apply(
                K, W[l], b[l], m, n, x[l], x_pitch[l], d[l], d_pitch[l], own[l], f, rates,
                response, scaled, iota, ones, soon, k,
            )  # fmt: skip


def train(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, V: Ints, vb: Ints, x: Ints,
    x_pitch: Ints, z: Ints, z_step: Ints, a: Ints, a_step: Ints, d: Ints,
    d_pitch: Ints, mask: Ints, read: Ints, read_step: Ints, kind: Ints, held: Ints, own: Ints,
    threshold: Ints, key: Ints, keep: int, X: int, Y: int, labels: int, coded: int, w: int,
    order: int, start: int, stop: int, back: int, X_buffer: int, Y_buffer: int, rows_buffer: int,
    iota: int, ahead: int, ones: int, Z: int, ZV: int,
    rates: int, response: int, memory: int, drift: int, kept: int,
    gram: int, c: int, spare: int, scaled: int, row: int, one: int, scalars: int, scalars_step: int,
    steps: int, batch: int, value: int, sums: Doubles, f: int, C: int, rows_wise: int,
    activate: int, derive: int, loss_terms: int, loss_delta: int,
) -> None:  # fmt: skip
    """Train on rows start..stop of an order, `back` updates kept back at a time."""
    s, end, n, m0 = start, n_layers - 1, n_in[0], n_out[0]
    m = n_out[end]
    while s < stop:
        k = min(back, stop - s)
        rows = rows_buffer
        if order != 0:
            rows = order + s
        else:
            count(s, rows, k)
        x[0] = X + s * n
        if order != 0:
            gather(X, rows, X_buffer, n, k)
            x[0] = X_buffer
        begin_block(K, n, m0, W[0], V[0], x[0], Z, ZV, gram, back, iota, k)
        for t in range(k):
            numbers(rates)[t] = numbers(scalars + (s - start + t) * scalars_step)[0]
            forward(
                K, n_layers, n_in, n_out, W, b, V, vb, x, x_pitch, z, z_step, a, a_step, d,
                d_pitch, mask, kind, held, threshold, key, keep, activate, rows_wise, C, Z, ZV,
                rates, response, drift, c, spare, row, iota, gram, back,
                steps + s - start + t, t,
            )  # fmt: skip
            o, zo, delta = a[end] + t * a_step[end], z[end] + t * z_step[end], d[end]
            delta += t * d_pitch[end]
            y = Y + rows_at(rows)[t] * m
            if coded:
                one_hot(labels, rows + t, Y_buffer, m, 1)
                y = Y_buffer
            n_terms = m
            if rows_wise == 1:
                cross_entropy(zo, y, row, delta, m, 1)
                n_terms = 1
            else:
                call(loss_terms, o, zo, y, delta, m, C, 0)
            if w != 0:
                weigh(delta, w + rows_at(rows)[t], n_terms, 1)
            doubles(value)[0] = 0.0
            add_total(delta, n_terms, value)
            sums[0] += doubles(value)[0]
            if sums[1] < 0 and not is_finite(doubles(value)[0]):
                sums[1] = batch + s - start + t
            if rows_wise == 2:
                softmax_delta(o, y, one, row, delta, m, 1)
            else:
                call(loss_delta, o, zo, y, delta, one, m, C)
            if w != 0:
                weigh(delta, w + rows_at(rows)[t], m, 1)
            backward(
                K, n_layers, n_in, n_out, W, b, V, x, x_pitch, d, d_pitch, mask, read, read_step,
                kind, held, threshold, derive, C, rates, response, drift, c, spare, iota, one, t,
            )  # fmt: skip
        if ahead != 0:
            tell_ahead(codes(ahead), X, order, iota, s + k, stop, n, m0, back)
        end_block(
            K, n_layers, n_in, n_out, W, b, V, vb, x, x_pitch, d, d_pitch, held, own, f,
            rates, response, memory, drift, kept, scaled, iota, ones, ahead, k,
        )  # fmt: skip
        s += k
