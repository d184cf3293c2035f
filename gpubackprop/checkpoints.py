"""Checkpoints: a run of `fit` as a file, from which it goes on to the same bits.

Slices may be cut anywhere (see `gpubackprop.pace`), so going on after any of them changes no bit.
`gpubackprop.runstate` says what a run has between two of them.

A checkpoint is a network's file with more in it: `gpubackprop.load` opens it.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from typing import Any

import numpy as np

from gpubackprop import container, executors, fingerprint, runstate, storage
from gpubackprop.buffers import Parameters
from gpubackprop.container import PathLike, shape_of
from gpubackprop.executors.base import Job
from gpubackprop.model import Model
from gpubackprop.run import Run
from gpubackprop.runstate import RunState
from gpubackprop.schema import Schema
from gpubackprop.storage import RUN, Stored
from gpubackprop.training import Trainer

#: Seconds between two checkpoints, where the user says nothing.
EVERY = 60.0


class Checkpoints:
    """The arguments `checkpoint`, `every` and `resume` of one call of `fit`.

    Parameters
    ----------
    checkpoint : path-like or None
        Where checkpoints are written.
    every : float, "epoch" or None
    resume : bool or path-like
    model : Model

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what it may be; if the file to resume from is no
        checkpoint, or one of another network.
    FileNotFoundError
        If there is no such file; with ``resume=True`` training then begins.
    """

    def __init__(
        self, checkpoint: PathLike | None, every: Any, resume: bool | PathLike, model: Model
    ) -> None:
        self.path = checkpoint
        if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
            raise TypeError(f"checkpoint must be a path or None, got {checkpoint!r}")
        self.every = _every(every, checkpoint)
        self.saved: _Saved | None = None
        path = _resumed(resume, checkpoint)
        if path is not None:
            self.saved = _Saved(path, model)

    def dropout_seed(self, seed: int) -> int:
        """Return the seed that the checkpoint's masks are drawn with, else the network's."""
        return seed if self.saved is None else int(self.saved.state.dropout_seed)

    def executor(self, executor: str, job: Job) -> str:
        """Return the executor that the checkpoint was made with, where the user leaves it open."""
        if executor != "auto" or self.saved is None:
            return executor
        name, backend = self.saved.state.executor, self.saved.state.backend
        found = executors.EXECUTORS.get(name)
        if found is None or backend != job.backend.name or found.refusal(job) is not None:
            return executor
        return str(name)

    def attach(self, trainer: Trainer, schema: Schema) -> Keeper | None:
        """Restore a run, and return the callback that keeps it.

        Raises
        ------
        ValueError
            If the data or the arguments are not those that the checkpoint was made with; the
            message names what differs. Nothing has been changed then.
        """
        if self.saved is None and self.path is None:
            return None
        made_with = _made_with(trainer)
        if self.saved is not None:
            self.saved.restore(trainer, made_with)
            self.saved = None
        if self.path is None:
            return None
        keeper = Keeper(trainer, self.path, self.every, schema, made_with)
        trainer.callbacks += (keeper,)
        return keeper


def _every(every: Any, checkpoint: PathLike | None) -> float | None:
    """Return the seconds between checkpoints; None is at the ends of epochs."""
    if every is None:
        return EVERY
    if checkpoint is None:
        raise ValueError(f"every says how often `checkpoint` is written: give both, got {every!r}")
    if isinstance(every, str):
        if every == "epoch":
            return None
        raise ValueError(f"every must be a number of seconds or 'epoch', got {every!r}")
    if isinstance(every, bool) or not isinstance(every, int | float | np.number):
        raise TypeError(f"every must be a number of seconds or 'epoch', got {every!r}")
    if not 0 <= every < math.inf:
        raise ValueError(f"every must be a number of seconds >= 0 or 'epoch', got {every!r}")
    return float(every)


def _resumed(resume: bool | PathLike, checkpoint: PathLike | None) -> PathLike | None:
    """Return the file to go on from, if there is one."""
    if isinstance(resume, str | os.PathLike):
        return resume
    if not isinstance(resume, bool):
        raise TypeError(f"resume must be True, False or a path, got {resume!r}")
    if resume and checkpoint is None:
        raise ValueError("resume=True goes on from `checkpoint`: give its path, or resume=path")
    return checkpoint if resume and checkpoint is not None and os.path.exists(checkpoint) else None


def _made_with(trainer: Trainer) -> dict[str, str | None]:
    """Return what decides a run, by the names of `fit`'s arguments."""
    job = trainer.job
    backend, model = job.backend, job.model
    trainable = trainer.state.trainable
    made = fingerprint.of_data(trainer.source, model, backend)
    made["batch_size"] = str(job.batch_size)
    made["optimizer"] = fingerprint.of_settings(job.optimizer)
    if job.precision is not None:
        made["precision"] = job.precision
    made["shuffle"] = str(trainer.shuffle)
    made["trainable"] = None
    if trainable is not None:
        made["trainable"] = fingerprint.of_array(backend.to_numpy(trainable))
    if trainer.validation is not None:
        made |= fingerprint.of_data(trainer.validation, model, backend, "validation ")
    made["early_stopping"] = fingerprint.of_settings(trainer.early_stopping)
    return made


# ---- writing -------------------------------------------------------------------------------------


