"""Several epochs as one call: of few rows, what Python does between two would take longer."""

import contextlib

import numpy as np

from gpubackprop.buffers import Parameters
from gpubackprop.executors.base import Epochs
from gpubackprop.executors.compiled import cache
from gpubackprop.executors.compiled.epochs_source import PARAMETERS, write_epochs
from gpubackprop.executors.compiled.loaded import FixedLoop, LoadedLoop
from gpubackprop.executors.compiled.shuffle import pcg64_words, shuffles
from gpubackprop.executors.compiled.tables import pack, position
from gpubackprop.types import Array

#: Bits of the exponents in a word of 64 bits: of the number in its lower half, and of the other.
_EXPONENTS = {4: (0xFF << 23, 0xFF << 55), 8: (0x7FF << 52, 0x7FF << 52)}


def can(order: Array | None, rng: np.random.Generator) -> bool:
    """Tell whether the orders of rows, if there are any, can be drawn by compiled code."""
    return order is None or (shuffles(rng, order) and type(rng.bit_generator) is np.random.PCG64)


def run(
    loop: LoadedLoop | FixedLoop,
    arguments: dict[str, int],
    n_batches: int,
    order: Array | None,
    parameters: Parameters,
    epochs: Epochs,
) -> None:
    """Run a loop over all batches of some epochs.

    Parameters
    ----------
    loop : LoadedLoop or FixedLoop
    arguments : dict of str to int
        Of the loop over the batches of the first epoch.
    n_batches : int
        Of an epoch.
    order : array of shape (n,) or None
        Rows of the first epoch in order. Overwritten by those of the next.
    parameters : Parameters
        Overwritten.
    epochs : Epochs
        Overwritten.
    """
    inner = pack(loop.parameters, arguments)
    places = {name: i for i, name in enumerate(loop.parameters)}
    flat, words = parameters.flat, 8
    size, (low, high) = flat.nbytes // words, _EXPONENTS[flat.itemsize]
    given = {
        "entry": loop.address, "run": position(inner), "epochs": len(epochs.losses),
        "at_steps": places.get("steps", 0), "steps": n_batches * ("steps" in places),
        "at_scalars": places["scalars"], "scalars": n_batches * arguments["scalars_step"],
        "orders": 0 if order is None else epochs.orders, "sums": arguments["sums"],
        "losses": position(epochs.losses), "done": position(epochs.done),
        "flat": flat.ctypes.data // words, "before": epochs.before.ctypes.data // words,
        "size": size, "low": low, "high": high,
        "rows": position(order), "n": 0 if order is None else len(order), "state": 0,
    }  # fmt: skip
    drawing = contextlib.nullcontext() if order is None else pcg64_words(epochs.rng.bit_generator)
    with drawing as state:
        table = pack(PARAMETERS, given | {"state": position(state)})
        cache.load(write_epochs()).run_epochs.call(1)(position(table))
