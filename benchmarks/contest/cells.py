"""The cells of the table: a network in a mode, its data, its float64 answer and its target."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from networks import NETWORKS, data

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
        Of `NETWORKS` and `BATCHES`.
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
        return NETWORKS[self.network][0]

    @property
    def loss(self) -> str:
        return NETWORKS[self.network][3]

    @property
    def rows(self) -> int:
        """Rows of an epoch: whole batches."""
        n = ROWS.get((self.network, self.mode), NETWORKS[self.network][4])
        return n - n % (BATCHES[self.mode] or n)

    @property
    def batch_size(self) -> int:
        return BATCHES[self.mode] or self.rows

    @property
    def full(self) -> bool:
        return self.mode == "full"

    @property
    def learning_rate(self) -> float:
        return 1e-3 if self.adam else NETWORKS[self.network][5]

    @property
    def target(self) -> float:
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
        n = CHECKED[self.mode]
        if self.full:
            return np.tile(np.arange(self.rows), n)
        return np.random.default_rng(13).permutation(self.rows)[: n * self.batch_size]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


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
    for t, i in enumerate(range(0, len(order), cell.batch_size), start=1):
        rows = order[i : i + cell.batch_size]
        for p, g, mk, vk in zip(P, _gradient(P, X[rows], Y[rows], loss), m, v, strict=True):
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


def _gradient(P: list[np.ndarray], x: np.ndarray, y: np.ndarray, loss: str) -> list[np.ndarray]:
    n_layers = len(P) // 2
    a = [x]
    for l in range(n_layers):
        z = a[-1] @ P[2 * l].T + P[2 * l + 1]
        a.append(_softmax(z) if loss == "cross_entropy" and l == n_layers - 1 else _sigmoid(z))
    delta = (a[-1] - y) / len(x)
    if loss == "squared":
        delta = delta * a[-1] * (1 - a[-1])
    gradients: list[np.ndarray] = []
    for l in reversed(range(n_layers)):
        gradients[:0] = [delta.T @ a[l], delta.sum(0)]
        delta = (delta @ P[2 * l]) * a[l] * (1 - a[l])
    return gradients


def flat(parameters: list[np.ndarray]) -> np.ndarray:
    """Join parameters."""
    return np.concatenate([np.asarray(p, np.float64).ravel() for p in parameters])


def distance(found: np.ndarray, expected: np.ndarray, start: np.ndarray) -> float:
    """Return how far parameters are from the expected ones, as a share of what those moved."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - start))


#: Every cell by its name.
CELLS = {
    cell.name: cell
    for cell in (
        *(Cell(network, mode) for network in NETWORKS for mode in BATCHES),
        Cell("784-256-128-10", "256", adam=True),
    )
}
