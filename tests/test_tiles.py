"""The compiled executor's tiles: products and transposes against float64 NumPy."""

import ctypes
import types

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpubackprop as gb

pytest.importorskip("numba", reason="compiled code needs Numba, of the extra 'fast'")

from gpubackprop.executors.compiled import cache, choices, source, vectors

#: Bytes of a vector and registers: those of a processor with AVX-512, with AVX2, with neither. Any
#: processor runs all of them, if slowly.
PROCESSORS = [(64, 32), (32, 16), (16, 16)]
SIZES = [*range(1, 18), 23, 24, 25, 30, 31, 40]


def functions(dtype, processor, monkeypatch):
    """Compile the module of tiles as for a processor; returns its functions."""
    monkeypatch.setattr(vectors, "processor", lambda: processor)
    vectors.vectors.cache_clear()
    source.write_kernels.cache_clear()
    module = cache.load(source.write_kernels(np.dtype(dtype), "tiles"))
    vectors.vectors.cache_clear()
    source.write_kernels.cache_clear()
    return {
        name: ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n)(getattr(module, name).address)
        for name, n in (("multiply_tiles", 15), ("multiply_rows", 10), ("transpose", 8))
    }


def place(array):
    return array.ctypes.data // array.itemsize


CASES = [("float32", one) for one in PROCESSORS] + [("float64", vectors.processor())]


@pytest.mark.parametrize(("dtype", "processor"), CASES)
def test_products_of_all_sizes(dtype, processor, monkeypatch):
    multiply = functions(dtype, processor, monkeypatch)["multiply_tiles"]
    rng, rtol = np.random.default_rng(1), 1e-5 if dtype == "float32" else 1e-13
    rows_of_a = rng.permutation(50).astype(np.int32)
    iota = np.arange(600, dtype=np.int32)
    update, anew = np.array([-0.5, 2.0], dtype), np.array([1.0, 0.0], dtype)
    for m in SIZES:
        for n in (1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50):
            depth = int(rng.choice([1, 2, 10, 256, 257, 520]))
            A = rng.standard_normal((50, depth)).astype(dtype)
            B = rng.standard_normal((depth, n + 3)).astype(dtype)
            C = rng.standard_normal((m + 1, n + 2)).astype(dtype)
            bias = rng.standard_normal(m).astype(dtype)
            exact = A[rows_of_a[:m]].astype(float) @ B[:, :n]
            before = C.copy()
            tail = m, n, depth
            multiply(place(A), place(rows_of_a), depth, 1, place(B), place(iota), n + 3, place(C),
                     n + 2, *tail, place(update), 0, 0)  # fmt: skip
            atol = rtol * np.sqrt(depth)
            assert_allclose(C[:m, :n], 2.0 * before[:m, :n] - 0.5 * exact, rtol=rtol, atol=atol)
            assert_array_equal(C[m:], before[m:])
            assert_array_equal(C[:, n:], before[:, n:])
            # A by columns; B's rows from the last to the first; what was in C plays no part.
            ahead = np.array([place(A), place(rows_of_a), depth, 50, max(m, 3), 0, 0])
            columns = np.ascontiguousarray(A[rows_of_a[:m]].T[::-1])
            back = np.ascontiguousarray(iota[:depth][::-1])
            C[:m, :n] = np.nan
            multiply(place(columns), place(iota), 1, m, place(B), place(back), n + 3, place(C),
                     n + 2, *tail, place(anew), place(bias), place(ahead))  # fmt: skip
            assert_allclose(C[:m, :n], exact + bias[:, None], rtol=rtol, atol=atol)
            assert 0 <= ahead[5] <= 50, "no row but those"
            assert 0 <= ahead[6] < depth


@pytest.mark.parametrize(("dtype", "processor"), [*CASES, ("float64", PROCESSORS[-1])])
def test_products_of_rows_of_all_sizes(dtype, processor, monkeypatch):
    multiply = functions(dtype, processor, monkeypatch)["multiply_rows"]
    rng, rtol = np.random.default_rng(4), 1e-5 if dtype == "float32" else 1e-13
    rows = rng.permutation(100).astype(np.int32)
    for m in SIZES:
        for k in (1, 2, 3, 4, 5, 8, 30, 33, 90):
            depth = int(rng.choice([1, 2, 3, 15, 16, 17, 40, 785]))
            X = rng.standard_normal((100, depth + 2)).astype(dtype)
            W = rng.standard_normal((m, depth)).astype(dtype)
            bias = rng.standard_normal(m).astype(dtype)
            exact = W.astype(float) @ X[rows[:k], :depth].T.astype(float)
            for start, b in ((0, np.zeros(m)), (place(bias), bias)):
                out = np.full((m + 1, k + 3), 7.0, dtype)
                multiply(place(X), place(rows), depth + 2, place(W), place(out), k + 3, m, k,
                         depth, start)  # fmt: skip
                expected = exact + b.astype(float)[:, None]
                assert_allclose(out[:m, :k], expected, rtol=rtol, atol=rtol * np.sqrt(depth))
                assert (out[m:] == 7.0).all()
                assert (out[:, k:] == 7.0).all()


