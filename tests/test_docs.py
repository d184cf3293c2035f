"""The documentation: its code runs, its pages are in the navigation, its links lead somewhere."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: STYLE.md sets rules beside their breaches, in pieces. tests/test_docs_files.py runs files.md.
NOT_RUN = {"STYLE.md", "files.md"}
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
#: What a fenced block may be: code that runs here, a terminal's commands, or what is printed.
KINDS = {"python", "console", "text", "json"}


def blocks(page):
    """Return (kind, text) of each fenced block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.S | re.M)


def code(page):
    return [text for kind, text in blocks(page) if kind == "python"]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN and code(page)])
def test_code_runs(page, tmp_path, monkeypatch):
    """From top to bottom, in a folder of its own."""
    for package in ("sklearn", "matplotlib", "jinja2", "onnx", "onnxruntime"):
        if re.search(rf"\b{package}\b|plotting|to_html", "".join(code(page))):
            pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, text in enumerate(code(page), start=1):
        exec(compile(text, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    assert {kind for kind, _ in blocks(page)} <= KINDS


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"[\w/-]+\.md", text)) == set(PAGES)


def test_links_lead_somewhere():
    worked = set(re.findall(r"^    \"(\w+)\": \(", (DOCS / "hooks.py").read_text(), re.M))
    made = {f"worked/{name}.html" for name in (*worked, "digits")}
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            there = ((DOCS / page).parent / target).resolve()
            assert there.exists() or target in made, f"{page}: {target}"


def test_references_lead_somewhere():
    """``[`text`][gpubackprop.x.y]`` names something that there is."""
    import gpubackprop

    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for name in re.findall(r"\]\[(gpubackprop[\w.]*)\]|^::: ([\w.]+)$", text, re.M):
            name = "".join(name)
            parts, found = name.split(".")[1:], gpubackprop
            for k, part in enumerate(parts):
                if not hasattr(found, part):
                    importlib.import_module("gpubackprop." + ".".join(parts[: k + 1]))
                found = getattr(found, part)


def test_parts_of_the_readme_are_there():
    """``--8<-- "README.md:name"`` takes in what stands between two marks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [
        name
        for page in PAGES
        for name in re.findall(r'^--8<-- "README.md:(\w+)"$', (DOCS / page).read_text(), re.M)
    ]
    assert names
    for name in names:
        (part,) = re.findall(
            rf"<!-- --8<-- \[start:{name}\] -->\n(.*?)<!-- --8<-- \[end:{name}\] -->", readme, re.S
        )
        assert part.strip()


def test_pictures_are_small():
    for path in DOCS.rglob("*.png"):
        assert path.stat().st_size < 200_000, path


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs (extra docs) is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings (extra docs) is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\"> ]+)", text
        )
        assert [url for url in loaded if "gpubackprop" not in url] == []
    assert (tmp_path / "site" / "worked" / "mazur.html").exists()
