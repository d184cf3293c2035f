"""Timing: what is computed from times that are known, and the order in which things are called."""

import time

import numpy as np
import pytest
from conftest import require

from gpubackprop import backends, measure
from gpubackprop.measure import Competitor, Timing


class FakeClock:
    """A clock that only moves when work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def work(self, seconds: float):
        """Return something that takes so long."""

        def run() -> None:
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def test_median_and_spread():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert timing.spread == pytest.approx(2 / 3)
    assert timing.rate(600) == 200.0
    assert str(Timing((0.002,))) == "2 ms ± 0%"


def test_timing_of_nothing():
    with pytest.raises(ValueError, match="seconds must hold the time of one round"):
        Timing(())


def test_times_what_is_done(clock):
    timing = measure.measure(clock.work(0.004), rounds=5, seconds=0.02)
    assert timing.calls == 5
    np.testing.assert_allclose(timing.seconds, [0.004] * 5, rtol=1e-12)


def test_a_long_call_is_made_once_a_round(clock):
    timing = measure.measure(clock.work(3.0), rounds=2, seconds=0.02)
    assert timing.calls == 1
    assert timing.median == pytest.approx(3.0)


def test_waiting_for_the_device_is_timed(clock):
    queue = []
    timing = measure.measure(
        lambda: queue.append(0.01),
        synchronize=lambda: clock.work(sum(queue))() or queue.clear(),
        rounds=3,
        seconds=0.01,
    )
    assert timing.median == pytest.approx(0.01)


def test_rounds_are_interleaved_and_rotate():
    assert list(measure.in_rounds("abc", 3)) == [
        (0, "a"), (0, "b"), (0, "c"),
        (1, "b"), (1, "c"), (1, "a"),
        (2, "c"), (2, "a"), (2, "b"),
    ]  # fmt: skip


def test_a_slow_spell_hits_all_competitors(clock):
    """The machine is ten times slower in some of the rounds: the ratio of medians stays."""
    slow = {"calls": 0}

    def work(seconds: float):
        def run() -> None:
            slow["calls"] += 1
            clock.now += seconds * (10.0 if slow["calls"] > 24 else 1.0)

        return run

    names = {"fast": Competitor(work(1.0)), "slow": Competitor(work(2.0))}
    timings = measure.interleaved(names, rounds=21, seconds=0.1)
    assert timings["slow"].median / timings["fast"].median == pytest.approx(2.0)
    assert max(timings["fast"].seconds) == pytest.approx(10.0)


def test_answers_are_checked_before_anything_is_timed(clock):
    calls = []

    def wrong(answer: object) -> None:
        raise AssertionError(f"wrong answer {answer}")

    names = {
        "right": Competitor(lambda: calls.append("right")),
        "wrong": Competitor(lambda: 41, check=wrong),
    }
    with pytest.raises(AssertionError, match="wrong answer 41"):
        measure.interleaved(names)
    assert calls == ["right"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
        ({"seconds": 0}, "seconds must be a number > 0, got 0"),
        ({"seconds": float("nan")}, "seconds must be a number > 0, got nan"),
        ({"warm_up": -1}, "warm_up must be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        measure.measure(int, **options)


def test_times_really():
    timing = measure.measure(lambda: time.sleep(0.002), rounds=3, seconds=0.004)
    assert 0.002 <= timing.median < 0.2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.3456, "12.3 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs"), (7e-9, "7 ns")],
)
def test_seconds_text(seconds, text):
    assert measure.seconds_text(seconds) == text


def test_numpy_is_not_emulated():
    assert not measure.emulated(backends.get("numpy"))


def test_an_emulated_gpu_is_recognised():
    import cpucuda

    require("cupy")
    assert measure.emulated(backends.get("cupy")) == cpucuda.installed()
