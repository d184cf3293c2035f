"""``gpubackprop train`` and ``predict``: from a table to a file to predictions."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import require
from test_tables import people

from gpubackprop import load
from gpubackprop.cli import options
from gpubackprop.cli.progress import Training, duration
from gpubackprop.optimizers import OPTIMIZERS, SGD, Adam
from gpubackprop.schedules import SCHEDULES, Cosine, OneCycle, Step
from gpubackprop.tables import Predictor, open_table

pd = pytest.importorskip("pandas")
for package in ("typer", "pyarrow", "sklearn"):
    pytest.importorskip(package)


@pytest.fixture
def csv(tmp_path, monkeypatch):
    """A table, in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    people(200).to_csv("people.csv", index=False)
    return "people.csv"


QUICK = "--epochs", 3, "--hidden", 4


# ---- train ---------------------------------------------------------------------------------------


def test_train_and_predict_classes(run, csv):
    code, out, err = run("train", csv, "--target", "kind", "--epochs", 60, "--drop", "pay")
    assert (code, err) == (0, "")
    for words in (
        "people.csv: 180 training rows, 20 held out",
        "8 inputs from 4 columns of numbers and 1 of categories",
        "kind: 2 classes (small, tall)",
        "8-64-1 (relu, sigmoid; log_loss), 641 parameters",
        "Written: people.safetensors",
    ):
        assert words in out
    code, out, err = run("predict", "people.safetensors", csv)
    assert (code, err) == (0, "")
    head, *labels = out.splitlines()
    assert head == "kind"
    assert (np.array(labels) == people(200).kind).mean() > 0.9


def test_train_and_predict_a_quantity(run, csv):
    arguments = "train", csv, "-t", "pay", "--epochs", 60, "--json", "--validation", 0.2
    code, out, err = run(*arguments, "--learning-rate", 0.01, "--model", "pay.safetensors")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["task"] == "regression"
    assert found["labels"] is None
    assert found["rows"] == {"training": 160, "validation": 40, "without_target": 0}
    assert found["scores"]["validation"]["r2"] > 0.8
    assert len(found["history"]["validation_loss"]) == found["epochs"]
    assert run("predict", "pay.safetensors", csv, "--to", "pay.npy")[0] == 0
    predicted, pay = np.load("pay.npy"), people(200).pay
    assert 1 - ((predicted - pay) ** 2).sum() / ((pay - pay.mean()) ** 2).sum() > 0.8


def test_the_file_says_all_that_prediction_needs(run, csv):
    assert run("train", csv, "-t", "floor", *QUICK)[0] == 0
    net = load("people.safetensors", backend="numpy")
    assert net.schema.labels == (1, 2, 3)
    asked = Predictor(net)
    assert asked.preprocessing.target.name == "floor"
    (answer,) = asked.predict(open_table(csv))
    out = run("predict", "people.safetensors", csv)[1]
    assert [int(line) for line in out.splitlines()[1:]] == answer.values.tolist()


def test_rows_in_files_are_trained_on_in_blocks_and_deleted(run, csv):
    """The same network as in memory: both take all 180 rows as one batch."""
    same = "-t", "kind", *QUICK, "--batch-size", "full", "--json"
    kept = json.loads(run("train", csv, *same, "--model", "a.safetensors")[1])
    code, out, err = run("train", csv, *same, "--model", "b.safetensors", "--in-memory", 0)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (kept["rows_in_files"], found["rows_in_files"]) == (False, True)
    np.testing.assert_allclose(found["history"]["loss"], kept["history"]["loss"], rtol=1e-5)
    for one, other in zip(
        load("a.safetensors").weights, load("b.safetensors").weights, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "people.csv"]


