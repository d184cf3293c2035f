"""What cpucuda finds that a GPU lets pass: each check on a kernel that is wrong on purpose."""

import contextlib

import numpy as np
import pytest
from conftest import require

import cpucuda

require("cupy")
if not cpucuda.installed():
    pytest.skip("these are checks of the emulator, and there is a GPU", allow_module_level=True)

import cupy  # noqa: E402

DriverError = cupy.cuda.driver.CUDADriverError


@pytest.fixture(autouse=True)
def _ascending():
    yield
    cpucuda.set_order(0)


def kernel(body, parameters="int* x, int* y"):
    return cupy.RawKernel(f'extern "C" __global__ void f({parameters}) {{{body}}}', "f")


@contextlib.contextmanager
def reported(capfd, error, *texts):
    """Expect a launch to fail, and standard error to say why; the device must live on."""
    with pytest.raises(DriverError, match=error):
        yield
    found = capfd.readouterr().err
    assert "kernel f" in found
    for text in texts:
        assert text in found
    assert cupy.arange(10).sum() == 45


# ---- the order of threads ------------------------------------------------------------------------

TURNS = """
  int t = threadIdx.x + blockDim.x * blockIdx.x;
  x[t] = atomicAdd(y, 1);
  __syncthreads();
  if (__shfl_xor_sync(~0u, t, 1) == (t ^ 1)) x[t + 128] = atomicAdd(y, 1);
"""


def turns(order):
    """Return in which turn each of 128 threads, in two blocks, came, before and after a barrier."""
    x, y = cupy.empty(256, "int32"), cupy.zeros(1, "int32")
    cpucuda.set_order(order)
    kernel(TURNS)((2,), (64,), (x, y))
    before, after = x.get().reshape(2, 2, 64)
    return before.tolist(), after.tolist()


def test_ascending_and_descending_order():
    up = list(range(64))
    first, second = [up, [128 + i for i in up]], [[64 + i for i in up], [192 + i for i in up]]
    assert turns(0) == (first, second)
    # Blocks too: the second one comes first.
    mirrored = [[list(reversed(block)) for block in reversed(part)] for part in (first, second)]
    assert turns(1) == tuple(mirrored)


def test_random_orders_differ_and_repeat():
    two, three = turns(2), turns(3)
    assert two == turns(2)
    assert two != three
    for before, after in (two, three):
        assert sorted(np.ravel(before + after).tolist()) == list(range(256))
        assert before[0] != sorted(before[0])


REVERSE = """
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  {first}
  float v = s[63 - t];
  {second}
  s[t] = -1;
  y[t] = v;
"""


@pytest.mark.parametrize("missing", ["first", "second", None])
def test_a_missing_barrier_shows_in_one_order_or_another(missing):
    x, wrong = cupy.arange(64, dtype="float32"), set()
    barriers = {"first": "__syncthreads();", "second": "__syncthreads();"}
    if missing:
        barriers[missing] = ""
    run = kernel(REVERSE.format(**barriers), "float* x, float* y")
    for order in (0, 1, 2):
        y = cupy.empty(64, "float32")
        cpucuda.set_order(order)
        run((1,), (64,), (x, y))
        if not np.array_equal(y.get(), np.arange(64)[::-1]):
            wrong.add(order)
    assert wrong == (set() if missing is None else {0, 1, 2})


def test_shared_memory_of_a_template_is_of_each_block_and_fresh():
    code = """
    template <int N> __device__ void turn(float* x) {
      __shared__ float s[N];
      float before = s[threadIdx.x];
      __syncthreads();
      s[threadIdx.x] = x[threadIdx.x + N * blockIdx.x];
      __syncthreads();
      x[threadIdx.x + N * blockIdx.x] = before != before ? s[N - 1 - threadIdx.x] : -1;
    }
    extern "C" __global__ void f(float* x) { turn<32>(x); }"""
    for order in (0, 1, 2):
        cpucuda.set_order(order)
        x = cupy.arange(256, dtype="float32")
        cupy.RawKernel(code, "f")((8,), (32,), (x,))
        expected = np.arange(256).reshape(8, 32)[:, ::-1].ravel()
        np.testing.assert_array_equal(x.get(), expected)


LAST_BLOCK_SUMS = """
  __shared__ bool last;
  x[threadIdx.x + blockDim.x * blockIdx.x] = 1;
  {barrier}
  if (threadIdx.x == 0) last = atomicAdd(y + 1, 1) == gridDim.x - 1;
  __syncthreads();
  if (last && threadIdx.x == 0)
    for (int i = 0; i < gridDim.x * blockDim.x; i++) y[0] += x[i];
"""


@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
def test_a_missing_barrier_before_a_ticket_shows_in_a_random_order(barrier):
    """Other blocks go on while one is between its writes and its ticket."""
    found = set()
    for order in (2, 3, 4, 5):
        x, y = cupy.zeros(512, "int32"), cupy.zeros(2, "int32")
        cpucuda.set_order(order)
        kernel(LAST_BLOCK_SUMS.format(barrier=barrier))((8,), (64,), (x, y))
        found.add(int(y[0]))
    assert (found == {512}) == bool(barrier)


def test_a_cooperative_launch_in_every_order():
    code = """
    #include <cooperative_groups.h>
    extern "C" __global__ void f(float* x, float* y) {
      extern __shared__ float s[];
      auto grid = cooperative_groups::this_grid();
      int t = grid.thread_rank(), n = grid.size();
      s[threadIdx.x] = x[t];
      x[t] = -1;
      grid.sync();
      x[n - 1 - t] = s[threadIdx.x];
      grid.sync();
      y[t] = x[t];
    }"""
    run = cupy.RawKernel(code, "f", enable_cooperative_groups=True)
    for order in range(4):
        cpucuda.set_order(order)
        x, y = cupy.arange(96, dtype="float32"), cupy.empty(96, "float32")
        run((3,), (32,), (x, y), shared_mem=32 * 4)
        np.testing.assert_array_equal(y.get(), np.arange(96)[::-1])


