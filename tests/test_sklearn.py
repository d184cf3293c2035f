"""The estimators: scikit-learn's numbers, and what they have beyond it."""

import copy
import pickle
import sys
import types

import numpy as np
import pytest

pytest.importorskip("sklearn.callback")
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import neural_network as reference
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    make_multilabel_classification,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from gpubackprop import ACTIVATIONS, SGD, Cosine, DivergenceError
from gpubackprop.executors.compiled import usable
from gpubackprop.losses import HUBER
from gpubackprop.sklearn import MLPClassifier, MLPRegressor
from gpubackprop.sklearn import __getattr__ as lazily

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def _data(load):
    X, y = load(return_X_y=True)
    regression = load is load_diabetes
    name = "MLPRegressor" if regression else "MLPClassifier"
    X = X / 16 if load is load_digits else scale(X)
    return name, X, scale(y) if regression else y


DATA = {
    load.__name__[5:]: _data(load)
    for load in (load_digits, load_iris, load_diabetes, load_breast_cancer)
}
IRIS, DIABETES, CANCER = (DATA[name][1:] for name in ("iris", "diabetes", "breast_cancer"))
SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "undamped": {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4},
    "adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 1e-2,
        "n_iter_no_change": 2,
    },
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adam": {"solver": "adam"},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 3},
    "no shuffling": {"shuffle": False},
    "one batch": {"batch_size": 100_000},
    "logistic": {"activation": "logistic"},
    "tanh": {"activation": "tanh", "alpha": 0.5},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "lbfgs": {"solver": "lbfgs"},
}  # fmt: skip


def fitted(made, *data, **parameters):
    given = {"hidden_layer_sizes": (20, 10), "max_iter": 15, "random_state": 3, **parameters}
    return made(**given).fit(*data)


def largest_difference(ours, theirs):
    """Return the largest difference of curves and parameters, relative to the array's largest."""
    curves = [[e.loss_, *getattr(e, "loss_curve_", [])] for e in (ours, theirs)]
    pairs = [curves, *zip(ours.coefs_, theirs.coefs_, strict=True)]
    pairs += zip(ours.intercepts_, theirs.intercepts_, strict=True)
    return max(np.abs(np.subtract(a, b)).max() / np.abs(b).max() for a, b in pairs)


def same(name, *data, rtol=1e-9, **parameters):
    """Check that ours and scikit-learn's agree; return both."""
    ours = fitted(OURS[name], *data, **parameters)
    theirs = fitted(getattr(reference, name), *data, **parameters)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert largest_difference(ours, theirs) < rtol
    return ours, theirs


