"""Whether this processor's matrix unit (Intel's AMX) may be used, and its instructions.

AMX multiplies bfloat16 numbers, of 8 bits, and adds up in float32. A float32 number is the sum of
three such numbers; of the nine products of two, the six largest are taken. What is left out is less
than 2^-24 of a product, so sums are as exact as those of float32 products: sixteen times as many
multiplications in a cycle are still 2.7 times as many. On a Xeon (Emerald Rapids) products of 256
to 2,048 lines ran at 200 to 270 GFLOP/s of float32, MKL's at 145 to 165. Parts below 2^-126 count
as 0, and what an infinite number is multiplied with becomes NaN.
"""

import ctypes
import functools

import numpy as np

from gpubackprop.backends import processor
from gpubackprop.executors.compiled import vectors
from gpubackprop.executors.compiled.header import PANEL

#: Float32 numbers that a panel, of `header.PANEL` lines, takes for as many numbers of its depth.
STEP = 1536
#: Of the depth, what is multiplied before the next; columns of B whose panels stay in the second
#: cache then; rows of A whose panels are kept for all columns of B. Less depth reads and writes C
#: more often: at 256 products of 2,048 by 2,048 were 3 % slower.
DEEP, BROAD, HIGH = 512, 256, 2048
#: Steps of the depth that are brought near before they are split.
AHEAD = 2
#: Where a product's room has a number 1, and its first scratch tile.
ONE, SCRATCH = 16, 32
#: The request to the Linux kernel to let this process use the tiles' registers (arch_prctl's number
#: on x86-64, its operation, the number of the state).
_ARCH_PRCTL, _REQUEST, _TILES = 158, 0x1023, 18


def usable(dtype: np.dtype) -> bool:
    """Tell whether products of a dtype may be done so; `processor.has_matrix_unit` says more."""
    return bool(dtype == np.float32) and _is_there()


@functools.cache
def _is_there() -> bool:
    """Ask the processor and, once for a process, the kernel."""
    if not processor.has_matrix_unit() or vectors.processor()[0] != 64:
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILES)) == 0


