"""The folder in which compiled programs are kept, and how one is got from it."""

import atexit
import functools
import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import numpy as np

_LOADED: dict[str, ModuleType] = {}
_LOCK = threading.RLock()
_TIME = 1_000_000_000


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
    import numba

    try:
        own = version("gpubackprop")
    except PackageNotFoundError:  # run from its source
        own = ""
    features = llvmlite.binding.get_host_cpu_features().flatten()
    processor = f"{llvmlite.binding.get_host_cpu_name()} {features}"
    return f"{own} {numba.__version__} {np.__version__} {sys.version} {processor}"


@functools.lru_cache(maxsize=256)
def name_of(text: str) -> str:
    """Return the name of a program's module: a hash of all that its code depends on."""
    digest = hashlib.sha256(f"{_machine()}\n{text}".encode()).hexdigest()
    return f"gpubackprop_{digest[:24]}"


def is_ready(text: str) -> bool:
    """Tell whether a program can be had without compiling it."""
    name = name_of(text)
    return name in _LOADED or (_user_folder() / f"{name}.ready").exists()


def is_loaded(text: str) -> bool:
    """Tell whether a program is in this process's memory."""
    return name_of(text) in _LOADED


def load(text: str) -> ModuleType:
    """Return a program's module, from memory, from the folder, or compiled now (seconds)."""
    name = name_of(text)
    with _LOCK:
        if name not in _LOADED:
            _LOADED[name] = _import(name, text, folder())
        return _LOADED[name]


def _import(name: str, text: str, place: Path) -> ModuleType:
    path = place / f"{name}.py"
    if not path.exists() or path.read_text() != text:
        _write(path, text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _write(path.with_suffix(".ready"), "")
    return module


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, even where two processes do it at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # Numba takes a file of another time for another program.
        os.utime(temporary, (_TIME, _TIME))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
