"""ONNX models: onnxruntime computes what `predict` returns; the forms are skl2onnx's."""

import os
import subprocess
import sys

import numpy as np
import pytest
import random_formulas
from numpy.testing import assert_array_equal

import gpubackprop as gb
from gpubackprop import losses, onnx_export
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.expressions import parse
from gpubackprop.onnx_printer import Graph, print_formula

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

#: What onnxruntime may differ by, relative to numbers above 1 and absolute below.
TOLERANCE = 1e-6
#: From -1000 to 1000, with both zeros, and small numbers of either sign.
Z = np.concatenate([-np.logspace(3, -12, 90), [-0.0, 0.0], np.logspace(-12, 3, 90)])[:, None]
RNG = np.random.default_rng(4)


def session(path):
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path, X):
    """Return the outputs of a model, by name."""
    opened = session(path)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(None, {"X": X}), strict=True))


def agree(got, wanted, tolerance=TOLERANCE):
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert_array_equal(np.isnan(got), np.isnan(wanted))
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


PAIRS = [
    (output, loss)
    for output in ACTIVATIONS
    for loss in losses.LOSSES.values()
    if (loss.outputs is None or output in loss.outputs)
    and (output != "softmax" or loss.name in ("squared", "cross_entropy"))
]


@pytest.mark.parametrize(("output", "loss"), PAIRS, ids=lambda part: getattr(part, "name", part))
def test_every_activation_with_every_loss(output, loss, dtype, tmp_path):
    """Alone, on numbers of all sizes, and behind hidden layers of its own kind."""
    path = tmp_path / "net.onnx"
    alone = gb.Network([1, 2], "tanh", output, loss, dtype=dtype, backend="numpy", rng=0)
    alone.weights, alone.biases = [[[1.0], [-1.0]]], [[0.0, 0.0]]
    # Of exp of exp of exp, float32 knows few digits.
    hidden = "relu" if output in ("exp", "softmax") else output
    deep = gb.Network([3, 5, 4, 2], hidden, output, loss, dtype=dtype, backend="numpy", rng=1)
    deep.biases = [RNG.normal(size=b.shape) for b in deep.biases]
    for net, X in ((alone, Z), (deep, RNG.normal(size=(40, 3)))):
        net.export_onnx(path)
        X = X.astype(dtype)
        outputs = run(path, X)
        assert list(outputs) == ["output"]
        agree(outputs["output"], net.predict(X))


@pytest.mark.parametrize("name", [name for name, a in ACTIVATIONS.items() if a.elementwise])
def test_small_numbers_keep_their_digits(name, tmp_path):
    """Relative to themselves: expm1 and log1p are printed so that nothing cancels."""
    net = gb.Network([1, 1], "tanh", name, "squared", dtype="float64", backend="numpy")
    net.weights = [[[1.0]]]
    net.export_onnx(tmp_path / "net.onnx")
    z = np.concatenate([-np.logspace(-300, 2, 200), np.logspace(-300, 2, 200)])[:, None]
    # gelu's Erf is one of float32, right to 1e-7, and is added to 1.
    tolerance = {"rtol": 1e-7, "atol": 1e-6} if name == "gelu" else {"rtol": 1e-12, "atol": 1e-290}
    np.testing.assert_allclose(run(tmp_path / "net.onnx", z)["output"], net.predict(z), **tolerance)


