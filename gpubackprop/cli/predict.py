"""``gpubackprop predict``: what a network says of the rows of a table."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from gpubackprop import tables
from gpubackprop.cli import progress, shared
from gpubackprop.cli.files import replacing, writable

EXAMPLES = (
    "predict iris.safetensors new.csv",
    "predict iris.safetensors new.csv --probabilities --to predictions.parquet",
    "predict houses.safetensors houses.parquet --to prices.npy",
    "predict iris.safetensors new.csv --json | head -1",
)
ENDINGS = (".csv", ".parquet", ".npy")


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
    import typer

    def predict(
        model: Annotated[Path, shared.model_argument()],
        data: Annotated[Path, shared.data_argument()],
        to: Annotated[
            str, typer.Option(help=f"File ending in {', '.join(ENDINGS)}; - is standard output.")
        ] = "-",
        probabilities: Annotated[
            bool, typer.Option("--probabilities", "-p", help="Also that of each class.")
        ] = False,
        unknown: Annotated[
            str, typer.Option(help="A category that no training row had: error, or zero for none.")
        ] = "error",
        missing: Annotated[list[str] | None, shared.table_option("missing")] = None,
        separator: Annotated[str | None, shared.table_option("separator")] = None,
        header: Annotated[bool, shared.table_option("header")] = True,
        backend: Annotated[str, typer.Option(help="auto, numpy, cupy, cupy:1, ...")] = "auto",
        as_json: Annotated[
            bool, typer.Option("--json", help="Print one JSON object a row.")
        ] = False,
    ) -> None:
        """Predict the rows of a table, in chunks.

        Columns are found by name, wherever they stand; others are passed over. Labels come back as
        they stood in the training table, quantities in its units.
        """
        if to != "-" and not to.lower().endswith(ENDINGS):
            raise ValueError(f"to must end in one of {', '.join(ENDINGS)}, or be -, got {to!r}")
        if to != "-" and as_json:
            raise ValueError("json is for standard output: leave out --json, or --to")
        predictor = shared.open_model(model, backend)
        if probabilities and predictor.labels is None:
            raise ValueError("probabilities need classes, and this model predicts a quantity")
        table = tables.open_table(
            data, separator=separator, header=header, missing_values=missing or []
        )
        if to != "-":
            writable(Path(to).parent, "to must be in a folder that can be written to")
        columns = _columns(predictor, probabilities)
        found = (_cells(p, probabilities) for p in predictor.predict(table, unknown))
        if to == "-" and as_json:
            _print_json(columns, found)
        else:
            _write(to, columns, [*columns, *(predictor.labels or [])], found)

    return predict


def _columns(predictor: tables.Predictor, probabilities: bool) -> list[str]:
    """Return the names of what is written."""
    n_out, name = predictor.net.model.sizes[-1], predictor.target.name
    labels = predictor.labels
    if labels is None:
        return [name] if n_out == 1 else [f"{name}_{i}" for i in range(n_out)]
    return [name, *(f"probability_{label}" for label in labels if probabilities)]


def _cells(found: tables.Prediction, probabilities: bool) -> list[np.ndarray]:
    """Return the columns that are written."""
    values = found.values
    cells = [values] if values.ndim == 1 else list(values.T)
    if probabilities and found.probabilities is not None:
        cells += list(found.probabilities.T)
    return cells


def _print_json(columns: list[str], found: Iterator[list[np.ndarray]]) -> None:
    """Print an object for each row."""
    for cells in found:
        for row in zip(*(cell.tolist() for cell in cells), strict=True):
            print(json.dumps(dict(zip(columns, row, strict=True))))


def _must_quote(words: list[Any]) -> bool:
    """Tell whether a word would not be read from a CSV file as it is."""
    return any(mark in str(word) for word in words for mark in ',"\r\n')


def _write(
    to: str, columns: list[str], words: list[Any], found: Iterator[list[np.ndarray]]
) -> None:
    """Write a file whole or not at all, or standard output as it comes.

    `words` are the texts that may be in it.
    """
    if to == "-":
        sys.stdout.flush()
        _write_csv(sys.stdout.buffer, columns, words, found)
        return
    with progress.bars("done") as bars, replacing(Path(to)) as file:
        write = {".csv": _write_csv, ".parquet": _write_parquet, ".npy": _write_npy}
        write[Path(to).suffix.lower()](file, columns, words, _told(found, bars))


def _told(found: Iterator[list[np.ndarray]], bars: Any) -> Iterator[list[np.ndarray]]:
    """Show how many rows are done."""
    tell, rows = progress.Reading(bars, "predicting"), 0
    for cells in found:
        yield cells
        rows += len(cells[0])
        tell(rows)


def _write_csv(
    out: Any, columns: list[str], words: list[Any], found: Iterator[list[np.ndarray]]
) -> None:
    """Write text; booleans as Python has them."""
    from pyarrow import csv

    quoted = _must_quote(words)
    style = csv.WriteOptions(include_header=quoted, quoting_style="needed" if quoted else "none")

    def make(schema: Any) -> Any:
        if not quoted:  # pyarrow quotes all text, or none of it and still the names
            out.write((",".join(columns) + "\n").encode())
        return csv.CSVWriter(out, schema, write_options=style)

    _write_arrow(columns, found, text=True, make=make)


def _write_parquet(
    out: Any, columns: list[str], words: list[Any], found: Iterator[list[np.ndarray]]
) -> None:
    """Write Parquet."""
    from pyarrow import parquet

    _write_arrow(columns, found, text=False, make=lambda schema: parquet.ParquetWriter(out, schema))


def _write_arrow(
    columns: list[str],
    found: Iterator[list[np.ndarray]],
    *,
    text: bool,
    make: Callable[[Any], Any],
) -> None:
    """Write record batches with a writer that the first one's schema makes."""
    import pyarrow as pa

    with contextlib.ExitStack() as stack:
        writer = None
        for cells in found:
            if text:
                cells = [cell.astype(str) if cell.dtype == bool else cell for cell in cells]
            arrays = [pa.array(np.ascontiguousarray(cell)) for cell in cells]
            batch = pa.RecordBatch.from_arrays(arrays, columns)
            if writer is None:
                writer = stack.enter_context(make(batch.schema))
            writer.write_batch(batch)


def _write_npy(
    out: Any, columns: list[str], words: list[Any], found: Iterator[list[np.ndarray]]
) -> None:
    """Write an array: (n,), or (n, columns); it is gathered in memory first."""
    parts = [np.column_stack(cells) if len(cells) > 1 else cells[0] for cells in found]
    np.save(out, np.concatenate(parts), allow_pickle=False)
