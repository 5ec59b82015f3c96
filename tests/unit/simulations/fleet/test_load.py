"""What `check` says of load: tiers and links that get more than they can do, at mean rates and at peaks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from escalade.simulations.fleet import check, parse_scenario
from escalade.simulations.fleet.compiled import World


def fleet(count: int = 200, nodes: int = 10, rate_hz: float = 2.0, **changes: Any) -> dict[str, Any]:
    """Cameras in front of a server with one worker of 12 ms."""
    arrivals = {"kind": "poisson", "rate_hz": rate_hz}
    server = {"count": 1, "workers": 1, "service": {"kind": "constant", "ms": 12}}
    return {
        "duration_s": 60.0,
        "endpoints": [{"name": "cam", "count": count, "arrivals": arrivals, "escalation": {"timeout_ms": 1e7}}],
        "edge_nodes": {"count": nodes, "escalation": {"timeout_ms": 1e7}},
        "edge_servers": server,
    } | changes


def utilisation(warnings: list[str], place: str) -> float:
    """Return the number that the only warning names."""
    (text,) = warnings
    match = re.match(rf"{re.escape(place)}: utilisation ([\d.]+)", text)
    assert match, text
    return float(match[1])


def test_what_the_server_gets_is_what_nodes_send_on_of_what_endpoints_sent() -> None:
    """An overloaded server behind two thresholds is found: samples that are hard for one are hard for the other."""
    scenario = parse_scenario(fleet())
    first, second = (table.score < 0.8 for table in World.of(scenario).tables[:2])
    said = utilisation(check(scenario), "edge_servers")
    assert said >= 1.0
    assert said == pytest.approx(400 * (first & second).mean() * 0.012, rel=0.05)


def test_a_tier_passes_on_no_more_than_it_can_do() -> None:
    """Two nodes of 4 ms saturate and send everything on: 500 a second, six times what a server of 12 ms can do."""
    nodes = {"count": 2, "service": {"kind": "constant", "ms": 4}, "policy": {"name": "AlwaysEscalate"}}
    first, second = check(parse_scenario(fleet(count=2000, edge_nodes=nodes)))
    assert utilisation([first], "edge_nodes") > 3
    assert second.startswith("edge_servers: utilisation up to 6.00")


def test_a_link_that_gets_more_than_its_bandwidth_is_named() -> None:
    """Each hop, with a number that follows from bytes and rate: 10 links of 40 kbit/s carry 64 messages a second."""
    servers = {"count": 1, "workers": 8}
    always = {"name": "AlwaysEscalate"}
    nodes = {"count": 10, "policy": always}
    slow = {"bandwidth_kbit_s": 40}
    for hop in ("access", "uplink"):
        data = fleet(edge_servers=servers, edge_nodes=nodes, links={hop: slow})
        data["endpoints"][0]["policy"] = always
        said = utilisation(check(parse_scenario(data)), f"links.{hop}")
        assert said == pytest.approx(200 * 2 * 784 * 8 / (10 * 40e3), abs=0.01)


@pytest.mark.parametrize(
    "arrivals",
    [
        {"kind": "daily", "rate_hz": [1, 1, 1, 200], "day_s": 60},
        {"kind": "bursts", "rate_hz": 1, "burst_rate_hz": 200, "quiet_s": 50, "burst_s": 1},
    ],
)
def test_a_peak_that_is_too_much_is_named_with_its_rate(arrivals: dict[str, Any]) -> None:
    """Although the mean is bearable; and a part of the day that the run does not reach is no peak."""
    data = fleet(count=1, edge_servers={"workers": 8})
    data["endpoints"][0]["arrivals"] = arrivals
    (text,) = check(parse_scenario(data))
    assert re.match(r"endpoints 'cam': utilisation 1\.\d+ while endpoints 'cam' are at their peak of 200 Hz each", text)
    assert check(parse_scenario(data | {"duration_s": 40.0})) == [] or arrivals["kind"] == "bursts"
