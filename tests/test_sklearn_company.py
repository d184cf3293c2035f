"""The estimators inside scikit-learn's tools: each with an answer of its own."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn.callback")
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import neural_network as reference
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import StackingClassifier, VotingRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpubackprop import SGD
from gpubackprop.losses import HUBER
from gpubackprop.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_iris(return_X_y=True)
W = np.random.default_rng(0).uniform(0.1, 3, len(X))


def pair(name="MLPClassifier", **parameters):
    """Return our estimator and scikit-learn's with the same parameters."""
    given = {"hidden_layer_sizes": 6, "max_iter": 5, "random_state": 0, **parameters}
    ours = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[name]
    return ours(**given), getattr(reference, name)(**given)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search(backend):
    joblib = pytest.importorskip("joblib", reason="joblib comes with scikit-learn")
    grid = {"mlp__alpha": [1e-4, 10.0], "mlp__hidden_layer_sizes": [(4,), (6, 3)]}
    found = []
    for model in pair():
        pipeline = make_pipeline(StandardScaler(), model)
        pipeline.steps[1] = "mlp", model
        with joblib.parallel_backend(backend, n_jobs=2):
            found.append(GridSearchCV(pipeline, grid, cv=2).fit(X, Y))
    ours, theirs = found
    assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])
    assert ours.best_params_ == theirs.best_params_
    assert isinstance(ours.best_estimator_[-1], MLPClassifier)


def test_cross_validation():
    ours, theirs = pair(solver="lbfgs")
    assert_allclose(cross_val_score(ours, X, Y, cv=3), cross_val_score(theirs, X, Y, cv=3))
    predicted = [cross_val_predict(m, X, Y, cv=3, method="predict_proba") for m in (ours, theirs)]
    assert_allclose(*predicted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration(method):
    ours, theirs = (CalibratedClassifierCV(m, method=method, cv=2).fit(X, Y) for m in pair())
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-9)


def test_ensembles_and_inspection():
    stacked = [
        StackingClassifier([("mlp", m)], LogisticRegression(), cv=2).fit(X, Y).predict_proba(X)
        for m in pair()
    ]
    assert_allclose(*stacked, rtol=1e-6)
    voted = [
        VotingRegressor([("mlp", m)]).fit(X, Y, sample_weight=W).predict(X)
        for m in pair("MLPRegressor")
    ]
    assert_allclose(*voted)
    moved = [
        TransformedTargetRegressor(m, func=np.log1p, inverse_func=np.expm1).fit(X, Y).predict(X)
        for m in pair("MLPRegressor")
    ]
    assert_allclose(*moved)
    importances = [
        permutation_importance(m.fit(X, Y), X, Y, random_state=0).importances_mean for m in pair()
    ]
    assert_allclose(*importances, atol=1e-12)


# ---- clone, pickle, set_params -------------------------------------------------------------------

UNUSUAL = {
    "activation": ["gelu", "tanh"], "hidden_layer_sizes": (5, 4), "dropout": [0.1, 0.0],
    "solver": SGD(0.1, momentum=0.5), "learning_rate": "constant", "clip_norm": 1.0,
    "dtype": "float64", "backend": "numpy", "executor": "eager", "max_iter": 4, "random_state": 0,
}  # fmt: skip


@pytest.mark.parametrize("made", [MLPClassifier, MLPRegressor])
def test_clone_and_pickle(made):
    more = {"loss": HUBER(limit=2.0)} if made is MLPRegressor else {"class_weight": "balanced"}
    model = made(**UNUSUAL, **more)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert all(copied.get_params()[name] == value for name, value in (UNUSUAL | more).items())
    model.fit(X, Y)
    assert not hasattr(clone(model), "coefs_")
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.get_params() == model.get_params()
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.loss_curve_ == model.loss_curve_
    assert_array_equal(copied.fit(X, Y).coefs_[0], model.coefs_[0])


def test_parameters_may_be_changed_between_fits():
    model = MLPClassifier(**UNUSUAL).fit(X, Y)
    model.set_params(hidden_layer_sizes=7, activation="relu", dropout=0.0, solver="adam").fit(X, Y)
    fresh = MLPClassifier(**{**model.get_params()}).fit(X, Y)
    assert_array_equal(model.coefs_[0], fresh.coefs_[0])


# ---- set_output and metadata routing -------------------------------------------------------------


class Watched(TransformerMixin, BaseEstimator):
    """A step that notes what comes by, and passes it on."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        self.seen_ = X
        return X

    def get_feature_names_out(self, names=None):
        return names


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output(library):
    """Scaled frames go into the network with their names; what comes out are arrays."""
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    names = list("abcd")
    frame = module.DataFrame({name: X[:, i] for i, name in enumerate(names)})
    results = []
    for model in pair():
        pipeline = make_pipeline(StandardScaler(), Watched(), model)
        pipeline[:-1].set_output(transform=library)
        pipeline.fit(frame, Y)
        assert isinstance(pipeline[1].seen_, module.DataFrame)
        assert pipeline[-1].feature_names_in_.tolist() == names
        results.append(pipeline.predict_proba(frame))
        assert isinstance(results[-1], np.ndarray)
    assert_allclose(*results, rtol=1e-9)


def test_metadata_routing():
    """Sample weights go through a pipeline and a search where they are asked for, else nowhere."""
    scores = []
    with sklearn.config_context(enable_metadata_routing=True):
        for model in pair():
            asking = clone(model).set_fit_request(sample_weight=True)
            asking.set_score_request(sample_weight=True)
            pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asking)
            search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1, 1.0]}, cv=2)
            search.fit(X, Y, sample_weight=W)
            scores.append(search.cv_results_["mean_test_score"])
            direct = clone(model).set_params(alpha=search.best_params_["mlpclassifier__alpha"])
            direct.fit(StandardScaler().fit_transform(X), Y, W)
            assert_allclose(search.best_estimator_[-1].coefs_[0], direct.coefs_[0], rtol=1e-9)
            silent = make_pipeline(StandardScaler(), clone(model))
            with pytest.raises(ValueError, match=r"\[sample_weight\] are passed but are not"):
                GridSearchCV(silent, {}, cv=2).fit(X, Y, sample_weight=W)
    assert_allclose(*scores)


def test_routing_knows_what_our_methods_take():
    with sklearn.config_context(enable_metadata_routing=True):
        requests = MLPClassifier().get_metadata_routing()
        assert set(requests.fit.requests) == {"sample_weight", "validation_data"}
        assert set(requests.partial_fit.requests) == {"sample_weight", "classes"}
        ours = MLPClassifier().set_fit_request(validation_data=True)
        pipeline = make_pipeline(StandardScaler(), ours.set_params(max_iter=2))
        pipeline.fit(X, Y, validation_data=(X, Y))
        assert len(pipeline[-1].validation_loss_curve_) == 2
