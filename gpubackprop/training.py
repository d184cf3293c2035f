"""`fit`: epochs, slices, history, callbacks, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpubackprop import backprop, executors, strides
from gpubackprop.buffers import Parameters
from gpubackprop.data import Batches, Source, row_order, shuffled
from gpubackprop.errors import DivergenceError
from gpubackprop.evaluation import Evaluator
from gpubackprop.executors.base import Job, Progress, Tally, batches_per_block
from gpubackprop.history import EarlyStopping, History
from gpubackprop.pace import Pace, Stride
from gpubackprop.run import Rates, Run
from gpubackprop.threads import limited
from gpubackprop.types import Array


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
        for rows in (source, validation):
            if epochs > 1 and isinstance(rows, Source):
                rows.settle()
        self.executor = executors.get(executor, job)
        # An executor that shares its work among threads of ours wants one for each of them.
        self._blas_threads: int | None = getattr(self.executor, "blas_threads", None)
        # One that compiles may have its own way of shuffling, to the same bits.
        self._shuffling = getattr(self.executor, "shuffling", None) or shuffled
        self.run = Run(job, parameters, source, epochs)
        self.run.history.executor = self.executor.name
        self.shuffle, self.rng = shuffle, rng
        self.validation, self.early_stopping = validation, early_stopping
        self.callbacks = tuple(callbacks)
        # Before the gradient, which may never be written: memory of the last fit is for this.
        self.before = job.backend.empty(parameters.flat.shape, job.model.dtype)
        self.state = backprop.new_state(job.backend, job.model, job.optimizer, trainable)
        self.rates = Rates(job, self.run)
        self.progress = Progress(self.rates, steps=steps)
        self.tally = Tally(job.backend)
        self.best: Array | None = None
        self.best_loss, self.bad_epochs = math.inf, 0
        self.evaluator = Evaluator(job.backend, job.model)
        self.seconds, self.samples = 0.0, 0
        self._pace = Pace(job.backend, batches_per_block(job.model, job.batch_size or 1))
        self.started = 0.0
        #: The order of rows of the epoch under way; which epoch that is and the generator's state
        #: before it was drawn.
        self.order: Array | None = None
        self.drawn: tuple[int, Any] | None = None
        self._first_epoch, self._going_on = 0, False
        self._host_order: np.ndarray | None = None
        self._device_order: Array | None = None

    def fit(self) -> History:
        """Train; returns the history, which `run.history` holds also if this raises."""
        run = self.run
        self._tell("on_fit_begin")
        if self.drawn is None and self._first_epoch < run.epochs and not run.stopping:
            self.order = self._draw_order(self._first_epoch)
        try:
            with limited(self._blas_threads):
                self._epochs()
        except KeyboardInterrupt:
            run.stopping = "interrupted"
            raise
        finally:
            run.history.stopped = run.stopping
            self._restore_best()
            self._tell("on_fit_end")
        return run.history

    def go_on(
        self,
        epoch: int,
        rows_done: int,
        drawn: tuple[int, Any] | None,
        generator: dict[str, Any],
    ) -> None:
        """Begin in the middle: what a run holds besides has been restored.

        Parameters
        ----------
        epoch, rows_done : int
            The epoch under way, and its rows that are done.
        drawn : (int, state) or None
            The epoch whose order was drawn last, and the generator's state before that.
        generator : dict
            The generator's state at this moment.
        """
        run, bits = self.run, self.rng.bit_generator
        run.epoch, run.rows_done = epoch, rows_done
        self._first_epoch, self._going_on = epoch, rows_done > 0
        if drawn is not None and drawn[0] == epoch:
            bits.state = drawn[1]
            self.order = self._draw_order(epoch)
        bits.state = generator

    def _epochs(self) -> None:
        """Train for all epochs, several short ones at once where that makes no difference."""
        run, epoch, stride = self.run, self._first_epoch, Stride(several=strides.possible(self))
        while epoch < run.epochs and not run.stopping:
            run.epoch, began = epoch, time.perf_counter()
            if stride.epochs == 1:
                self._epoch()
            elif strides.take(self, stride.epochs):
                self._tell("on_slice")
            else:
                stride = Stride(several=False)
                continue
            stride.took(time.perf_counter() - began)
            epoch = run.epoch + 1

    # ---- one epoch ------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Train for one epoch, and draw the order of the next."""
        run, backend = self.run, self.job.backend
        if not self._going_on:
            backend.copy(self.parameters.flat, self.before)
            self.tally.clear()
            self.progress.batch, run.rows_done = 0, 0
        self._going_on = False
        self.rates.begin_epoch()
        self.started = time.perf_counter()
        for source, start, stop, batch_size in self._slices():
            self.executor.run(
                source, self.order, start, stop, batch_size,
                self.parameters, self.state, self.progress, self.tally,
            )  # fmt: skip
            run.rows_done += stop - start
            self._tell("on_slice")
            if run.stopping:
                break
        backend.all_finite(self.parameters.flat, self.tally.finite)
        # Drawn while the device still works on this epoch.
        if run.epoch + 1 < run.epochs and not run.stopping:
            self.order = self._draw_order(run.epoch + 1)
        total, first_bad, finite = self.tally.read()
        self.seconds += time.perf_counter() - self.started
        if first_bad is not None or not finite:
            self.diverged(first_bad)
        if run.rows_done:
            self._end_epoch(total)

    def _slices(self) -> Iterator[tuple[Source, int, int, int]]:
        """Yield (source, start, stop, batch_size) of about 0.1 s of work each."""
        source, batch_size = self.source, self.job.batch_size
        if isinstance(source, Batches):
            for batch in source.read(self.job.model, self.job.backend, self.progress.batch):
                yield batch, 0, batch.n_samples, batch.n_samples
            return
        assert batch_size is not None  # only Batches choose it themselves
        for start, stop in self._pace.slices(source.n_samples, batch_size, self.run.rows_done):
            yield source, start, stop, batch_size

    def _draw_order(self, epoch: int) -> Array | None:
        """Return the rows of an epoch in order; None where it is 0, 1, 2, ..."""
        self.drawn = epoch, self.rng.bit_generator.state
        source, batch_size = self.source, self.job.batch_size
        if isinstance(source, Batches) or batch_size is None or self.shuffle is False:
            return None
        n = source.n_samples
        if batch_size >= n:  # a batch of all rows is the same in any order
            return None
        # One buffer: the rows of the epoch before have been gathered, or will be before the device
        # takes up the new order.
        self._host_order = row_order(n, self.shuffle, self.rng, self._host_order, self._shuffling)
        backend = self.job.backend
        if backend.host or not source.resident:
            return self._host_order
        if self._device_order is None:
            self._device_order = backend.empty(self._host_order.shape, self._host_order.dtype)
        return backend.upload(self._host_order, self._device_order)

    def diverged(self, first_bad: int | None) -> None:
        """Give back the parameters from before the epoch, and raise `DivergenceError`."""
        run = self.run
        self.job.backend.copy(self.before, self.parameters.flat)
        self.best = None
        batch = self.progress.batch - 1 if first_bad is None else first_bad
        raise DivergenceError(run.epoch, first_bad, self.rates(max(batch, 0)))

    def _end_epoch(self, total: float) -> None:
        run, history = self.run, self.run.history
        loss = total / run.rows_done
        self.samples += run.rows_done
        history.epoch.append(run.epoch)
        history.loss.append(loss)
        history.learning_rate.append(self.rates(max(self.progress.batch - 1, 0)))
        history.seconds.append(self.seconds)
        history.samples.append(self.samples)
        if self.validation is not None:
            loss = self.evaluator.loss(self.parameters, self.validation)
            history.validation_loss.append(loss)
        self.rates.observe(loss)
        if self.early_stopping is not None:
            self._watch(loss, self.early_stopping)
        self._tell("on_epoch_end")

    # ---- early stopping and callbacks -----------------------------------------------------------

    def _watch(self, loss: float, rule: EarlyStopping) -> None:
        if loss < self.best_loss - rule.min_delta or self.run.history.best_epoch is None:
            # A NaN, which only the first epoch can get here with, is worse than any loss.
            self.best_loss, self.bad_epochs = math.inf if math.isnan(loss) else loss, 0
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
