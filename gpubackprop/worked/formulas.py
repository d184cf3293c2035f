"""Formulas with numbers in the place of their names: printed, and evaluated."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpubackprop.expressions import Node, infix, to_text


@dataclass(frozen=True)
class Number:
    """A number in an equation.

    Attributes
    ----------
    value : float
    name : str
        What it is, such as ``a[1][0]``; empty for a constant, which is its own name.
    element : str
        What it belongs to in the picture: "n1_0" (unit 0 of column 1), "e0_1_2" (``W[0][1, 2]``),
        "b0_1", "f0" (the folded units of column 0), "loss"; empty for none.
    """

    value: float
    name: str = ""
    element: str = ""


#: An equation's right side is a sequence of these.
Token: TypeAlias = str | Number


@dataclass(frozen=True)
class Equation:
    """``name = right side = value``.

    Attributes
    ----------
    name : str
    tokens : tuple of str or Number
        The right side; put together, it is an expression of Python.
    value : float
        The step's number, from the code that trained.
    note : str
        What a reader should know beside it.
    """

    name: str
    tokens: tuple[Token, ...]
    value: float
    note: str = ""

    def symbols(self) -> str:
        """Return the right side with names instead of numbers."""
        return "".join(
            part if isinstance(part, str) else part.name or f"{part.value:g}"
            for part in self.tokens
        )


_MARK = "\0"
_FUNCTIONS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": np.not_equal, "erf": np.vectorize(math.erf, otypes=[float]),
}  # fmt: skip


def fill(node: Node, values: Mapping[str, Number | Sequence[Token]]) -> list[Token]:
    """Print a formula with a number, or with the tokens of a part, for each of its names.

    Parameters
    ----------
    node : Node
        A formula.
    values : mapping of str to Number or sequence of tokens
        A part of several tokens brings its own brackets.
    """
    text = infix(
        node, lambda x: to_text(Node("number", number=x)), "where({c}, {x}, {y})",
        name=lambda name: f"{_MARK}{name}{_MARK}",
    )  # fmt: skip
    tokens: list[Token] = []
    for k, part in enumerate(text.split(_MARK)):  # every second one is a name
        found = values[part] if k % 2 else part
        tokens += [found] if isinstance(found, str | Number) else found
    return [token for token in tokens if token != ""]


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """Return the value of a formula, in float64.

    Parameters
    ----------
    node : Node
    values : mapping of str to float or array
    """
    if node.op == "name":
        return np.asarray(values[node.name], np.float64)
    if node.op == "number":
        return np.float64(node.number)
    operands = [evaluate(operand, values) for operand in node.operands]
    if node.op == "where":
        return np.where(*operands)
    # What is not in the table has the same name in NumPy.
    function = _FUNCTIONS.get(node.op) or getattr(np, node.op)
    with np.errstate(all="ignore"):
        return function(*operands)


def product(node: Node) -> Node:
    """Take the brackets off factors that are products: ``x * (y * z)`` as ``x * y * z``.

    For readers: in floating point the two differ in the last digit.
    """
    if node.op != "mul":
        return node
    left, right = product(node.operands[0]), node.operands[1]
    if right.op == "mul":
        return product(Node("mul", (Node("mul", (left, right.operands[0])), right.operands[1])))
    return Node("mul", (left, right))


def joined(terms: Iterable[Sequence[Token]], sign: str = " + ") -> list[Token]:
    """Put a sign between terms."""
    tokens: list[Token] = []
    for term in terms:
        tokens += [sign, *term] if tokens else term
    return tokens


def scalar(value: Any) -> float:
    """Return an array's entry as the float with the fewest digits that rounds to it."""
    return float(str(value)) if isinstance(value, np.floating) else float(value)
