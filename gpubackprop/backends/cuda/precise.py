"""Products of rounded inputs, for tensor cores: TF32, float16 and bfloat16, summed in float32.

Off unless asked for by `precision=`. No GPU has run it: on the emulator the numbers are right.
"""

import functools
from typing import Any

import numpy as np

from gpubackprop.backends.cuda.step import Step
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: What a device must have, as CuPy writes it: 80 is 8.0.
COMPUTE_CAPABILITY = {"tf32": 80, "float16": 70, "bfloat16": 80}
#: cudaDataType of the inputs, and cublasComputeType.
_FLOAT, _HALF, _BFLOAT = 0, 2, 14
_SUM, _SUM_TF32 = 68, 77
_INPUT = {"tf32": _FLOAT, "float16": _HALF, "bfloat16": _BFLOAT}


class Precise(Step):
    """`Step` with the products' inputs rounded.

    In 16 bits, what a layer reads, its weights and its delta are each rounded once: 3 L launches
    more. In float16, whose smallest numbers are 6e-8, deltas are multiplied by a power of two near
    the batch size meanwhile.
    """

    def __init__(
        self,
        backend: Any,
        model: Model,
        optimizer: Optimizer,
        dropout_seed: int,
        penalised: bool,
        precision: str,
    ) -> None:
        super().__init__(backend, model, optimizer, dropout_seed, penalised)
        self.precision = precision
        #: Flat buffers, by the address of what is rounded; that of X, which moves, is 0.
        self._rounded: dict[int, Array] = {}
        self._fresh: set[int] = set()
        self._X, self._shift = 0, 1.0

    def gradient(
        self,
        X: Array,
        Y: Array,
        w: Array | None,
        scale: float,
        parameters: Parameters,
        ws: Workspace,
        out: Parameters,
        loss: Array,
        first: int | None,
    ) -> None:
        """Write the gradient; see `Step.gradient`."""
        self._fresh.clear()
        self._X = X.data.ptr
        self._shift = 2.0 ** round(np.log2(1 / scale)) if self.precision == "float16" else 1.0
        super().gradient(X, Y, w, scale, parameters, ws, out, loss, first)

    def _product(self, a: Array, W: Array, out: Array) -> None:
        self._gemm(a, False, W, True, out)

    def _weights_product(self, delta: Array, a: Array, dW: Array) -> None:
        self._gemm(delta, True, a, False, dW, self._shift)

    def _back_product(self, delta: Array, W: Array, out: Array) -> None:
        self._gemm(delta, False, W, False, out, self._shift)

    def _gemm(
        self, A: Array, A_turned: bool, B: Array, B_turned: bool, out: Array, shift: float = 1.0
    ) -> None:
        """Write ``op(A) @ op(B)``; A is multiplied by `shift` and the product divided by it."""
        from cupy.cuda import cublas, device

        kind = _INPUT[self.precision]
        compute = _SUM_TF32 if kind == _FLOAT else _SUM
        if kind != _FLOAT:
            A, B = self._round(A, shift), self._round(B, 1.0)
        alpha, beta = np.array(1 / shift, np.float32), np.zeros((), np.float32)
        M, N = out.shape
        K = A.shape[0 if A_turned else 1]
        # cuBLAS counts by columns: it sees every array turned, and computes out.T.
        cublas.gemmEx(
            device.get_cublas_handle(), int(B_turned), int(A_turned), N, M, K, alpha.ctypes.data,
            B.data.ptr, kind, B.shape[1], A.data.ptr, kind, A.shape[1], beta.ctypes.data,
            out.data.ptr, _FLOAT, N, compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def _round(self, x: Array, shift: float) -> Array:
        """Return x times `shift` in 16 bits, rounded once in a step."""
        key = 0 if x.data.ptr == self._X else x.data.ptr
        known = self._rounded.get(key)
        if known is None or known.size < x.size:
            known = self._rounded[key] = self.backend.empty(x.size, np.uint16)
        rounded = known[: x.size].reshape(x.shape)
        if key not in self._fresh:
            self._fresh.add(key)
            self._rounding(x, np.float32(shift), rounded)
        return rounded

    @functools.cached_property
    def _rounding(self) -> Any:
        return rounding(self.precision)


def rounding(precision: str) -> Any:
    """Return the kernel that rounds to 16 bits; ties go to the even number, a NaN stays one."""
    import cupy

    if precision == "float16":
        operation = "out = __half_as_ushort(__float2half_rn(x * shift));"
        preamble = "#include <cuda_fp16.h>"
    else:
        operation = (
            "const unsigned bits = __float_as_uint(x * shift);\n"
            "out = x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;"
        )
        preamble = ""
    return cupy.ElementwiseKernel(
        "float32 x, float32 shift", "uint16 out", operation, f"to_{precision}", no_return=True,
        preamble=preamble,
    )  # fmt: skip