@pytest.mark.parametrize(("dtype", "processor"), CASES)
def test_transposes_of_all_sizes(dtype, processor, monkeypatch):
    transpose = functions(dtype, processor, monkeypatch)["transpose"]
    rng = np.random.default_rng(2)
    rows = rng.permutation(60).astype(np.int32)
    for k in SIZES:
        for n in SIZES:
            X = rng.standard_normal((60, n + 2)).astype(dtype)
            out = np.full((n + 1, k + 3), 7.0, dtype)
            bias = rng.standard_normal(n).astype(dtype)
            transpose(place(X), place(rows), n + 2, place(out), k + 3, n, k, 0)
            assert_array_equal(out[:n, :k], X[rows[:k], :n].T)
            assert (out[n:] == 7.0).all()
            assert (out[:, k:] == 7.0).all()
            transpose(place(X), place(rows), n + 2, place(out), k + 3, n, k, place(bias))
            assert_array_equal(out[:n, :k], X[rows[:k], :n].T + bias[:, None])


@pytest.mark.parametrize(("dtype", "processor"), CASES)
def test_products_of_matrices_larger_than_a_cache(dtype, processor, monkeypatch):
    multiply = functions(dtype, processor, monkeypatch)["multiply_tiles"]
    rng, iota = np.random.default_rng(5), np.arange(1200, dtype=np.int32)
    # A large B, a large C, and both; the rest of 256 numbers, of 8 rows, of 32 columns.
    for m, n, depth in ((19, 1050, 300), (550, 610, 7), (300, 1100, 270)):
        A, B = (rng.standard_normal(size).astype(dtype) for size in ((m, depth), (depth, n)))
        C = rng.standard_normal((m + 1, n)).astype(dtype)
        before, exact = C.astype(float), A.astype(float) @ B
        for factors in ((1.0, 0.0), (-0.5, 1.0)):
            multiply(place(A), place(iota), depth, 1, place(B), place(iota), n, place(C), n, m, n,
                     depth, place(np.array(factors, dtype)), 0, 0)  # fmt: skip
        rtol = 2e-5 if dtype == "float32" else 1e-12
        assert_allclose(C[:m], 0.5 * exact, rtol=rtol, atol=rtol * np.sqrt(depth))
        assert_array_equal(C[m], before[m])


#: Sizes with narrow and wide layers, few inputs and many; a batch's rows, of 129.
NETWORKS = [
    [9, 400, 410, 2],
    [70, 20, 12, 3],
    [9, 16, 16, 2],
    [70, 100, 70, 5],
    [5, 90, 9],
    [3, 2, 1],
]


@pytest.mark.parametrize("size", [2, 8, 9, 31, 43, 64, 100, "full"])
@pytest.mark.parametrize("blas", ["scipy", "mkl"])
@pytest.mark.parametrize("sizes", NETWORKS, ids=str)
def test_training_by_tiles_is_training(sizes, blas, size, monkeypatch):
    """Every way to do a layer's products, and last batches and pieces of one row."""
    chosen = types.SimpleNamespace(library=lambda: blas)
    monkeypatch.setattr(choices, "blas", chosen)  # what the choice is made by
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((129, sizes[0])), rng.standard_normal((129, sizes[-1]))
    weights = rng.random(129)
    found = {}
    for executor in ("eager", "compiled"):
        net = gb.Network(
            sizes, hidden="tanh", output="identity", loss="squared", dropout=0.1,
            backend="numpy", dtype="float64", rng=0,
        )  # fmt: skip
        net.fit(
            X, Y, batch_size=size, epochs=2, optimizer=gb.SGD(0.002, momentum=0.5),
            sample_weight=weights, executor=executor, progress=False,
        )  # fmt: skip
        found[executor] = np.concatenate([W.ravel() for W in (*net.weights, *net.biases)])
    assert_allclose(found["compiled"], found["eager"], rtol=1e-10, atol=1e-12)


def test_tiles_are_for_batches(monkeypatch):
    """By hand from the rules in `choices`, on a processor without a matrix unit."""
    monkeypatch.setattr(choices.amx, "usable", lambda dtype: False)
    net = gb.Network([784, 30, 2, 1], output="identity", backend="numpy")
    wide = gb.Network([1024, 2048, 10], output="identity", backend="numpy")
    assert choices.product_kinds(wide.model, 64, blas_threads=2) == [0, 2]
    for registers, few in (32, 1), (16, 8):
        monkeypatch.setattr(choices, "processor", lambda n=registers: (2 * n, n))
        assert choices.product_kinds(net.model, few) == [1, 1, 1]
        assert choices.product_kinds(net.model, few + 1) == [2, 1, 1]
