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


def timed_backends(*, plain: bool = False) -> list[str]:
    """Return the backends whose times mean something (an emulated GPU's do not), the plain ones
    too if asked for.
    """
    usable = backends.usable(plain=plain)
    return [name for name in usable if not emulated(backends.get(name))]


def data(network: str, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded X and one-hot (or 0/1) Y, learnable, in float32; so many rows or all."""
    sizes, *_, n, _ = NETWORKS[network]
    n = rows or n
    rng = np.random.default_rng(7)
    X = rng.random((n, sizes[0]), dtype=np.float32)
    scores = (X - X.mean(0)) @ rng.standard_normal((sizes[0], sizes[-1])).astype(np.float32)
    if sizes[-1] == 1:
        return X, (scores > 0).astype(np.float32)
    return X, np.eye(sizes[-1], dtype=np.float32)[scores.argmax(1)]
