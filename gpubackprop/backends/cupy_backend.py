"""The CuPy backend: cuBLAS for the products, fused elementwise kernels for everything between them.

The kernels are printed from the expressions; `sigmoid_delta` is the one that the delta rule is
known by.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.activations import SIGMOID, Activation
from gpubackprop.backends.base import Backend
from gpubackprop.backends.cuda.precise import COMPUTE_CAPABILITY, Precise
from gpubackprop.backends.cuda.step import Step
from gpubackprop.backends.cuda_printer import Kernel, dropout_kernel, to_kernel
from gpubackprop.backends.cupy_copies import Staging, Turns
from gpubackprop.errors import missing
from gpubackprop.expressions import Expression
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array


def load(device: int = 0) -> Any:
    """Import CuPy and see that the device works.

    Raises
    ------
    ImportError, RuntimeError
        With the reason in words.
    """
    reason = problem(device)
    if reason:
        if importlib.util.find_spec("cupy") is None:
            raise missing("CuPy", "cuda13]' or 'gpubackprop[cuda12")
        raise RuntimeError(f"the GPU cannot be used: {reason}; choose backend='numpy'")
    import cupy

    return cupy


@functools.cache
def problem(device: int = 0) -> str | None:
    """Find out by doing whether a CUDA device can allocate, compile, run and multiply.

    ``import cupy`` succeeds without a driver, and a device without CUDA's headers, NVRTC or cuBLAS
    fails at its first use: so each of them is used once.

    Returns
    -------
    str or None
        The reason why not, in words; None if all is well. The answer is kept.
    """
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()  # raises without a driver
        if device >= count:
            return f"there are {count} CUDA devices, so no number {device}"
        with cupy.cuda.Device(device):
            x = cupy.full((2, 2), 2, "float32")
            doubled = cupy.ElementwiseKernel("T x", "T y", "y = 2 * x", "gpubackprop_probe")(x)
            if float((doubled @ x)[0, 0]) != 16:
                return "a test product gave a wrong result"
    except Exception as error:  # ImportError, CUDARuntimeError, CompileException, CUBLASError ...
        text = " ".join(str(error).split())  # a compiler's output can be long
        return f"{type(error).__name__}: {text[:300]}"
    return None


def to_host(x: Any) -> np.ndarray:
    """Copy an array on a GPU to the host, whichever library made it."""
    import cupy

    speaks = hasattr(x, "__cuda_array_interface__")
    host: np.ndarray = (cupy.asarray(x) if speaks else cupy.from_dlpack(x)).get()
    return host


def elementwise_kernel(kernel: Kernel) -> Any:
    """Make CuPy's kernel of a printed one."""
    import cupy

    return cupy.ElementwiseKernel(
        kernel.inputs, kernel.outputs, kernel.operation, kernel.name, no_return=True
    )


def sigmoid_delta() -> Any:
    """Return the fused sigmoid-delta kernel, a `cupy.ElementwiseKernel`.

    ``sigmoid_delta()(delta, a, out)`` computes ``out = delta * (a * (1 - a))`` in one pass over
    memory, where the same in array operations takes three.
    """
    return elementwise_kernel(to_kernel(SIGMOID.delta))


