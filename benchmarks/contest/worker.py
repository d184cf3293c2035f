"""The process of one engine: reads a command a line, answers with a line of JSON.

``python -m contest.worker ENGINE THREADS`` serves rounds; with ``--first CELL`` behind, it measures
the import, the first call and the memory of one cell, and ends.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from typing import Any

from contest.engines import ENGINES, Entry

#: An epoch that takes longer is cut.
LONG_EPOCH = 1.5
#: A call has at least so many epochs of one update: ours makes its memory ready at each call, the
#: peers when they are made, and nobody trains with one update.
LEAST_UPDATES = 4
_KIBI = 1024


class Server:
    """Trains the cells of one engine on command.

    Parameters
    ----------
    entry : Entry
    threads : int
    """

    def __init__(self, entry: Entry, threads: int) -> None:
        self.entry, self.threads = entry, threads
        self.make = entry.load()
        self.engine: Any = None

    def prepare(self, name: str, folder: str) -> dict[str, Any]:
        """Make the engine of a cell, train the checked updates, return how far it is from
        float64.
        """
        import numpy as np

        from contest.cells import CELLS, answer_name, distance, flat

        cell = CELLS[name]
        reason = self.make.refusal(cell)
        if reason:
            return {"refused": reason}
        loss = self.make.loss(cell)
        self.engine = self.make(cell, cell.data(), self.threads)
        self.rows, self.order = cell.rows, cell.checked_order()
        self.engine.train(self.order)
        found = self.engine.parameters()
        if not found:
            return {"error": None, "loss": loss}
        answer = answer_name(loss, cell.adam and self.make.raw_epsilon)
        start, expected = np.load(f"{folder}/start.npy"), np.load(f"{folder}/{answer}")
        return {"error": distance(flat(found), expected, start), "loss": loss}

    def calibrate(self, seconds: float) -> dict[str, Any]:
        """Find out how many epochs take about so many seconds, and of how many rows."""
        cell = self.engine.cell
        each = _time(lambda: self.engine.train(self.order)) / len(self.order)
        if each * cell.rows > LONG_EPOCH and not cell.full:
            batches = max(round(LONG_EPOCH / 2 / (each * cell.batch_size)), 1)
            self.rows = min(batches * cell.batch_size, cell.rows)
        least = LEAST_UPDATES if cell.full else 1
        self.k, epoch = least, self._epochs(1)  # which compiles, in some engines
        # A call of few rows tells little where it takes long to begin.
        if each * self.rows < 2 * LONG_EPOCH:
            epoch = self._epochs(1)
        if min(epoch, each * self.rows) > LONG_EPOCH / 3:
            epoch = min(epoch, each * self.rows)
            return {"epochs": least, "rows": self.rows, "seconds": least * epoch}
        while True:
            epoch = self._epochs(self.k)
            wanted = max(least, round(seconds / max(epoch, 1e-9)))
            if self.k * epoch > seconds / 2 or wanted <= self.k:
                self.k = wanted
                return {"epochs": self.k, "rows": self.rows, "seconds": wanted * epoch}
            self.k = min(wanted, 8 * self.k)

    def _epochs(self, k: int) -> float:
        return _time(lambda: self.engine.epochs(k, self.rows)) / k

    def burst(self) -> dict[str, Any]:
        """Train; return samples/s."""
        return {"rate": self.rows / self._epochs(self.k)}

    def drop(self) -> dict[str, Any]:
        """Forget the cell."""
        self.engine = None
        return {}


def _time(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def serve(entry: Entry, threads: int) -> None:
    """Answer commands until the input ends."""
    # What a library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server: Server | None = None
    for line in sys.stdin:
        name, arguments, cores = json.loads(line)
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), cores)
        try:
            server = server or Server(entry, threads)
            answer = getattr(server, name)(*arguments)
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=answers, flush=True)


def first_use(entry: Entry, threads: int, name: str) -> dict[str, Any]:
    """Return seconds of the imports, of the first call and of the second, and MiB of memory at the
    peak over that after the first import.
    """
    imports, base = {}, 0.0
    for module in entry.imports:
        imports[module] = _time(lambda module=module: importlib.import_module(module))
        base = base or _memory("VmRSS")
    make = entry.load()
    from contest.cells import CELLS

    cell = CELLS[name]
    reason = make.refusal(cell)
    if reason:
        return {"refused": reason}
    data = cell.data()
    start = time.perf_counter()
    engine = make(cell, data, threads)
    engine.epochs(1, cell.rows)
    first = time.perf_counter() - start
    second = _time(lambda: engine.epochs(1, cell.rows))
    memory = _memory("VmHWM") - base
    return {"imports": imports, "first": first, "second": second, "memory": memory, "base": base}


def _memory(field: str) -> float:
    """Return a field of this process's status in MiB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) / _KIBI
    return float("nan")


if __name__ == "__main__":
    chosen, n_threads = ENGINES[sys.argv[1]], int(sys.argv[2])
    if len(sys.argv) > 3:
        print(json.dumps(first_use(chosen, n_threads, sys.argv[4])))
    else:
        serve(chosen, n_threads)
