"""An outbox is emptied in order, with patience, and only what was answered for good counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from escalade.tiers.drain import Drain
from escalade.tiers.errors import UpstreamError
from escalade.tiers.outbox import Item, Outbox, Priority

pytestmark = pytest.mark.asyncio


class Above:
    """A sender that notes what arrives, and fails as told."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str]] = []
        self.failures: dict[str, list[str]] = {}
        self.under_way = self.most_under_way = 0

    async def send(self, item: Item) -> bytes:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if reasons := self.failures.get(item.id):
            raise UpstreamError(reasons.pop(0))
        self.arrived.append((item.device, item.id))
        return b"answer to " + item.id.encode()


@pytest_asyncio.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    async with Outbox(tmp_path / "outbox.db") as outbox:
        yield outbox


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


def drain_of(outbox: Outbox, above: Above, *, give_up_s: float = 3600.0, in_flight: int = 4) -> Drain:
    return Drain(outbox, {"escalation": above}, give_up_s=give_up_s, in_flight=in_flight, pause=no_pause)


async def put(outbox: Outbox, *ids: str, device: str = "cam", priority: Priority = "normal") -> None:
    for name in ids:
        await outbox.put(Item(device, name, b"x", priority=priority, provisional=b"old"))


async def until(drain: Drain, done: Callable[[], bool]) -> None:
    """Let it send until something is so."""
    sending = asyncio.create_task(drain.run())
    async with asyncio.timeout(20):
        while True:
            if done():
                break
            await asyncio.sleep(0.002)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def empty(drain: Drain, outbox: Outbox) -> None:
    await until(drain, lambda: not outbox.stats().items)


async def test_items_of_a_device_arrive_in_order_whatever_fails_on_the_way(outbox: Outbox) -> None:
    """A failure stops its lane, and the next try begins with the item that failed."""
    above = Above()
    above.failures = {"b": ["timeout", "unavailable"], "d": ["overloaded"]}
    await put(outbox, *"abcdef")
    await empty(drain_of(outbox, above), outbox)
    assert [name for _, name in above.arrived] == list("abcdef")


async def test_a_lane_that_fails_holds_no_other_up(outbox: Outbox) -> None:
    """Another device's items arrive while the first device's are refused."""
    above = Above()
    above.failures = {"a": ["timeout"] * 100}
    await put(outbox, "a", "b", device="one")
    await put(outbox, "c", "d", device="two")
    await until(drain_of(outbox, above), lambda: len(above.arrived) == 2)
    assert above.arrived == [("two", "c"), ("two", "d")]


async def test_critical_items_go_first(outbox: Outbox) -> None:
    """Whatever the order in which they were put."""
    above = Above()
    await put(outbox, "late", priority="bulk")
    await put(outbox, "soon")
    await put(outbox, "first", priority="critical")
    await empty(drain_of(outbox, above, in_flight=1), outbox)
    assert [name for _, name in above.arrived] == ["first", "soon", "late"]


async def test_no_more_lanes_are_under_way_than_allowed(outbox: Outbox) -> None:
    """`in_flight` bounds what a backlog asks of the tier above at a time."""
    above = Above()
    for number in range(10):
        await put(outbox, "a", "b", device=f"cam-{number}")
    await empty(drain_of(outbox, above, in_flight=3), outbox)
    assert above.most_under_way == 3
    assert len(above.arrived) == 20


async def test_an_item_that_is_refused_for_too_long_is_given_up_and_counted(outbox: Outbox) -> None:
    """Those behind it arrive; a link that is merely down never costs an item."""
    above = Above()
    above.failures = {"bad": ["rejected"] * 100, "slow": ["circuit_open"] * 20}
    await put(outbox, "bad", "good", "slow")
    await empty(drain_of(outbox, above, give_up_s=0.0), outbox)
    assert [name for _, name in above.arrived] == ["good", "slow"]
    assert outbox.stats().evictions == {("rejected", "normal"): 1}


async def test_a_refused_item_has_patience_first(outbox: Outbox) -> None:
    """A wrong configuration above that is mended within `give_up_s` costs nothing."""
    above = Above()
    above.failures = {"a": ["rejected", "bad_answer", "rejected"]}
    await put(outbox, "a")
    await empty(drain_of(outbox, above), outbox)
    assert [name for _, name in above.arrived] == ["a"]
    assert outbox.stats().evictions == {}


async def test_what_can_never_arrive_is_given_up_at_once(outbox: Outbox) -> None:
    """An item of another model waits for nothing that could change; those behind it go on."""
    above = Above()
    above.failures = {"old": ["stale"] * 9, "older": ["stale"] * 9}
    await put(outbox, "older", "old", "new")
    await empty(drain_of(outbox, above), outbox)
    assert [name for _, name in above.arrived] == ["new"]
    assert outbox.stats().evictions == {("rejected", "normal"): 2}


async def test_patience_is_one_for_all_items_of_a_lane(outbox: Outbox) -> None:
    """Two hundred refused items do not wait two hundred times as long: the clock is the lane's."""
    above, now = Above(), [0.0]
    above.failures = {name: ["rejected"] * 1000 for name in "abc"}

    async def pause(seconds: float) -> None:
        now[0] += seconds
        await asyncio.sleep(0)

    drain = Drain(outbox, {"escalation": above}, give_up_s=10.0, clock=lambda: now[0], pause=pause)
    await put(outbox, *"abcd")
    await empty(drain, outbox)
    assert [name for _, name in above.arrived] == ["d"]
    assert now[0] < 15.0


async def test_a_fault_of_a_sender_does_not_end_the_sending(outbox: Outbox) -> None:
    """What it raises is logged, and the item is tried again."""
    above = Above()
    send, broken = above.send, ["a"]

    async def sometimes(item: Item) -> bytes:
        if broken and item.id == broken[0]:
            broken.pop()
            raise KeyError("a bug")
        return await send(item)

    above.send = sometimes  # type: ignore[method-assign]
    await put(outbox, "a", "b")
    await empty(drain_of(outbox, above), outbox)
    assert [name for _, name in above.arrived] == ["a", "b"]


async def test_a_delivered_item_leaves_a_correction(outbox: Outbox) -> None:
    """Both answers are on the disk when the item is gone."""
    await put(outbox, "a")
    await empty(drain_of(outbox, Above()), outbox)
    (correction,) = await outbox.corrections(0)
    assert (correction.id, correction.provisional, correction.answer) == ("a", b"old", b"answer to a")
