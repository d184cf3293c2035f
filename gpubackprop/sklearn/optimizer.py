"""From an estimator's parameters to an optimiser, and what that remembers between calls."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.model import Model
from gpubackprop.optimizers import OPTIMIZERS, SGD, Adam, Optimizer
from gpubackprop.types import Array

#: Below it, Adam's epsilon is lost.
_SMALLEST_EPSILON = 1e-30


class _Undamped(SGD):
    """Gradient descent whose momentum may be 1, which scikit-learn allows."""

    def _check(self, name: str, low: float, high: float = math.inf, **strict: bool) -> None:
        super()._check(name, low, high, **({} if name == "momentum" else strict))


# One description for all fits with the same parameters, so that its formulas are parsed once.
@functools.lru_cache(maxsize=64)
def _sgd(momentum: float, nesterov: bool, **common: Any) -> Optimizer:
    made = SGD if momentum < 1 else _Undamped
    return made(momentum=momentum, nesterov=nesterov and momentum > 0, **common)


@functools.lru_cache(maxsize=64)
def _adam(beta1: float, beta2: float, epsilon: float, **common: Any) -> Optimizer:
    epsilon = max(epsilon, _SMALLEST_EPSILON)
    return Adam(beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_at="uncorrected", **common)


def describe(estimator: Any) -> Optimizer:
    """Return the optimiser that an estimator's parameters describe.

    An optimiser of the user's own gets `alpha` on top of its own `l2`, and `weight_decay` and
    `clip_norm` where they are given.
    """
    solver, rate = estimator.solver, estimator.learning_rate
    more = {"weight_decay": estimator.weight_decay, "clip_norm": estimator.clip_norm}
    # What is not asked for is as the optimiser has it: AdamW decays by itself.
    given = {name: value for name, value in more.items() if value}
    if isinstance(solver, Optimizer):
        return dataclasses.replace(solver, l2=solver.l2 + estimator.alpha, **given)
    common = {"l2": float(estimator.alpha), **given}
    common["learning_rate"] = estimator.learning_rate_init if isinstance(rate, str) else rate
    if solver == "sgd":
        return _sgd(float(estimator.momentum), bool(estimator.nesterovs_momentum), **common)
    if solver == "adam":
        return _adam(estimator.beta_1, estimator.beta_2, float(estimator.epsilon), **common)
    return OPTIMIZERS[solver](**common)


class OptimizerState:
    """An optimiser at work: its learning rate, its slots and where its schedule stands.

    Parameters
    ----------
    optimizer : Optimizer
    schedule : {"constant", "invscaling", "adaptive"}
        What becomes of a learning rate that is a number: scikit-learn's rules.
    power_t : float
        Of "invscaling".

    Attributes
    ----------
    learning_rate : float
        Of the epoch under way.
    """

    def __init__(self, optimizer: Optimizer, schedule: str, power_t: float) -> None:
        self.optimizer, self.schedule, self.power_t = optimizer, schedule, power_t
        self.schedule_state = optimizer.schedule.begin()
        self.epochs = 0
        self._first = self.learning_rate = optimizer.schedule.rate(0.0, self.schedule_state)
        self._state: backprop.State | None = None
        self._saved: tuple[int, list[np.ndarray]] | None = None

    def state(self, backend: Backend, model: Model) -> backprop.State:
        """Return the slots on a backend, fresh ones if there are none for this model."""
        state = self._state
        if state is not None and backend.owns(state.cell):
            held = state.gradient.model
            if held.layout == model.layout and held.dtype == model.dtype:
                return state
        state = backprop.new_state(backend, model, self.optimizer)
        saved = self._state_to_numpy()
        if saved is not None and all(len(slot) == model.layout.size for slot in saved[1]):
            state.updates = saved[0]
            for slot, values in zip(state.slots, saved[1], strict=True):
                backend.upload(values, slot)
        self._state, self._saved = state, None
        return state

    def rate(self, batch: int, n_batches: int) -> float:
        """Return the learning rate of a batch of the epoch under way."""
        if not self.optimizer.schedule.per_update:
            return self.learning_rate
        epoch = self.epochs + batch / n_batches
        return self.optimizer.schedule.rate(epoch, self.schedule_state)

    def iteration_begins(self) -> None:
        """Set the learning rate of an epoch by the optimiser's own schedule."""
        if not isinstance(self.optimizer.learning_rate, float):
            self.learning_rate = self.optimizer.schedule.rate(
                float(self.epochs), self.schedule_state
            )

    def iteration_ends(self, time_step: int, loss: float) -> None:
        """Note an epoch's loss, or set the next learning rate; `time_step` counts samples."""
        self.epochs += 1
        if self.schedule == "invscaling":
            self.learning_rate = self._first / (time_step + 1) ** self.power_t
        else:
            self.optimizer.schedule.observe(self.schedule_state, loss)

    def trigger_stopping(self, message: str, verbose: bool) -> bool:
        """Tell whether to stop where the loss no longer falls; "adaptive" goes on at a fifth of
        the rate.
        """
        stopping = self.schedule != "adaptive" or self.learning_rate <= 1e-6
        if self.schedule != "adaptive":
            message += " Stopping."
        elif stopping:
            message += " Learning rate too small. Stopping."
        else:
            self.learning_rate /= 5.0
            message += f" Setting learning rate to {self.learning_rate:f}"
        if verbose:
            print(message)
        return stopping

    def _state_to_numpy(self) -> tuple[int, list[np.ndarray]] | None:
        if self._state is None:
            return self._saved
        return self._state.updates, [_to_numpy(slot) for slot in self._state.slots]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None, "_saved": self._state_to_numpy()}


def _to_numpy(array: Array) -> np.ndarray:
    """Copy an array of any backend to the host."""
    copied: np.ndarray = array.get() if hasattr(array, "get") else np.array(array)
    return copied
