"""The chaos suite in its short form, and whether its checker would notice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from escalade.tiers.testing.chaos.checker import check
from escalade.tiers.testing.chaos.history import History
from escalade.tiers.testing.chaos.mutations import MUTATIONS, noticed
from escalade.tiers.testing.chaos.rules import TIMED, Rules
from escalade.tiers.testing.chaos.run import SHORT
from escalade.tiers.testing.chaos.world import World

pytestmark = pytest.mark.alone


def test_tiers_that_are_killed_frozen_and_cut_off_keep_every_promise(tmp_path: Path) -> None:
    """Every input is answered, everything kept is corrected once and rightly; the report says so, and how it knows.

    How fast is for `make chaos` to judge, on a machine that is not running other tests.
    """
    command = [sys.executable, "-m", "escalade.tiers.testing.chaos", "--short", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr

    report = json.loads((tmp_path / "chaos.json").read_text())
    assert {violation["kind"] for violation in report["violations"]} <= TIMED, ran.stdout
    assert report["requests"] > report["accepted"] > 0
    assert report["corrections"] >= report["kept"] > 0
    assert {(fault["kind"], fault["target"]) for fault in report["faults"]} >= set(SHORT)
    page = (tmp_path / "chaos.html").read_text()
    assert "freeze" in page
    assert "src=" not in page

    history = History.read(tmp_path / "history.jsonl")
    world = World(report["seed"], tmp_path)
    rules = Rules(world.posterior, local_s=0.0, budget_s=report["bound_ms"] / 1e3)
    assert {violation.kind for violation in check(history, rules)} <= TIMED  # by anyone, from the files
    lost = next(answer for answer in history.answers if answer.kept)
    history.corrections = [one for one in history.corrections if one.item != lost.kept]
    assert {violation.kind for violation in check(history, rules)} - TIMED == {"lost", "stream"}


def test_the_checker_notices_what_is_switched_off() -> None:
    """The breaker, the sync before an acknowledgement, the recognition of repeats: each is missed when it is gone."""
    assert asyncio.run(noticed()) == dict.fromkeys(MUTATIONS, True)
