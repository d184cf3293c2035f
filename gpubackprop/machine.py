"""What a measurement has to state: the processor, the versions, the BLAS and its threads; and what
can be used here.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import gpubackprop
from gpubackprop import backends
from gpubackprop.executors import EXECUTORS
from gpubackprop.threads import available, usable_threads

#: Optional packages by extra, with what each gives. Every entry of a package is a name that its
#: distribution may have.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "cuda13": (("cupy-cuda13x",), "the cupy backend: NVIDIA GPUs whose driver supports CUDA 13"),
    "cuda12": (("cupy-cuda12x",), "the cupy backend: NVIDIA GPUs whose driver supports CUDA 12"),
    "fast": (("numba", "scipy", "threadpoolctl"), "the compiled executor; fit(threads=...)"),
    "mkl": (("mkl",), "Intel's BLAS (not used yet)"),
    "sklearn": (("scikit-learn", "scipy"), "the data sets of compare, and a fast gelu"),
    "cli": (("typer", "rich", "pyarrow", "scikit-learn"), "this command, and tables"),
    "plot": (("matplotlib",), "the plot of compare"),
    "onnx": (("onnx",), "ONNX files"),
}
_ALWAYS = ("numpy", "safetensors")
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def version(package: str) -> str | None:
    """Return the installed version of a distribution without importing it; None if there is
    none.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Name the processor."""
    try:
        if sys.platform.startswith("linux"):
            for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model") and value.strip():
                    return " ".join(value.split())
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine() or "unknown"


def blas() -> dict[str, Any]:
    """Return which BLAS NumPy multiplies with, and how many threads that may use: keys name,
    version, threads.
    """
    try:
        built: Any = np.show_config(mode="dicts")
        found = built["Build Dependencies"]["blas"]
    except (KeyError, TypeError):
        found = {}
    return {
        "name": found.get("name", "unknown"),
        "version": found.get("version", "unknown"),
        "threads": _blas_threads(),
    }


def _blas_threads() -> int:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return usable_threads(None)
    counts = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(counts, default=usable_threads(None))


def versions() -> dict[str, str | None]:
    """Return the versions of gpubackprop, Python and every package that it can use; None for one
    that is not installed.
    """
    found: dict[str, str | None] = {
        "gpubackprop": gpubackprop.__version__,
        "python": platform.python_version(),
    }
    optional = [package for packages, _ in EXTRAS.values() for package in packages]
    for package in (*_ALWAYS, *(name for name in optional if name not in _CUPY)):
        found[package] = version(package)
    installed = [name for name in _CUPY if version(name)]
    found["cupy"] = ", ".join(f"{version(name)} ({name})" for name in installed) or None
    return found


def machine() -> dict[str, Any]:
    """Return what a measurement states: processor, cores, system, versions and BLAS."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "cores_usable": available(),
        "system": platform.platform(aliased=True, terse=True),
        "versions": versions(),
        "blas": blas(),
    }


def missing_extras() -> dict[str, str]:
    """Return the extras of which something is not installed, with what each would give."""
    missing = {
        extra: gives
        for extra, (packages, gives) in EXTRAS.items()
        if not all(version(package) for package in packages)
    }
    if versions()["cupy"]:  # CuPy for one version of CUDA is enough, and two do not go together
        missing = {extra: gives for extra, gives in missing.items() if "cuda" not in extra}
    return missing


def report() -> dict[str, Any]:
    """Return what ``gpubackprop info`` shows: `machine`, and which backends and executors can be
    used here.
    """
    usable = []
    for name in ("numpy", "cupy"):
        problem = backends.problem(name)
        device = None if problem else backends.get(name).describe()
        usable.append({"name": name, "usable": not problem, "device": device, "problem": problem})
    environment = "GPUBACKPROP_BACKEND"
    return machine() | {
        "backends": usable,
        "auto": _auto(),
        "environment": {environment: os.environ.get(environment)},
        "executors": list(EXECUTORS),
        "missing_extras": missing_extras(),
    }


def _auto() -> str:
    """Return the backend that "auto" means here, or why it means none."""
    try:
        return backends.get("auto").name
    except (ValueError, ImportError, RuntimeError) as error:
        return f"none: {error}"
