"""The command line: one module for each command.

It needs typer and rich, the extra "cli"; they are imported when a command runs, not with this
package.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from gpubackprop.cli import bench, compare, info, predict, trace, train, warm
from gpubackprop.cli.output import Interrupted
from gpubackprop.errors import DivergenceError, missing

__all__ = ["COMMANDS", "main"]

#: The commands by name, in the order of the help. A module has `command()`, which returns the
#: function that typer reads, and `EXAMPLES`.
COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "predict": predict,
    "trace": trace,
    "compare": compare,
    "bench": bench,
    "info": info,
    "warm": warm,
}
#: What our own code raises at bad input or a machine that cannot do it: one line and exit code 2.
_EXPECTED = (
    ValueError, TypeError, ImportError, RuntimeError, OSError, DivergenceError, MemoryError,
)  # fmt: skip
#: Set, it shows where in the code an error came from.
_DEBUG = "GPUBACKPROP_DEBUG"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 if all went well, 2 after an error, which is one line on standard
    error, 130 after Ctrl-C, 1 after a mistake of this package.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    try:
        import rich  # noqa: F401
        import typer
    except ImportError as error:
        name = error.name or "typer"
        _fail(str(missing(f"{name}, which the command line needs,", "cli")))
    # What is wrong with arguments; older versions of typer keep it in a package of its own.
    usage_error: Any = typer.BadParameter.__mro__[2]
    code: Any = 0
    try:
        code = _app()(args=arguments, prog_name="gpubackprop", standalone_mode=False)
    except typer.Exit as error:
        code = error.exit_code
    except Interrupted as error:
        _fail(str(error), 130)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except usage_error as error:
        message = error.format_message()
        if not message:  # without any command, its help has been printed
            sys.exit(2)
        _fail(f"{message.rstrip('.')}; see gpubackprop --help")
    except BrokenPipeError:  # such as `gpubackprop info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except _EXPECTED as error:
        _fail(str(error) or type(error).__name__)
    except Exception as error:
        _fail(
            f"a mistake in gpubackprop: {type(error).__name__}: {error}; please report it with "
            f"what the same command prints with {_DEBUG}=1",
            1,
        )
    if code == 130:  # typer's own answer to Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> Any:
    if os.environ.get(_DEBUG):
        traceback.print_exc()
    print(f"gpubackprop: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _app() -> Callable[..., Any]:
    """Return the commands; typer reads their names, arguments and help from the functions."""
    import typer

    app = typer.Typer(
        help="Multi-layer perceptrons trained by backpropagation, on NumPy or CuPy arrays.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    for name, module in COMMANDS.items():
        function = module.command()
        text = inspect.getdoc(function) or ""
        # One line a paragraph, so that typer wraps it and breaks nowhere else.
        text = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
        app.command(name, help=text, epilog=_examples(*module.EXAMPLES))(function)
    return app


def _examples(*lines: str) -> str:
    """Write examples so that each keeps its line."""
    return "\n\n".join(["Examples:", *(f"  [bold]$ gpubackprop {line}[/bold]" for line in lines)])


if __name__ == "__main__":
    main()
