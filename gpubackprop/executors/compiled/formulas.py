"""Writes the module of a network's and an optimiser's formulas, printed, for Numba to compile."""

import functools
from dataclasses import dataclass

import numpy as np

from gpubackprop.activations import Activation
from gpubackprop.executors.compiled.header import FLAGS, header
from gpubackprop.executors.compiled.printer import Constants, to_loop
from gpubackprop.expressions import Expression
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

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
    options = f'error_model="numpy", fastmath={FLAGS}'
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
