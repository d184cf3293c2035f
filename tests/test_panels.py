"""Products by the processor's matrix unit against float64 NumPy."""

import ctypes
import io

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpubackprop as gb

pytest.importorskip("numba", reason="compiled code needs Numba, of the extra 'fast'")

from gpubackprop.backends import processor
from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import amx, cache, choices, source, split, tables

SINGLE = np.dtype(np.float32)
needs_amx = pytest.mark.skipif(
    not amx.usable(SINGLE), reason="this processor has no matrix unit (AMX) that may be used"
)
#: Rows, columns and depth: whole panels, parts of them, more than is kept at a time.
SIZES = [
    (32, 32, 32), (64, 96, 256), (1, 1, 1), (5, 3, 7), (33, 17, 45), (16, 48, 16), (100, 70, 300),
    (31, 300, 1030), (2100, 40, 33), (40, 520, 515),
]  # fmt: skip


class Products:
    """The compiled product, called with arrays."""

    def __init__(self) -> None:
        module = cache.load(source.write_kernels(SINGLE, "panels"))
        self._call, self._rows = (
            ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n)(function.address)
            for function, n in ((module.multiply_split, 14), (module.multiply_rows_split, 10))
        )

    def __call__(self, A, B, C, *, factor=1.0, kept=0.0, bias=None, turned=(False, False)):
        """Write ``factor * A @ B + bias + kept * C``; what is turned is stored by columns."""
        m, depth = A.shape
        n = B.shape[1]
        A = np.ascontiguousarray(A.T if turned[0] else A)
        B = np.ascontiguousarray(B.T if turned[1] else B)
        factors = np.array([factor, kept], SINGLE)
        room = self._room(amx.room(m, n, depth))
        self._call(
            tables.position(A), A.shape[1], 1 - turned[0], tables.position(B), B.shape[1],
            int(turned[1]), tables.position(C), C.shape[1], m, n, depth, tables.position(factors),
            tables.position(bias), room,
        )  # fmt: skip

    def of_rows(self, X, W, out, bias):
        """Write ``W @ X.T + bias`` to the first columns of out."""
        unit, depth = np.ones(1, SINGLE), X.shape[1]
        self._rows(
            tables.position(X), tables.position(W), tables.position(out), out.shape[1], len(W),
            len(X), depth, tables.position(bias), tables.position(unit),
            self._room(amx.room_of_rows(depth)),
        )  # fmt: skip

    def _room(self, size):
        self._memory = tables.Memory(SINGLE)
        room = self._memory.place(size)
        ctypes.memmove(4 * room, amx.settings().ctypes.data, amx.settings().nbytes)
        return room


@needs_amx
@pytest.mark.parametrize("turned", [(a, b) for a in (False, True) for b in (False, True)])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_of_all_sizes(sizes, turned):
    (m, n, depth), rng = sizes, np.random.default_rng(1)
    multiply = Products()
    A, B = (rng.standard_normal(shape).astype(SINGLE) for shape in ((m, depth), (depth, n)))
    bias = rng.standard_normal(m).astype(SINGLE)
    exact = A.astype(float) @ B.astype(float)
    # A sum's error is measured by what is added up.
    most = np.abs(A).astype(float) @ np.abs(B).astype(float) + np.abs(bias)[:, None] + 1
    before = rng.standard_normal((m + 1, n + 3)).astype(SINGLE)
    for given, expected in (
        ({}, exact),
        ({"bias": bias}, exact + bias[:, None]),
        ({"factor": -0.5, "kept": 1.0}, before[:m, :n] - 0.5 * exact),
        ({"factor": 3.0}, 3.0 * exact),
    ):
        C = before.copy()
        if "kept" not in given:
            C[:m, :n] = np.nan  # plays no part
        multiply(A, B, C, turned=turned, **given)
        assert (np.abs(C[:m, :n] - expected) / most).max() < 1e-6
        assert_array_equal(C[m:], before[m:])
        assert_array_equal(C[:, n:], before[:, n:])


