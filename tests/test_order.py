"""The order of rows: permutations, blocks, seeds."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpubackprop.order import default_shuffle, row_dtype, row_order

SIZES = [1, 2, 7, 1023, 1024, 1025, 65536, 65537, 200_001]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shuffle", [True, "full", "blocks", False])
def test_every_row_comes_once(n, shuffle):
    order = row_order(n, shuffle, np.random.default_rng(0))
    assert order.dtype == np.int32
    assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("shuffle", [True, "full", "blocks"])
def test_the_seed_decides(shuffle):
    first, same, other = (row_order(5000, shuffle, np.random.default_rng(s)) for s in (1, 1, 2))
    assert_array_equal(first, same)
    assert (first != other).any()
    assert (first != np.arange(5000)).any()


def test_epochs_differ():
    rng = np.random.default_rng(0)
    assert (row_order(100, True, rng) != row_order(100, True, rng)).any()


def test_true_is_full():
    orders = (row_order(100, shuffle, np.random.default_rng(3)) for shuffle in (True, "full"))
    assert_array_equal(*orders)


def test_no_shuffle_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert_array_equal(row_order(10, False, rng), np.arange(10))
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
def test_out_is_written_and_returned(shuffle):
    out = np.full(3000, -1, np.int32)
    assert row_order(3000, shuffle, np.random.default_rng(0), out) is out
    assert_array_equal(out, row_order(3000, shuffle, np.random.default_rng(0)))


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 65537, (1 << 20) + 1])
def test_the_order_is_that_of_numpys_shuffle(n):
    """However it is come by, a seed's order stays what it is."""
    rng, other = np.random.default_rng(5), np.random.default_rng(5)
    expected = np.arange(n, dtype=np.int32)
    other.shuffle(expected)
    assert_array_equal(row_order(n, True, rng), expected)
    assert rng.bit_generator.state == other.bit_generator.state


def test_blocks_stay_together():
    n = 300 * 1024 - 5  # the last block is short, and so is the last window
    order = row_order(n, "blocks", np.random.default_rng(0))
    seen, start = [], 0
    while start < n:
        # Walk as far as 64 blocks reach: all of their rows must be there before any other row.
        window, stop = set(), start
        while stop < n and (order[stop] // 1024 in window or len(window) < 64):
            window.add(int(order[stop]) // 1024)
            stop += 1
        rows = np.concatenate([np.arange(b * 1024, min(b * 1024 + 1024, n)) for b in window])
        assert_array_equal(np.sort(order[start:stop]), np.sort(rows))
        seen += sorted(window)
        start = stop
    assert sorted(seen) == list(range(300))
    assert seen != sorted(seen)


def test_blocks_mix_rows_within_a_window():
    order = row_order(64 * 1024, "blocks", np.random.default_rng(0))
    steps = np.diff(order.astype(np.int64))
    assert np.mean(steps == 1) < 0.01


def test_row_dtype():
    assert row_dtype(2**31 - 1) == np.int32
    assert row_dtype(2**31) == np.int64


@pytest.mark.parametrize(
    ("streamed", "nbytes", "expected"),
    [(True, 501, "blocks"), (True, 500, "full"), (False, 5000, "full")],
)
def test_default_shuffle(streamed, nbytes, expected):
    source = SimpleNamespace(streamed=streamed, nbytes=nbytes)
    assert default_shuffle(source, True, memory=1000) == expected
    assert default_shuffle(source, False, memory=1000) is False
    assert default_shuffle(source, "full", memory=1000) == "full"
    assert default_shuffle(source, "blocks", memory=1000) == "blocks"


def test_default_shuffle_where_the_system_tells_nothing(monkeypatch):
    def sysconf(name):
        raise ValueError(name)

    monkeypatch.setattr("os.sysconf", sysconf, raising=False)
    source = SimpleNamespace(streamed=True, nbytes=4 * 2**30 + 1)
    assert default_shuffle(source, True) == "blocks"
    source.nbytes -= 1
    assert default_shuffle(source, True) == "full"


def test_default_shuffle_finds_the_memory_out():
    assert default_shuffle(SimpleNamespace(streamed=True, nbytes=10), True) == "full"
    assert default_shuffle(SimpleNamespace(streamed=True, nbytes=2**60), True) == "blocks"


@pytest.mark.parametrize("shuffle", ["no", 1, None, 0.5, ["full"]])
def test_bad_shuffle(shuffle):
    message = "shuffle must be True, False, 'full' or 'blocks'"
    with pytest.raises(ValueError, match=message):
        row_order(3, shuffle, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        default_shuffle(SimpleNamespace(streamed=False, nbytes=1), shuffle)
