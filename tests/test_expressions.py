"""The formula language: what it takes, what it refuses and how it is printed."""

import copy
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpubackprop import backends
from gpubackprop.expressions import (
    FUNCTIONS,
    Expression,
    Node,
    infix,
    parse,
    to_cuda,
    to_python,
    to_text,
)

X, Y = Node("name", name="x"), Node("name", name="y")


def number(value):
    return Node("number", number=value)


# ---- parse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", X),
        (" x ", X),
        ("2", number(2.0)),
        ("1e-3", number(0.001)),
        ("-x", Node("neg", (X,))),
        ("x + y", Node("add", (X, Y))),
        ("x - y", Node("sub", (X, Y))),
        ("x / y", Node("div", (X, Y))),
        ("x * y + 1", Node("add", (Node("mul", (X, Y)), number(1.0)))),
        ("x * (y + 1)", Node("mul", (X, Node("add", (Y, number(1.0)))))),
        ("x - y - 1", Node("sub", (Node("sub", (X, Y)), number(1.0)))),
        ("x ** 1", X),
        ("x ** 2", Node("mul", (X, X))),
        ("x ** 3", Node("mul", (Node("mul", (X, X)), X))),
        ("-x ** 2", Node("neg", (Node("mul", (X, X)),))),
        ("fmax(x, y)", Node("fmax", (X, Y))),
        ("where(x != y, x, 0)", Node("where", (Node("ne", (X, Y)), X, number(0.0)))),
    ],
)
def test_parse(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("symbol", ["<", "<=", ">", ">=", "==", "!="])
def test_comparisons_are_read_and_shown(symbol):
    text = f"where(x {symbol} y, x, y)"
    assert to_text(parse(text)) == text


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_take_their_number_of_arguments(function):
    names = ["x", "y", "z"]
    arguments = names[: FUNCTIONS[function]]
    assert parse(f"{function}({', '.join(arguments)})").names() == set(arguments)
    for count in {0, 1, 2, 3} - {FUNCTIONS[function]}:
        with pytest.raises(ValueError, match="is not allowed"):
            parse(f"{function}({', '.join(names[:count])})")


@pytest.mark.parametrize(
    ("text", "offender"),
    [
        ("sin(x)", "sin(x)"),
        ("x.real", "x.real"),
        ("x[0]", "x[0]"),
        ("1 + sin(x * 2)", "sin(x * 2)"),
        ("x // y", "x // y"),
        ("x % y", "x % y"),
        ("x @ y", "x @ y"),
        ("x & y", "x & y"),
        ("+x", "+x"),
        ("~x", "~x"),
        ("not x", "not x"),
        ("x < y", "x < y"),
        ("x and y", "x and y"),
        ("x if y else 0", "x if y else 0"),
        ("lambda: x", "lambda: x"),
        ("'x'", "'x'"),
        ("None", "None"),
        ("True", "True"),
        ("1j", "1j"),
        ("1e999", "1e309"),
        ("(x, y)", "(x, y)"),
        ("[x]", "[x]"),
        ("exp", "exp"),
        ("where", "where"),
        ("where(x < y, 1)", "where(x < y, 1)"),
        ("exp(x=1)", "exp(x=1)"),
        ("exp(*x)", "exp(*x)"),
        ("__import__('os')", "__import__('os')"),
        ("(x := y)", "(x := y)"),
        ("f'{x}'", "f'{x}'"),
    ],
)
def test_what_is_outside_the_language_is_named(text, offender):
    with pytest.raises(ValueError, match="is not allowed; a formula has") as caught:
        parse(text)
    assert str(caught.value).startswith(f"formula {text!r}: ")
    assert offender in str(caught.value)
    assert "where(x < y, a, b)" in str(caught.value)


@pytest.mark.parametrize("text", ["", "x +", "x y", "(x", "x)", "x = 1", "import os", "1 2", "\0"])
def test_what_is_no_expression_is_shown(text):
    with pytest.raises(ValueError, match="cannot be parsed") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("exponent", ["0", "9", "-1", "0.5", "2.0", "y", "x", "True", "2 + 1"])
def test_powers_are_small_integers(exponent):
    with pytest.raises(ValueError, match=r"must be an integer in 1\.\.8") as caught:
        parse(f"x ** ({exponent})")
    assert repr(exponent) in str(caught.value)


@pytest.mark.parametrize("condition", ["x", "1", "x < y < 1", "x + y", "x is y", "x in y", "not x"])
def test_conditions_are_one_comparison(condition):
    with pytest.raises(ValueError, match="must be one comparison, such as z < 0") as caught:
        parse(f"where({condition}, 1, 2)")
    assert repr(condition) in str(caught.value)


@pytest.mark.parametrize("thing", [None, 1, b"x", ["x"]])
def test_a_formula_is_text(thing):
    # A list cannot be looked up among the formulas that were parsed: TypeError all the same.
    with pytest.raises(TypeError):
        parse(thing)


def test_deep_formulas_are_refused_in_words():
    """Parentheses beyond Python's own limit: an error, not a crash."""
    with pytest.raises(ValueError, match="cannot be parsed"):
        parse("(" * 500 + "x" + ")" * 500)


def test_names_and_conditions():
    node = parse("where(x < k, exp(y), where(y >= 2, x, 0)) * c")
    assert node.names() == {"x", "k", "y", "c"}
    assert [to_text(condition) for condition in node.conditions()] == ["x < k", "y >= 2"]
    assert parse("1 + 2").names() == frozenset()


# ---- printing ------------------------------------------------------------------------------------

ROUND_TRIP = [
    "x + y - 1",
    "x - (y - 1)",
    "x - (y + 1)",
    "x / (y / 2)",
    "x / (y * 2)",
    "x * (y / 2)",
    "x + (y + 1)",
    "-(x + y)",
    "-x * y",
    "x * -y",
    "-(x * y)",
    "x - -y",
    "-(-x)",
    "(x + y) * (x - y)",
    "exp(-(x + 1)) / (1 + exp(-x))",
    "where(x + 1 < -y, -(x - y), where(x == y, 1, 0)) * 2",
    "fmax(x, fmin(y, 0.5))",
    "0.1 + 1e-08 * x",
    "0.3989422804014327 * x",
]


@pytest.mark.parametrize("text", ROUND_TRIP)
def test_text_is_read_back_as_the_same_formula(text):
    assert parse(to_text(parse(text))) == parse(text)


@pytest.mark.parametrize("text", ROUND_TRIP)
def test_every_language_computes_what_python_does(text):
    """Evaluated on numbers that make each misplaced bracket show."""
    values = {"x": 0.7310585786, "y": -2.19}
    python = {name: getattr(math, name, None) for name in FUNCTIONS}
    python |= {"fmax": max, "fmin": min, "where": lambda c, x, y: x if c else y}
    expected = eval(text, python | values)
    xp = type("xp", (), {name: staticmethod(f) for name, f in python.items() if f is not None})
    assert eval(to_python(parse(text)), {"xp": xp, "T": float, **values}) == expected
    # C's conditional operator is the only thing in the CUDA text that Python does not know.
    shown = infix(parse(text), lambda x: f"T({x!r})", "where({c}, {x}, {y})")
    assert eval(shown, python | {"T": float} | values) == expected
    if "where" not in text:
        assert shown == to_cuda(parse(text))


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("1 / 2", "T(1.0) / T(2.0)"),
        ("a * (1 - a)", "a * (T(1.0) - a)"),
        ("where(z < 0, 0, z)", "(z < T(0.0) ? T(0.0) : z)"),
        ("1e-8 * x", "T(1e-08) * x"),
        ("x ** 2", "x * x"),
        ("(x + y) ** 2", "(x + y) * (x + y)"),
        ("-where(x > 1, x, -1)", "-(x > T(1.0) ? x : -T(1.0))"),
    ],
)
def test_cuda(text, cuda):
    assert to_cuda(parse(text)) == cuda