@needs_amx
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    "sizes", [(32, 32, 32), (30, 256, 784), (1, 1, 1), (17, 45, 33), (31, 70, 15), (24, 100, 2050)]
)
def test_products_of_rows_with_few_units(sizes, biased):
    (m, k, depth), rng = sizes, np.random.default_rng(4)
    X, W = (rng.standard_normal((n, depth)).astype(SINGLE) for n in (k, m))
    bias = rng.standard_normal(m).astype(SINGLE) if biased else None
    out = np.full((m + 1, k + 3), np.nan, SINGLE)
    Products().of_rows(X, W, out, bias)
    exact = W.astype(float) @ X.T.astype(float) + (bias[:, None] if biased else 0)
    most = np.abs(W).astype(float) @ np.abs(X.T).astype(float) + 1
    assert (np.abs(out[:m, :k] - exact) / most).max() < 1e-6
    assert np.isnan(out[m:]).all()
    assert np.isnan(out[:, k:]).all()


@needs_amx
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_sums_are_as_exact_as_those_of_blas(offset):
    """Of numbers around 0, and of numbers that are all positive."""
    rng = np.random.default_rng(2)
    A, B = (rng.random((300, 300), SINGLE) - SINGLE.type((1 - offset) / 2) for _ in range(2))
    C = np.empty((300, 300), SINGLE)
    Products()(A, B, C)
    exact = A.astype(float) @ B.astype(float)
    ours, theirs = (np.sqrt(np.mean((found - exact) ** 2)) for found in (C, A @ B))
    assert ours < 1.5 * theirs


@needs_amx
def test_small_products_are_not_lost_in_a_large_number():
    """256 products of 2^-26 each: added to 1 one by one, all would be rounded away."""
    A, B, C = (
        np.full((32, 256), 2**-13, SINGLE),
        np.full((256, 32), 2**-13, SINGLE),
        np.ones((32, 32), SINGLE),
    )
    Products()(A, B, C, kept=1.0)
    assert_array_equal(C, np.float32(1 + 256 * 2**-26))


@needs_amx
def test_numbers_of_all_sizes():
    """Every bit of a float32 number counts, from the smallest to the largest."""
    rng = np.random.default_rng(3)
    A = np.zeros((64, 64), SINGLE)
    np.fill_diagonal(A, 1.0)
    exponents = np.linspace(-95, 126, 64 * 64).reshape(64, 64)
    B = (rng.choice([-1, 1], (64, 64)) * rng.uniform(1, 2, (64, 64)) * 2.0**exponents).astype(
        SINGLE
    )
    C = np.empty((64, 64), SINGLE)
    Products()(A, B, C)
    assert_array_equal(C, B)


@needs_amx
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad):
    A, B = np.ones((32, 40), SINGLE), np.ones((40, 50), SINGLE)
    A[3, 5] = bad
    C = np.empty((32, 50), SINGLE)
    Products()(A, B, C)
    assert not np.isfinite(C[3]).any()
    assert_array_equal(np.delete(C, 3, 0), 40.0)


def parameters(net):
    return np.concatenate([p.ravel() for p in (*net.weights, *net.biases)]).astype(float)


#: Layers that the matrix unit does, beside narrow ones and between them.
NETWORKS = [[784, 256, 128, 10], [100, 300, 70, 5], [70, 8, 130, 90], [300, 40, 5]]
OPTIMIZERS = [gb.SGD(0.05), gb.SGD(0.05, momentum=0.9), gb.Adam(0.001, weight_decay=0.01)]


