"""The error on its way back through a sigmoid layer, ``delta * (a * (1 - a))``: in one pass against
array operations.

NumPy's one pass is `elementwise` in blocks that stay in the cache; CuPy's is one kernel.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from shared import require

from gpubackprop.activations import SIGMOID
from gpubackprop.measure import Competitor, interleaved, seconds_text

SIZES = [2**14, 2**18, 2**22]


def forms(backend: Any, delta: Any, a: Any, out: Any) -> dict[str, Callable[[], Any]]:
    """Return what is compared; each returns the answer."""
    xp = backend.xp
    fused = backend.elementwise(SIGMOID.delta, np.dtype(np.float32))
    spare = xp.empty_like(out)

    def one_pass() -> Any:
        fused(delta, a, out)
        return out

    def three_passes() -> Any:
        return delta * (a * (1 - a))

    def three_passes_in_place() -> Any:
        xp.subtract(np.float32(1), a, out=spare)
        xp.multiply(a, spare, out=spare)
        return xp.multiply(delta, spare, out=spare)

    return {
        "one pass": one_pass,
        "three passes": three_passes,
        "three passes, out=": three_passes_in_place,
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_sigmoid_delta(name: str, size: int, benchmark: Any, tabulate: Callable[..., None]) -> None:
    backend = require(name)
    rng = np.random.default_rng(0)
    host = [rng.standard_normal(size), rng.random(size)]
    expected = host[0] * (host[1] * (1 - host[1]))

    def check(answer: Any) -> None:
        np.testing.assert_allclose(backend.to_numpy(answer), expected, rtol=1e-5, atol=1e-6)

    with backend.active():
        delta, a = (backend.asarray(x.astype(np.float32)) for x in host)
        ways = forms(backend, delta, a, backend.empty(size, "float32"))
        competitors = {
            way: Competitor(run, backend.synchronize, check) for way, run in ways.items()
        }
        timings = interleaved(competitors)
        benchmark.group = f"sigmoid_delta {size:,} elements"
        first = competitors["one pass"]

        def fused_and_done() -> None:
            first.run()
            first.synchronize()

        benchmark.pedantic(fused_and_done, rounds=9, iterations=20, warmup_rounds=1)

    fastest = timings["one pass"]
    for way, timing in timings.items():
        ratio = timing.median / fastest.median
        benchmark.extra_info[way] = {"median": timing.median, "spread": timing.spread}
        tabulate(
            "sigmoid_delta, float32",
            backend=name,
            elements=f"{size:,}",
            form=way,
            median=seconds_text(timing.median),
            spread=f"{timing.spread:.0%}",
            # delta and a are read and out is written: what cannot be avoided.
            **{"GB/s": f"{timing.rate(3 * 4 * size) / 1e9:.1f}", "ratio": f"{ratio:.2f}"},
        )
    benchmark.extra_info["device"] = backend.describe()
