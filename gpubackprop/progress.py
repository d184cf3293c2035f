"""A line of progress on a terminal; nothing anywhere else."""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpubackprop.training import Run

_EVERY = 0.1
_BAR = 24


class ProgressLine:
    """A callback that keeps one line of standard error up to date, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._started = 0.0
        self._active = False

    def on_fit_begin(self, run: "Run") -> None:
        """Begin."""
        self._active = bool(sys.stderr is not None and sys.stderr.isatty())
        self._started = time.perf_counter()

    def on_slice(self, run: "Run") -> None:
        """Show how far the epoch is."""
        now = time.perf_counter()
        if self._active and now - self._shown >= _EVERY:
            self._shown = now
            self._write(line(run, now - self._started))

    def on_fit_end(self, run: "Run") -> None:
        """Leave the last line standing."""
        if self._active:
            self._write(line(run, time.perf_counter() - self._started) + "\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write("\r\x1b[2K" + text)
        sys.stderr.flush()


def line(run: "Run", seconds: float) -> str:
    """Return the line: bar, epoch, loss, validation loss, speed, time left.

    Parameters
    ----------
    run : Run
    seconds : float
        Since training began.
    """
    history = run.history
    complete = len(history.epoch)
    within = run.rows_done / run.n_samples if run.n_samples and complete <= run.epoch else 0.0
    done = min((complete + within) / run.epochs, 1.0)
    filled = round(done * _BAR)
    bar = "=" * filled + " " * (_BAR - filled)
    parts = [f"[{bar}] epoch {min(run.epoch + 1, run.epochs)}/{run.epochs}"]
    if history.loss:
        parts.append(f"loss {history.loss[-1]:.4g}")
    if history.validation_loss:
        parts.append(f"validation {history.validation_loss[-1]:.4g}")
    samples = (history.samples[-1] if history.samples else 0) + (run.rows_done if within else 0)
    if seconds > 0:
        parts.append(f"{samples / seconds:,.0f} samples/s")
    if 0 < done < 1 and not run.stopping:
        parts.append(f"{seconds / done - seconds:.0f} s left")
    return "  ".join(parts)
