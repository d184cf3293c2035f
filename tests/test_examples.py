"""The examples: their numbers against published ones and against arithmetic written out by hand."""

import importlib.util
import math
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import close, require

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    """Import an example from its file: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(actual: object, expected: str, rounding: float = 0.0) -> None:
    """Compare with numbers as somebody printed them: to half a unit of each one's last digit.

    `rounding` is what the dtype may add to that.
    """
    numbers = np.ravel(np.asarray(actual, dtype=float))
    texts = expected.split()
    assert len(numbers) == len(texts)
    for number, text in zip(numbers, texts, strict=True):
        unit = 10.0 ** Decimal(text).as_tuple().exponent
        assert number == pytest.approx(float(text), rel=0, abs=0.501 * unit + rounding)


def s(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# What float32 may add to a printed number of size 1: some tens of roundings.
ROUNDING = {"float32": 2e-6, "float64": 0.0}


def test_one_weight(backend, dtype):
    numbers = example("one_weight").run(backend, steps=6, dtype=dtype)
    rounding = ROUNDING[dtype.name]
    printed(numbers["w"][:6], "0.8 0.590000 0.474500 0.410975 0.37603625 0.3568199", rounding)
    printed(
        [numbers["a"], numbers["cost"][0], numbers["dw"]], "1.200000 0.490000 2.100000", rounding
    )
    # w - 1/3 shrinks by 0.55 a step, and C = (1.5 (w - 1/3))^2.
    distance = [(0.8 - 1 / 3) * 0.55**n for n in range(7)]
    close(numbers["w"], [1 / 3 + d for d in distance], dtype)
    close(numbers["cost"], [(1.5 * d) ** 2 for d in distance], dtype, factor=10)


def test_four_layers(backend, dtype):
    numbers = example("four_layers").run(backend, dtype=dtype)
    h1, h2 = s(0.1 + 0.1 + 0.3 + 0.8 + 0.1), s(-0.5 + 0.3 - 0.7 + 0.2 - 0.2)
    h3, h4 = s(0.3 * h1 - 0.2 * h2 + 0.05), s(0.5 * h1 + 0.8 * h2 - 0.1)
    o = -0.4 * h3 + 0.9 * h4
    factors = [o - 1, 0.9, h4 * (1 - h4), h2]
    close(numbers["o"], o, dtype)
    close(numbers["factors"], factors, dtype)
    close(numbers["gradient"], math.prod(factors), dtype, factor=5)
    close(numbers["trace"].dW[1][1, 1], math.prod(factors), dtype, factor=5)


def test_four_layers_against_a_difference():
    """The gradient of w22, from the loss alone."""
    module = example("four_layers")
    analytic = module.run()["gradient"]

    def loss(w: float) -> float:
        module.W[1][1][1] = w
        return module.run()["trace"].loss

    assert (loss(0.8 + 1e-5) - loss(0.8 - 1e-5)) / 2e-5 == pytest.approx(analytic, rel=1e-8)


def test_two_hidden_layers(backend, dtype):
    numbers = example("two_hidden_layers").run(backend, dtype=dtype)
    trace, rounding = numbers["trace"], ROUNDING[dtype.name]
    printed(trace.a[1], ".6900 .6225 .4750", rounding)
    printed(trace.a[2], ".4760 .6836", rounding)
    printed(trace.a[3], ".6718", rounding)
    printed(trace.delta[2], "-.3282", rounding)
    printed(trace.delta[1], "-.0409 -.0497", rounding)
    printed(trace.delta[0], ".0012 -.0109 -.0050", rounding)
    printed(numbers["after"], ".698076", rounding)


def test_two_hidden_layers_moves_existing_connections_only(backend):
    """The whole step, connection by connection."""
    module = example("two_hidden_layers")
    net = module.run(backend)["net"]
    h1, h2, h3 = s(0.5 + 0.3), s(-0.2 + 0.7), s(-0.1)
    h4, h5 = s(-0.5 * h1 + 0.4 * h2), s(0.3 * h1 + 0.6 * h2 + 0.4 * h3)
    d = s(0.5 * h4 + 0.7 * h5) - 1
    d4, d5 = 0.5 * d * h4 * (1 - h4), 0.7 * d * h5 * (1 - h5)
    d1 = (-0.5 * d4 + 0.3 * d5) * h1 * (1 - h1)
    d2 = (0.4 * d4 + 0.6 * d5) * h2 * (1 - h2)
    d3 = 0.4 * d5 * h3 * (1 - h3)
    expected = [
        [[0.5 - 0.5 * d1, 0], [-0.2 - 0.5 * d2, 0], [-0.1 - 0.5 * d3, 0]],
        [
            [-0.5 - 0.5 * d4 * h1, 0.4 - 0.5 * d4 * h2, 0],
            [0.3 - 0.5 * d5 * h1, 0.6 - 0.5 * d5 * h2, 0.4 - 0.5 * d5 * h3],
        ],
        [[0.5 - 0.5 * d * h4, 0.7 - 0.5 * d * h5]],
    ]
    for W, values in zip(net.weights, expected, strict=True):
        close(backend.to_numpy(W), values, "float64")
    close(backend.to_numpy(net.biases[0]), [0.3 - 0.5 * d1, 0.7 - 0.5 * d2, 0], "float64")


def test_mazur(backend, dtype):
    numbers = example("mazur").run(backend, rounds=20, dtype=dtype)
    rounding = ROUNDING[dtype.name]
    printed(numbers["o"], ".75136507 .772928465", rounding)
    printed(numbers["error"], ".298371109", rounding)
    printed(numbers["dw5"], ".082167041", rounding)
    printed(
        numbers["new_w"],
        ".149780716 .19956143 .24975114 .29950229 .35891648 .408666186 .511301270 .561370121",
        rounding,
    )
    printed(numbers["error_after_1"], ".291027774", rounding)
    close(numbers["error_after_all"], mazur_error(20), dtype, factor=10)


def mazur_error(rounds: int) -> float:
    """The error after some rounds, in scalars."""
    w1, w2, w3, w4, w5, w6, w7, w8 = 0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55
    for _ in range(rounds + 1):
        h1 = s(w1 * 0.05 + w2 * 0.10 + 0.35)
        h2 = s(w3 * 0.05 + w4 * 0.10 + 0.35)
        o1, o2 = s(w5 * h1 + w6 * h2 + 0.60), s(w7 * h1 + w8 * h2 + 0.60)
        error = ((0.01 - o1) ** 2 + (0.99 - o2) ** 2) / 2
        e1, e2 = (o1 - 0.01) * o1 * (1 - o1), (o2 - 0.99) * o2 * (1 - o2)
        e3, e4 = (e1 * w5 + e2 * w7) * h1 * (1 - h1), (e1 * w6 + e2 * w8) * h2 * (1 - h2)
        w5, w6, w7, w8 = w5 - e1 * h1 / 2, w6 - e1 * h2 / 2, w7 - e2 * h1 / 2, w8 - e2 * h2 / 2
        w1, w2, w3, w4 = w1 - e3 * 0.025, w2 - e3 * 0.05, w3 - e4 * 0.025, w4 - e4 * 0.05
    return error


def test_mazur_after_10_000_rounds():
    error = example("mazur").run("numpy")["error_after_all"]
    printed(error, "3.51e-5")
    assert error == pytest.approx(mazur_error(10_000), rel=1e-9)


def neuron(w: float, b: float, steps: int, quadratic: bool = True) -> list[float]:
    """The outputs of a sigmoid neuron with input 1 and target 0, learning rate 0.15, in scalars."""
    outputs = []
    for _ in range(steps + 1):
        a = s(w + b)
        outputs.append(a)
        delta = a * a * (1 - a) if quadratic else a
        w, b = w - 0.15 * delta, b - 0.15 * delta
    return outputs


@pytest.mark.parametrize(("w", "b"), [(0.6, 0.9), (2.0, 2.0)])
def test_saturation(backend, w, b):
    numbers = example("saturation").run(w, b, backend=backend, steps=10)
    close(numbers["a"], neuron(w, b, 10), "float64")
    close(numbers["delta"], [a * a * (1 - a) for a in neuron(w, b, 10)], "float64")


@pytest.mark.parametrize(
    ("w", "b", "ends"), [(0.6, 0.9, ".82 .09"), (2.0, 2.0, ".98 .20")], ids=["fast", "saturated"]
)
def test_saturation_after_300_steps(w, b, ends):
    a = example("saturation").run(w, b)["a"]
    printed([a[0], a[-1]], ends)
    np.testing.assert_allclose(a, neuron(w, b, 300), rtol=1e-10)


def test_saturation_is_cured_by_log_loss():
    numbers = example("saturation").run(2.0, 2.0, "log_loss")
    np.testing.assert_allclose(numbers["a"], neuron(2, 2, 300, quadratic=False), rtol=1e-10)
    np.testing.assert_allclose(numbers["delta"], numbers["a"], rtol=1e-12)  # a - y, where y = 0


def test_xor(backend):
    numbers = example("xor").run(backend=backend, epochs=60 if backend.host else 10)
    plain = example("xor").run(backend="numpy-plain", epochs=60 if backend.host else 10)
    close(numbers["loss"], plain["loss"], "float32", factor=10)


@pytest.mark.parametrize("seed", range(20))
def test_xor_is_learnt_from_any_seed(seed):
    numbers = example("xor").run(seed)
    assert numbers["classes"].tolist() == [0, 1, 1, 0]
    assert numbers["loss"][-1] < 0.01


def test_digits_data():
    X, X_test, Y, Y_test = example("digits").data()
    assert (len(X), len(X_test), len(Y), len(Y_test)) == (1347, 450, 1347, 450)
    assert X.dtype == np.float32
    assert (X.min(), X.max()) == (0, 1)
    shares = np.bincount(Y_test) / np.bincount(np.concatenate([Y, Y_test]))
    np.testing.assert_allclose(shares, 0.25, atol=0.005)  # a quarter of each class
    held_out = {row.tobytes() for row in X_test}
    assert not held_out & {row.tobytes() for row in X}


@pytest.mark.parametrize("mode", ["batch", "mini-batch", "SGD"])
def test_digits(mode):
    numbers = example("digits").run(mode)
    assert numbers["accuracy"] >= 0.97
    assert numbers["loss"] < 0.02


@pytest.mark.parametrize("mode", ["batch", "mini-batch"])
def test_digits_begin_alike_on_every_backend(backend, mode):
    """Same weights, order of rows and dropout masks: the same losses, to rounding."""
    module, epochs = example("digits"), 3 if mode == "batch" else 1
    losses = module.run(mode, backend=backend, epochs=epochs)["losses"]
    reference = module.run(mode, backend="numpy-plain", epochs=epochs)["losses"]
    np.testing.assert_allclose(losses, reference, rtol=1e-4)


def test_diabetes():
    numbers = example("diabetes").run()
    X, y, X_test, y_test = example("diabetes").data(0)
    solution = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y, rcond=None)[0]
    error = y_test - X_test @ solution[:-1] - solution[-1]
    r2 = 1 - (error**2).sum() / ((y_test - y_test.mean()) ** 2).sum()
    np.testing.assert_allclose(numbers["weights"], solution[:-1], rtol=0, atol=1e-6)
    assert numbers["linear"] == pytest.approx(r2, abs=1e-9)
    assert numbers["flat"] == pytest.approx(r2, abs=1e-6)
    assert numbers["network"] == pytest.approx(r2, abs=0.05)


def test_diabetes_begins_alike_on_every_backend(backend):
    numbers = example("diabetes").run(0, backend, epochs=(10, 2))
    reference = example("diabetes").run(0, "numpy-plain", epochs=(10, 2))
    for name in ("flat", "network", "loss"):
        np.testing.assert_allclose(numbers[name], reference[name], rtol=1e-9)


# What each must print, among the rest.
SHOWN = {
    "one_weight": ["= 0.49\n", "= 2.1\n", "0.59000000", "0.47450000", "0.41097500", "0.37603625"],
    "four_layers": [
        "z[0]_1 = 0.1 * 1 + 0.2 * 0.5 - 0.3 * -1 + 0.4 * 2 + 0.1 = 1.400000",
        "-0.039788",
    ],
    "two_hidden_layers": ["0.6718", "-0.3282", "-0.0109", "after it 0.698076."],
    "mazur": ["0.298371109", "0.082167041", "0.358916480", "0.291027774", "0.0000351"],
    "saturation": ["a = 0.82 -> 0.09", "a = 0.98 -> 0.20"],
    "xor": ["seed 4", "4 of 4   4 of 4   4 of 4   4 of 4   4 of 4"],
    "digits": ["1,347 images to learn from, 450 held out", "mini-batch", "samples/s"],
    "diabetes": ["R^2 on 111 held-out patients", "0.3594         0.3594"],
}


def test_each_example_is_shown_and_listed():
    files = {path.stem for path in EXAMPLES.glob("*.py")}
    assert files == set(SHOWN)
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.py)" in index for name in files)


@pytest.mark.parametrize("name", SHOWN)
def test_runs_from_the_command_line(name, tmp_path):
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in SHOWN[name]:
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["one_weight", "four_layers", "two_hidden_layers", "mazur", "saturation", "xor"]
)
def test_writes_its_step_as_a_page(name, tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    options = ["--rounds", "2"] if name == "mazur" else []
    monkeypatch.setattr(sys, "argv", [name, "--html", str(tmp_path / "step.html"), *options])
    example(name).main()
    text = (tmp_path / "step.html").read_text(encoding="utf-8")
    assert "One training step of a " in text
    assert '"title":"Back 0"' in text


@pytest.mark.parametrize("name", ["one_weight", "four_layers", "two_hidden_layers"])
def test_prints_the_same_on_cupy(name, monkeypatch, capsys):
    require("cupy")
    module, shown = example(name), []
    for backend in ("numpy", "cupy"):
        monkeypatch.setattr(sys, "argv", [name, "--backend", backend])
        module.main()
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
