"""Runs CuPy on the CPU: a CUDA device emulated in software, for tests.

    import cpucuda
    cpucuda.install()      # before the first import of cupy
    import cupy

See README.md for what is covered.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from . import _build, _elf

__all__ = [
    "SUPPORTED_CUPY",
    "counters",
    "exact_allocations",
    "install",
    "installed",
    "problem",
    "reset_counters",
    "set_order",
]

# Which functions CuPy calls, and how, changes from version to version.
SUPPORTED_CUPY = "14.2.0"
_WHEEL = "cupy-cuda13x"

_libraries: list[ctypes.CDLL] = []  # keeps them loaded


class Counters(TypedDict):
    """What the device did since the start, or since reset_counters()."""

    launches: int
    launches_by_name: dict[str, int]
    graph_launches: int
    synchronizations: int
    event_waits: int
    blocking_copies: int
    host_to_device: int
    device_to_host: int
    mallocs: int
    blas_calls: int


def _cupy_problem() -> str | None:
    for distribution in (_WHEEL, "cupy-cuda12x", "cupy"):
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version != SUPPORTED_CUPY:
            return f"cpucuda knows CuPy {SUPPORTED_CUPY}, found {version}"
        if distribution != _WHEEL:
            return f"cpucuda knows the wheel {_WHEEL}, found {distribution}"
        return None
    return f"CuPy is not installed: pip install {_WHEEL}=={SUPPORTED_CUPY}"


def problem() -> str | None:
    """Why cpucuda cannot run here, in words; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"cpucuda needs Linux on x86-64, found {sys.platform} on {platform.machine()}"
    compiler = _build.compiler()
    try:
        done = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True)
    except OSError:
        return f"cpucuda needs g++ 12 or newer, found no {compiler}"
    version = done.stdout.strip()
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 12:
        return f"cpucuda needs g++ 12 or newer, found {compiler} {version}"
    return _cupy_problem()


def installed() -> bool:
    return bool(_libraries)


def _package(name: str) -> Path:
    """A package's folder, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"cpucuda needs the package {name}, which is not installed")
    return Path(spec.submodule_search_locations[0])


def install() -> None:
    """Puts the emulated device in front of CuPy; does nothing the second time."""
    if installed():
        return
    reason = problem()
    if reason is not None:
        raise ImportError(reason)
    if "cupy" in sys.modules or "cupy_backends" in sys.modules:
        raise RuntimeError("cpucuda.install() must come before the first import of cupy")
    backends = _package("cupy_backends")
    (extension,) = (backends / "cuda" / "api").glob("runtime.*.so")
    # Beside CUDA's, there are functions of Cython's and of the linker's own.
    functions = [f for f in _elf.symbols(extension) if f.startswith("cuda") and f.isidentifier()]
    home = _build.build(backends, sorted(functions))
    library = ctypes.CDLL(str(home / "lib" / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    library.cpucuda_counters.restype = ctypes.c_char_p
    _libraries.append(library)
    _libraries.extend(ctypes.CDLL(str(home / "lib" / name)) for name in _build.ALIASES)
    _elf.redirect(extension, {name: _elf.address_of(library, name) for name in functions})
    for path in _package("numpy").parent.glob("numpy.libs/libscipy_openblas64_*.so"):
        library.cpucuda_use_blas(os.fsencode(path))

    set_order(int(os.environ.get("CPUCUDA_ORDER") or 0))

    # Kernels compiled here must not be mixed with a GPU's, and the reductions
    # that are compiled into CuPy for GPUs cannot run.
    os.environ["CUPY_CACHE_DIR"] = str(home / "kernels")
    os.environ["CUPY_ACCELERATORS"] = ""
    # CuPy insists on a folder of CUDA headers; if there is a toolkit, its
    # headers are found but not used (see src/nvrtc.cpp).
    os.environ.setdefault("CUDA_PATH", str(home))


def _installed_library() -> ctypes.CDLL:
    if not installed():
        raise RuntimeError("cpucuda does nothing before cpucuda.install()")
    return _libraries[0]


def counters() -> Counters:
    """What the device did, in numbers; see README.md for what each of them counts."""
    result: Counters = json.loads(_installed_library().cpucuda_counters())
    return result


def reset_counters() -> None:
    _installed_library().cpucuda_reset_counters()


def set_order(order: int) -> None:
    """Chooses in which order threads and blocks run.

    0 is ascending, 1 descending, any other number a random order of that seed.
    """
    _installed_library().cpucuda_set_order(ctypes.c_uint(order))


@contextlib.contextmanager
def exact_allocations() -> Iterator[None]:
    """Lets every array have an allocation of its own, with a guard page right behind it.

    CuPy's memory pool rounds sizes up, so that an index a little out of bounds goes unnoticed.
    """
    import cupy

    previous = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(None)
    try:
        yield
    finally:
        cupy.cuda.set_allocator(previous)
