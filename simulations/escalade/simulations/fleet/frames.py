"""A result as tidy tables: `frames`, of Polars or pandas where one is installed, of plain arrays without."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from escalade.simulations.fleet.result import Count, Hist
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.fleet.summary import HOPS, time_series
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult

    Columns = dict[str, NDArray[Any]]

Library = Literal["polars", "pandas", "arrays"]


def frames(result: FleetResult, library: Library | None = None) -> dict[str, Any]:
    """Return a run's tables by name; each is a data frame, or columns by name.

    Parameters
    ----------
    library
        What makes the frames; default: polars, else pandas, else arrays, the first that is installed.

    Returns
    -------
    dict
        - ``tiers``: a row for each tier: answers, accuracy, latency in ms, utilisation;
        - ``hops``: a row for each part of the way: its latency in ms;
        - ``series``: a row for each control interval, see `summary.time_series`;
        - ``requests``: a row for each request, with ``keep_requests``;
        - ``devices``: a row for each device with a battery, where there are any.

    Raises
    ------
    ConfigError
        If the library is unknown or not installed.
    """
    tables = {"tiers": _tiers(result), "hops": _hops(result), "series": time_series(result)}
    if result.requests_table is not None:
        tables["requests"] = result.requests_table
    if result.devices is not None:
        tables["devices"] = result.devices
    chosen = library or next((name for name in ("polars", "pandas") if find_spec(name)), "arrays")
    if chosen == "arrays":
        return dict(tables)
    if chosen not in ("polars", "pandas"):
        raise ConfigError(f"no library {chosen!r}; there are polars, pandas and arrays", key="library")
    if not find_spec(chosen):
        raise ConfigError(f"{chosen} is not installed: pip install {chosen}, or take 'arrays'", key="library")
    make = import_module(chosen).DataFrame
    return {name: make(columns) for name, columns in tables.items()}


def _tiers(result: FleetResult) -> Columns:
    count, busy = result.stats.count, result.utilisation()
    answers = count[Count.ANSWERED_0 : Count.ANSWERED_2 + 1]
    with np.errstate(invalid="ignore"):
        accuracy = count[Count.CORRECT_0 : Count.CORRECT_2 + 1] / answers
    return {
        "tier": np.array(TIERS),
        "answers": answers.copy(),
        "share": np.array([result.share[tier] for tier in TIERS]),
        "accuracy": accuracy,
        **_quantiles(result, [Hist(level) for level in range(len(TIERS))]),
        "utilisation": np.array([busy[tier] for tier in TIERS]),
    }


def _hops(result: FleetResult) -> Columns:
    return {"hop": np.array(list(HOPS)), **_quantiles(result, list(HOPS.values()))}


def _quantiles(result: FleetResult, hists: list[Hist]) -> Columns:
    found = [result.latency_ms(hist) for hist in hists]
    return {
        **{f"{q}_ms": np.array([one[q] for one in found]) for q in ("p50", "p95", "p99")},
        "count": np.array([one["count"] for one in found], np.int64),
    }
