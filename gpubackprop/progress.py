"""A line of progress on a terminal; nothing anywhere else."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpubackprop.run import Run

_EVERY = 0.1
_BAR = 24
_NOTICED = 0.5


class ProgressLine:
    """A callback that keeps one line of standard error up to date, if that is a terminal."""

    #: Several short epochs may be done between two calls.
    patient = True

    def __init__(self) -> None:
        self._shown = 0.0
        self._started = 0.0
        self._active = False
        self._before = (0.0, 0)

    def compiling(self, seconds: Callable[[], float]) -> None:
        """Say that code is compiled first, if that takes long enough to be noticed.

        Parameters
        ----------
        seconds : callable
            Returns about how long it takes; called if there is a terminal.
        """
        if sys.stderr is None or not sys.stderr.isatty():
            return
        expected = seconds()
        if expected >= _NOTICED:
            self._write(
                f"compiling for a job of this kind, about {expected:.0f} s; kept for later runs "
                "(python -m gpubackprop warm does it beforehand)"
            )

    def on_fit_begin(self, run: "Run") -> None:
        """Begin."""
        self._active = bool(sys.stderr is not None and sys.stderr.isatty())
        self._started = time.perf_counter()
        self._before = share_done(run), samples_done(run)  # of a resumed run that is not nothing

    def on_slice(self, run: "Run") -> None:
        """Show how far the epoch is."""
        now = time.perf_counter()
        if self._active and now - self._shown >= _EVERY:
            self._shown = now
            self._write(line(run, now - self._started, *self._before))

    def on_fit_end(self, run: "Run") -> None:
        """Leave the last line standing."""
        if self._active:
            self._write(line(run, time.perf_counter() - self._started, *self._before) + "\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write("\r\x1b[2K" + text)
        sys.stderr.flush()


def line(run: "Run", seconds: float, done_before: float = 0.0, samples_before: int = 0) -> str:
    """Return the line: bar, epoch, loss, validation loss, speed, time left.

    Parameters
    ----------
    run : Run
    seconds : float
        Since training began.
    done_before : float, optional
        Share of the whole, in 0..1, that was done when it began.
    samples_before : int, optional
        Rows that had been trained on.
    """
    history, done = run.history, share_done(run)
    rate, left = speed(run, seconds, done_before, samples_before)
    filled = round(done * _BAR)
    bar = "=" * filled + " " * (_BAR - filled)
    parts = [f"[{bar}] epoch {min(run.epoch + 1, run.epochs)}/{run.epochs}"]
    if history.loss:
        parts.append(f"loss {history.loss[-1]:.4g}")
    if history.validation_loss:
        parts.append(f"validation {history.validation_loss[-1]:.4g}")
    if rate is not None:
        parts.append(f"{rate:,.0f} samples/s")
    if left is not None:
        parts.append(f"{left:.0f} s left")
    return "  ".join(parts)


def speed(
    run: "Run", seconds: float, done_before: float = 0.0, samples_before: int = 0
) -> tuple[float | None, float | None]:
    """Return samples trained on in a second, and the seconds left; None where not known yet.

    Parameters
    ----------
    run, seconds, done_before, samples_before
        As in `line`.
    """
    done = share_done(run)
    rate = (samples_done(run) - samples_before) / seconds if seconds > 0 else None
    if not done_before < done < 1 or run.stopping:
        return rate, None
    return rate, seconds * (1 - done) / (done - done_before)


def share_done(run: "Run") -> float:
    """Return which share of a run is done, in 0..1."""
    within = run.rows_done / run.n_samples if run.n_samples and _is_within(run) else 0.0
    return min((len(run.history.epoch) + within) / run.epochs, 1.0)


def samples_done(run: "Run") -> int:
    """Return the rows that a run has trained on."""
    complete = run.history.samples[-1] if run.history.samples else 0
    return complete + (run.rows_done if run.n_samples and _is_within(run) else 0)


def _is_within(run: "Run") -> bool:
    """Tell whether the rows done are not in the history yet."""
    return len(run.history.epoch) <= run.epoch
