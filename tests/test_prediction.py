"""When outputs are computed by compiled code: where it costs nothing, or would have paid."""

import shutil

import numpy as np
import pytest
from interpreter import run
from numpy.testing import assert_allclose

import gpubackprop as gb
from gpubackprop.executors import compiled, prediction
from gpubackprop.executors.compiled import cache, loaded, predictor, usable

X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A cache that has what every loop calls, and nothing of predictions."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUBACKPROP_CACHE", str(folder))
        patch.setattr(cache, "_LOADED", {})
        if usable.problem() is None:
            for text in loaded.texts(np.dtype("float32"), "direct"):
                cache.load(text)
    return folder


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path, kernels):
    """A process that has neither trained nor predicted yet, with such a cache."""
    folder = shutil.copytree(kernels, tmp_path / "cache")
    monkeypatch.delenv("GPUBACKPROP_PREDICT", raising=False)
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(folder))
    monkeypatch.setattr(cache, "_LOADED", {})
    monkeypatch.setattr(prediction, "_process", prediction._Process())


def make(**options):
    return gb.Network([3, 4, 2], "tanh", backend="numpy", rng=0, **options)


def found(net):
    """Tell whether compiled code computes the outputs of this network."""
    return net._evaluator()._choice.predictor(1) is not None


def needs_numba():
    problem = usable.problem()
    if problem is not None:
        pytest.skip(problem)


PREDICT = """
import sys
import numpy as np
import gpubackprop as gb
net = gb.Network([3, 4, 2], backend="numpy", rng=0)
for n in (1, 2, 50, 20000):
    net.predict(np.ones((n, 3), "float32"))
print(*net.predict(np.ones((1, 3), "float32"))[0].round(3))
print("numba" in sys.modules, "gpubackprop.executors.compiled" in sys.modules)
"""


def test_a_few_predictions_do_not_load_numba():
    assert run(PREDICT).split()[2:] == ["False", "False"]


@pytest.mark.parametrize("without", ["absent", "broken", "disabled"])
def test_what_is_wanted_but_cannot_be_had(without, tmp_path):
    """GPUBACKPROP_PREDICT=always asks for it."""
    expected = run(PREDICT).split()[:2]
    environment, code = {"GPUBACKPROP_PREDICT": "always"}, PREDICT
    if without == "absent":
        code = "import sys\nsys.modules['numba'] = None\n" + code
    elif without == "broken":
        (tmp_path / "numba.py").write_text("raise OSError('no such library')\n")
        code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + code
    else:
        environment["NUMBA_DISABLE_JIT"] = "1"
    assert run(code, **environment).split()[:2] == expected


def files(folder):
    return {path.name for path in folder.rglob("*")}


def test_nothing_is_compiled_by_predicting(monkeypatch, kernels, tmp_path):
    """However much was predicted: that would take seconds in the middle of a program."""
    monkeypatch.setattr(prediction, "LOAD_SECONDS", 1e-3)
    net = make()
    for _ in range(200):
        net.predict(X)
    assert not found(net)
    assert files(tmp_path / "cache") == files(kernels)


def test_what_the_cache_has_is_used_once_it_would_have_paid(monkeypatch):
    needs_numba()
    net = make()
    expected = net.predict(X)
    predictor.Predictor(net.model)  # compiles
    monkeypatch.setattr(prediction, "LOAD_SECONDS", 10 * prediction.CALL_SECONDS)
    assert not found(net)
    for _ in range(10):
        net.predict(X)
    assert found(net)
    assert_allclose(net.predict(X), expected, rtol=2e-6)
    assert found(make())  # what one network has paid for is there for all ...
    assert not found(make(output="sigmoid"))  # ... whose code is


def test_many_rows_count_for_more(monkeypatch):
    needs_numba()
    net = make()
    predictor.Predictor(net.model)
    rows = np.ones((50_000, 3), np.float32)
    monkeypatch.setattr(prediction, "LOAD_SECONDS", len(rows) * prediction.UNIT_SECONDS)
    net.predict(X)
    assert not found(net)
    net.predict(rows)
    assert found(net)


def test_a_fit_that_compiles_makes_predictions_ready():
    needs_numba()
    fit = {"executor": "compiled", "epochs": 1, "progress": False}
    before, net = make(), make()
    expected = before.predict(X)
    net.fit(X, np.arange(20) % 2, **fit)
    assert found(net)
    assert_allclose(before.predict(X), expected, rtol=2e-6)
    assert found(before)  # it has predicted without
    other = make(output="sigmoid")
    assert not found(other)
    other.fit(X, np.eye(2)[np.arange(20) % 2], **fit)
    assert found(other)


def test_a_fit_that_need_not_compile_does_not_do_it_for_predictions(monkeypatch):
    needs_numba()
    fit = {"executor": "compiled", "epochs": 1, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "prepare", lambda model: None)
        make().fit(X, np.arange(20) % 2, **fit)
    net = make()
    net.fit(X, np.arange(20) % 2, **fit)
    assert not found(net)


def test_the_environment_decides(monkeypatch):
    needs_numba()
    monkeypatch.setenv("GPUBACKPROP_PREDICT", "always")
    assert found(make())
    monkeypatch.setenv("GPUBACKPROP_PREDICT", "never")
    make().fit(X, np.arange(20) % 2, executor="compiled", epochs=1, progress=False)
    assert not found(make())


def test_other_backends_keep_their_own(backend, monkeypatch):
    needs_numba()
    monkeypatch.setenv("GPUBACKPROP_PREDICT", "always")
    net = gb.Network([3, 4, 2], backend=backend, rng=0)
    net.predict(backend.asarray(X))
    assert found(net) == (backend.name == "numpy")


def test_seconds_to_begin_count_what_is_compiled_for_predictions():
    needs_numba()
    from gpubackprop.executors.compiled import Compiled

    net = make()
    job = gb.executors.Job(net.model, net.backend, gb.SGD(0.1), 4, False, 0, n_samples=20)
    cold = Compiled.seconds_to_begin(job)
    *_, loop, activations = predictor._texts(net.model)
    for text in (loop, activations):
        cache.load(text)
    took = predictor.LOOP_SECONDS + predictor.ACTIVATIONS_SECONDS
    assert Compiled.seconds_to_begin(job) == pytest.approx(cold - took)
    Compiled(job)
    assert Compiled.seconds_to_begin(job) == 0


def test_warm_compiles_it_too(monkeypatch):
    texts = []
    monkeypatch.setattr(compiled.cache, "load", texts.append)
    monkeypatch.setattr(
        compiled, "LoadedLoop", lambda dtype, name: texts.extend(loaded.texts(dtype, name))
    )
    *_, last = compiled.warm()
    assert last == "float64 relu identity squared AdamW"
    for dtype in ("float32", "float64"):
        net = make(dtype=dtype)
        assert set(predictor._texts(net.model)) <= set(texts)
