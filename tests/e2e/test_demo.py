"""`escalade demo`, for real: seven processes, 600 digits, three strategies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.policies import Threshold
from escalade.simulations.replay import Recording, replay
from escalade.tiers.config_file import load_config

pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]

TIERS = ("endpoint", "edge_node", "edge_server")
NAMES = ["edge-node-0", "edge-node-1", "edge-server", "endpoint-0", "endpoint-1", "endpoint-2", "endpoint-3"]


def start_demo(out: Path) -> subprocess.Popen[str]:
    """Start the command as a user would, its output piped."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "escalade.cli.main", "demo", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(out: Path) -> list[int]:
    """Return the ids of all living processes whose command line names the folder."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to see what is left running")
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in cmdline.read_bytes():
                found.append(int(cmdline.parent.name))
        except OSError:  # it ended while we looked
            continue
    return found


class Run:
    """One finished run: its folder, what it printed, its summary."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.stdout = (out.parent / "stdout.txt").read_text()
        self.stderr = (out.parent / "stderr.txt").read_text()
        self.summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
        self.strategies: dict[str, dict[str, Any]] = self.summary["strategies"]


@pytest.fixture(scope="module")
def run(demo_folder: Path) -> Run:
    """The one run that all tests look at."""
    return Run(demo_folder)


def test_the_cascade_is_nearly_as_accurate_as_the_edge_server(run: Run) -> None:
    """Far above the endpoint alone, at most two points below asking the edge server always."""
    accuracy = {name: strategy["accuracy"] for name, strategy in run.strategies.items()}
    assert set(accuracy) == {"cascade", "always_endpoint", "always_edge_server"}
    assert accuracy["cascade"] >= accuracy["always_endpoint"] + 0.05
    assert accuracy["cascade"] >= accuracy["always_edge_server"] - 0.02
    assert accuracy["always_endpoint"] == pytest.approx(0.84, abs=0.03)
    assert accuracy["always_edge_server"] == pytest.approx(0.98, abs=0.015)


def test_the_cascade_sends_far_fewer_bytes(run: Run) -> None:
    """The endpoint alone sends nothing; the server gets every digit's 64 bytes and their envelope."""
    sent = {name: strategy["bytes_up"] for name, strategy in run.strategies.items()}
    assert sent["always_endpoint"] == 0
    assert sent["always_edge_server"] > 600 * 64
    assert 0 < sent["cascade"] < 0.8 * sent["always_edge_server"]


def test_every_tier_answers_its_share(run: Run) -> None:
    """Shares add up to one; in the cascade all three tiers answer, in the others the one that is named."""
    for strategy in run.strategies.values():
        assert strategy["requests"] == 600
        assert sum(strategy["share"].values()) == pytest.approx(1.0)
        overall = sum(strategy["share"][tier] * a for tier, a in strategy["accuracy_by_tier"].items())
        assert overall == pytest.approx(strategy["accuracy"])
    assert all(share > 0 for share in run.strategies["cascade"]["share"].values())
    assert run.strategies["always_endpoint"]["share"]["endpoint"] == 1.0
    assert run.strategies["always_edge_server"]["share"]["edge_server"] == 1.0


def test_latencies_are_told_for_each_tier(run: Run) -> None:
    """p50 is at most p99, and an answer from further up takes longer."""
    latency = run.strategies["cascade"]["latency_ms"]
    assert all(0 < latency[tier]["p50"] <= latency[tier]["p99"] for tier in TIERS)
    assert latency["endpoint"]["p50"] < min(latency["edge_node"]["p50"], latency["edge_server"]["p50"])


def test_replay_of_the_recording_is_what_the_processes_did(run: Run) -> None:
    """Same policies, same inputs, same decisions: every digit ends at the same tier with the same class."""
    data = np.load(run.out / "recorded.npz")
    recording = Recording(tuple(data["tiers"]), tuple(data["posteriors"]), data["labels"], tuple(data["hop_bytes"]))
    policies = [
        Threshold(load_config(run.out / f"{name}.yaml", environment={}).policy["threshold"])
        for name in ("endpoint-0", "edge-node-0")
    ]
    result = replay(recording, policies)
    assert [TIERS[tier] for tier in result.tier] == data["measured_tier"].tolist()
    assert result.label.tolist() == data["measured_label"].tolist()
    assert result.bytes_up.sum() == pytest.approx(run.strategies["cascade"]["bytes_up"], rel=1e-6)


def test_seven_processes_ran_and_none_is_left(run: Run) -> None:
    """Each has its YAML and its log; when the demo has returned, all of them have ended."""
    assert run.summary["processes"] == 7
    assert sorted(file.stem for file in run.out.glob("*.yaml")) == NAMES
    assert sorted(file.stem for file in (run.out / "logs").glob("*.log")) == NAMES
    assert processes_of(run.out) == []


def test_the_run_is_told_in_plain_text(run: Run) -> None:
    """Without a terminal: no control codes, a table with all strategies, nothing on standard error."""
    assert run.stderr == ""
    assert re.fullmatch(r"[\n -~]*", run.stdout)
    for name in ("cascade", "always endpoint", "always edge server"):
        assert re.search(rf"^{name} +100\.0 % ", run.stdout, re.MULTILINE)


def test_it_is_quick_and_draws_a_picture(run: Run) -> None:
    """Under a minute on two busy cores; the picture is a PNG."""
    assert 0 < run.summary["seconds"] < 60
    assert (run.out / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    """A signal in the middle of the stream: exit code 128 + n, one line, no process left."""
    process = start_demo(tmp_path)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("streaming"):
                break
        started = processes_of(tmp_path)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert len(started) >= 4  # the demo itself, the server, the two nodes
    assert process.returncode == 128 + number
    assert stderr == "escalade demo: interrupted; nothing is left running\n"
    assert processes_of(tmp_path) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in started if pid != os.getpid())