# ---- Expression ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("k", ("x",), {"out": "x + u"}),
            "formula 'x . u' of 'k' reads the unknown name 'u'; .* x",
        ),
        (("k", ("x",), {"out": "out + x"}), "unknown name 'out'"),
        (("k", ("x",), {"t": "x"}), "'k' never assigns its output 'out'"),
        (("k", ("x",), {}), "'k' never assigns its output 'out'"),
        (("k", ("x",), {"x": "1", "out": "x"}), "'k' assigns 'x', which it only reads"),
        (("k", ("x",), {"out": "x", "c": "1"}, ("out",), ("c",)), "assigns 'c'"),
        (("k", ("x",), {"out": "x", "c": "1"}, ("out",), (), {"c": 1.0}), "assigns 'c'"),
        (("k", ("x", "x"), {"out": "x"}), "'k' uses the name 'x' twice; rename one"),
        (("k", ("x",), {"out": "x"}, ("out",), ("x",)), "uses the name 'x' twice"),
        (("k", ("x",), {"out": "x"}, ("out",), (), {"x": 1.0}), "uses the name 'x' twice"),
        (("k", ("x",), {"x": "x"}, ("x",)), "uses the name 'x' twice"),
        (("k", ("x",), {"out": "t", "t": "x"}), "unknown name 't'"),
        (("k", ("x",), {"out": "x +"}), "cannot be parsed"),
        (("k", ("x",), {"out": "sin(x)"}), "is not allowed"),
    ],
)
def test_malformed_expressions(arguments, message):
    with pytest.raises(ValueError, match=message):
        Expression(*arguments)


