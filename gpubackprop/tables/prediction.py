"""What a network says of the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpubackprop.network import Network
from gpubackprop.tables.chunks import Chunk, Table
from gpubackprop.tables.preprocessing import Number, Preprocessing, Target
from gpubackprop.tables.rows import Rows

_BLOCK = 65536


@dataclass(frozen=True)
class Prediction:
    """Of some neighbouring rows.

    Attributes
    ----------
    values : array of shape (n,), or (n, n_out) of several quantities
        Labels, as they stood in the training table, or quantities in its units.
    outputs : array of shape (n, n_out)
        Of the network.
    probabilities : array of shape (n, number of classes) or None
        None for quantities.
    """

    values: np.ndarray
    outputs: np.ndarray
    probabilities: np.ndarray | None


class Predictor:
    """A network, with what makes inputs of a table's columns and predictions of outputs.

    Parameters
    ----------
    net : Network
        Its `schema` says how; without preprocessing, columns are taken as they are, by the schema's
        feature names or by their order.

    Attributes
    ----------
    net : Network
    preprocessing : Preprocessing
    target : Target
    labels : list or None
        The classes; None for quantities.

    Raises
    ------
    ValueError
        If the schema's preprocessing is not one of this package's.
    """

    def __init__(self, net: Network) -> None:
        self.net, schema = net, net.schema
        n_in, n_out = net.model.sizes[0], net.model.sizes[-1]
        self._ordered = schema.preprocessing is None and schema.feature_names is None
        if schema.preprocessing is not None:
            self.preprocessing = Preprocessing.from_json(schema.preprocessing)
        else:
            names = schema.feature_names or [str(i) for i in range(n_in)]
            self.preprocessing = Preprocessing.plain(names)
        if len(self.preprocessing.inputs) != n_in:
            raise ValueError(
                f"the model's preprocessing makes {len(self.preprocessing.inputs)} inputs, its "
                f"network has {n_in}"
            )
        kind = net.model.activations[-1].name
        classes = kind == "softmax" or (kind == "sigmoid" and n_out == 1)
        self.target = self.preprocessing.target or Target(
            "prediction", "classes" if classes else "numbers"
        )
        self.labels: list[Any] | None = None
        if self.target.kind == "classes":
            self.labels = list(schema.labels or range(max(n_out, 2)))

    def columns(self, table: Table) -> list[str]:
        """Return which columns of a table are the model's, in its order.

        They are found by name, wherever they stand and whatever else there is. Where the table has
        no names, or the model none, they are found by order.

        Raises
        ------
        ValueError
            That names the columns that are missing.
        """
        names, wanted = table.names, self.preprocessing.names
        if set(wanted) <= set(names):
            return list(wanted)
        if self._ordered or not table.named:
            rest = [name for name in names if name.isdigit() or table.named]
            if len(rest) == len(wanted):
                return rest
            raise ValueError(
                f"DATA must have {len(wanted)} columns, those of the training rows in their order, "
                f"got {len(rest)} in {table.path}"
            )
        lacking = [repr(name) for name in wanted if name not in names]
        shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise ValueError(
            f"DATA must have the columns of the training rows: {table.path} lacks {shown}"
        )

    def inputs(
        self, table: Table, unknown: str = "error", extra: tuple[str, ...] = ()
    ) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Read a table, in chunks, as the network's inputs.

        Parameters
        ----------
        table : Table
        unknown : {"error", "zero"}, optional
            See `Preprocessing.write`.
        extra : tuple of str, optional
            Columns that are to be read besides.

        Yields
        ------
        (Chunk, array of shape (n, n_in))

        Raises
        ------
        ValueError
            That names what does not fit.
        """
        if unknown not in ("error", "zero"):
            raise ValueError(f"unknown must be error or zero, got {unknown!r}")
        made = self.preprocessing
        columns = self.columns(table)
        there = Preprocessing(
            tuple(replace(c, name=name) for c, name in zip(made.columns, columns, strict=True))
        )
        numbers = [n for n, c in zip(columns, made.columns, strict=True) if isinstance(c, Number)]
        table.expect(numbers, [name for name in columns if name not in numbers])
        for chunk in table.chunks([*columns, *(name for name in extra if name not in columns)]):
            X = np.empty((chunk.n_rows, len(made.inputs)), self.net.model.dtype)
            yield chunk, there.write(chunk, X, unknown)

    def score(self, rows: Rows) -> dict[str, float]:
        """Return how well rows are predicted, block by block.

        Returns
        -------
        dict
            accuracy, of classes; else rmse, in the target's units, and r2. Every row counts the
            same.
        """
        right = squared = total = squares = 0.0
        n, target = len(rows.X), self.target
        for start in range(0, n, _BLOCK):
            part = slice(start, start + _BLOCK)
            Y, found = np.asarray(rows.Y[part]), self.of(rows.X[part])
            if found.probabilities is not None:
                right += float((found.probabilities.argmax(axis=1) == Y).sum())
                continue
            y = target.mean + target.scale * Y.astype(np.float64)
            squared += float(((found.values - y) ** 2).sum())
            total += float((y - target.mean).sum())
            squares += float(((y - target.mean) ** 2).sum())
        if self.labels is not None:
            return {"accuracy": right / n}
        spread = squares - total**2 / n
        scores = {"rmse": (squared / n) ** 0.5}
        return scores | ({"r2": 1 - squared / spread} if spread > 0 else {})

    def predict(self, table: Table, unknown: str = "error") -> Iterator[Prediction]:
        """Predict the rows of a table, in chunks; see `inputs`."""
        for _, X in self.inputs(table, unknown):
            yield self.of(X)

    def of(self, X: np.ndarray) -> Prediction:
        """Predict rows of inputs of shape (n, n_in)."""
        outputs = self.net.backend.to_numpy(self.net.predict(X))
        if self.labels is None:
            values = self.target.mean + self.target.scale * outputs.astype(np.float64)
            return Prediction(values[:, 0] if values.shape[1] == 1 else values, outputs, None)
        probabilities = outputs
        if outputs.shape[1] == 1:
            probabilities = np.hstack([1 - outputs, outputs])
            classes = (outputs[:, 0] >= 0.5).astype(np.int64)
        else:
            classes = outputs.argmax(axis=1)
        return Prediction(np.array(self.labels)[classes], outputs, probabilities)
