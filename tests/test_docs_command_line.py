"""docs/command-line.md: its commands print what stands below them, its code runs."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"

for package in ("typer", "pandas", "pyarrow", "sklearn"):
    pytest.importorskip(package)


def shape(text: str) -> list[list[str]]:
    """Return a text's words without numbers, which depend on the machine, and its lines' order."""
    text = re.sub(r"\b(eager|compiled)\b", "executor", text)
    text = re.sub(r"stopped, as 10 brought no better loss; ", "", text)
    words = [re.sub(r"-?\d[\d.,e%-]*", "#", line).split() for line in text.splitlines()]
    return [[word for word in line if not set(word) <= {"─", "s"}] for line in words]


def test_commands_print_what_stands_below_them(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = 0
    names: dict[str, object] = {}
    for kind, block in re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text("utf-8"), re.S):
        if kind == "python":
            exec(compile(block, "command-line.md", "exec"), names)
            capsys.readouterr()
            continue
        for part in block.split("$ gpubackprop ")[1:]:
            command, _, expected = part.partition("\n")
            code, out, err = run(*shlex.split(command))
            assert code == (2 if expected.startswith("gpubackprop: ") else 0), command
            assert shape(out + err) == shape(expected), command
            done += 1
    assert done == 9
