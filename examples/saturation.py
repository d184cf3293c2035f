"""Saturation: why a badly wrong neuron may learn slowly.

One sigmoid neuron is to turn the input 1 into 0. Quadratic cost, one sample:

    z = w x + b        a = s(z) = 1 / (1 + exp(-z))        C = (a - y)^2 / 2
    delta = (a - y) a (1 - a)        dC/dw = delta x        dC/db = delta

The factor a (1 - a) is s'(z): near 1/4 where s is steep, near 0 where it is flat. From w = 0.6,
b = 0.9 the neuron learns at once; from w = b = 2 it is more wrong, and yet for over a hundred
steps it hardly moves.

With log loss s' cancels out of delta, which is then a - y: the more wrong, the faster. That is
what "matched" means of sigmoid and log loss.

Source: Michael Nielsen, "Neural networks and deep learning", chapter 3, 2015.
"""

import argparse
from pathlib import Path
from typing import Any

import gpubackprop as gb

X, Y = [[1.0]], [[0.0]]
LEARNING_RATE = 0.15
STEPS = 300


def run(
    w: float,
    b: float,
    loss: str = "squared",
    backend: str = "numpy",
    steps: int = STEPS,
    dtype: str = "float64",
) -> dict[str, Any]:
    """Train from (w, b); returns a and delta before each step and at the end."""
    net = gb.Network(
        [1, 1], output="sigmoid", loss=loss, init=[[[w]]], backend=backend, dtype=dtype
    )
    net.biases[0][...] = b
    optimizer = gb.SGD(LEARNING_RATE)
    traces = []
    for _ in range(steps):
        traces.append(net.trace(X, Y))
        net.step(X, Y, optimizer)
    traces.append(net.trace(X, Y))
    return {
        "first": traces[0],
        "a": [trace.a[1].item() for trace in traces],
        "delta": [trace.delta[0].item() for trace in traces],
        "w": float(net.weights[0][0, 0]),
        "b": float(net.biases[0][0]),
    }


def main() -> None:
    """Print the first step of the slow run, then both runs side by side, then the cure."""
    parser = argparse.ArgumentParser(description="A sigmoid neuron that saturates.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--html", metavar="FILE", help="write the step as a page to look at")
    options = parser.parse_args()
    backend = options.backend
    fast, slow = run(0.6, 0.9, backend=backend), run(2.0, 2.0, backend=backend)
    cured = run(2.0, 2.0, "log_loss", backend=backend)
    if options.html:
        Path(options.html).write_text(slow["first"].to_html(), encoding="utf-8")

    print("The first pass from w = b = 2\n")
    print(slow["first"])
    print(f"\n{STEPS} steps with learning rate {LEARNING_RATE}; the wanted output is 0\n")
    print("          from w = 0.6, b = 0.9         from w = b = 2              the same, log loss")
    print("  step    a   a(1-a)    delta       a   a(1-a)    delta        a    delta = a - y")
    for step in (0, 10, 25, 50, 100, 150, 200, 250, STEPS):
        line = f"  {step:4d}"
        for numbers in (fast, slow):
            a, delta = numbers["a"][step], numbers["delta"][step]
            line += f"  {a:.2f}   {a * (1 - a):.3f}   {delta:7.4f}   "
        print(f"{line}   {cured['a'][step]:.2f}    {cured['delta'][step]:7.4f}")
    for name, numbers in (("w = 0.6, b = 0.9", fast), ("w = b = 2", slow)):
        print(f"\nFrom {name}: a = {numbers['a'][0]:.2f} -> {numbers['a'][-1]:.2f}", end="")
        print(f", w = {numbers['w']:.4f}, b = {numbers['b']:.4f}", end="")
    print()


if __name__ == "__main__":
    main()
