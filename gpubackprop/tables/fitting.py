"""The first pass over a table: means, scales, categories, classes; in chunks, by scikit-learn's
`StandardScaler.partial_fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.errors import missing
from gpubackprop.tables.chunks import Chunk, Retyped, Table, check_numbers, is_number
from gpubackprop.tables.plan import Plan
from gpubackprop.tables.preprocessing import Category, Column, Number, Preprocessing
from gpubackprop.tables.split import HeldOut
from gpubackprop.tables.target import TargetSeen, moments, take_in


@dataclass(frozen=True)
class Fitted:
    """What the first pass found.

    Attributes
    ----------
    plan : Plan
        With the target's name.
    preprocessing : Preprocessing
    labels : list or None
        The classes in the order of their numbers, as they stand in the table; None for a quantity.
    counts : list of int or None
        Training rows of each class.
    n_training, n_validation, n_left_out : int
        Rows; those left out have no target.
    """

    plan: Plan
    preprocessing: Preprocessing
    labels: list[Any] | None
    counts: list[int] | None
    n_training: int
    n_validation: int
    n_left_out: int


#: Called with the rows read so far.
Told = Callable[[int], None]


def untold(rows: int) -> None:
    """Show nothing."""


def fit(table: Table, plan: Plan, told: Told = untold) -> Fitted:
    """Read a table once and find out how to preprocess it.

    Parameters
    ----------
    table : Table
        Its columns' kinds may be widened.
    plan : Plan
    told : callable, optional
        See `Told`.

    Raises
    ------
    ValueError
        That names the argument or the column, and the way out.
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise missing("scikit-learn, which prepares columns,", "cli") from None
    target = _target_name(table, plan)
    plan = Plan(**(vars(plan) | {"target": target}))
    table.expect((), plan.categorical)
    while True:
        numbers, categories = _features(table, plan)
        weights = [plan.weight] if plan.weight else []
        table.expect([*numbers, *weights], categories, firm=False)
        seen = TargetSeen(plan, table.kind(target), StandardScaler())
        first = _FirstPass(plan, numbers, categories, StandardScaler(), seen)
        try:
            for chunk, held in first.rows(table):
                first.see(chunk, held)
                told(first.n_rows)
        except Retyped:
            continue
        return first.found()


def used(plan: Plan, names: Sequence[str]) -> list[str]:
    """Return the columns that a plan reads: features, target, weights."""
    return [*names, *(name for name in (plan.target, plan.weight) if name is not None)]


def split(chunks: Iterator[Chunk], plan: Plan) -> Iterator[tuple[Chunk, np.ndarray, int]]:
    """Leave out rows without a target, and say which are held out: the same in each pass.

    Yields
    ------
    (Chunk, bool array, int)
        The rows that have a target, which of them are held out, and how many were left out.
    """
    assert plan.target is not None
    draw = HeldOut(plan.validation, plan.seed)
    for chunk in chunks:
        known = chunk.known(plan.target)
        if not known.all():
            chunk = chunk.where(known)
        yield chunk, draw.mask(chunk.n_rows), int((~known).sum())


def _target_name(table: Table, plan: Plan) -> str:
    """Check the names in a plan; return the target's."""
    target = plan.target or table.default_target()
    names = table.names
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if target is None:
        raise ValueError(f"target must name the column to predict, one of {shown}; see --target")
    for argument, given in (
        ("target", [target]),
        ("weight", [plan.weight] if plan.weight else []),
        ("drop", plan.drop),
        ("categorical", plan.categorical),
    ):
        for name in given:
            if name not in names:
                raise ValueError(
                    f"{argument} must name a column of {table.path}, one of {shown}, got {name!r}"
                )
    return target


def _features(table: Table, plan: Plan) -> tuple[list[str], list[str]]:
    """Return the columns of numbers and those of categories."""
    out = {plan.target, plan.weight, *plan.drop}
    names = [name for name in table.names if name not in out]
    for name in names:
        if table.kind(name) not in ("number", "text"):
            raise ValueError(
                f"column {name!r} holds {table.kind(name)}, which is neither number nor text; make "
                f"numbers of it, or leave it out with --drop {name}"
            )
    if not names:
        raise ValueError(f"{table.path} must have a column besides target, weight and drop")
    numbers = [name for name in names if table.kind(name) == "number"]
    return numbers, [name for name in names if name not in numbers]


