"""A process whose time of day jumps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from escalade.tiers.testing.chaos.clock import YEAR_S, WrongClock

TELL = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"


def test_only_the_time_of_day_jumps(tmp_path: Path) -> None:
    """A year ahead and back while the process runs; the monotonic clock goes on as before."""
    clock = WrongClock(tmp_path)
    if clock.missing:
        pytest.skip(clock.missing)
    command = [sys.executable, "-c", TELL]
    environment = {**os.environ, **clock.environment}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        told = []
        for wrong_by in (0, YEAR_S, 0):
            clock.set(wrong_by)
            process.stdin.write("\n")
            process.stdin.flush()
            told.append([float(value) for value in process.stdout.readline().split()])
        process.stdin.close()
    (wall, monotonic), (jumped, later), (back, last) = told
    assert jumped - wall >= YEAR_S
    assert back < jumped
    assert monotonic <= later <= last < monotonic + YEAR_S
