"""The receiving side of an outbox: what was delivered is answered or stored once, across restarts."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from escalade.tiers.outbox.errors import OutboxError
from escalade.tiers.outbox.item import Item
from escalade.tiers.outbox.receiver import Receiver, Stored
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.outbox.window import InboxLimits
from escalade.tiers.outbox.worker import MAX_GROUP, GroupThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence, Set
    from pathlib import Path

    from escalade.tiers.outbox.dedup import Seen
    from escalade.tiers.outbox.file import Synchronous
    from escalade.tiers.outbox.sealing import Seal
    from escalade.tiers.outbox.stats import Forgotten, InboxStats
    from escalade.tiers.outbox.worker import Answers, Request

READ_AT_ONCE = 64
AGAIN_S = 1.0
"""An inbox that cannot be read is tried again after so long."""


class Inbox:
    """Remembers deliveries and what they were answered, and keeps results and telemetry.

    An outbox sends at least once. Of each (device, id) that comes again within the window, an escalation
    gets the first one's answer (`claim`, `answered`), and a result or telemetry is not stored again
    (`store`). Both are on the disk when the call returns.

    The window: an item is remembered, and can be read, for `window_s` after it was answered or stored,
    unless more than `max_items` or `max_bytes` came since: then the oldest are dropped, and counted. So
    choose it longer than a sender's outage may last. Two things live in memory only: a claim until it is
    answered (a process that ends before has had no effect, and the next attempt is new), and a release.

    All methods belong to one event loop. What the disk refuses is an `OutboxError` of one line, and
    nothing of that call was kept; the inbox tries again with the next call.

    Parameters
    ----------
    path:
        The SQLite file; a lock, a WAL and damaged files that were moved aside stand beside it.
    clock, wall:
        Monotonic seconds, and the time of day, which only matters between two runs.
    seal:
        As in `Outbox`.
    synchronous:
        For tests only, as in `Outbox`.
    """

    def __init__(
        self,
        path: Path,
        limits: InboxLimits = InboxLimits(),  # noqa: B008  # frozen
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        max_group: int = MAX_GROUP,
        synchronous: Synchronous = "FULL",
        seal: Seal = UNSEALED,
    ) -> None:
        self.path = path
        self._receiver = Receiver(path, limits, clock=clock, wall=wall, synchronous=synchronous, seal=seal)
        self._news, self._closed = asyncio.Event(), False
        self._thread = GroupThread(f"inbox {path}", self._serve, self._receiver.close, max_group)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the file now rather than at the first call.

        Raises
        ------
        OutboxBusyError
            Another process has it open.
        OutboxError
            It cannot be opened. The inbox may be used all the same: every call tries again.
        """
        await self._thread.ask("open")

    async def claim(self, device: str, id: str) -> Seen[bytes] | None:  # noqa: A002  # the wire's word
        """Return None for a new item, now claimed, else what is known about it.

        `Seen(None)`: the first is still being worked on. `Seen(answer)`: it was answered, or stored
        (then the answer is empty).

        Raises
        ------
        OutboxError
            Whether it is new cannot be told now.
        """
        return await self._thread.ask("claim", (device, id))  # type: ignore[no-any-return]

    async def answered(self, device: str, id: str, answer: bytes) -> None:  # noqa: A002
        """Keep the answer for repeats; it is on the disk on return. An item that has an answer keeps that.

        Raises
        ------
        OutboxError
            It could not be kept. The claim is released: the next attempt is taken as new.
        """
        await self._thread.ask("answered", Item(device, id, answer))

    async def release(self, device: str, id: str) -> None:  # noqa: A002
        """Forget a claim that came to nothing, so that the next attempt is taken as new."""
        await self._thread.ask("release", (device, id))

    async def store(self, items: Sequence[Item]) -> list[bool]:
        """Keep results and telemetry, each once; return for each whether it was new. On the disk on return.

        Raises
        ------
        ValueError
            An escalation is among them: those are claimed and answered.
        OutboxError
            None of them were kept.
        """
        if any(item.kind == "escalation" for item in items):
            raise ValueError("an inbox stores results and telemetry; an escalation is claimed and answered")
        return await self._thread.ask("store", items)  # type: ignore[no-any-return]

    async def read(self, after: int, limit: int = 256) -> list[Stored]:
        """Return up to `limit` stored items with numbers greater than `after`, in the order they came.

        Raises
        ------
        OutboxError
            They cannot be read now; an empty list says that there are none.
        """
        return await self._thread.ask("read", (after, limit))  # type: ignore[no-any-return]

    async def follow(self, after: int, *, until_now: bool = False) -> AsyncIterator[Stored]:
        """Yield what is stored after the number `after`, in the order it came, then what comes.

        Parameters
        ----------
        until_now:
            End instead of waiting for more.

        Raises
        ------
        OutboxError
            It was closed; with `until_now` also when it cannot be read now.
        """
        while True:
            news = self._news
            try:
                found = await self.read(after, READ_AT_ONCE)
            except OutboxError:
                if until_now or self._closed:
                    raise
                await asyncio.sleep(AGAIN_S)
                continue
            for one in found:
                yield one
                after = one.seq
            if not found:
                if until_now:
                    return
                await news.wait()

    async def expire(self) -> None:
        """Delete what has left the window; else it stays until something new comes.

        Raises
        ------
        OutboxError
            It cannot be deleted now.
        """
        await self._thread.ask("expire")

    async def expire_forever(self, pause_s: float) -> None:
        """Do so every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(pause_s)
            with suppress(OutboxError):  # it has logged it
                await self.expire()

    async def forget(self, devices: Set[str]) -> Forgotten:
        """Delete everything of some devices, and overwrite it; what of theirs comes again is taken as new.

        Raises
        ------
        OutboxError
            Not all of it could be deleted; to be called again.
        """
        return await self._thread.ask("forget", devices)  # type: ignore[no-any-return]

    def stats(self) -> InboxStats:
        """Return what is kept, and counters, as of the last group."""
        return self._receiver.stats()

    async def close(self) -> None:
        """Finish what was asked before, then close the file and give up its lock."""
        self._closed = True
        await self._thread.close()
        self._announce()

    def _announce(self) -> None:
        """Wake who follows; runs on the loop."""
        self._news.set()
        self._news = asyncio.Event()

    def _serve(self, group: list[Request], answers: Answers) -> Callable[[], None]:
        """Store what there is to store in one transaction, then do the rest in turn; runs on the thread."""
        receiver = self._receiver
        stores = [request for request in group if request.what in ("store", "answered")]
        if stores:
            calls = [[request.argument] if request.what == "answered" else request.argument for request in stores]
            for (what, argument, answer), result in zip(stores, receiver.keep(calls), strict=True):
                if what == "answered":
                    receiver.release((argument.device, argument.id))
                answers.append((answer, None if what == "answered" and isinstance(result, list) else result))
        for what, argument, answer in group:
            if what not in ("store", "answered"):
                answers.append((answer, self._other(what, argument)))
        receiver.publish()
        return self._announce

    def _other(self, what: str, argument: Any) -> Seen[bytes] | list[Stored] | Forgotten | OutboxError | None:
        try:
            if what == "claim":
                return self._receiver.claim(argument)
            if what == "read":
                return self._receiver.read(*argument)
            if what == "release":
                self._receiver.release(argument)
            elif what == "expire":
                self._receiver.expire()
            elif what == "forget":
                return self._receiver.forget(argument)
            elif what == "open":
                self._receiver.open()
            elif what == "close":
                self._receiver.close()
        except OutboxError as error:
            return error
        return None
