"""``gpubackprop trace``: a training step, printed and written."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_tables import people

from gpubackprop import SGD, Network, load
from gpubackprop.cli.trace import BUILT_IN
from gpubackprop.tables import Predictor, open_table

for package in ("typer", "pandas", "pyarrow", "sklearn"):
    pytest.importorskip(package)


@pytest.mark.parametrize("name", BUILT_IN)
def test_examples(run, name):
    code, out, err = run("trace", "--example", name)
    assert (code, err) == (0, "")
    assert "delta[0] = (delta[1] @ W[1]) * f'(z)" in out
    found = json.loads(run("trace", "--example", name, "--json")[1])
    for l, (W, dW, new) in enumerate(zip(found["W"], found["dW"], found["new_W"], strict=True)):
        expected = np.array(found["delta"][l]).T @ np.array(found["a"][l])
        np.testing.assert_allclose(dW, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(new, np.array(W) - 0.5 * np.array(dW), rtol=1e-4, atol=1e-6)


def test_the_first_example_is_the_networks_own_trace(run):
    net = Network([2, 2, 1], output="sigmoid", backend="numpy", rng=0)
    assert run("trace")[1] == f"{net.trace([[1, 0]], [1], SGD(0.5))}\n"


@pytest.fixture
def model(run, tmp_path, monkeypatch):
    """A model and its table."""
    monkeypatch.chdir(tmp_path)
    people(60).to_csv("people.csv", index=False)
    assert run("train", "people.csv", "-t", "kind", "--hidden", 3, "--epochs", 2)[0] == 0


def test_a_row_of_a_table(run, model):
    code, out, err = run("trace", "people.safetensors", "people.csv", "--row", 7, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    asked = Predictor(load("people.safetensors"))
    ((_, X),) = asked.inputs(open_table("people.csv"))
    np.testing.assert_allclose(found["a"][0], X[6:7], rtol=1e-6)
    assert found["Y"] == [[float(people(60).kind[6] == "tall")]]
    np.testing.assert_allclose(found["a"][-1], asked.of(X[6:7]).outputs, rtol=1e-6)


def test_a_csv_file_of_its_own_kind(run, model):
    people(60).to_csv("other.csv", index=False, sep=";", na_rep="?")
    arguments = "trace", "people.safetensors"
    expected = run(*arguments, "people.csv", "--row", 9)[1]
    assert run(*arguments, "other.csv", "--row", 9, "--missing", "?")[1] == expected
    assert "'height' of other.csv must hold numbers, got '?'" in run(*arguments, "other.csv")[2]


def test_files(run, model):
    pytest.importorskip("jinja2")
    for name, start in (("t.txt", "  a[0] = X"), ("t.json", "{"), ("t.html", "<!")):
        assert run("trace", "--to", name) == (0, f"Written: {name}\n", "")
        assert Path(name).read_text(encoding="utf-8").startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--example", "nor"], "example must be one of small, xor, classes"),
        (["--to", "t.pdf"], "to must end in one of .txt, .json, .html"),
        (["--optimizer", "best"], "optimizer must be one of"),
        (["people.safetensors"], "DATA must be given with MODEL"),
        (["people.safetensors", "people.csv", "--row", "0"], "row must be an integer >= 1"),
        (["people.safetensors", "people.csv", "--row", "61"], "row must lie in 1..60"),
        (["none.safetensors", "people.csv"], "none.safetensors"),
    ],
)
def test_bad_arguments_are_one_line(run, model, arguments, message):
    code, out, err = run("trace", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_table_without_the_target(run, model):
    people(60).drop(columns="kind").to_csv("other.csv", index=False)
    code, _, err = run("trace", "people.safetensors", "other.csv")
    assert code == 2
    assert "DATA must have the target 'kind'" in err
