"""Every example in a docstring, and in a folder's README, prints what stands below it."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

PACKAGES = ["escalade.policies", "escalade.tiers.testing.chaos"]
READMES = ["policies/README.md"]

ROOT = Path(__file__).parents[2]


def modules() -> list[str]:
    names: list[str] = []
    for package in PACKAGES:
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, prefix=f"{package}.")
        names += [package, *(module.name for module in found)]
    return names


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_print_what_they_say(name: str) -> None:
    """Every example in the module's docstrings prints what stands below it."""
    result = doctest.testmod(importlib.import_module(name), report=True)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples failed, see the output above"


@pytest.mark.parametrize("name", READMES)
def test_examples_in_readmes_print_what_they_say(name: str) -> None:
    """Every ``>>>`` example in the README prints what stands below it."""
    text = re.sub(r"^```.*$", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert test.examples, f"{name} has no examples: take it off the list"
    assert doctest.DocTestRunner().run(test).failed == 0
