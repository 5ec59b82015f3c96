"""Running a scenario: policies that fail or learn, stopping, checkpoints, plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import Batch, Decisions, Feedback, Policy, Telemetry, Threshold
from escalade.simulations.fleet import parse_scenario, simulate
from escalade.simulations.fleet.backends import ThreadBackend
from escalade.simulations.fleet.book import Asked
from escalade.simulations.fleet.compiled import World
from escalade.simulations.fleet.jit import NO_NUMBA
from escalade.simulations.fleet.policy_setup import policies_of
from escalade.simulations.fleet.protocol import Control
from escalade.simulations.fleet.result import Count
from escalade.simulations.fleet.rows import Up
from escalade.simulations.fleet.scenario import Scenario
from escalade.simulations.fleet.shard import Shard
from escalade.tiers.errors import ConfigError

from .conftest import assert_same, queueing


class Fragile(Policy):
    """Raises once a batch reaches into the second minute."""

    def decide(self, batch: Batch) -> Decisions:
        if len(batch) and batch.time_s.max() > 60:
            raise ZeroDivisionError("no scores after a minute")
        return Threshold(0.8).decide(batch)


class Watching(Policy):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.feedback: list[Feedback] = []
        self.telemetry: list[Telemetry] = []

    def decide(self, batch: Batch) -> Decisions:
        return Threshold(0.8).decide(batch)

    def observe(self, feedback: Feedback) -> None:
        self.feedback.append(feedback)

    def retune(self, telemetry: Telemetry) -> None:
        self.telemetry.append(telemetry)


def test_a_policy_that_raises_ends_the_run_with_when_where_and_why() -> None:
    """The failure has the simulated time, the batch and the traceback; what was done before is there."""
    data = queueing(duration_s=200.0, engine={"window_s": 20})
    result = simulate(parse_scenario(data), backend="serial", policy=Fragile())
    failure = result.failure
    assert failure is not None
    assert not result.complete
    assert (failure.tier, failure.call) == ("endpoints 'sensor'", "decide")
    assert 60 <= failure.time_s < 80
    assert result.simulated_s == 60.0
    assert failure.rows > 0
    assert "no scores after a minute" in failure.traceback
    assert "test_running.py" in failure.traceback
    assert "score [" in failure.batch
    assert result.answered == pytest.approx(60 * 50, rel=0.1)


def test_stopping_returns_what_was_done() -> None:
    """After the window in which it was asked to."""
    data = queueing(duration_s=200.0, engine={"window_s": 20})
    seen = []
    result = simulate(
        parse_scenario(data),
        backend="serial",
        progress=lambda one: seen.append(one.time_s),
        stop=lambda: len(seen) == 3,
    )
    assert seen == [20.0, 40.0, 60.0]
    assert (result.simulated_s, result.complete) == (60.0, False)
    assert result.requests == pytest.approx(60 * 50, rel=0.1)


def test_policies_are_told_of_their_decisions_and_of_the_fleet() -> None:
    """Labels of the tier above only where it was asked, true ones only where audited; every request is counted once."""
    policy = Watching()
    data = queueing(duration_s=100.0, control={"interval_s": 10, "feedback_s": 5, "audit_share": 0.25})
    result = simulate(parse_scenario(data), backend="threads", workers=2, policy=policy)
    up = np.concatenate([one.action for one in policy.feedback]) == 1
    upper = np.concatenate([one.upper for one in policy.feedback])
    truth = np.concatenate([one.truth for one in policy.feedback])
    assert ((upper >= 0) == up).all()
    assert (truth >= 0).mean() == pytest.approx(0.25, abs=0.03)
    assert all(one.hops[one.upper >= 0].min() == 1 for one in policy.feedback)
    assert [one.time_s for one in policy.telemetry] == [float(t) for t in range(10, 100, 10)]
    assert sum(int(one.answered.sum()) for one in policy.telemetry) == pytest.approx(result.requests * 0.9, rel=0.05)
    assert len(policy.telemetry[0].device) == 500


class Pupil(Policy):
    """Remembers whom it decided for; refuses to be told of anybody else."""

    sequential = True
    told: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def decide(self, batch: Batch) -> Decisions:
        return Threshold(0.8).decide(batch)

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        self.seen |= set(batch.device.tolist())

    def observe(self, feedback: Feedback) -> None:
        assert set(feedback.device.tolist()) <= self.seen
        self.told["rows"] += len(feedback)

    def retune(self, telemetry: Telemetry) -> None:
        assert set(telemetry.device[telemetry.answered > 0].tolist()) <= self.seen
        self.told["answered"] += int(telemetry.answered.sum())
        self.told["times"] += 1


def test_what_remembers_and_learns_is_told_of_its_own_decisions_alone() -> None:
    """Every endpoint, and every edge node, has an object of its own, as in the tiers; together they hear of all."""
    data = queueing(duration_s=100.0, edge_nodes={"count": 7}, engine={"cell_endpoints": 100})
    data["endpoints"][0]["mobility"] = {"dwell_s": 20}  # type: ignore[index]
    for which in ("sensor", "edge_node"):
        Pupil.told.clear()
        policies: dict[str, Policy] = {"sensor": Threshold(0.8), "edge_node": Threshold(0.8)} | {which: Pupil()}
        result = simulate(parse_scenario(data), backend="threads", workers=2, policy=policies)
        assert result.failure is None
        decided = result.requests if which == "sensor" else int(result.stats.count[Count.SERVED_1])
        assert Pupil.told["rows"] == pytest.approx(decided * 0.9, rel=0.05)
        assert Pupil.told["answered"] == pytest.approx(decided * 0.9, rel=0.05)
        assert Pupil.told["times"] > 8 * (7 if which == "edge_node" else 400)


def test_learners_give_the_same_on_any_window_that_divides_their_steps() -> None:
    """What is learnt acts at multiples of `feedback_s`, whatever the windows and threads in between."""
    data = queueing(duration_s=60.0, control={"interval_s": 10, "feedback_s": 2})
    data["endpoints"][0] |= {"policy": {"name": "HILF", "cost": 0.3}}  # type: ignore[index]
    hashes = {
        simulate(parse_scenario(data | {"engine": {"window_s": window_s}}), backend="threads", workers=workers).hash
        for window_s, workers in ((0.7, 1), (2.0, 2), (50.0, 1))
    }
    assert len(hashes) == 1


def test_a_shard_goes_on_from_a_checkpoint_as_if_nothing_had_happened(everything: Scenario) -> None:
    """Half way it is saved, thrown away and restored: outputs and counters are those of a run without."""
    world = World.of(everything)
    control, asked = Control(policies_of(world, None)), Asked(keep=True)
    set_columns = [column for column in Up if column != Up.ROW_2]  # the servers' business
    steady, other = (Shard(world, range(1, 3), asked) for _ in range(2))
    for window, t1 in enumerate((5 * 10**9, 10 * 10**9, 15 * 10**9, 1 << 62)):
        now = control if window == 0 else Control()
        expected, found = steady.advance(now, t1), other.advance(now, t1)
        up, same = np.concatenate(expected.up), np.concatenate(found.up)
        assert np.array_equal(up[:, set_columns], same[:, set_columns])
        assert np.array_equal(expected.seen, found.seen)
        other = Shard.restore(world, other.checkpoint())
    one, two = steady.finish(30 * 10**9), other.finish(30 * 10**9)
    assert_same(one.stats, two.stats)
    assert np.array_equal(one.ended, two.ended)
    assert np.array_equal(one.charge, two.charge)


def test_without_numba_the_bits_are_the_same(tmp_path: Any) -> None:
    """Plain Python, in a process of its own."""
    code = (
        "import json, sys\nfrom escalade.simulations.fleet import parse_scenario, simulate\n"
        "from escalade.simulations.fleet.jit import COMPILED\n"
        "print(COMPILED, simulate(parse_scenario(json.loads(sys.argv[1])), backend='serial').hash)"
    )
    import json

    data = queueing(duration_s=3.0)
    data["links"] = {"uplink": {"outages": {"up_s": 1, "down_s": 1}, "breaker": {}}}
    data["edge_nodes"] = {"batching": {"max_batch": 4}}
    found = [
        subprocess.run(
            [sys.executable, "-c", code, json.dumps(data)],
            env={**os.environ, **extra}, capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout.split()
        for extra in ({}, {NO_NUMBA: "1"})
    ]  # fmt: skip
    assert [one[0] for one in found] == ["True", "False"]
    assert found[0][1] == found[1][1]


def test_batteries_run_out_when_their_energy_says_so() -> None:
    """A device that only idles dies at capacity over power, to the nanosecond; one that works dies sooner."""
    profile = {
        "service": {"kind": "constant", "ms": 10},
        "idle_mw": 2.0,
        "active_mw": 2000.0,
        "battery": {"capacity_mwh": 0.01},
    }
    rare, often = ({"kind": "poisson", "rate_hz": rate} for rate in (1e-6, 1.0))
    endpoints = [
        {"name": name, "count": 3, "profile": profile, "arrivals": arrivals, "policy": {"name": "AlwaysAccept"}}
        for name, arrivals in (("idle", rare), ("busy", often))
    ]
    result = simulate(parse_scenario({"duration_s": 60, "endpoints": endpoints}), backend="serial")
    assert result.devices is not None
    died = result.devices["died_s"]
    assert died[:3].tolist() == [18.0, 18.0, 18.0]  # 0.036 J at 2 mW
    assert (died[3:] < 3.5).all()
    assert result.stats.count[Count.DEATHS] == 6


SEEN = {"edge_nodes": {"count": 3}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoints": []}, "endpoints"),
        ({"edge_nodes": {"polcy": {}}}, "edge_nodes.polcy: unknown key; did you mean 'policy'?"),
        ({"edge_nodes": {"policy": {"name": "Treshold"}}}, "edge_nodes.policy.name: no policy 'Treshold'"),
        ({"scores": {"table": "nowhere.npz"}}, "scores.table"),
        ({"scores": {"score": "energyy"}}, "scores.score: no score 'energyy'"),
        ({"events": {"rate_hz": 1, "views": 3}}, "events.views: 3 views need as many edge nodes in every cell"),
        (
            SEEN | {"events": {"rate_hz": 1, "views": 3, "rule": {"name": "Mean"}}},
            "events.rule.name: no fusion rule 'Mean'",
        ),
        (
            SEEN | {"events": {"rate_hz": 1, "views": 3, "rule": {"name": "Stacking"}}},
            "events.rule.state: Stacking fuses by",
        ),
        (
            SEEN | {"events": {"rate_hz": 1, "views": 3, "table": "no.npz"}},
            "events.table: no.npz: cannot be read: No such file",
        ),
        (SEEN | {"events": {"rate_hz": 1, "views": 3, "quorum": 4}}, "a quorum of 4 of 3 views is never met"),
        (
            SEEN | {"events": {"rate_hz": 1, "views": 2, "faults": [{"kind": "dead", "at_s": 5000}]}},
            "events.faults: one begins at 5000 s, after the run of duration_s 4000",
        ),
        (
            {"rollouts": [{"tier": "edge_node", "scores": {}, "waves": [{"at_s": 5000, "share": 1}]}]},
            "rollouts.0.waves: one begins at 5000 s, after the run of duration_s 4000",
        ),
        (
            {"endpoints": [{"name": "a", "count": 1, "arrivals": {"rate_hz": 2}}]},
            "endpoints.0.arrivals: give kind: poisson, periodic, daily, bursts, replay",
        ),
        (
            {"links": {"access": {"latency": {"ms": 2}}}},
            "links.access.latency: give kind: constant, exponential, uniform, lognormal, quantiles",
        ),
        (
            {"endpoints": [{"name": "a", "count": 1, "profile": "nope.yaml", "arrivals": {}}]},
            "endpoints.0.profile: nope.yaml: no such file",
        ),
        (
            {"rollouts": [{"tier": "edge_node", "scores": {"classes": 5}, "waves": [{"at_s": 1, "share": 1}]}]},
            "rollouts.0.scores: has",
        ),
        (
            {"edge_nodes": {"policy": {"name": "RiskControlled", "alpha": 0.1}}},
            "edge_nodes.policy.state: RiskControlled decides by what it was fitted to",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(change: dict[str, Any], words: str) -> None:
    """One line with the key and what to do."""
    with pytest.raises(ConfigError) as caught:
        simulate(parse_scenario(queueing() | change), backend="serial")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class Nonsense(Policy):
    """Returns what is no decision."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def decide(self, batch: Batch) -> Decisions:
        return self.answer if not callable(self.answer) else self.answer(batch)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "TypeError: decide returned NoneType: return Decisions.of(actions)"),
        ([0] * 16, "TypeError: decide returned list: return Decisions.of(actions)"),
        (Decisions.of([0]), "for 16 rows"),
        (Decisions.of([9] * 16), "for 16 rows"),
        (lambda batch: batch.temperature, "a batch has no column 'temperature'; there are score, posterior, time_s"),
    ],
)
def test_what_a_policy_must_not_return_is_refused_before_anything_starts(answer: Any, words: str) -> None:
    """One line with the policy's key, on threads too."""
    with pytest.raises(ConfigError) as caught:
        simulate(parse_scenario(queueing()), policy=Nonsense(answer))
    assert str(caught.value).startswith("endpoints.0.policy: does not work on this scenario's score table: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_backend_that_never_started_is_closed() -> None:
    """What went wrong before is what is said."""
    ThreadBackend(2).close()


def test_a_trace_without_rows_holds_no_arrivals(tmp_path: Path) -> None:
    """One line with the key."""
    np.savez(tmp_path / "empty.npz", time_s_test=np.zeros(0))
    data = queueing()
    arrivals = {"kind": "replay", "file": str(tmp_path / "empty.npz")}
    data["endpoints"] = [{"name": "a", "count": 1, "arrivals": arrivals}]
    with pytest.raises(ConfigError, match=r"^endpoints\.0\.arrivals\.file: holds no time_s_test"):
        simulate(parse_scenario(data), backend="serial")


def test_the_simulator_does_not_load_what_only_services_need() -> None:
    """gRPC and onnxruntime would take 45 MB in every worker; fusion rules and admission, which few runs need, 9 MB."""
    names = ("grpc", "onnxruntime", "escalade.policies.fusion", "escalade.tiers.admission")
    code = f"import escalade.simulations.fleet, sys\nprint([one for one in {names} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]
