"""A table of samples/s at the end."""

import pytest

from gpubackprop.machine import machine


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print samples/s by network and mode, and the machine they belong to."""
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    done = [b for b in getattr(session, "benchmarks", []) if "samples/s" in b.extra_info]
    if not done:
        return
    here = machine()
    terminalreporter.section("samples/s (median)")
    blas = here["blas"]
    terminalreporter.line(
        f"{here['processor']}, {here['cores_usable']} cores, {blas['name']} {blas['version']} with "
        f"{blas['threads']} threads, NumPy {here['versions']['numpy']}"
    )
    for benchmark in done:
        info = benchmark.extra_info
        spread = benchmark.stats.iqr / benchmark.stats.median
        terminalreporter.line(
            f"{info['network']:<20}{info['mode']:<16}{info['backend']:<14}{info['executor']:<10}"
            f"{info['samples/s']:>14,.0f}  +-{spread / 2:.0%}"
        )
