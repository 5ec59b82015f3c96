"""The durable outbox: an asyncio face on one thread that owns one SQLite connection.

What is asked while a transaction is under way shares the next one (group commit), so that many callers
cost one fsync. `put` returns after the commit: what it returned a number for survives kill -9 and a
power cut.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from escalade.tiers.outbox.batch import Batch
from escalade.tiers.outbox.errors import OutboxError
from escalade.tiers.outbox.order import OutboxLimits
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.outbox.worker import MAX_GROUP, GroupThread
from escalade.tiers.outbox.writer import Writer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence, Set
    from pathlib import Path

    from escalade.tiers.outbox.correction import Correction, Delivered
    from escalade.tiers.outbox.file import Synchronous
    from escalade.tiers.outbox.item import Item, Leased
    from escalade.tiers.outbox.sealing import Seal
    from escalade.tiers.outbox.stats import Evicted, EvictionReason, Forgotten, OutboxStats
    from escalade.tiers.outbox.worker import Answers, Request


_SERVED = ("put", "delivered", "take")


class Outbox:
    """A bounded, durable queue of items that could not be sent.

    Promised: an item whose `put` returned is given out by `take` until it is `done`, evicted (counted,
    logged, reported) or found damaged (quarantined, counted, logged), in the order that `order.py`
    states, across crashes of the process and of the machine. Not promised: that it is given out only
    once (after a crash, what was in flight comes again), nor that an item whose `put` was cancelled or
    failed is *not* kept.

    A delivered item's correction is stored in the transaction that drops the item, and read by
    `corrections` from any number on, until it is older than `max_age_s` or one of more than
    `max_corrections` (dropped ones are counted).

    All methods belong to one event loop. Nothing that the disk does raises anything but `OutboxError`,
    and that only from `open`, `put`, `delivered` and `corrections`: an outbox in trouble is tried again,
    at the latest by the `put` that comes a second later.

    Parameters
    ----------
    path:
        The SQLite file; a lock, a WAL and damaged files that were moved aside stand beside it.
    limits:
        See `OutboxLimits`.
    on_evicted:
        Called on the event loop with items that were kept and then given up.
    on_recorded:
        Called on the event loop with corrections once they are on the disk, in order, each once: also
        with those that `delivered` had to leave for later.
    clock, wall:
        Monotonic seconds, and the time of day, which only matters between two runs (see `ages.py`).
    max_group:
        Most items in one transaction.
    seal:
        Encrypts payloads and answers on the disk.
    synchronous, acknowledge:
        For tests only: any other value breaks the promise, and a power-cut test must notice.
    """

    def __init__(
        self,
        path: Path,
        limits: OutboxLimits = OutboxLimits(),  # noqa: B008  # frozen
        *,
        on_evicted: Callable[[list[Evicted]], None] | None = None,
        on_recorded: Callable[[list[Correction]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        max_group: int = MAX_GROUP,
        synchronous: Synchronous = "FULL",
        acknowledge: Literal["after_commit", "before_commit"] = "after_commit",
        seal: Seal = UNSEALED,
    ) -> None:
        self.path = path
        self._writer = Writer(path, limits, clock=clock, wall=wall, synchronous=synchronous, seal=seal)
        self._on_evicted, self._on_recorded = on_evicted, on_recorded
        self._early = acknowledge == "before_commit"
        self._thread = GroupThread(f"outbox {path}", self._serve, self._writer.close, max_group)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the file now rather than at the first `put`.

        Raises
        ------
        OutboxBusyError
            Another process has it open.
        OutboxError
            It cannot be opened. The outbox may be used all the same: `put` tries again.
        """
        await self._thread.ask("open")

    async def put(self, item: Item) -> int:
        """Keep an item; return its number once it is on the disk.

        Raises
        ------
        OutboxFullError
            No room may be made for it.
        OutboxError
            It could not be kept; one line says why.
        """
        return await self._thread.ask("put", item)  # type: ignore[no-any-return]

    async def take(self, count: int) -> list[Leased]:
        """Lease up to `count` items, in order; fewer or none when no more may be sent now.

        Send those of one device and priority one after the other; when one fails, the later ones of
        the same lane have failed too, or their order is lost.
        """
        return await self._thread.ask("take", count)  # type: ignore[no-any-return]

    async def done(self, seqs: Sequence[int]) -> None:
        """Drop leased items: they have arrived. If the disk refuses, they are dropped when it can."""
        await self._thread.ask("done", seqs)

    async def delivered(self, settled: Sequence[Delivered]) -> list[Correction]:
        """Drop leased items that the tier above has answered, and record their corrections with it.

        Returns the corrections once they are on the disk. Numbers that are not leased are left alone.

        Raises
        ------
        OutboxError
            The disk refused. The items are not sent again by this process; their deletion and their
            corrections are written together as soon as the disk allows, and then told to `on_recorded`.
            If the process ends before that, the items are sent again.
        """
        return await self._thread.ask("delivered", settled)  # type: ignore[no-any-return]

    async def failed(self, seqs: Sequence[int]) -> None:
        """Put leased items back to their places, with one more attempt counted."""
        await self._thread.ask("failed", seqs)

    async def put_back(self, seqs: Sequence[int]) -> None:
        """Put leased items back that could not be tried: nothing is counted, and nothing written."""
        await self._thread.ask("put_back", seqs)

    async def give_up(self, seqs: Sequence[int], reason: EvictionReason = "rejected") -> None:
        """Drop leased items that can never be delivered: an eviction, counted, logged and reported.

        If the disk refuses, they are not sent again by this process, and dropped when it can.
        """
        await self._thread.ask("give_up", (seqs, reason))

    async def corrections(self, after: int, limit: int = 256) -> list[Correction]:
        """Return up to `limit` corrections with numbers greater than `after`, oldest first.

        Raises
        ------
        OutboxError
            They cannot be read now; an empty list says that there are none.
        """
        return await self._thread.ask("corrections", (after, limit))  # type: ignore[no-any-return]

    async def forget(self, devices: Set[str]) -> Forgotten:
        """Delete everything of some devices, and overwrite it; what is asked meanwhile waits, seconds in a large file.

        What of theirs is in flight may still arrive above; it has no correction here.

        Raises
        ------
        OutboxError
            Not all of it could be deleted; to be called again.
        """
        return await self._thread.ask("forget", devices)  # type: ignore[no-any-return]

    def stats(self) -> OutboxStats:
        """Return depth, bytes, age and counters, as of the last group."""
        return self._writer.stats()

    async def close(self) -> None:
        """Finish what was asked before, then close the file and give up its lock."""
        await self._thread.close()

    def _serve(self, group: list[Request], answers: Answers) -> Callable[[], None] | None:
        """Write what there is to write in one transaction, and do the rest; runs on the thread.

        What is taken is given out before the transaction, so that it can be sent during the fsync.
        """
        writer, batch = self._writer, Batch()
        puts: list[asyncio.Future[Any]] = []
        for what, argument, answer in group:
            if what == "put":
                batch.puts.append(argument)
                puts.append(answer)
            elif what == "done":
                batch.done += argument
            elif what == "delivered":
                batch.delivered.append(argument)
            elif what == "failed":
                batch.failed += argument
            elif what == "give_up":
                batch.given_up.append(argument)
        if self._early:
            self._thread.tell([(answer, writer.next_seq + place) for place, answer in enumerate(puts)])
        places = writer.settle(batch)
        takes = [request for request in group if request.what == "take"] if len(puts) < len(group) else []
        early = bool(takes and batch and not writer.has_expired())
        if early:
            self._thread.tell([(answer, writer.take(count)) for _, count, answer in takes])
        if batch:
            written = writer.write(batch.puts, places)
            answers += zip(puts, written.puts, strict=True)
            if places:
                delivered = (request.answer for request in group if request.what == "delivered")
                answers += zip(delivered, written.delivered, strict=True)
        if takes and not early:
            taken = writer.clean_up()
            answers += [(answer, writer.take(count) if taken else []) for _, count, answer in takes]
        if len(puts) < len(group):
            answers += [
                (answer, self._other(what, argument)) for what, argument, answer in group if what not in _SERVED
            ]
        writer.publish()
        if not writer.evicted and not writer.recorded:
            return None
        evicted, recorded, writer.evicted, writer.recorded = writer.evicted, writer.recorded, [], []
        return partial(self._report, evicted, recorded)

    def _other(self, what: str, argument: Any) -> list[Correction] | Forgotten | OutboxError | None:
        try:
            if what == "corrections":
                return self._writer.corrections(*argument)
            if what == "put_back":
                self._writer.put_back(argument)
            elif what == "forget":
                return self._writer.forget(argument)
            elif what == "open":
                self._writer.open()
            elif what == "close":
                self._writer.close()
        except OutboxError as error:
            return error
        return None

    def _report(self, evicted: list[Evicted], recorded: list[Correction]) -> None:
        if evicted and self._on_evicted:
            self._on_evicted(evicted)
        if recorded and self._on_recorded:
            self._on_recorded(recorded)
