"""How much sooner than eager the compiled executor ends: what `executor="auto"` goes by on NumPy.

A model of a few terms, each of which was measured on one core of a Xeon of 2023 with AVX-512: what
eager takes more than compiled. Products of matrices take as long in both.
"""

from gpubackprop.executors.base import Job

#: Python's and NumPy's calls: of an update, and of each of its layers.
UPDATE_SECONDS, LAYER_SECONDS = 30e-6, 20e-6
#: Of each output of each layer and sample: passes over arrays that one loop does at once.
UNIT_SECONDS = 5e-9
#: Of each parameter and update: reading and writing the gradient and the weights once more.
PARAMETER_SECONDS = 0.4e-9
#: Importing Numba and SciPy. It counts where they are loaded, too: a job's bits must not depend on
#: what its process did before.
IMPORT_SECONDS = 1.0


def seconds_saved(job: Job) -> float:
    """Return about how much sooner than eager the compiled executor ends once it has begun; 0 where
    the numbers of rows are not known.
    """
    if job.n_samples is None or job.batch_size is None:
        return 0.0
    layout, updates = job.model.layout, -(-job.n_samples // job.batch_size)
    of_update = UPDATE_SECONDS + LAYER_SECONDS * job.model.n_layers
    of_update += PARAMETER_SECONDS * layout.size
    of_rows = UNIT_SECONDS * job.n_samples * sum(job.model.sizes[1:])
    return job.epochs * (updates * of_update + of_rows)
