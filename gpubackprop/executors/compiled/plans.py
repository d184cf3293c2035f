"""Which loop does a job: a small network's own, SGD with updates kept back, or the direct loop."""

from gpubackprop.executors.base import Job, batches_per_block
from gpubackprop.executors.compiled import fixed
from gpubackprop.executors.compiled.linear import is_linear
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

#: A first layer of fewer weights is stepped at once: it stays in the fastest cache.
HELD_WEIGHTS = 2048
#: Of the layers above, those are held whose W is at least so many times larger than what is
#: computed to hold it.
GAIN = 4
#: Updates that are kept back by the number of weights of the first layer: the larger W, the more
#: samples should share a reading of it.
BACK = ((1 << 13, 8), (1 << 16, 16), (1 << 20, 32), (1 << 62, 64))


def loop_of(job: Job, *, masked: bool) -> str:
    """Return which loop does a job: "fixed", or one of `source.LOOPS`.

    Parameters
    ----------
    job : Job
    masked : bool
        Whether some parameters are frozen.
    """
    if fixed.can(job, masked=masked) and fixed.is_wanted(job):
        return "fixed"
    m, n = job.model.layout.shapes[0]
    holds = (
        job.batch_size == 1
        and not masked
        and is_linear(job.optimizer)
        and m * n >= HELD_WEIGHTS
        and updates_back(job.model) > 1
    )
    return "held back" if holds else "direct"


def steps_outer(job: Job, *, masked: bool) -> bool:
    """Tell whether the direct loop steps each W while it computes its gradient, an outer product:
    see `outer_step`. A plain step has kernels of its own.
    """
    optimizer = job.optimizer
    able = job.batch_size == 1 and not masked and optimizer.clip_norm is None
    return able and not optimizer.plain and loop_of(job, masked=masked) == "direct"


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
