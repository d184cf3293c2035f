"""Times the estimators beside scikit-learn's, in turn, on the digits.

    export OPENBLAS_NUM_THREADS=1
    taskset -c 1 python benchmarks/bench_sklearn.py
    taskset -c 1 python benchmarks/bench_sklearn.py --only 'fit sgd*' --rounds 9

Each cell is trained or asked once to warm up, and its answer is compared with scikit-learn's. Then
come rounds in which every engine has its turn. A figure is the median over the rounds of
scikit-learn's time over ours in that round; what an executor compiles was compiled in the warm-up.
"""

import argparse
import fnmatch
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_digits

from gpubackprop import machine
from gpubackprop import sklearn as ours

#: Executors that the estimators are timed with.
EXECUTORS = ("auto", "eager", "compiled")


@dataclass(frozen=True)
class Cell:
    """What is timed: `run` is called with an estimator that `prepare` returned."""

    parameters: dict[str, Any]
    epochs: int
    prepare: Callable[[Any, np.ndarray, np.ndarray], Any]
    run: Callable[[Any, np.ndarray, np.ndarray], Any]
    rows: int = 1797
    executors: tuple[str, ...] = EXECUTORS


def unfitted(estimator: Any, X: np.ndarray, y: np.ndarray) -> Any:
    return estimator


def fitted(estimator: Any, X: np.ndarray, y: np.ndarray) -> Any:
    return estimator.fit(X, y)


def anew(estimator: Any, X: np.ndarray, y: np.ndarray) -> Any:
    """Copy, set a parameter and train, as a search does."""
    return clone(estimator).set_params(alpha=1e-3).fit(X, y)


def fit(epochs: int, rows: int = 1797, **parameters: Any) -> Cell:
    return Cell(parameters, epochs, unfitted, anew, rows)


def ask(method: str, rows: int) -> Cell:
    def run(estimator: Any, X: np.ndarray, y: np.ndarray) -> Any:
        return getattr(estimator, method)(X)

    return Cell({}, 5, fitted, run, rows, ("auto",))


CELLS = {
    "fit, defaults (adam, 200)": fit(40),
    "fit sgd, batch 1": fit(1, solver="sgd", batch_size=1),
    "fit sgd, batch 32": fit(8, solver="sgd", batch_size=32),
    "fit sgd, batch 200": fit(40, solver="sgd", batch_size=200),
    "fit sgd, full batch": fit(40, solver="sgd", batch_size=1797),
    "fit lbfgs": Cell({"solver": "lbfgs"}, 30, unfitted, anew, executors=("auto",)),
    "fit 100 rows, 1 epoch": fit(1, 100),
    "fit 100 rows, 20 epochs": fit(20, 100),
    "predict, 1 row": ask("predict", 1),
    "predict, 1,797 rows": ask("predict", 1797),
    "predict_proba, 1 row": ask("predict_proba", 1),
    "predict_proba, 1,797 rows": ask("predict_proba", 1797),
}


def seconds(function: Callable[[], Any], least: float = 0.02) -> float:
    """Return the time of a call: the mean of some calls where one is short."""
    calls, begin = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begin < least:
        function()
        calls += 1
    return (time.perf_counter() - begin) / calls


def agree(one: Any, other: Any) -> bool:
    """Tell whether two estimators, or what they answered, are the same to 1e-6."""
    if not hasattr(one, "coefs_"):
        one, other = np.asarray(one), np.asarray(other)
        return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9))
    pairs = zip(one.coefs_, other.coefs_, strict=True)
    return all(np.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in pairs)


def measure(name: str, cell: Cell, X: np.ndarray, y: np.ndarray, rounds: int) -> dict[str, Any]:
    """Return a row of the table."""
    parameters = {"max_iter": cell.epochs, "random_state": 0, **cell.parameters}
    made = {"scikit-learn": theirs.MLPClassifier(**parameters)}
    for executor in cell.executors:
        made[executor] = ours.MLPClassifier(**parameters, executor=executor)
    ready = {engine: cell.prepare(estimator, X, y) for engine, estimator in made.items()}
    X, y = X[: cell.rows], y[: cell.rows]
    answers = {engine: cell.run(estimator, X, y) for engine, estimator in ready.items()}
    for engine, answer in answers.items():
        assert agree(answer, answers["scikit-learn"]), f"{name}: {engine} has another answer"
    times: dict[str, list[float]] = {engine: [] for engine in ready}
    for _ in range(rounds):
        for engine, estimator in ready.items():
            times[engine].append(seconds(lambda e=estimator: cell.run(e, X, y)))
    row: dict[str, Any] = {"": name, "scikit-learn": statistics.median(times["scikit-learn"])}
    for engine in cell.executors:
        ratios = [a / b for a, b in zip(times["scikit-learn"], times[engine], strict=True)]
        row[engine] = statistics.median(ratios)
    return row


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="PATTERN", default=["*"])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    X, y = load_digits(return_X_y=True)
    X = X / 16
    print(f"{machine.processor()}, Python {platform.python_version()}, NumPy {np.__version__}, "
          f"scikit-learn {sklearn.__version__}; {given.rounds} rounds")  # fmt: skip
    print(f"\n| | scikit-learn | {' | '.join(EXECUTORS)} |\n|---|---|{'---|' * len(EXECUTORS)}")
    for name, cell in CELLS.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in given.only):
            row = measure(name, cell, X, y, given.rounds)
            shown = [f"{row[one]:.2f}" if one in row else "" for one in EXECUTORS]
            print(
                f"| {name} | {1e3 * row['scikit-learn']:.3g} ms | {' | '.join(shown)} |", flush=True
            )


if __name__ == "__main__":
    main()