#: Behind `vectors.vectors("float32")`. Of a panel of 32 lines, each 32 numbers of the depth are six
#: tiles of 16 lines: the first parts of both halves, the second parts, the third.
_INSTRUCTIONS = '''
from llvmlite import binding

binding.initialize_native_asmparser()  # instructions are written as text

PANEL, STEP, DEEP, BROAD, HIGH, ONE, SCRATCH, NEXT = {sizes}
BITS = ir.VectorType(ir.IntType(32), LANES)


def assembly(builder, text, *arguments):
    kind = ir.FunctionType(ir.VoidType(), [one.type for one in arguments])
    constraints = ",".join([*["r"] * len(arguments), "~{memory}"])
    builder.asm(kind, text, constraints, arguments, True)


def bytes_at(builder, position):
    return builder.mul(position, whole(4))


@intrinsic
def begin_tiles(context, settings):
    """Take 64 bytes of settings for the tiles."""

    def build(target, builder, signature, arguments):
        assembly(builder, "ldtilecfg ($0)", bytes_at(builder, arguments[0]))
        return target.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def end_tiles(context):
    """Leave the tiles, so that nobody need keep what is in them."""

    def build(target, builder, signature, arguments):
        assembly(builder, "tilerelease")
        return target.get_dummy_value()

    return types.void(), build


# Pairs of parts, a step from one to the next changes one of them.
PAIRS = ((1, 3), (1, 2), (2, 2), (2, 1), (1, 1), (3, 1))


def products_of(pairs, pitch):
    """Return the instructions that multiply such parts of a step, at $0 and $1."""
    lines, before = [], (0, 0)
    for pair in pairs:
        for which, register, panel in ((0, 4, 0), (1, 6, 1)):
            if pair[which] != before[which]:
                at = 2048 * (pair[which] - 1)
                lines += [
                    f"tileloadd {at + 1024 * i}(${panel},{pitch},1), %tmm{register + i}"
                    for i in (0, 1)
                ]
        lines += [
            f"tdpbf16ps %tmm{6 + j}, %tmm{4 + i}, %tmm{2 * i + j}" for i in (0, 1) for j in (0, 1)
        ]
        before = pair
    return lines


def multiply_text():
    """Multiply two panels, at $0 and $1, for $2 steps of the depth; $6 is a tile's pitch."""
    lines, near = ["1:"], 0
    for line in products_of(PAIRS, "$6"):
        lines.append(line)
        if line.startswith("tdp"):
            # The next step's lines, a share behind each product.
            for n in range(near, near + 8):
                lines.append(f"prefetcht0 {6144 + 64 * (n // 2)}(${n % 2})")
            near += 8
    return "\\n".join([*lines, "add $$6144, $0", "add $$6144, $1", "dec $2", "jnz 1b"])


MULTIPLY = multiply_text()
HALVES = products_of(PAIRS[:3], "$2"), products_of(PAIRS[3:], "$2")


@intrinsic
def begin_sums(context):
    """Let the sums of a block of 32 by 32 numbers be 0."""

    def build(target, builder, signature, arguments):
        for i in range(4):
            assembly(builder, f"tilezero %tmm{i}")
        return target.get_dummy_value()

    return types.void(), build


@intrinsic
def add_products(context, A, B, steps):
    """Add the product of two panels, of so many steps of the depth, to the sums."""

    def build(target, builder, signature, arguments):
        A, B, steps = arguments
        # Both pointers and the count change.
        kind = ir.FunctionType(ir.LiteralStructType([WHOLE] * 3), [WHOLE] * 4)
        constraints = "=&r,=&r,=&r,0,1,2,r,~{memory},~{cc}"
        given = [bytes_at(builder, A), bytes_at(builder, B), steps, whole(64)]
        builder.asm(kind, MULTIPLY, constraints, given, True)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@intrinsic
def write_sums(context, C, c_pitch):
    """Write the sums to C."""

    def build(target, builder, signature, arguments):
        at, pitch = (bytes_at(builder, one) for one in arguments)
        for i in range(4):
            place = builder.add(at, builder.mul(pitch, whole(16 * (i // 2))))
            place = builder.add(place, whole(64 * (i % 2)))
            assembly(builder, f"tilestored %tmm{i}, ($0,$1,1)", place, pitch)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64), build


def write_parts(builder, one, two, out):
    """Write two vectors as three vectors of pairs of bfloat16, the parts of each number."""
    half, upper = (ir.Constant(BITS, [n] * LANES) for n in (0x8000, 0xFFFF0000))
    shift = ir.Constant(BITS, [16] * LANES)
    for part in range(3):
        bits = [builder.bitcast(value, BITS) for value in (one, two)]
        if part < 2:  # the third is exact
            bits = [builder.and_(builder.add(value, half), upper) for value in bits]
            one, two = (
                builder.fsub(value, builder.bitcast(near, VECTOR))
                for value, near in zip((one, two), bits)
            )
        pairs = builder.or_(builder.lshr(bits[0], shift), bits[1])
        place = builder.add(out, whole(512 * part))
        builder.store(pairs, pointer(builder, place, BITS)).align = 64


def rows_of(builder, X, pitch, rows, n):
    """Read 16 vectors; what is beyond so many rows or numbers is 0. None: all are there."""
    values = []
    for i in range(LANES):
        mask = None
        if rows is not None:
            inside = builder.icmp_signed("<", whole(i), rows)
            mask = mask_of(builder, builder.select(inside, n, whole(0)))
        values.append(read_vector(builder, builder.add(X, builder.mul(whole(i), pitch)), mask))
    return values


@intrinsic
def split_tile(
    context, turned, one, two, pitch, rows, more_rows, n, more_n, factor, out, A, B, half,
    ahead,
):
    """Write a tile of each part of two blocks of 16 by 16 numbers times a factor.

    Of the blocks at `one` and `two` so many rows and numbers count. Unless A is 0, half of the
    products of a step of two panels, at A and B, are added to the sums meanwhile. What is `ahead`
    is brought near: rows lie in other pages than their neighbours, which no processor foresees.
    """

    def build(target, builder, signature, arguments):
        turned, one, two, pitch, rows, more_rows, n, more_n, factor, out, *products = arguments
        A, B, half, ahead = products
        factor, a, b = spread(builder, factor), bytes_at(builder, A), bytes_at(builder, B)
        complete = ir.Constant(ir.IntType(1), 1)
        for count in (rows, more_rows, n, more_n):
            complete = builder.and_(complete, builder.icmp_signed(">=", count, whole(LANES)))
        aside = [cgutils.alloca_once(builder, ir.ArrayType(NUMBER, LANES * LANES)) for _ in "xy"]
        for place in aside:
            place.align = 64
        aside = [builder.sdiv(builder.ptrtoint(place, WHOLE), whole(4)) for place in aside]
        # Where the rows of both blocks are, and how far apart.
        places = [cgutils.alloca_once_value(builder, value) for value in (one, two, pitch)]

        def put_aside(turns, *counts):
            for at, to, r, k in zip((one, two), aside, counts[::2], counts[1::2]):
                block = rows_of(builder, at, pitch, r, k)
                for i, line in enumerate(exchanged(builder, block) if turns else block):
                    write_vector(builder, line, builder.add(to, whole(16 * i)))
            for place, value in zip(places, (*aside, whole(LANES))):
                builder.store(value, place)

        turns = builder.icmp_signed("!=", turned, whole(0))
        with builder.if_else(complete) as (then, otherwise):
            with then, builder.if_then(turns):
                put_aside(True, None, None, None, None)
            with otherwise, builder.if_else(turns) as (then, otherwise):
                with then:
                    put_aside(True, rows, n, more_rows, more_n)
                with otherwise:
                    put_aside(False, rows, n, more_rows, more_n)

        def split(products):
            *starts, distance = (builder.load(place) for place in places)
            width = len(products) / LANES
            for i in range(LANES):
                down = builder.mul(whole(i), distance)
                pair = [read_vector(builder, builder.add(at, down)) for at in starts]
                pair = [builder.fmul(value, factor) for value in pair]
                for at in (one, two):
                    near = builder.add(builder.add(at, ahead), builder.mul(whole(i), pitch))
                    assembly(builder, "prefetcht0 ($0)", bytes_at(builder, near))
                write_parts(builder, *pair, builder.add(out, whole(16 * i)))
                for line in products[int(i * width) : int((i + 1) * width)]:
                    assembly(builder, line, a, b, whole(64))

        first = builder.icmp_signed("==", half, whole(0))
        with builder.if_else(builder.icmp_signed("==", A, whole(0))) as (then, otherwise):
            with then:
                split(())
            with otherwise, builder.if_else(first) as (then, otherwise):
                with then:
                    split(HALVES[0])
                with otherwise:
                    split(HALVES[1])
        return target.get_dummy_value()

    number, place = types.float32, types.int64
    return types.void(*[place] * 8, number, *[place] * 5), build
'''