@pytest.mark.parametrize("seed", range(25))
def test_random_formulas(seed, tmp_path, monkeypatch):
    """Several in one graph, against an evaluation in NumPy; Max and Min keep a NaN."""
    monkeypatch.setitem(random_formulas.BINARY, "fmax", np.maximum)
    monkeypatch.setitem(random_formulas.BINARY, "fmin", np.minimum)
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=60) * 10.0 ** rng.integers(-3, 2, 60) for name in "xyz"}
    graph, float64 = Graph("float64"), onnx.TensorProto.DOUBLE
    trees = [random_formulas.tree(rng, 4) for _ in range(12)]
    names, outputs = {name: name for name in values}, []
    for i, tree in enumerate(trees):
        text = random_formulas.text(tree)
        if not parse(text).names():
            text = f"{text} + 0 * x"
        graph.output(f"out{i}", print_formula(graph, parse(text), names))
        outputs.append(onnx.helper.make_tensor_value_info(f"out{i}", float64, ["N"]))
    inputs = [onnx.helper.make_tensor_value_info(name, float64, ["N"]) for name in values]
    made = onnx.helper.make_graph(graph.nodes, "test", inputs, outputs, graph.initializers)
    sets = [onnx.helper.make_opsetid("", onnx_export.OPSET)]
    model = onnx.helper.make_model(made, opset_imports=sets, ir_version=onnx_export.IR_VERSION)
    found = runtime.InferenceSession(model.SerializeToString()).run(None, values)
    for tree, got in zip(trees, found, strict=True):
        text = random_formulas.text(tree)
        with np.errstate(all="ignore"):
            wanted = np.broadcast_to(random_formulas.value(tree, values), (60,))
        # Erf is right to 1e-7 alone, and what is divided by it may be anything.
        if "erf" not in text:
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9, err_msg=text)


@pytest.mark.parametrize(
    ("formula", "numpy"),
    [
        ("expm1(x)", np.expm1),
        ("log1p(x)", np.log1p),
        ("where(x != 1, x, 7)", lambda x: np.where(x != 1, x, 7)),
    ],
)
def test_what_is_composed(formula, numpy):
    """From the smallest numbers to infinity, to the last digits."""
    x = np.concatenate([np.logspace(-320, 2.8, 500), [0.0, 1.0, np.inf, np.nan]])
    x = np.concatenate([x, -x])
    with np.errstate(all="ignore"):
        wanted = numpy(x)
    graph, float64 = Graph("float64"), onnx.TensorProto.DOUBLE
    graph.output("out", print_formula(graph, parse(formula), {"x": "x"}))
    infos = [onnx.helper.make_tensor_value_info(name, float64, ["N"]) for name in ("x", "out")]
    made = onnx.helper.make_graph(graph.nodes, "test", infos[:1], infos[1:], graph.initializers)
    sets = [onnx.helper.make_opsetid("", onnx_export.OPSET)]
    model = onnx.helper.make_model(made, opset_imports=sets, ir_version=onnx_export.IR_VERSION)
    (got,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-320)


# ---- the model -----------------------------------------------------------------------------------


def make(sizes=(3, 4, 3), backend="numpy", **options):
    return gb.Network(sizes, "tanh", backend=backend, rng=3, **options)


def test_any_number_of_rows(tmp_path):
    net = make(bias=[True, False])
    net.export_onnx(tmp_path / "net.onnx")
    opened = session(tmp_path / "net.onnx")
    assert [(i.name, i.shape, i.type) for i in opened.get_inputs()] == [
        ("X", ["N", 3], "tensor(float)")
    ]
    for n in (0, 1, 2, 1000):
        X = RNG.normal(size=(n, 3)).astype("float32")
        agree(opened.run(None, {"X": X})[0], net.predict(X) if n else np.zeros((0, 3), "f4"))


def test_what_the_model_says_of_itself(tmp_path):
    net = make()
    net.schema = gb.Schema(["a", "b", "c"], ["x", "y", "é"], '{"any": 1}')
    net.export_onnx(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(found.domain, found.version) for found in model.opset_import] == [("", 17)]
    assert (model.ir_version, model.producer_name) == (8, "gpubackprop")
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "labels": '["a", "b", "c"]',
        "feature_names": '["x", "y", "\\u00e9"]',
        "preprocessing": '{"any": 1}',
    }


def test_from_every_backend(backend, tmp_path):
    net, X = make(backend=backend), RNG.normal(size=(5, 3)).astype("float32")
    net.export_onnx(tmp_path / "net.onnx")
    agree(run(tmp_path / "net.onnx", X)["output"], backend.to_numpy(net.predict(X)), 2e-6)


