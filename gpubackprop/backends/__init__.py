"""The registry of backends: which there are, which can be used here, and why not."""

import functools
import os
import re
import warnings

from gpubackprop.backends.base import Backend
from gpubackprop.backends.numpy_backend import NumpyBackend

__all__ = ["Backend", "get", "problem", "rebuild", "usable"]

#: Names that `get` takes; "cupy:1" is the second device. The plain ones have no kernels of ours.
NAMES = ("numpy", "cupy", "numpy-plain", "cupy-plain")
_PATTERN = re.compile(r"(cupy|cupy-plain):(\d{1,3})")


def get(backend: str | Backend = "auto", argument: str = "backend") -> Backend:
    """Return a backend by its name, or the one that is given.

    Parameters
    ----------
    backend : str or Backend
        "auto" (CuPy if a GPU can be used, else NumPy; the environment variable GPUBACKPROP_BACKEND
        names another), "numpy", "cupy", "cupy:1" for the second device, or "numpy-plain" and
        "cupy-plain" for plain array operations.
    argument : str, optional
        Name of the caller's argument, for the error.

    Raises
    ------
    ValueError
        If the name is unknown.
    ImportError
        If CuPy is asked for and not installed.
    RuntimeError
        If CuPy is asked for and no GPU can be used; the message says why.
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise TypeError(f"{argument} must be a name or a Backend, got {backend!r}")
    if backend == "auto":
        wanted = os.environ.get("GPUBACKPROP_BACKEND", "auto")
        if wanted != "auto":
            return get(wanted, "the environment variable GPUBACKPROP_BACKEND")
        return _make("numpy" if problem("cupy") else "cupy")
    if backend not in NAMES and not _PATTERN.fullmatch(backend):
        raise ValueError(
            f"{argument} must be one of auto, {', '.join(NAMES)}, cupy:1, got {backend!r}"
        )
    return _make(backend)


@functools.cache
def _make(name: str) -> Backend:
    if name == "numpy":
        return NumpyBackend()
    if name == "numpy-plain":
        return Backend(name)
    from gpubackprop.backends import cupy_backend  # the one optional backend

    kind, _, device = name.partition(":")
    plain = kind == "cupy-plain"
    made = cupy_backend.PlainCupyBackend if plain else cupy_backend.CupyBackend
    return made(name, int(device or 0))


def problem(name: str) -> str | None:
    """Return why a backend cannot be used here, in words; None if it can.

    Parameters
    ----------
    name : str
        As in `get`, without "auto".
    """
    if name.startswith("numpy"):
        return None
    from gpubackprop.backends import cupy_backend

    return cupy_backend.problem(int(name.partition(":")[2] or 0))


def usable(*, plain: bool = False) -> list[str]:
    """Return the names of the backends that can be used here, NumPy first.

    Parameters
    ----------
    plain : bool, optional
        Whether to list the plain ones too.
    """
    names = [name for name in NAMES if plain or not name.endswith("-plain")]
    return [name for name in names if problem(name) is None]


def rebuild(name: str) -> Backend:
    """Return the backend of something saved: NumPy, with a warning, where its own is not usable."""
    reason = problem(name)
    if reason is None:
        return get(name)
    warnings.warn(
        f"saved with backend {name!r}, which cannot be used here ({reason}); it runs on NumPy",
        RuntimeWarning,
        stacklevel=2,
    )
    return get("numpy")