class _FirstPass:
    """What has been seen so far."""

    def __init__(
        self,
        plan: Plan,
        numbers: list[str],
        categories: list[str],
        scaler: Any,
        target: TargetSeen,
    ) -> None:
        self.plan, self.numbers, self.categories = plan, numbers, categories
        self.scaler, self.target = scaler, target
        self.values: dict[str, set[str]] = {name: set() for name in categories}
        self.missing: set[str] = set()
        self.n_rows = self.n_training = self.n_validation = self.n_left_out = 0
        self.order: list[str] = []

    def rows(self, table: Table) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Read the table."""
        self.order = [n for n in table.names if n in self.numbers or n in self.categories]
        chunks = table.chunks(used(self.plan, self.order))
        for chunk, held, n_left_out in split(chunks, self.plan):
            self.n_left_out += n_left_out
            yield chunk, held

    def see(self, chunk: Chunk, held: np.ndarray) -> None:
        """Take in a chunk."""
        n = chunk.n_rows
        training = ~held
        if self.numbers and training.any():
            # One matrix, since partial_fit takes the columns together.
            block = np.empty((n, len(self.numbers)))
            for i, name in enumerate(self.numbers):
                block[:, i] = chunk.numbers(name)
                check_numbers(name, block[:, i], np.isinf(block[:, i]), chunk)
            take_in(self.scaler, block[training])
        for name in self.categories:
            codes, values = chunk.codes(name, text=True)
            self._collect(name, values)
            if (codes < 0).any():
                self.missing.add(name)
        self.target.see(chunk, training)
        self.n_rows += n
        self.n_training += int(training.sum())
        self.n_validation += int(held.sum())

    def _collect(self, name: str, values: list[str]) -> None:
        """Add categories, up to a limit."""
        seen, most = self.values[name], self.plan.most_categories
        seen.update(values)
        if len(seen) > most:
            self._refuse_stray(name)
            raise ValueError(
                f"column {name!r} has more than {most} different texts, such as {min(values)!r}; "
                f"leave it out with --drop {name}, or raise --most-categories"
            )

    def _refuse_stray(self, name: str) -> None:
        """Refuse texts among what is mostly numbers, unless they are said to be categories."""
        values = self.values[name]
        stray = {value for value in values if not is_number(value)}
        if stray and len(stray) < len(values) / 2 and name not in self.plan.categorical:
            raise ValueError(
                f"column {name!r} holds numbers, but also {min(stray)!r}; if that stands for a "
                f"missing value, say so with --missing {min(stray)!r}, else take the column as "
                f"categories with --categorical {name}"
            )

    def found(self) -> Fitted:
        """Return what has been found, once all is read."""
        plan = self.plan
        if not self.n_training:
            raise ValueError(
                f"DATA must have a training row, got {self.n_validation} rows, all of them held "
                f"out, and {self.n_left_out} without a target"
            )
        if plan.validation and not self.n_validation:
            raise ValueError(
                f"validation={plan.validation} holds out none of {self.n_training} rows; give a "
                "larger share, or 0"
            )
        target, labels, counts = self.target.found()
        columns = tuple(self._column(name) for name in self.order)
        return Fitted(
            plan, Preprocessing(columns, target), labels, counts,
            self.n_training, self.n_validation, self.n_left_out,
        )  # fmt: skip

    def _column(self, name: str) -> Column:
        """Return how a column is preprocessed."""
        if name in self.numbers:
            i = self.numbers.index(name)
            if not np.broadcast_to(self.scaler.n_samples_seen_, len(self.numbers))[i]:
                raise ValueError(
                    f"column {name!r} holds nothing in any training row; leave it out with "
                    f"--drop {name}"
                )
            return Number(name, *moments(self.scaler, i))
        self._refuse_stray(name)
        return Category(name, tuple(sorted(self.values[name])), name in self.missing)
