"""A call of `fit` under way, as its callbacks see it, and the learning rates of its batches."""

from __future__ import annotations

import math

from gpubackprop.buffers import Parameters
from gpubackprop.data import Batches, Source
from gpubackprop.executors.base import Job
from gpubackprop.history import History
from gpubackprop.types import Array

#: The methods of a callback, in the order of their first calls.
EVENTS = ("on_fit_begin", "on_slice", "on_epoch_end", "on_fit_end")


class Run:
    """A call of `fit` under way: what callbacks are given.

    Attributes
    ----------
    model : Model
    backend : Backend
    optimizer : Optimizer
    parameters : Parameters
        Live: reading them on a device waits for it.
    history : History
    epoch, epochs : int
        The epoch under way, counted from 0, and how many there are to be.
    batch_size : int or None
        None where the source decides.
    rows_done, n_samples : int, int or None
        Rows of this epoch that are done or under way, and how many it has (None if that is not
        known).
    """

    def __init__(
        self, job: Job, parameters: Parameters, source: Source | Batches, epochs: int
    ) -> None:
        self.model, self.backend, self.optimizer = job.model, job.backend, job.optimizer
        self.parameters, self.batch_size = parameters, job.batch_size
        self.history = History(backend=job.backend.name)
        self.epoch, self.epochs = 0, epochs
        self.rows_done, self.n_samples = 0, source.n_samples
        self.stopping: str | None = None

    @property
    def weights(self) -> list[Array]:
        """W of each layer, of shape (n_out, n_in)."""
        return self.parameters.weights

    @property
    def biases(self) -> list[Array | None]:
        """b of each layer, of shape (n_out,)."""
        return self.parameters.biases

    def stop(self, why: str = "callback") -> None:
        """End training after the slice under way; what was done of its epoch counts."""
        self.stopping = why


class Rates:
    """The learning rate of each batch of the epoch under way.

    Apart from `Trainer`, whose progress holds it: a circle would keep a run's memory until the next
    collection of garbage.
    """

    def __init__(self, job: Job, run: Run) -> None:
        self._schedule, self._run, self._batch_size = job.optimizer.schedule, run, job.batch_size
        self.state = self._schedule.begin()
        self._rate = 0.0

    def begin_epoch(self) -> None:
        """Take the rate of an epoch's start."""
        self._rate = self._schedule.rate(float(self._run.epoch), self.state)

    def observe(self, loss: float) -> None:
        """Tell the schedule the loss of the epoch."""
        self._schedule.observe(self.state, loss)

    def __call__(self, batch: int) -> float:
        """Return the rate of a batch, counted from the epoch's start."""
        n = self._run.n_samples
        if not self._schedule.per_update or n is None or self._batch_size is None:
            return self._rate
        done = batch / math.ceil(n / self._batch_size)
        return self._schedule.rate(self._run.epoch + done, self.state)