def test_every_option_reaches_fit(run, csv, monkeypatch):
    seen = {}
    original = __import__("gpubackprop").Network.fit

    def fit(self, X, Y, **arguments):
        seen.update(arguments, model=self.model)
        return original(self, X, Y, **arguments)

    monkeypatch.setattr("gpubackprop.Network.fit", fit)
    code, _, err = run(
        "train", csv, "-t", "kind", "--hidden", "5,3", "--activation", "tanh,leaky_relu:slope=0.2",
        "--dropout", "0.1,0", "--no-bias", "--init", "he_normal", "--dtype", "float64",
        "--loss", "squared", "--optimizer", "sgd", "--momentum", 0.5, "--nesterov", "--l1", 0.001,
        "--l2", 0.002, "--weight-decay", 0.003, "--clip-norm", 2, "--learning-rate", 0.2,
        "--schedule", "step:every=2", "--epochs", 2, "--batch-size", 16, "--shuffle", "blocks",
        "--executor", "eager", "--backend", "numpy", "--threads", 1, "--patience", 4,
        "--min-delta", 0.01, "--checkpoint", "run.ckpt", "--every", "epoch", "--resume",
        "--weight", "weight", "--class-weight", "tall=3", "--validation", 0.2, "--seed", 5,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert seen["optimizer"] == SGD(
        Step(0.2, every=2), momentum=0.5, nesterov=True, l1=0.001, l2=0.002, weight_decay=0.003,
        clip_norm=2.0,
    )  # fmt: skip
    model = seen["model"]
    assert [a.name for a in model.activations] == ["tanh", "leaky_relu", "sigmoid"]
    assert model.activations[1].parameters == {"slope": 0.2}
    assert (model.bias, model.dropout, model.dtype) == ((False,) * 3, (0.1, 0.0), np.float64)
    assert model.loss.name == "squared"
    for name, value in {
        "batch_size": 16, "epochs": 2, "shuffle": "blocks", "executor": "eager", "threads": 1,
        "every": "epoch", "resume": True,
    }.items():  # fmt: skip
        assert seen[name] == value
    assert (seen["early_stopping"].patience, seen["early_stopping"].min_delta) == (4, 0.01)
    all_ = set(inspect.signature(original).parameters)
    assert set(seen) >= all_ - {"self", "X", "Y", "trainable"}
    weights = np.sort(seen["sample_weight"])
    assert len(seen["validation"]) == 3
    assert weights[-1] > 1  # some are three times what they were
    assert os.path.exists("run.ckpt")


def test_poisson_counts_get_an_exponential(run, csv):
    arguments = "-t", "children", "--loss", "poisson", "--task", "regression", "--json", *QUICK
    found = json.loads(run("train", csv, *arguments)[1])
    assert found["network"]["activations"][-1] == "exp"
    assert Predictor(load("people.safetensors")).target.scale == 1.0


def test_a_run_goes_on_from_its_checkpoint(run, csv):
    common = "train", csv, "-t", "kind", "--hidden", 4, "--checkpoint", "run.ckpt", "--resume"
    assert run(*common, "--epochs", 2)[0] == 0
    found = json.loads(run(*common, "--epochs", 5, "--json")[1])
    assert found["epochs"] == 5
    whole = json.loads(run("train", csv, "-t", "kind", "--hidden", 4, "--epochs", 5, "--json")[1])
    assert found["history"]["loss"] == whole["history"]["loss"]


# ---- Ctrl-C --------------------------------------------------------------------------------------


def interrupt_in(epoch: int, monkeypatch) -> None:
    """Press Ctrl-C in an epoch, counted from 0."""

    def on_slice(self, run):
        if run.epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "on_slice", on_slice)


def test_ctrl_c_keeps_the_best_epoch_and_says_so(run, csv, monkeypatch):
    interrupt_in(3, monkeypatch)
    code, out, err = run("train", csv, "-t", "kind", "--hidden", 4)
    assert code == 130
    assert "interrupted; kept epoch 3" in out
    assert "people.safetensors holds the best epoch, 3 of 3 (validation loss" in err
    assert err.count("\n") == 1
    assert load("people.safetensors").schema.labels == ("small", "tall")


