"""What a tier answers, reported to an aggregator: at once, or from an outbox when the link is back.

A report never delays an answer: it is queued, and a task sends what has gathered meanwhile in one call. What
the aggregator did not take in time goes into the outbox; without one it is lost and counted. What is
kept is sent in the order in which it was kept, at least once; the aggregator knows repeats by node, event and
id. What is new does not wait behind it: an observation that waits is worth nothing to an event that is open.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import structlog

from escalade.tiers.errors import UpstreamError
from escalade.tiers.outbox import Item, OutboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from escalade.tiers.aggregator.observation import Observation, Verdict
    from escalade.tiers.outbox import Outbox

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 10.0
"""Between two attempts to send what is kept: doubles from the first to the last."""


class Sender(Protocol):
    """A port to the aggregator.

    Guaranteed: a verdict for each observation, in order, within `timeout_s`, or UpstreamError. Not
    guaranteed: that nothing was taken when it raises.
    """

    async def send(self, encoded: Sequence[bytes], timeout_s: float) -> list[Verdict]:
        """Report observations, serialised."""
        ...

    async def close(self) -> None:
        """Let go of the link."""
        ...


class Reporter:
    """Reports observations.

    Parameters
    ----------
    sender, outbox:
        Where they go, and where they wait; the outbox is the reporter's alone, opened and closed with it.
    encode:
        Makes bytes of an observation.
    timeout_s, max_batch, max_queue:
        See `AggregateConfig`.
    pause:
        Waits for so many seconds.

    Attributes
    ----------
    counts:
        Observations by what became of them: `sent`, `kept`, `lost`, and the reasons why the aggregator
        refused them for good.
    """

    def __init__(
        self,
        sender: Sender,
        outbox: Outbox | None,
        encode: Callable[[Observation], bytes],
        *,
        timeout_s: float = 0.25,
        max_batch: int = 16,
        max_queue: int = 1024,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sender, self._outbox, self._encode, self._wall = sender, outbox, encode, wall
        self._timeout_s, self._max_batch, self._max_queue = timeout_s, max_batch, max_queue
        self._pause = pause
        self._waiting: list[tuple[Observation, bytes]] = []
        self._some, self._idle = asyncio.Event(), asyncio.Event()
        self._kept, self._drained = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._drained.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._run = uuid.uuid4().hex[:12]
        self._number = 0
        self._closing = False
        self._works = True
        self.counts: Counter[str] = Counter()

    @property
    def kept(self) -> int:
        """Observations that wait in the outbox."""
        return 0 if self._outbox is None else self._outbox.stats().items

    async def start(self) -> None:
        """Open the outbox, begin to send; OutboxError when it cannot be opened."""
        if self._outbox is not None:
            await self._outbox.open()
            if self.kept:
                self._note_kept()
        self._tasks = [asyncio.create_task(self._send_new()), asyncio.create_task(self._send_kept())]

    def next_id(self) -> str:
        """Return a name for an observation that no other of this node has, over restarts too."""
        self._number += 1
        return f"{self._run}-{self._number}"

    def report(self, observation: Observation) -> None:
        """Have an observation sent; never waits, never raises."""
        if self._closing or len(self._waiting) >= self._max_queue:
            self._lose(1, "the queue is full" if not self._closing else "stopping")
            return
        try:
            self._waiting.append((observation, self._encode(observation)))
        except (TypeError, ValueError) as error:  # an event's key that is no text
            self._lose(1, str(error))
            return
        self._idle.clear()
        self._some.set()

    async def flush(self) -> None:
        """Return when everything reported so far was sent, kept or lost."""
        await self._idle.wait()

    async def drained(self) -> None:
        """Return when nothing waits in the outbox."""
        await self._drained.wait()

    async def close(self) -> None:
        """Send or keep what waits, then stop."""
        self._closing = True
        if self._tasks:
            await self.flush()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._outbox is not None:
            await self._outbox.close()
        await self._sender.close()

    async def _send_new(self) -> None:
        while True:
            await self._some.wait()
            while self._waiting:
                batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
                verdicts = await self._try([data for _, data in batch])
                again = [one for one, verdict in zip(batch, verdicts, strict=True) if not (verdict and verdict.settled)]
                if again:
                    await self._keep(again)
            self._some.clear()
            self._idle.set()

    async def _send_kept(self) -> None:
        """Send what the outbox holds, oldest first, whenever it holds something."""
        if self._outbox is None:
            return
        pause_s = FIRST_PAUSE_S
        while True:
            await self._kept.wait()
            leased = await self._outbox.take(self._max_batch)
            if not leased:
                if self.kept:  # its disk is in trouble
                    await self._pause(LAST_PAUSE_S)
                else:
                    self._kept.clear()
                    self._drained.set()
                continue
            verdicts = await self._try([one.item.payload for one in leased])
            taken = 0
            while taken < len(leased) and (verdict := verdicts[taken]) and verdict.settled:
                taken += 1
            # What comes after one that has to be sent again is sent again too: the order counts.
            await self._outbox.done([one.seq for one in leased[:taken]])
            if taken < len(leased):
                await self._outbox.failed([one.seq for one in leased[taken:]])
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    async def _try(self, encoded: list[bytes]) -> list[Verdict | None]:
        """Send, and return what became of each; None where nobody knows."""
        try:
            verdicts = await self._sender.send(encoded, self._timeout_s)
        except UpstreamError as error:
            if self._works:
                log.warning("aggregator takes no reports", reason=error.reason, detail=str(error))
            self._works = False
            return [None] * len(encoded)
        if not self._works:
            log.info("aggregator takes reports again")
        self._works = True
        for verdict in verdicts:
            if verdict.settled:
                self._count(verdict)
        return list(verdicts)

    def _count(self, verdict: Verdict) -> None:
        outcome = verdict.reason or "sent"
        self.counts[outcome] += 1
        first = self.counts[outcome] == 1
        if first and outcome not in ("sent", "duplicate", "expired"):
            log.error("aggregator refuses a report", reason=outcome, detail=verdict.message)

    async def _keep(self, batch: list[tuple[Observation, bytes]]) -> None:
        if self._outbox is None:
            self._lose(len(batch), "the aggregator did not take them, and there is no outbox")
            return
        items = [
            Item(one.node, f"{one.event}/{one.id}", data, kind="result", created_s=self._wall()) for one, data in batch
        ]
        results = await asyncio.gather(*(self._outbox.put(item) for item in items), return_exceptions=True)
        for result in results:
            if isinstance(result, OutboxError):
                self._lose(1, str(result))
            elif isinstance(result, BaseException):
                raise result
            else:
                self.counts["kept"] += 1
        self._note_kept()

    def _note_kept(self) -> None:
        self._kept.set()
        self._drained.clear()

    def _lose(self, count: int, reason: str) -> None:
        before, self.counts["lost"] = self.counts["lost"], self.counts["lost"] + count
        if before.bit_length() != self.counts["lost"].bit_length():
            log.error("reports to the aggregator are lost", lost=self.counts["lost"], reason=reason)
