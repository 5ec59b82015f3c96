"""The slow loop tells a policy every few seconds how its tier fares."""

from __future__ import annotations

import asyncio
from math import inf, isnan

import pytest

from escalade.policies import Telemetry, Threshold
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.retuning import Window, retune_forever

pytestmark = pytest.mark.asyncio


class Retuned(Threshold):
    """Keeps its telemetry; raises on the first call when told to."""

    def __init__(self, raises: bool = False) -> None:
        super().__init__(0.5)
        self.raises, self.seen = raises, asyncio.Queue[Telemetry]()

    def retune(self, telemetry: Telemetry) -> None:
        if self.raises:
            self.raises = False
            raise ZeroDivisionError("a bug of the user's")
        self.seen.put_nowait(telemetry)


async def test_a_window_counts_what_came_since_the_last_look() -> None:
    """Answered in time, late for whatever reason, escalated; what was refused as wrong does not count."""
    metrics = TierMetrics("edge_node", "m")
    metrics.requests["answered"] = 100
    window = Window(metrics)
    metrics.requests["answered"] += 7
    metrics.requests["degraded"] += 2
    metrics.requests["expired"] += 1
    metrics.requests["invalid"] += 50
    metrics.actions["escalate"] += 4
    told = window.look(9.0, 5.0)
    assert (told.answered.tolist(), told.in_time.tolist(), told.escalated.tolist()) == ([10], [7], [4])
    assert (told.time_s, told.interval_s, told.device.tolist()) == (9.0, 5.0, [0])
    assert isnan(told.upstream_ms)
    assert window.look(14.0, 5.0).answered.tolist() == [0]


async def test_the_latency_of_the_tier_above_is_its_95th_percentile() -> None:
    """It is the bound of the bucket that holds it, of this window alone."""
    metrics = TierMetrics("edge_node", "m")
    metrics.upstream_s.observe(2.0)
    window = Window(metrics)
    for value in [0.004] * 95 + [0.4] * 5:
        metrics.upstream_s.observe(value)
    assert window.look(0.0, 5.0).upstream_ms == 5.0
    metrics.upstream_s.observe(100.0)
    assert window.look(0.0, 5.0).upstream_ms == inf


async def test_it_goes_on_after_the_policy_failed() -> None:
    """What `retune` raises is counted, and the next interval comes."""
    failures: list[Exception] = []
    policy = Retuned(raises=True)
    window = Window(TierMetrics("edge_node", "m"))
    loop = asyncio.create_task(retune_forever(policy, window, 0.0, failures.append))
    await asyncio.wait_for(policy.seen.get(), 10)
    loop.cancel()
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
