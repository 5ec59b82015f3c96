"""B1: what `Endpoint.infer` adds to a bare run of the model when it accepts its own answer."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.models import open_session
from benchmarks.processes import pinned, split_cores
from benchmarks.report import Row
from escalade.tiers import Endpoint

if TYPE_CHECKING:
    from benchmarks.models import Models
    from benchmarks.repeats import Settings

TARGET_US = 15.0
BLOCK = 100
"""Calls between two changes of side: short against the swings of a shared machine."""


async def measure(models: Models, settings: Settings) -> tuple[list[Row], dict[str, Any]]:
    """Time both sides in alternating blocks; score, policy, metrics and answer are included."""
    model = models.tiny
    session, feed = open_session(model.file), {"input": model.x}
    config = {
        "tier": "endpoint",
        "model": {"file": str(model.file)},
        "policy": {"name": "Threshold", "threshold": 0.0},
    }
    x, clock = model.x, time.perf_counter
    bare_us, ours_us = [], []
    async with Endpoint.from_config(config) as endpoint:
        answer = await endpoint.infer(x)
        if answer.tier != ["endpoint"] or answer.reason:
            raise ValueError(f"the endpoint did not accept its own answer: {answer}")
        with pinned(split_cores()[1]):
            for _ in range(settings.repeats + 1):
                bare = ours = 0.0
                for _ in range(-(-settings.calls // BLOCK)):
                    start = clock()
                    for _ in range(BLOCK):
                        session.run(["logits"], feed)
                    between = clock()
                    for _ in range(BLOCK):
                        await endpoint.infer(x)
                    bare, ours = bare + between - start, ours + clock() - between
                calls = -(-settings.calls // BLOCK) * BLOCK
                bare_us.append(bare / calls * 1e6)
                ours_us.append(ours / calls * 1e6)
    bare_us, ours_us = bare_us[1:], ours_us[1:]  # the first repeat was the warm-up
    added = median(ours - bare for ours, bare in zip(ours_us, bare_us, strict=True))
    detail = f"Endpoint.infer {median(ours_us):.1f} us, bare run {median(bare_us):.1f} us"
    rows = [Row("B1", "local answer, tiny MLP: added", added, "us", TARGET_US, detail=detail)]
    return rows, {"B1": {"bare_us": bare_us, "ours_us": ours_us}}
