"""Activations and losses as SciPy, scikit-learn and the textbooks define them, in float64.

Whole arrays at once; f' is not here, because the tests take it from central differences of f.
"""

import numpy as np
from scipy import special

#: f(z) of the elementwise activations.
ACTIVATION = {
    "identity": lambda z: z,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "leaky_relu": lambda z: np.maximum(z, 0.01 * z),
    "elu": lambda z: np.maximum(z, 0.0) + np.expm1(np.minimum(z, 0.0)),
    "softplus": lambda z: np.logaddexp(z, 0.0),
    "silu": lambda z: z * special.expit(z),
    "gelu": lambda z: z * special.ndtr(z),
    "exp": np.exp,
}
#: f'(0), from the definitions; at a kink the value from the left or the right that is documented.
SLOPE_AT_0 = {
    "identity": 1.0,
    "sigmoid": 0.25,
    "tanh": 1.0,
    "relu": 0.0,
    "leaky_relu": 1.0,
    "elu": 1.0,
    "softplus": 0.5,
    "silu": 0.5,
    "gelu": 0.5,
    "exp": 1.0,
}

#: Loss of each output; cross_entropy's terms sum to the sample's loss.
LOSS = {
    "squared": lambda o, y: (o - y) ** 2 / 2,
    "log_loss": lambda o, y: -special.xlogy(y, o) - special.xlog1py(1 - y, -o),
    "cross_entropy": lambda o, y: -special.xlogy(y, o),
    "poisson": lambda o, y: special.kl_div(y, o),
    "absolute": lambda o, y: np.abs(o - y),
    "huber": lambda o, y: special.huber(1.0, o - y),
    "quantile": lambda o, y: np.maximum(0.5 * (y - o), -0.5 * (y - o)),
}
#: Logarithm of the outputs where o itself may round to 0 or 1, and the loss written with it.
FROM_Z = {
    ("sigmoid", "log_loss"): lambda z, y: (
        -y * special.log_expit(z) - (1 - y) * special.log_expit(-z)
    ),
    ("exp", "poisson"): lambda z, y: special.xlogy(y, y) - y * z - y + np.exp(z),
    ("softmax", "cross_entropy"): lambda z, y: -y * special.log_softmax(z, axis=1),
}


def outputs(activation, z):
    """Return o = f(z), row by row for softmax."""
    return special.softmax(z, axis=1) if activation == "softmax" else ACTIVATION[activation](z)


def terms(activation, loss, z, y):
    """Return the loss of each output, of shape (n, n_out)."""
    if (activation, loss) in FROM_Z:
        return FROM_Z[activation, loss](z, y)
    return LOSS[loss](outputs(activation, z), y)


def slope(f, z, h=1e-5):
    """Return the slope of an elementwise f by central differences of fourth order, to 1e-10."""
    return (8 * (f(z + h) - f(z - h)) - (f(z + 2 * h) - f(z - 2 * h))) / (12 * h)


def delta(activation, loss, z, y):
    """Return d(sum of a row's terms)/dz by central differences, for every row at once."""
    columns = []
    for k in range(z.shape[1]):
        one = np.eye(z.shape[1])[k]
        columns.append(
            slope(lambda t: terms(activation, loss, z + t * one, y).sum(axis=1), np.zeros(()))  # noqa: B023
        )
    return np.stack(columns, axis=1)
