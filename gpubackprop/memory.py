"""What training takes of a device's memory, and what is said when it has not so much."""

import contextlib
import math
import traceback
from collections.abc import Callable, Iterator

import numpy as np

from gpubackprop import backprop
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Workspace
from gpubackprop.data import Batches, Source
from gpubackprop.executors.base import Job
from gpubackprop.model import Model
from gpubackprop.types import Array


class _Counted:
    """Counts the bytes of arrays instead of allocating them."""

    def __init__(self) -> None:
        self.nbytes = 0

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype) -> Array:
        """Return an array of a shape that takes no memory."""
        self.nbytes += math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
        return np.broadcast_to(np.zeros((), dtype), shape)


def row_bytes(model: Model, *, training: bool = True) -> int:
    """Return the bytes that a row of a batch takes on its way through a network: X, the targets, a
    weight, every z, a, delta and mask.
    """
    counted = _Counted()
    Workspace(model, 1, counted, training=training)
    given = (model.sizes[0] + model.sizes[-1] + 1) * model.dtype.itemsize
    return counted.nbytes + given


def fixed_bytes(job: Job) -> int:
    """Return the bytes that training takes whatever its batch size: the gradient, the copy to go
    back to and the optimiser's slots.
    """
    return (2 + len(job.optimizer.slots)) * job.model.layout.size * job.model.dtype.itemsize


def training_problem(job: Job, source: Source | Batches) -> str:
    """Say what training takes, what there is, and which batch size would fit.

    Parameters
    ----------
    job : Job
        What ran out of memory. Its memory is free again.
    source : Source or Batches
        The data, which may live on the device.
    """
    fixed, row = fixed_bytes(job), row_bytes(job.model)
    data = source.nbytes if isinstance(source, Source) and source.resident else 0
    rows = min(job.batch_size or backprop.SLICE, backprop.SLICE)
    text = (
        f"training ran out of memory on {job.backend.name}: it takes {_size(fixed)} for gradient "
        f"and optimiser, {_size(data)} for the data on the device and {_size(row)} for each row of "
        f"a batch, {_size(row * rows)} for {rows:,} rows"
    )
    free = job.backend.free_bytes()
    if free is None:
        return f"{text}; choose a smaller batch_size"
    fitting = (free - fixed - data) // row
    text = f"{text}; {_size(free)} are free"
    if job.batch_size is not None and 1 <= fitting < rows:
        return f"{text}: batch_size={fitting} would fit"
    return f"{text}: free memory on the device, or choose backend='numpy'"


def evaluation_problem(backend: Backend, model: Model, n_samples: int) -> str:
    """Say what computing outputs takes, and what there is."""
    rows, row = min(n_samples, backprop.SLICE), row_bytes(model, training=False)
    out = n_samples * model.sizes[-1] * model.dtype.itemsize
    free = backend.free_bytes()
    text = (
        f"the outputs of {n_samples:,} rows ran out of memory on {backend.name}: {_size(out)} for "
        f"them, {_size(row * rows)} on the way there"
    )
    left = "" if free is None else f"; {_size(free)} are free"
    return f"{text}{left}: pass fewer rows at a time, or copy(backend='numpy') first"


def _size(nbytes: float) -> str:
    """Write a number of bytes with a fitting unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} B"


@contextlib.contextmanager
def explained(backend: Backend, problem: Callable[[], str]) -> Iterator[None]:
    """Turn a device's MemoryError into one that says what would fit, with the memory free again.

    Parameters
    ----------
    backend : Backend
        On the host, whose errors name the sizes, nothing is changed.
    problem : callable
        Returns the message. Called once everything that failed has been given back.

    Raises
    ------
    MemoryError
    """
    try:
        yield
    except MemoryError as error:
        if backend.host:
            raise
        # The functions that failed hold the arrays that they had got.
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        backend.release()
        raise MemoryError(problem()) from None