#: What CuPy, C++, Python, a formula or a printer would read as something else.
BAD_NAMES = ["", "1x", "my name", "a-b", "exp", "where", "lambda", "i", "n", "T", "np", "xp",
             "double", "new", "_scratch0", "__x", "x\n", "é"]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_NAMES)
@pytest.mark.parametrize("place", ["name", "argument", "output", "scalar", "constant", "local"])
def test_names_that_cannot_be_printed_are_refused(bad, place):
    parts = {
        "name": (bad, ("x",), {"out": "x"}),
        "argument": ("k", ("x", bad), {"out": "x"}),
        "output": ("k", ("x",), {bad: "x"}, (bad,)),
        "scalar": ("k", ("x",), {"out": "x"}, ("out",), (bad,)),
        "constant": ("k", ("x",), {"out": "x"}, ("out",), (), {bad: 1.0}),
        "local": ("k", ("x",), {bad: "x", "out": "x"}),
    }
    with pytest.raises(ValueError, match="cannot be used as a name") as caught:
        Expression(*parts[place])
    assert repr(bad) in str(caught.value)


def test_signature():
    made = Expression("k", ("x", "y"), {"v": "c * v + x", "w": "w + y * r"}, ("w", "v"), ("r",),
                      {"c": 0.5})  # fmt: skip
    assert made.signature == ("x", "y", "r", "w", "v")


def test_keys_tell_apart_what_computes_something_else():
    same = ("k", ("x",), {"out": "c * x"}, ("out",), (), {"c": 2.0})
    assert Expression(*same).key == Expression(*same).key
    others = [
        ("other", ("x",), {"out": "c * x"}, ("out",), (), {"c": 2.0}),
        ("k", ("x",), {"out": "x * c"}, ("out",), (), {"c": 2.0}),
        ("k", ("x",), {"out": "c * x"}, ("out",), (), {"c": 3.0}),
        ("k", ("x", "c"), {"out": "c * x"}),
        ("k", ("x",), {"out": "c * x"}, ("out",), ("c",)),
        ("k", ("x",), {"b": "c * x", "out": "b"}, ("out",), (), {"c": 2.0}),
    ]
    keys = {Expression(*other).key for other in others}
    assert len(keys) == len(others)
    assert Expression(*same).key not in keys


def test_an_argument_is_not_a_scalar_of_the_same_name():
    """Two expressions that differ in nothing but that, one after the other."""
    backend, dtype = backends.get("numpy"), np.dtype("float64")
    as_array = Expression("k", ("x", "c"), {"out": "c * x"})
    as_number = Expression("k", ("x",), {"out": "c * x"}, scalars=("c",))
    x, c, out = np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.empty(2)
    backend.elementwise(as_array, dtype)(x, c, out)
    assert_array_equal(out, [3, 10])
    backend.elementwise(as_number, dtype)(x, 7.0, out)
    assert_array_equal(out, [7, 14])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_are_equal(duplicate):
    made = Expression("k", ("x",), {"t": "x * c", "out": "t + s"}, ("out",), ("s",), {"c": 2.0})
    assert made.folded is made.folded  # computed once, also before it is copied
    same = duplicate(made)
    assert same == made
    assert hash(same) == hash(made)
    assert same.key == made.key


# ---- folding -------------------------------------------------------------------------------------


def folded(text, **constants):
    """Return a folded formula with the values of the constants put into it."""
    made = Expression("k", ("x",), {"out": text}, constants=constants).folded
    values = {name: repr(value) for name, value in made.constants.items()}
    ((_, node),) = made.statements
    shown = to_text(node)
    for name in sorted(values, key=len, reverse=True):
        shown = shown.replace(name, values[name])
    return shown


