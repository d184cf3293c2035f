"""Where a benchmark may run, and the tables at the end."""

from typing import Any

import pytest

from gpubackprop import backends
from gpubackprop.measure import emulated


def require(name: str) -> Any:
    """Return a backend, or skip with the reason why it cannot be timed here."""
    problem = backends.problem(name)
    if problem:
        pytest.skip(f"{name} cannot be used here: {problem}")
    backend = backends.get(name)
    if emulated(backend):
        pytest.skip(f"{name} runs on an emulator here: its times would mean nothing")
    return backend


def lines_of(rows: list[dict[str, str]]) -> list[str]:
    """Lay out rows in columns: text to the left, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    numeric = [all(line[i][:1].isdigit() for line in cells[1:]) for i in range(len(names))]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
