"""Compiles the library and lays out its folder.

lib/libcuda.so.1       everything: driver, runtime, NVRTC, cuBLAS
lib/libcudart.so.13 …  empty libraries that depend on it, one for each name
                       under which CuPy looks for a part of it
include/               the headers that kernels are compiled with
shared.ld              gathers the __shared__ variables of a kernel module
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import _elf

HERE = Path(__file__).resolve().parent
ALIASES = [f"lib{name}.so.13" for name in ("cudart", "nvrtc", "cublasLt", "cublas")]
ALIASES.append("libcurand.so.10")
# g++ ignores the section that a template's variable is given: those are the .bss._ZZ*.
SHARED_LD = """SECTIONS {
  cpucuda_shared : {
    cpucuda_shared_begin = .; *(cpucuda_shared_* .bss._ZZ*) cpucuda_shared_end = .;
  }
} INSERT AFTER .data;
"""


def compiler() -> str:
    return os.environ.get("CPUCUDA_CXX") or "g++"


def cache_folder() -> Path:
    explicit = os.environ.get("CPUCUDA_CACHE")
    if explicit:
        return Path(explicit).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpucuda"


def _run(*command: str | Path) -> None:
    done = subprocess.run([compiler(), *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cpucuda: its library does not compile:\n{done.stderr}")


def _stubs(cupy_backends: Path, runtime: list[str], implemented: dict[str, int]) -> str:
    """C functions for what CuPy refers to and the library does not have."""
    wanted = set(runtime)
    for name in ("cublas", "curand"):
        for path in (cupy_backends / "cuda" / "libs").glob(f"{name}.*.so"):
            wanted |= {s for s in _elf.symbols(path, "-D", "-u") if s.startswith(name)}
    lines = ["int cpucuda_missing(const char *);"]
    for name in sorted(wanted - implemented.keys()):
        # CUBLAS_STATUS_NOT_SUPPORTED and CURAND_STATUS_INITIALIZATION_FAILED
        result = {"cublas": ", 15", "curand": ", 203"}.get(name[:6], "")
        lines.append(f'int {name}(void) {{ return cpucuda_missing("{name}"){result}; }}')
    return "\n".join(lines) + "\n"


def _compile(work: Path, key: str, cupy_backends: Path, runtime: list[str]) -> None:
    (work / "lib").mkdir()
    shutil.copytree(HERE / "include", work / "include")
    (work / "shared.ld").write_text(SHARED_LD)
    library = work / "lib" / "libcuda.so.1"
    flags = ["-std=c++17", "-O2", "-Wall", "-fPIC", f'-DCPUCUDA_VERSION="{key}"']
    objects: list[str | Path] = []
    for source in sorted((HERE / "src").glob("*.cpp")):
        objects.append(work / f"{source.stem}.o")
        _run(*flags, "-c", source, "-o", objects[-1])
    link = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-o", str(library), *objects]
    _run(*link, "-ldl", "-lpthread")
    stubs = _stubs(cupy_backends, runtime, _elf.symbols(library, "-D", "--defined-only"))
    (work / "stubs.c").write_text(stubs)
    _run("-x", "c", "-fPIC", "-fno-builtin", "-c", work / "stubs.c", "-o", work / "stubs.o")
    _run(*link, work / "stubs.o", "-ldl", "-lpthread")
    for alias in ALIASES:  # CuPy's references carry the name as a version
        (work / "version").write_text(f"{alias} {{ }};\n")
        options = [f"-Wl,-soname,{alias}", f"-Wl,--version-script={work / 'version'}"]
        _run("-shared", "-Wl,--no-as-needed", *options, library, "-o", work / "lib" / alias)


def build(cupy_backends: Path, runtime: list[str]) -> Path:
    """Returns the folder of the compiled library, building it if need be.

    ``runtime`` names the CUDA runtime's functions inside CuPy.
    """
    digest = hashlib.sha256()
    for path in [*HERE.glob("*.py"), *HERE.glob("src/*"), *HERE.glob("include/*")]:
        if not path.name.startswith("test_"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    version = subprocess.run([compiler(), "--version"], capture_output=True, check=True)
    digest.update(version.stdout + "\0".join([str(cupy_backends), *runtime]).encode())
    key = digest.hexdigest()[:16]
    target = cache_folder() / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building the same
        if not target.exists():
            with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
                work = Path(folder) / key
                work.mkdir()
                _compile(work, key, cupy_backends, runtime)
                work.rename(target)
    return target
