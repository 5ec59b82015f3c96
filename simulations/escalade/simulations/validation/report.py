"""What a validation found: lines for the terminal, Markdown, a page, JSON."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from escalade.simulations import html
from escalade.simulations.page import page
from escalade.simulations.svg import Chart, span
from escalade.simulations.validation.compare import TARGETS, Compared, met, swapped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from escalade.simulations.validation.compare import Outcome

HEADS = ("case", "inputs", "", "predicted", "measured", "error", "the same run again", "")
FOOTER = "Written by `escalade simulate validate`."


def cells(one: Compared, inputs: int) -> list[str]:
    """Return a row of the table as text."""
    if one.in_points:
        shown = [f"{100 * value:.2f} %" for value in (one.predicted, one.measured)]
        off = [f"{100 * value:+.2f} points" for value in (one.error, one.noise)]
    else:
        shown = [f"{value:.3f}" for value in (one.predicted, one.measured)]
        off = [f"{100 * value:+.1f} %" for value in (one.error, one.noise)]
    if one.again != one.again:
        off[1] = "-"
    return [one.case, str(inputs), one.what.replace("_", " "), *shown, *off, "" if one.within else "MISS"]


def lines(outcome: Outcome) -> list[str]:
    """Return one case for the terminal, under its title."""
    rows = [cells(one, outcome.inputs)[2:] for one in outcome.compared()]
    why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in outcome.degraded.items())
    late = f"; degraded: {why}" if why else ""
    found = [f"{outcome.case.title}: {outcome.inputs} inputs{late}"]
    return found + [f"  {row[0]:20}{row[1]:>10}{row[2]:>10}{row[3]:>15}{row[4]:>15}  {row[5]}".rstrip() for row in rows]


HEAD_LINE = f"  {'':20}{'predicted':>10}{'measured':>10}{'error':>15}{'second run':>15}"


def verdict(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what holds and what does not, a line each."""
    rows = [row for one in outcomes for row in one.compared()]
    found = []
    for kind, target in TARGETS.items():
        of_kind = [row for row in rows if row.kind == kind]
        if not of_kind:
            found.append(f"{kind}: too few answers to compare")
            continue
        within, most = sum(row.within for row in of_kind), max(abs(row.error) for row in of_kind)
        noise = max((abs(row.noise) for row in of_kind if row.noise == row.noise), default=float("nan"))
        unit = "points" if of_kind[0].in_points else "%"
        again = f"; two real runs differ by up to {100 * noise:.3g} {unit}" if noise == noise else ""
        found.append(
            f"{kind}: {within} of {len(of_kind)} within {100 * target:g} {unit}, at most {100 * most:.3g} off{again}"
        )
    degraded = sum(sum(one.degraded.values()) for one in outcomes)
    if degraded:
        found.append(f"{degraded} real answers were degraded, of which nothing is predicted")
    swaps = swapped(outcomes)
    found += [f"order by {one.what}: {one.first!r} and {one.second!r} the other way round" for one in swaps]
    if not swaps and len({one.case.rate_hz for one in outcomes}) < len(outcomes):
        found.append("policies come in the same order by accuracy, share and mean latency")
    whole = {row.kind for row in rows} == set(TARGETS)
    good = "all targets hold" if whole else "the targets that could be compared hold"
    return [*found, good if met(outcomes) else "targets are missed"]


def markdown(about: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """Return the whole as Markdown."""
    rows = [cells(row, one.inputs) for one in outcomes for row in one.compared()]
    table = [f"| {' | '.join(row)} |" for row in (HEADS, *rows)]
    table.insert(1, "|---" * len(HEADS) + "|")
    points = [f"- {one}" for one in verdict(outcomes)]
    return "\n".join(["# Predicted against measured", "", *about, "", *points, "", *table]) + "\n"


def as_data(outcomes: Sequence[Outcome], **more: Any) -> dict[str, Any]:
    """Return the whole for a JSON file."""
    rows = [
        {
            "case": one.case.key,
            "title": row.case,
            "inputs": one.inputs,
            "degraded": dict(one.degraded),
            "what": row.what,
            "predicted": row.predicted,
            "measured": row.measured,
            "error": row.error,
            "within": row.within,
            "measured_again": row.again,
            "noise": row.noise,
        }
        for one in outcomes
        for row in one.compared()
    ]
    swaps = [{"what": one.what, "first": one.first, "second": one.second} for one in swapped(outcomes)]
    return {"met": met(outcomes), "targets": TARGETS, **more, "rows": rows, "swapped": swaps}


def render(about: Sequence[str], outcomes: Sequence[Outcome], settings: Mapping[str, Any]) -> str:
    """Return the page: the verdict, latencies predicted against measured, the table."""
    rows = [(row, one.inputs) for one in outcomes for row in one.compared()]
    charts = _chart([row for row, _ in rows if not row.in_points])
    listed = html.table(HEADS, [[escape(cell) for cell in cells(*row)] for row in rows])
    facts = escape(" · ".join(f"{key} {value}" for key, value in settings.items()))
    sections = [
        f"<div class='say'>{'<br>'.join(map(escape, verdict(outcomes)))}</div>",
        html.section(
            "Latency, predicted against measured",
            html.figure(charts, html.legend([("p0", "dot", "p50"), ("p1", "dot", "p99")])),
            "On the line both agree; bars reach to the second real run.",
        ),
        html.section("Every figure", listed, " ".join(about)),
    ]
    return page("The simulator against the real tiers", facts, sections, FOOTER)


def _chart(rows: Sequence[Compared]) -> str:
    if not rows:
        return ""
    both = span([value for row in rows for value in (row.predicted, row.measured)])
    chart = Chart(both, both, "measured, ms", "predicted, ms", percent=(False, False))
    chart.line([(both[0], both[0]), (both[1], both[1])], "bound")
    for row in rows:
        reach = None if row.again != row.again else sorted((row.measured, row.again))
        title = f"{row.case}, {row.what}: predicted {row.predicted:.3g}, measured {row.measured:.3g}"
        chart.point(row.measured, row.predicted, "p0" if row.kind == "p50" else "p1", title, x_interval=reach)
    return chart.render("Predicted latencies against measured ones")
