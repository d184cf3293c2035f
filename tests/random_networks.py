"""Small random networks with data, for tests: every activation, loss and allowed pair appears."""

import itertools

import numpy as np

import gpubackprop as gb

HIDDEN = tuple(name for name, entry in gb.ACTIVATIONS.items() if entry.elementwise)


def allowed_pairs():
    """Return every (output activation, loss) that DESIGN.md allows."""
    anything = itertools.product(HIDDEN, ("squared", "absolute", "huber", "quantile"))
    special = [
        ("sigmoid", "log_loss"),
        ("softmax", "cross_entropy"),
        ("softmax", "squared"),
        ("exp", "poisson"),
        ("softplus", "poisson"),
    ]
    return [*anything, *special]


def targets(loss, n_rows, n_out, rng):
    """Return targets that suit a loss, of shape (n_rows, n_out)."""
    if loss == "log_loss":
        return rng.uniform(size=(n_rows, n_out)).round(rng.integers(2))
    if loss == "cross_entropy":
        return np.eye(n_out)[rng.integers(n_out, size=n_rows)]
    if loss == "poisson":
        return rng.poisson(1.5, size=(n_rows, n_out)).astype(float)
    return rng.normal(size=(n_rows, n_out))


def random_network(i, backend="numpy"):
    """Return the i-th of the random networks, and keyword arguments X, Y, sample_weight.

    Network i has the i-th pair in turn; weights, dropout and biases are there in some.
    """
    rng = np.random.default_rng([20261124, i])
    pairs = allowed_pairs()
    output, loss = pairs[i % len(pairs)]
    sizes = [int(n) for n in rng.integers(1, 7, size=rng.integers(2, 6))]
    if output == "softmax":
        sizes[-1] = max(sizes[-1], 2)
    n_hidden = len(sizes) - 2
    hidden = [HIDDEN[(i + 3 * l) % len(HIDDEN)] for l in range(n_hidden)]
    dropout = rng.choice([0.0, 0.3, 0.5], size=n_hidden).tolist() if i % 3 == 0 else 0.0
    # Layers without biases use other kernels, so only one network in five has any.
    bias = bool(i % 5)
    net = gb.Network(
        sizes,
        hidden,
        output,
        loss,
        dropout=dropout,
        bias=bias,
        backend=backend,
        dtype="float64",
        rng=i,
    )
    for array in [*net.weights, *(b for b in net.biases if b is not None)]:
        # Nothing saturates or explodes: differences of losses would have few digits left.
        scale = 0.3 if array.ndim == 1 else 0.8 * array.shape[1] ** -0.5
        net.backend.upload(rng.normal(scale=scale, size=array.shape), array)
    n_rows = int(rng.integers(1, 5))
    data = {
        "X": rng.uniform(-1, 1, size=(n_rows, sizes[0])),
        "Y": targets(loss, n_rows, sizes[-1], rng),
        "sample_weight": rng.uniform(0, 2, size=n_rows) if i % 2 else None,
    }
    return net, data
