"""Does the faults of a schedule to a fleet, each at its time, and writes down when it really was."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from escalade.tiers.testing.chaos.history import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from escalade.tiers.testing.chaos.fleet import Fleet


async def inject(fleet: Fleet, faults: Sequence[Fault], now_s: Callable[[], float], done: list[Fault]) -> None:
    """Do all of them; each is appended to `done` when it has healed."""
    async with asyncio.TaskGroup() as all_of_them:
        for fault in faults:
            all_of_them.create_task(_one(fleet, fault, now_s, done))


async def _one(fleet: Fleet, fault: Fault, now_s: Callable[[], float], done: list[Fault]) -> None:
    await asyncio.sleep(fault.start_s - now_s())
    start_s = now_s()
    await fleet.begin(fault.kind, fault.target)
    await asyncio.sleep(fault.stop_s - now_s())
    if fault.kind != "power_cut":
        await fleet.end(fault.kind, fault.target)
        done.append(Fault(fault.kind, fault.target, start_s, now_s()))
        return
    cut_s = now_s()  # until now the endpoint ran on a dead disk; now it loses its power too
    await fleet.begin("kill", fault.target)
    await fleet.end("power_cut", fault.target)
    await fleet.end("kill", fault.target)
    done += [Fault("power_cut", fault.target, start_s, cut_s), Fault("kill", fault.target, cut_s, now_s())]
