"""What all tests share: the backends, with CuPy on a GPU or else, through cpucuda, without one."""

import ctypes
import os
import zlib

import cpucuda
import numpy as np
import pytest

# What "auto" means in the tests: under emulation CuPy is always slower.
os.environ.setdefault("GPUBACKPROP_BACKEND", "numpy")
# The last bits of what is predicted must not depend on the tests that ran before.
os.environ.setdefault("GPUBACKPROP_PREDICT", "never")

#: Tolerances by dtype. float32: some hundreds of roundings of 6e-8. float64: some thousands of
#: 1e-16, for sums that are long and cancel.
RTOL = {"float32": 2e-5, "float64": 1e-12}
ATOL = {"float32": 2e-6, "float64": 1e-13}
#: cpucuda's counters of what no epoch may have.
NEVER = ("synchronizations", "blocking_copies", "mallocs", "device_to_host")
BACKENDS = ("numpy", "numpy-plain", "cupy", "cupy-plain")


def _devices() -> int:
    """Count the GPUs by asking the driver, without importing CuPy."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _prepare_cupy() -> str | None:
    """Make CuPy usable; returns why it cannot be."""
    if _devices():
        return None
    reason = cpucuda.problem()
    if reason is None:
        cpucuda.install()
    return reason


NO_CUPY = _prepare_cupy()


def pytest_report_header(config: pytest.Config) -> str:
    """Say on what the CuPy tests run."""
    if NO_CUPY:
        return f"cupy: not run ({NO_CUPY})"
    return f"cupy: on {'cpucuda (no GPU)' if cpucuda.installed() else 'a GPU'}"


def require(name: str) -> None:
    """Skip a test of a backend that cannot run here; where CuPy is required, as in CI, fail."""
    if name.startswith("cupy") and NO_CUPY:
        if os.environ.get("GPUBACKPROP_REQUIRE_CUPY"):
            pytest.fail(f"GPUBACKPROP_REQUIRE_CUPY is set, and CuPy cannot run: {NO_CUPY}")
        pytest.skip(NO_CUPY)


@pytest.fixture(autouse=True)
def thread_order(request: pytest.FixtureRequest):
    """Let each test's kernels run in another order of threads: a third ascending, a third
    descending, a third in a random order. CPUCUDA_ORDER chooses one for all.
    """
    if not cpucuda.installed():
        yield None
        return
    chosen = os.environ.get("CPUCUDA_ORDER")
    number = zlib.crc32(request.node.nodeid.encode())
    order = int(chosen) if chosen else number if number % 3 == 2 else number % 3
    cpucuda.set_order(order)
    request.node.add_report_section("setup", "cpucuda", f"to repeat: CPUCUDA_ORDER={order}")
    yield order
    cpucuda.set_order(0)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest):
    """Every backend in turn, its device current."""
    from gpubackprop import backends

    require(request.param)
    found = backends.get(request.param)
    with found.active():
        yield found


@pytest.fixture
def cupy_backend():
    """The fused CuPy backend, its device current."""
    from gpubackprop import backends

    require("cupy")
    found = backends.get("cupy")
    with found.active():
        yield found


@pytest.fixture
def counting(cupy_backend):
    """The CuPy backend on cpucuda, which counts what the device is asked for."""
    if not cpucuda.installed():
        pytest.skip("a real GPU does not count")
    return cupy_backend


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    """Both dtypes in turn."""
    return np.dtype(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(20261124)


@pytest.fixture
def run(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a command and returns exit code, output and errors."""
    from gpubackprop import cli

    monkeypatch.setenv("GPUBACKPROP_BACKEND", "numpy")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def close(actual: object, expected: object, dtype: object, *, factor: float = 1.0) -> None:
    """Compare with the tolerances of a dtype. A NaN fails where none is expected."""
    name = np.dtype(dtype).name
    np.testing.assert_allclose(actual, expected, rtol=RTOL[name] * factor, atol=ATOL[name] * factor)
