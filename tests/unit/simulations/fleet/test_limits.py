"""Scenarios that no machine could run are one line before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from escalade.simulations.fleet import load_scenario, parse_scenario, simulate
from escalade.simulations.fleet.capacity import scaled
from escalade.tiers.errors import ConfigError

SMALL = """\
duration_s: 20
endpoints:
  - {name: cam, count: 20, arrivals: {kind: poisson, rate_hz: 2}}
edge_nodes: {count: 2}
"""
UP_DOWN = "{up_s: 1e-9, down_s: 1e-9}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("edge_nodes.count=1000000000000", "edge_nodes.count: needs more than"),
        ("endpoints.0.count=1000000000000", "endpoints.0.count: needs more than"),
        ("duration_s=1e12", "duration_s: 1e+12 s are more than can be simulated: give 1e+09 or less"),
        ("endpoints.0.arrivals.rate_hz=1e12", "endpoints.0.arrivals.rate_hz: about 4.0e+14 inputs are more"),
        (
            "endpoints.0.arrivals={kind: periodic, period_ms: 1e-9}",
            "arrivals.period_ms: about 4.0e+14 inputs",
        ),
        ("endpoints.0.arrivals={kind: daily, rate_hz: [1], day_s: 1e-12}", "arrivals.day_s: needs more than"),
        ("endpoints.0.churn={online_s: 1e-9, offline_s: 1e-9}", "endpoints.0.churn: needs more than"),
        ("control.interval_s=1e-9", "control.interval_s: needs more than"),
        (f"links.uplink.outages={UP_DOWN}", "links.uplink.outages: needs more than"),
        (f"edge_servers.failures={UP_DOWN}", "edge_servers.failures: needs more than"),
        ("edge_nodes={count: 1000000, workers: 100000}", "edge_nodes.workers: needs more than"),
    ],
)
def test_what_no_machine_could_run_is_refused_with_its_key(
    override: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, whatever this machine's memory; the place it was written at is named."""
    monkeypatch.setattr("escalade.simulations.fleet.limits.memory_bytes", lambda: 64 * 2**30)
    (tmp_path / "small.yaml").write_text(SMALL)
    with pytest.raises(ConfigError) as caught:
        load_scenario(tmp_path / "small.yaml", [override])
    assert words in str(caught.value)
    assert str(caught.value).startswith("--set ")


def test_what_a_search_makes_too_big_is_refused_too() -> None:
    """A scenario that no file describes is looked at when it is run."""
    data: dict[str, Any] = {"endpoints": [{"name": "cam", "count": 1, "arrivals": {"kind": "poisson", "rate_hz": 1}}]}
    scenario = scaled(parse_scenario(data), "endpoints", 10**12)
    with pytest.raises(ConfigError, match=r"^endpoints\.0\.count: needs"):
        simulate(scenario)


def test_what_is_wrong_of_several_keys_together_has_its_line(tmp_path: Path) -> None:
    """A period after the end of the run is named where it stands."""
    outages = "links:\n  uplink:\n    outages: {periods: [{from_s: 5, to_s: 50}]}\n"
    (tmp_path / "long.yaml").write_text(SMALL + outages)
    with pytest.raises(ConfigError, match=r"long\.yaml:7: links\.uplink\.outages: a period ends at 50 s"):
        load_scenario(tmp_path / "long.yaml")
