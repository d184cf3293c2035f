"""Shuffles the rows of an epoch as NumPy does, to the same bits, several times as fast.

NumPy swaps elements of any size, and where a number it drew is too large it draws again: a branch
that no processor foresees. Here such a number swaps an element with itself. The numbers come from
the generator's own function, so every bit generator will do, and stands afterwards where it would.
"""

import ctypes
import functools

import numpy as np

from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import cache
from gpubackprop.executors.compiled.formulas import join
from gpubackprop.executors.compiled.header import header

#: Seconds to compile it and to load it, and what it saves by row, on one core of a Xeon of 2023.
COMPILE_SECONDS, LOAD_SECONDS, SAVED = 0.5, 0.02, 14e-9

_DRAW = '''
@intrinsic
def draw(context, function, state):
    """Call a generator's next_uint32 by its address."""

    def build(target, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(64)])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.zext(builder.call(function, [arguments[1]]), ir.IntType(64))

    return types.int64(types.int64, types.int64), build
'''.strip()

_SHUFFLE = """
@njit("void(int64, int64, int64, int64)", cache=True, nogil=True, error_model="numpy")
def shuffle(function, state, rows, n):
    at = rows_at(rows)
    i = n - 1
    # The smallest number of ones that holds i: what is drawn is cut down to it.
    mask = 1
    while mask < i:
        mask = 2 * mask + 1
    while i > 0:
        half = mask >> 1
        while i > half:
            drawn = draw(function, state) & mask
            fits = drawn <= i
            j = drawn if fits else i
            one, two = at[i], at[j]
            at[i] = two
            at[j] = one
            i -= int(fits)
        mask = half
""".strip()


@functools.cache
def write_shuffle() -> str:
    """Write the module."""
    return join([header("float32"), _DRAW, _SHUFFLE])


def pays(job: Job, *, compiles: bool) -> bool:
    """Tell whether a job should shuffle with it: the rows come out the same either way.

    Parameters
    ----------
    job : Job
    compiles : bool
        Whether the job has seconds to compile for anyhow.
    """
    saved = (job.n_samples or 0) * job.epochs * SAVED
    if cache.is_loaded(write_shuffle()):
        return True
    if saved < LOAD_SECONDS:
        return False
    return compiles or saved > 4 * COMPILE_SECONDS or cache.is_ready(write_shuffle())


def shuffle(rng: np.random.Generator, rows: np.ndarray) -> None:
    """Shuffle rows in place, as ``rng.shuffle(rows)`` does.

    Parameters
    ----------
    rng : numpy.random.Generator
        Afterwards where that would have left it.
    rows : array of shape (n,)
    """
    known = type(rng) is np.random.Generator and rows.dtype == np.int32 and len(rows) > 1
    if known and rows.flags.c_contiguous and _is_the_same():
        _shuffle(rng, rows)
    else:
        rng.shuffle(rows)


def _shuffle(rng: np.random.Generator, rows: np.ndarray) -> None:
    bits = rng.bit_generator
    interface = bits.ctypes
    function = ctypes.cast(interface.next_uint32, ctypes.c_void_p).value
    place = rows.ctypes.data // rows.itemsize
    with bits.lock:
        cache.load(write_shuffle()).shuffle(function, interface.state_address, place, len(rows))


@functools.cache
def _is_the_same() -> bool:
    """Tell whether this NumPy shuffles as this module does: it promises no one algorithm."""
    one, two = np.random.default_rng(1), np.random.default_rng(1)
    mine, its = np.arange(300, dtype=np.int32), np.arange(300, dtype=np.int32)
    _shuffle(one, mine)
    two.shuffle(its)
    same_state: bool = one.bit_generator.state == two.bit_generator.state
    return same_state and np.array_equal(mine, its)
