"""Decides which jobs get a program for their one small network, see `fixed_source`.

Compiling takes seconds for each new network: it is done for long jobs of small networks, and then
the program is there for short ones.
"""

import os

from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import cache
from gpubackprop.executors.compiled.fixed_source import write_fixed
from gpubackprop.executors.compiled.split import parts_of
from gpubackprop.model import Model

#: A layer of more parameters gains nothing; a network of more takes too long to compile.
LAYER_PARAMETERS, PARAMETERS_IN_ALL = 64, 256
#: Seconds to compile the program for one sample or for batches, by parameter, and for any.
SECONDS, LEAST_SECONDS = {True: 0.03, False: 0.12}, 2.5
#: So many threads that share a batch of the direct loop's are slower than the program is alone.
THREADS = 2
#: Seconds that it saves by sample (4-4-4-1 on a Zen 4; 14 ns at 32 rows, 7 at 256, 6 in full), and
#: what it must save: so many times what it takes to compile.
SAVED, WORTH = {True: 0.17e-6, False: 0.01e-6}, 4


def n_parameters(model: Model) -> list[int]:
    """Return the parameters of each layer."""
    return [m * (n + has) for (m, n), has in zip(model.layout.shapes, model.bias, strict=True)]


def can(job: Job, *, masked: bool) -> bool:
    """Tell whether a program for this network alone can do a job."""
    model, pair = job.model, job.model.pair
    return (
        job.batch_size is not None
        and parts_of(job, "direct") <= THREADS
        and not (masked or job.weighted or any(model.dropout))
        and job.optimizer.plain
        and model.activations[-1].elementwise
        and None not in (pair.loss, pair.delta)
        and max(n_parameters(model)) <= LAYER_PARAMETERS
        and sum(n_parameters(model)) <= PARAMETERS_IN_ALL
    )


def is_wanted(job: Job) -> bool:
    """Tell whether the job is worth compiling the program.

    Whether it is there already plays no part: the same job must end in the same bits today and
    tomorrow. The environment variable GPUBACKPROP_FIXED = never or always decides instead.
    """
    chosen = os.environ.get("GPUBACKPROP_FIXED")
    if chosen in ("never", "always"):
        return chosen == "always"
    saved = (job.n_samples or 0) * job.epochs * SAVED[job.batch_size == 1]
    return saved >= WORTH * compile_seconds(job)


def compile_seconds(job: Job) -> float:
    """Return about how long it takes to compile the program."""
    return LEAST_SECONDS + SECONDS[job.batch_size == 1] * sum(n_parameters(job.model))


def text_of(job: Job) -> str:
    """Return the program for a job that `can` be done by one."""
    return write_fixed(job.model, single=job.batch_size == 1)


def is_ready(job: Job) -> bool:
    """Tell whether the program need not be compiled."""
    return cache.is_ready(text_of(job))
