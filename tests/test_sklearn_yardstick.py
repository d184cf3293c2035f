"""scikit-learn's own tests of its MLP, with our classes in the place of its own, on NumPy and on
CuPy; and its checks of any estimator.
"""

import inspect

import cpucuda
import numpy as np
import pytest
from conftest import require

pytest.importorskip("sklearn.callback")
from sklearn.neural_network.tests import test_mlp as theirs
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpubackprop.sklearn import MLPClassifier, MLPRegressor
from gpubackprop.sklearn.lbfgs import Objective
from gpubackprop.sklearn.validation import Training

LEFT_OUT = {
    "test_mlp_diverging_loss": "it wants a fit whose loss is NaN to go on; ours raises an error",
}


class WithGradient(MLPClassifier):
    """With the private method that scikit-learn's test of the gradient calls."""

    def _loss_grad_lbfgs(self, packed, X, Y, sample_weight, *buffers):
        training = Training(X, self._targets(Y), sample_weight, "batch")
        return Objective(self._network(), training, self.alpha)(packed)


@pytest.fixture(autouse=True)
def substituted(monkeypatch, request):
    backend = getattr(request, "param", "numpy")
    require(backend)
    monkeypatch.setenv("GPUBACKPROP_BACKEND", backend)
    long = getattr(request.node, "originalname", "") == "test_n_iter_no_change_inf"
    if backend == "cupy" and long and cpucuda.installed():
        pytest.skip("a thousand epochs take half a minute where the GPU is emulated")
    needs_gradient = getattr(request.node, "originalname", "") == "test_gradient"
    monkeypatch.setattr(theirs, "MLPClassifier", WithGradient if needs_gradient else MLPClassifier)
    monkeypatch.setattr(theirs, "MLPRegressor", MLPRegressor)


OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def ours(value):
    """Return our class for one of theirs in a list of parameters."""
    if isinstance(value, type) and value.__module__.startswith("sklearn"):
        return OURS.get(value.__name__, value)
    return value


def adopt(test):
    """Return a test of theirs whose parameters are our classes."""

    def adopted(*arguments, **parameters):
        return test(*arguments, **parameters)

    adopted.__signature__ = inspect.signature(test)
    adopted.__name__ = test.__name__
    adopted.pytestmark = [
        pytest.mark.parametrize(mark.args[0], [_row(row) for row in mark.args[1]]).mark
        if mark.name == "parametrize"
        else mark
        for mark in getattr(test, "pytestmark", [])
    ]
    return adopted


def _row(row):
    return tuple(map(ours, row)) if isinstance(row, tuple) else ours(row)


for name, test in vars(theirs).items():
    if name.startswith("test_") and name not in LEFT_OUT:
        globals()[name] = adopt(test)
del name, test


def pytest_generate_tests(metafunc):
    """Run each of theirs on both backends."""
    if metafunc.definition.originalname in vars(theirs):
        metafunc.parametrize("substituted", ["numpy", "cupy"], indirect=True)


@pytest.fixture
def global_random_seed():
    return 42


def test_what_is_left_out_is_there():
    assert set(LEFT_OUT) <= set(vars(theirs))


def _checked():
    for solver, more in (("adam", {}), ("sgd", {}), ("lbfgs", {})):
        for made in (MLPClassifier, MLPRegressor):
            yield made(solver=solver, max_iter=100, backend="numpy", **more)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@parametrize_with_checks(list(_checked()))
def test_estimator(estimator, check):
    with np.errstate(all="ignore"):
        check(estimator)
