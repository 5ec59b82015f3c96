"""One policy object, three places: the service, the simulator and replay take the same decisions on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import MAX_PROB, Action, Batch, Context, Decisions, Policy, load_score
from escalade.simulations.fleet import parse_scenario, simulate
from escalade.simulations.fleet.columns import NAMES
from escalade.simulations.replay import Recording, replay
from escalade.tiers.config import ModelConfig
from escalade.tiers.head import Head
from escalade.tiers.model import OnnxModel
from escalade.tiers.testing.fakes import FakeUpstream, ManualClock
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.tier import Tier

from .examples import CLASSES, build, named, trace

ROWS, DEADLINE_MS = 300, 150.0
BYTES = CLASSES * 4


class Noted(Policy):
    """A policy whose decisions are written down, and that does not learn meanwhile."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.sequential = policy, policy.sequential
        self.log: list[tuple[Batch, NDArray[np.int8]]] = []

    def decide(self, batch: Batch) -> Decisions:
        decided = self.policy.decide(batch)
        self.log.append((batch.take(slice(None)), decided.action))
        return decided

    def decide_one(self, score: float, context: Context) -> Action:
        return self.policy.decide_one(score, context)

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        self.policy.commit(batch, action)

    def __deepcopy__(self, memo: dict[int, Any]) -> Noted:
        return self  # one device: its own copy may be this one


def simulated(policy: Policy, table: Path) -> tuple[Batch, NDArray[np.int8]]:
    """Let one device without a service time decide on samples of the table; return what it saw and did."""
    noted = Noted(policy)
    sensor = {
        "name": "sensor",
        "count": 1,
        "profile": {"service": {"kind": "constant", "ms": 0}},
        "arrivals": {"kind": "periodic", "period_ms": 1000},
        "deadline_ms": DEADLINE_MS,
        "bytes_up": BYTES,
        "policy": {"name": "AlwaysAccept"},
    }
    data = {"duration_s": ROWS, "scores": {"table": str(table)}, "endpoints": [sensor], "engine": {"window_s": 60}}
    data["control"] = {"interval_s": 2 * ROWS}  # nobody says how long the tier above takes
    result = simulate(parse_scenario(data), backend="serial", policy={"sensor": noted})
    assert result.failure is None
    log = [(batch, action) for batch, action in noted.log if len(batch) and batch.time_s.max() > 0]  # no tries
    batches = [batch for batch, _ in log]
    columns = {name: np.concatenate([getattr(one, name) for one in batches]) for name in NAMES}
    return Batch(**columns), np.concatenate([action for _, action in log])


async def served(policy: Policy, rows: Batch, logits: NDArray[np.float32], tmp_path: Path) -> list[Action]:
    """Send the same inputs to a tier whose upstream is never reached, and read off its answers what it decided."""
    path = tmp_path / "identity.onnx"
    path.write_bytes(scaled_identity(CLASSES))
    model = OnnxModel(ModelConfig(file=path))
    upstream, clock, chances = FakeUpstream(), ManualClock(0.0), iter(rows.uniform.tolist())
    upstream.failure = "unavailable"
    head = Head(model, 1.0, load_score("max_prob", "logits"))
    tier = Tier("endpoint", model, head, Noted(policy), upstream, clock=clock, uniform=lambda: next(chances))
    done = []
    for time_s, x in zip(rows.time_s.tolist(), logits, strict=True):
        clock.now = time_s
        answer = await tier.infer(x[None], time_s + DEADLINE_MS / 1e3)
        assert answer.label is not None
        if answer.label[0] < 0:
            done.append(Action.ABSTAIN)
        else:
            done.append({"": Action.ACCEPT, "no_outbox": Action.DEFER}.get(answer.reason, Action.ESCALATE))
    await tier.close()
    return done


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "number"), named())
async def test_a_built_in_decides_alike_in_service_simulator_and_replay(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator draws the inputs; the same go through a tier's model and through replay."""
    monkeypatch.setattr("escalade.tiers.tier.time.time", lambda: 0.0)  # the simulation's epoch
    logits = [np.log(posterior).astype(np.float32) for posterior in trace(500).posteriors]
    shifted = [values + np.float32(3.0) for values in logits]  # else they would be taken for probabilities
    table = tmp_path / "table.npz"
    labels = trace(500).labels
    np.savez(table, y_test=labels, t1_test=shifted[0], t2_test=shifted[1], t3_test=shifted[2])
    rows, simulator = simulated(build(name, number), table)
    assert len(rows) == ROWS
    assert rows.posterior is not None

    replayed = build(name, number).decide(rows).action
    assert np.array_equal(replayed, simulator)

    recording = Recording(
        ("endpoint", "edge_server"), (rows.posterior, rows.posterior), np.zeros(ROWS, np.int64), (BYTES,),
        time_s=rows.time_s, deadline_ms=DEADLINE_MS,
    )  # fmt: skip
    if name not in ("BackPressure", "Explore", "FirstOf", "HILF", "HILCB", "HILN"):  # replay draws its own chances
        reached = replay(recording, [build(name, number)], score=MAX_PROB).reached
        assert np.array_equal(reached == 1, (simulator == Action.ESCALATE) | (simulator == Action.DEFER))

    match = {tuple(one): index for index, one in enumerate(_posteriors(shifted[0]).tolist())}
    inputs = np.stack([shifted[0][match[tuple(one)]] for one in rows.posterior.tolist()])
    assert await served(build(name, number), rows, inputs, tmp_path) == simulator.tolist()


def _posteriors(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    from escalade.policies import softmax

    return softmax(logits, 1.0)
