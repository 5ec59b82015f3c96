"""Random scenarios: everything that the engine knows, in small, with instants that coincide."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TIMES = st.sampled_from(
    [
        {"kind": "constant", "ms": 0},
        {"kind": "constant", "ms": 5},
        {"kind": "exponential", "mean_ms": 8},
        {"kind": "lognormal", "p50_ms": 10, "p99_ms": 80},
        {"kind": "quantiles", "share": [0, 0.5, 1], "ms": [1, 5, 5]},
    ]
)
ARRIVALS = st.sampled_from(
    [
        {"kind": "poisson", "rate_hz": 8},
        {"kind": "periodic", "period_ms": 100},
        {"kind": "periodic", "period_ms": 50, "jitter_ms": 20},
        {"kind": "daily", "rate_hz": [1, 20, 0, 5], "day_s": 2},
        {"kind": "bursts", "rate_hz": 2, "burst_rate_hz": 40, "quiet_s": 0.5, "burst_s": 0.3},
    ]
)
UP_DOWN = st.sampled_from(
    [
        {"periods": [{"from_s": 0.5, "to_s": 1.0}, {"from_s": 2.0, "to_s": 2.1}]},
        {"up_s": 0.6, "down_s": 0.3},
    ]
)
PLAIN = [
    {"name": "Threshold", "threshold": 0.6},
    {"name": "AlwaysEscalate"},
    {"name": "Explore", "policy": {"name": "Threshold", "threshold": 0.7}, "epsilon": 0.3},
    {"name": "PerClassThreshold", "thresholds": {0: 0.5, 3: 0.9}, "default": 0.6},
    {"name": "CostAware", "price_error": 1.0, "upper_accuracy": 0.95, "price_ms": 1e-3, "assumed_ms": 20.0},
    {"name": "Budgeted", "policy": {"name": "Threshold", "threshold": 0.9}, "share": 0.3},
    {"name": "Hysteresis", "policy": {"name": "Threshold", "threshold": 0.7}, "margin": 0.1},
    {"name": "DeadlineAware", "policy": {"name": "Threshold", "threshold": 0.8}, "margin_ms": 5.0},
    {"name": "BackPressure", "policy": {"name": "Threshold", "threshold": 0.9}, "start": 0.0, "least": 0.2},
    {"name": "Hysteresis", "policy": {"name": "SloController", "threshold": 0.6}, "margin": 0.05},
    {"name": "Budgeted", "policy": {"name": "HILN", "cost": 0.3}, "share": 0.4},
    {"name": "HILF", "cost": 0.3},
    {"name": "SloController", "threshold": 0.7},
]
POLICIES = st.sampled_from(PLAIN)
RULES = st.sampled_from(
    [
        {"name": "MeanProbability"},
        {"name": "MajorityVote", "health": False},
        {"name": "LogOpinionPool", "health": {"alarm": 2.0}},
        {"name": "ReliabilityWeighted"},
    ]
)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give nothing half of the time."""
    return st.none() | strategy


@st.composite
def links(draw: st.DrawFn) -> dict[str, Any]:
    """Draw one hop."""
    breaker = {"failures": draw(st.sampled_from([1, 3])), "wait_ms": 100, "max_wait_ms": 300}
    budget = draw(maybe(st.just({"ratio": 0.25, "burst": 1})))
    lossy = {"share": 0.3, "retry_ms": 20, "max_retries": draw(st.integers(1, 3)), "budget": budget}
    return {
        "latency": draw(TIMES),
        "latency_down": draw(maybe(TIMES)),
        "bandwidth_kbit_s": draw(maybe(st.sampled_from([100.0, 1000.0]))),
        "loss": draw(maybe(st.just(lossy))),
        "outages": draw(maybe(UP_DOWN)),
        "max_waiting": draw(maybe(st.sampled_from([1, 4]))),
        "when_full": draw(st.sampled_from(["evict_oldest", "refuse"])),
        "breaker": draw(maybe(st.just(breaker))),
    }


