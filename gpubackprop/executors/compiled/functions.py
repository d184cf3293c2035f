"""Writes exp, expm1, tanh, log and log1p for Numba, such that LLVM can turn loops over them into
vector instructions, which it cannot do with libm's.

exp: ``x = n * log(2) + f`` with f within log(2) / 2 of 0 (reduction by Cody and Waite, so that n
times the first part of log(2) is exact), Chebyshev's series of f, and two factors so that results
below the smallest normal number and at infinity come out right. log: ``x = 2 ** n * m`` with m
within a factor of sqrt(2) of 1, and the series of atanh at ``s = (m - 1) / (m + 1)``. Each is
within 4 ulp of the true value, which a test measures. NaN stays NaN.

SGD waits for one result after the other: what can be done side by side is (Estrin's scheme), and
what is known first is multiplied first.

Whole numbers are had without conversions, which AVX2 lacks for 64 bits: adding 1.5 times the first
number without a fraction rounds to a whole number, which then stands in the lowest bits.

References
----------
Cody and Waite, "Software manual for the elementary functions", 1980.
"""

import math
from dataclasses import dataclass

from numpy.polynomial import chebyshev


@dataclass(frozen=True)
class _Format:
    """What the functions must know of a floating-point format.

    `first` and `second` are parts of log(2), the first with few bits. `terms` are how many
    of f's series, and of s ** 2's, count. `low` and `high`: beyond them exp is 0 and infinity.
    """

    integer: str
    mantissa: int
    bias: int
    first: str
    second: str
    terms: tuple[int, int]
    low: float
    high: float


_FORMATS = {
    "float32": _Format(
        "int32", 23, 127, "0.693359375", "-2.12194440e-4", (5, 5), -105.0, 90.0
    ),
    "float64": _Format(
        "int64", 52, 1023, "0.693145751953125", "1.42860682030941723212e-6",
        (10, 10), -746.0, 711.0,
    ),
}  # fmt: skip

_TEXT = """
I = np.{integer}
MAGIC = T({magic!r})
BIAS, SHIFT = I({bias}), I({mantissa})
ONE = I({one})
#: Bits of sqrt(1 / 2): what is subtracted before the exponent is cut off.
ROOT, FRACTION, EXPONENT = I({root}), I({fraction}), I({exponent})


def reads_as(element, of):
    @intrinsic
    def change(context, value):
        def build(target, builder, signature, arguments):
            return builder.bitcast(arguments[0], target.get_value_type(signature.return_type))

        return like(value, element)(like(value, of)), build

    return change


from_bits = reads_as(types.{dtype}, types.{integer})
to_bits = reads_as(types.{integer}, types.{dtype})


@intrinsic
def half_of(context, bits):
    # Rounds down; of a whole number that is not negative.
    def build(target, builder, signature, arguments):
        kind = arguments[0].type
        one = [1] * kind.count if isinstance(kind, ir.VectorType) else 1
        return builder.lshr(arguments[0], ir.Constant(kind, one))

    kind = like(bits, types.{integer})
    return kind(kind), build


@rounded
def within(x):
    y = choose(x < T({low!r}), T({low!r}), x)
    return choose(y > T({high!r}), T({high!r}), y)


@rounded
def whole_powers(y):
    # What y / log(2) rounds to stands in the lowest bits of the sum.
    return y * T({log2e!r}) + MAGIC


@rounded
def rest(y, n):
    return (y - n * T({first})) - n * T({second})


@rounded
def power_of_2(n):
    return from_bits((n << SHIFT) + ONE)


@rounded
def curve(f):
    # (exp(f) - 1 - f) / f ** 2 near 0
    {curve}


@rounded
def exp(x):
    y = within(x)
    whole = whole_powers(y)
    f = rest(y, whole - MAGIC)
    n = to_bits(whole)
    half = half_of(n)
    one = power_of_2(half)
    return (curve(f) * (f * f * one) + (f * one + one)) * power_of_2(n - half)


@rounded
def expm1(x):
    y = within(x)
    whole = whole_powers(y)
    f = rest(y, whole - MAGIC)
    p = curve(f) * (f * f) + f
    n = to_bits(whole)
    half = half_of(n)
    one, two = power_of_2(half), power_of_2(n - half)
    scale = one * two
    # Where 2 ** n is infinite the result need not be; there the 1 is lost anyway.
    far = whole > MAGIC + T({mantissa} + 8)
    return choose(far, (p + T(1)) * one * two, p * scale + (scale - T(1)))


@rounded
def tanh(x):
    y = fabs(x)
    y = choose(y > T(20), T(-40), T(-2) * y)  # from there on tanh is 1
    whole = whole_powers(y)
    f = rest(y, whole - MAGIC)
    scale = power_of_2(to_bits(whole))
    p = (curve(f) * (f * f) + f) * scale + (scale - T(1))
    p = p / (T(2) + p)
    return choose(x >= T(0), -p, p)


@rounded
def exponent_of(bits):
    # With MAGIC's exponent the whole number below is a float; the shift leaves it 0 or more.
    return from_bits(((bits + ONE) >> SHIFT) | to_bits(MAGIC)) - (MAGIC + T({bias}))


@rounded
def fraction_of(bits):
    return from_bits((bits & FRACTION) + ROOT) - T(1)


@rounded
def log_of(n, f):
    # log(2 ** n * (1 + f))
    s = f / (T(2) + f)
    q = s * s
    {atanh}
    p = p * q * s
    return n * T({first}) + (n * T({second}) + p + T(2) * s)


@rounded
def log(x):
    tiny = x < T({tiny!r})
    bits = to_bits(choose(tiny, x * T({grow!r}), x)) - ROOT
    p = log_of(exponent_of(bits), fraction_of(bits))
    p = choose(tiny, p - T({growth!r}), p)
    p = choose(x < T(np.inf), p, x)
    return choose(x > T(0), p, choose(x == T(0), T(-np.inf), T(np.nan)))


@rounded
def log1p(x):
    u = T(1) + x
    bits = to_bits(u) - ROOT
    # What the sum lost, as a part of 2 ** n. Far from 1 it is nothing.
    lost = (x - (u - T(1))) * from_bits(ONE - (bits & EXPONENT))
    lost = choose(u < T({grow!r}), lost, T(0))
    p = log_of(exponent_of(bits), fraction_of(bits) + lost)
    p = choose(u < T(np.inf), p, u)
    return choose(u > T(0), p, choose(u == T(0), T(-np.inf), T(np.nan)))
"""


