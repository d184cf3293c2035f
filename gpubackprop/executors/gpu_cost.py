"""What an update is expected to take on a GPU, by executor: what `auto` goes by.

A pure function of sizes and of the number of multiprocessors. No number here was measured on a GPU:
launch costs are cited or assumed (docs/gpu.md has the sources), work is counted. An update takes
the host's time for its launches or the device's for its kernels, whichever is longer.
"""

import itertools
from collections.abc import Sequence

from gpubackprop.model import Model

#: Host, seconds of a launch: a product by cuBLAS, a kernel of ours, a graph.
PRODUCT_SECONDS, KERNEL_SECONDS, GRAPH_SECONDS = 10e-6, 6e-6, 8e-6
#: Device, seconds of a kernel with next to no work.
NODE_SECONDS = 2e-6
#: FLOP/s of one multiprocessor in float32 (an H100's: 67e12 / 132), and which share of it cuBLAS's
#: products and ours reach: ours wait for shared memory, twice for four multiplications.
FLOPS, CUBLAS_SHARE, OWN_SHARE = 0.5e12, 0.8, 0.4
#: What begins with a graph or a block: compiling kernels that CuPy has not kept, capturing.
BEGIN_SECONDS = 1.0
#: Hz of a multiprocessor, clocks from one barrier of a block to the next, and words of shared
#: memory that are read or written in a clock.
CLOCK, PHASE_CLOCKS, WORDS = 1.7e9, 160, 32


def products(model: Model, n: int) -> list[int]:
    """Return the FLOPs of each product of an update of n rows: forward, and back."""
    layers = [2 * n * n_in * n_out for n_in, n_out in itertools.pairwise(model.sizes)]
    # Layer 0 sends no delta down.
    return [*layers, *layers, *layers[1:]]


def eager_seconds(model: Model, n: int, multiprocessors: int) -> float:
    """Return the seconds of an update of n rows by the eager executor: at most 5 L + 2 launches."""
    work = products(model, n)
    kernels = 2 * model.n_layers + 3
    peak = FLOPS * CUBLAS_SHARE * multiprocessors
    host = PRODUCT_SECONDS * len(work) + KERNEL_SECONDS * kernels
    device = sum(max(NODE_SECONDS, flops / peak) for flops in work) + NODE_SECONDS * kernels
    return max(host, device)


def graph_seconds(model: Model, n: int, multiprocessors: int, steps: int) -> float:
    """Return the seconds of one of `steps` updates of n rows that are one graph."""
    work = products(model, n)
    peak = FLOPS * OWN_SHARE * multiprocessors
    device = sum(max(NODE_SECONDS, flops / peak) for flops in work) + 2 * NODE_SECONDS
    return max(GRAPH_SECONDS / steps, device)


def block_seconds(model: Model) -> float:
    """Return the seconds of an update of one row by one block."""
    return block_clocks(model.sizes, model.dtype.itemsize) / CLOCK


def block_clocks(sizes: Sequence[int], itemsize: int) -> float:
    """Return the clocks of an update of one row by one block: 2 L + 2 phases between barriers.

    Each weight is read forward and back (in layer 0 once), and read and written by the update, with
    an input or a delta beside it.
    """
    layers = [n_in * n_out for n_in, n_out in itertools.pairwise(sizes)]
    words = 2 * sum(layers) + 2 * sum(layers[1:]) + 3 * sum(layers)
    return PHASE_CLOCKS * (2 * len(layers) + 2) + words * (itemsize // 4) / WORDS
