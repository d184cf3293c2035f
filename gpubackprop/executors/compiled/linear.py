"""Optimisers whose updates are linear in gradient and velocity: what an update does later on."""

from dataclasses import dataclass

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.optimizers import SGD, Optimizer


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
