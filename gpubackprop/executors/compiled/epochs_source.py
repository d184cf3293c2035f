"""Writes what is compiled for the time between epochs: shuffles, and a loop over epochs.

NumPy swaps elements of any size, and where a number it drew is too large it draws again: a branch
that no processor foresees. Here such a number swaps an element with itself. The numbers of PCG64,
NumPy's own choice, are computed on the spot; those of others come from the generator's function.

References
----------
O'Neill, "PCG: A family of simple fast space-efficient statistically good algorithms for random
number generation", 2014: PCG XSL RR 128/64.
"""

import functools

from gpubackprop.executors.compiled.formulas import by_address, join
from gpubackprop.executors.compiled.header import header

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
@fast
def {name}_rows({arguments}, rows, n):
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
    "shuffle": ("function, state", "pass", "drawn = draw(function, state)", "pass"),
    "shuffle_pcg64": ("state", """
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

#: What the loop over epochs reads from its one argument, in this order. `run` are the arguments of
#: the loop over batches at `entry`; of these, at two places, `steps` and `scalars` are added in
#: each epoch. `size` is in words of 64 bits.
PARAMETERS = (
    "entry", "run", "at_steps", "steps", "at_scalars", "scalars", "epochs", "orders", "sums",
    "losses", "done", "flat", "before", "size", "low", "high", "rows", "n", "state",
)  # fmt: skip

_EPOCHS = """
@fast
def epoch_by_epoch(given):
    r = codes(given)
    {names} = {values}
    arguments, now, old, at = codes(run), codes(flat), codes(before), rows_at(rows)
    for e in range(epochs):
        for i in range(size):
            old[i] = now[i]
        doubles(sums)[0], doubles(sums)[1] = 0.0, -1.0
        call_one(entry, run)
        arguments[at_steps] += steps
        arguments[at_scalars] += scalars
        doubles(losses)[e] = doubles(sums)[0]
        # A number is infinite or NaN where all bits of its exponent are set.
        bad = int(doubles(sums)[1] >= 0)
        for i in range(size):
            bad |= int((now[i] & low) == low) | int((now[i] & high) == high)
        if e < orders:
            for i in range(n):
                at[i] = i
            shuffle_pcg64_rows(state, rows, n)
        if bad != 0:
            codes(done)[1] = int(doubles(sums)[1])
            return
        codes(done)[0] += 1
""".strip()


@functools.cache
def write_epochs() -> str:
    """Write the module."""
    parts = [header("float32"), _DRAW, _PCG64]
    for name, (arguments, *blocks) in _LINES.items():
        depths = (4, 12, 4)
        begin, draw, end = (
            block.strip().replace("\n", "\n" + " " * depth)
            for block, depth in zip(blocks, depths, strict=True)
        )
        parts.append(_SHUFFLE.format(
            name=name, arguments=arguments, begin=begin, draw=draw, end=end
        ))  # fmt: skip
        names = (*arguments.split(", "), "rows", "n")
        parts.append(by_address(name, names, [f"{name}_rows({', '.join(names)})"]))
    values = ", ".join(f"r[{i}]" for i in range(len(PARAMETERS)))
    parts.append(_EPOCHS.format(names=", ".join(PARAMETERS), values=values))
    return join([*parts, by_address("run_epochs", ("given",), ["epoch_by_epoch(given)"])])