# ---- the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_curves_and_weights_are_scikit_learns(name, solver):
    made, X, y = DATA[name]
    ours, theirs = same(made, X, y, **SOLVERS[solver])
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-8)
    for attribute in ("validation_scores_", "best_validation_score_", "best_loss_"):
        if hasattr(theirs, attribute) and getattr(theirs, attribute) is not None:
            assert_allclose(getattr(ours, attribute), getattr(theirs, attribute), rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_the_compiled_executor_gives_the_same_numbers(solver):
    """To rounding, which is not NumPy's: classes, labels, numbers; weights; batches of 1 too."""
    pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")
    w = np.random.default_rng(0).uniform(0.1, 3, len(IRIS[0]))
    several = np.c_[IRIS[1] == 0, IRIS[1] == 1]
    for name, y, weights in (
        ("MLPClassifier", IRIS[1], None), ("MLPClassifier", IRIS[1] > 0, w),
        ("MLPClassifier", several, None), ("MLPRegressor", IRIS[1], w),
    ):  # fmt: skip
        for batch_size in (1, 32):
            given = {"max_iter": 4, "batch_size": batch_size, **SOLVERS[solver]}
            if solver == "undamped" and batch_size == 1:
                continue  # where any rounding grows until nothing agrees
            ours = fitted(OURS[name], IRIS[0], y, weights, executor="compiled", **given)
            theirs = fitted(getattr(reference, name), IRIS[0], y, weights, **given)
            assert largest_difference(ours, theirs) < 1e-8


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_sample_weights_are_divided_by_each_batchs_sum(batch_size, solver):
    w = np.random.default_rng(0).uniform(0.1, 3, len(IRIS[0]))
    more = {"batch_size": batch_size, "solver": solver, "alpha": 0.1, "max_iter": 5}
    same("MLPClassifier", *IRIS, w, **more)
    same("MLPRegressor", *IRIS, w, **more)


def test_weights_with_early_stopping():
    w = np.random.default_rng(0).uniform(0.1, 3, len(CANCER[0]))
    same("MLPClassifier", *CANCER, w, early_stopping=True)


def test_targets_of_several_columns():
    X, Y = make_multilabel_classification(n_samples=60, random_state=0)
    same("MLPClassifier", X, Y, early_stopping=True)
    same("MLPClassifier", X, Y, solver="lbfgs", max_iter=10)
    Z = np.c_[DIABETES[1], DIABETES[1] ** 2]
    for solver in ("adam", "lbfgs"):
        same("MLPRegressor", DIABETES[0], Z, solver=solver)
        same("MLPRegressor", DIABETES[0], np.abs(Z), loss="poisson", solver=solver, rtol=1e-6)


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_input(kind, solver):
    from scipy import sparse

    _, X, y = DATA["digits"]
    X = getattr(sparse, kind)(X[:300])
    ours, theirs = same("MLPClassifier", X, y[:300], solver=solver, max_iter=5)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-8)


@pytest.mark.parametrize("seed", [5, None])
def test_partial_fit_and_warm_starts(seed):
    ours, theirs = (
        made.MLPClassifier(
            hidden_layer_sizes=8, random_state=seed or np.random.RandomState(1),
            solver="sgd", learning_rate="invscaling", max_iter=4, warm_start=True,
        )
        for made in (sys.modules["gpubackprop.sklearn"], reference)
    )  # fmt: skip
    for _ in range(3):
        for estimator in (ours, theirs):
            estimator.partial_fit(*IRIS, classes=[0, 1, 2])
    assert largest_difference(ours, theirs) < 1e-12
    for _ in range(2):
        ours, theirs = ours.fit(*IRIS), theirs.fit(*IRIS)
        assert largest_difference(ours, theirs) < 1e-12
        assert len(ours.loss_curve_) == len(theirs.loss_curve_)
        assert (ours.t_, ours.best_loss_) == (theirs.t_, pytest.approx(theirs.best_loss_))


def test_every_parameter_has_scikit_learns_default():
    for name, ours in OURS.items():
        theirs = getattr(reference, name)().get_params()
        assert theirs.items() <= ours().get_params().items()


@pytest.mark.parametrize(
    "bad", [{"alpha": -1}, {"momentum": 2}, {"max_iter": 0}, {"tol": "x"}, {"shuffle": 3}]
)
def test_bad_parameters_have_scikit_learns_message(bad):
    with pytest.raises(ValueError, match="parameter of MLPClassifier") as theirs:
        reference.MLPClassifier(**bad).fit(*IRIS)
    with pytest.raises(type(theirs.value)) as ours:
        MLPClassifier(**bad).fit(*IRIS)
    assert str(ours.value) == str(theirs.value)


def test_single_precision_stays_single():
    X = IRIS[0].astype(np.float32)
    assert fitted(MLPRegressor, X, IRIS[1]).predict(X).dtype == np.float32
    lbfgs = fitted(MLPRegressor, X, IRIS[1], solver="lbfgs")  # float64, as in scikit-learn
    assert lbfgs.coefs_[0].dtype == np.float64
    assert fitted(MLPClassifier, *IRIS, dtype="float32").coefs_[0].dtype == np.float32


