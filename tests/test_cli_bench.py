"""``gpubackprop bench``, and the timing behind it."""

import json

import pytest
from conftest import require

from gpubackprop.bench import Settings, bench
from gpubackprop.compare import MODES
from gpubackprop.executors import EXECUTORS

pytest.importorskip("typer")

QUICK = "--network", "3,2,1", "--rounds", 1, "--seconds", 0.001


def test_bench_times_every_mode(run):
    code, out, err = run("bench", *QUICK, "--executor", "eager", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [r["mode"] for r in found["results"]] == list(MODES)
    assert [r["batch_size"] for r in found["results"]] == [4096, 32, 1]
    for result in found["results"]:
        assert result["network"] == "3-2-1"
        assert (result["backend"], result["executor"]) == ("numpy", "eager")
        assert result["samples_per_second"] > 0
        assert result["error"] < 1e-3
    assert found["machine"]["processor"]


def test_bench_as_a_table(run):
    code, out, err = run("bench", *QUICK, "--modes", "mini-batch", "--network", "3-3-2-4")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    for network in ("3-2-1", "3-3-2-4"):
        assert [network, "mini-batch", "numpy", "eager"] in [line[:4] for line in lines]
    assert "only numpy: the environment variable GPUBACKPROP_BACKEND" in out


def test_an_emulated_gpu_gets_no_times():
    require("cupy")
    from gpubackprop import backends
    from gpubackprop.measure import emulated

    if not emulated(backends.get("cupy")):
        pytest.skip("this is a GPU")
    settings = Settings(
        networks=((2, 2, 1),), modes=("batch",), backends=("cupy",), executors=("eager",), rounds=1,
        seconds=1e-6,
    )  # fmt: skip
    (result,) = bench(settings).results
    assert (result.samples_per_second, result.spread) == (None, None)
    assert result.error < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "some"], "network must be units of each layer"),
        (["--network", "3"], "sizes must name inputs and outputs"),
        (["--modes", "fast"], "modes must be some of batch"),
        (["--executor", "magic"], f"executors must be some of {', '.join(EXECUTORS)}, got 'magic'"),
        (["--backend", "abacus"], "backend must be one of"),
        (["--rounds", "0"], "rounds must be an integer >= 1"),
        (["--seconds", "0"], "seconds must be a number > 0"),
        (["--dtype", "float16"], "dtype must be float32 or float64"),
    ],
)
def test_bad_arguments_are_one_line(run, arguments, message):
    code, out, err = run("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
