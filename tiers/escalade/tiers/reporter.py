"""What a tier answers, reported to an aggregator: at once, or from an outbox when the link is back.

A report never delays an answer: it is queued, and a task sends what has gathered meanwhile in one call. What
the aggregator did not take in time goes into the outbox; without one it is lost and counted. What is
kept is sent in the order in which it was kept, at least once; the aggregator knows repeats by node, event and
id. What is new does not wait behind it: an observation that waits is worth nothing to an event that is open.
A message that is too large for the aggregator goes in parts; one observation that is, alone, is given up.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import structlog

from escalade.tiers.aggregator.observation import Verdict
from escalade.tiers.errors import MessageTooLargeError, UpstreamError
from escalade.tiers.outbox import Item

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from escalade.tiers.aggregator.observation import Observation
    from escalade.tiers.outbox import Outbox
    from escalade.tiers.outbox.stats import Forgotten

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 10.0
"""Between two attempts to send what is kept: doubles from the first to the last."""
FRAME_BYTES = 8
"""At most so much a message grows by for each observation, beside its bytes."""


class Sender(Protocol):
    """A port to the aggregator.

    Guaranteed: a verdict for each observation, in order, within `timeout_s`, or UpstreamError:
    MessageTooLargeError when nothing was taken because there was too much of it. Not guaranteed: that
    nothing was taken when it raises another.
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
    max_bytes:
        Of one message, about; it becomes smaller when the aggregator takes less.
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
        max_bytes: int = 4 * 1024 * 1024,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sender, self._outbox, self._encode, self._wall = sender, outbox, encode, wall
        self._timeout_s, self._max_batch, self._max_queue = timeout_s, max_batch, max_queue
        self._max_bytes, self._pause = max_bytes, pause
        self._waiting: list[tuple[Observation, bytes]] = []
        self._some, self._idle = asyncio.Event(), asyncio.Event()
        self._kept, self._drained = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._drained.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._run = uuid.uuid4().hex[:12]
        self._number = 0
        self._closing = False
        self._trouble = ""
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

    async def forget(self, node: str) -> Forgotten | None:
        """Delete what waits of a node; OutboxError when it cannot be. None: nothing ever waits."""
        return None if self._outbox is None else await self._outbox.forget({node})

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
            try:
                settled = await self._send_oldest(self._outbox)
            except Exception as error:  # a fault of ours must not end the reports for good
                log.error("reports that were kept cannot be sent", exc_info=error)
                settled, pause_s = False, LAST_PAUSE_S
            if settled:
                pause_s = FIRST_PAUSE_S
            else:
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _send_oldest(self, outbox: Outbox) -> bool:
        """Send a batch of what is kept; return whether the next may follow at once."""
        leased = await outbox.take(self._max_batch)
        if not leased:
            if self.kept:  # its disk is in trouble
                await self._pause(LAST_PAUSE_S)
            else:
                self._kept.clear()
                self._drained.set()
            return True
        verdicts = await self._try([one.item.payload for one in leased])
        taken = 0
        while taken < len(leased) and (verdict := verdicts[taken]) and verdict.settled:
            taken += 1
        # What comes after one that has to be sent again is sent again too: the order counts.
        await outbox.done([one.seq for one in leased[:taken]])
        if taken < len(leased):
            await outbox.failed([one.seq for one in leased[taken:]])
        return taken == len(leased)

    async def _try(self, encoded: list[bytes]) -> list[Verdict | None]:
        """Send, and return what became of each; None where nobody knows."""
        verdicts: list[Verdict | None] = []
        while len(verdicts) < len(encoded):
            part = self._fitting(encoded[len(verdicts) :])
            try:
                said = await self._sender.send(part, self._timeout_s)
            except MessageTooLargeError as error:
                if len(part) > 1:
                    self._max_bytes = sum(map(_size, part)) // 2
                    continue
                said = [Verdict("too_large", f"the aggregator takes no message of {len(part[0])} bytes: {error}")]
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the reports for good
                self._failed(error)
                break
            else:
                self._succeeded()
            for verdict in said:
                if verdict.settled:
                    self._count(verdict)
            verdicts += said
        return verdicts + [None] * (len(encoded) - len(verdicts))

    def _fitting(self, encoded: list[bytes]) -> list[bytes]:
        """Return as many of the first as make one message, and one at least."""
        count, size = 1, _size(encoded[0])
        while count < len(encoded) and (size := size + _size(encoded[count])) <= self._max_bytes:
            count += 1
        return encoded[:count]

    def _failed(self, error: Exception) -> None:
        reason = error.reason if isinstance(error, UpstreamError) else "error"
        if reason != self._trouble:
            unexpected = None if isinstance(error, UpstreamError) else error
            log.warning("aggregator takes no reports", reason=reason, detail=str(error), exc_info=unexpected)
        self._trouble = reason

    def _succeeded(self) -> None:
        if self._trouble:
            log.info("aggregator takes reports again")
        self._trouble = ""

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
            if isinstance(result, Exception):
                self._lose(1, str(result) or type(result).__name__)
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


def _size(encoded: bytes) -> int:
    return len(encoded) + FRAME_BYTES
