"""The cells of the table: a network in a mode, its data, its float64 answer and its target."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from networks import NETWORKS, data, network
from scipy.special import erf

#: Rows of an update by the mode's short name.
BATCHES = {"sgd": 1, "32": 32, "256": 256, "full": None}
#: Rows of an epoch where it is not the network's own number: fewer where an update for each row
#: takes long, more where an epoch would be over in 0.1 ms.
ROWS = {
    **{("4-4-4-1", mode): 16384 for mode in BATCHES},
    ("784-30-10", "sgd"): 2000,
    ("784-256-128-10", "sgd"): 1024,
    ("784-256-128-10", "full"): 8192,
    ("1024-2048-2048-10", "sgd"): 256,
    ("1024-2048-2048-10", "32"): 1024,
    ("1024-2048-2048-10", "256"): 1024,
}
#: What we aim at: samples/s over those of the best peer.
TARGETS = {
    "4-4-4-1": {"sgd": 10, "32": 12, "256": 6, "full": 4},
    "784-30-10": {"sgd": 12, "32": 2.0, "256": 1.6, "full": 1.3},
    "784-256-128-10": {"sgd": 6.5, "32": 1.5, "256": 1.25, "full": 1.25},
    "1024-2048-2048-10": {"sgd": 2.0, "32": 1.3, "256": 1.15, "full": 1.1},
}
ADAM_TARGET = 1.2
#: Over FANN, which does nothing but SGD by one sample, in C; the others are for all other peers.
FANN_TARGETS = {"4-4-4-1/sgd": 2.5}
#: Updates after which all must agree with float64.
CHECKED = {"sgd": 32, "32": 3, "256": 3, "full": 2}
#: How far from float64 the parameters may be after them, as a share of what they moved.
AGREEMENT = 3e-3


class Data(NamedTuple):
    """X, one-hot (or 0/1) Y, class numbers, and where training starts."""

    X: np.ndarray
    Y: np.ndarray
    labels: np.ndarray
    weights: list[np.ndarray]
    biases: list[np.ndarray]


@dataclass(frozen=True)
class Cell:
    """A network, a mode and an optimiser.

    Attributes
    ----------
    network, mode : str
        Of `networks.network` and `BATCHES`, or rows of an update.
    adam : bool
        Adam, else plain SGD.
    """

    network: str
    mode: str
    adam: bool = False

    @property
    def name(self) -> str:
        return f"{self.network}/{self.mode}" + ("/adam" if self.adam else "")

    @property
    def sizes(self) -> list[int]:
        return network(self.network)[0]

    @property
    def hidden(self) -> str:
        return network(self.network)[1]

    @property
    def output(self) -> str:
        return network(self.network)[2]

    @property
    def loss(self) -> str:
        return network(self.network)[3]

    @property
    def rows(self) -> int:
        """Rows of an epoch: whole batches."""
        n = ROWS.get((self.network, self.mode), network(self.network)[4])
        return n - n % (self._batch or n)

    @property
    def batch_size(self) -> int:
        return self._batch or self.rows

    @property
    def _batch(self) -> int | None:
        return BATCHES[self.mode] if self.mode in BATCHES else int(self.mode)

    @property
    def full(self) -> bool:
        return self.mode == "full"

    @property
    def learning_rate(self) -> float:
        return 1e-3 if self.adam else network(self.network)[5]

    @property
    def target(self) -> float:
        """0 where there is none."""
        if self.network not in TARGETS:
            return 0.0
        return ADAM_TARGET if self.adam else TARGETS[self.network][self.mode]

    @property
    def fann_target(self) -> float:
        """What counts over FANN: 0 where the other target counts for it, too."""
        return FANN_TARGETS.get(self.name, 0.0)

    def data(self) -> Data:
        """Draw data and initial parameters: the same in every process."""
        X, Y = data(self.network, self.rows)
        rng = np.random.default_rng(11)
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        weights = [rng.standard_normal(s).astype(np.float32) / np.sqrt(s[1]) for s in shapes]
        biases = [(0.1 * rng.standard_normal(m)).astype(np.float32) for m, _ in shapes]
        labels = (Y[:, 0] > 0.5) if Y.shape[1] == 1 else Y.argmax(1)
        weights = [W.astype(np.float32) for W in weights]
        return Data(X, Y, labels.astype(np.int64), weights, biases)

    def checked_order(self) -> np.ndarray:
        """Return the rows of the updates that are checked."""
        n = CHECKED.get(self.mode, 3)
        if self.full:
            return np.tile(np.arange(self.rows), n)
        return np.random.default_rng(13).permutation(self.rows)[: n * self.batch_size]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _gelu_slope(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + erf(z / np.sqrt(2))) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)


#: Activations and their derivatives.
_UNITS = {
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "gelu": (lambda z: 0.5 * z * (1 + erf(z / np.sqrt(2))), _gelu_slope),
    "identity": (lambda z: z, np.ones_like),
}


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def reference(
    cell: Cell, data: Data, order: np.ndarray, loss: str, raw_epsilon: bool = False
) -> np.ndarray:
    """Train in float64 by the textbook; return all parameters, W and b of each layer in turn.

    With `raw_epsilon` Adam's epsilon is added before the bias correction, as some libraries do.
    """
    X, Y = data.X.astype(np.float64), data.Y.astype(np.float64)
    P = [p.astype(np.float64) for pair in zip(data.weights, data.biases, strict=True) for p in pair]
    m, v = [np.zeros_like(p) for p in P], [np.zeros_like(p) for p in P]
    units = cell.hidden, cell.output
    for t, i in enumerate(range(0, len(order), cell.batch_size), start=1):
        rows = order[i : i + cell.batch_size]
        for p, g, mk, vk in zip(P, _gradient(P, X[rows], Y[rows], loss, units), m, v, strict=True):
            if cell.adam:
                mk += 0.1 * (g - mk)
                vk += 0.001 * (g * g - vk)
                correction = np.sqrt(1 - 0.999**t)
                epsilon = 1e-8 if raw_epsilon else 1e-8 * correction
                g = correction / (1 - 0.9**t) * mk / (np.sqrt(vk) + epsilon)
            p -= cell.learning_rate * g
    return flat(P)


def answer_name(loss: str, raw_epsilon: bool) -> str:
    """Return the file of a reference."""
    return f"{loss}-raw-epsilon.npy" if raw_epsilon else f"{loss}.npy"


def _gradient(
    P: list[np.ndarray], x: np.ndarray, y: np.ndarray, loss: str, units: tuple[str, str]
) -> list[np.ndarray]:
    n_layers, (hidden, output) = len(P) // 2, units
    a, z = [x], [x]
    for l in range(n_layers):
        z.append(a[-1] @ P[2 * l].T + P[2 * l + 1])
        kind = hidden if l < n_layers - 1 else output
        a.append(_softmax(z[-1]) if kind == "softmax" else _UNITS[kind][0](z[-1]))
    delta = (a[-1] - y) / len(x)
    if loss == "squared":
        delta = delta * _UNITS[output][1](z[-1])
    gradients: list[np.ndarray] = []
    for l in reversed(range(n_layers)):
        gradients[:0] = [delta.T @ a[l], delta.sum(0)]
        if l > 0:
            delta = (delta @ P[2 * l]) * _UNITS[hidden][1](z[l])
    return gradients


def flat(parameters: list[np.ndarray]) -> np.ndarray:
    """Join parameters."""
    return np.concatenate([np.asarray(p, np.float64).ravel() for p in parameters])


def distance(found: np.ndarray, expected: np.ndarray, start: np.ndarray) -> float:
    """Return how far parameters are from the expected ones, as a share of what those moved."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - start))


