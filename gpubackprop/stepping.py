"""One update, or one gradient, at a time: for `Network.step`, `gradient` and `trace`."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.data import Source
from gpubackprop.executors.base import Job, Progress, Tally
from gpubackprop.executors.eager import Eager
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

AnyParameters = TypeVar("AnyParameters", bound=Parameters)


class Stepper:
    """Single updates and gradients, all rows as one batch; keeps the slots between updates.

    Parameters
    ----------
    job : Job
    trainable : NumPy array or None
        Flat, 1 where an entry may change, else 0.
    """

    def __init__(self, job: Job, trainable: np.ndarray | None) -> None:
        self.job, self.trainable = job, trainable
        mask = None if trainable is None else job.backend.asarray(trainable)
        self.state = backprop.new_state(job.backend, job.model, job.optimizer, mask)
        self._executor, self._tally = Eager(job), Tally(job.backend)

    def goes_on(self, optimizer: Optimizer, trainable: np.ndarray | None) -> bool:
        """Tell whether an update with these belongs to the same run."""
        if trainable is None or self.trainable is None:
            same = trainable is self.trainable
        else:
            same = np.array_equal(trainable, self.trainable)
        return same and optimizer == self.job.optimizer

    def step(self, source: Source, parameters: Parameters, steps: int) -> float:
        """Do one update, the network's `steps`-th from 0; returns the mean loss from before it."""
        schedule, n = self.job.optimizer.schedule, source.n_samples
        rate = schedule.rate(0.0, schedule.begin())
        progress = Progress(lambda batch: rate, steps=steps)
        self._tally.clear()
        self._executor.run(source, None, 0, n, n, parameters, self.state, progress, self._tally)
        return self._tally.read()[0] / n

    def gradient(self, source: Source, parameters: Parameters, out: AnyParameters) -> AnyParameters:
        """Write the gradient of the mean loss, without dropout, into `out`."""
        n = source.n_samples
        self.state.gradient = out
        self._executor.batch_gradient(source, None, 0, n, parameters, self.state, None, self._tally)
        return out

    def copy_state(self) -> State:
        """Return a state that can be used up."""
        state, flat = self.state, self.state.gradient.flat.copy()
        slots = [slot.copy() for slot in state.slots]
        return State(
            Parameters(self.job.model, flat), slots, state.trainable, state.cell, state.updates
        )

    def to_numpy(self) -> dict[str, Any]:
        """Return what `from_numpy` needs."""
        slots = [np.array(self.job.backend.to_numpy(slot)) for slot in self.state.slots]
        return {
            "optimizer": self.job.optimizer, "trainable": self.trainable,
            "slots": slots, "updates": self.state.updates,
        }  # fmt: skip

    @classmethod
    def from_numpy(
        cls, model: Model, backend: Backend, dropout_seed: int, saved: dict[str, Any]
    ) -> Stepper:
        """Return what was saved, on any backend."""
        job = Job(model, backend, saved["optimizer"], None, True, dropout_seed)
        stepper = cls(job, saved["trainable"])
        for slot, values in zip(stepper.state.slots, saved["slots"], strict=True):
            backend.upload(values, slot)
        stepper.state.updates = saved["updates"]
        return stepper
