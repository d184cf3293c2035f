"""The loop over batches, which `source.py` copies into the module that Numba compiles.

Like `kernels`, never called from Python, and made of positions. Parameters annotated as `Ints`,
`Numbers` or `Doubles` are pointers: columns of the table of layers, for instance. A call of a
function of `kernels` becomes a call by its address, which is in K.
"""

from __future__ import annotations  # `source` reads them

from typing import TYPE_CHECKING, Any, TypeAlias

from gpubackprop.executors.compiled.kernels import (
    add_penalty,
    add_total,
    back_and_update,
    bias_gradient,
    clip,
    count,
    cross_entropy,
    dropout_mask,
    gather,
    gather_columns,
    multiply,
    one_hot,
    outer,
    softmax,
    softmax_delta,
    update_outer,
    vector_matrix,
    weigh,
)  # fmt: skip
from gpubackprop.executors.compiled.micro import clear, combine_rows
from gpubackprop.executors.compiled.products import carry_back, through_layer, weight_gradient
from gpubackprop.executors.compiled.tiles import transpose

if TYPE_CHECKING:
    T: Any = None
    numbers: Any = None
    doubles: Any = None
    rows_at: Any = None
    codes: Any = None
    mix: Any = None
    is_finite: Any = None
    call: Any = None  # the address of one of `formulas.FORMULAS`, then seven integers
    call_long: Any = None  # the address of what `outer_step` has printed, then fourteen
    LOOPS: int = 1
    TILES: int = 2

Ints: TypeAlias = Any
Numbers: TypeAlias = Any
Doubles: TypeAlias = Any


def read_inputs(
    K: Ints, X: int, order: int, rows: int, buffer: int, s: int, n: int, k: int, own: int
) -> int:
    """Return where k samples' inputs are, one after another; or X, of which `rows` are meant."""
    if k == 1:
        return X + rows_at(rows)[0] * n  # type: ignore[no-any-return]
    if order == 0:
        return X + s * n
    if own in (LOOPS, TILES):
        return X
    gather(X, rows, buffer, n, k)
    return buffer


def tell_ahead(
    ahead: Ints, X: int, order: int, iota: int, at: int, stop: int, n: int, m: int, most: int
) -> None:
    """Tell `tiles` of the samples that come next: so many at most, or none."""
    ahead[0], ahead[1] = X, order + at
    if order == 0:
        ahead[0], ahead[1] = X + at * n, iota
    ahead[2], ahead[3], ahead[4], ahead[5], ahead[6] = n, min(most, stop - at), m, 0, 0


def read_targets(
    K: Ints, Y: int, labels: int, coded: int, rows: int, buffer: int, n: int, k: int
) -> int:
    """Return where k samples' targets are."""
    if coded:
        one_hot(labels, rows, buffer, n, k)
        return buffer
    if k == 1:
        return Y + rows_at(rows)[0] * n  # type: ignore[no-any-return]
    gather_columns(Y, rows, buffer, n, k)
    return buffer


def forward(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, z: Ints, a: Ints, h: Ints,
    mask: Ints, kind: Ints, own: Ints, threshold: Ints, key: Ints, keep: int, f: int,
    activate: int, rows_wise: int, C: int, x: int, x_rows: int, iota: int, columns: int, unit: int,
    panels: int, row: int, step_number: int,
    first: int, k: int,
) -> None:  # fmt: skip
    """Pass k samples through the network; x has them as columns, or else as rows."""
    for l in range(n_layers):
        m = n_out[l]
        through_layer(
            K, W[l], b[l], x, z[l], m, n_in[l], k, own[l], int(l == 0 and columns == 0), f,
            x_rows if l == 0 else iota, iota,
            unit, panels,
        )  # fmt: skip
        if rows_wise and l == n_layers - 1:
            softmax(z[l], a[l], row, m, k)
        else:
            call(activate, kind[l], z[l], a[l], m * k, C, 0, 0)
        x = a[l]
        if threshold[l] > 0:
            layer_key = mix(key[l] ^ (step_number & 0xFFFFFFFF))
            dropout_mask(layer_key, threshold[l], keep + l, first, mask[l], m, k)
            multiply(a[l], mask[l], h[l], m * k)
            x = h[l]


