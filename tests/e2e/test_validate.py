"""`escalade simulate validate`, for real but short: tiers as processes, links between them, files, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from escalade.cli.main import main

pytestmark = pytest.mark.timeout(180)

COMMAND = [sys.executable, "-u", "-m", "escalade.cli.main", "simulate", "validate"]
FAST = ["--once", "--seconds", "1", "--rate-hz", "40", "--model-ms", "1,1,1", "--delay-ms", "1,2"]


def left_running(folder: Path) -> list[str]:
    """Return the command lines of living processes that name the folder."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to see what is left running")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue  # it has just ended
        if str(folder).encode() in line:
            found.append(line.decode(errors="replace").replace("\0", " "))
    return found


def test_real_tiers_are_run_and_compared(tmp_path: Path) -> None:
    """With a policy of one's own: what is printed is what is written, and the exit code is the verdict."""
    (tmp_path / "mine.py").write_text("from escalade.policies import Threshold\n\n\nclass Mine(Threshold):\n    pass\n")
    (tmp_path / "own.yaml").write_text('- {name: "mine:Mine", threshold: 0.5}\n- {name: AlwaysAccept}\n')
    out = tmp_path / "out"
    options = [*FAST, "--cases", "own", "--policy", str(tmp_path / "own.yaml"), "--out", str(out)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=160, check=False, env=environment
    )
    found = json.loads((out / "validation.json").read_text())
    assert done.returncode == (0 if found["met"] else 1), done.stderr
    assert done.stderr == ""
    own = {row["what"]: row for row in found["rows"]}
    assert own["share edge_server"]["measured"] == own["share edge_server"]["predicted"] == 0.0
    assert own["share endpoint"]["predicted"] > 0.8
    assert own["p50 ms endpoint"]["measured"] > 1.0
    assert found["tables"]["round_trip_ms"]["uplink"]["ms"][0] > 4.0
    assert "load average" in found["others"]
    assert "own (Mine, AlwaysAccept): 80 inputs" in done.stdout
    assert "| own (Mine, AlwaysAccept) | 80 | share endpoint |" in (out / "validation.md").read_text()
    assert (out / "validation.html").read_text().startswith("<!doctype html>")
    assert left_running(tmp_path) == []


def test_control_c_leaves_no_process(tmp_path: Path) -> None:
    """While the tiers run; it ends with 130, and what it wrote for itself is gone."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*COMMAND, "--seconds", "60"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert "measuring" in process.stdout.readline()
        while len(left_running(tmp_path)) < 2:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert left_running(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cases", "nothing"], "--cases: there is no 'nothing'; there are thresholds, lower,"),
        (["--model-ms", "1,2"], "--model-ms: give 3 numbers"),
        (["--delay-ms", "1"], "--delay-ms: give 2 numbers"),
        (["--policy", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--policy", "wrong.yaml"], "wrong.yaml: policy.name:"),
        (["--policy", "three.yaml"], "three.yaml: lists 3 policies; give two"),
        (["--out", "file"], "--out file: "),
    ],
)
def test_what_cannot_work_is_one_line(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any model is trained or process started; exit code 2."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text("name: Thresold\n")
    Path("three.yaml").write_text("[{name: AlwaysAccept}, {name: AlwaysAccept}, {name: AlwaysAccept}]\n")
    Path("file").write_text("")
    assert main(["simulate", "validate", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert said in err
