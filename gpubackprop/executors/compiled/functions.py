"""Writes exp, expm1, tanh, log and log1p for Numba, such that LLVM can turn loops over them into
vector instructions, which it cannot do with libm's.

exp: ``x = n * log(2) + f`` with f within log(2) / 2 of 0 (reduction by Cody and Waite, so that n
times the first part of log(2) is exact), Taylor's series of f, and two factors so that results
below the smallest normal number and at infinity come out right. log: ``x = 2 ** n * m`` with m
within a factor of sqrt(2) of 1, and the series of atanh at ``s = (m - 1) / (m + 1)``. Each is
within 4 ulp of the true value, which a test measures. NaN stays NaN.

Whole numbers are had without conversions, which AVX2 lacks for 64 bits: adding 1.5 times the first
number without a fraction rounds to a whole number, which then stands in the lowest bits.

References
----------
Cody and Waite, "Software manual for the elementary functions", 1980.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class _Format:
    """What the functions must know of a floating-point format.

    `first` and `second` are parts of log(2), the first with few bits. `terms` are the powers of f,
    and those of s ** 2, that count. `low` and `high`: beyond them exp is 0 and infinity.
    """

    integer: str
    llvm: str
    mantissa: int
    bias: int
    first: str
    second: str
    terms: tuple[int, int]
    low: float
    high: float


_FORMATS = {
    "float32": _Format(
        "int32", "FloatType", 23, 127, "0.693359375", "-2.12194440e-4", (7, 5), -105.0, 90.0
    ),
    "float64": _Format(
        "int64", "DoubleType", 52, 1023, "0.693145751953125", "1.42860682030941723212e-6",
        (13, 10), -746.0, 711.0,
    ),
}  # fmt: skip

_TEXT = """
I = np.{integer}
MAGIC = T({magic!r})
BIAS, SHIFT = I({bias}), I({mantissa})
#: Bits of sqrt(1 / 2): what is subtracted before the exponent is cut off.
ROOT, FRACTION = I({root}), I({fraction})


@intrinsic
def from_bits(context, bits):
    def build(target, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.{llvm}())

    return types.{dtype}(types.{integer}), build


@intrinsic
def to_bits(context, number):
    def build(target, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType({bits}))

    return types.{integer}(types.{dtype}), build


@rounded
def power_of_2(n):
    return from_bits((to_bits(n + MAGIC) + BIAS) << SHIFT)


@rounded
def within(x):
    y = x if x > T({low!r}) else T({low!r})
    return y if y < T({high!r}) else T({high!r})


@rounded
def whole_powers(y):
    return (y * T({log2e!r}) + MAGIC) - MAGIC


@rounded
def halved(n):
    return (n * T(0.5) + MAGIC) - MAGIC


@rounded
def expm1_near_0(f):
    {taylor}
    return p * (f * f) + f


@rounded
def exp(x):
    y = within(x)
    n = whole_powers(y)
    p = expm1_near_0((y - n * T({first})) - n * T({second})) + T(1)
    half = halved(n)
    p = p * power_of_2(half) * power_of_2(n - half)
    return p if x == x else x


@rounded
def expm1(x):
    y = within(x)
    n = whole_powers(y)
    p = expm1_near_0((y - n * T({first})) - n * T({second}))
    half = halved(n)
    one, two = power_of_2(half), power_of_2(n - half)
    scale = one * two
    # Where 2 ** n is infinite the result need not be; there the 1 is lost anyway.
    p = (p + T(1)) * one * two if n > T({mantissa}) + T(8) else p * scale + (scale - T(1))
    return p if x == x else x


@rounded
def tanh(x):
    y = abs(x)
    y = T(-2) * y if y < T(20) else T(-40)  # from there on tanh is 1
    n = whole_powers(y)
    p = expm1_near_0((y - n * T({first})) - n * T({second}))
    scale = power_of_2(n)
    p = p * scale + (scale - T(1))
    p = p / (T(2) + p)
    p = -p if x >= T(0) else p
    return p if x == x else x


@rounded
def log_of_normal(x):
    bits = to_bits(x) - ROOT
    # With MAGIC's exponent the whole number below is a float; the shift leaves it 0 or more.
    n = from_bits(((bits + (BIAS << SHIFT)) >> SHIFT) | to_bits(MAGIC)) - (MAGIC + T({bias}))
    m = from_bits((bits & FRACTION) + ROOT)
    s = (m - T(1)) / (m + T(1))
    q = s * s
    {atanh}
    p = p * q * s
    return n * T({first}) + (n * T({second}) + p + T(2) * s)


@rounded
def log(x):
    tiny = x < T({tiny!r})
    p = log_of_normal(x * T({grow!r}) if tiny else x)
    p = p - T({growth!r}) if tiny else p
    p = p if x < T(np.inf) else x
    return p if x > T(0) else (T(-np.inf) if x == T(0) else T(np.nan))


@rounded
def log1p(x):
    u = T(1) + x
    p = log(u)
    return p + (x - (u - T(1))) / u if u > T(0) and u < T(np.inf) else p
"""


def _horner(variable: str, coefficients: list[float]) -> str:
    """Print a polynomial, highest power first, line by line, into p."""
    first, *others = coefficients
    lines = [f"p = T({first!r})", *(f"p = p * {variable} + T({c!r})" for c in others)]
    return "\n    ".join(lines)


def functions(dtype: str) -> str:
    """Return the definitions for "float32" or "float64"; they want a header's names."""
    form = _FORMATS[dtype]
    n_taylor, n_atanh = form.terms
    taylor = [1 / math.factorial(k) for k in range(n_taylor, 1, -1)]
    atanh = [2 / (2 * k + 1) for k in range(n_atanh, 0, -1)]
    size, mantissa = form.mantissa + 1, form.mantissa
    root = math.sqrt(0.5)
    fraction = int((root * 2 - 1) * 2**mantissa)
    return _TEXT.format(
        dtype=dtype,
        integer=form.integer,
        llvm=form.llvm,
        bits=32 if dtype == "float32" else 64,
        mantissa=mantissa,
        bias=form.bias,
        magic=1.5 * 2.0**mantissa,
        root=(form.bias - 1 << mantissa) + fraction,
        fraction=(1 << mantissa) - 1,
        first=form.first,
        second=form.second,
        log2e=math.log2(math.e),
        low=form.low,
        high=form.high,
        tiny=2.0 ** (1 - form.bias),
        grow=2.0**size,
        growth=size * math.log(2),
        taylor=_horner("f", taylor),
        atanh=_horner("q", atanh),
    )
