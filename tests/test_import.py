"""Importing the package loads NumPy alone, and works whatever else is absent or broken."""

import ast
import graphlib
import pkgutil
import re
from pathlib import Path

import pytest
from interpreter import ROOT, run

import gpubackprop

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gpubackprop.__path__, "gpubackprop.")
    if not module.name.endswith("__main__")
)
#: The parts of the estimators derive from scikit-learn's classes, so that they cannot do without;
#: `gpubackprop.sklearn` itself loads them at first use.
WITHOUT_EXTRAS = [name for name in MODULES if not name.startswith("gpubackprop.sklearn.")]
OPTIONAL = (
    "cupy",
    "cupyx",
    "numba",
    "safetensors",
    "scipy",
    "sklearn",
    "matplotlib",
    "typer",
    "rich",
    "threadpoolctl",
    "onnx",
)

#: What a newcomer does first. GELU needs an error function, which NumPy lacks and SciPy has.
TRAIN = """
import numpy as np
import gpubackprop as gb
X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
net = gb.Network([3, 4, 2], hidden="gelu", rng=0)
history = net.fit(X, y, epochs=2)
assert history.loss[1] < history.loss[0]
print(net.backend.name, gb.gradient_check(net, X, y).error < 1e-8)
"""


def test_import_loads_numpy_alone():
    code = """
import sys
import numpy
before = set(sys.modules)
import gpubackprop
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"gpubackprop", "numpy"}))
"""
    assert run(code) == "[]"


#: What a first look does without, so that it does not wait for it.
LATER = (
    "gpubackprop.backends.cuda",
    "gpubackprop.checkpoints",
    "gpubackprop.container",
    "gpubackprop.executors.block",
    "gpubackprop.executors.compiled",
    "gpubackprop.executors.graph",
    "gpubackprop.gradcheck",
    "gpubackprop.onnx_export",
    "gpubackprop.storage",
    "gpubackprop.trace",
    "gpubackprop.worked",
    "concurrent.futures",
    "hashlib",
    "html",
    "importlib.metadata",
    "importlib.resources",
    "tempfile",
)


def test_what_import_leaves_for_later():
    """We load nothing of it, NumPy may; and each is there, so that no name here is out of date."""
    code = f"""
import importlib, sys, numpy
names = [name for name in {LATER!r} if name not in sys.modules]
import gpubackprop
print([name for name in names if name in sys.modules])
for name in names:
    importlib.import_module(name)
"""
    assert run(code) == "[]"


def test_executors_are_imported_when_they_are_asked_for():
    """Neither a list of them nor a fit that is too short for Numba does it."""
    code = """
import sys
import numpy as np
import gpubackprop as gb
from gpubackprop.executors import EXECUTORS
net = gb.Network([3, 4, 2], rng=0, backend="numpy")
assert net.fit(np.ones((20, 3)), np.arange(20) % 2, epochs=2).executor == "eager"
others = [name for name in EXECUTORS if name != "eager"]
print(others, [name for name in others if f"gpubackprop.executors.{name}" in sys.modules])
print([EXECUTORS[name].name for name in others] == others)
"""
    assert run(code).splitlines() == ["['compiled', 'graph', 'block'] []", "True"]


def test_what_import_leaves_alone():
    """No thread, no change of NumPy's error handling or of the warnings, nothing printed."""
    code = """
import threading, warnings, numpy
before = numpy.geterr(), list(warnings.filters), threading.active_count()
import gpubackprop
assert before == (numpy.geterr(), list(warnings.filters), threading.active_count())
"""
    assert run(code) == ""


def test_training_without_any_optional_package():
    absent = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    assert run(absent + TRAIN) == "numpy True"


@pytest.mark.parametrize(
    "error", ["RuntimeError('broken')", "ImportError('libfoo.so.1: cannot open')", "OSError('x')"]
)
def test_training_with_broken_packages(error, tmp_path):
    for name in OPTIONAL:
        (tmp_path / f"{name}.py").write_text(f"raise {error}\n")
    assert run(TRAIN, tmp_path) == "numpy True"


def test_a_broken_cupy_is_a_reason_in_words(tmp_path):
    (tmp_path / "cupy.py").write_text("raise RuntimeError('no such driver')\n")
    code = """
from gpubackprop import backends
import gpubackprop as gb
print(backends.problem("cupy"), backends.usable())
try:
    gb.Network([2, 1], output="identity", backend="cupy")
except RuntimeError as error:
    print(error)
"""
    first, second = run(code, tmp_path).splitlines()
    assert first == "RuntimeError: no such driver ['numpy']"
    assert "no such driver" in second
    assert "backend='numpy'" in second


def test_an_absent_cupy_names_the_extra():
    code = """
import sys
sys.modules["cupy"] = None
import gpubackprop as gb
try:
    gb.Network([2, 1], output="identity", backend="cupy")
except ImportError as error:
    print(error)
"""
    text = run(code)
    assert "CuPy" in text
    assert "gpubackprop[cuda13]" in text
    assert "gpubackprop[cuda12]" in text


def test_every_module_without_any_extra():
    """NumPy alone is installed: whatever else is imported does not exist."""
    code = f"""
import importlib, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("gpubackprop", "numpy"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Nothing())
for name in {WITHOUT_EXTRAS!r}:
    importlib.import_module(name)
    print(name)
"""
    assert run(code).splitlines() == WITHOUT_EXTRAS


def test_the_list_of_modules_is_not_empty():
    assert {
        "gpubackprop.network",
        "gpubackprop.backends.cupy_backend",
        "gpubackprop.executors.eager",
    } <= {*MODULES}


def test_public_names():
    names = gpubackprop.__all__
    assert len(set(names)) == len(names)
    for name in names:
        entry = getattr(gpubackprop, name)
        assert name.isupper() or entry.__doc__, name


def top_level_imports(name):
    """Return the modules that a module imports when it is imported itself."""
    path = ROOT / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def test_imports_run_downwards_only():
    graph = {name: {one for one in top_level_imports(name) if one in MODULES} for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises if there is a circle
    house = [
        "expressions",
        "activations",
        "losses",
        "model",
        "buffers",
        "backends.base",
        "backprop",
    ]
    house += ["executors.base", "executors.eager", "training", "network"]
    places = [order.index(f"gpubackprop.{name}") for name in house]
    assert places == sorted(places)


def test_imports_run_down_the_picture_of_the_house():
    """DESIGN.md draws every module and folder, each line above all that it imports."""
    text = (Path(__file__).parent.parent / "docs" / "DESIGN.md").read_text(encoding="utf-8")
    picture = text.partition("## The house")[2].partition("**One formula")[0]
    lines = {
        name: i
        for i, line in enumerate(picture.splitlines()) if line.startswith("    ")
        for name in re.findall(r"(\w+)(?:\.py|/)", line)
    }  # fmt: skip

    def drawn(module):
        return lines[module.split(".")[1]]

    for name in MODULES:
        for one in top_level_imports(name):
            if one in MODULES:
                assert drawn(name) <= drawn(one), (name, one)


@pytest.mark.parametrize("name", MODULES)
def test_only_backends_and_executors_know_a_device(name):
    if name.startswith(("gpubackprop.backends", "gpubackprop.executors")):
        return
    path = ROOT / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            assert module.partition(".")[0] not in ("cupy", "cupyx", "numba", "mkl"), name
