"""The kernels' sources as text, and the modules that CuPy makes of them."""

import functools
import importlib.resources
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.activations import Activation
from gpubackprop.backends.cuda import functions
from gpubackprop.losses import Loss
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: `State` of common.cu.
STATE = np.dtype([(name, np.int64) for name in ("update", "step", "batch", "position")])
#: `Dropout` of common.cu, by dtype.
DROPOUT = {
    np.dtype(name): np.dtype(
        [("layer_key", "u8"), ("threshold", "u8"), ("first", "u8"), ("scale", name)], align=True
    )
    for name in ("float32", "float64")
}
#: Which printed functions each file of kernels wants.
UNITS = {
    "layers": ("activations",),
    "gemm": ("activations",),
    "output": ("activations", "loss"),
    "update": ("optimizer",),
    "block": ("activations", "loss", "optimizer"),
}
#: Files that stand between common.cu and a unit's own.
FILES = {"output": ("rows",), "block": ("rows",)}
#: The kernels of each file.
KERNELS = {
    "layers": ("bias_activation", "delta_bias_gradient", "gather"),
    "gemm": ("gemm_forward", "gemm_backward", "gemm_gradient"),
    "output": ("output_pass",),
    "update": ("gradient_norm", "update"),
    "block": ("sgd_block",),
}
OPTIONS = ("--std=c++17",)
_TYPES = {np.dtype("float32"): "float", np.dtype("float64"): "double"}


@dataclass(frozen=True)
class Formulas:
    """What the printed functions of a job are made of. Equal for all jobs that share kernels.

    Attributes
    ----------
    dtype : numpy.dtype
    known : tuple of Activation
        Kinds of the `switch`.
    loss : Loss
    optimizer : Optimizer or None
    """

    dtype: np.dtype
    known: tuple[Activation, ...]
    loss: Loss
    optimizer: Optimizer | None = None


def formulas(model: Model, optimizer: Optimizer | None = None) -> Formulas:
    """Return what a network's and an optimiser's kernels are made of."""
    return Formulas(model.dtype, functions.kinds(model), model.loss, optimizer)


def source(unit: str, made_of: Formulas) -> str:
    """Return the source of one file of kernels, ready to be compiled.

    Parameters
    ----------
    unit : str
        A key of `UNITS`.
    made_of : Formulas

    Returns
    -------
    str
        CUDA C++. The same for all jobs that differ in sizes, mixes of the table's activations and
        numbers only.
    """
    parts = [f"typedef {_TYPES[made_of.dtype]} T;\n", functions.common_functions()]
    for wanted in UNITS[unit]:
        if wanted == "activations":
            parts.append(functions.activation_functions(made_of.known))
        elif wanted == "loss":
            parts.append(functions.loss_functions(made_of.known, made_of.loss))
        else:
            assert made_of.optimizer is not None, f"the kernels of {unit} need an optimiser"
            parts.append(functions.optimizer_functions(made_of.optimizer))
    files = ("common", *FILES.get(unit, ()), unit)
    return "\n".join([*parts, *(read(f"{name}.cu") for name in files)])


@functools.cache
def read(name: str) -> str:
    """Return a `.cu` file of this package."""
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def compiled(text: str, device: int) -> Any:
    """Return the `cupy.RawModule` of a source. CuPy keeps what it compiles on disk."""
    import cupy

    with cupy.cuda.Device(device):
        return cupy.RawModule(code=text, options=OPTIONS, backend="nvrtc")


def kernels(unit: str, made_of: Formulas, device: int) -> dict[str, Any]:
    """Return the kernels of one file by name, compiled for a device."""
    module = compiled(source(unit, made_of), device)
    return {name: module.get_function(name) for name in KERNELS[unit]}


# ---- what kernels are given ----------------------------------------------------------------------


def constants(backend: Any, values: list[float], dtype: np.dtype) -> Array:
    """Return the numbers in formulas on the device, and one more, so that they are never none."""
    numbers = np.array([*values, 0.0], dtype)
    return backend.upload(numbers, backend.empty(len(numbers), dtype))


def dropping(model: Model, seed: int, layer: int) -> np.ndarray:
    """Return the `Dropout` of a hidden layer."""
    p, drop = model.dropout[layer], np.zeros((), DROPOUT[model.dtype])
    drop["layer_key"] = dropout.layer_key(seed, layer)
    drop["threshold"], drop["scale"] = dropout.threshold(p), 1 / (1 - p)
    return drop


def slots(arrays: list[Array]) -> np.ndarray:
    """Return the `Slots` of an optimiser: addresses, and a 0, so that they are never none."""
    addresses = [array.data.ptr for array in arrays]
    return np.array(([*addresses, 0],), [("at", np.uint64, (len(addresses) + 1,))])
