"""A disk that refuses: nothing is acknowledged that is not on it, and nothing is forgotten that was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from escalade.tiers.aggregator.journal import MAX_BACKLOG
from escalade.tiers.aggregator.store import Store
from escalade.tiers.outbox.errors import CorruptError, OutboxBusyError, OutboxError

from .conftest import NODES, Served, saw

pytestmark = pytest.mark.asyncio


class Disk:
    """Lets writes through, or refuses them."""

    def __init__(self, store: Store) -> None:
        self.full, self._write = False, store.write
        store.write = self.write  # type: ignore[method-assign]

    def write(self, operations: Any) -> None:
        if self.full:
            raise OutboxError("aggregator file: the disk is full; free some space")
        self._write(operations)


async def test_what_cannot_be_kept_is_not_acknowledged_and_a_repeat_neither(tmp_path: Path) -> None:
    """The sender is told to try again; once the disk works its repeat is known, and the event answered once."""
    served = Served(tmp_path, early_close=False)
    disk = Disk(served.store)
    disk.full = True
    verdicts = await served.aggregator.observe([saw("n0", "e"), saw("stranger", "e")])
    assert [(v.reason, v.status, v.settled) for v in verdicts] == [
        ("store", "UNAVAILABLE", False),
        ("unknown_node", "NOT_FOUND", True),
    ]
    assert await served.reasons([saw("n0", "e")]) == ["store"]
    assert await served.reasons([saw("n1", "e"), saw("n2", "e")]) == ["store", "store"]
    assert served.answers() == []
    disk.full = False
    served.aggregator._journal.try_again()
    await served.settle()
    assert await served.reasons([saw("n0", "e")]) == ["duplicate"]
    assert [answer.cause for answer in served.answers()] == ["complete"]
    await served.restart(crash=True)
    assert [answer.cause for answer in served.answers()] == ["complete"]
    await served.aggregator.close()


async def test_a_disk_that_stays_full_bounds_what_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the backlog nothing is taken at all, and memory does not grow."""
    assert MAX_BACKLOG >= 1000
    monkeypatch.setattr("escalade.tiers.aggregator.journal.MAX_BACKLOG", 3)
    served = Served(tmp_path)
    Disk(served.store).full = True
    for number in range(6):
        assert await served.reasons([saw("n0", f"e{number}")]) == ["store"]
    assert len(served.aggregator.window) == 3


async def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    """The edge server starts; what was damaged stays for a look, of several files the last two."""
    served = Served(tmp_path)
    for year in (2024, 2025):
        served.config.file.with_name(f"aggregator.db.corrupt-{year}0101T000000Z").write_bytes(b"")
    await served.reasons([saw(node, "e") for node in NODES])
    await served.aggregator.close()
    file = served.config.file
    file.write_bytes(b"SQLite format 3\0" + b"\xff" * (file.stat().st_size - 16))
    served.open()
    assert served.answers() == []
    assert await served.reasons([saw(node, "f") for node in NODES]) == ["", "", ""]
    asides = sorted(name for name in os.listdir(tmp_path) if ".corrupt-" in name)
    assert len(asides) == 2
    assert asides[0] == "aggregator.db.corrupt-20250101T000000Z"
    await served.aggregator.close()


async def test_one_file_belongs_to_one_process(tmp_path: Path) -> None:
    """The second is told who has it."""
    served = Served(tmp_path)
    with pytest.raises(OutboxBusyError, match="has it open"):
        Store(served.config.file, NODES, 10)
    await served.aggregator.close()


async def test_what_no_disk_would_take_is_given_up_alone(tmp_path: Path) -> None:
    """What came with it is kept and answered, and so is what comes after it."""
    served = Served(tmp_path, early_close=False)
    write = served.store.write

    def refuses(operations: Any) -> None:
        if any(getattr(getattr(one, "event", None), "key", "") == "bad" for one in operations):
            raise ZeroDivisionError
        write(operations)

    served.store.write = refuses  # type: ignore[method-assign]
    together = [saw("n0", "a"), saw("n0", "bad"), saw("n0", "b")]
    assert await served.reasons(together) == ["store"] * 3
    assert await served.reasons([saw(node, event) for event in ("a", "b") for node in ("n1", "n2")]) == [""] * 4
    assert [answer.event for answer in served.answers()] == ["a", "b"]
    await served.restart(crash=True)
    assert [answer.event for answer in served.answers()] == ["a", "b"]
    assert await served.reasons([saw("n0", "bad")]) == [""]
    await served.aggregator.close()


async def test_damage_at_run_time_needs_a_restart(tmp_path: Path) -> None:
    """Nothing is acknowledged until then, and the reason says so."""
    served = Served(tmp_path)
    file, transaction = served.store._file, served.store._file.transaction

    def damaged() -> Any:
        raise CorruptError("a page")

    file.transaction = damaged  # type: ignore[method-assign]
    verdicts = await served.aggregator.observe([saw("n0", "e")])
    assert verdicts[0].reason == "store"
    assert "restart to begin a new one" in served.aggregator._journal.trouble
    file.transaction = transaction  # type: ignore[method-assign]
    await served.aggregator.close()
