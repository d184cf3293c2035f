"""What the measurements say: tables, JSON, Markdown, a plot."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared import lines_of

from contest.cells import BATCHES, CELLS, TARGETS, Cell
from contest.engines import ENGINES
from gpubackprop.machine import machine, version

#: What no executor of ours may lose to.
NEVER_LOSE_TO = ("sklearn", "torch-eager")

#: Columns of cells that have targets.
_OF_TARGETS = ("target", "reached", "/ GEMMs")

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def rate(cell: Mapping[str, Mapping[str, Any]], name: str) -> float:
    """Return an engine's samples/s; 0 if it has none."""
    return float(cell.get(name, {}).get("samples_per_second", 0.0))


def best(cell: Mapping[str, Mapping[str, Any]], kind: str) -> tuple[float, str]:
    """Return samples/s and name of the fastest engine of a kind."""
    names = [name for name in cell if ENGINES[name].kind == kind]
    return max(((rate(cell, name), name) for name in names), default=(0.0, ""))


def gemms(cell: Mapping[str, Mapping[str, Any]]) -> float:
    """Return samples/s of the bare products with the faster BLAS."""
    return max(rate(cell, name) for name in ("gemm-openblas", "gemm-mkl", ""))


def number(value: float) -> str:
    """Write samples/s with three digits: "12.3k"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def times(value: float, other: float) -> str:
    """Write how many times the other a value is."""
    return f"{value / other:.3g}" if value and other else "-"


def cell_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the rows of one cell's table, the fastest first."""
    top, _ = best(results, "peer")
    products = gemms(results)
    rows = []
    for name in sorted(results, key=lambda name: -rate(results, name)):
        result, value = results[name], rate(results, name)
        error = result.get("error")
        row = {
            "engine": ENGINES[name].title,
            "samples/s": number(value) if value else "-",
            "spread": f"{result['spread']:.0%}" if value else "-",
            "/ best peer": times(value, top),
            "/ GEMMs": times(value, products),
            "from float64": "-" if error is None else f"{error:.0e}",
            "note": remark(result),
        }
        rows.append(row)
    return rows


def remark(result: Mapping[str, Any]) -> str:
    """Return why an engine has no figure, or what it does otherwise."""
    if "refused" in result:
        return str(result["refused"])
    return f"with {result['loss']}" if result.get("other_loss") else ""


