"""The networks and data of the benchmarks, and which backends may be timed."""

import numpy as np

from gpubackprop import backends
from gpubackprop.measure import emulated

#: Networks: sizes, hidden and output activation, loss, rows, rate.
NETWORKS = {
    "4-4-4-1": ([4, 4, 4, 1], "sigmoid", "sigmoid", "log_loss", 2000, 0.1),
    "784-30-10": ([784, 30, 10], "sigmoid", "sigmoid", "squared", 5000, 0.01),
    "784-256-128-10": ([784, 256, 128, 10], "sigmoid", "softmax", "cross_entropy", 4096, 0.01),
    "1024-2048-2048-10": (
        [1024, 2048, 2048, 10], "sigmoid", "softmax", "cross_entropy", 2048, 0.002,
    ),
}  # fmt: skip
_CLASSES, _NUMBERS = ("softmax", "cross_entropy"), ("identity", "squared")
#: Others, of all kinds: what is quick in the networks above should be so in any.
SHAPES = {
    "30-16-1 relu": ([30, 16, 1], "relu", "sigmoid", "log_loss", 569, 0.01),
    "8-100-1 relu": ([8, 100, 1], "relu", *_NUMBERS, 16000, 0.001),
    "13-64-64-1 relu": ([13, 64, 64, 1], "relu", *_NUMBERS, 4000, 0.001),
    "20-100-100-1 gelu": ([20, 100, 100, 1], "gelu", *_NUMBERS, 5000, 0.001),
    "20-100-100-1 tanh": ([20, 100, 100, 1], "tanh", *_NUMBERS, 20480, 0.001),
    "10-512-512-1 tanh": ([10, 512, 512, 1], "tanh", *_NUMBERS, 16384, 0.001),
    "20-64-32-4 relu": ([20, 64, 32, 4], "relu", *_CLASSES, 10000, 0.001),
    "64-100-10 relu": ([64, 100, 10], "relu", *_CLASSES, 1800, 0.001),
    "64-64-64-10 relu": ([64, 64, 64, 10], "relu", *_CLASSES, 4000, 0.001),
    "64-64-64-64-64-64-64-10 relu": ([*[64] * 7, 10], "relu", *_CLASSES, 4000, 0.001),
    "784-100-10 relu": ([784, 100, 10], "relu", *_CLASSES, 5000, 0.001),
    "784-800-10 relu": ([784, 800, 10], "relu", *_CLASSES, 5000, 0.001),
    "784-512-256-10 relu": ([784, 512, 256, 10], "relu", *_CLASSES, 4096, 0.001),
    "3072-256-10 relu": ([3072, 256, 10], "relu", *_CLASSES, 2048, 0.001),
    "100-200-1000 relu": ([100, 200, 1000], "relu", *_CLASSES, 4096, 0.001),
}


def network(name: str) -> tuple[list[int], str, str, str, int, float]:
    """Return what `NETWORKS` or `SHAPES` say of a network."""
    return {**NETWORKS, **SHAPES}[name]


def timed_backends(*, plain: bool = False) -> list[str]:
    """Return the backends whose times mean something (an emulated GPU's do not), the plain ones
    too if asked for.
    """
    usable = backends.usable(plain=plain)
    return [name for name in usable if not emulated(backends.get(name))]


def data(name: str, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded X and one-hot (or 0/1) Y, learnable, in float32; so many rows or all."""
    sizes, *_, n, _ = network(name)
    n = rows or n
    rng = np.random.default_rng(7)
    X = rng.random((n, sizes[0]), dtype=np.float32)
    scores = (X - X.mean(0)) @ rng.standard_normal((sizes[0], sizes[-1])).astype(np.float32)
    if sizes[-1] == 1:
        return X, (scores > 0).astype(np.float32)
    return X, np.eye(sizes[-1], dtype=np.float32)[scores.argmax(1)]
