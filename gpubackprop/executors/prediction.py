"""Which code computes outputs: the backend's operations, or compiled code where it is had cheaply.

LLVM's loader takes 0.07 s to load, as long as thousands of rows take to predict one at a time, and
compiling takes seconds. So compiled code is used in a process in which the executor "compiled" has
trained, or which has predicted so much that loading it would have paid; and only if the cache has
it. A fit that compiles puts it there, as `gpubackprop warm` does. What has been predicted is
counted, not timed: the same calls on the same machine get the same bits.

The environment variable GPUBACKPROP_PREDICT = never or always decides instead: always compiles.
"""

import os
from typing import TYPE_CHECKING

from gpubackprop.backends.base import Backend
from gpubackprop.executors.cpu_cost import LOAD_SECONDS
from gpubackprop.model import Model

if TYPE_CHECKING:
    from gpubackprop.executors.compiled.predictor import Predictor

#: What compiled code saves, measured on one core of a Xeon of 2023 with AVX-512: of a call, of each
#: of its layers, and of each output of each layer and row.
CALL_SECONDS, LAYER_SECONDS, UNIT_SECONDS = 10e-6, 5e-6, 3e-9


class _Process:
    """What this process has done so far.

    Attributes
    ----------
    saved : float
        Seconds that compiled code would have saved.
    worth : bool
        Whether LLVM's loader is loaded, or worth it.
    version : int
        Changes where there may be compiled code that was not there before.
    """

    def __init__(self) -> None:
        self.saved, self.worth, self.version = 0.0, False, 0

    def count(self, seconds: float) -> None:
        self.saved += seconds
        if self.saved >= LOAD_SECONDS:
            begin()


_process = _Process()


def begin(*, more: bool = False) -> None:
    """Let this process predict by compiled code from now on.

    Parameters
    ----------
    more : bool, optional
        Whether code was compiled that the cache may have lacked.
    """
    if more or not _process.worth:
        _process.worth = True
        _process.version += 1


class Choice:
    """Chooses for one network, in one thread.

    Parameters
    ----------
    model : Model
    backend : Backend
    strict : bool, optional
        Whether parameters that are not finite are left to the backend.
    """

    def __init__(self, model: Model, backend: Backend, *, strict: bool = False) -> None:
        self.model, self._strict = model, strict
        self._on_numpy = backend.name == "numpy"
        self._of_call = CALL_SECONDS + LAYER_SECONDS * model.n_layers
        self._of_row = UNIT_SECONDS * sum(model.sizes[1:])
        self._found: Predictor | None = None
        self._counting, self._seen = False, -1

    def predictor(self, n_rows: int) -> "Predictor | None":
        """Return what computes the outputs of so many rows; None stands for the backend."""
        if self._counting:
            _process.count(self._of_call + self._of_row * n_rows)
        if self._seen != _process.version:
            self._seen = _process.version
            self._look()
        return self._found

    def _look(self) -> None:
        """Get the compiled code, if this is the time and it is there."""
        chosen = os.environ.get("GPUBACKPROP_PREDICT")
        if self._found is not None or chosen == "never" or not self._on_numpy:
            return
        self._counting = not (_process.worth or chosen == "always")
        if not self._counting:
            from gpubackprop.executors.compiled import predictor

            self._found = predictor.get(
                self.model, strict=self._strict, compiling=chosen == "always"
            )
