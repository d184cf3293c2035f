"""Handwritten digits in the three modes: batch, mini-batch and SGD.

The data are the 1,797 real images of scikit-learn's `load_digits`: 8 x 8 pixels of 0..16, here
divided by 16, and ten classes. A quarter of each class is held out and never trained on. The
network is 64-128-10, relu and softmax with cross_entropy, and a fifth of the hidden units is
dropped in each step.

The modes differ by `batch_size`, the rows of one update, and therefore in how many updates an
epoch has (1, 43 or 1,347) and how large each may be:

    W <- W - learning_rate * dW             dW is the mean gradient of the batch
    velocity <- 0.9 velocity - learning_rate * dW;  W <- W + velocity      with momentum

Batch and mini-batch mode use momentum. In mini-batch mode and in SGD, where single gradients
disagree, the learning rate falls along a cosine. Learning rates, epochs and dropout were chosen by
comparing some settings on four splits of the data, this one among them, so that the held-out
accuracy is a little flattered; other seeds give 97.3 % to 98.2 %.

Source of the data: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gpubackprop as gb

# name: batch_size, epochs, optimizer
MODES: dict[str, tuple[int | str, int, gb.Optimizer]] = {
    "batch": ("full", 200, gb.SGD(0.5, momentum=0.9)),
    "mini-batch": (32, 30, gb.SGD(gb.Cosine(0.1, epochs=30), momentum=0.9)),
    "SGD": (1, 12, gb.SGD(gb.Cosine(0.05, epochs=12))),
}


def data() -> tuple[Any, Any, Any, Any]:
    """Return images for training and held-out ones, then the labels of each."""
    digits = load_digits()
    X, Y = (digits.data / 16).astype("float32"), digits.target
    parts = train_test_split(X, Y, test_size=0.25, stratify=Y, random_state=0)
    X_train, X_test, Y_train, Y_test = parts
    return X_train, X_test, Y_train, Y_test


def run(
    mode: str, seed: int = 0, backend: str = "numpy", epochs: int | None = None
) -> dict[str, Any]:
    """Train in one mode; returns how fast it was and how many held-out images it gets right."""
    X_train, X_test, Y_train, Y_test = data()
    batch_size, usual_epochs, optimizer = MODES[mode]
    net = gb.Network(
        [64, 128, 10], hidden="relu", output="softmax", loss="cross_entropy", dropout=0.2,
        backend=backend, rng=seed,
    )  # fmt: skip
    history = net.fit(
        X_train, Y_train, batch_size=batch_size, epochs=epochs or usual_epochs, optimizer=optimizer
    )
    classes = net.backend.to_numpy(net.predict_classes(X_test))
    return {
        "epochs": len(history.epoch),
        "loss": net.loss(X_train, Y_train),
        "losses": history.loss,
        "seconds": history.seconds[-1],
        "samples_per_second": history.samples[-1] / history.seconds[-1],
        "classes": classes,
        "accuracy": float(np.mean(classes == Y_test)),
    }


def main() -> None:
    """Print a row for each mode, and the held-out images that the last one gets wrong."""
    parser = argparse.ArgumentParser(description="Handwritten digits in three modes.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    X_train, X_test, _, Y_test = data()
    print(f"{len(X_train):,} images to learn from, {len(X_test)} held out\n")
    print("  mode        batch_size  epochs  samples/s  seconds     loss  held-out accuracy")
    for mode, (batch_size, _, _) in MODES.items():
        numbers = run(mode, options.seed, options.backend)
        print(
            f"  {mode:<10}  {batch_size:>10}  {numbers['epochs']:>6}  "
            f"{numbers['samples_per_second']:>9,.0f}  {numbers['seconds']:>7.2f}  "
            f"{numbers['loss']:>7.4f}  {numbers['accuracy']:>16.1%}"
        )
    print("\nThe loss is that of the images learnt from, after training, without dropout.")
    wrong = np.flatnonzero(numbers["classes"] != Y_test)
    print(f"\n{mode} gets {len(wrong)} of {len(Y_test)} held-out images wrong; three of them:\n")
    shades = np.array(list(" .:*#"))
    pictures = [shades[np.rint(X_test[i].reshape(8, 8) * 4).astype(int)] for i in wrong[:3]]
    for y in range(8):
        row = "".join("     " + "".join(2 * shade for shade in p[y]) for p in pictures)
        print(row.rstrip())
    captions = [f"a {Y_test[i]}, taken for a {numbers['classes'][i]}" for i in wrong[:3]]
    print("".join(f"     {caption:<16}" for caption in captions).rstrip())


if __name__ == "__main__":
    main()
