"""Formulas: parsed and checked when they are made, printed for each target.

A formula such as ``1 / (1 + exp(-z))`` is written once, as text. It is parsed with `ast` into a
small tree, and every target (Python on any array module, NumPy with ``out=``, CUDA C) prints that
tree in its own language, so that no formula is ever written a second time.

The language: numbers and names, ``+ - * /``, unary minus, ``x ** n`` with a small positive integer
n, the functions of `FUNCTIONS`, and ``where(x < y, a, b)`` with one comparison as its condition.
Every number has the dtype of the arrays: ``1 / 2`` is a half, and no float32 kernel is dragged
through float64.
"""

import ast
import functools
import itertools
import keyword
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: Functions of the language and how many arguments each takes.
FUNCTIONS = {
    "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "tanh": 1, "erf": 1, "sqrt": 1, "fabs": 1,
    "fmax": 2, "fmin": 2,
}  # fmt: skip
#: Infix operators, by the name that they have as a `Node`.
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_LARGEST_POWER = 8
#: Nodes of a formula, powers written out: far beyond any of use, and nothing that takes time.
_MOST_NODES = 10_000
#: Names that mean something where formulas are printed: to CuPy, to our printers, in C++.
_RESERVED = frozenset({
    "i", "n", "T", "np", "xp", "where", "auto", "bool", "case", "catch", "char", "const", "default",
    "delete", "do", "double", "enum", "explicit", "extern", "false", "float", "friend", "goto",
    "inline", "int", "long", "mutable", "namespace", "new", "operator", "private", "protected",
    "public", "register", "short", "signed", "sizeof", "static", "struct", "switch", "template",
    "this", "throw", "true", "typedef", "typename", "union", "unsigned", "using", "virtual", "void",
    "volatile",
})  # fmt: skip
_ARITHMETIC: dict[str, Callable[..., float]] = {
    "neg": operator.neg, "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "div": lambda x, y: x / y if y else math.nan,
}  # fmt: skip
_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_COMPARE = {
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node of a parsed formula.

    `op` is "name" (with `name`), "number" (with `number`), "neg", "where", or a key of `INFIX`,
    `COMPARISONS` or `FUNCTIONS`, the last four with `operands`.
    """

    op: str
    operands: "tuple[Node, ...]" = ()
    name: str = ""
    number: float = 0.0

    def names(self) -> frozenset[str]:
        """Return every name that the formula reads."""
        if self.op == "name":
            return frozenset([self.name])
        return frozenset().union(*(operand.names() for operand in self.operands))

    def conditions(self) -> "tuple[Node, ...]":
        """Return the condition of every ``where`` in the formula."""
        own = (self.operands[0],) if self.op == "where" else ()
        return own + tuple(c for operand in self.operands for c in operand.conditions())


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Parse a formula.

    Parameters
    ----------
    text : str
        A formula in the language above, such as ``"a * (1 - a)"``.

    Raises
    ------
    ValueError
        If the text is not a formula, or uses something outside the language; the message names it.
    """
    if not isinstance(text, str):
        raise TypeError(f"a formula must be a string, got {type(text).__name__}: {text!r}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"formula {text!r} cannot be parsed: {error.msg}") from None
    if _count(tree) > _MOST_NODES:
        raise ValueError(f"formula {text[:60]!r}... is too long: powers are written as products")
    return _convert(tree, text)


def _count(tree: ast.AST) -> int:
    """Return about how many nodes a formula has once its powers are products."""
    match tree:
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as n)):
            return max(n, 1) * _count(left)
    return 1 + sum(_count(child) for child in ast.iter_child_nodes(tree))


