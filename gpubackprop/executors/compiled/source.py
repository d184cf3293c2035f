"""Writes the module that Numba compiles for a kind of job: loops as they are, formulas printed."""

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from gpubackprop.activations import Activation
from gpubackprop.executors.compiled import kernels, loop
from gpubackprop.executors.compiled.header import FLAGS, header
from gpubackprop.executors.compiled.printer import Constants, print_mix, to_loop
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

#: What the compiled function reads from its one argument, an array of int64, in this order.
PARAMETERS = dict(inspect.signature(loop.train).parameters)
_POINTERS = {"Ints": "codes", "Numbers": "numbers", "Doubles": "doubles"}


#: What compiled code calls by address: printed from the formulas of a network and an optimiser. All
#: arguments are int64, most of them positions.
FORMULAS = {
    "activate": ("_kind", "_z", "_a", "_n", "_C"),
    "derive": ("_kind", "_delta", "_read", "_n", "_C"),
    "loss_terms": ("_o", "_z", "_y", "_out", "_n", "_C"),
    "loss_delta": ("_o", "_z", "_y", "_out", "_factor", "_n", "_C"),
    "penalize": ("_w", "_g", "_n", "_C"),
    "decay": ("_w", "_trainable", "_scalars", "_n", "_C"),
    "step": ("_w", "_g", "_slots", "_scalars", "_n", "_C"),
}
#: Columns of the scalars of an update before those that the optimiser names.
N_SCALARS = 2


@dataclass(frozen=True)
class Program:
    """The formulas of a kind of job as a module for Numba, and the numbers that they read.

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


@functools.lru_cache(maxsize=2)
def write_loop(dtype: np.dtype) -> str:
    """Write the module of the loops, which are the same for every job of a dtype."""
    exp_all = "def exp_all(x, out, n):\n    for i in range(n):\n        out[i] = exp(x[i])"
    parts = [header(dtype.name), _jit(print_mix()), _jit(exp_all)]
    return _join([*parts, *_functions(kernels), *_functions(loop), _entry()])


def write_formulas(model: Model, optimizer: Optimizer) -> Program:
    """Write the module of the formulas of a network and an optimiser."""
    constants = Constants()
    kinds: dict[tuple[Activation, bool], int] = {}
    of_layer = tuple(
        kinds.setdefault(layer, len(kinds))
        for layer in zip(model.activations, model.keeps_z, strict=True)
    )
    bodies = {
        "activate": _activate(kinds, constants),
        "derive": _derive(kinds, constants),
        **_output(model, constants),
        **_optimizer(optimizer, constants),
    }
    parts = [_callable(name, bodies[name]) for name in FORMULAS]
    return Program(_join([header(model.dtype.name), *parts]), tuple(constants.values), of_layer)


def _join(parts: list[str]) -> str:
    return "\n\n\n".join(parts) + "\n"


def _jit(function: str) -> str:
    return f"@fast\n{function}"


def _callable(name: str, body: list[str]) -> str:
    """Print a function that has an address."""
    arguments = FORMULAS[name]
    signature = f"void({', '.join(['int64'] * len(arguments))})"
    options = f'cache=True, error_model="numpy", fastmath={FLAGS}'
    head = f'@cfunc("{signature}", {options})\ndef {name}({", ".join(arguments)}):'
    return "\n    ".join([head, *(body or ["pass"])])


def _under(condition: str, lines: list[str]) -> list[str]:
    return [f"if {condition}:", *(f"    {line}" for line in lines)]


_Kinds = dict[tuple[Activation, bool], int]


def _activate(kinds: _Kinds, constants: Constants) -> list[str]:
    """Print f of every kind of layer: in place where z is not read again."""
    lines = []
    for (activation, keeps_z), kind in kinds.items():
        if activation.elementwise and (keeps_z or not activation.linear):
            places = {"z": "_z", "out": "_a" if keeps_z else "_z"}
            loop = to_loop(activation.forward, constants, places)
            lines += _under(f"_kind == {kind}", loop)
    return lines


def _derive(kinds: _Kinds, constants: Constants) -> list[str]:
    """Print ``delta * f'`` of every kind of layer, in place."""
    lines = []
    for (activation, _), kind in kinds.items():
        if activation.elementwise and not activation.linear:
            places = {"delta": "_delta", activation.reads: "_read", "out": "_delta"}
            lines += _under(f"_kind == {kind}", to_loop(activation.delta, constants, places))
    return lines


def _output(model: Model, constants: Constants) -> dict[str, list[str]]:
    """Print the loss and the output's delta, where they are no matter of whole rows."""
    pair, places = model.pair, {"o": "_o", "z": "_z", "y": "_y", "out": "_out"}
    terms = to_loop(pair.loss, constants, places) if pair.loss else []
    factor = {"scale": "numbers(_factor)[0]"}
    delta = to_loop(pair.delta, constants, places, factor) if pair.delta else []
    return {"loss_terms": terms, "loss_delta": delta}


def _optimizer(optimizer: Optimizer, constants: Constants) -> dict[str, list[str]]:
    """Print penalty, decay and step."""
    penalty: list[str] = []
    if optimizer.penalty is not None:
        penalty = to_loop(optimizer.penalty, constants, {"w": "_w", "g": "_g"})
    decay: list[str] = []
    if optimizer.weight_decay:
        rate = {"rate": "numbers(_scalars)[1]"}
        decay = _under("_trainable == 0", to_loop(optimizer.decay, constants, {"w": "_w"}, rate))
        places = {"trainable": "_trainable", "w": "_w"}
        masked = to_loop(optimizer.masked_decay, constants, places, rate)
        decay += _under("_trainable != 0", masked)
    expression = optimizer.expression
    w, *slots = expression.outputs
    scalars = {
        name: f"numbers(_scalars)[{N_SCALARS + i}]" for i, name in enumerate(expression.scalars)
    }
    places = {"g": "_g", w: "_w", **{name: f"_slot{i}" for i, name in enumerate(slots)}}
    step = [f"_slot{i} = codes(_slots)[{i}]" for i in range(len(slots))]
    step += to_loop(expression, constants, places, scalars)
    return {"penalize": penalty, "decay": decay, "step": step}


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
