"""Buffers that are filled in turns."""

import contextlib
from collections.abc import Iterator


class Turns:
    """The one set of buffers of the host, where filling is no copy of its own.

    Attributes
    ----------
    n_sets : int
    current : int
        The set whose turn it is: 0..n_sets - 1.
    """

    n_sets = 1

    def __init__(self) -> None:
        self.current = 0

    def next(self) -> int:
        """Move on to the next set; returns its number."""
        self.current = (self.current + 1) % self.n_sets
        return self.current

    @contextlib.contextmanager
    def filling(self, fresh: bool) -> Iterator[None]:
        """Fill the current set.

        Parameters
        ----------
        fresh : bool
            Whether its memory was allocated since the last turn.
        """
        yield
