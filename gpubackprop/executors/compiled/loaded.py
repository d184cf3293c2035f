"""A loop over batches as compiled code, with the addresses of what it calls."""

from functools import partial

import numpy as np

from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import amx, cache, fixed, fixed_source, plans
from gpubackprop.executors.compiled.formulas import write_formulas
from gpubackprop.executors.compiled.outer_step import write_outer_step
from gpubackprop.executors.compiled.source import (
    KERNELS,
    LOOPS,
    PLACES,
    write_kernels,
    write_loop,
)

#: What compiling took on one core of a Xeon of 2023: a module of loops, and the formulas of a
#: network.
LOOP_SECONDS, FORMULAS_SECONDS = 4.0, 1.0


def texts(dtype: np.dtype, name: str) -> list[cache.Written]:
    """Return the modules that one of `LOOPS` needs, its own last."""
    kernels = [
        cache.Written(f"{kernel} {dtype}", partial(write_kernels, dtype, kernel))
        for kernel in _kernels(dtype, name)
    ]
    return [*kernels, cache.Written(f"loop {name} {dtype}", partial(write_loop, dtype, name))]


def _kernels(dtype: np.dtype, name: str) -> tuple[str, ...]:
    """Return what a loop calls: keys of `KERNELS`, those that this processor has the means for."""
    lacks = () if amx.usable(dtype) else ("panels",)
    return tuple(kernel for kernel in LOOPS[name].kernels if kernel not in lacks)


def seconds_to_load(job: Job, name: str) -> float:
    """Return about how long it takes until a loop can run: what is not cached is compiled."""
    if name == "fixed":
        return 0.0 if fixed.is_ready(job) else fixed.compile_seconds(job)
    formulas = write_formulas(job.model, job.optimizer).text
    parts: list[tuple[str | cache.Written, float]] = [(formulas, FORMULAS_SECONDS)]
    parts += [(text, LOOP_SECONDS) for text in texts(job.model.dtype, name)]
    if plans.steps_outer(job, masked=job.masked):
        parts.append((write_outer_step(job.model.dtype, job.optimizer)[0], FORMULAS_SECONDS))
    return sum(seconds for text, seconds in parts if not cache.is_ready(text))


class LoadedLoop:
    """One of `LOOPS`, compiled for a dtype.

    Attributes
    ----------
    name : str
    parameters : iterable of str
        What its entry reads from its one argument.
    entry : callable
    builtin : callable or None
        Makes, of what the entry reads, a built-in function of the arrays that it takes besides.
    address : int
        Of the entry.
    addresses : array of int64
        Of what it calls, at their `PLACES`.
    """

    def __init__(self, dtype: np.dtype, name: str) -> None:
        self.name, self.parameters = name, tuple(LOOPS[name].parameters)
        *kernels, loop = (cache.load(text) for text in texts(dtype, name))
        self.address = loop.entry.address
        self.entry = loop.entry.call(1 + len(LOOPS[name].arrays), returns=LOOPS[name].returns)
        self.builtin = loop.builtin.builtin if LOOPS[name].arrays else None
        self.addresses = np.zeros(len(PLACES), np.int64)
        for module, kernel in zip(kernels, _kernels(dtype, name), strict=True):
            for function in KERNELS[kernel]:
                self.addresses[PLACES[function]] = getattr(module, function).address


class FixedLoop:
    """The loop of one small network, with the same attributes."""

    def __init__(self, job: Job) -> None:
        self.name, self.parameters = "fixed", tuple(fixed_source.PARAMETERS)
        entry = cache.load(fixed.text_of(job)).entry
        self.entry, self.address = entry.call(1), entry.address
        self.addresses = np.zeros(1, np.int64)
