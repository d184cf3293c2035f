"""`Network`: the face of the library. One line a method, no arithmetic of its own."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop import arguments, backends, memory, optimizers
from gpubackprop.activations import Activation
from gpubackprop.backends.base import Backend
from gpubackprop.backprop import Dropping
from gpubackprop.buffers import Gradient, Parameters
from gpubackprop.data import Batches, Source, default_shuffle, source
from gpubackprop.evaluation import Evaluator
from gpubackprop.executors import compile_seconds
from gpubackprop.executors.base import Job
from gpubackprop.gather import Gather
from gpubackprop.history import History
from gpubackprop.losses import Loss
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.progress import ProgressLine
from gpubackprop.schema import Schema
from gpubackprop.stepping import Stepper
from gpubackprop.threads import limited, usable_threads
from gpubackprop.training import Trainer
from gpubackprop.types import Array

# What not every program uses is imported by the functions that need it.
if TYPE_CHECKING:
    from gpubackprop.checkpoints import Checkpoints
    from gpubackprop.gradcheck import GradientCheck
    from gpubackprop.trace import Trace


class Network:
    """A multi-layer perceptron.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer, inputs first: ``[784, 128, 10]``.
    hidden : str or Activation, or one for each hidden layer, optional
        Activation of the hidden layers.
    output : str or Activation, optional
        Activation of the output layer.
    loss : str or Loss, optional
        By default the one that matches the output: cross_entropy for softmax, log_loss for sigmoid,
        else squared.
    dropout : float, or one for each hidden layer, optional
        Chance in 0..1 (1 excluded) that an output of a hidden layer is dropped in a training step.
    bias : bool, or one for each layer, optional
        Whether layers have biases. They start at 0.
    init : str, Initializer, callable or array, or one for each layer, optional
        How weights start; see `gpubackprop.initializers`. By default what suits the layer's
        activation.
    backend : str or Backend, optional
        "auto", "numpy", "cupy", "cupy:1"; see `gpubackprop.backends.get`.
    dtype : {"float32", "float64"}, optional
    rng : int, numpy.random.Generator or None, optional
        Seed or source of all random numbers: the same seed gives the same weights, order of rows
        and dropout masks on every backend.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what it may be.

    Examples
    --------
    >>> import numpy as np
    >>> X, Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> net = Network([2, 4, 1], hidden="tanh", output="sigmoid", rng=1, backend="numpy")
    >>> history = net.fit(X, Y, batch_size="full", epochs=500, optimizer=optimizers.SGD(1.0))
    >>> net.predict_classes(X)
    array([0, 1, 1, 0])
    """

    def __init__(
        self,
        sizes: Iterable[int],
        hidden: Any = "sigmoid",
        output: str | Activation = "softmax",
        loss: str | Loss | None = None,
        *,
        dropout: Any = 0.0,
        bias: Any = True,
        init: Any = None,
        backend: str | Backend = "auto",
        dtype: Any = "float32",
        rng: Any = None,
    ) -> None:
        model = arguments.build_model(sizes, hidden, output, loss, bias, dropout, dtype)
        starts = arguments.initial(init, model)
        self._setup(model, backends.get(backend), arguments.generator(rng))
        with self.backend.active():
            for W, start, shape in zip(self.weights, starts, model.layout.shapes, strict=True):
                self.backend.upload(start(self.rng, *shape), W)
        self._dropout_seed = int(self.rng.integers(2**32))

    def _setup(self, model: Model, backend: Backend, rng: np.random.Generator) -> None:
        self.model, self.backend, self.rng = model, backend, rng
        with backend.active():
            self._parameters = Parameters(model, backend.zeros(model.layout.size, model.dtype))
        self._dropout_seed, self._steps = 0, 0
        self._schema = Schema()
        self._stepping: Stepper | None = None
        self._local = threading.local()
        #: What happened in the last call of `fit`; None before the first.
        self.history: History | None = None

    # ---- what it is -----------------------------------------------------------------------------

    @property
    def weights(self) -> list[Array]:
        """W of each layer, (n_out, n_in): views, so that ``net.weights[0][...] = W`` sets them.

        On CuPy W must be a CuPy array there. ``net.weights = [W0, W1]`` copies arrays of any kind.
        """
        return list(self._parameters.weights)

    @weights.setter
    def weights(self, values: Iterable[Any]) -> None:
        self._assign("weights", values, self._parameters.weights)

    @property
    def biases(self) -> list[Array]:
        """b of each layer, (n_out,): views; None for a layer without biases. Set like `weights`."""
        return list(self._parameters.biases)

    @biases.setter
    def biases(self, values: Iterable[Any]) -> None:
        self._assign("biases", values, self._parameters.biases)

    def _assign(self, name: str, values: Iterable[Any], views: list[Array]) -> None:
        checked = arguments.layer_arrays(name, values, views, self.backend)
        with self.backend.active():
            for value, view in zip(checked, views, strict=True):
                if view is not None:
                    self.backend.copy(self.backend.asarray(value, view.dtype), view)

    @property
    def schema(self) -> Schema:
        """What inputs and outputs stand for, such as class labels. Files hold it."""
        return self._schema

    @schema.setter
    def schema(self, schema: Schema) -> None:
        if not isinstance(schema, Schema):
            raise TypeError(f"schema must be a Schema, got {schema!r}")
        schema.check(self.model)
        self._schema = schema

    @property
    def n_parameters(self) -> int:
        """Weights and biases in all."""
        return sum(array.size for array in self._parameters.arrays())

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.model.sizes))
        names = ", ".join(dict.fromkeys(activation.name for activation in self.model.activations))
        return (
            f"<Network {sizes}: {names}; {self.model.loss.name}; {self.n_parameters:,} parameters, "
            f"{self.model.dtype} on {self.backend.name}>"
        )

    # ---- training -------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        Y: Any = None,
        *,
        batch_size: int | str | None = None,
        epochs: int = 10,
        optimizer: str | Optimizer = "sgd",
        shuffle: bool | str = True,
        sample_weight: Any = None,
        trainable: Any = None,
        validation: Any = None,
        early_stopping: Any = None,
        callbacks: Iterable[Any] = (),
        progress: bool = True,
        executor: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float | str | None = None,
        resume: bool | str | os.PathLike[str] = False,
    ) -> History:
        """Train. The three modes differ by `batch_size` alone.

        A second call goes on from the present weights with a fresh optimiser.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_in), or Batches
            Never changed. On NumPy, data in another dtype or layout than the network's is cast
            once if that takes at most 256 MiB; else nothing is copied whole in the host's memory.
        Y : array-like
            Targets; see `gpubackprop.data.source`. None with `Batches`.
        batch_size : int, "full" or None, optional
            Rows of an update: 1 is SGD, "full" is batch mode. By default ``min(32, n_samples)``.
        epochs : int, optional
            Passes over the data, >= 1.
        optimizer : str or Optimizer, optional
            Such as ``SGD(learning_rate=0.1)`` or "adam".
        shuffle : {True, "full", "blocks", False}, optional
            New order of rows for each epoch; see `gpubackprop.data.row_order`.
        sample_weight : array-like of shape (n_samples,), optional
            >= 0, scaled to mean 1.
        trainable : pair of lists (weights, biases), optional
            Booleans shaped like the parameters: where False, an entry stays as it is.
        validation : (X, Y) or (X, Y, sample_weight), optional
            Its loss is computed after each epoch.
        early_stopping : bool, int or EarlyStopping, optional
            An int is the patience in epochs.
        callbacks : iterable, optional
            Objects with any of the methods on_fit_begin, on_slice, on_epoch_end, on_fit_end, each
            called with the `Run`; ``run.stop()`` ends training. One with a true attribute
            `patient` need not hear of every slice and epoch: short epochs then go several at once.
        progress : bool, optional
            Whether to show progress on a terminal.
        executor : str, optional
            "auto" or a name in `gpubackprop.executors.EXECUTORS`.
        threads : int, optional
            Threads that training may use; by default the processors that this process may use, or
            as many as OPENBLAS_NUM_THREADS, OMP_NUM_THREADS or MKL_NUM_THREADS say. The same number
            gives the same bits. Small jobs use one.
        precision : {"tf32", "float16", "bfloat16"}, optional
            What the inputs of matrix products are rounded to; their sums stay float32, as does all
            else. For backend "cupy" and dtype float32. By default nothing is rounded.
        checkpoint : path-like, optional
            File that the run is written to now and then, so that it can be resumed; see
            docs/files.md. Written at the end too. One that is there is replaced.
        every : float or "epoch", optional
            Seconds between two checkpoints, 60 by default; 0 writes one after every slice of about
            0.1 s. "epoch": one after each epoch.
        resume : bool or path-like, optional
            True: go on from `checkpoint`, if there is such a file, to the same bits as if the run
            had never ended. A path: go on from that file. `epochs` may have grown; all other
            arguments must be those of the run that was cut off.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            If an argument is bad, before any work.
        DivergenceError
            If the loss or a parameter becomes NaN or infinite. The parameters from before that
            epoch are restored.
        MemoryError
            If the device has too little memory: names the sizes and a batch size that would fit.
        KeyboardInterrupt
            At Ctrl-C, between two slices of about 0.1 s. The network is usable and `history` holds
            what was done.
        """
        from gpubackprop.checkpoints import Checkpoints

        chosen = optimizers.get(optimizer)
        n_epochs = arguments.integer("epochs", epochs, 1)
        frozen = arguments.trainable(trainable, self.model)
        rule = arguments.early_stopping(early_stopping)
        listeners = arguments.callbacks(callbacks)
        shown = arguments.boolean("progress", progress)
        rounding = arguments.precision(precision)
        keeping = Checkpoints(checkpoint, every, resume, self.model)
        with self.backend.active(), limited(threads):
            rows, validating = self._sources(X, Y, sample_weight, validation)
            size = arguments.batch_size(batch_size, rows.n_samples)
            arguments.check_batch_only(chosen, size, rows.n_samples)
            weighted = isinstance(rows, Source) and rows.weighted
            job = Job(
                self.model, self.backend, chosen, size, weighted,
                keeping.dropout_seed(self._dropout_seed),
                n_samples=rows.n_samples, epochs=n_epochs, masked=frozen is not None,
                precision=rounding,
                threads=usable_threads(threads) if self.backend.host else 1,
            )  # fmt: skip
            chosen_executor = keeping.executor(executor, job)
            if shown:
                line = ProgressLine()
                line.compiling(partial(compile_seconds, chosen_executor, job))
                listeners.append(line)
            options = {
                "epochs": n_epochs,
                "executor": chosen_executor,
                "shuffle": default_shuffle(rows, shuffle) if isinstance(rows, Source) else False,
                "trainable": None if frozen is None else self.backend.asarray(frozen),
                "validation": validating,
                "early_stopping": rule,
                "callbacks": listeners,
            }
            with memory.explained(self.backend, lambda: memory.training_problem(job, rows)):
                return self._train(job, rows, keeping, options)

    def _train(
        self,
        job: Job,
        rows: Source | Batches,
        keeping: Checkpoints,
        options: dict[str, Any],
    ) -> History:
        """Run a `Trainer`, which nothing holds afterwards."""
        trainer = Trainer(job, self._parameters, rows, rng=self.rng, steps=self._steps, **options)
        trainer.run.history.threads = job.threads
        keeper = keeping.attach(trainer, self.schema)
        self.history, self._dropout_seed = trainer.run.history, job.dropout_seed
        try:
            with keeper or contextlib.nullcontext():
                return trainer.fit()
        finally:
            self._steps = trainer.progress.steps

    def _source(self, X: Any, Y: Any, sample_weight: Any) -> Source:
        """Check data with targets."""
        arguments.check_targets(Y)
        return source(X, Y, sample_weight, self.model, self.backend)

    def _sources(
        self, X: Any, Y: Any, sample_weight: Any, validation: Any
    ) -> tuple[Source | Batches, Source | None]:
        rows: Source | Batches | None = arguments.batches(X, Y, sample_weight)
        rows = rows or source(X, Y, sample_weight, self.model, self.backend)
        if validation is None:
            return rows, None
        pieces = arguments.validation(validation)
        return rows, source(*pieces, self.model, self.backend, prefix="validation ")

    def step(
        self,
        X: Any,
        Y: Any,
        optimizer: str | Optimizer = "sgd",
        *,
        sample_weight: Any = None,
        trainable: Any = None,
    ) -> float:
        """Do one update with all rows as one batch; returns the loss from before it.

        Momentum and the like go on from one call to the next as long as `optimizer` stays equal.

        Parameters
        ----------
        X, Y, sample_weight, trainable
            As in `fit`.
        optimizer : str or Optimizer, optional
            A learning-rate schedule stays at its beginning.
        """
        chosen = optimizers.get(optimizer)
        frozen = arguments.trainable(trainable, self.model)
        with self.backend.active():
            rows = self._source(X, Y, sample_weight)
            stepper = self._stepper(chosen, frozen)
            loss = stepper.step(rows, self._parameters, self._steps)
        self._stepping = stepper
        self._steps += 1
        return loss

    def _stepper(self, optimizer: Optimizer, frozen: np.ndarray | None) -> Stepper:
        """Return the last step's, or a fresh one if the optimiser or the mask has changed."""
        last = self._stepping
        if last is not None and last.goes_on(optimizer, frozen):
            return last
        job = Job(self.model, self.backend, optimizer, None, True, self._dropout_seed)
        return Stepper(job, frozen)

    def trace(
        self,
        X: Any,
        Y: Any,
        optimizer: str | Optimizer | None = None,
        *,
        sample_weight: Any = None,
        trainable: Any = None,
    ) -> Trace:
        """Do what `step` would do, and keep every x, z, a, delta, gradient and new weight.

        The network is not changed.

        Parameters
        ----------
        X, Y, sample_weight, trainable
            As in `fit`; all rows are one batch.
        optimizer : str or Optimizer, optional
            Without one, the parameters stay as they are.

        Returns
        -------
        Trace
            Its lists are NumPy arrays; ``print`` shows it as a table.
        """
        from gpubackprop.trace import trace

        chosen = None if optimizer is None else optimizers.get(optimizer)
        frozen = arguments.trainable(trainable, self.model)
        with self.backend.active():
            stepper = self._stepper(chosen or optimizers.get("sgd"), frozen)
            X, Y, w = self._rows(X, Y, sample_weight)
            return trace(
                self.backend,
                self.model,
                self._parameters_copy(),
                X,
                Y,
                w,
                Dropping(self._dropout_seed, self._steps) if any(self.model.dropout) else None,
                chosen,
                stepper.copy_state(),
            )

    # ---- using it -------------------------------------------------------------------------------

    def predict(self, X: Any) -> Array:
        """Return the outputs o, of shape (n_samples, n_out), where the network lives.

        On NumPy by compiled code where that is to be had cheaply; see `executors.prediction`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_in)
        """
        found = self._evaluator().at_once(self._parameters, X)
        if found is not None:
            return found
        with self.backend.active():
            rows = source(X, None, None, self.model, self.backend)
            n = rows.n_samples
            problem = partial(memory.evaluation_problem, self.backend, self.model, n)
            with memory.explained(self.backend, problem):
                return self._outputs(rows)

    def _outputs(self, rows: Source) -> Array:
        """Return the outputs in an array of their own."""
        out = self.backend.empty((rows.n_samples, self.model.sizes[-1]), self.model.dtype)
        return self._evaluator().outputs(self._parameters, rows, out)

    def predict_classes(self, X: Any) -> Array:
        """Return class numbers of shape (n_samples,); of several sigmoid outputs 0 or 1 each.

        A single sigmoid output is class 1 from 0.5 on, softmax outputs are the class of the
        largest.

        Raises
        ------
        ValueError
            If the output layer is neither sigmoid nor softmax.
        """
        kind = arguments.class_output(self.model)
        o = self.predict(X)
        with self.backend.active():
            if kind == "softmax":
                return o.argmax(axis=1)
            classes = (o >= 0.5).astype(np.int64)
            return classes[:, 0] if o.shape[1] == 1 else classes

    def loss(self, X: Any, Y: Any, *, sample_weight: Any = None) -> float:
        """Return the mean loss over the rows, without penalties and without dropout."""
        with self.backend.active():
            rows = self._source(X, Y, sample_weight)
            return self._evaluator().loss(self._parameters, rows)

    def gradient(self, X: Any, Y: Any, *, sample_weight: Any = None) -> Gradient:
        """Return the gradient of `loss`.

        Returns
        -------
        Gradient
            With `weights` and `biases` shaped like the network's, `flat` (padded like the
            parameters) and `vector()`.
        """
        with self.backend.active():
            rows = self._source(X, Y, sample_weight)
            job = Job(self.model, self.backend, optimizers.get("sgd"), None, rows.weighted, 0)
            flat = self.backend.zeros(self.model.layout.size, self.model.dtype)
            return Stepper(job, None).gradient(rows, self._parameters, Gradient(self.model, flat))

    def _rows(self, X: Any, Y: Any, sample_weight: Any) -> tuple[Array, Array, Array | None]:
        """Return all rows as arrays of the backend."""
        rows = self._source(X, Y, sample_weight)
        X, Y, w = Gather(self.model, self.backend).rows(rows, None, 0, rows.n_samples)
        return X, Y, w

    def _evaluator(self) -> Evaluator:
        """Return this thread's: a network may be used from several threads at once."""
        if not hasattr(self._local, "evaluator"):
            self._local.evaluator = Evaluator(self.backend, self.model)
        evaluator: Evaluator = self._local.evaluator
        return evaluator

    # ---- files ----------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        labels: Iterable[Any] | None = None,
        feature_names: Iterable[str] | None = None,
        preprocessing: str | None = None,
    ) -> None:
        """Write the network to a safetensors file, which `load` reads; see docs/file-format.md.

        Parameters
        ----------
        path : path-like
            Such as "model.safetensors". A file of that name is replaced, whole or not at all.
        labels, feature_names, preprocessing : optional
            What the file says instead of `schema`; see `Schema`.
        """
        from gpubackprop import storage

        schema = self.schema.replaced(labels, feature_names, preprocessing)
        with self.backend.active():
            flat = self.backend.to_numpy(self._parameters.flat)
        storage.save(path, self.model, Parameters(self.model, flat), schema)

    def export_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        labels: bool = False,
        zipmap: bool = False,
        dtype: Any = None,
    ) -> None:
        """Write the network as an ONNX model, which needs no gpubackprop to run; see docs/files.md.

        Parameters
        ----------
        path : path-like
            Such as "model.onnx". A file of that name is replaced, whole or not at all.
        labels : bool, optional
            Whether the outputs are "label" and "probabilities", as a classifier's are, with the
            labels of `schema`, by default the class numbers. Else there is one, "output", with what
            `predict` returns.
        zipmap : bool, optional
            Whether they are "output_label" and "output_probability", a sequence of maps from labels
            to probabilities.
        dtype : {"float32", "float64"}, optional
            Of X and of the numbers; by default the network's.

        Raises
        ------
        ImportError
            If onnx, of the extra "onnx", is not installed.
        ValueError
            If labels are wanted of outputs that are no probabilities.
        """
        from gpubackprop import onnx_export

        outputs = onnx_export.for_network(self.schema, self.model, labels, zipmap)
        with self.backend.active():
            parameters = Parameters(self.model, self.backend.to_numpy(self._parameters.flat))
        model, parameters = onnx_export.in_dtype(self.model, parameters, dtype)
        onnx_export.export(path, model, parameters, self.schema, outputs)

    # ---- copies ---------------------------------------------------------------------------------

    def copy(self, *, backend: str | Backend | None = None, dtype: Any = None) -> Network:
        """Return an independent network with the same parameters and the same generator state.

        Parameters
        ----------
        backend : str or Backend, optional
            Where the copy lives; by default where this one lives.
        dtype : {"float32", "float64"}, optional
            By default this one's.
        """
        state = self.__getstate__()
        if dtype is not None:
            state["model"] = arguments.with_dtype(self.model, dtype)
            state["stepping"] = None
        other = object.__new__(Network)
        other._restore(state, self.backend if backend is None else backends.get(backend))
        return other

    def _parameters_copy(self) -> Parameters:
        return Parameters(self.model, self._parameters.flat.copy())

    def __getstate__(self) -> dict[str, Any]:
        with self.backend.active():
            return {
                "model": self.model,
                "schema": self._schema,
                "backend": self.backend.name,
                "flat": np.array(self.backend.to_numpy(self._parameters.flat)),
                "rng": copy.deepcopy(self.rng),
                "dropout_seed": self._dropout_seed,
                "steps": self._steps,
                "history": copy.deepcopy(self.history),
                "stepping": None if self._stepping is None else self._stepping.to_numpy(),
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._restore(state, backends.rebuild(state["backend"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self.copy()

    def _restore(self, state: dict[str, Any], backend: Backend) -> None:
        self._setup(state["model"], backend, state["rng"])
        self._dropout_seed, self._steps = state["dropout_seed"], state["steps"]
        self.history, self._schema = state["history"], state["schema"]
        with backend.active():
            backend.upload(state["flat"], self._parameters.flat)
            if state["stepping"] is not None:
                self._stepping = Stepper.from_numpy(
                    self.model, backend, self._dropout_seed, state["stepping"]
                )


def load(
    path: str | os.PathLike[str], *, backend: str | Backend = "auto", rng: Any = None
) -> Network:
    """Read a network that `Network.save` wrote, on any backend. Runs no code from the file.

    Parameters
    ----------
    path : path-like
    backend : str or Backend, optional
        Where it is to live; see `Network`.
    rng : int, numpy.random.Generator or None, optional
        For further training.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, foreign, damaged, oversized, or of a newer format version; the message
        says which.
    """
    from gpubackprop import storage

    stored = storage.load(path)
    net = object.__new__(Network)
    net._setup(stored.model, backends.get(backend), arguments.generator(rng))
    net._dropout_seed = int(net.rng.integers(2**32))
    net.schema = stored.schema
    net.weights, net.biases = stored.weights, stored.biases
    return net


def gradient_check(
    net: Network,
    X: Any,
    Y: Any,
    *,
    sample_weight: Any = None,
    dropout: bool = False,
    h: float = 1e-5,
) -> GradientCheck:
    """Compare a network's gradient with central differences, in float64 on its backend.

    Parameters
    ----------
    net : Network
        Not changed.
    X, Y, sample_weight
        As in `Network.loss`; a few rows are enough.
    dropout : bool, optional
        Whether to drop outputs, with the same masks in every pass.
    h : float, optional
        Each entry is moved by +h and -h.

    Returns
    -------
    GradientCheck
        Its `error` is the largest difference divided by the largest |gradient| of the network. A
        right gradient has one below about 1e-8.
    """
    from gpubackprop.gradcheck import check

    h = arguments.positive("h", h)
    double = net.copy(dtype="float64")
    dropping = Dropping(double._dropout_seed, double._steps)
    with double.backend.active():
        X, Y, w = double._rows(X, Y, sample_weight)
        masks = (
            dropping if arguments.boolean("dropout", dropout) and any(net.model.dropout) else None
        )
        return check(double.backend, double.model, double._parameters, X, Y, w, masks, h)
