"""`fit` with SciPy's L-BFGS on scikit-learn's packing: coefs raveled, then intercepts."""

from typing import Any

import numpy as np
import scipy.optimize
from sklearn.utils.fixes import _get_additional_lbfgs_options_dict
from sklearn.utils.optimize import _check_optimize_result

from gpubackprop import backprop, memory
from gpubackprop.executors.base import Job, Tally
from gpubackprop.executors.eager import Eager
from gpubackprop.optimizers import SGD
from gpubackprop.sklearn.callbacks import Tasks
from gpubackprop.sklearn.engine import Engine
from gpubackprop.sklearn.errors import DivergedError
from gpubackprop.sklearn.validation import Training


class Objective:
    """The cost and its gradient as functions of the packed parameters.

    Parameters
    ----------
    engine : Engine
        Its parameters are overwritten at each call.
    training : Training
    alpha : float
        Factor of the L2 penalty.
    """

    def __init__(self, engine: Engine, training: Training, alpha: float) -> None:
        self.engine, self.alpha = engine, alpha
        backend, model = engine.backend, engine.model
        self.source = engine.source(training.X, training.Y, training.w)
        self.n_samples = self.source.n_samples
        w = training.w
        self.weight = self.n_samples if w is None else float(w.sum(dtype=np.float64))
        # The optimiser of the job is not used: SciPy moves the parameters.
        self.job = Job(model, backend, SGD(), None, self.source.weighted, 0)
        self._executor, self._tally = Eager(self.job), Tally(backend)
        self._state = backprop.new_state(backend, model, self.job.optimizer)
        shapes = [(n_in, n_out) for n_out, n_in in model.layout.shapes]
        self._coefs = [np.empty(shape) for shape in shapes]
        self._intercepts = [np.empty(n_out) for _, n_out in shapes]
        self.n_coefs = sum(coef.size for coef in self._coefs)

    def pack(self, coefs: list[Any], intercepts: list[Any]) -> np.ndarray:
        """Return all arrays in one vector."""
        return np.hstack([np.ravel(array) for array in [*coefs, *intercepts]])

    def unpack(self, packed: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the vector's parts, as views."""
        views, start = [], 0
        for array in [*self._coefs, *self._intercepts]:
            views.append(packed[start : start + array.size].reshape(array.shape))
            start += array.size
        return views[: len(self._coefs)], views[len(self._coefs) :]

    def __call__(self, packed: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the cost and its gradient, a vector like `packed`."""
        engine, tally, state = self.engine, self._tally, self._state
        if not np.isfinite(packed).all():
            raise DivergedError(0, None, np.nan)
        engine.load(*self.unpack(packed))
        n = self.n_samples
        with engine.backend.active():
            self._executor.batch_gradient(
                self.source, None, 0, n, engine.parameters, state, None, tally, scale=1.0
            )
            loss = float(engine.backend.to_numpy(tally.value)[0])
            gradient = self._gradient()
        # In this order, so that the roundings are scikit-learn's.
        W = packed[: self.n_coefs]
        gradient[: self.n_coefs] += self.alpha * W
        gradient /= self.weight
        penalty = 0.5 * self.alpha * float(np.dot(W, W))
        return loss / self.weight + penalty / self.weight, gradient

    def _gradient(self) -> np.ndarray:
        backend, layout = self.engine.backend, self.engine.model.layout
        flat = backend.to_numpy(self._state.gradient.flat)
        starts, shapes = layout.W, layout.shapes
        dW = [
            flat[start : start + n_out * n_in].reshape(n_out, n_in).T
            for start, (n_out, n_in) in zip(starts, shapes, strict=True)
        ]
        db = [
            flat[start : start + n_out]
            for start, (n_out, _) in zip(layout.b, shapes, strict=True)
            if start is not None
        ]
        return self.pack(dW, db).astype(np.float64)


def fit_lbfgs(estimator: Any, engine: Engine, training: Training, tasks: Tasks) -> None:
    """Minimise the cost of all rows; leave the result in the estimator and tell `tasks` of each
    iteration.

    Raises
    ------
    DivergedError
        If the result holds NaN or infinity; `coefs_` and `intercepts_` stay as they were.
    """
    if any(engine.model.dropout):
        raise ValueError("dropout needs a stochastic solver such as 'adam', got solver='lbfgs'")
    objective = Objective(engine, training, estimator.alpha)

    def after_iteration(packed: np.ndarray) -> None:
        coefs, intercepts = objective.unpack(packed.copy())
        estimator.coefs_[:], estimator.intercepts_[:] = coefs, intercepts
        if tasks.end_epoch():
            raise StopIteration
        tasks.begin_epoch()

    tasks.begin_epoch()
    with memory.explained(
        engine.backend, lambda: memory.training_problem(objective.job, objective.source)
    ):
        result = _minimize(estimator, objective, after_iteration if tasks.active else None)
    tasks.end_epoch()
    estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
    if not np.isfinite(result.x).all() or not np.isfinite(result.fun):
        raise DivergedError(estimator.n_iter_, None, np.nan)
    estimator.loss_ = result.fun
    engine.load(*objective.unpack(result.x))
    engine.write(estimator.coefs_, estimator.intercepts_)


def _minimize(estimator: Any, objective: Objective, callback: Any) -> scipy.optimize.OptimizeResult:
    """Run SciPy's L-BFGS as an estimator's parameters say."""
    verbose = estimator.verbose is True or estimator.verbose >= 1
    return scipy.optimize.minimize(
        objective,
        objective.pack(estimator.coefs_, estimator.intercepts_),
        method="L-BFGS-B",
        jac=True,
        callback=callback,
        options={
            "maxfun": estimator.max_fun,
            "maxiter": estimator.max_iter,
            "gtol": estimator.tol,
            **_get_additional_lbfgs_options_dict("iprint", 1 if verbose else -1),
        },
    )
