"""Whole calls of `fit`, each in a fresh process: auto beside the best, first calls, two threads.

    python benchmarks/fits.py auto      # each executor's seconds, loading it included; how far auto
                                        # is from the best
    python benchmarks/fits.py first     # first fit and second, with an empty cache and a full one
    python benchmarks/fits.py threads   # seconds with one thread and with all

Every figure is the least of a few runs: whatever else the machine does only adds to it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shared import lines_of

from gpubackprop.machine import machine
from gpubackprop.threads import available

#: Jobs: network of `networks.NETWORKS`, rows, batch size (0: all rows), epochs, optimiser.
JOBS = {
    "100 rows of 4-4-4-1": ("4-4-4-1", 100, 32, 10, "sgd"),
    "4-4-4-1, SGD": ("4-4-4-1", 2000, 1, 20, "sgd"),
    "4-4-4-1, mini-batches": ("4-4-4-1", 2000, 32, 400, "sgd"),
    "784-30-10, one epoch": ("784-30-10", 5000, 32, 1, "sgd"),
    "784-30-10, 20 epochs": ("784-30-10", 5000, 32, 20, "sgd"),
    "784-30-10, SGD": ("784-30-10", 5000, 1, 4, "sgd"),
    "784-256-128-10, Adam": ("784-256-128-10", 4096, 256, 4, "adam"),
    "784-256-128-10, full": ("784-256-128-10", 4096, 0, 20, "sgd"),
    "784-256-128-10, SGD": ("784-256-128-10", 1024, 1, 4, "sgd"),
    "1024-2048-2048-10, 256": ("1024-2048-2048-10", 1024, 256, 2, "sgd"),
}
RUNS = 2


def child(network: str, n: int, size: int, epochs: int, optimizer: str, **options: Any) -> None:
    """Fit twice; print the seconds of both, and which executor it was."""
    import time

    from networks import NETWORKS, data

    import gpubackprop as gb

    sizes, hidden, output, loss, *_ = NETWORKS[network]
    X, Y = data(network, n)
    seconds = []
    for _ in range(2):
        net = gb.Network(sizes, hidden=hidden, output=output, loss=loss, backend="numpy", rng=0)
        start = time.perf_counter()
        net.fit(X, Y, batch_size=size or "full", epochs=epochs, optimizer=optimizer,
                progress=False, **options)  # fmt: skip
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "executor": net.history.executor}))


def run(job: str, cache: str | None = None, **options: Any) -> dict[str, Any]:
    """Run `child` in a process of its own."""
    threads = str(options.get("threads", 1))
    env = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    env |= {"OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    if cache is not None:
        env["GPUBACKPROP_CACHE"] = cache
    text = json.dumps([JOBS[job], options])
    done = subprocess.run(
        [sys.executable, __file__, "child", text], env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def least(job: str, which: int, **options: Any) -> tuple[float, str]:
    """Return the seconds of the first or second fit, the least of some runs; and the executor."""
    found = [run(job, **options) for _ in range(RUNS)]
    return min(one["seconds"][which] for one in found), found[0]["executor"]


def auto() -> list[dict[str, str]]:
    """Time each job on eager, compiled and auto, from what they load on."""
    rows = []
    for job in JOBS:
        run(job, executor="compiled")  # into the cache
        seconds = {name: least(job, 0, executor=name) for name in ("eager", "compiled", "auto")}
        best = min(value for value, _ in seconds.values())
        rows.append(
            {"job": job}
            | {name: f"{value:.2f}" for name, (value, _) in seconds.items()}
            | {
                "chosen": seconds["auto"][1],
                "over the best": f"{seconds['auto'][0] / best - 1:.0%}",
            }
        )
    return rows


def first() -> list[dict[str, str]]:
    """Time first and second fits: only with an empty cache Numba is imported, and compiles."""
    rows = []
    for job in ("4-4-4-1, mini-batches", "784-30-10, SGD", "784-256-128-10, Adam"):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "full"):
                found = run(job, cache=cache, executor="compiled")["seconds"]
                rows.append(
                    {"job": job, "cache": state, "first s": f"{found[0]:.2f}",
                     "second s": f"{found[1]:.2f}", "more s": f"{found[0] - found[1]:.2f}"}
                )  # fmt: skip
    return rows


def threads() -> list[dict[str, str]]:
    """Time each job with one thread and with all processors."""
    rows = []
    for job in JOBS:
        times = {n: least(job, 1, executor="compiled", threads=n)[0] for n in (1, available())}
        rows.append(
            {"job": job}
            | {f"threads: {n}": f"{seconds:.3f} s" for n, seconds in times.items()}
            | {"times as fast": f"{times[1] / times[available()]:.2f}"}
        )
    return rows


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "child":
        given, more = json.loads(sys.argv[2])
        child(*given, **more)
    elif what in ("auto", "first", "threads"):
        here = machine()
        print(f"{here['processor']}, {available()} processors; {here['blas']['name']}")
        print("\n".join(lines_of(globals()[what]())))
    else:
        raise SystemExit(__doc__)
