"""The equations of a step for each unit, each weight and the loss, with the numbers put in.

The formulas of activations and losses are printed from their expressions; what stands here is how
the delta rule puts them together, as `gpubackprop.backprop` does.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from gpubackprop.activations import SOFTMAX
from gpubackprop.diagram import Column, columns
from gpubackprop.expressions import Node, parse
from gpubackprop.worked.formulas import (
    Equation,
    Number,
    Token,
    evaluate,
    fill,
    joined,
    product,
    scalar,
)
from gpubackprop.worked.step import Step

#: Samples whose terms are written out in a sum over the batch.
_MOST_TERMS = 8
#: Beyond it exp(z) is written with the largest z subtracted, lest it overflow.
_LARGE = 50.0


class Equations:
    """Writes a step's equations.

    Parameters
    ----------
    step : Step
    most : int, optional
        Units of a layer that are shown, >= 3: see `gpubackprop.diagram.columns`.

    Attributes
    ----------
    columns : list of Column
        The units that are shown, inputs first. In a sum the others are one number.
    """

    def __init__(self, step: Step, most: int = 10) -> None:
        self.step, self.model = step, step.model
        sizes = [np.abs(a).mean(axis=0) for a in step.a]
        self.columns: list[Column] = columns(step.W, sizes, most)

    # ---- names ----------------------------------------------------------------------------------

    def at(self, name: str, s: int, k: int) -> str:
        """Name an entry of an array with a row for each sample; of one sample only, the unit."""
        return f"{name}[{s}, {k}]" if len(self.step.Y) > 1 else f"{name}[{k}]"

    def _a(self, l: int, s: int, k: int) -> Number:
        return Number(scalar(self.step.a[l][s, k]), self.at(f"a[{l}]", s, k), f"n{l}_{k}")

    def _z(self, l: int, s: int, k: int) -> Number:
        return Number(scalar(self.step.z[l][s, k]), self.at(f"z[{l}]", s, k), f"n{l + 1}_{k}")

    def _o(self, s: int, k: int) -> Number:
        return self._a(self.model.n_layers, s, k)

    def _y(self, s: int, k: int) -> Number:
        return Number(scalar(self.step.Y[s, k]), self.at("Y", s, k), "loss")

    def _delta(self, l: int, s: int, k: int) -> Number:
        value = scalar(self.step.delta[l][s, k])
        return Number(value, self.at(f"delta[{l}]", s, k), f"n{l + 1}_{k}")

    def _W(self, l: int, j: int, i: int) -> Number:
        return Number(scalar(self.step.W[l][j, i]), f"W[{l}][{j}, {i}]", f"e{l}_{j}_{i}")

    def _weighted(
        self, column: int, pairs: Sequence[tuple[Number, Number]], products: np.ndarray
    ) -> list[Token]:
        """Sum products over the units of a column: those shown one by one, the others at once."""
        terms: list[Sequence[Token]] = [[x, " * ", y] for x, y in pairs]
        folded = self.columns[column].folded
        if folded:
            shown = list(self.columns[column].units)
            rest = float(products.sum() - products[shown].sum())
            terms.append([Number(rest, f"({folded} more)", f"f{column}")])
        return joined(terms)

    # ---- forward --------------------------------------------------------------------------------

    def forward(self, l: int, s: int, j: int) -> list[Equation]:
        """Return the equations of z and of a of unit j of layer l, for sample s."""
        step = self.step
        pairs = [(self._W(l, j, i), self._a(l, s, i)) for i in self.columns[l].units]
        terms = self._weighted(l, pairs, step.W[l][j].astype(float) * step.a[l][s])
        b = step.b[l]
        if b is not None:
            terms += [" + ", Number(scalar(b[j]), f"b[{l}][{j}]", f"b{l}_{j}")]
        z, a = self._z(l, s, j), self._a(l + 1, s, j)
        return [Equation(z.name, tuple(terms), z.value), self._activation(l, s, j, a)]

    def _activation(self, l: int, s: int, j: int, a: Number) -> Equation:
        activation, mask = self.model.activations[l], self.step.mask[l]
        if activation.elementwise:
            tokens = fill(parse(activation.f), {"z": self._z(l, s, j), **self._parameters(l)})
        else:
            tokens = self._softmax(l, s, j)
        note = activation.name
        if mask is not None:
            dropped = Number(scalar(mask[s, j]), self.at(f"mask[{l}]", s, j))
            tokens, note = ["(", *tokens, ") * ", dropped], f"{note}, then dropout"
        return Equation(a.name, tuple(tokens), a.value, note)

    def _parameters(self, l: int) -> dict[str, Number]:
        found = self.model.activations[l].parameters
        return {name: Number(value, name) for name, value in found.items()}

    def _softmax(self, l: int, s: int, j: int) -> list[Token]:
        """Write a unit's part of the row's sum."""
        z, f = self.step.z[l][s].astype(float), parse(self.model.activations[l].f)
        shift = float(z.max()) if np.abs(z).max() > _LARGE else 0.0
        largest = Number(shift, self.at(f"max z[{l}]", s, int(z.argmax())))

        def part(k: int) -> list[Token]:
            zk: Sequence[Token] = [self._z(l, s, k)]
            return fill(f, {"z": ["(", *zk, " - ", largest, ")"] if shift else zk})

        parts = [part(k) for k in self.columns[l + 1].units]
        folded = self.columns[l + 1].folded
        if folded:
            e = evaluate(f, {"z": z - shift})
            rest = float(e.sum() - e[list(self.columns[l + 1].units)].sum())
            parts.append([Number(rest, f"({folded} more)", f"f{l + 1}")])
        return [*part(j), " / (", *joined(parts), ")"]

    # ---- loss -----------------------------------------------------------------------------------

    @cached_property
    def _loss_formula(self) -> Node:
        """The loss of one output, from z where a logarithm asks for it."""
        loss = self.model.loss
        whole = self.model.pair.loss is None  # softmax with cross_entropy: a row at a time
        return parse(loss.f if whole else loss.from_z.get(self.model.activations[-1].name, loss.f))

    @cached_property
    def _losses(self) -> np.ndarray:
        """The loss of each output of each sample."""
        step = self.step
        values = {"o": step.a[-1], "z": step.z[-1], "y": step.Y, **self.model.loss.parameters}
        found = np.asarray(evaluate(self._loss_formula, values))
        # 0 log 0 counts as 0.
        return np.where(step.Y == 0, 0.0, found) if self.model.pair.loss is None else found

    def loss(self, s: int) -> list[Equation]:
        """Return the equations of the loss of sample s and of that of the batch."""
        step, model = self.step, self.model
        n, whole = len(step.Y), model.pair.loss is None
        parameters = {k: Number(v, k) for k, v in model.loss.parameters.items()}
        units = [k for k in self.columns[-1].units if not whole or step.Y[s, k] != 0]
        last = model.n_layers - 1
        terms: list[Sequence[Token]] = [
            fill(
                self._loss_formula,
                {"o": self._o(s, k), "z": self._z(last, s, k), "y": self._y(s, k), **parameters},
            )
            for k in units
        ]
        if self.columns[-1].folded:
            rest = float(self._losses[s].sum() - self._losses[s, units].sum())
            terms.append([Number(rest, "(the others)", f"f{model.n_layers}")])
        alone = n == 1 and step.w is None
        name, own = "loss" if alone else f"loss[{s}]", float(self._losses[s].sum())
        note = model.loss.name + (": what has y = 0 adds nothing" if whole else "")
        equations = [Equation(name, tuple(joined(terms)), step.loss if alone else own, note)]
        return equations if alone else [*equations, self._batch_loss()]

    def _batch_loss(self) -> Equation:
        step = self.step
        totals = self._losses.sum(axis=1)

        def term(s: int) -> list[Token]:
            return [*self._weight(s), Number(float(totals[s]), f"loss[{s}]", "loss")]

        weighted = totals if step.w is None else totals * step.w
        tokens = ["(", *_over_samples(term, weighted), f") / {len(totals)}"]
        return Equation("loss", tuple(tokens), step.loss, "the mean over the batch")

    def _weight(self, s: int) -> list[Token]:
        w = self.step.w
        return [] if w is None else [Number(scalar(w[s]), f"w[{s}]"), " * "]

    # ---- back -----------------------------------------------------------------------------------

    def delta(self, l: int, s: int, j: int) -> list[Equation]:
        """Return the equations that lead to the delta of unit j of layer l, for sample s."""
        if l == self.model.n_layers - 1:
            return self._output_delta(s, j)
        above, step, activation = l + 1, self.step, self.model.activations[l]
        pairs = [
            (self._delta(above, s, k), self._W(above, k, j)) for k in self.columns[l + 2].units
        ]
        products = step.delta[above][s].astype(float) * step.W[above][:, j]
        delta = ["(", *self._weighted(l + 2, pairs, products), ")"]
        values: dict[str, Number | Sequence[Token]] = {"delta": delta, "z": self._z(l, s, j)}
        mask = step.mask[l]
        # f' reads the output before dropout.
        undropped = Number(scalar(step.undropped[l][s, j]), self.at(f"f(z[{l}])", s, j),
                           f"n{l + 1}_{j}")  # fmt: skip
        values["a"] = self._a(l + 1, s, j) if mask is None else undropped
        node = Node("name", name="delta")
        if not activation.linear:
            node = product(Node("mul", (node, parse(activation.df))))
        tokens = fill(node, {**values, **self._parameters(l)})
        if mask is not None:
            tokens += [" * ", Number(scalar(mask[s, j]), self.at(f"mask[{l}]", s, j))]
        found = self._delta(l, s, j)
        return [Equation(found.name, tuple(tokens), found.value, f"f' of {activation.name}")]

    def _output_delta(self, s: int, j: int) -> list[Equation]:
        last, loss = self.model.n_layers - 1, self.model.loss
        found, note = self._delta(last, s, j), f"dL/dz of {loss.name}"
        values: dict[str, Number | Sequence[Token]] = {
            "scale": self._scale(s), "o": self._o(s, j), "a": self._o(s, j),
            "z": self._z(last, s, j), "y": self._y(s, j), **self._parameters(last),
            **{name: Number(value, name) for name, value in loss.parameters.items()},
        }  # fmt: skip
        pair = self.model.pair.delta
        if pair is None:
            return self._row_delta(s, j, values, found, note)
        node = product(parse(pair.statements["out"]))
        if self._alone:
            node = _without(node, "scale")
        return [Equation(found.name, tuple(fill(node, values)), found.value, note)]

    @property
    def _alone(self) -> bool:
        """Whether the scale of a sample's loss is 1."""
        return len(self.step.Y) == 1 and self.step.w is None

    def _scale(self, s: int) -> list[Token]:
        n, w = len(self.step.Y), self.step.w
        return [*([Number(scalar(w[s]), f"w[{s}]")] if w is not None else ["1"]), f" / {n}"]

    def _row_delta(
        self, s: int, j: int, values: dict[str, Number | Sequence[Token]], found: Number, note: str
    ) -> list[Equation]:
        """Write softmax's Jacobian for a whole row: ``a * (e - sum(e * a))``, e being dL/do."""
        step = self.step
        given = {"o": step.a[-1][s], "y": step.Y[s], **self.model.loss.parameters}
        scale = (1.0 if step.w is None else float(step.w[s])) / len(step.Y)
        e = scale * np.asarray(evaluate(parse(self.model.loss.df), given))
        df = product(Node("mul", (Node("name", name="scale"), parse(self.model.loss.df))))
        if self._alone:
            df = _without(df, "scale")

        def error(k: int) -> Number:
            return Number(float(e[k]), self.at("e", s, k), "loss")

        pairs = [(error(k), self._o(s, k)) for k in self.columns[-1].units]
        summed = self._weighted(self.model.n_layers, pairs, e * step.a[-1][s])
        tokens = [self._o(s, j), " * (", error(j), " - (", *summed, "))"]
        return [
            Equation(self.at("e", s, j), tuple(fill(df, values)), float(e[j]), "dL/do"),
            Equation(found.name, tuple(tokens), found.value, f"{note}, through {SOFTMAX.name}"),
        ]

    # ---- gradients ------------------------------------------------------------------------------

    def weight_gradient(self, l: int, j: int, i: int) -> Equation:
        """Return the equation of ``dW[l][j, i]``, a sum over the batch."""
        step = self.step

        def term(s: int) -> list[Token]:
            return [self._delta(l, s, j), " * ", self._a(l, s, i)]

        values = step.delta[l][:, j].astype(float) * step.a[l][:, i]
        value = scalar(step.dW[l][j, i])
        return Equation(f"dW[{l}][{j}, {i}]", tuple(_over_samples(term, values)), value)

    def bias_gradient(self, l: int, j: int) -> Equation:
        """Return the equation of ``db[l][j]``, a sum over the batch."""
        step, db = self.step, self.step.db[l]
        assert db is not None
        values = step.delta[l][:, j].astype(float)
        tokens = _over_samples(lambda s: [self._delta(l, s, j)], values)
        return Equation(f"db[{l}][{j}]", tuple(tokens), scalar(db[j]))


def _over_samples(term: Callable[[int], list[Token]], values: np.ndarray) -> list[Token]:
    """Sum terms over the batch: the largest values' one by one, the others as one number."""
    if len(values) <= _MOST_TERMS:
        return joined(term(s) for s in range(len(values)))
    largest = np.sort(np.argsort(-np.abs(values), kind="stable")[: _MOST_TERMS - 1])
    rest = float(values.sum() - values[largest].sum())
    more = Number(rest, f"({len(values) - len(largest)} more samples)")
    return joined([*(term(int(s)) for s in largest), [more]])


def _without(node: Node, name: str) -> Node:
    """Take a factor that is 1 off the left end of a product."""
    left, right = node.operands
    if left == Node("name", name=name):
        return right
    return Node(node.op, (_without(left, name), right))
