"""Networks as files; docs/file-format.md describes them.

A file holds the tensors ``W0, b0, W1, b1, ...`` (unpadded, (n_out, n_in) and (n_out,)) and, as text
in its header, ``model``: JSON of the sizes, the dtype, the dropout, and of each activation and the
loss their names, formulas and parameters; and ``schema``: JSON of `Schema`. Formulas are parsed on
loading, as all are; nothing is executed.

A file that holds more than a network, such as a checkpoint, has tensors whose names begin with a
prefix of its own, and says so in a text of the same name.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from gpubackprop import container, losses
from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.buffers import Parameters
from gpubackprop.container import PathLike, Shapes, shape_of
from gpubackprop.model import Model
from gpubackprop.schema import Schema

#: Texts of files that hold more than a network.
RUN, ESTIMATOR = "run", "estimator"


class Stored(NamedTuple):
    """What a network's file holds.

    Attributes
    ----------
    model : Model
    schema : Schema
    tensors : dict of str to array
        ``W0, b0, ...``, of the model's dtype and shapes, and what else is there.
    text : dict of str to str
        What stands in the header.
    """

    model: Model
    schema: Schema
    tensors: dict[str, np.ndarray]
    text: dict[str, str]

    @property
    def weights(self) -> list[np.ndarray]:
        """W of each layer."""
        return [self.tensors[f"W{l}"] for l in range(self.model.n_layers)]

    @property
    def biases(self) -> list[np.ndarray | None]:
        """b of each layer, None where it has none."""
        return [self.tensors.get(f"b{l}") for l in range(self.model.n_layers)]


def save(
    path: PathLike,
    model: Model,
    parameters: Parameters,
    schema: Schema,
    *,
    tensors: dict[str, np.ndarray] | None = None,
    text: dict[str, str] | None = None,
) -> None:
    """Write a network to a file: under a temporary name, synced, then renamed.

    Parameters
    ----------
    path : path-like
    model : Model
    parameters : Parameters
        As NumPy arrays.
    schema : Schema
    tensors, text : dict, optional
        What else is to stand in the file.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If the schema is not the model's.
    """
    schema.check(model)
    own = {f"W{l}": np.ascontiguousarray(W) for l, W in enumerate(parameters.weights)}
    own |= {f"b{l}": b.copy() for l, b in enumerate(parameters.biases) if b is not None}
    described = {"model": json.dumps(describe(model), allow_nan=False), "schema": schema.to_json()}
    container.write(path, own | (tensors or {}), described | (text or {}))


def load(path: PathLike) -> Stored:
    """Read a network from a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, foreign, damaged, oversized, or of a newer format version; the message
        says which.
    """
    built: list[tuple[Model, Schema]] = []

    def expected(text: dict[str, str]) -> Shapes:
        model = build(json.loads(text["model"]))
        schema = Schema.from_json(text["schema"]) if "schema" in text else Schema()
        schema.check(model)
        built.append((model, schema))
        more = json.loads(text[RUN])["tensors"] if RUN in text else {}
        return tensor_shapes(model) | {
            f"{RUN}.{name}": (str(dtype), tuple(shape)) for name, (dtype, shape) in more.items()
        }

    text, tensors = container.read(path, expected)
    return Stored(*built[0], tensors, text)


def tensor_shapes(model: Model) -> Shapes:
    """Return which tensors a model has."""
    shapes: Shapes = {}
    for l, shape in enumerate(model.layout.shapes):
        shapes[f"W{l}"] = shape_of(model.dtype, shape)
        if model.bias[l]:
            shapes[f"b{l}"] = shape_of(model.dtype, shape[:1])
    return shapes


# ---- description ---------------------------------------------------------------------------------


def describe(model: Model) -> dict[str, Any]:
    """Return what `build` makes the same model of: text and numbers."""
    return {
        "sizes": model.sizes,
        "dtype": model.dtype.name,
        "bias": model.bias,
        "dropout": model.dropout,
        "activations": [describe_activation(activation) for activation in model.activations],
        "loss": model.loss.state(),
    }


def build(text: dict[str, Any]) -> Model:
    """Make a model of its description.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is not one.
    """
    dtype = np.dtype(str(text["dtype"]))
    if dtype.name not in ("float32", "float64"):
        raise ValueError(f"dtype {dtype}")
    sizes = tuple(text["sizes"])
    if len(sizes) < 2 or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"sizes {sizes}")
    n = len(sizes) - 1
    for name, count in (("activations", n), ("bias", n), ("dropout", n - 1)):
        if len(text[name]) != count:
            raise ValueError(f"{len(text[name])} {name} for {n} layers")
    dropout = tuple(float(p) for p in text["dropout"])
    if not all(0 <= p < 1 for p in dropout):
        raise ValueError(f"dropout {dropout}")
    return Model(
        sizes=sizes,
        activations=tuple(build_activation(entry) for entry in text["activations"]),
        loss=losses.rebuild(dict(text["loss"])),
        bias=tuple(bool(one) for one in text["bias"]),
        dropout=dropout,
        dtype=dtype,
    )


def describe_activation(activation: Activation) -> dict[str, Any]:
    """Return what `build_activation` makes the same activation of."""
    parameters = dict(activation.parameters)
    return {
        "name": activation.name,
        "f": activation.f,
        "df": activation.df,
        "parameters": parameters,
    }


def build_activation(entry: dict[str, Any]) -> Activation:
    """Make an activation of its description; one of the table's is known by its name."""
    if entry["name"] in ACTIVATIONS:
        return ACTIVATIONS[entry["name"]](**entry["parameters"])
    return Activation(entry["name"], entry["f"], entry["df"], **entry["parameters"])
