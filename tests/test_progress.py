"""The line of progress: on a terminal, and nowhere else."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop import progress
from gpubackprop.history import History

X, LABELS = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(**options):
    net = gb.Network([3, 4, 2], backend="numpy", rng=0)
    return net.fit(X, LABELS, epochs=3, **options)


def run_at(epoch=0, rows=0, epochs=4, n=100, losses=(), validation=(), stopping=None):
    history = History(
        epoch=list(range(len(losses))),
        loss=list(losses),
        validation_loss=list(validation),
        samples=[n * (i + 1) if n else 500 for i in range(len(losses))],
    )
    return SimpleNamespace(
        history=history, epoch=epoch, epochs=epochs, rows_done=rows, n_samples=n, stopping=stopping
    )


@pytest.mark.parametrize(
    ("run", "seconds", "words"),
    [
        (run_at(), 0.0, ["[" + " " * 24 + "] epoch 1/4"]),
        (run_at(rows=50), 1.0, ["[===" + " " * 21 + "] epoch 1/4", "50 samples/s", "7 s left"]),
        (
            run_at(1, 100, losses=[0.5, 0.25]),
            2.0,
            ["[" + "=" * 12 + " " * 12 + "] epoch 2/4", "loss 0.25", "100 samples/s", "2 s left"],
        ),
        (
            run_at(1, 50, losses=[0.5]),
            3.0,
            ["[" + "=" * 9, "epoch 2/4", "loss 0.5", "50 samples/s"],
        ),
        (
            run_at(3, 100, losses=[4, 3, 2, 1.23456], validation=[1, 2, 3, 4.56789]),
            4.0,
            ["[" + "=" * 24 + "] epoch 4/4", "loss 1.235", "validation 4.568", "100 samples/s"],
        ),
        (
            run_at(1, 20, n=None, losses=[2]),
            1.0,
            ["[" + "=" * 6 + " " * 18 + "] epoch 2/4", "500 samples/s"],
        ),
    ],
)
def test_the_line(run, seconds, words):
    line = progress.line(run, seconds)
    places = [line.index(word) for word in words]
    assert places == sorted(places)
    assert "\n" not in line
    assert len(line) < 120


def test_the_line_of_a_resumed_run():
    """What the run had done before says nothing about how fast it is now."""
    run = run_at(2, 50, losses=[2, 1])
    shown = progress.line(run, 5.0, 0.5, 200)
    assert "10 samples/s" in shown
    assert "15 s left" in shown
    assert "left" not in progress.line(run, 5.0, 0.625, 250)


def test_no_time_is_left_at_the_end_or_after_a_stop():
    assert "left" not in progress.line(run_at(3, 100, losses=[1] * 4), 1.0)
    assert "left" not in progress.line(run_at(1, 100, losses=[1] * 2, stopping="callback"), 1.0)


def test_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    fit()
    text = terminal.getvalue()
    shown = text.split("\r\x1b[2K")
    assert shown[0] == ""
    assert len(shown) > 3
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert re.match(r"\[=+\] epoch 3/3  loss \S+  \S+ samples/s\n$", shown[-1])


def test_not_more_often_than_it_can_be_read(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_EVERY", 1e9)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: 5.0)
    fit()
    assert terminal.getvalue().count("\r") == 1


@pytest.mark.parametrize("options", [{"progress": False}, {}])
def test_silence(options, monkeypatch, capsys):
    stream = Terminal() if options else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    fit(**options)
    assert stream.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_without_a_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert len(fit().epoch) == 3


def test_the_line_stands_after_an_interruption(monkeypatch):
    class Interrupt:
        def on_epoch_end(self, run):
            raise KeyboardInterrupt

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[Interrupt()])
    assert terminal.getvalue().endswith("\n")
    assert "epoch 1/3" in terminal.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
def test_on_a_real_terminal():
    import pty

    code = """
import numpy as np, gpubackprop as gb
X = np.zeros((40, 3)); print("out")
gb.Network([3, 2], backend="numpy", rng=0).fit(X, np.arange(40) % 2, epochs=3)
"""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(Path(gb.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=theirs, timeout=60
    )
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert (done.returncode, done.stdout.strip()) == (0, b"out")
    assert "epoch 3/3" in text
    assert "samples/s" in text


def test_compiling_is_said_where_it_takes_long(monkeypatch):
    for terminal, seconds, said in ((True, 9.4, True), (True, 0.0, False), (False, 9.4, False)):
        shown = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", shown)
        progress.ProgressLine().compiling(lambda seconds=seconds: seconds)
        assert ("about 9 s" in shown.getvalue()) == said
        assert bool(shown.getvalue()) == said


def test_fit_says_that_it_compiles(monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setattr(gb.network, "compile_seconds", lambda executor, job: 7.0)
    net = gb.Network([2, 2, 2], backend="numpy", rng=0)
    net.fit(np.ones((4, 2)), np.array([0, 1, 0, 1]), epochs=1)
    assert shown.getvalue().index("compiling") < shown.getvalue().index("epoch 1/1")
