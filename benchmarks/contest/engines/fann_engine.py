"""FANN, the C library, by ctypes: `fann_train_epoch` over a table of rows."""

import ctypes
import ctypes.util
from typing import Any

import numpy as np

from contest.cells import Cell, Data
from contest.engines.base import Engine

_INCREMENTAL, _BATCH, _SIGMOID, _LINEAR_ERROR = 0, 1, 3, 0


class _Table(ctypes.Structure):
    """fann_train_data."""

    _fields_ = [
        ("errno", ctypes.c_int), ("log", ctypes.c_void_p), ("text", ctypes.c_char_p),
        ("n", ctypes.c_uint), ("n_in", ctypes.c_uint), ("n_out", ctypes.c_uint),
        ("x", ctypes.c_void_p), ("y", ctypes.c_void_p),
    ]  # fmt: skip


_CONNECTION = np.dtype([("source", np.uint32), ("target", np.uint32), ("weight", np.float32)])


def _library() -> Any:
    name = ctypes.util.find_library("floatfann")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.fann_create_standard_array.restype = ctypes.c_void_p
    library.fann_train_epoch.restype = ctypes.c_float
    library.fann_set_learning_rate.argtypes = [ctypes.c_void_p, ctypes.c_float]
    return library


_LIBRARY = _library()


class Fann(Engine):
    """Sigmoid layers and the squared loss: the exact sigmoid, not the default's table of six."""

    @classmethod
    def refusal(cls, cell: Cell) -> str | None:
        if _LIBRARY is None:
            return "the library is not installed: apt-get install libfann2"
        reason = super().refusal(cell)
        if reason is not None:
            return reason
        if cell.loss == "cross_entropy":
            return "it has no softmax"
        if cell.mode not in ("sgd", "full"):
            return "it has no mini-batches"
        return None

    @classmethod
    def loss(cls, cell: Cell) -> str:
        return "squared"

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        sizes = (ctypes.c_uint * len(cell.sizes))(*cell.sizes)
        self.net = ctypes.c_void_p(_LIBRARY.fann_create_standard_array(len(sizes), sizes))
        _LIBRARY.fann_set_learning_rate(self.net, cell.learning_rate)
        _LIBRARY.fann_set_training_algorithm(self.net, _BATCH if cell.full else _INCREMENTAL)
        _LIBRARY.fann_set_activation_function_hidden(self.net, _SIGMOID)
        _LIBRARY.fann_set_activation_function_output(self.net, _SIGMOID)
        _LIBRARY.fann_set_train_error_function(self.net, _LINEAR_ERROR)
        self.X, self.Y = np.ascontiguousarray(data.X), np.ascontiguousarray(data.Y)
        self._set_weights()

    def _connections(self) -> np.ndarray:
        n = _LIBRARY.fann_get_total_connections(self.net)
        found = np.empty(n, _CONNECTION)
        _LIBRARY.fann_get_connection_array(self.net, ctypes.c_void_p(found.ctypes.data))
        return found

    def _places(self, connections: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return (layer, connections, sorted) of each layer: W's rows with b behind."""
        places, first = [], 0
        for l, (n, m) in enumerate(zip(self.cell.sizes, self.cell.sizes[1:], strict=False)):
            # Neurons are numbered layer by layer; the last of a layer is its bias.
            own = np.flatnonzero(
                (connections["source"] >= first) & (connections["source"] <= first + n)
            )
            order = np.lexsort((connections["source"][own], connections["target"][own]))
            places.append((l, own[order], np.array([m, n + 1])))
            first += n + 1
        return places

    def _set_weights(self) -> None:
        connections = self._connections()
        for l, own, _ in self._places(connections):
            W, b = self.data.weights[l], self.data.biases[l]
            connections["weight"][own] = np.hstack([W, b[:, None]]).ravel()
        address = ctypes.c_void_p(connections.ctypes.data)
        _LIBRARY.fann_set_weight_array(self.net, address, len(connections))

    def train(self, order: np.ndarray) -> None:
        repeats = len(order) // self.cell.rows if self.cell.full else 1
        rows = order[: self.cell.rows] if self.cell.full else order
        tables = [
            (array.ctypes.data + rows * array.strides[0]).astype(np.uint64)
            for array in (self.X, self.Y)
        ]
        data = _Table(
            0, None, None, len(rows), self.X.shape[1], self.Y.shape[1],
            tables[0].ctypes.data, tables[1].ctypes.data,
        )  # fmt: skip
        for _ in range(repeats):
            _LIBRARY.fann_train_epoch(self.net, ctypes.byref(data))

    def parameters(self) -> list[np.ndarray]:
        connections = self._connections()
        found = []
        for _, own, shape in self._places(connections):
            both = connections["weight"][own].reshape(shape)
            found += [both[:, :-1], both[:, -1]]
        return found
