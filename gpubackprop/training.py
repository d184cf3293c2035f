"""`fit`: epochs, slices, history, callbacks, early stopping."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from gpubackprop import backprop, executors
from gpubackprop.backends.base import Backend
from gpubackprop.backprop import SLICE, State
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.data import Batches, Source, row_order
from gpubackprop.errors import DivergenceError
from gpubackprop.executors.base import Job, Progress, Tally
from gpubackprop.executors.eager import Eager
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

AnyParameters = TypeVar("AnyParameters", bound=Parameters)

#: What a slice of an epoch aims at: between slices come Ctrl-C, progress and callbacks.
_SLICE_SECONDS = 0.1
#: Slices that may be under way on a device at once.
_IN_FLIGHT = 2


@dataclass
class History:
    """What happened in a call of `fit`: lists with one entry per epoch.

    Attributes
    ----------
    epoch : list of int
        Counted from 0.
    loss : list of float
        Mean loss over the epoch's rows, each batch's from before its update, without penalties.
    validation_loss : list of float
        After the epoch; empty without validation data.
    learning_rate : list of float
        At the epoch's last update.
    seconds : list of float
        Seconds spent training since `fit` began (validation and callbacks not counted).
    samples : list of int
        Rows trained on since `fit` began.
    backend, executor : str
        What did the work.
    threads : int
        Threads that the arithmetic may use.
    best_epoch : int or None
        Epoch whose parameters early stopping kept.
    stopped : str or None
        Why training ended before its last epoch: "early_stopping", "callback", "interrupted"; else
        None.
    """

    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    backend: str = ""
    executor: str = ""
    threads: int = 1
    best_epoch: int | None = None
    stopped: str | None = None

    def __repr__(self) -> str:
        if not self.epoch:
            return f"<History of 0 epochs on {self.backend}/{self.executor}>"
        validation = (
            f", validation_loss {self.validation_loss[-1]:.6g}" if self.validation_loss else ""
        )
        return (
            f"<History of {len(self.epoch)} epochs on {self.backend}/{self.executor}: "
            f"loss {self.loss[0]:.6g} -> {self.loss[-1]:.6g}{validation}, "
            f"{self.samples[-1] / max(self.seconds[-1], 1e-9):,.0f} samples/s>"
        )


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop early, and whether to keep the best parameters.

    Watches the validation loss if there is validation data, else the training loss.

    Parameters
    ----------
    patience : int, optional
        Epochs without improvement after which training stops, >= 1.
    min_delta : float, optional
        How much the loss must fall below the best one to count as an improvement, >= 0.
    restore_best : bool, optional
        Whether the network ends with the parameters of its best epoch.
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if (
            isinstance(self.patience, bool)
            or not isinstance(self.patience, int)
            or self.patience < 1
        ):
            raise ValueError(f"patience must be an integer >= 1, got {self.patience!r}")
        if not (isinstance(self.min_delta, int | float) and 0 <= self.min_delta < math.inf):
            raise ValueError(f"min_delta must be a number >= 0, got {self.min_delta!r}")


class Run:
    """A call of `fit` under way: what callbacks are given.

    Attributes
    ----------
    model : Model
    backend : Backend
    optimizer : Optimizer
    parameters : Parameters
        Live: reading them on a device waits for it.
    history : History
    epoch, epochs : int
        The epoch under way, counted from 0, and how many there are to be.
    batch_size : int or None
        None where the source decides.
    rows_done, n_samples : int, int or None
        Rows of this epoch that are done or under way, and how many it has (None if that is not
        known).
    """

    def __init__(
        self, job: Job, parameters: Parameters, source: Source | Batches, epochs: int
    ) -> None:
        self.model, self.backend, self.optimizer = job.model, job.backend, job.optimizer
        self.parameters, self.batch_size = parameters, job.batch_size
        self.history = History(backend=job.backend.name)
        self.epoch, self.epochs = 0, epochs
        self.rows_done, self.n_samples = 0, source.n_samples
        self.stopping: str | None = None

    @property
    def weights(self) -> list[Array]:
        """W of each layer, of shape (n_out, n_in)."""
        return self.parameters.weights

    @property
    def biases(self) -> list[Array | None]:
        """b of each layer, of shape (n_out,)."""
        return self.parameters.biases

    def stop(self, why: str = "callback") -> None:
        """End training after the slice under way; what was done of its epoch counts."""
        self.stopping = why


class Pace:
    """Cuts epochs into slices of about 0.1 s of work.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, self._batches = backend, 1

    def slices(self, n: int, batch_size: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) for n rows; what is done between two of them is timed."""
        marks: deque[Any] = deque()
        start = 0
        while start < n:
            began = time.perf_counter()
            stop = min(n, start + batch_size * self._batches)
            yield start, stop
            start = stop
            marks.append(self._backend.mark())
            if len(marks) > _IN_FLIGHT:
                self._backend.wait(marks.popleft())
            # Powers of two: where a slice ends must not depend on the clock in more than its
            # length.
            if time.perf_counter() - began < _SLICE_SECONDS / 2:
                self._batches *= 2


class Trainer:
    """One call of `fit`: holds what its epochs share.

    Parameters
    ----------
    job : Job
    parameters : Parameters
        Overwritten by training.
    source : Source or Batches
    epochs : int
    executor : str
    shuffle : bool or str
        As `data.row_order` takes it.
    trainable : array or None
        Flat, 1 where an entry may change, else 0.
    validation : Source or None
    early_stopping : EarlyStopping or None
    callbacks : iterable
    rng : numpy.random.Generator
        Draws the orders of rows.
    steps : int
        Updates that the network has had.
    """

    def __init__(
        self,
        job: Job,
        parameters: Parameters,
        source: Source | Batches,
        *,
        epochs: int,
        executor: str,
        shuffle: bool | str,
        trainable: Array | None,
        validation: Source | None,
        early_stopping: EarlyStopping | None,
        callbacks: Iterable[Any],
        rng: np.random.Generator,
        steps: int,
    ) -> None:
        self.job, self.parameters, self.source = job, parameters, source
        self.executor = executors.get(executor, job)
        self.run = Run(job, parameters, source, epochs)
        self.run.history.executor = self.executor.name
        self.shuffle, self.rng = shuffle, rng
        self.validation, self.early_stopping = validation, early_stopping
        self.callbacks = tuple(callbacks)
        self.state = backprop.new_state(job.backend, job.model, job.optimizer, trainable)
        self.schedule = job.optimizer.schedule
        self.schedule_state = self.schedule.begin()
        self.progress = Progress(self._learning_rate, steps=steps)
        self.tally = Tally(job.backend)
        self.before = job.backend.empty(parameters.flat.shape, job.model.dtype)
        self.best: Array | None = None
        self.best_loss, self.bad_epochs = math.inf, 0
        self.evaluator = Evaluator(job.backend, job.model)
        self.seconds, self.samples, self._pace = 0.0, 0, Pace(job.backend)
        self._epoch_rate = 0.0

    def fit(self) -> History:
        """Train; returns the history, which `run.history` holds also if this raises."""
        run = self.run
        self._tell("on_fit_begin")
        order = self._draw_order()
        try:
            for epoch in range(run.epochs):
                run.epoch = epoch
                order = self._epoch(order)
                if run.stopping:
                    break
        except KeyboardInterrupt:
            run.stopping = "interrupted"
            raise
        finally:
            run.history.stopped = run.stopping
            self._restore_best()
            self._tell("on_fit_end")
        return run.history

    # ---- one epoch ------------------------------------------------------------------------------

    def _epoch(self, order: Array | None) -> Array | None:
        """Train for one epoch; returns the order of the next."""
        run, backend = self.run, self.job.backend
        backend.copy(self.parameters.flat, self.before)
        self.tally.clear()
        self.progress.batch, run.rows_done = 0, 0
        self._epoch_rate = self.schedule.rate(float(run.epoch), self.schedule_state)
        started = time.perf_counter()
        for source, start, stop, batch_size in self._slices():
            self.executor.run(
                source, order, start, stop, batch_size,
                self.parameters, self.state, self.progress, self.tally,
            )  # fmt: skip
            run.rows_done += stop - start
            self._tell("on_slice")
            if run.stopping:
                break
        backend.all_finite(self.parameters.flat, self.tally.finite)
        # Drawn while the device still works on this epoch.
        following = self._draw_order() if run.epoch + 1 < run.epochs and not run.stopping else None
        total, first_bad, finite = self.tally.read()
        self.seconds += time.perf_counter() - started
        if first_bad is not None or not finite:
            self._diverged(first_bad)
        if run.rows_done:
            self._end_epoch(total)
        return following

    def _slices(self) -> Iterator[tuple[Source, int, int, int]]:
        """Yield (source, start, stop, batch_size) of about 0.1 s of work each."""
        source, batch_size = self.source, self.job.batch_size
        if isinstance(source, Batches):
            for batch in source.read(self.job.model, self.job.backend):
                yield batch, 0, batch.n_samples, batch.n_samples
            return
        assert batch_size is not None  # only Batches choose it themselves
        for start, stop in self._pace.slices(source.n_samples, batch_size):
            yield source, start, stop, batch_size

    def _learning_rate(self, batch: int) -> float:
        if not self.schedule.per_update:
            return self._epoch_rate
        n, batch_size = self.source.n_samples, self.job.batch_size
        if n is None or batch_size is None:
            return self._epoch_rate
        done = batch / math.ceil(n / batch_size)
        return self.schedule.rate(self.run.epoch + done, self.schedule_state)

    def _draw_order(self) -> Array | None:
        """Return the rows of an epoch in order; None where it is 0, 1, 2, ..."""
        source, batch_size = self.source, self.job.batch_size
        if isinstance(source, Batches) or batch_size is None or self.shuffle is False:
            return None
        n = source.n_samples
        if batch_size >= n:  # a batch of all rows is the same in any order
            return None
        order = row_order(n, self.shuffle, self.rng)
        if not source.resident:
            return order
        backend = self.job.backend
        return backend.upload(order, backend.empty(order.shape, order.dtype))

    def _diverged(self, first_bad: int | None) -> None:
        run = self.run
        self.job.backend.copy(self.before, self.parameters.flat)
        self.best = None
        batch = self.progress.batch - 1 if first_bad is None else first_bad
        raise DivergenceError(run.epoch, first_bad, self._learning_rate(max(batch, 0)))

    def _end_epoch(self, total: float) -> None:
        run, history = self.run, self.run.history
        loss = total / run.rows_done
        self.samples += run.rows_done
        history.epoch.append(run.epoch)
        history.loss.append(loss)
        history.learning_rate.append(self._learning_rate(max(self.progress.batch - 1, 0)))
        history.seconds.append(self.seconds)
        history.samples.append(self.samples)
        if self.validation is not None:
            loss = self.evaluator.loss(self.parameters, self.validation)
            history.validation_loss.append(loss)
        self.schedule.observe(self.schedule_state, loss)
        if self.early_stopping is not None:
            self._watch(loss, self.early_stopping)
        self._tell("on_epoch_end")

    # ---- early stopping and callbacks -----------------------------------------------------------

    def _watch(self, loss: float, rule: EarlyStopping) -> None:
        if loss < self.best_loss - rule.min_delta or self.run.history.best_epoch is None:
            self.best_loss, self.bad_epochs = loss, 0
            self.run.history.best_epoch = self.run.epoch
            if rule.restore_best:
                if self.best is None:
                    self.best = self.job.backend.empty(
                        self.parameters.flat.shape, self.job.model.dtype
                    )
                self.job.backend.copy(self.parameters.flat, self.best)
            return
        self.bad_epochs += 1
        if self.bad_epochs >= rule.patience:
            self.run.stop("early_stopping")

    def _restore_best(self) -> None:
        if self.best is not None:
            self.job.backend.copy(self.best, self.parameters.flat)

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            method: Callable[[Run], None] | None = getattr(callback, event, None)
            if method is not None:
                method(self.run)


class Stepper:
    """Single updates, and gradients, with all rows as one batch. Keeps the optimiser's slots
    between updates.

    Parameters
    ----------
    job : Job
    trainable : NumPy array or None
        Flat, 1 where an entry may change, else 0.
    """

    def __init__(self, job: Job, trainable: np.ndarray | None) -> None:
        self.job, self.trainable = job, trainable
        mask = None if trainable is None else job.backend.asarray(trainable)
        self.state = backprop.new_state(job.backend, job.model, job.optimizer, mask)
        self._executor, self._tally = Eager(job), Tally(job.backend)

    def goes_on(self, optimizer: Optimizer, trainable: np.ndarray | None) -> bool:
        """Tell whether an update with these belongs to the same run."""
        if trainable is None or self.trainable is None:
            same = trainable is self.trainable
        else:
            same = np.array_equal(trainable, self.trainable)
        return same and optimizer == self.job.optimizer

    def step(self, source: Source, parameters: Parameters, steps: int) -> float:
        """Do one update; returns the mean loss from before it. `steps` counts the network's updates
        so far.
        """
        schedule, n = self.job.optimizer.schedule, source.n_samples
        rate = schedule.rate(0.0, schedule.begin())
        progress = Progress(lambda batch: rate, steps=steps)
        self._tally.clear()
        self._executor.run(source, None, 0, n, n, parameters, self.state, progress, self._tally)
        return self._tally.read()[0] / n

    def gradient(self, source: Source, parameters: Parameters, out: AnyParameters) -> AnyParameters:
        """Write the gradient of the mean loss, without dropout, into `out`."""
        n = source.n_samples
        self.state.gradient = out
        self._executor.batch_gradient(source, None, 0, n, parameters, self.state, None, self._tally)
        return out

    def copy_state(self) -> State:
        """Return a state that can be used up."""
        state, flat = self.state, self.state.gradient.flat.copy()
        slots = [slot.copy() for slot in state.slots]
        return State(
            Parameters(self.job.model, flat), slots, state.trainable, state.cell, state.updates
        )

    def to_numpy(self) -> dict[str, Any]:
        """Return what `from_numpy` needs."""
        slots = [np.array(self.job.backend.to_numpy(slot)) for slot in self.state.slots]
        return {
            "optimizer": self.job.optimizer, "trainable": self.trainable,
            "slots": slots, "updates": self.state.updates,
        }  # fmt: skip

    @classmethod
    def from_numpy(
        cls, model: Model, backend: Backend, dropout_seed: int, saved: dict[str, Any]
    ) -> "Stepper":
        """Return what was saved, on any backend."""
        job = Job(model, backend, saved["optimizer"], None, True, dropout_seed)
        stepper = cls(job, saved["trainable"])
        for slot, values in zip(stepper.state.slots, saved["slots"], strict=True):
            backend.upload(values, slot)
        stepper.state.updates = saved["updates"]
        return stepper


class Evaluator:
    """Computes outputs and losses of any number of rows, a slice at a time, with one workspace.

    Parameters
    ----------
    backend : Backend
    model : Model
    """

    def __init__(self, backend: Backend, model: Model) -> None:
        self.backend, self.model = backend, model
        self._workspace: Workspace | None = None
        self._gather = Gather(model, backend)
        self._gather_X = Gather(model, backend, targets=False)

    def loss(self, parameters: Parameters, source: Source) -> float:
        """Return the mean (weighted) loss over a source. Waits for the device."""
        backend, n = self.backend, source.n_samples
        value, total = backend.zeros((1,), "float64"), backend.zeros((1,), "float64")
        for start in range(0, n, SLICE):
            stop = min(start + SLICE, n)
            X, Y, w = self._gather.rows(source, None, start, stop)
            ws = self.workspace(stop - start)
            backprop.forward(backend, self.model, parameters, X, ws)
            backend.loss(self.model, ws, Y, w, value)
            backend.add(value, total)
        return float(backend.to_numpy(total)[0]) / n

    def outputs(self, parameters: Parameters, source: Source, out: Array) -> Array:
        """Write the network's outputs for every row of a source into `out`, of shape (n, n_out)."""
        n = source.n_samples
        for start in range(0, n, SLICE):
            stop = min(start + SLICE, n)
            X, _, _ = self._gather_X.rows(source, None, start, stop)
            o = backprop.forward(
                self.backend, self.model, parameters, X, self.workspace(stop - start)
            )
            self.backend.copy(o, out[start:stop])
        return out

    def workspace(self, n: int) -> Workspace:
        """Return a workspace of n rows for going forward."""
        if self._workspace is None or self._workspace.n_rows < n:
            self._workspace = Workspace(self.model, n, self.backend, training=False)
        return self._workspace.rows(n)


__all__ = ["EarlyStopping", "Evaluator", "History", "Pace", "Run", "Stepper", "Trainer"]
