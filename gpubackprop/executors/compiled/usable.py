"""Whether compiled code can run here."""

import functools
import os
from importlib import import_module, util
from pathlib import Path

from gpubackprop.backends import blas
from gpubackprop.executors.compiled import objects


def problem(*, compiles: bool = True, multiplies: bool = False) -> str | None:
    """Return why compiled code cannot run here, in words; None if it can.

    Parameters
    ----------
    compiles : bool, optional
        Whether some of it has to be compiled, by Numba; else LLVM's loader is enough.
    multiplies : bool, optional
        Whether it calls BLAS, which is looked for then: MKL takes 0.05 s and 9 MiB.
    """
    reason = loader_problem() or (_import_problem("numba") if compiles else None)
    if reason is None and multiplies:
        try:
            blas.library()
        except ImportError as error:
            reason = str(error)
    return reason


@functools.cache
def loader_problem() -> str | None:
    """Return why machine code cannot be read into memory, or None."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    if numba_version() is None:
        return _advice("is not installed")
    return _import_problem("llvmlite.binding" if objects.LOADS_ALONE else "numba")


@functools.cache
def numba_version() -> str | None:
    """Return what tells one version of Numba from another, without importing it; None where it is
    not installed.
    """
    try:
        spec = util.find_spec("numba")
    except (ImportError, ValueError):  # there is something else of this name
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("_version.py")
    return file.read_text(encoding="utf-8") if file.exists() else ""


@functools.cache
def _import_problem(module: str) -> str | None:
    try:
        import_module(module)
    except Exception as error:  # absent, or broken
        absent = isinstance(error, ModuleNotFoundError)
        return _advice("is not installed" if absent else f"cannot be imported ({error})")
    return None


def _advice(how: str) -> str:
    return f"Numba {how}; install it with: python -m pip install 'gpubackprop[fast]'"
