"""What a run writes: figures that agree with each other, series with units, a page that is whole."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.simulations.fleet import FleetResult, parse_scenario, simulate
from escalade.simulations.fleet.energy import energy_j
from escalade.simulations.fleet.output import remove_old, write
from escalade.simulations.fleet.recovery import faults
from escalade.simulations.fleet.report import render
from escalade.simulations.fleet.summary import summary, time_series

OUTAGE = {"from_s": 40, "to_s": 60}


@cache
def result(*, stopped: bool = False, battery: bool = False) -> FleetResult:
    """A small fleet whose uplink is down from second 40 to 60; its batteries last about half the run."""
    profile: dict[str, Any] = {
        "service": {"kind": "constant", "ms": 5.0},
        "idle_mw": 10.0,
        "active_mw": 110.0,
        "radio_nj_per_byte": 1000.0,
        "radio_uj_per_message": 500.0,
    }
    if battery:
        profile["battery"] = {"capacity_mwh": 0.2, "spread": 0.5}
    scenario = parse_scenario(
        {
            "name": "<small> & odd",
            "duration_s": 120,
            "control": {"interval_s": 5},
            "engine": {"window_s": 10},
            "endpoints": [
                {
                    "name": "a",
                    "count": 40,
                    "profile": profile,
                    "arrivals": {"kind": "poisson", "rate_hz": 2.0},
                    "deadline_ms": 400,
                }
            ],
            "edge_nodes": {"count": 2},
            "links": {"uplink": {"latency": {"kind": "constant", "ms": 15}, "outages": {"periods": [OUTAGE]}}},
        }
    )
    return simulate(scenario, seed=3, backend="serial", stop=lambda: stopped)


def test_the_summary_holds_what_is_promised_and_is_strict_json() -> None:
    """Every promised key is there, and nan is null."""
    found = json.loads(json.dumps(summary(result()), allow_nan=False))
    promised = {"hash", "requests", "wall_s", "cpu_s", "peak_rss_mb", "share", "accuracy", "latency_ms", "scenario"}
    assert promised <= set(found)
    assert set(found["share"]) == {"endpoint", "edge_node", "edge_server"}
    assert found["latency_ms"]["endpoint"]["p50"] == pytest.approx(5.0, rel=0.02)
    assert found["latency_ms"]["edge_server"]["p99"] > found["latency_ms"]["edge_server"]["p50"]
    assert sum(found["share"].values()) == pytest.approx(1.0)
    assert found["versions"]["escalade"]


def test_the_series_add_up_to_the_summary() -> None:
    """Arrivals, answers, bytes and busy time of all intervals are those of the run."""
    one = result()
    found, series = summary(one), time_series(one)
    assert series["arrived"].sum() == found["requests"]
    assert sum(series[f"answered_{tier}"].sum() for tier in found["share"]) == found["answered"]
    sent = np.nansum(series["uplink_bytes_per_s"] * series["length_s"])
    assert sent == pytest.approx(found["bytes"]["uplink"], rel=0.02)  # but for the row after the end
    busy = np.nansum(series["utilisation_endpoint"] * series["length_s"]) / one.simulated_s
    assert busy == pytest.approx(found["utilisation"]["endpoint"], rel=0.02)


def test_energy_is_power_times_time_and_bytes() -> None:
    """Idling for the whole run, computing above it, and each message with its bytes."""
    one = result()
    found = energy_j(one)
    row = one.stats.by_class[0]
    served, sent = row[5], row[8]
    assert found["endpoint_idle"] == pytest.approx(0.010 * 120 * 40)
    assert found["endpoint_compute"] == pytest.approx(0.100 * 0.005 * served)
    assert found["endpoint_radio"] == pytest.approx(sent * (500e-6 + 784 * 1e-6))
    assert found["endpoint"] == pytest.approx(sum(found[f"endpoint_{part}"] for part in ("idle", "compute", "radio")))


def test_a_dead_battery_has_given_what_it_held() -> None:
    """The energy of devices that died is their capacity: what is counted and what is simulated agree."""
    one = result(battery=True)
    assert one.devices is not None
    assert np.isfinite(one.devices["died_s"]).all()
    total = energy_j(one)["endpoint"]
    held = 0.75 * 0.2 * 3.6 * 40  # half of them above, half below the middle of the spread
    assert total == pytest.approx(held, rel=0.15)
    found = summary(one)["battery"]
    assert found["died"] == 40
    assert found["life_p1_h"] <= found["life_p50_h"] <= 120 / 3600


def test_an_outage_is_felt_and_recovered_from() -> None:
    """Answers are degraded while it lasts and as before soon after."""
    (one,) = faults(result().scenario, time_series(result()))
    assert (one.what, one.from_s, one.to_s) == ("links.uplink.outages", 40, 60)
    assert one.degraded_peak > 0.1
    assert 0.0 <= one.recovered_s <= 15.0


def test_everything_is_written_and_nothing_old_stays(tmp_path: Path) -> None:
    """The files are there; a CSV row for each interval with its unit in the heads."""
    (tmp_path / "report.html").write_text("old")
    remove_old(tmp_path)
    assert not list(tmp_path.iterdir())
    names = {file.name for file in write(result(), tmp_path, {"more": 1})}
    assert {"summary.json", "series.csv", "report.html"} <= names
    assert json.loads((tmp_path / "summary.json").read_text())["more"] == 1
    rows = list(csv.DictReader((tmp_path / "series.csv").read_text().splitlines()))
    assert len(rows) == 120 / 5 + 1
    assert float(rows[3]["time_s"]) == 15.0
    assert rows[-1]["requests_per_s"] == ""
    assert all(re.search(r"_(s|ms|per_s)$|^(share|answered|utilisation|waiting)_|^\w+$", name) for name in rows[0])


def test_parquet_holds_the_same_series(tmp_path: Path) -> None:
    """Where pyarrow is installed."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'escalade[parquet]'")
    write(result(), tmp_path)
    table = parquet.read_table(tmp_path / "series.parquet")
    assert table.column("arrived").to_pylist() == time_series(result())["arrived"].tolist()


@pytest.mark.parametrize("battery", [False, True])
def test_the_page_is_whole_and_loads_nothing(battery: bool) -> None:
    """Every chart is well-formed, names are escaped, no address of anything else stands in it."""
    page = render(result(battery=battery))
    charts = re.findall(r"<svg (?:class=\"topology\" )?viewBox.*?</svg>", page, re.S)
    assert len(charts) >= 9 + 2 * battery
    for chart in charts:
        ET.fromstring(chart)
        assert "nan" not in chart
    assert "&lt;small&gt; &amp; odd" in page
    assert "<small>" not in page
    assert not re.search(r"https?:|src=|<script|@import|url\((?!#)", page)
    assert ("battery life" in page) == battery


def test_a_run_that_was_stopped_says_so() -> None:
    """Its series end where it ended, and the page names both times."""
    one = result(stopped=True)
    assert not one.complete
    assert one.simulated_s == 10
    series = time_series(one)
    assert series["time_s"][-1] == one.simulated_s
    assert series["arrived"].sum() == one.requests
    assert "Interrupted after" in render(one)
