"""Batch against mini-batch against SGD, on every backend and executor that is usable here."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gpubackprop import backends
from gpubackprop.datasets import Dataset
from gpubackprop.errors import DivergenceError
from gpubackprop.executors import EXECUTORS, Job
from gpubackprop.history import History
from gpubackprop.machine import machine
from gpubackprop.measure import Timing, emulated, in_rounds
from gpubackprop.network import Network
from gpubackprop.optimizers import SGD
from gpubackprop.run import Run

#: Largest difference to the float64 reference after a few updates, as a share of the largest
#: change of a parameter. float32 rounds to 6e-8, of parameters that may be hundreds of times that.
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
_CHECKED_STEPS = 4


@dataclass(frozen=True)
class Mode:
    """A way to cut an epoch into updates.

    Attributes
    ----------
    name : str
    batch_size : int or "full"
        Rows of an update.
    learning_rate, momentum : float
        What this mode learns well with on columns of mean 0 and standard deviation 1.
    """

    name: str
    batch_size: int | str
    learning_rate: float
    momentum: float

    @property
    def optimizer(self) -> SGD:
        """Gradient descent at this mode's rate."""
        return SGD(learning_rate=self.learning_rate, momentum=self.momentum)

    def rows(self, n_samples: int) -> int:
        """Return the rows of an update, of so many in all."""
        return n_samples if isinstance(self.batch_size, str) else min(self.batch_size, n_samples)


#: The three modes. The more rows an update has, the less noise its gradient, the larger the rate.
MODES = {
    mode.name: mode
    for mode in (
        Mode("batch", "full", 1.0, 0.9),
        Mode("mini-batch", 32, 0.1, 0.9),
        Mode("sgd", 1, 0.05, 0.0),
    )
}


