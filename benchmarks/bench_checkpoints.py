"""What a checkpoint of 6.3 million parameters costs: copied, written, synced, renamed."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop import checkpoints, pace

SIZES = [2048, 2048, 1024, 10]
CASES = {
    "SGD": {"optimizer": gb.SGD(0.01)},
    "Adam": {"optimizer": gb.Adam(0.001)},
    "Adam, early stopping": {"optimizer": gb.Adam(0.001), "early_stopping": 5},
}


@pytest.mark.parametrize("case", CASES)
def test_checkpoint(
    case: str,
    benchmark: Any,
    tabulate: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = gb.Network(SIZES, "relu", backend="numpy", rng=0)
    X = np.random.default_rng(0).random((256, SIZES[0]), dtype=np.float32)
    y, path = np.arange(256) % SIZES[-1], tmp_path / "run.ckpt"
    taken: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    write = checkpoints.Keeper.write

    def timed(keeper: checkpoints.Keeper, epoch: int, rows_done: int) -> None:
        began = time.perf_counter()
        write(keeper, epoch, rows_done)
        taken[rows_done > 0].append((time.perf_counter() - began, os.path.getsize(path)))

    monkeypatch.setattr(checkpoints.Keeper, "write", timed)
    monkeypatch.setattr(pace, "_SLICE_SECONDS", 0.0)
    benchmark.pedantic(
        lambda: net.fit(X, y, batch_size=64, epochs=3, checkpoint=path, every=0, **CASES[case]),
        rounds=2,
        warmup_rounds=1,
    )
    for within, found in taken.items():
        tabulate(
            f"a checkpoint of {net.n_parameters:,} parameters in float32",
            optimizer=case,
            position="within an epoch" if within else "at an epoch's end",
            MB=f"{found[-1][1] / 1e6:.0f}",
            ms=f"{1e3 * statistics.median(seconds for seconds, _ in found):.0f}",
        )
