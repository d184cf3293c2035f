"""How the files in this folder were made. They are never written again: each stays what the version
of its name wrote, and every later version must read it.

    PYTHONPATH=. python tests/data/make_files.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np

import gpubackprop as gb

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


def main(folder: Path) -> None:
    for name, make in NETWORKS.items():
        net = make()
        net.save(folder / f"{name}-1.safetensors")
        np.save(folder / f"{name}-1.outputs.npy", net.predict(X))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
