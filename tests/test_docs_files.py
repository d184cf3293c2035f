"""docs/files.md: its code runs, from top to bottom."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "files.md"


def test_code_runs_and_prints_what_its_comments_say(tmp_path, monkeypatch, capsys):
    for package in ("onnx", "onnxruntime", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) > 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "files.md", "exec"), names)
    printed = capsys.readouterr().out
    promised = re.findall(r"print\(.*\)  # (.*)", text)
    assert promised
    for comment in promised:
        for part in comment.split("..."):
            assert part.strip() in printed
