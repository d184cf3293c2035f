"""Files that the commands write: whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def writable(folder: Path, wanted: str = "output must be a folder that can be written to") -> None:
    """Make the output folder, and see that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{wanted}, got {str(folder)!r}: {error.strerror or error}") from None


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(content)
    return path


def _umask() -> int:
    """Return the mask of new files' permissions."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes a name once it is written, and is deleted if that fails."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            yield file
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o666 & ~_umask())
    os.replace(file.name, path)
