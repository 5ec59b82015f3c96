"""The page about a sweep or a comparison: the table, and accuracy against latency, energy and bytes: `render`."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from escalade.simulations import html
from escalade.simulations.fleet.sweep import Estimate, Point, differences, front
from escalade.simulations.page import page
from escalade.simulations.svg import Chart, span

if TYPE_CHECKING:
    from collections.abc import Sequence

FOOTER = "Written by `escalade simulate`. Intervals are at 95 %, by Student's t over the seeds."
AXES = (
    ("latency_p99_ms", "latency p99, ms"),
    ("energy_mj_per_answer", "endpoints' energy an answer, mJ"),
    ("bytes_up_per_answer", "bytes up an answer"),
)
COLUMNS = {
    "accuracy": "accuracy",
    "latency_p50_ms": "p50, ms",
    "latency_p99_ms": "p99, ms",
    "energy_mj_per_answer": "mJ an answer",
    "bytes_up_per_answer": "bytes up",
    "share_endpoint": "at the endpoint",
    "share_edge_node": "at the edge node",
    "share_edge_server": "at the server",
    "degraded_share": "degraded",
    "late_share": "late",
    "battery_life_p1_h": "battery, worst 1 %, h",
    "battery_life_p50_h": "battery, median, h",
    "fused_accuracy": "events right",
    "fused_p99_ms": "events p99, ms",
    "fused_complete_share": "events complete",
}
SHARES = {name for name in COLUMNS if "share" in name or "accuracy" in name}


def render(points: Sequence[Point]) -> str:
    """Return the page."""
    on_front = front(points)
    seeds = max(len(one.runs) for one in points)
    facts = f"{len(points)} settings · {seeds} seed{'s' if seeds > 1 else ''}, the same for all"
    charts = [_chart(points, on_front, key, label) for key, label in AXES]
    failures = [f"{one.name}: {text}" for one in points for text in one.failures]
    sections = [
        *(f"<div class='say'>{escape(text)}</div>" for text in failures),
        html.section("Every setting", _table(points, on_front), "Means over the seeds with their 95 % intervals."),
        html.section(
            "Accuracy against what it takes",
            f"<div class='pair'>{''.join(charts)}</div>"
            + html.legend([("p0", "dot", "on the front"), ("single", "dot", "beaten by another")]),
            "Numbers are those of the table. On the front no other setting is as good in accuracy, p99, energy and "
            "bytes together, and better in one; a point may be on it for the sake of what another chart shows.",
        ),
        html.section(
            f"Differences from {points[0].name}",
            _differences(points),
            "Paired: every setting saw the same arrivals on each seed. Bold where the interval leaves out 0.",
        )
        if len(points) > 1
        else "",
    ]
    return page(points[0].scenario.name, facts, sections, FOOTER)


def _table(points: Sequence[Point], on_front: Sequence[bool]) -> str:
    columns, rows = _columns(points), []
    for number, (one, best) in enumerate(zip(points, on_front, strict=True), start=1):
        dot = f"<span class='dot {'p0' if best else 'single'}'></span>"
        found = one.estimates()
        cells = [_cell(name, found[name]) if name in found else "-" for name in columns]
        rows.append([str(number), f"{dot}{escape(one.name)}", *cells])
    return html.table(["", "setting", *columns.values()], rows)


def _columns(points: Sequence[Point]) -> dict[str, str]:
    """Return the columns that some point has."""
    known = {name for one in points for run in one.runs.values() for name in run}
    return {name: text for name, text in COLUMNS.items() if name in known}


def _differences(points: Sequence[Point]) -> str:
    columns, rows = _columns(points), []
    for one in points[1:]:
        found = differences(points[0], one)
        rows.append([escape(one.name), *(_cell(name, found[name], "+") if name in found else "-" for name in columns)])
    return html.table(["setting", *columns.values()], rows)


def _cell(name: str, value: Estimate, sign: str = "") -> str:
    scale, places = (100, f"{sign}.2f") if name in SHARES else (1, f"{sign}.4g")
    unit = (" pt" if sign else " %") if name in SHARES else ""
    text = f"{scale * value.mean:{places}}{unit}"
    if sign and value.sure:
        text = f"<b>{text}</b>"
    if value.low != value.low:
        return text
    return html.with_small(text, f"{scale * value.low:{places}} to {scale * value.high:{places}}")


def _chart(points: Sequence[Point], on_front: Sequence[bool], key: str, label: str) -> str:
    places = [(number, one.estimates()) for number, one in enumerate(points, start=1) if one.runs]
    xs = [found[key].mean for _, found in places]
    ys = [found["accuracy"].mean for _, found in places]
    chart = Chart(
        span(xs, max(xs, default=0) * 0.1),
        span(ys, 0.02),
        label,
        "accuracy",
        percent=(False, True),
        width=470,
        height=310,
    )
    for number, found in places:
        x, y = found[key], found["accuracy"]
        best = on_front[number - 1]
        known = x.low == x.low
        chart.point(
            x.mean,
            y.mean,
            "p0" if best else "single",
            f"{number}: {points[number - 1].name}",
            x_interval=(x.low, x.high) if known else None,
            y_interval=(y.low, y.high) if known else None,
            label=str(number) if best or len(points) <= 12 else "",
        )
    return html.figure(chart.render(f"accuracy against {label}"))