def test_ctrl_c_before_the_first_epoch(run, csv, monkeypatch):
    interrupt_in(0, monkeypatch)
    code, out, err = run("train", csv, "-t", "kind", "--in-memory", 0)
    assert (code, out) == (130, "")
    assert err == (
        "gpubackprop: interrupted before the first epoch was done: no model was written\n"
    )
    assert os.listdir() == ["people.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_real_ctrl_c(csv, tmp_path):
    command = [sys.executable, "-m", "gpubackprop", "train", csv, "-t", "kind", "--patience", "0"]
    command += ["--epochs", "1000000", "--checkpoint", "run.ckpt", "--every", "0"]
    environment = os.environ | {"GPUBACKPROP_BACKEND": "numpy"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]
    )
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        for _ in range(600):  # until there is an epoch to keep
            if (tmp_path / "run.ckpt").exists() and load(tmp_path / "run.ckpt"):
                break
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "run.ckpt goes on with --resume" in err


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "-t", "y"], "DATA must be a file that exists, got 'none.csv'"),
        (["people.txt.zip", "-t", "y"], "DATA must end in one of"),
        (["people.csv"], "target must name the column to predict"),
        (["people.csv", "-t", "size"], "target must name a column of people.csv"),
        (["people.csv", "-t", "kind", "--hidden", "many"], "hidden must be units of each layer"),
        (["people.csv", "-t", "kind", "--activation", "step"], "activation must be one of"),
        (["people.csv", "-t", "kind", "--activation", "relu:slope=1"], "has no settings"),
        (["people.csv", "-t", "kind", "--activation", "relu,tanh"], "got 2"),
        (["people.csv", "-t", "kind", "--loss", "cubic"], "loss must be one of"),
        (["people.csv", "-t", "kind", "--loss", "huber:d=1"], "loss 'huber' has limit, got 'd'"),
        (["people.csv", "-t", "kind", "--output", "identity"], "does not suit 2 classes"),
        (["people.csv", "-t", "pay", "--loss", "log_loss"], "log_loss"),
        (["people.csv", "-t", "kind", "--optimizer", "best"], "optimizer must be one of sgd"),
        (["people.csv", "-t", "kind", "--momentum", "0.9"], "optimizer 'adam' has learning_rate"),
        (["people.csv", "-t", "kind", "--setting", "beta1"], "setting must be of the form"),
        (["people.csv", "-t", "kind", "--setting", "beta1=2"], "beta1 must be"),
        (["people.csv", "-t", "kind", "--schedule", "wave"], "schedule must be one of constant"),
        (["people.csv", "-t", "kind", "--schedule", "step"], "schedule 'step' needs every"),
        (["people.csv", "-t", "kind", "--schedule", "cosine:x=1"], "schedule 'cosine' has epochs"),
        (["people.csv", "-t", "kind", "--batch-size", "big"], "batch_size must be"),
        (["people.csv", "-t", "kind", "--batch-size", "1000"], "batch_size must lie in 1..180"),
        (["people.csv", "-t", "kind", "--shuffle", "some"], "shuffle must be auto, full"),
        (["people.csv", "-t", "kind", "--patience", "-1"], "patience must be a number >= 0"),
        (["people.csv", "-t", "kind", "--in-memory", "nan"], "in_memory must be a number >= 0"),
        (["people.csv", "-t", "kind", "--validation", "2"], "validation must lie in 0..1"),
        (["people.csv", "-t", "kind", "--class-weight", "big=2"], "class_weight must name classes"),
        (["people.csv", "-t", "kind", "--class-weight", "tall=0"], "class_weight must be numbers"),
        (["people.csv", "-t", "pay", "--class-weight", "balanced"], "class_weight needs classes"),
        (["people.csv", "-t", "kind", "--dropout", "all"], "dropout must be a number"),
        (["people.csv", "-t", "kind", "--dropout", "1"], "dropout must lie in 0..1"),
        (["people.csv", "-t", "kind", "--dtype", "float16"], "dtype must be float32 or float64"),
        (["people.csv", "-t", "kind", "--backend", "abacus"], "backend must be one of"),
        (["people.csv", "-t", "kind", "--executor", "magic"], "executor must be one of auto"),
        (["people.csv", "-t", "kind", "--precision", "tf16"], "precision must be"),
        (["people.csv", "-t", "kind", "--resume"], "resume=True goes on from `checkpoint`"),
        (["people.csv", "-t", "kind", "--every", "5"], "every says how often"),
        (["people.csv", "-t", "kind", "--model", "people.csv"], "model must be another file"),
        (["people.csv", "-t", "kind", "--model", "."], "model must be a file to write"),
        (["people.csv", "-t", "kind", "--separator", "ab"], "separator must be one character"),
        (["people.csv", "-t", "kind", "--seed", "-1"], "seed must be a number >= 0"),
        (["people.csv", "-t", "kind", "--epochs", "0"], "epochs must be a number >= 1"),
    ],
)
def test_bad_arguments_are_one_line(run, csv, arguments, message):
    code, out, err = run("train", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert os.listdir() == ["people.csv"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backend", "abacus"], ["--executor", "magic"], ["--dtype", "float16"],
        ["--threads", "0"], ["--batch-size", "0"], ["--activation", "relu,tanh"],
        ["--init", "zero"], ["--dropout", "2"], ["--optimizer", "best"],
    ],
)  # fmt: skip
def test_what_can_be_refused_at_once_is_refused_before_the_file_is_read(run, csv, arguments):
    """Else the first line of this one would be the error."""
    Path("odd.csv").write_text("a,a\n")
    code, _, err = run("train", "odd.csv", "-t", "a", *arguments)
    assert code == 2
    assert "must" in err
    assert "odd.csv" not in err


