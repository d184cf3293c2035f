"""What the inputs and outputs of a network stand for: labels, feature names, preprocessing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpubackprop.model import Model

#: What a class may be called.
Label: TypeAlias = str | int | float | bool
_KINDS = (str, bool, int, float)


@dataclass(frozen=True)
class Schema:
    """What a network's inputs and outputs stand for. A network's file holds it; nothing computes
    with it.

    Parameters
    ----------
    labels : sequence of str, int, float or bool, optional
        What each output stands for, all of one type: the classes in their order, or the names of
        the targets. One for each output; two for a single sigmoid output.
    feature_names : sequence of str, optional
        Of the network's inputs, one for each.
    preprocessing : str, optional
        Text that says how inputs are made of a table's columns. Whoever writes it reads it.

    Raises
    ------
    TypeError, ValueError
        If an entry has another type, or a label or a name is there twice.

    Examples
    --------
    >>> Schema(labels=["no", "yes"]).labels
    ('no', 'yes')
    """

    labels: tuple[Label, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    preprocessing: str | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("labels", _KINDS), ("feature_names", (str,))):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _entries(name, getattr(self, name), kinds))
        if self.preprocessing is not None and not isinstance(self.preprocessing, str):
            raise TypeError(
                "preprocessing must be text, such as JSON, got "
                f"{type(self.preprocessing).__name__}; use json.dumps"
            )

    def check(self, model: Model) -> None:
        """Refuse a number of labels or names that is not the model's.

        Raises
        ------
        ValueError
            That names the number.
        """
        n_in, n_out = model.sizes[0], model.sizes[-1]
        wanted = 2 if n_out == 1 and model.activations[-1].name == "sigmoid" else n_out
        if self.labels is not None and len(self.labels) != wanted:
            why = "the two classes of its one output" if wanted > n_out else "one for each output"
            raise ValueError(f"labels must be {wanted}, {why}, got {len(self.labels)}")
        if self.feature_names is not None and len(self.feature_names) != n_in:
            raise ValueError(
                f"feature_names must be {n_in}, one for each input of the network, "
                f"got {len(self.feature_names)}"
            )

    def replaced(self, labels: Any, feature_names: Any, preprocessing: Any) -> "Schema":
        """Return the same with other entries where they are not None."""
        return Schema(
            self.labels if labels is None else labels,
            self.feature_names if feature_names is None else feature_names,
            self.preprocessing if preprocessing is None else preprocessing,
        )

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(
            {
                "labels": self.labels,
                "feature_names": self.feature_names,
                "preprocessing": self.preprocessing,
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))


def _entries(name: str, values: Any, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """Return a sequence as a tuple of Python's own types, once it is known to be good."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence, got {values!r}")
    found = tuple(_plain(value) for value in values)
    allowed = ", ".join(kind.__name__ for kind in kinds)
    for i, value in enumerate(found):
        if type(value) not in kinds:
            raise TypeError(f"{name}[{i}] must be one of {allowed}, got {value!r}")
        if type(value) is not type(found[0]):
            raise TypeError(f"{name} must be all of one type, got {found[0]!r} and {value!r}")
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{name}[{i}] must be finite, got {value!r}")
    seen: set[Any] = set()
    for i, value in enumerate(found):
        if value in seen:
            raise ValueError(f"{name} must differ from each other, {name}[{i}] is {value!r} again")
        seen.add(value)
    return found


def _plain(value: Any) -> Any:
    """Return NumPy's scalars as Python's."""
    return value.item() if isinstance(value, np.generic) else value
