"""cuBLAS in a captured step: called by ctypes, on a handle of our own.

CuPy's own calls of cuBLAS raise an error while a stream is captured. cuBLAS itself can be captured,
as its documentation says, if it has its workspace beforehand. Off by default (see
`gpubackprop.executors.graph.CUBLAS`): no GPU has run it yet.
"""

import ctypes
import functools
from typing import Any

import numpy as np

from gpubackprop.backends.cuda.step import Step
from gpubackprop.types import Array

#: cudaDataType and cublasComputeType of float and double, and cublasGemmAlgo's default.
_TYPES = {"float32": (0, 68, ctypes.c_float), "float64": (1, 70, ctypes.c_double)}
_DEFAULT = -1
_WORKSPACE = 32 << 20


class CapturableBlas(Step):
    """`Step` with products that a graph can hold; an update of L layers is ``5 L - 1`` launches."""

    @functools.cached_property
    def _blas(self) -> "Handle":
        return Handle(self.backend)

    def prepare(self, n: int) -> None:
        """Compile, load and reserve all that an update of n rows needs."""
        super().prepare(n)
        _ = self._blas

    def use(self, stream: Any) -> None:
        """Send the products to a stream."""
        self._blas.use(stream)

    def _product(self, a: Array, W: Array, out: Array) -> None:
        self._blas.multiply(a, False, W, True, out)

    def _weights_product(self, delta: Array, a: Array, dW: Array) -> None:
        self._blas.multiply(delta, True, a, False, dW)

    def _back_product(self, delta: Array, W: Array, out: Array) -> None:
        self._blas.multiply(delta, False, W, False, out)


class Handle:
    """A cuBLAS handle with its own workspace."""

    def __init__(self, backend: Any) -> None:
        from cupy.cuda import cublas

        self._pointer = cublas.create()
        major = cublas.getVersion(self._pointer) // 10000
        self._library = ctypes.CDLL(f"libcublas.so.{major}")  # the one that CuPy has loaded
        self._workspace = backend.empty(_WORKSPACE, np.uint8)
        self._destroy = cublas.destroy

    def __del__(self) -> None:
        if hasattr(self, "_destroy"):
            self._destroy(self._pointer)

    def use(self, stream: Any) -> None:
        """Send what follows to a stream."""
        self._call("cublasSetStream_v2", ctypes.c_void_p(stream.ptr))
        # After the stream, which takes the workspace away.
        workspace = ctypes.c_void_p(self._workspace.data.ptr), ctypes.c_size_t(_WORKSPACE)
        self._call("cublasSetWorkspace_v2", *workspace)

    def multiply(self, A: Array, A_turned: bool, B: Array, B_turned: bool, out: Array) -> None:
        """Write ``op(A) @ op(B)``, C-contiguous arrays."""
        kind, compute, number = _TYPES[out.dtype.name]
        (M, N), K = out.shape, A.shape[0 if A_turned else 1]
        address = ctypes.c_void_p
        # cuBLAS counts by columns: it sees every array turned, and computes out.T.
        self._call(
            "cublasGemmEx", int(B_turned), int(A_turned), N, M, K, ctypes.byref(number(1)),
            address(B.data.ptr), kind, B.shape[1], address(A.data.ptr), kind, A.shape[1],
            ctypes.byref(number(0)), address(out.data.ptr), kind, N, compute, _DEFAULT,
        )  # fmt: skip

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(ctypes.c_void_p(self._pointer), *arguments)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")
