"""Which BLAS compiled code calls: each gives the same numbers, and one can be chosen."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_compiled import X, check, cold, train  # noqa: F401  (cold: a cache of its own)

import gpubackprop as gb

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")

from gpubackprop.backends import blas
from gpubackprop.executors.compiled import usable

#: Layers and batches that are too large for loops of ours.
SIZES = (9, 130, 90, 3)


@pytest.fixture(params=["mkl", "scipy", "numpy"])
def library(request, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BLAS", request.param)
    if usable.problem(multiplies=True) is not None:
        pytest.skip(f"no BLAS of {request.param} is found here")
    return request.param


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 40, 150])
def test_each_library_trains_as_eager_does(library, batch_size, dtype):
    assert blas.library() == library
    check(dtype, sizes=SIZES, fit={"batch_size": batch_size, "optimizer": gb.SGD(0.01)})


def test_the_same_bits_wherever_the_data_begin(library):
    """MKL takes other instructions for arrays at other boundaries, unless it is told not to."""
    found = []
    for offset in (0, 1):
        raw = np.empty(X.size + 1, "float32")
        data = raw[offset : offset + X.size].reshape(X.shape)
        data[...] = X
        y = np.arange(len(X)) % 3
        found.append(train("compiled", SIZES, data=(data, y), dtype="float32")[0])
    for one, two in zip(*found, strict=True):
        assert_array_equal(one, two)


def test_what_cannot_be_chosen(monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BLAS", "atlas")
    net = gb.Network([9, 70, 70, 3], backend="numpy")
    with pytest.raises(ValueError, match="GPUBACKPROP_BLAS must be auto, mkl, numpy, scipy, got"):
        net.fit(X, np.zeros(len(X), int), executor="compiled", progress=False)
    monkeypatch.setenv("GPUBACKPROP_BLAS", "mkl")
    monkeypatch.setattr(blas, "_found", lambda name, kind: None)
    with pytest.raises(ValueError, match="'mkl', but no BLAS of mkl is found"):
        net.fit(X, np.zeros(len(X), int), executor="compiled", progress=False)


def test_the_first_that_is_there_is_taken(monkeypatch):
    monkeypatch.delenv("GPUBACKPROP_BLAS", raising=False)
    for there in (["mkl", "numpy", "scipy"], ["numpy", "scipy"], ["scipy"]):
        monkeypatch.setattr(blas, "_found", lambda name, kind, t=there: 1 if name in t else None)
        for amd, expected in ((False, there[0]), (True, there[0] if len(there) < 3 else there[1])):
            monkeypatch.setattr(blas.processor, "is_amd", lambda found=amd: found)
            assert blas.library() == expected
    monkeypatch.setattr(blas, "_found", lambda name, kind: None)
    assert "gpubackprop[fast]" in usable.problem(multiplies=True)


def test_it_is_not_looked_for_where_no_product_is_its(monkeypatch):
    """Loading MKL takes longer than many a fit."""
    monkeypatch.setattr(blas, "_found", lambda name, kind: None)
    X, y = np.ones((40, 9), np.float32), np.zeros(40, int)
    net = gb.Network([9, 8, 3], backend="numpy", rng=0)
    net.fit(X, y, batch_size=8, executor="compiled", progress=False)
    net.predict(X)
    assert net.history.executor == "compiled"
