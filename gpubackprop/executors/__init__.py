"""The registry of executors, and which one a job gets."""

from collections import UserDict
from importlib import import_module
from typing import Any

from gpubackprop.executors import cpu_cost, gpu_cost
from gpubackprop.executors.base import Executor, Job
from gpubackprop.executors.eager import Eager

__all__ = ["EXECUTORS", "Executor", "Job", "get"]


class _Registry(UserDict[str, Any]):
    """Executors by name. Each is the name of its class until it is first asked for: then its
    module, `gpubackprop.executors.<name>`, is imported.
    """

    def __getitem__(self, name: str) -> type[Executor]:
        kind = self.data[name]
        if isinstance(kind, str):
            kind = self.data[name] = getattr(import_module(f"{__name__}.{name}"), kind)
        executor: type[Executor] = kind
        return executor


#: The executors by name.
EXECUTORS = _Registry(eager="Eager", compiled="Compiled", graph="Graph", block="Block")


def get(executor: str, job: Job) -> Executor:
    """Return the executor for a job.

    Parameters
    ----------
    executor : str
        "auto" or a name in `EXECUTORS`.
    job : Job

    Raises
    ------
    ValueError
        If the name is unknown, or that executor cannot do the job; the message says why.
    """
    if executor == "auto":
        reason = refusal(choose(job), job)
        if reason:
            raise ValueError(f"no executor can do this job: {reason}")
        return choose(job)(job)
    if not isinstance(executor, str) or executor not in EXECUTORS:
        raise ValueError(f"executor must be one of auto, {', '.join(EXECUTORS)}, got {executor!r}")
    reason = refusal(EXECUTORS[executor], job)
    if reason:
        raise ValueError(f"executor {executor!r} cannot do this job: {reason}; use executor='auto'")
    return EXECUTORS[executor](job)


def refusal(kind: type[Executor], job: Job) -> str | None:
    """Return why an executor cannot do a job, in words; None if it can."""
    if job.precision is not None and kind is not Eager:
        return f"precision={job.precision!r} is for executor='eager'"
    return kind.refusal(job)


def choose(job: Job) -> type[Executor]:
    """Return the executor that "auto" means for a job: the one that is expected to end first."""
    if job.precision is not None:
        return Eager
    if not job.backend.host:
        return choose_on_gpu(job, job.backend.multiprocessors)
    saved = cpu_cost.seconds_saved(job)
    # LLVM is loaded only by a job that may be worth it.
    if saved < cpu_cost.LOAD_SECONDS:
        return Eager
    from gpubackprop.executors.compiled import Compiled

    return Compiled if Compiled.pays(job, saved) else Eager


def choose_on_gpu(job: Job, multiprocessors: int) -> type[Executor]:
    """Return what "auto" means on a GPU with so many multiprocessors; see `gpu_cost`."""
    from gpubackprop.executors.block import Block
    from gpubackprop.executors.graph import Graph, steps_of_graph

    n, n_samples = job.batch_size, job.n_samples
    if n is None or n_samples is None:
        return Eager
    updates = -(-n_samples // n)
    # (seconds of an update, seconds to begin); the first of equals is taken.
    expected: dict[type[Executor], tuple[float, float]] = {
        Eager: (gpu_cost.eager_seconds(job.model, n, multiprocessors), 0.0)
    }
    if Graph.refusal(job) is None:
        steps = min(updates, steps_of_graph(job.model, n))
        graph = gpu_cost.graph_seconds(job.model, n, multiprocessors, steps)
        expected[Graph] = graph, gpu_cost.BEGIN_SECONDS
    if Block.refusal(job) is None:
        expected[Block] = gpu_cost.block_seconds(job.model), gpu_cost.BEGIN_SECONDS
    updates *= job.epochs
    return min(expected, key=lambda kind: updates * expected[kind][0] + expected[kind][1])


def compile_seconds(executor: str, job: Job) -> float:
    """Return about how long the executor that a job gets compiles before its first batch; 0 if all
    of its code is there, or if it cannot do the job.

    Parameters
    ----------
    executor : str
        "auto" or a name in `EXECUTORS`.
    job : Job
    """
    kind = choose(job) if executor == "auto" else EXECUTORS.get(executor)
    if kind is None or kind.name != "compiled" or refusal(kind, job) is not None:
        return 0.0
    from gpubackprop.executors.compiled import Compiled

    return Compiled.seconds_to_begin(job)
