"""Seeded random formulas, with an evaluation that shares nothing with the library's printers."""

import numpy as np
from scipy.special import erf

NAMES = ("x", "y", "z")
UNARY = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh,
    "erf": erf, "sqrt": np.sqrt, "fabs": np.fabs, "neg": np.negative,
}  # fmt: skip
BINARY = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide,
    "fmax": np.fmax, "fmin": np.fmin,
}  # fmt: skip
COMPARISONS = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


def tree(rng, depth, names=NAMES):
    """Return a random formula as nested tuples."""
    kind = rng.choice(["leaf", "unary", "binary", "binary", "power", "where", "relu"])
    if depth == 0 or kind == "leaf":
        if rng.random() < 0.25:
            return "number", float(rng.choice([0.0, 0.5, 1.0, 2.0, -1.5, 0.3]))
        return "name", str(rng.choice(names))

    def inner():
        return tree(rng, depth - 1, names)

    if kind == "unary":
        return str(rng.choice(list(UNARY))), inner()
    if kind == "binary":
        return str(rng.choice(list(BINARY))), inner(), inner()
    if kind == "power":
        return "**", inner(), int(rng.integers(1, 4))
    if kind == "relu":  # the form that has a NumPy function of its own
        x, n = inner(), ("number", float(rng.choice([0.0, 0.25])))
        return "where", "<", x, n, n, x
    return "where", str(rng.choice(list(COMPARISONS))), inner(), inner(), inner(), inner()


def text(node):
    """Write a formula with every bracket there is."""
    match node:
        case "number", value:
            return f"({value!r})" if value >= 0 else f"(-{-value!r})"
        case "name", name:
            return name
        case "neg", x:
            return f"(-{text(x)})"
        case "**", x, n:
            return f"({text(x)} ** {n})"
        case "where", comparison, left, right, x, y:
            return f"where({text(left)} {comparison} {text(right)}, {text(x)}, {text(y)})"
        case ("fmax" | "fmin") as name, x, y:
            return f"{name}({text(x)}, {text(y)})"
        case name, x:
            return f"{name}({text(x)})"
        case symbol, x, y:
            return f"({text(x)} {symbol} {text(y)})"


def value(node, values):
    """Evaluate a formula in float64."""
    match node:
        case "number", number:
            return np.float64(number)
        case "name", name:
            return values[name]
        case "**", x, n:
            result = base = value(x, values)
            for _ in range(n - 1):
                result = result * base
            return result
        case "where", comparison, left, right, x, y:
            condition = COMPARISONS[comparison](value(left, values), value(right, values))
            return np.where(condition, value(x, values), value(y, values))
        case name, x:
            return UNARY[name](value(x, values))
        case name, x, y:
            return BINARY[name](value(x, values), value(y, values))


def program(rng, depth=3):
    """Return random statements with two outputs, u and v, that are also read, and locals.

    A list of (target, formula); every formula reads only what was given or assigned before it.
    """
    targets = ["u", "v", *rng.choice(["u", "v", "s", "t"], size=rng.integers(0, 3))]
    rng.shuffle(targets)
    known, statements = [*NAMES, "u", "v"], []
    for target in targets:
        target = str(target)
        if target in dict(statements):
            continue
        statements.append((target, tree(rng, depth, tuple(known))))
        if target not in known:
            known.append(target)
    return statements


def run_program(statements, values):
    """Run statements in order; returns u and v."""
    values = dict(values)
    for target, node in statements:
        values[target] = value(node, values)
    shape = values["x"].shape
    return [np.broadcast_to(values[name], shape) for name in ("u", "v")]
