"""The durable outbox: an asyncio face on one thread that owns one SQLite connection.

What is asked while a transaction is under way shares the next one (group commit), so that many callers
cost one fsync. `put` returns after the commit: what it returned a number for survives kill -9 and a
power cut.
"""

from __future__ import annotations

import asyncio
import time
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from escalade.tiers.outbox.errors import OutboxError
from escalade.tiers.outbox.order import OutboxLimits
from escalade.tiers.outbox.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from escalade.tiers.outbox.item import Item, Leased
    from escalade.tiers.outbox.sqlite_file import Synchronous
    from escalade.tiers.outbox.stats import Evicted, OutboxStats

MAX_GROUP = 256
"""Most items in one transaction."""


class _Request(NamedTuple):
    what: Literal["open", "put", "take", "done", "failed", "close"]
    argument: Any
    answer: asyncio.Future[Any]


class Outbox:
    """A bounded, durable queue of items that could not be sent.

    Promised: an item whose `put` returned is given out by `take` until it is `done`, evicted (counted,
    logged, reported) or found damaged (quarantined, counted, logged), in the order that `order.py`
    states, across crashes of the process and of the machine. Not promised: that it is given out only
    once (after a crash, what was in flight comes again), nor that an item whose `put` was cancelled or
    failed is *not* kept.

    All methods belong to one event loop. Nothing that the disk does raises anything but `OutboxError`,
    and that only from `open` and `put`: an outbox in trouble is tried again, at the latest by the `put`
    that comes a second later.

    Parameters
    ----------
    path:
        The SQLite file; a lock, a WAL and damaged files that were moved aside stand beside it.
    limits:
        See `OutboxLimits`.
    on_evicted:
        Called on the event loop with items that were kept and then given up.
    clock, wall:
        Monotonic seconds, and the time of day, which only matters between two runs (see `ages.py`).
    max_group:
        Most items in one transaction.
    synchronous, acknowledge:
        For tests only: any other value breaks the promise, and a power-cut test must notice.
    """

    def __init__(
        self,
        path: Path,
        limits: OutboxLimits = OutboxLimits(),  # noqa: B008  # frozen
        *,
        on_evicted: Callable[[list[Evicted]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        max_group: int = MAX_GROUP,
        synchronous: Synchronous = "FULL",
        acknowledge: Literal["after_commit", "before_commit"] = "after_commit",
    ) -> None:
        self.path = path
        self._writer = Writer(path, limits, clock=clock, wall=wall, synchronous=synchronous)
        self._on_evicted, self._max_group, self._early = on_evicted, max_group, acknowledge == "before_commit"
        self._incoming: list[_Request] = []
        self._requests: SimpleQueue[list[_Request]] = SimpleQueue()
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

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
        await self._ask("open", None)

    async def put(self, item: Item) -> int:
        """Keep an item; return its number once it is on the disk.

        Raises
        ------
        OutboxFullError
            No room may be made for it.
        OutboxError
            It could not be kept; one line says why.
        """
        return await self._ask("put", item)  # type: ignore[no-any-return]

    async def take(self, count: int) -> list[Leased]:
        """Lease up to `count` items, in order; fewer or none when no more may be sent now.

        Send those of one device and priority one after the other; when one fails, the later ones of
        the same lane have failed too, or their order is lost.
        """
        return await self._ask("take", count)  # type: ignore[no-any-return]

    async def done(self, seqs: Sequence[int]) -> None:
        """Drop leased items: they have arrived. If the disk refuses, they are dropped when it can."""
        await self._ask("done", seqs)

    async def failed(self, seqs: Sequence[int]) -> None:
        """Put leased items back to their places, with one more attempt counted."""
        await self._ask("failed", seqs)

    def stats(self) -> OutboxStats:
        """Return depth, bytes, age and counters, as of the last group."""
        return self._writer.stats()

    async def close(self) -> None:
        """Finish what was asked before, then close the file and give up its lock."""
        if not self._closed and self._thread is not None:
            closing = self._ask("close", None)
            self._closed = True  # whoever asks from now on is refused; who asked before is served
            await closing
            self._thread.join()
        self._closed = True

    async def _ask(self, what: Literal["open", "put", "take", "done", "failed", "close"], argument: Any) -> Any:
        if self._closed and what != "close":
            raise OutboxError(f"outbox {self.path}: closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread = Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()
        answer = self._loop.create_future()
        if not self._incoming:
            self._loop.call_soon(self._hand_over)
        self._incoming.append(_Request(what, argument, answer))
        return await answer

    def _hand_over(self) -> None:
        """Give the thread at once what was asked in one turn of the loop."""
        incoming, self._incoming = self._incoming, []
        self._requests.put(incoming)

    def _work(self) -> None:
        """Serve requests in groups until closed; runs on the outbox's thread."""
        waiting: list[_Request] = []
        while True:
            if not waiting:
                waiting = self._requests.get()
            while not self._requests.empty():
                waiting += self._requests.get()
            group, waiting = waiting[: self._max_group], waiting[self._max_group :]
            closing = any(request.what == "close" for request in group)
            answers = self._serve(group)
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(self._settle, answers, self._writer.evicted)
                self._writer.evicted = []
            except RuntimeError:  # the loop is gone, and with it everyone who waited
                self._writer.close()
                return
            if closing:
                return

    def _serve(self, group: list[_Request]) -> list[tuple[asyncio.Future[Any], Any]]:
        """Write what there is to write in one transaction, then do the rest in turn."""
        writer, puts = self._writer, [request for request in group if request.what == "put"]
        done = [seq for request in group if request.what == "done" for seq in request.argument]
        failed = [seq for request in group if request.what == "failed" for seq in request.argument]
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        try:
            if self._early and self._loop is not None:
                promised = [(request.answer, writer.next_seq + place) for place, request in enumerate(puts)]
                self._loop.call_soon_threadsafe(self._settle, promised, [])
            if puts or done or failed:
                results = writer.write([request.argument for request in puts], done, failed)
                answers += zip((request.answer for request in puts), results, strict=True)
            for what, argument, answer in group:
                if what != "put":
                    answers.append((answer, self._other(what, argument)))
        except Exception as error:  # noqa: BLE001  # a fault of ours must not leave anyone waiting
            answered = {id(answer) for answer, _ in answers}
            answers += [(request.answer, error) for request in group if id(request.answer) not in answered]
        return answers

    def _other(self, what: str, argument: Any) -> list[Leased] | OutboxError | None:
        try:
            if what == "take":
                return self._writer.take(argument)
            if what == "open":
                self._writer.open()
            elif what == "close":
                self._writer.close()
        except OutboxError as error:
            return error
        return None

    def _settle(self, answers: list[tuple[asyncio.Future[Any], Any]], evicted: list[Evicted]) -> None:
        """Answer the callers; runs on the loop."""
        for answer, result in answers:
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        if evicted and self._on_evicted:
            self._on_evicted(evicted)
