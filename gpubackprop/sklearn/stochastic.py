"""`fit` and `partial_fit` with the stochastic solvers: epochs, curves and stopping."""

import math
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gpubackprop.backprop import State
from gpubackprop.executors.base import Job, Progress, Tally, batches_per_block
from gpubackprop.pace import Pace
from gpubackprop.sklearn.batches import Epoch, Epochs
from gpubackprop.sklearn.callbacks import Tasks
from gpubackprop.sklearn.engine import Engine
from gpubackprop.sklearn.errors import DivergedError
from gpubackprop.sklearn.optimizer import OptimizerState
from gpubackprop.sklearn.validation import Training, Validation
from gpubackprop.types import Array


def batch_size(estimator: Any, n_samples: int, batch_only: bool) -> int:
    """Return the rows of an update."""
    if estimator.batch_size == "auto":
        return n_samples if batch_only else min(200, n_samples)
    if estimator.batch_size > n_samples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=2,
        )
    return int(np.clip(estimator.batch_size, 1, n_samples))


class StochasticFit:
    """One call of `fit` or `partial_fit`.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Its fitted attributes are overwritten.
    engine : Engine
        Holds the parameters.
    training : Training
    validation : Validation or None
    tasks : Tasks
        Told about each epoch.
    incremental : bool
        One epoch only.
    """

    def __init__(
        self,
        estimator: Any,
        engine: Engine,
        training: Training,
        validation: Validation | None,
        tasks: Tasks,
        *,
        incremental: bool,
    ) -> None:
        self.estimator, self.engine, self.validation = estimator, engine, validation
        self.tasks, self.incremental, self.backend = tasks, incremental, engine.backend
        self.optimizer: OptimizerState = estimator._optimizer
        description = self.optimizer.optimizer
        self.n_samples = training.X.shape[0]
        self.batch_size = batch_size(estimator, self.n_samples, description.batch_only)
        own = training.w if training.normalisation == "batch" else None
        shuffle = estimator._random_state if estimator.shuffle else None
        self.epochs = Epochs(self.n_samples, self.batch_size, shuffle, own)
        self.source = engine.source(training.X, training.Y, training.scaled_weights())
        self.job = Job(
            engine.model, self.backend, description, self.batch_size, self.source.weighted,
            estimator._dropout_seed, penalised=True, n_samples=self.n_samples,
            epochs=1 if incremental else estimator.max_iter,
        )  # fmt: skip
        self.executor = engine.executor(estimator.executor, self.job)
        self.state: State = self.optimizer.state(self.backend, engine.model)
        self.tally = Tally(self.backend)
        self.pace = Pace(self.backend, batches_per_block(engine.model, self.batch_size))
        self.before = self._copy()
        self.best: Array | None = None
        self.on_device: Array | None = None
        #: Early stopping watches the score, else the training loss.
        self.watches_score = estimator.early_stopping and not incremental

    def _copy(self) -> Array:
        flat = self.engine.parameters.flat
        return self.backend.copy(flat, self.backend.empty(flat.shape, flat.dtype))

    def run(self) -> None:
        """Train, and leave the result in the estimator, whatever happens."""
        estimator = self.estimator
        try:
            self._run()
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            if self.best is not None:
                self.backend.copy(self.best, self.engine.parameters.flat)
            self.engine.write(estimator.coefs_, estimator.intercepts_)

    def _run(self) -> None:
        estimator = self.estimator
        estimator.n_iter_ = 0
        for _ in range(estimator.max_iter):
            self.tasks.begin_epoch()
            self.optimizer.iteration_begins()
            self._train(self.epochs.draw())
            estimator.n_iter_ += 1
            estimator.t_ += self.n_samples
            if estimator.verbose:
                print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
            observed = self._validate()
            self.optimizer.iteration_ends(estimator.t_, observed)
            stopping = self._is_stopping()
            if self.tasks.active:
                self.engine.write(estimator.coefs_, estimator.intercepts_)
                stopping |= self.tasks.end_epoch()
            if stopping or self.incremental:
                break
            if estimator.n_iter_ == estimator.max_iter:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) "
                    "reached and the optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )

    # ---- one epoch ------------------------------------------------------------------------------

    def _train(self, epoch: Epoch) -> None:
        """Train on all batches; append the loss."""
        estimator, engine = self.estimator, self.engine
        self.backend.copy(engine.parameters.flat, self.before)
        self.tally.clear()
        if epoch.weights is not None:
            self.source.reweight(epoch.weights)
        n_batches = math.ceil(epoch.n_rows / self.batch_size)
        progress = Progress(
            lambda batch: self.optimizer.rate(batch, n_batches),
            steps=estimator._steps,
            weight_sums=epoch.weight_sums,
        )
        order = self._upload(epoch.order)
        try:
            for start, stop in self.pace.slices(epoch.n_rows, self.batch_size):
                self.executor.run(
                    self.source, order, start, stop, self.batch_size,
                    engine.parameters, self.state, progress, self.tally,
                )  # fmt: skip
        finally:
            estimator._steps = progress.steps
        self.backend.all_finite(engine.parameters.flat, self.tally.finite)
        total, first_bad, finite = self.tally.read()
        if first_bad is not None or not finite or not math.isfinite(total):
            self._diverged(first_bad, progress)
        estimator.loss_ = total / epoch.n_rows
        estimator.loss_curve_.append(estimator.loss_)

    def _upload(self, order: np.ndarray | None) -> Array | None:
        """Put the order where the source wants it."""
        if order is None or self.backend.host or not self.source.resident:
            return order
        if self.on_device is None or len(self.on_device) != len(order):
            self.on_device = self.backend.empty(order.shape, order.dtype)
        return self.backend.upload(order, self.on_device)

    def _diverged(self, first_bad: int | None, progress: Progress) -> None:
        self.backend.copy(self.before, self.engine.parameters.flat)
        self.best = None
        rate = progress.learning_rate(
            max(progress.batch - 1 if first_bad is None else first_bad, 0)
        )
        raise DivergedError(self.estimator.n_iter_, first_bad, rate)

    # ---- stopping -------------------------------------------------------------------------------

    def _validate(self) -> float:
        """Record how good the epoch was; returns the loss that a schedule looks at."""
        estimator = self.estimator
        loss: float = estimator.loss_
        if self.validation is not None:
            loss = self.validation.loss(self.engine)
            estimator.validation_loss_curve_.append(loss)
        if self.watches_score:
            self._watch_score()
            return loss
        worse = estimator.loss_ > estimator.best_loss_ - estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if worse else 0
        estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)
        return loss

    def _watch_score(self) -> None:
        """Score the validation data and keep the best parameters."""
        estimator = self.estimator
        assert self.validation is not None
        score = self.validation.score(self.engine)
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        worse = score < estimator.best_validation_score_ + estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if worse else 0
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            if self.best is None:
                self.best = self._copy()
            self.backend.copy(self.engine.parameters.flat, self.best)

    def _is_stopping(self) -> bool:
        """Tell whether there was no improvement for too long."""
        estimator = self.estimator
        if not estimator._no_improvement_count > estimator.n_iter_no_change:
            return False
        what = "Validation score" if self.watches_score else "Training loss"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        if self.optimizer.trigger_stopping(message, estimator.verbose):
            return True
        estimator._no_improvement_count = 0
        return False
