"""Sends what an outbox holds as soon as the tier above takes it: in order, and giving way to live requests.

Of each lane (device and priority) one item goes after the other; of several lanes a few at a time. An
item is sent until it is answered for good. One that the tier above reads but will not take is tried for
`give_up_s` before it is given up, so that a wrong configuration up there costs time and not data.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from escalade.tiers.answer import HIGHEST, Row
from escalade.tiers.caller import Caller
from escalade.tiers.errors import CallerError, UpstreamError
from escalade.tiers.outbox import Delivered, OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from escalade.tiers.keeper import KeptWire
    from escalade.tiers.outbox import EvictionReason, Item, Kind, Leased, Outbox
    from escalade.tiers.upstream import Upstream

log = structlog.get_logger(__name__)

TAKEN_AT_ONCE = 32
LOOK_S = 1.0
"""An empty outbox is looked into so often, for what another process may have left."""
LEAST_PAUSE_S, MOST_PAUSE_S = 0.1, 2.0
"""After a failure; doubled with each."""
BUSY, BUSY_PAUSE_S = 0.5, 0.25
"""From this load of the tier above on, items leave no faster than one in so long for each lane under way."""
REFUSED: dict[str, EvictionReason] = {"rejected": "rejected", "bad_answer": "rejected", "egress": "egress"}
"""Why an item cannot be sent until somebody changes a configuration, here (`egress`) or above; and as what it is
given up when nobody does."""


class Sender(Protocol):
    """A port: the way of one kind of item."""

    async def send(self, item: Item) -> bytes:
        """Deliver it and return the answer, empty where there is none; UpstreamError when it did not arrive."""
        ...


class Escalations:
    """Sends kept inputs to the tier above, as deliveries; only a final answer counts."""

    def __init__(self, upstream: Upstream, wire: KeptWire, *, timeout_s: float) -> None:
        self._upstream, self._wire, self._timeout_s = upstream, wire, timeout_s

    async def send(self, item: Item) -> bytes:
        """Return the final answer; see `Sender`."""
        try:
            x = self._wire.input(item.payload)
        except CallerError as error:
            raise UpstreamError("rejected", f"it was kept for another model: {error}") from error
        result = await self._upstream.infer(x, self._timeout_s, Caller(item.device, item.priority, delivery=item.id))
        answer = result.answer() if isinstance(result, Row) else result
        if answer.degraded.any() and answer.reason not in HIGHEST:
            raise UpstreamError(answer.reason or "unavailable", "a tier further up could not be asked")
        return self._wire.answer(answer)


class Drain:
    """Empties an outbox upward.

    Parameters
    ----------
    senders:
        For each kind of item.
    in_flight:
        Lanes that are sent at a time.
    give_up_s:
        How long an item that is refused is sent again and again.
    load:
        How full the tier above is, 0 to 1.
    """

    def __init__(
        self,
        outbox: Outbox,
        senders: Mapping[Kind, Sender],
        *,
        in_flight: int = 4,
        give_up_s: float = 3600.0,
        load: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._outbox, self._senders, self._give_up_s, self._load = outbox, senders, give_up_s, load
        self._clock, self._uniform = clock, uniform
        self._slots = asyncio.Semaphore(in_flight)
        self._woken = asyncio.Event()
        self._refused_since: dict[int, float] = {}
        self._pause_s = LEAST_PAUSE_S

    def wake(self) -> None:
        """There is something to send."""
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled; what is under way then is sent again later, and recognised above."""
        while True:
            self._woken.clear()
            if not await self.send_some():
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):  # `wait_for` of 3.11 may lose a cancellation
                        await self._woken.wait()

    async def send_some(self) -> int:
        """Send the next items, if there are any; return how many were taken. Pauses after a failure."""
        try:
            leased = await self._outbox.take(TAKEN_AT_ONCE)
        except OutboxError:  # it has logged it, and tries again
            return 0
        lanes = defaultdict[tuple[str, str], list["Leased"]](list)
        for one in leased:
            lanes[one.item.priority, one.item.device].append(one)
        arrived = await asyncio.gather(*(self._send_lane(lane) for lane in lanes.values()))
        if any(arrived):
            self._pause_s = LEAST_PAUSE_S
        if not all(arrived):
            await asyncio.sleep(self._pause_s * (1 - self._uniform() / 4))
            self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)
        return len(leased)

    async def _send_lane(self, lane: list[Leased]) -> bool:
        """Send the items of a lane in turn, up to the first that does not arrive; return whether all did."""
        settling: list[asyncio.Future[Any]] = []
        try:
            for place, one in enumerate(lane):
                if self._load() >= BUSY:
                    await asyncio.sleep(BUSY_PAUSE_S)
                try:
                    async with self._slots:
                        answer = await self._senders[one.item.kind].send(one.item)
                except UpstreamError as error:
                    await self._not_arrived(lane[place:], error)
                    return False
                self._refused_since.pop(one.seq, None)
                settling.append(asyncio.ensure_future(self._outbox.delivered([Delivered(one.seq, answer)])))
        finally:
            for result in await asyncio.gather(*settling, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OutboxError):
                    raise result
        return True

    async def _not_arrived(self, rest: list[Leased], error: UpstreamError) -> None:
        """Put the items back, less one that has been refused for too long."""
        first, refused = rest[0], error.reason in REFUSED
        if refused:
            now = self._clock()
            if first.seq not in self._refused_since:
                self._refused_since[first.seq] = now
                log.warning(
                    "item refused", reason=error.reason, item=f"{first.item.device}/{first.item.id}", detail=str(error)
                )
            if now - self._refused_since[first.seq] >= self._give_up_s:
                del self._refused_since[first.seq]
                await self._outbox.give_up([first.seq], REFUSED[error.reason])
                rest = rest[1:]
        back = self._outbox.failed if refused else self._outbox.put_back
        await back([one.seq for one in rest])
