"""Networks as files: safetensors with a format version. Loading runs no code.

A file holds the tensors ``W0, b0, W1, b1, ...`` (unpadded, (n_out, n_in) and (n_out,)) and, as text
in its header, ``format`` "gpubackprop", ``format_version`` and ``model``: JSON of the sizes, the
dtype, the dropout, and of each activation and the loss their names, formulas and parameters.
Formulas are parsed on loading, as all are; nothing is executed.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop import losses
from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.buffers import Parameters
from gpubackprop.model import Model

#: Version that is written. A file of a newer one is refused.
FORMAT_VERSION = 1
_FORMAT = "gpubackprop"


def save(model: Model, parameters: Parameters, path: str | os.PathLike[str]) -> None:
    """Write a network to a file: under a temporary name, synced, then renamed.

    After a crash the old file or the new one is there, never a part of one.

    Parameters
    ----------
    model : Model
    parameters : Parameters
        As NumPy arrays.
    path : path-like

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    numpy = _safetensors()
    tensors = {f"W{l}": np.ascontiguousarray(W) for l, W in enumerate(parameters.weights)}
    tensors |= {f"b{l}": b.copy() for l, b in enumerate(parameters.biases) if b is not None}
    metadata = {
        "format": _FORMAT,
        "format_version": str(FORMAT_VERSION),
        "model": json.dumps(_describe(model), allow_nan=False),
    }
    _write(Path(path), numpy.save(tensors, metadata=metadata))


def load(path: str | os.PathLike[str]) -> tuple[Model, dict[str, np.ndarray]]:
    """Read a network from a file.

    Returns
    -------
    model : Model
    tensors : dict of str to array
        ``W0, b0, ...``, of the model's dtype and shapes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, foreign, damaged, or of a newer format version; the message says which.
    """
    numpy = _safetensors()
    data = Path(path).read_bytes()
    header = _header(data, path)
    try:
        tensors = numpy.load(data)
    except (
        Exception
    ) as error:  # safetensors has errors of its own, and KeyErrors for foreign dtypes
        raise ValueError(f"{path} is damaged: {error}") from None
    try:
        model = _build(json.loads(header["model"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its description of the network: {error}") from None
    _check(model, tensors, path)
    return model, tensors


# ---- reading
# ----------------------------------------------------------------------------------------


def _header(data: bytes, path: Any) -> dict[str, str]:
    """Return the text in a file's header, once it is known to be one of ours that can be read."""
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else 0
    if not data[8:9] == b"{":
        raise ValueError(f"{path} is no gpubackprop file: it is no safetensors file")
    if length > len(data) - 8:
        raise ValueError(
            f"{path} is truncated: it has {len(data)} bytes, its header alone {length}"
        )
    try:
        header = json.loads(data[8 : 8 + length])
        text = header.get("__metadata__") or {}
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(f"{path} is damaged: its header cannot be read") from None
    if text.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is no gpubackprop file: its format is {text.get('format', 'not given')!r}"
        )
    expected = 8 + length + max(ends, default=0)
    if len(data) != expected:
        what = "truncated" if len(data) < expected else "damaged"
        raise ValueError(f"{path} is {what}: it has {len(data)} bytes, its header says {expected}")
    version = text.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version!r}; this gpubackprop reads up to "
            f"{FORMAT_VERSION}: upgrade it"
        )
    return dict(text)


def _check(model: Model, tensors: dict[str, np.ndarray], path: Any) -> None:
    """Compare the tensors with the model."""
    wanted: dict[str, tuple[int, ...]] = {}
    for l, shape in enumerate(model.layout.shapes):
        wanted[f"W{l}"] = shape
        if model.bias[l]:
            wanted[f"b{l}"] = shape[:1]
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != wanted:
        raise ValueError(f"{path} is damaged: it should hold {wanted}, and holds {found}")
    for name, tensor in tensors.items():
        if tensor.dtype != model.dtype:
            raise ValueError(f"{path} is damaged: {name} is {tensor.dtype}, not {model.dtype}")


# ---- description
# ------------------------------------------------------------------------------------


def _describe(model: Model) -> dict[str, Any]:
    return {
        "sizes": model.sizes,
        "dtype": model.dtype.name,
        "bias": model.bias,
        "dropout": model.dropout,
        "activations": [
            {"name": a.name, "f": a.f, "df": a.df, "parameters": dict(a.parameters)}
            for a in model.activations
        ],
        "loss": model.loss.state(),
    }


def _build(text: dict[str, Any]) -> Model:
    dtype = np.dtype(str(text["dtype"]))
    if dtype.name not in ("float32", "float64"):
        raise ValueError(f"dtype {dtype}")
    return Model(
        sizes=tuple(int(size) for size in text["sizes"]),
        activations=tuple(_activation(entry) for entry in text["activations"]),
        loss=losses.rebuild(dict(text["loss"])),
        bias=tuple(bool(one) for one in text["bias"]),
        dropout=tuple(float(p) for p in text["dropout"]),
        dtype=dtype,
    )


def _activation(entry: dict[str, Any]) -> Activation:
    """Make an activation of its description; one of the table's is known by its name."""
    if entry["name"] in ACTIVATIONS:
        return ACTIVATIONS[entry["name"]](**entry["parameters"])
    return Activation(entry["name"], entry["f"], entry["df"], **entry["parameters"])


# ---- writing
# ----------------------------------------------------------------------------------------


def _write(path: Path, data: bytes) -> None:
    """Replace a file by another, or leave it as it was."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the renaming itself must reach the disk
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mode(path: Path) -> int:
    """Return the permissions of a file that is replaced, or those of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _safetensors() -> Any:
    try:
        from safetensors import numpy
    except ImportError:
        raise ImportError(
            "safetensors is not installed; install it with: python -m pip install safetensors"
        ) from None
    return numpy
