"""Sweeps: grids, intervals, paired differences, the Pareto front; and the search for capacity."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.simulations.fleet import parse_scenario, simulate
from escalade.simulations.fleet.capacity import Trial, in_time, least, most, scaled
from escalade.simulations.fleet.sweep import GOALS, Estimate, Outcome, Point, differences, front, grid
from escalade.simulations.fleet.sweep_report import render
from escalade.tiers.errors import ConfigError

SCENARIO = parse_scenario(
    {
        "duration_s": 30,
        "endpoints": [
            {"name": "a", "count": 30, "arrivals": {"kind": "poisson", "rate_hz": 1.0}},
            {"name": "b", "count": 10, "arrivals": {"kind": "poisson", "rate_hz": 1.0}},
        ],
        "edge_nodes": {"count": 2},
    }
)


def point(name: str, *runs: tuple[float, float, float, float]) -> Point:
    one = Point((f"k={name}",), SCENARIO)
    for seed, values in enumerate(runs):
        one.add(seed, Outcome(dict(zip(GOALS, values, strict=True)), f"{seed:016x}"))
    return one


def test_a_grid_is_every_combination_of_yaml_values() -> None:
    """Numbers, lists and mappings stay what they are; the last axis is fastest."""
    assert grid(["a.b=1,2", "c=[x, y],{z: 1}"]) == [
        ("a.b=1", "c=[x, y]"),
        ("a.b=1", "c={z: 1}"),
        ("a.b=2", "c=[x, y]"),
        ("a.b=2", "c={z: 1}"),
    ]


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=[1"])
def test_a_grid_that_cannot_be_read_is_one_line(text: str) -> None:
    """It names the option and shows the form."""
    with pytest.raises(ConfigError, match=re.escape(f"--grid {text}: write it as key=v1,v2")):
        grid([text])


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (["a=" + ",".join(map(str, range(1000))), "b=" + ",".join(map(str, range(1000)))], "--grid: 1,000,000 points"),
        (["a=1,2,1"], "--grid a: a=1 stands twice; keep one"),
    ],
)
def test_a_grid_that_is_too_big_or_has_a_point_twice_is_one_line(axes: list[str], words: str) -> None:
    """Before it is written out."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        grid(axes)


def test_an_interval_is_student_t() -> None:
    """Five values with mean 3 and deviation 1.58: t(4) is 2.776. One value has no interval."""
    found = Estimate.of([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.high - found.mean == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert math.isnan(Estimate.of([1.0]).low)


def test_differences_are_paired_by_seed() -> None:
    """What seeds have in common cancels: the interval is that of the differences."""
    a = point("a", (0.5, 10, 1, 1), (0.9, 90, 1, 1), (0.7, 50, 1, 1))
    b = point("b", (0.6, 12, 1, 1), (1.0, 92, 1, 1), (0.8, 52, 1, 1))
    found = differences(a, b)
    assert found["accuracy"].mean == pytest.approx(0.1)
    assert found["latency_p99_ms"].low == pytest.approx(2.0)
    assert found["accuracy"].sure


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(places: list[tuple[int, int, int, int]]) -> None:
    """A point is off the front exactly when another is as good in all goals and better in one."""
    points = [point(str(k), place) for k, place in enumerate(map(tuple, places))]  # type: ignore[arg-type]
    signed = [[sign * value for sign, value in zip(GOALS.values(), place, strict=True)] for place in places]
    for mine, kept in zip(signed, front(points), strict=True):
        beaten = any(all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine for other in signed)
        assert kept == (not beaten)


def test_a_point_whose_runs_failed_is_shown_and_not_on_the_front() -> None:
    """The page says what went wrong and holds the others' charts."""
    good, bad = point("good", (0.9, 10, 1, 1), (0.8, 11, 1, 1)), Point(("k=bad",), SCENARIO)
    bad.add(0, Outcome({}, "", "it raised"))
    assert front([good, bad]) == [True, False]
    page = render([good, bad])
    assert "k=bad: seed 0: it raised" in page
    assert page.count('<svg viewBox="0 0 470 310"') == 3
    assert "nan" not in page


@given(limit=st.integers(0, 5000), first=st.integers(1, 10_000))
def test_bisection_finds_where_the_objective_breaks(limit: int, first: int) -> None:
    """The greatest that is kept and the least that is not lie on either side of the limit, 2 % apart or 1."""

    def trial(size: int) -> Trial:
        return Trial(size, 0.0, size <= limit)

    good, bad = most(trial, first)
    assert bad is not None
    assert good <= limit < bad
    assert bad - good <= max(1, 0.02 * bad)


def test_an_objective_that_never_breaks_ends_the_search() -> None:
    """After three sizes that the endpoints keep alone; and at the limit where others are needed too."""
    tried: list[int] = []

    def trial(size: int, *, alone: bool) -> Trial:
        tried.append(size)
        return Trial(size, 0.6, True, alone)

    assert most(lambda size: trial(size, alone=True), 20) == (80, None)
    assert tried == [20, 40, 80]
    assert most(lambda size: trial(size, alone=False), 20, limit=300) == (300, None)


@given(needed=st.integers(1, 300))
def test_the_least_number_of_workers_is_found(needed: int) -> None:
    """Exactly; and none when even the most are too few."""
    assert least(lambda size: Trial(size, 0.0, size >= needed), 256) == (needed if needed <= 256 else None)


def test_scaling_keeps_the_classes_proportions() -> None:
    """And the workers of one station change alone."""
    assert [one.count for one in scaled(SCENARIO, "endpoints", 400).endpoints] == [300, 100]
    assert scaled(SCENARIO, "server_workers", 9).edge_servers.workers == 9
    assert scaled(SCENARIO, "edge_workers", 9).edge_nodes.workers == 9


def test_in_time_is_what_the_requests_say() -> None:
    """From the histograms, to the width of a bin, the share that the requests themselves give."""
    result = simulate(SCENARIO, backend="serial", keep_requests=True)
    table = result.requests_table
    assert table is not None
    for slo_ms in (9.0, 20.0, 60.0):
        answered = table["tier"] >= 0
        ok = answered & (table["reason"] == 0) & (table["ended_ns"] - table["arrived_ns"] <= slo_ms * 1e6)
        assert in_time(result, slo_ms) == pytest.approx(ok.sum() / answered.sum(), abs=0.02)
    assert in_time(result, np.inf) == pytest.approx(1 - result.degraded_share)
