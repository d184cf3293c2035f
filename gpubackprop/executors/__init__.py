"""The registry of executors, and which one a job gets."""

from gpubackprop.executors.base import Executor, Job
from gpubackprop.executors.compiled import Compiled
from gpubackprop.executors.eager import Eager
from gpubackprop.executors.graph import Graph

__all__ = ["EXECUTORS", "Executor", "Job", "get"]

#: The executors by name.
EXECUTORS: dict[str, type[Executor]] = {
    executor.name: executor for executor in (Eager, Compiled, Graph)
}

#: What eager takes more than compiled: at an update, and at each of its layers. And importing Numba
#: and SciPy. Measured on one core of a Xeon of 2023.
UPDATE_SECONDS, LAYER_SECONDS, IMPORT_SECONDS = 30e-6, 20e-6, 1.0


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
    """Return the executor that "auto" means for a job: the one that is expected to end first."""
    saved = seconds_saved(job)
    # Numba is imported only by a job that may be worth it.
    if saved < IMPORT_SECONDS or Compiled.refusal(job) is not None:
        return Eager
    return Compiled if saved > IMPORT_SECONDS + Compiled.seconds_to_begin(job) else Eager


def seconds_saved(job: Job) -> float:
    """Return about how much sooner than eager the compiled executor ends once it has begun.

    What it saves are Python and NumPy's calls: some at each update, some at each layer. In large
    batches of large layers, where BLAS takes all the time, that is next to nothing.
    """
    if job.n_samples is None or job.batch_size is None or not job.backend.host:
        return 0.0
    updates = -(-job.n_samples // job.batch_size) * job.epochs
    return updates * (UPDATE_SECONDS + LAYER_SECONDS * job.model.n_layers)