def verdict(cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the row of a cell in the table of targets."""
    ours, name = best(results, "ours")
    top, peer = best(results, "peer")
    lost = [
        f"{one.removeprefix('ours-')} {times(rate(results, one), rate(results, other))} x "
        f"{ENGINES[other].title}"
        for other in NEVER_LOSE_TO
        for one in results
        if ENGINES[one].kind == "ours" and 0 < rate(results, one) < rate(results, other)
    ]
    over = ours / top if top else 0.0
    fann = rate(results, "fann")
    reached = over >= cell.target
    if fann and cell.fann_target:
        others, _ = best({one: results[one] for one in results if one != "fann"}, "peer")
        reached = ours >= cell.target * others and ours >= cell.fann_target * fann
    row = {
        "cell": cell.name,
        "rows": f"{cell.rows}",
        "ours": number(ours),
        "by": name.removeprefix("ours-"),
        "best peer": number(top),
        "which": ENGINES[peer].title if peer else "-",
        "times": f"{over:.2f}" if over else "-",
        "target": f"{cell.target:g}"
        + (f", {cell.fann_target:g} x FANN" if cell.fann_target else ""),
        "reached": "-" if not over else "yes" if reached else "no",
        "/ GEMMs": times(ours, gemms(results)),
        "eager / peer": times(rate(results, "ours-eager"), top),
        "loses to": "; ".join(lost),
    }
    if fann and cell.mode == "sgd":
        row["which"] += f"; {times(ours, fann)} x FANN"
    if not cell.target:
        row = {key: value for key, value in row.items() if key not in _OF_TARGETS}
    return row


def first_rows(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the rows of the table of imports, first calls and memory."""
    rows = []
    for name, result in found.items():
        row = {"engine": ENGINES[name].title}
        if "refused" in result:
            rows.append(row | {"note": result["refused"]})
            continue
        imports = result["imports"]
        row |= {
            "import s": " + ".join(f"{seconds:.2f}" for seconds in imports.values()),
            "first call s": f"{result['first']:.2f}",
            "second s": f"{result['second']:.2f}",
            "first - second s": f"{result['first'] - result['second']:.2f}",
            "peak MiB over import": f"{result['memory']:.0f}",
            "import MiB": f"{result['base']:.0f}",
            "note": ", ".join(imports),
        }
        rows.append(row)
    return rows


def stated(engines: list[str], threads: int) -> dict[str, Any]:
    """Return the machine and the versions of what was run."""
    wanted = sorted({package for name in engines for package in ENGINES[name].versions})
    found = machine()
    found["threads"] = threads
    found["versions"] = {package: version(package) for package in wanted} | {
        "python": found["versions"]["python"],
        "gpubackprop": found["versions"]["gpubackprop"],
    }
    return found


def header(here: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that name the machine and the versions."""
    blas = here["blas"]
    yield f"{here['processor']}, {here['system']}; threads: {here['threads']}, each engine pinned"
    yield f"NumPy's BLAS: {blas['name']} {blas['version']}"
    yield ", ".join(f"{name} {found}" for name, found in here["versions"].items() if found)


def text_table(rows: list[dict[str, str]]) -> str:
    """Lay rows out for a terminal."""
    return "\n".join(lines_of(rows)) if rows else ""


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Lay rows out in Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(found: Mapping[str, Any], title: str = "Training beside the peers") -> str:
    """Return the report in Markdown."""
    results: Results = found["cells"]
    parts = [
        f"## {title}",
        "\n".join(f"- {line}" for line in header(found["machine"])),
    ]
    parts.append(
        "Samples/s, medians of interleaved rounds; the spread is between the quartiles. Repeat "
        f"with `{found['command']}`."
    )
    rows = [verdict(CELLS[name], cell) for name, cell in results.items()]
    before = found.get("before") or {}
    for row in rows if before else []:
        row["times in the run before"] = before.get(row["cell"], "-")
    parts.append(markdown_table(rows))
    engines = list(dict.fromkeys(name for cell in results.values() for name in cell))
    rows = [
        {"engine": ENGINES[e].title}
        | {n: number(rate(c, e)) if rate(c, e) else "-" for n, c in results.items()}
        for e in engines
    ]
    parts += ["### Samples per second", markdown_table(rows)]
    notes = [
        f"- {ENGINES[e].title}, {n}: {remark(c[e])}"
        for n, c in results.items() for e in c if remark(c[e])
    ]  # fmt: skip
    notes.append(
        "- gpubackprop runs with `GPUBACKPROP_FIXED=always`: networks like 4-4-4-1 have a program "
        "of their own, as jobs that are worth compiling it get it by themselves."
    )
    parts += ["### Notes", "\n".join(notes)]
    if found["first_use"]:
        parts += [
            f"### First use and memory ({found['first_cell']})",
            markdown_table(first_rows(found["first_use"])),
        ]
    return "\n\n".join(parts) + "\n"


def write_markdown(found: Mapping[str, Any], path: Path, *, other: bool = False) -> None:
    """Write the report between its marks in a file, which is made if it is not there; that of other
    networks than those with targets between others.
    """
    name, title = ("shapes", "Other networks") if other else ("peers", "Training beside the peers")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = path.read_text() if path.exists() else f"# Results\n\n{begin}\n{end}\n"
    if begin not in old:
        old += f"\n{begin}\n{end}\n"
    before, rest = old.split(begin, 1)
    after = rest.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n\n{markdown(found, title)}\n{end}{after}")


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw samples/s: a panel for each network, a group of bars for each mode."""
    from matplotlib.figure import Figure

    results: Results = found["cells"]
    figure = Figure(figsize=(14, 9), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    names = [name for name in ENGINES if any(rate(cell, name) for cell in results.values())]
    for panel, network in zip(panels, TARGETS, strict=True):
        for i, name in enumerate(names):
            values = [rate(results.get(f"{network}/{mode}", {}), name) for mode in BATCHES]
            places = [m + (i - len(names) / 2) * 0.85 / len(names) for m in range(len(BATCHES))]
            shown = [(x, v) for x, v in zip(places, values, strict=True) if v]
            panel.bar(
                [x for x, _ in shown], [v for _, v in shown], 0.85 / len(names),
                label=ENGINES[name].title, color=f"C{i % 10}", hatch="//" if i >= 10 else None,
            )  # fmt: skip
        panel.set(title=network, yscale="log", ylabel="samples/s")
        panel.set_xticks(range(len(BATCHES)), BATCHES)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.savefig(path)
