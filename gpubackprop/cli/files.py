"""Files that the commands write: whole or not at all."""

import os
import tempfile
from pathlib import Path


def writable(folder: Path) -> None:
    """Make the output folder, and see that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"output must be a folder that can be written to, got {str(folder)!r}: "
            f"{error.strerror or error}"
        ) from None


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o666 & ~_umask())
    os.replace(file.name, path)
    return path


def _umask() -> int:
    """Return the mask of new files' permissions."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