@st.composite
def stations(draw: st.DrawFn, most: int) -> dict[str, Any]:
    """Draw a tier that many ask."""
    return {
        "count": draw(st.integers(1, most)),
        "service": draw(TIMES),
        "workers": draw(st.integers(1, 3)),
        "batching": {"max_batch": draw(st.sampled_from([1, 1, 4]))},
        "max_queue": draw(maybe(st.sampled_from([1, 3]))),
        "failures": draw(maybe(UP_DOWN)),
    }


@st.composite
def endpoints(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Draw a class of endpoints."""
    profile = {
        "service": draw(TIMES),
        "idle_mw": 5,
        "active_mw": 300,
        "radio_uj_per_message": 200,
        "radio_nj_per_byte": 100,
        "battery": draw(maybe(st.just({"capacity_mwh": 0.02, "spread": 0.9}))),
        "thermal": draw(maybe(st.just({"keep": 0.5, "hot": 0.1, "cool": 0.05, "slowdown": 3}))),
        "trigger": draw(maybe(st.just({"pass_share": 0.7, "wake_ms": 3, "awake_ms": 10}))),
    }
    return {
        "name": name,
        "count": draw(st.integers(1, 12)),
        "profile": profile,
        "arrivals": draw(ARRIVALS),
        "deadline_ms": draw(maybe(st.sampled_from([5.0, 40.0, 400.0]))),
        "policy": draw(POLICIES),
        "escalation": {"timeout_ms": draw(st.sampled_from([30.0, 300.0]))},
        "churn": draw(maybe(st.just({"online_s": 0.8, "offline_s": 0.3}))),
        "mobility": draw(maybe(st.just({"dwell_s": 0.4}))),
    }


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """Draw events that several edge nodes see; 20 a second, so that some meet."""
    views = draw(st.integers(2, 4))
    fault = {
        "kind": draw(st.sampled_from(["stuck", "noisy", "dead"])),
        "view": draw(st.integers(0, views - 1)),
        "share": draw(st.sampled_from([0.5, 1.0])),
        "at_s": 1.0,
        "to_s": draw(maybe(st.just(2.0))),
    }
    return {
        "rate_hz": 20.0,
        "views": views,
        "rule": draw(RULES),
        "samples": 200,
        "quorum": draw(maybe(st.integers(1, views))),
        "deadline_ms": draw(st.sampled_from([5.0, 50.0])),
        "late_ms": draw(st.sampled_from([0.0, 20.0, 500.0])),
        "faults": draw(st.sampled_from([[], [fault]])),
    }


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a scenario of about 3 simulated seconds."""
    edge = draw(stations(5)) | {"policy": draw(POLICIES), "escalation": {"timeout_ms": 100.0}}
    server = draw(stations(2)) | {"brownouts": [{"from_s": 1.0, "to_s": 2.0, "slowdown": 4}]}
    wave = [{"at_s": 1.0, "share": 0.5}, {"at_s": 2.0, "share": 1.0}]
    better = {"accuracy": [0.9, 0.95, 0.99], "samples": 300}
    tier = draw(st.sampled_from(["endpoint", "edge_node", "edge_server"]))
    rollout = {"tier": tier, "scores": better, "waves": wave}
    seen, few = draw(maybe(events())), draw(st.sampled_from([4, 100]))
    people = [draw(endpoints(f"class {i}")) for i in range(draw(st.integers(1, 2)))]
    if seen is not None:  # each cell needs a node for every view
        edge["count"] += seen["views"]
        cells = max(1, edge["count"] // seen["views"])
        few = max(few, -(-sum(one["count"] for one in people) // cells))
    return {
        "duration_s": 3.0,
        "seed": draw(st.integers(0, 1000)),
        "scores": {"samples": 300},
        "endpoints": people,
        "events": seen,
        "edge_nodes": edge,
        "edge_servers": server,
        "links": {"access": draw(links()), "uplink": draw(links())},
        "rollouts": draw(st.sampled_from([[], [rollout]])),
        "control": {"interval_s": 0.5, "feedback_s": draw(st.sampled_from([0.25, 0.5])), "audit_share": 0.2},
        "engine": {
            "cell_endpoints": few,
            "window_s": draw(st.sampled_from([0.07, 0.5, 9.0])),
        },
    }
