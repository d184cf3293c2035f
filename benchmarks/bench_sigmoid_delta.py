"""The fused sigmoid delta against the same in array operations: ``delta * (a * (1 - a))``.

On CuPy one kernel against three passes over memory; on NumPy blocks that stay in the cache against
three passes with temporary arrays. In one interleaved run, so that the ratio means something.
"""

import numpy as np
import pytest

from gpubackprop import backends
from gpubackprop.activations import SIGMOID
from gpubackprop.measure import Competitor, emulated, interleaved

SHAPES = [(256, 128), (4096, 256), (4096, 2048)]


def competitors(name: str, shape: tuple[int, int]) -> dict[str, Competitor]:
    """Return the fused form and the array form on one backend; both write the same numbers."""
    backend = backends.get(name)
    rng = np.random.default_rng(0)
    exact = [rng.random(shape).astype(np.float32) for _ in range(2)]
    delta, a = (backend.asarray(x) for x in exact)
    out = backend.empty(shape, np.float32)
    kernel = backend.elementwise(SIGMOID.delta, np.dtype(np.float32))
    expected = exact[0].astype(float) * exact[1] * (1 - exact[1].astype(float))

    def check(answer):
        np.testing.assert_allclose(backend.to_numpy(answer), expected, rtol=1e-5, atol=1e-7)

    def fused():
        kernel(delta, a, out)
        return out

    def in_three_passes():
        return delta * (a * (1 - a))

    return {
        "fused": Competitor(fused, backend.synchronize, check),
        "three passes": Competitor(in_three_passes, backend.synchronize, check),
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_sigmoid_delta(name, shape, benchmark, capsys):
    """Report how many times faster the fused form is."""
    reason = backends.problem(name)
    if reason:
        pytest.skip(f"{name} cannot be used here: {reason}")
    backend = backends.get(name)
    if emulated(backend):
        pytest.skip("the GPU is emulated: its times would mean nothing")
    with backend.active():
        both = competitors(name, shape)
        times = interleaved(both)
        benchmark.pedantic(both["fused"].run, rounds=20, iterations=5, warmup_rounds=1)
    ratio = times["three passes"].median / times["fused"].median
    benchmark.extra_info |= {"times faster than three passes": ratio}
    with capsys.disabled():
        print(
            f"\n{name} {shape}: fused {times['fused']}, three passes {times['three passes']}, "
            f"{ratio:.2f} times faster, on {backend.describe()}"
        )
