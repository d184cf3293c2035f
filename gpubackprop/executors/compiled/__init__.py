"""The compiled executor, on NumPy arrays. Numba is not imported before it is used."""

from gpubackprop.executors.compiled.executor import Compiled

__all__ = ["Compiled"]
