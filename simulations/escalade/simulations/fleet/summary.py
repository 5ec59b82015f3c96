"""What `--out` says of a run in figures: `summary`, and `time_series`, columns with units in their names."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.class_figures import class_figures
from escalade.simulations.fleet.energy import battery, energy_j
from escalade.simulations.fleet.event_figures import event_metrics, event_series, event_summary
from escalade.simulations.fleet.histogram import quantile_ms
from escalade.simulations.fleet.recovery import faults
from escalade.simulations.fleet.result import Count, Hist, Reason, Series
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.strict_json import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult

HOPS = {
    "local": Hist.LOCAL,
    "access": Hist.ACCESS,
    "edge_node": Hist.EDGE,
    "uplink": Hist.UPLINK,
    "edge_server": Hist.SERVER,
}
"""Where the time of a request goes, in its order: inferring with waiting at a tier, or on the way between two."""

ANSWERS = (Hist.ENDPOINT, Hist.EDGE_NODE, Hist.EDGE_SERVER, Hist.DEGRADED)
LIBRARIES = ("escalade", "numpy", "numba", "ray")


def summary(result: FleetResult) -> dict[str, Any]:
    """Return everything but the time series as JSON values; null for what is not known."""
    count, reason = result.stats.count, result.stats.reason
    energy = energy_j(result)
    found: dict[str, Any] = plain(
        {
            "hash": result.hash,
            "requests": result.requests,
            "answered": result.answered,
            "complete": result.complete,
            "failure": None if result.failure is None else _failure(result),
            "simulated_s": result.simulated_s,
            "wall_s": result.wall_s,
            "cpu_s": result.cpu_s,
            "peak_rss_mb": result.peak_rss_mb,
            "backend": result.backend,
            "seed": result.seed,
            "share": result.share,
            "accuracy": result.accuracy,
            "accuracy_by_tier": {
                tier: _ratio(count[Count.CORRECT_0 + k], count[Count.ANSWERED_0 + k]) for k, tier in enumerate(TIERS)
            },
            "degraded_share": result.degraded_share,
            "late_share": _ratio(count[Count.LATE], result.answered),
            "latency_ms": {tier: result.latency_ms(Hist(k)) for k, tier in enumerate(TIERS)}
            | {"degraded": result.latency_ms(Hist.DEGRADED), "all": latency_all_ms(result)},
            "hop_ms": {name: result.latency_ms(hist) for name, hist in HOPS.items()},
            "utilisation": result.utilisation(),
            "link_load": link_load(result),
            "energy_j": energy,
            "energy_mj_per_answer": _ratio(1e3 * energy["endpoint"], result.answered),
            "battery": battery(result),
            "classes": class_figures(result),
            "bytes": {"access": int(count[Count.BYTES_0]), "uplink": int(count[Count.BYTES_1])},
            "bytes_up_per_answer": _ratio(count[Count.BYTES_0] + count[Count.BYTES_1], result.answered),
            "reasons": {one.name.lower(): int(reason[one]) for one in Reason if reason[one]},
            "faults": [asdict(one) for one in faults(result.scenario, time_series(result))],
            "corrected": int(count[Count.CORRECTED]),
            "lost_messages": {"access": int(count[Count.LOST_0]), "uplink": int(count[Count.LOST_1])},
            "events": event_summary(result),
            "warnings": list(result.warnings),
            "versions": versions(),
            "scenario": result.scenario.model_dump(mode="json"),
        }
    )
    return found


def metrics(result: FleetResult) -> dict[str, float]:
    """Return the figures that sweeps and comparisons judge a run by."""
    count, all_ms = result.stats.count, latency_all_ms(result)
    return {
        "accuracy": result.accuracy,
        "latency_p50_ms": all_ms["p50"],
        "latency_p99_ms": all_ms["p99"],
        "energy_mj_per_answer": _ratio(1e3 * energy_j(result)["endpoint"], result.answered),
        "bytes_up_per_answer": _ratio(count[Count.BYTES_0] + count[Count.BYTES_1], result.answered),
        **{f"share_{tier}": share for tier, share in result.share.items()},
        "degraded_share": result.degraded_share,
        "late_share": _ratio(count[Count.LATE], result.answered),
        **_battery_metrics(result),
        **event_metrics(result),
    }


def _battery_metrics(result: FleetResult) -> dict[str, float]:
    """Return figures of batteries, where there are any; nan of those that would last for ever."""
    found = battery(result)
    if found is None:
        return {}
    life = {f"battery_{name}": found[name] for name in ("life_p1_h", "life_p50_h")}
    return {name: value if np.isfinite(value) else float("nan") for name, value in life.items()}


def latency_all_ms(result: FleetResult) -> dict[str, float]:
    """Return p50, p95, p99 and the count over all answers, degraded ones among them."""
    counts = result.stats.hist[list(ANSWERS)].sum(axis=0)
    return {**{f"p{100 * q:.0f}": quantile_ms(counts, q) for q in (0.5, 0.95, 0.99)}, "count": int(counts.sum())}


def link_load(result: FleetResult) -> dict[str, float]:
    """Return which share of its bandwidth each hop was given to send, all edge nodes together; nan without a limit.

    Above 1 messages pile up, or are thrown away. Outages are not taken off.
    """
    sent = result.stats.series[: result.begun, Series.BYTES_0 : Series.BYTES_1 + 1].sum(axis=0)
    links, nodes, found = result.scenario.links, result.scenario.edge_nodes.count, {}
    for name, link, given in zip(("access", "uplink"), (links.access, links.uplink), sent, strict=True):
        limit = (link.bandwidth_kbit_s or 0.0) * 125.0 * nodes * result.simulated_s
        found[name] = _ratio(given, limit)
    return found


def time_series(result: FleetResult) -> dict[str, NDArray[Any]]:
    """Return columns by name, one row a control interval that began before the run ended.

    What was answered after the last arrival is in a last row of unknown length, whose rates are nan.
    """
    scenario, interval_s = result.scenario, result.scenario.control.interval_s
    rows = result.stats.series
    begun = result.begun
    kept = np.append(rows[:begun], rows[begun:].sum(axis=0, keepdims=True), axis=0)
    start = np.append(np.arange(begun) * interval_s, result.simulated_s)
    length = np.append(np.minimum(start[:-1] + interval_s, result.simulated_s) - start[:-1], np.nan)

    def rate(column: Series, scale: float = 1.0) -> NDArray[np.float64]:
        return np.asarray(kept[:, column] / length * scale, np.float64)

    def share(column: Series) -> NDArray[np.float64]:
        return np.asarray(kept[:, column] / np.where(answered, answered, np.nan), np.float64)

    answered = kept[:, Series.ANSWERED_0 : Series.ANSWERED_2 + 1].sum(axis=1)
    edge, server = scenario.edge_nodes, scenario.edge_servers
    stations = (("edge_node", edge.count), ("edge_server", server.count))
    busy_ns = result.busy_ns()
    return {
        "time_s": start,
        "length_s": length,
        "arrived": kept[:, Series.ARRIVED],
        "requests_per_s": rate(Series.ARRIVED),
        **{f"answered_{tier}": kept[:, Series.ANSWERED_0 + k] for k, tier in enumerate(TIERS)},
        **{f"share_{tier}": share(Series(Series.ANSWERED_0 + k)) for k, tier in enumerate(TIERS)},
        "accuracy": share(Series.CORRECT),
        "latency_mean_ms": share(Series.LATENCY_NS) / 1e6,
        "degraded_share": share(Series.DEGRADED),
        "late_share": share(Series.LATE),
        "access_bytes_per_s": rate(Series.BYTES_0),
        "uplink_bytes_per_s": rate(Series.BYTES_1),
        **{f"utilisation_{tier}": busy_ns[:, k] / (result.workers[k] * length * 1e9) for k, tier in enumerate(TIERS)},
        # Little's law: the mean number that wait is the time waited in an interval over its length.
        **{
            f"waiting_per_{tier}": rate(Series(Series.WAIT_NS_1 + k), 1e-9 / count)
            for k, (tier, count) in enumerate(stations)
        },
        "deaths": kept[:, Series.DEATHS],
        "corrected": kept[:, Series.CORRECTED],
        "lost_messages": kept[:, Series.LOST],
        **event_series(result, kept),
    }


def versions() -> dict[str, str | None]:
    """Return the versions that a result may depend on; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _failure(result: FleetResult) -> Mapping[str, Any]:
    failure = result.failure
    assert failure is not None
    return {name: getattr(failure, name) for name in failure.__slots__} | {"text": str(failure)}
