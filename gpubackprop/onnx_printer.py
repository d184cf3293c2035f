"""Prints networks and their formulas as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpubackprop.activations import Activation
from gpubackprop.buffers import Parameters
from gpubackprop.errors import missing
from gpubackprop.expressions import Node
from gpubackprop.model import Model

#: Operators by the names of `Node.op`. Max and Min keep a NaN that fmax and fmin would drop.
_OPERATORS = {
    "neg": "Neg", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "where": "Where",
    "exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt", "fabs": "Abs",
    "fmax": "Max", "fmin": "Min", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual", "eq": "Equal",
}  # fmt: skip


class Graph:
    """Nodes and numbers of an ONNX graph. Equal ones are there once.

    Parameters
    ----------
    dtype : numpy.dtype
        float32 or float64: of the inputs, the numbers and the outputs.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.onnx: Any = _onnx()
        self.dtype = np.dtype(dtype)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._known: dict[Any, str] = {}

    def apply(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Return the name of the result of an operator."""
        key = operator, inputs, repr(attributes)
        if key not in self._known:
            name = self._known[key] = f"{operator.lower()}_{len(self.nodes)}"
            self.add(operator, inputs, name, domain, attributes)
        return self._known[key]

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        out: str,
        domain: str,
        attributes: dict[str, Any],
    ) -> None:
        """Add a node with one result of a given name."""
        node = self.onnx.helper.make_node(
            operator, list(inputs), [out], name=f"make_{out}", domain=domain, **attributes
        )
        self.nodes.append(node)

    def output(self, name: str, value: str) -> None:
        """Give a result the name of an output."""
        self.add("Identity", [value], name, "", {})

    def tensor(self, name: str, values: Any) -> str:
        """Return the name of an array of numbers or strings."""
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def number(self, value: float) -> str:
        """Return the name of a number in the graph's dtype."""
        key = "number", repr(value)
        if key not in self._known:
            name = f"number_{len(self.initializers)}"
            self._known[key] = self.tensor(name, self.dtype.type(value))
        return self._known[key]

    def cast(self, value: str, dtype: Any) -> str:
        """Return the name of a result in another dtype."""
        to = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.apply("Cast", value, to=int(to))


# ---- formulas ------------------------------------------------------------------------------------


def print_formula(graph: Graph, node: Node, names: dict[str, str]) -> str:
    """Print a formula as nodes; returns the name of its value.

    Parameters
    ----------
    graph : Graph
    node : Node
    names : dict of str to str
        Results by the names that the formula reads.
    """
    if node.op == "name":
        return names[node.name]
    if node.op == "number":
        return graph.number(node.number)
    operands = [print_formula(graph, operand, names) for operand in node.operands]
    if node.op in _COMPOSED:
        return _COMPOSED[node.op](graph, *operands)
    return graph.apply(_OPERATORS[node.op], *operands)


def _not_equal(graph: Graph, x: str, y: str) -> str:
    return graph.apply("Not", graph.apply("Equal", x, y))


def _expm1(graph: Graph, x: str) -> str:
    """Print ``2 t / (1 - t)`` with ``t = tanh(x / 2)``, which keeps the digits of a small x; from 1
    on ``exp(x) - 1``.
    """
    one, two = graph.number(1.0), graph.number(2.0)
    t = graph.apply("Tanh", graph.apply("Div", x, two))
    small = graph.apply("Div", graph.apply("Mul", two, t), graph.apply("Sub", one, t))
    large = graph.apply("Sub", graph.apply("Exp", x), one)
    return graph.apply("Where", graph.apply("Less", x, one), small, large)


def _log1p(graph: Graph, x: str) -> str:
    """Print ``log(u) * (x / (u - 1))`` with ``u = 1 + x``: the quotient takes back what rounding u
    has cost. x itself where u is 1; from 1 on ``log(u)``.

    Goldberg, "What every computer scientist should know about floating-point arithmetic", 1991,
    theorem 4.
    """
    one = graph.number(1.0)
    u = graph.apply("Add", one, x)
    log = graph.apply("Log", u)
    quotient = graph.apply("Div", x, graph.apply("Sub", u, one))
    near = graph.apply("Where", graph.apply("Equal", u, one), x, graph.apply("Mul", log, quotient))
    return graph.apply("Where", graph.apply("Greater", x, one), log, near)


def _erf(graph: Graph, x: str) -> str:
    """Print Erf in float32, the only dtype in which onnxruntime has it: right to 1e-7."""
    if graph.dtype == np.float32:
        return graph.apply("Erf", x)
    return graph.cast(graph.apply("Erf", graph.cast(x, np.float32)), graph.dtype)


#: What ONNX has no operator for, or not in every dtype.
_COMPOSED: dict[str, Callable[..., str]] = {
    "ne": _not_equal, "expm1": _expm1, "log1p": _log1p, "erf": _erf,
}  # fmt: skip


def _activate(graph: Graph, activation: Activation, z: str) -> str:
    if not activation.elementwise:
        return graph.apply("Softmax", z, axis=-1)
    folded = activation.forward.folded
    names = {"z": z, **{key: graph.number(value) for key, value in folded.constants.items()}}
    for target, node in folded.statements:
        names[target] = print_formula(graph, node, names)
    return names["out"]


def print_network(graph: Graph, model: Model, parameters: Parameters) -> str:
    """Print a network that reads "X"; returns the name of its outputs o."""
    a = "X"
    for l, activation in enumerate(model.activations):
        W, b = parameters.weights[l], parameters.biases[l]
        inputs = [a, graph.tensor(f"W{l}", W)]
        if b is not None:
            inputs.append(graph.tensor(f"b{l}", b))
        a = _activate(graph, activation, graph.apply("Gemm", *inputs, transB=1))
    return a


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise missing("onnx", "onnx") from None
    return onnx
