"""Which outputs a dropout mask keeps: one integer hash, the same bits on every backend.

An output is kept when ``mix(key ^ counter) >= threshold``, where the counter is ``row_in_batch *
n_out + unit`` and the key depends on seed, layer and step. Nothing is drawn, so nothing depends on
the order of the work.
"""

_WORD = 0xFFFFFFFF
#: Steps of `mix` on a 32-bit word held in 64 bits: ("xor_shift", n) is ``x ^= x >> n``,
#: ("multiply", c) is ``x = x * c & 0xFFFFFFFF``. Constants: Chris Wellons, "Prospecting for hash
#: functions", 2018 (lowbias32).
MIX = (
    ("xor_shift", 16),
    ("multiply", 0x7FEB352D),
    ("xor_shift", 15),
    ("multiply", 0x846CA68B),
    ("xor_shift", 16),
)


def mix(x: int) -> int:
    """Scramble a 32-bit word."""
    for step, constant in MIX:
        x = x ^ x >> constant if step == "xor_shift" else x * constant & _WORD
    return x


def key(seed: int, layer: int, step: int) -> int:
    """Return the 32-bit key of one layer's mask in one training step.

    Parameters
    ----------
    seed : int
        0..2**32 - 1.
    layer : int
        Counted from 0.
    step : int
        Updates done before this one.
    """
    return mix(layer_key(seed, layer) ^ step & _WORD)


def layer_key(seed: int, layer: int) -> int:
    """Return what `key` mixes with the step: the part that stays while a network trains."""
    return mix(mix(seed & _WORD) ^ layer)


def threshold(p: float) -> int:
    """Return the smallest hash that keeps an output, for a chance p in 0..1 of dropping it."""
    return round(p * 2**32)
