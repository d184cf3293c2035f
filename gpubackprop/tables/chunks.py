"""Some rows of a table: columns as numbers, or as codes of the values that they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np


class Chunk(Protocol):
    """Some neighbouring rows of a table.

    Attributes
    ----------
    n_rows : int
    """

    n_rows: int

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64 of shape (n_rows,), NaN where it is missing."""

    def codes(self, name: str, *, text: bool = False) -> tuple[np.ndarray, list[Any]]:
        """Return a column as codes of shape (n_rows,), -1 where it is missing, and what they stand
        for, in no particular order: the values themselves, or as texts.
        """

    def row(self, i: int) -> int:
        """Return which row of the table the i-th row here is, counted from 1."""

    def known(self, name: str) -> np.ndarray:
        """Return where a column has a value, as booleans of shape (n_rows,)."""

    def where(self, mask: np.ndarray) -> Chunk:
        """Return the rows where a mask of shape (n_rows,) is true."""


class Table(Protocol):
    """A file of rows, opened. Made by `gpubackprop.tables.open_table`.

    Attributes
    ----------
    path : str
    names : tuple of str
        Of the columns, in the file's order.
    named : bool
        Whether the file itself names its columns; else they are called by their numbers.
    """

    path: str
    names: tuple[str, ...]
    named: bool

    def kind(self, name: str) -> str:
        """Return "number", "text", or a type in words that is neither."""

    def default_target(self) -> str | None:
        """Return the column that is the target unless the user names another."""

    def expect(self, numbers: Sequence[str], texts: Sequence[str], *, firm: bool = True) -> None:
        """Read columns as numbers, and as texts, whatever their first rows look like.

        If that is not firm, a later value may still show that an empty column is of another kind.

        Raises
        ------
        ValueError
            If a column to hold numbers holds text.
        """

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Read from the first row on.

        Raises
        ------
        ValueError
            If a value is not of its column's kind; says which and where, as far as is known.
        Retyped
            If so, and the column's kind has been widened: begin anew.
        """


class Retyped(Exception):
    """A later value of a column did not fit the type that its first rows have; the table reads it
    as a wider one from now on.
    """


class ArrayChunk:
    """See `Chunk`: of NumPy arrays.

    Parameters
    ----------
    columns : dict of str to array of shape (n_rows,)
    rows : range or array of int
        Their numbers in the table, from 0.
    """

    def __init__(self, columns: dict[str, np.ndarray], rows: range | np.ndarray) -> None:
        self._columns, self._rows = columns, rows
        self.n_rows = len(rows)

    def row(self, i: int) -> int:
        """See `Chunk.row`."""
        return int(self._rows[i]) + 1

    def numbers(self, name: str) -> np.ndarray:
        """See `Chunk.numbers`."""
        return np.asarray(self._columns[name], np.float64)

    def codes(self, name: str, *, text: bool = False) -> tuple[np.ndarray, list[Any]]:
        """See `Chunk.codes`."""
        values, codes = np.unique(self._columns[name], return_inverse=True)
        listed = values.tolist()
        if values.dtype.kind == "f" and len(listed) and np.isnan(listed[-1]):  # sorted to the end
            codes = np.where(codes == len(listed) - 1, -1, codes)
            listed.pop()
        return codes, [str(value) for value in listed] if text else listed

    def known(self, name: str) -> np.ndarray:
        """See `Chunk.known`."""
        column = self._columns[name]
        if column.dtype.kind != "f":
            return np.ones(self.n_rows, bool)
        missing: np.ndarray = np.isnan(column)
        return ~missing

    def where(self, mask: np.ndarray) -> ArrayChunk:
        """See `Chunk.where`."""
        columns = {name: column[mask] for name, column in self._columns.items()}
        return ArrayChunk(columns, np.asarray(self._rows)[mask])


class ArrowChunk:
    """See `Chunk`: of a record batch of pyarrow.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    rows : range or array of int
        The rows' numbers in the table, from 0.
    """

    def __init__(self, batch: Any, rows: range | np.ndarray) -> None:
        self._batch, self._rows = batch, rows
        self.n_rows: int = batch.num_rows

    def row(self, i: int) -> int:
        """See `Chunk.row`."""
        return int(self._rows[i]) + 1

    def numbers(self, name: str) -> np.ndarray:
        """See `Chunk.numbers`."""
        import pyarrow as pa

        column = self._batch.column(name)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        if column.type != pa.float64():
            column = column.cast(pa.float64(), safe=False)
        values: np.ndarray = column.to_numpy(zero_copy_only=False)
        return values

    def codes(self, name: str, *, text: bool = False) -> tuple[np.ndarray, list[Any]]:
        """See `Chunk.codes`."""
        import pyarrow as pa

        column = self._batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if text and column.type != pa.string():
            column = column.cast(pa.string())
        if pa.types.is_floating(column.type):
            column = pa.array(column.to_numpy(zero_copy_only=False), from_pandas=True)
        encoded = column.dictionary_encode()
        return encoded.indices.fill_null(-1).to_numpy(), encoded.dictionary.to_pylist()

    def known(self, name: str) -> np.ndarray:
        """See `Chunk.known`."""
        import pyarrow.compute as compute

        missing = compute.is_null(self._batch.column(name), nan_is_null=True)
        known: np.ndarray = ~missing.to_numpy(zero_copy_only=False)
        return known

    def where(self, mask: np.ndarray) -> ArrowChunk:
        """See `Chunk.where`."""
        import pyarrow as pa

        return ArrowChunk(self._batch.filter(pa.array(mask)), np.asarray(self._rows)[mask])


def is_number(text: str) -> bool:
    """Tell whether a text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_numbers(
    name: str,
    values: np.ndarray,
    bad: np.ndarray,
    chunk: Chunk,
    wanted: str = "finite numbers",
) -> None:
    """Refuse bad values of a column.

    Parameters
    ----------
    name : str
        Of the column.
    values, bad : array of shape (n_rows,)
        The values, and booleans that say which are bad.
    chunk : Chunk
        Where they are from.
    wanted : str, optional
        What they must be.

    Raises
    ------
    ValueError
        That names the column, the first bad value and its row.
    """
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"column {name!r} must hold {wanted}, got {values[i]} in row {chunk.row(i)}; correct "
            "it, or leave it empty where it is not known"
        )
