"""Figures of a run that a mix or an overload would make untrue: by class, busy shares, what leaves the device."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from escalade.cli.simulate.run import lines
from escalade.simulations.fleet import FleetResult
from escalade.simulations.fleet.energy import energy_j
from escalade.simulations.fleet.report import render
from escalade.simulations.fleet.report_charts import latency_cdf
from escalade.simulations.fleet.result import Hist
from escalade.simulations.fleet.summary import metrics, summary, time_series
from escalade.simulations.svg import Chart

from .conftest import run


def endpoint(name: str, count: int, rate_hz: float, threshold: float, **profile: Any) -> dict[str, Any]:
    return {
        "name": name,
        "count": count,
        "arrivals": {"kind": "poisson", "rate_hz": rate_hz},
        "policy": {"name": "Threshold", "threshold": threshold},
        "profile": {"service": {"kind": "constant", "ms": 9}, **profile},
    }


@cache
def mixed() -> FleetResult:
    """Watches that run on batteries and send little, and kiosks on mains that send much."""
    watch = endpoint("watch", 30, 2.0, 0.5, idle_mw=1, active_mw=30, battery={"capacity_mwh": 0.01, "spread": 0.5})
    watch["churn"] = {"online_s": 20, "offline_s": 5}
    kiosk = endpoint("kiosk", 5, 4.0, 0.9, idle_mw=900, active_mw=2000)
    return run({"duration_s": 60, "endpoints": [watch, kiosk], "edge_nodes": {"count": 2}})


@cache
def drowned() -> FleetResult:
    """Endpoints with nearly twice the work they can do; it is drained after the end of the run."""
    return run({"duration_s": 12, "endpoints": [endpoint("cam", 4, 200.0, 0.7)], "control": {"interval_s": 5}})


def test_each_class_has_figures_of_its_own() -> None:
    """They add up to those of the fleet, and do not mix what runs on batteries with what does not."""
    result = mixed()
    found, whole = summary(result)["classes"], summary(result)
    watch, kiosk = found["watch"], found["kiosk"]
    assert watch["requests"] + kiosk["requests"] == whole["requests"]
    assert watch["answered"] + kiosk["answered"] == whole["answered"]
    assert watch["energy_j"] + kiosk["energy_j"] == pytest.approx(energy_j(result)["endpoint"])
    assert kiosk["energy_mj_per_answer"] > 20 * watch["energy_mj_per_answer"]
    assert watch["local_share"] > kiosk["local_share"] + 0.1
    assert kiosk["battery"] is None
    assert watch["battery"] == whole["battery"]
    page = render(result)
    assert "Each class of endpoints" in page
    assert "Each class of endpoints" not in render(drowned())


def test_the_terminal_shows_classes_batteries_and_who_was_not_there() -> None:
    """A row for each class; deaths, life and inputs that nobody saw in words; no line wider than 90."""
    result = mixed()
    assert result.devices is not None
    text = lines(result)[1:]
    rows = [line.split() for line in text]
    kiosk = next(row for row in rows if row[:1] == ["kiosk"])
    assert kiosk[1] == f"{summary(result)['classes']['kiosk']['requests']:,}"
    assert any(f"batteries: {int(np.isfinite(result.devices['died_s']).sum())} of 30 empty" in line for line in text)
    assert any("% offline" in line and "% battery empty" in line for line in text)
    assert max(map(len, text)) <= 90
    assert not any("batteries" in line or "offline" in line for line in lines(drowned()))


def test_battery_life_is_a_figure_of_sweeps_and_comparisons() -> None:
    """Where there are batteries, and only there."""
    found = metrics(mixed())
    assert 0 < found["battery_life_p1_h"] <= found["battery_life_p50_h"]
    assert not any(name.startswith("battery") for name in metrics(drowned()))


def test_busy_is_never_more_than_the_time_there_was() -> None:
    """Work that is drained after the end does not count, so that the summary says what the series say."""
    result = drowned()
    busy, series = result.utilisation(), time_series(result)
    assert result.stats.count[14] > 1.5 * 4 * 12e9  # the work in all
    assert 0.97 < busy["endpoint"] <= 1.0
    assert np.nanmax(series["utilisation_endpoint"]) <= 1.0
    mean = np.nansum(series["utilisation_endpoint"] * series["length_s"]) / 12
    assert busy["endpoint"] == pytest.approx(mean, rel=0.02)


def test_the_page_does_not_say_that_nothing_leaves_a_device_that_sent_in_vain() -> None:
    """What was sent up and then answered below is said."""
    late = endpoint("cam", 4, 20.0, 0.7) | {"escalation": {"timeout_ms": 1}}
    vain = run({"duration_s": 5, "endpoints": [late], "links": {"access": {"latency": {"kind": "constant", "ms": 5}}}})
    assert vain.degraded_share > 0.2
    assert f"{100 * vain.degraded_share:.2f} % of all were sent up as well" in render(vain)
    assert "nothing leaves the device" in render(run({"duration_s": 5, "endpoints": [endpoint("cam", 4, 5, 0)]}))


@pytest.mark.parametrize("limits", [(0.1, 200.0), (20.0, 60_000.0), (1e-4, 1e7), (450.0, 52_000.0), (1e5, 1e6)])
@pytest.mark.parametrize("log", [True, False])
def test_labels_of_an_axis_do_not_lie_on_each_other(limits: tuple[float, float], log: bool) -> None:
    """However long they are; and those of the other axis leave room for its name."""
    drawn = Chart(limits, (0.0, limits[1] * 3e-9), "x", "y", log, (False, False), width=470).render("")
    found = re.findall(r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]+)<', drawn)
    below = [(float(x), 6.7 * len(text)) for x, anchor, text in found if anchor == "middle"]
    assert len(below) >= 2
    assert all(b - b_wide / 2 > a + a_wide / 2 for (a, a_wide), (b, b_wide) in pairwise(below))
    assert all(float(x) - 6.7 * len(text) > 22 for x, anchor, text in found if anchor == "end")


def test_the_distribution_is_level_where_no_time_lies() -> None:
    """Half of the times near 1 ms, half near 100: the line rises at these two places alone."""
    fast, slow = endpoint("fast", 5, 5.0, 0), endpoint("slow", 5, 5.0, 0)
    fast["profile"]["service"]["ms"], slow["profile"]["service"]["ms"] = 1, 100
    drawn = latency_cdf(run({"duration_s": 20, "endpoints": [fast, slow]}), [Hist.LOCAL], ["p0"], "ms")
    (points,) = re.findall(r'<polyline class="line p0" points="([^"]+)"', drawn)
    places = [tuple(map(float, one.split(","))) for one in points.split()]
    slopes = [(b[0] - a[0], a[1] - b[1]) for a, b in pairwise(places)]
    assert max(rise for _, rise in slopes) > 60
    assert all(along < 3 for along, rise in slopes if rise > 2)


def test_what_each_class_sends_up_stands_at_its_arrow() -> None:
    """And what all send, which is a mix of them, below the edge nodes."""
    page = render(mixed())
    for one in summary(mixed())["classes"].values():
        assert f">{100 * (1 - one['local_share']):.1f} % up<" in page
    assert "% sent up, of all<" in page


def test_a_link_that_is_given_more_than_it_can_send_is_seen() -> None:
    """Bytes over bandwidth and time, above 1 where they pile up; nothing is said of a hop without a limit."""
    uplink = {"bandwidth_kbit_s": 8, "latency": {"kind": "constant", "ms": 5}}
    one = endpoint("cam", 20, 5.0, 0.9)
    slow = run({"duration_s": 20, "endpoints": [one], "edge_nodes": {"count": 2}, "links": {"uplink": uplink}})
    found = summary(slow)["link_load"]
    assert found["access"] is None
    assert found["uplink"] == pytest.approx(slow.stats.count[13] * 8 / (2 * 8000 * 20), rel=0.02)
    assert found["uplink"] > 1
    assert f"{100 * found['uplink']:.1f} %" in render(slow)
    assert any(f"uplink {100 * found['uplink']:.1f} %" in line for line in lines(slow))
    assert not any("bandwidth" in line for line in lines(drowned()))


def test_a_run_that_answered_nothing_shows_no_empty_charts_and_no_nan() -> None:
    """The page says so and keeps the scenario; what is not known is a dash on the terminal."""
    one = endpoint("cam", 2, 5.0, 0.7, trigger={"pass_share": 1e-9, "wake_ms": 1, "awake_ms": 1})
    silent = run({"duration_s": 5, "endpoints": [one]})
    page = render(silent)
    assert silent.answered == 0
    assert "<svg" not in page
    assert "Nothing was answered" in page
    assert not any("nan" in line for line in lines(silent))
    assert any("100.0 % filtered" in line for line in lines(silent))
