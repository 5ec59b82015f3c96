"""What a run found, as it is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[4]))  # the benchmarks are not installed

from benchmarks.outages import rows

from escalade.tiers.testing.chaos.history import History
from escalade.tiers.testing.chaos.page import write
from escalade.tiers.testing.chaos.report import text
from escalade.tiers.testing.chaos.rules import Violation
from escalade.tiers.testing.chaos.run import Outcome

from .histories import RULES, good


@pytest.fixture
def outcome() -> Outcome:
    violations = [Violation("lost", "item '<7>' is gone", ("r7",))]
    mutations = {"breaker": True, "dedup": False}
    return Outcome(3, RULES, good(), violations, {"power_cut": "needs root"}, {"traffic": 20.0}, mutations)


def test_the_table_has_a_line_for_each_fault_and_each_violation(outcome: Outcome) -> None:
    """And says what the bound is made of, what was left out, and what the checker did not see."""
    shown = text(outcome)
    line = "5.0 freeze edge_server 5.0 50 50 50 10 400 400 0.51 s 1.05 s"
    assert [" ".join(shown_line.split()) for shown_line in shown.splitlines()][1] == line
    assert "bound: 501 ms = 1 local model + 400 configured budget + 100 for scheduling" in shown
    assert "seed 3: 200 requests, 200 accepted, 1 faults" in shown
    assert "violations: 1 (1 lost)" in shown
    assert "VIOLATION lost: item '<7>' is gone r7" in shown
    assert "left out: power_cut: needs root" in shown
    assert "breaker (noticed), dedup (NOT NOTICED)" in shown


def test_the_files_say_the_same(outcome: Outcome, tmp_path: Path) -> None:
    """JSON for programs, a page that loads nothing, and the history itself."""
    write(outcome, tmp_path)
    report = json.loads((tmp_path / "chaos.json").read_text())
    assert report["requests"] == 200
    assert report["violations"] == [{"kind": "lost", "text": "item '<7>' is gone", "requests": ["r7"]}]
    (fault,) = report["faults"]
    assert (fault["kind"], fault["max_ms"], fault["recovered_s"]) == ("freeze", 400.0, 1.05)
    assert report["mutations"] == {"breaker": True, "dedup": False}
    page = (tmp_path / "chaos.html").read_text()
    assert "item &#x27;&lt;7&gt;&#x27; is gone" in page
    assert History.read(tmp_path / "history.jsonl") == outcome.history


def test_the_benchmark_holds_each_fault_against_the_bound(outcome: Outcome) -> None:
    """One row a fault, its slowest answer against the bound."""
    (row,) = rows(outcome)
    assert (row.what, row.limit, row.passed) == ("freeze edge_server", 501.0, True)
    assert row.value == pytest.approx(400.0)
    assert "50 of 50 degraded; noticed after 0.51 s; back after 1.05 s" in row.detail
