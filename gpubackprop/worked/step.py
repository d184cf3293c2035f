"""The numbers of one training step."""

from dataclasses import dataclass

import numpy as np

from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer


@dataclass(frozen=True, eq=False)
class Update:
    """What the optimiser knew when it made the step.

    Attributes
    ----------
    optimizer : Optimizer
    learning_rate : float
    number : int
        Of this update, counted from 1 since the slots were filled.
    slots : dict of str to (list of array, list of array or None)
        By name: for the W and for the b of each layer, before the step.
    trainable : (list of array, list of array or None) or None
        1 where an entry may change, else 0; None if all may.
    """

    optimizer: Optimizer
    learning_rate: float
    number: int
    slots: dict[str, tuple[list[np.ndarray], list[np.ndarray | None]]]
    trainable: tuple[list[np.ndarray], list[np.ndarray | None]] | None


@dataclass(frozen=True, eq=False)
class Step:
    """A training step, as NumPy arrays.

    Attributes
    ----------
    z : list of array of shape (n, n_out)
        ``z[l] = a[l] @ W[l].T + b[l]``
    a : list of array of shape (n, n_out)
        ``a[0]`` is X, ``a[l + 1] = f(z[l])``; after dropout where there is any.
    delta : list of array of shape (n, n_out)
        dL/dz of each layer.
    dW, db : list of array
        Gradients; None for a layer without biases.
    W, b : list of array
        Parameters before the step.
    new_W, new_b : list of array
        Parameters after it; the same as before where no optimizer was given.
    Y : array of shape (n, n_out)
        Targets; class numbers as one-hot rows.
    loss : float
        Mean loss of the batch, before the step.
    model : Model
    w : array of shape (n,) or None
        Sample weights, of mean 1 over the rows.
    mask : list of array of shape (n, n_out) or None
        What dropout multiplied the outputs of each layer with: 0 or 1 / (1 - p); None where nothing
        was dropped.
    undropped : list of array of shape (n, n_out)
        ``f(z[l])`` before dropout, from which f' is computed.
    update : Update or None
        What the optimiser knew; None where none was given.
    """

    z: list[np.ndarray]
    a: list[np.ndarray]
    delta: list[np.ndarray]
    dW: list[np.ndarray]
    db: list[np.ndarray | None]
    W: list[np.ndarray]
    b: list[np.ndarray | None]
    new_W: list[np.ndarray]
    new_b: list[np.ndarray | None]
    Y: np.ndarray
    loss: float
    model: Model
    w: np.ndarray | None
    mask: list[np.ndarray | None]
    undropped: list[np.ndarray]
    update: Update | None
