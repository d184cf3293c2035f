"""``gpubackprop info``: what is installed and usable, and what is missing."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from gpubackprop.cli.output import columns, count, heading, show
from gpubackprop.machine import report

EXAMPLES = ("info", "info --json")


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
    import typer

    def info(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Say what is installed and usable here, and what is missing, in words."""
        found = report()
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            _print(found)

    return info


def _print(found: dict[str, Any]) -> None:
    """Print what `machine.report` found."""
    versions, blas = found["versions"], found["blas"]
    table = columns()
    for package in versions:
        text = versions[package] or "not installed"
        if package == "numpy":
            text += f" with {blas['name']} {blas['version']}, {count(blas['threads'], 'thread')}"
        table.add_row(package, text)
    table.add_row("processor", found["processor"])
    usable = "" if found["cores"] == found["cores_usable"] else f", {found['cores_usable']} usable"
    table.add_row("cores", f"{found['cores']}{usable}")
    table.add_row("system", found["system"])
    show(table)

    heading("Backends")
    table = columns()
    for backend in found["backends"]:
        works = f"usable: {backend['device']}"
        table.add_row(
            backend["name"], works if backend["usable"] else f"not usable: {backend['problem']}"
        )
    ((name, value),) = found["environment"].items()
    table.add_row("auto", f"{found['auto']}" + (f" ({name} is set to {value!r})" if value else ""))
    show(table)

    heading("Executors")
    show("  " + ", ".join(found["executors"]))
    if found["missing_extras"]:
        heading("Not installed: python -m pip install 'gpubackprop[NAME]'")
        table = columns()
        for extra, gives in found["missing_extras"].items():
            table.add_row(extra, gives)
        show(table)
