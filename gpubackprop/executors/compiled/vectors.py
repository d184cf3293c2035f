"""Writes products and transposes of small tiles as LLVM's vector instructions, for `tiles`.

LLVM makes vectors of plain loops, but keeps no table of sums in registers. A tile does: of some
rows of A and one or two vectors of B's columns, all sums stay in registers for the whole depth, and
each number of A and of B is read once for as many multiplications as there are registers for. Rows
are found by their numbers, so that neither A nor B is copied before.
"""

import functools
import os

#: How rows are cut into tiles, by the number of a processor's registers: (rows left, rows of the
#: next tile), the first that fits counts. Fewer than four rows would wait for their own sums.
_STEPS = {
    32: ((12, 8), (11, 6), (9, 5), (8, 8), (7, 4)),
    16: ((10, 6), (9, 5), (7, 4)),
}
#: So few are one tile.
_FEW = 6

#: Turns squares of numbers: behind it come what wants rows as columns.
EXCHANGE = '''
def exchanged(builder, lines):
    """Return vectors in whose squares rows and columns have changed places.

    A square has as many rows as there are vectors, a power of two; each vector is so many rows.
    """
    count, distance = lines[0].type.count, 1
    kind = ir.VectorType(ir.IntType(32), count)
    while distance < len(lines):
        for i in range(len(lines)):
            if not i & distance:
                one, two = lines[i], lines[i + distance]
                low = [l + count - distance if l & distance else l for l in range(count)]
                high = [l + count if l & distance else l + distance for l in range(count)]
                lines[i] = builder.shuffle_vector(one, two, ir.Constant(kind, low))
                lines[i + distance] = builder.shuffle_vector(one, two, ir.Constant(kind, high))
        distance *= 2
    return lines
'''.strip()

