"""Timing that `compare` and benchmarks/ share: warm-up, synchronise, repeat, median and spread.

Competitors are timed in one process, in interleaved rounds whose order rotates, so that a machine
that is busy for a while, or slows down as it warms up, is so to all of them alike.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gpubackprop.backends.base import Backend

Name = TypeVar("Name")

_MAX_CALLS = 1_000_000


def _nothing() -> None:
    """Do nothing: on the host a call that has returned is done."""


@dataclass(frozen=True)
class Competitor:
    """Something to time.

    Attributes
    ----------
    run : callable
        Does the work once; its result is given to `check`.
    synchronize : callable, optional
        Waits until the device has done what `run` gave it, such as `Backend.synchronize`.
    check : callable, optional
        Given the first result, raises an error if that is wrong. A wrong answer is not timed.
    """

    run: Callable[[], Any]
    synchronize: Callable[[], Any] = _nothing
    check: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds that one call took, in each of several rounds.

    Attributes
    ----------
    seconds : tuple of float
        One for each round: the mean over its calls.
    calls : int
        Calls in each round.
    """

    seconds: tuple[float, ...]
    calls: int = 1

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("seconds must hold the time of one round at least, got none")

    @property
    def median(self) -> float:
        """Median over the rounds, in seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile over the rounds, in seconds."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, as a share of the median."""
        low, high = self.quartiles
        return (high - low) / max(self.median, 1e-12)

    def rate(self, amount: float) -> float:
        """Return how much is done in a second when a call does `amount`."""
        return amount / max(self.median, 1e-12)

    def __str__(self) -> str:
        return f"{seconds_text(self.median)} ± {self.spread / 2:.0%}"


def time_calls(competitor: Competitor, calls: int = 1) -> float:
    """Return the seconds that one call takes: the mean over `calls` calls, until the device is done
    with the last.
    """
    run = competitor.run
    competitor.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    competitor.synchronize()
    return (time.perf_counter() - start) / calls


def calls_for(competitor: Competitor, seconds: float) -> int:
    """Return how many calls take about so many seconds, 1 at least.

    Parameters
    ----------
    competitor : Competitor
        Run a few times, to find out.
    seconds : float
        > 0.
    """
    calls = 1
    while True:
        # A first guess from few calls is a poor one: it is doubled until half the time is used.
        each = max(time_calls(competitor, calls), 1e-9)
        wanted = max(1, math.ceil(seconds / each))
        if calls * each >= seconds / 2 or wanted <= calls:
            return min(wanted, _MAX_CALLS)
        calls = min(wanted, 8 * calls)


def in_rounds(names: Iterable[Name], rounds: int) -> Iterator[tuple[int, Name]]:
    """Yield (round, name): every name once a round, starting one further in each round."""
    listed = list(names)
    for k in range(rounds):
        first = k % len(listed) if listed else 0
        for name in listed[first:] + listed[:first]:
            yield k, name


def interleaved(
    competitors: Mapping[Name, Competitor],
    *,
    rounds: int = 9,
    seconds: float = 0.05,
    warm_up: int = 1,
) -> dict[Name, Timing]:
    """Time several competitors in interleaved rounds.

    Each is run once and its answer checked, before any is timed; then it is warmed up.

    Parameters
    ----------
    competitors : mapping of str to Competitor
    rounds : int, optional
        Rounds, >= 1.
    seconds : float, optional
        What a competitor's share of a round aims at: it is called as often as that takes, once at
        least.
    warm_up : int, optional
        Calls after the checked one and before the first timed one, >= 0.

    Returns
    -------
    dict of str to Timing

    Raises
    ------
    ValueError
        If `rounds`, `seconds` or `warm_up` is out of range.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be an integer >= 1, got {rounds}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a number > 0, got {seconds}")
    if warm_up < 0:
        raise ValueError(f"warm_up must be an integer >= 0, got {warm_up}")
    for competitor in competitors.values():
        answer = competitor.run()
        competitor.synchronize()
        if competitor.check is not None:
            competitor.check(answer)
    calls = {}
    for name, competitor in competitors.items():
        for _ in range(warm_up):
            competitor.run()
        calls[name] = calls_for(competitor, seconds)
    times: dict[Name, list[float]] = {name: [] for name in competitors}
    for _, name in in_rounds(competitors, rounds):
        times[name].append(time_calls(competitors[name], calls[name]))
    return {name: Timing(tuple(times[name]), calls[name]) for name in competitors}


def measure(
    run: Callable[[], Any],
    *,
    synchronize: Callable[[], Any] = _nothing,
    check: Callable[[Any], Any] | None = None,
    rounds: int = 9,
    seconds: float = 0.05,
    warm_up: int = 1,
) -> Timing:
    """Time one thing; see `interleaved` and `Competitor` for the arguments."""
    competitor = Competitor(run, synchronize, check)
    return interleaved({"": competitor}, rounds=rounds, seconds=seconds, warm_up=warm_up)[""]


def emulated(backend: Backend) -> bool:
    """Tell whether a backend's device is emulated on the CPU: its times say nothing about a GPU."""
    return not backend.host and "emulated" in backend.describe()


def seconds_text(seconds: float) -> str:
    """Write a time with three digits and a fitting unit: "12.3 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


__all__ = [
    "Competitor",
    "Timing",
    "calls_for",
    "emulated",
    "in_rounds",
    "interleaved",
    "measure",
    "seconds_text",
    "time_calls",
]
