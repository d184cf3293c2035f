"""Tests and benchmark of a GPU in one go; `gpu_session.sh` starts it.

Everything ends within the minutes asked for: each part gets a share of them, and what there was no
time for is named. Nothing is timed on an emulated GPU, and no engine before its answer has been
compared with a float64 reference.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gpu_model
import gpu_torch
import numpy as np
from networks import NETWORKS, data, timed_backends
from shared import lines_of

import gpubackprop as gb
from gpubackprop import backends
from gpubackprop.compare import Mode, check_training
from gpubackprop.executors import EXECUTORS, Job
from gpubackprop.machine import machine

#: Rows of an update; "full" has as many rows as a device likes.
MODES = {"SGD": 1, "mini-batch 32": 32, "mini-batch 256": 256, "batch 4096": 4096}
#: Shares of the time: tests, compute-sanitizer; the benchmark has the rest.
TESTS_SHARE, SANITIZER_SHARE = 0.35, 0.1
#: A timed call aims at so many seconds, so often.
SECONDS, ROUNDS = 0.15, 3
#: Tests of one kernel and of one training that run under compute-sanitizer.
SANITIZED = ["tests/test_backends.py", "tests/test_gather.py"]


@dataclass
class Row:
    """What one engine took for one network and mode.

    Attributes
    ----------
    network, mode, engine, executor : str
    batch_size : int
    seconds_per_update, samples_per_second, spread : float or None
        Median of the rounds, and the distance of the largest from the smallest as a share of it.
        None where nothing could be timed.
    error : float or None
        Largest difference to float64 after some updates, as a share of the largest change.
    note : str
        Why nothing could be timed.
    """

    network: str
    mode: str
    engine: str
    executor: str
    batch_size: int
    seconds_per_update: float | None = None
    samples_per_second: float | None = None
    spread: float | None = None
    error: float | None = None
    note: str = ""


@dataclass
class Session:
    """What there is so far, and where it is written."""

    out: Path
    device: str
    content: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def write(self) -> None:
        """Write everything there is: the JSON whole or not at all, then the table."""
        whole = {"device": self.device, "machine": machine(), **self.content}
        whole["rows"] = [asdict(row) for row in self.rows]
        part = self.out / "gpu_session.json.part"
        part.write_text(json.dumps(whole, indent=1, default=str))
        os.replace(part, self.out / "gpu_session.json")
        (self.out / "table.txt").write_text("\n".join(self.table()) + "\n")

    def table(self) -> list[str]:
        """Return the table's lines: samples/s, a column for each engine."""
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in self.rows:
            place = {"network": row.network, "mode": row.mode}
            cell = cells.setdefault((row.network, row.mode), place)
            rate = row.samples_per_second
            text = "-" if rate is None else f"{float(f'{rate:.3g}'):,.0f}"
            cell[f"{row.engine} {row.executor}".strip()] = text
        return [f"samples/s on {self.device}", *lines_of(list(cells.values()))] if cells else []


# ---- parts ---------------------------------------------------------------------------------------


