"""The command line: ``gpubackprop info`` and ``gpubackprop compare``.

It needs typer and rich, the extra "cli"; they are imported when a command runs, not with this
module.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gpubackprop import plotting
from gpubackprop.compare import MODES, Comparison, Entry, Settings, Watch, compare
from gpubackprop.datasets import BUNDLED, load
from gpubackprop.errors import DivergenceError, missing
from gpubackprop.executors import EXECUTORS
from gpubackprop.machine import report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: What our own code raises at bad input or a machine that cannot do it: one line and exit code 2.
_EXPECTED = (ValueError, TypeError, ImportError, RuntimeError, OSError, DivergenceError)
_EPOCHS, _EPOCHS_TO_LOSS = 100, 1000
#: Wide enough that nothing is wrapped or cut where nobody looks at columns.
_FILE_WIDTH = 10_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 if all went well, 2 after an error, which is one line on standard
    error, 130 after Ctrl-C.

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
    try:
        code = _app()(args=arguments, prog_name="gpubackprop", standalone_mode=False)
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except usage_error as error:
        message = error.format_message()
        if not message:  # without any command, its help has been printed
            sys.exit(2)
        _fail(f"{message.rstrip('.')}; see gpubackprop --help")
    except BrokenPipeError:  # such as `gpubackprop info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except _EXPECTED as error:
        _fail(str(error) or type(error).__name__)
    if code == 130:  # typer's own answer to Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> Any:
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
    app.command("info", epilog=_examples("info", "info --json"))(_info_command())
    app.command(
        "compare",
        epilog=_examples(
            "compare",
            "compare --loss 0.05",
            "compare --modes mini-batch,batch --epochs 20 --output results",
            "compare --data rows.npz --backend numpy,cupy --json",
        ),
    )(_compare_command())
    return app


def _examples(*lines: str) -> str:
    """Write examples so that each keeps its line."""
    return "\n\n".join(["Examples:", *(f"  [bold]$ gpubackprop {line}[/bold]" for line in lines)])


# ---- info ---------------------------------------------------------------------------------------


def _info_command() -> Callable[..., None]:
    import typer

    def info(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Say what is installed and usable here, and what is missing, in words."""
        found = report()
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            _print_info(found, _console())

    return info


def _print_info(found: dict[str, Any], console: "Console") -> None:
    """Print what `machine.report` found."""
    versions, blas = found["versions"], found["blas"]
    table = _columns()
    for package in versions:
        text = versions[package] or "not installed"
        if package == "numpy":
            text += f" with {blas['name']} {blas['version']}, {_count(blas['threads'], 'thread')}"
        table.add_row(package, text)
    table.add_row("processor", found["processor"])
    usable = "" if found["cores"] == found["cores_usable"] else f", {found['cores_usable']} usable"
    table.add_row("cores", f"{found['cores']}{usable}")
    table.add_row("system", found["system"])
    _show(console, table)

    _heading(console, "Backends")
    table = _columns()
    for backend in found["backends"]:
        works = f"usable: {backend['device']}"
        table.add_row(
            backend["name"], works if backend["usable"] else f"not usable: {backend['problem']}"
        )
    ((name, value),) = found["environment"].items()
    table.add_row("auto", f"{found['auto']}" + (f" ({name} is set to {value!r})" if value else ""))
    _show(console, table)

    _heading(console, "Executors")
    _show(console, "  " + ", ".join(found["executors"]))
    if found["missing_extras"]:
        _heading(console, "Not installed: python -m pip install 'gpubackprop[NAME]'")
        table = _columns()
        for extra, gives in found["missing_extras"].items():
            table.add_row(extra, gives)
        _show(console, table)


# ---- compare ------------------------------------------------------------------------------------


def _compare_command() -> Callable[..., None]:
    import typer

    def compare_(
        data: Annotated[
            str,
            typer.Option(
                help=f"{', '.join(BUNDLED)} (of scikit-learn), or an .npz file with arrays X and Y."
            ),
        ] = "digits",
        epochs: Annotated[
            int | None,
            typer.Option(
                help=f"Passes over the data. (default: {_EPOCHS}; with --loss at most "
                f"{_EPOCHS_TO_LOSS})",
                show_default=False,
            ),
        ] = None,
        loss: Annotated[
            float | None, typer.Option(help="Train until the training loss is this low instead.")
        ] = None,
        hidden: Annotated[int, typer.Option(help="Units of the hidden layer.")] = 64,
        modes: Annotated[str, typer.Option(help="Any of " + ",".join(MODES) + ".")] = ",".join(
            MODES
        ),
        backend: Annotated[
            str | None, typer.Option(help="Such as numpy,cupy. (default: all that are usable)")
        ] = None,
        executor: Annotated[
            str | None,
            typer.Option(help=f"Any of {','.join(EXECUTORS)}. (default: all that can do it)"),
        ] = None,
        rounds: Annotated[
            int, typer.Option(help="Train everything so often, in turns: on a busy machine.")
        ] = 1,
        seed: Annotated[int, typer.Option(help="Of first weights and order of rows.")] = 0,
        output: Annotated[
            Path, typer.Option(help="Folder for compare.json and compare.png.")
        ] = Path("."),
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, no table.")] = False,
    ) -> None:
        """Train a network in batch, mini-batch and SGD mode, and compare.

        On real data, on every backend and executor that is usable here, from the same weights.
        Prints a table and writes compare.json and compare.png.
        """
        settings = Settings(
            epochs=epochs if epochs is not None else _EPOCHS if loss is None else _EPOCHS_TO_LOSS,
            loss=loss,
            hidden=hidden,
            modes=_names(modes) or (),
            backends=_names(backend),
            executors=_names(executor),
            rounds=rounds,
            seed=seed,
        )
        _run_compare(data, settings, output, as_json)

    return compare_


