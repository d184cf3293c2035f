"""Device functions in CUDA C++, printed from the expressions: the formulas of the kernels.

Activations are a `switch` over kinds: all of the table, then a network's own. So networks share
their compiled kernels whatever they mix. No number that a user can choose is printed: constants are
read from a table in device memory, of which each layer has its part.
"""

import functools
from collections.abc import Iterable, Mapping

from gpubackprop.activations import ACTIVATIONS, SOFTMAX, Activation
from gpubackprop.backends.base import RECORD
from gpubackprop.backends.cuda_printer import mix_lines
from gpubackprop.expressions import Expression, to_cuda
from gpubackprop.losses import Loss, Pair, check_pair, pair
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer

#: The scalar of an update that stands before those of the penalties and of the optimiser.
DECAY_RATE = 0


# ---- what a network has --------------------------------------------------------------------------


def kinds(model: Model) -> tuple[Activation, ...]:
    """Return the activations that a network's kernels know: the table's, then its own others."""
    found = {_formulas(entry): entry for entry in ACTIVATIONS.values()}
    for activation in model.activations:
        found.setdefault(_formulas(activation), activation)
    return tuple(found.values())


def kind(activation: Activation, known: tuple[Activation, ...]) -> int:
    """Return an activation's number in the `switch`."""
    return [_formulas(entry) for entry in known].index(_formulas(activation))


def _formulas(activation: Activation) -> tuple[object, ...]:
    """What two activations share if they differ in the values of their parameters alone."""
    names = tuple(sorted(activation.parameters))
    return activation.elementwise, activation.name, activation.f, activation.df, names


def layer_constants(model: Model) -> tuple[list[float], list[int]]:
    """Return the numbers in a network's formulas, and where each layer's part begins.

    A layer's are those of f, those of f', and in the output layer those of the loss.
    """
    values: list[float] = []
    first = []
    for activation in model.activations:
        first.append(len(values))
        for expression in _of_activation(activation):
            values += expression.folded.constants.values()
    for expression in _of_pair(model.activations[-1], model.loss):
        values += expression.folded.constants.values()
    return values, first


def optimizer_constants(optimizer: Optimizer) -> list[float]:
    """Return the numbers in an optimiser's formulas."""
    return list(optimizer.expression.folded.constants.values())


def _of_activation(activation: Activation) -> tuple[Expression, Expression]:
    return activation.forward, activation.derivative


def _of_pair(activation: Activation, loss: Loss) -> list[Expression]:
    """Return what the output layer computes: the loss, the delta, and for rows dloss/do."""
    joined = pair(activation, loss)
    parts = [joined.loss, joined.delta, None if joined.delta else _slope(loss)]
    return [part for part in parts if part is not None]


def _slope(loss: Loss) -> Expression:
    return Expression(
        "loss_slope", ("o", "z", "y"), {"out": loss.df}, constants=dict(loss.parameters)
    )


# ---- printing ------------------------------------------------------------------------------------


def _read(expression: Expression) -> frozenset[str]:
    return frozenset().union(*(node.names() for _, node in expression.folded.statements))


def _numbers(names: Iterable[str], table: str, first: int, read: frozenset[str]) -> list[str]:
    """Print the declarations of numbers that stand in a table one behind the other."""
    placed = enumerate(names, first)
    return [f"const T {name} = {table}[{at}];" for at, name in placed if name in read]


def _statements(expression: Expression) -> list[str]:
    """Print the assignments; outputs must be declared."""
    lines = []
    for target, node in expression.folded.statements:
        declared = "" if target in expression.outputs else "const T "
        lines.append(f"{declared}{target} = {to_cuda(node)};")
    return lines


def _value(expression: Expression, first: int) -> list[str]:
    """Print an expression with the one output "out" as lines that return it."""
    constants = _numbers(expression.folded.constants, "_C", first, _read(expression))
    return [*constants, "T out;", *_statements(expression), "return out;"]


