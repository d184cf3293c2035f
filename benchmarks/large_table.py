"""A CSV file of many rows, trained on by ``gpubackprop train``: time and memory of each part.

    python benchmarks/large_table.py --rows 10000000

Writes a file of 15 columns of numbers, one of categories, missing values in each, and a class;
trains for one epoch; predicts; deletes all. Memory is what the process had at most, asked every
0.05 s: `anonymous` is its own, `mapped files` are pages of the rows on disk, which the system takes
back when it needs them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

_BLOCK = 500_000
_NUMBERS = 15
_COLOURS = np.array(["red", "green", "blue", "grey", "white"])


def write(path: Path, rows: int) -> None:
    """Write the file."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(_NUMBERS)
    writer = None
    with open(path, "wb") as file:
        for start in range(0, rows, _BLOCK):
            n = min(_BLOCK, rows - start)
            X = rng.standard_normal((n, _NUMBERS))
            colour = rng.integers(0, len(_COLOURS), n)
            label = (X @ weights + colour - 2 + rng.standard_normal(n) > 0).astype(int)
            missing = rng.random((n, _NUMBERS + 1)) < 0.02
            table = pa.table(
                {
                    **{
                        f"x{i}": pa.array((10 * X[:, i] + i).round(3), mask=missing[:, i])
                        for i in range(_NUMBERS)
                    },
                    "colour": pa.array(_COLOURS[colour], mask=missing[:, -1]),
                    "label": pa.array(np.array(["no", "yes"])[label]),
                }
            )
            writer = writer or csv.CSVWriter(
                file, table.schema, write_options=csv.WriteOptions(quoting_style="none")
            )
            writer.write_table(table)
        assert writer is not None
        writer.close()


def watched(command: list[str]) -> tuple[str, float, dict[str, float]]:
    """Run a command; return its output, seconds, and the most memory that it had, in MiB."""
    fields = {"RssAnon": "anonymous", "RssFile": "mapped files", "VmRSS": "resident"}
    most = dict.fromkeys(fields.values(), 0.0)
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                text = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name in fields:
                    most[fields[name]] = max(most[fields[name]], int(value.split()[0]) / 1024)
            time.sleep(0.05)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return output, time.perf_counter() - began, most


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch-size", default="256")
    parser.add_argument("--folder", help="where 2 GB may be written")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "rows.csv"
        began = time.perf_counter()
        write(path, chosen.rows)
        print(f"{chosen.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB of CSV, written in "
              f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
        command = [
            sys.executable, "-m", "gpubackprop", "train", str(path), "--target", "label",
            "--epochs", "1", "--batch-size", chosen.batch_size, "--json",
            "--model", str(path.with_suffix(".safetensors")),
        ]  # fmt: skip
        output, seconds, most = watched(command)
        found = json.loads(output)
        parts = ", ".join(f"{name} {value:.1f} s" for name, value in found["seconds"].items())
        print(f"train: {seconds:.1f} s ({parts})")
        print(f"  {found['executor']}, rows in files: {found['rows_in_files']}, "
              f"accuracy {found['scores']['validation']['accuracy']:.1%}")  # fmt: skip
        print("  " + ", ".join(f"{name} {value:,.0f} MiB" for name, value in most.items()))
        model = str(path.with_suffix(".safetensors"))
        predictions = str(path.with_suffix(".npy"))
        command = [sys.executable, "-m", "gpubackprop", "predict", model, str(path)]
        _, seconds, most = watched([*command, "--to", predictions])
        print(f"predict: {seconds:.1f} s")
        print("  " + ", ".join(f"{name} {value:,.0f} MiB" for name, value in most.items()))


if __name__ == "__main__":
    main()