class Keeper:
    """A callback that writes checkpoints; the last of a run's. As a context it holds Ctrl-C back
    until the slice under way is done, so that nothing is lost. A second one comes through at once.

    Parameters
    ----------
    trainer : Trainer
    path : path-like
    every : float or None
        Seconds between two checkpoints; None for the ends of epochs.
    schema : Schema
        Of the network.
    made_with : dict
        What a resumed run is compared with.
    """

    def __init__(
        self,
        trainer: Trainer,
        path: PathLike,
        every: float | None,
        schema: Schema,
        made_with: dict[str, str | None],
    ) -> None:
        self._trainer, self._path, self._every = trainer, path, every
        self._schema, self._made_with = schema, made_with
        self._written, self._interrupted = time.monotonic(), False
        self._handler: Any = None
        # Refused before any work: what could not be written.
        runstate.capture(trainer, 0, 0, made_with)[0].to_json()

    def __enter__(self) -> None:
        container.remove_partial(self._path)
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def __exit__(self, *error: object) -> None:
        self._release()
        self._trainer.callbacks = ()  # no circle that would keep its buffers alive

    def _interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True
        self._release()

    def _release(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def on_slice(self, run: Run) -> None:
        """Write a checkpoint if it is time, and let Ctrl-C through."""
        if run.stopping:  # the epoch ends here
            return
        due = self._every is not None and time.monotonic() - self._written >= self._every
        if due or self._interrupted:
            self.write(run.epoch, run.rows_done)
        if self._interrupted:
            raise KeyboardInterrupt

    def on_epoch_end(self, run: Run) -> None:
        """Write a checkpoint if it is time, and at the run's end in any case."""
        ended = run.stopping is not None or run.epoch + 1 >= run.epochs
        due = self._every is None or time.monotonic() - self._written >= self._every
        if ended or due or self._interrupted:
            self.write(run.epoch + 1, 0)
        if self._interrupted:
            raise KeyboardInterrupt

    def write(self, epoch: int, rows_done: int) -> None:
        """Write the run as it stands before the row `rows_done` of an epoch."""
        trainer, began = self._trainer, time.perf_counter()
        state, tensors = runstate.capture(trainer, epoch, rows_done, self._made_with)
        shapes = {name: shape_of(array.dtype, array.shape) for name, array in tensors.items()}
        flat = trainer.job.backend.to_numpy(trainer.parameters.flat)
        storage.save(
            self._path,
            trainer.job.model,
            Parameters(trainer.job.model, flat),
            self._schema,
            tensors={f"{RUN}.{name}": array for name, array in tensors.items()},
            text={RUN: state.to_json(tensors=shapes)},
        )
        self._written = time.monotonic()
        trainer.started += time.perf_counter() - began  # no time of training


# ---- reading -------------------------------------------------------------------------------------


class _Saved:
    """A checkpoint that was read.

    Parameters
    ----------
    path : path-like
    model : Model
        Of the network that is to go on.
    """

    def __init__(self, path: PathLike, model: Model) -> None:
        self.path = path
        self.stored: Stored = storage.load(path)
        if RUN not in self.stored.text:
            raise ValueError(f"{path} is no checkpoint: it holds a network, and no run of fit")
        try:
            self.state = RunState.from_json(self.stored.text[RUN])
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        theirs, ours = storage.describe(self.stored.model), storage.describe(model)
        for name, value in theirs.items():
            if ours[name] != value:
                raise ValueError(
                    f"{path} is of another network: {_difference(name, value, ours[name])}"
                )

    def restore(self, trainer: Trainer, made_with: dict[str, str | None]) -> None:
        """Bring a trainer to where this checkpoint was made, if it has the same data and settings.

        Raises
        ------
        ValueError
            Naming what differs, or that the file is damaged.
        """
        self._compare(trainer, made_with)
        prefix = f"{RUN}."
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.stored.tensors.items()
            if name.startswith(prefix)
        }
        try:
            runstate.restore(trainer, self.state, tensors)
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None
        parameters = trainer.parameters
        for values, arrays in (
            (self.stored.weights, parameters.weights),
            (self.stored.biases, parameters.biases),
        ):
            for value, array in zip(values, arrays, strict=True):
                if value is not None:
                    trainer.job.backend.upload(value, array)

    def _compare(self, trainer: Trainer, made_with: dict[str, str | None]) -> None:
        """Refuse data and arguments that would make another run."""
        theirs = self.state.made_with
        for name in {**theirs, **made_with}:
            old, new = theirs.get(name), made_with.get(name)
            if old != new:
                raise ValueError(
                    f"{self.path} was made with {_difference(name, old, new)}; give what it was "
                    "made with, or begin anew without resume"
                )
        saved = self.state.generator["bit_generator"]
        ours = trainer.rng.bit_generator.state["bit_generator"]
        if saved != ours:
            raise ValueError(
                f"{self.path} was made with an rng of {saved}, this network has one of {ours}; "
                f"make it with rng=numpy.random.Generator(numpy.random.{saved}())"
            )
        if trainer.run.epochs < self.state.epochs_begun:
            raise ValueError(
                f"epochs must be {self.state.epochs_begun} at least, as many as {self.path} has "
                f"begun, got {trainer.run.epochs}"
            )


def _difference(name: str, old: Any, new: Any) -> str:
    """Say how two settings differ; of data only that they do."""
    digests = ("X", "Y", "sample_weight", "trainable")
    if name.removeprefix("validation ") not in digests:
        return f"{name} {old}, got {new}"
    if old is None or new is None:
        return f"{name}, got none" if new is None else f"no {name}"
    return f"other values of {name}"
