"""The equations of an update: for each weight and bias, in the order of `gpubackprop.backprop`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.expressions import Node, parse
from gpubackprop.worked.formulas import Equation, Number, evaluate, fill, scalar
from gpubackprop.worked.step import Step, Update

_FREEZE = parse("g * trainable")


@dataclass(frozen=True)
class _Stage:
    """One assignment of an update, for all entries of a W or a b: what it read, what came out."""

    target: str
    formula: Node
    values: Mapping[str, Any]
    result: np.ndarray


class UpdateEquations:
    """Writes how the optimiser moved each parameter.

    Parameters
    ----------
    step : Step
        With an `Update`.
    """

    def __init__(self, step: Step, update: Update) -> None:
        self._step, self._update = step, update
        self._stages: dict[tuple[int, bool], list[_Stage]] = {}
        self._norm = self._length()

    def weight(self, l: int, j: int, i: int) -> list[Equation]:
        """Return the equations that lead to the new ``W[l][j, i]``."""
        value = scalar(self._step.new_W[l][j, i])
        return self._equations(l, False, (j, i), f"W[{l}][{j}, {i}]", f"e{l}_{j}_{i}", value)

    def bias(self, l: int, j: int) -> list[Equation]:
        """Return the equations that lead to the new ``b[l][j]``."""
        new = self._step.new_b[l]
        assert new is not None
        return self._equations(l, True, (j,), f"b[{l}][{j}]", f"b{l}_{j}", scalar(new[j]))

    def _equations(
        self, l: int, bias: bool, entry: tuple[int, ...], name: str, element: str, value: float
    ) -> list[Equation]:
        if (l, bias) not in self._stages:
            self._stages[l, bias] = self._all(l, bias)
        stages = self._stages[l, bias]
        names, found = {"w": name, "g": f"d{name}"}, []
        last = max(k for k, stage in enumerate(stages) if stage.target == "w")
        for k, stage in enumerate(stages):
            numbers = {
                key: _number(names.get(key, key), x, entry, element)
                for key, x in stage.values.items()
            }
            if stage.formula == _FREEZE and numbers["trainable"].value == 1:
                continue  # a factor that tells nothing
            result = value if k == last else float(stage.result[entry])
            left = f"new {name}" if k == last else stage.target
            found.append(Equation(left, tuple(fill(stage.formula, numbers)), result))
            names[stage.target] = left
        return found

    # ---- numbers --------------------------------------------------------------------------------

    def _start(self, l: int, bias: bool) -> dict[str, Any]:
        step, update = self._step, self._update
        slots = {name: both[bias][l] for name, both in update.slots.items()}
        return {
            "w": (step.b if bias else step.W)[l],
            "g": (step.db if bias else step.dW)[l],
            **slots,
        }

    def _run(self, values: dict[str, Any], target: str, formula: Node) -> _Stage:
        stage = _Stage(target, formula, dict(values), evaluate(formula, values))
        values[target] = stage.result
        return stage

    def _before_clipping(self, l: int, bias: bool, values: dict[str, Any]) -> list[_Stage]:
        """Penalties, then entries that are frozen."""
        optimizer, stages = self._update.optimizer, []
        if optimizer.penalty is not None and not bias:
            factors = zip(optimizer.penalty.scalars, optimizer.penalty_factors(), strict=True)
            values.update(factors)
            for target, text in optimizer.penalty.statements.items():
                stages.append(self._run(values, target, parse(text)))
        if self._update.trainable is not None:
            values["trainable"] = self._update.trainable[bias][l]
            stages.append(self._run(values, "g", _FREEZE))
        return stages

    def _length(self) -> float:
        """Return the norm of the whole gradient, as clipping sees it."""
        total = 0.0
        for bias in (False, True):
            for l, array in enumerate(self._step.b if bias else self._step.W):
                if array is not None:
                    values = self._start(l, bias)
                    self._before_clipping(l, bias, values)
                    total += float(np.square(values["g"], dtype=np.float64).sum())
        return float(np.sqrt(total))

    def _all(self, l: int, bias: bool) -> list[_Stage]:
        update, optimizer = self._update, self._update.optimizer
        values = self._start(l, bias)
        stages = self._before_clipping(l, bias, values)
        if optimizer.clip_norm is not None and self._norm > optimizer.clip_norm:
            values |= {"clip_norm": optimizer.clip_norm, "norm": self._norm}
            stages.append(self._run(values, "g", parse("g * (clip_norm / norm)")))
        if optimizer.weight_decay and not bias:
            decay = optimizer.decay if update.trainable is None else optimizer.masked_decay
            values["rate"] = update.learning_rate * optimizer.weight_decay
            stages.append(self._run(values, "w", parse(decay.statements["w"])))
        expression = optimizer.expression
        scalars = optimizer.scalars(update.number, update.learning_rate)
        values |= dict(zip(expression.scalars, scalars, strict=True)) | dict(expression.constants)
        stages += [
            self._run(values, target, parse(text)) for target, text in expression.statements.items()
        ]
        return stages


def _number(name: str, values: Any, entry: tuple[int, ...], element: str) -> Number:
    """Return one entry's number, or a scalar, which belongs to no element."""
    if np.ndim(values) == 0:
        return Number(float(values), name)
    return Number(scalar(values[entry]), name, element)
