"""Writes a type of numbers that are computed at once, for `fixed_source`: a vector of LLVM's.

Arithmetic, comparisons and the functions of a header take it as they take a number, and a number
beside it stands for as many equal ones: formulas are printed for both alike. LLVM makes whatever
instructions the processor has of it, for any count.
"""

LANES = '''
import operator

from numba.core.datamodel import models
from numba.extending import lower_builtin, register_model, type_callable

NUMBER = types.{dtype}


class Lanes(types.Type):
    """So many numbers of one kind."""

    def __init__(self, count, element):
        self.count, self.element = count, element
        super().__init__(f"Lanes({{count}}, {{element}})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        element = manager.lookup(kind.element).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def like(value, element):
    return Lanes(value.count, element) if isinstance(value, Lanes) else element


def some_lanes(*kinds):
    return next((kind for kind in kinds if isinstance(kind, Lanes)), None)


def indices(numbers):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


def as_lanes(context, builder, value, kind, count, element):
    """Return a value, or as many as there are lanes."""
    if isinstance(kind, Lanes):
        return value
    value = context.cast(builder, value, kind, element)
    nothing = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, indices([0] * count))


def binary(function, build, element=None):
    """Have an operator take lanes; what comes out has elements of the same kind or another."""

    @type_callable(function)
    def typing(context):
        def typer(x, y):
            kind = some_lanes(x, y)
            return kind and Lanes(kind.count, element or kind.element)

        return typer

    def lower(context, builder, signature, arguments):
        kind = some_lanes(*signature.args)
        x, y = (
            as_lanes(context, builder, value, given, kind.count, kind.element)
            for value, given in zip(arguments, signature.args)
        )
        return build(builder, x, y)

    lower_builtin(function, Lanes, Lanes)(lower)
    for number in types.Number, types.Boolean:
        lower_builtin(function, Lanes, number)(lower)
        lower_builtin(function, number, Lanes)(lower)


def either(name):
    def build(builder, x, y):
        real = isinstance(x.type.element, (ir.FloatType, ir.DoubleType))
        return getattr(builder, f"f{{name}}" if real else name)(x, y)

    return build


def comparing(symbol):
    def build(builder, x, y):
        compare = builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered
        return compare(symbol, x, y)

    return build


for name in ("add", "sub", "mul"):
    binary(getattr(operator, name), either(name))
binary(operator.truediv, either("div"))
for function, build in (
    (operator.lshift, ir.IRBuilder.shl), (operator.rshift, ir.IRBuilder.ashr),
    (operator.and_, ir.IRBuilder.and_), (operator.or_, ir.IRBuilder.or_),
):
    binary(function, build)
for name, symbol in (
    ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!="),
):
    binary(getattr(operator, name), comparing(symbol), types.boolean)


@type_callable(operator.neg)
def typing(context):
    return lambda x: x if isinstance(x, Lanes) else None


@lower_builtin(operator.neg, Lanes)
def negate(context, builder, signature, arguments):
    return builder.fneg(arguments[0])


@intrinsic
def choose(context, condition, x, y):
    kind = some_lanes(condition, x, y)
    kind = kind and Lanes(kind.count, NUMBER)

    def build(target, builder, signature, arguments):
        if kind is None:
            return builder.select(*arguments)
        spread = [
            as_lanes(target, builder, value, given, kind.count, element)
            for value, given, element in zip(
                arguments, signature.args, (types.boolean, NUMBER, NUMBER)
            )
        ]
        return builder.select(*spread)

    if kind is None:
        return NUMBER(types.boolean, NUMBER, NUMBER), build
    return kind(condition, x, y), build


def by_name(name):
    """Return a function that LLVM has for vectors."""

    @intrinsic
    def function(context, x):
        def build(target, builder, signature, arguments):
            kind = arguments[0].type
            called = ir.FunctionType(kind, [kind])
            full = f"llvm.{{name}}.v{{kind.count}}{kind}"
            return builder.call(
                cgutils.get_or_insert_function(builder.module, called, full), arguments
            )

        return x(x), build

    return function


fabs, sqrt = by_name("fabs"), by_name("sqrt")


@intrinsic(prefer_literal=True)
def element(context, x, i):
    """Return the number of a lane, which is given as a number."""

    def build(target, builder, signature, arguments):
        place = ir.Constant(ir.IntType(32), i.literal_value)
        return builder.extract_element(arguments[0], place)

    return x.element(x, i), build


def place_of(builder, position, kind):
    address = builder.mul(position, ir.Constant(ir.IntType(64), {size}))
    return builder.inttoptr(address, kind.as_pointer())


def read_at(builder, position, count):
    value = builder.load(place_of(builder, position, ir.VectorType(ir.{llvm}(), count)))
    value.align = {size}
    return value


def reading(count):
    """Return what reads lanes from a position."""

    @intrinsic
    def read(context, position):
        def build(target, builder, signature, arguments):
            return read_at(builder, arguments[0], count)

        return Lanes(count, NUMBER)(types.int64), build

    return read


@intrinsic
def lanes(context, numbers):
    """Return the numbers of a tuple as lanes."""

    def build(target, builder, signature, arguments):
        value = ir.Constant(ir.VectorType(ir.{llvm}(), len(numbers)), ir.Undefined)
        for i, one in enumerate(cgutils.unpack_tuple(builder, arguments[0])):
            value = builder.insert_element(value, one, ir.Constant(ir.IntType(32), i))
        return value

    return Lanes(len(numbers), NUMBER)(numbers), build


def halves_added(builder, value):
    """Return the sum of all lanes."""
    count = value.type.count
    while count > 1:
        half = count // 2
        rest = value if count % 2 else None
        one, two = (
            builder.shuffle_vector(value, value, indices(list(range(at, at + half))))
            for at in (0, half)
        )
        added = builder.fadd(one, two)
        if rest is not None:
            last = builder.extract_element(rest, ir.Constant(ir.IntType(32), count - 1))
            first = ir.Constant(ir.IntType(32), 0)
            sum_ = builder.fadd(builder.extract_element(added, first), last)
            added = builder.insert_element(added, sum_, first)
        value, count = added, half
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def sum_of(context, x):
    def build(target, builder, signature, arguments):
        return halves_added(builder, arguments[0])

    return x.element(x), build
'''


def lanes(dtype: str) -> str:
    """Return the text, which goes behind a header of "float32" or "float64"."""
    single = dtype == "float32"
    return LANES.format(
        dtype=dtype,
        size=4 if single else 8,
        llvm="FloatType" if single else "DoubleType",
        kind="f32" if single else "f64",
    )