# ---- the fitted truth ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["never", "always"])
@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_coefs_may_be_written_to(name, path, request, monkeypatch):
    """Compiled code reads them where they are."""
    monkeypatch.setenv("GPUBACKPROP_PREDICT", path)
    if name == "cupy":
        request.getfixturevalue("cupy_backend")
    reads = path == "always" and name == "numpy" and usable.problem() is None
    X, y = IRIS[0][:40], IRIS[1][:40].astype(float)
    model = MLPRegressor(hidden_layer_sizes=3, max_iter=2, backend=name, random_state=0).fit(X, y)
    coefs, uploads = model.coefs_, model._engine.uploads
    assert model.coefs_ is coefs

    def forward():
        hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
        return (hidden @ model.coefs_[1] + model.intercepts_[1]).ravel()

    assert_allclose(model.predict(X), forward())
    assert model._engine.uploads == uploads
    for write in (
        lambda: model.coefs_[0].__imul__(2.0),
        lambda: model.coefs_.__setitem__(1, np.ones((3, 1))),
        lambda: setattr(model, "intercepts_", [b + 1 for b in model.intercepts_]),
    ):
        write()
        uploads += not reads
        assert_allclose(model.predict(X), forward())
        assert model._engine.uploads == uploads
    model.partial_fit(X, y)
    assert model.coefs_ is coefs
    model.coefs_[0] = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"coefs_\[0\] must have shape \(4, 3\), got \(2, 2\)"):
        model.predict(X)
    for bad in (np.nan, np.inf):
        model.coefs_[0] = np.ones((4, 3))
        model.predict(X)
        model.coefs_[0][2, 1] = bad
        with pytest.raises(ValueError, match=r"coefs_\[0\] must be finite"):
            model.predict(X)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [1, 2, 60])
def test_compiled_code_answers_the_same(n, dtype, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_PREDICT", "never")
    X, y = IRIS[0].astype(dtype), (IRIS[1] > 1).astype(int) + (IRIS[1] > 0)
    for model in (
        MLPClassifier((7, 5), activation="tanh", max_iter=3, random_state=0).fit(X, y),
        MLPClassifier(activation="logistic", max_iter=3, random_state=0).fit(X, y > 0),
        MLPRegressor(hidden_layer_sizes=(7,), max_iter=3, random_state=0).fit(X, y),
    ):
        asked = "predict_proba" if isinstance(model, MLPClassifier) else "predict"
        expected = getattr(model, asked)(X[:n])
        labels = model.predict(X[:n])
        monkeypatch.setenv("GPUBACKPROP_PREDICT", "always")
        same = pickle.loads(pickle.dumps(model))
        rtol = 1e-12 if dtype == "float64" else 1e-5
        assert_allclose(getattr(same, asked)(X[:n]), expected, rtol=rtol)
        assert_allclose(same.predict(X[:n]), labels, rtol=rtol)
        assert same.predict(X[:n]).dtype == labels.dtype
        # Arrays that cannot be read as they are: other layouts, another dtype.
        same.coefs_ = [np.ascontiguousarray(W) for W in same.coefs_]
        same.intercepts_ = [b.astype("float64") for b in same.intercepts_]
        assert_allclose(getattr(same, asked)(X[:n]), expected, rtol=rtol)
        bad = X[:n].copy()
        bad[-1, 1] = np.inf
        for array in (bad, X[:n, :3]):
            with pytest.raises(ValueError, match=r"infinity|features"):
                same.predict(array)
        monkeypatch.setenv("GPUBACKPROP_PREDICT", "never")


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_cupy_gives_scikit_learns_numbers(solver, cupy_backend):
    X, y = IRIS[0][::3], IRIS[1][::3]
    w = np.linspace(0.5, 1.5, len(y))
    more = {"solver": solver, "max_iter": 3, "batch_size": 20, "hidden_layer_sizes": 4}
    ours = fitted(MLPClassifier, X, y, w, backend="cupy", **more)
    theirs = fitted(reference.MLPClassifier, X, y, w, **more)
    assert largest_difference(ours, theirs) < 1e-9
    assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-8)
    assert_array_equal(pickle.loads(pickle.dumps(ours)).predict(X), theirs.predict(X))


