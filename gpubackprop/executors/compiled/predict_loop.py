"""The loop over rows that are predicted, which `source.py` copies into a module beside `forward`.

Like `loop`, never called from Python, and made of positions. A parameter annotated as `Rows` is an
array, an argument of the compiled function beside its table, and one as `Length` X's rows.
"""

from __future__ import annotations  # `source` reads them

from typing import TYPE_CHECKING, Any, TypeAlias

from gpubackprop.executors.compiled.kernels import add_total
from gpubackprop.executors.compiled.loop import forward
from gpubackprop.executors.compiled.tiles import transpose

if TYPE_CHECKING:
    doubles: Any = None
    is_finite: Any = None

Ints: TypeAlias = Any
Rows: TypeAlias = Any
Length: TypeAlias = int


def predict(
    K: Ints, n_layers: int, n_in: Ints, n_out: Ints, W: Ints, b: Ints, z: Ints, a: Ints, h: Ints,
    mask: Ints, kind: Ints, own: Ints, threshold: Ints, key: Ints, keep: int, f: int,
    activate: int, rows_wise: int, C: int, X_columns: int, iota: int, by_columns: int, unit: int,
    panels: int, row: int, chunk: int,
    value: int, strict: int, X: Rows, out: Rows, n_rows: Length,
) -> int:  # fmt: skip
    """Write the outputs of all rows of X into `out`; return 1, or 0 where a number in either may
    not be finite: which of NaN and infinity a sum becomes depends on its order. If strict, also
    where a parameter may not be.
    """
    n, m, end = n_in[0], n_out[n_layers - 1], n_layers - 1
    doubles(value)[0] = 0.0
    if strict:
        for l in range(n_layers):
            add_total(W[l], n_in[l] * n_out[l], value)
            if b[l] != 0:
                add_total(b[l], n_out[l], value)
        if not is_finite(doubles(value)[0]):
            return 0
    for p in range(0, n_rows, chunk):
        k, x = min(chunk, n_rows - p), X + p * n
        # The sum is NaN or infinite where a number is: in float64 too where it overflows.
        doubles(value)[0] = 0.0
        add_total(x, k * n, value)
        if not is_finite(doubles(value)[0]):
            return 0
        columns = int(by_columns != 0 and k >= by_columns)
        if columns:
            transpose(x, iota, n, X_columns, k, n, k, 0)
            x = X_columns
        forward(
            K, n_layers, n_in, n_out, W, b, z, a, h, mask, kind, own, threshold, key, keep, f,
            activate, rows_wise, C, x, iota, iota, columns, unit, panels,
            row, 0, 0, k,
        )  # fmt: skip
        # Outputs of a batch have a column for each row of X.
        transpose(a[end], iota, k, out + p * m, m, k, m, 0)
        add_total(out + p * m, k * m, value)
        if not is_finite(doubles(value)[0]):
            return 0
    return 1