VECTORS = '''
# So many rows of a tile of B stay in the fastest cache, and so many numbers at least.
DEPTH, NEAR = 256, 16 * 1024 // {size}
# AVX-512 masks for nothing; elsewhere that takes long, or is no vector instruction at all: there a
# single vector of what is left is masked.
MASKED_PAIRS, LANES, ROWS = {masked_pairs}, {lanes}, {rows}
WHOLE_TILE, FAR_PAIR = max(ROWS), 3
PAIR = LANES + 1 if MASKED_PAIRS else 2 * LANES
NUMBER, WHOLE, SHORT = ir.{llvm}(), ir.IntType(64), ir.IntType(32)
VECTOR, MASK = ir.VectorType(NUMBER, LANES), ir.VectorType(ir.IntType(1), LANES)
INDICES = ir.VectorType(SHORT, LANES)


def whole(n):
    return ir.Constant(WHOLE, n)


def pointer(builder, position, kind, size={size}):
    return builder.inttoptr(builder.mul(position, whole(size)), kind.as_pointer())


def read(builder, position, kind, size={size}):
    value = builder.load(pointer(builder, position, kind, size))
    value.align = size
    return value


def row_number(builder, position):
    return builder.sext(read(builder, position, SHORT, 4), WHOLE)


def spread(builder, value, count=LANES):
    nothing = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(SHORT, 0))
    zeros = ir.Constant(ir.VectorType(SHORT, count), [0] * count)
    return builder.shuffle_vector(first, nothing, zeros)


def mask_of(builder, n):
    """Choose the first n elements of a vector: all of them if there are so many."""
    lanes = ir.Constant(INDICES, list(range(LANES)))
    return builder.icmp_signed("<", lanes, spread(builder, builder.trunc(n, SHORT)))


def intrinsic_of(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [one.type for one in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def read_vector(builder, position, mask=None):
    place = pointer(builder, position, VECTOR)
    if mask is None:
        value = builder.load(place)
        value.align = {size}
        return value
    zeros, align = ir.Constant(VECTOR, None), ir.Constant(SHORT, {size})
    name = f"llvm.masked.load.v{{LANES}}{kind}.p0"
    return intrinsic_of(builder, name, VECTOR, place, align, mask, zeros)


def write_vector(builder, value, position, mask=None):
    place = pointer(builder, position, VECTOR)
    if mask is None:
        builder.store(value, place).align = {size}
    else:
        align, name = ir.Constant(SHORT, {size}), f"llvm.masked.store.v{{LANES}}{kind}.p0"
        intrinsic_of(builder, name, ir.VoidType(), value, place, align, mask)


def multiply_add(builder, x, y, z):
    return intrinsic_of(builder, f"llvm.fmuladd.v{{LANES}}{kind}", VECTOR, x, y, z)


def one_tile(builder, rows, vectors, given, far):
    """Build a tile of so many rows and vectors; of the last vector, `left` columns count. If far,
    the next columns of B and rows of C are brought near meanwhile.
    """
    A, a_rows, a_pitch, a_step, B, b_rows, b_pitch, C, c_pitch, depth, factor, kept, bias, left = (
        given
    )
    masks = [None] * vectors
    if vectors == 1 or MASKED_PAIRS:
        masks[-1] = mask_of(builder, left)
    starts = []
    for i in range(rows):
        row = row_number(builder, builder.add(a_rows, whole(i)))
        starts.append(builder.add(A, builder.mul(row, a_pitch)))
    zeros = ir.Constant(VECTOR, None)
    sums = [[cgutils.alloca_once_value(builder, zeros) for _ in masks] for _ in range(rows)]
    for one in [one for row in sums for one in row]:
        builder.store(zeros, one)
    with builder.if_then(builder.icmp_signed("!=", bias, whole(0))):
        for i, row in enumerate(sums):
            value = spread(builder, read(builder, builder.add(bias, whole(i)), NUMBER))
            for one in row:
                builder.store(value, one)

    if far:
        for i, v in itertools.product(range(rows), range(vectors)):
            row = builder.mul(whole(rows + i), c_pitch)
            prefetch(builder, builder.add(builder.add(C, row), whole(v * LANES)), 2)
    with cgutils.for_range(builder, depth) as loop:
        row = row_number(builder, builder.add(b_rows, loop.index))
        at = builder.add(B, builder.mul(row, b_pitch))
        columns = [
            read_vector(builder, builder.add(at, whole(v * LANES)), mask)
            for v, mask in enumerate(masks)
        ]
        if far:
            for v in range(vectors):
                prefetch(builder, builder.add(at, whole((vectors + v) * LANES)), 2)
        step = builder.mul(loop.index, a_step)
        for start, row in zip(starts, sums):
            value = spread(builder, read(builder, builder.add(start, step), NUMBER))
            for one, column in zip(row, columns):
                builder.store(multiply_add(builder, value, column, builder.load(one)), one)
    anew = builder.fcmp_ordered("==", kept, ir.Constant(NUMBER, 0))
    factor, kept = spread(builder, factor), spread(builder, kept)

    def finish(masks, keeps):
        for i, row in enumerate(sums):
            at = builder.add(C, builder.mul(whole(i), c_pitch))
            for v, (one, mask) in enumerate(zip(row, masks)):
                place, value = builder.add(at, whole(v * LANES)), builder.load(one)
                if keeps:
                    before = builder.fmul(kept, read_vector(builder, place, mask))
                    value = multiply_add(builder, factor, value, before)
                else:
                    value = builder.fmul(factor, value)
                write_vector(builder, value, place, mask)

    # A whole vector is written without a mask: that is quicker everywhere.
    full = builder.icmp_signed(">=", left, whole(LANES))
    with builder.if_else(full) as (then, otherwise):
        for branch, chosen in (then, [None] * vectors), (otherwise, masks):
            with branch, builder.if_else(anew) as (first, later):
                with first:
                    finish(chosen, False)
                with later:
                    finish(chosen, True)


@intrinsic
def tile(
    context, rows, vectors, A, a_rows, a_pitch, a_step, B, b_rows, b_pitch, C, c_pitch, depth,
    factor, kept, bias, left,
):
    """Write ``factor * (A @ B + bias) + kept * C`` of a tile of one vector or two."""

    def build(target, builder, signature, arguments):
        rows, vectors, *given = arguments
        end = builder.append_basic_block("end")
        which = builder.add(builder.mul(rows, whole(4)), vectors)
        switch = builder.switch(which, end)
        for n, v in [*itertools.product(ROWS, (1, 2)), (WHOLE_TILE, FAR_PAIR)]:
            block = builder.append_basic_block("tile")
            switch.add_case(whole(4 * n + v), block)
            builder.position_at_end(block)
            one_tile(builder, n, min(v, 2), given, far=v == FAR_PAIR)
            builder.branch(end)
        builder.position_at_end(end)
        return target.get_dummy_value()

    number = types.{dtype}
    return types.void(*[types.int64] * 12, number, number, types.int64, types.int64), build


{exchange}


@intrinsic
def transposed(context, X, rows, pitch, out, out_pitch, n, k, bias):
    """Write the rows of a square block as columns, of which n of k numbers count, plus a bias."""

    def build(target, builder, signature, arguments):
        X, rows, pitch, out, out_pitch, n, k, bias = arguments
        most = builder.sub(k, whole(1))
        in_mask, out_mask = mask_of(builder, n), mask_of(builder, k)
        lines = []
        for i in range(LANES):
            # Beyond the last row it is read again.
            inside = builder.icmp_signed("<", whole(i), most)
            number = builder.add(rows, builder.select(inside, whole(i), most))
            at = builder.add(X, builder.mul(row_number(builder, number), pitch))
            lines.append(read_vector(builder, at, in_mask))
        has_bias = builder.icmp_signed("!=", bias, whole(0))
        full = builder.icmp_signed(">=", k, whole(LANES))
        for q, line in enumerate(exchanged(builder, lines)):
            with builder.if_then(builder.icmp_signed("<", whole(q), n)):
                value = cgutils.alloca_once_value(builder, line)
                builder.store(line, value)
                with builder.if_then(has_bias):
                    add = read(builder, builder.add(bias, whole(q)), NUMBER)
                    builder.store(builder.fadd(line, spread(builder, add)), value)
                place = builder.add(out, builder.mul(whole(q), out_pitch))
                with builder.if_else(full) as (then, otherwise):
                    with then:
                        write_vector(builder, builder.load(value), place)
                    with otherwise:
                        write_vector(builder, builder.load(value), place, out_mask)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 8), build
'''


