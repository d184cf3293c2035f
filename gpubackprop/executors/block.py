"""The block executor, on CuPy arrays: SGD with thousands of samples in one launch."""

from gpubackprop.backends.cuda import block
from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.data import Source
from gpubackprop.executors.base import Job, Progress, Tally
from gpubackprop.gather import Gather
from gpubackprop.types import Array

#: Numbers of the rows that are gathered at once, where data are not on the device as they are.
_GATHERED = 1 << 22


class Block:
    """See `gpubackprop.executors.base.Executor`.

    For a batch size of 1. Parameters, slots and everything between are in one multiprocessor's
    shared memory while a launch lasts; one launch takes up to `backends.cuda.block.SAMPLES`
    samples, and the host does nothing between them.
    """

    name = "block"
    on_host: bool | None = False

    def __init__(self, job: Job) -> None:
        self.job = job
        self._penalised = job.penalised and job.optimizer.penalty is not None
        self._block = block.Block(
            job.backend, job.model, job.optimizer, job.dropout_seed, self._penalised
        )
        self._gather = Gather(job.model, job.backend)

    @staticmethod
    def refusal(job: Job) -> str | None:
        """Return why this job cannot be done, in words; None if it can."""
        model, optimizer = job.model, job.optimizer
        if job.backend.host or job.backend.plain:
            return f"it runs on the backend 'cupy' alone, not on {job.backend.name!r}"
        if job.batch_size != 1:
            return f"it updates after every sample, so batch_size must be 1, not {job.batch_size}"
        if optimizer.expression.arguments != ("g",):
            return f"the update of {type(optimizer).__name__} reads more than the gradient"
        if model.n_layers > block.MAX_LAYERS:
            return f"its table has {block.MAX_LAYERS} layers, and the network {model.n_layers}"
        needed = block.plan(model, optimizer, job.dropout_seed).nbytes
        limit = block.shared_limit(job.backend)
        if needed > limit:
            slots = " with the optimiser's slots" if optimizer.slots else ""
            return (
                f"the network{slots} takes {needed:,} bytes of a multiprocessor's shared memory, "
                f"and a block of this device can have {limit:,}"
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

        def share(batch: int) -> float:
            return progress.penalty_share(batch, 1)

        data, most = source.on_device(), block.SAMPLES
        if data is None:
            numbers = sum(self.job.model.sizes[:: self.job.model.n_layers])
            most = 1 << max(1, min(most, _GATHERED // numbers)).bit_length() - 1
        for first in range(start, stop, most):
            n = min(most, stop - first)
            self._block.scalars.begin(
                n, source.n_samples - first, state.updates, progress.steps, progress.batch, first,
                progress.learning_rate, share if self._penalised else None,
            )  # fmt: skip
            if data is None:
                rows = self._gather.rows(source, order, first, first + n), None, 0
            else:
                rows = data, order, first
            self._block.launch(*rows, n, parameters.flat, state.slots, state.trainable, tally)
            state.updates += n
            progress.batch += n
            progress.steps += n
