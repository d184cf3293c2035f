"""Estimators as files and as ONNX models, beside skl2onnx's models of scikit-learn's estimators."""

import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402

import gpubackprop as gb  # noqa: E402
from gpubackprop import storage  # noqa: E402
from gpubackprop.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

RNG = np.random.default_rng(5)
N = 60
X = RNG.normal(size=(N, 3)).astype("float32")
NUMBER = np.arange(N) % 3
#: Targets of every kind.
TARGETS = {
    "numbers": NUMBER,
    "two numbers": NUMBER % 2 * 10 - 5,
    "text": np.array(["rot", "grün", "blau"])[NUMBER],
    "two texts": np.array(["no", "yes"])[NUMBER % 2],
    "objects": np.array(["a", "bb", "ccc"], dtype=object)[NUMBER],
    "floats": NUMBER.astype(float),
    "booleans": NUMBER % 2 == 0,
    "three labels": (RNG.random((N, 3)) < 0.5).astype(int),
    "two labels": (RNG.random((N, 2)) < 0.5).astype(int),
}


def fitted(cls, y, X=X, **options):
    options = {"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cls(**options).fit(X, y)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", TARGETS)
def test_a_classifier_comes_back(what, dtype, tmp_path):
    classifier = fitted(MLPClassifier, TARGETS[what], X.astype(dtype))
    classifier.save(tmp_path / "model.safetensors")
    read = MLPClassifier.load(tmp_path / "model.safetensors")
    assert_array_equal(read.predict(X), classifier.predict(X))
    assert_array_equal(read.predict_proba(X), classifier.predict_proba(X))
    assert_array_equal(read.classes_, classifier.classes_)
    assert read.classes_.dtype == classifier.classes_.dtype
    assert read.coefs_[0].dtype == dtype
    assert read.get_params() == classifier.get_params()
    assert read.score(X, TARGETS[what]) == classifier.score(X, TARGETS[what])
    for name in ("loss_curve_", "n_iter_", "t_", "best_loss_", "loss_", "n_features_in_"):
        assert getattr(read, name) == getattr(classifier, name)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_regressor_comes_back(n_outputs, tmp_path):
    y = X[:, 0] if n_outputs == 1 else X[:, :2]
    regressor = fitted(MLPRegressor, y, early_stopping=True, validation_fraction=0.2)
    regressor.save(tmp_path / "model.safetensors")
    read = MLPRegressor.load(tmp_path / "model.safetensors")
    assert_array_equal(read.predict(X), regressor.predict(X))
    assert read.validation_scores_ == regressor.validation_scores_


