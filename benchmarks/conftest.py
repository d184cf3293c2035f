"""What the benchmarks share: what they state, and the tables at the end."""

from collections.abc import Callable
from typing import Any

import pytest
from shared import lines_of

from gpubackprop.machine import machine

#: Rows of the tables at the end, by title.
TABLES: dict[str, list[dict[str, str]]] = {}


def pytest_report_header(config: pytest.Config) -> list[str]:
    """State processor, versions and threads."""
    here = machine()
    versions, blas = here["versions"], here["blas"]
    return [
        f"processor: {here['processor']}, {here['cores_usable']} cores usable",
        f"versions: gpubackprop {versions['gpubackprop']}, numpy {versions['numpy']} with "
        f"{blas['name']} {blas['version']} on {blas['threads']} threads, "
        f"cupy {versions['cupy'] or 'not installed'}",
    ]


@pytest.fixture(autouse=True)
def _device_named(benchmark: Any) -> None:
    """Every benchmark's JSON names the processor, too."""
    benchmark.extra_info["processor"] = machine()["processor"]


@pytest.fixture
def tabulate() -> Callable[..., None]:
    """Return a function that adds a row to a table: ``tabulate(title, column=text, ...)``."""

    def add(title: str, **row: str) -> None:
        TABLES.setdefault(title, []).append(row)

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the tables."""
    for title, rows in TABLES.items():
        terminalreporter.section(title)
        for line in lines_of(rows):
            terminalreporter.write_line(line)
