"""A batch on several threads: each does part of its rows, then part of the update.

The rows and the parameters are split by fixed rules, and the parts' gradients are added up in
order: the same bits for the same number of threads. BLAS has one thread meanwhile.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled.source import FORMULAS, Program
from gpubackprop.executors.compiled.tables import (
    Workspace,
    parameter_tables,
    piece_rows,
    position,
)
from gpubackprop.threads import can_limit, run_all

#: A batch is split if it takes so many multiplications with additions, some milliseconds, and has
#: so many rows for each thread: each part's gradient is written and added up once more.
SPLIT_PRODUCTS, SPLIT_ROWS = 1 << 26, 64
#: Parts of the rows and of the parameters begin at multiples of it.
ROWS_STEP, PARAMETERS_STEP = 32, 1024
#: Where a layer has so many weights, BLAS's own threads gain in batches that are not split.
LARGE_LAYER, LARGE_LAYER_ROWS = 1 << 20, 16


def parts_of(job: Job, loop: str) -> int:
    """Return how many threads share a batch; 1 for a job that would not gain."""
    n = job.batch_size
    if loop != "direct" or n is None or job.penalised or job.threads == 1 or not can_limit():
        return 1
    if n * sum(m * k for m, k in job.model.layout.shapes) * 3 < SPLIT_PRODUCTS:
        return 1
    return max(1, min(job.threads, n // SPLIT_ROWS))


def blas_threads(job: Job, parts: int) -> int | None:
    """Return what BLAS is to be limited to; None where it may have all of the job's threads."""
    if job.threads == 1 or not can_limit():
        return None
    largest = max(m * k for m, k in job.model.layout.shapes)
    rows = job.batch_size or 0
    return None if parts == 1 and largest >= LARGE_LAYER and rows >= LARGE_LAYER_ROWS else 1


def bounds(n: int, parts: int, step: int) -> list[int]:
    """Return where each part of 0..n begins and the last ends: multiples of `step` but for n."""
    return [min(n, -(-n * i // (parts * step)) * step) for i in range(parts)] + [n]


@dataclass
class _Part:
    """What one thread needs for its rows."""

    workspace: Workspace
    gradient: Parameters
    value: np.ndarray
    tables: dict[str, np.ndarray]


class Split:
    """Trains on batches with several threads.

    Parameters
    ----------
    job : Job
    program : Program
    parts : int
        >= 2.
    formulas : dict of str to int
        Addresses of `source.FORMULAS`.
    call : callable
        Runs the compiled loop, given its arguments by name.
    """

    def __init__(
        self,
        job: Job,
        program: Program,
        parts: int,
        formulas: dict[str, int],
        call: Callable[[dict[str, int]], None],
    ) -> None:
        self.job, self.n_parts, self._call = job, parts, call
        self._parts: list[_Part] = []
        self._program, self._n_rows = program, 0
        self._formulas = {
            name: ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(FORMULAS[name]))(formulas[name])
            for name in ("penalize", "decay", "step")
        }

    def batch(
        self,
        whole: dict[str, int],
        start: int,
        stop: int,
        scalars: int,
        steps: int,
        parameters: Parameters,
        state: State,
    ) -> float:
        """Do one update with the rows start..stop; returns the sum of their losses.

        Parameters
        ----------
        whole : dict of str to int
            Arguments of the loop that the parts share.
        start, stop : int
        scalars : int
            Position of the update's numbers.
        steps : int
            Updates that the network has had.
        parameters : Parameters
        state : State
        """
        n = stop - start
        rows = bounds(n, self.n_parts, ROWS_STEP)
        parts = self._prepared(max(b - a for a, b in zip(rows, rows[1:], strict=False)), state)
        shared = whole | {"whole": n, "last": 0, "plain": 0, "scalars": scalars, "scalars_step": 0,
                          "steps": steps, "batch": 0}  # fmt: skip

        def gradient(i: int) -> None:
            part, first, last = parts[i], rows[i], rows[i + 1]
            part.value[0] = 0.0
            if i:  # the loop adds to what is there, but for a batch's first rows
                part.gradient.flat.fill(0.0)
            if last > first:
                tables = {name: position(table) for name, table in part.tables.items()}
                self._call(shared | part.workspace.fixed | tables | {
                    "value": position(part.value), "start": start + first, "stop": start + last,
                    "batch_size": last - first, "first": first, "g": position(part.gradient.flat),
                })  # fmt: skip

        ranges = bounds(parameters.model.layout.size, self.n_parts, PARAMETERS_STEP)

        def update(i: int) -> None:
            here = slice(ranges[i], ranges[i + 1])
            total = parts[0].gradient.flat[here]
            for part in parts[1:]:
                np.add(total, part.gradient.flat[here], out=total)
            if self.job.optimizer.clip_norm is None:
                self._update(ranges[i], ranges[i + 1], scalars, parameters, state)

        run_all([lambda i=i: gradient(i) for i in range(self.n_parts)])
        run_all([lambda i=i: update(i) for i in range(self.n_parts)])
        limit = self.job.optimizer.clip_norm
        if limit is not None:  # by the norm of the whole gradient
            g = state.gradient.flat
            if state.trainable is not None:
                np.multiply(g, state.trainable, out=g)
            self.job.backend.clip_norm(g, limit, state.cell)
            self._update(0, g.size, scalars, parameters, state, masked=True)
        return float(sum(part.value[0] for part in parts))

    def _prepared(self, n_rows: int, state: State) -> list[_Part]:
        """Return each thread's memory; the first one's gradient is the state's."""
        if not self._parts or self._n_rows < n_rows:
            self._n_rows = n_rows
            model, chunk = self.job.model, min(n_rows, piece_rows(self.job.model))
            self._parts = []
            for i in range(self.n_parts):
                g = state.gradient
                if i:
                    g = Parameters(model, self.job.backend.zeros(model.layout.size, model.dtype))
                workspace = Workspace(model, self._program, chunk, self.job.dropout_seed)
                self._parts.append(_Part(workspace, g, np.zeros(1), {}))
        for part in self._parts:
            if not part.tables:
                part.tables = parameter_tables(part.gradient, part.gradient)
                part.tables = {name: part.tables[name] for name in ("dW", "db")}
        return self._parts

    def _update(
        self,
        start: int,
        stop: int,
        scalars: int,
        parameters: Parameters,
        state: State,
        *,
        masked: bool = False,
    ) -> None:
        """Let the optimiser move a range of the flat parameters, as the loop's `update` does."""
        n_weights = max(0, min(stop, parameters.model.layout.n_weights) - start)
        w, g = position(parameters.flat) + start, position(state.gradient.flat) + start
        trainable = 0 if state.trainable is None else position(state.trainable) + start
        slots = np.array([position(slot) + start for slot in state.slots], np.int64)
        C = self._parts[0].workspace.fixed["C"]
        if not masked:
            self._formulas["penalize"](w, g, scalars, n_weights, C)
            if state.trainable is not None:
                part = state.gradient.flat[start:stop]
                np.multiply(part, state.trainable[start:stop], out=part)
        self._formulas["decay"](w, trainable, scalars, n_weights, C)
        self._formulas["step"](w, g, position(slots), scalars, stop - start, C)