def test_divergence_is_one_line(run, csv):
    arguments = "--optimizer", "sgd", "--learning-rate", 1e30, "--in-memory", 0
    code, out, err = run("train", csv, "-t", "pay", *arguments)
    assert (code, out) == (2, "")
    assert "training diverged" in err
    assert "smaller learning_rate" in err
    assert err.count("\n") == 1
    assert os.listdir() == ["people.csv"]


# ---- the texts of options ------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_can_be_had(name):
    assert type(options.optimizer(name, 0.01, None, 5, {})) is OPTIMIZERS[name]
    assert options.optimizer(name, None, None, 5, {}) == OPTIMIZERS[name]()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_be_had(name):
    needs = {"step": ":every=2", "exponential": ":factor=0.9"}.get(name, "")
    made = options.optimizer("adam", 0.01, name + needs, 7, {})
    assert type(made.schedule) is SCHEDULES[name]


def test_settings_of_schedules_and_optimizers():
    made = options.optimizer("adam", 0.01, "cosine:warmup=2", 9, {"beta1": 0.8, "l2": None})
    assert made == Adam(Cosine(0.01, 9, warmup=2), beta1=0.8)
    assert options.optimizer("sgd", 0.1, "one_cycle:epochs=4", 9, {}).learning_rate == OneCycle(
        0.1, 4
    )


