"""``gpubackprop warm``: compile ahead what the compiled executor will want."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Annotated

from gpubackprop.cli.output import count
from gpubackprop.executors import compiled

EXAMPLES = ("warm", "warm --json")


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
    import typer

    def warm(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Compile what most trainings use, so that none of them waits for it.

        For the executor "compiled", into a folder that later processes read. The environment
        variable GPUBACKPROP_CACHE names another folder.
        """
        problem = compiled.problem()
        if problem:
            raise RuntimeError(f"warm compiles for the executor 'compiled': {problem}")
        began = time.perf_counter()
        done = []
        for name in compiled.warm():
            done.append(name)
            _tell(f"{len(done)}  {name}")
        _tell("")
        seconds = time.perf_counter() - began
        folder = str(compiled.folder())
        if as_json:
            print(json.dumps({"folder": folder, "seconds": seconds, "programs": done}, indent=2))
            return
        print(f"{count(len(done), 'program')} ready in {folder}, after {seconds:.1f} s")

    return warm


def _tell(text: str) -> None:
    """Write a line over the last one, if somebody looks."""
    with contextlib.suppress(AttributeError):  # no standard error at all
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[2K" + text)
            sys.stderr.flush()
