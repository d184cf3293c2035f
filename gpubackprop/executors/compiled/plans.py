"""Which loop does a job: SGD with updates kept back where it can, else the direct loop."""

from dataclasses import dataclass

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.executors.base import Job, batches_per_block
from gpubackprop.model import Model
from gpubackprop.optimizers import SGD, Optimizer

#: A first layer of fewer weights is stepped at once: it stays in the fastest cache.
HELD_WEIGHTS = 2048
#: Of the layers above, those are held whose W is at least so many times larger than what is
#: computed to hold it.
GAIN = 4
#: Updates that are kept back by the number of weights of the first layer: the larger W, the more
#: samples should share a reading of it.
BACK = ((1 << 16, 8), (1 << 20, 32), (1 << 62, 64))


def loop_of(job: Job, *, masked: bool) -> str:
    """Return which of `source.LOOPS` does a job.

    Parameters
    ----------
    job : Job
    masked : bool
        Whether some parameters are frozen.
    """
    m, n = job.model.layout.shapes[0]
    holds = (
        job.batch_size == 1
        and not masked
        and is_linear(job.optimizer)
        and m * n >= HELD_WEIGHTS
        and updates_back(job.model) > 1
    )
    return "held back" if holds else "direct"


def updates_back(model: Model) -> int:
    """Return how many updates are kept back at a time.

    A power of two that divides the rows of a block: slices of an epoch end at multiples of it, so
    that where a run is cut changes no bit.
    """
    m, n = model.layout.shapes[0]
    wanted = next(k for most, k in BACK if m * n <= most)
    return min(wanted, batches_per_block(model, 1))


def held_layers(model: Model, optimizer: Optimizer) -> list[bool]:
    """Tell of each layer whether its updates are kept back."""
    k = updates_back(model)
    # With momentum the velocity would have to be stepped at once too.
    return [
        l == 0 or bool(optimizer.slots) or m * n >= GAIN * k * (m + n)
        for l, (m, n) in enumerate(model.layout.shapes)
    ]


def is_plain(optimizer: Optimizer) -> bool:
    """Tell whether an update is ``w - learning_rate * g`` and nothing else, so that it can be part
    of the product that computes g.
    """
    return is_linear(optimizer) and not optimizer.slots


def is_linear(optimizer: Optimizer) -> bool:
    """Tell whether an update is that of `SGD`, with or without momentum, and nothing else."""
    extras = optimizer.penalty, optimizer.clip_norm, optimizer.weight_decay or None
    if extras != (None, None, None) or type(optimizer).scalars is not Optimizer.scalars:
        return False
    momentum = optimizer.expression.constants.get("momentum", 0.0)
    known = [SGD(momentum=momentum)]
    if momentum:
        known.append(SGD(momentum=momentum, nesterov=True))
    return any(optimizer.expression.key == one.expression.key for one in known)


@dataclass(frozen=True)
class Responses:
    """How an update goes on acting, j updates after it, for j from 0.

    Attributes
    ----------
    response, memory : array of shape (K + 1,)
        What it has taken from w and from the velocity, as multiples of learning_rate * g.
    drift, kept : array of shape (K + 1,)
        What a velocity that was there before has added to w, and what is left of it, as multiples
        of it.
    """

    response: np.ndarray
    memory: np.ndarray
    drift: np.ndarray
    kept: np.ndarray


def responses(optimizer: Optimizer, backend: Backend, k: int) -> Responses:
    """Run an optimiser for which `is_linear` holds on an impulse, for k updates, in float64."""
    step = backend.elementwise(optimizer.expression, np.dtype("float64"))
    # Two parameters: one has a gradient of 1 in the first update, one has a velocity of 1.
    w, velocity, g = np.zeros(2), np.array([0.0, 1.0]), np.array([1.0, 0.0])
    slots = [velocity] if optimizer.slots else []
    found = [(w.copy(), velocity.copy())]
    for _ in range(k):
        step(g, 1.0, w, *slots)
        found.append((w.copy(), velocity.copy()))
        g[...] = 0.0
    moved, left = (np.array(part) for part in zip(*found, strict=True))
    return Responses(-moved[:, 0], -left[:, 0], moved[:, 1], left[:, 1])
