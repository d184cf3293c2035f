"""Prints an expression as NumPy calls that write into ``out=`` and allocate nothing."""

import math
from dataclasses import dataclass, field

from gpubackprop.expressions import COMPARISONS, Expression, Node

_UFUNC = {
    "neg": "negative", "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide",
    "copy": "positive", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "eq": "equal", "ne": "not_equal",
}  # fmt: skip


@dataclass(eq=False)
class _Value:
    """A value of the pass: an array passed in, a number, or the result of a call."""

    op: str
    operands: "tuple[_Value, ...]" = ()
    place: str = ""  # the name of the array or number that holds it
    last_use: float = -1  # index of the last call that reads it


@dataclass
class Printed:
    """Source of a function, and what it needs.

    Attributes
    ----------
    source : str
        Defines a function of the expression's name. It takes the expression's signature, then
        scratch arrays.
    numbers : dict of str to float
        Global names of the source that stand for numbers.
    n_scratch, n_flags : int
        Scratch arrays of the arrays' dtype, and of bool.
    """

    source: str
    numbers: dict[str, float]
    n_scratch: int
    n_flags: int


@dataclass
class _Pool:
    """Scratch arrays of one kind: taken, given back, taken again."""

    prefix: str
    made: list[str] = field(default_factory=list)
    free: list[str] = field(default_factory=list)

    def take(self) -> str:
        if not self.free:
            self.free.append(f"{self.prefix}{len(self.made)}")
            self.made.append(self.free[-1])
        return self.free.pop()


class _Printer:
    """Turns formulas into a list of calls, finds when each value dies, and gives each a place."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self.numbers = dict(expression.folded.constants)
        self.calls: list[_Value] = []
        self.known: dict[object, _Value] = {}  # common subexpressions are computed once
        self.scratch, self.flags = _Pool("_scratch"), _Pool("_flag")
        self.lines: list[str] = []
        self.inputs = {name: _Value("array", place=name) for name in expression.signature}
        self.inputs |= {name: _Value("number", place=name) for name in self.numbers}
        #: With one output, that may be the same array as any argument.
        self.aliased = expression.arguments if len(expression.outputs) == 1 else ()

    def print(self) -> Printed:
        names = dict(self.inputs)
        for target, node in self.expression.folded.statements:
            names[target] = self.value(node, names)
            held = names[target]
            if held.op == "array" and held.place in self.expression.outputs:
                # What an output held before the pass: copied while it is still there.
                names[target] = self._call("copy", (held,))
        self.final = {target: names[target] for target in self.expression.outputs}
        self._find_last_uses()
        for i, value in enumerate(self.calls):
            self._emit(i, value)
        for target, final in self.final.items():
            if final.place != target:
                self.lines.append(f"np.copyto({target}, {final.place})")
        scratch = [*self.scratch.made, *self.flags.made]
        head = f"def {self.expression.name}({', '.join([*self.expression.signature, *scratch])}):"
        source = "\n    ".join([head, *self.lines])
        return Printed(source, self.numbers, len(self.scratch.made), len(self.flags.made))

    def value(self, node: Node, names: dict[str, _Value]) -> _Value:
        """Return the value of a formula, after listing the calls that it takes."""
        if node.op == "name":
            return names[node.name]
        if node.op == "number":
            return self._number(node.number)
        operands = tuple(self.value(operand, names) for operand in node.operands)
        return self._call(*_as_limit(node.op, operands))

    def _call(self, op: str, operands: tuple[_Value, ...]) -> _Value:
        key = op, *map(id, operands)
        if key not in self.known:
            self.known[key] = _Value(op, operands)
            self.calls.append(self.known[key])
        return self.known[key]

    def _number(self, number: float) -> _Value:
        key = "number", number, math.copysign(1, number)
        if key not in self.known:
            place = f"_number{len(self.numbers)}"
            self.numbers[place] = number
            self.known[key] = _Value("number", place=place)
        return self.known[key]

    def _find_last_uses(self) -> None:
        needed = {id(value) for value in self.final.values()}
        for value in reversed(self.calls):
            if id(value) in needed:
                needed |= {id(operand) for operand in value.operands}
        self.calls = [value for value in self.calls if id(value) in needed]
        for i, value in enumerate(self.calls):
            for operand in value.operands:
                operand.last_use = i
        for target, value in self.final.items():
            if value.op == "array" and value.place != target:
                value.last_use = math.inf  # an argument that is copied at the end

    def _emit(self, i: int, value: _Value) -> None:
        """Give call i a place and print it."""
        dying = {id(operand): operand for operand in value.operands if operand.last_use <= i}
        kept = value.operands[1] if value.op == "where" else None  # read after the place is written
        for operand in dying.values():
            if operand is not kept:
                self._free(operand)
        value.place = self._place(i, value)
        if kept is not None and id(kept) in dying:
            self._free(kept)
        texts = [operand.place for operand in value.operands]
        if value.op == "where":
            condition, x, y = texts
            branches = self.numbers.get(x), self.numbers.get(y)
            # A masked copy costs a wrong guess for each element; a cast of the condition does not.
            if branches == (1, 0):
                self.lines.append(f"np.copyto({value.place}, {condition})")
                return
            if branches == (0, 1):
                self.lines.append(f"np.logical_not({condition}, out={value.place})")
                return
            if y != value.place:
                self.lines.append(f"np.copyto({value.place}, {y})")
            self.lines.append(f"np.copyto({value.place}, {x}, where={condition})")
        else:
            function = "erf" if value.op == "erf" else f"np.{_UFUNC.get(value.op, value.op)}"
            self.lines.append(f"{function}({', '.join(texts)}, out={value.place})")

    def _place(self, i: int, value: _Value) -> str:
        if value.op in COMPARISONS:
            return self.flags.take()
        targets = [target for target, final in self.final.items() if final is value]
        candidates = targets or (list(self.final) if len(self.final) == 1 else [])
        for target in candidates:
            if self._may_write(i, value, target):
                return target
        if targets:
            value.last_use = math.inf  # copied at the end
        return self.scratch.take()

    def _may_write(self, i: int, value: _Value, target: str) -> bool:
        """Tell whether call i may write into an output without losing what is still to be read."""
        same_memory = [self.inputs[name] for name in (*self.aliased, target)]
        if any(other.last_use > i for other in same_memory):
            return False
        held = [other for other in self.calls[:i] if other.place == target and other.last_use >= i]
        if any(other.last_use > i for other in held):
            return False
        if value.op == "where":  # written twice, so its place must not hold what is copied second
            second = value.operands[1]
            return second not in same_memory and second not in held
        return True

    def _free(self, value: _Value) -> None:
        for pool in (self.scratch, self.flags):
            if value.place in pool.made and value.place not in pool.free:
                pool.free.append(value.place)


def _as_limit(op: str, operands: tuple[_Value, ...]) -> tuple[str, tuple[_Value, ...]]:
    """Turn ``where(x < n, n, x)`` into NumPy's maximum, which keeps NaN too: relu in one call. And
    the same with > into its minimum.
    """
    limit = {"lt": "maximum", "gt": "minimum"}.get(operands[0].op) if op == "where" else None
    if limit is not None:
        x, n = operands[0].operands
        if operands[1] is n and operands[2] is x and n.op == "number":
            return limit, (x, n)
    return op, operands


def to_numpy(expression: Expression) -> Printed:
    """Print an expression as a Python function of NumPy calls.

    With a single output, that may be the same array as any argument; of several outputs, none may
    be an argument's.
    """
    return _Printer(expression).print()
