"""The command line, and the comparison behind it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import require

from gpubackprop import compare, datasets, machine
from gpubackprop.compare import MODES, Settings, check_training
from gpubackprop.executors import EXECUTORS
from gpubackprop.network import Network

pytest.importorskip("typer")


def blobs(rows: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw three classes that are easy to tell apart."""
    rng = np.random.default_rng(seed)
    Y = np.arange(rows) % 3
    centres = 4 * np.eye(3, 4)
    return centres[Y] + rng.standard_normal((rows, 4)), Y


@pytest.fixture
def npz(tmp_path) -> str:
    X, Y = blobs()
    path = tmp_path / "blobs.npz"
    np.savez(path, X=X, Y=np.array(["red", "green", "blue"])[Y])
    return str(path)


# ---- info ---------------------------------------------------------------------------------------


def test_info_in_words(run):
    code, out, err = run("info")
    assert (code, err) == (0, "")
    for word in ("gpubackprop", "python", "processor", "Backends", "numpy", "cupy", "eager"):
        assert word in out
    assert np.__version__ in out
    assert "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_info_as_json(run):
    code, out, _ = run("info", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["versions"]["numpy"] == np.__version__
    assert [backend["name"] for backend in found["backends"]] == ["numpy", "cupy"]
    for backend in found["backends"]:
        assert backend["usable"] == (backend["problem"] is None)
    assert found["executors"] == list(compare.EXECUTORS)
    assert found["environment"] == {"GPUBACKPROP_BACKEND": "numpy"}
    assert found["auto"] == "numpy"


def test_info_says_why_a_backend_is_not_usable(run, monkeypatch):
    reason = "CUDARuntimeError: no CUDA-capable device is detected"
    monkeypatch.setattr(machine.backends, "problem", lambda n: reason if n == "cupy" else None)
    assert f"not usable: {reason}" in run("info")[1]


def test_info_says_what_a_missing_extra_gives(run, monkeypatch):
    monkeypatch.setattr(machine, "version", lambda name: None if name == "matplotlib" else "1.0")
    code, out, _ = run("info")
    assert code == 0
    assert ["plot", "the", "plot", "of", "compare"] in [line.split() for line in out.splitlines()]


def test_info_of_an_unusable_setting(run, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BACKEND", "abacus")
    code, out, _ = run("info")
    assert code == 0
    assert "GPUBACKPROP_BACKEND must be one of" in out


# ---- compare ------------------------------------------------------------------------------------


def test_compare_writes_and_prints(run, npz, tmp_path):
    folder = tmp_path / "new" / "folder"
    code, out, err = run("compare", "--data", npz, "--epochs", 30, "--output", folder)
    assert (code, err) == (0, "")
    assert "only numpy: the environment variable GPUBACKPROP_BACKEND" in out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] and line[1:2] != " "]
    table = {row[0]: row for row in rows if row[0] in MODES}
    assert set(table) == set(MODES)
    for row in table.values():
        assert row[1] == "numpy"
        assert row[2] in EXECUTORS
        assert float(row[-1].rstrip("%")) > 90
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "compare.json").read_text())
    assert found["network"]["sizes"] == [4, 64, 3]
    assert found["data"]["training_rows"] == 72
    assert found["data"]["held_out_rows"] == 18
    assert found["machine"]["processor"]
    for result in found["results"]:
        assert result["epochs"] == 30
        curve = result["curve"]
        assert len(curve["epoch"]) == len(curve["loss"]) == len(curve["seconds"]) == 30
        assert curve["loss"][-1] == result["loss"] < curve["loss"][0]
        assert curve["seconds"] == sorted(curve["seconds"])
        assert result["seconds"] == curve["seconds"][-1]
    updates = {result["mode"]: result["updates"] for result in found["results"]}
    assert updates == {"batch": 30, "mini-batch": 90, "sgd": 2160}


def test_compare_as_json_is_json_alone(run, npz, tmp_path):
    arguments = "--data", npz, "--epochs", 2, "--modes", "batch", "--output", tmp_path, "--json"
    code, out, _ = run("compare", *arguments)
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "compare.json").read_text())


def test_compare_to_the_same_loss(run, npz, tmp_path):
    code, _, _ = run("compare", "--data", npz, "--loss", 0.05, "--output", tmp_path)
    assert code == 0
    for result in json.loads((tmp_path / "compare.json").read_text())["results"]:
        loss = result["curve"]["loss"]
        assert result["reached"]
        assert loss[-1] <= 0.05
        assert all(earlier > 0.05 for earlier in loss[:-1])