def _function(head: str, lines: Iterable[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"__device__ __forceinline__ {head} {{\n{body}}}\n"


def _switch(head: str, cases: Mapping[int, tuple[str, list[str]]]) -> str:
    """Print a function that is a `switch` over `_kind`, each case with a comment."""
    lines = ["switch (_kind) {"]
    for number, (comment, body) in cases.items():
        lines += [f"    case {number}: {{  // {comment}", *(f"        {line}" for line in body)]
        lines.append("    }")
    return _function(head, [*lines, "    default: return T(0);", "}"])


@functools.lru_cache(maxsize=64)
def activation_functions(known: tuple[Activation, ...]) -> str:
    """Print ``a = f(z)`` as `activate` and f' as `derive`, which reads a or z."""
    forward, derivative = {}, {}
    for number, activation in enumerate(known):
        f, df = _of_activation(activation)
        forward[number] = (activation.name, _value(f, 0))
        body = [f"const T {activation.reads} = _read;"] if activation.reads in _read(df) else []
        body += _value(df, len(f.folded.constants))
        derivative[number] = (activation.name, body)
    arguments = "const int _kind, const T {}, const T* _C"
    return "\n".join([
        f"enum {{ SOFTMAX = {kind(SOFTMAX, known)} }};\n",
        _switch(f"T activate({arguments.format('z')})", forward),
        _switch(f"T derive({arguments.format('_read')})", derivative),
    ])  # fmt: skip


@functools.lru_cache(maxsize=64)
def loss_functions(known: tuple[Activation, ...], loss: Loss) -> str:
    """Print the loss of one output as `loss_term` and its derivative as `loss_delta`.

    `loss_delta` is ``scale * dloss/dz``; `loss_slope` is dloss/do, for outputs that depend on each
    other.
    """
    terms, deltas, slopes = {}, {}, {}
    rows = Pair(None, None, False)
    for number, activation in enumerate(known):
        try:
            check_pair(activation, loss)
            joined = pair(activation, loss)
        except ValueError:
            continue
        if activation == SOFTMAX:
            rows = joined
        first = sum(len(part.folded.constants) for part in _of_activation(activation))
        if joined.loss is not None:
            terms[number] = (activation.name, _value(joined.loss, first))
            first += len(joined.loss.folded.constants)
        if joined.delta is not None:
            deltas[number] = (activation.name, _value(joined.delta, first))
        else:
            slopes[number] = (activation.name, _value(_slope(loss), first))
    arguments = "const int _kind, const T o, const T z, const T y, const T* _C"
    with_scale = arguments.replace("T y,", "T y, const T scale,")
    return "\n".join([
        f"enum {{ ROW_LOSS = {int(rows.loss is None)}, ROW_DELTA = {int(rows.delta is None)} }};\n",
        _switch(f"T loss_term({arguments})", terms),
        _switch(f"T loss_delta({with_scale})", deltas),
        _switch(f"T loss_slope({arguments})", slopes),
    ])  # fmt: skip


def optimizer_functions(optimizer: Optimizer) -> str:
    """Print what an optimiser does to one entry: `penalize`, `decay` and `descend`.

    And the penalties of one entry of W, as `penalty_value`.

    Scalars stand in a row: ``learning_rate * weight_decay``, the penalties' factors, the
    optimiser's own.
    """
    penalty, step = optimizer.penalty, optimizer.expression
    scalars = DECAY_RATE + 1
    penalize, value = [], ["return T(0);"]
    if penalty is not None and optimizer.penalty_value is not None:
        factors = _numbers(penalty.scalars, "_S", scalars, _read(penalty))
        penalize = [*factors, *_statements(penalty)]
        value = [*factors, *_value(optimizer.penalty_value, 0)]
        scalars += len(penalty.scalars)
    slots = {name: f"_slots[{k}]" for k, name in enumerate(step.outputs[1:])}
    body = _numbers(step.scalars, "_S", scalars, _read(step))
    body += _numbers(step.folded.constants, "_C", 0, _read(step))
    body += [f"T {name} = {place};" for name, place in slots.items()]
    body += [*_statements(step), *(f"{place} = {name};" for name, place in slots.items())]
    return "\n".join([
        f"enum {{ N_SLOTS = {len(slots)}, N_SCALARS = {row_length(optimizer)}, "
        f"N_CONSTANTS = {len(step.folded.constants)} }};\n",
        "struct Slots {\n    T* at[N_SLOTS + 1];\n};\n",
        _function("void penalize(const T w, T& g, const T* _S)", penalize),
        _function("T penalty_value(const T w, const T* _S)", value),
        _function(
            "void decay(T& w, const T trainable, const T rate)", _statements(optimizer.masked_decay)
        ),
        _function("void descend(const T g, T& w, T* _slots, const T* _S, const T* _C)", body),
    ])  # fmt: skip


def row_length(optimizer: Optimizer) -> int:
    """Return how many scalars an update reads, the one for decay included."""
    return 1 + len(optimizer.penalty_factors()) + len(optimizer.expression.scalars)


@functools.cache
def common_functions() -> str:
    """Print what no network changes: the dropout hash, and a batch's loss joining the total."""
    mix = [*mix_lines(), "return x;"]
    record = ["using T = double;", *_statements(RECORD)]
    return "\n".join([
        _function("unsigned long long mix(unsigned long long x)", mix),
        _function(
            "void record_loss(const double value, const double step, double& total,"
            " double& first_bad)",
            record,
        ),
    ])  # fmt: skip
