"""The files of this package: safetensors with a format version and text in the header.

A file is written whole or not at all, and checked before anything of the size that it declares is
allocated. Reading runs no code: the header is JSON, the rest are numbers.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

#: Version that is written. A file of a newer one is refused.
FORMAT_VERSION = 1
_FORMAT = "gpubackprop"
#: Bytes of a header, beyond which safetensors refuses a file.
LARGEST_HEADER = 100_000_000
#: Of files that are being written.
_PARTIAL = ".partial"

#: Safetensors' name of the dtype, and the shape, of each tensor of a file.
Shapes: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
PathLike: TypeAlias = str | os.PathLike[str]

_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}
#: What a JSON text that is not what it should be ends in.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)


def shape_of(dtype: Any, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Return a tensor's entry in `Shapes`."""
    return _DTYPES[np.dtype(dtype).name], tuple(shape)


# ---- writing -------------------------------------------------------------------------------------


def write(path: PathLike, tensors: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
    """Write a file: under a temporary name, synced, then renamed.

    After a crash the old file or the new one is there, never a part of one.

    Parameters
    ----------
    path : path-like
    tensors : dict of str to C-contiguous array
    text : dict of str to str

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If the header is longer than readers accept.
    """
    metadata = {"format": _FORMAT, "format_version": str(FORMAT_VERSION), **text}
    save_file = _safetensors().save_file

    def fill(name: str) -> None:
        save_file(dict(tensors), name, metadata=metadata)
        with open(name, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(
                f"labels, names and preprocessing must take less than {LARGEST_HEADER:,} bytes "
                f"together, got {length:,}"
            )

    _replace(Path(path), fill)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write a file of another kind in the same way."""
    _replace(Path(path), lambda name: Path(name).write_bytes(data))


def _replace(path: Path, fill: Callable[[str], object]) -> None:
    """Replace a file by one that `fill` writes, or leave it as it was."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
    os.close(handle)
    try:
        fill(name)
        with open(name, "rb+") as file:
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


def remove_partial(path: PathLike) -> None:
    """Remove what a killed process has left behind while it wrote a file of this name."""
    path = Path(path)
    for left in path.parent.glob(f".{_escaped(path.name)}.*{_PARTIAL}"):
        left.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    """Return a name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


# ---- reading -------------------------------------------------------------------------------------


def read(
    path: PathLike, expected: Callable[[dict[str, str]], Shapes]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read a file that `write` wrote.

    Parameters
    ----------
    path : path-like
    expected : callable
        Takes the header's text, and returns what the file must then hold. What it raises for a text
        that is not what it should be is raised as a ValueError.

    Returns
    -------
    text : dict of str to str
    tensors : dict of str to array

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, foreign, damaged, oversized, or of a newer format version; the message
        says which.
    """
    with open(path, "rb") as file:
        head, header, size = _header(file, path)
        text = _text(header, path)
        _check_size(header, len(head), size, path)
        try:
            wanted = expected(text)
        except MALFORMED as error:
            what = f"nothing is said of {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} is damaged: its description: {what}") from None
        _check_shapes(header, wanted, path)
        data = head + file.read(size - len(head))
    try:
        return text, _safetensors().load(data)
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(f"{path} is damaged: {error}") from None


def _header(file: BinaryIO, path: Any) -> tuple[bytes, dict[str, Any], int]:
    """Return the first bytes of a file, the header in them, and the file's size."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    if start[8:] != b"{":
        raise ValueError(f"{path} is no gpubackprop file: it is no safetensors file")
    length = int.from_bytes(start[:8], "little")
    if length > size - 8:
        raise ValueError(f"{path} is truncated: it has {size} bytes, its header alone {length}")
    if length > LARGEST_HEADER:
        raise ValueError(
            f"{path} is oversized: its header has {length:,} bytes, of {LARGEST_HEADER:,} at most"
        )
    head = start + file.read(length - 1)
    try:
        header = json.loads(head[8:])
        for name, entry in header.items():
            if name != "__metadata__":
                _ = entry["dtype"], int(entry["data_offsets"][1]), tuple(entry["shape"])
    except MALFORMED:
        raise ValueError(f"{path} is damaged: its header cannot be read") from None
    return head, header, size


def _text(header: dict[str, Any], path: Any) -> dict[str, str]:
    """Return the text in a header, once it is known to be one of ours that can be read."""
    text = header.get("__metadata__") or {}
    if not isinstance(text, dict) or text.get("format") != _FORMAT:
        found = text.get("format", "not given") if isinstance(text, dict) else text
        raise ValueError(f"{path} is no gpubackprop file: its format is {found!r}")
    version = str(text.get("format_version", ""))
    if not (version.isascii() and version.isdigit()) or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version!r}; this gpubackprop reads up to "
            f"{FORMAT_VERSION}: upgrade it"
        )
    return dict(text)


def _check_size(header: dict[str, Any], length: int, size: int, path: Any) -> None:
    """Compare the size that a header declares with the file's."""
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    declared = length + max(ends, default=0)
    if size != declared:
        what = "truncated" if size < declared else "damaged"
        raise ValueError(f"{path} is {what}: it has {size} bytes, its header says {declared}")


def _check_shapes(header: dict[str, Any], wanted: Shapes, path: Any) -> None:
    """Compare the tensors that a header declares with those that there must be."""
    found = {
        name: (entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} is damaged: it should hold {_show(name, wanted)}, "
                f"and holds {_show(name, found)}"
            )


def _show(name: str, tensors: Shapes) -> str:
    """Describe one tensor for a message."""
    if name not in tensors:
        return f"no {name}"
    dtype, shape = tensors[name]
    return f"{name} of shape {shape} in {dtype}"


def _safetensors() -> Any:
    try:
        from safetensors import numpy
    except ImportError:
        raise ImportError(
            "safetensors is not installed; install it with: python -m pip install safetensors"
        ) from None
    return numpy
