"""What queueing theory says, the engine finds."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
import pytest

from escalade.simulations.fleet.result import Count, Hist, Series

from .conftest import queueing, run

RATE_HZ, SERVICE_S = 50.0, 0.016


def erlang_c(servers: int, load: float) -> float:
    """Return the share of customers that wait in M/M/c (Erlang 1917); `load` in erlangs."""
    waiting = load**servers / factorial(servers) / (1 - load / servers)
    return waiting / (sum(load**k / factorial(k) for k in range(servers)) + waiting)


@pytest.mark.parametrize("servers", [1, 2, 4, 16])
def test_the_mean_wait_is_that_of_erlang_c(servers: int) -> None:
    """For 1, 2, 4 and 16 workers at 80 % utilisation, within a few standard errors."""
    service = {"kind": "exponential", "mean_ms": SERVICE_S * 1e3 * servers}
    nodes = {"policy": {"name": "AlwaysAccept"}, "service": service, "workers": servers}
    result = run(queueing(edge_nodes=nodes))
    load = RATE_HZ * SERVICE_S * servers
    expected_s = erlang_c(servers, load) * SERVICE_S * servers / (servers - load)
    found_s = result.stats.count[Count.WAIT_NS_1] / result.stats.count[Count.SERVED_1] / 1e9
    assert found_s == pytest.approx(expected_s, rel=0.06)
    assert result.utilisation()["edge_node"] == pytest.approx(0.8, abs=0.01)


def test_littles_law_holds() -> None:
    """The mean number in the tier, by sampling the requests' times, is rate times mean time in it."""
    result = run(queueing(duration_s=1000.0), keep_requests=True)
    table = result.requests_table
    assert table is not None
    arrived, ended = np.sort(table["arrived_ns"]), np.sort(table["ended_ns"])
    moments = np.linspace(0, 1000e9, 200_001)
    inside = np.searchsorted(arrived, moments, "right") - np.searchsorted(ended, moments, "right")
    mean_s = (table["ended_ns"] - table["arrived_ns"]).mean() / 1e9
    assert inside.mean() == pytest.approx(len(arrived) / 1000 * mean_s, rel=0.01)


def test_full_batches_raise_what_a_worker_can_do() -> None:
    """A node that would be at twice its limit is stable with batches of 8 that take 1.7 times as long each eighth."""
    nodes = {"policy": {"name": "AlwaysAccept"}, "service": {"kind": "constant", "ms": 40}}
    alone = run(queueing(edge_nodes=nodes, duration_s=200.0))
    shared = run(queueing(edge_nodes=nodes | {"batching": {"max_batch": 8, "each_more": 0.1}}, duration_s=200.0))
    assert any("edge_nodes: utilisation 2.0" in one for one in alone.warnings)
    assert not shared.warnings
    last = alone.stats.series[19]
    assert last[Series.WAIT_NS_1] / max(1, last[Series.ARRIVED]) > 20e9
    assert shared.stats.count[Count.WAIT_NS_1] / shared.stats.count[Count.SERVED_1] < 0.1e9


def test_rates_of_arrivals_are_those_asked_for() -> None:
    """Poisson, periodic, daily and bursts, each within its sampling error."""
    for arrivals, rate in (
        ({"kind": "poisson", "rate_hz": 0.5}, 0.5),
        ({"kind": "periodic", "period_ms": 4000, "jitter_ms": 1000}, 0.25),
        ({"kind": "daily", "rate_hz": [0.1, 0.9], "day_s": 200}, 0.5),
        ({"kind": "bursts", "rate_hz": 0.1, "burst_rate_hz": 1.0, "quiet_s": 8, "burst_s": 2}, 0.28),
    ):
        one: Any = queueing()["endpoints"]
        endpoints = [one[0] | {"arrivals": arrivals, "policy": {"name": "AlwaysAccept"}}]
        result = run(queueing(duration_s=1000.0, endpoints=endpoints))
        assert result.requests / 1000 / 500 == pytest.approx(rate, rel=0.15 if arrivals["kind"] == "bursts" else 0.01)


def test_an_answer_may_take_another_time_than_its_question() -> None:
    """`latency` is the way up, `latency_down` the way back: from an endpoint that takes no time, 5 + 2 + 11 ms."""
    constant = {"kind": "constant", "ms": 2}
    access = {"latency": {"kind": "constant", "ms": 5}, "latency_down": {"kind": "constant", "ms": 11}}
    nodes = {"policy": {"name": "AlwaysAccept"}, "service": constant, "workers": 100}
    found = run(queueing(edge_nodes=nodes, links={"access": access}, duration_s=20.0))
    assert found.latency_ms(Hist.ACCESS)["p50"] == pytest.approx(5.0, rel=0.02)
    assert found.latency_ms(Hist.EDGE_NODE)["p99"] == pytest.approx(18.0, rel=0.02)
