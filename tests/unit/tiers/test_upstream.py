from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.tiers.answer import Answer
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import UpstreamError
from escalade.tiers.testing.fakes import FakeUpstream, ManualClock
from escalade.tiers.upstream import Gatherer

pytestmark = pytest.mark.asyncio

SOON = 1000.5  # the clock stands at 1000


def rows(count: int, value: float = 0) -> NDArray[np.float32]:
    return np.full((count, 2), value, np.float32)


class Echo(FakeUpstream):
    """Says of each row which it was: the posterior is the row."""

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
        answer = await super().infer(x, timeout_s)
        answer.posterior = x
        return answer


class Held(FakeUpstream):
    """Holds every call until `gate` is set, and tells when a call has come."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = self.gate = asyncio.Event()
        self.asked = asyncio.Event()

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
        self.asked.set()
        return await super().infer(x, timeout_s)


def gather(upstream: FakeUpstream, max_batch: int = 8, clock: ManualClock | None = None) -> Gatherer:
    return Gatherer(upstream, max_batch=max_batch, clock=clock or ManualClock())


def echoed(parts: list[Answer]) -> list[list[float]]:
    return [row for part in parts if part.posterior is not None for row in part.posterior.tolist()]


async def reason_of(call: Any) -> str:
    with pytest.raises(UpstreamError) as caught:
        await call
    return caught.value.reason


async def test_one_request_is_one_call_with_the_time_that_is_left() -> None:
    """The timeout is the deadline less the clock."""
    upstream = FakeUpstream()
    (answer,) = await gather(upstream).infer(rows(3), SOON)
    assert answer.tier == ["edge_server"] * 3
    assert [len(call) for call in upstream.calls] == [3]
    assert upstream.timeouts_s == [0.5]


async def test_requests_of_one_turn_share_a_call_and_each_gets_its_own_rows() -> None:
    """In the order that they came, with the longest of their deadlines."""
    upstream = Echo()
    gatherer = gather(upstream)
    answers = await asyncio.gather(
        gatherer.infer(rows(2, 0.1), SOON), gatherer.infer(rows(1, 0.2), 1002), gatherer.infer(rows(3, 0.3), SOON)
    )
    assert [len(call) for call in upstream.calls] == [6]
    assert upstream.timeouts_s == [2]
    assert [echoed(parts) for parts in answers] == [
        rows(2, 0.1).tolist(),
        rows(1, 0.2).tolist(),
        rows(3, 0.3).tolist(),
    ]


async def test_requests_of_different_turns_do_not_wait_for_each_other() -> None:
    """A call under way holds up nobody."""
    upstream = Held()
    gatherer = gather(upstream)
    first = asyncio.create_task(gatherer.infer(rows(1), SOON))
    await upstream.asked.wait()
    upstream.asked.clear()
    second = asyncio.create_task(gatherer.infer(rows(2), SOON))
    await upstream.asked.wait()
    upstream.gate.set()
    assert [len(part[0]) for part in await asyncio.gather(first, second)] == [1, 2]


async def test_no_call_has_more_rows_than_max_batch() -> None:
    """A large request is split; small ones are grouped as they fit, none left out."""
    upstream = Echo()
    gatherer = gather(upstream, max_batch=4)
    x = np.arange(22, dtype=np.float32).reshape(11, 2)
    large, small = await asyncio.gather(gatherer.infer(x, SOON), gatherer.infer(rows(1, -1), SOON))
    assert all(len(call) <= 4 for call in upstream.calls)
    assert sum(map(len, upstream.calls)) == 12
    assert echoed(large) == x.tolist()
    assert echoed(small) == rows(1, -1).tolist()


async def test_rows_of_different_shapes_do_not_share_a_call() -> None:
    """A model with an open input size gets each size by itself."""
    upstream = FakeUpstream()
    gatherer = gather(upstream)
    await asyncio.gather(
        gatherer.infer(np.zeros((1, 2)), SOON),
        gatherer.infer(np.zeros((1, 3)), SOON),
        gatherer.infer(np.zeros((2, 2)), SOON),
    )
    assert sorted(call.shape for call in upstream.calls) == [(1, 3), (3, 2)]


async def test_rows_of_different_priorities_do_not_share_a_call() -> None:
    """What may take a link that is kept for critical requests takes nobody along; nor do hops get mixed up."""
    upstream = FakeUpstream()
    gatherer = gather(upstream)
    callers = [Caller(), Caller(priority="critical"), Caller(hops=1), Caller(priority="critical")]
    await asyncio.gather(*(gatherer.infer(rows(1), SOON, caller) for caller in callers))
    assert [(caller.priority, caller.hops) for caller in upstream.callers] == [
        ("normal", 0),
        ("critical", 0),
        ("normal", 1),
    ]
    assert [len(call) for call in upstream.calls] == [1, 2, 1]


async def test_a_failed_call_fails_all_its_requests_for_the_same_reason() -> None:
    """Each gets an error of its own: nobody else's traceback grows on it."""
    upstream = FakeUpstream()
    upstream.failure = "overloaded"
    gatherer = gather(upstream)
    failed = await asyncio.gather(*(gatherer.infer(rows(1), SOON) for _ in range(3)), return_exceptions=True)
    assert [error.reason for error in failed if isinstance(error, UpstreamError)] == ["overloaded"] * 3
    assert len({id(error) for error in failed}) == 3
    assert len(upstream.calls) == 1


