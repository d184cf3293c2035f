"""Compiles the CUDA kernels with NVIDIA's compiler for every architecture: no GPU, no driver.

    python benchmarks/compile_check.py                  a sample, about a minute
    python benchmarks/compile_check.py --all            everything; some minutes
    python benchmarks/compile_check.py --all --write    and docs/gpu-kernels.md anew

It fails at an error, a warning, a register that is spilled to memory or a stack frame, and where a
kernel that its module should have is missing. Needs the wheels nvidia-cuda-nvrtc, cuda-bindings,
nvidia-cuda-runtime and nvidia-cuda-crt, and CuPy to print the elementwise kernels: on a GPU, or
without one through tests/cpucuda.
"""

import argparse
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "gpu-kernels.md"
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
#: In a sample: consumer and server parts, the oldest and the newest.
SAMPLE = {"float32": ("75", "90", "120"), "float64": ("80", "100")}
DTYPES = tuple(SAMPLE)
#: What CuPy adds to the options of every module.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
_BEGIN = "<!-- written by benchmarks/compile_check.py -->"
WHEELS = {
    "cuda.bindings.nvrtc": "cuda-bindings",
    "nvidia.cu13": "nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-crt",
}


@dataclass(frozen=True)
class Unit:
    """What is compiled at once.

    Attributes
    ----------
    name : str
        Such as "output, cross_entropy, float32".
    source : str
    options : tuple of str
    kernels : tuple of str
        Names of the kernels that must be in it.
    sample : tuple of str
        Architectures that it is compiled for in a sample.
    """

    name: str
    source: str
    options: tuple[str, ...]
    kernels: tuple[str, ...]
    sample: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers a thread, bytes of static shared memory, stack and spills."""

    registers: int = 0
    shared: int = 0
    stack: int = 0
    spills: int = 0


def problem() -> str | None:
    """Why nothing can be compiled here, in words; None if it can."""
    for module, wheels in WHEELS.items():
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        if found is None:
            return f"the wheels {wheels} are not installed"
    if not list(headers().glob("cuda_runtime.h")):
        return "the wheel nvidia-cuda-runtime, with CUDA's headers, is not installed"
    return None


def headers() -> Path:
    """CUDA's headers, of the wheels."""
    spec = importlib.util.find_spec("nvidia.cu13")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "include"


# ---- what there is to compile --------------------------------------------------------------------


def elementwise_units() -> list[Unit]:
    """Elementwise and reduction kernels, as CuPy prints them. In a fresh process only."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    import conftest

    if conftest.NO_CUPY:
        raise SystemExit(f"CuPy cannot print the elementwise kernels here: {conftest.NO_CUPY}")
    units = []
    for dtype in DTYPES:
        sources, options = printed(dtype)
        includes: set[str] = set()
        parts = []
        for number, source in enumerate(sources.values()):
            lines = source.splitlines()
            includes |= {line.strip() for line in lines if line.lstrip().startswith("#include")}
            body = "\n".join(line for line in lines if not line.lstrip().startswith("#include"))
            macros = "".join(f"#undef {name}\n" for name in re.findall(r"#define (\w+)", body))
            parts.append(f"namespace part{number} {{\n{body}\n}}\n{macros}")
        text = "\n".join(["#include <cupy/complex.cuh>", *sorted(includes), *parts])
        units.append(Unit(f"elementwise, {dtype}", text, options, tuple(sources), SAMPLE[dtype]))
    return units


def printed(dtype: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the source of each kernel by its name, and the options that CuPy compiles it with."""
    import cupy.cuda.compiler
    import numpy as np

    from gpubackprop import backends
    from gpubackprop.backends import show
    from gpubackprop.backends.cuda import precise

    class Recorded(Exception):
        pass

    found: dict[str, str] = {}
    seen: list[tuple[str, ...]] = []
    compile_module, stop = cupy.cuda.compiler._compile_module_with_cache, True

    def record(source: str, options: tuple[str, ...] = (), **rest: Any) -> Any:
        name = kernel_names(source)[0]
        if not name.startswith("cupy_") and "CArray" in source:  # not CuPy's own, not a RawModule
            found[name] = source
            seen.append(options)
        if stop:
            raise Recorded
        return compile_module(source, options, **rest)

    backend = backends.get("cupy")
    cupy.cuda.compiler._compile_module_with_cache = record
    x, T = cupy.empty(8, dtype), np.dtype(dtype).type
    for expression in show.expressions():
        run = backend.compile(expression, np.dtype(dtype))
        outputs = [cupy.empty_like(x) for _ in expression.outputs]
        try:
            run(*[x] * len(expression.arguments), *[T(1)] * len(expression.scalars), *outputs)
        except Recorded:
            continue
        raise AssertionError(f"{expression.name} was compiled before")
    stop = False  # these few are run
    rows, cell = cupy.zeros(2, "int32"), cupy.empty(1, dtype)
    backend.take_rows(cupy.zeros((4, 3), dtype), rows, cupy.empty((2, 3), dtype))
    backend.one_hot(cupy.zeros(2, "int64"), cupy.empty((2, 3), dtype))
    backend.dropout_mask(1, 0.5, 0, cupy.empty((2, 3), dtype))
    backend.clip_norm(cupy.zeros(8, dtype), 1.0, cell)
    backend.all_finite(cupy.zeros(8, dtype), cupy.empty(1, "float64"))
    if dtype == "float32":
        for precision in ("float16", "bfloat16"):
            precise.rounding(precision)(x, T(1), cupy.empty(8, "uint16"))
    cupy.cuda.compiler._compile_module_with_cache = compile_module
    here = str(headers())
    options = tuple(o for o in seen[0] if not o.startswith("-I") or "cupy" in o)
    return found, (*options, f"-I{here}")


