"""Shuffles the rows of an epoch as NumPy does, to the same bits, several times as fast.

The generator stands afterwards where it would.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import cache, usable
from gpubackprop.executors.compiled.epochs_source import write_epochs
from gpubackprop.executors.compiled.tables import position

#: Seconds to compile it and to load it, on one core of a Xeon of 2023; what it saves by row, and
#: what `several` does by epoch.
COMPILE_SECONDS, LOAD_SECONDS, SAVED, SAVED_BY_EPOCH = 0.8, 0.005, 14e-9, 25e-6

#: A word of 128 bits is so many times its upper half and its lower half.
_HALF = 1 << 64


def pays(job: Job, *, compiles: bool) -> bool:
    """Tell whether a job should load the module: what comes out is the same either way.

    Parameters
    ----------
    job : Job
    compiles : bool
        Whether the job has seconds to compile for anyhow.
    """
    n = job.n_samples
    saved = 0 if n is None else (n * SAVED + SAVED_BY_EPOCH) * job.epochs
    if cache.is_loaded(write_epochs()):
        return True
    if cache.is_ready(write_epochs()):
        return saved >= LOAD_SECONDS
    # A job that compiles adds it for others.
    return (compiles or saved > 4 * COMPILE_SECONDS) and usable.problem() is None


def shuffle(rng: np.random.Generator, rows: np.ndarray) -> None:
    """Shuffle rows in place, as ``rng.shuffle(rows)`` does.

    Parameters
    ----------
    rng : numpy.random.Generator
        Afterwards where that would have left it.
    rows : array of shape (n,)
    """
    if shuffles(rng, rows):
        _shuffle(rng, rows)
    else:
        rng.shuffle(rows)


def shuffles(rng: np.random.Generator, rows: np.ndarray) -> bool:
    """Tell whether compiled code can do ``rng.shuffle(rows)``."""
    known = type(rng) is np.random.Generator and rows.dtype == np.int32 and len(rows) > 1
    return known and rows.flags.c_contiguous and _is_the_same()


def _shuffle(rng: np.random.Generator, rows: np.ndarray) -> None:
    bits = rng.bit_generator
    place = position(rows)
    if type(bits) is np.random.PCG64:
        with pcg64_words(bits) as numbers:
            _shuffles()[1](position(numbers), place, len(rows))
        return
    interface = bits.ctypes
    function = ctypes.cast(interface.next_uint32, ctypes.c_void_p).value
    with bits.lock:
        _shuffles()[0](function, interface.state_address, place, len(rows))


@functools.cache
def _shuffles() -> tuple[Any, Any]:
    """Return what shuffles with any generator, and with PCG64."""
    program = cache.load(write_epochs())
    return program.shuffle.call(4), program.shuffle_pcg64.call(3)


@contextlib.contextmanager
def pcg64_words(bits: np.random.BitGenerator) -> Iterator[np.ndarray]:
    """Give a generator's state as compiled code reads and writes it; hold its lock meanwhile."""
    with bits.lock:
        state: Any = bits.state
        words = state["state"]
        halves = [half for word in ("state", "inc") for half in divmod(words[word], _HALF)[::-1]]
        numbers = np.array([*halves, state["has_uint32"], state["uinteger"]], np.uint64)
        try:
            yield numbers
        finally:
            low, high, _, _, state["has_uint32"], state["uinteger"] = numbers.tolist()
            words["state"] = high * _HALF + low
            bits.state = state


@functools.cache
def _is_the_same() -> bool:
    """Tell whether this NumPy shuffles as this module does: it promises no one algorithm."""
    one, two = np.random.default_rng(1), np.random.default_rng(1)
    mine, its = np.arange(300, dtype=np.int32), np.arange(300, dtype=np.int32)
    _shuffle(one, mine)
    two.shuffle(its)
    same_state: bool = one.bit_generator.state == two.bit_generator.state
    return same_state and np.array_equal(mine, its)
