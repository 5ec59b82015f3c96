"""Sends what an outbox holds as soon as the tier above takes it: in order, and giving way to live requests.

Of each lane (device and priority) one item goes after the other; a lane that fails pauses alone. An item
is sent until it is answered for good. When the tier above reads a lane's items but will not take them, they
are tried for `give_up_s` before they are given up, so that a wrong configuration up there costs time and
not data; what can never be taken is given up at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import structlog

from escalade.tiers.answer import HIGHEST, Row, merge_rows
from escalade.tiers.caller import Caller
from escalade.tiers.errors import CallerError, UpstreamError
from escalade.tiers.outbox import Delivered, OutboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer
    from escalade.tiers.keeper import KeptWire
    from escalade.tiers.outbox import EvictionReason, Item, Kind, Leased, Outbox
    from escalade.tiers.upstream import Upstream

log = structlog.get_logger(__name__)

TAKEN_AT_ONCE = 32
MOST_LANES = 64
"""Leased at a time, those that pause after a failure among them."""
LOOK_S = 1.0
"""An empty outbox is looked into so often, for what another process may have left."""
LEAST_PAUSE_S, MOST_PAUSE_S = 0.1, 2.0
"""After a failure; doubled with each."""
BUSY, BUSY_PAUSE_S = 0.5, 0.25
"""From this load of the tier above on, items leave no faster than one in so long for each lane under way."""
REFUSED: dict[str, EvictionReason] = {"rejected": "rejected", "bad_answer": "rejected", "egress": "egress"}
"""Why an item cannot be sent until somebody changes a configuration, here (`egress`) or above; and as what it is
given up when nobody does."""
NEVER: dict[str, EvictionReason] = {"stale": "rejected", "no_inbox": "rejected"}
"""Why an item can never be sent: it fits this tier's model no longer; the tier above takes no reports."""

Lane = tuple[str, str]


class Sender(Protocol):
    """A port: the way of one kind of item."""

    async def send(self, item: Item) -> bytes:
        """Deliver it and return the answer, empty where there is none; UpstreamError when it did not arrive."""
        ...


class Escalations:
    """Sends kept inputs to the tier above, as deliveries; only a final answer that fits the provisional one counts.

    Parameters
    ----------
    max_batch:
        Most rows in one call, as for live requests; an item with more goes in parts.
    """

    def __init__(self, upstream: Upstream, wire: KeptWire, *, timeout_s: float, max_batch: int) -> None:
        self._upstream, self._wire, self._timeout_s, self._max_batch = upstream, wire, timeout_s, max_batch

    async def send(self, item: Item) -> bytes:
        """Return the final answer; see `Sender`."""
        try:
            x = self._wire.input(item.payload)
            answer = self._wire.provisional(item.provisional, len(x))
        except (CallerError, UpstreamError) as error:
            raise UpstreamError("stale", f"it was kept for another model: {error}") from error
        starts = range(0, len(x), self._max_batch)
        names = [item.id] if len(starts) == 1 else [f"{item.id}#{part}" for part in range(len(starts))]
        parts = [
            await self._ask(x[start : start + self._max_batch], Caller(item.device, item.priority, delivery=name))
            for start, name in zip(starts, names, strict=True)
        ]
        answer.reason, answer.degraded[:] = "", False
        answer.path, unused = merge_rows(answer, np.arange(len(x)), parts)
        if unused.any():
            raise UpstreamError("bad_answer", "the tier above made nothing of an input of which this one has a class")
        return self._wire.answer(answer)

    async def _ask(self, x: NDArray[Any], caller: Caller) -> Answer:
        result = await self._upstream.infer(x, self._timeout_s, caller)
        answer = result.answer() if isinstance(result, Row) else result
        if answer.degraded.any() and answer.reason not in HIGHEST:
            raise UpstreamError(answer.reason or "unavailable", "a tier further up could not be asked")
        return answer


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
    pause:
        Waits for so many seconds.
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
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outbox, self._senders, self._give_up_s, self._load = outbox, senders, give_up_s, load
        self._clock, self._uniform, self._pause = clock, uniform, pause
        self._slots = asyncio.Semaphore(in_flight)
        self._woken = asyncio.Event()
        self._lanes: set[asyncio.Task[None]] = set()
        self._failing: dict[Lane, float] = {}  # how long each pauses next
        self._refused_since: dict[Lane, float] = {}

    def wake(self) -> None:
        """There is something to send."""
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled; what is under way then is sent again later, and recognised above."""
        try:
            while True:
                self._woken.clear()
                if not await self._begin_some():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):  # `wait_for` of 3.11 may lose a cancellation
                            await self._woken.wait()
        finally:
            for task in self._lanes:
                task.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)

    async def _begin_some(self) -> int:
        """Take the next items, begin to send them, and return how many they are."""
        if len(self._lanes) >= MOST_LANES:
            return 0
        try:
            leased = await self._outbox.take(TAKEN_AT_ONCE)
        except OutboxError:  # it has logged it, and tries again
            return 0
        lanes = defaultdict[Lane, list["Leased"]](list)
        for one in leased:
            lanes[one.item.priority, one.item.device].append(one)
        for lane, items in lanes.items():
            task = asyncio.create_task(self._send(lane, items))
            self._lanes.add(task)
            task.add_done_callback(self._lane_ended)
        return len(leased)

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        self._lanes.discard(task)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a lane of the outbox failed unexpectedly", error=repr(error))

    async def _send(self, lane: Lane, items: list[Leased]) -> None:
        """Send the items of a lane in turn, up to the first that does not arrive; then pause, and put the rest back."""
        settling: list[asyncio.Future[Any]] = []
        arrived = 0
        try:
            for one in items:
                if self._load() >= BUSY:
                    await self._pause(BUSY_PAUSE_S)
                async with self._slots:
                    answer = await self._senders[one.item.kind].send(one.item)
                settling.append(asyncio.ensure_future(self._outbox.delivered([Delivered(one.seq, answer)])))
                arrived += 1
                self._failing.pop(lane, None)
                self._refused_since.pop(lane, None)
        except UpstreamError as error:
            await self._not_arrived(lane, items[arrived:], error.reason, str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end the sending of all others
            log.error("an item cannot be sent", error=repr(error))
            await self._not_arrived(lane, items[arrived:], "bad_answer", repr(error))
        finally:
            await asyncio.gather(*settling, return_exceptions=True)  # the outbox logs what its disk refuses

    async def _not_arrived(self, lane: Lane, rest: list[Leased], reason: str, detail: str) -> None:
        """Pause, then put the items back, less one that has no hope."""
        first, refused = rest[0], reason in REFUSED
        given_up = NEVER.get(reason)
        if refused:
            now = self._clock()
            if lane not in self._refused_since:
                self._refused_since[lane] = now
                log.warning("items are refused", reason=reason, item=_name(first), detail=detail)
            if now - self._refused_since[lane] >= self._give_up_s:
                given_up = REFUSED[reason]
        if given_up:
            if reason == "stale":  # of the others it has been said why, once
                log.warning("item given up", reason=reason, item=_name(first), detail=detail)
            await self._outbox.give_up([first.seq], given_up)
            await self._outbox.put_back([one.seq for one in rest[1:]])
            return
        pause_s = self._failing.get(lane, LEAST_PAUSE_S)
        self._failing[lane] = min(2 * pause_s, MOST_PAUSE_S)
        await self._pause(pause_s * (1 - self._uniform() / 4))
        back = self._outbox.failed if refused else self._outbox.put_back
        await back([one.seq for one in rest])


def _name(leased: Leased) -> str:
    return f"{leased.item.device}/{leased.item.id}"
