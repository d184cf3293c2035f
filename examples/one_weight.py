"""One weight: gradient descent with nothing left out.

A network of one connection, without a bias and with identity output:

    z = w x          a = z
    C = (a - y) ** 2                    the cost, without the usual factor 1/2
    dC/dw = dC/da * da/dz * dz/dw = 2 (a - y) * 1 * x
    w <- w - learning_rate * dC/dw

With x = 1.5, y = 0.5, w = 0.8 and learning_rate = 0.1 each step is w <- 0.55 w + 0.15, whose fixed
point, w = 1/3, is where the cost is 0: there w x = 0.5.

The library's squared loss carries the 1/2, so this example brings a loss of its own: two formulas,
in terms of the output ``o`` (the a above) and the target ``y``.

Source: Mikael Laine, "The absolutely simplest neural network backpropagation example".
"""

import argparse
from pathlib import Path
from typing import Any

import gpubackprop as gb

SQUARED_WITHOUT_HALF = gb.Loss("squared_without_half", f="(o - y) ** 2", df="2 * (o - y)")

X, Y = [[1.5]], [[0.5]]
LEARNING_RATE = 0.1


def run(backend: str = "numpy", steps: int = 20, dtype: str = "float64") -> dict[str, Any]:
    """Do some steps; returns the numbers of the first, and w and C before and after each."""
    net = gb.Network(
        [1, 1], output="identity", loss=SQUARED_WITHOUT_HALF, bias=False, init=[[[0.8]]],
        backend=backend, dtype=dtype,
    )  # fmt: skip
    optimizer = gb.SGD(LEARNING_RATE)
    trace = net.trace(X, Y, optimizer)
    w, cost = [float(net.weights[0][0, 0])], []
    for _ in range(steps):
        cost.append(net.step(X, Y, optimizer))
        w.append(float(net.weights[0][0, 0]))
    cost.append(net.loss(X, Y))
    return {"trace": trace, "a": trace.a[1].item(), "dw": trace.dW[0].item(), "w": w, "cost": cost}


def main() -> None:
    """Print the first step by hand and by `trace`, then the weights on their way to 1/3."""
    parser = argparse.ArgumentParser(description="Gradient descent on one weight.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--html", metavar="FILE", help="write the step as a page to look at")
    options = parser.parse_args()
    numbers = run(options.backend)
    if options.html:
        Path(options.html).write_text(numbers["trace"].to_html(), encoding="utf-8")
    a, dw, w, cost = (numbers[name] for name in ("a", "dw", "w", "cost"))

    print("The first step by hand\n")
    print(f"  a     = w x             = 0.8 * 1.5               = {a:.6g}")
    print(f"  C     = (a - y)^2       = (1.2 - 0.5)^2           = {cost[0]:.6g}")
    print(f"  dC/dw = 2 (a - y) x     = 2 * 0.7 * 1.5           = {dw:.6g}")
    print(f"  w     = w - 0.1 dC/dw   = 0.8 - 0.1 * 2.1         = {w[1]:.6g}")
    print("\nThe same step, as the library does it\n")
    print(numbers["trace"])
    print("\nTwenty steps: w goes to 1/3, where w x = 0.5 = y\n")
    print("  step           w           C      w - 1/3")
    for step, (weight, c) in enumerate(zip(w, cost, strict=True)):
        if step < 6 or step % 5 == 0:
            print(f"  {step:4d}  {weight:10.8f}  {c:10.3e}   {weight - 1 / 3:10.3e}")
    print("\nEach step multiplies w - 1/3 by 1 - 2 * 0.1 * 1.5^2 = 0.55.")


if __name__ == "__main__":
    main()