@pytest.mark.parametrize(
    ("text", "constants", "expected"),
    [
        ("1 / 2 * x", {}, "0.5 * x"),
        ("(1 - beta) * x", {"beta": 0.999}, f"{1 - 0.999!r} * x"),
        ("x * (1 - q) + (1 - q)", {"q": 0.25}, "x * 0.75 + 0.75"),
        ("-c * x", {"c": 2.0}, "-2.0 * x"),
        ("(2 + 3) * (4 - 1)", {}, "15"),
        ("x + c * c / 4", {"c": 6.0}, "x + 9.0"),
        ("1 + x + 2", {}, "1 + x + 2"),
        ("exp(1) * x", {}, "exp(1) * x"),
        # No language writes infinity as a number.
        ("x + 1 / 0", {}, "x + 1 / 0"),
        ("x + c / 0", {"c": -1.0}, "x + -1.0 / 0"),
    ],
)
def test_what_depends_on_numbers_alone_is_computed_once(text, constants, expected):
    assert folded(text, **constants) == expected


def test_division_by_zero_is_as_in_the_arrays(backend):
    made = Expression(
        "by_zero",
        ("x",),
        {"u": "x + 1 / 0", "v": "x + c / (c - c)", "w": "x + 0 / 0"},
        outputs=("u", "v", "w"),
        constants={"c": -2.0},
    )
    dtype = np.dtype("float32")
    x = backend.asarray(np.zeros(2, dtype))
    out = [backend.empty(2, dtype) for _ in range(3)]
    backend.elementwise(made, dtype)(x, *out)
    for array, expected in zip(out, (math.inf, -math.inf, math.nan), strict=True):
        assert_array_equal(backend.to_numpy(array), [expected] * 2)


def test_folding_leaves_no_constant_that_is_not_read():
    made = Expression("k", ("x",), {"out": "(1 - beta) * x"}, constants={"beta": 0.9, "unused": 3})
    assert list(made.folded.constants.values()) == [1 - 0.9]


def test_folding_keeps_clear_of_a_constant_with_the_name_it_would_take():
    made = Expression(
        "k", ("x",), {"out": "folded1 * x + (1 - folded1)"}, constants={"folded1": 3.0}
    )
    out = np.empty(1)
    backends.get("numpy").elementwise(made, np.dtype("float64"))(np.array([10.0]), out)
    assert out == [28.0]


def test_folding_keeps_clear_of_an_argument_with_the_name_it_would_take():
    made = Expression("k", ("folded1",), {"out": "folded1 * (1 - c)"}, constants={"c": 3.0})
    out = np.empty(1)
    backends.get("numpy").elementwise(made, np.dtype("float64"))(np.array([10.0]), out)
    assert out == [-20.0]


def test_folding_keeps_the_sign_of_zero():
    made = Expression("k", ("x",), {"out": "x / (c - c) + x / (-c + c) - x / -(c - c)"},
                      constants={"c": 1.0})  # fmt: skip
    # 1 / 0 + 1 / 0 - 1 / -0 = inf + inf + inf
    out = np.empty(1)
    backend = backends.get("numpy")
    with backend.active():
        backend.elementwise(made, np.dtype("float64"))(np.array([1.0]), out)
    assert out == [math.inf]


def test_folding_is_done_in_float64():
    """In float32 1 - 0.999 would be 0.0010000467."""
    made = Expression("k", ("x",), {"out": "(1 - beta) * x"}, constants={"beta": 0.999})
    for name in ("numpy", "numpy-plain"):
        out = np.empty(1, "float32")
        backends.get(name).elementwise(made, np.dtype("float32"))(np.ones(1, "float32"), out)
        assert out[0] == np.float32(0.001)


# ---- numbers have the arrays' dtype --------------------------------------------------------------

#: Gives 0 in float32 and 1 in float64, from a literal, a constant and a scalar in turn.
LOST = Expression(
    "lost",
    ("x",),
    {
        "u": "(x + 100000000) - 100000000",
        "v": "(x + c) - c",
        "w": "(x + s) - s",
    },
    outputs=("u", "v", "w"),
    scalars=("s",),
    constants={"c": 1e8},
)


def test_no_number_drags_float32_through_float64(backend, dtype):
    out = [backend.empty(3, dtype) for _ in range(3)]
    backend.elementwise(LOST, dtype)(backend.asarray(np.ones(3, dtype)), 1e8, *out)
    expected = 0.0 if dtype == np.float32 else 1.0
    for array in out:
        assert array.dtype == dtype
        assert_array_equal(backend.to_numpy(array), [expected] * 3)


def test_two_expressions_of_one_name_are_two_kernels(backend):
    dtype = np.dtype("float32")
    x, out = backend.asarray(np.ones(2, dtype)), backend.empty(2, dtype)
    for value in (2.0, 3.0):
        made = Expression("same_name", ("x",), {"out": "c * x"}, constants={"c": value})
        backend.elementwise(made, dtype)(x, out)
        assert_array_equal(backend.to_numpy(out), [value] * 2)
