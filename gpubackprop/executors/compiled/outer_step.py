"""Prints an update of weights by one sample as one pass: gradient, penalty, its value, and step.

The gradient of one sample is ``outer(d, x)``: here it is computed in registers, a row of W at a
time, and whatever the optimiser does with it follows at once. So W and each slot are read and
written once, and no gradient is. The formulas are those of `optimizers`, run one after another.
"""

import functools

import numpy as np

from gpubackprop.executors.compiled.formulas import by_address, join, scalar_places, step_scalars
from gpubackprop.executors.compiled.header import header
from gpubackprop.executors.compiled.printer import Constants, to_statements
from gpubackprop.expressions import Expression
from gpubackprop.optimizers import Optimizer

#: All are int64. `_w` and the positions in `_slots` are those of the flat buffers; the rows of W
#: begin at `_first` of each. `_total` gets the sum of the penalties, in float64.
ARGUMENTS = ("_w", "_first", "_slots", "_d", "_x", "_scalars", "_m", "_n", "_C", "_total")
#: Weights of the rows that are read twice, to carry the delta back and to be stepped: both times
#: from the fastest cache.
BLOCK = 2048


def write_outer_step(dtype: np.dtype, optimizer: Optimizer) -> tuple[str, tuple[float, ...]]:
    """Write the module of an optimiser's `outer_step`, without clipping and frozen weights.

    Returns
    -------
    text : str
        The same for all optimisers that differ in numbers only.
    constants : tuple of float
        What it reads from its argument ``_C``.
    """
    penalty, value = optimizer.penalty, optimizer.penalty_value
    decay = optimizer.decay if optimizer.weight_decay else None
    return _write(dtype, penalty, value, decay, optimizer.expression)


@functools.lru_cache
def _write(
    dtype: np.dtype,
    penalty: Expression | None,
    value: Expression | None,
    decay: Expression | None,
    step: Expression,
) -> tuple[str, tuple[float, ...]]:
    constants = Constants()
    before: list[str] = []
    inside: list[str] = []
    for stage, (expression, scalars, shared) in _stages(penalty, value, decay, step).items():
        # Each stage's names are its own, but for what all of them pass on.
        name = functools.partial(_name, stage, shared)
        lines, statements = to_statements(expression, constants, scalars, name)
        before += lines
        inside += statements
        if stage == "value":
            inside.append("_sum += value_out")
    slots = [f"slot{i}" for i in range(len(step.outputs) - 1)]
    body = [f"_at_{slot} = codes(_slots)[{i}] + _first" for i, slot in enumerate(slots)]
    body += ["_at_d, _at_x = numbers(_d), numbers(_x)", *before, "for _j in range(_m):"]
    places = {"w": "_w + _first", **{slot: f"_at_{slot}" for slot in slots}}
    body += [f"    _row_{name} = numbers({at} + _j * _n)" for name, at in places.items()]
    body += ["    _r, _sum = _at_d[_j], T(0)", "    for _i in range(_n):"]
    body += [f"        {name} = _row_{name}[_i]" for name in places]
    body += [f"        {line}" for line in ("g = _r * _at_x[_i]", *inside)]
    body += [f"        _row_{name}[_i] = {name}" for name in places]
    body.append("    doubles(_total)[0] += _sum")
    text = join([header(dtype.name), by_address("outer_step", ARGUMENTS, body)])
    return text, tuple(constants.values)


_Stage = tuple[Expression, dict[str, str], dict[str, str]]


def _stages(
    penalty: Expression | None,
    value: Expression | None,
    decay: Expression | None,
    step: Expression,
) -> dict[str, _Stage]:
    """Return what happens to a weight, in the order in which it does.

    By its name: an expression, where its scalars are, and what its names are that others share.
    """
    stages: dict[str, _Stage] = {}
    if penalty is not None and value is not None:
        stages["penalty"] = penalty, scalar_places(penalty), {"w": "w", "g": "g"}
        stages["value"] = value, scalar_places(value), {"w": "w"}
    if decay is not None:
        stages["decay"] = decay, scalar_places(decay), {"w": "w"}
    w, *slots = step.outputs
    shared = {"g": "g", w: "w", **{slot: f"slot{i}" for i, slot in enumerate(slots)}}
    stages["step"] = step, step_scalars(step), shared
    return stages


def _name(stage: str, shared: dict[str, str], name: str) -> str:
    return shared.get(name) or f"{stage}_{name}"
