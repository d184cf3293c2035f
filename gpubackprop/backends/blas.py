"""The matrix product of a BLAS, by its address, so that compiled code can call it; and MKL's or
NumPy's with its factors, for NumPy arrays.

MKL if it is installed (the extra "mkl"), else the OpenBLAS that NumPy's wheels bring, which is
loaded already, else SciPy's. On AMD's processors MKL comes last: on a Zen 3, 784-256-128-10 gains
3 % by it, and 1024-2048-2048-10 lost 7 to 32 %. The environment variable GPUBACKPROP_BLAS = mkl,
scipy or numpy chooses one.
"""

import ctypes
import functools
import glob
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpubackprop.backends import processor
from gpubackprop.errors import missing
from gpubackprop.threads import available, libraries_changed

#: MKL's numbers for these choices: no threads of its own; the same bits from run to run, however
#: arrays are aligned.
_SEQUENTIAL, _SAME_BITS = 1, 2


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
    order = sorted(_FINDERS, key=lambda name: name == "mkl" and processor.is_amd())
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


def uses_mkl() -> bool:
    """Tell whether NumPy arrays are multiplied by MKL: GPUBACKPROP_BLAS says so, or nothing, and it
    is installed and not on an AMD. NumPy's own BLAS is as good as SciPy's.
    """
    chosen = os.environ.get("GPUBACKPROP_BLAS") or "auto"
    return (chosen == "mkl" or (chosen == "auto" and not processor.is_amd())) and (
        _found("mkl", "s") is not None
    )


def for_arrays() -> str | None:
    """Return whose product `Product` can take for NumPy arrays: "mkl" or "numpy"; None where NumPy
    has another BLAS than the one that its wheels bring.
    """
    if uses_mkl():
        return "mkl"
    return "numpy" if _found("numpy", "s") is not None else None


class Product(threading.local):
    """A matrix product of NumPy arrays that can be added to what is there, which NumPy's own
    cannot. Each thread has numbers of its own to point at.

    Parameters
    ----------
    library : str
        Whose: "mkl" or "numpy".
    dtype : numpy.dtype
        float32 or float64.
    """

    def __init__(self, library: str, dtype: np.dtype) -> None:
        self.dtype = dtype
        pointers = [ctypes.c_char_p] * 2 + [ctypes.c_void_p] * 11
        address = _found(library, "s" if dtype == np.float32 else "d")
        assert address is not None
        self._call = ctypes.CFUNCTYPE(None, *pointers)(address)
        self._sizes, self._factors = np.zeros(6, np.int64), np.zeros(2, dtype)
        first, factors = self._sizes.ctypes.data, self._factors.ctypes.data
        self._at = [first + 8 * i for i in range(6)]
        self._alpha, self._beta = factors, factors + dtype.itemsize

    def __call__(
        self, A: np.ndarray, B: np.ndarray, C: np.ndarray, alpha: float = 1, beta: float = 0
    ) -> bool:
        """Write ``C = alpha * A @ B + beta * C``; return False, and do nothing, where the arrays
        are not laid out as BLAS wants them.
        """
        one, two = _layout(B, self.dtype), _layout(A, self.dtype)
        if one is None or two is None or C.dtype != self.dtype or not C.flags.c_contiguous:
            return False
        m, n = C.shape
        # BLAS takes columns for rows: it is asked for C.T = B.T @ A.T.
        self._sizes[:] = n, m, A.shape[1], one[1], two[1], n
        self._factors[:] = alpha, beta
        columns, rows, inner, of_B, of_A, of_C = self._at
        self._call(
            one[0], two[0], columns, rows, inner, self._alpha, B.ctypes.data, of_B,
            A.ctypes.data, of_A, self._beta, C.ctypes.data, of_C,
        )  # fmt: skip
        return True


def _layout(x: np.ndarray, dtype: np.dtype) -> tuple[bytes, int] | None:
    """Return how BLAS is told of x, and the elements from one row (or column) to the next."""
    (down, right), size = x.strides, dtype.itemsize
    if x.dtype != dtype:
        return None
    for letter, step, along, length in (b"N", right, down, x.shape[1]), (b"T", down, right, len(x)):
        if step == size and along % size == 0 and along >= length * size:
            return letter, along // size
    return None


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
    from importlib import metadata  # takes longer than the rest of this module

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


_FINDERS: dict[str, Callable[[str], int]] = {"mkl": _mkl, "numpy": _numpy, "scipy": _scipy}
