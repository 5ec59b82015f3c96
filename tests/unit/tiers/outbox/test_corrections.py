"""What became of delivered items: recorded with their deletion, numbered, bounded, read again from any number on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from escalade.tiers.outbox import Correction, Delivered, Evicted, Outbox, OutboxError

from .conftest import TODAY_S, Clock, OpenOutbox, item, with_bad_page

VERSION_1 = """
CREATE TABLE items (
    seq INTEGER PRIMARY KEY, run INTEGER NOT NULL, since_s REAL NOT NULL, rank INTEGER NOT NULL,
    kind INTEGER NOT NULL, created_s REAL NOT NULL, checksum INTEGER NOT NULL,
    device BLOB NOT NULL, id BLOB NOT NULL, provisional BLOB NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE attempts (seq INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE runs (run INTEGER PRIMARY KEY, opened_wall_s REAL NOT NULL);
CREATE TABLE quarantined (
    seq INTEGER PRIMARY KEY, wall_s REAL, rank, kind, created_s, checksum, device, id, provisional, payload
);
CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
PRAGMA application_id = 0x45534F42;
PRAGMA user_version = 1;
"""
"""What the outboxes of 0.1.0's first weeks look like."""


async def deliver(outbox: Outbox, *names: str) -> list[Correction]:
    """Put items, take them, and have them answered."""
    for name in names:
        await outbox.put(item(name, provisional=b"old"))
    return await outbox.delivered([Delivered(one.seq, f"new {one.item.id}".encode()) for one in await outbox.take(99)])


def numbers(corrections: list[Correction]) -> list[int]:
    return [one.seq for one in corrections]


@pytest.mark.asyncio
async def test_a_delivered_item_leaves_and_its_correction_stays(open_outbox: OpenOutbox, clock: Clock) -> None:
    """Returned, told, and read again after a restart with every field; the next one's number goes on."""
    told: list[Correction] = []
    outbox = await open_outbox(on_recorded=told.extend)
    await outbox.put(item("7", provisional=b"old"))
    clock.pass_s(90)
    (leased,) = await outbox.take(1)
    corrections = await outbox.delivered([Delivered(leased.seq, b"new")])
    assert corrections == [Correction(1, "cam", "7", b"old", b"new", TODAY_S + 90, 90.0)]
    assert told == corrections
    assert outbox.stats().items == 0
    await outbox.close()
    outbox = await open_outbox()
    assert await outbox.corrections(0) == corrections
    assert await outbox.take(9) == []
    assert numbers(await deliver(outbox, "8")) == [2]
    assert (outbox.stats().corrections, outbox.stats().last_correction) == (2, 2)
    assert numbers(await outbox.corrections(1)) == [2]
    assert await outbox.corrections(2) == []


@pytest.mark.asyncio
async def test_no_correction_is_recorded_that_nobody_wants(open_outbox: OpenOutbox) -> None:
    """An empty answer only drops the item; what is not leased, or settled already, is left alone."""
    outbox = await open_outbox()
    kept = await outbox.put(item("1"))
    assert await outbox.delivered([Delivered(kept, b"new")]) == []
    assert outbox.stats().items == 1
    (leased,) = await outbox.take(1)
    assert await outbox.delivered([Delivered(leased.seq, b"")]) == []
    assert await outbox.delivered([Delivered(leased.seq, b"new")]) == []
    assert (outbox.stats().items, outbox.stats().corrections) == (0, 0)


@pytest.mark.asyncio
async def test_corrections_are_bounded_by_count_and_age(open_outbox: OpenOutbox, clock: Clock) -> None:
    """The oldest go, counted across restarts; a number is never given again, even when none is left."""
    outbox = await open_outbox(max_corrections=3, max_age_s=60.0)
    await deliver(outbox, *"12345")
    assert numbers(await outbox.corrections(0, limit=2)) == [3, 4]
    assert (outbox.stats().corrections, outbox.stats().corrections_dropped) == (3, 2)
    await outbox.close()
    clock.pass_s(61)
    outbox = await open_outbox(max_corrections=3, max_age_s=60.0)
    await outbox.take(1)
    assert await outbox.corrections(0) == []
    await outbox.close()
    outbox = await open_outbox()
    assert (outbox.stats().corrections_dropped, outbox.stats().last_correction) == (5, 5)
    assert numbers(await deliver(outbox, "6")) == [6]


@pytest.mark.asyncio
async def test_what_the_disk_refuses_is_recorded_later(open_outbox: OpenOutbox) -> None:
    """One line; the item is not sent again, and its deletion and its correction come together with the next write."""
    told: list[Correction] = []
    evicted: list[Evicted] = []
    outbox = await open_outbox(on_recorded=told.extend, on_evicted=evicted.extend)
    await outbox.put(item("1"))
    await outbox.put(item("2"))
    delivered, hopeless = await outbox.take(2)
    assert outbox._writer._database is not None
    connection = outbox._writer._database.connection
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(OutboxError, match="readonly database"):
        await outbox.delivered([Delivered(delivered.seq, b"new")])
    await outbox.give_up([hopeless.seq], "rejected")
    assert await outbox.take(9) == []
    assert await outbox.corrections(0) == []
    assert not told
    assert not evicted
    connection.execute("PRAGMA query_only = OFF")
    await outbox.take(9)
    assert told == await outbox.corrections(0)
    assert [one.id for one in told] == ["1"]
    assert [one.id for one in evicted] == ["2"]
    await outbox.close()
    outbox = await open_outbox()
    assert (outbox.stats().items, outbox.stats().corrections) == (0, 1)
    assert outbox.stats().evictions == {("rejected", "normal"): 1}


@pytest.mark.asyncio
async def test_what_can_never_be_delivered_is_an_eviction(
    open_outbox: OpenOutbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted across restarts, reported and logged with its reason; the later ones of its device are sent next."""
    evicted: list[Evicted] = []
    outbox = await open_outbox(on_evicted=evicted.extend)
    await outbox.put(item("1", priority="critical"))
    await outbox.put(item("2", priority="critical"))
    (leased,) = await outbox.take(1)
    await outbox.give_up([leased.seq, leased.seq, 999], "rejected")
    assert evicted == [Evicted("cam", "1", "rejected", "critical")]
    assert "rejected critical" in caplog.text
    assert [one.item.id for one in await outbox.take(9)] == ["2"]
    await outbox.close()
    assert (await open_outbox()).stats().evictions == {("rejected", "critical"): 1}


@pytest.mark.asyncio
async def test_a_file_of_the_first_format_is_upgraded(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """Its items are there, and corrections can be recorded."""
    path = tmp_path / "outbox.db"
    outbox = await open_outbox()
    await outbox.put(item("1"))
    await outbox.close()
    with closing(sqlite3.connect(path)) as new, closing(sqlite3.connect(tmp_path / "old.db")) as old, old:
        old.executescript(VERSION_1)
        for table in ("items", "runs"):
            for row in new.execute(f"SELECT * FROM {table}"):
                old.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    (tmp_path / "old.db").rename(path)
    outbox = await open_outbox()
    (leased,) = await outbox.take(9)
    assert leased.item == item("1")
    assert numbers(await outbox.delivered([Delivered(leased.seq, b"new")])) == [1]
    assert outbox.stats().corrupt_files == 0


@pytest.mark.asyncio
async def test_a_file_of_a_later_format_is_refused(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """One line that says what to do; the file is as it was."""
    path = tmp_path / "outbox.db"
    await (await open_outbox()).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(OutboxError) as caught:
        await open_outbox()
    assert str(caught.value) == f"outbox {path}: written by a newer escalade (format 99); update this one"
    assert path.read_bytes() == before


@pytest.mark.asyncio
async def test_a_damaged_correction_is_quarantined_and_the_rest_are_given(
    open_outbox: OpenOutbox, tmp_path: Path
) -> None:
    """A bit flipped in one answer costs that correction, whichever page of them it is on."""
    path = tmp_path / "outbox.db"
    outbox = await open_outbox()
    await deliver(outbox, "1", "2", "3")
    await outbox.close()
    path.write_bytes(path.read_bytes().replace(b"new 2", b"new 9"))
    outbox = await open_outbox()
    assert numbers(await outbox.corrections(0)) == [1, 3]
    assert numbers(await outbox.corrections(1, limit=1)) == [3]
    assert (outbox.stats().corrections, outbox.stats().quarantined) == (2, 1)
    await outbox.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT seq, payload FROM quarantined").fetchall() == [(-2, b"new 9")]


@pytest.mark.asyncio
async def test_corrections_are_rescued_from_a_damaged_file_and_no_number_comes_twice(
    open_outbox: OpenOutbox, tmp_path: Path, clock: Clock
) -> None:
    """What can be read is there under its number; new ones are beyond whatever was given before."""
    path = tmp_path / "outbox.db"
    outbox = await open_outbox()
    await deliver(outbox, "1", "2", "3")
    for n in range(60):
        await outbox.put(item(n, payload=b"z" * 3000))
    await outbox.close()
    path.write_bytes(with_bad_page(path.read_bytes(), b"z" * 3000))
    outbox = await open_outbox()
    while leased := await outbox.take(9):
        await outbox.done([one.seq for one in leased])
    assert outbox.stats().corrupt_files == 1
    assert numbers(await outbox.corrections(0)) == [1, 2, 3]
    (new,) = await deliver(outbox, "4")
    assert new.seq > 1e12
    await outbox.close()
    clock.pass_s(1)
    path.write_bytes(b"nothing can be read" * 500)
    outbox = await open_outbox()
    (newer,) = await deliver(outbox, "5")
    assert newer.seq > new.seq
