"""Networks as ONNX models: the formulas, printed as ONNX's operators.

Every layer is a Gemm and the nodes of its activation's formula; softmax is a Softmax. The batch
axis has no fixed length. Outputs have the names and forms that skl2onnx gives them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpubackprop import arguments, container
from gpubackprop.buffers import Parameters
from gpubackprop.container import PathLike
from gpubackprop.model import Model
from gpubackprop.onnx_printer import Graph, print_network
from gpubackprop.schema import Label, Schema

#: Versions of the operators (of ZipMap's set the first), and of the format: those of ONNX 1.12.
OPSET, ML_OPSET, IR_VERSION = 17, 1, 8
_ML = "ai.onnx.ml"
#: Bytes that a protobuf may have.
_LARGEST = 2**31 - 1
#: Names of a label and of the probabilities, without and with ZipMap, as skl2onnx has them.
OUTPUTS = {
    False: ("label", "probabilities"),
    True: ("output_label", "output_probability"),
}


# ---- outputs -------------------------------------------------------------------------------------


def plain_output(name: str, graph: Graph, model: Model, o: str) -> list[Any]:
    """Let the outputs be one output of this name, of shape (N, n_out)."""
    graph.output(name, o)
    return [_info(graph, name, graph.dtype, model.sizes[-1])]


def labelled_outputs(
    labels: Sequence[Label],
    exclusive: bool,
    inclusive: bool,
    zipmap: bool,
    graph: Graph,
    model: Model,
    o: str,
) -> list[Any]:
    """Let there be two outputs, named `OUTPUTS`: a label, and the probabilities.

    Parameters
    ----------
    labels : sequence of str, int or bool
        Of the classes, two for a single output; or of several outputs that are not exclusive.
    exclusive : bool
        Whether a row has one label of them; else the first output has a column of 0 or 1 for each.
    inclusive : bool
        Whether an o of just 0.5 counts as 1.
    zipmap : bool
        Whether the probabilities are a sequence of maps from labels to float32; else they have
        shape (N, n_labels).
    graph : Graph
    model : Model
    o : str
        Name of the probabilities.
    """
    keys, (label, name) = np.array(labels), OUTPUTS[zipmap]
    ones = graph.apply("GreaterOrEqual" if inclusive else "Greater", o, graph.number(0.5))
    probabilities = o
    if exclusive:
        if model.sizes[-1] == 1:
            rest = graph.apply("Sub", graph.number(1.0), o)
            probabilities = graph.apply("Concat", rest, o, axis=1)
            flat = graph.apply("Reshape", ones, graph.tensor("flat", np.array([-1])))
            index = graph.cast(flat, np.int64)
        else:
            index = graph.apply("ArgMax", o, axis=1, keepdims=0)
        graph.output(label, graph.apply("Gather", graph.tensor("labels", keys), index))
        infos = [_info(graph, label, keys.dtype)]
    else:
        graph.output(label, graph.cast(ones, np.int64))
        infos = [_info(graph, label, np.int64, model.sizes[-1])]
    if not zipmap:
        graph.output(name, probabilities)
        return [*infos, _info(graph, name, graph.dtype, len(labels))]
    return [*infos, _zip(graph, name, keys, probabilities)]


def _zip(graph: Graph, name: str, keys: np.ndarray, probabilities: str) -> Any:
    """Let an output be maps from labels to probabilities; returns its description."""
    if graph.dtype != np.float32:
        probabilities = graph.cast(probabilities, np.float32)  # all that ZipMap takes
    kind = "classlabels_int64s" if keys.dtype == np.int64 else "classlabels_strings"
    graph.add("ZipMap", [probabilities], name, _ML, {kind: keys.tolist()})
    helper, proto = graph.onnx.helper, graph.onnx.TensorProto
    key = proto.INT64 if keys.dtype == np.int64 else proto.STRING
    value = helper.make_tensor_type_proto(proto.FLOAT, None)
    return helper.make_value_info(
        name, helper.make_sequence_type_proto(helper.make_map_type_proto(key, value))
    )


def usable_labels(labels: Sequence[Label]) -> list[str] | list[int]:
    """Return labels as ONNX has them: text, or whole numbers.

    Raises
    ------
    ValueError
        If they are neither.
    """
    if all(isinstance(label, str) for label in labels):
        return [str(label) for label in labels]
    for label in labels:
        if isinstance(label, str) or label != int(label):
            raise ValueError(
                f"labels must be text or whole numbers in an ONNX model, got {label!r}; "
                "export the outputs alone, or rename the classes"
            )
    return [int(label) for label in labels]


def _info(graph: Graph, name: str, dtype: Any, *columns: int) -> Any:
    """Describe an input or an output with any number of rows."""
    helper, text = graph.onnx.helper, np.dtype(dtype).kind == "U"
    kind = (
        graph.onnx.TensorProto.STRING if text else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    )
    return helper.make_tensor_value_info(name, kind, ["N", *columns])


# ---- files ---------------------------------------------------------------------------------------


def export(
    path: PathLike,
    model: Model,
    parameters: Parameters,
    schema: Schema,
    outputs: Callable[[Graph, Model, str], list[Any]],
) -> None:
    """Write a network as an ONNX model: checked, then as a whole or not at all.

    Parameters
    ----------
    path : path-like
    model : Model
    parameters : Parameters
        As NumPy arrays.
    schema : Schema
        Its names and texts become the model's metadata.
    outputs : callable
        `plain_output` or `labelled_outputs` but for their last three arguments.

    Raises
    ------
    ImportError
        If onnx is not installed.
    ValueError
        If the model would be larger than ONNX allows.
    """
    graph = Graph(model.dtype)
    onnx = graph.onnx
    infos = outputs(graph, model, print_network(graph, model, parameters))
    made = onnx.helper.make_graph(
        graph.nodes,
        "gpubackprop",
        [_info(graph, "X", model.dtype, model.sizes[0])],
        infos,
        graph.initializers,
    )
    domains = {node.domain for node in graph.nodes}
    sets = [onnx.helper.make_opsetid("", OPSET)]
    sets += [onnx.helper.make_opsetid(_ML, ML_OPSET)] * (_ML in domains)
    proto = onnx.helper.make_model(
        made, opset_imports=sets, ir_version=IR_VERSION, producer_name="gpubackprop"
    )
    notes = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in dataclasses.asdict(schema).items()
        if value is not None
    }
    onnx.helper.set_model_props(proto, notes)
    if proto.ByteSize() > _LARGEST:
        raise ValueError(
            f"the model would have {proto.ByteSize():,} bytes, of {_LARGEST:,} that ONNX allows"
        )
    onnx.checker.check_model(proto, full_check=True)
    container.write_bytes(path, proto.SerializeToString())


def in_dtype(model: Model, parameters: Parameters, dtype: Any) -> tuple[Model, Parameters]:
    """Return a model and its parameters, on the host, in a dtype; as they are if that is None."""
    if dtype is None:
        return model, parameters
    other = arguments.with_dtype(model, dtype)
    return other, Parameters(other, parameters.flat.astype(other.dtype))


def for_network(schema: Schema, model: Model, labels: bool, zipmap: bool) -> Any:
    """Return the outputs of a network's model.

    Raises
    ------
    ValueError
        If labels are wanted of outputs that are no probabilities.
    """
    kind = model.activations[-1].name
    if not labels:
        if zipmap:
            raise ValueError("zipmap=True maps labels to probabilities: it needs labels=True")
        return partial(plain_output, "output")
    if kind not in ("softmax", "sigmoid"):
        raise ValueError(f"labels=True needs output 'softmax' or 'sigmoid', got {kind!r}")
    several = kind == "sigmoid" and model.sizes[-1] > 1
    names = schema.labels or tuple(range(max(model.sizes[-1], 2)))
    return partial(labelled_outputs, usable_labels(names), not several, True, zipmap)
