"""A batch on several threads: each does part of its rows, then part of the update.

The rows and the parameters are split by fixed rules, and the parts' gradients are added up in
order: the same bits for the same number of threads. BLAS has one thread meanwhile.
"""

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from gpubackprop.backprop import State
from gpubackprop.buffers import Parameters
from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import amx
from gpubackprop.executors.compiled.choices import calls_blas, piece_rows
from gpubackprop.executors.compiled.formulas import FORMULAS, Program
from gpubackprop.executors.compiled.tables import Workspace, parameter_tables, position
from gpubackprop.threads import can_limit, run_all

#: A batch is split if it takes so many multiplications with additions, some milliseconds, and has
#: so many rows for each thread: each part's gradient is written and added up once more. On two
#: busy processors, together worth 1.0 to 1.4 of one in matrix products, two threads trained
#: 784-256-128-10 0.45 times as fast as one with 64 rows each, 0.75 with 128, 0.8 to 1.2 with 256.
SPLIT_PRODUCTS, SPLIT_ROWS = 1 << 26, 256
#: Parts of the rows and of the parameters begin at multiples of it.
ROWS_STEP, PARAMETERS_STEP = 32, 1024
#: Where a layer has so many weights, BLAS's own threads gain instead, from so many rows on: each
#: part would write and read gradients that are larger than a cache. In 1024-2048-2048-10 they were
#: 1.4 times as fast as two parts with 64 and 128 rows each, 1.1 times with 256 and 1,024 each.
LARGE_LAYER, LARGE_LAYER_ROWS = 1 << 20, 16
#: But with a matrix unit two parts with so many rows each were 1.5 times as fast as BLAS's threads.
LARGE_SPLIT_ROWS = 512


def parts_of(job: Job, loop: str) -> int:
    """Return how many threads share a batch; 1 for a job that would not gain."""
    n = job.batch_size
    # Clipping waits for the norm of the whole gradient, a penalised job's loss for the penalty.
    whole = job.penalised or job.optimizer.clip_norm is not None
    if loop != "direct" or n is None or whole or job.threads == 1 or not can_limit():
        return 1
    sizes = [m * k for m, k in job.model.layout.shapes]
    large = max(sizes) >= LARGE_LAYER
    if n * sum(sizes) * 3 < SPLIT_PRODUCTS or (large and not amx.usable(job.model.dtype)):
        return 1
    return max(1, min(job.threads, n // (LARGE_SPLIT_ROWS if large else SPLIT_ROWS)))


def blas_threads(job: Job, loop: str) -> int | None:
    """Return what BLAS is to be limited to; None where it may have all of the job's threads."""
    # Limiting takes as long as an epoch of a small network: not where BLAS has nothing to do.
    idle = loop == "fixed" or not calls_blas(job.model)
    if job.threads == 1 or idle or not can_limit():
        return None
    largest = max(m * k for m, k in job.model.layout.shapes)
    large = largest >= LARGE_LAYER and (job.batch_size or 0) >= LARGE_LAYER_ROWS
    return None if large and parts_of(job, loop) == 1 else 1


def bounds(n: int, parts: int, step: int) -> list[int]:
    """Return where each part of 0..n begins and the last ends: multiples of `step` but for n."""
    return [min(n, -(-n * i // (parts * step)) * step) for i in range(parts)] + [n]


class _Part:
    """What one thread needs for its rows: memory, a gradient and a sum of losses."""

    def __init__(self, job: Job, program: Program, n_rows: int, gradient: Parameters) -> None:
        self.workspace = Workspace(job.model, program, n_rows, job.dropout_seed)
        self.gradient, self.value = gradient, np.zeros(1)
        self._tables = parameter_tables(gradient, gradient)
        self.arguments = self.workspace.fixed | {
            "dW": position(self._tables["dW"]), "db": position(self._tables["db"]),
            "value": position(self.value), "g": position(gradient.flat),
        }  # fmt: skip


class Split:
    """Trains on batches with several threads.

    Parameters
    ----------
    job : Job
    program : Program
    parts : int
        >= 2.
    formulas : dict of str to int
        Addresses of `formulas.FORMULAS`.
    call : callable
        Runs the compiled loop, given its arguments by name.
    state : State
        Its gradient is the first part's.
    """

    def __init__(
        self,
        job: Job,
        program: Program,
        parts: int,
        formulas: dict[str, int],
        call: Callable[[dict[str, int]], None],
        state: State,
    ) -> None:
        self.job, self.state, self._call = job, state, call
        model, make = job.model, job.backend.zeros
        most = max(np.diff(bounds(job.batch_size or 1, parts, ROWS_STEP)))
        gradients = [state.gradient]
        while len(gradients) < parts:
            gradients.append(Parameters(model, make(model.layout.size, model.dtype)))
        n_rows = min(int(most), piece_rows(model))
        self._parts = [_Part(job, program, n_rows, gradient) for gradient in gradients]
        self._constants = self._parts[0].workspace.fixed["C"]
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
        """
        n_parts = len(self._parts)
        rows = bounds(stop - start, n_parts, ROWS_STEP)
        ranges = bounds(parameters.model.layout.size, n_parts, PARAMETERS_STEP)
        shared = whole | {"whole": stop - start, "last": 0, "plain": 0, "batch": 0,
                          "scalars": scalars, "scalars_step": 0, "steps": steps}  # fmt: skip

        def gradient(i: int) -> None:
            first, last, part = rows[i], rows[i + 1], self._parts[i]
            part.value[0] = 0.0
            if i:  # the loop adds to what is there, but for a batch's first rows
                part.gradient.flat.fill(0.0)
            if last > first:
                self._call(shared | part.arguments | {
                    "start": start + first, "stop": start + last, "batch_size": last - first,
                    "first": first,
                })  # fmt: skip

        def update(i: int) -> None:
            here = slice(ranges[i], ranges[i + 1])
            total = self._parts[0].gradient.flat[here]
            for part in self._parts[1:]:
                np.add(total, part.gradient.flat[here], out=total)
            self._update(here, scalars, parameters)

        for work in (gradient, update):
            run_all([functools.partial(work, i) for i in range(n_parts)])
        return float(sum(part.value[0] for part in self._parts))

    def _update(self, here: slice, scalars: int, parameters: Parameters) -> None:
        """Let the optimiser move a range of the flat parameters, as the loop's `update` does."""
        state, C, start = self.state, self._constants, here.start
        n_weights = max(0, min(here.stop, parameters.model.layout.n_weights) - start)
        g = state.gradient.flat[here]
        w, trainable = position(parameters.flat[here]), 0
        slots = np.array([position(slot) + start for slot in state.slots], np.int64)
        self._formulas["penalize"](w, position(g), scalars, n_weights, C)
        if state.trainable is not None:
            np.multiply(g, state.trainable[here], out=g)
            trainable = position(state.trainable[here])
        self._formulas["decay"](w, trainable, scalars, n_weights, C)
        self._formulas["step"](w, position(g), position(slots), scalars, g.size, C)
