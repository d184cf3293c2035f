"""A step as one HTML file: the network drawn, its equations with numbers, no network access."""

import html
import json
import math
from importlib import resources
from typing import Any

import numpy as np

from gpubackprop.errors import missing
from gpubackprop.worked.equations import Equations
from gpubackprop.worked.formulas import Equation, scalar
from gpubackprop.worked.step import Step
from gpubackprop.worked.update import UpdateEquations

#: Samples of a batch that can be looked at, unless asked for more.
SAMPLES = 16
#: Weights of a layer that are written beside their lines.
_WRITTEN = 8


def to_html(step: Step, table: str, samples: int = SAMPLES) -> str:
    """Return the page of a step.

    Parameters
    ----------
    step : Step
    table : str
        The same step as text, for readers without scripts.
    samples : int, optional
        Samples whose equations are in it, >= 1: the first ones of the batch.

    Raises
    ------
    ImportError
        If jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise missing("jinja2", "plot") from None
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be an integer >= 1, got {samples!r}")
    folder = resources.files("gpubackprop.worked")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    sizes = "-".join(map(str, step.model.sizes))
    # "<" begins a tag even inside a script; in JSON it may be written as an escape.
    data = json.dumps(content(step, samples), allow_nan=False, separators=(",", ":"))
    text: str = template.render(
        title=f"One training step of a {sizes} network", table=table,
        style=(folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        data=data.replace("<", "\\u003c"),
    )  # fmt: skip
    return text


def to_frame(page: str, title: str, height: int = 720) -> str:
    """Return a page as an element of another page, apart from everything else there.

    Parameters
    ----------
    page : str
    title : str
    height : int, optional
        In CSS pixels.
    """
    return (
        f'<iframe title="{html.escape(title, quote=True)}" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def content(step: Step, samples: int = SAMPLES) -> dict[str, Any]:
    """Return what the page's script reads, as JSON's types.

    Returns
    -------
    dict
        `columns`: of each column its title, units and how many more there are; `stages`: what
        happens, in order, each with the elements that take part; `elements`: of each its label and
        its equations that are the same for every sample; `samples`: of each sample the equations
        and numbers of the units, by element. An equation is [stage, name, tokens, value, note]; a
        token is a text or [value, name, element].
    """
    with np.errstate(all="ignore"):  # a step that diverged has a page as well
        return _Content(step, min(samples, len(step.Y))).everything()


class _Content:
    def __init__(self, step: Step, samples: int) -> None:
        self.step, self.model, self.n = step, step.model, samples
        self.equations = Equations(step)
        self.update = None if step.update is None else UpdateEquations(step, step.update)
        self.columns, self.layers = self.equations.columns, range(step.model.n_layers)

    def everything(self) -> dict[str, Any]:
        return {
            "sizes": list(self.model.sizes),
            "batch": len(self.step.Y),
            "loss": _number(self.step.loss),
            "columns": [self._column(c) for c in range(len(self.columns))],
            "stages": self._stages(),
            "elements": self._elements(),
            "samples": [self._sample(s) for s in range(self.n)],
        }

    # Stages are counted: 0 inputs, then a layer each, the loss, a layer each back, the update.

    def _forward(self, l: int) -> int:
        return 1 + l

    @property
    def _loss(self) -> int:
        return 1 + self.model.n_layers

    def _back(self, l: int) -> int:
        return self._loss + self.model.n_layers - l

    def _column(self, c: int) -> dict[str, Any]:
        column, last = self.columns[c], self.model.n_layers
        name = "input" if c == 0 else self.model.activations[c - 1].name
        kind = "a[0] = X" if c == 0 else f"layer {c - 1}" + (" (output)" if c == last else "")
        return {"title": kind, "activation": name, "units": column.units, "more": column.folded}

    def _stages(self) -> list[dict[str, Any]]:
        model, last = self.model, self.model.n_layers - 1
        found: list[dict[str, Any]] = [
            {"title": "Input", "text": "a[0] = X: the inputs, one unit each.", "kind": "input"}
        ]
        for l in self.layers:
            b = "" if self.step.b[l] is None else f" + b[{l}]"
            found.append({
                "title": f"Forward {l}", "kind": "forward", "layer": l,
                "text": f"z[{l}] = a[{l}] @ W[{l}].T{b}, a[{l + 1}] = f(z[{l}]) with f = "
                f"{model.activations[l].name}" + (". This is the output o." if l == last else "."),
            })  # fmt: skip
        found.append({
            "title": "Loss", "kind": "loss",
            "text": f"{model.loss.name}: how far the output is from the target Y.",
        })  # fmt: skip
        for l in reversed(self.layers):
            rule = f"delta[{l}] = (delta[{l + 1}] @ W[{l + 1}]) * f'(z[{l}])"
            found.append({
                "title": f"Back {l}", "kind": "back", "layer": l,
                "text": (f"delta[{l}] = dL/dz[{l}] of the output" if l == last else rule)
                + f", dW[{l}] = delta[{l}].T @ a[{l}], written on the lines where there is room.",
            })  # fmt: skip
        if self.step.update is not None:
            found.append({
                "title": "Update", "kind": "update",
                "text": f"Every weight and bias moves by {self.step.update.optimizer!r}. The new "
                "weights stand on the lines where there is room.",
            })  # fmt: skip
        return found

    def _elements(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for c, column in enumerate(self.columns):
            for i in column.units:
                where = f"layer {c - 1}" if c else "the input"
                found[f"n{c}_{i}"] = {"label": f"Unit {i} of {where}", "equations": []}
            if column.folded:
                label = f"{column.folded} more units, folded into one"
                found[f"f{c}"] = {"label": label, "equations": []}
        for l in self.layers:
            for j in self.columns[l + 1].units:
                for i in self.columns[l].units:
                    found[f"e{l}_{j}_{i}"] = self._weight(l, j, i)
                if self.step.b[l] is not None:
                    found[f"b{l}_{j}"] = self._bias(l, j)
        found["loss"] = {"label": f"Loss: {self.model.loss.name}", "equations": []}
        return found

    def _weight(self, l: int, j: int, i: int) -> dict[str, Any]:
        end = len(self._stages()) - 1
        lines = [(self._back(l), self.equations.weight_gradient(l, j, i))]
        lines += [(end, e) for e in (self.update.weight(l, j, i) if self.update else [])]
        return {
            "label": f"Weight W[{l}][{j}, {i}]: from unit {i} to unit {j} of layer {l}",
            "value": _number(scalar(self.step.W[l][j, i])),
            "gradient": _number(scalar(self.step.dW[l][j, i])),
            "new": _number(scalar(self.step.new_W[l][j, i])),
            "written": len(self.columns[l].units) * len(self.columns[l + 1].units) <= _WRITTEN,
            "size": _share(self.step.W[l][j, i], self.step.W[l]),
            "equations": [_equation(*line) for line in lines],
        }

    def _bias(self, l: int, j: int) -> dict[str, Any]:
        b, db, new = self.step.b[l], self.step.db[l], self.step.new_b[l]
        assert b is not None
        assert db is not None
        assert new is not None
        end = len(self._stages()) - 1
        lines = [(self._back(l), self.equations.bias_gradient(l, j))]
        lines += [(end, e) for e in (self.update.bias(l, j) if self.update else [])]
        return {
            "label": f"Bias b[{l}][{j}] of unit {j} of layer {l}",
            "value": _number(scalar(b[j])),
            "gradient": _number(scalar(db[j])),
            "new": _number(scalar(new[j])),
            "equations": [_equation(*line) for line in lines],
        }

    def _sample(self, s: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i in self.columns[0].units:
            name = self.equations.at("a[0]", s, i)
            value = scalar(self.step.a[0][s, i])
            found[f"n0_{i}"] = {
                "a": _number(value),
                "equations": [[0, name, [], _number(value), ""]],
            }
        for l in self.layers:
            for j in self.columns[l + 1].units:
                lines = [(self._forward(l), e) for e in self.equations.forward(l, s, j)]
                lines += [(self._back(l), e) for e in self.equations.delta(l, s, j)]
                found[f"n{l + 1}_{j}"] = {
                    "a": _number(scalar(self.step.a[l + 1][s, j])),
                    "delta": _number(scalar(self.step.delta[l][s, j])),
                    "equations": [_equation(*line) for line in lines],
                }
        lines = [(self._loss, e) for e in self.equations.loss(s)]
        y = [_number(scalar(self.step.Y[s, k])) for k in self.columns[-1].units]
        found["loss"] = {"y": y, "equations": [_equation(*line) for line in lines]}
        return found


def _number(value: float) -> float | str:
    """Return a number as JSON can have it."""
    return value if math.isfinite(value) else str(value)


def _share(value: Any, of: Any) -> float:
    largest = float(abs(of).max())
    share = abs(float(value)) / largest if largest else 0.0
    return round(share, 4) if math.isfinite(share) else 1.0


def _equation(stage: int, equation: Equation) -> list[Any]:
    tokens = [
        part if isinstance(part, str) else [_number(part.value), part.name, part.element]
        for part in equation.tokens
    ]
    return [stage, equation.name, tokens, _number(equation.value), equation.note]
