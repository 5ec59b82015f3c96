"""Store and forward: a tier's outbox with all that fills it, empties it and tells of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from escalade.tiers.corrections import Correction, Corrections
from escalade.tiers.drain import Drain, Escalations
from escalade.tiers.keeper import Keeper
from escalade.tiers.outbox import Outbox, OutboxError, OutboxLimits
from escalade.tiers.reports import LANE, Reports

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from escalade.tiers.config import OutboxConfig
    from escalade.tiers.drain import Sender
    from escalade.tiers.egress import DataClass
    from escalade.tiers.keeper import KeptWire
    from escalade.tiers.links import Links
    from escalade.tiers.outbox import Correction as Stored
    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)


class Forwarding:
    """A tier's outbox at work.

    Parameters
    ----------
    upstream:
        Where inputs are delivered; closed by its owner, after this.
    wire:
        Inputs and answers as bytes.
    read:
        Decodes a stored correction.
    reports:
        Where results and telemetry are delivered.
    load:
        How full the tier above is, 0 to 1.
    max_batch:
        Most rows in one call upward.
    egress:
        What may be reported.
    seal:
        Encrypts what is kept.
    """

    def __init__(
        self,
        config: OutboxConfig,
        upstream: Links,
        *,
        device: str,
        wire: KeptWire,
        read: Callable[[Stored], Correction],
        reports: Sender,
        load: Callable[[], float],
        max_batch: int,
        egress: Collection[DataClass],
        seal: Seal,
    ) -> None:
        self.config = config
        self.outbox = Outbox(
            config.file,
            OutboxLimits(
                max_bytes=int(config.max_mb * 2**20),
                max_items=config.max_items,
                max_age_s=config.max_age_s,
                max_corrections=config.max_corrections,
            ),
            on_recorded=lambda _: self.corrections.announce(),
            seal=seal,
        )
        self.corrections = Corrections(self.outbox, read)
        self._corrections_bytes = int(config.corrections_mb * 2**20)
        self.drain = Drain(
            self.outbox,
            {
                "escalation": Escalations(upstream, wire, timeout_s=config.timeout_ms / 1e3, max_batch=max_batch),
                "result": reports,
                "telemetry": reports,
            },
            in_flight=config.in_flight,
            give_up_s=config.give_up_s,
            load=load,
        )
        put = self.drain.wake
        self.keeper = Keeper(
            self.outbox,
            wire,
            device=device,
            everything=config.keep == "all",
            wait_s=config.wait_ms / 1e3,
            put=put,
            may_leave=upstream.may_leave,
        )
        self.reports = Reports(self.outbox, device=device, put=put, egress=egress)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, facts: Callable[[], dict[str, Any]]) -> None:
        """Open the outbox and begin to send; an outbox in trouble is logged and tried again.

        Parameters
        ----------
        facts:
            What telemetry tells of the tier.
        """
        try:
            await self.outbox.open()
        except OutboxError:  # it has logged it
            log.warning("the tier answers without its outbox until that works", file=str(self.config.file))
        self._run(self.drain.run())
        if self.config.corrections:
            self._run(self.corrections.append_to(self.config.corrections, self._corrections_bytes))
        if self.config.results:
            self._run(self.reports.write_results())
        if self.config.telemetry_s:
            self._run(self.reports.write_telemetry(facts, self.config.telemetry_s))

    def on_correction(self, callback: Callable[[Correction], Any], after: int | None = None) -> None:
        """Call back with each correction after the number `after`; default: with those to come."""
        stats = self.outbox.stats()
        if after is None and not stats.trouble:
            after = stats.last_correction
        self._run(self.corrections.follow(callback, after))

    async def forget(self, device: str) -> list[str]:
        """Delete what is kept of a device; return a line for each place.

        Raises
        ------
        OutboxError, OSError
            Not all of it could be deleted.
        """
        done = [f"outbox {self.config.file}: {await self.outbox.forget({device, device + LANE})}"]
        lines = await self.corrections.forget(device, self.config.corrections)
        if self.config.corrections:
            done.append(f"corrections {self.config.corrections}: {lines} lines deleted")
        return done

    async def close(self) -> None:
        """Stop sending, write what is still in memory, close the file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reports.flush()
        if self.config.corrections:
            await self.corrections.append_rest(self.config.corrections, self._corrections_bytes)
        await self.outbox.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(_ended)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a part of store and forward ended", error=repr(error))
