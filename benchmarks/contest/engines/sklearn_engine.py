"""scikit-learn's MLPClassifier and MLPRegressor, `fit` with `warm_start`."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from contest.cells import Cell, Data
from contest.engines.base import Engine


class Sklearn(Engine):
    """Sigmoid outputs go with the log loss alone here: that is trained instead of the squared."""

    raw_epsilon = True

    @classmethod
    def refusal(cls, cell: Cell) -> str | None:
        return "it has no gelu" if cell.hidden == "gelu" else None

    @classmethod
    def loss(cls, cell: Cell) -> str:
        return "log_loss" if cell.loss == "squared" and cell.output == "sigmoid" else cell.loss

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        numbers, make = cell.output == "identity", MLPClassifier
        self.targets = data.Y.astype(np.int64) if cell.loss == "squared" else data.labels
        if numbers:
            self.targets, make = data.Y[:, 0], MLPRegressor
        hidden = "logistic" if cell.hidden == "sigmoid" else cell.hidden
        self.model = make(
            hidden_layer_sizes=cell.sizes[1:-1], activation=hidden,
            solver="adam" if cell.adam else "sgd", alpha=0.0, batch_size=cell.batch_size,
            learning_rate_init=cell.learning_rate,
            momentum=0.0, nesterovs_momentum=False, n_iter_no_change=10**9, warm_start=True,
            random_state=0,
        )  # fmt: skip
        # Once over few rows, so that there are parameters to set.
        rows = np.arange(2) if numbers else np.unique(self.targets, axis=0, return_index=True)[1]
        self._fit(data.X[rows], self.targets[rows], 1, False)
        pairs = zip(data.weights, data.biases, strict=True)
        for l, (W, b) in enumerate(pairs):
            self.model.coefs_[l][...], self.model.intercepts_[l][...] = W.T, b

    def _fit(self, X: np.ndarray, Y: np.ndarray, epochs: int, shuffle: bool) -> None:
        self.model.max_iter, self.model.shuffle = epochs, shuffle
        self.model.batch_size = min(self.cell.batch_size, len(X))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(X, Y)

    def train(self, order: np.ndarray) -> None:
        if self.cell.full:
            self._fit(self.data.X, self.targets, len(order) // self.cell.rows, False)
            return
        Y = self.targets[order]
        numbers = self.cell.output == "identity"
        if not numbers and len(np.unique(Y, axis=0)) < len(np.unique(self.targets, axis=0)):
            # `fit` wants to see every class again.
            classes = np.unique(self.targets)
            self.model.shuffle, self.model.warm_start = False, False
            for rows in self.batches(order):
                self.model.batch_size = len(rows)
                self.model.partial_fit(self.data.X[rows], self.targets[rows], classes=classes)
            self.model.warm_start = True
            return
        self._fit(self.data.X[order], Y, 1, False)

    def epochs(self, k: int, rows: int) -> None:
        try:
            self._fit(self.data.X[:rows], self.targets[:rows], k, not self.cell.full)
        except ValueError:  # not all classes among the rows
            super().epochs(k, rows)

    def parameters(self) -> list[np.ndarray]:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [p for W, b in pairs for p in (W.T, b)]
