"""Writes the module that Numba compiles for a kind of job: loops as they are, formulas printed."""

import ast
import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from gpubackprop.activations import Activation
from gpubackprop.executors.compiled import (
    amx,
    held_back,
    kernels,
    loop,
    micro,
    panels,
    predict_loop,
    products,
    tiles,
)  # fmt: skip
from gpubackprop.executors.compiled.header import FLAGS, header
from gpubackprop.executors.compiled.printer import Constants, print_mix, to_loop
from gpubackprop.executors.compiled.vectors import vectors
from gpubackprop.expressions import Expression
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

#: Integers that are passed to what is called by its address; or, of a few kernels, so many.
N_ARGUMENTS, N_MOST = 7, 14
_POINTERS = {"Ints": "codes", "Numbers": "numbers", "Doubles": "doubles"}
#: What a compiled function takes as an argument of its own, by the annotation: the type, and how
#: the loop gets it. Arrays are read-only here, because such a parameter takes others too.
_GIVEN = {
    "Rows": ('types.Array(types.{dtype}, 2, "C", readonly=True)', "{name}.ctypes.data // {size}"),
    "Given": ("types.int64", "{name}"),
}


def _definitions(module: ModuleType) -> list[ast.FunctionDef]:
    """Return the functions of one of our modules, without docstrings."""
    parsed = ast.parse(inspect.getsource(module)).body
    found = [node for node in parsed if isinstance(node, ast.FunctionDef)]
    for node in found:
        node.body = node.body[1:]
    return found


def _helpers(module: ModuleType) -> list[str]:
    """Print the functions of a module whose names begin with "_": into what calls them."""
    return [_fast(node) for node in _definitions(module) if node.name.startswith("_")]


def _fast(node: ast.FunctionDef) -> str:
    """Print a function, without annotations, that becomes part of its callers."""
    body = "\n".join(map(ast.unparse, node.body)).replace("\n", "\n    ")
    return f"@fast\ndef {node.name}({', '.join(_names(node))}):\n    {body}"


