"""The files that tables are read from: CSV and Parquet by pyarrow, .npy and .npz by NumPy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpubackprop.errors import missing
from gpubackprop.tables.arrays import ArrayTable
from gpubackprop.tables.chunks import ArrowChunk, Retyped, Table, is_number

#: What a file's name may end in.
ENDINGS = (".csv", ".tsv", ".txt", ".data", ".csv.gz", ".parquet", ".npz", ".npy")
#: Bytes of a CSV file, and rows of a Parquet file, that are read at once.
BLOCK_BYTES, BLOCK_ROWS = 4 * 2**20, 65536
_SEPARATORS = (",", ";", "\t", "|")


def open_table(
    path: str | Path,
    *,
    separator: str | None = None,
    header: bool = True,
    missing_values: Sequence[str] = (),
    block_bytes: int = BLOCK_BYTES,
) -> Table:
    """Open a file of rows.

    Parameters
    ----------
    path : path-like
        Ends in one of `ENDINGS`. An .npz file holds X, one row a sample, and one array for each
        other column, such as Y. Arrays are read by memory map, those of an .npz file if it is not
        compressed.
    separator : str, optional
        Between the columns of a CSV file; by default the one of , ; tab and | that its first line
        has most of.
    header : bool, optional
        Whether a CSV file's first line names the columns; else they are called "0", "1", ...
    missing_values : sequence of str, optional
        What stands in a CSV file for a missing value, besides nothing at all, NA, NaN, N/A, null
        and the like.
    block_bytes : int, optional
        How much of a CSV file is read at once.

    Raises
    ------
    ValueError
        If it is no such file.
    FileNotFoundError, OSError
        If it is not there, or cannot be read.
    ImportError
        If pyarrow is needed and not installed.
    """
    text, name = str(path), str(path).lower()
    if not name.endswith(ENDINGS):
        raise ValueError(f"DATA must end in one of {', '.join(ENDINGS)}, got {text!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"DATA must be a file that exists, got {text!r}")
    if name.endswith((".npy", ".npz")):
        return ArrayTable(text)
    try:
        import pyarrow as pa
    except ImportError:
        raise missing("pyarrow, which reads CSV and Parquet files,", "cli") from None
    try:
        if name.endswith(".parquet"):
            return ParquetTable(text)
        return CsvTable(text, separator, header, missing_values, block_bytes)
    except pa.ArrowInvalid as error:
        raise ValueError(f"DATA {text!r} cannot be read: {error}") from None


def _kind(dtype: Any) -> str:
    """Return the kind of a column of an Arrow type; see `Table.kind`."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        return "text"
    numeric = types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null
    return "number" if any(test(dtype) for test in numeric) else str(dtype)


