"""What the column to be predicted holds: classes or a quantity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.tables.chunks import Chunk, check_numbers
from gpubackprop.tables.plan import Plan
from gpubackprop.tables.preprocessing import Target

#: A target of whole numbers with more different ones than these is taken for a quantity.
MOST_NUMBERED_CLASSES = 20
_MOST_CLASSES = 10_000


class TargetSeen:
    """What has been seen of the target so far.

    Parameters
    ----------
    plan : Plan
    kind : str
        Of the column, as `Table.kind` has it.
    scaler : StandardScaler
        Fitted to a quantity.

    Raises
    ------
    ValueError
        If a quantity is asked for and the column holds none.
    """

    def __init__(self, plan: Plan, kind: str, scaler: Any) -> None:
        self._plan, self._scaler = plan, scaler
        self._counts: Counter[Any] = Counter()
        self._numeric = kind == "number"
        self._classes = plan.task != "regression"
        if kind not in ("number", "text") or not (self._numeric or self._classes):
            raise ValueError(
                f"target must hold numbers{' or text' if self._classes else ''}, and "
                f"{plan.target!r} holds {kind}"
            )

    def see(self, chunk: Chunk, training: np.ndarray) -> None:
        """Take in a chunk, of which some rows are for training."""
        if self._classes:
            self._count(chunk, training)
        if self._numeric and training.any():
            assert self._plan.target is not None
            numbers = chunk.numbers(self._plan.target)
            check_numbers(self._plan.target, numbers, np.isinf(numbers), chunk)
            take_in(self._scaler, numbers[training, None])

    def _count(self, chunk: Chunk, training: np.ndarray) -> None:
        """Count classes until they are too many to be some."""
        assert self._plan.target is not None
        codes, values = chunk.codes(self._plan.target)
        counts = np.bincount(codes[training], minlength=len(values))
        self._counts.update(dict(zip(values, counts.tolist(), strict=True)))
        n = len(self._counts)
        if self._plan.task == "auto" and values and isinstance(values[0], int | float):
            whole = all(float(value).is_integer() for value in values)
            self._classes = whole and n <= MOST_NUMBERED_CLASSES
        elif n > _MOST_CLASSES:
            raise ValueError(
                f"target must have {_MOST_CLASSES:,} classes at most, and {self._plan.target!r} "
                "has more; use --task regression for a quantity, or another --target"
            )

    def found(self) -> tuple[Target, list[Any] | None, list[int] | None]:
        """Return what the outputs stand for; the classes, and how many training rows each has."""
        name = self._plan.target
        assert name is not None
        if not self._classes:
            mean, scale = moments(self._scaler, 0) if self._plan.scale_target else (0.0, 1.0)
            return Target(name, "numbers", mean, scale), None, None
        labels = sorted(self._counts)
        if len(labels) < 2:
            raise ValueError(
                f"target must hold two classes at least, and {name!r} is {labels[0]!r} in all rows"
            )
        return Target(name, "classes"), labels, [self._counts[label] for label in labels]


def targets(chunk: Chunk, target: Target, labels: Sequence[Any] | None) -> np.ndarray:
    """Return the target of rows as a network is trained on it: class numbers, or the quantity in
    units of its scale, of shape (n_rows,).

    Raises
    ------
    ValueError
        If a value is no number, or none of the labels.
    """
    if labels is None:
        numbers = chunk.numbers(target.name)
        check_numbers(target.name, numbers, ~np.isfinite(numbers), chunk)
        return (numbers - target.mean) / target.scale
    codes, values = chunk.codes(target.name)
    places = {label: i for i, label in enumerate(labels)}
    classes: np.ndarray = np.array([*(places.get(value, -1) for value in values), -1])[codes]
    if (classes < 0).any():
        i = int((classes < 0).argmax())
        value = "nothing" if codes[i] < 0 else repr(values[codes[i]])
        raise ValueError(
            f"target {target.name!r} must be one of {', '.join(map(repr, labels[:5]))}"
            f"{', ...' if len(labels) > 5 else ''}, got {value} in row {chunk.row(i)}"
        )
    return classes


def take_in(scaler: Any, block: np.ndarray) -> None:
    """Fit a StandardScaler to more rows; a column may have no value in them, or none so far."""
    with np.errstate(invalid="ignore"):
        scaler.partial_fit(block)
    # Of a column without a value scikit-learn makes NaN, which would stay for ever.
    for found in (scaler.mean_, scaler.var_):
        found[np.isnan(found)] = 0.0


def moments(scaler: Any, i: int) -> tuple[float, float]:
    """Return mean and scale of a column of a StandardScaler."""
    return float(scaler.mean_[i]), float(scaler.scale_[i])
