"""`escalade status` and `escalade outbox drain`, as an operator types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from escalade.cli.main import main
from escalade.tiers.client import Client
from escalade.tiers.testing.processes import TierProcess

SURE = np.array([[9, 0, 0, 0]], np.float32)


def escalade(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "escalade.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.asyncio
async def test_an_outage_shows_in_the_status_and_ends_with_a_drain(tmp_path: Path, models: Path) -> None:
    """Refused link, waiting items; the endpoint stops, and its outbox is sent without it, and nothing but that."""
    server = TierProcess({"tier": "edge_server", "model": {"file": str(models / "sure.onnx"), "name": "m"}}, tmp_path)
    config = {
        "tier": "endpoint",
        "device": "cam-1",
        "model": {"file": str(models / "unsure.onnx"), "name": "m"},
        "policy": {"name": "AlwaysEscalate"},
        "outbox": {"file": str(tmp_path / "outbox.db")},
    }
    with server:
        address = server.address
        server.kill()
        link = {"upstream": {"address": address, "timeout_ms": 200, "probe_ms": 100}}
        with TierProcess({**config, **link}, tmp_path) as endpoint:
            async with Client(endpoint.address) as client:
                answer = await client.infer(SURE, model="m")
            assert answer.kept
            shown = escalade("status", endpoint.address)
            assert shown.returncode == 0, shown.stderr
            assert f"endpoint cam-1 at {endpoint.address}: serving" in shown.stdout
            assert re.search(r"refused .* unavailable, [\d.]+ s ago$", shown.stdout, re.M)
            assert "waits     1 items (1 normal)" in shown.stdout
            told = json.loads(escalade("status", "--json", endpoint.address).stdout)
            assert told["links"][0]["state"] == "refused"
            assert told["outbox"]["depth"]["normal"] == 1
            file = tmp_path / "tier.yaml"
            telemetry = {"file": str(tmp_path / "outbox.db"), "telemetry_s": 0.001, "results": True}
            file.write_text(yaml.safe_dump({**config, **link, "outbox": telemetry}))
            busy = escalade("outbox", "drain", str(file))
            assert busy.returncode == 2
            assert "has it open" in busy.stderr
        server.start()
        drained = escalade("outbox", "drain", str(file))
        assert (drained.returncode, drained.stdout) == (0, "1 items delivered, 0 given up, 0 left\n")


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    """Exit code 1, the address, and what is wrong."""
    shown = escalade("status", "127.0.0.1:1")
    assert shown.returncode == 1
    assert shown.stderr.startswith("escalade: 127.0.0.1:1: ")
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "often"])
def test_a_pause_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked."""
    with pytest.raises(SystemExit):
        main(["status", "127.0.0.1:1", "--watch", "--every", seconds])
    assert "is not a number above 0" in capsys.readouterr().err


def test_errors_are_no_lines_of_json(tmp_path: Path) -> None:
    """With `--json --watch` whoever parses standard output finds JSON alone."""
    command = [sys.executable, "-m", "escalade.cli.main", "status", "127.0.0.1:1", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline().startswith("escalade: 127.0.0.1:1: ")
        process.terminate()
        assert process.stdout.read() == ""
