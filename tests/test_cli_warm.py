"""``gpubackprop warm``."""

import json

import pytest

import gpubackprop as gb
from gpubackprop.cli import main
from gpubackprop.executors import Job, compiled
from gpubackprop.executors.compiled import formulas, outer_step, plans

pytest.importorskip("typer")
pytest.importorskip("numba")


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Compile one program alone, into a folder of its own."""
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path))
    everything = compiled.warm

    def first():
        yield next(everything())

    monkeypatch.setattr(compiled, "warm", first)
    return tmp_path


def test_warm_fills_the_cache(run, quick):
    code, out, err = run("warm")
    assert (code, err) == (0, "")
    assert out.startswith("1 program ready in ")
    assert str(quick) in out
    found = json.loads(run("warm", "--json")[1])
    assert found["folder"] == str(quick)
    assert len(found["programs"]) == 1
    assert found["seconds"] > 0


def test_everything_that_is_made_for_a_job_of_the_table(monkeypatch):
    """What updates by one sample with momentum or Adam run is compiled too."""
    texts = set()
    monkeypatch.setattr(compiled.cache, "load", texts.add)
    monkeypatch.setattr(compiled, "LoadedLoop", lambda dtype, name: None)
    assert "float32 one sample Adam" in list(compiled.warm())
    for optimizer in (gb.SGD(0.5, momentum=0.3), gb.Adam(), gb.AdamW()):
        net = gb.Network([30, 20, 3], "tanh", backend="numpy")
        job = Job(net.model, net.backend, optimizer, 1, False, 0)
        assert plans.steps_outer(job, masked=False)
        assert outer_step.write_outer_step(net.model.dtype, optimizer)[0] in texts
        assert formulas.write_formulas(net.model, optimizer).text in texts


def test_warm_says_why_it_cannot(monkeypatch, capsys):
    monkeypatch.setattr(compiled, "problem", lambda: "Numba is not installed")
    with pytest.raises(SystemExit) as ended:
        main(["warm"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "Numba is not installed" in err
    assert err.count("\n") == 1


def test_a_mistake_of_ours_is_one_line_too(monkeypatch, capsys):
    def broken():
        raise KeyError("x")

    monkeypatch.setattr(compiled, "warm", broken)
    monkeypatch.setattr(compiled, "problem", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main(["warm"])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert "a mistake in gpubackprop: KeyError: 'x'; please report it" in err
    assert err.count("\n") == 1
