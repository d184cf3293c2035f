"""The folder in which compiled programs are kept, and how one is got from it."""

import atexit
import functools
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import gpubackprop
from gpubackprop.executors.compiled import objects, usable
from gpubackprop.executors.compiled.objects import Program

_LOADED: dict[str, Program] = {}
_LOCK = threading.RLock()
#: What Numba reads that changes machine code.
_TOLD = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT", "NUMBA_LOOP_VECTORIZE",
         "NUMBA_SLP_VECTORIZE", "NUMBA_ENABLE_AVX")  # fmt: skip


def _new_lock() -> None:
    """After a fork, forget a lock that a thread of the parent may hold."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _user_folder() -> Path:
    """Return where this system keeps what can be made again."""
    chosen = os.environ.get("GPUBACKPROP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gpubackprop"


def _usable(folder: Path) -> bool:
    """Make a folder that nobody else can write to; tell whether that is what is there now."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        # Whoever can write here can have code run: no one but us may.
        if hasattr(os, "getuid") and (
            found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return False


@functools.cache
def _temporary(process: int) -> Path:
    """Return a folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="gpubackprop-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def folder() -> Path:
    """Return the folder of compiled programs: the user's, or if that is not ours to write to, one
    that goes with this process. The environment variable GPUBACKPROP_CACHE names another.
    """
    found = _user_folder()
    return found if _usable(found) else _temporary(os.getpid())


@functools.cache
def _machine() -> str:
    """Return what compiled code depends on besides its source."""
    import llvmlite.binding

    # Of Numba, what it is told in the environment counts, too.
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name in _TOLD]
    features = llvmlite.binding.get_host_cpu_features().flatten()
    processor = f"{llvmlite.binding.get_host_cpu_name()} {features}"
    made_by = f"{usable.numba_version()} {llvmlite.__version__} {np.__version__} {sys.version}"
    return f"{gpubackprop.__version__} {made_by} {processor} {settings}"


@dataclass(frozen=True)
class Written:
    """A program that takes long to print, named by what it is printed from.

    Attributes
    ----------
    key : str
        What it is among those that our sources make.
    write : callable
        Returns the text.
    """

    key: str
    write: Callable[[], str] = field(compare=False)


@functools.cache
def _sources() -> str:
    """Return a hash of all that such programs are printed from."""
    digest, place = hashlib.sha256(), Path(__file__).parent
    for path in (*sorted(place.glob("*.py")), place.parent.parent / "dropout.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def name_of(text: str | Written) -> str:
    """Return the name of a program: a hash of all that its code depends on."""
    key = text if isinstance(text, str) else f"{text.key} {_sources()}"
    digest = hashlib.sha256(f"{_machine()}\n{key}".encode()).hexdigest()
    return f"gpubackprop_{digest[:24]}"


def is_ready(text: str | Written) -> bool:
    """Tell whether a program can be had without compiling it."""
    name = name_of(text)
    return name in _LOADED or (_user_folder() / f"{name}.zip").exists()


def is_loaded(text: str | Written) -> bool:
    """Tell whether a program is in this process's memory."""
    return name_of(text) in _LOADED


def load(text: str | Written) -> Program:
    """Return a program, from memory, from the folder, or compiled now (seconds)."""
    name = name_of(text)
    with _LOCK:
        if name not in _LOADED:
            _LOADED[name] = _read_or_compiled(name, text, folder() / f"{name}.zip")
        return _LOADED[name]


def _read_or_compiled(name: str, text: str | Written, path: Path) -> Program:
    try:
        return objects.read(path.read_bytes())
    except (OSError, ValueError):  # it is not there, or not whole
        written = text if isinstance(text, str) else text.write()
        program, content = objects.compiled(written, name)
        _write(path, content)
        return program


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, even where two processes do it at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
