"""How many threads BLAS may use while a network trains."""

import contextlib
import os
from collections.abc import Iterator

from gpubackprop.errors import missing


def available() -> int:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_threads(threads: int | None) -> int:
    """Return the threads BLAS may use: `threads`, else the environment's, else all processors."""
    if threads is not None:
        return threads
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            return min(int(os.environ[name]) or 1, available())
    return available()


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Limit BLAS to some threads. The limit is the whole process's.

    Parameters
    ----------
    threads : int or None
        1..the processors of this process; None leaves BLAS as it is.

    Raises
    ------
    ValueError, TypeError
        If it is no such number.
    ImportError
        If threadpoolctl, of the extra "fast", is not installed.
    """
    if threads is None:
        yield
        return
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an integer or None, got {threads!r}")
    if not 1 <= threads <= available():
        raise ValueError(
            f"threads must lie in 1..{available()}, the processors here, got {threads}"
        )
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise missing("threadpoolctl, which sets threads=,", "fast") from None
    with threadpool_limits(limits=threads, user_api="blas"):
        yield
