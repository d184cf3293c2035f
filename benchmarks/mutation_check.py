"""Breaks the CUDA kernels on purpose, and tells which of the mutants the emulated tests catch.

    python benchmarks/mutation_check.py                 every mutant; some tens of minutes
    python benchmarks/mutation_check.py --write         and docs/gpu-mutations.md anew
    python benchmarks/mutation_check.py block.cu:93     one file, or one line of it
    python benchmarks/mutation_check.py --survivors     those that survive in the table

With `--write` the table keeps the results of what was not run.

Each mutant lacks one barrier or one fence, or has one comparison moved by one: ``<`` is ``<=`` and
``>=`` is ``>``, so that each bounds check in turn lets one index too many through. The tests are
those of tests/test_emulated_kernels.py. Needs what tests/cpucuda needs.
"""

import argparse
import itertools
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "gpu-mutations.md"
KERNELS = ROOT / "gpubackprop" / "backends" / "cuda"
TESTS = "tests/test_emulated_kernels.py"
#: The executors whose tests run a file's kernels.
EXECUTORS = {
    "block.cu": ("block",),
    "common.cu": ("eager", "graph", "block"),
    "gemm.cu": ("graph",),
    "layers.cu": ("eager", "graph"),
    "output.cu": ("eager",),
    "rows.cu": ("eager", "block"),
    "update.cu": ("eager",),
}
#: What is taken out or replaced, by the kind of mutant.
KINDS = {
    "barrier": (r"__sync(?:threads|warp)\(\)", "(void)0"),
    "fence": (r"__threadfence\(\)", "(void)0"),
    "bound": (r" (?:<|>=) ", None),
}
_SECONDS = 180
_BEGIN = "<!-- written by benchmarks/mutation_check.py -->"


@dataclass(frozen=True)
class Mutant:
    """A kernel file with one thing changed.

    Attributes
    ----------
    file : str
    line : int
        Counted from 1.
    kind : str
        A key of `KINDS`.
    code : str
        The line as it was.
    number : int
        Which of this kind on the line, from 1.
    text : str
        The whole file, changed.
    """

    file: str
    line: int
    kind: str
    code: str
    number: int
    text: str

    @property
    def row(self) -> str:
        """The table's row, up to the result. It has no number of the line, which may move."""
        code = self.code.replace("|", "\\|")
        return f"| {self.file} | {self.kind} {self.number} | `{code}` |"


def mutants(file: str) -> list[Mutant]:
    """Return the mutants of a file, from its first line to its last."""
    lines = (KERNELS / file).read_text(encoding="utf-8").splitlines()
    found = []
    for at, line in enumerate(lines):
        code = line.split("//")[0]
        if code.startswith(("template", "#", "static_assert")):
            continue
        for kind, (pattern, instead) in KINDS.items():
            for number, match in enumerate(re.finditer(pattern, code), 1):
                new = {" < ": " <= ", " >= ": " > "}.get(match[0], instead) or ""
                changed = line[: match.start()] + new + line[match.end() :]
                text = "\n".join([*lines[:at], changed, *lines[at + 1 :], ""])
                found.append(Mutant(file, at + 1, kind, code.strip(), number, text))
    return found


class Child:
    """The tests of a mutant in a process of their own."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.ends = mutant, time.monotonic() + _SECONDS
        self.process = os.fork()
        if self.process == 0:
            os._exit(_run(mutant))

    def result(self) -> str | None:
        """Return "caught", "caught (crash)", "caught (hangs)", "survives"; None while they run."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        if done and os.WIFSIGNALED(status):
            return "caught (crash)"
        if done:
            return "caught" if os.WEXITSTATUS(status) else "survives"
        if time.monotonic() < self.ends:
            return None
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return "caught (hangs)"


def judge(wanted: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, str]]:
    """Run the tests on mutants, some at a time; yields each with its result as it ends."""
    waiting, running = list(wanted), []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(Child(waiting.pop(0)))
        for child in list(running):
            result = child.result()
            if result is not None:
                running.remove(child)
                yield child.mutant, result
        time.sleep(0.02)