def module_units() -> list[Unit]:
    """Return the package's own modules: with every loss, and with every kind of optimiser."""
    import numpy as np

    from gpubackprop import ACTIVATIONS, LOSSES
    from gpubackprop.backends import show
    from gpubackprop.backends.cuda import modules

    optimizers = {optimizer.expression.name: optimizer for optimizer in show.optimizers()}
    turn, found = itertools.cycle(ARCHITECTURES), []
    for dtype, (unit, wanted) in itertools.product(DTYPES, modules.UNITS.items()):
        pairs = [("squared", "momentum_step")]
        # Formulas of the two do not meet: every loss with one optimiser, and the other way round.
        pairs += [(loss, "momentum_step") for loss in LOSSES if "loss" in wanted]
        pairs += [("squared", step) for step in optimizers if "optimizer" in wanted]
        for loss, step in dict.fromkeys(pairs):
            formulas = modules.Formulas(
                np.dtype(dtype), tuple(ACTIVATIONS.values()), LOSSES[loss], optimizers[step]
            )
            of = {"loss": loss, "optimizer": step}
            name = ", ".join([unit, *(of[part] for part in wanted if part in of), dtype])
            source, options = modules.source(unit, formulas), tuple(modules.OPTIONS)
            found.append(Unit(name, source, options, modules.KERNELS[unit], (next(turn),)))
    return found


def kernel_names(source: str) -> list[str]:
    """Names of the kernels that a source defines."""
    return re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", source)


