"""The matrix product of SciPy's BLAS, by its address, so that compiled code can call it."""

import ctypes
import functools

import numpy as np


@functools.cache
def problem() -> str | None:
    """Return why compiled code cannot run here, in words; None if it can."""
    for package, name in (("numba", "Numba"), ("scipy.linalg.cython_blas", "SciPy")):
        try:
            __import__(package)
        except Exception as error:  # absent, or broken
            absent = isinstance(error, ModuleNotFoundError)
            how = "is not installed" if absent else f"cannot be imported ({error})"
            return f"{name} {how}; install it with: python -m pip install 'gpubackprop[fast]'"
    import numba

    if numba.config.DISABLE_JIT:
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    return None


def gemm(dtype: np.dtype) -> int:
    """Return the address of sgemm or dgemm, called as Fortran does with 32-bit integers."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__["sgemm" if dtype == np.float32 else "dgemm"]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address: int = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return address
