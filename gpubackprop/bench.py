"""Samples/s of training: the three modes on every backend and executor that is usable here."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubackprop import backends
from gpubackprop.compare import (
    MODES,
    Entry,
    check_names,
    check_training,
    possible,
    usable_backends,
)
from gpubackprop.executors import EXECUTORS
from gpubackprop.machine import machine
from gpubackprop.measure import Competitor, emulated, interleaved
from gpubackprop.network import Network

#: The networks that are timed unless others are named.
NETWORKS = ((4, 4, 4, 1), (784, 30, 10), (784, 256, 128, 10))
#: Rows of an epoch: at most so many, and of large networks as many as take so many floating-point
#: operations.
_MOST_ROWS, _FEWEST_ROWS, _OPERATIONS = 4096, 32, 4e9


@dataclass(frozen=True)
class Settings:
    """What to time.

    Attributes
    ----------
    networks : tuple of tuples of int
        Sizes of the layers. The hidden layers are sigmoid; so is a single output (log_loss),
        several are softmax (cross_entropy).
    modes : tuple of str
        Names in `compare.MODES`.
    backends, executors : tuple of str or None
        Names; None means all that are usable here.
    rounds : int
        Interleaved rounds of which the median is taken.
    seconds : float
        What one timing aims at.
    dtype : {"float32", "float64"}
    """

    networks: tuple[tuple[int, ...], ...] = NETWORKS
    modes: tuple[str, ...] = tuple(MODES)
    backends: tuple[str, ...] | None = None
    executors: tuple[str, ...] | None = None
    rounds: int = 5
    seconds: float = 0.1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_names("modes", self.modes, list(MODES))
        check_names("executors", self.executors, list(EXECUTORS))
        if self.rounds < 1:
            raise ValueError(f"rounds must be an integer >= 1, got {self.rounds}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be a number > 0, got {self.seconds}")


@dataclass(frozen=True)
class Result:
    """What was timed.

    Attributes
    ----------
    network, mode, backend, executor, device : str
    batch_size, rows, threads : int
    samples_per_second, spread : float or None
        From the median round; the distance between the quartiles as a share of the median. None on
        an emulated device, where they would mean nothing.
    error : float
        Largest difference from the float64 reference after a few updates, as a share of the largest
        change of a parameter.
    """

    network: str
    mode: str
    backend: str
    executor: str
    device: str
    batch_size: int
    rows: int
    threads: int
    samples_per_second: float | None
    spread: float | None
    error: float


@dataclass
class Bench:
    """What `bench` found: settings, machine, results, and notes on what was left out."""

    settings: Settings
    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows."""
        return dataclasses.asdict(self)


#: Called with what is being timed.
Told = Callable[[str], None]


def _untold(text: str) -> None:
    """Show nothing."""


def bench(settings: Settings, told: Told = _untold) -> Bench:
    """Time training. Before anything is timed, a few updates are compared with float64.

    Raises
    ------
    ValueError, ImportError, RuntimeError
        If a backend that was asked for cannot be used, nothing could be timed, or an answer is
        wrong.
    """
    names, notes = usable_backends(settings.backends)
    found = Bench(settings, machine(), notes=notes)
    for sizes in settings.networks:
        found.results += _network(sizes, names, settings, found.notes, told)
    if not found.results:
        raise RuntimeError("; ".join(["nothing could be timed", *found.notes]))
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _network(
    sizes: tuple[int, ...], names: list[str], settings: Settings, notes: list[str], told: Told
) -> list[Result]:
    """Time one network, all that can train it in turns."""
    output = "sigmoid" if sizes[-1] == 1 else "softmax"
    start = Network(sizes, output=output, backend="numpy", dtype=settings.dtype, rng=0)
    X, Y = _data(start)
    # Small steps: the network is to be as far from the end of training at the last round.
    modes = [
        dataclasses.replace(MODES[name], learning_rate=0.01, momentum=0.0)
        for name in dict.fromkeys(settings.modes)
    ]
    entries = possible(start, len(X), modes, names, settings.executors, notes)
    runs = {entry: _Training(start, X, Y, entry, settings, told) for entry in entries}
    label = "-".join(map(str, sizes))
    told(f"{label}: timing {len(runs)}")
    timings = interleaved(
        {entry: Competitor(run.train) for entry, run in runs.items()},
        rounds=settings.rounds,
        seconds=1e-9,  # one call of `train` is as long as it should be
    )
    return [
        Result(
            label, entry.mode.name, entry.backend, entry.executor,
            backends.get(entry.backend).describe(), entry.mode.rows(len(X)), len(X), run.threads,
            timings[entry].rate(run.epochs * len(X)) if run.timed else None,
            timings[entry].spread if run.timed else None,
            run.error,
        )
        for entry, run in runs.items()
    ]  # fmt: skip


def _data(start: Network) -> tuple[np.ndarray, np.ndarray]:
    """Draw inputs and targets: speed does not depend on their values."""
    sizes = start.model.sizes
    n = int(_OPERATIONS / (6 * start.n_parameters))
    n = max(_FEWEST_ROWS, min(_MOST_ROWS, n))
    rng = np.random.default_rng(0)
    X = rng.random((n, sizes[0])).astype(start.model.dtype)
    return X, rng.integers(0, max(sizes[-1], 2), n)


class _Training:
    """One entry: a network that is trained a little further in each round."""

    def __init__(
        self,
        start: Network,
        X: np.ndarray,
        Y: np.ndarray,
        entry: Entry,
        settings: Settings,
        told: Told,
    ) -> None:
        told(f"{'-'.join(map(str, start.model.sizes))}: {entry.label}")
        backend = backends.get(entry.backend)
        self.timed = not emulated(backend)
        self.error = check_training(
            start, X, Y, entry.mode, entry.backend, entry.executor, settings.dtype
        )
        self._net, self._entry = start.copy(backend=entry.backend), entry
        with backend.active():  # on the device, as from an epoch to the next
            self._X, self._Y = backend.asarray(X), backend.asarray(Y)
        self.epochs = 1
        self.train()  # compiles what is compiled
        self.train()
        self.epochs = max(1, math.ceil(settings.seconds / max(self._seconds, 1e-9)))

    def train(self) -> None:
        """Train for `epochs`. It returns when the device is done: the loss is read."""
        self._net.fit(
            self._X, self._Y,
            batch_size=self._entry.mode.rows(len(self._X)),
            epochs=self.epochs,
            optimizer=self._entry.mode.optimizer,
            progress=False,
            executor=self._entry.executor,
        )  # fmt: skip

    @property
    def _seconds(self) -> float:
        """Seconds that the last call trained for."""
        assert self._net.history is not None
        return self._net.history.seconds[-1]

    @property
    def threads(self) -> int:
        """Threads that the arithmetic may use."""
        assert self._net.history is not None
        return self._net.history.threads
