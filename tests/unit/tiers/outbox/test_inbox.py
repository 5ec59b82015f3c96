"""The inbox's promises one by one, on a real disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from escalade.tiers.outbox import (
    Inbox,
    InboxLimits,
    Item,
    Outbox,
    OutboxBusyError,
    OutboxError,
    OutboxFullError,
    OutboxLimits,
    Seen,
)
from escalade.tiers.outbox.salvage import aside_files

from .conftest import Clock, OpenInbox, OpenOutbox, with_bad_page


def result(name: str, payload: bytes = b"x") -> Item:
    return Item("cam", name, payload, kind="result")


@pytest.mark.asyncio
async def test_a_repeat_gets_the_first_ones_answer_across_restarts(open_inbox: OpenInbox) -> None:
    """New, at work, answered; after a restart an answer is known and a claim without one is new again."""
    inbox = await open_inbox()
    assert await inbox.claim("cam", "1") is None
    assert await inbox.claim("cam", "1") == Seen(None)
    assert await inbox.claim("cam", "2") is None
    await inbox.answered("cam", "1", b"cat")
    assert await inbox.claim("cam", "1") == Seen(b"cat")
    await inbox.close()
    inbox = await open_inbox()
    assert await inbox.claim("cam", "1") == Seen(b"cat")
    assert await inbox.claim("cam", "2") is None
    assert (inbox.stats().items["escalation"], inbox.stats().at_work) == (1, 1)


@pytest.mark.asyncio
async def test_a_released_claim_is_new_again(open_inbox: OpenInbox) -> None:
    """What came to nothing may be tried again; what has an answer keeps it."""
    inbox = await open_inbox()
    assert await inbox.claim("cam", "1") is None
    await inbox.release("cam", "1")
    assert await inbox.claim("cam", "1") is None
    await inbox.answered("cam", "1", b"cat")
    await inbox.release("cam", "1")
    await inbox.answered("cam", "1", b"dog")
    assert await inbox.claim("cam", "1") == Seen(b"cat")


@pytest.mark.asyncio
async def test_results_are_stored_once_and_read_in_order(open_inbox: OpenInbox, clock: Clock) -> None:
    """Repeats within one call, between calls at once and after a restart; reading goes on from any number."""
    inbox = await open_inbox()
    assert await inbox.store([result("1"), result("2"), result("1")]) == [True, True, False]
    both = await asyncio.gather(inbox.store([result("3")]), inbox.store([result("3")]))
    assert sorted(both) == [[False], [True]]
    clock.pass_s(5)
    await inbox.close()
    inbox = await open_inbox()
    assert await inbox.store([result("2"), Item("cam", "4", b"hot", "telemetry", "bulk", 1.5, b"?")]) == [False, True]
    stored = await inbox.read(0)
    assert [one.item.id for one in stored] == ["1", "2", "3", "4"]
    assert stored[3].item == Item("cam", "4", b"hot", "telemetry", "bulk", 1.5, b"?")
    assert stored[0].age_s == pytest.approx(5)
    assert [one.item.id for one in await inbox.read(stored[1].seq, limit=1)] == ["3"]
    assert await inbox.claim("cam", "1") == Seen(b"")


@pytest.mark.asyncio
async def test_the_oldest_are_dropped_and_counted_and_no_number_comes_twice(
    open_inbox: OpenInbox, clock: Clock
) -> None:
    """By count, by bytes and by age; a reader that stands at the last number misses nothing after a restart."""
    inbox = await open_inbox(max_items=3, max_bytes=1000, window_s=60.0)
    await inbox.store([result(str(n)) for n in range(3)])
    await inbox.answered("cam", "a", b"cat")
    assert [one.item.id for one in await inbox.read(0)] == ["1", "2"]
    await inbox.store([result("big", bytes(700))])
    assert [one.item.id for one in await inbox.read(0)] == ["big"]
    clock.pass_s(61)
    assert await inbox.claim("cam", "a") is None
    await inbox.answered("cam", "b", b"dog")
    assert inbox.stats().dropped == {("room", "result"): 3, ("age", "escalation"): 1, ("age", "result"): 1}
    last = inbox.stats().last_stored
    clock.pass_s(61)
    await inbox.answered("cam", "c", b"dog")
    await inbox.close()
    inbox = await open_inbox(max_items=3, max_bytes=1000, window_s=60.0)
    await inbox.store([result("new")])
    assert [one.item.id for one in await inbox.read(last)] == ["new"]
    assert sum(inbox.stats().dropped.values()) == 6


@pytest.mark.asyncio
async def test_what_can_never_be_stored_is_refused(open_inbox: OpenInbox) -> None:
    """An escalation, and a call larger than the whole inbox; its neighbours are stored."""
    inbox = await open_inbox(max_bytes=1000)
    with pytest.raises(ValueError, match="claimed and answered"):
        await inbox.store([Item("cam", "1", b"")])
    small, large, other = await asyncio.gather(
        *(inbox.store([result(name, bytes(size))]) for name, size in (("1", 10), ("2", 2000), ("3", 10))),
        return_exceptions=True,
    )
    assert (small, other) == ([True], [True])
    assert isinstance(large, OutboxFullError)
    assert [one.item.id for one in await inbox.read(0)] == ["1", "3"]


@pytest.mark.asyncio
async def test_an_answer_that_cannot_be_kept_releases_its_claim(open_inbox: OpenInbox) -> None:
    """One line, counted; nothing of the call is kept, and the next attempt is new."""
    inbox = await open_inbox()
    assert inbox._receiver._database is not None
    connection = inbox._receiver._database.connection
    connection.execute("PRAGMA query_only = ON")
    assert await inbox.claim("cam", "1") is None
    with pytest.raises(OutboxError, match=r"^inbox .*inbox.db: cannot be written .*readonly"):
        await inbox.answered("cam", "1", b"cat")
    with pytest.raises(OutboxError, match="cannot be written"):
        await inbox.store([result("2")])
    assert await inbox.claim("cam", "1") is None
    assert (inbox.stats().write_errors, "readonly" in inbox.stats().trouble) == (2, True)
    connection.execute("PRAGMA query_only = OFF")
    assert await inbox.store([result("2")]) == [True]
    assert inbox.stats().trouble == ""


@pytest.mark.asyncio
async def test_a_second_one_on_the_same_file_is_told_who_has_it(
    open_inbox: OpenInbox, tmp_path: Path, clock: Clock
) -> None:
    """One line with the pid; when the first is closed it takes over."""
    first = await open_inbox()
    second = Inbox(tmp_path / "inbox.db", clock=clock, wall=clock.wall)
    with pytest.raises(OutboxBusyError, match=rf"^inbox .*: process {os.getpid()} has it open; .* an inbox of its own"):
        await second.open()
    with pytest.raises(OutboxError, match="has it open"):
        await second.claim("cam", "1")
    await first.close()
    clock.pass_s(2)
    assert await second.store([result("1")]) == [True]
    await second.close()


@pytest.mark.asyncio
async def test_an_outbox_is_not_taken_for_an_inbox(
    open_inbox: OpenInbox, open_outbox: OpenOutbox, tmp_path: Path
) -> None:
    """A path given twice is refused by the later one, and what is there is not touched."""
    await (await open_outbox(tmp_path / "inbox.db")).close()
    before = (tmp_path / "inbox.db").read_bytes()
    with pytest.raises(OutboxError, match="give the inbox a path of its own"):
        await open_inbox()
    assert (tmp_path / "inbox.db").read_bytes() == before


@pytest.mark.asyncio
async def test_a_damaged_row_is_quarantined_and_taken_as_new(open_inbox: OpenInbox, tmp_path: Path) -> None:
    """An answer and a result: neither is given out, and both are accepted when they come again."""
    path = tmp_path / "inbox.db"
    inbox = await open_inbox()
    await inbox.answered("cam", "1", b"an answer")
    await inbox.store([result("2", b"a result"), result("3", b"another")])
    await inbox.close()
    path.write_bytes(path.read_bytes().replace(b"an answer", b"an Answer").replace(b"a result", b"a Result"))
    inbox = await open_inbox()
    assert await inbox.claim("cam", "1") is None
    assert [one.item.id for one in await inbox.read(0)] == ["3"]
    assert await inbox.store([result("2", b"a result")]) == [True]
    assert [one.item.id for one in await inbox.read(0)] == ["3", "2"]
    assert inbox.stats().quarantined == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("holding", [b"SQLite format", b"z" * 3000], ids=["header", "page"])
async def test_a_damaged_file_is_moved_aside_and_never_fatal(
    holding: bytes, open_inbox: OpenInbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next opening works, keeps the damaged file, and knows what is sound; numbers go on beyond."""
    path = tmp_path / "inbox.db"
    inbox = await open_inbox()
    await inbox.store([result(str(n), b"z" * 3000) for n in range(60)])
    last = inbox.stats().last_stored
    await inbox.close()
    path.write_bytes(with_bad_page(path.read_bytes(), holding))
    inbox = await open_inbox()
    known = {one.item.id for one in await inbox.read(0)}
    assert len(known) >= (0 if holding.startswith(b"SQLite") else 50)
    was_new = await inbox.store([result(str(n), b"z" * 3000) for n in range(60)])
    assert [str(n) for n in range(60) if not was_new[n]] == sorted(known, key=int)
    assert all(one.seq > last for one in (await inbox.read(0))[len(known) :])
    assert inbox.stats().corrupt_files == 1
    assert "inbox file is damaged" in caplog.text
    assert len(aside_files(path)) == 1


def test_limits_must_leave_something() -> None:
    """Zero seconds, items or bytes remember nothing: a mistake, as with an outbox."""
    for wrong in ({"window_s": 0.0}, {"max_items": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match="inbox"):
            InboxLimits(**wrong)
    with pytest.raises(ValueError, match="outbox"):
        OutboxLimits(max_corrections=0)


@pytest.mark.asyncio
async def test_a_closed_inbox_refuses(open_inbox: OpenInbox) -> None:
    """One line; closing twice is fine, and one that was never used has no thread."""
    inbox = await open_inbox()
    await inbox.close()
    await inbox.close()
    with pytest.raises(OutboxError, match=r"^inbox .*: closed$"):
        await inbox.claim("cam", "1")
    await Inbox(Path("/nowhere/inbox.db")).close()
    await Outbox(Path("/nowhere/outbox.db")).close()