@needs_amx
@pytest.mark.parametrize("size", [64, 130, "full"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["plain", "momentum", "AdamW"])
@pytest.mark.parametrize("sizes", NETWORKS, ids=str)
def test_training_is_as_exact_as_without(sizes, optimizer, size):
    """The drift from float64 is that of float32."""
    rng = np.random.default_rng(4)
    X, Y = rng.random((601, sizes[0])), rng.integers(0, sizes[-1], 601)
    weights = rng.random(601)
    found = []
    for dtype, executor in (("float64", "eager"), ("float32", "eager"), ("float32", "compiled")):
        net = gb.Network(
            sizes, hidden="tanh", output="softmax", loss="cross_entropy", dropout=0.1,
            backend="numpy", dtype=dtype, rng=0,
        )  # fmt: skip
        before = parameters(net)
        net.fit(
            X, Y, batch_size=size, epochs=2, optimizer=optimizer, sample_weight=weights,
            executor=executor, progress=False, threads=1,
        )  # fmt: skip
        found.append(parameters(net))
    exact, eager, compiled = found
    moved = np.linalg.norm(exact - before)
    drift = np.linalg.norm(eager - exact) / moved
    assert np.linalg.norm(compiled - exact) / moved < max(3 * drift, 1e-6)


@needs_amx
def test_threads_share_a_wide_layer():
    rng = np.random.default_rng(5)
    X, Y = rng.random((1024, 1040), SINGLE), rng.integers(0, 3, 1024)
    found = []
    for threads in (1, 2):
        net = gb.Network([1040, 1024, 3], output="softmax", backend="numpy", rng=0)
        net.fit(
            X, Y, batch_size="full", epochs=1, optimizer=gb.SGD(0.1), executor="compiled",
            progress=False, threads=threads,
        )  # fmt: skip
        found.append(parameters(net))
    assert_allclose(found[0], found[1], atol=1e-6)


def test_the_choice_of_what_does_a_product(monkeypatch):
    net = gb.Network([784, 256, 128, 10], output="softmax", backend="numpy")
    double = gb.Network([784, 256, 128, 10], output="softmax", backend="numpy", dtype="float64")
    monkeypatch.setattr(amx, "_is_there", lambda: True)
    assert choices.product_kinds(net.model, 64) == [3, 3, 2]
    assert 3 not in choices.product_kinds(net.model, 63)
    assert 3 not in choices.product_kinds(double.model, 256)
    assert 3 not in choices.product_kinds(net.model, 256, blas_threads=3)
    narrow = gb.Network([784, 30, 10], output="softmax", backend="numpy")
    assert choices.product_kinds(narrow.model, 128) == [3, 2]
    assert choices.product_kinds(narrow.model, 127) == [2, 2]
    monkeypatch.setattr(amx, "_is_there", lambda: False)
    assert 3 not in choices.product_kinds(net.model, 256)


def test_it_can_be_ruled_out(monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_AMX", "never")
    amx._is_there.cache_clear()
    try:
        assert not amx.usable(SINGLE)
    finally:
        amx._is_there.cache_clear()


def test_wide_layers_are_split_where_each_thread_has_many_rows(monkeypatch):
    wide = gb.Network([1024, 2048, 10], output="softmax", backend="numpy")

    def parts(n):
        job = Job(wide.model, wide.backend, gb.SGD(0.1), n, False, 0, n_samples=n, threads=2)
        return split.parts_of(job, "direct"), split.blas_threads(job, "direct")

    monkeypatch.setattr(amx, "_is_there", lambda: True)
    assert parts(1024) == (2, 1)
    assert parts(1023) == (1, None)
    monkeypatch.setattr(amx, "_is_there", lambda: False)
    assert parts(1024) == (1, None)


#: The beginning of /proc/cpuinfo on a Xeon of 2023, and on an EPYC, shortened.
XEON = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: sse2 avx512f amx_bf16 amx_tile\n\n"
EPYC = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: sse2 avx2 avx512f\n\n"


@pytest.mark.parametrize(("text", "unit", "amd"), [(XEON, True, False), (EPYC, False, True)])
def test_what_linux_tells_of_a_processor(text, unit, amd, monkeypatch):
    monkeypatch.delenv("GPUBACKPROP_AMX", raising=False)
    monkeypatch.setattr(processor, "open", lambda path: io.StringIO(text), raising=False)
    processor._lines.cache_clear()
    try:
        assert processor.has_matrix_unit() == unit
        assert processor.is_amd() == amd
    finally:
        processor._lines.cache_clear()