@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_in_another_dtype(wanted, dtype, tmp_path):
    net, X = make(dtype=dtype), RNG.normal(size=(5, 3)).astype(wanted)
    net.export_onnx(tmp_path / "net.onnx", dtype=wanted)
    got = run(tmp_path / "net.onnx", X)["output"]
    assert got.dtype == wanted
    np.testing.assert_allclose(got, net.predict(X), rtol=1e-5)


# ---- labels --------------------------------------------------------------------------------------

LABELLED = {
    "softmax": ((3, 4, 3), "softmax", None),
    "softmax, named": ((3, 4, 3), "softmax", ["ja", "nein", "vielleicht é"]),
    "softmax, numbered": ((3, 4, 3), "softmax", [30, 10, 20]),
    "one sigmoid": ((3, 4, 1), "sigmoid", None),
    "one sigmoid, named": ((3, 4, 1), "sigmoid", ["no", "yes"]),
    "booleans": ((3, 4, 1), "sigmoid", [False, True]),
    "several sigmoids": ((3, 4, 2), "sigmoid", None),
    "several sigmoids, named": ((3, 4, 2), "sigmoid", ["red", "round"]),
}


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("what", LABELLED)
def test_labels_of_a_network(what, zipmap, dtype, tmp_path):
    sizes, output, labels = LABELLED[what]
    net, X = make(sizes, output=output, dtype=dtype), RNG.normal(size=(50, 3)).astype(dtype)
    net.schema = gb.Schema(labels)
    X[0] = 0  # every o is the same there: a tie, or 0.5
    net.export_onnx(tmp_path / "net.onnx", labels=True, zipmap=zipmap)
    found = run(tmp_path / "net.onnx", X)
    o, classes = net.predict(X), net.predict_classes(X)
    names = np.array(labels or range(max(sizes[-1], 2)))
    names = names if names.dtype.kind == "U" else names.astype("int64")
    exclusive = output == "softmax" or sizes[-1] == 1
    assert list(found) == list(onnx_export.OUTPUTS[zipmap])
    label, probabilities = found.values()
    assert_array_equal(label, names[classes] if exclusive else classes)
    assert classes[0].sum() == (0 if output == "softmax" else classes[0].size)
    p = np.hstack([1 - o, o]) if sizes[-1] == 1 else o
    if zipmap:
        keys = names.tolist()
        assert all(sorted(row) == sorted(keys) for row in probabilities)
        rows = np.array([[row[key] for key in keys] for row in probabilities])
        np.testing.assert_allclose(rows, p, rtol=0, atol=TOLERANCE)
    else:
        agree(probabilities, p)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"output": "tanh"}, {"labels": True}, "needs output 'softmax' or 'sigmoid', got 'tanh'"),
        ({}, {"zipmap": True}, "zipmap=True .* needs labels=True"),
        ({}, {"dtype": "float16"}, "dtype must be float32 or float64, got 'float16'"),
    ],
)
def test_what_is_refused(options, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(**options).export_onnx(tmp_path / "net.onnx", **settings)
    assert os.listdir(tmp_path) == []


def test_labels_that_onnx_does_not_have(tmp_path):
    net = make()
    net.schema = gb.Schema([0.5, 1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"must be text or whole numbers in an ONNX model, got 0\.5"
    ):
        net.export_onnx(tmp_path / "net.onnx", labels=True)
    net.export_onnx(tmp_path / "net.onnx")


def test_a_model_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_LARGEST", 500)
    with pytest.raises(ValueError, match=r"the model would have .* bytes, of 500 that ONNX allows"):
        make().export_onnx(tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == []


def test_without_onnx_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import gpubackprop as gb\n"
        "gb.Network([2, 2], backend='numpy').export_onnx('never')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "onnx is not installed; install it with: python -m pip install 'gpubackprop[onnx]'" in (
        done.stderr
    )