# ---- barriers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["__syncthreads()", "__shfl_sync(~0u, 1, 0)", "__syncwarp()"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_threads_that_meet_at_different_places(order, call, capfd):
    cpucuda.set_order(order)
    body = f"if (threadIdx.x < 16)\n{call};\nelse\n{call};"
    with reported(capfd, "LAUNCH_FAILED", "diverged", "line 2", "line 4"):
        kernel(body)((1,), (32,), (cupy.zeros(1, "int32"), cupy.zeros(1, "int32")))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_barrier_that_some_never_reach(order, capfd):
    cpucuda.set_order(order)
    body = """
      if (threadIdx.x < 40) { __syncthreads(); __syncthreads(); }
      else __shfl_sync(1u << 30, 1, 0);"""
    with reported(capfd, "LAUNCH_FAILED"):
        kernel(body)((1,), (64,), (cupy.zeros(1, "int32"), cupy.zeros(1, "int32")))


def test_threads_that_have_returned_are_not_waited_for():
    y = cupy.zeros(64, "int32")
    body = "if (threadIdx.x >= 50) return; __syncthreads(); y[threadIdx.x] = __ballot_sync(~0u, 1);"
    for order in (0, 1, 2):
        cpucuda.set_order(order)
        kernel(body)((1,), (64,), (y, y))
        assert y[:50].tolist() == [-1] * 32 + [(1 << 18) - 1] * 18


# ---- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", ["s[{i}] = 1;", "y[0] = s[{i}];"])
@pytest.mark.parametrize("index", ["x[0]", "x[0] + 700"])
def test_past_the_end_of_dynamic_shared_memory(index, access, capfd):
    body = "extern __shared__ int s[]; s[threadIdx.x] = 1; " + access.format(i=index)
    x, y = cupy.full(1, 64, "int32"), cupy.zeros(1, "int32")
    with reported(capfd, "ILLEGAL_ADDRESS", "past the end of the shared memory"):
        kernel(body)((1,), (64,), (x, y), shared_mem=64 * 4)


def test_a_write_close_behind_dynamic_shared_memory(capfd):
    """The memory begins at a multiple of 16, so that the page behind it may be a little away."""
    body = "extern __shared__ int s[]; s[x[0]] = 1;"
    x = cupy.full(1, 5, "int32")
    with reported(capfd, "ILLEGAL_ADDRESS", "wrote past the end of the shared memory"):
        kernel(body)((1,), (1,), (x, x), shared_mem=5 * 4)
    kernel(body)((1,), (1,), (x, x), shared_mem=6 * 4)


@pytest.mark.parametrize(
    "access", ["s[i][1] = 1;", "y[0] = s[1][i];", "int r[4] = {}; y[0] = r[i];"]
)
def test_an_index_past_the_end_of_an_array(access, capfd):
    body = (
        f"__shared__ int s[4][4]; __shared__ int behind[99]; int i = x[0]; behind[i] = 0; {access}"
    )
    y = cupy.zeros(1, "int32")
    kernel(body)((1,), (1,), (cupy.full(1, 3, "int32"), y))
    with reported(capfd, "ILLEGAL_ADDRESS", "index past the end of an array"):
        kernel(body)((1,), (1,), (cupy.full(1, 4, "int32"), y))


@pytest.mark.parametrize("n", [1, 3, 64, 1024, 5000])
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ("y[x[0]] = 1;", ("past the end of an allocation of {n} bytes",)),
        ("x[0] = y[x[0] + 4];", ("(read", "past the end of an allocation of {n} bytes")),
        ("y[-1] = 1;", ("wrote 4 bytes before an allocation of {n} bytes",)),
        ("y[-1100] = 1;", ("(write", "before an allocation of {n} bytes")),
    ],
)
def test_past_the_ends_of_an_array(body, texts, n, capfd):
    with cpucuda.exact_allocations():
        x, y = cupy.full(1, n, "int32"), cupy.zeros(n, "int32")
        with reported(capfd, "ILLEGAL_ADDRESS", *(text.format(n=4 * n) for text in texts)):
            kernel(body)((1,), (1,), (x, y))


def test_an_array_that_is_no_longer(capfd):
    with cpucuda.exact_allocations():
        x, y = cupy.zeros(1, "int32"), cupy.zeros(1000, "int32")
        address = np.intp(y.data.ptr)
        del y
        with reported(capfd, "ILLEGAL_ADDRESS"):
            kernel("x[0] = y[0];")((1,), (1,), (x, address))


def test_fresh_memory_is_nan():
    with cpucuda.exact_allocations():
        assert cupy.isnan(cupy.empty(1000, "float64")).all()


# ---- what devices differ in ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "kilobytes"),
    [(75, 64), (80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)],
)
def test_shared_memory_by_architecture(capability, kilobytes, monkeypatch):
    monkeypatch.setenv("CPUCUDA_COMPUTE_CAPABILITY", str(capability))
    limit = kilobytes << 10
    run = kernel("extern __shared__ int s[]; s[threadIdx.x] = 1;")
    assert cupy.cuda.runtime.deviceGetAttribute(97, 0) == limit  # MaxSharedMemoryPerBlockOptin
    run.max_dynamic_shared_size_bytes = limit
    run((1,), (32,), (0, 0), shared_mem=limit)
    with pytest.raises(DriverError, match="INVALID_VALUE"):
        run.max_dynamic_shared_size_bytes = limit + 1
