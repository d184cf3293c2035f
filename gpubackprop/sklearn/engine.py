"""The network behind an estimator, kept equal to what `coefs_` and `intercepts_` hold."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from operator import is_
from typing import Any

import numpy as np

from gpubackprop import backprop, executors
from gpubackprop.activations import IDENTITY
from gpubackprop.backends.base import Backend
from gpubackprop.buffers import Parameters
from gpubackprop.data import Source, checked_source
from gpubackprop.evaluation import Evaluator
from gpubackprop.executors.base import Executor, Job
from gpubackprop.losses import SQUARED
from gpubackprop.model import Model


class _Given:
    """The arrays of `coefs_` and `intercepts_` themselves, which compiled code can read.

    Attributes
    ----------
    weights : list of array of shape (n_out, n_in)
        Views.
    biases : list of array of shape (n_out,)
    """

    def __init__(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        self._arrays = [*coefs, *intercepts]
        self.weights: list[np.ndarray] = [W.T for W in coefs]
        self.biases: list[np.ndarray] = list(intercepts)

    def are(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> bool:
        """Tell whether these are still the same arrays."""
        held, n = self._arrays, len(coefs)
        if n + len(intercepts) != len(held):
            return False
        return all(map(is_, coefs, held)) and all(map(is_, intercepts, held[n:]))

    def can_be_read(self, model: Model) -> bool:
        """Tell whether compiled code can read them as they are."""
        weights, biases = self.weights, self.biases
        shapes = [np.shape(array) for array in (*weights, *biases)]
        wanted = [*model.layout.shapes, *((n_out,) for n_out, _ in model.layout.shapes)]
        return shapes == wanted and all(
            array.dtype == model.dtype and array.flags.c_contiguous and array.flags.aligned
            for array in (*weights, *biases)
        )


class Engine:
    """Parameters on a backend, and what is computed with them.

    Parameters
    ----------
    model : Model
    backend : Backend
    described : tuple, optional
        What the model was made of, to know it by.

    Attributes
    ----------
    parameters : Parameters
        On the backend.
    uploads : int
        How often the parameters were read from `coefs_` and `intercepts_`.
    """

    def __init__(self, model: Model, backend: Backend, described: tuple[Any, ...] = ()) -> None:
        self.model, self.backend, self.described = model, backend, described
        size, dtype = model.layout.size, model.dtype
        with backend.active():
            self.parameters = Parameters(model, backend.zeros(size, dtype))
        # The same numbers on the host, to compare with.
        self._mirror = self.parameters
        if not backend.host:
            self._mirror = Parameters(model, np.zeros(size, dtype))
        self._local, self._lock = threading.local(), threading.Lock()
        self._executor: tuple[str, Job, Executor] | None = None
        self._given: _Given | None = None
        self.uploads = 0

    # ---- coefs_ and intercepts_ -----------------------------------------------------------------

    def read(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        """Take over the numbers of `coefs_` and `intercepts_` if they have changed.

        Parameters
        ----------
        coefs : list of array of shape (n_in, n_out)
        intercepts : list of array of shape (n_out,)

        Raises
        ------
        ValueError
            That names the array, if one has another shape or holds NaN or infinity.
        """
        shapes = [(n_in, n_out) for n_out, n_in in self.model.layout.shapes]
        with self._lock:
            changed = self._compare("coefs_", coefs, shapes, [W.T for W in self._mirror.weights])
            widths = [(n_out,) for _, n_out in shapes]
            biases: list[Any] = self._mirror.biases
            changed |= self._compare("intercepts_", intercepts, widths, biases)
            if changed:
                self.uploads += 1
                if self._mirror is not self.parameters:
                    self.backend.upload(self._mirror.flat, self.parameters.flat)

    def load(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> None:
        """Take over the numbers of such lists, which are known to be good."""
        mirror = self._mirror
        for l, (W, b) in enumerate(zip(mirror.weights, mirror.biases, strict=True)):
            assert b is not None
            W.T[...], b[...] = coefs[l], intercepts[l]
        if mirror is not self.parameters:
            self.backend.upload(mirror.flat, self.parameters.flat)

    @staticmethod
    def _compare(
        name: str, given: Sequence[Any], shapes: Sequence[tuple[int, ...]], held: list[Any]
    ) -> bool:
        """Copy what differs; tell whether anything did."""
        if len(given) != len(shapes):
            raise ValueError(f"{name} must have {len(shapes)} arrays, got {len(given)}")
        changed = []
        for l, (array, shape) in enumerate(zip(given, shapes, strict=True)):
            if np.shape(array) != shape:
                raise ValueError(f"{name}[{l}] must have shape {shape}, got {np.shape(array)}")
            if not np.equal(array, held[l]).all():
                if not np.isfinite(array).all():
                    raise ValueError(f"{name}[{l}] must be finite, got NaN or infinity")
                changed.append(l)
        for l in changed:
            held[l][...] = given[l]
        return bool(changed)

    def write(self, coefs: list[Any], intercepts: list[Any]) -> None:
        """Write the parameters into `coefs_` and `intercepts_`: into their arrays where these have
        the right dtype, else new ones take their places in the lists.
        """
        mirror = self._mirror
        if mirror is not self.parameters:
            mirror.flat[...] = self.backend.to_numpy(self.parameters.flat)
        for l, (W, b) in enumerate(zip(mirror.weights, mirror.biases, strict=True)):
            assert b is not None
            coefs[l] = _written(coefs[l], W.T)
            intercepts[l] = _written(intercepts[l], b)

    # ---- computing ------------------------------------------------------------------------------

    def source(self, X: Any, Y: Any = None, w: Any = None) -> Source:
        """Make checked data ready to be read."""
        return checked_source(X, Y, w, self.model, self.backend)

    def outputs(self, source: Source) -> np.ndarray:
        """Return the network's outputs for every row, of shape (n_samples, n_out)."""
        return self._outputs(self._evaluator("outputs", self.model), source)

    def executor(self, name: str, job: Job) -> Executor:
        """Return the executor of a job, the last one with its buffers if the job is the same.

        Raises
        ------
        ValueError
            If the name is unknown, or that executor cannot do the job.
        """
        if self._executor is None or self._executor[:2] != (name, job):
            self._executor = name, job, executors.get(name, job)
        return self._executor[2]

    def at_once(self, coefs: Sequence[Any], intercepts: Sequence[Any], X: Any) -> np.ndarray | None:
        """Return the outputs by compiled code that reads `coefs_` and `intercepts_` themselves: to
        `read` them takes longer than a row takes to predict.

        Returns
        -------
        array of shape (n_samples, n_out) or None
            Finite numbers. None where there is no such code, or where anything is not as it should
            be, bad data included.
        """
        given = self._given
        if given is None or not given.are(coefs, intercepts):
            if not all(type(array) is np.ndarray for array in (*coefs, *intercepts)):
                return None
            given = _Given(coefs, intercepts)
            if not given.can_be_read(self.model):
                return None
            self._given = given
        return self._evaluator("given", self.model).compiled(given, X)

    def predict(self, X: Any, *, logits: bool = False) -> np.ndarray:
        """Return the outputs, or z of the output layer, for checked data.

        Parameters
        ----------
        X : array or CSR matrix of shape (n_samples, n_in)
        logits : bool, optional

        Returns
        -------
        array of shape (n_samples, n_out)
        """
        name, model, backend = "outputs", self.model, self.backend
        if logits:
            activations = (*model.activations[:-1], IDENTITY)
            name, model = "logits", replace(model, activations=activations, loss=SQUARED)
        evaluator = self._evaluator(name, model)
        found = evaluator.compiled(self.parameters, X)
        if found is not None:
            return found
        usable = backend.host and isinstance(X, np.ndarray) and X.dtype == model.dtype
        if not usable or len(X) > backprop.SLICE or not X.flags.c_contiguous:
            return self._outputs(evaluator, self.source(X))
        # A source would take longer to make than a row takes to predict.
        ws = evaluator.workspace(len(X))
        with backend.active():
            o: np.ndarray = backprop.forward(backend, model, self.parameters, X, ws)
        return o.copy()

    def loss(self, source: Source) -> float:
        """Return the mean loss over a source, without penalty."""
        with self.backend.active():
            return self._evaluator("outputs", self.model).loss(self.parameters, source)

    def _outputs(self, evaluator: Evaluator, source: Source) -> np.ndarray:
        backend, model = self.backend, self.model
        with backend.active():
            out = backend.empty((source.n_samples, model.sizes[-1]), model.dtype)
            evaluator.outputs(self.parameters, source, out)
            return backend.to_numpy(out)

    def _evaluator(self, name: str, model: Model) -> Evaluator:
        """Return this thread's evaluator: it has buffers of its own."""
        evaluator: Evaluator | None = getattr(self._local, name, None)
        if evaluator is None:
            evaluator = Evaluator(self.backend, model, strict=name == "given")
            setattr(self._local, name, evaluator)
        return evaluator


def _written(array: Any, values: np.ndarray) -> np.ndarray:
    """Write values into an array, or return a new one where it cannot hold them."""
    usable = isinstance(array, np.ndarray) and array.flags.writeable
    if not usable or array.dtype != values.dtype or array.shape != values.shape:
        array = np.empty_like(values)
    array[...] = values
    written: np.ndarray = array
    return written
