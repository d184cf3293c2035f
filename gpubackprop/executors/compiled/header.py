"""The first lines of every module that is compiled: pointers, BLAS, and functions of one number."""

from gpubackprop.executors.compiled.error_function import error_function
from gpubackprop.executors.compiled.functions import functions
from gpubackprop.executors.compiled.vectors import processor

#: Not fastmath=True: that lets the compiler assume there is no NaN and no infinity.
FLAGS = '{"reassoc", "contract", "nsz", "arcp", "afn"}'
_OPTIONS = 'error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True'

#: What does a layer's products with a batch: a BLAS, loops over its rows, tiles, a matrix unit.
BLAS, LOOPS, TILES, SPLIT = range(4)
#: Rows or columns of a matrix that a matrix unit takes at once: see `amx`.
PANEL = 32

HEADER = '''
import itertools

import numpy as np
from llvmlite import ir
from math import sqrt
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

T = np.{dtype}
fast = njit(fastmath={flags}, {options})
rounded = njit(fastmath={{"contract"}}, {options})


def pointer_to(element, size):
    @intrinsic
    def at(context, position):
        def build(target, builder, signature, arguments):
            address = builder.mul(arguments[0], ir.Constant(ir.IntType(64), size))
            return builder.inttoptr(address, target.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), build

    return at


numbers = pointer_to(types.{dtype}, {size})
doubles = pointer_to(types.float64, 8)
codes = pointer_to(types.int64, 8)
rows_at = pointer_to(types.int32, 4)
NO, YES = ord("N"), ord("T")
LOOPS, TILES, SPLIT = {loops}, {tiles}, {split}
PANEL = {panel}
# Whose inner products are computed at once, see `tiles`.
SAMPLES = 4
# Numbers that do not stay in the second cache.
FAR = (1 << 20) // {size}


@intrinsic
def gemm(context, f, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """BLAS's matrix product by its address; Fortran wants every argument by reference."""
    whole, number = types.int64, types.{dtype}
    signature = types.void(*[whole] * 6, number, *[whole] * 4, number, whole, whole)

    def build(target, builder, signature, arguments):
        kinds = "xcciiinpipinpi"
        given = []
        for kind, value in zip(kinds, arguments):
            if kind == "p":
                address = builder.mul(value, ir.Constant(ir.IntType(64), {size}))
                given.append(builder.inttoptr(address, ir.{llvm}().as_pointer()))
            elif kind != "x":
                if kind == "c":
                    value = builder.trunc(value, ir.IntType(8))
                place = cgutils.alloca_once(builder, value.type)
                builder.store(value, place)
                given.append(place)
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), given)
        return target.get_dummy_value()

    return signature, build


@intrinsic
def fetch(context, position):
    """Have the cache line of a number brought near."""
    return fetching(3)


@intrinsic
def fetch_near(context, position):
    """The same, but into the second cache."""
    return fetching(2)


def prefetch(builder, position, level):
    address = builder.mul(position, ir.Constant(ir.IntType(64), {size}))
    pointer, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, whole, whole, whole])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    how = [ir.Constant(whole, n) for n in (0, level, 1)]
    given = [builder.inttoptr(address, pointer), *how]
    builder.call(function, given)


def fetching(level):
    def build(target, builder, signature, arguments):
        prefetch(builder, arguments[0], level)
        return target.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def whole_vectors(context):
    """Let LLVM use whole registers where it is called first: of AVX-512's it prefers half.

    In loops over a few numbers half is as quick. In those of formulas 4-4-4-1 gains 20 to 40 %.
    """

    def build(target, builder, signature, arguments):
        attributes = builder.function.attributes
        set.add(attributes, '"prefer-vector-width"="{bits}"')
        attributes.alignstack = {bits} // 8
        return target.get_dummy_value()

    return types.void(), build


LINE = 64 // {size}
AHEAD = 2


def calling(n):
    def build(target, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * n)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return target.get_dummy_value()

    return types.void(*[types.int64] * (n + 1)), build


@intrinsic
def call(context, f, a, b, c, d, e, g, h):
    """Call what is at an address with seven int64; it may take fewer."""
    return calling(7)


@intrinsic
def call_one(context, f, a):
    """The same with one."""
    return calling(1)


@intrinsic
def call_long(context, f, a, b, c, d, e, g, h, i, j, k, l, m, n, o, p):
    """The same with fifteen."""
    return calling(15)


def like(value, element):
    """Return the type of what has an element for each of a value's."""
    return element


@intrinsic
def choose(context, condition, x, y):
    """Return x where a condition holds, else y: both are computed."""

    def build(target, builder, signature, arguments):
        return builder.select(*arguments)

    number = types.{dtype}
    return number(types.boolean, number, number), build


@fast
def fmax(x, y):
    return choose((x >= y) | (y != y), x, y)


@fast
def fmin(x, y):
    return choose((x <= y) | (y != y), x, y)


@fast
def fabs(x):
    return abs(x)


@intrinsic
def is_finite(context, number):
    """Tell by its bits whether a float64 is a finite number.

    LLVM takes the comparison out of ``x - x == 0`` where x was computed with FLAGS.
    """

    def build(target, builder, signature, arguments):
        exponent = ir.Constant(ir.IntType(64), 0x7FF << 52)
        bits = builder.and_(builder.bitcast(arguments[0], ir.IntType(64)), exponent)
        return builder.icmp_unsigned("!=", bits, exponent)

    return types.boolean(types.float64), build
'''


def header(dtype: str) -> str:
    """Return the first lines of a module of a dtype, "float32" or "float64"."""
    single = dtype == "float32"
    text = HEADER.format(
        dtype=dtype,
        flags=FLAGS,
        loops=LOOPS,
        tiles=TILES,
        split=SPLIT,
        panel=PANEL,
        options=_OPTIONS,
        size=4 if single else 8,
        bits=8 * processor()[0],
        llvm="FloatType" if single else "DoubleType",
    )
    return text + functions(dtype) + error_function(dtype)
