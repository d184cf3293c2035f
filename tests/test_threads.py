"""How many threads BLAS gets, and that it has its own again afterwards."""

import os
import sys

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


def test_no_limit_needs_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with threads.limited(None):
        pass
    with (
        pytest.raises(ImportError, match=r"threadpoolctl.*gpubackprop\[fast\]"),
        threads.limited(1),
    ):
        pass