def test_one_goes_on_training(tmp_path):
    """As a copy by pickle does whose optimiser begins anew."""
    classifier = fitted(MLPClassifier, NUMBER, warm_start=True)
    classifier.save(tmp_path / "model.safetensors")
    read, other = (
        MLPClassifier.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(classifier)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        read.fit(X, NUMBER), other.fit(X, NUMBER)
    assert_array_equal(read.coefs_[0], other.coefs_[0])
    read.partial_fit(X, NUMBER)


PARAMETERS = {
    "activations": {"activation": [gb.ACTIVATIONS["leaky_relu"](slope=0.2)]},
    "own formulas": {"activation": gb.Activation("own", f="z * c", df="z * 0 + c", c=0.5)},
    "an optimiser": {"solver": gb.SGD(gb.Cosine(0.1, 5), momentum=0.5, clip_norm=2.0)},
    "a schedule": {"solver": "sgd", "learning_rate": gb.OnPlateau(0.1, patience=2)},
    "numbers of NumPy": {"alpha": np.float32(0.5), "hidden_layer_sizes": np.array([4])},
    "infinity": {"n_iter_no_change": np.inf, "max_iter": 2},
    "weights of classes": {"class_weight": {0: 1.0, 1: 2.5, 2: 0.5}},
    "dtype": {"dtype": np.float64},
    "dropout": {"dropout": [0.25]},
    "lbfgs": {"solver": "lbfgs"},
}


@pytest.mark.parametrize("what", PARAMETERS)
def test_parameters_come_back(what, tmp_path):
    classifier = fitted(MLPClassifier, NUMBER, **PARAMETERS[what])
    classifier.save(tmp_path / "model.safetensors")
    read = MLPClassifier.load(tmp_path / "model.safetensors")
    for name, value in PARAMETERS[what].items():
        found = getattr(read, name)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        assert found == (np.dtype(value).name if name == "dtype" else value)
    assert_array_equal(read.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"random_state": np.random.RandomState(0)}, "random_state"),
        ({"solver": "sgd", "learning_rate": lambda epoch: 0.1}, "learning_rate"),
    ],
)
def test_code_and_generators_are_refused(options, name, tmp_path):
    classifier = fitted(MLPClassifier, NUMBER, **options)
    with pytest.raises(TypeError, match=rf"{name}=.* cannot be saved.*set_params\({name}="):
        classifier.save(tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_the_file_is_a_networks_file(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=["length", "width", "größe"])
    classifier = fitted(MLPClassifier, TARGETS["text"], frame)
    classifier.save(tmp_path / "model.safetensors")
    net = gb.load(tmp_path / "model.safetensors")
    assert net.schema == gb.Schema(("blau", "grün", "rot"), ("length", "width", "größe"))
    np.testing.assert_allclose(net.predict(X), classifier.predict_proba(frame), rtol=1e-6)
    read = MLPClassifier.load(tmp_path / "model.safetensors")
    assert_array_equal(read.feature_names_in_, classifier.feature_names_in_)
    assert_array_equal(read.predict(frame), classifier.predict(frame))


def test_files_that_hold_something_else(tmp_path):
    path = tmp_path / "model.safetensors"
    gb.Network([3, 2]).save(path)
    with pytest.raises(ValueError, match=r"holds no estimator: read it with gpubackprop.load"):
        MLPClassifier.load(path)
    fitted(MLPRegressor, X[:, 0]).save(path)
    with pytest.raises(ValueError, match=r"a MLPRegressor, read it with MLPRegressor.load"):
        MLPClassifier.load(path)
    with pytest.raises(NotFittedError):
        MLPClassifier().save(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"alpha": {"os": {"system": "true"}}}},
        {"parameters": {"no_such": 1}},
        {"parameters": 3},
        {"classes": ["<f8", "x"]},
        {"fitted": [1]},
        {"dtype": "object_"},
    ],
)
def test_damaged_files_are_refused(changes, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted(MLPClassifier, NUMBER).save(path)
    stored = storage.load(path)
    text = {**json.loads(stored.text["estimator"]), **changes}
    storage.container.write(path, stored.tensors, {**stored.text, "estimator": json.dumps(text)})
    with pytest.raises(
        ValueError, match=r"model.safetensors holds another estimator, or is damaged"
    ):
        MLPClassifier.load(path)


DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("estimator-*.safetensors")), ids=lambda p: p.stem)
def test_files_of_earlier_versions_are_read(path, monkeypatch):
    monkeypatch.syspath_prepend(DATA)
    import make_files

    read, made = MLPClassifier.load(path), make_files.estimator()
    assert read.get_params() == made.get_params()
    assert_array_equal(read.classes_, made.classes_)
    wanted = np.load(path.with_suffix(".outputs.npy"))
    np.testing.assert_allclose(read.predict_proba(make_files.X), wanted, rtol=1e-12)


# ---- ONNX ----------------------------------------------------------------------------------------


