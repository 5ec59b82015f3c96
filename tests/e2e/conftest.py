from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one real run of `escalade demo` wrote; stdout.txt and stderr.txt beside it are what it printed."""
    base = tmp_path_factory.mktemp("demo")
    with (base / "stdout.txt").open("w") as out, (base / "stderr.txt").open("w") as err:
        command = [sys.executable, "-u", "-m", "escalade.cli.main", "demo", "--out", str(base / "out")]
        ran = subprocess.run(command, stdout=out, stderr=err, timeout=150, check=False)
    assert ran.returncode == 0, (base / "stderr.txt").read_text() + (base / "stdout.txt").read_text()
    return base / "out"