def units() -> list[Unit]:
    """Everything: what CuPy prints, and the package's own modules."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        # In a process of its own: the emulator takes the place of the compiler that is wanted here.
        command = [sys.executable, __file__, "--print-units", file.name]
        subprocess.run(command, check=True, cwd=ROOT)
        return [
            Unit(**{key: tuple(x) if isinstance(x, list) else x for key, x in found.items()})
            for found in json.load(file)
        ]


# ---- compiling -----------------------------------------------------------------------------------


def build(unit: Unit, architecture: str) -> dict[str, Usage]:
    """Compile to machine code; returns what each kernel takes.

    Raises
    ------
    ValueError
        With what the compiler has to say.
    """
    from cuda.bindings import nvrtc

    def ok(result: Any) -> Any:
        if int(result[0]):
            raise ValueError(f"NVRTC: {result[0]}")
        return result[1] if len(result) == 2 else result[1:]

    program = ok(nvrtc.nvrtcCreateProgram(unit.source.encode(), b"kernels.cu", 0, [], []))
    flags = [*unit.options, *CUPY_OPTIONS, f"-arch=sm_{architecture}"]
    flags = list(dict.fromkeys([*flags, "--ptxas-options=-v", "--ptxas-options=--warn-on-spills"]))
    status = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])[0]
    log = bytes(ok(nvrtc.nvrtcGetProgramLogSize(program)))
    ok(nvrtc.nvrtcGetProgramLog(program, log))
    text = log.rstrip(b"\0").decode()
    ok(nvrtc.nvrtcDestroyProgram(program))
    warnings = [line for line in text.splitlines() if "warning" in line.lower()]
    if int(status) or warnings:
        raise ValueError("\n".join(warnings) if not int(status) else text)
    return usages(text)


def usages(log: str) -> dict[str, Usage]:
    """Read what `--ptxas-options=-v` says of each kernel."""
    found: dict[str, Usage] = {}
    parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", text)
        registers = re.search(r"Used (\d+) registers", text)
        shared = re.search(r"(\d+) bytes smem", text)
        assert stack, text
        assert registers, text
        spills = int(stack[2]) + int(stack[3])
        found[name] = Usage(
            int(registers[1]), int(shared[1]) if shared else 0, int(stack[1]), spills
        )
    return found


def complaints(unit: Unit, found: dict[str, Usage]) -> list[str]:
    """Say what is wrong with the kernels of a unit that compiled."""
    wrong = [f"{name} is missing" for name in unit.kernels if name not in found]
    for name, usage in found.items():
        if usage.spills:
            wrong.append(f"{name} spills {usage.spills} bytes of registers")
        if usage.stack:
            wrong.append(f"{name} has a stack frame of {usage.stack} bytes")
    return wrong


@dataclass
class Report:
    """What was found, by unit, kernel and architecture."""

    found: dict[str, dict[str, dict[str, Usage]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    failures: list[str] = field(default_factory=list)
    compiled: int = 0
    seconds: float = 0.0

    def compile(self, unit: Unit, architecture: str) -> None:
        """Compile a unit and note what was found."""
        began = time.process_time()
        try:
            found = build(unit, architecture)
            wrong = complaints(unit, found)
        except ValueError as error:
            found, wrong = {}, [str(error)]
        self.failures += [f"{unit.name}, sm_{architecture}: {text}" for text in wrong]
        for name, usage in found.items():
            self.found[unit.name][name][architecture] = usage
        self.compiled += 1
        self.seconds += time.process_time() - began

    def lines(self) -> list[str]:
        """Lay out a table in Markdown: registers by architecture, and bytes of shared memory."""
        head = ["unit", "kernel", *(f"sm_{name}" for name in ARCHITECTURES), "shared"]
        rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
        for unit, kernels in self.found.items():
            for kernel, by_architecture in sorted(kernels.items()):
                cells = [by_architecture.get(name) for name in ARCHITECTURES]
                registers = [str(cell.registers) if cell else "" for cell in cells]
                shared = max(cell.shared for cell in cells if cell)
                rows.append([unit, f"`{kernel}`", *registers, str(shared)])
        return [f"| {' | '.join(row)} |" for row in rows]


def run(every: bool) -> Report:
    """Compile everything, or a sample."""
    report = Report()
    for unit in units():
        for architecture in ARCHITECTURES if every else unit.sample:
            report.compile(unit, architecture)
    return report


def write(report: Report) -> None:
    """Write the table into its document, below the line that says where it begins."""
    text = TABLE.read_text(encoding="utf-8").split(_BEGIN)[0]
    note = f"NVRTC {_version()}, {report.compiled} compilations."
    TABLE.write_text("\n".join([f"{text}{_BEGIN}", "", note, "", *report.lines(), ""]), "utf-8")


def _version() -> str:
    from importlib.metadata import version

    return version("nvidia-cuda-nvrtc")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="everything, for every architecture")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    parser.add_argument("--print-units", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.print_units:
        found = [asdict(unit) for unit in [*elementwise_units(), *module_units()]]
        Path(given.print_units).write_text(json.dumps(found), "utf-8")
        return 0
    reason = problem()
    if reason:
        print(f"nothing can be compiled: {reason}", file=sys.stderr)
        return 3
    report = run(given.all)
    print("\n".join(report.lines()))
    print(f"\n{report.compiled} compilations, {report.seconds:.0f} s of processor time")
    print("\n".join(report.failures), file=sys.stderr)
    if given.write and not report.failures:
        write(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
