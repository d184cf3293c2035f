"""The registry of executors, and which one a job gets."""

from gpubackprop.executors.base import Executor, Job
from gpubackprop.executors.compiled import Compiled
from gpubackprop.executors.eager import Eager

__all__ = ["EXECUTORS", "Executor", "Job", "get"]

#: The executors by name.
EXECUTORS: dict[str, type[Executor]] = {executor.name: executor for executor in (Eager, Compiled)}


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
        return choose(job)(job)
    if not isinstance(executor, str) or executor not in EXECUTORS:
        raise ValueError(f"executor must be one of auto, {', '.join(EXECUTORS)}, got {executor!r}")
    reason = EXECUTORS[executor].refusal(job)
    if reason:
        raise ValueError(f"executor {executor!r} cannot do this job: {reason}; use executor='auto'")
    return EXECUTORS[executor](job)


def choose(job: Job) -> type[Executor]:
    """Return the executor that "auto" means for a job."""
    return Eager
