"""Several short epochs as one call of an executor, where nothing is to happen between them.

What Python does between two epochs takes 20 to 40 us, which is more than an epoch of few rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from gpubackprop.data import Source
from gpubackprop.executors.base import Epochs
from gpubackprop.schedules import Constant

if TYPE_CHECKING:
    from gpubackprop.training import Trainer

#: What a callback is told between epochs.
_BETWEEN = ("on_slice", "on_epoch_end")


def possible(trainer: Trainer) -> bool:
    """Tell whether nobody wants to see, or to decide anything, between the epochs of a run.

    A callback with a true attribute `patient` need not be told of every slice and epoch.
    """
    return (
        hasattr(trainer.executor, "epochs")
        and isinstance(trainer.source, Source)
        and isinstance(trainer.job.optimizer.schedule, Constant)
        and (trainer.order is None or trainer.shuffle in (True, "full"))
        and trainer.validation is None
        and trainer.early_stopping is None
        and all(
            getattr(callback, "patient", False) or not any(hasattr(callback, e) for e in _BETWEEN)
            for callback in trainer.callbacks
        )
    )


def take(trainer: Trainer, count: int) -> bool:
    """Train for so many epochs; tells whether the executor can.

    Raises
    ------
    DivergenceError
        As `Trainer.fit` does, of the epoch in which it happened.
    """
    run, batch_size = trainer.run, trainer.job.batch_size
    first, left = run.epoch, run.epochs - run.epoch
    count = min(count, left)
    losses, done = np.zeros(count), np.array([0, -1], np.int64)
    epochs = Epochs(min(count, left - 1), trainer.rng, trainer.before, losses, done)
    began = time.perf_counter()
    try:
        able: bool = trainer.executor.epochs(  # type: ignore[attr-defined]
            trainer.source, trainer.order, batch_size, trainer.parameters, trainer.state,
            trainer.progress, epochs,
        )  # fmt: skip
    finally:
        _record(trainer, losses[: done[0]], time.perf_counter() - began)
    if able and done[0] < count:
        run.epoch = first + int(done[0])
        trainer.diverged(None if done[1] < 0 else int(done[1]))
    return able


def _record(trainer: Trainer, losses: np.ndarray, seconds: float) -> None:
    """Put epochs into the history, which share the time equally."""
    run, history, k = trainer.run, trainer.run.history, len(losses)
    if k == 0:
        return
    n = trainer.source.n_samples
    assert n is not None  # it is a Source
    shares = np.arange(1, k + 1)
    history.epoch += range(run.epoch, run.epoch + k)
    history.loss += (losses / n).tolist()
    history.learning_rate += [trainer.rates(0)] * k
    history.seconds += (trainer.seconds + seconds / k * shares).tolist()
    history.samples += (trainer.samples + n * shares).tolist()
    trainer.seconds, trainer.samples = history.seconds[-1], history.samples[-1]
    run.epoch, run.rows_done = run.epoch + k - 1, n
