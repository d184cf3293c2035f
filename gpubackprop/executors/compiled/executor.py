"""The compiled executor: a slice of an epoch is one call of a function that Numba compiled."""

import math

from gpubackprop import backprop
from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.data import Source
from gpubackprop.executors import cpu_cost, prediction
from gpubackprop.executors.base import Epochs, Job, Progress, Tally, batches_per_block
from gpubackprop.executors.compiled import cache, objects, predictor, several, usable
from gpubackprop.executors.compiled.bindings import Bindings
from gpubackprop.executors.compiled.choices import calls_blas
from gpubackprop.executors.compiled.formulas import write_formulas
from gpubackprop.executors.compiled.loaded import FixedLoop, LoadedLoop, seconds_to_load
from gpubackprop.executors.compiled.plans import loop_of
from gpubackprop.executors.compiled.rows import Rows
from gpubackprop.executors.compiled.shuffle import pays, shuffle
from gpubackprop.executors.compiled.split import Split, blas_threads, parts_of
from gpubackprop.executors.compiled.tables import pack
from gpubackprop.types import Array


class Compiled:
    """See `gpubackprop.executors.base.Executor`."""

    name = "compiled"
    on_host: bool | None = True

    def __init__(self, job: Job) -> None:
        self.job = job
        self._program = write_formulas(job.model, job.optimizer)
        compiles = not cache.is_ready(self._program.text)
        self._bindings = Bindings(job, self._program)
        self._sums = self._bindings.sums
        self._loops: dict[str, LoadedLoop | FixedLoop] = {}
        self._rows = Rows(job.model, job.backend)
        self._batch_size, self._arrays = 0, list[Array]()
        self._loop = self._load(loop_of(job, masked=job.masked))
        if compiles:
            predictor.prepare(job.model)
        prediction.begin(more=compiles)
        #: What draws the order of rows, or None: see `Trainer`.
        compiles |= self._loop.name == "fixed"
        self.shuffling = shuffle if pays(job, compiles=compiles) else None
        self._n_parts = parts_of(job, self._loop.name)
        self._split: Split | None = None
        #: What BLAS is to be limited to meanwhile, the whole process's.
        self.blas_threads = blas_threads(job, self._loop.name)

    def _load(self, name: str) -> LoadedLoop | FixedLoop:
        if name not in self._loops:
            job = self.job
            self._loops[name] = (
                FixedLoop(job) if name == "fixed" else LoadedLoop(job.model.dtype, name)
            )
        return self._loops[name]

    @staticmethod
    def seconds_to_begin(job: Job) -> float:
        """Return about how long it takes until the first batch: what is not cached is compiled, for
        which Numba is imported.
        """
        name = loop_of(job, masked=job.masked)
        seconds = seconds_to_load(job, name)
        if name != "fixed" and not cache.is_ready(write_formulas(job.model, job.optimizer).text):
            seconds += predictor.seconds_to_prepare(job.model)
        return seconds + cpu_cost.IMPORT_SECONDS if seconds else 0.0

    @staticmethod
    def refusal(job: Job) -> str | None:
        """Return why this job cannot be done, in words; None if it can."""
        reason = _obstacle(job)
        return reason or usable.problem(
            compiles=Compiled.seconds_to_begin(job) > 0, multiplies=calls_blas(job.model)
        )

    @staticmethod
    def pays(job: Job, saved: float) -> bool:
        """Tell whether a job is done sooner, where so many seconds are saved once it has begun.

        Numba, which only compiling takes, is not imported to find out that it does not pay.
        """
        if _obstacle(job) is not None:
            return False
        seconds = Compiled.seconds_to_begin(job)
        # Where it compiles, the import is counted already.
        alone = objects.LOADS_ALONE or seconds > 0
        least = cpu_cost.LOAD_SECONDS if alone else cpu_cost.IMPORT_SECONDS
        return saved > least + seconds and (
            usable.problem(compiles=seconds > 0, multiplies=calls_blas(job.model)) is None
        )

    def run(
        self,
        source: Source,
        order: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        parameters: Parameters,
        state: State,
        progress: Progress,
        tally: Tally,
    ) -> None:
        """Train on one slice of an epoch; see `Executor.run`."""
        self._sums[0], self._sums[1] = tally.total[0], tally.first_bad[0]
        whole = self._whole(batch_size, parameters, state)
        if self._n_parts > 1 and (self._split is None or self._split.state is not state):
            self._split = Split(
                self.job, self._program, self._n_parts, self._bindings.formulas, self._enter, state
            )
        data = self._rows.in_place(source, order)
        if data is not None:
            whole |= data
            self._call(whole, start, stop, batch_size, state, progress)
        elif batch_size > backprop.SLICE:
            for s in range(start, stop, batch_size):
                n = min(batch_size, stop - s)
                self._large_batch(whole, source, order, s, n, state, progress)
        else:
            block = batch_size * batches_per_block(self.job.model, batch_size)
            for s in range(start, stop, block):
                n = min(block, stop - s)
                whole |= self._rows.gathered(source, order, s, s + n)
                self._call(whole, 0, n, batch_size, state, progress)
        tally.total[0], tally.first_bad[0] = self._sums[:2]

    def epochs(
        self,
        source: Source,
        order: Array | None,
        batch_size: int,
        parameters: Parameters,
        state: State,
        progress: Progress,
        epochs: Epochs,
    ) -> bool:
        """Train for some epochs of one learning rate; tells whether it can.

        Parameters
        ----------
        source, batch_size, parameters, state, progress
            As in `run`.
        order : int32 array of shape (n,), or None
            Rows of the first epoch in order. Overwritten.
        epochs : Epochs
            Overwritten.
        """
        able = self.shuffling is not None and self._n_parts == 1 and not self._bindings.penalised
        data = self._rows.in_place(source, order) if able else None
        if data is None or not several.can(order, epochs.rng):
            return False
        whole = self._whole(batch_size, parameters, state) | data
        n = math.ceil(source.n_samples / batch_size)
        updates = self._bindings.updates(
            n * len(epochs.losses), batch_size, batch_size, state, progress
        )
        arguments = {
            **whole, **updates,
            "start": 0, "stop": source.n_samples, "batch_size": batch_size, "batch": 0,
        }  # fmt: skip
        try:
            several.run(self._loop, arguments, n, order, parameters, epochs)
        finally:
            done = n * int(epochs.done[0])
            state.updates, progress.steps = state.updates + done, progress.steps + done
        return True

    def _whole(self, batch_size: int, parameters: Parameters, state: State) -> dict[str, int]:
        """Return the arguments that do not change within a slice of an epoch, nor from one to the
        next while the arrays are the same: small epochs are done before they would be written.
        """
        self._parameters = parameters
        arrays = [parameters.flat, state.gradient.flat, state.trainable, *state.slots]
        same = self._batch_size == batch_size and len(arrays) == len(self._arrays)
        if not same or any(one is not two for one, two in zip(arrays, self._arrays, strict=True)):
            self._loop = self._load(loop_of(self.job, masked=state.trainable is not None))
            self._batch_size, self._arrays = batch_size, arrays
            threads = self.job.threads if self.blas_threads is None else self.blas_threads
            self._arguments = self._bindings.written(
                self._loop, batch_size, threads, parameters, state
            )
        return dict(self._arguments)

    def _call(
        self,
        whole: dict[str, int],
        start: int,
        stop: int,
        batch_size: int,
        state: State,
        progress: Progress,
    ) -> None:
        """Run the compiled loop and move on."""
        n = math.ceil((stop - start) / batch_size)
        rows = whole["whole"] or batch_size
        n_last = whole["whole"] or stop - start - (n - 1) * batch_size
        updates = self._bindings.updates(n, rows, n_last, state, progress)
        arguments = {
            **whole, **updates, "start": start, "stop": stop, "batch_size": batch_size,
        }  # fmt: skip
        if self._split is not None and not whole["whole"]:
            self._split_batches(arguments, progress)
        else:
            self._enter(arguments)
        if whole["last"]:
            state.updates += n
            progress.batch += n
            progress.steps += n

    def _enter(self, arguments: dict[str, int]) -> None:
        """Run the compiled loop."""
        run = pack(self._loop.parameters, arguments)
        self._loop.entry(run.ctypes.data // run.itemsize)

    def _split_batches(self, arguments: dict[str, int], progress: Progress) -> None:
        """Do batches with several threads each."""
        assert self._split is not None
        start, stop, rows = (arguments[name] for name in ("start", "stop", "batch_size"))
        for i, s in enumerate(range(start, stop, rows)):
            scalars = arguments["scalars"] + i * arguments["scalars_step"]
            loss = self._split.batch(
                arguments, s, min(s + rows, stop), scalars, progress.steps + i, self._parameters
            )
            self._sums[0] += loss
            if self._sums[1] < 0 and not math.isfinite(loss):
                self._sums[1] = progress.batch + i

    def _large_batch(
        self,
        whole: dict[str, int],
        source: Source,
        order: Array | None,
        start: int,
        n: int,
        state: State,
        progress: Progress,
    ) -> None:
        """Do one batch whose rows are gathered in several blocks."""
        for first in range(0, n, backprop.SLICE):
            k = min(backprop.SLICE, n - first)
            data = self._rows.gathered(source, order, start + first, start + first + k)
            part = {"whole": n, "first": first, "last": int(first + k == n)}
            self._call(whole | data | part, 0, k, k, state, progress)


def _obstacle(job: Job) -> str | None:
    """Return why a job cannot be done, whatever has to be compiled for it; None if nothing is known
    to hinder it.
    """
    if job.backend.name != "numpy":
        return f"it runs on the backend 'numpy' alone, not on {job.backend.name!r}"
    if job.optimizer.expression.arguments != ("g",):
        return f"the update of {type(job.optimizer).__name__} reads more than the gradient"
    return usable.loader_problem()
