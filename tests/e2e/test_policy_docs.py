"""The pages about policies and simulation tell the truth: commands run in order, their files are what they read.

A block in a page whose first line is a comment with a file's name is written to that file. Other ``python`` blocks
are run (as doctests where they have prompts), ``sh`` blocks too, each page in a folder of its own.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POLICY_PAGES = sorted((ROOT / "docs" / "policies").glob("*.md"))
PAGES = [*POLICY_PAGES, ROOT / "docs" / "simulation.md"]
BIN = Path(sys.executable).parent

Block = tuple[str, str]


def blocks(page: Path) -> list[Block]:
    """Return language and text of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S)


def named_file(text: str) -> str | None:
    """Return the name that a block's first line gives it."""
    found = re.match(r"# ([\w-]+\.(?:py|ya?ml|json|csv))\n", text)
    return found[1] if found else None


def run(words: list[str], folder: Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        words, cwd=folder, env=environment, input=given, capture_output=True, text=True, check=False, timeout=110
    )


def make_trace(folder: Path) -> None:
    """Make the trace that pages use which do not make their own."""
    (text,) = [text for _, text in blocks(ROOT / "docs/policies/evaluation.md") if named_file(text) == "make_trace.py"]
    ran = run([sys.executable, "-c", text], folder)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_in_order(page: Path, tmp_path: Path) -> None:
    """Files are written, commands and scripts succeed, doctests print what stands below them."""
    if page.name != "evaluation.md" and "trace.npz" in page.read_text():
        make_trace(tmp_path)
    examples: list[str] = []
    for language, text in blocks(page):
        name = named_file(text)
        if name:
            (tmp_path / name).write_text(text)
        elif language == "sh":
            ran = run(["bash", "-euo", "pipefail", "-s"], tmp_path, text)
            assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
        elif language == "python" and ">>>" in text:
            examples.append(text)
        elif language == "python":
            ran = run([sys.executable, "-c", text], tmp_path)
            assert ran.returncode == 0, f"{text}\n{ran.stderr}"
    if examples:
        test = doctest.DocTestParser().get_doctest("\n".join(examples), {}, page.name, str(page), 0)
        report: list[str] = []
        assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)


def test_the_index_has_a_paragraph_for_every_page() -> None:
    """And every page is linked from it."""
    index = (ROOT / "docs" / "policies" / "README.md").read_text()
    for page in POLICY_PAGES:
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_a_page_that_is_wrong_is_found(tmp_path: Path) -> None:
    """A command that fails in a block fails the page: pipes and earlier lines count."""
    assert run(["bash", "-euo", "pipefail", "-s"], tmp_path, "false\ntrue\n").returncode != 0
    assert run(["bash", "-euo", "pipefail", "-s"], tmp_path, "false | cat\n").returncode != 0
