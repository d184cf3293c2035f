"""The second pass over a table: its rows as the arrays that a network trains on, in memory or as
.npy files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpubackprop.tables.chunks import Chunk, Table, check_numbers
from gpubackprop.tables.fitting import Fitted, Told, split, untold, used
from gpubackprop.tables.target import targets

#: Of the files: what they hold.
_PARTS = ("X", "Y", "weight")


@dataclass(frozen=True)
class Rows:
    """Rows that a network trains on, or is validated with.

    Attributes
    ----------
    X : array of shape (n, number of inputs)
    Y : array of shape (n,)
        Class numbers, or the quantity, scaled.
    weight : array of shape (n,) or None
    """

    X: np.ndarray
    Y: np.ndarray
    weight: np.ndarray | None


def encode(
    table: Table,
    fitted: Fitted,
    *,
    dtype: str = "float32",
    folder: Path | None = None,
    class_weights: Sequence[float] | None = None,
    told: Told = untold,
) -> tuple[Rows, Rows | None]:
    """Read a table and return its training rows, and those that were held out, if any.

    Parameters
    ----------
    table : Table
        As it was when it was fitted.
    fitted : Fitted
    dtype : {"float32", "float64"}, optional
        Of X, and of a quantity.
    folder : path, optional
        Where arrays are written to, as .npy files; memory maps of them are returned. In memory if
        None.
    class_weights : sequence of float, optional
        Factor of each class's rows.
    told : callable, optional
        Called with the rows read so far.

    Raises
    ------
    ValueError
        If the file has changed.
    OSError
        If an array cannot be written.
    """
    width = len(fitted.preprocessing.inputs)
    weighted = fitted.plan.weight is not None or class_weights is not None
    rows = _Encoder(fitted, np.dtype(dtype), class_weights)
    parts = [(_Sink(folder, "training", fitted.n_training, width, rows.dtypes, weighted), False)]
    if fitted.n_validation:
        sink = _Sink(folder, "validation", fitted.n_validation, width, rows.dtypes, weighted)
        parts.append((sink, True))
    first = 0
    try:
        for chunk, held, n_left_out in split(
            table.chunks(used(fitted.plan, fitted.preprocessing.names)), fitted.plan
        ):
            arrays = rows.encode(chunk)
            for sink, which in parts:
                sink.add([None if a is None else a[held == which] for a in arrays])
            first += chunk.n_rows + n_left_out
            told(first)
        done = [sink.done(table.path) for sink, _ in parts]
    finally:
        for sink, _ in parts:
            sink.close()
    return done[0], (done[1] if len(done) > 1 else None)


class _Encoder:
    """Makes arrays of chunks."""

    def __init__(
        self, fitted: Fitted, dtype: np.dtype, class_weights: Sequence[float] | None
    ) -> None:
        self._fitted = fitted
        self._class_weights: np.ndarray | None = None
        if class_weights is not None:
            self._class_weights = np.array(class_weights, np.float64)
        self.dtypes = dtype, np.dtype(np.int32) if fitted.labels else dtype, np.dtype(np.float64)

    def encode(self, chunk: Chunk) -> list[np.ndarray | None]:
        """Return X, Y and weights of a chunk."""
        made = self._fitted.preprocessing
        X = np.empty((chunk.n_rows, len(made.inputs)), self.dtypes[0])
        made.write(chunk, X, unknown="zero")
        assert made.target is not None
        Y = targets(chunk, made.target, self._fitted.labels)
        weight = self._weights(chunk, Y)
        return [X, Y.astype(self.dtypes[1]), weight]

    def _weights(self, chunk: Chunk, Y: np.ndarray) -> np.ndarray | None:
        """Return the rows' weights, times those of their classes."""
        name = self._fitted.plan.weight
        weight: np.ndarray | None = None
        if name is not None:
            weight = chunk.numbers(name)
            bad = ~((weight >= 0) & np.isfinite(weight))
            check_numbers(name, weight, bad, chunk, "finite weights >= 0")
        if self._class_weights is not None:
            of_class: np.ndarray = self._class_weights[Y]
            weight = of_class if weight is None else weight * of_class
        return weight


class _Sink:
    """Takes in the arrays of chunks: into memory, or into .npy files whose size is known ahead.

    Files are written, not mapped, so that their pages do not count as this process's memory.
    """

    def __init__(
        self,
        folder: Path | None,
        kind: str,
        n: int,
        width: int,
        dtypes: Sequence[np.dtype],
        weighted: bool,
    ) -> None:
        self._n, self._filled = n, 0
        self._arrays: list[np.ndarray | None] = [None] * len(_PARTS)
        self._files: list[BinaryIO | None] = [None] * len(_PARTS)
        self._paths: list[Path] = []
        shapes = (n, width), (n,), (n,)
        for i, (part, shape, dtype) in enumerate(zip(_PARTS, shapes, dtypes, strict=True)):
            if part == "weight" and not weighted:
                continue
            if folder is None:
                self._arrays[i] = np.empty(shape, dtype)
                continue
            path = folder / f"{kind}-{part}.npy"
            self._paths.append(path)
            file = self._files[i] = open(path, "wb")  # noqa: SIM115 closed by close()
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)

    def add(self, arrays: Sequence[np.ndarray | None]) -> None:
        """Append rows."""
        end = self._filled
        for array, out, file in zip(arrays, self._arrays, self._files, strict=True):
            if array is None:
                continue
            end = self._filled + len(array)
            if end > self._n:
                break
            if out is not None:
                out[self._filled : end] = array
            if file is not None:
                file.write(array.data)
        self._filled = end

    def done(self, path: str) -> Rows:
        """Return the arrays."""
        if self._filled != self._n:
            raise ValueError(
                f"{path} must not change while it is read: it had {self._n} rows of a kind, and "
                f"then {self._filled}"
            )
        self.close()
        maps = iter(self._paths)
        arrays: list[Any] = [
            array if file is None else np.load(next(maps), mmap_mode="r")
            for array, file in zip(self._arrays, self._files, strict=True)
        ]
        return Rows(*arrays)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            if file is not None:
                file.close()


def size_of(fitted: Fitted, dtype: str = "float32") -> int:
    """Return how many bytes `encode` makes of a table's X."""
    rows = fitted.n_training + fitted.n_validation
    return rows * len(fitted.preprocessing.inputs) * np.dtype(dtype).itemsize


def balanced(counts: Sequence[int]) -> list[float]:
    """Return class weights under which all classes count the same: n / (classes * count)."""
    n, present = sum(counts), sum(count > 0 for count in counts)
    return [n / (present * count) if count else 1.0 for count in counts]