def test_class_weights():
    assert options.class_weights(None, ["a", "b"], [1, 3]) is None
    assert options.class_weights("balanced", ["a", "b"], [1, 3]) == [2.0, 2 / 3]
    assert options.class_weights("2=5", [1, 2, 3], [1, 1, 1]) == [1.0, 5.0, 1.0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (7800, "2:10 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# ---- predict -------------------------------------------------------------------------------------


@pytest.fixture
def model(run, csv):
    """A model of three classes, whose names need quotes."""
    arguments = "-t", "colour", "--drop", "kind", *QUICK, "--model", "model.safetensors"
    assert run("train", csv, *arguments)[0] == 0
    return "model.safetensors"


def test_predictions_in_every_form_are_the_same(run, csv, model):
    assert run("predict", model, csv, "-p", "--to", "p.csv") == (0, "", "")
    assert run("predict", model, csv, "-p", "--to", "p.parquet") == (0, "", "")
    assert run("predict", model, csv, "--to", "p.npy") == (0, "", "")
    out = run("predict", model, csv, "-p")[1]
    assert out == Path("p.csv").read_text()
    expected = pd.read_csv("p.csv")
    assert list(expected) == [
        "colour", "probability_blue, dark", "probability_green", "probability_red",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(
        pd.read_parquet("p.parquet"), expected, check_dtype=False, rtol=1e-6
    )
    assert np.load("p.npy").tolist() == expected.colour.tolist()
    rows = [json.loads(line) for line in run("predict", model, csv, "-p", "--json")[1].splitlines()]
    pd.testing.assert_frame_equal(pd.DataFrame(rows), expected, rtol=1e-6)
    assert len(expected) == 200
    assert sorted(os.listdir()) == [
        "model.safetensors",
        "p.csv",
        "p.npy",
        "p.parquet",
        "people.csv",
    ]


def test_booleans_come_back_as_booleans(run, csv):
    frame = people(100)
    frame["tall"] = frame.kind == "tall"
    frame.to_parquet("t.parquet")
    assert run("train", "t.parquet", "-t", "tall", "--drop", "kind", *QUICK)[0] == 0
    assert set(run("predict", "t.safetensors", "t.parquet")[1].split()) <= {"tall", "True", "False"}
    assert run("predict", "t.safetensors", "t.parquet", "--to", "o.parquet")[0] == 0
    assert pd.read_parquet("o.parquet").tall.dtype == bool


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors", "people.csv"], "MODEL must be a file that exists"),
        (["people.csv", "people.csv"], "people.csv"),
        (["model.safetensors", "none.csv"], "DATA must be a file that exists"),
        (["model.safetensors", "people.csv", "--to", "p.xlsx"], "to must end in one of .csv"),
        (["model.safetensors", "people.csv", "--to", "p.csv", "--json"], "json is for standard"),
        (["model.safetensors", "people.csv", "--unknown", "guess"], "unknown must be error"),
        (["model.safetensors", "people.csv", "--to", "people.csv/p.csv"], "to must be in a folder"),
        (["model.safetensors"], "Missing argument"),
    ],
)
def test_bad_arguments_of_predict(run, model, arguments, message):
    code, out, err = run("predict", *arguments)
    assert (code, out) == (2, "")
    assert message.lower() in err.lower()
    assert err.count("\n") == 1


def test_a_bad_row_leaves_no_file(run, model):
    frame = people(200)
    frame["floor"] = frame.floor.astype(object)
    frame.loc[150, "floor"] = "attic"
    frame.to_csv("other.csv", index=False)
    code, _, err = run("predict", model, "other.csv", "--to", "p.csv")
    assert code == 2
    assert "column 'floor' of other.csv must hold numbers, got 'attic'" in err
    assert not os.path.exists("p.csv")
    assert not [name for name in os.listdir() if name.startswith("p.csv")]


def test_probabilities_of_a_quantity(run, csv):
    assert run("train", csv, "-t", "pay", *QUICK)[0] == 0
    code, _, err = run("predict", "people.safetensors", csv, "-p")
    assert code == 2
    assert "probabilities need classes" in err


def test_what_cupy_trains_numpy_uses(run, csv):
    require("cupy")
    arguments = "-t", "kind", *QUICK, "--batch-size", 16, "--validation", 0
    code, out, err = run("train", csv, *arguments, "--backend", "cupy")
    assert (code, err) == (0, "")
    assert "(cupy, " in out
    there = run("predict", "people.safetensors", csv, "-p", "--backend", "cupy", "--to", "a.csv")
    assert there == (0, "", "")
    assert run("predict", "people.safetensors", csv, "-p", "--to", "b.csv") == (0, "", "")
    one, other = pd.read_csv("a.csv"), pd.read_csv("b.csv")
    np.testing.assert_allclose(one.probability_tall, other.probability_tall, rtol=1e-4)


# ---- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "predict", "trace", "bench", "warm"])
def test_help_has_examples(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"$ gpubackprop {command}" in out