def _convert(tree: ast.expr, text: str) -> Node:
    match tree:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number) if math.isfinite(number):
            return Node("number", number=float(number))
        case ast.Name(id=name) if name not in FUNCTIONS and name != "where":
            return Node("name", name=name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Node("neg", (_convert(operand, text),))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(left, right, text)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _BINARY:
            operands = _convert(left, text), _convert(right, text)
            return Node(_BINARY[type(kind)], operands)
        case ast.Call(func=ast.Name(id="where"), args=[condition, x, y], keywords=[]):
            chosen = _convert(x, text), _convert(y, text)
            return Node("where", (_condition(condition, text), *chosen))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if FUNCTIONS.get(
            name
        ) == len(arguments):
            return Node(name, tuple(_convert(argument, text) for argument in arguments))
    raise ValueError(
        f"formula {text!r}: {ast.unparse(tree)!r} is not allowed; a formula has finite numbers, "
        f"names, + - * /, x ** n, where(x < y, a, b) and {', '.join(FUNCTIONS)}"
    )


def _condition(tree: ast.expr, text: str) -> Node:
    match tree:
        case ast.Compare(left=left, ops=[kind], comparators=[right]) if type(kind) in _COMPARE:
            operands = _convert(left, text), _convert(right, text)
            return Node(_COMPARE[type(kind)], operands)
    raise ValueError(
        f"formula {text!r}: the condition {ast.unparse(tree)!r} of where must be one comparison, "
        "such as z < 0"
    )


def _power(base: ast.expr, exponent: ast.expr, text: str) -> Node:
    match exponent:
        case ast.Constant(value=int() as n) if n is not True and 1 <= n <= _LARGEST_POWER:
            factor = _convert(base, text)
            # Products, because pow() is slow and rounds differently on every target.
            return functools.reduce(lambda x, y: Node("mul", (x, y)), [factor] * n)
    raise ValueError(
        f"formula {text!r}: the exponent {ast.unparse(exponent)!r} must be an integer in "
        f"1..{_LARGEST_POWER}"
    )


def _usable(name: str) -> bool:
    """Tell whether every target can print a name as it is."""
    taken = name in FUNCTIONS or name in _RESERVED or keyword.iskeyword(name)
    return name.isidentifier() and name.isascii() and not (taken or name.startswith("_"))


@dataclass(frozen=True)
class Expression:
    """One or several formulas that are computed element by element, in one pass.

    Parameters
    ----------
    name : str
        Readable name, such as ``"sigmoid_delta"``: the name of the kernel.
    arguments : tuple of str
        Arrays that are read, in the order in which they are passed.
    statements : mapping of str to str
        Formulas by the name they are assigned to, run in order; later ones see the new values. A
        name that is not an output is local to the pass.
    outputs : tuple of str
        Arrays that are written, in the order in which they are passed. A formula may read them too.
    scalars : tuple of str
        Numbers given anew at each call.
    constants : mapping of str to float
        Numbers fixed here. They are passed to a kernel, not compiled into it.

    Raises
    ------
    ValueError
        If a formula is malformed or reads an unknown name, an output is never assigned, or a name
        is used twice.
    """

    name: str
    arguments: tuple[str, ...]
    statements: Mapping[str, str] = field(hash=False)
    outputs: tuple[str, ...] = ("out",)
    scalars: tuple[str, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        names = [*self.arguments, *self.outputs, *self.scalars, *self.constants]
        for name in [*names, *self.statements, self.name]:
            if not _usable(name):
                raise ValueError(
                    f"{name!r} in expression {self.name!r} cannot be used as a name; take an ASCII "
                    "word that means nothing in Python, C++ or a formula and does not begin with _"
                )
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(
                f"expression {self.name!r} uses the name {min(doubled)!r} twice; rename one"
            )
        known = set(names) - ({"out"} & set(self.outputs))
        for target, text in self.statements.items():
            unknown = parse(text).names() - known
            if unknown:
                raise ValueError(
                    f"formula {text!r} of {self.name!r} reads the unknown name "
                    f"{min(unknown)!r}; it may use {', '.join(sorted(known))}"
                )
            if target in self.arguments or target in self.scalars or target in self.constants:
                raise ValueError(
                    f"expression {self.name!r} assigns {target!r}, which it only reads"
                )
            known.add(target)
        unassigned = [name for name in self.outputs if name not in self.statements]
        if unassigned:
            raise ValueError(f"expression {self.name!r} never assigns its output {unassigned[0]!r}")

    @functools.cached_property
    def folded(self) -> "Folded":
        """The parsed statements, with what depends on no array and no scalar computed."""
        return _fold(self)

    @property
    def signature(self) -> tuple[str, ...]:
        """Names of what a compiled form is called with: arguments, scalars, outputs."""
        return (*self.arguments, *self.scalars, *self.outputs)

    @functools.cached_property
    def key(self) -> tuple[object, ...]:
        """What two expressions share if and only if they compute the same thing."""
        statements, constants = tuple(self.statements.items()), tuple(self.constants.items())
        return self.name, self.signature, self.scalars, self.outputs, statements, constants


@dataclass(frozen=True)
class Folded:
    """What a target prints: statements as (target, formula), and the numbers they name."""

    statements: tuple[tuple[str, Node], ...]
    constants: Mapping[str, float]


def _fold(expression: Expression) -> Folded:
    """Compute ``1 - beta2`` once, in float64: in float32 it would lose five digits of 0.001."""
    constants = dict(expression.constants)
    taken = {*expression.signature, *constants, *expression.statements}
    fresh = (name for i in itertools.count(1) if (name := f"folded{i}") not in taken)
    made: dict[str, str] = {}  # names by the number's digits, which tell 0 from -0

    def number_of(node: Node) -> float | None:
        return node.number if node.op == "number" else constants.get(node.name)

    def fold(node: Node) -> Node:
        operands = tuple(fold(operand) for operand in node.operands)
        numbers = [number_of(operand) for operand in operands]
        if node.op in _ARITHMETIC and None not in numbers:
            value = _ARITHMETIC[node.op](*numbers)
            if math.isfinite(value):  # 1 / 0 is left to the target, which knows infinity
                if all(operand.op == "number" for operand in operands):
                    return Node("number", number=value)
                name = made[repr(value)] = made.get(repr(value)) or next(fresh)
                constants[name] = value
                return Node("name", name=name)
        return Node(node.op, operands, node.name, node.number)

    statements = tuple(
        (target, fold(parse(text))) for target, text in expression.statements.items()
    )
    read = frozenset().union(*(node.names() for _, node in statements))
    return Folded(statements, {name: value for name, value in constants.items() if name in read})


def infix(
    node: Node,
    number: Callable[[float], str],
    where: str,
    call: str = "{name}",
    name: Callable[[str], str] = str,
) -> str:
    """Print a formula in a language with infix operators.

    Parameters
    ----------
    node : Node
    number : callable
        Prints a number.
    where : str
        Template with the fields c, x and y.
    call : str, optional
        Template for a function's name, with the field name.
    name : callable, optional
        Prints a name; by default as it is.
    """

    def show(node: Node, strength: int = 0) -> str:
        if node.op == "name":
            return name(node.name)
        if node.op == "number":
            return number(node.number)
        if node.op == "neg":
            text, own = f"-{show(node.operands[0], 3)}", 2
        elif node.op == "where":
            c, x, y = (show(operand) for operand in node.operands)
            return where.format(c=c, x=x, y=y)
        elif node.op in FUNCTIONS:
            inside = ", ".join(show(operand) for operand in node.operands)
            return f"{call.format(name=node.op)}({inside})"
        else:
            own = {"mul": 2, "div": 2, "add": 1, "sub": 1}.get(node.op, 0)
            left, right = node.operands
            # The right side is bracketed at equal strength: floating-point sums are not
            # associative.
            symbol = {**INFIX, **COMPARISONS}[node.op]
            text = f"{show(left, own)} {symbol} {show(right, own + 1)}"
        return f"({text})" if own < strength else text

    return show(node)


def to_text(node: Node) -> str:
    """Print a formula for a reader, in the language that `parse` reads."""
    return infix(
        node, lambda x: f"{x:g}" if float(f"{x:g}") == x else repr(x), "where({c}, {x}, {y})"
    )


def to_python(node: Node) -> str:
    """Print a formula as Python on an array module called `xp`, its numbers cast by `T`."""
    return infix(node, lambda x: f"T({x!r})", "xp.where({c}, {x}, {y})", "xp.{name}").replace(
        "xp.erf(", "erf("
    )


def to_cuda(node: Node) -> str:
    """Print a formula as CUDA C++ in a type `T` (float or double)."""
    # The overloads of CUDA C++ pick expf or exp by the type of the argument.
    return infix(node, lambda x: f"T({x!r})", "({c} ? {x} : {y})")
