"""A run of `fit` that test_checkpoints.py kills: as a script, it writes a line after each slice,
and at the end the digest of what came out.

    python tests/killed_run.py BACKEND EXECUTOR CHECKPOINT
"""

import hashlib
import sys

import numpy as np

import gpubackprop as gb
from gpubackprop import backends, executors, pace
from gpubackprop.executors import EXECUTORS, Job

N, N_IN = 300, 1024
EPOCHS, BATCH_SIZE = 6, 8
#: Bytes of a line: so many that a pipe holds few, and the run cannot hurry ahead of its reader.
LINE = 16384


def job(backend):
    """Return what an executor is asked for, to see whether it would do it."""
    return Job(network(backend).model, backend, optimizer(), BATCH_SIZE, True, 0, n_samples=N)


def pairs():
    """Return every backend that can be used with every executor that trains this run on it."""
    found = [(backend, name) for backend in backends.usable() for name in EXECUTORS]
    return [(b, name) for b, name in found if refusal(b, name) is None]


def refusal(backend, name):
    return executors.EXECUTORS[name].refusal(job(backends.get(backend)))


def network(backend):
    return gb.Network([N_IN, 6, 3], "tanh", dropout=0.3, backend=backend, rng=5)


def optimizer():
    return gb.Adam(gb.Cosine(0.01, EPOCHS), l2=0.01)


class Talker:
    """Says after each slice that it is done."""

    def on_slice(self, run):
        print(f"{run.epoch} {run.rows_done}".ljust(LINE), flush=True)


def train(backend, executor, callbacks=(), **options):
    """Train; returns a digest of the parameters, the history, the best epoch and the generator."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(N, N_IN)).astype("f4"), rng.integers(3, size=N)
    net = network(backend)
    history = net.fit(
        X, y, batch_size=BATCH_SIZE, epochs=EPOCHS, optimizer=optimizer(), executor=executor,
        sample_weight=np.linspace(1, 2, N), validation=(X[:40], y[:40]), early_stopping=EPOCHS,
        callbacks=callbacks, **options,
    )  # fmt: skip
    digest = hashlib.sha256(net.backend.to_numpy(net._parameters.flat).tobytes())
    numbers = (history.loss, history.validation_loss, history.learning_rate, history.best_epoch)
    digest.update(repr((numbers, net.rng.bit_generator.state, net._steps)).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    backend, executor, path = sys.argv[1:]
    if backend == "cupy":
        import conftest  # noqa: F401  # makes CuPy usable without a GPU
    pace._SLICE_SECONDS = 0.0  # as short as slices can be
    print(train(backend, executor, [Talker()], checkpoint=path, every=0, resume=True))
