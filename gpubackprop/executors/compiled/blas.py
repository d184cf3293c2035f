"""The matrix product of a BLAS, by its address, so that compiled code can call it.

MKL if it is installed (the extra "mkl"), else the OpenBLAS that SciPy brings, else NumPy's. On
AMD's processors MKL comes last: on a Zen 3, 784-256-128-10 gains 3 % by it, and 1024-2048-2048-10
lost 7 to 32 %. The environment variable GPUBACKPROP_BLAS = mkl, scipy or numpy chooses one.
"""

import ctypes
import functools
import glob
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from gpubackprop.errors import missing
from gpubackprop.threads import available, libraries_changed

#: MKL's numbers for these choices: no threads of its own; the same bits from run to run, however
#: arrays are aligned.
_SEQUENTIAL, _SAME_BITS = 1, 2


def problem() -> str | None:
    """Return why compiled code cannot run here, in words; None if it can."""
    reason = _numba_problem()
    if reason is None:
        try:
            library()
        except ImportError as error:
            reason = str(error)
    return reason


@functools.cache
def _numba_problem() -> str | None:
    try:
        import numba
    except Exception as error:  # absent, or broken
        absent = isinstance(error, ModuleNotFoundError)
        how = "is not installed" if absent else f"cannot be imported ({error})"
        return f"Numba {how}; install it with: python -m pip install 'gpubackprop[fast]'"
    if numba.config.DISABLE_JIT:
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    return None


def library() -> str:
    """Return which BLAS is used: "mkl", "scipy" or "numpy".

    Raises
    ------
    ImportError
        If there is none, or not the one that GPUBACKPROP_BLAS names.
    """
    chosen = os.environ.get("GPUBACKPROP_BLAS") or "auto"
    if chosen not in ("auto", *_FINDERS):
        raise ImportError(f"GPUBACKPROP_BLAS must be auto, {', '.join(_FINDERS)}, got {chosen!r}")
    # Sorted by whether it is MKL on the wrong processor, else as they are.
    order = sorted(_FINDERS, key=lambda name: name == "mkl" and _is_amd())
    for name in order if chosen == "auto" else (chosen,):
        if _found(name, "s") is not None:
            return name
    if chosen == "auto":
        raise missing("SciPy, whose BLAS compiled code calls,", "fast")
    raise ImportError(f"GPUBACKPROP_BLAS is {chosen!r}, but no BLAS of {chosen} is found here")


def gemm(dtype: np.dtype) -> int:
    """Return the address of sgemm or dgemm, called as Fortran does.

    Integers are passed as 64 bits. A library that wants 32 reads the lower half, which comes first.
    """
    address = _found(library(), "s" if dtype == np.float32 else "d")
    assert address is not None
    return address


@functools.cache
def _is_amd() -> bool:
    import llvmlite.binding

    name: str = llvmlite.binding.get_host_cpu_name()
    return name.startswith(("znver", "bdver", "btver"))


@functools.cache
def _found(name: str, kind: str) -> int | None:
    """Return an address; None if that library is absent or broken."""
    try:
        found = _FINDERS[name](kind)
    except Exception:
        return None
    libraries_changed()
    return found


def _mkl(kind: str) -> int:
    files = metadata.files("mkl") or []
    path = next(file for file in files if Path(file.name).match("*mkl_rt*"))
    return _address(_started_mkl(str(path.locate())), f"{kind}gemm_")


@functools.cache
def _started_mkl(path: str) -> ctypes.CDLL:
    """Return MKL, set up before its first product; afterwards it takes no such choices."""
    mkl = ctypes.CDLL(path)
    if available() == 1:
        mkl.MKL_Set_Threading_Layer(_SEQUENTIAL)
    mkl.MKL_CBWR_Set(_SAME_BITS)
    return mkl


def _scipy(kind: str) -> int:
    return scipy_address(f"{kind}gemm")


def scipy_address(name: str) -> int:
    """Return where a function of SciPy's BLAS is, such as "sgemm"."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address: int = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return address


def _numpy(kind: str) -> int:
    place = Path(np.__file__).parent
    folders = place.parent / "numpy.libs", place / ".dylibs"
    path = next(name for folder in folders for name in glob.glob(f"{folder}/*openblas64_*"))
    return _address(ctypes.CDLL(path), f"scipy_{kind}gemm_64_")


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


_FINDERS: dict[str, Callable[[str], int]] = {"mkl": _mkl, "scipy": _scipy, "numpy": _numpy}
