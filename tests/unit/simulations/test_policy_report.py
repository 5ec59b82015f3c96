"""The page about policies: whole, self-contained, and the same figures as the numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from escalade.policies import MAX_PROB, AlwaysEscalate, Threshold, Trace, softmax
from escalade.simulations.evaluate import Conditions, compare, evaluate
from escalade.simulations.policy_report import best_pairs, render
from escalade.simulations.svg import Chart, span

VOID = {"meta", "link", "br", "img"}


def trace(tiers: int = 3, rows: int = 300) -> Trace:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, rows)
    logits = [(t + 1) * np.eye(4)[labels] + rng.normal(size=(rows, 4)) for t in range(tiers)]
    return Trace.of([softmax(z) for z in logits], labels, logits=logits, costs=(0.01, 0.1, 1.0)[-tiers:])


class Nesting(HTMLParser):
    """Raises when a tag is closed that is not the last opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(data: Trace, *thresholds: float, name: str = "mine") -> str:
    found = [evaluate(data, Threshold(t), name=f"{name} {t}") for t in thresholds]
    return render(data, Conditions(), found, compare(found) if len(found) > 1 else [], source="t.npz", alpha=0.02)


@pytest.mark.parametrize("tiers", [2, 3])
@pytest.mark.parametrize("thresholds", [(0.7,), (0.5, 0.7, 0.9)])
def test_the_page_is_whole_and_loads_nothing(tiers: int, thresholds: tuple[float, ...]) -> None:
    """Tags nest, every chart is well-formed, and no address of anything else stands in it."""
    text = page(trace(tiers), *thresholds)
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []
    charts = re.findall(r"<svg viewBox.*?</svg>", text, re.S)
    assert len(charts) == 3 + tiers
    for chart in charts:
        ET.fromstring(chart)
    assert not re.search(r"https?:|src=|<script|@import|url\((?!#)", text)
    assert "nan" not in re.sub(r"<title>.*?</title>", "", text)


def test_the_figures_are_those_of_the_evaluation() -> None:
    """Accuracy and cost stand in the table as they were measured."""
    data = trace()
    found = evaluate(data, Threshold(0.7), name="mine 0.7")
    text = page(data, 0.7)
    assert f"{100 * found.accuracy:.1f} %" in text
    assert f"{found.relative_cost:.4f}" in text


def test_names_are_escaped() -> None:
    """A policy cannot write into the page."""
    text = page(trace(), 0.7, name="<script>alert(1)</script>&")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_energy_is_left_out_where_there_are_no_logits() -> None:
    """Only scores that the trace can give have a line."""
    data = trace()
    bare = Trace.of(data.posteriors, data.labels, costs=data.costs)
    assert "threshold on energy" in page(data, 0.7)
    assert "threshold on energy" not in page(bare, 0.7)


@pytest.mark.parametrize("tiers", [2, 3])
def test_the_best_thresholds_are_reached_by_thresholds(tiers: int) -> None:
    """No threshold, or pair of them, from the grid is above the line, and every corner of it is one."""
    data = trace(tiers, rows=60)
    cost, accuracy = best_pairs(data, MAX_PROB)
    assert (np.diff(cost) > 0).all()
    assert (np.diff(accuracy) > 0).all()
    grids = [np.append(np.quantile(data.score(t), np.linspace(0, 1, 7)), np.inf) for t in range(tiers - 1)]
    pairs = [[a] for a in grids[0]] if tiers == 2 else [[a, b] for a in grids[0] for b in grids[1]]
    for pair in pairs:
        found = evaluate(data, [Threshold(float(t)) for t in pair], Conditions(resamples=2))
        best = accuracy[cost <= found.relative_cost + 0.02]
        assert best[-1] >= found.accuracy - 0.05
    everything = evaluate(data, AlwaysEscalate(), Conditions(resamples=2))
    assert accuracy[-1] >= everything.accuracy


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.871, 0.9322), (-0.003, 0.021), (3.0, 5000.0)])
def test_ticks_lie_within_the_axes_and_are_told_apart(limits: tuple[float, float]) -> None:
    """At least three on each axis, no two with the same text."""
    for percent in (True, False):
        text = Chart(limits, limits, "x", "y", percent=(percent, percent)).render("d")
        ticks = re.findall(r'<text class="tick"[^>]*text-anchor="end">([^<]*)</text>', text)
        assert len(ticks) >= 3
        assert len(set(ticks)) == len(ticks)


def test_a_range_has_room_and_a_least_width() -> None:
    """One value, or none, still makes an axis."""
    low, high = span([0.9], 0.02)
    assert (low, high) == pytest.approx((0.89, 0.91))
    assert span([])[0] < 0