def _horner(variable: str, coefficients: list[float]) -> str:
    """Print a polynomial, highest power first, line by line, into p."""
    first, *others = coefficients
    lines = [f"p = T({first!r})", *(f"p = p * {variable} + T({c!r})" for c in others)]
    return "\n    ".join(lines)


def estrin(variable: str, coefficients: list[float]) -> str:
    """Print a polynomial, lowest power first, with few steps one after the other."""
    lines, terms, power = [], [f"T({c!r})" for c in coefficients], variable
    while len(terms) > 1:
        lines.append(f"{power}{power} = {power} * {power}")
        groups = [terms[i : i + 2] for i in range(0, len(terms), 2)]
        if len(groups) > 1 and len(groups[-1]) == 1:
            # Beside the last two instead of a step later.
            groups[-2:] = [groups[-2] + groups[-1]]
        factors = f" * {power}", f" * {power}{power}"
        made = [f"{power}_{i}" for i in range(len(groups))]
        for name, (first, *others) in zip(made, groups, strict=True):
            sum_ = " + ".join([first, *(x + f for x, f in zip(others, factors, strict=False))])
            lines.append(f"{name} = {sum_}")
        terms, power = made, 2 * power
    return "\n    ".join([*lines, f"return {terms[0]}"])


def _curve(n_terms: int) -> list[float]:
    """Return the powers' coefficients of (exp(f) - 1 - f) / f ** 2 within log(2) / 2 of 0: of its
    expansion in Chebyshev's polynomials the first terms.
    """
    reach = math.log(2) / 2
    scaled = [reach**k / math.factorial(k + 2) for k in range(30)]
    powers = chebyshev.cheb2poly(chebyshev.poly2cheb(scaled)[:n_terms])
    return [float(c) / reach**k for k, c in enumerate(powers)]


def functions(dtype: str) -> str:
    """Return the definitions for "float32" or "float64"; they want a header's names."""
    form = _FORMATS[dtype]
    n_curve, n_atanh = form.terms
    atanh = [2 / (2 * k + 1) for k in range(n_atanh, 0, -1)]
    size, mantissa = form.mantissa + 1, form.mantissa
    root = math.sqrt(0.5)
    fraction = int((root * 2 - 1) * 2**mantissa)
    return _TEXT.format(
        dtype=dtype,
        integer=form.integer,
        mantissa=mantissa,
        bias=form.bias,
        magic=1.5 * 2.0**mantissa,
        root=(form.bias - 1 << mantissa) + fraction,
        fraction=(1 << mantissa) - 1,
        exponent=-1 << mantissa,
        one=form.bias << mantissa,
        first=form.first,
        second=form.second,
        log2e=math.log2(math.e),
        low=form.low,
        high=form.high,
        tiny=2.0 ** (1 - form.bias),
        grow=2.0**size,
        growth=size * math.log(2),
        curve=estrin("f", _curve(n_curve)),
        atanh=_horner("q", atanh),
    )