@dataclass(frozen=True)
class Settings:
    """What to compare.

    Attributes
    ----------
    epochs : int
        Passes over the data, the same for all; with `loss` the most that are made.
    loss : float or None
        Each training ends after the epoch at whose end the training loss is at most this.
    hidden : int
        Units of the hidden layer (sigmoid).
    modes : tuple of str
        Names in `MODES`.
    backends, executors : tuple of str or None
        Names; None means all that are usable here.
    rounds : int
        How often everything is trained, in interleaved rounds.
    seed : int
        Of the initial weights and the order of rows.
    """

    epochs: int = 100
    loss: float | None = None
    hidden: int = 64
    modes: tuple[str, ...] = tuple(MODES)
    backends: tuple[str, ...] | None = None
    executors: tuple[str, ...] | None = None
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("hidden", 1), ("rounds", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be an integer >= {low}, got {getattr(self, name)}")
        if self.loss is not None and not 0 < self.loss < math.inf:
            raise ValueError(f"loss must be a number > 0, got {self.loss}")
        for name, known in (("modes", list(MODES)), ("executors", list(EXECUTORS))):
            check_names(name, getattr(self, name), known)
        if self.backends is not None and not self.backends:
            raise ValueError(f"backend must be some of {', '.join(backends.NAMES)}, got none")


@dataclass(frozen=True)
class Entry:
    """One line of the comparison: a mode on a backend with an executor."""

    mode: Mode
    backend: str
    executor: str

    @property
    def label(self) -> str:
        """How plots and progress name it."""
        return f"{self.mode.name}, {self.backend} {self.executor}"


@dataclass(frozen=True)
class Result:
    """What came out for one entry.

    Attributes
    ----------
    mode, backend, executor, device : str
    batch_size : int
    learning_rate, momentum : float
    threads : int
    epochs, updates : int
        That were made.
    reached : bool or None
        Whether the loss that was asked for was reached; None if none was asked for.
    samples_per_second, seconds, epoch_seconds, spread : float or None
        Rows trained on in a second, from the median epoch; the whole training's time; the median
        epoch's; the distance between the quartiles of the epochs' times as a share of the median.
        Evaluations are not timed. None on an emulated device, where they would mean nothing.
    loss : float
        Mean loss over the training rows at the end.
    accuracy : float
        Share of the held-out rows whose class is right, 0..1.
    curve : dict of lists
        epoch (counted from 1), seconds (since training began) and loss (of the training rows), at
        the end of each epoch.
    """

    mode: str
    backend: str
    executor: str
    device: str
    batch_size: int
    learning_rate: float
    momentum: float
    threads: int
    epochs: int
    updates: int
    reached: bool | None
    samples_per_second: float | None
    seconds: float | None
    epoch_seconds: float | None
    spread: float | None
    loss: float
    accuracy: float
    curve: dict[str, list[float]]

    @property
    def label(self) -> str:
        """How plots name it."""
        return f"{self.mode}, {self.backend} {self.executor}"


@dataclass
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    data : dict
        From `Dataset.describe`.
    settings : Settings
    sizes : tuple of int
        Of the network's layers.
    machine : dict
        From `gpubackprop.machine.machine`.
    results : list of Result
    notes : list of str
        What was left out, and why.
    """

    data: dict[str, Any]
    settings: Settings
    sizes: tuple[int, ...]
    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows."""
        network = {
            "sizes": list(self.sizes),
            "hidden": "sigmoid",
            "output": "softmax",
            "loss": "cross_entropy",
            "dtype": "float32",
        }
        return {
            "data": self.data,
            "network": network,
            "settings": asdict(self.settings),
            "machine": self.machine,
            "notes": self.notes,
            "results": [asdict(result) for result in self.results],
        }


#: Called at the end of each epoch with the entry, the epochs done and the training loss.
Watch = Callable[[Entry, int, float], None]


def _unwatched(entry: Entry, epochs: int, loss: float) -> None:
    """Show nothing."""


def compare(data: Dataset, settings: Settings, watch: Watch = _unwatched) -> Comparison:
    """Train one network in each mode on each backend with each executor, from the same weights.

    Before anything is timed, a few updates of each are compared with the plain backend in float64.

    Parameters
    ----------
    data : Dataset
    settings : Settings
    watch : callable, optional
        See `Watch`.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, ImportError, RuntimeError
        If a backend that was asked for cannot be used, nothing could be compared, or an answer is
        wrong.
    """
    sizes = (data.X_train.shape[1], settings.hidden, data.n_classes)
    found = Comparison(data.describe(), settings, sizes, machine())
    # Weights are drawn on the host: they are the same on every backend.
    start = Network(sizes, backend="numpy", rng=settings.seed)
    names, found.notes = usable_backends(settings.backends)
    modes = [MODES[name] for name in dict.fromkeys(settings.modes)]
    n = len(data.X_train)
    entries = possible(start, n, modes, names, settings.executors, found.notes)
    histories: dict[Entry, list[History]] = {entry: [] for entry in entries}
    trained: dict[Entry, Network] = {}
    for entry in entries:
        check_training(start, data.X_train, data.Y_train, entry.mode, entry.backend, entry.executor)
    for round_, entry in in_rounds(entries, settings.rounds):
        try:
            if round_ == 0:
                _train(start, data, entry, 1, None)  # compiles what is compiled, fills the caches
            net = _train(start, data, entry, settings.epochs, _Watcher(entry, settings.loss, watch))
        except DivergenceError as error:
            found.notes.append(f"{entry.label}: {error}")
            continue
        trained[entry] = net
        histories[entry].append(_history(net))
    found.results = [
        _result(entry, trained[entry], histories[entry], data, settings)
        for entry in entries
        if entry in trained
    ]
    if not found.results:
        raise RuntimeError("; ".join(["nothing could be compared", *found.notes]))
    return found


# ---- what is compared ---------------------------------------------------------------------------


def usable_backends(wanted_names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the backends to time, and notes on those that are not.

    Parameters
    ----------
    wanted_names : sequence of str or None
        None means all that are usable here and no emulator.
    """
    if wanted_names is not None:
        names = [backends.get(name).name for name in wanted_names]
        notes = [
            f"{name} runs on an emulator, not on a GPU: its times mean nothing and are not shown"
            for name in names
            if emulated(backends.get(name))
        ]
        return list(dict.fromkeys(names)), notes
    wanted = os.environ.get("GPUBACKPROP_BACKEND", "auto")
    if wanted != "auto":
        name = backends.get("auto").name
        note = f"only {name}: the environment variable GPUBACKPROP_BACKEND is set to {wanted!r}"
        return [name], [note]
    names, notes = ["numpy"], []
    problem = backends.problem("cupy")
    if problem:
        notes.append(f"cupy was left out, as it cannot be used here: {problem}")
    elif emulated(backends.get("cupy")):
        notes.append("cupy was left out: it runs on an emulator here, not on a GPU")
    else:
        names.append("cupy")
    return names, notes


def possible(
    start: Network,
    n_samples: int,
    modes: Iterable[Mode],
    names: Iterable[str],
    executors: Sequence[str] | None,
    notes: list[str],
) -> list[Entry]:
    """Return what can be timed, mode by mode.

    Parameters
    ----------
    start : Network
    n_samples : int
        Rows of an epoch.
    modes : iterable of Mode
    names : iterable of str
        Of backends.
    executors : sequence of str or None
        None means all.
    notes : list of str
        What an executor refuses is added.
    """
    entries = []
    for mode in modes:
        for backend in names:
            size = mode.rows(n_samples)
            job = Job(start.model, backends.get(backend), mode.optimizer, size, False, 0)
            for executor in executors or EXECUTORS:
                entry = Entry(mode, backend, executor)
                kind = EXECUTORS[executor]
                reason = kind.refusal(job)
                # That what is for a GPU does not run on NumPy is no news unless it was asked for.
                expected = kind.on_host not in (None, job.backend.host) and not executors
                if reason and expected:
                    continue
                if reason:
                    notes.append(f"{entry.label} was left out: {reason}")
                else:
                    entries.append(entry)
    return entries


def check_training(
    start: Network,
    X: np.ndarray,
    Y: np.ndarray,
    mode: Mode,
    backend: str,
    executor: str = "auto",
    dtype: str = "float32",
) -> float:
    """Compare a few updates with the plain NumPy backend's in float64.

    Parameters
    ----------
    start : Network
        Not changed.
    X, Y : array
        Training rows; only as many as are needed are used.
    mode : Mode
    backend, executor, dtype : str
        What to check.

    Returns
    -------
    float
        The largest difference of a parameter, as a share of the largest change of one.

    Raises
    ------
    RuntimeError
        If that is more than the tolerance of the dtype.
    """
    size = mode.batch_size
    n = len(X) if isinstance(size, str) else min(len(X), _CHECKED_STEPS * size)
    options: dict[str, Any] = {
        "batch_size": size if isinstance(size, str) else min(size, n),
        "epochs": _CHECKED_STEPS if size == "full" else 1,
        "optimizer": mode.optimizer,
        "shuffle": False,
        "progress": False,
    }
    before = _vector(start.copy(backend="numpy-plain", dtype="float64"))
    reference = start.copy(backend="numpy-plain", dtype="float64")
    reference.fit(X[:n], Y[:n], executor="eager", **options)
    net = start.copy(backend=backend, dtype=dtype)
    net.fit(X[:n], Y[:n], executor=executor, **options)
    expected = _vector(reference)
    error = float(np.abs(_vector(net) - expected).max() / np.abs(expected - before).max())
    if not error <= TOLERANCE[dtype]:
        raise RuntimeError(
            f"{mode.name} on {backend} {executor} is wrong: after {_CHECKED_STEPS} updates it "
            f"differs from the reference by {error:.2g} of the largest change; nothing was timed"
        )
    return error


def _vector(net: Network) -> np.ndarray:
    """Return all parameters as one float64 array on the host."""
    arrays = [*net.weights, *(b for b in net.biases if b is not None)]
    return np.concatenate([net.backend.to_numpy(a).ravel().astype(np.float64) for a in arrays])


# ---- training -----------------------------------------------------------------------------------


class _Watcher:
    """A callback that tells how far training is, and ends it at the loss that was asked for."""

    def __init__(self, entry: Entry, target: float | None, watch: Watch) -> None:
        self.entry, self.target, self.watch = entry, target, watch

    def on_epoch_end(self, run: Run) -> None:
        """Tell, and stop if the loss is low enough."""
        loss = run.history.validation_loss[-1]
        self.watch(self.entry, len(run.history.epoch), loss)
        if self.target is not None and loss <= self.target:
            run.stop("loss reached")


def _train(
    start: Network, data: Dataset, entry: Entry, epochs: int, watcher: _Watcher | None
) -> Network:
    """Return a copy of a network, trained. The loss of all training rows is computed after each
    epoch: an epoch's own mean is from before its updates, and so not the same in each mode.
    """
    net = start.copy(backend=entry.backend)
    X, Y = data.X_train, data.Y_train
    net.fit(
        X,
        Y,
        batch_size=entry.mode.rows(len(data.X_train)),
        epochs=epochs,
        optimizer=entry.mode.optimizer,
        validation=(X, Y) if watcher else None,
        callbacks=[watcher] if watcher else [],
        progress=False,
        executor=entry.executor,
    )
    return net


def _history(net: Network) -> History:
    assert net.history is not None  # it has just been trained
    return net.history


def _result(
    entry: Entry, net: Network, histories: list[History], data: Dataset, settings: Settings
) -> Result:
    """Sum up the rounds: epochs of all of them, and the whole training with the median time."""
    epochs = Timing(
        tuple(t for h in histories for t in np.diff([0.0, *h.seconds]).tolist()),
    )
    middle = sorted(histories, key=lambda h: h.seconds[-1])[(len(histories) - 1) // 2]
    backend, n = net.backend, len(data.X_train)
    loss = middle.validation_loss[-1]
    curve: dict[str, list[float]] = {
        "epoch": [k + 1 for k in middle.epoch],
        "loss": middle.validation_loss,
    }
    timed = not emulated(backend)
    right = backend.to_numpy(net.predict_classes(data.X_test)) == data.Y_test
    return Result(
        mode=entry.mode.name,
        backend=entry.backend,
        executor=entry.executor,
        device=backend.describe(),
        batch_size=entry.mode.rows(len(data.X_train)),
        learning_rate=entry.mode.learning_rate,
        momentum=entry.mode.momentum,
        threads=middle.threads,
        epochs=len(middle.epoch),
        updates=len(middle.epoch) * math.ceil(n / entry.mode.rows(len(data.X_train))),
        reached=None if settings.loss is None else loss <= settings.loss,
        samples_per_second=epochs.rate(n) if timed else None,
        seconds=middle.seconds[-1] if timed else None,
        epoch_seconds=epochs.median if timed else None,
        spread=epochs.spread if timed else None,
        loss=loss,
        accuracy=float(right.mean()),
        curve=curve | ({"seconds": middle.seconds} if timed else {}),
    )


def check_names(argument: str, chosen: Sequence[str] | None, known: Sequence[str]) -> None:
    """Refuse names that are not known, and none at all; None is all.

    Raises
    ------
    ValueError
        That names the argument, the names and what they may be.
    """
    if chosen is not None and (not chosen or set(chosen) - set(known)):
        given = ", ".join(map(repr, chosen)) or "none"
        raise ValueError(f"{argument} must be some of {', '.join(known)}, got {given}")


__all__ = [
    "MODES",
    "Comparison",
    "Entry",
    "Mode",
    "Result",
    "Settings",
    "check_names",
    "check_training",
    "compare",
    "possible",
    "usable_backends",
]
