"""What a run says of its fused events in figures: for the summary, the time series, and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.result import Count, Hist, Series, ViewCount

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult

WAYS = {"complete": Count.EVENTS_COMPLETE, "quorum": Count.EVENTS_QUORUM, "deadline": Count.EVENTS_DEADLINE}
"""How an event is answered; those left are lost: no view came in time."""


def event_summary(result: FleetResult) -> dict[str, Any] | None:
    """Return the figures of a run's events; None where the scenario has none.

    Accuracies are of the answered; ``accuracy_last`` counts the last answer to each, corrections among them. Those of
    the single views are of what reached the aggregator; nan for a view of which nothing did.
    """
    events = result.scenario.events
    if events is None:
        return None
    count = result.stats.count
    answered = int(sum(count[way] for way in WAYS.values()))
    every = int(count[Count.EVENTS])
    views = result.stats.by_view[: events.views]
    single = [_ratio(right, came) for came, right in views[:, [ViewCount.CAME, ViewCount.CORRECT]].tolist()]
    known = [one for one in single if one == one]
    return {
        "count": every,
        "answered": answered,
        "share": {name: _ratio(count[way], every) for name, way in WAYS.items()}
        | {"lost": _ratio(every - answered, every)},
        "accuracy": _ratio(count[Count.EVENTS_CORRECT], answered),
        "accuracy_last": _ratio(count[Count.EVENTS_CORRECT_LAST], answered),
        "view_accuracy": single,
        "view_accuracy_mean": _ratio(sum(known), len(known)),
        "views_used": _ratio(count[Count.EVENTS_VIEWS], answered),
        "latency_ms": result.latency_ms(Hist.FUSED),
        "corrections": int(count[Count.EVENTS_CORRECTIONS]),
        "views": {
            "came": int(views[:, ViewCount.CAME].sum()),
            "late": int(count[Count.VIEWS_LATE]),
            "expired": int(count[Count.VIEWS_EXPIRED]),
            "lost": int(count[Count.VIEWS_LOST]),
        },
        "bytes": int(count[Count.BYTES_VIEWS]),
        "unhealthy": result.unhealthy,
    }


def event_metrics(result: FleetResult) -> dict[str, float]:
    """Return the figures that sweeps and comparisons judge events by; none without events."""
    found = event_summary(result)
    if found is None:
        return {}
    return {
        "fused_accuracy": found["accuracy"],
        "fused_p99_ms": found["latency_ms"]["p99"],
        "fused_complete_share": found["share"]["complete"],
    }


def event_series(result: FleetResult, kept: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return columns of the time series by name; none without events. `kept` are the rows, int64 ``[n, SERIES]``."""
    if result.scenario.events is None:
        return {}
    events, views = (np.where(kept[:, one], kept[:, one], np.nan) for one in (Series.EVENTS, Series.VIEWS))
    return {
        "events_answered": kept[:, Series.EVENTS],
        "fused_accuracy": kept[:, Series.EVENTS_CORRECT] / events,
        "fused_latency_mean_ms": kept[:, Series.EVENTS_NS] / events / 1e6,
        "views_came": kept[:, Series.VIEWS],
        "view_accuracy": kept[:, Series.VIEWS_CORRECT] / views,
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
