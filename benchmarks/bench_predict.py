"""Times `Network.predict` beside PyTorch and scikit-learn, in turn: a row, a few, and many.

    export OPENBLAS_NUM_THREADS=1
    taskset -c 1 python benchmarks/bench_predict.py
    taskset -c 1 python benchmarks/bench_predict.py --only '784-30-10' --rows 1 10

The first answer of each is compared with NumPy's in float64. Then come rounds in which every engine
has its turn; a figure is the median. scikit-learn's internals are its forward pass alone, without
the checks that `predict_proba` makes.
"""

import argparse
import fnmatch
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import gpubackprop as gb
from gpubackprop import machine
from gpubackprop.measure import Competitor, interleaved, seconds_text

#: Hidden units are sigmoids, outputs a softmax.
NETWORKS = "4-4-4-3", "64-32-10", "784-30-10", "784-256-128-10"
ROWS = 1, 10, 100, 10_000
#: What all are compared with.
OURS, BEFORE = "compiled", "NumPy's operations"


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def by_hand(net: gb.Network, X: np.ndarray) -> np.ndarray:
    """Return the outputs in float64."""
    a = X.astype(np.float64)
    for W, b in zip(net.weights[:-1], net.biases[:-1], strict=True):
        a = sigmoid(a @ W.T.astype(np.float64) + b)
    z = a @ net.weights[-1].T.astype(np.float64) + net.biases[-1]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    outputs: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return outputs


def our_predict(net: gb.Network, path: str) -> Callable[[np.ndarray], Any]:
    """Return the `predict` of a copy of a network that goes one way from now on."""
    other = net.copy()
    os.environ["GPUBACKPROP_PREDICT"] = path
    other.predict(np.zeros((1, net.model.sizes[0]), np.float32))
    del os.environ["GPUBACKPROP_PREDICT"]
    return other.predict


def torch_module(net: gb.Network) -> Any:
    """Return the same network in PyTorch, with its weights."""
    import torch

    layers: list[Any] = []
    for W, b in zip(net.weights, net.biases, strict=True):
        linear = torch.nn.Linear(W.shape[1], W.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, torch.nn.Sigmoid()]
    layers[-1] = torch.nn.Softmax(dim=1)
    return torch.nn.Sequential(*layers).eval()


def with_torch(net: gb.Network) -> Iterator[tuple[str, Callable[[np.ndarray], Any]]]:
    """Yield PyTorch's ways: from a tensor to a tensor, and from an array to an array."""
    import torch

    torch.set_num_threads(int(os.environ.get("OPENBLAS_NUM_THREADS", "1")))
    module = torch_module(net)
    tensors: dict[int, Any] = {}

    def of_tensor(X: np.ndarray) -> Any:
        tensor = tensors.get(id(X))
        if tensor is None:
            tensor = tensors[id(X)] = torch.from_numpy(X)
        with torch.no_grad():
            return module(tensor)

    def of_array(X: np.ndarray) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(X)).numpy()

    yield "PyTorch, tensors", of_tensor
    yield "PyTorch, arrays", of_array


def with_sklearn(net: gb.Network) -> Iterator[tuple[str, Callable[[np.ndarray], Any]]]:
    """Yield scikit-learn's `predict_proba`, its forward pass alone, and our estimator's."""
    from sklearn.neural_network import MLPClassifier

    from gpubackprop.sklearn import MLPClassifier as Ours

    sizes = net.model.sizes
    y = np.arange(2 * sizes[-1]) % sizes[-1]
    X = np.random.default_rng(0).random((len(y), sizes[0]), np.float32)
    for name, kind in (("scikit-learn", MLPClassifier), ("our estimator", Ours)):
        model = kind(sizes[1:-1], activation="logistic", max_iter=1, solver="sgd").fit(X, y)
        # Into the arrays that it has, in the layout that it gave them.
        for coefs, intercepts, W, b in zip(
            model.coefs_, model.intercepts_, net.weights, net.biases, strict=True
        ):
            coefs[...], intercepts[...] = W.T, b
        yield f"{name}, predict_proba", model.predict_proba
        if kind is MLPClassifier:
            forward = model._forward_pass_fast
            yield f"{name}, internals", lambda X, f=forward: f(X, check_input=False)


def engines(net: gb.Network) -> dict[str, Callable[[np.ndarray], Any]]:
    """Return what is timed, by name: what is not installed is left out."""
    found = {OURS: our_predict(net, "always"), BEFORE: our_predict(net, "never")}
    os.environ["GPUBACKPROP_PREDICT"] = "always"
    for more in (with_torch, with_sklearn):
        try:
            found |= dict(more(net))
        except ImportError as error:
            print(f"({error})")
    return found


def measure(name: str, n: int, n_rounds: int) -> dict[str, float]:
    """Return the seconds of a call of each engine."""
    net = gb.Network([int(size) for size in name.split("-")], rng=0, backend="numpy")
    X = np.random.default_rng(1).random((n, net.model.sizes[0]), np.float32)
    expected = by_hand(net, X)

    def check(found: Any) -> None:
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-6)

    competitors = {
        engine: Competitor(lambda predict=predict: predict(X), check=check)
        for engine, predict in engines(net).items()
    }
    timings = interleaved(competitors, rounds=n_rounds, seconds=0.02)
    return {engine: timing.median for engine, timing in timings.items()}


def main() -> None:
    """Print a table for each network as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="PATTERN", default=["*"])
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{machine.processor()}, Python {platform.python_version()}, NumPy {np.__version__}; "
          f"{given.rounds} rounds, float32")  # fmt: skip
    for name in NETWORKS:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in given.only):
            continue
        found = {n: measure(name, n, given.rounds) for n in given.rows}
        print(f"\n| {name} | {' | '.join(f'{n:,} rows' for n in given.rows)} |")
        print(f"|---|{'---:|' * len(given.rows)}")
        for engine in found[given.rows[0]]:
            cells = [cell(found[n], engine) for n in given.rows]
            print(f"| {engine} | {' | '.join(cells)} |", flush=True)


def cell(found: dict[str, float], engine: str) -> str:
    """Return a time, and how many times ours that is."""
    text = seconds_text(found[engine])
    return text if engine == OURS else f"{text} ({found[engine] / found[OURS]:.2g})"


if __name__ == "__main__":
    main()
