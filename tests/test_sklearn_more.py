"""What the estimators have beyond scikit-learn's, row by row of docs/scikit-learn.md."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn.callback")
import test_sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import callback
from sklearn import neural_network as reference
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.utils.class_weight import compute_class_weight

from gpubackprop import executors, optimizers
from gpubackprop.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_iris(return_X_y=True)
PAGE = Path(__file__).parents[1] / "docs" / "scikit-learn.md"


def made(cls=MLPClassifier, **parameters):
    return cls(**{"hidden_layer_sizes": 5, "max_iter": 4, "random_state": 0, **parameters})


def test_every_difference_has_its_test():
    differences = PAGE.read_text().split("## Different")[1].split("\n## ")[0]
    rows = [line for line in differences.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 7
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or "the same test" in row, row
        assert all(hasattr(test_sklearn, name) for name in named), row


@pytest.mark.parametrize("solver", sorted(optimizers.OPTIMIZERS))
def test_every_optimiser_by_its_name(solver):
    """The same as the optimiser itself where alpha is 0 and the rate is given."""
    given = optimizers.OPTIMIZERS[solver](learning_rate=0.01)
    more = {"momentum": 0} if solver == "sgd" else {}
    if solver == "adam":  # scikit-learn's puts epsilon elsewhere
        given = optimizers.Adam(0.01, epsilon_at="uncorrected")
    by_name = made(solver=solver, learning_rate_init=0.01, alpha=0, **more).fit(X, Y)
    itself = made(solver=given, alpha=0).fit(X, Y)
    assert_array_equal(by_name.coefs_[0], itself.coefs_[0])
    assert by_name.loss_curve_[-1] < by_name.loss_curve_[0]


def test_a_rate_for_each_epoch():
    """A function of the epoch, against as many calls of partial_fit with those rates."""
    rates = [0.1, 0.05, 0.01]
    shared = {"solver": "sgd", "momentum": 0, "shuffle": False}
    whole = made(max_iter=3, learning_rate=lambda epoch: rates[epoch], **shared).fit(X, Y)
    steps = reference.MLPClassifier(hidden_layer_sizes=5, random_state=0, **shared)
    for rate in rates:
        # scikit-learn's optimiser keeps its rate: a new one for each call.
        steps.set_params(learning_rate_init=rate)
        if hasattr(steps, "_optimizer"):
            del steps._optimizer
        steps.partial_fit(X, Y, classes=[0, 1, 2])
    assert_allclose(whole.coefs_[0], steps.coefs_[0], rtol=1e-10)


def test_decay_and_clipping():
    shared = {"solver": "sgd", "momentum": 0, "alpha": 0, "max_iter": 1, "batch_size": 150}
    start = made(learning_rate_init=1e-12, **shared).fit(X, Y)
    plain, decayed, clipped = (
        made(learning_rate_init=0.1, **shared, **more).fit(X, Y)
        for more in ({}, {"weight_decay": 0.5}, {"clip_norm": 1e-3})
    )
    assert_allclose(decayed.coefs_[0], plain.coefs_[0] - 0.1 * 0.5 * start.coefs_[0], atol=1e-10)
    after, before = (model.coefs_ + model.intercepts_ for model in (clipped, start))
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
    assert_allclose(moved, 0.1 * 1e-3, rtol=1e-6)


def test_balanced_classes():
    y = np.where(np.arange(150) < 140, 0, 1)
    weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=y)
    balanced = made(class_weight="balanced").fit(X, y)
    given = made(class_weight=dict(enumerate(weights))).fit(X, y)
    assert_array_equal(balanced.coefs_[0], given.coefs_[0])


def test_several_labels_in_parts():
    """partial_fit with an indicator matrix, which scikit-learn refuses."""
    labels = make_multilabel_classification(n_samples=60, n_classes=3, random_state=0)
    ours, whole = made(shuffle=False), made(max_iter=3, shuffle=False)
    for _ in range(3):
        ours.partial_fit(*labels, classes=[0, 1, 2])
    assert ours.predict(labels[0]).shape == (60, 3)
    whole.fit(*labels)
    assert_allclose(ours.coefs_[0], whole.coefs_[0], rtol=1e-12)


def test_scikit_learns_progress_bar(capsys):
    pytest.importorskip("rich", reason="scikit-learn's progress bar needs rich")
    made().set_callbacks(callback.ProgressBar()).fit(X, Y)
    assert "MLPClassifier - fit" in capsys.readouterr().out


@pytest.mark.parametrize("executor", executors.EXECUTORS)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_every_executor_gives_scikit_learns_numbers(executor, batch_size, request):
    """Executors of the GPU on CuPy; block has no batches of more than 1."""
    backend = "numpy" if executor in ("eager", "compiled") else "cupy"
    if backend == "cupy":
        request.getfixturevalue("cupy_backend")
    if executor == "compiled":
        pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")
    if executor == "block" and batch_size != 1:
        pytest.skip("block makes an update for each row")
    for cls, name in ((MLPClassifier, "MLPClassifier"), (MLPRegressor, "MLPRegressor")):
        given = {"batch_size": batch_size, "max_iter": 2, "alpha": 0.1, "hidden_layer_sizes": 5}
        expected = getattr(reference, name)(random_state=0, **given).fit(X[::3], Y[::3])
        ours = made(cls, backend=backend, executor=executor, **given).fit(X[::3], Y[::3])
        assert_allclose(ours.coefs_[0], expected.coefs_[0], rtol=1e-8)
        assert_allclose(ours.loss_curve_, expected.loss_curve_, rtol=1e-8)
