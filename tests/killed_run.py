"""Runs of `fit` that test_checkpoints.py kills: as a script, one writes a line after each slice,
and at the end the digest of what came out.

    python tests/killed_run.py JOB BACKEND EXECUTOR CHECKPOINT
"""

import hashlib
import sys

import numpy as np

import gpubackprop as gb
from gpubackprop import backends, pace
from gpubackprop.executors import EXECUTORS, Job

N, N_IN = 300, 1024
EPOCHS = 6
#: Bytes of a line: so many that a pipe holds few, and the run cannot hurry ahead of its reader.
LINE = 16384
#: Options of `fit`, and the network's dropout. An executor is killed at the first that it can do.
JOBS = {
    "Adam": (
        {
            "batch_size": 8,
            "optimizer": gb.Adam(gb.Cosine(0.01, EPOCHS), l2=0.01),
            "sample_weight": np.linspace(1, 2, N),
        },
        0.3,
    ),
    "SGD": ({"batch_size": 1, "optimizer": gb.SGD(0.01)}, 0.0),
}


def network(job, backend):
    return gb.Network([N_IN, 6, 3], "tanh", dropout=JOBS[job][1], backend=backend, rng=5)


def can(executor, job, backend):
    """Tell whether an executor trains a run."""
    net, fit = network(job, backends.get(backend)), JOBS[job][0]
    asked = Job(
        net.model, net.backend, fit["optimizer"], fit["batch_size"], "sample_weight" in fit, 0,
        n_samples=N, epochs=EPOCHS,
    )  # fmt: skip
    return EXECUTORS[executor].refusal(asked) is None


def runs():
    """Return (job, backend, executor) for every executor on every backend where it can train."""
    found = []
    for backend in backends.usable():
        for executor in EXECUTORS:
            jobs = [job for job in JOBS if can(executor, job, backend)]
            found += [(job, backend, executor) for job in jobs[:1]]
    return found


class Talker:
    """Says after each slice that it is done."""

    def on_slice(self, run):
        print(f"{run.epoch} {run.rows_done}".ljust(LINE), flush=True)


def train(job, backend, executor, callbacks=(), **options):
    """Train; returns a digest of the parameters, the history, the best epoch and the generator."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(N, N_IN)).astype("f4"), rng.integers(3, size=N)
    net = network(job, backend)
    history = net.fit(
        X, y, epochs=EPOCHS, executor=executor, validation=(X[:40], y[:40]),
        early_stopping=EPOCHS, callbacks=callbacks, **JOBS[job][0], **options,
    )  # fmt: skip
    digest = hashlib.sha256(net.backend.to_numpy(net._parameters.flat).tobytes())
    numbers = (history.loss, history.validation_loss, history.learning_rate, history.best_epoch)
    digest.update(repr((numbers, net.rng.bit_generator.state, net._steps)).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    job, backend, executor, path = sys.argv[1:]
    if backend == "cupy":
        import conftest  # noqa: F401  # makes CuPy usable without a GPU
    pace._SLICE_SECONDS = 0.0  # as short as slices can be
    print(train(job, backend, executor, [Talker()], checkpoint=path, every=0, resume=True))