class PlainCupyBackend(Backend):
    """CuPy arrays on one device, without kernels of ours; see `Backend` for the operations.

    Parameters
    ----------
    name : str
        "cupy-plain", "cupy-plain:1", ...
    device : int
    """

    host = False

    def __init__(self, name: str = "cupy-plain", device: int = 0) -> None:
        super().__init__(name, load(device))
        self.device = device
        self._staging = Staging(self.xp)

    @functools.cached_property
    def multiprocessors(self) -> int:  # type: ignore[override]
        """How many the device has."""
        return int(self.xp.cuda.Device(self.device).attributes["MultiProcessorCount"])

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this device the current one."""
        with np.errstate(all="ignore"), self.xp.cuda.Device(self.device):
            yield

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return x as a CuPy array; without a copy if it is on the device and of that dtype."""
        speaks_dlpack = hasattr(x, "__dlpack__") and not hasattr(x, "__array__")
        if speaks_dlpack and not hasattr(x, "__cuda_array_interface__"):
            x = self.xp.from_dlpack(x)
        return self.xp.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy to the host. Waits for the device."""
        host: np.ndarray = x.get() if self.owns(x) else np.asarray(x)
        return host

    def upload(self, source: np.ndarray, out: Array) -> Array:
        """Copy from the host through page-locked memory, without waiting for the device."""
        self._staging.upload(np.asarray(source), out)
        return out

    def turns(self) -> Turns:
        """Return two sets of buffers, one of which is filled while the other is computed with."""
        return Turns(self.xp, self._staging.copying())

    def release(self) -> None:
        """Give memory that CuPy's pool keeps back to the device."""
        with self.xp.cuda.Device(self.device):
            self.xp.get_default_memory_pool().free_all_blocks()

    def take_rows(self, X: Array, rows: Array, out: Array) -> Array:
        """Gather ``out[i] = X[rows[i]]``; returns `out`."""
        return self.xp.take(X, rows, axis=0, out=out)

    def free_bytes(self) -> int:
        """Return what the device has left: memory that CuPy's pool keeps included, and no more than
        that pool's limit, if it has one.
        """
        with self.xp.cuda.Device(self.device) as device:
            pool = self.xp.get_default_memory_pool()
            free: int = device.mem_info[0] + pool.free_bytes()
            limit: int = pool.get_limit()
            return min(free, limit - pool.used_bytes()) if limit else free

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        self.xp.cuda.get_current_stream().synchronize()

    def mark(self) -> Any:
        """Return an event behind all that the device was given so far."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record()
        return event

    def wait(self, mark: Any) -> None:
        """Wait until the device has passed a mark."""
        mark.synchronize()

    def describe(self) -> str:
        """Name the device."""
        properties = self.xp.cuda.runtime.getDeviceProperties(self.device)
        return f"{properties['name'].decode()}, CuPy {self.xp.__version__}"

    def erf(self, x: Array) -> Array:
        """Return the error function of x."""
        from cupyx.scipy.special import erf

        return erf(x)


class CupyBackend(PlainCupyBackend):
    """CuPy arrays on one device, with fused kernels between the products.

    Parameters
    ----------
    name : str
        "cupy", "cupy:1", ...
    device : int
    """

    plain = False

    def __init__(self, name: str = "cupy", device: int = 0) -> None:
        super().__init__(name, device)

    def compile(self, expression: Expression, dtype: np.dtype) -> Callable[..., None]:
        """Make a kernel of an expression."""
        kernel = elementwise_kernel(to_kernel(expression))
        T, n = dtype.type, len(expression.arguments)
        constants = [T(value) for value in expression.folded.constants.values()]
        n_read = n + len(expression.scalars)

        def run(*values: Any) -> None:
            # A Python float would be passed as a double.
            scalars = [T(value) for value in values[n:n_read]]
            kernel(*values[:n], *scalars, *constants, *values[n_read:])

        return run

    @functools.cached_property
    def _kernels(self) -> dict[str, Any]:
        cp = self.xp
        return {
            "dropout": elementwise_kernel(dropout_kernel()),
            "take_rows": cp.ElementwiseKernel(
                "raw S X, raw I rows, int64 n_columns", "T out",
                "out = X[(ptrdiff_t)rows[i / n_columns] * n_columns + i % n_columns]", "take_rows",
                no_return=True,
            ),
            "one_hot": cp.ElementwiseKernel(
                "I label, int64 n_classes", "T out",
                "out = label == i % n_classes", "one_hot", no_return=True,
            ),
            # Not "norm", which is a function of CUDA's.
            "norm": cp.ReductionKernel(
                "T x", "T y", "(double)x * (double)x", "a + b", "y = sqrt(a)", "0", "l2_norm",
                reduce_type="double",
            ),
            "clip": cp.ElementwiseKernel(
                "T norm, T limit", "T g",
                "if (!(norm <= limit)) g = g * (limit / norm)", "clip_norm", no_return=True,
            ),
            "not_finite": cp.ReductionKernel(
                "T x", "float64 y",
                "isfinite(x) ? 0. : 1.", "a + b", "y = a == 0", "0", "all_finite",
            ),
        }  # fmt: skip

    def step(
        self,
        model: Model,
        optimizer: Optimizer,
        dropout_seed: int,
        *,
        penalised: bool = False,
        precision: str | None = None,
    ) -> Step | None:
        """Return a step in fused passes; None if the optimiser reads more than the gradient."""
        if optimizer.expression.arguments != ("g",):
            return None
        if precision is not None:
            return Precise(self, model, optimizer, dropout_seed, penalised, precision)
        return Step(self, model, optimizer, dropout_seed, penalised)

    def lacks(self, precision: str) -> str | None:
        """Return why the device cannot multiply in a precision, in words; None if it can."""
        found = int(self.xp.cuda.Device(self.device).compute_capability)
        needed = COMPUTE_CAPABILITY[precision]
        if found >= needed:
            return None
        return f"precision={precision!r} needs compute capability {needed}, the device has {found}"

    def take_rows(self, X: Array, rows: Array, out: Array) -> Array:
        """Gather ``out[i] = X[rows[i]]``; returns `out`. `cupy.take` would allocate."""
        self._kernels["take_rows"](X, rows, X.shape[1] if X.ndim > 1 else 1, out)
        return out

    def one_hot(self, labels: Array, out: Array) -> Array:
        """Write 1 where the column is the row's label, else 0; returns `out`."""
        self._kernels["one_hot"](labels[:, None], out.shape[1], out)
        return out

    def layer(
        self, a: Array, W: Array, b: Array | None, activation: Activation, z: Array, out: Array
    ) -> Array:
        """Pass a batch through one layer: a product, then bias and activation in one pass."""
        if b is None:
            return super().layer(a, W, b, activation, z, out)
        self.xp.matmul(a, W.T, out=z)
        if z is out:
            self.elementwise(activation.bias, z.dtype)(z, b, out)
        else:
            self.elementwise(activation.bias_keeping_z, z.dtype)(z, b, z, out)
        return out

    def dropout_mask(self, key: int, p: float, first: int, out: Array) -> Array:
        """Write a dropout mask in one pass."""
        integers = np.uint64(key), np.uint64(first * out.shape[1]), np.uint64(dropout.threshold(p))
        self._kernels["dropout"](*integers, out.dtype.type(1 / (1 - p)), out)
        return out

    def clip_norm(self, g: Array, limit: float, cell: Array) -> None:
        """Scale a gradient down to an L2 norm of at most `limit`, in place and without waiting."""
        self._kernels["norm"](g, axis=0, keepdims=True, out=cell)
        self._kernels["clip"](cell, g.dtype.type(limit), g)

    def all_finite(self, x: Array, out: Array) -> None:
        """Write 1 into `out`, of shape (1,), if every element of x is a finite number, else 0."""
        self._kernels["not_finite"](x, axis=0, keepdims=True, out=out)
