"""`escalade demo multi-view`, for real: five processes, 600 digits, a camera that freezes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """One run: its summary, what it printed, its folder."""
    out = tmp_path_factory.mktemp("multi-view")
    command = [sys.executable, "-u", "-m", "escalade.cli.main", "demo", "multi-view", "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return json.loads((out / "summary.json").read_text()), ran.stdout, out


def test_the_default_rule_outlives_the_best_view(run: tuple[dict[str, Any], str, Path]) -> None:
    """Better than any single view while all are well, and hardly worse when the best one has frozen."""
    accuracy = run[0]["accuracy"]
    best, default, mean = accuracy["best single view"], accuracy["default rule"], accuracy["mean"]
    assert default["healthy"] > best["healthy"] + 0.03
    assert best["one_stuck"] < 0.3
    assert default["one_stuck"] > best["healthy"]
    assert default["one_stuck"] >= mean["one_stuck"]


def test_the_broken_camera_is_named(run: tuple[dict[str, Any], str, Path]) -> None:
    """With its reason, in the table and in the summary; it was left out within a few dozen digits."""
    summary, printed, out = run
    assert summary["broken_nodes"] == {"cam-left": "stuck"}
    assert summary["events_until_left_out"] <= 60
    assert "cam-left     reliability" in printed
    assert "stuck: says" in printed
    assert (out / "multi-view.png").stat().st_size > 10_000


def test_nothing_is_left_running(run: tuple[dict[str, Any], str, Path]) -> None:
    """No process names the run's folder when the command has ended."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to see what is left running")
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(run[2]).encode() not in file.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
