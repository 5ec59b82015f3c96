from __future__ import annotations

import numpy as np
import pytest

from escalade.simulations.fleet import FleetResult, parse_scenario, simulate
from escalade.simulations.fleet.result import Stats
from escalade.simulations.fleet.scenario import Scenario


def queueing(**changes: object) -> dict[str, object]:
    """A fleet whose endpoints send everything to one edge node, which answers: a queue and nothing else."""
    scenario: dict[str, object] = {
        "duration_s": 4000.0,
        "scores": {"samples": 100},
        "endpoints": [
            {
                "name": "sensor",
                "count": 500,
                "profile": {"service": {"kind": "constant", "ms": 0}},
                "arrivals": {"kind": "poisson", "rate_hz": 0.1},
                "policy": {"name": "AlwaysEscalate"},
                "escalation": {"timeout_ms": 1e8},
            }
        ],
        "edge_nodes": {"policy": {"name": "AlwaysAccept"}, "service": {"kind": "exponential", "mean_ms": 16}},
        "links": {"access": {"latency": {"kind": "constant", "ms": 0}}},
    }
    return scenario | changes


def run(data: dict[str, object], **options: object) -> FleetResult:
    return simulate(parse_scenario(data), **({"backend": "serial"} | options))  # type: ignore[arg-type]


def assert_same(one: Stats, other: Stats) -> None:
    for name in Stats.__slots__:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.fixture
def everything() -> Scenario:
    """A small fleet with everything in it that does not feed back."""
    service = {"kind": "lognormal", "p50_ms": 10, "p99_ms": 40}
    profile = {
        "service": service,
        "idle_mw": 1,
        "active_mw": 200,
        "radio_uj_per_message": 300,
        "battery": {"capacity_mwh": 0.05, "spread": 0.5},
        "trigger": {"pass_share": 0.8, "wake_ms": 4, "awake_ms": 20},
    }
    return parse_scenario(
        {
            "duration_s": 30,
            "endpoints": [
                {
                    "name": "camera",
                    "count": 60,
                    "profile": profile,
                    "arrivals": {"kind": "poisson", "rate_hz": 3},
                    "deadline_ms": 300,
                    "churn": {"online_s": 10, "offline_s": 2},
                    "mobility": {"dwell_s": 5},
                },
                {
                    "name": "sensor",
                    "count": 40,
                    "profile": {"service": service},
                    "arrivals": {"kind": "periodic", "period_ms": 200, "jitter_ms": 30},
                    "policy": {"name": "Budgeted", "policy": {"name": "Threshold", "threshold": 0.9}, "share": 0.4},
                },
            ],
            "edge_nodes": {"count": 12, "service": service, "batching": {"max_batch": 4}, "max_queue": 20},
            "edge_servers": {"count": 2, "service": service, "failures": {"up_s": 5, "down_s": 1}},
            "links": {
                "access": {"latency": service, "loss": {"share": 0.05}},
                "uplink": {
                    "latency": service,
                    "bandwidth_kbit_s": 400,
                    "outages": {"up_s": 4, "down_s": 1},
                    "max_waiting": 6,
                    "breaker": {"failures": 2},
                },
            },
            "events": {
                "rate_hz": 10,
                "views": 2,
                "samples": 500,
                "faults": [
                    {"kind": "stuck", "at_s": 10},
                    {"kind": "dead", "view": 1, "share": 0.5, "at_s": 5, "to_s": 9},
                ],
            },
            "engine": {"cell_endpoints": 20},
        }
    )
