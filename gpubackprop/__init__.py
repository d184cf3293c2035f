"""Multi-layer perceptrons trained by hand-written backpropagation, on NumPy or CuPy arrays."""

from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.data import Batches
from gpubackprop.errors import DivergenceError
from gpubackprop.history import EarlyStopping, History
from gpubackprop.initializers import Initializer, Orthogonal, VarianceScaling
from gpubackprop.losses import LOSSES, Loss
from gpubackprop.network import Network, gradient_check, load
from gpubackprop.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop
from gpubackprop.schedules import (
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    OnPlateau,
    Schedule,
    Step,
)
from gpubackprop.schema import Schema

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Batches",
    "Cosine",
    "DivergenceError",
    "EarlyStopping",
    "Exponential",
    "History",
    "Initializer",
    "InverseScaling",
    "Loss",
    "Network",
    "OnPlateau",
    "OneCycle",
    "Optimizer",
    "Orthogonal",
    "RMSprop",
    "Rprop",
    "Schedule",
    "Schema",
    "Step",
    "VarianceScaling",
    "gradient_check",
    "load",
]
