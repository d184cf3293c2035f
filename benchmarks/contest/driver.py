"""Runs the engines' processes: all prepare, all are checked, then bursts in interleaved rounds."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contest.cells import AGREEMENT, CELLS, Cell, answer_name, flat, reference
from contest.engines import ENGINES
from gpubackprop.measure import in_rounds

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS", "BLIS_NUM_THREADS",
)  # fmt: skip
#: A slow engine, whose burst takes longer, is timed in few rounds only.
SLOW_BURST, SLOW_ROUNDS = 2.0, 2


def environment(threads: int) -> dict[str, str]:
    """Return the environment of an engine's process: so many threads, and BLAS's own choice of
    kernels.
    """
    env = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    env |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    env["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} "
        f"intra_op_parallelism_threads={threads}"
    )
    env |= {
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # A small network's program, which a longer job than a burst gets, is made in the warm-up.
        "GPUBACKPROP_FIXED": "always",
    }
    paths = [str(Path(__file__).resolve().parents[1]), *sys.path]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return env


class Process:
    """The process of one engine.

    Parameters
    ----------
    name : str
        Of `ENGINES`.
    cores : list of int
        Where it starts: libraries make as many threads as they see cores then.
    """

    def __init__(self, name: str, cores: list[int]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "contest.worker", name, str(len(cores))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment(len(cores)),
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip

    def tell(self, command: str, *arguments: Any, cores: list[int]) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` says so
            print(json.dumps([command, arguments, cores]), file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Wait for the answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"refused": f"its process ended with code {self._process.wait()}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, command: str, *arguments: Any, cores: list[int]) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.tell(command, *arguments, cores=cores)
        return self.answer()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Contest:
    """The engines side by side on pinned cores.

    Parameters
    ----------
    engines : list of str
    cores : list of int
        As many as threads.
    rounds : int
    seconds : float
        Of an engine's share of a round.
    tell : callable
        Given a line about what goes on.
    """

    def __init__(
        self,
        engines: list[str],
        cores: list[int],
        rounds: int,
        seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self.cores, self.rounds, self.seconds, self.tell = cores, rounds, seconds, tell
        self.processes = [Process(name, cores) for name in engines]

    def run(self, cells: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a cell's name and what each engine did there."""
        try:
            for name in cells:
                with tempfile.TemporaryDirectory() as folder:
                    yield name, self._cell(CELLS[name], folder)
        finally:
            for process in self.processes:
                process.end()

    def _cell(self, cell: Cell, folder: str) -> dict[str, Any]:
        write_references(cell, folder)
        self.tell(f"{cell.name}: preparing and checking")
        # Where it will be timed: JAX makes a thread for each core that it sees here.
        for process in self.processes:
            process.tell("prepare", cell.name, folder, cores=self.cores)
        found = {process.name: process.answer() for process in self.processes}
        for result in found.values():
            error = result.get("error")
            if error is not None and not error <= AGREEMENT:
                result["refused"] = f"it is {error:.1e} from float64, more than {AGREEMENT:.0e}"
        racers = {p.name: p for p in self.processes if "refused" not in found[p.name]}
        self.tell(f"{cell.name}: timing {len(racers)} engines")
        for name, process in racers.items():
            found[name] |= process.ask("calibrate", self.seconds, cores=self.cores)
            found[name]["rates"] = []
        for k, name in in_rounds(racers, self.rounds):
            result = found[name]
            if "refused" in result or (k >= SLOW_ROUNDS and result["seconds"] > SLOW_BURST):
                continue
            answer = racers[name].ask("burst", cores=self.cores)
            if "rate" in answer:
                result["rates"].append(answer["rate"])
            else:
                result |= answer
        for process in self.processes:
            process.ask("drop", cores=self.cores)
        return {name: summary(result) for name, result in found.items()}


def write_references(cell: Cell, folder: str) -> None:
    """Write what float64 gets with each loss that an engine trains the cell with."""
    data, order = cell.data(), cell.checked_order()
    pairs = zip(data.weights, data.biases, strict=True)
    np.save(f"{folder}/start.npy", flat([p for pair in pairs for p in pair]))
    others = ("squared", "log_loss") if cell.loss != "cross_entropy" else ()
    for loss in {cell.loss, *others}:
        for raw in (False, True)[: 1 + cell.adam]:
            answer = reference(cell, data, order, loss, raw)
            np.save(f"{folder}/{answer_name(loss, cell.adam and raw)}", answer)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Add median and spread of samples/s to what an engine did."""
    rates = result.get("rates")
    if rates:
        low, high = np.quantile(rates, (0.25, 0.75))
        median = float(np.median(rates))
        result |= {"samples_per_second": median, "spread": float(high - low) / median}
    return result


def first_uses(engines: list[str], cores: list[int], cell: str) -> dict[str, Any]:
    """Measure import, first call and memory of each engine in a fresh process."""
    found = {}
    for name in engines:
        if ENGINES[name].kind == "yardstick" and name != "numpy-hand":
            continue
        command = [sys.executable, "-m", "contest.worker", name, str(len(cores)), "--first", cell]
        done = subprocess.run(
            command, env=environment(len(cores)), capture_output=True, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        lines = done.stdout.strip().splitlines()
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        found[name] = json.loads(lines[-1]) if done.returncode == 0 else {"refused": last[:200]}
    return found
