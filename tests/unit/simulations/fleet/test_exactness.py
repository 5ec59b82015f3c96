"""The windowed engine and the reference of single events agree to the bit, whatever the scenario."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from escalade.policies import Action, Batch, Decisions, Policy, Telemetry, Threshold
from escalade.simulations.fleet import parse_scenario, simulate
from escalade.simulations.fleet.policy_setup import Given
from escalade.simulations.fleet.reference import simulate_by_events
from escalade.simulations.fleet.result import Count, Hist, Reason, Series, Stats
from escalade.simulations.fleet.scenario import Scenario

from .conftest import assert_same
from .scenarios import scenarios

COUNTED = [
    "ARRIVED", "ANSWERED_0", "ANSWERED_1", "ANSWERED_2", "CORRECT_0", "CORRECT_1", "CORRECT_2", "ESCALATED_0",
    "ESCALATED_1", "BUSY_NS_0", "BUSY_NS_1", "BUSY_NS_2", "SERVED_0", "SERVED_1", "SERVED_2", "WAIT_NS_0", "WAIT_NS_1",
    "WAIT_NS_2", "LOST_0", "LOST_1", "LATE", "CORRECTED", "EVENTS", "EVENTS_COMPLETE", "EVENTS_QUORUM",
    "EVENTS_DEADLINE", "EVENTS_CORRECT", "EVENTS_CORRECT_LAST", "EVENTS_CORRECTIONS", "EVENTS_VIEWS", "VIEWS_LATE",
    "VIEWS_EXPIRED", "VIEWS_LOST", "BYTES_VIEWS",
]  # fmt: skip


def compare(data: dict[str, Any], policy: Given = None) -> Stats:
    """Run both; return what was counted."""
    scenario = parse_scenario(data)
    windows = simulate(scenario, backend="serial", keep_requests=True, policy=policy)
    events = simulate_by_events(scenario, policy=policy)
    assert windows.failure is None
    assert windows.requests_table is not None
    table = np.stack(list(windows.requests_table.values()), axis=1)
    assert np.array_equal(table, events.requests_table[:, : table.shape[1]])
    assert windows.hash == events.hash
    for name in COUNTED:
        assert windows.stats.count[Count[name]] == events.stats.count[Count[name]], name
    for column in (Series.EVENTS, Series.EVENTS_CORRECT, Series.EVENTS_NS, Series.VIEWS, Series.VIEWS_CORRECT):
        assert np.array_equal(windows.stats.series[:, column], events.stats.series[:, column]), column.name
    assert np.array_equal(windows.stats.hist[Hist.FUSED], events.stats.hist[Hist.FUSED])
    assert np.array_equal(windows.stats.by_view, events.stats.by_view)
    assert len(table) == windows.requests  # every request ends once
    plain = simulate(scenario, backend="serial", policy=policy)
    assert_same(plain.stats, windows.stats)
    return windows.stats


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
def test_random_scenarios_give_the_same_requests_in_windows_and_by_events(data: dict[str, Any]) -> None:
    """Tier, reason, time and correctness of every request, and the hash: with churn, batteries, heat, outages, loss,
    breakers, batches, brown-outs, moves, rollouts, memories, learners, control and fused events."""
    compare(data)


class Everything(Policy):
    """Takes each of the four actions by chance."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions((batch.uniform * 4).astype(np.int8), np.full(len(batch), 0.25))


def test_every_way_a_request_can_end_is_compared(everything: Scenario) -> None:
    """The comparison above would be empty if nothing ever went wrong in it."""
    data = everything.model_dump(mode="json")
    data["edge_nodes"] |= {"failures": {"up_s": 3, "down_s": 0.5, "periods": []}, "max_queue": 1}
    data["endpoints"][0]["deadline_ms"] = 30
    with_breaker = compare(data, Everything())
    data["links"]["uplink"] |= {"breaker": None, "max_waiting": 1}
    data["endpoints"][0]["deadline_ms"] = None
    without = compare(data, {"endpoint": Everything(), "edge_node": Everything()})
    reasons = with_breaker.reason + without.reason
    assert all(reasons[reason] > 0 for reason in Reason), reasons.tolist()


