"""Shuffles the rows of an epoch as NumPy does, to the same bits, several times as fast.

NumPy swaps elements of any size, and where a number it drew is too large it draws again: a branch
that no processor foresees. Here such a number swaps an element with itself. The numbers of PCG64,
NumPy's own choice, are computed on the spot; those of others come from the generator's function.
Each stands afterwards where it would.

References
----------
O'Neill, "PCG: A family of simple fast space-efficient statistically good algorithms for random
number generation", 2014: PCG XSL RR 128/64.
"""

import ctypes
import functools
from types import ModuleType
from typing import Any

import numpy as np

from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import cache
from gpubackprop.executors.compiled.formulas import join
from gpubackprop.executors.compiled.header import header

#: Seconds to compile it and to load it, and what it saves by row, on one core of a Xeon of 2023.
COMPILE_SECONDS, LOAD_SECONDS, SAVED = 0.6, 0.02, 14e-9

#: A word of 128 bits is so many times its upper half and its lower half.
_HALF = 1 << 64

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

_PCG64 = '''
@intrinsic
def step(context, low, high, low_step, high_step):
    """Return the next state of PCG64 as two halves, and its number."""

    def build(target, builder, signature, arguments):
        whole, wide = ir.IntType(64), ir.IntType(128)

        def joined(low, high):
            return builder.or_(
                builder.zext(low, wide),
                builder.shl(builder.zext(high, wide), ir.Constant(wide, 64)),
            )

        factor = ir.Constant(wide, 0x2360ED051FC65DA44385DF649FCCF645)
        state = builder.mul(joined(*arguments[:2]), factor)
        state = builder.add(state, joined(*arguments[2:]))
        low = builder.trunc(state, whole)
        high = builder.trunc(builder.lshr(state, ir.Constant(wide, 64)), whole)
        mixed = builder.xor(low, high)
        turn = builder.lshr(high, ir.Constant(whole, 58))
        back = builder.and_(builder.neg(turn), ir.Constant(whole, 63))
        number = builder.or_(builder.lshr(mixed, turn), builder.shl(mixed, back))
        return target.make_tuple(builder, signature.return_type, (low, high, number))

    return types.UniTuple(types.int64, 3)(*[types.int64] * 4), build
'''.strip()

_SHUFFLE = """
@njit("{signature}", cache=True, nogil=True, error_model="numpy")
def {name}({arguments}, rows, n):
    at = rows_at(rows)
    {begin}
    i = n - 1
    # The smallest number of ones that holds i: what is drawn is cut down to it.
    mask = 1
    while mask < i:
        mask = 2 * mask + 1
    while i > 0:
        half = mask >> 1
        while i > half:
            {draw}
            drawn &= mask
            fits = drawn <= i
            j = drawn if fits else i
            one, two = at[i], at[j]
            at[i] = two
            at[j] = one
            i -= int(fits)
        mask = half
    {end}
""".strip()

#: A number of 64 bits is two of 32: the lower one first, the other is kept.
_LINES = {
    "shuffle": ("void(int64, int64, int64, int64)", "function, state", "pass",
                "drawn = draw(function, state)", "pass"),
    "shuffle_pcg64": ("void(int64, int64, int64)", "state", """
s = codes(state)
low, high, low_step, high_step, has, kept = s[0], s[1], s[2], s[3], s[4], s[5]
""", """
if has != 0:
    drawn = kept
else:
    low, high, number = step(low, high, low_step, high_step)
    drawn, kept = number & 0xFFFFFFFF, (number >> 32) & 0xFFFFFFFF
has = 1 - has
""", "s[0], s[1], s[4], s[5] = low, high, has, kept"),
}  # fmt: skip


@functools.cache
def write_shuffle() -> str:
    """Write the module."""
    parts = [header("float32"), _DRAW, _PCG64]
    for name, (signature, arguments, *blocks) in _LINES.items():
        depths = (4, 12, 4)
        begin, draw, end = (
            block.strip().replace("\n", "\n" + " " * depth)
            for block, depth in zip(blocks, depths, strict=True)
        )
        parts.append(_SHUFFLE.format(
            name=name, signature=signature, arguments=arguments, begin=begin, draw=draw, end=end
        ))  # fmt: skip
    return join(parts)


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
    compiled, place = cache.load(write_shuffle()), rows.ctypes.data // rows.itemsize
    if type(bits) is np.random.PCG64:
        with bits.lock:
            _shuffle_pcg64(bits, compiled, place, len(rows))
        return
    interface = bits.ctypes
    function = ctypes.cast(interface.next_uint32, ctypes.c_void_p).value
    with bits.lock:
        compiled.shuffle(function, interface.state_address, place, len(rows))


def _shuffle_pcg64(bits: np.random.PCG64, compiled: ModuleType, place: int, n: int) -> None:
    state: Any = bits.state
    words = state["state"]
    halves = [half for word in ("state", "inc") for half in divmod(words[word], _HALF)[::-1]]
    numbers = np.array([*halves, state["has_uint32"], state["uinteger"]], np.uint64)
    compiled.shuffle_pcg64(numbers.ctypes.data // numbers.itemsize, place, n)
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
