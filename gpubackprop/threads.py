"""How many threads a network may train with: BLAS's, and a pool of our own."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gpubackprop.errors import missing

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class _Shared:
    """What this process's fits share. Made anew after a fork: a thread of the parent may hold the
    lock, and the pool's threads are not there.

    Attributes
    ----------
    lock : threading.Lock
        Held while BLAS's limit or the pool changes, never while a network trains.
    limits : list of int
        Those of the fits under way: the smallest holds.
    libraries : list or None
        Of the BLAS libraries that threadpoolctl found loaded, what reads and sets their threads.
    n_modules : int
        Modules that Python had loaded then: with another one may come another BLAS.
    before : dict
        By the file of each library: the library, and its threads before the first limit.
    pool : ThreadPoolExecutor or None
    size : int
        Threads of the pool.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.limits: list[int] = []
        self.libraries: list[Any] | None = None
        self.n_modules = 0
        self.before: dict[str, tuple[Any, int]] = {}
        self.pool: ThreadPoolExecutor | None = None
        self.size = 0


_shared = _Shared()


def _begin_anew() -> None:
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


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


def can_limit() -> bool:
    """Tell whether BLAS's threads can be limited here: whether threadpoolctl is installed."""
    try:
        import threadpoolctl  # noqa: F401
    except ImportError:
        return False
    return True


def libraries_changed() -> None:
    """Look for the loaded libraries again at the next limit: one was loaded."""
    shared = _shared
    with shared.lock:
        shared.libraries = None
        if shared.limits:  # it holds for the new one, too
            _apply(shared)


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Limit BLAS to some threads. The limit is the whole process's: of several at once, the
    smallest holds; after the last, BLAS has what it had before the first.

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
    if not can_limit():
        raise missing("threadpoolctl, which sets threads=,", "fast")
    shared = _shared
    with shared.lock:
        shared.limits.append(threads)
        _apply(shared)
    try:
        yield
    finally:
        with shared.lock:
            shared.limits.remove(threads)
            _apply(shared)


def _apply(shared: _Shared) -> None:
    """Set BLAS to the smallest limit, or to what it had before there was one.

    Finding the libraries takes longer than a small fit; asking each for its threads does not.
    """
    if not shared.limits:
        for library, n in shared.before.values():
            _set(library, n)
            _release(library, force=False)
        shared.before.clear()
        return
    if shared.libraries is None or shared.n_modules != len(sys.modules):
        from threadpoolctl import ThreadpoolController

        shared.n_modules = len(sys.modules)
        found = ThreadpoolController().lib_controllers
        shared.libraries = [library for library in found if library.user_api == "blas"]
    now = min(shared.limits)
    for library in shared.libraries:
        shared.before.setdefault(library.filepath, (library, library.num_threads))
        _set(library, now)


def _set(library: Any, n: int) -> None:
    """Set a library's threads if it has others."""
    if library.num_threads == n:
        return
    library.set_num_threads(n)
    if library.num_threads != n:
        # threadpoolctl lets the thread that set them first alone do so while it lives. A limit of
        # ours may end in another one: `_Shared.lock` is what keeps them apart.
        _release(library, force=True)
        library.set_num_threads(n)


def _release(library: Any, *, force: bool) -> None:
    """Let any thread set a library's threads. Older threadpoolctl always does."""
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force)


def run_all(calls: Sequence[Callable[[], None]]) -> None:
    """Run several functions at once, the first in this thread; returns when all have ended.

    They gain by it as far as they give up Python's lock. The first error is raised.
    """
    if len(calls) == 1:
        return calls[0]()
    pool = _pool(len(calls) - 1)
    # Each in this thread's context, which holds what NumPy does at an overflow.
    futures = [pool.submit(contextvars.copy_context().run, call) for call in calls[1:]]
    try:
        calls[0]()
    finally:
        # Nothing may still write into memory of the caller's when that goes on, failed or not.
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def _pool(n: int) -> ThreadPoolExecutor:
    """Return the pool, of n threads at least. A smaller one before it ends when its work does."""
    from concurrent.futures import ThreadPoolExecutor

    shared = _shared
    with shared.lock:
        if shared.pool is None or shared.size < n:
            if shared.pool is not None:
                shared.pool.shutdown(wait=False)
            shared.pool, shared.size = ThreadPoolExecutor(n, "gpubackprop"), n
        return shared.pool
