"""Everything that a run of `fit` has between two slices of an epoch: captured, and restored.

Numbers are JSON, arrays are tensors. The parameters stand in the network's own tensors.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.container import MALFORMED
from gpubackprop.training import Trainer
from gpubackprop.types import Array

#: Lists of a history, which are stored as tensors.
_LISTS = {
    "epoch": np.int64, "loss": np.float64, "validation_loss": np.float64,
    "learning_rate": np.float64, "seconds": np.float64, "samples": np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class RunState:
    """The numbers of a run.

    Attributes
    ----------
    epoch, rows_done, batch : int
        The epoch under way, and its rows and batches that are done.
    steps, updates : int
        Updates that the network has had, and that the slots have had.
    seconds, samples : float, int
        Spent and trained on until now.
    dropout_seed : int
    stopping : str or None
        Why the run has ended.
    best_loss, bad_epochs, best_epoch : float, int, int or None
        What early stopping has seen.
    schedule : dict of str to number
        The schedule's state.
    generator : dict
        The state of the bit generator now.
    drawn : (int, dict) or None
        The epoch whose order of rows was drawn last, and the generator's state before that.
    backend, executor : str
        What does the work.
    made_with : dict of str to str or None
        The data and the settings of the run.
    """

    epoch: int
    rows_done: int
    batch: int
    steps: int
    updates: int
    seconds: float
    samples: int
    dropout_seed: int
    stopping: str | None
    best_loss: float
    bad_epochs: int
    best_epoch: int | None
    schedule: dict[str, float]
    generator: dict[str, Any]
    drawn: tuple[int, dict[str, Any]] | None
    backend: str
    executor: str
    made_with: dict[str, str | None]

    def __post_init__(self) -> None:
        whole = [f.name for f in dataclasses.fields(self) if f.type == "int"]
        for name in whole:
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}")
        if not isinstance(self.generator["bit_generator"], str):
            raise ValueError(f"generator is {self.generator!r}")
        if not isinstance(self.schedule, dict):
            raise ValueError(f"schedule is {self.schedule!r}")
        for number in (self.seconds, self.best_loss):
            if not isinstance(number, int | float):
                raise ValueError(f"{number!r} is no number")

    @property
    def epochs_begun(self) -> int:
        """How many epochs have begun."""
        return self.epoch + (self.rows_done > 0)

    def to_json(self, **more: Any) -> str:
        """Return what `from_json` reads, with further entries."""
        entries = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps(_encode({**entries, **more}), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunState:
        """Return what `to_json` wrote.

        Raises
        ------
        ValueError
            If it did not write that.
        """
        try:
            found = _decode(json.loads(text))
            state = cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})
        except MALFORMED as error:
            raise ValueError(f"its run: {error!r}") from None
        return state


def _encode(value: Any) -> Any:
    """Return JSON's types for numbers, arrays and what is made of them."""
    if isinstance(value, dict):
        return {name: _encode(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _encode(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"a checkpoint can hold numbers and text, got {value!r}")
    return value


def _decode(value: Any) -> Any:
    """Return what `_encode` was given, with lists for arrays and tuples."""
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {name: _decode(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_decode(one) for one in value]
    return value


# ---- a trainer's ---------------------------------------------------------------------------------


def capture(
    trainer: Trainer, epoch: int, rows_done: int, made_with: dict[str, str | None]
) -> tuple[RunState, dict[str, np.ndarray]]:
    """Return the numbers and the arrays of a run that stands before a row of an epoch.

    Raises
    ------
    TypeError
        If the schedule's or the generator's state holds something that JSON has not.
    """
    run, within = trainer.run, rows_done > 0
    now = time.perf_counter() - trainer.started if within else 0.0
    state = RunState(
        epoch=epoch,
        rows_done=rows_done,
        batch=trainer.progress.batch if within else 0,
        steps=trainer.progress.steps,
        updates=trainer.state.updates,
        seconds=trainer.seconds + now,
        samples=trainer.samples,
        dropout_seed=trainer.job.dropout_seed,
        stopping=run.stopping,
        best_loss=trainer.best_loss,
        bad_epochs=trainer.bad_epochs,
        best_epoch=run.history.best_epoch,
        schedule=trainer.rates.state,
        generator=dict(trainer.rng.bit_generator.state),
        drawn=trainer.drawn,
        backend=trainer.job.backend.name,
        executor=run.history.executor,
        made_with=made_with,
    )
    return state, _tensors(trainer, within)


def _tensors(trainer: Trainer, within: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a run, on the host; those of an epoch under way if it is within one."""
    host, history = trainer.job.backend.to_numpy, trainer.run.history
    tensors = {
        f"history.{name}": np.array(getattr(history, name), dtype) for name, dtype in _LISTS.items()
    }
    slots = zip(trainer.job.optimizer.slots, trainer.state.slots, strict=True)
    tensors |= {f"slot.{name}": host(slot) for name, slot in slots}
    if trainer.best is not None:
        tensors["best"] = host(trainer.best)
    if within:
        tensors |= {"before": host(trainer.before), "tally": trainer.tally.to_numpy()}
    return tensors


def restore(trainer: Trainer, state: RunState, tensors: dict[str, np.ndarray]) -> None:
    """Bring a trainer to where a run was captured. Its parameters are not touched.

    Raises
    ------
    ValueError
        If an array is missing or has another shape, or a generator's state is none. Nothing has
        been changed then.
    """
    _check_generator(trainer, state)
    pairs = _pairs(trainer, state, tensors)
    for values, out in pairs:
        trainer.job.backend.upload(values, out)
    run, history = trainer.run, trainer.run.history
    for name in _LISTS:
        getattr(history, name)[:] = tensors[f"history.{name}"].tolist()
    history.best_epoch, run.stopping = state.best_epoch, state.stopping
    trainer.rates.state.clear()
    trainer.rates.state.update(state.schedule)
    trainer.best_loss, trainer.bad_epochs = state.best_loss, state.bad_epochs
    trainer.progress.steps, trainer.state.updates = state.steps, state.updates
    trainer.progress.batch = state.batch
    trainer.seconds, trainer.samples = state.seconds, state.samples
    trainer.go_on(state.epoch, state.rows_done, state.drawn, state.generator)


def _check_generator(trainer: Trainer, state: RunState) -> None:
    """Try the generator's states on a copy."""
    copied = copy.deepcopy(trainer.rng.bit_generator)
    try:
        for one in (state.generator, state.drawn[1] if state.drawn else state.generator):
            copied.state = one
    except MALFORMED as error:
        raise ValueError(f"its run: the generator's state: {error!r}") from None


def _pairs(
    trainer: Trainer, state: RunState, tensors: dict[str, np.ndarray]
) -> list[tuple[np.ndarray, Array]]:
    """Return which array is uploaded where."""
    flat, slots = trainer.parameters.flat, trainer.state.slots
    wanted: dict[str, Array] = {
        f"slot.{name}": slot for name, slot in zip(trainer.job.optimizer.slots, slots, strict=True)
    }
    if state.rows_done:
        wanted |= {"before": trainer.before, "tally": trainer.tally.values}
    if "best" in tensors:
        wanted["best"] = trainer.job.backend.empty(flat.shape, flat.dtype)
    for name, array in wanted.items():
        if name not in tensors or tensors[name].shape != tuple(array.shape):
            raise ValueError(f"its run: {name} is missing, or has another shape")
    for name in _LISTS:
        if f"history.{name}" not in tensors:
            raise ValueError(f"its run: history.{name} is missing")
    trainer.best = wanted.get("best")
    return [(tensors[name], array) for name, array in wanted.items()]
