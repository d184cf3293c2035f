"""Real CuPy on the emulated device."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpucuda

if cpucuda.problem() is not None:
    pytest.skip(str(cpucuda.problem()), allow_module_level=True)
if not cpucuda.installed():  # conftest.py installs it where there is no GPU
    pytest.skip("a real GPU is in use", allow_module_level=True)

import cupy
import cupyx.scipy.special

FLOATS = ["float32", "float64"]


def random(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    return np.random.RandomState(seed).standard_normal(shape).astype(dtype)


def close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(cupy.asnumpy(actual), expected, rtol=rtol, atol=atol)


# ---- the device and its memory ------------------------------------------------


def test_device() -> None:
    assert cupy.cuda.runtime.getDeviceCount() == 1
    assert cupy.cuda.is_available()
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    assert properties["warpSize"] == 32
    assert properties["maxThreadsPerBlock"] == 1024
    assert b"emulated" in properties["name"]
    assert cupy.cuda.Device().compute_capability == "80"
    assert (
        cupy.cuda.Device(0).attributes["MultiProcessorCount"] == properties["multiProcessorCount"]
    )


@pytest.mark.parametrize("dtype", [*FLOATS, "float16", "int32", "uint8", "bool", "complex64"])
def test_round_trip(dtype: Any) -> None:
    a = random(3, 4, 5).astype(dtype)
    np.testing.assert_array_equal(cupy.asnumpy(cupy.asarray(a)), a)
    np.testing.assert_array_equal(cupy.asarray(a)[:, ::2].get(), a[:, ::2])


def test_memory_pool() -> None:
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        a = cupy.empty(1000, "float32")
        assert pool.used_bytes() == 4096
        assert pool.total_bytes() == 4096
        del a
        assert pool.used_bytes() == 0
        assert pool.free_bytes() == 4096
        pool.free_all_blocks()
        assert pool.total_bytes() == 0


def test_out_of_memory() -> None:
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.cuda.MemoryPool().malloc(1 << 50)


def test_memory_info_counts_allocations() -> None:
    free, total = cupy.cuda.runtime.memGetInfo()
    p = cupy.cuda.runtime.malloc(1 << 20)
    assert cupy.cuda.runtime.memGetInfo() == (free - (1 << 20), total)
    cupy.cuda.runtime.free(p)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidValue"):
        cupy.cuda.runtime.free(p)


def test_pinned_memory_and_async_copy() -> None:
    host = np.frombuffer(cupy.cuda.alloc_pinned_memory(4000), "float32", 1000)
    host[:] = np.arange(1000)
    stream = cupy.cuda.Stream(non_blocking=True)
    device = cupy.empty(1000, "float32")
    device.set(host, stream=stream)
    back = device.get(stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(back, host)


def test_dlpack() -> None:
    a = cupy.arange(6, dtype="float32").reshape(2, 3)
    b = cupy.from_dlpack(a)
    b[0, 0] = 7
    assert a[0, 0] == 7
    assert b.data.ptr == a.data.ptr


def test_copies_are_checked() -> None:
    a = cupy.zeros(4, "float32")
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidValue"):
        cupy.cuda.runtime.memcpy(
            a.data.ptr, a.data.ptr + (1 << 40), 16, cupy.cuda.runtime.memcpyDeviceToDevice
        )


# ---- arrays ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_ufuncs_with_out_and_broadcasting(dtype: Any) -> None:
    a, b = random(4, 5, dtype=dtype), random(5, dtype=dtype, seed=1)
    x, y, out = cupy.asarray(a), cupy.asarray(b), cupy.empty((4, 5), dtype)
    assert cupy.add(x, y, out=out) is out
    close(out, a + b)
    cupy.maximum(x, 0, out=out)
    close(out, np.maximum(a, 0))
    close(1 / (1 + cupy.exp(-x)), 1 / (1 + np.exp(-a)))
    close(cupy.tanh(x) * y[None, :] - cupy.sqrt(abs(x)), np.tanh(a) * b - np.sqrt(abs(a)))
    close(cupy.where(x > 0, x, 0.01 * x), np.where(a > 0, a, 0.01 * a))
    x *= 2
    x -= y
    close(x, a * 2 - b)


def test_indexing() -> None:
    a = random(6, 5)
    x = cupy.asarray(a)
    index = np.array([4, 0, 0, 5])
    out = cupy.empty((4, 5), "float32")
    cupy.take(x, cupy.asarray(index), axis=0, out=out)
    close(out, a[index])
    close(x[cupy.asarray(index), cupy.asarray([0, 1, 2, 3])], a[index, [0, 1, 2, 3]])
    close(x[1:5:2, ::-1], a[1:5:2, ::-1])
    close(x[x > 0], a[a > 0])
    x[2:4] = 1
    x[cupy.asarray([0, 5])] = 3
    a[2:4], a[[0, 5]] = 1, 3
    close(x, a)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2)])
def test_reductions(dtype: Any, axis: Any) -> None:
    a = random(7, 33, 5, dtype=dtype)
    x = cupy.asarray(a)
    for name in ("sum", "mean", "max", "min"):
        close(getattr(x, name)(axis=axis), getattr(a, name)(axis=axis), rtol=1e-4, atol=1e-5)
    if not isinstance(axis, tuple):
        np.testing.assert_array_equal(cupy.asnumpy(x.argmax(axis=axis)), a.argmax(axis=axis))
    close(x.std(axis=axis), a.std(axis=axis), rtol=1e-4)


def test_large_reduction_uses_many_threads() -> None:
    a = random(100000)
    close(cupy.asarray(a).sum(), a.astype("float64").sum(), rtol=1e-3, atol=1e-2)
    close(cupy.linalg.norm(cupy.asarray(a)), np.linalg.norm(a.astype("float64")), rtol=1e-4)


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
def test_matrix_products(dtype: Any) -> None:
    a, b = random(5, 7).astype(dtype), random(7, 3, seed=1).astype(dtype)
    x, y = cupy.asarray(a), cupy.asarray(b)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype == "float16" else {"rtol": 1e-4, "atol": 1e-5}
    close(x @ y, a @ b, **tolerance)
    close(cupy.asarray(a.T.copy()).T @ cupy.asarray(b.T.copy()).T, a @ b, **tolerance)
    out = cupy.empty((5, 3), dtype)
    cupy.matmul(x, y, out=out)
    close(out, a @ b, **tolerance)
    out[...] = 0
    cupy.dot(x, y, out=out)
    close(out, a @ b, **tolerance)
    close(x @ y[:, 0], a @ b[:, 0], **tolerance)
    close(cupy.dot(x[0], y[:, 1].copy()), a[0] @ b[:, 1], **tolerance)


def test_transposed_operands() -> None:
    g, h = random(8, 5), random(8, 3, seed=1)
    close(cupy.asarray(g).T @ cupy.asarray(h), g.T @ h)


# ---- kernels written in Python strings ------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, "float16"])
def test_elementwise_kernel(dtype: Any) -> None:
    kernel = cupy.ElementwiseKernel("T s, T a", "T out", "out = s * a * (1 - a)", "sigmoid_delta")
    s, a = random(6, 10, dtype=dtype), random(6, 10, dtype=dtype, seed=1)
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if dtype == "float16" else {"rtol": 1e-5, "atol": 1e-6}
    close(kernel(cupy.asarray(s), cupy.asarray(a)), s * a * (1 - a), **tolerance)
    out = cupy.empty((6, 10), dtype)
    kernel(cupy.asarray(s), cupy.asarray(a[::-1])[::-1], out)
    close(out, s * a * (1 - a), **tolerance)


def test_elementwise_kernel_with_raw_argument_and_preamble() -> None:
    kernel = cupy.ElementwiseKernel(
        "raw T x, int32 n",
        "T y",
        "y = twice(x[(i + 1) % n])",
        "rotate",
        preamble="template <typename T> __device__ T twice(T v) { return v + v; }",
    )
    a = random(11)
    close(kernel(cupy.asarray(a), 11, cupy.empty(11, "float32")), 2 * np.roll(a, -1))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_reduction_kernel(axis: Any) -> None:
    kernel = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "l2norm")
    a = random(40, 30)
    close(kernel(cupy.asarray(a), axis=axis), np.sqrt((a * a).sum(axis=axis)), rtol=1e-4)


def test_fuse() -> None:
    @cupy.fuse
    def activation(x: Any, b: Any) -> Any:
        return cupy.maximum(x + b, 0) * 0.5

    a, b = random(8, 4), random(4, seed=1)
    close(activation(cupy.asarray(a), cupy.asarray(b)), np.maximum(a + b, 0) * 0.5)


BLOCK_SUM = r"""
extern "C" __global__ void block_sum(const float* x, float* out, int n) {
  __shared__ float partial[32];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = i < n ? x[i] : 0.0f;
  for (int d = 16; d; d >>= 1) v += __shfl_down_sync(0xffffffffu, v, d);
  if (threadIdx.x % warpSize == 0) partial[threadIdx.x / warpSize] = v;
  __syncthreads();
  if (threadIdx.x < warpSize) {
    v = threadIdx.x < (blockDim.x + 31) / 32 ? partial[threadIdx.x] : 0.0f;
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    if (threadIdx.x == 0) atomicAdd(out, v);
  }
}
"""


@pytest.mark.parametrize("block", [32, 96, 256, 1024])
def test_raw_kernel_shared_memory_shuffles_and_atomics(block: Any) -> None:
    kernel = cupy.RawKernel(BLOCK_SUM, "block_sum")
    a = np.arange(5000, dtype="float32")
    out = cupy.zeros(1, "float32")
    kernel(((5000 + block - 1) // block,), (block,), (cupy.asarray(a), out, np.int32(5000)))
    assert out[0] == a.sum()
    assert kernel.attributes["shared_size_bytes"] == 128


MODULE = r"""
#include <cuda_fp16.h>
__constant__ float scale[2];
__device__ int calls;
namespace impl {
template <typename T, int N> struct Power {
  static __device__ T of(T x) { return x * Power<T, N - 1>::of(x); }
};
template <typename T> struct Power<T, 0> { static __device__ T of(T) { return T(1); } };
}
template <typename T, int N> __global__ void power(const T* x, T* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = impl::Power<T, N>::of(x[i]);
}
extern "C" __global__ __launch_bounds__(128)
void affine(const float* __restrict__ x, float* y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    y[i] = fmaf(x[i], scale[0], scale[1]);
  if (threadIdx.x == 0) atomicAdd(&calls, 1);
}
extern "C" __global__ void reverse(float* x) {
  extern __shared__ float buffer[];
  buffer[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void halves(const __half* x, float* y) {
  y[threadIdx.x] = __half2float(x[threadIdx.x] + __float2half(1.0f));
}
"""


@pytest.fixture(scope="module")
def module() -> Any:
    return cupy.RawModule(
        code=MODULE,
        options=("-std=c++17",),
        name_expressions=["power<float, 3>", "power<double, 2>"],
    )


def test_raw_module_templates(module: Any) -> None:
    for name, dtype, n in (("power<float, 3>", "float32", 3), ("power<double, 2>", "float64", 2)):
        a = random(100, dtype=dtype)
        y = cupy.empty(100, dtype)
        module.get_function(name)((4,), (32,), (cupy.asarray(a), y, np.int32(100)))
        close(y, a**n)


def test_raw_module_constants_and_globals(module: Any) -> None:
    pointer = module.get_global("scale")
    cupy.ndarray(2, "float32", pointer)[...] = cupy.asarray([2, 1], "float32")
    a, y = random(1000), cupy.empty(1000, "float32")
    module.get_function("affine")((3,), (128,), (cupy.asarray(a), y, np.int32(1000)))
    close(y, 2 * a + 1)
    assert cupy.ndarray(1, "int32", module.get_global("calls"))[0] == 3


def test_raw_module_dynamic_shared_memory(module: Any) -> None:
    x = cupy.arange(64, dtype="float32")
    module.get_function("reverse")((1,), (64,), (x,), shared_mem=256)
    np.testing.assert_array_equal(x.get(), np.arange(63, -1, -1))
    kernel = module.get_function("reverse")
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
        kernel((1,), (64,), (x,), shared_mem=100 << 10)
    kernel.max_dynamic_shared_size_bytes = 100 << 10
    kernel((1,), (64,), (x,), shared_mem=100 << 10)


def test_raw_module_half(module: Any) -> None:
    y = cupy.empty(8, "float32")
    module.get_function("halves")((1,), (8,), (cupy.arange(8).astype("float16"), y))
    np.testing.assert_array_equal(y.get(), np.arange(1, 9))


def test_blocks_do_not_see_each_others_shared_memory() -> None:
    kernel = cupy.RawKernel(
        r"""
    extern "C" __global__ void stale(int* bad) {
      __shared__ float s[64];
      if (s[threadIdx.x] == 3.0f) atomicAdd(bad, 1);
      __syncthreads();
      s[threadIdx.x] = 3.0f;
    }""",
        "stale",
    )
    bad = cupy.zeros(1, "int32")
    kernel((8,), (64,), (bad,))
    assert bad[0] == 0


def test_cooperative_launch_with_grid_sync() -> None:
    kernel = cupy.RawKernel(
        r"""
    #include <cooperative_groups.h>
    namespace cg = cooperative_groups;
    extern "C" __global__ void normalise(float* x, float* total, int n) {
      __shared__ float mine;
      cg::grid_group grid = cg::this_grid();
      int i = grid.thread_rank();
      if (threadIdx.x == 0) mine = blockIdx.x;
      float v = i < n ? x[i] : 0.0f;
      for (int d = 16; d; d /= 2) v += __shfl_down_sync(~0u, v, d);
      if (cg::this_thread_block().thread_rank() % 32 == 0) atomicAdd(total, v);
      grid.sync();
      if (i < n) x[i] = mine == blockIdx.x ? x[i] / *total : -1.0f;
    }""",
        "normalise",
        enable_cooperative_groups=True,
    )
    a = np.arange(1, 501, dtype="float32")
    x, total = cupy.asarray(a), cupy.zeros(1, "float32")
    kernel((4,), (128,), (x, total, np.int32(500)))
    close(x, a / a.sum())


# ---- streams, events, graphs ---------------------------------------------------------------


def test_streams_and_events() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    with stream:
        begin.record()
        x = cupy.ones(1000).cumsum()
        end.record()
    end.synchronize()
    assert end.done
    assert stream.done
    assert 0 < cupy.cuda.get_elapsed_time(begin, end) < 60000
    cupy.cuda.get_current_stream().wait_event(end)
    assert x[-1] == 1000
    called: list[int] = []
    stream.launch_host_func(called.append, 5)
    stream.synchronize()
    assert called == [5]


def test_graph_capture_and_replay() -> None:
    kernel = cupy.RawKernel(BLOCK_SUM, "block_sum")
    stream = cupy.cuda.Stream(non_blocking=True)
    x, y, total = (
        cupy.arange(100, dtype="float32"),
        cupy.empty(100, "float32"),
        cupy.zeros(1, "float32"),
    )
    with stream:
        cupy.multiply(x, 2, out=y)
        stream.begin_capture()
        cupy.multiply(x, 2, out=y)
        total.fill(0)
        kernel((1,), (128,), (y, total, np.int32(100)))
        graph = stream.end_capture()
        y.fill(0)
        assert total[0] == 0  # captured, not run
        for k in range(3):
            x += 1
            graph.launch()
            assert total[0] == 2 * (np.arange(100) + k + 1).sum()
    stream.synchronize()
    del kernel  # the graph keeps what it needs
    graph.launch(stream)


def test_capture_rejects_what_a_device_rejects() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CaptureUnsupported"):
            stream.synchronize()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CaptureInvalidated"):
            stream.end_capture()
    assert not stream.is_capturing()


# ---- errors ------------------------------------------------------------------------------------


def test_compile_error_shows_the_line() -> None:
    with pytest.raises(cupy.cuda.compiler.CompileException, match="undefined_name"):
        cupy.RawKernel(
            'extern "C" __global__ void f(float* x) { x[0] = undefined_name; }', "f"
        ).compile()


def run_kernel(body: str, block: int = 32) -> None:
    kernel = cupy.RawKernel(f'extern "C" __global__ void f(int* x) {{{body}}}', "f")
    kernel((1,), (block,), (cupy.zeros(64, "int32"),))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("*(volatile int*)8 = 1;", "ILLEGAL_ADDRESS"),
        ("x[0] = x[threadIdx.x] / x[1];", "LAUNCH_FAILED"),
        ("assert(threadIdx.x != 5);", "ASSERT"),
        ("__trap();", "LAUNCH_FAILED"),
        ("if (threadIdx.x == 3) __shfl_sync(~0u, 1, 0); else __syncthreads();", "LAUNCH_FAILED"),
        ("__shfl_sync(1u, 1, 0);", "LAUNCH_FAILED"),
    ],
)
def test_faults_become_errors_and_the_device_lives_on(body: Any, error: Any, capfd: Any) -> None:
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match=error):
        run_kernel(body)
    assert "kernel f" in capfd.readouterr().err
    assert cupy.arange(10).sum() == 45
    run_kernel("__syncthreads(); x[threadIdx.x] = 1;")


def test_too_large_a_block() -> None:
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
        run_kernel("", block=2048)


def test_missing_functions_are_named() -> None:
    with pytest.raises(
        cupy.cuda.runtime.CUDARuntimeError, match="cudaMalloc3DArray is not implemented"
    ):
        cupy.cuda.texture.CUDAarray(
            cupy.cuda.texture.ChannelFormatDescriptor(
                32, 0, 0, 0, cupy.cuda.runtime.cudaChannelFormatKindFloat
            ),
            8,
        )
    with pytest.raises(ImportError, match="libcufft"):
        cupy.fft.fft(cupy.ones(4))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidDevice"):
        cupy.cuda.Device(1).use()


# ---- counters ----------------------------------------------------------------------------------


SCALE = cupy.ElementwiseKernel("T x, T f", "T y", "y = x * f", "cpucuda_test_scale")


def test_counters_of_launches_and_graphs() -> None:
    x, y = cupy.ones(8, "float32"), cupy.empty(8, "float32")
    SCALE(x, np.float32(2), y)
    stream = cupy.cuda.Stream(non_blocking=True)
    cpucuda.reset_counters()
    SCALE(x, np.float32(2), y)
    with stream:
        stream.begin_capture()
        SCALE(x, np.float32(3), y)
        SCALE(y, np.float32(3), y)
        graph = stream.end_capture()
    assert cpucuda.counters()["launches"] == 1, "a captured launch counts when it runs"
    for _ in range(5):
        graph.launch(stream)
    counts = cpucuda.counters()
    assert counts["launches"] == 11
    assert counts["graph_launches"] == 5
    assert counts["launches_by_name"] == {"cpucuda_test_scale": 11}
    assert counts["synchronizations"] == counts["blocking_copies"] == counts["mallocs"] == 0


def test_counters_of_waiting() -> None:
    stream, event = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Event()
    cpucuda.reset_counters()
    stream.synchronize()
    cupy.cuda.Device().synchronize()
    event.record(stream)
    event.synchronize()
    assert stream.done
    assert event.done
    counts = cpucuda.counters()
    assert (counts["synchronizations"], counts["event_waits"]) == (2, 1)


def test_counters_of_copies() -> None:
    pageable = np.arange(1000, dtype="float32")
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(4000), "float32", 1000)
    pinned[:] = pageable
    stream = cupy.cuda.Stream(non_blocking=True)
    x = cupy.empty(1000, "float32")
    cpucuda.reset_counters()
    x.set(pinned, stream=stream)
    x.get(stream=stream, out=pinned, blocking=False)
    counts = cpucuda.counters()
    assert (counts["host_to_device"], counts["device_to_host"]) == (1, 1)
    assert counts["blocking_copies"] == counts["synchronizations"] == 0
    x.set(pageable, stream=stream)
    assert cpucuda.counters()["blocking_copies"] == 1
    x.get()
    assert cpucuda.counters()["blocking_copies"] >= 2


def test_counters_of_allocations_and_products() -> None:
    a, b, c = cupy.ones((4, 5)), cupy.ones((3, 5)), cupy.empty((4, 3))
    cupy.matmul(a, b.T, out=c)
    cpucuda.reset_counters()
    cupy.matmul(a, b.T, out=c)
    cupy.matmul(a, b.T, out=c)
    assert cpucuda.counters()["blas_calls"] == 2
    assert cpucuda.counters()["mallocs"] == 0
    cupy.cuda.runtime.free(cupy.cuda.runtime.malloc(1000))
    assert cpucuda.counters()["mallocs"] == 1


# ---- what the project does -----------------------------------------------------------------------


def test_kernel_with_several_outputs_and_in_place() -> None:
    kernel = cupy.ElementwiseKernel(
        "T g, T lr, T m", "T v, T w", "v = m * v - lr * g; w += v", "cpucuda_test_momentum"
    )
    g, v, w = random(4, 6), random(4, 6, seed=1), random(4, 6, seed=2)
    x, y = cupy.asarray(v), cupy.asarray(w)
    kernel(cupy.asarray(g), np.float32(0.1), np.float32(0.9), x, y)
    close(x, 0.9 * v - 0.1 * g)
    close(y, w + 0.9 * v - 0.1 * g)


def test_kernel_in_float64_with_functions() -> None:
    kernel = cupy.ElementwiseKernel(
        "T x",
        "T a, T b, T c, T d, T e",
        "a = erf(x); b = expm1(x); c = log1p(fabs(x)); d = fmax(x, T(0)); e = tanh(x)",
        "cpucuda_test_functions",
    )
    x = random(50, dtype="float64")
    a, b, c, d, e = kernel(cupy.asarray(x))
    close(b, np.expm1(x), rtol=1e-14)
    close(c, np.log1p(abs(x)), rtol=1e-14)
    close(d, np.fmax(x, 0))
    close(e, np.tanh(x), rtol=1e-14)
    close(a, cupyx.scipy.special.erf(cupy.asarray(x)).get(), rtol=1e-14)
    assert abs(float(cupyx.scipy.special.erf(cupy.float64(1))) - 0.8427007929497149) < 1e-15


@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_with_a_transposed_view_and_out(dtype: str) -> None:
    a, w, b = random(6, 5, dtype=dtype), random(4, 5, dtype=dtype), random(6, 4, dtype=dtype)
    out = cupy.empty((6, 4), dtype)
    assert cupy.matmul(cupy.asarray(a), cupy.asarray(w).T, out=out) is out
    close(out, a @ w.T, rtol=1e-4)
    grad = cupy.empty((4, 5), dtype)
    cupy.matmul(cupy.asarray(b).T, cupy.asarray(a), out=grad)
    close(grad, b.T @ a, rtol=1e-4)


def test_reductions_into_out_do_not_allocate() -> None:
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        a = random(32, 10)
        x, out = cupy.asarray(a), cupy.empty(10, "float32")
        index, finite = cupy.empty(32, "int64"), cupy.empty((), "bool")
        flags = cupy.empty((32, 10), "bool")

        def step() -> None:
            x.sum(axis=0, out=out)
            x.max(axis=0, out=out)
            x.argmax(axis=1, out=index)
            cupy.isfinite(x, out=flags)
            flags.all(out=finite)

        step()
        before = pool.total_bytes()
        cpucuda.reset_counters()
        for _ in range(3):
            step()
        counts = cpucuda.counters()
        assert counts["mallocs"] == 0
        assert pool.total_bytes() == before
        assert counts["synchronizations"] == counts["blocking_copies"] == 0
        close(out, a.max(axis=0))
        np.testing.assert_array_equal(index.get(), a.argmax(axis=1))
        assert bool(finite)


def test_structs_are_passed_by_value() -> None:
    kernel = cupy.RawKernel(
        """struct Pair { float scale; int shift; };
        extern "C" __global__ void cpucuda_test_struct(Pair p, float* x) {
          x[threadIdx.x] = threadIdx.x * p.scale + p.shift;
        }""",
        "cpucuda_test_struct",
    )
    pair = np.array([(0.5, 3)], np.dtype([("scale", "f4"), ("shift", "i4")]))
    x = cupy.empty(4, "float32")
    kernel((1,), (4,), (pair[0], x))
    assert x.tolist() == [3, 3.5, 4, 4.5]


def test_pickle_and_array_interface() -> None:
    x = cupy.arange(4, dtype="float32")
    close(pickle.loads(pickle.dumps(x)), x.get())

    class Wrapped:
        __cuda_array_interface__ = x.__cuda_array_interface__

    assert cupy.asarray(Wrapped()).data.ptr == x.data.ptr


def test_two_threads_at_once() -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        a = random(40, 30, seed=seed)
        with cupy.cuda.Stream(non_blocking=True) as stream:
            for _ in range(30):
                x = cupy.asarray(a)
                if not np.allclose((x * 2).sum(axis=0).get(), 2 * a.sum(axis=0), atol=1e-3):
                    wrong.append(seed)
                stream.synchronize()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kernel_without_extern_c_is_not_found_by_its_plain_name() -> None:
    kernel = cupy.RawKernel("__global__ void cpucuda_test_mangled() {}", "cpucuda_test_mangled")
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="NOT_FOUND"):
        kernel((1,), (1,), ())


# ---- where it can run ----------------------------------------------------------------------------


def test_problem_names_the_version_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpucuda.problem() is None
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "13.6.0")
    assert cpucuda.problem() == "cpucuda knows CuPy 14.2.0, found 13.6.0"


def test_problem_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "CuPy is not installed" in str(cpucuda.problem())


@pytest.mark.parametrize(
    ("script", "found"), [(None, "found no "), ("echo 11", " 11"), ("exit 1", "g++ 12 or newer")]
)
def test_problem_with_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, found: str
) -> None:
    compiler = tmp_path / "g++"
    if script:
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
    monkeypatch.setenv("CPUCUDA_CXX", str(compiler))
    assert "g++ 12 or newer" in str(cpucuda.problem())
    assert found in str(cpucuda.problem())


def test_problem_with_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cpucuda.problem() == "cpucuda needs Linux on x86-64, found linux on aarch64"


def test_command_line() -> None:
    where = {**os.environ, "PYTHONPATH": str(Path(cpucuda.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "cpucuda", "cupyx.profiler", "--help"],
        capture_output=True,
        text=True,
        env=where,
    )
    assert "cannot be directly executed" in done.stderr, done.stderr
    bare = subprocess.run(
        [sys.executable, "-m", "cpucuda"], capture_output=True, text=True, env=where
    )
    assert "Usage" in bare.stderr
