"""What the loop that keeps updates back is told about a network and its memory."""

import numpy as np

from gpubackprop.buffers import Parameters
from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import linear, plans
from gpubackprop.executors.compiled.choices import own_layers, tiles_beat_blas
from gpubackprop.executors.compiled.formulas import Program
from gpubackprop.executors.compiled.tables import (
    Memory,
    keeps_z,
    position,
    read_places,
    shared_tables,
)

#: Rows of the tables are so many numbers long, or a multiple: the rest, zeros, lets loops over rows
#: end without a remainder.
PITCH = 16


class HeldWorkspace(Memory):
    """Memory of the samples whose updates are kept back, and the table of the layers.

    Parameters
    ----------
    job : Job
    program : Program

    Attributes
    ----------
    fixed : dict of str to int
        Arguments of the compiled loop by their name.
    """

    def __init__(self, job: Job, program: Program) -> None:
        model = job.model
        super().__init__(model.dtype)
        k, units = plans.updates_back(model), model.sizes[1:]
        pitches = [-(-m // PITCH) * PITCH for m in units]
        x = [0, *(self.place(k * p) for p in pitches[:-1])]
        # A hidden layer's a is the next one's input, unless something is dropped in between.
        # The output's a has a place of its own too.
        dropped = [*(p > 0 for p in model.dropout), True]
        a = [self.place(p) if dropped[l] else x[l + 1] for l, p in enumerate(pitches)]
        keeps = keeps_z(model)
        z = [self.place(p) if keeps[l] else a[l] for l, p in enumerate(pitches)]
        steps = [0 if drops else p for p, drops in zip(pitches, dropped, strict=True)]
        z_steps = [0 if keeps[l] else step for l, step in enumerate(steps)]
        responses = linear.responses(job.optimizer, job.backend, k)
        widest = max(*pitches, model.sizes[0])
        n = model.sizes[0]
        own = [one or tiles_beat_blas() for one in own_layers(model)]
        self.fixed = {
            **shared_tables(self, model, program, job.dropout_seed),
            "x": self.table(x),
            "x_pitch": self.table([n, *pitches[:-1]]),
            "a": self.table(a), "a_step": self.table(steps),
            "z": self.table(z), "z_step": self.table(z_steps),
            "read": self.table(read_places(model, z, a)),
            "read_step": self.table(read_places(model, z_steps, steps)),
            "d": self.table([self.place(k * p) for p in pitches]),
            "d_pitch": self.table(pitches),
            "mask": self.table([self.place(p) for p in pitches]),
            "held": self.table(plans.held_layers(model, job.optimizer)),
            "own": self.table(own),
            "X_buffer": self.place(k * n), "Y_buffer": self.place(units[-1]),
            "Z": self.place(k * pitches[0]), "ZV": self.place(k * pitches[0]),
            "gram": self.place(k * k),
            "rates": self.place(k), "c": self.place(k), "spare": self.place(widest),
            "scaled": self.place(k * max(pitches)), "row": self.place(1),
            "one": self.numbers([1.0]), "back": k,
            **{name: self.numbers(numbers) for name, numbers in vars(responses).items()},
            "iota": self.hold(np.arange(max(k, *model.sizes), dtype=np.int32)),
            "ones": self.numbers([1.0, 1.0]),
            "ahead": self.ahead() if own[0] else 0,
            "rows_buffer": self.hold(np.empty(k, np.int32)),
        }  # fmt: skip


def velocity_tables(slots: list[np.ndarray], parameters: Parameters) -> dict[str, np.ndarray]:
    """Return where each layer's velocities of W and b are; 0 if there are none."""
    n = parameters.model.n_layers
    if not slots:
        return {"V": np.zeros(n, np.int64), "vb": np.zeros(n, np.int64)}
    velocity = Parameters(parameters.model, slots[0])
    return {
        name: np.array([position(array) for array in arrays], np.int64)
        for name, arrays in (("V", velocity.weights), ("vb", velocity.biases))
    }
