"""Three tiers as processes with a faulty link between each two, and what can be done to them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from escalade.tiers.testing.chaos.clock import YEAR_S, WrongClock
from escalade.tiers.testing.chaos.disk import OutboxDisk
from escalade.tiers.testing.chaos.kinds import CELL, TIERS
from escalade.tiers.testing.chaos.proxy import FaultyLink, Trouble
from escalade.tiers.testing.chaos.witness import read_corrections, read_effects
from escalade.tiers.testing.processes import TierProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from escalade.tiers.testing.chaos.history import Corrected, Effect
    from escalade.tiers.testing.chaos.world import World

MODEL = "m"
BUDGET_MS = {"endpoint": 400, "edge_node": 300}
"""How long each tier waits for the one above."""
WAIT_MS = 100
"""How long an answer waits for the outbox's disk."""
TROUBLES = {
    "drop_both": Trouble(drop_up=True, drop_down=True),
    "drop_up": Trouble(drop_up=True),
    "drop_down": Trouble(drop_down=True),
    "delay": Trouble(delay_s=0.3),
    "loss": Trouble(loss=0.2),
    "cap": Trouble(bytes_per_s=4000.0),
    "reset": Trouble(reset=True),
    "garbage": Trouble(garbage=True),
}


class Fleet:
    """An endpoint, an edge node and an edge server, each `escalade serve` on the loopback, and links between them.

    Parameters
    ----------
    folder:
        For configurations, logs and the outbox.
    broken:
        What is switched off in the tiers: see `launcher.BREAKS`.

    Attributes
    ----------
    missing:
        Kinds of fault that are not possible here, and why.
    corrections, effects:
        What the tiers had written down in the end; there when the fleet has stopped.
    """

    def __init__(self, world: World, folder: Path, *, seed: int = 0, broken: str = "") -> None:
        self.processes: dict[str, TierProcess] = {}
        self.links: dict[str, FaultyLink] = {}
        self.corrections: list[Corrected] = []
        self.effects: list[Effect] = []
        self._world, self._folder, self._seed = world, folder, seed
        self._disk, self._clock = OutboxDisk(folder), WrongClock(folder)
        self.corrections_file = self._disk.folder / "corrections.jsonl"
        self._broken = broken
        self._stack = AsyncExitStack()
        self.missing = self._disk.missing
        if self._clock.missing:
            self.missing["clock_jump"] = self._clock.missing

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._disk)
            stack.callback(self._collect)
            await self._start(stack, "edge_server", [])
            await self._start(stack, "edge_node", [await self._link(stack, "far", "edge_server")])
            ways = [await self._link(stack, "near", "edge_node"), await self._link(stack, CELL, "edge_server")]
            await self._start(stack, "endpoint", ways)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def address(self) -> str:
        """Where the endpoint serves."""
        return self.processes["endpoint"].address

    @property
    def local_s(self) -> float:
        """What the endpoint measured its own model to take for a row."""
        ready = self.processes["endpoint"].wait_for("model ready")
        return float(ready["row_us"]) * 1e-6 if ready else 0.0

    @property
    def budget_s(self) -> float:
        """What the endpoint may spend on others."""
        return (BUDGET_MS["endpoint"] + WAIT_MS) / 1e3

    async def begin(self, kind: str, target: str) -> None:
        """Begin a fault."""
        if kind in TROUBLES:
            await self.links[target].set(TROUBLES[kind])
        elif kind == "freeze":
            self.processes[target].freeze()
        elif kind == "clock_jump":
            self._clock.set(YEAR_S)
        else:
            process = self.processes[target]
            acts = {
                "kill": process.kill,
                "power_cut": self._disk.stop,
                "disk_full": lambda: self._disk.fill(process.pid),
                "disk_eio": lambda: self._disk.fail_syncs(process.pid),
            }
            await asyncio.to_thread(acts[kind])

    async def end(self, kind: str, target: str) -> None:
        """Heal it; returns when the tier serves, not when it is found again."""
        if kind in TROUBLES:
            await self.links[target].set(Trouble())
        elif kind == "freeze":
            self.processes[target].thaw()
        elif kind == "clock_jump":
            self._clock.set(0)
        else:
            process = self.processes[target]
            acts = {"kill": process.start, "disk_full": self._disk.free, "disk_eio": self._disk.sound}
            acts["power_cut"] = self._disk.restart
            await asyncio.to_thread(acts[kind])

    async def _link(self, stack: AsyncExitStack, name: str, above: str) -> str:
        """Lay a link to a tier that runs; return where it begins."""
        link = self.links[name] = FaultyLink(self.processes[above].address, seed=self._seed + len(self.links))
        await stack.enter_async_context(link)
        return link.address

    async def _start(self, stack: AsyncExitStack, tier: str, above: Sequence[str]) -> None:
        environment = {"ESCALADE_CHAOS_BREAK": self._broken, **(self._clock.environment if tier == "endpoint" else {})}
        program = ("-m", "escalade.tiers.testing.chaos.launcher") if self._broken else ("-m", "escalade.cli.main")
        config = self._config(tier, above)
        process = TierProcess(config, self._folder, environment=environment, program=program)
        self.processes[tier] = process
        stack.callback(_stop, process)
        await asyncio.to_thread(process.start)

    def _config(self, tier: str, above: Sequence[str]) -> Mapping[str, Any]:
        config: dict[str, Any] = {"tier": tier, "model": {"file": str(self._world.files[tier]), "name": MODEL}}
        if above:
            config["policy"] = {"name": "Threshold", "threshold": 0.9}
            config["upstream"] = {"address": above[0], "timeout_ms": BUDGET_MS[tier], "reserve_ms": 20}
        if tier == "endpoint":
            config["fallbacks"] = [{"address": address, "only": "critical"} for address in above[1:]]
            files = {"file": str(self._disk.folder / "outbox.db"), "corrections": str(self.corrections_file)}
            config["outbox"] = {**files, "wait_ms": WAIT_MS, "results": True}
        else:
            config["inbox"] = {"file": str(self._inbox(tier))}
        return config

    def _inbox(self, tier: str) -> Path:
        return self._folder / f"{tier}-inbox.db"

    def _collect(self) -> None:
        """Read what the tiers wrote, now that they have stopped and before the disk is gone."""
        self.corrections = read_corrections(self.corrections_file)
        self.effects = [effect for tier in TIERS[1:] for effect in read_effects(tier, self._inbox(tier))]


def _stop(process: TierProcess) -> None:
    if process.running:
        process.stop()
