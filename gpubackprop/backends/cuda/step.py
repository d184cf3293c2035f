"""One update on a CuPy device in few launches: products by cuBLAS, a fused pass between any two."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubackprop.backends.cuda import functions, modules
from gpubackprop.backends.cuda.scalars import Scalars
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: Blocks that one pass is divided among at most: some for each multiprocessor of a large device.
_BLOCKS = 512
_THREADS = 256


class Step:
    """The passes of an update of one network by one optimiser, each a kernel launch.

    Nothing here waits for the device or allocates after the first batch of a size.

    Parameters
    ----------
    backend : CupyBackend
    model : Model
    optimizer : Optimizer
        Its update reads the gradient alone.
    dropout_seed : int
    penalised : bool, optional
        Whether the penalties join the loss.
    """

    def __init__(
        self,
        backend: Any,
        model: Model,
        optimizer: Optimizer,
        dropout_seed: int,
        penalised: bool = False,
    ) -> None:
        self.penalised = penalised and optimizer.penalty is not None
        self.backend, self.model, self.optimizer = backend, model, optimizer
        self._formulas = modules.formulas(model, optimizer)
        values, first = functions.layer_constants(model)
        constants = modules.constants(backend, values, model.dtype)
        self._C = [constants[start:] for start in first]
        values = functions.optimizer_constants(optimizer)
        self._C_update = modules.constants(backend, values, model.dtype)
        known = self._formulas.known
        self._kind = [
            np.int32(functions.kind(activation, known)) for activation in model.activations
        ]
        self._drop = [modules.dropping(model, dropout_seed, l) for l in range(len(model.dropout))]
        self._keep_all = np.zeros((), modules.DROPOUT[model.dtype])
        self.scalars = Scalars(backend, model.dtype, optimizer)
        self.scratch: Scratch | None = None
        self._norm = backend.empty((1,), model.dtype)

    @functools.cached_property
    def _kernels(self) -> dict[str, Any]:
        device = self.backend.device
        return {
            name: kernel
            for unit in ("layers", "output")
            for name, kernel in modules.kernels(unit, self._formulas, device).items()
        }

    @functools.cached_property
    def _update_kernels(self) -> dict[str, Any]:
        return modules.kernels("update", self._formulas, self.backend.device)

    def prepare(self, n: int) -> None:
        """Compile, load and reserve all that an update of n rows needs."""
        self._reserve(n)
        load(self._kernels)
        load(self._update_kernels)

    def gather(
        self,
        data: tuple[Array, Array, Array | None],
        order: Array | None,
        out: tuple[Array, Array, Array | None],
    ) -> None:
        """Write the rows from the state's position on, in order, into buffers.

        Parameters
        ----------
        data : X, Y and weights
            As `Source.on_device` returns them.
        order : int32 or int64 array or None
        out : X, Y and weights
            Of equally many rows each; overwritten.
        """
        (X, Y, w), (X_out, Y_out, w_out) = data, out
        labels = Y if Y.ndim == 1 else None
        wide = order is not None and order.dtype == np.int64
        rows = len(X_out)
        self._kernels["gather"](
            (min(-(-rows // 8), 1024),),
            (32, 8),
            (
                X, Y if labels is None else None, labels, w, None if wide else order,
                order if wide else None, X_out, Y_out, w_out, np.int32(rows),
                np.int32(X.shape[1]), np.int32(Y_out.shape[1]), np.int64(0), self.scalars.state,
            ),
        )  # fmt: skip

    # ---- the gradient ---------------------------------------------------------------------------

    def gradient(
        self,
        X: Array,
        Y: Array,
        w: Array | None,
        scale: float,
        parameters: Parameters,
        ws: Workspace,
        out: Parameters,
        loss: Array,
        first: int | None,
    ) -> None:
        """Write `scale` times the gradient of some rows' summed loss, and that sum.

        Parameters
        ----------
        X, Y : array of shape (n, n_in), (n, n_out)
        w : array of shape (n,) or None
        scale : float
        parameters : Parameters
        ws : Workspace
            Of n rows; overwritten.
        out : Parameters
            Overwritten with dL/dW and dL/db.
        loss : float64 array of shape (1,)
            Overwritten.
        first : int or None
            Row in its batch of the first row, for dropout; None leaves dropout out.
        """
        n, last = len(X), self.model.n_layers - 1
        self._reserve(n)
        a = X
        for l in range(last):
            a = self._layer(l, a, parameters, ws, first)
        self._product(a, parameters.weights[last], ws.delta[last])
        self._output(ws.delta[last], Y, w, scale, parameters, out, loss)
        for l in reversed(range(self.model.n_layers)):
            a = X if l == 0 else (ws.a if first is None else ws.h)[l - 1]
            self._weights_gradient(l, ws.delta[l], a, out)
            # Layer 0 has no trained layer below it, so no delta is sent there.
            if l > 0:
                self._back(l, parameters, ws, out, first)

    def _layer(
        self, l: int, a: Array, parameters: Parameters, ws: Workspace, first: int | None
    ) -> Array:
        """Pass a batch through a hidden layer; returns what the next one reads."""
        z = ws.z[l]
        self._product(a, parameters.weights[l], z)
        rows, columns = z.shape
        grid, block = self._tiles(rows, columns)
        self._kernels["bias_activation"](
            grid,
            block,
            (
                z, parameters.biases[l], ws.a[l], ws.h[l], np.int64(rows), np.int32(columns),
                self._kind[l], self._C[l], self._dropping(l, first), self.scalars.state,
            ),
        )  # fmt: skip
        return ws.a[l] if first is None else ws.h[l]

    def _product(self, a: Array, W: Array, out: Array) -> None:
        """Write ``a @ W.T``."""
        self.backend.xp.matmul(a, W.T, out=out)

    def _weights_product(self, delta: Array, a: Array, dW: Array) -> None:
        """Write ``delta.T @ a``."""
        self.backend.xp.matmul(delta.T, a, out=dW)

    def _back_product(self, delta: Array, W: Array, out: Array) -> None:
        """Write ``delta @ W``."""
        self.backend.xp.matmul(delta, W, out=out)

    def _output(
        self,
        z: Array,
        Y: Array,
        w: Array | None,
        scale: float,
        parameters: Parameters,
        out: Parameters,
        loss: Array,
        *,
        db: bool = True,
    ) -> None:
        """Go from the output layer's product to its delta, its bias gradient and the loss."""
        rows, columns = z.shape
        lanes = min(32, _power_of_two(columns))
        at_once = _THREADS // lanes
        slabs = min(-(-rows // at_once), _BLOCKS)
        scratch, biases = self.scratch, out.biases[-1] if db else None
        assert scratch is not None
        self._kernels["output_pass"](
            (1, slabs),
            (lanes, at_once),
            (
                z, parameters.biases[-1], Y, w, biases, loss, np.int32(rows), np.int32(columns),
                self._kind[-1], self._C[-1], z.dtype.type(scale), scratch.partials,
                scratch.sums, scratch.tickets,
            ),
        )  # fmt: skip

    def _weights_gradient(self, l: int, delta: Array, a: Array, out: Parameters) -> None:
        """Write dW. The bias gradient came with delta."""
        self._weights_product(delta, a, out.weights[l])

    def _back(
        self, l: int, parameters: Parameters, ws: Workspace, out: Parameters, first: int | None
    ) -> None:
        """Carry the error from layer l to the one below, and write that one's bias gradient."""
        delta = ws.delta[l - 1]
        self._back_product(ws.delta[l], parameters.weights[l], delta)
        rows, columns = delta.shape
        (tiles, _), block = self._tiles(rows, columns)
        slabs = max(1, min(-(-rows // (8 * block[1])), _BLOCKS // tiles))
        scratch = self.scratch
        assert scratch is not None
        self._kernels["delta_bias_gradient"](
            (tiles, slabs),
            block,
            (
                delta, self._read(l - 1, ws), out.biases[l - 1], np.int32(rows), np.int32(columns),
                self._kind[l - 1], self._C[l - 1], self._dropping(l - 1, first),
                self.scalars.state, scratch.partials, scratch.tickets,
            ),
        )  # fmt: skip

    def _read(self, l: int, ws: Workspace) -> Array:
        """Return what a layer's f' reads."""
        return (ws.z if self.model.activations[l].reads == "z" else ws.a)[l]

    def _dropping(self, l: int, first: int | None) -> np.ndarray:
        if first is None or not self.model.dropout[l]:
            return self._keep_all
        counter = first * self.model.sizes[l + 1]
        drop = self._drop[l]
        if counter != drop["first"]:
            drop = drop.copy()
            drop["first"] = counter
        return drop

    @staticmethod
    def _tiles(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the grid and the block of a pass over a matrix."""
        width = min(32, _power_of_two(columns))
        height = _THREADS // width
        tiles = -(-columns // width)
        return (tiles, max(1, min(-(-rows // height), 4 * _BLOCKS // tiles))), (width, height)

    def _reserve(self, n: int) -> None:
        """Make room for the partial sums of a batch of n rows."""
        if self.scratch is None or self.scratch.n_rows < n:
            self.scratch = self._new_scratch(n)

    def _new_scratch(self, n: int) -> "Scratch":
        widest = max(self.model.sizes)
        slabs = max(1, min(n, _BLOCKS))
        return Scratch(self.backend, self.model.dtype, n, slabs * widest, widest)

    # ---- the update -----------------------------------------------------------------------------

    def update(
        self,
        parameters: Parameters,
        gradient: Parameters,
        slots: list[Array],
        trainable: Array | None,
        rows: int,
        tally: Any,
    ) -> None:
        """Do `launch_update`, and note that the device has moved on."""
        self.launch_update(parameters, gradient, slots, trainable, rows, tally)
        self.scalars.moved(rows)

    def launch_update(
        self,
        parameters: Parameters,
        gradient: Parameters,
        slots: list[Array],
        trainable: Array | None,
        rows: int,
        tally: Any,
    ) -> None:
        """Let the optimiser move all parameters, record the loss and move the state on.

        Parameters
        ----------
        parameters : Parameters
            Overwritten.
        gradient : Parameters
        slots : list of array
            Overwritten.
        trainable : array or None
        rows : int
            Of the batch.
        tally : Tally
        """
        n, optimizer, scalars = parameters.flat.size, self.optimizer, self.scalars
        T = self.model.dtype.type
        n_weights = np.int64(self.model.layout.n_weights)
        blocks = min(-(-n // _THREADS), _BLOCKS)
        scratch, flat, g = self.scratch, parameters.flat, gradient.flat
        assert scratch is not None
        table = scalars.table, np.int64(scalars.row_step)
        norm = None
        if optimizer.clip_norm is not None:
            norm = self._norm
            self._update_kernels["gradient_norm"](
                (blocks,),
                (_THREADS,),
                (flat, g, trainable, np.int64(n), n_weights, *table, scalars.state, scratch.sums,
                 scratch.tickets, norm),
            )  # fmt: skip
        self._update_kernels["update"](
            (blocks,),
            (_THREADS,),
            (
                flat, g, modules.slots(slots), trainable, np.int64(n), n_weights, *table,
                self._C_update, norm, T(optimizer.clip_norm or 0),
                np.int32(optimizer.weight_decay > 0), np.int32(self.penalised), np.int32(rows),
                tally.value, tally.total, tally.first_bad, scalars.state, scratch.sums,
                scratch.tickets,
            ),
        )  # fmt: skip


def load(kernels: Mapping[str, Any]) -> None:
    """Load kernels that would be loaded at their first launch, which may not be captured."""
    for kernel in kernels.values():
        _ = kernel.attributes  # asking needs them


class Scratch:
    """Where blocks of a launch leave what the last of them adds up.

    Attributes
    ----------
    n_rows : int
        Of the largest batch.
    partials : array
    sums : float64 array of shape (_BLOCKS,)
    tickets : uint32 array
        0 between launches.
    """

    def __init__(
        self, backend: Any, dtype: np.dtype, n_rows: int, n_partials: int, n_tickets: int
    ) -> None:
        self.n_rows = n_rows
        self.partials = backend.empty(n_partials, dtype)
        self.sums = backend.empty(_BLOCKS, np.float64)
        self.tickets = backend.zeros(n_tickets, np.uint32)


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()
