"""Every CUDA kernel under all that cpucuda checks: orders of threads, guard pages, fresh NaNs.

Networks train by each executor and are compared with NumPy in float64. Sizes are odd, below and
above a warp and a tile, so that blocks, slabs and splits are cut short. By these tests
benchmarks/mutation_check.py judges its mutants.
"""

import cpucuda
import numpy as np
import pytest
from conftest import require
from numpy.testing import assert_allclose

import gpubackprop as gb
from gpubackprop.executors import EXECUTORS

#: Ascending, descending, and a random order.
ORDERS = (0, 1, 5)
#: Rows: int32 numbers of so many fill their memory up to the guard page.
N = 76
#: Few, so that few kernels are compiled: one with clipping, one with all else.
ADAM = gb.Adam(0.01, clip_norm=0.05)
MOMENTUM = gb.SGD(0.05, momentum=0.5, l1=1e-3, l2=1e-2, weight_decay=0.1)
#: sizes, batch size, optimiser, options of the network.
CASES = {
    "short last batch": ((9, 33, 5, 3), 70, ADAM, {"hidden": "tanh"}),
    "weights, frozen entries": ((70, 65, 2), 33, MOMENTUM, {"hidden": "gelu", "dropout": 0.3}),
    "one row": ((5, 2), 1, ADAM, {}),
    "wide rows": ((3, 40), 72, ADAM, {"loss": "squared"}),
    "saturated": ((31, 34, 33), 64, ADAM, {"output": "sigmoid", "bias": False}),
    "ones": ((1, 1, 1), 8, ADAM, {"output": "sigmoid"}),
    "a long sum": ((300, 30, 10), 32, MOMENTUM, {}),
    "sums that are split": ((140, 40, 5), 19, ADAM, {"hidden": "tanh"}),
    "sums of rows that are split": ((9, 5, 3), 140, ADAM, {"hidden": "tanh"}),
    "a long row": ((2200, 2, 2), 38, ADAM, {}),
    "as deep as a table": ((7, *[4] * 15, 2), 19, ADAM, {"hidden": "tanh"}),
}


def train(backend, executor, case, batch_size):
    """Return the parameters, padding included, and the losses."""
    sizes, _, optimizer, options = CASES[case]
    rng = np.random.default_rng(0)
    net = gb.Network(sizes, backend=backend, dtype="float64", rng=1, **options)
    n, classes = max(N, batch_size), net.model.loss.targets == "classes"
    n = n if batch_size > 1 else 8
    x = rng.normal(size=(n, sizes[0]))
    y = rng.integers(sizes[-1], size=n) if classes else rng.random((n, sizes[-1]))
    fit = {}
    if case == "saturated":
        net.weights[-1][...] *= 1000
    elif case == "weights, frozen entries":
        masks = [rng.random(W.shape) < 0.8 for W in net.weights]
        fit = {"trainable": (masks, [True] * len(masks)), "sample_weight": np.linspace(0, 2, n)}
    history = net.fit(
        x, y, batch_size=batch_size, epochs=2, optimizer=optimizer, executor=executor,
        progress=False, **fit,
    )  # fmt: skip
    return net.backend.to_numpy(net._parameters.flat), history.loss


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("executor", [name for name in EXECUTORS if name != "compiled"])
def test_in_every_order_and_within_bounds(executor, case, order):
    require("cupy")
    if not cpucuda.installed():
        pytest.skip("a real GPU chooses the order itself")
    batch_size = 1 if executor == "block" else CASES[case][1]
    expected, losses = train("numpy", "eager", case, batch_size)
    cpucuda.set_order(order)
    with cpucuda.exact_allocations():
        found, others = train("cupy", executor, case, batch_size)
    assert np.isfinite(found).all()
    assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert_allclose(others, losses, rtol=1e-10)


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0, 2), (3, 0)])
def test_layers_of_no_units_are_refused(sizes, cupy_backend):
    with pytest.raises(ValueError, match="sizes"):
        gb.Network(sizes, backend=cupy_backend)
