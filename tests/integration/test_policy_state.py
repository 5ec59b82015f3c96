"""A policy that was fitted, remembers, learns or is retuned, in a real service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.policies import (
    Batch,
    Decisions,
    Policy,
    RiskControlled,
    SloController,
    Telemetry,
    Trace,
    save_state,
    softmax,
)
from escalade.tiers import Client, EdgeNode
from escalade.tiers.errors import ConfigError

pytestmark = pytest.mark.asyncio

Start = Callable[..., Any]
UNSURE = np.array([[0.1, 0, 0, 0]], np.float32)
YAML = """\
tier: edge_node
model: {{file: unsure.onnx, name: m}}
policy: {policy}
"""


class Retuned(Policy):
    """Says when it is retuned."""

    told: asyncio.Queue[Telemetry]

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.where(batch.score > -np.inf, 0, 1))

    def retune(self, telemetry: Telemetry) -> None:
        self.told.put_nowait(telemetry)


class QuickNode(EdgeNode):
    """Retunes without a pause."""

    retune_seconds = 0.001


@pytest.fixture
def folder(tmp_path: Path, models: Path) -> Path:
    (tmp_path / "unsure.onnx").write_bytes((models / "unsure.onnx").read_bytes())
    return tmp_path


async def test_the_state_stands_beside_the_tiers_yaml(folder: Path) -> None:
    """What `state` names is relative to the file, wherever the service is started."""
    policy = SloController(0.9)
    policy.load_state_dict({"device": np.array([0]), "threshold": np.array([0.01], np.float32)})
    save_state(folder / "slo.npz", policy)
    (folder / "tier.yaml").write_text(YAML.format(policy="{name: SloController, threshold: 0.9, state: slo.npz}"))
    async with EdgeNode.from_config(folder / "tier.yaml") as node:
        answer = await node.infer(UNSURE)
    assert not answer.degraded.any()


async def test_a_state_that_is_missing_is_an_error_of_the_configuration(folder: Path) -> None:
    """It names the line, the key and the file."""
    (folder / "tier.yaml").write_text(YAML.format(policy="{name: SloController, state: none.npz}"))
    with pytest.raises(ConfigError, match=r"tier\.yaml:3: policy\.state: .*none\.npz: cannot be read"):
        EdgeNode.from_config(folder / "tier.yaml")


async def test_a_policy_made_for_another_model_does_not_start(folder: Path) -> None:
    """The command ends with 2 and one line that says what to do; nothing listens."""
    (folder / "mine.py").write_text(
        "from escalade.policies import Threshold\n\n\nclass Mine(Threshold):\n"
        "    def check_model(self, sha256: str) -> None:\n        raise ValueError('certify it again')\n"
    )
    (folder / "tier.yaml").write_text(YAML.format(policy='{name: "mine:Mine", threshold: 0.5}'))
    command = [sys.executable, "-m", "escalade.cli.main", "serve", "edge-node", "--config", str(folder / "tier.yaml")]
    outcome = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 2, outcome
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert "tier.yaml:3: policy: does not decide for this model: certify it again" in lines[0]


async def test_thresholds_of_another_score_do_not_start(folder: Path) -> None:
    """A certificate on `max_prob` promises nothing where the tier decides on the margin, in a combinator too."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 2000)
    tiers = [softmax(skill * np.eye(4)[labels] + rng.normal(size=(2000, 4))) for skill in (2.0, 4.0)]
    save_state(folder / "risk.npz", RiskControlled(alpha=0.05).fit(Trace.of(tiers, labels)))
    policy = "{name: Budgeted, share: 0.5, policy: {name: RiskControlled, alpha: 0.05, state: risk.npz}}"
    (folder / "tier.yaml").write_text(YAML.format(policy=policy))
    async with EdgeNode.from_config(folder / "tier.yaml"):
        pass
    (folder / "tier.yaml").write_text(YAML.format(policy=policy) + "score: margin\n")
    with pytest.raises(ConfigError, match=r"does not fit the tier: .*'max_prob', the tier's is 'margin'"):
        async with EdgeNode.from_config(folder / "tier.yaml"):
            pass


async def test_a_budget_holds_over_the_wire(start: Start) -> None:
    """Twelve unsure requests by gRPC, of which the share that is allowed reaches the server."""
    _, above = await start("edge_server", model="sure")
    inner = {"name": "Threshold", "threshold": 0.9}
    _, address = await start(
        "edge_node", upstream=above, policy={"name": "Budgeted", "policy": inner, "share": 0.25, "burst": 1}
    )
    async with Client(address) as client:
        answers = [await client.infer(UNSURE, model="m") for _ in range(12)]
    assert [answer.tier[0] for answer in answers] == ["edge_server", *["edge_node"] * 3] * 3


async def test_the_slow_loop_runs_while_the_service_does(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`retune` is called with what was counted, and no more after `close`."""
    Retuned.told = asyncio.Queue()
    users = types.ModuleType("users_slow_loop")
    users.Retuned = Retuned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_slow_loop", users)
    policy = {"name": "users_slow_loop:Retuned"}
    config = {"tier": "edge_node", "model": {"file": str(models / "unsure.onnx"), "name": "m"}, "policy": policy}
    async with QuickNode.from_config(config) as node:
        await node.infer(UNSURE)
        counted = 0
        while not counted:
            counted = int((await asyncio.wait_for(Retuned.told.get(), 20)).answered[0])
        assert counted == 1
        loop = node._retuning
        assert loop is not None
    assert loop.cancelled()
