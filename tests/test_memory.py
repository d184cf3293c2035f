"""A device that has not enough memory: what is said, and that everything is given back."""

import gc

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop import memory, optimizers
from gpubackprop.executors import Job

RNG = np.random.default_rng(0)


def job(backend, batch_size=64, **options):
    net = gb.Network([50, 40, 30, 3], hidden="silu", backend=backend, **options)
    return Job(net.model, net.backend, optimizers.get("adam"), batch_size, False, 0)


def test_a_row_counted_by_hand():
    # a and delta of every layer, z where it is read (silu, and softmax), one scratch row of
    # outputs, two numbers, and what is given: X, the targets, a weight.
    numbers = 2 * (40 + 30 + 3) + (40 + 30) + 3 + 2 + (50 + 3 + 1)
    found = memory.row_bytes(job("numpy").model)
    assert found in (4 * numbers, 4 * (numbers + 3))  # softmax may keep its z
    wide = memory.row_bytes(job("numpy", dtype="float64").model)
    assert wide == 2 * found
    assert memory.row_bytes(job("numpy").model, training=False) == found - 4 * (40 + 30 + 3)
    dropping = memory.row_bytes(job("numpy", dropout=0.5).model)
    assert dropping == found + 4 * 2 * (40 + 30)


def test_what_does_not_depend_on_the_batch():
    plain = job("numpy")
    n = plain.model.layout.size
    assert memory.fixed_bytes(plain) == 4 * n * 4  # gradient, copy, m and v


@pytest.fixture
def pool(cupy_backend):
    """CuPy's pool, whose limit is taken away at the end."""
    pool = cupy_backend.xp.get_default_memory_pool()
    gc.collect()  # what other tests left
    pool.free_all_blocks()
    yield pool
    pool.set_limit(size=0)


def test_training_names_a_batch_size_that_fits(pool):
    net = gb.Network([20, 2000, 2], hidden="tanh", backend="cupy", rng=0)
    X = RNG.normal(size=(8192, 20)).astype("float32")
    labels = RNG.integers(2, size=8192)
    before = net.weights[0].get(), pool.used_bytes()
    pool.set_limit(size=before[1] + 40_000_000)
    with pytest.raises(MemoryError, match="ran out of memory on cupy") as caught:
        net.fit(X, labels, batch_size=8192, epochs=1, progress=False)
    text = str(caught.value)
    assert "for 8,192 rows" in text
    assert "would fit" in text
    # What is left belongs to the call that the error's traceback names: the data.
    assert pool.used_bytes() - before[1] < 3 * X.nbytes
    del caught
    gc.collect()
    assert pool.used_bytes() <= before[1]
    np.testing.assert_array_equal(net.weights[0].get(), before[0])
    fitting = int(text.partition("batch_size=")[2].split()[0])
    assert 500 < fitting < 4000
    history = net.fit(X, labels, batch_size=fitting // 2, epochs=1, progress=False)
    assert np.isfinite(history.loss[0])


def test_prediction_says_what_it_takes(pool):
    net = gb.Network([20, 2000, 2], hidden="tanh", backend="cupy", rng=0)
    X = RNG.normal(size=(8192, 20)).astype("float32")
    used = pool.used_bytes()
    pool.set_limit(size=used + 10_000_000)
    with pytest.raises(MemoryError, match="the outputs of 8,192 rows ran out of memory on cupy"):
        net.predict(X)
    gc.collect()
    assert net.predict(X[:100]).shape == (100, 2)
