"""``gpubackprop compare``: the three modes on real data, side by side."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gpubackprop import plotting
from gpubackprop.cli import shared
from gpubackprop.cli.files import writable, write
from gpubackprop.cli.options import names
from gpubackprop.cli.output import columns, machine_line, show, three_digits
from gpubackprop.compare import MODES, Comparison, Entry, Settings, Watch, compare
from gpubackprop.datasets import BUNDLED, load

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES = (
    "compare",
    "compare --loss 0.05",
    "compare --modes mini-batch,batch --epochs 20 --output results",
    "compare --data rows.npz --backend numpy,cupy --json",
)
_EPOCHS, _EPOCHS_TO_LOSS = 100, 1000


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
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
        modes: Annotated[str, shared.timed_option("modes")] = ",".join(MODES),
        backend: Annotated[str | None, shared.timed_option("backend")] = None,
        executor: Annotated[str | None, shared.timed_option("executor")] = None,
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
            modes=names(modes) or (),
            backends=names(backend),
            executors=names(executor),
            rounds=rounds,
            seed=seed,
        )
        _run(data, settings, output, as_json)

    return compare_


def _run(data: str, settings: Settings, folder: Path, as_json: bool) -> None:
    """Compare, print and write."""
    rows = load(data)
    writable(folder)  # before any work
    with _progress(settings) as watch:
        found = compare(rows, settings, watch)
    document = json.dumps(found.to_dict(), indent=1)
    written = [write(folder / "compare.json", document.encode())]
    try:
        written.append(write(folder / "compare.png", _picture(found)))
    except ImportError as error:
        found.notes.append(f"no plot: {error}")
    if as_json:
        print(document)
        return
    _print(found)
    print(f"Written: {', '.join(map(str, written))}")


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


def _print(found: Comparison) -> None:
    """Print the table and what has to be known to read it."""
    data, settings, host = found.data, found.settings, found.machine
    sizes = "-".join(map(str, found.sizes))
    aim = (
        f"{settings.epochs} epochs" if settings.loss is None else f"to a loss of {settings.loss:g}"
    )
    show(
        f"{sizes} (sigmoid, softmax, cross_entropy; float32) on {data['name']}, {aim}: "
        f"{data['training_rows']:,} training rows, {data['held_out_rows']:,} held out",
    )
    show(_table(found))
    rates = dict.fromkeys(
        f"{r.mode} {r.learning_rate:g}" + (f" (momentum {r.momentum:g})" if r.momentum else "")
        for r in found.results
    )
    threads = sorted({r.threads for r in found.results})
    show(f"Learning rates: {', '.join(rates)}.")
    show("samples/s: from the median epoch; seconds: of training, without evaluation.")
    show(
        machine_line(host, threads[-1]),
    )
    if any(r.reached is False for r in found.results):
        show(f"* did not come down to a loss of {settings.loss:g} in so many epochs.")
    for note in found.notes:
        show(f"Note: {note}")


def _table(found: Comparison) -> "Table":
    table = columns(header=True)
    to_loss = found.settings.loss is not None
    for name in ("mode", "backend", "executor"):
        table.add_column(name)
    numbers = ["samples/s", "seconds", "loss", "held-out\naccuracy"]
    for name in ["epochs", *numbers] if to_loss else numbers:
        table.add_column(name, justify="right")
    for r in found.results:
        cells = [
            "-" if r.samples_per_second is None else f"{three_digits(r.samples_per_second):,}",
            "-" if r.seconds is None else f"{r.seconds:#.3g}",
            f"{r.loss:.4f}" if r.loss >= 0.001 else f"{r.loss:.2g}",
            f"{r.accuracy:.1%}",
        ]
        epochs = [f"{r.epochs}{'' if r.reached else '*'}"] if to_loss else []
        table.add_row(r.mode, r.backend, r.executor, *epochs, *cells)
    return table
