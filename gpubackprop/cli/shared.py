"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Any

from gpubackprop import tables
from gpubackprop.compare import MODES
from gpubackprop.executors import EXECUTORS
from gpubackprop.network import load

#: The options of `table`, with their help.
_TABLE = {
    "missing": (
        (),
        "What stands for a missing value in a CSV file, such as ? (may be given several times). "
        "Nothing, NA, NaN, null and the like always do.",
    ),
    "separator": ((), "Between a CSV file's columns. (default: found out)"),
    "header": (
        ("--header/--no-header",),
        "Whether a CSV file's first line names its columns; else they are 0, 1, ...",
    ),
}
#: The options of what is timed, with their help.
_TIMED = {
    "modes": "Any of " + ",".join(MODES) + ".",
    "backend": "Such as numpy,cupy. (default: all that are usable)",
    "executor": f"Any of {','.join(EXECUTORS)}. (default: all that can do it)",
}


def data_argument() -> Any:
    """Return the argument DATA."""
    import typer

    return typer.Argument(help="CSV, Parquet, .npz or .npy file.", show_default=False)


def model_argument() -> Any:
    """Return the argument MODEL."""
    import typer

    return typer.Argument(help="File that train wrote.", show_default=False)


def table_option(name: str, panel: str | None = None) -> Any:
    """Return the option missing, separator or header."""
    import typer

    flags, text = _TABLE[name]
    return typer.Option(*flags, help=text, rich_help_panel=panel)


def timed_option(name: str) -> Any:
    """Return the option modes, backend or executor of a command that times all there are."""
    import typer

    return typer.Option(help=_TIMED[name])


def open_model(path: Path, backend: str = "auto") -> tables.Predictor:
    """Open a file that train wrote.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"MODEL must be a file that exists, got {str(path)!r}")
    return tables.Predictor(load(path, backend=backend))
