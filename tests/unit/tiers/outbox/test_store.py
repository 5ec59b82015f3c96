"""The outbox's promises one by one, on a real disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from escalade.tiers.outbox import Delivered, Evicted, Item, Outbox, OutboxError
from escalade.tiers.outbox.sealing import MAGIC, PLAIN

from .conftest import Clock, OpenOutbox, item


@pytest.mark.asyncio
async def test_what_was_put_is_there_after_a_restart(open_outbox: OpenOutbox) -> None:
    """Items come back in order with all their fields, and with the attempts that failed."""
    outbox = await open_outbox()
    items = [item(n, priority="bulk", kind="telemetry", created_s=1.5, provisional=b"{}") for n in range(3)]
    for one in items:
        await outbox.put(one)
    await outbox.failed([leased.seq for leased in await outbox.take(1)])
    await outbox.close()
    again = await (await open_outbox()).take(10)
    assert [leased.item for leased in again] == items
    assert [leased.attempts for leased in again] == [1, 0, 0]


@pytest.mark.asyncio
async def test_concurrent_puts_share_a_transaction(open_outbox: OpenOutbox) -> None:
    """A hundred puts cost a few commits, not a hundred."""
    outbox = await open_outbox()
    commits: list[str] = []
    assert outbox._writer._database is not None
    outbox._writer._database.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    await asyncio.gather(*(outbox.put(item(n)) for n in range(100)))
    assert 1 <= len(commits) <= 5


@pytest.mark.asyncio
async def test_a_device_keeps_its_order_when_something_fails(open_outbox: OpenOutbox) -> None:
    """What failed comes again before what came later, and nothing of the device in between."""
    outbox = await open_outbox()
    for n in range(4):
        await outbox.put(item(n))
    first, second = await outbox.take(2)
    assert await outbox.take(2) == []
    await outbox.done([first.seq])
    await outbox.failed([second.seq])
    assert [leased.item.id for leased in await outbox.take(9)] == ["1", "2", "3"]


@pytest.mark.asyncio
async def test_every_eviction_is_counted_reported_and_logged(
    open_outbox: OpenOutbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """For room and for age; the counts outlive a restart."""
    evicted: list[Evicted] = []
    outbox = await open_outbox(max_items=2, max_age_s=60.0, on_evicted=evicted.extend)
    for n, priority in enumerate(["normal", "bulk", "critical"]):
        await outbox.put(item(n, priority=priority))
    clock.pass_s(61)
    await outbox.put(item(3))
    assert evicted == [
        Evicted("cam", "1", "room", "bulk"),
        Evicted("cam", "2", "age", "critical"),
        Evicted("cam", "0", "age", "normal"),
    ]
    expected = {("room", "bulk"): 1, ("age", "critical"): 1, ("age", "normal"): 1}
    assert outbox.stats().evictions == expected
    await outbox.close()
    assert (await open_outbox()).stats().evictions == expected
    assert "outbox gave items up" in caplog.text


@pytest.mark.asyncio
async def test_an_age_counts_the_time_between_two_runs(open_outbox: OpenOutbox, clock: Clock) -> None:
    """Kept for a minute, off for an hour, and a clock that jumped a day while it ran."""
    outbox = await open_outbox()
    await outbox.put(item(0))
    clock.wall_s += 86_400
    clock.pass_s(60)
    await outbox.put(item(1))
    await outbox.close()
    clock.wall_s += 3600
    outbox = await open_outbox()
    assert outbox.stats().oldest_age_s == pytest.approx(3660)
    assert [leased.age_s for leased in await outbox.take(2)] == pytest.approx([3660, 3600])


@pytest.mark.asyncio
async def test_a_clock_set_back_makes_no_age_negative(open_outbox: OpenOutbox, clock: Clock) -> None:
    """An outbox from the future is opened; its items are new, in order, and nothing is evicted."""
    outbox = await open_outbox()
    for n in range(3):
        await outbox.put(item(n))
    await outbox.close()
    clock.wall_s -= 1e8
    leased = await (await open_outbox()).take(9)
    assert [(one.item.id, one.age_s) for one in leased] == [("0", 0.0), ("1", 0.0), ("2", 0.0)]


@pytest.mark.asyncio
async def test_a_second_one_on_the_same_file_is_told_who_has_it(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """Its puts raise one line with the pid; when the first is closed it takes over."""
    import os

    first = await open_outbox()
    clock = Clock()
    second = Outbox(tmp_path / "outbox.db", clock=clock, wall=clock.wall)
    with pytest.raises(OutboxError, match=rf"process {os.getpid()} has it open") as caught:
        await second.open()
    assert "\n" not in str(caught.value)
    with pytest.raises(OutboxError, match="has it open"):
        await second.put(item(0))
    assert await second.take(1) == []
    await first.put(item(1))
    await first.close()
    clock.pass_s(2)
    await second.put(item(2))
    assert [leased.item.id for leased in await second.take(9)] == ["1", "2"]
    assert second.stats().trouble == ""
    await second.close()


@pytest.mark.asyncio
async def test_another_programs_database_is_left_alone(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """A path given by mistake is refused, and what is there is not touched."""
    with sqlite3.connect(tmp_path / "outbox.db") as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    before = (tmp_path / "outbox.db").read_bytes()
    with pytest.raises(OutboxError, match="some other program's database"):
        await open_outbox()
    assert (tmp_path / "outbox.db").read_bytes() == before


@pytest.mark.asyncio
async def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path, open_outbox: OpenOutbox) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match=r"outbox .*file/outbox.db: (Not a directory|File exists)"):
        await open_outbox(tmp_path / "file" / "outbox.db")


@pytest.mark.asyncio
async def test_put_is_refused_after_close_and_what_was_asked_before_is_kept(open_outbox: OpenOutbox) -> None:
    """A put that waits when the outbox is closed is still acknowledged."""
    outbox = await open_outbox()
    waiting = [asyncio.ensure_future(outbox.put(item(n))) for n in range(600)]
    await asyncio.sleep(0)
    await outbox.close()
    assert len(await asyncio.gather(*waiting)) == 600
    with pytest.raises(OutboxError, match="closed"):
        await outbox.put(item(1))
    assert (await open_outbox()).stats().items == 600
    await outbox.close()


@pytest.mark.asyncio
async def test_a_cancelled_put_disturbs_nobody(open_outbox: OpenOutbox) -> None:
    """It may be kept or not; its neighbours are."""
    outbox = await open_outbox()
    puts = [asyncio.ensure_future(outbox.put(item(n))) for n in range(3)]
    await asyncio.sleep(0)
    puts[1].cancel()
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert {"0", "2"} <= {leased.item.id for leased in await outbox.take(9)}


@pytest.mark.asyncio
async def test_no_thread_is_left_behind(open_outbox: OpenOutbox) -> None:
    """Closing ends the outbox's thread; an outbox that was never used has none."""
    before = threading.active_count()
    await (await open_outbox()).close()
    await Outbox(Path("/nowhere/outbox.db")).close()
    assert threading.active_count() == before


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [MAGIC + b"rest", PLAIN + b"rest", MAGIC, PLAIN + MAGIC])
async def test_plain_content_that_looks_sealed_comes_out_as_it_was(tmp_path: Path, content: bytes) -> None:
    """Payload, provisional answer and final answer, after the process has ended too."""
    async with Outbox(tmp_path / "outbox.db") as outbox:
        await outbox.put(Item("cam", "1", content, provisional=content))
    async with Outbox(tmp_path / "outbox.db") as outbox:
        (leased,) = await outbox.take(1)
        assert (leased.item.payload, leased.item.provisional) == (content, content)
        await outbox.delivered([Delivered(leased.seq, content)])
        (correction,) = await outbox.corrections(0)
        assert (correction.provisional, correction.answer) == (content, content)
        assert outbox.stats().quarantined == 0