def test_compare_says_that_a_loss_was_not_reached(run, npz, tmp_path):
    arguments = "--loss", 1e-9, "--epochs", 3, "--modes", "batch", "--output", tmp_path
    code, out, _ = run("compare", "--data", npz, *arguments)
    assert code == 0
    assert "3*" in out
    assert "* did not come down to a loss of 1e-09" in out


def test_compare_without_matplotlib(run, npz, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = "--epochs", 1, "--modes", "batch", "--output", tmp_path
    code, out, _ = run("compare", "--data", npz, *arguments)
    assert code == 0
    assert "no plot: matplotlib is not installed" in out
    assert "gpubackprop[plot]" in out
    assert not (tmp_path / "compare.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["--epochs", "many"], "'--epochs'"),
        (["--hidden", "-3"], "hidden must be an integer >= 1, got -3"),
        (["--loss", "nan"], "loss must be a number > 0, got nan"),
        (["--modes", "batch,big"], "modes must be some of batch, mini-batch, sgd"),
        (["--modes", ""], "modes must be some of"),
        (["--executor", "magic"], "executors must be some of eager"),
        (["--backend", "abacus"], "backend must be one of auto, numpy"),
        (["--backend", ","], "backend must be some of"),
        (["--data", "numbers"], "data must be one of digits"),
        (["--data", "missing.npz"], "data must be an .npz file that exists"),
        (["--seed", "-1"], "seed must be an integer >= 0, got -1"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_arguments_are_one_line(run, tmp_path, arguments, message):
    code, out, err = run("compare", "--output", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_output_that_is_a_file(run, npz):
    code, _, err = run("compare", "--data", npz, "--output", npz)
    assert code == 2
    assert "output must be a folder that can be written to" in err
    assert err.count("\n") == 1


def test_digits_without_scikit_learn(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    code, _, err = run("compare", "--output", tmp_path)
    assert code == 2
    assert "gpubackprop[sklearn]" in err
    assert err.count("\n") == 1


def test_ctrl_c(run, npz, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpubackprop.cli.compare.compare", interrupt)
    assert run("compare", "--data", npz, "--output", tmp_path) == (
        130,
        "",
        "gpubackprop: interrupted\n",
    )


@pytest.mark.parametrize("arguments", [["--help"], ["info", "-h"], ["compare", "--help"]])
def test_help(run, arguments):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "Usage: gpubackprop" in out
    if "compare" in arguments:
        assert "$ gpubackprop compare --loss 0.05" in out
        assert "default: 100" in out


def test_no_command_shows_the_help(run):
    code, out, err = run()
    assert code == 2
    assert "compare" in out + err


def test_without_typer(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    code, out, err = run("info")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "typer" in err
    assert "gpubackprop[cli]" in err


def test_as_a_module_in_a_fresh_process():
    """Also: importing the command line needs neither typer nor rich."""
    environment = os.environ | {"GPUBACKPROP_BACKEND": "numpy"}
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None; import gpubackprop.cli; "
        "assert 'sklearn' not in sys.modules and 'matplotlib' not in sys.modules; "
        "gpubackprop.cli.main(['info'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 2
    assert "gpubackprop[cli]" in ended.stderr
    assert "Traceback" not in ended.stderr
    shown = subprocess.run(
        [sys.executable, "-m", "gpubackprop", "info"],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert np.__version__ in shown.stdout


# ---- the comparison -----------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_are_learnt_in_every_mode():
    found = compare.compare(datasets.load("digits"), Settings(epochs=40, backends=("numpy",)))
    assert {result.mode for result in found.results} == {"batch", "mini-batch", "sgd"}
    for result in found.results:
        assert result.accuracy > 0.94
        assert result.loss < 0.1


def test_every_backend_and_executor_from_the_same_weights():
    X, Y = blobs()
    data = datasets.split("blobs", X, Y)
    settings = Settings(
        epochs=2, modes=("batch", "mini-batch"), backends=("numpy", "numpy-plain"), rounds=2
    )
    found = compare.compare(data, settings)
    done = {(r.mode, r.backend, r.executor): r.curve["loss"] for r in found.results}
    for mode in ("batch", "mini-batch"):
        assert (mode, "numpy-plain", "eager") in done
        executors = [executor for m, name, executor in done if (m, name) == (mode, "numpy")]
        assert {"eager", "compiled"} <= set(executors) <= set(EXECUTORS)
        for executor in executors:
            one, other = done[mode, "numpy", executor], done[mode, "numpy-plain", "eager"]
            np.testing.assert_allclose(one, other, rtol=1e-4)


def test_an_emulated_gpu_gets_no_times():
    require("cupy")
    from gpubackprop import backends
    from gpubackprop.measure import emulated

    if not emulated(backends.get("cupy")):
        pytest.skip("this is a GPU")
    X, Y = blobs()
    settings = Settings(epochs=2, modes=("batch",), backends=("cupy",), hidden=4)
    found = compare.compare(datasets.split("blobs", X, Y), settings)
    assert {"eager", "graph"} <= {result.executor for result in found.results}
    for result in found.results:
        assert (result.seconds, result.samples_per_second, result.spread) == (None, None, None)
        assert "seconds" not in result.curve
        assert len(result.curve["loss"]) == 2
    assert "its times mean nothing" in found.notes[0]


def test_an_emulated_gpu_is_left_out_unless_asked_for(monkeypatch):
    require("cupy")
    monkeypatch.delenv("GPUBACKPROP_BACKEND")
    names, notes = compare.usable_backends(None)
    if names == ["numpy"]:
        assert notes == ["cupy was left out: it runs on an emulator here, not on a GPU"]
    else:
        assert (names, notes) == (["numpy", "cupy"], [])


def test_a_wrong_answer_is_not_timed(monkeypatch):
    X, Y = blobs()
    net = Network([4, 5, 3], backend="numpy", rng=0)
    assert check_training(net, X, Y, MODES["sgd"], "numpy") < 1e-5
    assert check_training(net, X, Y, MODES["batch"], "numpy", dtype="float64") < 1e-12
    right = compare._vector

    def wrong(net: Network) -> np.ndarray:
        vector = right(net)
        vector[3] += 0.01 if net.model.dtype == np.float32 else 0.0
        return vector

    monkeypatch.setattr(compare, "_vector", wrong)
    with pytest.raises(RuntimeError, match="sgd on numpy auto is wrong: after 4 updates"):
        check_training(net, X, Y, MODES["sgd"], "numpy")


def test_divergence_is_a_note_and_does_not_end_the_comparison(monkeypatch):
    X, Y = blobs()
    monkeypatch.setitem(MODES, "sgd", compare.Mode("sgd", 1, 1e38, 0.9))
    monkeypatch.setattr(compare, "check_training", lambda *_: 0.0)
    settings = Settings(epochs=3, modes=("batch", "sgd"), backends=("numpy",))
    found = compare.compare(datasets.split("blobs", X, Y), settings)
    assert {result.mode for result in found.results} == {"batch"}
    assert "sgd, numpy eager: training diverged" in found.notes[0]


# ---- data ---------------------------------------------------------------------------------------


def test_split_is_stratified_fixed_and_scaled():
    X, Y = blobs(100)
    data = datasets.split("blobs", X, Y)
    assert np.bincount(data.Y_test).tolist() == [7, 7, 7]
    assert len(data.X_train) == 79
    np.testing.assert_allclose(data.X_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.X_train.std(axis=0), 1, rtol=1e-6)
    again = datasets.split("blobs", X, Y)
    np.testing.assert_array_equal(data.X_test, again.X_test)


def test_constant_columns_become_zero():
    X, Y = blobs()
    X[:, 1] = 7
    np.testing.assert_array_equal(datasets.split("blobs", X, Y).X_train[:, 1], 0)


def test_npz_of_images_and_lower_case_names(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, x=np.zeros((20, 3, 2), np.uint8), y=np.arange(20) % 2)
    data = datasets.load(str(path))
    assert data.X_train.shape == (16, 6)
    assert data.n_classes == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"A": [1]}, "it has the arrays A"),
        ({"X": np.ones((4, 2)), "Y": np.ones(3)}, "one class for each of 4 rows"),
        ({"X": np.ones(4), "Y": np.ones(4)}, "one row a sample, got shape"),
        ({"X": np.ones((10, 2)), "Y": np.ones(10)}, "two classes at least"),
        ({"X": np.ones((10, 2)), "Y": np.linspace(0, 1, 10)}, "whole numbers or strings"),
        ({"X": np.array([["a"]] * 10), "Y": np.ones(10)}, "must hold numbers"),
        ({"X": np.array([[1.0], [np.nan]] * 5), "Y": np.arange(10) % 2}, "nan in row 1, column 0"),
        ({"X": np.array([{}] * 3, object), "Y": np.ones(3)}, "is not: "),
    ],
)
def test_bad_files(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        datasets.load(str(path))


def test_a_file_that_is_no_npz(tmp_path):
    path = tmp_path / "data.npz"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"and '.*data\.npz' is not: "):
        datasets.load(str(path))
