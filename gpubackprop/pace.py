"""How long the slices of an epoch are, and how many short epochs are done at once."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from gpubackprop.backends.base import Backend

#: What a slice of an epoch aims at: between slices come Ctrl-C, progress and callbacks.
_SLICE_SECONDS = 0.1
#: Slices that may be under way on a device at once.
_IN_FLIGHT = 2


class Pace:
    """Cuts epochs into slices of about 0.1 s of work.

    Parameters
    ----------
    backend : Backend
    batches : int, optional
        Batches of the first slice, a power of two.
    """

    def __init__(self, backend: Backend, batches: int = 1) -> None:
        self._backend, self._batches = backend, batches

    def slices(self, n: int, batch_size: int, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) for rows `start` to n; what is done between two of them is timed.

        `start` is 0 or where a slice of the same job has ended.
        """
        marks: deque[Any] = deque()
        while start < n:
            began = time.perf_counter()
            stop = min(n, start + batch_size * self._batches)
            yield start, stop
            start = stop
            marks.append(self._backend.mark())
            if len(marks) > _IN_FLIGHT:
                self._backend.wait(marks.popleft())
            # Powers of two: where a slice ends must not depend on the clock in more than its
            # length. The last one, cut short, says nothing about how long a whole one takes.
            if start < n and time.perf_counter() - began < _SLICE_SECONDS / 2:
                self._batches *= 2


class Stride:
    """How many epochs are done at once: about 0.1 s of work.

    Parameters
    ----------
    several : bool
        Whether it may be more than one.

    Attributes
    ----------
    epochs : int
    """

    def __init__(self, *, several: bool) -> None:
        self._several, self.epochs = several, 1

    def took(self, seconds: float) -> None:
        """Learn how long so many epochs have taken."""
        if self._several and seconds < _SLICE_SECONDS / 2:
            self.epochs *= 2