def test_a_saved_estimator_goes_on_with_its_optimizer():
    model = MLPClassifier(random_state=0).partial_fit(*IRIS, classes=[0, 1, 2])
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for other in [*copies, model]:
        other.partial_fit(*IRIS)
    for other in copies:
        assert_array_equal(other.coefs_[0], model.coefs_[0])


# ---- beyond --------------------------------------------------------------------------------------


def test_a_batch_without_weight_is_skipped():
    w = np.ones(150)
    w[40:60] = 0
    kept = w > 0
    more = {"batch_size": 20, "shuffle": False, "solver": "sgd"}
    ours = fitted(MLPClassifier, *IRIS, w, **more)
    theirs = fitted(reference.MLPClassifier, IRIS[0][kept], IRIS[1][kept], **more)
    assert largest_difference(ours, theirs) < 1e-9


def test_class_weights_are_sample_weights_over_the_dataset():
    weight = {0: 1.0, 1: 5.0, 2: 0.5}
    w = np.vectorize(weight.get)(IRIS[1])
    ours = fitted(MLPClassifier, *IRIS, class_weight=weight, batch_size=1, max_iter=2)
    given = fitted(
        MLPClassifier, *IRIS, w, weight_normalisation="dataset", batch_size=1, max_iter=2
    )
    plain = fitted(MLPClassifier, *IRIS, batch_size=1, max_iter=2)
    assert_allclose(ours.coefs_[0], given.coefs_[0])
    assert np.abs(ours.coefs_[0] - plain.coefs_[0]).max() > 1e-3
    with pytest.raises(ValueError, match="'balanced' is not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(*IRIS, classes=[0, 1, 2])


def test_options_of_the_core():
    everything = {
        "activation": ["gelu", ACTIVATIONS["tanh"]], "dropout": [0.2, 0.0], "clip_norm": 1.0,
        "weight_decay": 0.01, "learning_rate": Cosine(0.01, epochs=15), "solver": "rmsprop",
        "backend": "numpy", "executor": "eager",
    }  # fmt: skip
    for made in OURS.values():
        first, second = (fitted(made, *IRIS, **everything) for _ in range(2))
        assert_array_equal(first.coefs_[0], second.coefs_[0])
        assert first.loss_curve_[-1] < first.loss_curve_[0]
    by_name = fitted(MLPClassifier, *IRIS, solver="sgd", momentum=0, learning_rate_init=0.1)
    given = fitted(MLPClassifier, *IRIS, solver=SGD(0.1))
    assert_array_equal(given.coefs_[0], by_name.coefs_[0])
    with pytest.raises(ValueError, match="one entry for each of the 2 hidden layers"):
        fitted(MLPClassifier, *IRIS, activation=["tanh"])
    with pytest.raises(ValueError, match="dropout needs a stochastic solver"):
        fitted(MLPClassifier, *IRIS, dropout=0.5, solver="lbfgs")


@pytest.mark.parametrize("loss", ["absolute", "huber", "quantile", HUBER(limit=0.5)])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_losses_of_the_regressor(loss, solver):
    model = fitted(MLPRegressor, *DIABETES, loss=loss, solver=solver, max_iter=100, alpha=0)
    error = DIABETES[1] - model.predict(DIABETES[0])
    constant = DIABETES[1] - np.median(DIABETES[1])
    assert np.abs(error).mean() < 0.8 * np.abs(constant).mean()


def test_validation_data():
    X, y = IRIS
    model = fitted(MLPClassifier, X[::2], y[::2], max_iter=30)
    watched = MLPClassifier((20, 10), max_iter=30, random_state=3)
    watched.fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    assert_array_equal(watched.coefs_[0], model.coefs_[0])
    p = watched.predict_proba(X[1::2])[np.arange(75), y[1::2]]
    assert_allclose(watched.validation_loss_curve_[-1], -np.log(p).mean())
    assert len(watched.validation_loss_curve_) == 30
    stopped = watched.set_params(early_stopping=True).fit(X, y, validation_data=(X, y))
    assert_allclose(stopped.score(X, y), stopped.best_validation_score_)
    with pytest.raises(ValueError, match="validation_data has classes that y has not"):
        watched.fit(X, y, validation_data=(X[:1], [7]))


def test_a_stratified_validation_split():
    y = np.array([0] * 20 + [1] * 20 + [2] * 4)
    X = np.random.default_rng(0).normal(size=(44, 3))
    model = MLPClassifier(
        early_stopping=True, validation_split="stratified", validation_fraction=0.25, random_state=0
    )
    seen = []
    model._score_outputs = lambda outputs, labels, w: float(seen.append(labels) or 0)
    model.fit(X, y)
    assert_array_equal(np.bincount(seen[0]), [5, 5, 1])


def test_a_warm_start_keeps_the_optimizer_on_request():
    parameters = {"max_iter": 1, "random_state": 0, "warm_start": True, "shuffle": False}
    once = MLPClassifier(**{**parameters, "max_iter": 6}).fit(*IRIS)
    for keep in (True, False):
        model = MLPClassifier(**parameters, keep_optimizer=keep)
        for _ in range(6):
            model.fit(*IRIS)
        assert np.allclose(model.coefs_[0], once.coefs_[0], rtol=1e-12) is keep


class Watcher:
    """A callback that stops after some epochs, or presses Ctrl-C."""

    def __init__(self, stop_after, error=None):
        self.stop_after, self.error, self.losses, self.events = stop_after, error, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name != "epoch":
            return False
        fitted_estimator.predict(IRIS[0])
        self.losses.append(getattr(estimator, "loss_", None))
        if self.error and len(self.losses) == self.stop_after:
            raise self.error
        return len(self.losses) == self.stop_after


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks(solver):
    watcher = Watcher(stop_after=3)
    model = MLPClassifier(random_state=0, solver=solver).set_callbacks(watcher).fit(*IRIS)
    assert model.n_iter_ == 3
    assert watcher.events == ["setup", "teardown"]
    if solver == "adam":
        assert watcher.losses == model.loss_curve_


def test_ctrl_c_keeps_the_model():
    model = MLPClassifier(random_state=0).set_callbacks(Watcher(2, KeyboardInterrupt()))
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(*IRIS)
    assert len(model.loss_curve_) == 2
    assert model.predict(IRIS[0]).shape == (150,)


def test_divergence_is_an_error_and_leaves_a_finite_model():
    model = MLPRegressor(
        activation="identity", solver="sgd", learning_rate_init=1.0, random_state=0
    )
    with pytest.raises(DivergenceError, match=r"non-finite .* learning_rate 1;") as e:
        model.fit(*IRIS)
    assert isinstance(e.value, ValueError)
    assert e.value.epoch == len(model.loss_curve_)
    assert all(np.isfinite(array).all() for array in model.coefs_ + model.intercepts_)
    with pytest.raises(ValueError, match="outputs for these X hold NaN"):  # of 1e200 by now
        model.predict(IRIS[0])


def test_log_probabilities_are_finite():
    X = np.array([[-1e4], [1e4]])
    for y in ([0, 1], [[0, 1], [1, 0]]):
        model = fitted(MLPClassifier, X, y, activation="identity", max_iter=300, tol=0)
        assert np.isfinite(model.predict_log_proba(X * 1e3)).all()
        assert (model.predict_proba(X * 1e3) > 0).all()


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match=r"y must be at least 0 .*, got -2.* at row 1"):
        MLPRegressor(loss="poisson").fit([[1.0], [2.0]], [1.0, -2.0])


# ---- in company ----------------------------------------------------------------------------------


def test_without_scikit_learn_the_import_works_and_the_use_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    with pytest.raises(ImportError, match=r"gpubackprop\[sklearn\]"):
        lazily("MLPClassifier")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lazily("nothing")
    assert isinstance(sys.modules["gpubackprop.sklearn"], types.ModuleType)


def test_warning_at_the_last_epoch():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(*IRIS)
