"""What docs/security.md tells an operator to type works, in order, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from escalade.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "security.md"
OVER_THE_NETWORK = (["pki", "serve"], ["enroll", "--token"])
"""Typed at two machines at once: `test_pki` does that."""
NOTE = 'escalade() { printf "%q " "$@" >> typed; echo >> typed; }\n'


def test_every_command_of_the_security_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the files that the page names, for their owner alone where they are secret.

    A shell runs each block, and notes what it calls `escalade` with; that is then run in this process.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("GRPC_VERBOSITY", "GRPC_EXPERIMENTS"):  # the command sets them
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        Path("typed").write_text("")
        subprocess.run(["bash", "-euo", "pipefail", "-c", NOTE + block], check=True, timeout=20)
        for words in map(shlex.split, Path("typed").read_text().splitlines()):
            assert words[:2] in OVER_THE_NETWORK or main(words) == 0, words
    assert Path("tls/denied.txt").read_text() == Path("pki/denied.txt").read_text()
    assert {str(file): file.stat().st_mode & 0o777 for file in Path().glob("*.token")} == dict.fromkeys(
        ("camera-2.token", "gateway-1.token", "gateway-2.token"), 0o600
    )
