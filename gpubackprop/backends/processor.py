"""What this machine's processor is and has, as far as Linux tells."""

import functools
import os
import platform

#: What AMX takes, by Linux's names: the tiles, their bfloat16 products, and vectors of 64 bytes.
_MATRIX_UNIT = {"amx_tile", "amx_bf16", "avx512f"}


def is_amd() -> bool:
    """Tell whether it is one of AMD's."""
    return "AuthenticAMD" in (_lines().get("vendor_id") or platform.processor())


def has_matrix_unit() -> bool:
    """Tell whether it has Intel's AMX, and the environment variable GPUBACKPROP_AMX is not never.

    Whether the kernel lets a process use it is another question: see `executors.compiled.amx`.
    """
    if os.environ.get("GPUBACKPROP_AMX") == "never":
        return False
    return set(_lines().get("flags", "").split()) >= _MATRIX_UNIT


@functools.cache
def _lines() -> dict[str, str]:
    """Return what is said of the first processor; nothing where it is not Linux."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(16384).partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
