"""What is seen on a terminal while a command works; nothing anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpubackprop.progress import samples_done, share_done, speed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gpubackprop.run import Run

_EVERY = 0.1


@contextlib.contextmanager
def bars(*fields: str) -> Iterator[Progress]:
    """Show bars on standard error, if that is a terminal: description, bar, fields.

    They are drawn when `tick` says so: a thread that draws would take time from the work.

    Parameters
    ----------
    *fields : str
        Names of texts that tasks have.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        *(TextColumn("{task.fields[" + field + "]}", markup=False) for field in fields),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        disable=sys.stderr is None or not sys.stderr.isatty(),
    ) as shown:
        yield shown


class Reading:
    """Shows how many rows have been read.

    Parameters
    ----------
    bars : rich.progress.Progress
        With the field "done".
    what : str
    total : int, optional
        Rows, if they are known.
    """

    def __init__(self, bars: Progress, what: str, total: int | None = None) -> None:
        self._bars, self._shown = bars, 0.0
        self._task = _only(bars, what, total)

    def __call__(self, rows: int) -> None:
        """Show a number of rows."""
        if time.monotonic() - self._shown > _EVERY:
            self._shown = time.monotonic()
            self._bars.update(self._task, completed=rows, done=f"{rows:,} rows")
            self._bars.refresh()


class Training:
    """A callback of `fit` that shows the epoch, losses, speed and the time that is left.

    Parameters
    ----------
    bars : rich.progress.Progress
        With the field "done".
    """

    def __init__(self, bars: Progress) -> None:
        self._bars, self._shown, self._started = bars, 0.0, 0.0
        self._before = 0.0, 0
        self._task: Any = None

    def on_fit_begin(self, run: Run) -> None:
        """Begin."""
        self._started = time.perf_counter()
        self._before = share_done(run), samples_done(run)
        self._task = _only(self._bars, "training", 1.0)

    def on_slice(self, run: Run) -> None:
        """Show how far training is."""
        now = time.perf_counter()
        if now - self._shown < _EVERY:
            return
        self._shown = now
        parts = [f"epoch {min(run.epoch + 1, run.epochs)}/{run.epochs}"]
        for name, losses in (
            ("loss", run.history.loss),
            ("validation", run.history.validation_loss),
        ):
            if losses:
                parts.append(f"{name} {losses[-1]:.4g}")
        rate, left = speed(run, now - self._started, *self._before)
        if rate is not None:
            parts.append(f"{rate:,.0f} samples/s")
        if left is not None:
            parts.append(f"{duration(left)} left")
        self._bars.update(self._task, completed=share_done(run), done="  ".join(parts))
        self._bars.refresh()


def _only(bars: Progress, what: str, total: float | None) -> TaskID:
    """Add a task in the place of those before."""
    for task in bars.task_ids:
        bars.remove_task(task)
    return bars.add_task(what, total=total, done="")


def duration(seconds: float) -> str:
    """Write a time as 12 s, 3:05 min or 2:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
