"""Tables in NumPy's files, read by memory map."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpubackprop.tables.chunks import ArrayChunk

#: Elements that are read at once.
_BLOCK = 2**20


class ArrayTable:
    """See `Table`: an .npy file of rows, or an .npz file with X and one array per other column."""

    named = False

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            arrays = _npz(path) if path.lower().endswith(".npz") else {"X": _npy(path)}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"DATA {path!r} cannot be read: {error}") from None
        names = {name.lower(): name for name in arrays}
        if "x" not in names:
            raise ValueError(
                f"DATA {path!r} must hold an array X, got {', '.join(arrays) or 'none'}; save it "
                "with numpy.savez(path, X=..., Y=...)"
            )
        X = arrays.pop(names["x"])
        if X.ndim < 2 or X.dtype.kind not in "buif" or not X.size:
            raise ValueError(
                f"X in {path} must hold numbers, one row a sample, got shape {X.shape} and dtype "
                f"{X.dtype}"
            )
        self._X = X.reshape(len(X), -1)
        for name, array in arrays.items():
            if array.shape != (len(X),):
                raise ValueError(
                    f"{name} in {path} must be one value for each of {len(X)} rows of X, "
                    f"got shape {array.shape}"
                )
        self._others = arrays
        self.names = (*(str(i) for i in range(self._X.shape[1])), *arrays)
        self._texts: set[str] = set()

    def kind(self, name: str) -> str:
        """See `Table.kind`."""
        if name in self._texts:
            return "text"
        dtype = self._others[name].dtype if name in self._others else self._X.dtype
        return {"U": "text"}.get(dtype.kind, "number" if dtype.kind in "buif" else str(dtype))

    def default_target(self) -> str | None:
        """See `Table.default_target`: Y, if there is one."""
        return next((name for name in self._others if name.lower() == "y"), None)

    def expect(self, numbers: Sequence[str], texts: Sequence[str], *, firm: bool = True) -> None:
        """See `Table.expect`."""
        self._texts |= set(texts)
        for name in numbers:
            if self.kind(name) != "number":
                raise ValueError(f"column {name!r} of {self.path} must hold numbers, not text")

    def chunks(self, columns: Sequence[str]) -> Iterator[ArrayChunk]:
        """See `Table.chunks`."""
        n, width = self._X.shape
        rows = max(1, _BLOCK // width)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            X = np.asarray(self._X[part])
            yield ArrayChunk(
                {
                    name: self._others[name][part] if name in self._others else X[:, int(name)]
                    for name in columns
                },
                range(start, start + len(X)),
            )


def _npy(path: str) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _npz(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file: mapped where they are stored as they are."""
    arrays = {}
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as loaded:
        for name in loaded.files:
            entry = archive.NameToInfo.get(f"{name}.npy")
            mapped = None if entry is None else _mapped(path, entry)
            arrays[name] = loaded[name] if mapped is None else mapped
    return arrays


def _mapped(path: str, entry: zipfile.ZipInfo) -> np.ndarray | None:
    """Map an uncompressed member of a zip file; None if it is compressed, or cannot be mapped."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        return None
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        # The lengths of the name and of the extra field stand at the end of the member's header.
        lengths: tuple[int, int] = struct.unpack("<26xHH", file.read(30))
        file.seek(sum(lengths), 1)
        version = np.lib.format.read_magic(file)
        header: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            return None
        shape, fortran, dtype = header(file)
        if dtype.hasobject or 0 in shape:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