def test_every_way_an_event_can_end_is_compared(everything: Scenario) -> None:
    """From all views, from a quorum, at the deadline, from none; with views late, expired and lost, and corrections."""
    data = everything.model_dump(mode="json")
    data["links"]["uplink"] |= {"bandwidth_kbit_s": 100, "max_waiting": 2}
    all_views = compare(data)
    data["events"] |= {"quorum": 1, "late_ms": 30, "rule": {"name": "MaxConfidence"}}
    one_view = compare(data)
    counts = all_views.count + one_view.count
    ways = range(Count.EVENTS, Count.BYTES_VIEWS + 1)
    assert all(counts[way] > 0 for way in ways), {Count(way).name: int(counts[way]) for way in ways}
    lost = counts[Count.EVENTS] - counts[Count.EVENTS_COMPLETE : Count.EVENTS_DEADLINE + 1].sum()
    assert lost > 0


class Wary(Policy):
    """Asks above unless that is half full; notes what it was told."""

    def __init__(self) -> None:
        self.told: set[float] = set()

    def decide(self, batch: Batch) -> Decisions:
        self.told |= set(batch.upstream_load.tolist())
        return Decisions.of(np.where(batch.upstream_load < 0.5, Action.ESCALATE, Action.ACCEPT))


@pytest.mark.parametrize("max_batch", [1, 4])
def test_policies_are_told_how_full_the_tier_above_was(everything: Scenario, max_batch: int) -> None:
    """Their own node, or server, at the end of the last control interval: by count and by time, the same by events."""
    data = everything.model_dump(mode="json")
    data["duration_s"], data["control"]["interval_s"] = 12.0, 0.5
    data["edge_nodes"] |= {"count": 10, "max_queue": None, "service": {"kind": "constant", "ms": 60}}
    data["edge_servers"] |= {"max_queue": 4, "workers": 1, "service": {"kind": "constant", "ms": 25}}
    for station in ("edge_nodes", "edge_servers"):
        data[station]["batching"]["max_batch"] = max_batch
    data["links"]["uplink"] |= {"bandwidth_kbit_s": None}
    below, above = Wary(), Wary()
    compare(data, {"endpoint": below, "edge_node": above})
    assert len(below.told) > 3
    assert len(above.told) > 2
    assert below.told | above.told <= {eighth / 8 for eighth in range(9)}


class Moody(Policy):
    """Asks above by whatever it heard last: every count matters."""

    def __init__(self) -> None:
        self.share, self.heard = 0.5, 0

    def at_tier(self, tier: int) -> Moody:
        return type(self)()  # each run begins anew

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.where(batch.uniform < self.share, Action.ESCALATE, Action.ACCEPT))

    def retune(self, telemetry: Telemetry) -> None:
        weight = 1 + telemetry.device % 7
        told = 2 * telemetry.answered + 3 * telemetry.in_time + 5 * telemetry.escalated
        self.heard = (self.heard + int((weight * told).sum())) % 97
        self.share = 0.2 + 0.6 * self.heard / 97


class Private(Moody):
    """The same of every unit for itself."""

    sequential = True


@pytest.mark.parametrize("kind", [Moody, Private])
def test_telemetry_is_the_same_for_one_policy_and_for_one_of_each_unit(everything: Scenario, kind: type[Moody]) -> None:
    """Counted by device, or by edge node and device; at once, or known in a later interval."""
    data = everything.model_dump(mode="json") | {"duration_s": 8.0, "events": None}
    data["control"]["interval_s"] = 1.0
    simulated = compare(data, {"endpoint": kind(), "edge_node": Threshold(0.9)})
    other = compare(data, {"endpoint": Threshold(0.9), "edge_node": kind()})
    assert simulated.count[Count.ESCALATED_0] > 100
    assert other.count[Count.ESCALATED_1] > 100


def test_hash_and_counters_do_not_depend_on_window_or_threads(everything: Scenario) -> None:
    """Without feedback any window, and always any number of threads, gives the same."""
    first = simulate(everything, backend="serial")
    for window_s in (0.3, 1.7, 100.0):
        engine = everything.engine.model_copy(update={"window_s": window_s})
        other = simulate(everything.model_copy(update={"engine": engine}), backend="serial")
        assert other.hash == first.hash
        assert_same(other.stats, first.stats)
    for workers in (1, 2, 5):
        other = simulate(everything, backend="threads", workers=workers)
        assert other.hash == first.hash
        assert_same(other.stats, first.stats)


def test_another_seed_or_policy_gives_another_hash(everything: Scenario) -> None:
    """So the hash says something."""
    hashes = {
        simulate(everything, backend="serial").hash,
        simulate(everything, backend="serial", seed=1).hash,
        simulate(everything, backend="serial", policy={"camera": Threshold(0.81)}).hash,
    }
    assert len(hashes) == 3