@functools.cache
def processor() -> tuple[int, int]:
    """Return the bytes of this processor's vectors, and how many registers hold them."""
    import llvmlite.binding

    # What the user lets Numba use, as in "+avx2,-avx512f".
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = llvmlite.binding.get_host_cpu_features().flatten()
    has = set(features.split(","))
    if "+avx512f" in has:
        return 64, 32
    if "+avx" in has:
        return 32, 16
    return 16, 32 if "+neon" in has else 16


@functools.cache
def vectors(dtype: str) -> str:
    """Return the text of the instructions for this processor, which goes behind a header."""
    n_bytes, registers = processor()
    steps, single = _STEPS[registers], dtype == "float32"
    size = 4 if single else 8
    text = VECTORS.format(
        lanes=n_bytes // size,
        masked_pairs=n_bytes == 64,
        rows=sorted({*range(1, _FEW + 1), *(rows for _, rows in steps)}),
        size=size,
        dtype=dtype,
        llvm="FloatType" if single else "DoubleType",
        kind="f32" if single else "f64",
        exchange=EXCHANGE,
    )
    lines = ["", "", "@fast", "def rows_of_next(left):"]
    lines += [f"    if left >= {least}:\n        return {rows}" for least, rows in steps]
    return "\n".join([text.rstrip(), *lines, "    return left", ""])
