"""Values of options: lists of names, and things with settings such as "huber:limit=0.5"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpubackprop import activations, losses
from gpubackprop.activations import Activation
from gpubackprop.losses import Loss
from gpubackprop.optimizers import OPTIMIZERS, Optimizer
from gpubackprop.schedules import SCHEDULES, Schedule


def names(text: str | None) -> tuple[str, ...] | None:
    """Split "a,b" into names."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def value(text: str) -> Any:
    """Return the number or boolean that a text is, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def settings(argument: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read settings such as "limit=0.5".

    Raises
    ------
    ValueError
        If one is not of this form, or there twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, given = text.partition("=")
        name = name.strip()
        if not name or not equals or name in found:
            raise ValueError(f"{argument} must be of the form name=value, each once, got {text!r}")
        found[name] = value(given.strip())
    return found


def with_settings(argument: str, text: str) -> tuple[str, dict[str, Any]]:
    """Read "name", or "name:setting=value,setting=value"."""
    name, _, rest = text.partition(":")
    return name.strip(), settings(argument, [part for part in rest.split(",") if part.strip()])


def activation(argument: str, text: str) -> Activation:
    """Return an activation such as "relu" or "leaky_relu:slope=0.1"."""
    name, given = with_settings(argument, text)
    found: Activation = _parametrised(argument, activations.get(name, argument), given)
    return found


def loss(text: str) -> Loss:
    """Return a loss such as "squared" or "huber:limit=0.5"."""
    name, given = with_settings("loss", text)
    found: Loss = _parametrised("loss", losses.get(name), given)
    return found


def _parametrised(argument: str, entry: Any, given: dict[str, Any]) -> Any:
    """Return an entry of a table with other parameters."""
    for name in given:
        if name not in entry.parameters:
            raise ValueError(
                f"{argument} {entry.name!r} has {_list(entry.parameters) or 'no settings'}, "
                f"got {name!r}"
            )
    return entry(**given) if given else entry


def integers(argument: str, text: str) -> list[int]:
    """Read "64,32"; "none" is none."""
    if text.strip().lower() == "none":
        return []
    found = [value(part) for part in names(text) or ()]
    if not found or not all(type(number) is int and number > 0 for number in found):
        raise ValueError(
            f"{argument} must be units of each layer, such as 64,32, or none, got {text!r}"
        )
    return found


def optimizer(
    name: str, learning_rate: float | None, schedule: str | None, epochs: int, given: dict[str, Any]
) -> Optimizer:
    """Return an optimiser.

    Parameters
    ----------
    name : str
        In `OPTIMIZERS`.
    learning_rate : float or None
        None is its own.
    schedule : str or None
        Such as "cosine:warmup=5", with `epochs` for those that want to know.
    epochs : int
    given : dict
        Its settings by name; those that are None are left out.

    Raises
    ------
    TypeError, ValueError
        That names the argument, and what it may be.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    made = OPTIMIZERS[name]
    known = {field.name: field.default for field in dataclasses.fields(made)}
    chosen = {key: one for key, one in given.items() if one is not None}
    for key in chosen:
        if key not in known:
            raise ValueError(f"optimizer {name!r} has {_list(known)}, got {key!r}")
    rate: Any = known["learning_rate"] if learning_rate is None else learning_rate
    if schedule is not None:
        rate = _schedule(schedule, rate, epochs)
    return made(learning_rate=rate, **chosen)


def _schedule(text: str, rate: float, epochs: int) -> Schedule:
    """Return a schedule such as "step:every=10,factor=0.5"."""
    name, given = with_settings("schedule", text)
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    made: Callable[..., Schedule] = SCHEDULES[name]
    _, *fields = dataclasses.fields(SCHEDULES[name])
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    if "epochs" in required:
        given = {"epochs": epochs} | given
    for key in given:
        if key not in [field.name for field in fields]:
            raise ValueError(
                f"schedule {name!r} has {_list([f.name for f in fields]) or 'no settings'}, "
                f"got {key!r}"
            )
    lacking = [key for key in required if key not in given]
    if lacking:
        raise ValueError(f"schedule {name!r} needs {lacking[0]}, such as {name}:{lacking[0]}=0.5")
    return made(rate, **given)


def class_weights(
    text: str | None, labels: Sequence[Any] | None, counts: Sequence[int] | None
) -> list[float] | None:
    """Return a weight for each class: "balanced", or such as "yes=5,no=1" (others 1).

    Raises
    ------
    ValueError
        If there is no such class, or a weight is no number > 0.
    """
    from gpubackprop.tables import balanced

    if text is None:
        return None
    if labels is None or counts is None:
        raise ValueError("class_weight needs classes, and the target is a quantity; leave it out")
    if text == "balanced":
        return balanced(counts)
    places = {str(label): i for i, label in enumerate(labels)}
    weights = [1.0] * len(labels)
    for name, weight in settings("class_weight", names(text) or ()).items():
        if name not in places:
            raise ValueError(f"class_weight must name classes, {_list(places)}, got {name!r}")
        if isinstance(weight, bool | str) or not 0 < weight < float("inf"):
            raise ValueError(f"class_weight must be numbers > 0, got {weight!r} for {name!r}")
        weights[places[name]] = float(weight)
    return weights


def _list(known: Mapping[str, Any] | Sequence[str]) -> str:
    """Name what there is, the first ten of them."""
    found = list(known)
    return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
