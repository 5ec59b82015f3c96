"""Damaged files: moved aside, counted and logged, and what can still be read lives on."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest

from escalade.tiers.outbox import Outbox, OutboxError
from escalade.tiers.outbox.salvage import aside_files

from .conftest import OpenOutbox, item, with_bad_page

COUNT = 60


async def filled(outbox: Outbox, path: Path) -> None:
    """Close an outbox of 60 items of 3 kB, all of it in the main file."""
    for n in range(COUNT):
        await outbox.put(item(n, payload=str(n).encode() * 1500))
    await outbox.close()
    assert not path.with_name("outbox.db-wal").exists()


def truncated(to: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * to)]


def bad_page(data: bytes) -> bytes:
    return with_bad_page(data, b"20" * 700)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "not a database": lambda data: b"This is a text file.\n" * 500,
    "empty": truncated(0),
    "a few bytes": truncated(0.0003),
    "half": truncated(0.5),
    "bad page": bad_page,
    "bad header": lambda data: bytes(200) + data[200:],
}


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_moved_aside_and_never_fatal(
    damage: str, open_outbox: OpenOutbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next opening works, counts it, keeps the damaged file, and rescues what is sound."""
    path = tmp_path / "outbox.db"
    await filled(await open_outbox(), path)
    data = DAMAGES[damage](path.read_bytes())
    path.write_bytes(data)
    outbox = await open_outbox()
    seen: list[int] = []
    while leased := await outbox.take(7):
        assert all(one.item.payload == one.item.id.encode() * 1500 for one in leased)
        seen += [int(one.item.id) for one in leased]
        await outbox.done([one.seq for one in leased])
    assert seen == sorted(set(seen))
    assert len(seen) >= (50 if damage == "bad page" else 0)
    stats = outbox.stats()
    assert stats.corrupt_files + stats.quarantined >= 1
    assert "damaged" in caplog.text
    if stats.corrupt_files:
        assert any(file.read_bytes()[:99] == data[:99] for file in aside_files(path))
    await outbox.put(item("new"))
    await outbox.close()
    again = await open_outbox()
    assert [one.item.id for one in await again.take(9)] == ["new"]
    assert again.stats().corrupt_files == stats.corrupt_files


@pytest.mark.asyncio
async def test_a_damaged_row_is_quarantined_and_the_rest_lives(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """A bit flipped in one payload costs that item; it is kept for a look, and counted across restarts."""
    path = tmp_path / "outbox.db"
    await filled(await open_outbox(), path)
    data = bytearray(path.read_bytes())
    place = data.index(b"7" * 1500)
    data[place + 700] ^= 1
    path.write_bytes(data)
    outbox = await open_outbox()
    leased = await outbox.take(COUNT)
    assert [int(one.item.id) for one in leased] == [n for n in range(COUNT) if n != 7]
    assert (outbox.stats().quarantined, outbox.stats().corrupt_files) == (1, 0)
    await outbox.close()
    outbox = await open_outbox()
    assert outbox.stats().quarantined == 1
    await outbox.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM quarantined").fetchall() == [(b"7",)]


@pytest.mark.asyncio
async def test_a_file_damaged_while_it_is_open_is_replaced(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """Leases hold, what is sound is rescued, and puts go on."""
    path = tmp_path / "outbox.db"
    await filled(await open_outbox(), path)
    outbox = await open_outbox()
    (first,) = await outbox.take(1)
    with path.open("r+b") as file:
        file.write(bad_page(path.read_bytes()))
    assert outbox._writer._database is not None
    outbox._writer._database.connection.execute("PRAGMA shrink_memory")  # what is cached need not be read
    await outbox.done([first.seq])
    seen = []
    for _ in range(COUNT):
        leased = await outbox.take(5)
        seen += [int(one.item.id) for one in leased]
        await outbox.done([one.seq for one in leased])
        await outbox.put(item(1000 + len(seen), priority="bulk"))
    assert outbox.stats().corrupt_files == 1
    live = [n for n in seen if n < COUNT]
    assert live == sorted(set(live))
    assert len(live) >= 40


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(25))
async def test_no_damage_at_random_is_fatal_or_changes_an_item(
    seed: int, open_outbox: OpenOutbox, tmp_path: Path
) -> None:
    """Random bytes in random places of the file: an item is given out as it was, or not at all."""
    path = tmp_path / "outbox.db"
    await filled(await open_outbox(), path)
    draw = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 30)):
        place = draw.randrange(len(data))
        data[place : place + draw.randint(1, 40)] = draw.randbytes(draw.randint(1, 40))
    path.write_bytes(data)
    outbox = await open_outbox()
    for _ in range(COUNT):
        leased = await outbox.take(9)
        assert all(one.item.payload == one.item.id.encode() * 1500 for one in leased)
        await outbox.done([one.seq for one in leased])
    await outbox.put(item("new", priority="critical"))
    assert [one.item.id for one in await outbox.take(1)] == ["new"]


@pytest.mark.asyncio
async def test_damaged_files_do_not_pile_up(open_outbox: OpenOutbox, tmp_path: Path) -> None:
    """Two are kept for a look."""
    for _ in range(5):
        (tmp_path / "outbox.db").write_bytes(b"nonsense" * 100)
        await (await open_outbox()).close()
    assert len(aside_files(tmp_path / "outbox.db")) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("step", range(3))
async def test_a_crash_while_a_file_is_moved_aside_loses_nothing_that_was_rescued(
    step: int, open_outbox: OpenOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rename was the last, the next opening finishes or begins anew."""
    path = tmp_path / "outbox.db"
    await filled(await open_outbox(), path)
    path.write_bytes(bad_page(path.read_bytes()))
    rename, renames = Path.rename, count()

    def crash(self: Path, target: Path) -> Path:
        if next(renames) >= step:
            raise OSError("crashed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with suppress(OutboxError):
        await open_outbox()
    monkeypatch.undo()
    (tmp_path / "outbox.db.lock").rename(tmp_path / "old.lock")  # whoever held it is dead
    outbox = await open_outbox()
    assert len(await outbox.take(COUNT)) >= 50
    assert outbox.stats().corrupt_files == 1
    assert len(aside_files(path)) == 1
