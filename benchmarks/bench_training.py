"""Samples/s of training: modes x networks x backends x executors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from shared import require

import gpubackprop as gb
from gpubackprop.compare import Mode, check_training
from gpubackprop.executors import EXECUTORS, Job

#: What one timed call aims at; it trains for as many epochs as that takes.
SECONDS = 0.2
ROUNDS = 5
#: A full batch is checked on this many rows, as the reference's float64 takes its time.
CHECKED_ROWS = 256

MODES = {
    "sgd": Mode("sgd", 1, 0.01, 0.0),
    "mini-batch-32": Mode("mini-batch-32", 32, 0.01, 0.0),
    "mini-batch-256": Mode("mini-batch-256", 256, 0.01, 0.0),
    "full": Mode("full", "full", 0.01, 0.0),
}


class Case(NamedTuple):
    """A network, and the rows that an epoch has in each mode."""

    output: str
    loss: str
    rows: tuple[int, int, int, int]


NETWORKS = {
    "4-4-4-1": Case("sigmoid", "log_loss", (1000, 8192, 8192, 8192)),
    "784-30-10": Case("sigmoid", "squared", (1000, 4096, 8192, 8192)),
    "784-256-128-10": Case("softmax", "cross_entropy", (500, 2048, 4096, 8192)),
    "1024-2048-2048-10": Case("softmax", "cross_entropy", (32, 256, 1024, 2048)),
}


def rows_of(case: Case, sizes: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw inputs and targets: speed does not depend on their values."""
    rng = np.random.default_rng(0)
    X = rng.random((n, sizes[0]), dtype=np.float32)
    if case.loss == "log_loss":
        return X, rng.integers(0, 2, (n, 1)).astype(np.float32)
    labels = rng.integers(0, sizes[-1], n)
    return X, np.eye(sizes[-1], dtype=np.float32)[labels] if case.loss == "squared" else labels


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("backend", ["numpy", "numpy-plain", "cupy", "cupy-plain"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_training(
    network: str,
    mode: str,
    backend: str,
    executor: str,
    benchmark: Any,
    tabulate: Callable[..., None],
) -> None:
    place, case, how = require(backend), NETWORKS[network], MODES[mode]
    sizes = [int(size) for size in network.split("-")]
    n = case.rows[list(MODES).index(mode)]
    size = n if how.batch_size == "full" else how.batch_size
    start = gb.Network(sizes, output=case.output, loss=case.loss, backend="numpy", rng=0)
    reason = EXECUTORS[executor].refusal(Job(start.model, place, how.optimizer, size, False, 0))
    if reason:
        pytest.skip(reason)

    X, Y = rows_of(case, sizes, n)
    checked = CHECKED_ROWS if how.batch_size == "full" else n
    error = check_training(start, X[:checked], Y[:checked], how, backend, executor)
    net = start.copy(backend=backend)
    with place.active():
        X, Y = place.asarray(X), place.asarray(Y)  # on the device, as from an epoch to the next

    def train(epochs: int) -> gb.History:
        return net.fit(
            X, Y, batch_size=size, epochs=epochs, optimizer=how.optimizer,
            progress=False, executor=executor,
        )  # fmt: skip

    train(1)
    epochs = math.ceil(SECONDS / train(1).seconds[-1])
    # fit returns when the device is done: the loss of the last epoch is read.
    benchmark.group = f"{network} {mode}"
    benchmark.pedantic(train, args=(epochs,), rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable
        return
    stats = benchmark.stats.stats
    rate = epochs * n / stats.median
    benchmark.extra_info |= {
        "samples_per_second": rate,
        "rows": n,
        "epochs": epochs,
        "error_before_timing": error,
        "device": place.describe(),
        "threads": net.history.threads,
    }
    tabulate(
        "training, samples/s",
        network=network,
        mode=mode,
        backend=backend,
        executor=executor,
        **{
            "samples/s": f"{float(f'{rate:.3g}'):,.0f}",
            "spread": f"{stats.iqr / stats.median:.0%}",
        },
    )
