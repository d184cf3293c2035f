"""The delta rule: forward pass, deltas, gradient and update, each equation once.

Layers count from 0. `X` is a batch, one sample a row; `W` has shape (n_out, n_in)::

    forward:   z[l] = a[l] @ W[l].T + b[l]      a[l + 1] = f(z[l])      a[0] = X
    output:    delta = dL/dz                    L = sum(w_i * loss_i) / batch_size
    hidden:    delta[l] = (delta[l + 1] @ W[l + 1]) * f'(z[l])
    gradient:  dW[l] = delta[l].T @ a[l]        db[l] = sum of delta[l] over the batch
    descent:   W -= learning_rate * dW          (or momentum, Adam, ...: `gpubackprop.optimizers`)

Every batch's gradient and loss are plain sums over its rows, scaled once, so that they can be added
up over slices.
"""

from dataclasses import dataclass

from gpubackprop import dropout
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: Rows of a batch that go through the network at once. A larger batch is done in slices of this
#: many rows whose gradients are added up, so that the workspace stays small and the result does not
#: depend on free memory.
SLICE = 8192


@dataclass(frozen=True)
class Dropping:
    """Which dropout masks a training step uses.

    Attributes
    ----------
    seed : int
        The network's.
    step : int
        Updates that the network has had.
    first : int
        Row in its batch of the first row of this slice.
    """

    seed: int
    step: int
    first: int = 0


def forward(
    backend: Backend,
    model: Model,
    parameters: Parameters,
    X: Array,
    ws: Workspace,
    dropping: Dropping | None = None,
) -> Array:
    """Pass a batch through the network.

    Parameters
    ----------
    backend : Backend
    model : Model
    parameters : Parameters
    X : array of shape (n, n_in)
    ws : Workspace
        Of n rows; its z, a, h and mask are overwritten.
    dropping : Dropping, optional
        Dropout masks; without it nothing is dropped.

    Returns
    -------
    array of shape (n, n_out)
        The outputs o: the last a of the workspace.
    """
    a = X
    for l, activation in enumerate(model.activations):
        W, b, z, out = parameters.weights[l], parameters.biases[l], ws.z[l], ws.a[l]
        if activation.elementwise:
            backend.layer(a, W, b, activation, z, out)
        else:
            backend.affine(a, W, b, z)
            backend.softmax(z, ws.shifted, ws.row, out)
        a = out
        if dropping is not None and ws.mask[l] is not None:
            key = dropout.key(dropping.seed, l, dropping.step)
            backend.dropout_mask(key, model.dropout[l], dropping.first, ws.mask[l])
            a = backend.multiply(out, ws.mask[l], ws.h[l])
    return a


def gradient(
    backend: Backend,
    model: Model,
    parameters: Parameters,
    X: Array,
    Y: Array,
    w: Array | None,
    scale: float,
    ws: Workspace,
    out: Parameters,
    dropping: Dropping | None = None,
    rate: float | None = None,
) -> Parameters:
    """Carry the error of a batch back through the network, after `forward`.

    Parameters
    ----------
    backend : Backend
    model : Model
    parameters : Parameters
    X, Y : array of shape (n, n_in), (n, n_out)
        The batch that went forward, and its targets.
    w : array of shape (n,) or None
        Sample weights.
    scale : float
        1 / batch_size.
    ws : Workspace
        After `forward`; its deltas are overwritten.
    out : Parameters
        Overwritten with dL/dW and dL/db.
    dropping : Dropping, optional
        As given to `forward`.
    rate : float, optional
        Step `out` by that gradient times -rate instead: plain descent without a gradient array,
        where `out` are the parameters; with -1, a gradient that is added up. The backend must have
        `descends`.
    """
    delta = backend.output_delta(model, ws, Y, w, scale)
    for l in reversed(range(model.n_layers)):
        a = X if l == 0 else (ws.a if dropping is None else ws.h)[l - 1]
        below = None
        # Layer 0 has no trained layer below it, so no delta is sent there.
        if l > 0:
            activation = model.activations[l - 1]
            read = (ws.z if activation.reads == "z" else ws.a)[l - 1]
            mask = None if dropping is None else ws.mask[l - 1]
            W = parameters.weights[l]
            below = backend.backprop(delta, W, activation, read, mask, ws.delta[l - 1])
        if rate is None:
            backend.gradient(delta, a, out.weights[l], out.biases[l])
        else:  # W may change now that the error has passed it
            backend.descend(delta, a, rate, out.weights[l], out.biases[l])
        delta = below
    return out


