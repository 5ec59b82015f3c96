"""What goes to the disk, in order and in groups: all that waits while one transaction is written shares the next."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from escalade.tiers.outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from escalade.tiers.aggregator.event import Answer
    from escalade.tiers.aggregator.store import Final, Learnt, Store
    from escalade.tiers.aggregator.window import Accepted

    Operation = Accepted | Answer | Final | Learnt

log = structlog.get_logger(__name__)

RETRY_S = 1.0
"""How long a disk that refused is left alone."""
MAX_GROUP = 4096
MAX_BACKLOG = 20_000
"""Operations that may wait for a disk that refuses; then nothing more is taken."""


class Journal:
    """The store behind one thread.

    What was put stays in order. A group that the disk refuses is kept in memory and tried again; until it is
    written nobody is told that anything after it was. One operation that fails for another reason is given up
    alone, with an error in the log.

    Parameters
    ----------
    written:
        Told of every group that is on the disk, and of what was given up, on the event loop.
    commit_s:
        Told how long each took.
    """

    def __init__(
        self, store: Store, *, written: Callable[[list[Operation]], None], commit_s: Callable[[float], None]
    ) -> None:
        self._store, self._written, self._commit_s = store, written, commit_s
        self._thread = ThreadPoolExecutor(1, "aggregator-store")
        self._waiting: list[Operation] = []
        self._promises: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self.trouble = ""
        """Why nothing can be written at the moment; empty when all is well."""
        self.errors = 0

    @property
    def backlog(self) -> int:
        """Operations that wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether a disk in trouble lets nothing more be taken."""
        return bool(self.trouble) and len(self._waiting) >= MAX_BACKLOG

    def put(self, operations: list[Operation]) -> None:
        """Append operations; returns at once."""
        self._waiting += operations
        self._begin()

    async def all_written(self) -> None:
        """Return when everything put so far is on the disk.

        Raises
        ------
        OutboxError
            It is not, and will be tried again.
        """
        if self._retry is not None:
            raise OutboxError(self.trouble)
        if self._waiting or self._task is not None:
            promise = asyncio.get_running_loop().create_future()
            self._promises.append(promise)
            self._begin()
            await promise

    async def forget(self, node: str) -> str:
        """Delete what the store has of a node; see there."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._store.forget, node)

    def try_again(self) -> None:
        """Try the disk again now, rather than a second after it refused."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._begin()

    async def close(self) -> None:
        """Write what waits, if the disk allows, and close the store."""
        self.try_again()
        try:
            await self.all_written()
        except OutboxError:
            log.error("what was not acknowledged yet is lost", operations=len(self._waiting))
        if self._retry is not None:
            self._retry.cancel()
        self._thread.shutdown()
        self._store.close()

    def _begin(self) -> None:
        if self._task is None and self._retry is None:
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        loop, largest = asyncio.get_running_loop(), MAX_GROUP
        try:
            while self._waiting or self._promises:
                group, promises = self._waiting[:largest], self._promises
                whole = len(group) == len(self._waiting)
                if whole:
                    self._promises = []
                started = time.perf_counter()
                try:
                    if group:
                        await loop.run_in_executor(self._thread, self._store.write, group)
                except OutboxError as error:
                    self._failed(error, promises if whole else [])
                    return
                except Exception as error:  # noqa: BLE001  # a fault of ours must not leave anyone waiting
                    if whole:
                        self._promises = promises + self._promises
                    if len(group) > 1:
                        largest = len(group) // 2
                    else:
                        self._drop(error)
                    continue
                largest = MAX_GROUP
                if group:
                    self._commit_s(time.perf_counter() - started)
                    del self._waiting[: len(group)]
                    self._works()
                    self._written(group)
                for promise in promises if whole else []:
                    if not promise.done():
                        promise.set_result(None)
        finally:
            self._task = None

    def _drop(self, error: Exception) -> None:
        """Give up the first operation, which no disk would take: what comes after it must not wait for ever."""
        self.errors += 1
        if self._waiting:
            lost = self._waiting.pop(0)
            log.error("aggregator cannot keep one thing, and goes on without it", what=repr(lost)[:200], exc_info=error)
            self._written([lost])
        promises, self._promises = self._promises, []
        _refuse(promises, repr(error))  # whose it was is not known: each may try again

    def _failed(self, error: Exception, promises: list[asyncio.Future[None]]) -> None:
        self.errors += 1
        if str(error) != self.trouble:
            log.error("aggregator cannot keep what it is told", reason=str(error))
        self.trouble = str(error)
        promises, self._promises = promises + self._promises, []
        _refuse(promises, self.trouble)
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self.try_again)

    def _works(self) -> None:
        if self.trouble:
            log.info("aggregator keeps what it is told again")
            self.trouble = ""


def _refuse(promises: list[asyncio.Future[None]], reason: str) -> None:
    for promise in promises:
        if not promise.done():
            promise.set_exception(OutboxError(reason))
