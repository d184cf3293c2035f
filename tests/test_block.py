"""The block executor: what fits one multiprocessor, and that thousands of samples are one launch.

That it computes what the others do is tested with them, in test_gpu_executors.py.
"""

import itertools

import cpucuda
import numpy as np
import pytest
from conftest import NEVER
from numpy.testing import assert_allclose, assert_array_equal

import gpubackprop as gb
from gpubackprop import executors, optimizers
from gpubackprop.backends.cuda import block
from gpubackprop.executors import Job
from gpubackprop.executors.block import Block

KIB = 1024


def job(net, optimizer="sgd", batch_size=1, **options):
    return Job(net.model, net.backend, optimizers.get(optimizer), batch_size, False, 0, **options)


def data(n, n_in, n_out, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_in)).astype("float32"), rng.integers(n_out, size=n)


# ---- launches ------------------------------------------------------------------------------------


def test_thousands_of_samples_are_one_launch(counting):
    """And the host does nothing else: no copy, no wait, no allocation."""

    class Watch:
        slices = ()

        def on_slice(self, run):
            self.slices = (*self.slices, (run.epoch, run.rows_done, dict(cpucuda.counters())))

    x, y = data(20_000, 4, 2)
    net, watch = gb.Network([4, 3, 2], backend=counting, rng=0), Watch()
    net.fit(
        x, y, batch_size=1, epochs=2, optimizer=gb.SGD(0.01), executor="block",
        callbacks=[watch], progress=False,
    )  # fmt: skip
    (_, first, before), *_, (_, last, after) = [found for found in watch.slices if found[0] == 1]
    assert last - first >= block.SAMPLES
    name = "sgd_block"
    launches = after["launches_by_name"][name] - before["launches_by_name"][name]
    n_slices = sum(found[0] == 1 for found in watch.slices)
    # One more where a slice ends: they end at powers of two, and one may take several launches.
    assert launches <= (last - first) // block.SAMPLES + n_slices
    assert after["launches"] - before["launches"] == launches
    for counter in NEVER:
        assert after[counter] == before[counter], counter
    assert after["event_waits"] - before["event_waits"] <= n_slices


