"""The graph executor, on CuPy arrays: K updates are one CUDA graph, launched as a whole."""

from typing import Any

from gpubackprop import backprop
from gpubackprop.backends.cuda.capturable import CapturableBlas
from gpubackprop.backends.cuda.products import OwnProducts
from gpubackprop.backends.cuda.step import Step
from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.data import Source
from gpubackprop.executors.base import Job, Progress, Tally
from gpubackprop.executors.eager import Eager
from gpubackprop.executors.resident import Resident
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.types import Array

#: Updates of one graph at most, a power of two: the host's share of a launch is then small.
STEPS = 32
#: Whether products are cuBLAS's, called by ctypes: for large ones, once a GPU has proved that they
#: can be captured.
CUBLAS = False
#: Numbers of the rows that a graph gathers at most, which its own buffers hold.
_GATHERED = 1 << 22


class Graph:
    """See `gpubackprop.executors.base.Executor`.

    All that changes from step to step (learning rates, the place in the epoch, dropout's step) is
    in device memory, so that a graph, whose arguments are fixed, serves for a whole run. A short
    last batch has another shape: it runs eagerly.
    """

    name = "graph"
    on_host: bool | None = False

    def __init__(self, job: Job) -> None:
        self.job, self._eager = job, Eager(job)
        self._step: Step = (CapturableBlas if CUBLAS else OwnProducts)(
            job.backend, job.model, job.optimizer, job.dropout_seed, job.penalised
        )
        fused = self._eager.fused
        assert fused is not None
        self._step.scalars = fused.scalars  # one place in the run for both
        self._graphs: dict[Any, _Captured] = {}
        self._resident = Resident(job.model, job.backend)
        self._gather = Gather(job.model, job.backend, views=False)

    @staticmethod
    def refusal(job: Job) -> str | None:
        """Return why this job cannot be done, in words; None if it can."""
        if job.backend.host or job.backend.plain:
            return f"it runs on the backend 'cupy' alone, not on {job.backend.name!r}"
        if job.optimizer.expression.arguments != ("g",):
            return f"the update of {type(job.optimizer).__name__} reads more than the gradient"
        if job.batch_size is None:
            return "the source decides the batch size, and a graph has fixed shapes"
        if job.batch_size > backprop.SLICE:
            return (
                f"a batch of {job.batch_size} rows is done in slices of {backprop.SLICE}, and a "
                "graph holds whole updates"
            )
        return None

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
        most = steps_of_graph(self.job.model, batch_size)
        at = start
        while stop - at >= batch_size:
            # Powers of two, so that there are few graphs.
            k = min(most, 1 << ((stop - at) // batch_size).bit_length() - 1)
            self._replay(k, source, order, at, batch_size, parameters, state, progress, tally)
            at += k * batch_size
        if at < stop:
            self._eager.run(source, order, at, stop, batch_size, parameters, state, progress, tally)

    def _replay(
        self,
        k: int,
        source: Source,
        order: Array | None,
        start: int,
        batch_size: int,
        parameters: Parameters,
        state: State,
        progress: Progress,
        tally: Tally,
    ) -> None:
        """Do k updates by one launch."""
        self._eager.begin(source, start, k * batch_size, batch_size, state, progress)
        there = order is None or self.job.backend.owns(order)
        data = self._resident.of(source) if there else None
        if data is None:
            rows = self._gather.rows(source, order, start, start + k * batch_size)
        else:
            rows = self._resident.buffers(k * batch_size, source.weighted)
        held = _Held(data, order, rows, parameters, state, tally)
        key = (k, batch_size, *held.key())
        if key not in self._graphs:
            self._graphs[key] = self._capture(k, batch_size, held)
        self._graphs[key].graph.launch()
        self._step.scalars.moved(batch_size, k)
        state.updates += k
        progress.batch += k
        progress.steps += k

    def _capture(self, k: int, batch_size: int, held: "_Held") -> "_Captured":
        """Record k updates. Nothing is run, waited for or allocated meanwhile."""
        cp, step = self.job.backend.xp, self._step
        ws = self._eager.workspace(batch_size)
        step.prepare(batch_size)
        stream = cp.cuda.Stream(non_blocking=True)
        if isinstance(step, CapturableBlas):
            step.use(stream)
        with stream:
            stream.begin_capture()
            try:
                self._enqueue(k, batch_size, held, ws)
            finally:
                graph = stream.end_capture()
        return _Captured(graph, (held, ws, step, step.scratch))

    def _enqueue(self, k: int, batch_size: int, held: "_Held", ws: Any) -> None:
        """Launch the kernels of k updates."""
        (X, Y, w), state = held.rows, held.state
        if held.data is not None:
            self._step.gather(held.data, held.order, held.rows)
        first = 0 if any(self.job.model.dropout) else None
        for i in range(0, k * batch_size, batch_size):
            part = slice(i, i + batch_size)
            self._step.gradient(
                X[part], Y[part], None if w is None else w[part], 1.0 / batch_size,
                held.parameters, ws, state.gradient, held.tally.value, first,
            )  # fmt: skip
            self._step.launch_update(
                held.parameters, state.gradient, state.slots, state.trainable, batch_size,
                held.tally,
            )  # fmt: skip


class _Held:
    """What a graph's kernels read and write by address."""

    def __init__(
        self,
        data: tuple[Array, Array, Array | None] | None,
        order: Array | None,
        rows: tuple[Array, Array, Array | None],
        parameters: Parameters,
        state: State,
        tally: Tally,
    ) -> None:
        self.data, self.order, self.rows = data, None if data is None else order, rows
        self.parameters, self.state, self.tally = parameters, state, tally

    def key(self) -> tuple[int, ...]:
        """Return the addresses that may change from call to call."""
        state = self.state
        arrays = [*(self.data or ()), *self.rows, self.order]
        arrays += [self.parameters.flat, state.gradient.flat]
        arrays += [*state.slots, state.trainable, self.tally.total]
        return tuple(0 if array is None else array.data.ptr for array in arrays)


class _Captured:
    """A graph, and what its kernels read and write by address, so that it is not freed."""

    def __init__(self, graph: Any, held: Any) -> None:
        self.graph, self.held = graph, held


def steps_of_graph(model: Model, batch_size: int) -> int:
    """Return how many updates a graph holds: `STEPS`, or fewer whose rows fill its buffers."""
    numbers = batch_size * (model.sizes[0] + model.sizes[-1] + 1)
    return 1 << max(1, min(STEPS, _GATHERED // numbers)).bit_length() - 1
