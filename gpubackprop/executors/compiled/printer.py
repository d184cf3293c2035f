"""Prints an expression as a loop over elements for Numba, every number in the arrays' dtype."""

from collections.abc import Callable, Mapping

from gpubackprop import dropout
from gpubackprop.expressions import Expression, Node, infix


class Constants:
    """Numbers that printed functions read at run time, so that no value needs code of its own.

    Attributes
    ----------
    values : list of float
    """

    def __init__(self) -> None:
        self.values: list[float] = []

    def place(self, value: float) -> int:
        """Add a number; returns where it is."""
        self.values.append(value)
        return len(self.values) - 1


def to_scalar(node: Node, name: Callable[[str], str] = str) -> str:
    """Print a formula in a type `T`, its names as `name` prints them."""
    return infix(node, lambda x: f"T({x!r})", "choose({c}, {x}, {y})", name=name)


def to_statements(
    expression: Expression,
    constants: Constants,
    scalars: Mapping[str, str] | None = None,
    name: Callable[[str], str] = str,
) -> tuple[list[str], list[str]]:
    """Print an expression as lines that come before a loop and lines for each element.

    Parameters
    ----------
    expression : Expression
    constants : Constants
        Gets the expression's, which are read from the position `_C`.
    scalars : mapping of str to str, optional
        By the name of each scalar, an expression for it.
    name : callable, optional
        What the expression's names are printed as; by default as they are.
    """
    folded = expression.folded
    before = ["_constants = numbers(_C)"] if folded.constants else []
    for constant, value in folded.constants.items():
        before.append(f"{name(constant)} = _constants[{constants.place(value)}]")
    before += [f"{name(scalar)} = {text}" for scalar, text in (scalars or {}).items()]
    return before, [
        f"{name(target)} = {to_scalar(node, name)}" for target, node in folded.statements
    ]


def to_loop(
    expression: Expression,
    constants: Constants,
    places: Mapping[str, str],
    scalars: Mapping[str, str] | None = None,
) -> list[str]:
    """Print an expression as lines of Python that run it over `_n` elements.

    Parameters
    ----------
    expression : Expression
    constants : Constants
        Gets the expression's, which are read from the position `_C`.
    places : mapping of str to str
        By the name of each argument and output, the variable with its position, which begins with
        an underscore, as no name in a formula does. One place for two names is one array.
    scalars : mapping of str to str, optional
        By the name of each scalar, an expression for it.
    """
    before, statements = to_statements(expression, constants, scalars)
    lines = [f"_at{place} = numbers({place})" for place in dict.fromkeys(places.values())]
    lines += [*before, "for _i in range(_n):"]
    read = frozenset().union(*(node.names() for _, node in expression.folded.statements))
    begin = [name for name in places if name in read and name not in ("out",)]
    lines += [f"    {name} = _at{places[name]}[_i]" for name in begin]
    lines += [f"    {line}" for line in statements]
    return [*lines, *(f"    _at{places[name]}[_i] = {name}" for name in expression.outputs)]


def to_function(name: str, expression: Expression, arguments: tuple[str, ...]) -> str:
    """Print an expression as a function of numbers that returns its one output."""
    folded = expression.folded
    lines = [f"@fast\ndef {name}({', '.join(arguments)}):"]
    lines += [f"{constant} = T({value!r})" for constant, value in folded.constants.items()]
    lines += [f"{target} = {to_scalar(node)}" for target, node in folded.statements]
    return "\n    ".join([*lines, "return out"])


def print_mix() -> str:
    """Print `dropout.mix` on an int64: products wrap round, and the lowest 32 bits are kept."""
    lines = ["def mix(x):"]
    for step, constant in dropout.MIX:
        if step == "xor_shift":
            lines.append(f"    x = x ^ (x >> {constant})")
        else:
            lines.append(f"    x = (x * {constant}) & 0xFFFFFFFF")
    return "\n".join([*lines, "    return x"])
