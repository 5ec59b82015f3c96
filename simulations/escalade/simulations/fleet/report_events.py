"""The part of a run's page about fused events: `events_section`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from escalade.simulations import html
from escalade.simulations.fleet.event_figures import WAYS, event_summary
from escalade.simulations.fleet.report_charts import latency_cdf
from escalade.simulations.fleet.result import Hist

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from escalade.simulations.fleet.report_charts import Timeline
    from escalade.simulations.fleet.result import FleetResult

NAMES = {"complete": "all views", "quorum": "a quorum", "deadline": "what had come at the deadline"}


def events_section(result: FleetResult, over_time: Timeline, series: Mapping[str, NDArray[Any]]) -> str:
    """Return it; nothing for a scenario without events."""
    found = event_summary(result)
    if found is None:
        return ""
    lines = [("p3", "line", "fused"), ("single", "line", "single views, mean")]
    accuracy = over_time.lines(
        [series["fused_accuracy"], series["view_accuracy"]],
        [style for style, _, _ in lines],
        "right",
        "accuracy of the fused answers and of single views over time",
        percent=True,
        tight=True,
    )
    cdf = latency_cdf(result, [Hist.FUSED], ["p3"], "from the event to its answer, ms")
    charts = html.figure(accuracy, html.legend(lines)) + html.figure(cdf, html.legend([("p3", "line", "fused")]))
    return html.section(
        "Events of several views",
        f"<div class='pair'>{charts}</div>{_answers(found)}{_views(result, found)}{_trust(found)}",
        "The aggregator's first answers; latency runs until the answer at the server. A single view's accuracy is of "
        "what reached the aggregator. Times of steps and bytes elsewhere on this page count views among the requests.",
    )


def _answers(found: dict[str, Any]) -> str:
    count, share = found["count"], found["share"]
    rows = [
        [f"from {NAMES[name]}", f"{round(share[name] * count):,}", html.percent(share[name])]
        for name in WAYS
        if share[name]
    ]
    if share["lost"]:
        rows.append(
            ["not at all, no view came in time", f"{round(share['lost'] * count):,}", html.percent(share["lost"])]
        )
    right, last = found["accuracy"], found["accuracy_last"]
    rows += [
        ["answered right", "", html.percent(right)],
        [f"the same after {found['corrections']:,} corrections", "", html.percent(last)],
    ]
    return html.table([f"{count:,} events", "events", "share"], rows)


def _views(result: FleetResult, found: dict[str, Any]) -> str:
    came = result.stats.by_view[:, 0].tolist()
    rows = [[str(view), f"{came[view]:,}", html.percent(right)] for view, right in enumerate(found["view_accuracy"])]
    rows.append(["mean", "", html.percent(found["view_accuracy_mean"])])
    views = found["views"]
    more = (
        f"{views['late']:,} came after the answer, {views['expired']:,} after the event was final, "
        f"{views['lost']:,} never."
    )
    return html.table(["view", "reached the aggregator", "right by itself"], rows) + f"<p class='how'>{more}</p>"


def _trust(found: dict[str, Any]) -> str:
    if not found["unhealthy"]:
        return ""
    rows = [[f"<code>{reason}</code>", str(nodes)] for reason, nodes in sorted(found["unhealthy"].items())]
    return html.table(["what health checks found at the end", "nodes"], rows)