class ParquetTable:
    """See `Table`."""

    named = True

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as parquet

        self.path = path
        self._schema = parquet.read_schema(path)
        self.names = _distinct(tuple(self._schema.names), path)
        self._texts: set[str] = set()

    def kind(self, name: str) -> str:
        """See `Table.kind`."""
        return "text" if name in self._texts else _kind(self._schema.field(name).type)

    def default_target(self) -> str | None:
        """See `Table.default_target`."""
        return None

    def expect(self, numbers: Sequence[str], texts: Sequence[str], *, firm: bool = True) -> None:
        """See `Table.expect`."""
        self._texts |= set(texts)
        for name in numbers:
            if self.kind(name) != "number":
                raise ValueError(f"column {name!r} of {self.path} must hold numbers, not text")

    def chunks(self, columns: Sequence[str]) -> Iterator[ArrowChunk]:
        """See `Table.chunks`."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            with parquet.ParquetFile(self.path) as file:
                first = 0
                for batch in file.iter_batches(BLOCK_ROWS, columns=list(columns)):
                    yield ArrowChunk(batch, range(first, first + batch.num_rows))
                    first += batch.num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"DATA {self.path!r} cannot be read: {error}") from None


class CsvTable:
    """See `Table`; `open_table` describes the parameters."""

    named = True

    def __init__(
        self,
        path: str,
        separator: str | None,
        header: bool,
        missing_values: Sequence[str],
        block_bytes: int,
    ) -> None:
        import pyarrow as pa

        self.path, self.named = path, header
        self._separator = _separator(path) if separator is None else separator
        if len(self._separator) != 1:
            raise ValueError(f"separator must be one character, got {self._separator!r}")
        self._header, self._block_bytes = header, block_bytes
        self._missing_values = list(missing_values)
        self._types: dict[str, Any] = {}
        self._fixed: set[str] = set()
        with self._open(None) as reader:
            schema = reader.schema
        names = schema.names if header else [str(i) for i in range(len(schema.names))]
        self.names = _distinct(tuple(names), path)
        for name, field in zip(self.names, schema, strict=True):
            # Text stays what it is: true, True and TRUE are three ways to write a boolean.
            text = pa.types.is_boolean(field.type) or _kind(field.type) == "text"
            self._types[name] = pa.string() if text else field.type

    def kind(self, name: str) -> str:
        """See `Table.kind`."""
        return _kind(self._types[name])

    def default_target(self) -> str | None:
        """See `Table.default_target`."""
        return None

    def expect(self, numbers: Sequence[str], texts: Sequence[str], *, firm: bool = True) -> None:
        """See `Table.expect`."""
        import pyarrow as pa

        if firm:
            self._fixed |= {*numbers, *texts}
        else:
            numbers = [name for name in numbers if not pa.types.is_null(self._types[name])]
        self._types |= dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(texts, pa.string())

    def chunks(self, columns: Sequence[str]) -> Iterator[ArrowChunk]:
        """See `Table.chunks`."""
        import pyarrow as pa

        try:
            with self._open(list(columns)) as reader:
                first = 0
                for batch in reader:
                    if batch.num_rows:
                        yield ArrowChunk(batch, range(first, first + batch.num_rows))
                    first += batch.num_rows
        except pa.ArrowInvalid as error:
            self._widen(str(error))

    def _open(self, columns: list[str] | None) -> Any:
        """Begin to read; without columns all, to see which there are."""
        from pyarrow import csv

        defaults = csv.ConvertOptions().null_values
        return csv.open_csv(
            self.path,
            read_options=csv.ReadOptions(
                block_size=self._block_bytes,
                column_names=None if self._header or columns is None else self.names,
                autogenerate_column_names=columns is None and not self._header,
            ),
            parse_options=csv.ParseOptions(delimiter=self._separator, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=columns,
                column_types=self._types,
                null_values=[*defaults, *self._missing_values],
                strings_can_be_null=True,
            ),
        )

    def _widen(self, problem: str) -> None:
        """Read a column whose values do not fit its type as a wider one, or say that none does."""
        import pyarrow as pa

        found = re.search(r"CSV column #(\d+): .*conversion error to (\S+):(.*)", problem, re.S)
        if found is None:
            raise ValueError(f"DATA {self.path!r} cannot be read: {problem}") from None
        name, value = self.names[int(found[1])], found[3].strip().removeprefix("invalid value ")
        number = is_number(value.strip("'"))
        old, free = self._types[name], name not in self._fixed
        if free and pa.types.is_null(old):
            self._types[name] = pa.float64() if number else pa.string()
        elif free and pa.types.is_integer(old) and number:
            self._types[name] = pa.float64()
        else:
            raise ValueError(
                f"column {name!r} of {self.path} must hold numbers, got {value}; name what stands "
                f"for a missing value with --missing, or take the column as categories with "
                f"--categorical {name}"
            ) from None
        raise Retyped(name)


def _separator(path: str) -> str:
    """Return the separator that a file's first line has most of."""
    import pyarrow as pa

    with pa.input_stream(path) as file:
        line = file.read(65536).split(b"\n")[0].decode(errors="replace")
    return max(_SEPARATORS, key=line.count)


def _distinct(names: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Refuse a name that two columns have."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"columns of {path} must differ in name, {twice[0]!r} is there twice")
    return names
