"""Arrays that live through a run: parameters in one flat buffer, and the workspace of a batch."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gpubackprop.model import Model
from gpubackprop.types import Array


class Layers(Protocol):
    """W and b of each layer, wherever they are."""

    weights: list[Array]
    biases: list[Array]


class Memory(Protocol):
    """What buffers need of a backend."""

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype) -> Array:
        """Return an array whose values are arbitrary."""


class Parameters:
    """Numbers laid out like a model's parameters: these, a gradient, or an optimiser's slot.

    Parameters
    ----------
    model : Model
    flat : array of shape (model.layout.size,)
        The buffer. Padding between the arrays must be 0.

    Attributes
    ----------
    flat : array of shape (model.layout.size,)
        Everything, padding included.
    weights : list of array of shape (n_out, n_in)
        Views of `flat`, one per layer.
    biases : list of array of shape (n_out,) or None
        Views of `flat`; None for a layer without biases.
    """

    def __init__(self, model: Model, flat: Array) -> None:
        layout = model.layout
        self.model, self.flat = model, flat
        self.weights = [
            flat[start : start + n_out * n_in].reshape(n_out, n_in)
            for start, (n_out, n_in) in zip(layout.W, layout.shapes, strict=True)
        ]
        self.biases: list[Array] = [
            None if start is None else flat[start : start + n_out]
            for start, (n_out, _) in zip(layout.b, layout.shapes, strict=True)
        ]
        #: The part of `flat` that holds the weights.
        self.flat_weights = flat[: layout.n_weights]

    def arrays(self) -> list[Array]:
        """Return every W, then every b that exists: the views of `flat`, without the padding."""
        return [*self.weights, *(b for b in self.biases if b is not None)]

    def __repr__(self) -> str:
        sizes = "-".join(str(size) for size in self.model.sizes)
        return f"<Parameters of a {sizes} network, {self.model.dtype}>"


class Gradient(Parameters):
    """A gradient, shaped like the parameters.

    Attributes
    ----------
    weights, biases : list of array
        dL/dW and dL/db of each layer.
    flat : array of shape (n,)
        Everything in one buffer; the padding between the arrays is 0.
    """

    def vector(self) -> Array:
        """Return all W, then all b, without the padding, in one array of shape (n_parameters,)."""
        out = self.flat[: sum(array.size for array in self.arrays())].copy()
        start = 0
        for array in self.arrays():
            out[start : start + array.size] = array.reshape(-1)
            start += array.size
        return out


class Workspace:
    """Arrays of one batch on its way through the network and back.

    Parameters
    ----------
    model : Model
    n_rows : int
        Rows of the largest batch.
    memory : backend
    keep : bool, optional
        Keep every z beside its a, which `trace` wants; otherwise z and a share memory where z is
        not read again.
    training : bool, optional
        Whether deltas and dropout masks are needed.
    compact : bool, optional
        Put the delta of a layer where the a of the one above was, if it has room: with the delta
        above, that a has been read for the last time.

    Attributes
    ----------
    z, a : list of array of shape (n_rows, n_out)
        ``a[l]`` is the output of layer l (not shifted by one: the batch's X is passed beside).
    h : list of array of shape (n_rows, n_out)
        What the next layer reads: ``a[l]``, or ``a[l]`` after dropout.
    mask : list of array of shape (n_rows, n_out) or None
        0 or 1 / (1 - p), where layer l has dropout.
    delta : list of array of shape (n_rows, n_out)
    shifted : array of shape (n_rows, n_out)
        z minus the largest of its row (softmax); also the loss of each output.
    row, column : array of shape (n_rows, 1)
        One number a row: log of the softmax's sum, and scratch.
    """

    def __init__(
        self,
        model: Model,
        n_rows: int,
        memory: Memory,
        *,
        keep: bool = False,
        training: bool = True,
        compact: bool = False,
    ) -> None:
        self.model, self.n_rows = model, n_rows
        dtype = model.dtype

        def arrays() -> list[Array]:
            return [memory.empty((n_rows, n_out), dtype) for n_out in model.sizes[1:]]

        self.a = arrays()
        self.z = [
            memory.empty(a.shape, dtype) if keep or needed else a
            for a, needed in zip(self.a, model.keeps_z, strict=True)
        ]
        self.delta = self._deltas(memory, compact) if training else []
        dropped = [training and p > 0 for p in (*model.dropout, 0.0)]
        self.mask = [
            memory.empty(a.shape, dtype) if drop else None
            for a, drop in zip(self.a, dropped, strict=True)
        ]
        self.h = [
            memory.empty(a.shape, dtype) if drop else a
            for a, drop in zip(self.a, dropped, strict=True)
        ]
        self.shifted = memory.empty((n_rows, model.sizes[-1]), dtype)
        self.row = memory.empty((n_rows, 1), dtype)
        self.column = memory.empty((n_rows, 1), dtype)
        # Not itself: a circle would keep the memory until the next collection of garbage.
        self._views: dict[int, Workspace] = {}

    def _deltas(self, memory: Memory, compact: bool) -> list[Array]:
        deltas = []
        for own, above in zip(self.a, [*self.a[1:], None], strict=True):
            if compact and above is not None and own.size <= above.size:
                deltas.append(above.reshape(-1)[: own.size].reshape(own.shape))
            else:
                deltas.append(memory.empty(own.shape, own.dtype))
        return deltas

    def rows(self, n: int) -> "Workspace":
        """Return the same workspace for the first n rows: views, kept for the next call.

        Parameters
        ----------
        n : int
            1..n_rows.
        """
        if n == self.n_rows:
            return self
        view = self._views.get(n)
        if view is None:
            view = self._views[n] = self._cut(n)
        return view

    def _cut(self, n: int) -> "Workspace":
        cuts: dict[int, Array] = {}  # what is one array here stays one: `layer` asks for identity

        def cut(arrays: Sequence[Array]) -> list[Array]:
            return [x if x is None else cuts.setdefault(id(x), x[:n]) for x in arrays]

        view = object.__new__(Workspace)
        view.model, view.n_rows = self.model, n
        view.a, view.z, view.h = cut(self.a), cut(self.z), cut(self.h)
        view.mask, view.delta = cut(self.mask), cut(self.delta)
        view.shifted, view.row, view.column = self.shifted[:n], self.row[:n], self.column[:n]
        view._views = {}
        return view
