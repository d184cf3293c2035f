"""Training: modes x networks x backends x executors, in samples/s."""

import numpy as np
import pytest
from networks import MODES, NETWORKS, data, timed_backends

import gpubackprop as gb
from gpubackprop import backends
from gpubackprop.executors import EXECUTORS, Job
from gpubackprop.measure import Competitor, time_calls

#: Rows of one timed call in SGD mode, where an epoch would take long, by network.
SGD_ROWS = {"4-4-4-1": 2000, "784-30-10": 1000, "784-256-128-10": 300, "1024-2048-2048-10": 20}
_SECONDS = 1.0


def network(name: str, backend: str, dtype: str = "float32") -> gb.Network:
    """Return a fresh network; the same weights on every backend."""
    sizes, hidden, output, loss, _, _ = NETWORKS[name]
    return gb.Network(sizes, hidden, output, loss, backend=backend, dtype=dtype, rng=0)


def check(name: str, backend: str, executor: str, batch_size: int | str) -> None:
    """See that a few steps end where plain arithmetic in float64 ends, before anything is timed."""
    X, Y = data(name)
    rows = 3 if batch_size == 1 else 70
    ends = []
    for where, how, dtype in ((backend, executor, "float32"), ("numpy-plain", "eager", "float64")):
        net = network(name, where, dtype)
        net.fit(
            X[:rows], Y[:rows],
            batch_size=min(batch_size, rows) if isinstance(batch_size, int) else batch_size,
            epochs=1, optimizer=gb.SGD(NETWORKS[name][-1]), executor=how, progress=False,
        )  # fmt: skip
        ends.append([net.backend.to_numpy(W) for W in net.weights])
    for ours, exact in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("executor", list(EXECUTORS))
@pytest.mark.parametrize("backend", timed_backends())
@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_training(name, mode, backend, executor, benchmark):
    """Time whole epochs (in SGD mode, of fewer rows)."""
    batch_size = MODES[mode]
    net = network(name, backend)
    optimizer = gb.SGD(NETWORKS[name][-1])
    seed = 0
    size = None if batch_size == "full" else batch_size
    job = Job(net.model, backends.get(backend), optimizer, size, False, seed)
    reason = EXECUTORS[executor].refusal(job)
    if reason:
        pytest.skip(f"{executor} on {backend}: {reason}")
    check(name, backend, executor, batch_size)
    X, Y = data(name)
    if batch_size == 1:
        X, Y = X[: SGD_ROWS[name]], Y[: SGD_ROWS[name]]
    X, Y = net.backend.asarray(X), net.backend.asarray(Y)

    def epoch() -> None:
        net.fit(
            X, Y, batch_size=batch_size, epochs=1, optimizer=optimizer,
            executor=executor, progress=False,
        )  # fmt: skip
        net.backend.synchronize()

    epoch()  # warms up
    benchmark.pedantic(epoch, rounds=rounds(epoch), iterations=1)
    benchmark.extra_info |= {
        "network": name, "mode": mode, "backend": backend, "executor": executor,
        "device": net.backend.describe(), "samples/s": len(X) / benchmark.stats.stats.median,
    }  # fmt: skip


def rounds(run) -> int:
    """Return how many rounds fit about a second, 3 at least and 30 at most."""
    return int(np.clip(_SECONDS / time_calls(Competitor(run)), 3, 30))
