"""Trains the same networks in other libraries and in gpubackprop, side by side.

The same maths, weights, data and order of rows; every engine is checked against float64 before it
is timed; one process each, all on the same pinned cores, bursts in interleaved rounds. From the
repository's root, with the extra "peers" installed:

    python benchmarks/peers.py
    python benchmarks/peers.py --cells '784-30-10/*' --engines 'ours-*' sklearn --rounds 5
    python benchmarks/peers.py --json peers.json --plot peers.png --markdown benchmarks/RESULTS.md
    python benchmarks/peers.py --before peers.json --markdown benchmarks/RESULTS.md  # both runs
    python benchmarks/peers.py --shapes  # other networks, beside what most would take
"""

import argparse
import fnmatch
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from contest import report
from contest.cells import CELLS, SHAPE_CELLS, TARGET_CELLS
from contest.driver import Contest, first_uses
from contest.engines import ENGINES

#: Where memory and first calls are measured.
FIRST_CELL = "784-256-128-10/full"
QUICK_CELLS = ("784-30-10/32", "784-256-128-10/256")
#: What trains other networks than those with targets.
SHAPE_ENGINES = (
    "ours-eager", "ours-compiled", "torch-eager", "torch-fused", "jax-scan", "sklearn",
)  # fmt: skip


def chosen(patterns: list[str], names: Any, what: str) -> list[str]:
    """Return the names that match a pattern, in their own order."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SystemExit(f"no {what} is like {pattern!r}; there are {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", metavar="PATTERN", help=", ".join(TARGET_CELLS))
    parser.add_argument("--engines", nargs="+", metavar="PATTERN", help=", ".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=4, help="interleaved rounds (4)")
    parser.add_argument(
        "--seconds", type=float, default=0.2, help="of an engine's share of a round (0.2)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{' and '.join(QUICK_CELLS)}, 2 rounds, no first use"
    )
    parser.add_argument(
        "--shapes", action="store_true", help=f"other networks: {', '.join(SHAPE_CELLS)}"
    )
    parser.add_argument("--cores", type=int, nargs="+", help="cores to pin to (the last one)")
    parser.add_argument("--no-first-use", action="store_true", help="leave out memory and imports")
    parser.add_argument("--only-first-use", action="store_true", help="nothing but them")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--before", type=Path, help="an earlier run's --json, to be shown beside")
    parser.add_argument("--plot", type=Path, help="draw them here")
    parser.add_argument("--markdown", type=Path, help="put the report into this file")
    return parser.parse_args()


def tell(line: str) -> None:
    """Say on the terminal what goes on."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Run the contest, printing each cell's table."""
    default = [name for name in ENGINES if name != "ours-auto"]
    table, quick = TARGET_CELLS, options.quick
    if options.shapes:
        default, table, quick = list(SHAPE_ENGINES), SHAPE_CELLS, False
    engines = chosen(options.engines or default, list(ENGINES), "engine")
    cells = options.cells or (QUICK_CELLS if quick else list(table))
    cells = chosen(list(cells), list(table), "cell")
    cores = options.cores or [max(os.sched_getaffinity(0))]
    found: dict[str, Any] = {
        "machine": report.stated(engines, len(cores)),
        "command": shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "cells": {}, "first_use": {}, "first_cell": FIRST_CELL,
    }  # fmt: skip
    print("\n".join(report.header(found["machine"])))
    if not options.only_first_use:
        rounds = 2 if options.quick else options.rounds
        for name, results in Contest(engines, cores, rounds, options.seconds, tell).run(cells):
            for result in results.values():
                result["other_loss"] = result.get("loss", CELLS[name].loss) != CELLS[name].loss
            found["cells"][name] = results
            print(f"\n{name}\n{report.text_table(report.cell_rows(results))}", flush=True)
        rows = [report.verdict(CELLS[name], cell) for name, cell in found["cells"].items()]
        print(f"\nTargets\n{report.text_table(rows)}", flush=True)
    without = options.quick or options.shapes or options.no_first_use
    if options.only_first_use or not without:
        tell(f"first use and memory: {FIRST_CELL}")
        found["first_use"] = first_uses(engines, cores, FIRST_CELL)
        rows = report.first_rows(found["first_use"])
        print(f"\nFirst use and memory, {FIRST_CELL}\n{report.text_table(rows)}")
    return found


def main() -> None:
    """Measure, print and write."""
    options = parsed()
    before = json.loads(options.before.read_text())["cells"] if options.before else {}
    found = measured(options)
    found["before"] = {
        name: report.verdict(CELLS[name], cell)["times"] for name, cell in before.items()
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot and found["cells"] and not options.shapes:
        report.plot(found, options.plot)
    if options.markdown:
        report.write_markdown(found, options.markdown, other=options.shapes)


if __name__ == "__main__":
    main()