def run(model, X):
    """Return the outputs of a model, its bytes or its path, with their names and types."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    values = session.run(None, {"X": X})
    return {o.name: (o.type, value) for o, value in zip(session.get_outputs(), values, strict=True)}


def probabilities(rows):
    """Return the values of maps as an array, in the order of their keys."""
    return np.array([[row[key] for key in sorted(row)] for row in rows])


@pytest.mark.parametrize("what", TARGETS)
def test_onnx_predicts_the_same(what, dtype, tmp_path):
    classifier, path = fitted(MLPClassifier, TARGETS[what], X.astype(dtype)), tmp_path / "a.onnx"
    classifier.export_onnx(path, zipmap=False)
    found = run(path, X.astype(dtype))
    labels, p = classifier.predict(X), classifier.predict_proba(X)
    text = labels.dtype.kind in "UO"
    assert found["label"][0] == f"tensor({'string' if text else 'int64'})"
    assert_array_equal(found["label"][1], labels if text else labels.astype(int))
    assert found["probabilities"][1].dtype == dtype
    np.testing.assert_allclose(found["probabilities"][1], p, rtol=0, atol=1e-6)
    classifier.export_onnx(path)
    rows = run(path, X.astype(dtype))["output_probability"][1]
    np.testing.assert_allclose(probabilities(rows), p, rtol=0, atol=1e-6)


# skl2onnx cannot do two labels: it takes them for two classes.
@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("what", [name for name in TARGETS if name != "two labels"])
@pytest.mark.filterwarnings("ignore")
def test_onnx_has_skl2onnxs_form(what, zipmap, tmp_path):
    """The same names, types, labels and probabilities as of scikit-learn's, with equal weights."""
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.neural_network import MLPClassifier as Theirs

    theirs = fitted(Theirs, TARGETS[what])
    ours = fitted(MLPClassifier, TARGETS[what])
    ours.coefs_, ours.intercepts_ = theirs.coefs_, theirs.intercepts_
    ours.export_onnx(tmp_path / "ours.onnx", zipmap=zipmap)
    expected = skl2onnx.to_onnx(theirs, X[:1], options={"zipmap": zipmap})
    expected, found = run(expected.SerializeToString(), X), run(str(tmp_path / "ours.onnx"), X)
    assert list(found) == list(expected)
    (kind, label), (p_kind, got) = found.values()
    (expected_kind, expected_label), (expected_p_kind, wanted) = expected.values()
    assert (kind, p_kind) == (expected_kind, expected_p_kind)
    assert_array_equal(label, expected_label)
    if zipmap:
        assert [sorted(row) for row in got] == [sorted(row) for row in wanted]
        got, wanted = probabilities(got), probabilities(wanted)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_onnx_of_a_regressor(loss, n_outputs, dtype, tmp_path):
    y = np.abs(X[:, 0] if n_outputs == 1 else X[:, :2])
    regressor, path = fitted(MLPRegressor, y, X.astype(dtype), loss=loss), tmp_path / "a.onnx"
    regressor.export_onnx(path)
    ((kind, value),) = run(path, X.astype(dtype)).values()
    assert list(run(path, X.astype(dtype))) == ["variable"]
    assert kind == ("tensor(float)" if dtype == np.float32 else "tensor(double)")
    wanted = regressor.predict(X).reshape(N, n_outputs)
    np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)


def test_onnx_in_float32_of_one_fitted_in_float64(tmp_path):
    classifier = fitted(MLPClassifier, NUMBER, X.astype("f8"))
    classifier.export_onnx(tmp_path / "a.onnx", zipmap=False, dtype="float32")
    p = run(tmp_path / "a.onnx", X)["probabilities"][1]
    np.testing.assert_allclose(p, classifier.predict_proba(X), rtol=0, atol=1e-6)


def test_onnx_refuses_what_has_no_label_there(tmp_path):
    classifier = fitted(MLPClassifier, NUMBER)
    classifier.classes_ = np.array([0.5, 1.5, 2.5])
    with pytest.raises(ValueError, match=r"labels must be text or whole numbers.*got 0\.5"):
        classifier.export_onnx(tmp_path / "a.onnx")
    with pytest.raises(NotFittedError):
        MLPRegressor().export_onnx(tmp_path / "a.onnx")
    assert os.listdir(tmp_path) == []