async def test_one_failed_part_fails_the_request() -> None:
    """And leaves no part behind that nobody waits for."""
    upstream = FakeUpstream()
    upstream.failure = "rejected"
    assert await reason_of(gather(upstream, max_batch=2).infer(rows(5), SOON)) == "rejected"
    assert len(upstream.calls) == 3


async def test_a_request_waits_no_longer_than_its_own_deadline() -> None:
    """The one with more time still gets its answer from the call that they share."""
    upstream = Held()
    gatherer = gather(upstream)
    patient = asyncio.create_task(gatherer.infer(rows(1), 1020))
    assert await reason_of(gatherer.infer(rows(1), 1000.01)) == "timeout"
    assert not patient.done()
    upstream.gate.set()
    assert len(await patient) == 1
    assert [len(call) for call in upstream.calls] == [2]


async def test_the_time_of_a_call_is_remembered() -> None:
    """The first as it is, later ones by a tenth; a failure teaches nothing."""
    clock = ManualClock()

    class Slow(FakeUpstream):
        seconds = 0.1

        async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
            clock.advance(self.seconds)
            return await super().infer(x, timeout_s)

    upstream = Slow()
    gatherer = gather(upstream, clock=clock)
    assert np.isnan(gatherer.latency_ms)
    await gatherer.infer(rows(1), SOON)
    assert gatherer.latency_ms == pytest.approx(100)
    upstream.seconds = 0.2
    await gatherer.infer(rows(1), 1010)
    assert gatherer.latency_ms == pytest.approx(110)
    upstream.failure, upstream.seconds = "timeout", 5
    assert await reason_of(gatherer.infer(rows(1), 1010)) == "timeout"
    assert gatherer.latency_ms == pytest.approx(110)


async def test_a_request_that_is_given_up_does_not_disturb_its_neighbours() -> None:
    """The caller went away; the others of the same call are answered."""
    upstream = Held()
    gatherer = gather(upstream)
    leaving = asyncio.create_task(gatherer.infer(rows(1), SOON))
    staying = asyncio.create_task(gatherer.infer(rows(2), SOON))
    await upstream.asked.wait()
    leaving.cancel()
    upstream.gate.set()
    assert [len(part) for part in await staying] == [2]
    assert leaving.cancelled()


async def test_closing_ends_the_calls_under_way() -> None:
    """Their requests fail as unavailable at once, and the link is let go."""
    upstream = Held()
    gatherer = gather(upstream)
    call = asyncio.create_task(gatherer.infer(rows(1), SOON))
    await upstream.asked.wait()
    await gatherer.close()
    assert await reason_of(call) == "unavailable"
    assert upstream.closed


async def test_closing_ends_the_requests_that_were_about_to_go() -> None:
    """One submitted in the very turn of the closing does not hang."""
    upstream = FakeUpstream()
    gatherer = gather(upstream)
    call = asyncio.create_task(gatherer.infer(rows(1), SOON))
    await asyncio.sleep(0)
    await gatherer.close()
    async with asyncio.timeout(5):
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], (list, UpstreamError))


async def test_an_upstream_that_breaks_its_promise_is_an_upstream_error() -> None:
    """A bug in the link degrades the answer like any other failure."""

    class Buggy(FakeUpstream):
        async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
            raise RuntimeError("a bug")

    assert await reason_of(gather(Buggy()).infer(rows(1), SOON)) == "unavailable"


async def test_a_single_row_is_sent_in_the_same_turn() -> None:
    """Without a task, and its latency is known afterwards."""
    gatherer = gather(FakeUpstream())
    answer = await gatherer.infer_now(rows(1), SOON)
    assert len(answer.tier) == 1
    assert gatherer.latency_ms == 0.0


async def test_closing_the_link_is_told_from_a_caller_that_gave_up() -> None:
    """The one is the tier above's failure, to be answered degraded; the other is a cancellation."""
    upstream = Held()
    gatherer = gather(upstream)
    gave_up = asyncio.create_task(gatherer.infer_now(rows(1), SOON))
    cut_off = asyncio.create_task(gatherer.infer_now(rows(1), SOON))
    await asyncio.sleep(0)
    gave_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gave_up
    await gatherer.close()
    cut_off.cancel()  # as grpc does to the calls of a channel that is closed
    assert await reason_of(cut_off) == "unavailable"
