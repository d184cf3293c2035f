"""Writes inner products of rows as LLVM's vector instructions, for `tiles`.

A tile of `vectors` wants columns: of W, or of all samples. Where both stand as rows that are long,
their inner products need no column: each vector of a row of W is multiplied by the same part of
four samples, all sums stay in registers for the whole depth, and each is added up at the end.
"""

from gpubackprop.executors.compiled import vectors

#: Units whose sums for four samples stay in registers, by the number of a processor's registers.
_UNITS = {32: 6, 16: 3}

_DOTS = '''
UNITS = {units}
FOUR = ir.VectorType(NUMBER, SAMPLES)


def across(builder, sums):
    """Return a vector of the sums of four vectors."""
    if LANES < SAMPLES:
        found = ir.Constant(FOUR, ir.Undefined)
        for i, one in enumerate(sums):
            parts = [builder.extract_element(one, ir.Constant(SHORT, q)) for q in range(LANES)]
            for part in parts[1:]:
                parts[0] = builder.fadd(parts[0], part)
            found = builder.insert_element(found, parts[0], ir.Constant(SHORT, i))
        return found

    def joined(x, y, first, second):
        indices = [[g + i for i in chosen] for chosen in (first, second) for g in fours]
        half = len(indices) // 2
        both = [
            builder.shuffle_vector(x, y, ir.Constant(INDICES, sum(part, [])))
            for part in (indices[:half], indices[half:])
        ]
        return builder.fadd(*both)

    fours, L = range(0, LANES, 4), LANES
    pairs = [joined(*sums[i : i + 2], (0, L, 1, L + 1), (2, L + 2, 3, L + 3)) for i in (0, 2)]
    found, n = joined(*pairs, (0, 1, L, L + 1), (2, 3, L + 2, L + 3)), LANES
    while n > SAMPLES:
        n //= 2
        kind = ir.VectorType(SHORT, n)
        halves = [
            builder.shuffle_vector(found, found, ir.Constant(kind, list(range(at, at + n))))
            for at in (0, n)
        ]
        found = builder.fadd(*halves)
    return found


def some_dots(builder, units, given):
    """Build the inner products of four samples, of which `left` count, with so many units."""
    X, rows, left, pitch, W, depth, out, out_pitch, bias = given
    most, samples = builder.sub(left, whole(1)), []
    for i in range(SAMPLES):
        # Beyond the last sample it is read again.
        inside = builder.icmp_signed("<", whole(i), most)
        row = row_number(builder, builder.add(rows, builder.select(inside, whole(i), most)))
        samples.append(builder.add(X, builder.mul(row, pitch)))
    weights = [builder.add(W, builder.mul(whole(j), depth)) for j in range(units)]
    zeros = ir.Constant(VECTOR, None)
    sums = [[cgutils.alloca_once_value(builder, zeros) for _ in samples] for _ in weights]
    for one in [one for unit in sums for one in unit]:
        builder.store(zeros, one)

    def add(at, mask=None):
        w = [read_vector(builder, builder.add(row, at), mask) for row in weights]
        for i, sample in enumerate(samples):
            x = read_vector(builder, builder.add(sample, at), mask)
            for one, value in zip(sums, w):
                builder.store(multiply_add(builder, x, value, builder.load(one[i])), one[i])

    rest = builder.urem(depth, whole(LANES))
    with cgutils.for_range(builder, builder.udiv(depth, whole(LANES))) as loop:
        add(builder.mul(loop.index, whole(LANES)))
    with builder.if_then(builder.icmp_signed(">", rest, whole(0))):
        add(builder.sub(depth, rest), mask_of(builder, rest))
    has_bias = builder.icmp_signed("!=", bias, whole(0))
    for j, unit in enumerate(sums):
        value = cgutils.alloca_once_value(builder, ir.Constant(FOUR, None))
        builder.store(across(builder, [builder.load(one) for one in unit]), value)
        with builder.if_then(has_bias):
            b = read(builder, builder.add(bias, whole(j)), NUMBER)
            builder.store(builder.fadd(builder.load(value), spread(builder, b, SAMPLES)), value)
        place = builder.add(out, builder.mul(whole(j), out_pitch))
        with builder.if_else(builder.icmp_signed(">=", left, whole(SAMPLES))) as (all_, some):
            with all_:
                builder.store(builder.load(value), pointer(builder, place, FOUR)).align = {size}
            with some:
                for i in range(SAMPLES - 1):
                    with builder.if_then(builder.icmp_signed("<", whole(i), left)):
                        one = builder.extract_element(builder.load(value), ir.Constant(SHORT, i))
                        builder.store(one, pointer(builder, builder.add(place, whole(i)), NUMBER))


@intrinsic
def dots(context, units, X, rows, left, pitch, W, depth, out, out_pitch, bias):
    """Write ``W @ X[rows].T + bias`` of so many units and up to four samples."""

    def build(target, builder, signature, arguments):
        units, *given = arguments
        end = builder.append_basic_block("end")
        switch = builder.switch(units, end)
        for n in range(1, UNITS + 1):
            block = builder.append_basic_block("dots")
            switch.add_case(whole(n), block)
            builder.position_at_end(block)
            some_dots(builder, n, given)
            builder.branch(end)
        builder.position_at_end(end)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 10), build
'''


def dots(dtype: str) -> str:
    """Return the text of the instructions, which goes behind that of `vectors`."""
    return _DOTS.format(units=_UNITS[vectors.processor()[1]], size=4 if dtype == "float32" else 8)
