"""Prints an expression as a loop over elements for Numba, every number in the arrays' dtype."""

from collections.abc import Mapping, Sequence

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


def to_scalar(node: Node) -> str:
    """Print a formula in a type `T`."""
    return infix(node, lambda x: f"T({x!r})", "({x} if {c} else {y})")


def to_loop(
    expression: Expression,
    name: str,
    constants: Constants,
    same: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
) -> str:
    """Print an expression as a function that runs it over n elements.

    Parameters
    ----------
    expression : Expression
    name : str
        The function's. It takes its distinct arrays, then its scalars, then n and the constants.
    constants : Constants
        Gets the expression's.
    same : mapping of str to str, optional
        Outputs that are the same array as an argument, by their name.
    extra : sequence of str, optional
        Arguments that the function takes and does not read.
    """
    same = dict(same or {})
    arrays = [
        *expression.arguments,
        *(one for one in expression.outputs if one not in same),
        *extra,
    ]
    head = ", ".join(
        [*(f"_{one}" for one in arrays), *(f"{one}" for one in expression.scalars), "_n", "_C"]
    )
    lines = [f"def {name}({head}):"]
    folded = expression.folded
    for constant, value in folded.constants.items():
        lines.append(f"    {constant} = _C[{constants.place(value)}]")
    lines.append("    for i in range(_n):")
    read = frozenset().union(*(node.names() for _, node in folded.statements))
    held = [one for one in expression.outputs if one not in same]
    for one in [*expression.arguments, *held]:
        if one in read:
            lines.append(f"        {one} = _{one}[i]")
    for target, node in folded.statements:
        lines.append(f"        {target} = {to_scalar(node)}")
    for one in expression.outputs:
        lines.append(f"        _{same.get(one, one)}[i] = {one}")
    return "\n".join(lines)


def print_mix() -> str:
    """Print `dropout.mix` on an int64: products wrap round, and the lowest 32 bits are kept."""
    lines = ["def mix(x):"]
    for step, constant in dropout.MIX:
        if step == "xor_shift":
            lines.append(f"    x = x ^ (x >> {constant})")
        else:
            lines.append(f"    x = (x * {constant}) & 0xFFFFFFFF")
    return "\n".join([*lines, "    return x"])
