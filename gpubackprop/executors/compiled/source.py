"""Writes the module that Numba compiles for a kind of job: loops as they are, formulas printed."""

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

from gpubackprop.activations import Activation
from gpubackprop.executors.compiled import kernels, loop
from gpubackprop.executors.compiled.header import header
from gpubackprop.executors.compiled.printer import Constants, print_mix, to_loop
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

#: What the compiled function reads from its one argument, an array of int64, in this order.
PARAMETERS = dict(inspect.signature(loop.train).parameters)
_POINTERS = {"Ints": "codes", "Numbers": "numbers", "Doubles": "doubles"}


@dataclass(frozen=True)
class Program:
    """A module for Numba, and the numbers that it reads at run time.

    Attributes
    ----------
    text : str
        The same for all jobs that differ in sizes and numbers only.
    constants : tuple of float
    kinds : tuple of int
        Of each layer, which of the printed activations it has.
    """

    text: str
    constants: tuple[float, ...]
    kinds: tuple[int, ...]


def write(model: Model, optimizer: Optimizer) -> Program:
    """Write the program for a network and an optimiser."""
    constants = Constants()
    kinds: dict[tuple[Activation, bool], int] = {}
    of_layer = tuple(
        kinds.setdefault(layer, len(kinds))
        for layer in zip(model.activations, model.keeps_z, strict=True)
    )
    softmax = not model.activations[-1].elementwise
    parts = [
        header(model.dtype.name),
        f"SOFTMAX, DROPOUT = {softmax}, {any(model.dropout)}",
        _jit(print_mix()),
        _jit("def exp_all(_x, _out, _n):\n    for i in range(_n):\n        _out[i] = exp(_x[i])"),
        *_activations(kinds, constants),
        *_functions(kernels),
        *map(_jit, _output(model, constants)),
        *map(_jit, _optimizer(optimizer, constants)),
        *_functions(loop),
        _entry(),
    ]
    return Program("\n\n\n".join(parts) + "\n", tuple(constants.values), of_layer)


def _jit(function: str) -> str:
    return f"@fast\n{function}"


def _activations(
    kinds: dict[tuple[Activation, bool], int], constants: Constants
) -> Iterator[str]:
    """Print f and f' of each kind of layer, and the two functions that choose among them."""
    forward, back = [], []
    for (activation, keeps_z), kind in kinds.items():
        if not activation.elementwise:
            continue
        if keeps_z or not activation.linear:
            same = None if keeps_z else {"out": "z"}
            extra = () if keeps_z else ("unused",)
            yield _jit(to_loop(activation.forward, f"f{kind}", constants, same, extra))
            forward.append((kind, f"f{kind}(z, a, n, C)"))
        if not activation.linear:
            yield _jit(to_loop(activation.delta, f"df{kind}", constants, {"out": "delta"}))
            back.append((kind, f"df{kind}(delta, read, n, C)"))
    for head, calls in (
        ("activate(kind, z, a, n, C)", forward),
        ("derive(kind, delta, read, n, C)", back),
    ):
        lines = [f"    if kind == {kind}:\n        {call}" for kind, call in calls] or ["    pass"]
        yield _jit("\n".join([f"def {head}:", *lines]))


def _output(model: Model, constants: Constants) -> Iterator[str]:
    """Print the loss and the output's delta."""
    pair = model.pair
    head = "def output_terms(o, z, y, terms, row, m, k, C):\n"
    if pair.loss is None:
        yield f"{head}    cross_entropy(z, y, numbers(row), terms, m, k)\n    return 1"
    else:
        yield to_loop(pair.loss, "loss_terms", constants)
        call = "loss_terms(numbers(o), numbers(z), numbers(y), numbers(terms), m * k, C)"
        yield f"{head}    {call}\n    return m"
    head = "def output_delta(o, z, y, factor, out, row, m, k, C):\n"
    if pair.delta is None:
        yield f"{head}    softmax_delta(o, y, factor, numbers(row), out, m, k)"
    else:
        yield to_loop(pair.delta, "loss_delta", constants)
        call = "loss_delta(numbers(o), numbers(z), numbers(y), numbers(out), factor, m * k, C)"
        yield f"{head}    {call}"


def _optimizer(optimizer: Optimizer, constants: Constants) -> Iterator[str]:
    """Print penalty, decay and step."""
    lines = ["def penalize(w, g, n, C):"]
    if optimizer.penalty is not None:
        yield to_loop(optimizer.penalty, "penalty", constants)
        lines.append("    penalty(w, g, n, C)")
    yield "\n".join([*lines, "    return"])
    lines = ["def decay(w, trainable, rate, n, C):"]
    if optimizer.weight_decay:
        yield to_loop(optimizer.decay, "decay_all", constants)
        yield to_loop(optimizer.masked_decay, "decay_some", constants)
        lines.append("    if trainable == 0:\n        decay_all(w, rate, n, C)")
        lines.append("    else:\n        decay_some(numbers(trainable), w, rate, n, C)")
    yield "\n".join([*lines, "    return"])
    expression = optimizer.expression
    yield to_loop(expression, "move", constants)
    given = ["g", "w", *(f"numbers(slots[{i}])" for i in range(len(expression.outputs) - 1))]
    given += [f"scalars[{i + 2}]" for i in range(len(expression.scalars))]
    yield f"def step(w, g, slots, scalars, n, C):\n    move({', '.join([*given, 'n', 'C'])})"


def _functions(module: ModuleType) -> Iterator[str]:
    """Return the functions of one of our modules, without docstrings and annotations."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
            node.body = node.body[1:]
            yield _jit(ast.unparse(node))


def _entry() -> str:
    """Print the function that Python calls: it reads `PARAMETERS` and trains."""
    values = []
    for i, parameter in enumerate(PARAMETERS.values()):
        pointer = _POINTERS.get(parameter.annotation)
        values.append(f"{pointer}(r[{i}])" if pointer else f"r[{i}]")
    lines = ["def entry(run):", "    r = codes(run)", f"    train({', '.join(values)})"]
    decorator = '@njit("void(int64)", cache=True, nogil=True, error_model="numpy")'
    return "\n".join([decorator, *lines])


Entry = Callable[[int], None]
