"""Compares loss curves and weights with scikit-learn's from the same seed, in float64.

    python benchmarks/sklearn_agreement.py

Prints, as Markdown, the largest difference of any point of the curve and of any weight or bias,
relative to the largest of its array, after 30 epochs (or iterations of L-BFGS).
"""

import argparse
import platform
import warnings
from typing import Any

import numpy as np
import sklearn
from sklearn import neural_network as theirs
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.preprocessing import scale

from gpubackprop import sklearn as ours

SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "momentum": 0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "Nesterov": {"solver": "sgd"},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1,
                 "tol": 1e-2, "n_iter_no_change": 2},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adam": {"solver": "adam"},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 3},
    "lbfgs": {"solver": "lbfgs"},
}  # fmt: skip
DATA = {"digits": load_digits, "iris": load_iris, "diabetes": load_diabetes,
        "breast_cancer": load_breast_cancer}  # fmt: skip


def difference(one: Any, other: Any) -> float:
    """Return the largest difference, relative to each array's largest entry."""
    assert one.n_iter_ == other.n_iter_
    curves = [[e.loss_, *getattr(e, "loss_curve_", [])] for e in (one, other)]
    arrays, others = (e.coefs_ + e.intercepts_ for e in (one, other))
    pairs = [curves, *zip(arrays, others, strict=True)]
    return max(float(np.abs(np.subtract(a, b)).max() / np.abs(b).max()) for a, b in pairs)


def compare(name: str, parameters: dict[str, Any], executor: str) -> float:
    """Train scikit-learn's estimator and ours on some data."""
    X, y = DATA[name](return_X_y=True)
    X = X / 16 if name == "digits" else scale(X)
    kind = "MLPRegressor" if name == "diabetes" else "MLPClassifier"
    y = scale(y) if name == "diabetes" else y
    given = {"hidden_layer_sizes": (20, 10), "max_iter": 30, "random_state": 3, **parameters}
    expected = getattr(theirs, kind)(**given).fit(X, y)
    return difference(getattr(ours, kind)(**given, executor=executor).fit(X, y), expected)


def main() -> None:
    """Print a table for each executor."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--executors", nargs="+", default=["eager", "compiled"])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, scikit-learn "
          f"{sklearn.__version__}")  # fmt: skip
    for executor in given.executors:
        print(f"\n| {executor} | {' | '.join(DATA)} |\n|---|{'---|' * len(DATA)}")
        for solver, parameters in SOLVERS.items():
            cells = [f"{compare(name, parameters, executor):.0e}" for name in DATA]
            print(f"| {solver} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
