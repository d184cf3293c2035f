"""XOR: the smallest task that needs a hidden layer.

    x1 x2   y
     0  0   0      No line separates the ones from the zeros, so that no single layer gets all four
     0  1   1      right (Minsky and Papert, "Perceptrons", 1969). A hidden layer first maps the
     1  0   1      four points to where a line does.
     1  1   0

A 2-4-1 network: tanh hidden units, a sigmoid output with log loss, batch mode. (Two hidden units
can do it as well, but get stuck from about a third of the seeds.)

Source: Rumelhart, Hinton and Williams, "Learning internal representations by error propagation",
1986.
"""

import argparse
from pathlib import Path
from typing import Any

import gpubackprop as gb

X = [[0, 0], [0, 1], [1, 0], [1, 1]]
Y = [0, 1, 1, 0]


def run(
    seed: int = 0, backend: str = "numpy", epochs: int = 300, dtype: str = "float32"
) -> dict[str, Any]:
    """Train from one seed; returns the outputs, the classes, the losses and the last trace."""
    net = gb.Network(
        [2, 4, 1], hidden="tanh", output="sigmoid", loss="log_loss",
        backend=backend, dtype=dtype, rng=seed,
    )  # fmt: skip
    optimizer = gb.SGD(0.3, momentum=0.9)
    history = net.fit(X, Y, batch_size="full", epochs=epochs, optimizer=optimizer, progress=False)
    return {
        "trace": net.trace(X, Y),
        "o": net.backend.to_numpy(net.predict(X))[:, 0],
        "classes": net.backend.to_numpy(net.predict_classes(X)),
        "loss": [*history.loss, net.loss(X, Y)],
    }


def main() -> None:
    """Print the truth table from several seeds, and what the hidden units make of the inputs."""
    parser = argparse.ArgumentParser(description="XOR, learned by a 2-4-1 network.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--html", metavar="FILE", help="write the step as a page to look at")
    options = parser.parse_args()
    runs = [run(seed, options.backend) for seed in range(5)]
    if options.html:
        Path(options.html).write_text(runs[0]["trace"].to_html(), encoding="utf-8")

    print("The output o after 300 epochs, from five seeds\n")
    print("  x1 x2   y" + "".join(f"   seed {seed}" for seed in range(5)))
    for row, ((x1, x2), y) in enumerate(zip(X, Y, strict=True)):
        outputs = "".join(f"   {numbers['o'][row]:6.4f}" for numbers in runs)
        print(f"   {x1}  {x2}   {y}{outputs}")
    right = [int((numbers["classes"] == Y).sum()) for numbers in runs]
    print("  right    " + "".join(f"   {n} of 4" for n in right))
    print("  loss     " + "".join(f"   {numbers['loss'][-1]:.4f}" for numbers in runs))
    print("\nSeed 0: one more pass, as the library does it. a[1] is what the output unit sees.\n")
    print(runs[0]["trace"])


if __name__ == "__main__":
    main()
