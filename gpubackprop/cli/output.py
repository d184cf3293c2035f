"""What the commands print: tables and text, plain where nobody looks."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Interrupted(Exception):
    """Ctrl-C ended a command, which says what it left. (typer would drop the text of a
    KeyboardInterrupt.)
    """


#: Wide enough that nothing is wrapped or cut where nobody looks at columns.
_WIDTH = 10_000


def _console() -> "Console":
    """Return a console for standard output; plain and never wrapped where that is no terminal."""
    from rich.console import Console

    plain = not sys.stdout.isatty()
    return Console(width=_WIDTH if plain else None, no_color=plain or None, highlight=False)


def columns(header: bool = False) -> "Table":
    """Return an empty table."""
    from rich import box
    from rich.table import Table

    if header:
        return Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    return Table(box=None, show_header=False, padding=(0, 2, 0, 2), pad_edge=False)


def show(what: "Table | str", style: str | None = None) -> None:
    """Print without the blanks that a table is filled up with."""
    console = _console()
    with console.capture() as captured:
        console.print(what, style=style, markup=False)
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def heading(text: str) -> None:
    """Print a heading, after an empty line."""
    show(f"\n{text}", "bold")


def count(n: int, thing: str) -> str:
    """Write a number of things: "1 row", "20,000 rows"."""
    return f"{n} {thing}" if n == 1 else f"{n:,} {thing}s"


def three_digits(number: float) -> int:
    """Round to three digits: more would be noise."""
    return int(float(f"{number:.3g}"))


def machine_line(host: dict[str, Any], threads: int) -> str:
    """Say on what was measured; `host` is from `gpubackprop.machine.machine`."""
    versions = host["versions"]
    return (
        f"{host['processor']}, {count(host['cores_usable'], 'core')}, {count(threads, 'thread')}; "
        f"gpubackprop {versions['gpubackprop']}, Python {versions['python']}, NumPy "
        f"{versions['numpy']}."
    )
