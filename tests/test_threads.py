"""How many threads BLAS gets, and that it has its own again afterwards."""

import os
import subprocess
import sys
import threading
import types

import pytest

from gpubackprop import threads


def test_available_is_what_the_process_may_use(monkeypatch):
    assert 1 <= threads.available() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert threads.available() == (os.cpu_count() or 1)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.available() == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        ({"OPENBLAS_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"MKL_NUM_THREADS": "5"}, 5),
        ({"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3),
        ({"OPENBLAS_NUM_THREADS": "100"}, 8),
        ({"OPENBLAS_NUM_THREADS": "0"}, 1),
        ({"OPENBLAS_NUM_THREADS": "many", "OMP_NUM_THREADS": "2"}, 2),
    ],
)
def test_usable_threads(environment, expected, monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 8)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert threads.usable_threads(None) == expected
    assert threads.usable_threads(1) == 1


def test_the_limit_ends():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def now():
        info = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in info if pool["user_api"] == "blas"]

    before = now()
    with threads.limited(1):
        assert set(now()) == {1}
    assert now() == before
    with pytest.raises(ZeroDivisionError), threads.limited(1):
        raise ZeroDivisionError
    assert now() == before


def test_limits_of_several_threads():
    """Whichever thread has set BLAS's threads before: the smallest holds, and all of it ends."""
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def now():
        # MKL, and OpenBLAS on OpenMP, have limits of each thread's own.
        pools = threadpoolctl.threadpool_info()
        return {p["num_threads"] for p in pools if p.get("threading_layer") == "pthreads"}

    before, most, seen = now(), threads.available(), []
    if not before:
        pytest.skip("no BLAS with one limit for the process is loaded")
    begun, ended = threading.Event(), threading.Event()

    def other():
        with threads.limited(1):
            seen.append(now())
            begun.set()
            ended.wait()
        seen.append(now())

    with threads.limited(most):
        assert now() == {most}
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait()
        assert now() == {1}
    assert now() == {1}  # the other's holds still
    ended.set()
    thread.join()
    assert seen == [{1}, before]


def test_a_limit_in_force_sets_nothing(monkeypatch):
    """Small fits come by the thousand: the libraries are looked for once."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    looked, sets = [], []

    class Library:
        user_api, filepath, num_threads = "blas", "one", 2

        def set_num_threads(self, n):
            sets.append(n)
            self.num_threads = n

    def found():
        looked.append(1)
        return types.SimpleNamespace(lib_controllers=[Library()])

    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", found)
    monkeypatch.setattr(threads, "_shared", threads._Shared())
    monkeypatch.setattr(threads, "available", lambda: 4)
    for _ in range(3):
        with threads.limited(1), threads.limited(1):
            pass
    assert (len(looked), sets) == (1, [1, 2, 1, 2, 1, 2])
    threads.libraries_changed()
    with threads.limited(2):
        pass
    assert (len(looked), len(sets)) == (2, 6)


def test_no_limit_needs_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with threads.limited(None):
        pass
    with (
        pytest.raises(ImportError, match=r"threadpoolctl.*gpubackprop\[fast\]"),
        threads.limited(1),
    ):
        pass


LOADED_LATER = """
from gpubackprop.threads import limited
import threadpoolctl
with limited(1):
    pass
import scipy.linalg  # brings a BLAS of its own
with limited(1):
    found = threadpoolctl.threadpool_info()
print(sorted(one["num_threads"] for one in found if one["user_api"] == "blas"))
"""


def test_a_library_that_was_loaded_later_is_limited_too():
    pytest.importorskip("scipy")
    pytest.importorskip("threadpoolctl")
    if threads.available() < 2:
        pytest.skip("one processor: there is nothing to limit")
    environment = {key: one for key, one in os.environ.items() if not key.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", LOADED_LATER],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == "[1, 1]"
