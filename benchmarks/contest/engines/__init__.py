"""One engine for each peer, each written as its expert would, and the yardsticks.

Only what an engine needs is imported, in the process that runs it.
"""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Where an engine is.

    Attributes
    ----------
    title : str
    module, make : str
        A module of this package, and the class in it.
    imports : tuple of str
        What its process imports first, by turns; timed as the import of the engine.
    versions : tuple of str
        Distributions whose version is stated.
    kind : str
        "ours", "peer" or "yardstick".
    """

    title: str
    module: str
    make: str
    imports: tuple[str, ...]
    versions: tuple[str, ...]
    kind: str = "peer"

    def load(self) -> Any:
        """Import the engine's class."""
        return getattr(importlib.import_module(f"contest.engines.{self.module}"), self.make)


_TORCH, _JAX = (("torch",), ("torch",)), (("jax",), ("jax", "jaxlib"))
_OURS = ("gpubackprop",)
_NUMBA = ("whole_numba", "scipy.linalg.cython_blas")

ENGINES = {
    "ours-eager": Entry("ours, eager", "ours", "Eager", _OURS, ("gpubackprop", "numpy"), "ours"),
    "ours-compiled": Entry(
        "ours, compiled", "ours", "Compiled", _OURS,
        ("gpubackprop", "numpy", "numba", "scipy", "mkl"), "ours",
    ),
    "ours-auto": Entry("ours, auto", "ours", "Auto", _OURS, ("gpubackprop", "numpy"), "ours"),
    "torch-eager": Entry("PyTorch, eager", "torch_engines", "Eager", *_TORCH),
    "torch-fused": Entry("PyTorch, fused optimiser", "torch_engines", "Fused", *_TORCH),
    "torch-compile": Entry("torch.compile", "torch_engines", "Compile", *_TORCH),
    "torch-hand": Entry("PyTorch, backward by hand", "torch_engines", "ByHand", *_TORCH),
    "jax-step": Entry("JAX, jit per step", "jax_engines", "Step", *_JAX),
    "jax-scan": Entry("JAX, epoch in lax.scan", "jax_engines", "Scan", *_JAX),
    "sklearn": Entry(
        "scikit-learn", "sklearn_engine", "Sklearn", ("sklearn.neural_network",),
        ("scikit-learn", "numpy", "scipy"),
    ),
    "thinc": Entry("thinc", "thinc_engine", "Thinc", ("thinc.api",), ("thinc", "numpy")),
    "fann": Entry("FANN", "fann_engine", "Fann", ("ctypes",), ()),
    "numpy-hand": Entry(
        "NumPy by hand, out=", "numpy_engine", "ByHand", ("numpy",), ("numpy",), "yardstick"
    ),
    "gemm-openblas": Entry(
        "bare GEMMs, OpenBLAS", "gemm_engines", "OpenBlas", _NUMBA, ("scipy", "numba"), "yardstick"
    ),
    "gemm-mkl": Entry("bare GEMMs, MKL", "gemm_engines", "Mkl", _NUMBA, ("mkl",), "yardstick"),
}  # fmt: skip
