"""The compiled executor, on NumPy arrays. Numba is not imported before it is used."""

import itertools
from collections.abc import Iterator

import numpy as np

from gpubackprop import activations, losses
from gpubackprop.executors.compiled import cache
from gpubackprop.executors.compiled.cache import folder
from gpubackprop.executors.compiled.epochs_source import write_epochs
from gpubackprop.executors.compiled.executor import Compiled
from gpubackprop.executors.compiled.formulas import write_activations, write_formulas
from gpubackprop.executors.compiled.loaded import LoadedLoop
from gpubackprop.executors.compiled.outer_step import write_outer_step
from gpubackprop.executors.compiled.source import LOOPS
from gpubackprop.executors.compiled.usable import problem
from gpubackprop.model import Model
from gpubackprop.optimizers import SGD, Adam, AdamW, Optimizer

__all__ = ["Compiled", "folder", "problem", "warm"]


def warm() -> Iterator[str]:
    """Compile what most jobs use into the cache, a name of each as it is done.

    Yields
    ------
    str
        Such as "float32 sigmoid softmax cross_entropy Adam".
    """
    outputs = ("sigmoid", "log_loss"), ("softmax", "cross_entropy"), ("identity", "squared")
    optimizers: list[Optimizer] = [SGD(0.1), SGD(0.1, momentum=0.9), Adam(), AdamW()]
    cache.load(write_epochs())
    yield "epochs"
    for dtype in ("float32", "float64"):
        for name in LOOPS:
            LoadedLoop(np.dtype(dtype), name)
            yield f"{dtype} {name}"
        for optimizer in optimizers:
            if not optimizer.plain:  # a plain step has kernels of its own
                cache.load(write_outer_step(np.dtype(dtype), optimizer)[0])
                yield f"{dtype} one sample {type(optimizer).__name__}"
        for hidden, (output, loss), optimizer in itertools.product(
            ("sigmoid", "tanh", "relu"), outputs, optimizers
        ):
            activations_of = activations.get(hidden), activations.get(output)
            model = Model(
                (2, 2, 2), activations_of, losses.get(loss), (True,) * 2, (0.0,), np.dtype(dtype)
            )
            cache.load(write_activations(model).text)
            cache.load(write_formulas(model, optimizer).text)
            yield f"{dtype} {hidden} {output} {loss} {type(optimizer).__name__}"
