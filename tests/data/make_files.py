"""How the files in this folder were made. They are never written again: each stays what the version
of its name wrote, and every later version must read it.

    PYTHONPATH=. python tests/data/make_files.py FOLDER
"""

import sys
import warnings
from pathlib import Path

import numpy as np

import gpubackprop as gb
from gpubackprop import pace

SOFTSIGN = gb.Activation("softsign", f="z / (c + fabs(z))", df="(1 - fabs(a)) ** 2", c=1.0)
QUARTIC = gb.Loss("quartic", f="k * (o - y) ** 4", df="4 * k * (o - y) ** 3", k=0.25)

#: Seven rows of three inputs, exact in float32.
X = (np.arange(21).reshape(7, 3) - 10) / 8


def classifier() -> gb.Network:
    """Return one with dropout, a layer without biases, labels, names and a preprocessing."""
    net = gb.Network(
        [3, 5, 4, 3],
        [gb.ACTIVATIONS["leaky_relu"](slope=0.25), "gelu"],
        bias=[True, False, True],
        dropout=[0.0, 0.25],
        backend="numpy",
        rng=1,
    )
    net.schema = gb.Schema(
        labels=["ja", "nein", "vielleicht é"],
        feature_names=["width", "height", "größe"],
        preprocessing='{"made by": "the test"}',
    )
    return net


def of_own_formulas() -> gb.Network:
    """Return one in float64 with an activation and a loss that are in no table."""
    return gb.Network(
        [3, 4, 2], SOFTSIGN, SOFTSIGN, QUARTIC, backend="numpy", dtype="float64", rng=2
    )


#: Networks by their files' names.
NETWORKS = {"classifier": classifier, "own_formulas": of_own_formulas}


class CutError(Exception):
    """What ends the run of the checkpoint."""


class Cut:
    """A callback that ends a run in the middle of its second epoch."""

    def on_slice(self, run) -> None:
        if (run.epoch, run.rows_done) == (1, 96):
            raise CutError


def resumable(rng: int) -> gb.Network:
    """Return the network of the checkpoint, but for its numbers."""
    return gb.Network([2048, 2, 3], "tanh", dropout=0.25, backend="numpy", rng=rng)


def train(net: gb.Network, **options) -> gb.History:
    """Train as the run of the checkpoint does, slice by slice of 32 rows."""
    rows = (np.arange(150 * 2048).reshape(150, 2048) * 7 % 64 - 32) / 512
    return net.fit(
        rows, np.arange(150) % 3, batch_size=16, epochs=3,
        optimizer=gb.Adam(gb.OnPlateau(0.01, patience=0), l2=0.001), early_stopping=2, **options,
    )  # fmt: skip


def checkpoint(folder: Path) -> None:
    """Write a checkpoint, and the parameters in which the run ends."""
    pace._SLICE_SECONDS = 0.0
    try:
        train(resumable(3), checkpoint=folder / "checkpoint-1.ckpt", every=0, callbacks=[Cut()])
    except CutError:
        net = resumable(3)
        train(net)
        np.save(folder / "checkpoint-1.weights.npy", net.weights[1])


def estimator() -> object:
    """Return a fitted classifier."""
    from gpubackprop.sklearn import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPClassifier(
            (4,), "gelu", solver=gb.SGD(gb.Step(0.1, 2), momentum=0.5), max_iter=3, random_state=0
        ).fit(X, np.array(["a", "b", "c", "b", "a", "c", "b"]))


def main(folder: Path) -> None:
    for name, make in NETWORKS.items():
        net = make()
        net.save(folder / f"{name}-1.safetensors")
        np.save(folder / f"{name}-1.outputs.npy", net.predict(X))
    made = estimator()
    made.save(folder / "estimator-1.safetensors")
    np.save(folder / "estimator-1.outputs.npy", made.predict_proba(X))
    checkpoint(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
