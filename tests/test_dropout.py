"""The dropout hash; the masks of the backends are in tests/test_backends.py and test_model.py."""

import math
import random

import numpy as np
import pytest

from gpubackprop import dropout


def inverse(x):
    """Undo lowbias32, with the inverse that its author publishes."""
    x ^= x >> 16
    x = x * 0x43021123 % 2**32
    x ^= x >> 15 ^ x >> 30
    x = x * 0x1D69E2A5 % 2**32
    return x ^ x >> 16


def words(n):
    return [0, 1, 2**31, 2**32 - 1, *(random.Random(3).randrange(2**32) for _ in range(n))]


def test_every_word_is_the_hash_of_one_word():
    for x in words(2000):
        assert 0 <= dropout.mix(x) < 2**32
        assert inverse(dropout.mix(x)) == x
        assert dropout.mix(inverse(x)) == x


@pytest.mark.parametrize(
    ("p", "threshold"), [(0.0, 0), (0.5, 2**31), (0.25, 2**30), (1.0, 2**32), (2**-33, 0)]
)
def test_threshold(p, threshold):
    assert dropout.threshold(p) == threshold


def test_key_is_a_hash_of_a_hash_of_a_hash():
    """Undone step by step: the seed comes out again."""
    seed, layer, step = 123456789, 3, 2**33 + 5
    key = dropout.key(seed, layer, step)
    assert inverse(inverse(inverse(key) ^ step % 2**32) ^ layer) == seed


def test_layers_and_steps_share_no_mask():
    """Masks of neighbouring layers and steps agree as often as unrelated ones do: half the time."""
    n = 4000

    def mask(layer, step):
        key = dropout.key(7, layer, step)
        return np.array([dropout.mix(key ^ counter) >= 2**31 for counter in range(n)])

    base = mask(0, 0)
    for other in (mask(0, 1), mask(1, 0), mask(1, 1), mask(0, 2)):
        assert abs((base == other).mean() - 0.5) < 5 * math.sqrt(0.25 / n)
