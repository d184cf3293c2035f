"""Four layers, 4-2-2-1: the equations layer by layer, and the gradient of one single weight.

Two hidden layers of sigmoid units and an identity output without a bias:

    z[0] = W[0] x    + b[0]        a[1] = s(z[0])        s(z) = 1 / (1 + exp(-z)),  s' = s (1 - s)
    z[1] = W[1] a[1] + b[1]        a[2] = s(z[1])
    z[2] = W[2] a[2]               o    = z[2]
    L    = (o - y)^2 / 2

(for one sample; for a batch with samples as rows, W a is written ``a @ W.T``). w22 is the weight
from the second unit of the first hidden layer to the second unit of the second: in Python, which
counts from 0, ``W[1][1, 1]``. One path alone leads from it to the loss, so the chain rule is one
product:

    dL/dw22 = dL/do * do/da[2]_2 * da[2]_2/dz[1]_2 * dz[1]_2/dw22
            = (o - y) * W[2]_12 * a[2]_2 (1 - a[2]_2) * a[1]_2

Its first three factors are delta[1]_2, so this is one entry of dW[1] = delta[1].T @ a[1].

Source of the network: Simeon Kostadinov, "Understanding backpropagation algorithm", 2019. The
numbers are ours.
"""

import argparse
from pathlib import Path
from typing import Any

import gpubackprop as gb

X, Y = [[1.0, 0.5, -1.0, 2.0]], [[1.0]]
W = [
    [[0.1, 0.2, -0.3, 0.4], [-0.5, 0.6, 0.7, 0.1]],
    [[0.3, -0.2], [0.5, 0.8]],
    [[-0.4, 0.9]],
]
B = [[0.1, -0.2], [0.05, -0.1]]


def run(backend: str = "numpy", dtype: str = "float64") -> dict[str, Any]:
    """Return the trace of one pass, the four factors, and the library's gradient of w22."""
    net = gb.Network(
        [4, 2, 2, 1], hidden="sigmoid", output="identity", loss="squared",
        bias=[True, True, False], init=W, backend=backend, dtype=dtype,
    )  # fmt: skip
    for b, values in zip(net.biases, B, strict=False):
        b[...] = net.backend.asarray(values)
    trace = net.trace(X, Y)
    a1, a2, o = trace.a[1][0, 1], trace.a[2][0, 1], trace.a[3][0, 0]
    return {
        "trace": trace,
        "o": float(o),
        "factors": [float(o - 1.0), float(trace.W[2][0, 1]), float(a2 * (1 - a2)), float(a1)],
        "gradient": float(net.gradient(X, Y).weights[1][1, 1]),
    }


def equations(trace: Any) -> list[str]:
    """Write out z and a of every unit, with the numbers put in."""
    lines = []
    for l, (W, b, a, z) in enumerate(zip(trace.W, trace.b, trace.a, trace.z, strict=False)):
        lines.append(f"  layer {l}")
        for j in range(len(W)):
            terms = [f"{w:g} * {x:.4g}" for w, x in zip(W[j], a[0], strict=True)]
            terms += [] if b is None else [f"{b[j]:g}"]
            summed = " + ".join(terms).replace("+ -", "- ")
            lines.append(f"    z[{l}]_{j + 1} = {summed} = {z[0, j]:.6f}")
            name = "s" if l < 2 else "identity"
            lines.append(
                f"    a[{l + 1}]_{j + 1} = {name}({z[0, j]:.6f}) = {trace.a[l + 1][0, j]:.6f}"
            )
    return lines


def main() -> None:
    """Print the equations with their numbers, then the chain rule for w22."""
    parser = argparse.ArgumentParser(description="A 4-2-2-1 network, layer by layer.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--html", metavar="FILE", help="write the step as a page to look at")
    options = parser.parse_args()
    numbers = run(options.backend)
    if options.html:
        Path(options.html).write_text(numbers["trace"].to_html(), encoding="utf-8")
    factors, o = numbers["factors"], numbers["o"]
    product = factors[0] * factors[1] * factors[2] * factors[3]

    print("Forward, with x = (1, 0.5, -1, 2) and y = 1\n")
    print("\n".join(equations(numbers["trace"])))
    print(f"  loss\n    L = (o - y)^2 / 2 = ({o:.6f} - 1)^2 / 2 = {numbers['trace'].loss:.6f}")
    print("\nThe gradient of w22 = W[1]_22 = 0.8 by the chain rule\n")
    meanings = (
        "dL/do           = o - y",
        "do/da[2]_2      = W[2]_12",
        "da[2]_2/dz[1]_2 = a[2]_2 (1 - a[2]_2)",
        "dz[1]_2/dw22    = a[1]_2",
    )
    for meaning, factor in zip(meanings, factors, strict=True):
        print(f"  {meaning:<38} = {factor:9.6f}")
    print(f"  {'dL/dw22         = their product':<38} = {product:9.6f}")
    print(f"  {'net.gradient(X, Y).weights[1][1, 1]':<38} = {numbers['gradient']:9.6f}")
    print("\nEverything at once, as the library prints it\n")
    print(numbers["trace"])


if __name__ == "__main__":
    main()