@pytest.mark.parametrize("n", [1, block.SAMPLES, block.SAMPLES + 1, 2 * block.SAMPLES + 5])
def test_launches_of_one_slice(n, counting, monkeypatch):
    monkeypatch.setattr(gb.training, "batches_per_block", lambda *_: 1 << 20)
    x, y = data(n, 2, 2)
    net = gb.Network([2, 2], backend=counting, rng=0)
    cpucuda.reset_counters()
    net.fit(x, y, batch_size=1, epochs=1, executor="block", progress=False)
    assert cpucuda.counters()["launches_by_name"]["sgd_block"] == -(-n // block.SAMPLES)


# ---- what fits -----------------------------------------------------------------------------------

#: Bytes of shared memory that a block can have, from the CUDA programming guide.
LIMITS = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


@pytest.mark.parametrize("capability", LIMITS)
def test_what_fits_by_architecture(capability, counting, monkeypatch):
    """784-30-10 in float32 takes 97 KiB: all but the oldest of these have room for it."""
    monkeypatch.setenv("CPUCUDA_COMPUTE_CAPABILITY", str(capability))
    limit = LIMITS[capability] * KIB - block.STATIC
    assert block.shared_limit(counting) == limit
    for dtype, optimizer in (("float32", gb.SGD()), ("float32", gb.Adam()), ("float64", gb.SGD())):
        net = gb.Network([784, 30, 10], backend=counting, dtype=dtype, rng=0)
        needed = block.plan(net.model, optimizer, 0).nbytes
        reason = Block.refusal(job(net, optimizer))
        assert (reason is None) == (needed <= limit)
        if reason:
            assert f"{needed:,} bytes" in reason
            assert f"{limit:,}" in reason
            assert ("slots" in reason) == bool(optimizer.slots)


@pytest.mark.parametrize("capability", [75, 90])
def test_a_network_that_just_fits(capability, counting, monkeypatch):
    monkeypatch.setenv("CPUCUDA_COMPUTE_CAPABILITY", str(capability))
    limit = block.shared_limit(counting)
    model = gb.Network([100, 2, 2], backend="numpy").model
    per_unit = block.plan(gb.Network([101, 2, 2], backend="numpy").model, gb.SGD(), 0).nbytes
    per_unit -= block.plan(model, gb.SGD(), 0).nbytes
    n_in = 100 + (limit - block.plan(model, gb.SGD(), 0).nbytes) // per_unit
    net = gb.Network([n_in, 2, 2], backend=counting, rng=0)
    x, y = data(3, n_in, 2)
    net.fit(x, y, batch_size=1, epochs=1, executor="block", progress=False)
    larger = gb.Network([n_in + 1, 2, 2], backend=counting, rng=0)
    assert Block.refusal(job(larger)) is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("optimizer", "slots"), [(gb.SGD(), 0), (gb.SGD(momentum=0.9), 1), (gb.Adam(), 2)]
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("hidden", ["tanh", "gelu"])
def test_where_things_are_in_shared_memory(hidden, dropout, optimizer, slots, dtype):
    """Nothing overlaps, and there is no gap."""
    sizes, bias = (9, 7, 5, 3), hidden == "tanh"
    net = gb.Network(sizes, hidden, dropout=dropout, bias=bias, dtype=dtype, backend="numpy")
    plan = block.plan(net.model, optimizer, 0)
    table, n = plan.net[0], 7 * 9 + 5 * 7 + 3 * 5 + bias * (7 + 5 + 3)
    assert table["n_parameters"] == n
    pieces = [(n, slots * n), (int(table["target"]), 3), (int(table["x"]), 9)]
    assert table["x"] - table["target"] == 3  # one after the other: they are placed together
    two = dropout > 0 or hidden == "gelu"
    for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        layer = table["layer"][l]
        pieces += [(int(layer["W"]), n_in * n_out), (int(layer["delta"]), n_out)]
        assert layer["flat_W"] == net.model.layout.W[l]
        assert layer["flat_b"] == (net.model.layout.b[l] if bias else -1)
        if bias:
            pieces.append((int(layer["b"]), n_out))
        if l < 2:
            assert (layer["h"] != layer["read"]) == two
            pieces += [(int(layer[name]), n_out) for name in ("read", "h")[: 1 + two]]
    at = 0
    for start, length in sorted(piece for piece in pieces if piece[1]):
        assert start == at
        at = start + length
    assert plan.nbytes == at * np.dtype(dtype).itemsize


@pytest.mark.parametrize("sizes", [(1, 1), (4, 4, 4, 1), (784, 30, 10), (3000, 2, 5), (2, 600, 3)])
def test_threads(sizes):
    n = block.threads(gb.Network(sizes, output="identity", backend="numpy").model)
    assert n % 32 == 0
    assert 32 <= n <= 512


def test_what_it_cannot_do(cupy_backend):
    net = gb.Network([9, 3], backend=cupy_backend)
    deep = gb.Network([2] * (block.MAX_LAYERS + 2), backend=cupy_backend)
    plain = gb.Network([9, 3], backend="cupy-plain")
    for given, reason in (
        (job(gb.Network([9, 3], backend="numpy")), "'cupy' alone, not on 'numpy'"),
        (job(plain), "'cupy' alone, not on 'cupy-plain'"),
        (job(net, batch_size=32), "batch_size must be 1, not 32"),
        (job(net, batch_size=None), "batch_size must be 1, not None"),
        (job(deep), "its table has 16 layers, and the network 17"),
    ):
        with pytest.raises(ValueError, match="executor 'block' cannot do this job") as caught:
            executors.get("block", given)
        assert reason in str(caught.value)
    assert Block.refusal(job(net, gb.SGD(l2=0.1), penalised=True)) is None


# ---- numbers -------------------------------------------------------------------------------------


def run(executor, sizes, n=12, dtype="float64", backend="cupy", optimizer=None, **options):
    x, y = data(n, sizes[0], sizes[-1])
    net = gb.Network(sizes, backend=backend, dtype=dtype, rng=1, **options)
    optimizer = optimizer or gb.SGD(0.05, momentum=0.5)
    history = net.fit(
        x, y, batch_size=1, epochs=2, optimizer=optimizer, executor=executor, progress=False,
        sample_weight=np.linspace(0, 2, n),
    )  # fmt: skip
    return net.backend.to_numpy(net._parameters.flat), history.loss


#: Samples longer than what threads hold ahead; more rows than threads; layers of a warp and a bit.
SHAPES = [(2200, 1, 2), (3, 600, 2), (33, 31, 65, 2), (1, 1, 2), (5, 2), (7, *[4] * 15, 2)]


@pytest.mark.parametrize("order", [0, 1, 5])
@pytest.mark.parametrize("sizes", SHAPES, ids=lambda sizes: "-".join(map(str, sizes[:4])))
def test_every_access_is_within_bounds(sizes, order, counting):
    """Each array has an allocation of its own with guard pages, in each order of threads."""
    cpucuda.set_order(order)
    optimizer = gb.SGD(0.05, momentum=0.5, clip_norm=0.3)
    expected, losses = run("eager", sizes, backend="numpy", optimizer=optimizer)
    with cpucuda.exact_allocations():
        found, others = run("block", sizes, optimizer=optimizer)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert_allclose(others, losses, rtol=1e-10)


def test_the_padding_stays_zero(cupy_backend):
    found, _ = run("block", (5, 3, 2))
    model = gb.Network([5, 3, 2], backend="numpy").model
    used = np.zeros(model.layout.size, bool)
    for start, (n_out, n_in) in zip(model.layout.W, model.layout.shapes, strict=True):
        used[start : start + n_out * n_in] = True
    for start, (n_out, _) in zip(model.layout.b, model.layout.shapes, strict=True):
        used[start : start + n_out] = True
    assert not found[~used].any()
    assert found[used].all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_twice_and_in_every_order(dtype, cupy_backend):
    optimizer = gb.Adam(0.01, clip_norm=0.2)
    first = run("block", (9, 33, 3), dtype=dtype, optimizer=optimizer, dropout=0.3)
    for order in (0, 1, 2, 3):
        if cpucuda.installed():
            cpucuda.set_order(order)
        again = run("block", (9, 33, 3), dtype=dtype, optimizer=optimizer, dropout=0.3)
        assert_array_equal(again[0], first[0])
        assert again[1] == first[1]


# ---- what auto chooses ---------------------------------------------------------------------------


def test_auto_takes_a_block_for_sgd_that_fits(counting, monkeypatch):
    def chosen(sizes, n_samples, **options):
        net = gb.Network(list(sizes), output="sigmoid", backend=counting)
        return executors.choose_on_gpu(job(net, n_samples=n_samples, **options), 132).name

    monkeypatch.setenv("CPUCUDA_COMPUTE_CAPABILITY", "90")
    assert chosen((784, 30, 10), 60_000) == "block"
    assert chosen((4, 4, 4, 1), 60_000, epochs=10) == "block"
    assert chosen((784, 256, 128, 10), 60_000, epochs=10) == "graph"  # 919 KiB
    assert chosen((784, 30, 10), 100) == "eager"  # over before anything is compiled
    assert chosen((784, 30, 10), 60_000, batch_size=32, epochs=20) == "graph"
