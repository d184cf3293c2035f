"""The compiled shuffle: NumPy's own bits, with every generator, and only where it pays."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_compiled import cold  # noqa: F401  (a cache of its own)

import gpubackprop as gb
from gpubackprop.executors import Job
from gpubackprop.order import row_order

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")

from gpubackprop.executors.compiled import shuffle

GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox,
              np.random.SFC64]  # fmt: skip


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000, 65536, 65537])
def test_it_shuffles_as_numpy_does(n, generator):
    rng, other = (np.random.Generator(generator(7)) for _ in range(2))
    rows, expected = np.arange(n, dtype=np.int32), np.arange(n, dtype=np.int32)
    for skipped in range(3):  # half of a 64-bit number may be left from before
        rng.integers(9, size=skipped, dtype=np.uint32)
        other.integers(9, size=skipped, dtype=np.uint32)
        shuffle.shuffle(rng, rows)
        other.shuffle(expected)
        assert_array_equal(rows, expected)
        assert rng.random() == other.random()


def test_blocks_and_other_generators(monkeypatch):
    for mode in (True, "blocks"):
        orders = (
            row_order(70_000, mode, np.random.default_rng(3), None, *shuffling)
            for shuffling in ((), (shuffle.shuffle,))
        )
        assert_array_equal(*orders)

    class Reversing(np.random.Generator):
        def shuffle(self, x, axis=0):
            x[...] = x[::-1].copy()

    rows = np.arange(5, dtype=np.int32)
    shuffle.shuffle(Reversing(np.random.PCG64(0)), rows)
    assert rows.tolist() == [4, 3, 2, 1, 0]


def test_a_numpy_that_shuffles_in_another_way_is_left_to_it(monkeypatch):
    monkeypatch.setattr(shuffle, "_is_the_same", lambda: False)
    monkeypatch.setattr(shuffle, "_shuffle", None)
    rows, expected = np.arange(50, dtype=np.int32), np.arange(50, dtype=np.int32)
    shuffle.shuffle(np.random.default_rng(0), rows)
    np.random.default_rng(0).shuffle(expected)
    assert_array_equal(rows, expected)


def test_which_jobs_shuffle_with_it(monkeypatch):
    net = gb.Network([4, 4, 1], "tanh", "identity", "squared", backend="numpy")

    def pays(n_samples, epochs, *, compiles, ready, loaded=False):
        monkeypatch.setattr(shuffle.cache, "is_ready", lambda text: ready)
        monkeypatch.setattr(shuffle.cache, "is_loaded", lambda text: loaded)
        optimizer = gb.SGD(0.1)
        job = Job(net.model, net.backend, optimizer, 32, False, 0, n_samples=n_samples,
                  epochs=epochs)  # fmt: skip
        return shuffle.pays(job, compiles=compiles)

    assert not pays(1000, 1, compiles=True, ready=True)
    assert pays(1000, 1, compiles=True, ready=False)  # for others
    assert not pays(None, 1000, compiles=True, ready=True)
    assert pays(1000, 1, compiles=False, ready=True, loaded=True)
    assert pays(100_000, 100, compiles=True, ready=False)
    assert pays(100_000, 100, compiles=False, ready=True)
    assert not pays(100_000, 100, compiles=False, ready=False)
    assert pays(100_000, 10_000, compiles=False, ready=False)


def test_a_fit_has_the_same_rows_either_way(monkeypatch):
    X = np.random.default_rng(0).normal(size=(500, 3))
    found = []
    calls, original = [], shuffle._shuffle
    monkeypatch.setattr(shuffle, "_shuffle", lambda *given: calls.append(1) or original(*given))
    for compiled in (True, False):
        monkeypatch.setattr(shuffle.cache, "is_loaded", lambda text, answer=compiled: answer)
        net = gb.Network(
            [3, 4, 1], "tanh", "identity", "squared", rng=0, backend="numpy", dtype="float64"
        )
        net.fit(X, X[:, 0], executor="compiled", epochs=3, progress=False)
        found.append((net.weights[0].copy(), net.rng.bit_generator.state))
    assert len(calls) >= 2  # the third epoch draws where compiled code runs two
    assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
