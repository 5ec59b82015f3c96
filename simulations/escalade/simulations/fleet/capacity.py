"""How much a fleet can bear: bisection over the number of endpoints, or of workers, until an objective breaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from escalade.simulations.fleet.histogram import EDGES_MS
from escalade.simulations.fleet.result import Hist

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from escalade.simulations.fleet.result import FleetResult
    from escalade.simulations.fleet.scenario import Scenario

What = Literal["endpoints", "server_workers", "edge_workers"]
MOST_DOUBLINGS = 24
MOST_ENDPOINTS = 10_000_000
ENOUGH_ALONE = 3
"""Sizes that are kept by the endpoints alone until no more are tried."""

ALL = (Hist.ENDPOINT, Hist.EDGE_NODE, Hist.EDGE_SERVER)


@dataclass(frozen=True, slots=True)
class Trial:
    """One size that was tried: share of the answers in time and not degraded, and whether that is enough."""

    size: int
    in_time: float
    kept: bool
    alone: bool = False
    """Whether the endpoints' own answers are enough: then more endpoints change nothing."""


def in_time(result: FleetResult, slo_ms: float, tiers: Sequence[Hist] = ALL) -> float:
    """Return the share of the answers that the tier asked for gave within `slo_ms`; degraded ones do not count.

    From histograms whose bins are 1.6 % wide, linear inside. 1 where nothing was asked. `tiers`: only their answers
    count as in time.
    """
    if not result.answered:
        return 1.0
    counts = result.stats.hist[list(tiers)].sum(axis=0)
    below = np.append(0, np.cumsum(counts))
    return float(np.interp(slo_ms, EDGES_MS, below)) / result.answered


def scaled(scenario: Scenario, what: What, size: int) -> Scenario:
    """Return the scenario with so many endpoints in all, classes in proportion, or so many workers at each station."""
    if what == "endpoints":
        total = scenario.device_count
        classes = [
            one.model_copy(update={"count": max(1, round(one.count * size / total))}) for one in scenario.endpoints
        ]
        changed = {"endpoints": classes}
    else:
        name = "edge_servers" if what == "server_workers" else "edge_nodes"
        changed = {name: getattr(scenario, name).model_copy(update={"workers": size})}
    return scenario.model_copy(update=changed).in_folder(scenario.folder)


def most(
    try_size: Callable[[int], Trial], first: int, resolution: float = 0.02, limit: int = MOST_ENDPOINTS
) -> tuple[int, int | None]:
    """Return the greatest size that is kept, and the least above it that is not (None: all that were tried are).

    It doubles or halves from `first` until the objective turns, then bisects until the two are within `resolution`
    of each other. 0 when not even one is kept. Presumes that more is never better. It gives up at `limit`, and when
    several sizes were kept by the endpoints alone: of such an objective there is no end.
    """
    good, bad, alone = 0, None, 0
    size = max(first, 1)
    for _ in range(MOST_DOUBLINGS):
        trial = try_size(size)
        if trial.kept:
            good, alone = size, alone + trial.alone
            if bad is not None or alone == ENOUGH_ALONE or size >= limit:
                break
            size = min(2 * size, limit)
        else:
            bad = size
            if good or size == 1:
                break
            size = max(size // 2, 1)
    while bad is not None and bad - good > max(1, int(resolution * bad)):
        size = (good + bad) // 2
        if try_size(size).kept:
            good = size
        else:
            bad = size
    return good, bad


def least(try_size: Callable[[int], Trial], limit: int) -> int | None:
    """Return the least size up to `limit` that is kept, by doubling and bisection; None if there is none."""
    bad, good = 0, 1
    while not try_size(good).kept:
        if good >= limit:
            return None
        bad, good = good, min(2 * good, limit)
    while good - bad > 1:
        size = (good + bad) // 2
        if try_size(size).kept:
            good = size
        else:
            bad = size
    return good