def instructions() -> str:
    """Return the text of the instructions, which goes behind that of `vectors`."""
    sizes = ", ".join(map(str, (PANEL, STEP, DEEP, BROAD, HIGH, ONE, SCRATCH, AHEAD * PANEL)))
    return _INSTRUCTIONS.replace("{sizes}", sizes)


def room(m: int, n: int, depth: int) -> int:
    """Return how many float32 numbers a product of (m, depth) and (depth, n) takes beside."""

    def panels(lines: int) -> int:
        return -(-lines // PANEL)

    steps = panels(min(depth, DEEP))
    return SCRATCH + PANEL * PANEL + (panels(min(m, HIGH)) + panels(min(n, BROAD))) * steps * STEP


def room_of_rows(depth: int) -> int:
    """Return the same for `panels.multiply_rows_split`."""
    return SCRATCH + PANEL * PANEL + (-(-depth // PANEL) + 2) * STEP


def settings() -> np.ndarray:
    """Return what such room begins with: how large the tiles are, and a number 1."""
    found = np.zeros(SCRATCH, np.float32)
    of_bytes = found[:16].view(np.uint8)
    of_bytes[0] = 1  # the palette
    of_bytes[16:32].view(np.uint16)[:] = 64  # bytes of a row of each of the eight tiles
    of_bytes[48:56] = 16  # its rows
    found[ONE] = 1
    return found
