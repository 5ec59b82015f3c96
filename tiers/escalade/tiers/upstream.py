"""The tier above, as a tier sees it, and the gathering of rows on their way to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from escalade.tiers.answer import Row
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer


class Upstream(Protocol):
    """A port to the tier above.

    Guaranteed: `infer` returns one row of answer for each row of input, in order, within `timeout_s`, or
    raises UpstreamError. A posterior sums to 1, or holds NaN and its row's label is -1. Not guaranteed:
    that the tier above did not see the rows when it raises.
    """

    @property
    def load(self) -> float:
        """How full the tier above said to be in its last answer, 0 to 1; 1 when it refused for overload."""
        ...

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Row | Answer:
        """Return the answer of the tier above to `x`, `[B, ...]`; a `Row` only where B is 1."""
        ...

    async def close(self) -> None:
        """Let go of the link."""
        ...


class Peer(Upstream, Protocol):
    """An upstream at one address, to which `Links` keeps one link.

    Attributes
    ----------
    address:
        Where it is, for logs and metrics.
    """

    address: str

    async def ready(self, timeout_s: float) -> None:
        """Return when the peer says anything at all; UpstreamError when nothing comes in time."""
        ...


@dataclass(slots=True)
class _Item:
    x: NDArray[Any]
    deadline: float
    caller: Caller
    future: asyncio.Future[Answer]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What is equal in all items of one call."""
        return self.x.shape[1:], self.caller


LOAD_S = 2.0
"""So long what the tier above says of its load counts."""


class Gatherer:
    """Sends rows that became uncertain in the same turn of the event loop upward in one call.

    A run of the model that several requests shared ends in one turn, so its uncertain rows travel
    together, those asked for on the same terms. Each request still waits no longer than its own
    deadline.

    Parameters
    ----------
    max_batch:
        Most rows in one call; a request with more is split.
    clock:
        Seconds, monotonic; the same that deadlines are given in.
    """

    def __init__(self, upstream: Upstream, *, max_batch: int, clock: Callable[[], float]) -> None:
        self._upstream, self._max_batch, self._clock = upstream, max_batch, clock
        self._waiting: list[_Item] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.latency_ms = float("nan")
        """Recent time of a call that was answered: exponentially weighted, over about ten calls."""
        self._load, self._load_until = 0.0, 0.0

    def load_at(self, now: float) -> float:
        """Return how full the tier above is as far as is known: 0 where it said nothing lately."""
        return self._load if now < self._load_until else 0.0

    async def infer(self, x: NDArray[Any], deadline: float, caller: Caller = PLAIN) -> list[Answer]:
        """Return the answers to consecutive parts of `x`; UpstreamError when any part had none in time."""
        if caller.delivery:  # of a name and a fate of its own, so that it shares no call
            answer = await self.infer_now(x, deadline, caller)
            return [answer.answer() if isinstance(answer, Row) else answer]
        parts = [self._submit(x[i : i + self._max_batch], deadline, caller) for i in range(0, len(x), self._max_batch)]
        return [await parts[0]] if len(parts) == 1 else await asyncio.gather(*parts)

    async def infer_now(self, x: NDArray[Any], deadline: float, caller: Caller = PLAIN) -> Row | Answer:
        """Return the answer to what needs no company, or may have none, in a call of its own; raises as `infer`."""
        try:
            return await self._timed(x, deadline, caller)
        except asyncio.CancelledError:
            if self._closed:
                raise UpstreamError("unavailable", "the link was closed") from None
            raise

    async def close(self) -> None:
        """End the calls under way and let go of the link."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._upstream.close()

    def _submit(self, x: NDArray[Any], deadline: float, caller: Caller) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        item = _Item(x, deadline, caller, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(item)
        return item.future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        while waiting:
            group, rows, rest = [waiting[0]], len(waiting[0].x), []
            kind = waiting[0].kind
            for item in waiting[1:]:
                if rows + len(item.x) <= self._max_batch and item.kind == kind:
                    group.append(item)
                    rows += len(item.x)
                else:
                    rest.append(item)
            task = asyncio.create_task(self._call(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            waiting = rest

    async def _call(self, group: list[_Item]) -> None:
        x = group[0].x if len(group) == 1 else np.concatenate([item.x for item in group])
        started = self._clock()
        last = max(item.deadline for item in group)
        timers = [
            asyncio.get_running_loop().call_later(item.deadline - started, _fail, item, UpstreamError("timeout"))
            for item in group
            if item.deadline < last
        ]
        try:
            result = await self._timed(x, last, group[0].caller)
            answer = result.answer() if isinstance(result, Row) else result
        except UpstreamError as error:
            for item in group:
                _fail(item, UpstreamError(error.reason, str(error)))
        except BaseException:
            for item in group:
                _fail(item, UpstreamError("unavailable", "the link was closed"))
            raise
        else:
            start = 0
            for item in group:
                stop = start + len(item.x)
                if not item.future.done():
                    item.future.set_result(answer if len(group) == 1 else answer.rows(start, stop))
                start = stop
        finally:
            for timer in timers:
                timer.cancel()

    async def _timed(self, x: NDArray[Any], deadline: float, caller: Caller) -> Row | Answer:
        started = self._clock()
        try:
            answer = await self._upstream.infer(x, deadline - started, caller)
        finally:
            now = self._clock()
            self._load, self._load_until = self._upstream.load, now + LOAD_S
        elapsed_ms = (now - started) * 1e3
        known = self.latency_ms == self.latency_ms
        self.latency_ms = self.latency_ms + 0.1 * (elapsed_ms - self.latency_ms) if known else elapsed_ms
        return answer


def _fail(item: _Item, error: UpstreamError) -> None:
    if not item.future.done():
        item.future.set_exception(error)
