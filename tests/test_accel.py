"""Unchanged scripts get our classes."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn.callback")
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_iris

from gpubackprop import accel
from gpubackprop.sklearn import MLPClassifier, MLPRegressor

SCRIPT = """
import sys
from sklearn.neural_network import MLPClassifier
print(isinstance(MLPClassifier(), __import__("gpubackprop.sklearn").sklearn.MLPClassifier))
print(__name__, sys.argv[1:])
"""


@pytest.fixture
def installed():
    accel.install()
    accel.install()
    yield neural_network
    accel.uninstall()


def test_scikit_learns_names_are_our_classes(installed):
    assert issubclass(installed.MLPClassifier, MLPClassifier)
    assert issubclass(installed.MLPRegressor, MLPRegressor)
    X, y = load_iris(return_X_y=True)
    with pytest.warns(match="Maximum iterations"):
        model = installed.MLPClassifier(max_iter=2, random_state=0).fit(X, y)
    assert isinstance(clone(model), MLPClassifier)
    assert repr(model) == "MLPClassifier(max_iter=2, random_state=0)"
    loaded = pickle.loads(pickle.dumps(model))
    assert type(loaded) is MLPClassifier
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_scikit_learns_classes_come_back(installed):
    accel.uninstall()
    assert not issubclass(installed.MLPClassifier, MLPClassifier)


def test_what_we_do_not_know_falls_back_with_one_warning(installed, monkeypatch):
    monkeypatch.setattr(accel, "_refusal", lambda *given: "no parameter 'new'")
    with pytest.warns(UserWarning, match="uses scikit-learn's MLPRegressor: no parameter 'new'"):
        fallen = installed.MLPRegressor(alpha=0.5)
    assert type(fallen) is accel._originals["MLPRegressor"]
    assert fallen.alpha == 0.5
    assert type(installed.MLPRegressor()) is accel._originals["MLPRegressor"]  # without a warning


def test_refusals_name_the_parameter():
    assert accel._refusal(MLPClassifier, ((5,), "tanh"), {"alpha": 1}) is None
    assert "'new'" in accel._refusal(MLPClassifier, (), {"new": 1})


def test_the_ipython_extension():
    accel.load_ipython_extension(None)
    assert issubclass(neural_network.MLPClassifier, MLPClassifier)
    accel.unload_ipython_extension(None)
    assert not issubclass(neural_network.MLPClassifier, MLPClassifier)


def test_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "gpubackprop.accel", str(script), "--more"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "__main__ ['--more']"]


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0)])
def test_usage(arguments, status, capsys):
    assert accel.main(arguments) == status
    assert "SCRIPT.py" in capsys.readouterr().err