def command(words: list[str], seconds: float, log: Path) -> dict[str, Any]:
    """Run a command for at most some time; returns its exit code and its last lines."""
    start = time.monotonic()
    with log.open("w") as file:
        try:
            code: int | str = subprocess.run(
                words, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {seconds:.0f} s"
    tail = log.read_text(errors="replace").splitlines()[-3:]
    spent = round(time.monotonic() - start, 1)
    return {"command": " ".join(words), "exit": code, "seconds": spent, "tail": tail}


def pytest_words(*arguments: str) -> list[str]:
    """Return a call of pytest that needs no plugin."""
    return [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-x", *arguments]


def run_tests(session: Session, seconds: float) -> None:
    """Run the tests that use CuPy on the GPU."""
    words = pytest_words("tests", "-k", "cupy or cuda or graph or block", "--maxfail=20")
    log = session.out / "tests.txt"
    session.content["tests"] = command(words, seconds, log)


def run_sanitizer(session: Session, seconds: float) -> None:
    """Run a few of them under compute-sanitizer, if it is there."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        session.content["sanitizer"] = "compute-sanitizer is not on the PATH"
        return
    words = [tool, "--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all"]
    words += pytest_words(*SANITIZED, "-k", "cupy and not plain")
    session.content["sanitizer"] = command(words, seconds, session.out / "sanitizer.txt")


# ---- benchmark -----------------------------------------------------------------------------------


def rows_for(network: str, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X and Y of some updates: many where they are small."""
    X, Y = data(network)
    n = max(batch_size * (4 if batch_size >= 256 else 64), 2048)
    repeats = math.ceil(n / len(X))
    return np.tile(X, (repeats, 1))[:n], np.tile(Y, (repeats, 1))[:n]


def ours(
    network: str, mode: Mode, backend: str, executor: str, X: np.ndarray, Y: np.ndarray
) -> tuple[Callable[[int], float], float]:
    """Return (train for some epochs -> seconds, error); raises a ValueError that says why not."""
    sizes, hidden, output, loss, *_ = NETWORKS[network]
    start = gb.Network(sizes, hidden=hidden, output=output, loss=loss, backend="numpy", rng=0)
    place = backends.get(backend)
    size = int(mode.batch_size)
    job = Job(start.model, place, mode.optimizer, size, dropout_seed=0, weighted=False)
    reason = EXECUTORS[executor].refusal(job)
    if reason:
        raise ValueError(reason)
    few = max(size, 64)
    error = check_training(start, X[:few], Y[:few], mode, backend, executor)
    net = start.copy(backend=backend)
    with place.active():
        x, y = place.asarray(X), place.asarray(Y)

    def train(epochs: int) -> float:
        history = net.fit(
            x, y, batch_size=size, epochs=epochs, optimizer=mode.optimizer,
            progress=False, executor=executor,
        )  # fmt: skip
        return float(history.seconds[-1])

    return train, error


def engines(network: str) -> Iterator[tuple[str, str]]:
    """Yield (engine, executor) of all that may be timed."""
    for backend in timed_backends(plain=True):
        for executor in EXECUTORS:
            if not backend.endswith("-plain") or executor == "eager":
                yield backend, executor
    for name in gpu_torch.ENGINES if gpu_torch.problem() is None else ():
        yield name, ""


def time_one(row: Row, deadline: float) -> None:
    """Fill in a row; a failure becomes its note."""
    X, Y = rows_for(row.network, row.batch_size)
    rate = NETWORKS[row.network][-1]
    mode = Mode(row.mode, row.batch_size, rate, 0.0)
    try:
        if row.executor:
            train, row.error = ours(row.network, mode, row.engine, row.executor, X, Y)
        else:
            train = gpu_torch.trainer(row.engine, NETWORKS[row.network], row.batch_size, X, Y)
        train(1)
        epochs = max(1, math.ceil(SECONDS / max(train(1), 1e-6)))
        seconds = []
        for _ in range(ROUNDS):
            seconds.append(train(epochs) / epochs)
            if time.monotonic() > deadline:
                break
    except Exception as error:  # one engine that fails must not end the session
        row.note = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return
    median = float(np.median(seconds))
    row.seconds_per_update = median / math.ceil(len(X) / row.batch_size)
    row.samples_per_second = len(X) / median
    row.spread = (max(seconds) - min(seconds)) / median


def run_benchmark(session: Session, deadline: float) -> None:
    """Time every engine on every network and mode until time is up, small ones first."""
    cells = [(network, mode) for network in NETWORKS for mode in MODES]
    left = []
    for network, mode in cells:
        for engine, executor in engines(network):
            if time.monotonic() > deadline:
                left.append(f"{network} {mode} {engine} {executor}".strip())
                continue
            row = Row(network, mode, engine, executor, MODES[mode])
            time_one(row, deadline)
            session.rows.append(row)
            session.write()
            text = row.note or f"{row.samples_per_second:,.0f} samples/s"
            print(f"{network:18} {mode:14} {engine} {executor}: {text}")
    session.content["left_out_for_time"] = left


def plot(session: Session) -> None:
    """Draw samples/s by engine, a picture for each mode, if matplotlib is installed."""
    try:
        import matplotlib

        matplotlib.use("agg")
        import matplotlib.pyplot as plt
    except ImportError:
        session.content["plots"] = "matplotlib is not installed"
        return
    timed = [row for row in session.rows if row.samples_per_second]
    for mode in dict.fromkeys(row.mode for row in timed):
        here = [row for row in timed if row.mode == mode]
        names = list(dict.fromkeys(f"{row.engine} {row.executor}".strip() for row in here))
        figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
        for k, name in enumerate(names):
            points = [(r.network, r.samples_per_second) for r in here
                      if f"{r.engine} {r.executor}".strip() == name]  # fmt: skip
            marker = "os^vD<>PX*hd"[k % 12]
            axes.plot(*zip(*points, strict=True), marker=marker, linestyle="none", label=name)
        axes.set(yscale="log", ylabel="samples / s", title=f"{mode}, {session.device}")
        axes.legend(fontsize="small", ncols=2)
        figure.savefig(session.out / f"{mode.replace(' ', '-')}.png", dpi=120)
        plt.close(figure)


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-session"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--no-tests", action="store_true", help="the benchmark only")
    options = parser.parse_args()
    begin, total = time.monotonic(), 60 * options.minutes
    problem = backends.problem("cupy")
    if problem:
        parser.exit(2, f"no GPU can be used: {problem}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    session = Session(options.out, backends.get("cupy").describe())
    session.content["torch"] = gpu_torch.problem() or gpu_torch.describe()
    session.write()
    if not options.no_tests:
        run_tests(session, TESTS_SHARE * total)
        run_sanitizer(session, SANITIZER_SHARE * total)
        session.write()
    try:
        run_benchmark(session, begin + 0.97 * total - 5)
    finally:
        plot(session)
        session.content["seconds"] = round(time.monotonic() - begin, 1)
        session.write()
        print("\n".join(session.table()))
    name, measured = gpu_model.read_measured(options.out / "gpu_session.json")
    known = next((device for device in gpu_model.DEVICES if device in name), None)
    if known and measured:
        print(f"\nexpected / measured microseconds of an update (ratio), {known}")
        print("\n".join(lines_of(gpu_model.rows_of(known, measured))))


if __name__ == "__main__":
    main()