def _names(text: str | None) -> tuple[str, ...] | None:
    """Split "a,b" into names."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _run_compare(data: str, settings: Settings, folder: Path, as_json: bool) -> None:
    """Compare, print and write."""
    rows = load(data)
    _writable(folder)  # before any work
    with _progress(settings) as watch:
        found = compare(rows, settings, watch)
    document = json.dumps(found.to_dict(), indent=1)
    written = [_write(folder / "compare.json", document.encode())]
    try:
        written.append(_write(folder / "compare.png", _picture(found)))
    except ImportError as error:
        found.notes.append(f"no plot: {error}")
    if as_json:
        print(document)
        return
    _print_comparison(found, _console())
    print(f"Written: {', '.join(map(str, written))}")


def _writable(folder: Path) -> None:
    """Make the output folder, and see that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"output must be a folder that can be written to, got {str(folder)!r}: "
            f"{error.strerror or error}"
        ) from None


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o666 & ~_umask())
    os.replace(file.name, path)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _picture(found: Comparison) -> bytes:
    """Draw the comparison as PNG."""
    import io

    sizes = "-".join(map(str, found.sizes))
    title = f"{sizes} on {found.data['name']}; {found.machine['processor']}"
    content = io.BytesIO()
    plotting.comparison(found.results, title).savefig(content, format="png")
    return content.getvalue()


@contextlib.contextmanager
def _progress(settings: Settings) -> Iterator[Watch]:
    """Show a bar for each training on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    # Drawn between epochs only: a thread that draws would take time from what is measured.
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        TextColumn("{task.completed}/{task.total} epochs  loss {task.fields[loss]:.4g}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[Entry, TaskID] = {}

    def watch(entry: Entry, epochs: int, loss: float) -> None:
        if entry not in tasks:
            tasks[entry] = bars.add_task(entry.label, total=settings.epochs, loss=loss)
        bars.update(tasks[entry], completed=epochs, loss=loss)
        if bars.get_time() - last[0] > 0.1 or epochs == settings.epochs:
            bars.refresh()
            last[0] = bars.get_time()

    last = [0.0]
    with bars:
        yield watch


def _print_comparison(found: Comparison, console: "Console") -> None:
    """Print the table and what has to be known to read it."""
    data, settings, host = found.data, found.settings, found.machine
    sizes = "-".join(map(str, found.sizes))
    aim = (
        f"{settings.epochs} epochs" if settings.loss is None else f"to a loss of {settings.loss:g}"
    )
    _show(
        console,
        f"{sizes} (sigmoid, softmax, cross_entropy; float32) on {data['name']}, {aim}: "
        f"{data['training_rows']:,} training rows, {data['held_out_rows']:,} held out",
    )
    _show(console, _comparison_table(found))
    rates = dict.fromkeys(
        f"{r.mode} {r.learning_rate:g}" + (f" (momentum {r.momentum:g})" if r.momentum else "")
        for r in found.results
    )
    threads = sorted({r.threads for r in found.results})
    versions = host["versions"]
    _show(console, f"Learning rates: {', '.join(rates)}.")
    _show(console, "samples/s: from the median epoch; seconds: of training, without evaluation.")
    _show(
        console,
        f"{host['processor']}, {_count(host['cores_usable'], 'core')}, "
        f"{_count(threads[-1], 'thread')}; gpubackprop {versions['gpubackprop']}, Python "
        f"{versions['python']}, NumPy {versions['numpy']}.",
    )
    if any(r.reached is False for r in found.results):
        _show(console, f"* did not come down to a loss of {settings.loss:g} in so many epochs.")
    for note in found.notes:
        _show(console, f"Note: {note}")


def _comparison_table(found: Comparison) -> "Table":
    table = _columns(header=True)
    to_loss = found.settings.loss is not None
    for name in ("mode", "backend", "executor"):
        table.add_column(name)
    numbers = ["samples/s", "seconds", "loss", "held-out\naccuracy"]
    for name in ["epochs", *numbers] if to_loss else numbers:
        table.add_column(name, justify="right")
    for r in found.results:
        cells = [
            "-" if r.samples_per_second is None else f"{_three(r.samples_per_second):,}",
            "-" if r.seconds is None else f"{r.seconds:#.3g}",
            f"{r.loss:.4f}" if r.loss >= 0.001 else f"{r.loss:.2g}",
            f"{r.accuracy:.1%}",
        ]
        epochs = [f"{r.epochs}{'' if r.reached else '*'}"] if to_loss else []
        table.add_row(r.mode, r.backend, r.executor, *epochs, *cells)
    return table


def _three(number: float) -> int:
    """Round to three digits: more would be noise."""
    return int(float(f"{number:.3g}"))


# ---- output -------------------------------------------------------------------------------------


def _console() -> "Console":
    """Return a console for standard output; plain and never wrapped where that is no terminal."""
    from rich.console import Console

    plain = not sys.stdout.isatty()
    return Console(width=_FILE_WIDTH if plain else None, no_color=plain or None, highlight=False)


def _columns(header: bool = False) -> "Table":
    """Return an empty table."""
    from rich import box
    from rich.table import Table

    if header:
        return Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    return Table(box=None, show_header=False, padding=(0, 2, 0, 2), pad_edge=False)


def _show(console: "Console", what: "Table | str", style: str | None = None) -> None:
    """Print without the blanks that a table is filled up with."""
    with console.capture() as captured:
        console.print(what, style=style, markup=False)
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def _heading(console: "Console", text: str) -> None:
    _show(console, f"\n{text}", "bold")


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


if __name__ == "__main__":
    main()
