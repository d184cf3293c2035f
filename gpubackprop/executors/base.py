"""What an executor is: how a run of batches is done.

Executors see a model, parameters and a backend, never a `Network`. All of them keep one contract:
same parameters and order of rows in, same parameters out, to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.data import Source
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: Rows of several small batches are gathered at once: at most so many, with so many elements of X
#: (256 KiB of float32).
_BLOCK_ROWS, _BLOCK_ELEMENTS = 1024, 65536


#: What products may round their inputs to; their sums are in float32.
PRECISIONS = ("tf32", "float16", "bfloat16")


def batches_per_block(model: Model, batch_size: int) -> int:
    """Return how many batches are gathered at once.

    A power of two, so that every slice of an epoch is made of whole blocks.
    """
    rows = min(_BLOCK_ROWS, _BLOCK_ELEMENTS // model.sizes[0])
    return 1 << max(rows // batch_size, 1).bit_length() - 1


@dataclass(frozen=True)
class Job:
    """What an executor is asked to do, as far as it is known before the first row.

    Attributes
    ----------
    model : Model
    backend : Backend
    optimizer : Optimizer
    batch_size : int or None
        Rows of an update; None where the source decides.
    weighted : bool
        Whether the samples have weights.
    dropout_seed : int
        Of the dropout masks.
    penalised : bool
        Whether the optimiser's penalties are divided by each batch's sum of weights and are part of
        the loss that is tallied, as scikit-learn has it.
    n_samples : int, optional
        Rows of an epoch; None where that is not known.
    epochs : int, optional
        How many there are to be at most.
    precision : str or None, optional
        Of matrix products, a name in `PRECISIONS`; None is that of the arrays.
    threads : int, optional
        How many it may use.
    masked : bool, optional
        Whether some parameters are frozen.
    """

    model: Model
    backend: Backend
    optimizer: Optimizer
    batch_size: int | None
    weighted: bool
    dropout_seed: int
    penalised: bool = False
    n_samples: int | None = None
    epochs: int = 1
    precision: str | None = None
    threads: int = 1
    masked: bool = False


class Tally:
    """Sum of an epoch's losses, on the device, read once an epoch.

    Attributes
    ----------
    values : float64 array of shape (5,)
        All of the following, in this order.
    total : float64 array of shape (1,)
        Sum of w_i * loss_i over the rows so far.
    first_bad : float64 array of shape (1,)
        The first batch whose loss was NaN or infinite; -1 before there is one.
    value, part : float64 array of shape (1,)
        One batch's sum, and one slice's.
    finite : float64 array of shape (1,)
        1 if all parameters were finite numbers at the epoch's end, else 0.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # One array, so that the epoch's end is one copy.
        self.values = backend.zeros((5,), "float64")
        self.total, self.first_bad, self.value, self.part, self.finite = (
            self.values[i : i + 1] for i in range(5)
        )
        self.clear()

    def clear(self) -> None:
        """Start an epoch."""
        self.total[...] = 0.0
        self.first_bad[...] = -1.0

    def to_numpy(self) -> np.ndarray:
        """Wait; return `values` on the host."""
        return self._backend.to_numpy(self.values)

    def read(self) -> tuple[float, int | None, bool]:
        """Wait; return the total, the first bad batch, and whether all parameters are finite."""
        total, first_bad, _, _, finite = self.to_numpy().tolist()
        return total, None if first_bad < 0 else int(first_bad), bool(finite)


@dataclass
class Progress:
    """Where in an epoch a run stands, and what a learning rate is there.

    Attributes
    ----------
    learning_rate : callable
        Returns the rate of a batch, counted from the epoch's start.
    batch : int
        Batches done in this epoch.
    steps : int
        Updates that the network has had in its life: dropout masks depend on it.
    weight_sums : sequence of float or None
        Sum of the sample weights of each batch of the epoch, for a penalised job; None where it is
        the number of rows.
    """

    learning_rate: "LearningRateOf"
    batch: int = 0
    steps: int = 0
    weight_sums: Sequence[float] | None = None

    def penalty_share(self, batch: int, n: int) -> float:
        """Return 1 / (sum of the sample weights of a batch of n rows), for a penalised job."""
        return 1.0 / (n if self.weight_sums is None else self.weight_sums[batch])


class LearningRateOf(Protocol):
    """The learning rate of a batch of the epoch."""

    def __call__(self, batch: int) -> float:
        """Return the rate of a batch, counted from the epoch's start."""


@dataclass
class Epochs:
    """Whole epochs that an executor may do as one call, and what has come of them.

    Attributes
    ----------
    orders : int
        Orders of rows to be drawn, one after each epoch: as many as there are epochs, or one less.
    rng : numpy.random.Generator
        Draws them.
    before : array
        Parameters before the epoch that was begun last: overwritten.
    losses : float64 array of shape (epochs,)
        Sum of w_i * loss_i over the rows of each epoch: overwritten.
    done : int64 array of shape (2,)
        How many are done, and -1. An epoch after which a number is not finite is the last, and not
        done; instead of -1 then comes its first batch with such a loss, if there is one.
    """

    orders: int
    rng: "np.random.Generator"  # which NumPy loads when it is asked for
    before: Array
    losses: np.ndarray
    done: np.ndarray


class Executor(Protocol):
    """Trains on slices of an epoch.

    Attributes
    ----------
    name : str
    on_host : bool or None
        Whether it is for NumPy arrays (True), for arrays on a GPU (False), or for all (None).
    """

    name: str
    on_host: bool | None

    def __init__(self, job: Job) -> None: ...

    @staticmethod
    def refusal(job: Job) -> str | None:
        """Return why this executor cannot do a job, in words; None if it can."""

    def run(
        self,
        source: Source,
        order: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        parameters: Parameters,
        state: State,
        progress: Progress,
        tally: Tally,
    ) -> None:
        """Train on one slice of an epoch: an update after each `batch_size` rows.

        Parameters
        ----------
        source : Source
        order : integer array or None
            Rows of the epoch in order, where the source wants them (host or device); None is 0, 1,
            2, ...
        start, stop : int
            Positions in `order`. `start` is a multiple of `batch_size`; the last batch may be
            short.
        batch_size : int
        parameters : Parameters
            Overwritten.
        state : State
            Overwritten: gradient and slots.
        progress : Progress
            Moved on.
        tally : Tally
            Each batch's loss, from before its update, is added.
        """
