"""The 2-2-2 network of Matt Mazur's "A step by step backpropagation example".

Two inputs, two hidden and two output units, all sigmoid; one sample; squared loss:

    z[0] = W[0] x    + b[0]      a[1] = s(z[0])      s(z) = 1 / (1 + exp(-z)),  s' = s (1 - s)
    z[1] = W[1] a[1] + b[1]      o    = s(z[1])      E    = ((y1 - o1)^2 + (y2 - o2)^2) / 2

    delta[1] = (o - y) o (1 - o)                  dW[1] = delta[1].T @ a[1]
    delta[0] = (delta[1] @ W[1]) a[1] (1 - a[1])  dW[0] = delta[0].T @ x

The article's w1..w4 are W[0] row by row and w5..w8 are W[1]. It leaves the biases as they are;
here `trainable` says so.

Source: https://mattmazur.com/2015/03/17/a-step-by-step-backpropagation-example/
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import gpubackprop as gb

X, Y = [[0.05, 0.10]], [[0.01, 0.99]]
W = [[[0.15, 0.20], [0.25, 0.30]], [[0.40, 0.45], [0.50, 0.55]]]
B = [0.35, 0.60]
WEIGHTS_ONLY = None, [False, False]  # trainable: all weights, no bias
LEARNING_RATE = 0.5


def run(backend: str = "numpy", rounds: int = 10_000, dtype: str = "float64") -> dict[str, Any]:
    """Do `rounds` steps; returns the trace of the first and the errors after 1 and after all."""
    net = gb.Network(
        [2, 2, 2], hidden="sigmoid", output="sigmoid", loss="squared",
        init=W, backend=backend, dtype=dtype,
    )  # fmt: skip
    for b, value in zip(net.biases, B, strict=True):
        b[...] = value
    optimizer = gb.SGD(LEARNING_RATE)
    trace = net.trace(X, Y, optimizer, trainable=WEIGHTS_ONLY)
    net.step(X, Y, optimizer, trainable=WEIGHTS_ONLY)
    error_after_1 = net.loss(X, Y)
    net.fit(
        X, Y, batch_size="full", epochs=rounds - 1, optimizer=optimizer, trainable=WEIGHTS_ONLY,
        progress=False,
    )  # fmt: skip
    return {
        "trace": trace,
        "o": trace.a[2][0],
        "error": trace.loss,
        "dw5": float(trace.dW[1][0, 0]),
        "new_w": np.concatenate([new.ravel() for new in trace.new_W]),
        "error_after_1": error_after_1,
        "error_after_all": net.loss(X, Y),
        "o_after_all": net.backend.to_numpy(net.predict(X))[0],
    }


def main() -> None:
    """Print the article's numbers in its order, then the whole step."""
    parser = argparse.ArgumentParser(description="Mazur's worked example.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--html", metavar="FILE", help="write the step as a page to look at")
    parser.add_argument("--rounds", type=int, default=10_000, help="steps in all, >= 2")
    options = parser.parse_args()
    numbers = run(options.backend, options.rounds)
    if options.html:
        Path(options.html).write_text(numbers["trace"].to_html(), encoding="utf-8")
    trace = numbers["trace"]
    o1, a1, delta = numbers["o"][0], trace.a[1][0, 0], trace.delta[1][0, 0]

    print("The outputs and the error\n")
    print(f"  o = {o1:.9f}  {numbers['o'][1]:.9f}")
    print(f"  E = {numbers['error']:.9f}")
    print("\nThe gradient of w5 = 0.40, which leads from hidden unit 1 to output 1\n")
    print(f"  dE/do1   = o1 - y1       = {o1 - 0.01:.9f}")
    print(f"  do1/dz1  = o1 (1 - o1)   = {o1 * (1 - o1):.9f}")
    print(f"  dz1/dw5  = a[1]_1        = {a1:.9f}")
    print(f"  dE/dw5   = their product = {numbers['dw5']:.9f}")
    print(f"  the first two together   = {delta:.9f} = delta[1]_1")
    print(f"  new w5   = 0.40 - 0.5 * {numbers['dw5']:.9f} = {numbers['new_w'][4]:.9f}")
    print("\nAll weights after one step\n")
    for i, w in enumerate(numbers["new_w"], start=1):
        print(f"  w{i} = {w:.9f}")
    print("\nThe error\n")
    print(f"  at first              {numbers['error']:.9f}")
    print(f"  after 1 step          {numbers['error_after_1']:.9f}")
    o = "  ".join(f"{value:.9f}" for value in numbers["o_after_all"])
    print(f"  after {options.rounds:,} steps    {numbers['error_after_all']:.10f}   (o = {o})")
    print("\nThe whole first step, as the library does it\n")
    print(trace)


if __name__ == "__main__":
    main()
