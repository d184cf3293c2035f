"""How much sooner than eager the compiled executor ends: what `executor="auto"` goes by on NumPy.

A model of a few terms, each of which was measured on one core of a Xeon of 2023 with AVX-512: what
eager takes more than compiled. Products of matrices take as long in both, but where the processor
has a matrix unit.
"""

import numpy as np

from gpubackprop.backends import processor
from gpubackprop.executors.base import Job

#: Python's and NumPy's calls: of an update, and of each of its layers.
UPDATE_SECONDS, LAYER_SECONDS = 30e-6, 20e-6
#: Of each output of each layer and sample: passes over arrays that one loop does at once.
UNIT_SECONDS = 5e-9
#: Of each parameter and update: reading and writing the gradient and the weights once more.
PARAMETER_SECONDS = 0.4e-9
#: Of each multiplication with an addition that a matrix unit does: in layers of more units and
#: inputs than so many, from so many rows on. `compiled.choices` has the other rules, and is not
#: imported before it pays: left out are narrow layers of large batches, which gain little, and that
#: many threads of BLAS are as fast.
MULTIPLY_SECONDS, LEAST_UNITS, LEAST_ROWS = 4e-12, 64, 64
#: Loading LLVM's loader and machine code; importing Numba, which only compiling takes. They count
#: where they are loaded, too: a job's bits must not depend on what its process did before.
LOAD_SECONDS, IMPORT_SECONDS = 0.07, 1.0


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
    of_rows += MULTIPLY_SECONDS * job.n_samples * _multiplications(job)
    return job.epochs * (updates * of_update + of_rows)


def _multiplications(job: Job) -> int:
    """Return how many of a sample's a matrix unit does: three for each weight, two in layer 0."""
    few = (job.batch_size or 0) < LEAST_ROWS
    if few or job.model.dtype != np.float32 or not processor.has_matrix_unit():
        return 0
    return sum(
        m * n * (3 if l else 2)
        for l, (m, n) in enumerate(job.model.layout.shapes)
        if min(m, n) > LEAST_UNITS
    )