@dataclass
class State:
    """What changes while a network trains, apart from its parameters: it can be saved and restored.

    Attributes
    ----------
    gradient : Parameters
    slots : list of array
        The optimiser's, each laid out like the flat parameters.
    trainable : array or None
        1 where an entry of the flat parameters may change, else 0.
    cell : array of shape (1,)
        Scratch.
    updates : int
        Updates done with these slots.
    """

    gradient: Parameters
    slots: list[Array]
    trainable: Array | None
    cell: Array
    updates: int = 0


def new_state(
    backend: Backend, model: Model, optimizer: Optimizer, trainable: Array | None = None
) -> State:
    """Return a state with fresh slots."""
    size, dtype = model.layout.size, model.dtype
    slots = []
    for name in optimizer.slots:
        slot = backend.zeros(size, dtype)
        slot += dtype.type(optimizer.slot_start[name])
        slots.append(slot)
    return State(_gradient(backend, model), slots, trainable, backend.empty((1,), dtype))


def _gradient(backend: Backend, model: Model) -> Parameters:
    """Return a gradient of arbitrary values, with zeros in the padding: on the host it takes no
    memory until it is written, which plain descent may never do.
    """
    size, dtype = model.layout.size, model.dtype
    if not backend.host:
        return Parameters(model, backend.zeros(size, dtype))
    gradient = Parameters(model, backend.empty(size, dtype))
    for start, stop in model.layout.gaps():
        gradient.flat[start:stop] = 0
    return gradient


def update(
    backend: Backend,
    optimizer: Optimizer,
    parameters: Parameters,
    state: State,
    learning_rate: float,
    share: float = 1.0,
) -> None:
    """Let the optimiser move the parameters: one pass over the flat buffers, at any depth.

    The order is: penalties (on W), frozen entries, clipping, decoupled decay (of W), the step.

    Parameters
    ----------
    backend : Backend
    optimizer : Optimizer
    parameters : Parameters
        Overwritten.
    state : State
        Its gradient is read and used up, its slots are moved on.
    learning_rate : float
        For this update.
    share : float, optional
        Factor of the penalties.
    """
    g, dtype = state.gradient, parameters.model.dtype
    state.updates += 1
    if optimizer.penalty is not None:
        penalty = backend.elementwise(optimizer.penalty, dtype)
        penalty(parameters.flat_weights, *optimizer.penalty_factors(share), g.flat_weights)
    if state.trainable is not None:
        backend.multiply(g.flat, state.trainable, g.flat)
    if optimizer.clip_norm is not None:
        backend.clip_norm(g.flat, optimizer.clip_norm, state.cell)
    if optimizer.weight_decay:
        rate = learning_rate * optimizer.weight_decay
        if state.trainable is None:
            backend.elementwise(optimizer.decay, dtype)(rate, parameters.flat_weights)
        else:
            trainable = state.trainable[: parameters.model.layout.n_weights]
            backend.elementwise(optimizer.masked_decay, dtype)(
                trainable, rate, parameters.flat_weights
            )
    scalars = optimizer.scalars(state.updates, learning_rate)
    backend.elementwise(optimizer.expression, dtype)(
        g.flat, *scalars, parameters.flat, *state.slots
    )
