"""``gpubackprop trace``: one training step with every number in it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from gpubackprop import tables
from gpubackprop.cli import options, shared
from gpubackprop.cli.files import writable, write
from gpubackprop.network import Network
from gpubackprop.trace import Trace

EXAMPLES = (
    "trace",
    "trace --example xor --learning-rate 0.3 --to xor.html",
    "trace iris.safetensors iris.csv --row 3",
    "trace iris.safetensors iris.csv --row 3 --to step.json",
)
#: Networks to look at without a model: sizes, hidden activation, X, Y.
BUILT_IN: dict[str, tuple[list[int], str, Any, Any]] = {
    "small": ([2, 2, 1], "sigmoid", [[1, 0]], [1]),
    "xor": ([2, 4, 1], "tanh", [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]),
    "classes": ([4, 3, 3], "relu", [[5.1, 3.5, 1.4, 0.2]], [0]),
}
ENDINGS = (".txt", ".json", ".html")


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
    import typer

    def trace(
        model: Annotated[Path | None, shared.model_argument()] = None,
        data: Annotated[Path | None, shared.data_argument()] = None,
        row: Annotated[int, typer.Option(help="Row of DATA, counted from 1.")] = 1,
        example: Annotated[
            str, typer.Option(help=f"Without MODEL: one of {', '.join(BUILT_IN)}.")
        ] = "small",
        optimizer: Annotated[str, typer.Option(help="That makes the step.")] = "sgd",
        learning_rate: Annotated[float, typer.Option(help="Its step size.")] = 0.5,
        seed: Annotated[int, typer.Option(help="Of the first weights of an example.")] = 0,
        missing: Annotated[list[str] | None, shared.table_option("missing")] = None,
        separator: Annotated[str | None, shared.table_option("separator")] = None,
        header: Annotated[bool, shared.table_option("header")] = True,
        to: Annotated[
            Path | None, typer.Option(help=f"File to write, ending in {', '.join(ENDINGS)}.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Show a training step: every z, a, delta, gradient and new weight, from the code that
        trains.

        Of a built-in example, or of a model that train wrote and a row of a table that has its
        target. The model is not changed.
        """
        if to is not None and to.suffix.lower() not in ENDINGS:
            raise ValueError(f"to must end in one of {', '.join(ENDINGS)}, got {str(to)!r}")
        if to is not None:
            writable(to.parent, "to must be in a folder that can be written to")
        step = options.optimizer(optimizer, learning_rate, None, 1, {})
        if model is None:
            net, X, Y = _example(example, seed)
        else:
            how = {"separator": separator, "header": header, "missing_values": missing or []}
            net, X, Y = _row(model, data, row, how)
        found = net.trace(X, Y, step)
        if to is None:
            print(json.dumps(to_dict(found), indent=1) if as_json else found)
            return
        kind = to.suffix.lower()
        if kind == ".html":
            text = found.to_html()
        else:
            text = json.dumps(to_dict(found), indent=1) if kind == ".json" else f"{found}\n"
        print(f"Written: {write(to, text.encode())}")

    return trace


def _example(name: str, seed: int) -> tuple[Network, Any, Any]:
    """Return a small network with rows to train on."""
    if name not in BUILT_IN:
        raise ValueError(f"example must be one of {', '.join(BUILT_IN)}, got {name!r}")
    sizes, hidden, X, Y = BUILT_IN[name]
    output = "sigmoid" if sizes[-1] == 1 else "softmax"
    return Network(sizes, hidden=hidden, output=output, backend="numpy", rng=seed), X, Y


def _row(model: Path, data: Path | None, row: int, how: dict[str, Any]) -> tuple[Network, Any, Any]:
    """Return a model with a row of a table."""
    if data is None:
        raise ValueError("DATA must be given with MODEL: the file whose row is to be traced")
    if row < 1:
        raise ValueError(f"row must be an integer >= 1, got {row}")
    predictor = shared.open_model(model)
    table = tables.open_table(data, **how)
    name = predictor.target.name
    if name not in table.names:
        raise ValueError(f"DATA must have the target {name!r} for a training step: {data} lacks it")
    seen = 0
    for chunk, X in predictor.inputs(table, "zero", (name,)):
        i = row - 1 - seen
        if i < chunk.n_rows:
            mask = np.arange(chunk.n_rows) == i
            Y = tables.targets(chunk.where(mask), predictor.target, predictor.labels)
            return predictor.net, X[mask], Y
        seen += chunk.n_rows
    raise ValueError(f"row must lie in 1..{seen}, the rows of {data}, got {row}")


def to_dict(trace: Trace) -> dict[str, Any]:
    """Return a trace in types that JSON knows, by the names of its attributes."""
    model = trace.model
    found: dict[str, Any] = {
        "sizes": list(model.sizes),
        "activations": [activation.name for activation in model.activations],
        "loss_function": model.loss.name,
    }
    for field in dataclasses.fields(trace):
        value = getattr(trace, field.name)
        if isinstance(value, list):
            found[field.name] = [None if one is None else np.asarray(one).tolist() for one in value]
        elif isinstance(value, np.ndarray):
            found[field.name] = value.tolist()
        elif isinstance(value, int | float | str):
            found[field.name] = value
    return found