def _names(node: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(one.arg for one in node.args.args)


#: The modules of loops that are called by their address: compiled each for itself, when a job needs
#: one. Of each, arguments and statements of its functions by name.
KERNELS = {
    module.__name__.rpartition(".")[2]: {
        node.name: (_names(node), "\n".join(map(ast.unparse, node.body)).split("\n"))
        for node in _definitions(module)
        if not node.name.startswith("_")
    }
    for module in (kernels, micro, tiles, panels)
}
#: What is printed into such a module besides: the instructions that it needs, and its functions
#: that nothing else calls.
_OWN: dict[str, Callable[[str], list[str]]] = {
    "tiles": lambda dtype: [vectors(dtype)],
    "panels": lambda dtype: [vectors(dtype), amx.instructions(), *_helpers(panels)],
}
#: Where the address of each stands in the table that the loops over batches are given.
PLACES = {name: i for i, name in enumerate(itertools.chain(*KERNELS.values()))}


@dataclass(frozen=True)
class Loop:
    """A loop over batches, of which `write_loop` makes a module for Numba.

    Attributes
    ----------
    functions : tuple of ast.FunctionDef
    kernels : tuple of str
        Keys of `KERNELS`: what it calls.
    """

    functions: tuple[ast.FunctionDef, ...]
    kernels: tuple[str, ...]

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """What the compiled function reads from its first argument, an array of int64, in this
        order, and what it makes of each.
        """
        return {name: kind for name, kind in self._arguments.items() if kind not in _GIVEN}

    @functools.cached_property
    def given(self) -> dict[str, str]:
        """Its other arguments, and what each is."""
        return {name: kind for name, kind in self._arguments.items() if kind in _GIVEN}

    @functools.cached_property
    def _arguments(self) -> dict[str, str]:
        arguments = self.functions[-1].args.args
        return {one.arg: ast.unparse(one.annotation) if one.annotation else "" for one in arguments}


_PRODUCTS, _DIRECT = _definitions(products), _definitions(loop)
_FORWARD = [node for node in _DIRECT if node.name == "forward"]
#: The loops over batches by name, and the one over rows that are predicted.
LOOPS = {
    "direct": Loop((*_PRODUCTS, *_DIRECT), ("kernels", "micro", "tiles", "panels")),
    "held back": Loop(tuple(_definitions(held_back)), ("kernels", "micro", "tiles")),
    "predict": Loop(
        (*_PRODUCTS, *_FORWARD, *_definitions(predict_loop)),
        ("kernels", "micro", "tiles", "panels"),
    ),
}
#: What compiled code calls by address: printed from the formulas of a network and an optimiser. All
#: arguments are int64, most of them positions.
FORMULAS = {
    "activate": ("_kind", "_z", "_a", "_n", "_C"),
    "derive": ("_kind", "_delta", "_read", "_n", "_C"),
    "loss_terms": ("_o", "_z", "_y", "_out", "_n", "_C"),
    "loss_delta": ("_o", "_z", "_y", "_out", "_factor", "_n", "_C"),
    "penalize": ("_w", "_g", "_scalars", "_n", "_C"),
    "decay": ("_w", "_trainable", "_scalars", "_n", "_C"),
    "step": ("_w", "_g", "_slots", "_scalars", "_n", "_C"),
}
#: Columns of the scalars of an update before those that the optimiser names: learning rate, decay,
#: factors of the penalties l2 and l1, rows of the batch.
N_SCALARS = 5


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


@functools.lru_cache
def write_kernels(dtype: np.dtype, name: str) -> str:
    """Write the module of some kernels, the same for every job of a dtype."""
    parts = [header(dtype.name), f"@fast\n{print_mix()}"]
    if name in _OWN:
        parts += [text.strip() for text in _OWN[name](dtype.name)]
    parts += [by_address(name, names, body) for name, (names, body) in KERNELS[name].items()]
    return join(parts)


@functools.lru_cache
def write_loop(dtype: np.dtype, name: str) -> str:
    """Write the module of a loop over batches, the same for every job of a dtype."""
    parts = [header(dtype.name), f"@fast\n{print_mix()}"]
    return join([*parts, *_loop_functions(LOOPS[name]), _entry(LOOPS[name], dtype)])


def write_activations(model: Model) -> Program:
    """Write the module of the activations of a network, which is all that going forward needs."""
    return _write_activations(model.dtype, _layers(model))


@functools.lru_cache
def _write_activations(dtype: np.dtype, layers: "_Layers") -> Program:
    constants = Constants()
    kinds, of_layer = _kinds(layers)
    activate = _formula("activate", _activate(kinds, constants))
    return Program(join([header(dtype.name), activate]), tuple(constants.values), of_layer)


def write_formulas(model: Model, optimizer: Optimizer) -> Program:
    """Write the module of the formulas of a network and an optimiser.

    What has been printed is remembered by what is printed, not by the optimiser: one of a user's
    own need not be hashable.
    """
    decays = (optimizer.decay, optimizer.masked_decay) if optimizer.weight_decay else ()
    return _write_formulas(
        model.dtype, _layers(model), model.pair.loss, model.pair.delta, optimizer.penalty, decays,
        optimizer.expression,
    )  # fmt: skip


@functools.lru_cache
def _write_formulas(
    dtype: np.dtype,
    layers: "_Layers",
    loss: Expression | None,
    delta: Expression | None,
    penalty: Expression | None,
    decays: tuple[Expression, ...],
    step: Expression,
) -> Program:
    constants = Constants()
    kinds, of_layer = _kinds(layers)
    bodies = {
        "activate": _activate(kinds, constants),
        "derive": _derive(kinds, constants),
        **_output(loss, delta, constants),
        **_optimizer(penalty, decays, step, constants),
    }
    parts = [_formula(name, bodies[name]) for name in FORMULAS]
    return Program(join([header(dtype.name), *parts]), tuple(constants.values), of_layer)


def join(parts: list[str]) -> str:
    """Put the parts of a module together."""
    return "\n\n\n".join(parts) + "\n"


def _formula(name: str, body: list[str]) -> str:
    return by_address(name, FORMULAS[name], ["whole_vectors()", *body] if body else [])


def by_address(name: str, arguments: tuple[str, ...], body: list[str]) -> str:
    """Print a function that has an address."""
    signature = f"void({', '.join(['int64'] * len(arguments))})"
    options = f'cache=True, error_model="numpy", fastmath={FLAGS}'
    head = f'@cfunc("{signature}", {options})\ndef {name}({", ".join(arguments)}):'
    return "\n    ".join([head, *(body or ["pass"])])


def _under(condition: str, lines: list[str]) -> list[str]:
    return [f"if {condition}:", *(f"    {line}" for line in lines)]


_Layers = tuple[tuple[Activation, bool], ...]
_Kinds = dict[tuple[Activation, bool], int]


def _layers(model: Model) -> _Layers:
    """Return of each layer what is printed for it: its activation, and whether z is kept."""
    return tuple(zip(model.activations, model.keeps_z, strict=True))


def _kinds(layers: _Layers) -> tuple[_Kinds, tuple[int, ...]]:
    """Number the activations of a network, and return which each layer has."""
    kinds: _Kinds = {}
    of_layer = tuple(kinds.setdefault(layer, len(kinds)) for layer in layers)
    return kinds, of_layer


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


def _output(
    loss: Expression | None, delta: Expression | None, constants: Constants
) -> dict[str, list[str]]:
    """Print the loss and the output's delta, where they are no matter of whole rows."""
    places = {"o": "_o", "z": "_z", "y": "_y", "out": "_out"}
    factor = {"scale": "numbers(_factor)[0]"}
    return {
        "loss_terms": to_loop(loss, constants, places) if loss else [],
        "loss_delta": to_loop(delta, constants, places, factor) if delta else [],
    }


def scalar_places(expression: Expression) -> dict[str, str]:
    """Return where a penalty or a decay finds each of its scalars."""
    columns = {"rate": 1, "l2": 2, "l1": 3}
    return {name: f"numbers(_scalars)[{columns[name]}]" for name in expression.scalars}


def step_scalars(expression: Expression) -> dict[str, str]:
    """Return where an update finds each of its scalars."""
    names = expression.scalars
    return {name: f"numbers(_scalars)[{N_SCALARS + i}]" for i, name in enumerate(names)}


def _optimizer(
    penalty: Expression | None,
    decays: tuple[Expression, ...],
    expression: Expression,
    constants: Constants,
) -> dict[str, list[str]]:
    """Print penalty, decay and step."""
    penalize: list[str] = []
    if penalty is not None:
        factors = scalar_places(penalty)
        penalize = to_loop(penalty, constants, {"w": "_w", "g": "_g"}, factors)
    decay: list[str] = []
    if decays:
        plain, masked = decays
        rate = scalar_places(plain)
        decay = _under("_trainable == 0", to_loop(plain, constants, {"w": "_w"}, rate))
        places = {"trainable": "_trainable", "w": "_w"}
        decay += _under("_trainable != 0", to_loop(masked, constants, places, rate))
    w, *slots = expression.outputs
    scalars = step_scalars(expression)
    places = {"g": "_g", w: "_w", **{name: f"_slot{i}" for i, name in enumerate(slots)}}
    step = [f"_slot{i} = codes(_slots)[{i}]" for i in range(len(slots))]
    step += to_loop(expression, constants, places, scalars)
    return {"penalize": penalize, "decay": decay, "step": step}


class _ByAddress(ast.NodeTransformer):
    """Turns a call of a kernel into one by its address."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in PLACES:
            return node
        given = ", ".join(ast.unparse(argument) for argument in node.args)
        few = len(node.args) <= N_ARGUMENTS
        padding = ", 0" * ((N_ARGUMENTS if few else N_MOST) - len(node.args))
        called = "call" if few else "call_long"
        return ast.parse(f"{called}(K[{PLACES[name]}], {given}{padding})", mode="eval").body


@functools.cache
def _loop_functions(loop: Loop) -> tuple[str, ...]:
    """Print the functions of a loop, without annotations: once, as it changes what it prints."""
    return tuple(_fast(_ByAddress().visit(node)) for node in loop.functions)


def _entry(loop: Loop, dtype: np.dtype) -> str:
    """Print the function that Python calls: it reads `Loop.parameters` and runs the loop."""
    reading = {name: f"r[{i}]" for i, name in enumerate(loop.parameters)}
    for name, annotation in loop.parameters.items():
        pointer = _POINTERS.get(annotation)
        reading[name] = f"{pointer}({reading[name]})" if pointer else reading[name]
    kinds = ["types.int64"]
    for name, annotation in loop.given.items():
        kind, text = _GIVEN[annotation]
        kinds.append(kind.format(dtype=dtype.name))
        reading[name] = text.format(name=name, size=dtype.itemsize)
    last = loop.functions[-1]
    returns = last.returns is not None and ast.unparse(last.returns) == "int"
    result = "types.int64" if returns else "types.void"
    values = ", ".join(reading[name] for name in _names(last))
    head = f"def entry({', '.join(['run', *loop.given])}):"
    lines = [head, "    r = codes(run)", f"    return {last.name}({values})"]
    options = 'cache=True, nogil=True, error_model="numpy"'
    return "\n".join([f"@njit({result}({', '.join(kinds)}), {options})", *lines])
