"""A user's own module written for one test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest

WriteModule = Callable[[str], str]
_numbers = count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write the text as an importable module and return its name."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(text: str) -> str:
        names.append(f"users_module_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(dedent(text))
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)
