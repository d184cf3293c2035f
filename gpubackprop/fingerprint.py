"""What a run was made with, as short texts: so that a resumed one can say what differs."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from gpubackprop.backends.base import Backend
from gpubackprop.data import Batches, Source
from gpubackprop.gather import Gather
from gpubackprop.model import Model
from gpubackprop.order import row_dtype

#: Data of up to so many numbers are looked at whole; of more, so many from evenly spaced rows.
_ELEMENTS = 2**22
#: Rows of a memory map that are looked at: each may be a seek on a disk.
_STREAMED_ROWS = 256
_BLOCK = 2**18


def of_data(
    source: Source | Batches, model: Model, backend: Backend, prefix: str = ""
) -> dict[str, str | None]:
    """Return the digests of X, Y and the weights, by the names of `fit`'s arguments.

    The numbers are taken as the network sees them, in its dtype: the same data from a file, from
    the host and from the device have the same digests. Of more than 4 million numbers a part is
    looked at.

    Parameters
    ----------
    source : Source or Batches
        Of batches nothing is known before they are read.
    model : Model
    backend : Backend
    prefix : str, optional
        Put before the names.
    """
    if isinstance(source, Batches):
        return {f"{prefix}X": "Batches", f"{prefix}Y": None, f"{prefix}sample_weight": None}
    gather, width = Gather(model, backend), model.sizes[0] + model.sizes[-1]
    rows = _sample(source, width)
    made = [
        hashlib.sha256(str((source.n_samples, n)).encode())
        for n in model.sizes[:: len(model.sizes) - 1]
    ]
    made.append(hashlib.sha256())
    step = max(1, _BLOCK // width)
    for start in range(0, len(rows), step):
        block = gather.rows(source, rows, start, min(start + step, len(rows)))
        for digest, array in zip(made, block, strict=True):
            if array is not None:
                digest.update(backend.to_numpy(array).tobytes())
    texts: list[str | None] = [digest.hexdigest()[:32] for digest in made]
    if not source.weighted:
        texts[2] = None
    names = (f"{prefix}{name}" for name in ("X", "Y", "sample_weight"))
    return dict(zip(names, texts, strict=True))


def _sample(source: Source, width: int) -> np.ndarray:
    """Return the rows that are looked at."""
    n = source.n_samples
    count = min(n, max(1, _ELEMENTS // width))
    if source.streamed:
        count = min(count, _STREAMED_ROWS)
    return np.linspace(0, n - 1, count).astype(row_dtype(n))


def of_array(array: np.ndarray | None) -> str | None:
    """Return the digest of an array on the host."""
    if array is None:
        return None
    return hashlib.sha256(array.tobytes()).hexdigest()[:32]


def of_settings(value: Any) -> str:
    """Return a text of an optimiser, a schedule or a rule: the same in every process.

    A function counts by its name alone. What is as it is by default is left out, so that a later
    version may have settings that this one has not.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = ", ".join(
            f"{field.name}={of_settings(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if field.name == "learning_rate" or getattr(value, field.name) != field.default
        )
        return f"{type(value).__name__}({inside})"
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    return repr(value)
