"""Machine code that is kept: read without Numba, whole or not at all."""

import ctypes
import sys

import interpreter
import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_compiled import cold  # noqa: F401  (a cache of its own)

pytest.importorskip("numba", reason="Numba, of the extra fast, is not installed")

import gpubackprop as gb
from gpubackprop.executors.compiled import cache, loaded, objects, predictor, source
from gpubackprop.executors.compiled.formulas import by_address
from gpubackprop.executors.compiled.header import header

JOB = """
import sys
import numpy as np
import gpubackprop as gb

dtype, batch_size, hidden = {dtype!r}, {batch_size!r}, {hidden!r}
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(60, 90)).astype(dtype), rng.integers(0, 3, 60)
net = gb.Network([90, 30, 3], hidden=hidden, dtype=dtype, dropout=0.1, backend="numpy", rng=0)
net.fit(X, Y, batch_size=batch_size, epochs=9, optimizer="adam" if batch_size > 1 else "sgd",
        executor="compiled", progress=False, threads=1)
print("numba" in sys.modules)
outputs = net.predict(X)
print(hash(outputs.tobytes()), hash(net.weights[0].tobytes()))
print("numba" in sys.modules)
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache that several processes share."""
    return tmp_path_factory.mktemp("kept")


def run(code, folder):
    """Return the lines that code prints; it may have to compile first."""
    return interpreter.run(
        code, timeout=600, GPUBACKPROP_CACHE=str(folder), PYTHONHASHSEED="0"
    ).split("\n")


@pytest.mark.parametrize(
    ("dtype", "batch_size", "hidden"),
    [("float32", 8, "gelu"), ("float64", 1, "gelu")],
)
def test_a_process_that_finds_it_does_not_load_numba(kept, dtype, batch_size, hidden):
    """What it computes are the bits of the process that compiled."""
    code = JOB.format(dtype=dtype, batch_size=batch_size, hidden=hidden)
    first, second = run(code, kept), run(code, kept)
    assert first[0] == "True"
    assert second == ["False", first[1], "False"]
    # What is kept was whole: nothing was compiled anew.
    assert all(path.suffix == ".zip" for path in kept.rglob("*"))


def twice(name="twice"):
    """A program that doubles a number in memory."""
    body = ["x = doubles(at)", "x[0] = T(2) * x[0]"]
    return f"{header('float64')}\n\n\n{by_address(name, ('at',), body)}\n"


def doubled(program, name="twice"):
    x = np.array([1.5])
    getattr(program, name).call(1)(x.ctypes.data // 8)
    return x[0]


def test_a_program_is_read_as_it_was_compiled():
    program, content = objects.compiled(twice(), "a_program")
    again = objects.read(content)
    assert doubled(program) == doubled(again) == 3.0
    assert program.twice.address != again.twice.address
    with pytest.raises(AttributeError, match="no function 'thrice'"):
        _ = again.thrice


def test_where_the_loader_is_untried_numba_reads_its_own_way(kept):
    """The same bits, and nothing is compiled."""
    job = JOB.format(dtype="float32", batch_size=8, hidden="gelu")
    untried = """
from gpubackprop.executors.compiled import objects
objects.LOADS_ALONE, objects.compiled, objects._placed = False, None, None
"""
    expected = run(job, kept)
    assert run(untried + job, kept) == ["True", expected[1], "True"]


@pytest.mark.parametrize("damaged", [b"", b"no program", "cut short"])
def test_what_is_damaged_is_compiled_anew(tmp_path, monkeypatch, damaged):
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path))
    name = f"twice_{len(damaged)}"
    text = twice(name)
    cache.load(text)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    content = whole[: len(whole) // 2] if damaged == "cut short" else damaged
    with pytest.raises(ValueError, match="no compiled program"):
        objects.read(content)
    path.write_bytes(content)
    monkeypatch.setattr(cache, "_LOADED", {})
    assert doubled(cache.load(text), name) == 3.0
    assert objects.read(path.read_bytes())


def test_numba_itself_is_left_as_it_is(kept):
    """Its own functions raise errors, before programs were read and afterwards."""
    code = """
import sys
import numpy as np
import gpubackprop as gb

def divides(numba, name):
    def divide(x, y):
        return x // y
    try:
        numba.njit(divide)(1, 0)
    except ZeroDivisionError:
        print(name)
    @numba.cfunc("int64(int64)")
    def wrong(x):
        if x > 0:
            raise ValueError("as it should")
        return x
    wrong.ctypes(1)  # says on standard error that it was ignored

if {first}:
    import numba
    divides(numba, "before")
X = np.ones((40, 3))
net = gb.Network([3, 4, 1], output="sigmoid", loss="log_loss", backend="numpy", rng=0)
net.fit(X, X[:, :1] > 0, batch_size=8, executor="compiled", progress=False)
import numba
divides(numba, "after")
"""
    run(code.format(first=False), kept)
    assert run(code.format(first=False), kept)[0] == "after"
    assert run(code.format(first=True), kept)[:2] == ["before", "after"]


def test_functions_return_integers():
    text = f"""{header("float64")}


@cfunc("int64(int64, int64)", error_model="numpy")
def less(x, y):
    return x - y
"""
    program, content = objects.compiled(text, "another_program")
    for one in program, objects.read(content):
        assert one.less.call(2, returns=True)(3, 5) == -2


def test_programs_that_are_printed_later_are_named_by_what_they_are_printed_from(monkeypatch):
    single, double = (loaded.texts(np.dtype(name), "direct") for name in ("float32", "float64"))
    names = {cache.name_of(one) for one in [*single, *double]}
    assert len(names) == len(single) + len(double)
    assert single[-1].write() == source.write_loop(np.dtype("float32"), "direct")
    cache.name_of.cache_clear()
    monkeypatch.setattr(cache, "_sources", lambda: "changed")
    assert not names & {cache.name_of(one) for one in [*single, *double]}
    cache.name_of.cache_clear()


def test_built_in_functions_of_arrays_answer_and_keep_no_references():
    net = gb.Network([3, 4, 2], "tanh", backend="numpy", rng=0)
    one = predictor.Predictor(net.model)
    X, out = np.ones((1, 3), np.float32), np.empty((1, 2), np.float32)
    assert one.into(net, X, out, 1) is True
    assert_allclose(out, net.predict(X), rtol=1e-6)
    counted = X, out, True, False
    before = [sys.getrefcount(thing) for thing in counted]
    for _ in range(1000):
        one.into(net, X, out, 1)
    X[...] = np.nan
    for _ in range(1000):
        assert one.into(net, X, out, 1) is False
    after = [sys.getrefcount(thing) for thing in counted]
    assert np.abs(np.subtract(before, after)).max() < 100
    assert type(one._one) is type(len)


def test_arrays_are_found_behind_what_objects_begin_with():
    """As the compiled prediction finds them: NumPy's C interface, and Python's."""
    for x in np.zeros((3, 2)), np.arange(10.0)[4:], np.zeros(1, np.float32):
        words = (ctypes.c_int64 * 3).from_address(id(x) + object.__basicsize__)
        assert words[0] == x.ctypes.data
        assert ctypes.c_int64.from_address(words[2]).value == len(x)
