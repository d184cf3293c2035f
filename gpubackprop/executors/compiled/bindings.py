"""What a loop over batches is told of a fit: where its arrays are, and each update's numbers."""

import numpy as np

from gpubackprop.backends import blas
from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.executors.base import Job, Progress
from gpubackprop.executors.compiled import cache, fixed_source
from gpubackprop.executors.compiled.choices import calls_blas, piece_rows
from gpubackprop.executors.compiled.formulas import FORMULAS, Program
from gpubackprop.executors.compiled.held_tables import HeldWorkspace, velocity_tables
from gpubackprop.executors.compiled.loaded import FixedLoop, LoadedLoop
from gpubackprop.executors.compiled.outer_step import BLOCK, write_outer_step
from gpubackprop.executors.compiled.plans import steps_outer
from gpubackprop.executors.compiled.tables import Memory, Workspace, parameter_tables, position
from gpubackprop.optimizers import Optimizer


class Bindings:
    """The arguments of a loop, and what they point at.

    Parameters
    ----------
    job : Job
    program : Program

    Attributes
    ----------
    formulas : dict of str to int
        Addresses of `formulas.FORMULAS`.
    sums : array of float64, shape (3,)
        The sum of losses, the first batch whose loss is not finite, or -1, and what the loop keeps.
    penalised : bool
        Whether penalties are part of the loss.
    """

    def __init__(self, job: Job, program: Program) -> None:
        self.job, self._program = job, program
        formulas = cache.load(program.text)
        self.formulas = {name: getattr(formulas, name).address for name in FORMULAS}
        self.sums, self._value = np.zeros(3), np.zeros(1)
        self._gemm = blas.gemm(job.model.dtype) if calls_blas(job.model) else 0
        self._workspace: Workspace | None = None
        self._held: HeldWorkspace | None = None
        self._memory: Memory | None = None
        optimizer = job.optimizer
        self.penalised = job.penalised and optimizer.penalty is not None
        self._same_scalars = not optimizer.schedule.per_update and (
            type(optimizer).scalars is Optimizer.scalars or not optimizer.scalar_names
        )
        self._limit = np.array([optimizer.clip_norm or 0.0], job.model.dtype)

    def written(
        self,
        loop: LoadedLoop | FixedLoop,
        batch_size: int,
        blas_threads: int,
        parameters: Parameters,
        state: State,
    ) -> dict[str, int]:
        """Return the arguments that do not change while the arrays are the same.

        Parameters
        ----------
        loop : LoadedLoop or FixedLoop
        batch_size : int
        blas_threads : int
            Those of BLAS meanwhile.
        parameters : Parameters
        state : State
        """
        job = self.job
        self._tables = parameter_tables(parameters, state.gradient)
        self._tables |= velocity_tables(state.slots, parameters)
        self._tables["slots"] = np.array([position(slot) for slot in state.slots], np.int64)
        return {
            **self._memory_of(loop.name, batch_size, blas_threads),
            **self.formulas, **self._outer_step(state),
            "K": position(loop.addresses), "clips": int(job.optimizer.clip_norm is not None),
            **{name: position(table) for name, table in self._tables.items()},
            "whole": 0, "first": 0, "last": 1,
            "plain": int(job.optimizer.plain and state.trainable is None),
            "value": position(self._value), "sums": position(self.sums),
            "f": self._gemm, "limit": position(self._limit), "tallies": int(self.penalised),
            "flat": position(parameters.flat), "g": position(state.gradient.flat),
            "trainable": position(state.trainable),
        }  # fmt: skip

    def _outer_step(self, state: State) -> dict[str, int]:
        """Return what the loop needs where it steps W while it computes its gradient."""
        job, n_weights = self.job, self.job.model.layout.n_weights
        if not steps_outer(job, masked=state.trainable is not None):
            return {"outer_step": 0, "outer_C": 0, "bias_slots": 0, "block": 0}
        dtype = job.model.dtype
        text, constants = write_outer_step(dtype, job.optimizer)
        self._tables["bias_slots"] = self._tables["slots"] + n_weights
        self._outer_constants = np.array([*constants, 0.0], dtype)
        return {
            "outer_step": cache.load(text).outer_step.address,
            "outer_C": position(self._outer_constants), "block": BLOCK,
        }  # fmt: skip

    def _memory_of(self, loop: str, batch_size: int, blas_threads: int) -> dict[str, int]:
        """Return where the memory of a batch is, made now or before."""
        job = self.job
        if loop == "held back":
            self._held = self._held or HeldWorkspace(job, self._program)
            return self._held.fixed
        if loop == "fixed":
            self._memory = Memory(job.model.dtype)
            return {"memory": self._memory.place(fixed_source.buffer_size(job.model))}
        n_rows = min(batch_size, piece_rows(job.model, blas_threads))
        if self._workspace is None or self._workspace.n_rows != n_rows:
            self._workspace = Workspace(
                job.model, self._program, n_rows, job.dropout_seed, blas_threads
            )
        return self._workspace.fixed

    def updates(
        self, n: int, n_rows: int, n_last: int, state: State, progress: Progress
    ) -> dict[str, int]:
        """Return what the loop is told of n updates: their numbers, and how many were before them.

        Parameters
        ----------
        n : int
        n_rows : int
            Of each update's batch but the last.
        n_last : int
            Of the last.
        state : State
        progress : Progress
        """
        optimizer, same = self.job.optimizer, self._same_scalars
        if self.penalised:
            same &= progress.weight_sums is None and n_last == n_rows
        table = []
        for i in range(1 if same else n):
            rate, rows = progress.learning_rate(progress.batch + i), n_rows if i < n - 1 else n_last
            share = progress.penalty_share(progress.batch + i, rows) if self.penalised else 1.0
            table.append((
                rate, rate * optimizer.weight_decay, share * optimizer.l2, share * optimizer.l1,
                rows, *optimizer.scalars(state.updates + 1 + i, rate),
            ))  # fmt: skip
        self._scalars = np.array(table).astype(self.job.model.dtype)
        return {
            "scalars": position(self._scalars), "scalars_step": 0 if same else len(table[0]),
            "steps": progress.steps, "batch": progress.batch,
        }  # fmt: skip
