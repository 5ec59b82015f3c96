"""The slow loop of a policy that wants one: `retune_forever` tells it every few seconds how its tier fares."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import Policy, Telemetry
from escalade.tiers.metrics import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from escalade.tiers.metrics import TierMetrics

IN_TIME = ("answered",)
LATE = ("degraded", "expired", "overloaded", "cancelled", "failed")
"""How a request ends: as its policy wanted and in its deadline, or not. What was refused as wrong is neither."""


class Window:
    """Reads a tier's counters as a fleet of one device: what was added since the last look.

    A request counts as in time when the tier that the policy wanted answered it within its deadline: not one
    that ended degraded, expired, refused for load, or given up by its caller.
    """

    def __init__(self, metrics: TierMetrics) -> None:
        self._metrics = metrics
        self._before = self._counts()

    def look(self, now_s: float, interval_s: float) -> Telemetry:
        """Return what was counted since the last call."""
        before, self._before = self._before, self._counts()
        in_time, late, escalated, upstream = (new - old for new, old in zip(self._before, before, strict=True))
        one = np.zeros(1, np.int64)
        return Telemetry(
            now_s,
            interval_s,
            device=one,
            device_class=one,
            answered=in_time + late,
            in_time=in_time,
            escalated=escalated,
            upstream_ms=_percentile_ms(upstream, 0.95),
        )

    def _counts(self) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        counts = self._metrics
        columns = [
            [sum(counts.requests[outcome] for outcome in IN_TIME)],
            [sum(counts.requests[outcome] for outcome in LATE)],
            [counts.actions["escalate"]],
            counts.upstream_s.counts,
        ]
        return [np.array(column, np.int64) for column in columns]


async def retune_forever(
    policy: Policy,
    window: Window,
    interval_s: float,
    failed: Callable[[Exception], object],
    clock: Callable[[], float] = time.time,
) -> None:
    """Call `Policy.retune` every `interval_s` until cancelled; what it raises is counted as the policy's failure."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            policy.retune(window.look(clock(), interval_s))
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything and must not stop the tier
            failed(error)


def _percentile_ms(counts: np.ndarray[tuple[int], np.dtype[np.int64]], share: float) -> float:
    """Return the upper bound of the bucket that holds the percentile, ms; nan without counts."""
    running = np.cumsum(counts)
    if not running[-1]:
        return nan
    bucket = bisect_left(running.tolist(), share * running[-1])
    return SECONDS[bucket] * 1e3 if bucket < len(SECONDS) else float("inf")
