"""Copies from the host while the device computes: page-locked memory and a second stream."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpubackprop.backends.turns import Turns as OneTurn
from gpubackprop.types import Array

#: Largest page-locked buffer in bytes: longer arrays are uploaded in pieces.
_LARGEST_STAGED = 1 << 26


class Turns(OneTurn):
    """Two sets of buffers on the device: while one is computed with, the other is filled.

    The order is kept by events alone, and the host waits for none of them: the computation waits
    for the copies of its set, and these for what read the set two turns ago.

    Parameters
    ----------
    cp : module
        cupy.
    copies : cupy.cuda.Stream
        Non-blocking.
    """

    n_sets = 2

    def __init__(self, cp: Any, copies: Any) -> None:
        super().__init__()
        self.cp, self.copies = cp, copies
        self.read = [cp.cuda.Event(disable_timing=True) for _ in range(2)]
        self.filled = cp.cuda.Event(disable_timing=True)

    @contextlib.contextmanager
    def filling(self, fresh: bool) -> Iterator[None]:
        """Send what is written meanwhile by the other stream."""
        stream = self.cp.cuda.get_current_stream()
        last = 1 - self.current
        # All that reads the last set, and all that had the memory of a fresh one, was given to the
        # device by now.
        self.read[last].record(stream)
        self.copies.wait_event(self.read[last if fresh else self.current])
        with self.copies:
            yield
            self.filled.record(self.copies)
        stream.wait_event(self.filled)


class Staging(threading.local):
    """Page-locked buffers in pairs, of each thread its own.

    A buffer is written again only after the copy before the last, which was made from it, has
    passed. So the host fills one while the device copies from the other, and is at most two copies
    ahead.
    """

    def __init__(self, cp: Any) -> None:
        self.cp = cp
        self.pairs: dict[int, _Pair] = {}
        self.streams: dict[int, Any] = {}

    def copying(self) -> Any:
        """Return this thread's stream for copies that go on while the device computes."""
        device = self.cp.cuda.runtime.getDevice()
        if device not in self.streams:
            self.streams[device] = self.cp.cuda.Stream(non_blocking=True)
        return self.streams[device]

    def upload(self, source: np.ndarray, out: Array) -> None:
        """Copy an array, casting, in pieces that fit a buffer."""
        flat, step = out.reshape(-1), max(1, _LARGEST_STAGED // out.itemsize)
        rows = source.reshape(-1) if source.flags.c_contiguous else np.ravel(source)
        for start in range(0, out.size, step):
            piece = flat[start : start + step]
            size = 1 << max(piece.nbytes - 1, 1).bit_length()
            if size not in self.pairs:
                self.pairs[size] = _Pair(self.cp, size)
            self.pairs[size].upload(rows[start : start + step], piece)


class _Pair:
    """Two page-locked buffers of one size, used in turn."""

    def __init__(self, cp: Any, size: int) -> None:
        import cupyx

        self.cp = cp
        self.buffers = [cupyx.empty_pinned((size,), np.uint8) for _ in range(2)]
        self.events = [cp.cuda.Event(disable_timing=True) for _ in range(2)]
        self.used = 0

    def upload(self, source: np.ndarray, out: Array) -> None:
        buffer, event = self.buffers[self.used % 2], self.events[self.used % 2]
        if self.used >= 2:
            event.synchronize()
        staged = buffer[: out.nbytes].view(out.dtype)
        np.copyto(staged, source, casting="unsafe")
        stream = self.cp.cuda.get_current_stream()
        out.data.copy_from_host_async(staged.ctypes.data, out.nbytes, stream)
        event.record(stream)
        self.used += 1
