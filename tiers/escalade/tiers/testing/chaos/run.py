"""One run: a fleet, traffic, faults, a history, and what the checker says of it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from escalade.tiers.client import Client
from escalade.tiers.testing.chaos.checker import check
from escalade.tiers.testing.chaos.fleet import MODEL, Fleet
from escalade.tiers.testing.chaos.inject import inject
from escalade.tiers.testing.chaos.kinds import KINDS
from escalade.tiers.testing.chaos.rules import Rules, Violation
from escalade.tiers.testing.chaos.schedule import PAUSE_S, Pair, schedule
from escalade.tiers.testing.chaos.storm import storm
from escalade.tiers.testing.chaos.traffic import Traffic
from escalade.tiers.testing.chaos.witness import read_corrections
from escalade.tiers.testing.chaos.world import World

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from escalade.tiers.testing.chaos.history import Fault, History

STORM_S = 30.0
TAIL_S = 5.5
"""Traffic goes on so long after the last fault: its recovery is seen."""
SHORT: tuple[Pair, ...] = (("freeze", "edge_server"), ("kill", "endpoint"))
"""A silent tier; links that are cut, and an outbox that dies at work meanwhile."""


@dataclass
class Outcome:
    """What a run found."""

    seed: int
    rules: Rules
    history: History
    violations: list[Violation]
    skipped: dict[str, str]
    """Kinds of fault that were not possible, and why."""
    durations_s: dict[str, float] = field(default_factory=dict)
    mutations: dict[str, bool] = field(default_factory=dict)
    """What was switched off in further runs, and whether the checker noticed."""


async def run(
    *,
    seed: int = 0,
    seconds: float = 245.0,
    rate: float = 40.0,
    pairs: Sequence[Pair] | None = None,
    faults: Sequence[Fault] | None = None,
    broken: str = "",
    settle_s: float = 30.0,
) -> Outcome:
    """Run tiers under traffic and faults, and check what happened.

    Parameters
    ----------
    seconds, rate:
        How long requests are sent, and how many a second.
    pairs, faults:
        Exactly these faults, in this order or at these times; else each kind in turn and then a storm, as drawn.
    broken:
        What is switched off in the tiers, separated by spaces: see `launcher.BREAKS`.
    settle_s:
        How long to wait in the end for the corrections of everything that was kept.

    Raises
    ------
    TooShortError
        `seconds` are too few for the faults.
    """
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="escalade-chaos-") as scratch:
        world = World(seed, Path(scratch))
        async with Fleet(world, Path(scratch), seed=seed, broken=broken) as fleet, Client(fleet.address) as client:
            possible = [kind for kind in KINDS if kind not in fleet.missing]
            plan = list(faults) if faults is not None else _plan(seed, seconds, possible, pairs)
            rules = Rules(world.posterior, fleet.local_s, fleet.budget_s)
            await _reached(client, world)
            ready_s = time.monotonic()
            traffic = Traffic(client, world, seed=seed, rate=rate, seconds=seconds)
            history = traffic.history
            subscribed = asyncio.create_task(traffic.subscribe())
            async with asyncio.TaskGroup() as both:
                both.create_task(traffic.run())
                both.create_task(inject(fleet, plan, traffic.now_s, history.faults))
            asked_s = time.monotonic()
            await asyncio.to_thread(_settle, fleet, history, settle_s)
            subscribed.cancel()
            await asyncio.gather(subscribed, return_exceptions=True)
        history.corrections, history.effects = fleet.corrections, fleet.effects
        history.faults.sort(key=lambda fault: fault.start_s)
        ended_s = time.monotonic()
        durations_s = {"start": ready_s - began_s, "traffic": asked_s - ready_s, "settle": ended_s - asked_s}
        return Outcome(seed, rules, history, check(history, rules), fleet.missing, durations_s)


def _plan(seed: int, seconds: float, kinds: Collection[str], pairs: Sequence[Pair] | None) -> list[Fault]:
    """Return exactly `pairs`, or each kind in turn and then a storm."""
    stop_s = seconds - TAIL_S
    if pairs is not None:
        return schedule(seed, stop_s, pairs=pairs)
    orderly = schedule(seed, stop_s - STORM_S - PAUSE_S, kinds=kinds)
    return orderly + storm(seed, stop_s - STORM_S, stop_s, kinds=kinds)


async def _reached(client: Client, world: World) -> None:
    """Wait until an answer has come from the top."""
    async with asyncio.timeout(20.0):
        number = -1
        while True:
            answer = await client.infer(world.input(10**6 + (number := number + 1)), model=MODEL, timeout_s=2.0)
            if answer.tier == ["edge_server"]:
                return


def _settle(fleet: Fleet, history: History, seconds: float) -> None:
    """Wait until every kept item has its correction, in the file and in the stream, at most so long."""
    kept = {answer.kept for answer in history.answers if answer.kept}
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        told = {one.item for one in history.streamed.copy()}
        if kept <= told and kept <= {one.item for one in read_corrections(fleet.corrections_file)}:
            return
        time.sleep(0.2)
