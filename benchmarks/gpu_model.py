"""The cost model of the GPU executors: expected times of a training step on a named GPU.

    python benchmarks/gpu_model.py                         # NVIDIA H100, all networks
    python benchmarks/gpu_model.py --device "RTX 4090"
    python benchmarks/gpu_model.py --measured gpu_session.json

Arithmetic, data sheets and cited launch costs, and nothing that was measured: every expected time
is a prediction, to be set against a measured one. `--measured` puts those of `gpu_session.sh`
beside them, and the ratio.

Products are taken to reach the peak, which cuBLAS's nearly do where they are large, and the graph's
own do not: there `auto` has shares of the peak of its own (`gpubackprop.executors.gpu_cost`).

A step with n rows costs 6 n P - 2 n d0 d1 FLOPs (P weights; layer 0 sends no delta down) and the
update. It takes the host's time for its launches or the device's for its kernels, whichever is
longer; a kernel takes its roofline, and never less than `Launch.node`.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import lines_of

import gpubackprop as gb
from gpubackprop.backends.cuda import block
from gpubackprop.executors import gpu_cost
from gpubackprop.executors.graph import steps_of_graph
from gpubackprop.model import Model


@dataclass(frozen=True)
class Device:
    """A GPU's data sheet.

    Attributes
    ----------
    float32, tf32 : float
        Peak FLOP/s; tf32 without sparsity, that of float32 where there are no such units.
    bandwidth : float
        Bytes/s of its memory that a copy reaches: 90 % of the data sheet's.
    clock : float
        Hz.
    multiprocessors : int
    shared : int
        Bytes of shared memory that a block can opt in to.
    """

    float32: float
    tf32: float
    bandwidth: float
    clock: float
    multiprocessors: int
    shared: int


#: From NVIDIA's data sheets and the CUDA programming guide's table of technical specifications.
DEVICES = {
    "T4": Device(8.1e12, 8.1e12, 0.9 * 320e9, 1.59e9, 40, 64 << 10),
    "RTX 3090": Device(35.6e12, 35.6e12, 0.9 * 936e9, 1.70e9, 82, 99 << 10),
    "RTX 4090": Device(82.6e12, 82.6e12, 0.9 * 1008e9, 2.52e9, 128, 99 << 10),
    "A100": Device(19.5e12, 156e12, 0.9 * 1555e9, 1.41e9, 108, 163 << 10),
    "H100": Device(67e12, 494e12, 0.9 * 3350e9, 1.755e9, 132, 227 << 10),
    "H200": Device(67e12, 494e12, 0.9 * 4800e9, 1.755e9, 132, 227 << 10),
}


@dataclass(frozen=True)
class Launch:
    """What launches cost, in seconds; what `auto` goes by, and CuPy's own operations.

    Attributes
    ----------
    operation : float
        Host, an array operation of CuPy: 11 to 20 us are cited.
    product, kernel, graph : float
        Host, ``matmul(out=)``, a kernel of ours, a graph.
    node : float
        Device, a kernel of no work that waits for the one before.
    """

    operation: float = 15e-6
    product: float = gpu_cost.PRODUCT_SECONDS
    kernel: float = gpu_cost.KERNEL_SECONDS
    graph: float = gpu_cost.GRAPH_SECONDS
    node: float = gpu_cost.NODE_SECONDS


NETWORKS = {
    "4-4-4-1": (4, 4, 4, 1),
    "784-30-10": (784, 30, 10),
    "784-256-128-10": (784, 256, 128, 10),
    "1024-2048-2048-10": (1024, 2048, 2048, 10),
}
BATCH_SIZES = (1, 32, 256, 4096)


def kernels(sizes: Sequence[int], n: int, itemsize: int = 4) -> list[tuple[float, float]]:
    """Return (FLOPs, bytes) of each kernel of a fused step of plain gradient descent.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer, the inputs first.
    n : int
        Rows.
    itemsize : int, optional
        Bytes of a number.

    Returns
    -------
    list of (float, float)
        Gather; forward, layer by layer; output delta; backward; update. Bytes count each kernel's
        inputs and outputs once.
    """
    layers = list(itertools.pairwise(sizes))
    n_parameters = sum(i * o + o for i, o in layers)
    numbers: list[tuple[float, float]] = [(0, 2 * n * sizes[0])]
    numbers += [(2 * n * i * o, n * i + i * o + n * o) for i, o in layers]
    numbers.append((0, 3 * n * sizes[-1]))
    for l, (i, o) in reversed(list(enumerate(layers))):
        if l:
            numbers.append((2 * n * i * o, n * o + i * o + 2 * n * i))
        numbers.append((2 * n * i * o, n * o + n * i + i * o))
    numbers.append((2 * n_parameters, 3 * n_parameters))
    return [(flops, itemsize * count) for flops, count in numbers]


def launches(sizes: Sequence[int], n: int) -> dict[str, float]:
    """Return the launches of an update of n rows by executor, products counted; "plain" is CuPy's
    own operations.
    """
    n_layers = len(sizes) - 1
    return {
        "plain": 18 * n_layers + 6,
        "eager": 5 * n_layers + 2,
        "graph": 1 / steps_of_graph(model_of(sizes), n),
        "block": 1 / block.SAMPLES,
    }


def expected(
    sizes: Sequence[int], n: int, device: Device, launch: Launch | None = None, tf32: bool = False
) -> dict[str, float | None]:
    """Return the seconds that an update is expected to take, by executor; float32.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer, the inputs first.
    n : int
        Rows of the batch.
    device : Device
    launch : Launch, optional
    tf32 : bool, optional
        Whether products run on the tensor cores.

    Returns
    -------
    dict of str to float or None
        Keys "roofline" (no launches at all), "plain", "eager", "graph", "block"; None where an
        executor cannot do it.
    """
    launch = launch or Launch()
    peak = device.tf32 if tf32 else device.float32
    n_layers = len(sizes) - 1
    work = [max(flops / peak, size / device.bandwidth) for flops, size in kernels(sizes, n)]
    device_time = sum(max(launch.node, seconds) for seconds in work)
    counts = launches(sizes, n)
    products = 3 * n_layers - 1
    eager = products * launch.product + (counts["eager"] - products) * launch.kernel
    return {
        "roofline": sum(work),
        # Its temporaries are written and read again: half as much traffic on top.
        "plain": max(counts["plain"] * launch.operation, 1.5 * device_time),
        "eager": max(eager, device_time),
        "graph": max(launch.graph * counts["graph"], device_time),
        "block": block_seconds(sizes, device) if n == 1 else None,
    }


def model_of(sizes: Sequence[int]) -> Model:
    """Return a network of sigmoid layers in float32."""
    net = gb.Network(list(sizes), hidden="sigmoid", output="sigmoid", backend="numpy", rng=0)
    return net.model


def block_seconds(sizes: Sequence[int], device: Device) -> float | None:
    """Return the seconds of a sample in one block, or None if the parameters do not fit there."""
    if block.plan(model_of(sizes), gb.SGD(), 0).nbytes > device.shared:
        return None
    return gpu_cost.block_clocks(sizes, 4) / device.clock


def rows_of(device: str, measured: dict[tuple[str, int, str], float]) -> list[dict[str, str]]:
    """Return the lines of the table."""
    rows = []
    for network, sizes in NETWORKS.items():
        for n in BATCH_SIZES:
            times = expected(sizes, n, DEVICES[device])
            row = {"network": network, "batch": str(n)}
            for executor, seconds in times.items():
                text = "-" if seconds is None else f"{1e6 * seconds:.3g}"
                found = measured.get((network, n, executor))
                if found is not None and seconds is not None:
                    text += f" / {1e6 * found:.3g} ({found / seconds:.2f})"
                row[executor] = text
            rows.append(row)
    return rows


def read_measured(path: Path) -> tuple[str, dict[tuple[str, int, str], float]]:
    """Return the device's name and the seconds of an update by network, batch and executor."""
    content = json.loads(path.read_text())
    times = {}
    for row in content["rows"]:
        if row.get("seconds_per_update") and row["engine"].startswith("cupy"):
            executor = "plain" if "plain" in row["engine"] else row["executor"]
            times[row["network"], row["batch_size"], executor] = row["seconds_per_update"]
    return content["device"], times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, help="by default the measured one, else H100")
    parser.add_argument("--measured", type=Path, help="gpu_session.json")
    options = parser.parse_args()
    name, measured = read_measured(options.measured) if options.measured else ("", {})
    known = next((device for device in DEVICES if device in name), "H100")
    device = options.device or known
    print(f"Expected microseconds of an update on an NVIDIA {device}, float32", end="")
    print(f" / measured on {name} (ratio)" if measured else "; none of them measured")
    print("\n".join(lines_of(rows_of(device, measured))))


if __name__ == "__main__":
    main()
