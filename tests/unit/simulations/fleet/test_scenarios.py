"""The scenarios that ship: each can be run, says where its numbers come from, and shows what it is about."""

from __future__ import annotations

import numpy as np
import pytest

from escalade.simulations.fleet import check, load_scenario, simulate
from escalade.simulations.fleet.result import FleetResult
from escalade.simulations.fleet.shipped import find, first_line, shipped
from escalade.simulations.fleet.summary import time_series
from escalade.tiers.errors import ConfigError

SMALLER = {
    "smart-cameras": ["endpoints.camera.count=200", "edge_nodes.count=4", "duration_s=600"],
    "factory-line": ["duration_s=10"],
    "wearables-on-battery": ["endpoints.band.count=270", "endpoints.worn.count=30", "edge_nodes.count=6"],
    "flaky-uplink": ["endpoints.sensor.count=300", "edge_nodes.count=10"],
    "multi-view-line": ["duration_s=100", "events.faults.0.at_s=50", "events.faults.1.at_s=50"],
    "server-brownout": ["endpoints.client.count=2500", "edge_nodes.count=25", "edge_servers.workers=2"],
    "million-sensors": [
        *("endpoints.sensor.count=10000", "edge_nodes.count=100", "edge_servers.count=1", "edge_servers.workers=1"),
        "duration_s=120",
    ],
}


def run(name: str) -> FleetResult:
    return simulate(load_scenario(find(name), SMALLER[name]), seed=1)


def test_seven_ship() -> None:
    """With the names that the documents use."""
    assert set(shipped()) == set(SMALLER)


@pytest.mark.parametrize("name", SMALLER)
def test_each_says_what_it_is_and_where_its_numbers_come_from(name: str) -> None:
    """A sentence, then the sources; and nothing in it is unstable at its full size."""
    text = find(name).read_text()
    assert first_line(find(name)).endswith(".")
    assert "# Where the numbers come from\n" in text
    assert check(load_scenario(find(name))) == []


@pytest.mark.parametrize("name", SMALLER)
def test_each_runs_scaled_down(name: str) -> None:
    """To its end; all three tiers answer, and accuracy is above the lowest tier's own."""
    result = run(name)
    assert result.complete
    assert result.failure is None
    assert min(result.share.values()) > 0.01
    assert result.accuracy > result.scenario.scores.accuracy[0]


def test_the_cameras_show_what_fusing_is_worth() -> None:
    """Better than one camera before any fails, hardly worse after; and the health check has found those that did."""
    result = run("multi-view-line")
    before, after = time_series(result)["fused_accuracy"][:5].mean(), time_series(result)["fused_accuracy"][6:10].mean()
    assert before > 0.85
    assert after > before - 0.06
    assert result.unhealthy is not None
    assert result.unhealthy["stuck"] == 4
    assert result.unhealthy.get("silent", 0) > 0


def test_the_wearables_show_empty_batteries() -> None:
    """Some of the worn ones die, none of the others."""
    result = run("wearables-on-battery")
    assert result.devices is not None
    died = np.isfinite(result.devices["died_s"])
    fresh = result.devices["device"] < 270
    assert not died[fresh].any()
    assert 0 < died[~fresh].sum() < 30


def test_a_name_that_is_no_scenario_is_one_line() -> None:
    """It lists those that ship."""
    with pytest.raises(ConfigError, match=r"smart-camera: no such file, and no shipped scenario.*smart-cameras"):
        find("smart-camera")
