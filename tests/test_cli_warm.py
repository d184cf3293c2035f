"""``gpubackprop warm``."""

import json

import pytest

from gpubackprop.cli import main
from gpubackprop.executors import compiled

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
