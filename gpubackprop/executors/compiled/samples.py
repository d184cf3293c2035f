"""Writes how `fixed_source` reads samples of a batch as lanes, and sums over them."""

from gpubackprop.executors.compiled.vectors import EXCHANGE, processor

#: Vectors of samples that are done at once: one would wait for its results at every step.
VECTORS_AT_ONCE = 2

SAMPLES = '''
# Of a vector, and of the samples that are done at once.
VECTOR, LANES = {vector}, {lanes}


def part(first):
    """Return what takes a vector of lanes."""

    @intrinsic
    def take(context, x):
        def build(target, builder, signature, arguments):
            value = arguments[0]
            return builder.shuffle_vector(value, value, indices(list(range(first, first + VECTOR))))

        return Lanes(VECTOR, x.element)(x), build

    return take


low, high = part(0), part(VECTOR)


@intrinsic
def read_anew(context):
    """Have what is read after it read anew: kept from before it would be written in between."""

    def build(target, builder, signature, arguments):
        builder.fence("seq_cst", "singlethread")
        return target.get_dummy_value()

    return types.void(), build


@intrinsic
def zeros(context):
    kind = Lanes(VECTOR, NUMBER)

    def build(target, builder, signature, arguments):
        return ir.Constant(target.get_value_type(kind), None)

    return kind(), build


@intrinsic
def no_loss(context):
    kind = Lanes(LANES, types.float64)

    def build(target, builder, signature, arguments):
        return ir.Constant(target.get_value_type(kind), None)

    return kind(), build


@intrinsic
def widened(context, x):
    kind = Lanes(x.count, types.float64)

    def build(target, builder, signature, arguments):
        wide = target.get_value_type(kind)
        return arguments[0] if arguments[0].type == wide else builder.fpext(arguments[0], wide)

    return kind(x), build


@intrinsic
def only(context, x, k):
    """Return x where a lane is one of the first k, else 0."""

    def build(target, builder, signature, arguments):
        x, k = (
            as_lanes(target, builder, value, given, LANES, element)
            for value, given, element in zip(
                arguments, signature.args, (NUMBER, types.int64)
            )
        )
        whole = ir.VectorType(ir.IntType(32), LANES)
        inside = builder.icmp_signed("<", indices(list(range(LANES))), builder.trunc(k, whole))
        return builder.select(inside, x, ir.Constant(x.type, None))

    return Lanes(LANES, NUMBER)(x, types.int64), build


def joined(builder, parts):
    """Return vectors one after the other as one."""
    while len(parts) > 1:
        count = 2 * parts[0].type.count
        parts = [
            builder.shuffle_vector(one, two, indices(list(range(count))))
            for one, two in zip(parts[::2], parts[1::2])
        ]
    return parts[0]


def columns_at(builder, start, rows, width):
    """Return the columns of rows of an array, as lanes, a few at a time."""
    columns = []
    while len(columns) < width:
        some, first = 4, ir.Constant(ir.IntType(64), len(columns))
        while some > width - len(columns):
            some //= 2
        some = min(some, VECTOR)
        lines = []
        for row in rows:
            at = builder.add(start, builder.mul(row, ir.Constant(ir.IntType(64), width)))
            lines.append(read_at(builder, builder.add(at, first), some))
        # Of every `some`-th row a vector; then squares of rows are turned.
        lines = [joined(builder, lines[i::some]) for i in range(some)]
        columns += exchanged(builder, lines)
    return columns


{exchange}


def sampling(n_in, n_out):
    """Return what reads samples."""

    @intrinsic
    def read(context, X, Y, order, first, stop, end):
        kind = types.UniTuple(Lanes(LANES, NUMBER), n_in + n_out)

        def build(target, builder, signature, arguments):
            X, Y, order, first, stop, end = arguments
            whole = ir.IntType(64)
            found = [
                cgutils.alloca_once(builder, target.get_value_type(kind.dtype))
                for _ in range(n_in + n_out)
            ]

            def read_rows(rows):
                values = columns_at(builder, X, rows, n_in) + columns_at(builder, Y, rows, n_out)
                for place, value in zip(found, values):
                    builder.store(value, place)

            def row_at(number):
                address = builder.mul(builder.add(order, number), ir.Constant(whole, 4))
                row = builder.load(builder.inttoptr(address, ir.IntType(32).as_pointer()))
                return builder.sext(row, whole)

            def fetch_next():
                after = [builder.add(number, ir.Constant(whole, LANES)) for number in numbers]
                with builder.if_then(builder.icmp_signed("<", after[-1], end)):
                    for number in after:
                        row = row_at(number)
                        for start, width in (X, n_in), (Y, n_out):
                            at = builder.mul(row, ir.Constant(whole, width))
                            prefetch(builder, builder.add(start, at), 3)

            numbers = [builder.add(first, ir.Constant(whole, i)) for i in range(LANES)]
            last = builder.sub(stop, ir.Constant(whole, 1))
            is_whole = builder.icmp_signed("<=", numbers[-1], last)
            ordered = builder.icmp_signed("!=", order, ir.Constant(whole, 0))
            with builder.if_else(is_whole) as (then, otherwise):
                with then, builder.if_else(ordered) as (one, two):
                    with one:
                        read_rows([row_at(number) for number in numbers])
                        fetch_next()
                    with two:
                        read_rows(numbers)
                with otherwise:
                    # Beyond the last one it is read again.
                    places = [cgutils.alloca_once(builder, whole) for _ in numbers]
                    for number, place in zip(numbers, places):
                        inside = builder.icmp_signed("<", number, last)
                        builder.store(builder.select(inside, number, last), place)
                    with builder.if_then(ordered):
                        for place in places:
                            builder.store(row_at(builder.load(place)), place)
                    read_rows([builder.load(place) for place in places])
            values = [builder.load(place) for place in found]
            return target.make_tuple(builder, kind, values)

        return kind(*[types.int64] * 6), build

    return read


@intrinsic
def add_sums(context, position, values):
    """Add the sum of each of some lanes to the numbers at a position: whole vectors of them."""

    def build(target, builder, signature, arguments):
        position, values = arguments
        lines = cgutils.unpack_tuple(builder, values)
        nothing = ir.Constant(lines[0].type, None)
        for first in range(0, len(lines), VECTOR):
            some = lines[first : first + VECTOR]
            some += [nothing] * (VECTOR - len(some))
            distance = 1
            while distance < VECTOR:
                # Of each two vectors as one: a lane and the one so far from it.
                own = [l + VECTOR if l & distance else l for l in range(VECTOR)]
                other = [l ^ distance for l in own]
                some = [
                    builder.fadd(
                        builder.shuffle_vector(one, two, indices(own)),
                        builder.shuffle_vector(one, two, indices(other)),
                    )
                    for one, two in zip(some[::2], some[1::2])
                ]
                distance *= 2
            at = builder.add(position, ir.Constant(ir.IntType(64), first))
            before = read_at(builder, at, VECTOR)
            place = place_of(builder, at, before.type)
            builder.store(builder.fadd(before, some[0]), place).align = {size}
        return target.get_dummy_value()

    return types.void(types.int64, values), build
'''


def vector(dtype: str) -> int:
    """Return how many numbers a vector of this processor has."""
    return processor()[0] // (4 if dtype == "float32" else 8)


def samples(dtype: str) -> str:
    """Return the text, which goes behind that of `lanes`."""
    return SAMPLES.format(
        vector=vector(dtype),
        lanes=VECTORS_AT_ONCE * vector(dtype),
        size=4 if dtype == "float32" else 8,
        exchange=EXCHANGE,
    )
