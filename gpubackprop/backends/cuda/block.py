"""SGD with one sample an update in one launch: what `block.cu` is given."""

from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backends.cuda import functions, modules
from gpubackprop.backends.cuda.scalars import Scalars
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: Layers of the kernel's table.
MAX_LAYERS = 16
#: Samples of one launch at most: a display that hangs on the device must not freeze, and Ctrl-C
#: waits for one launch.
SAMPLES = 8192
_MAX_THREADS = 512
#: Bytes of shared memory beside what is laid out here: two sums for each of 16 warps.
STATIC = 256
#: Above so many bytes of shared memory, a kernel must ask for them.
_UNASKED = 48 << 10
_PLACES = ("n_in", "n_out", "flat_W", "flat_b", "W", "b", "read", "h", "delta", "kind", "C")
#: `Layer` and `Net` of block.cu, by dtype.
LAYER = {
    dtype: np.dtype([*((name, "i4") for name in (*_PLACES, "keeps_z")), ("drop", drop)], align=True)
    for dtype, drop in modules.DROPOUT.items()
}
NET = {
    dtype: np.dtype(
        [
            *((name, "i4") for name in ("n_layers", "n_parameters", "target", "x")),
            ("layer", layer, MAX_LAYERS),
        ],
        align=True,
    )
    for dtype, layer in LAYER.items()
}


class Plan(NamedTuple):
    """Where everything of a network is in shared memory.

    Attributes
    ----------
    net : structured array of size 1
        `Net` of block.cu.
    nbytes : int
        Shared memory that a launch asks for.
    threads : int
        Of its block.
    """

    net: np.ndarray
    nbytes: int
    threads: int


def plan(model: Model, optimizer: Optimizer, dropout_seed: int) -> Plan:
    """Lay a network and an optimiser's slots out in shared memory.

    Parameters
    ----------
    model : Model
        Of at most `MAX_LAYERS` layers.
    optimizer : Optimizer
    dropout_seed : int
    """
    net, used = np.zeros(1, NET[model.dtype]), 0

    def take(n: int) -> int:
        nonlocal used
        used += n
        return used - n

    known, (_, first) = functions.kinds(model), functions.layer_constants(model)
    layers = net["layer"][0]
    for l, (n_out, n_in) in enumerate(model.layout.shapes):
        layer, b, activation = layers[l], model.layout.b[l], model.activations[l]
        layer["n_in"], layer["n_out"] = n_in, n_out
        layer["flat_W"], layer["flat_b"] = model.layout.W[l], -1 if b is None else b
        layer["W"], layer["b"] = take(n_out * n_in), take(0 if b is None else n_out)
        layer["kind"], layer["C"] = functions.kind(activation, known), first[l]
        layer["keeps_z"] = activation.reads == "z"
    net["n_layers"], net["n_parameters"] = model.n_layers, used
    take(len(optimizer.slots) * used)
    net["target"], net["x"] = take(model.sizes[-1]), take(model.sizes[0])
    for l, n_out in enumerate(model.sizes[1:-1]):
        layer, p = layers[l], model.dropout[l]
        layer["read"] = layer["h"] = take(n_out)
        if p or layer["keeps_z"]:
            layer["h"] = take(n_out)
        layer["drop"] = modules.dropping(model, dropout_seed, l)
    for layer in layers[: model.n_layers]:
        layer["delta"] = take(layer["n_out"])
    return Plan(net, used * model.dtype.itemsize, threads(model))


def threads(model: Model) -> int:
    """Return how many threads a block has: a multiple of 32.

    So many that no layer's way forward takes two turns and an update at most eight entries a
    thread; more would only wait at the barriers.
    """
    most = max(model.sizes)
    for n_out, n_in in model.layout.shapes:
        most = max(most, n_out * min(32, n_in), n_out * n_in // 8)
    return max(32, min(_MAX_THREADS, -(-most // 32) * 32))


def shared_limit(backend: Any) -> int:
    """Return how many bytes of shared memory a launch can ask for on a backend's device.

    A block can have 64 KiB at compute capability 7.5, 163 at 8.0, 99 at 8.6, 8.9 and 12.0, 227 at
    9.0 and 10.0, as the CUDA programming guide has it; the device is asked. `STATIC` is taken off.
    """
    import cupy

    attribute = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin, which CuPy has no name for
    limit: int = cupy.cuda.runtime.deviceGetAttribute(attribute, backend.device)
    return limit - STATIC


class Block:
    """Launches of one network and optimiser.

    Parameters
    ----------
    backend : CupyBackend
    model : Model
    optimizer : Optimizer
    dropout_seed : int
    penalised : bool
        Whether the penalties are part of the loss.
    """

    def __init__(
        self,
        backend: Any,
        model: Model,
        optimizer: Optimizer,
        dropout_seed: int,
        penalised: bool,
    ) -> None:
        self._net, nbytes, self._threads = plan(model, optimizer, dropout_seed)
        self._T, self._optimizer = model.dtype.type, optimizer
        values, _ = functions.layer_constants(model)
        self._C = modules.constants(backend, values, model.dtype)
        values = functions.optimizer_constants(optimizer)
        self._C_update = modules.constants(backend, values, model.dtype)
        self._nbytes, self._penalised = nbytes, penalised
        made_of = modules.formulas(model, optimizer)
        self._kernel = modules.kernels("block", made_of, backend.device)["sgd_block"]
        if nbytes > _UNASKED:
            self._kernel.max_dynamic_shared_size_bytes = nbytes
        self.scalars = Scalars(backend, model.dtype, optimizer, rows=SAMPLES)

    def launch(
        self,
        data: tuple[Array, Array, Array | None],
        order: Array | None,
        first: int,
        count: int,
        flat: Array,
        slots: list[Array],
        trainable: Array | None,
        tally: Any,
    ) -> None:
        """Do an update with each of some samples.

        Parameters
        ----------
        data : (X, Y, w)
            As `Source.on_device` gives them.
        order : int32 or int64 array or None
            Rows in order, on the device; None is 0, 1, 2, ...
        first, count : int
            Part of `order`; at most `SAMPLES`.
        flat, slots
            Overwritten.
        trainable : array or None
        tally : Tally
            Each sample's loss is added.
        """
        X, Y, w = data
        optimizer, T = self._optimizer, self._T
        targets, labels = (None, Y) if Y.ndim == 1 else (Y, None)
        narrow, wide = (order, None) if order is None or order.dtype == np.int32 else (None, order)
        self._kernel(
            (1,),
            (self._threads,),
            (
                flat, modules.slots(slots), trainable, X, targets, labels, w, narrow, wide,
                np.int64(first), np.int32(count), self._net, self._C, self.scalars.table,
                np.int64(self.scalars.row_step), self._C_update, T(optimizer.clip_norm or 0),
                np.int32(optimizer.weight_decay > 0), np.int32(self._penalised),
                self.scalars.state, tally.total, tally.first_bad,
            ),
            shared_mem=self._nbytes,
        )  # fmt: skip
        self.scalars.moved(1, count)