def _run(mutant: Mutant) -> int:
    """In the child: put the mutant in the file's place and run the tests until one fails."""
    import test_emulated_kernels as tests

    from gpubackprop.backends.cuda import modules

    with open(os.devnull, "w") as nothing:
        for stream in (1, 2):
            os.dup2(nothing.fileno(), stream)
    read = modules.read
    modules.read = lambda name: mutant.text if name == mutant.file else read(name)
    for executor, case, order in itertools.product(
        EXECUTORS[mutant.file], tests.CASES, tests.ORDERS
    ):
        try:
            tests.test_in_every_order_and_within_bounds(executor, case, order)
        except Exception:
            return 1
    return 0


def prepare() -> None:
    """Import what all mutants need, on the emulator, with a cache of its own for their kernels."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    # They are compiled more often than they are run.
    os.environ["CPUCUDA_OPTIMIZE"] = "0"
    import conftest
    import cpucuda

    if conftest.NO_CUPY or not cpucuda.installed():
        raise SystemExit(f"the emulator cannot be used: {conftest.NO_CUPY or 'there is a GPU'}")
    # Not seen by CuPy, which is imported below, in the folder that tests share.
    os.environ["CUPY_CACHE_DIR"] = tempfile.mkdtemp(prefix="mutants-")
    import test_emulated_kernels  # noqa: F401

    import gpubackprop  # noqa: F401


def known() -> dict[str, str]:
    """Return the table's results by row. Of two equal rows the worse counts."""
    found: dict[str, str] = {}
    for line in TABLE.read_text(encoding="utf-8").split(_BEGIN)[-1].splitlines():
        row, _, end = line.rstrip(" |").rpartition(" | ")
        if end.startswith(("caught", "survives")) and found.get(f"{row} |") != "survives":
            found[f"{row} |"] = end
    return found


def lines_of(results: Sequence[tuple[Mutant, str]]) -> list[str]:
    """Lay the results out as tables in Markdown: a summary, and every mutant."""
    lines = ["| file | kind | mutants | caught |", "| --- | --- | ---: | ---: |"]
    for file, kind in sorted({(mutant.file, mutant.kind) for mutant, _ in results}):
        ends = [end for mutant, end in results if (mutant.file, mutant.kind) == (file, kind)]
        lines.append(f"| {file} | {kind} | {len(ends)} | {_count(ends)} |")
    lines.append(f"| all | | {len(results)} | {_count([end for _, end in results])} |")
    lines += ["", "| file | what is changed | line as it was | |", "| --- | --- | --- | --- |"]
    return [*lines, *(f"{mutant.row} {end} |" for mutant, end in results)]


def _count(ends: Sequence[str]) -> int:
    return sum(end.startswith("caught") for end in ends)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("places", nargs="*", metavar="FILE[:LINE]", help="all files by default")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    parser.add_argument("--survivors", action="store_true", help="those that the table has")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    given = parser.parse_args(arguments)
    prepare()
    before = known()
    every = [mutant for file in EXECUTORS for mutant in mutants(file)]
    wanted = [
        mutant
        for mutant in every
        if (not given.places or {mutant.file, f"{mutant.file}:{mutant.line}"} & set(given.places))
        and (not given.survivors or before.get(mutant.row) == "survives")
    ]
    results = {}
    for mutant, result in judge(wanted, given.jobs):
        results[mutant] = result
        print(f"{mutant.file}:{mutant.line:<4} {result:14} {mutant.code}", flush=True)
    if given.write:
        text = TABLE.read_text(encoding="utf-8").split(_BEGIN)[0]
        table = [(m, results.get(m) or before.get(m.row, "not run")) for m in every]
        TABLE.write_text("\n".join([f"{text}{_BEGIN}", "", *lines_of(table), ""]), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