def back_and_step(
    K: Ints, w: int, first: int, slots: int, d: int, x: int, below: int, m: int, n: int,
    scalars: int, outer_step: int, outer_C: int, block: int, penalty: int,
) -> None:  # fmt: skip
    """Write ``d @ W`` into `below`, unless that is 0, and step W: while a block of rows is near."""
    if below == 0:
        call_long(
            outer_step, w, first, slots, d, x, scalars, m, n, outer_C, penalty, 0, 0, 0, 0, 0
        )  # fmt: skip
    else:
        clear(below, n)
        rows = max(1, block // (4 * n)) * 4
        for j in range(0, m, rows):
            k, at = min(rows, m - j), first + j * n
            combine_rows(w + at, n, d + j, below, n, k)
            call_long(
                outer_step, w, at, slots, d + j, x, scalars, k, n, outer_C, penalty, 0, 0, 0, 0, 0
            )  # fmt: skip


def backward(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, dW: Ints, db: Ints,
    h: Ints, mask: Ints, read: Ints, delta: Ints, kind: Ints, own: Ints, threshold: Ints, f: int,
    derive: int, C: int, x0: int, by_rows: int, x_rows: int, iota: int, unit: int, spare: int,
    k: int, single: int, fused: int, rate: int, factors: int, stepped: int, flat: int, slots: int,
    outer_step: int, outer_C: int, block: int, penalty: int, panels: int,
    ahead: int,
) -> None:  # fmt: skip
    """Carry the output's delta back; step W and b if fused, else write or add up dW and db.

    If stepped, W alone is, by what `outer_step` has printed.
    """
    for i in range(n_layers):
        l = n_layers - 1 - i
        m, n, d = n_out[l], n_in[l], delta[l]
        x = x0 if l == 0 else h[l - 1]
        out = W[l] if fused else dW[l]
        if stepped:
            back_and_step(
                K, flat, W[l] - flat, slots, d, x, delta[l - 1] if l > 0 else 0, m, n, rate,
                outer_step, outer_C, block, penalty,
            )  # fmt: skip
        elif single and fused and l > 0:
            back_and_update(W[l], d, rate, x, delta[l - 1], m, n)
        elif single:
            if l > 0:
                vector_matrix(W[l], d, delta[l - 1], m, n)
            if fused:
                update_outer(out, d, rate, x, m, n)
            else:
                outer(d, x, out, m, n)
        elif l > 0:
            carry_back(K, W[l], d, delta[l - 1], m, n, k, own[l], f, iota, unit, spare, panels)
        if b[l] != 0:
            bias_gradient(d, b[l] if fused else db[l], factors, m, k)
        if single == 0:
            rows, numbered, soon = 0, iota, 0
            if l == 0:
                rows, numbered, soon = by_rows, x_rows, ahead
            weight_gradient(
                K, d, x, out, m, n, k, own[l], rows, f, numbered, iota, spare, factors,
                panels, soon,
            )  # fmt: skip
        if l > 0:
            if threshold[l - 1] > 0:
                multiply(delta[l - 1], mask[l - 1], delta[l - 1], n * k)
            call(derive, kind[l - 1], delta[l - 1], read[l - 1], n * k, C, 0, 0)


def update(
    K: Ints, penalize: int, decay: int, step: int, w: int, g: int, slots: int, trainable: int,
    size: int, n_weights: int, clips: int, limit: int, scalars: int, C: int,
) -> None:  # fmt: skip
    """Let the optimiser move the parameters, in the order that `backprop.update` has."""
    call(penalize, w, g, scalars, n_weights, C, 0, 0)
    if trainable != 0:
        multiply(g, trainable, g, size)
    if clips:
        clip(g, limit, size)
    call(decay, w, trainable, scalars, n_weights, C, 0, 0)
    call(step, w, g, slots, scalars, size, C, 0)


def record(value: Doubles, batch: int, sums: Doubles) -> None:
    """Add a batch's loss to the sum; remember the first batch whose loss is not finite."""
    sums[0] += value[0]
    if sums[1] < 0 and not is_finite(value[0]):
        sums[1] = batch


def train(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, dW: Ints, db: Ints, z: Ints,
    a: Ints, h: Ints, mask: Ints, read: Ints, delta: Ints, kind: Ints, own: Ints,
    threshold: Ints, key: Ints, keep: int, X: int, Y: int, labels: int, coded: int, w: int,
    order: int, start: int, stop: int, batch_size: int, whole: int, first: int, last: int,
    chunk: int, X_buffer: int, X_columns: int, Y_buffer: int, w_buffer: int, row: int,
    rows_buffer: int, iota: int, unit: int, spare: int,
    panels: int, ahead: int, by_columns: int, plain: int, scalars: int, scalars_step: int,
    steps: int, batch: int, value: int, sums: int, f: int, C: int, factors: int, flat: int,
    g: int, slots: int, trainable: int, size: int, n_weights: int, clips: int, limit: int,
    rows_wise: int, activate: int, derive: int, loss_terms: int, loss_delta: int, penalize: int,
    decay: int, step: int,
    tallies: int, outer_step: int, outer_C: int, bias_slots: int, block: int,
) -> None:  # fmt: skip
    """Train on rows start..stop of an order, an update after each `batch_size` of them.

    A batch that comes in several calls has `whole` rows in all, of which `first` came before;
    `last` tells whether these are its last. `by_columns` and `rows_wise` are what
    `choices.rows_of_columns` and `tables.rows_wise` return;
    `tallies` tells whether penalties are part of the loss. Where `outer_step` is not 0, a batch of
    one sample steps each W while its gradient is computed, and puts the penalties into sums[2].
    """
    s, done, end = start, 0, n_layers - 1
    o, zo, do, m = a[end], z[end], delta[end], n_out[end]
    factor = numbers(factors)  # of dW, how much of dW is kept, 1 / batch_size
    while s < stop:
        n = min(batch_size, stop - s)
        n_batch = n if whole == 0 else whole
        single = n_batch == 1
        fused = plain != 0 and n == n_batch and n <= chunk
        stepped = outer_step != 0 and single
        sc = scalars + done * scalars_step
        factor[2] = T(1.0 / n_batch)
        if first == 0:
            doubles(value)[0] = 0.0
        for p in range(0, n, chunk):
            k = min(chunk, n - p)
            factor[0] = -numbers(sc)[0] if fused else T(1)
            factor[1] = T(1) if fused or p + first > 0 else T(0)
            rows = rows_buffer
            if order != 0:
                rows = order + s + p
            else:
                count(s + p, rows, k)
            if ahead != 0:
                most = min(chunk, batch_size)
                tell_ahead(codes(ahead), X, order, iota, s + p + k, stop, n_in[0], n_out[0], most)
            x = read_inputs(K, X, order, rows, X_buffer, s + p, n_in[0], k, own[0])
            x_rows = rows if x == X else iota
            columns, x0, by_rows = int(by_columns != 0 and k >= by_columns), x, 1
            if columns:
                transpose(x, x_rows, n_in[0], X_columns, k, n_in[0], k, 0)
                x = X_columns
                if own[0] == LOOPS:  # tiles multiply rows by deltas
                    x0, by_rows = x, 0
            y = read_targets(K, Y, labels, coded, rows, Y_buffer, m, k)
            forward(
                K, n_layers, n_in, n_out, W, b, z, a, h, mask, kind, own, threshold, key, keep, f,
                activate, rows_wise, C, x, x_rows, iota, columns, unit, panels,
                row, steps + done, first + p, k,
            )  # fmt: skip
            n_terms = m
            if rows_wise == 1:
                cross_entropy(zo, y, row, do, m, k)
                n_terms = 1
            else:
                call(loss_terms, o, zo, y, do, m * k, C, 0)
            if w != 0:
                gather_columns(w, rows, w_buffer, 1, k)
                weigh(do, w_buffer, n_terms, k)
            add_total(do, n_terms * k, value)
            if rows_wise == 2:
                softmax_delta(o, y, factors + 2, row, do, m, k)
            else:
                call(loss_delta, o, zo, y, do, factors + 2, m * k, C)
            if w != 0:
                weigh(do, w_buffer, m, k)
            backward(
                K, n_layers, n_in, n_out, W, b, dW, db, h, mask, read, delta, kind, own, threshold,
                f, derive, C, x0, by_rows, x_rows, iota, unit, spare, k, single, fused, sc,
                factors, stepped, flat, slots, outer_step, outer_C, block, sums + 2, panels, ahead,
            )  # fmt: skip
        if last:
            record(doubles(value), batch + done, doubles(sums))
            if tallies and stepped:
                doubles(sums)[0] += numbers(sc)[4] * doubles(sums)[2]
            elif tallies:
                add_penalty(flat, sc, n_weights, sums)
            doubles(sums)[2] = 0.0
            if stepped:
                b0, db0 = flat + n_weights, g + n_weights
                call(step, b0, db0, bias_slots, sc, size - n_weights, C, 0)
            elif not fused:
                update(
                    K, penalize, decay, step, flat, g, slots, trainable, size, n_weights, clips,
                    limit, sc, C,
                )  # fmt: skip
            done += 1
        s += n