def _by_name(*cells: Cell) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells}


#: The cells that have targets, by their names.
TARGET_CELLS = _by_name(
    *(Cell(name, mode) for name in NETWORKS for mode in BATCHES),
    Cell("784-256-128-10", "256", adam=True),
)
#: Others: batches of all sizes, both optimisers.
SHAPE_CELLS = _by_name(
    *(Cell("64-64-64-10 relu", rows) for rows in ("sgd", "2", "4", "8")),
    Cell("64-64-64-10 relu", "sgd", adam=True),
    Cell("784-100-10 relu", "10"),
    Cell("784-800-10 relu", "100"),
    Cell("784-512-256-10 relu", "4"),
    Cell("3072-256-10 relu", "128"),
    *(Cell(name, rows, adam=True) for name, rows in (
        ("30-16-1 relu", "32"), ("8-100-1 relu", "200"), ("13-64-64-1 relu", "8"),
        ("13-64-64-1 relu", "32"), ("20-100-100-1 gelu", "32"), ("20-100-100-1 tanh", "2048"),
        ("10-512-512-1 tanh", "1024"), ("20-64-32-4 relu", "128"), ("64-100-10 relu", "200"),
        ("64-64-64-64-64-64-64-10 relu", "64"), ("784-100-10 relu", "64"),
        ("784-512-256-10 relu", "16"), ("784-512-256-10 relu", "128"),
        ("100-200-1000 relu", "128"),
    )),
)  # fmt: skip
CELLS = {**TARGET_CELLS, **SHAPE_CELLS}
