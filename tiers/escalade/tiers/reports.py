"""What a tier reports upward when it can: results, telemetry, and what an application adds; all through the outbox."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import structlog

from escalade.tiers.answer import Row
from escalade.tiers.corrections import numbers
from escalade.tiers.egress import DATA_CLASSES, report_id
from escalade.tiers.errors import ConfigError
from escalade.tiers.outbox import Item, OutboxError
from escalade.tiers.outbox.item import REPORT_KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from escalade.tiers.answer import Answer
    from escalade.tiers.egress import DataClass
    from escalade.tiers.outbox import Inbox, Outbox, Priority
    from escalade.tiers.outbox.item import ReportKind

log = structlog.get_logger(__name__)

LANE = "/reports"
"""Appended to the device's name: reports are in order among themselves, and hold no input up."""
ROWS_AT_ONCE = 512
WRITE_S = 1.0
"""Results wait in memory for so long, to share an item; what a crash loses of them."""


@dataclass(frozen=True, slots=True)
class Received:
    """A report in an inbox.

    Attributes
    ----------
    seq:
        Greater than that of all reports before it.
    device, id:
        Who sent it, and its name there.
    created_s:
        When it was made, in the sender's time of day.
    age_s:
        How long ago it came.
    """

    seq: int
    device: str
    id: str
    kind: ReportKind
    priority: Priority
    created_s: float
    payload: bytes
    age_s: float


async def received(inbox: Inbox, after: int, *, until_now: bool) -> AsyncIterator[Received]:
    """Yield the reports in an inbox; see `Inbox.follow`."""
    async for seq, item, age_s in inbox.follow(after, until_now=until_now):
        kind = cast("ReportKind", item.kind)
        device = item.device.removesuffix(LANE)
        yield Received(seq, device, item.id, kind, item.priority, item.created_s, item.payload, age_s)


class Reports:
    """Puts reports into the outbox.

    Parameters
    ----------
    put:
        Called after an item was put.
    egress:
        The classes of data that may be reported.
    """

    def __init__(
        self, outbox: Outbox, *, device: str, put: Callable[[], None], egress: Collection[DataClass] = DATA_CLASSES
    ) -> None:
        self._outbox, self._device, self._put, self._egress = outbox, device + LANE, put, egress
        self._run, self._names = secrets.token_hex(4), count(1)
        self._rows: list[dict[str, Any]] = []
        self._full = asyncio.Event()

    async def report(
        self, payload: bytes, *, data: DataClass = "raw", kind: ReportKind = "telemetry", priority: Priority = "bulk"
    ) -> str:
        """Keep a report and return its id once it is on the disk.

        Raises
        ------
        ValueError
            It is of another kind, or priority.
        ConfigError
            Data of its class may not leave.
        OutboxError
            It could not be kept.
        """
        if kind not in REPORT_KINDS:
            raise ValueError(f"a report's kind is one of {', '.join(REPORT_KINDS)}, not {kind!r}")
        if data not in self._egress:
            raise ConfigError(
                f"a report of class {data!r} may not leave; allowed: {', '.join(self._egress) or 'nothing'}",
                key="upstream.egress",
            )
        name = report_id(f"{self._run}{next(self._names):x}", data)
        await self._outbox.put(Item(self._device, name, payload, kind, priority, created_s=time.time()))
        self._put()
        return name

    def answered(self, answer: Row | Answer, request_id: str) -> None:
        """Note what was answered to a request; written with others in a moment."""
        part = answer.answer() if isinstance(answer, Row) else answer
        label = [None] * len(part) if part.label is None else part.label.tolist()
        now = round(time.time(), 3)
        columns = zip(label, numbers(part.score), part.tier, part.degraded.tolist(), strict=True)
        for row, (one, score, tier, degraded) in enumerate(columns):
            fact = {"time_s": now, "request_id": request_id, "row": row, "label": one, "score": score, "tier": tier}
            self._rows.append({**fact, "degraded": part.reason} if degraded else fact)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._full.set()

    async def write_results(self) -> None:
        """Put the noted results into the outbox, until cancelled; those that it cannot keep are lost, and counted."""
        lost = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_S):  # `wait_for` of 3.11 may lose a cancellation
                    await self._full.wait()
            self._full.clear()
            lost = await self._write_rows(lost)

    async def flush(self) -> None:
        """Put what is still noted into the outbox."""
        await self._write_rows(0)

    async def _write_rows(self, lost: int) -> int:
        rows, self._rows = self._rows, []
        if not rows:
            return lost
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        try:
            await self.report(lines.encode(), data="label", kind="result")
        except OutboxError as error:
            log.warning("results lost", rows=len(rows), lost_before=lost, reason=str(error))
            return lost + len(rows)
        return lost

    async def write_telemetry(self, facts: Callable[[], dict[str, Any]], period_s: float) -> None:
        """Put the tier's facts into the outbox every `period_s`, until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await self.report(json.dumps({"time_s": round(time.time(), 3), **facts()}).encode(), data="label")
            except OutboxError as error:
                log.warning("telemetry lost", reason=str(error))
