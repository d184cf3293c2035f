"""A regression: how diabetes progressed within a year, from ten measurements.

The data are the 442 real patients of scikit-learn's `load_diabetes`. Each column, and the target,
is standardised with the mean and deviation of the patients that are learnt from. Identity output
with squared loss, which is least squares:

    L = mean of (o - y)^2 / 2        R^2 = 1 - sum (y - o)^2 / sum (y - mean of y)^2

Three models, over five splits of the patients into 331 to learn from and 111 held out:

- linear regression, by solving the normal equations (scikit-learn);
- a network without a hidden layer, 10-1: the same model, found by gradient descent, so that its
  R^2 must come out the same;
- a network 10-16-1 with tanh units and an L2 penalty, ``dW + 0.03 W``. Its size, penalty and epochs
  were chosen by means of other splits.

What to expect: about the same R^2 from all three. With so few patients and such noisy targets there
is little to learn beyond the linear part, and a hidden layer does not change that. The penalty is
needed: without it the network learns the noise, and the mean R^2 falls to about 0.40, and to 0.26
if it is trained for 1,000 epochs.

Source of the data: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

import gpubackprop as gb


def data(split: int) -> tuple[Any, Any, Any, Any]:
    """Return standardised X and y to learn from, then those held out: X, y, X_test, y_test."""
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=split)
    mean, deviation, y_mean, y_deviation = X.mean(axis=0), X.std(axis=0), y.mean(), y.std()
    return (
        (X - mean) / deviation,
        (y - y_mean) / y_deviation,
        (X_test - mean) / deviation,
        (y_test - y_mean) / y_deviation,
    )


def run(
    split: int = 0,
    backend: str = "numpy",
    epochs: tuple[int, int] = (2000, 120),
    dtype: str = "float64",
) -> dict[str, Any]:
    """Fit all three, the networks 10-1 and 10-16-1 for so many epochs; returns R^2 of each on the
    held-out patients.
    """
    X, y, X_test, y_test = data(split)
    flat = gb.Network([10, 1], output="identity", backend=backend, dtype=dtype, rng=0)
    flat.fit(
        X, y, batch_size="full", epochs=epochs[0], optimizer=gb.SGD(0.2, momentum=0.9),
        progress=False,
    )  # fmt: skip
    net = gb.Network(
        [10, 16, 1], hidden="tanh", output="identity", backend=backend, dtype=dtype, rng=0
    )
    history = net.fit(
        X, y, batch_size=32, epochs=epochs[1], optimizer=gb.SGD(0.02, l2=0.03),
        progress=False,
    )  # fmt: skip
    linear = LinearRegression().fit(X, y)

    def score(o: Any) -> float:
        return float(r2_score(y_test, flat.backend.to_numpy(o)))

    return {
        "linear": score(linear.predict(X_test)),
        "flat": score(flat.predict(X_test)),
        "network": score(net.predict(X_test)),
        "coefficients": linear.coef_,
        "weights": flat.backend.to_numpy(flat.weights[0])[0],
        "loss": history.loss,
    }


def main() -> None:
    """Print R^2 of the three for each split, and the weights beside the coefficients."""
    parser = argparse.ArgumentParser(description="A regression on the diabetes data.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    backend = parser.parse_args().backend
    runs = [run(split, backend) for split in range(5)]
    models = ("linear", "flat", "network")
    print("R^2 on 111 held-out patients\n")
    print("  split    linear regression   network 10-1   network 10-16-1")
    for split, numbers in enumerate(runs):
        linear, flat, network = (numbers[name] for name in models)
        print(f"  {split:>5}    {linear:>17.4f}   {flat:>12.4f}   {network:>15.4f}")
    linear, flat, network = (np.mean([numbers[name] for numbers in runs]) for name in models)
    print(f"  {'mean':>5}    {linear:>17.4f}   {flat:>12.4f}   {network:>15.4f}")
    print("\nSplit 0: coefficients of the linear regression, and the weights of the network 10-1\n")
    names = load_diabetes().feature_names
    for title, values in (
        ("", names),
        ("regression", [f"{value:.4f}" for value in runs[0]["coefficients"]]),
        ("network", [f"{value:.4f}" for value in runs[0]["weights"]]),
    ):
        print(f"  {title:<10}" + "".join(f"{value:>8}" for value in values))


if __name__ == "__main__":
    main()
