"""How a table's columns become a network's inputs: plain numbers and texts, stored as JSON.

`gpubackprop.tables.fitting` finds them; this module applies them, with NumPy alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpubackprop.tables.chunks import Chunk, check_numbers

_FORMAT = 1


@dataclass(frozen=True)
class Number:
    """A column of numbers, which becomes one input: ``(value - mean) / scale``, 0 where it is
    missing.

    Attributes
    ----------
    name : str
    mean, scale : float
        Of the training rows.
    """

    name: str
    mean: float = 0.0
    scale: float = 1.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that it becomes."""
        return (self.name,)

    def write(self, chunk: Chunk, out: np.ndarray, unknown: str) -> None:
        """Write the inputs of a chunk; see `Preprocessing.write`."""
        values = chunk.numbers(self.name)
        check_numbers(self.name, values, np.isinf(values), chunk)
        values = (values - self.mean) / self.scale
        np.copyto(values, 0.0, where=np.isnan(values))
        out[:, 0] = values


@dataclass(frozen=True)
class Category:
    """A column of categories: one input for each, 1 where the row is of it and 0 where not.

    Attributes
    ----------
    name : str
    values : tuple of str
        The categories, in the order of their inputs.
    missing : bool
        Whether rows without a value are a category of their own, the last one.
    """

    name: str
    values: tuple[str, ...]
    missing: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that it becomes."""
        last = (f"{self.name} is missing",) if self.missing else ()
        return (*(f"{self.name}={value}" for value in self.values), *last)

    def write(self, chunk: Chunk, out: np.ndarray, unknown: str) -> None:
        """Write the inputs of a chunk; see `Preprocessing.write`."""
        codes, values = chunk.codes(self.name, text=True)
        places = {value: i for i, value in enumerate(self.values)}
        # The last entry, which -1 reads, is for missing values.
        lookup = [places.get(value, -1) for value in values]
        lookup.append(len(self.values) if self.missing else -1)
        columns = np.array(lookup)[codes]
        if unknown == "error" and (columns < 0).any():
            i = int((columns < 0).argmax())
            value = "nothing" if codes[i] < 0 else repr(values[codes[i]])
            known = ", ".join(map(repr, self.values[:5])) + (", ..." if self.values[5:] else "")
            raise ValueError(
                f"column {self.name!r} holds {value} in row {chunk.row(i)}, which no training "
                f"row did: it must be one of {known}; --unknown zero takes it as none of them"
            )
        out[...] = columns[:, None] == np.arange(out.shape[1])


Column: TypeAlias = Number | Category


@dataclass(frozen=True)
class Target:
    """What a network's outputs stand for.

    Attributes
    ----------
    name : str
        Of the column.
    kind : {"classes", "numbers"}
    mean, scale : float
        Of numbers: a prediction is ``mean + scale * output``.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Preprocessing:
    """How the columns of a table become the inputs of a network, and its outputs predictions.

    Attributes
    ----------
    columns : tuple of Number or Category
        In the order of the inputs.
    target : Target or None

    Examples
    --------
    >>> made = Preprocessing((Number("age", 40.0, 12.5), Category("colour", ("blue", "red"))))
    >>> made.inputs
    ('age', 'colour=blue', 'colour=red')
    >>> Preprocessing.from_json(made.to_json()) == made
    True
    """

    columns: tuple[Column, ...]
    target: Target | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return tuple(column.name for column in self.columns)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs."""
        return tuple(name for column in self.columns for name in column.inputs)

    def write(self, chunk: Chunk, out: np.ndarray, unknown: str = "error") -> np.ndarray:
        """Write the inputs that rows of a table become.

        Parameters
        ----------
        chunk : Chunk
        out : array of shape (chunk.n_rows, number of inputs)
            Overwritten and returned.
        unknown : {"error", "zero"}, optional
            What a category means that no training row had, or a missing value where none was
            missing: an error, or 0 in all of the column's inputs.

        Raises
        ------
        ValueError
            That names the column, the value and the row.
        """
        place = 0
        for column in self.columns:
            width = len(column.inputs)
            column.write(chunk, out[:, place : place + width], unknown)
            place += width
        return out

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        columns = [
            {"kind": "number", "name": c.name, "mean": c.mean, "scale": c.scale}
            if isinstance(c, Number)
            else {"kind": "category", "name": c.name, "values": c.values, "missing": c.missing}
            for c in self.columns
        ]
        target = None if self.target is None else vars(self.target)
        described = {"tables": _FORMAT, "columns": columns, "target": target}
        return json.dumps(described, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Return what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is something else, or of a newer version.
        """
        try:
            read = json.loads(text)
            version = read["tables"]
            if version == _FORMAT:
                target = read["target"] and _target(read["target"])
                return cls(tuple(_column(entry) for entry in read["columns"]), target)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"the model's preprocessing is not one of gpubackprop.tables: {error!r}"
            ) from None
        raise ValueError(
            f"the model's preprocessing is of version {version}, and this gpubackprop reads "
            f"{_FORMAT}; update it"
        )

    @classmethod
    def plain(cls, names: Sequence[str]) -> Preprocessing:
        """Return one that takes numbers as they are."""
        return cls(tuple(Number(name) for name in names))


def _column(entry: dict[str, Any]) -> Column:
    """Return a column from its description."""
    if entry["kind"] == "number":
        return Number(str(entry["name"]), _finite(entry["mean"]), _scale(entry["scale"]))
    if entry["kind"] != "category":
        raise ValueError(f"kind {entry['kind']!r}")
    values = tuple(str(value) for value in entry["values"])
    return Category(str(entry["name"]), values, bool(entry["missing"]))


def _target(entry: dict[str, Any]) -> Target:
    """Return a target from its description."""
    if entry["kind"] not in ("classes", "numbers"):
        raise ValueError(f"kind {entry['kind']!r}")
    mean, scale = _finite(entry["mean"]), _scale(entry["scale"])
    return Target(str(entry["name"]), entry["kind"], mean, scale)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r}")
    return number


def _scale(value: Any) -> float:
    if not _finite(value) > 0:
        raise ValueError(f"scale {value!r}")
    return float(value)
