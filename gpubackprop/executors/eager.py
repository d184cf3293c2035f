"""The eager executor: the operations one by one, on any backend. The readable reference."""

import numpy as np

from gpubackprop import backprop
from gpubackprop.backprop import Dropping, State
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.data import Source
from gpubackprop.executors.base import Job, Progress, Tally, batches_per_block
from gpubackprop.executors.resident import Resident
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.types import Array

#: Bytes of a and delta of the rows that go through a network at once, and the least of such rows:
#: what a larger workspace costs in page faults and cache misses is up to a tenth of a batch's time
#: (784-1024-1024-10), and for fewer rows BLAS would pack W too often.
_PIECE_BYTES, _PIECE_ROWS = 8 << 20, 1024
#: Pieces of a batch from which they pay: their gradient is added up, and W is stepped by itself.
_PIECES = 4


def _piece_rows(model: Model) -> int:
    """Return how many rows of a large batch go through a network at once: a power of two."""
    row = 2 * sum(model.sizes[1:]) * model.dtype.itemsize
    return 1 << max(_PIECE_BYTES // row, _PIECE_ROWS).bit_length() - 1


class Eager:
    """See `gpubackprop.executors.base.Executor`."""

    name = "eager"
    on_host: bool | None = None

    def __init__(self, job: Job) -> None:
        self.job = job
        self._workspace: Workspace | None = None
        self._second: Parameters | None = None
        self._part = job.backend.zeros((1,), "float64")
        self._piece_rows = _piece_rows(job.model)
        self._gather = Gather(job.model, job.backend)
        self._resident = Resident(job.model, job.backend)
        # On a GPU, fused passes take the place of the operations.
        self.fused = job.backend.step(
            job.model,
            job.optimizer,
            job.dropout_seed,
            penalised=job.penalised,
            precision=job.precision,
        )

    @staticmethod
    def refusal(job: Job) -> str | None:
        """Return why this job cannot be done, in words; None if it can: all of full precision."""
        if job.precision is None:
            return None
        if job.backend.host or job.backend.plain:
            return f"precision={job.precision!r} needs backend='cupy', not {job.backend.name!r}"
        if job.model.dtype != np.float32:
            return (
                f"precision={job.precision!r} needs dtype='float32', not {job.model.dtype.name!r}"
            )
        return job.backend.lacks(job.precision)

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
        block = batch_size * batches_per_block(self.job.model, batch_size)
        for i in range(start, stop, block):
            rows = min(block, stop - i)
            if self.fused is not None:
                self.begin(source, i, rows, batch_size, state, progress)
            if batch_size <= backprop.SLICE:
                X, Y, w = self._rows(source, order, i, rows)
            for k in range(0, rows, batch_size):
                n = min(batch_size, rows - k)
                dropping = self._dropping(progress)
                if batch_size <= backprop.SLICE:
                    part = slice(k, k + n)
                    w_part = None if w is None else w[part]
                    rate = self._descent_rate(state, progress)
                    out = state.gradient if rate is None else parameters
                    self._gradient(
                        X[part], Y[part], w_part, 1.0 / n, parameters, out, dropping, tally.value,
                        rate,
                    )  # fmt: skip
                else:
                    self.batch_gradient(source, order, i + k, n, parameters, state, dropping, tally)
                self._finish(n, parameters, state, progress, tally)

    def _descent_rate(self, state: State, progress: Progress) -> float | None:
        """Return the learning rate if the update can be part of the gradient's products."""
        job = self.job
        if not (job.backend.descends and job.optimizer.plain and state.trainable is None):
            return None
        n = job.batch_size
        whole = n is not None and n <= backprop.SLICE and self._rows_at_once(n) == n
        return progress.learning_rate(progress.batch) if whole else None

    def _rows(
        self, source: Source, order: Array | None, start: int, n: int
    ) -> tuple[Array, Array, Array | None]:
        """Return n rows of X, Y and the weights: gathered in one launch, if they are on a GPU."""
        if self.fused is None or order is None or not self.job.backend.owns(order):
            return self._gather.rows(source, order, start, start + n)
        data = self._resident.of(source)
        if data is None:
            return self._gather.rows(source, order, start, start + n)
        rows = self._resident.buffers(n, source.weighted)
        self.fused.gather(data, order, rows)
        return rows

    def _finish(
        self, n: int, parameters: Parameters, state: State, progress: Progress, tally: Tally
    ) -> None:
        """Record the loss of a batch of n rows and update, if the gradient's products did not."""
        job, share = self.job, 1.0
        if self.fused is not None:
            self.fused.update(parameters, state.gradient, state.slots, state.trainable, n, tally)
            state.updates += 1
        else:
            job.backend.record(tally.value, progress.batch, tally.total, tally.first_bad)
            if job.penalised and job.optimizer.penalty is not None:
                share = progress.penalty_share(progress.batch, n)
                l1, l2 = job.optimizer.l1, job.optimizer.l2
                W = parameters.flat_weights
                job.backend.add_penalty(W, n * share * l1, n * share * l2, tally.total)
            if self._descent_rate(state, progress) is not None:
                state.updates += 1  # done with the gradient
            else:
                rate = progress.learning_rate(progress.batch)
                backprop.update(job.backend, job.optimizer, parameters, state, rate, share)
        progress.batch += 1
        progress.steps += 1

    def _gradient(
        self,
        X: Array,
        Y: Array,
        w: Array | None,
        scale: float,
        parameters: Parameters,
        out: Parameters,
        dropping: Dropping | None,
        loss: Array,
        rate: float | None = None,
    ) -> None:
        """Write `scale` times the gradient of some rows' summed loss into `out`, and that sum; with
        a rate, step `out`, which are the parameters, by it instead.
        """
        backend, model, n = self.job.backend, self.job.model, len(X)
        at_once = self._rows_at_once(n)
        if self.fused is not None:
            ws, row = self.workspace(n), None if dropping is None else dropping.first
            self.fused.gradient(X, Y, w, scale, parameters, ws, out, loss, row)
            return
        for first in range(0, n, at_once):
            part = slice(first, first + at_once)
            w_part = None if w is None else w[part]
            if first:
                rate = -1.0  # added to what the first piece has written
                if dropping is not None:
                    dropping = Dropping(dropping.seed, dropping.step, dropping.first + at_once)
            x, y, value = X[part], Y[part], self._part if first else loss
            ws = self.workspace(len(x))
            backprop.forward(backend, model, parameters, x, ws, dropping)
            backend.loss(model, ws, y, w_part, value)
            backprop.gradient(
                backend, model, parameters, x, y, w_part, scale, ws, out, dropping, rate
            )
            if first:
                backend.add(value, loss)

    def _rows_at_once(self, n: int) -> int:
        pieces = self.job.backend.descends and n >= _PIECES * self._piece_rows
        return self._piece_rows if pieces else n

    def workspace(self, n: int) -> Workspace:
        """Return a workspace of n rows."""
        if self._workspace is None or self._workspace.n_rows < n:
            self._workspace = Workspace(
                self.job.model, n, self.job.backend, compact=self.fused is None
            )
        return self._workspace.rows(n)

    def batch_gradient(
        self,
        source: Source,
        order: Array | None,
        start: int,
        n: int,
        parameters: Parameters,
        state: State,
        dropping: Dropping | None,
        tally: Tally,
        scale: float | None = None,
    ) -> None:
        """Write one batch's gradient into ``state.gradient`` and its loss into ``tally.value``.

        A batch larger than `backprop.SLICE` is done in slices, added up in order. The gradient is
        `scale` times that of the summed loss, by default that of the mean.
        """
        backend = self.job.backend
        if self._second is None:
            self._second = Parameters(
                parameters.model, backend.zeros(parameters.flat.shape, parameters.model.dtype)
            )
        for first in range(0, n, backprop.SLICE):
            X, Y, w = self._gather.rows(
                source, order, start + first, start + min(first + backprop.SLICE, n)
            )
            out, loss = (self._second, tally.part) if first else (state.gradient, tally.value)
            if dropping is not None:
                dropping = Dropping(dropping.seed, dropping.step, first)
            part = 1.0 / n if scale is None else scale
            self._gradient(X, Y, w, part, parameters, out, dropping, loss)
            if first:
                backend.add(self._second.flat, state.gradient.flat)
                backend.add(tally.part, tally.value)

    def begin(
        self,
        source: Source,
        start: int,
        rows: int,
        batch_size: int,
        state: State,
        progress: Progress,
    ) -> None:
        """Tell the fused passes what the updates of the next rows need."""
        n, fused = source.n_samples, self.fused

        def share(batch: int) -> float:
            return progress.penalty_share(batch, min(batch_size, n - batch * batch_size))

        fused.scalars.begin(
            -(-rows // batch_size), -(-(n - start) // batch_size),
            state.updates, progress.steps, progress.batch, start,
            progress.learning_rate, share if fused.penalised else None,
        )  # fmt: skip

    def _dropping(self, progress: Progress) -> Dropping | None:
        if not any(self.job.model.dropout):
            return None
        return Dropping(self.job.dropout_seed, progress.steps)
