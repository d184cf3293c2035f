"""Two hidden layers by hand, where not every connection exists.

One sample x = (1, 0) with y = 1; all units are sigmoid, s(z) = 1 / (1 + exp(-z)); log loss:

    h1 = s(0.5 x1 + 0.3)      h2 = s(-0.2 x1 + 0.7)      h3 = s(-0.1 x1)
    h4 = s(-0.5 h1 + 0.4 h2)                  h5 = s(0.3 h1 + 0.6 h2 + 0.4 h3)
    o  = s(0.5 h4 + 0.7 h5)                   L  = -log o

Backwards, with a' = a (1 - a):

    delta_o  = o - y                          sigmoid and log loss match: no s' here
    delta_4  = 0.5 delta_o h4'                delta_5 = 0.7 delta_o h5'
    delta_1  = (-0.5 delta_4 + 0.3 delta_5) h1'
    delta_2  = ( 0.4 delta_4 + 0.6 delta_5) h2'
    delta_3  = (               0.4 delta_5) h3'

and each weight moves by -0.5 (the learning rate) times the delta at its head times the a at its
tail. To the library the layers are full matrices: a connection that does not exist has weight 0,
and `trainable` says that it stays so.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import gpubackprop as gb

X, Y = [[1.0, 0.0]], [1.0]
W = [
    np.array([[0.5, 0.0], [-0.2, 0.0], [-0.1, 0.0]]),
    np.array([[-0.5, 0.4, 0.0], [0.3, 0.6, 0.4]]),
    np.array([[0.5, 0.7]]),
]
B0 = np.array([0.3, 0.7, 0.0])
# The parameters that exist: every other one is 0 and frozen. Layers 1 and 2 have no biases.
TRAINABLE = [w != 0 for w in W], [B0 != 0, None, None]
LEARNING_RATE = 0.5


def run(backend: str = "numpy", dtype: str = "float64") -> dict[str, Any]:
    """Do one step; returns its trace, o before and after it, and the network."""
    net = gb.Network(
        [2, 3, 2, 1], hidden="sigmoid", output="sigmoid", loss="log_loss",
        bias=[True, False, False], init=W, backend=backend, dtype=dtype,
    )  # fmt: skip
    net.biases[0][...] = net.backend.asarray(B0)
    optimizer = gb.SGD(LEARNING_RATE)
    trace = net.trace(X, Y, optimizer, trainable=TRAINABLE)
    net.step(X, Y, optimizer, trainable=TRAINABLE)
    # A widespread article with these numbers prints 0.7043 for the output after the step. That was
    # an arithmetic slip: its author later corrected it to 0.6981, which is what comes out here.
    after = float(net.predict(X)[0, 0])
    return {"trace": trace, "before": trace.a[3].item(), "after": after, "net": net}


def show(formula: str, value: float) -> None:
    """Print a line of the calculation."""
    print(f"  {formula:<66} = {value:7.4f}")


def main() -> None:
    """Print the pass forward, the deltas, the new weights and the new output."""
    parser = argparse.ArgumentParser(description="One step of a network with two hidden layers.")
    parser.add_argument("--backend", default="numpy", help="numpy or cupy")
    parser.add_argument("--html", metavar="FILE", help="write the step as a page to look at")
    options = parser.parse_args()
    numbers = run(options.backend)
    if options.html:
        Path(options.html).write_text(numbers["trace"].to_html(), encoding="utf-8")
    trace = numbers["trace"]
    (h1, h2, h3), (h4, h5), (o,) = (a[0] for a in trace.a[1:])
    (d1, d2, d3), (d4, d5), (d,) = (delta[0] for delta in trace.delta)

    print("Forward\n")
    show("h1 = s(0.5 * 1 + 0.3)", h1)
    show("h2 = s(-0.2 * 1 + 0.7)", h2)
    show("h3 = s(-0.1 * 1)", h3)
    show(f"h4 = s(-0.5 * {h1:.4f} + 0.4 * {h2:.4f})", h4)
    show(f"h5 = s(0.3 * {h1:.4f} + 0.6 * {h2:.4f} + 0.4 * {h3:.4f})", h5)
    show(f"o  = s(0.5 * {h4:.4f} + 0.7 * {h5:.4f})", o)
    show(f"L  = -log {o:.4f}", trace.loss)
    print("\nBackwards\n")
    show(f"delta_o = {o:.4f} - 1", d)
    show(f"delta_4 = 0.5 * {d:.4f} * {h4:.4f} * (1 - {h4:.4f})", d4)
    show(f"delta_5 = 0.7 * {d:.4f} * {h5:.4f} * (1 - {h5:.4f})", d5)
    show(f"delta_1 = (-0.5 * {d4:.4f} + 0.3 * {d5:.4f}) * {h1:.4f} * (1 - {h1:.4f})", d1)
    show(f"delta_2 = (0.4 * {d4:.4f} + 0.6 * {d5:.4f}) * {h2:.4f} * (1 - {h2:.4f})", d2)
    show(f"delta_3 = 0.4 * {d5:.4f} * {h3:.4f} * (1 - {h3:.4f})", d3)
    print("\nThe step, for the weights into o and the bias of h2\n")
    show(
        f"w from h4 = 0.5 - 0.5 * delta_o * h4 = 0.5 - 0.5 * {d:.4f} * {h4:.4f}",
        trace.new_W[2][0, 0],
    )
    show(
        f"w from h5 = 0.7 - 0.5 * delta_o * h5 = 0.7 - 0.5 * {d:.4f} * {h5:.4f}",
        trace.new_W[2][0, 1],
    )
    show(f"b of h2   = 0.7 - 0.5 * delta_2      = 0.7 - 0.5 * {d2:.4f}", trace.new_b[0][1])
    print(
        "\nThe whole step, as the library does it. dW has numbers where no connection exists, too;"
    )
    print("`trainable` keeps those weights at 0.\n")
    print(trace)
    print(f"\nOutput before the step {numbers['before']:.6f}, after it {numbers['after']:.6f}.")


if __name__ == "__main__":
    main()
