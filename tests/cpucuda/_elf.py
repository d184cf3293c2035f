"""Redirects functions of a shared object that is loaded already.

CuPy's extension modules contain a statically linked copy of the CUDA runtime.
Its functions (cudaMalloc, ...) are local, so no library put in front of them
can replace them; but they are in the symbol table, and a jump can be written
over their first bytes once the module has been loaded.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import subprocess
from pathlib import Path

_PROT_RX, _PROT_RWX = 5, 7
_JUMP_SIZE = 14


def symbols(path: Path, *options: str) -> dict[str, int]:
    """The symbols of a file, by binutils' nm: name -> address, 0 if undefined."""
    command = ["nm", "--without-symbol-versions", "--format=posix", *options, str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = (line.split(" ") for line in lines)
    return {name: int(value[0] or "0", 16) for name, _, *value in fields}


def address_of(library: ctypes.CDLL, name: str) -> int:
    """Where a function of a library lies in memory."""
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    if address is None:
        raise RuntimeError(f"{library} has no {name}")
    return address


def redirect(path: Path, targets: dict[str, int]) -> None:
    """Makes each named function of an extension module jump to an address."""
    table = symbols(path)
    # Any exported symbol gives the address at which the file was loaded.
    export = "PyInit_" + path.name.split(".")[0]
    base = address_of(ctypes.CDLL(str(path)), export) - table[export]
    libc = ctypes.CDLL(None, use_errno=True)
    for name, target in targets.items():
        address = base + table[name]
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        pages = ctypes.c_void_p(start), ctypes.c_size_t(address + _JUMP_SIZE - start)
        if libc.mprotect(*pages, _PROT_RWX):
            raise OSError(ctypes.get_errno(), f"cannot make {name} of {path} writable")
        # jmp [rip+0], followed by the address
        ctypes.memmove(address, b"\xff\x25\0\0\0\0" + struct.pack("<Q", target), _JUMP_SIZE)
        libc.mprotect(*pages, _PROT_RX)
