"""``gpubackprop bench``: how fast the three modes train here."""

import json
from collections.abc import Callable
from typing import Annotated

from gpubackprop.bench import NETWORKS, Bench, Settings, bench
from gpubackprop.cli import progress, shared
from gpubackprop.cli.options import integers, names
from gpubackprop.cli.output import columns, machine_line, show, three_digits
from gpubackprop.compare import MODES

EXAMPLES = (
    "bench",
    "bench --network 64-32-10 --network 784-256-128-10",
    "bench --modes sgd --executor compiled --rounds 9 --json",
)


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
    import typer

    listed = " and ".join("-".join(map(str, sizes)) for sizes in NETWORKS)

    def bench_(
        network: Annotated[
            list[str] | None,
            typer.Option(
                help="Units of each layer, inputs first, such as 64-32-10 (may be given several "
                f"times). (default: {listed})"
            ),
        ] = None,
        modes: Annotated[str, shared.timed_option("modes")] = ",".join(MODES),
        backend: Annotated[str | None, shared.timed_option("backend")] = None,
        executor: Annotated[str | None, shared.timed_option("executor")] = None,
        rounds: Annotated[int, typer.Option(help="Of which the median is taken.")] = 5,
        seconds: Annotated[float, typer.Option(help="What one timing aims at.")] = 0.1,
        dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, no table.")] = False,
    ) -> None:
        """Time training in the three modes, on every backend and executor that is usable here.

        Drawn data; the answers are checked before anything is timed, and all that train the same
        network are timed in turns. To see what is learned as well, use compare.
        """
        given = [tuple(integers("network", text.replace("-", ","))) for text in network or ()]
        settings = Settings(
            networks=tuple(given) or NETWORKS,
            modes=names(modes) or (),
            backends=names(backend),
            executors=names(executor),
            rounds=rounds,
            seconds=seconds,
            dtype=dtype,
        )
        with progress.bars() as bars:
            task = bars.add_task("", total=None)

            def tell(text: str) -> None:
                bars.update(task, description=text)
                bars.refresh()

            found = bench(settings, tell)
        if as_json:
            print(json.dumps(found.to_dict(), indent=1))
        else:
            _print(found)

    return bench_


def _print(found: Bench) -> None:
    """Print the table and what has to be known to read it."""
    table = columns(header=True)
    for name in ("network", "mode", "backend", "executor"):
        table.add_column(name)
    for name in ("samples/s", "spread"):
        table.add_column(name, justify="right")
    for r in found.results:
        rate = "-" if r.samples_per_second is None else f"{three_digits(r.samples_per_second):,}"
        spread = "-" if r.spread is None else f"{r.spread:.0%}"
        table.add_row(r.network, r.mode, r.backend, r.executor, rate, spread)
    show(table)
    show(
        f"Medians of {found.settings.rounds} rounds, all of a network in turns; spread: distance "
        f"between the quartiles. {found.settings.dtype}."
    )
    show(machine_line(found.machine, max(r.threads for r in found.results)))
    for note in found.notes:
        show(f"Note: {note}")
