"""Whether compiled code can run here."""

import functools

from gpubackprop.backends import blas


def problem() -> str | None:
    """Return why compiled code cannot run here, in words; None if it can."""
    reason = _numba_problem()
    if reason is None:
        try:
            blas.library()
        except ImportError as error:
            reason = str(error)
    return reason


@functools.cache
def _numba_problem() -> str | None:
    try:
        import numba
    except Exception as error:  # absent, or broken
        absent = isinstance(error, ModuleNotFoundError)
        how = "is not installed" if absent else f"cannot be imported ({error})"
        return f"Numba {how}; install it with: python -m pip install 'gpubackprop[fast]'"
    if numba.config.DISABLE_JIT:
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    return None
